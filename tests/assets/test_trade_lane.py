"""From the bars at a close to gated decisions: the same answer twice, and no decision without good data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets import trade_lane
from resources.config import Config, load_config
from resources.lake import Lake
from resources.ledger.store import Ledger, VerdictRow
from tests.assets.sample_lake import fill, installation
from trading.bars import Bars, concat
from trading.calendars import calendar
from trading.quality import judge
from trading.signals import Signal
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
    evaluable = {**config.strategies, **config.plans}[signal.strategy]
    windows = trade_lane.window(lake, evaluable, config.universe.instruments["EURUSD"], DAY, close_time)
    assert int(windows[Timeframe.H1].close_time[-1]) == close_time
    assert all(int(bars.close_time[-1]) <= close_time for bars in windows.values())
