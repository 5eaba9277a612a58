"""One bar close with many strategies: opposites are resolved, legs go together, and nothing is read or computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets import trade_lane
from resources.config import Config, load_config
from resources.desk_client import DecisionReceipt, DeskUnavailable
from resources.lake import Lake
from resources.ledger.store import Ledger
from tests.assets.sample_lake import fill, installation
from trading.signals import Action, Decision, Signal
from trading.strategy import signal_at
from trading.timeframes import Timeframe

DAY = date(2017, 12, 28)
SESSION = DAY.isoformat()

RULE = """\
name: {name}
universe: sample
status: active
mode: paper
symbols: [EURUSD]
timeframe: 1h
entry:
  {side}: {{">": [close, {{indicator: ema, params: {{period: 9}}}}]}}
exits:
  stop: {{kind: atr, period: 14, multiple: 2.0}}
sizing: {{kind: fixed, quantity: 10000}}
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any, Lake]]:
    with installation(tmp_path_factory.mktemp("lane")) as settings:
        for path in (settings.config / "strategies").glob("*.yaml"):
            if path.stem != "index_pair":
                path.unlink()
        for path in (settings.config / "plans").glob("*.yaml"):
            path.unlink()
        pair = settings.config / "strategies" / "index_pair.yaml"
        text = pair.read_text().replace("status: paused", "status: active").replace("mode: shadow", "mode: paper")
        pair.write_text(text)
        for name, side in (("buys", "long"), ("sells", "short")):
            (settings.config / "strategies" / f"{name}.yaml").write_text(RULE.format(name=name, side=side))
        yield settings.config, settings, fill(settings)


def _config(sample: tuple[Path, Any, Lake], policy: str = "") -> Config:
    folder, settings, _ = sample
    path = folder / "universe" / "sample.yaml"
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("conflicts:"))
    path.write_text(text + "\n" + (f"conflicts: {policy}\n" if policy else ""))
    return load_config(settings)


def _opposites(config: Config, lake: Lake, ledger: Ledger) -> list[Signal]:
    """The signals of the first close of the day at which both sides want EURUSD."""
    for close_time in trade_lane.close_times_of(SESSION, ledger, lake, config):
        signals = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals
        if {s.strategy for s in signals} >= {"buys", "sells"}:
            return signals
    raise AssertionError("no close at which the rule holds")


def _refusals(signals: list[Signal], config: Config, ledger: Ledger) -> dict[str, str]:
    """Refusal of the gate `conflict` by strategy, '' where it passed."""
    made = trade_lane.decide(signals, config, ledger, signals[0].close_time)
    return {row.decision.signal.strategy: v.refusal for row in made for v in row.decision.verdicts if v.gate == "conflict"}


class TestConflicts:
    def test_unless_the_universe_says_otherwise_opposites_cancel_each_other(
        self, sample: tuple[Path, Any, Lake], ledger: Ledger
    ) -> None:
        config = _config(sample)
        assert [w.key for w in config.warnings] == ["entry.long", "entry.short"], "and the check of the files warns"
        signals = _opposites(config, sample[2], ledger)
        found = _refusals(signals, config, ledger)
        assert found["buys"] == "CONFLICT: symbol=EURUSD against=sells policy=cancel_both why=cancel_both"
        assert found["sells"] == "CONFLICT: symbol=EURUSD against=buys policy=cancel_both why=cancel_both"

    def test_the_policy_of_the_universe_counts_and_the_loser_is_on_record(
        self, sample: tuple[Path, Any, Lake], ledger: Ledger
    ) -> None:
        config = _config(sample, "{policy: first_wins, order: [sells]}")
        signals = _opposites(config, sample[2], ledger)
        ledger.insert_signals(signals, session=SESSION, code_revision="x", run_id="r")
        found = _refusals(signals, config, ledger)
        assert found == {"buys": "CONFLICT: symbol=EURUSD against=sells policy=first_wins why=sells_first", "sells": ""}
        made = trade_lane.decide(signals, config, ledger, signals[0].close_time)
        ledger.insert_decisions(made, session=SESSION, code_revision="x", run_id="r")
        stored = trade_lane.decisions_of(ledger, session=SESSION)
        assert any("CONFLICT" in v.refusal for d in stored for v in d.verdicts)

    def test_a_signal_decided_later_still_sees_those_decided_before(self, sample: tuple[Path, Any, Lake], ledger: Ledger) -> None:
        config = _config(sample, "{policy: strongest}")
        signals = _opposites(config, sample[2], ledger)
        ledger.insert_signals(signals, session=SESSION, code_revision="x", run_id="r")
        alone = [s for s in signals if s.strategy == "buys"]
        assert "why=equal_strength" in _refusals(alone, config, ledger)["buys"]

    def test_allowed_opposites_are_shown_all_the_same(self, sample: tuple[Path, Any, Lake], ledger: Ledger) -> None:
        config = _config(sample, "{policy: allow}")
        signals = _opposites(config, sample[2], ledger)
        made = trade_lane.decide(signals, config, ledger, signals[0].close_time)
        verdict = next(v for v in made[0].decision.verdicts if v.gate == "conflict")
        assert (verdict.passed, verdict.threshold) == (True, "allow")
        assert verdict.value in ("buys", "sells")


def _leg(config: Config, symbol: str, action: Action) -> Signal:
    pair = config.strategies["index_pair"]
    return Signal(
        pair.name, pair.revision, symbol, Timeframe.D1, 1_514_494_800_000_000, action, 1.0, 100.0,
        92.0 if action is Action.ENTER_LONG else 108.0, None, 1_514_581_200_000_000, dict(pair.sizing), "f", (), mode="paper",
    )  # fmt: skip


class TestLegs:
    def _said(self, signals: list[Signal], config: Config, ledger: Ledger) -> dict[str, str]:
        made = trade_lane.decide(signals, config, ledger, signals[0].close_time)
        return {r.decision.signal.symbol: v.refusal for r in made for v in r.decision.verdicts if v.gate == "legs"}

    def test_a_leg_without_its_partner_is_refused(self, sample: tuple[Path, Any, Lake], ledger: Ledger) -> None:
        config = _config(sample)
        found = self._said([_leg(config, "SPX", Action.ENTER_LONG)], config, ledger)
        assert found == {"SPX": "LEG_MISSING: symbol=SPX leg=COMP reason=missing"}

    def test_a_leg_whose_partner_a_gate_refuses_is_refused(self, sample: tuple[Path, Any, Lake], ledger: Ledger) -> None:
        config = _config(sample)
        legs = [_leg(config, "SPX", Action.ENTER_LONG), _leg(config, "COMP", Action.ENTER_SHORT)]
        found = self._said(legs, config, ledger)
        assert found["SPX"].startswith("LEG_MISSING: symbol=SPX leg=COMP reason=")
        assert found["COMP"].startswith("LEG_MISSING: symbol=COMP leg=SPX reason=")

    def test_a_signal_that_has_no_legs_passes(self, sample: tuple[Path, Any, Lake], ledger: Ledger) -> None:
        config = _config(sample)
        signals = _opposites(config, sample[2], ledger)
        assert set(self._said(signals, config, ledger).values()) == {""}


class Desk:
    """Answers decisions as told and remembers what was cancelled."""

    def __init__(self, *refused: str, cancels: bool = True) -> None:
        self.refused, self.cancels = refused, cancels
        self.cancelled: list[str] = []

    def submit_decision(self, decision: Decision, close_time: int) -> DecisionReceipt:
        symbol = decision.signal.symbol
        taken = symbol not in self.refused
        return DecisionReceipt(decision.id, taken, "" if taken else "MAX_POSITION: x=1", (f"int-{symbol}",) if taken else ())

    def cancel(self, order_id: str, reason: str, who: str) -> dict[str, Any]:
        if not self.cancels:
            raise DeskUnavailable("gone")
        self.cancelled.append(order_id)
        return {}


class TestPosting:
    def _post(self, config: Config, desk: Desk, *symbols: str) -> list[DecisionReceipt]:
        sides = {"SPX": Action.ENTER_LONG, "COMP": Action.ENTER_SHORT}
        decisions = [Decision(_leg(config, s, sides[s]), True, ()) for s in symbols]
        return trade_lane.post(decisions, desk, 1, trade_lane.legs(config))  # type: ignore[arg-type]

    def test_both_taken_stay(self, sample: tuple[Path, Any, Lake]) -> None:
        desk = Desk()
        assert all(r.accepted for r in self._post(_config(sample), desk, "SPX", "COMP"))
        assert desk.cancelled == []

    def test_what_was_taken_is_taken_back_when_the_other_leg_is_not(self, sample: tuple[Path, Any, Lake]) -> None:
        desk = Desk("COMP")
        self._post(_config(sample), desk, "SPX", "COMP")
        assert desk.cancelled == ["int-SPX"]
        first = Desk("SPX")
        self._post(_config(sample), first, "SPX", "COMP")
        assert first.cancelled == ["int-COMP"]

    def test_a_leg_alone_is_taken_back_and_a_desk_that_cannot_cancel_does_not_fail_the_run(
        self, sample: tuple[Path, Any, Lake], caplog: pytest.LogCaptureFixture
    ) -> None:
        desk = Desk(cancels=False)
        self._post(_config(sample), desk, "SPX")
        assert "could not be cancelled" in caplog.text


class Counting:
    """A lake that counts what is read."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.reads: list[tuple[Any, ...]] = []

    def read_bars(self, *what: Any) -> Any:
        self.reads.append(what)
        return self.lake.read_bars(*what)


def test_twenty_strategies_on_the_same_bars_read_them_once_and_compute_them_once(
    sample: tuple[Path, Any, Lake], ledger: Ledger
) -> None:
    config, lake = _config(sample, "{policy: allow}"), sample[2]
    base = config.strategies["buys"]
    from dataclasses import replace

    config.strategies.clear()
    config.strategies.update({f"copy_{n}": replace(base, name=f"copy_{n}") for n in range(20)})
    close_time = _opposites_time(lake, ledger, config)
    counting = Counting(lake)
    known = trade_lane.KnownBars(counting, DAY, close_time)
    instrument = config.universe.instruments["EURUSD"]
    for strategy in config.strategies.values():
        window = trade_lane.window(None, strategy, instrument, DAY, close_time, known)
        shared = strategy.evaluate(window, instrument)
        alone = strategy.evaluate(trade_lane.window(lake, strategy, instrument, DAY, close_time), instrument)
        np.testing.assert_array_equal(shared.enter_long, alone.enter_long)
        np.testing.assert_array_equal(shared.stop_long, alone.stop_long)
    assert len(counting.reads) == 1
    assert (known.cache.computed, known.cache.reused) == (2, 58), "the average and the range, once; 20 x (1 + 2 sides) asked"
    signals = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals
    assert {s.strategy for s in signals} == set(config.strategies)
    assert signal_at is not None


def _opposites_time(lake: Lake, ledger: Ledger, config: Config) -> int:
    for close_time in trade_lane.close_times_of(SESSION, ledger, lake, config):
        if trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals:
            return close_time
    raise AssertionError("no close at which the rule holds")


def test_a_plugin_that_raises_silences_only_itself(sample: tuple[Path, Any, Lake], ledger: Ledger) -> None:
    folder, settings, lake = sample
    path = folder / "plugins" / "later.py"
    path.write_text(
        "from trading.plugins import PythonStrategy, Wishes\n\n\nclass Later(PythonStrategy):\n"
        "    settings = {'name': 'later', 'universe': 'sample', 'status': 'active', 'mode': 'paper', 'symbols': ['EURUSD'],\n"
        "        'timeframe': '1h', 'exits': {'stop': {'kind': 'percent', 'percent': 1}},\n"
        "        'sizing': {'kind': 'fixed', 'quantity': 10000}}\n\n"
        "    def wishes(self, frame):\n        close = frame.price('close')\n"
        "        if frame.series().close_time[-1] < 1_600_000_000_000_000:\n            raise RuntimeError('not my year')\n"
        "        return Wishes(long=close > 0)\n"
    )
    try:
        config = _config(sample, "{policy: allow}")
        assert "later" in config.strategies, [str(p) for p in config.problems]
        close_time = _opposites(config, lake, ledger)[0].close_time
        outcome = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper")
        assert {s.strategy for s in outcome.signals} >= {"buys", "sells"}
        assert outcome.silent["later/EURUSD"] == "error: plugins/later.py:12: RuntimeError: not my year"
    finally:
        path.unlink()
        load_config(settings)
