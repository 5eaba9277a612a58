"""From the bars at a close to gated decisions: the same answer twice, and no decision without good data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from sqlalchemy import event

from assets import rehearsal, trade_lane, trading
from resources.config import Config, load_config
from resources.dagster_resources import ConfigFilesResource, DeskResource, LakeResource, LedgerResource
from resources.desk_client import DecisionReceipt, DeskUnavailable
from resources.lake import Lake
from resources.ledger.base import engines_of
from resources.ledger.store import Ledger, VerdictRow
from tests.assets.sample_lake import fill, installation
from trading.bars import Bars, concat
from trading.calendars import calendar
from trading.quality import judge
from trading.signals import Decision, Signal
from trading.timeframes import Timeframe, session_date

DAY = date(2017, 12, 28)
SESSION = DAY.isoformat()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Lake]]:
    with installation(tmp_path_factory.mktemp("lane")) as settings:
        yield load_config(settings), fill(settings)


def _judge(config: Config, lake: Lake, ledger: Ledger, dataset: str, symbol: str, known_until: int | None) -> None:
    """Write verdicts as the desk does, on what is known at `known_until`, for the month before."""
    instrument = config.universe.instruments[symbol]
    venue = calendar(instrument.calendar)
    bars = lake.read_bars(dataset, symbol, date(2017, 10, 2), DAY)
    bars = bars if known_until is None else bars.known_at(known_until)
    rows: list[VerdictRow] = []
    for number in sorted({int(n) for n in bars.session})[-12:]:
        mine, before = bars.rows(bars.session == number), bars.rows(bars.session < number)
        results = judge(mine, before, instrument, venue, config.universe.quality, known_until=known_until)
        session = session_date(number).isoformat()
        rows += [
            VerdictRow(
                dataset,
                session,
                symbol,
                r.check,
                r.passed,
                r.severity,
                mine.content_hash(),
                len(r.failed_rows),
                judged_time=known_until if known_until is not None else venue.bounds(number)[1],
            )
            for r in results
        ]
    ledger.put_verdicts(rows)


def _signal(config: Config, lake: Lake, ledger: Ledger) -> tuple[int, Signal]:
    """The first EURUSD signal of the day of a strategy whose gates need no bars."""
    for close_time in trade_lane.close_times_of(SESSION, ledger, lake, config):
        for signal in trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals:
            if signal.symbol == "EURUSD" and signal.strategy != "eurusd_guarded":
                return close_time, signal
    raise AssertionError("no EURUSD signal on the day: the sample strategies changed?")


def _datasets(signal: Signal) -> set[str]:
    return {p.dataset for p in signal.partitions}


def _decide(signal: Signal, config: Config, ledger: Ledger) -> Any:
    (row,) = trade_lane.decide([signal], config, ledger, signal.close_time)
    return row.decision


def test_good_bars_with_fresh_verdicts_are_approved(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    close_time, signal = _signal(config, lake, ledger)
    for dataset in _datasets(signal):
        _judge(config, lake, ledger, dataset, "EURUSD", close_time)
    decision = _decide(signal, config, ledger)
    assert decision.approved, decision.refusal


def test_the_same_close_gives_the_same_signal_and_the_same_bytes(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    close_time, signal = _signal(config, lake, ledger)
    again = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals
    assert signal in again
    first, second = (trade_lane.decide([signal], config, ledger, close_time)[0] for _ in range(2))
    assert (first.snapshot, first.outcome) == (second.snapshot, second.outcome)


def test_a_missing_verdict_refuses_by_name(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    _, signal = _signal(config, lake, ledger)
    decision = _decide(signal, config, ledger)
    assert not decision.approved
    assert decision.refusal.startswith(f"DATA_QUALITY: partition={signal.partitions[0].dataset}/{SESSION}/EURUSD check=")
    assert decision.refusal.endswith("reason=missing")


def test_a_verdict_on_other_bars_is_stale(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    close_time, signal = _signal(config, lake, ledger)
    for dataset in _datasets(signal):
        _judge(config, lake, ledger, dataset, "EURUSD", close_time + 2 * 3_600_000_000)  # judged later, with more bars
    decision = _decide(signal, config, ledger)
    assert not decision.approved
    assert decision.refusal.endswith("reason=stale")


def test_a_corrupted_bar_refuses_the_decision_that_needs_it(tmp_path: Path, ledger: Ledger) -> None:
    with installation(tmp_path) as settings:
        config, lake = load_config(settings), fill(settings)
        close_time, clean = _signal(config, lake, ledger)
        _corrupt(lake, config, close_time)
        signals = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals
        signal = next(s for s in signals if s.strategy == clean.strategy)
        for dataset in _datasets(signal):
            _judge(config, lake, ledger, dataset, "EURUSD", close_time)
        decision = _decide(signal, config, ledger)
    assert not decision.approved
    assert decision.refusal == f"DATA_QUALITY: partition=bars_1h/{SESSION}/EURUSD check=ohlc_consistent reason=failed"


def _corrupt(lake: Lake, config: Config, close_time: int) -> None:
    """Give the bar at `close_time` a low above its high: its close, which the strategy reads, stays as it was."""
    bars = lake.read_bars("bars_1h", "EURUSD", DAY, DAY)
    at = int(np.searchsorted(bars.close_time, close_time))
    low = bars.low.copy()
    low[at] = bars.high[at] + 0.0005
    spoiled = replace(bars, low=low)
    assert isinstance(spoiled, Bars)
    lake.write_bars(
        "bars_1h", {"EURUSD": concat([spoiled])}, start=DAY, end=DAY, source="test", instruments=config.universe.instruments
    )


def test_a_paused_strategy_and_an_entered_plan_are_silent(
    sample: tuple[Config, Lake], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lake = sample
    close_time, _ = _signal(config, lake, ledger)
    monkeypatch.setattr(trade_lane, "entered", lambda _connection, names: frozenset(names))
    outcome = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper")
    plans = set(config.plans)
    assert not [s for s in outcome.signals if s.strategy in plans]
    assert plans <= set(outcome.silent)


def test_shadow_is_the_ceiling_for_every_strategy(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    close_time, _ = _signal(config, lake, ledger)
    signals = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "shadow").signals
    assert signals
    assert {s.mode for s in signals} == {"shadow"}


def test_windows_end_at_the_close_and_hold_no_forming_bar(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    close_time, signal = _signal(config, lake, ledger)
    evaluable: Any = {**config.strategies, **config.plans}[signal.strategy]
    windows = trade_lane.window(lake, evaluable, config.universe.instruments["EURUSD"], DAY, close_time)
    assert int(windows[Timeframe.H1].close_time[-1]) == close_time
    assert all(int(bars.close_time[-1]) <= close_time for bars in windows.values())


class _Desk:
    """The desk's client, as far as a run uses it. away: nobody answers."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.taken: list[str] = []

    def submit_decision(self, decision: Decision, close_time: int | None = None) -> DecisionReceipt:
        self.taken.append(decision.id)
        return DecisionReceipt(decision.id, True, "", (f"intent-{decision.id[:8]}",))

    def close_done(self, close_time: int, run_id: str, outcome: str = "done") -> dict[str, Any]:
        if self.away:
            raise DeskUnavailable("nobody answers")
        return {}


def _run(
    monkeypatch: pytest.MonkeyPatch, sample: tuple[Config, Lake], ledger: Ledger, desk: _Desk, close_time: int, *only: str
) -> dg.ExecuteInProcessResult:
    """Execute the trade step at a close; only: names of assets, default all three."""
    config, lake = sample
    for resource, method, answer in (
        (ConfigFilesResource, "load", config), (LakeResource, "lake", lake), (LedgerResource, "ledger", ledger),
        (DeskResource, "client", desk),
    ):  # fmt: skip
        monkeypatch.setattr(resource, method, lambda _self, answer=answer: answer)
    return dg.materialize(
        [trading.trade_close], partition_key=SESSION, tags={trading.CLOSE_TIME_TAG: str(close_time)}, raise_on_error=False,
        resources={"config_files": ConfigFilesResource(), "lake": LakeResource(), "ledger": LedgerResource(),
                   "desk": DeskResource()},
        selection=list(only) or None,
    )  # fmt: skip


def _told(done: dg.ExecuteInProcessResult) -> list[str]:
    return [e.asset_key.to_user_string() for e in done.get_asset_materialization_events() if e.asset_key]


def test_a_desk_that_is_away_fails_the_run_and_what_was_decided_is_told_and_taken_by_the_next(
    sample: tuple[Config, Lake], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lake = sample
    close_time, signal = _signal(config, lake, ledger)
    for dataset in _datasets(signal):
        _judge(config, lake, ledger, dataset, "EURUSD", close_time)
    ledger.record_close(close_time, SESSION, {"1h": ["EURUSD"]}, emitted_wall=1, stored_wall=2)
    away, there = _Desk(away=True), _Desk()
    done = _run(monkeypatch, sample, ledger, away, close_time)
    assert not done.success
    assert _told(done) == ["signals", "decisions"]
    stamped = ledger.close(close_time)
    assert stamped is not None
    assert stamped["run_started_wall"] <= stamped["signals_wall"] <= stamped["decisions_wall"]
    before = (ledger.signals(), ledger.decisions())
    again = _run(monkeypatch, sample, ledger, there, close_time)
    assert again.success
    assert _told(again) == ["signals", "decisions", "orders"]
    assert [e.check_name for e in again.get_asset_check_evaluations()] == ["nothing_in_doubt"]
    assert there.taken == away.taken
    assert there.taken
    assert (ledger.signals(), ledger.decisions()) == before, "the same close again adds nothing"


def test_one_asset_of_the_step_can_be_made_alone(
    sample: tuple[Config, Lake], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lake = sample
    close_time, _ = _signal(config, lake, ledger)
    desk = _Desk()
    assert _told(_run(monkeypatch, sample, ledger, desk, close_time, "signals")) == ["signals"]
    assert ledger.signals()
    assert not ledger.decisions()
    assert _told(_run(monkeypatch, sample, ledger, desk, close_time, "decisions")) == ["decisions"]
    assert ledger.decisions()
    assert not desk.taken


def test_a_page_shows_the_newest_of_a_session_and_counts_the_others(sample: tuple[Config, Lake], ledger: Ledger) -> None:
    config, lake = sample
    made: list[Signal] = []
    for close_time in trade_lane.close_times_of(SESSION, ledger, lake, config):
        made += trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals
    ledger.insert_signals(made, session=SESSION, code_revision="c", run_id="r")
    rows, count = ledger.newest_signals(SESSION, 2)
    assert count == len(made) > 2
    assert [row["id"] for row in rows] == [row["id"] for row in ledger.signals(session=SESSION)][-2:]
    assert ledger.newest_signals("2001-01-01", 2) == ([], 0)


def test_the_rehearsal_of_a_close_writes_nothing_and_leaves_nothing_to_read(
    sample: tuple[Config, Lake], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, lake = sample
    close_time, signal = _signal(config, lake, ledger)
    ledger.record_close(close_time, SESSION, {"1h": ["EURUSD"]}, emitted_wall=1, stored_wall=2)
    ledger.insert_signals([signal], session=SESSION, code_revision="c", run_id="r")
    written: list[str] = []
    for engine in engines_of(ledger.engine):
        event.listen(engine, "before_cursor_execute", lambda *told: written.append(told[2].split()[0]))
    for resource, method, answer in (
        (ConfigFilesResource, "load", config), (LakeResource, "lake", lake), (LedgerResource, "ledger", ledger),
        (DeskResource, "client", nobody),
    ):  # fmt: skip
        monkeypatch.setattr(resource, method, lambda _self, answer=answer: answer() if answer is nobody else answer)
    assert sum(1 for _ in rehearsal.steps()) > 3
    assert set(written) == {"SELECT"}
    read = lake._memory.read_rows
    trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper")
    assert lake._memory.read_rows == read


def nobody() -> None:
    raise DeskUnavailable("no desk in this test")
