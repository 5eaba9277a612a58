"""In a backtest the data-quality gate says of every wish what it would have said live, and never because of what came later."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.trading.test_decisions import EURUSD, SIGNAL
from trading.bars import Bars
from trading.calendars import calendar
from trading.decisions import build_snapshot
from trading.evaluable import live_window
from trading.gates.data_quality import DataQuality
from trading.instruments import Instrument
from trading.quality import judge, trailing_rows
from trading.quality_history import QualityHistory
from trading.resample import resample
from trading.signals import PartitionRef
from trading.timeframes import US_PER_HOUR, Timeframe, session_date
from trading.universe import QualityThresholds

VENUE = calendar("FX")
THRESHOLDS = QualityThresholds()


@dataclass(frozen=True)
class Asks:
    """What the gate asks of a strategy."""

    timeframe: Timeframe = Timeframe.H1
    timeframes: tuple[Timeframe, ...] = (Timeframe.H1, Timeframe.D1)
    quality_sessions: int = 3
    context: tuple[Any, ...] = ()

    @property
    def warm_up(self) -> dict[Timeframe, int]:
        return {Timeframe.H1: 60, Timeframe.D1: 4}


def hours() -> Bars:
    """Three months of hourly bars in which a few things are wrong: an impossible bar in the middle of a session, bars that are
    missing, a feed that stands still, a jump."""
    first = int(np.searchsorted(VENUE.number, (np.datetime64("2017-02-01") - np.datetime64("1970-01-01")).astype(int)))
    times, sessions = [], []
    for at in range(first, first + 64):
        ends = np.arange(int(VENUE.open_time[at]) + US_PER_HOUR, int(VENUE.close_time[at]) + 1, US_PER_HOUR)
        times.append(ends)
        sessions.append(np.full(len(ends), VENUE.number[at], np.int32))
    time, session = np.concatenate(times), np.concatenate(sessions)
    dice = np.random.default_rng(5)
    close = np.round(1.1 + np.cumsum(dice.normal(0, 0.0006, len(time))), 4)
    open_ = np.round(np.concatenate([[1.1], close[:-1]]) + dice.integers(-2, 3, len(time)) / 1e4, 4)
    high, low = np.maximum(open_, close) + 0.0004, np.minimum(open_, close) - 0.0004
    low[500] = high[500] + 0.001  # an impossible bar
    for column in (open_, high, low, close):
        column[800:812] = column[799]  # a feed that stands still
        column[1100:] = np.round(column[1100:] * 1.2, 4)  # a jump that nothing explains
    keep = np.ones(len(time), bool)
    keep[[300, 301, 302, 303, 304, 305]] = False  # bars that never came
    columns = [c[keep] for c in (time.astype(np.int64), session, open_, high, low, close)]
    return Bars("EURUSD", Timeframe.H1, *columns, np.zeros(int(keep.sum())))


HOURS = hours()
READ = {Timeframe.H1: HOURS, Timeframe.D1: resample(HOURS, Timeframe.D1, VENUE)}
ROWS = np.arange(150, len(HOURS), 19, dtype=np.int64)


def said_live(asks: Asks, row: int, instrument: Instrument) -> tuple[bool, str]:
    """The gate on the snapshot of a live close: the partitions of the strategy's window, judged on what was known by then."""
    close_time, session = int(HOURS.close_time[row]), int(HOURS.session[row])
    window = live_window(asks, READ, close_time, session, VENUE)  # type: ignore[arg-type]
    refs, verdicts = [], []
    for timeframe in asks.timeframes:
        whole = READ[timeframe].known_at(close_time)
        newest = sorted({int(n) for n in window[timeframe].session}, reverse=True)[: asks.quality_sessions]
        for number in newest:
            ref = PartitionRef(f"bars_{timeframe}", session_date(number).isoformat(), "EURUSD", "hash")
            first = int(np.searchsorted(whole.session, number))
            after = int(np.searchsorted(whole.session, number, side="right"))
            before = whole.rows(slice(max(0, first - trailing_rows(THRESHOLDS, timeframe, VENUE)), first))
            for result in judge(whole.rows(slice(first, after)), before, instrument, VENUE, THRESHOLDS, known_until=close_time):
                told = {"check": result.check, "passed": result.passed, "severity": result.severity, "content_hash": "hash"}
                verdicts.append({"dataset": ref.dataset, "session": ref.session, "symbol": ref.symbol, **told})
            refs.append(ref)
    snapshot = build_snapshot(
        replace(SIGNAL, close_time=close_time, partitions=tuple(refs)), instrument=instrument, mode="paper", verdicts=verdicts,
        required=refs, warm=True, now_time=close_time, session_open=True, min_reward_to_risk=0.0, gates={},
    )  # fmt: skip
    verdict = DataQuality().judge(json.loads(snapshot))
    return verdict.passed, verdict.refusal


def test_every_wish_is_judged_as_the_gate_judges_it_live() -> None:
    asks = Asks()
    found = QualityHistory({"EURUSD": EURUSD}, THRESHOLDS).verdicts(asks, EURUSD, READ, (), ROWS)  # type: ignore[arg-type]
    expected = [said_live(asks, int(row), EURUSD) for row in ROWS]
    assert [v.passed for v in found] == [passed for passed, _ in expected]
    assert [v.refusal for v in found if not v.passed] == [refusal for passed, refusal in expected if not passed]
    failing = {v.refusal.split("check=")[1].split()[0] for v in found if not v.passed}
    assert failing >= {"ohlc_consistent", "no_gaps", "stale_repeat", "jump"}
    assert sum(v.passed for v in found) > len(found) / 2


def test_nothing_that_came_later_refuses_a_wish() -> None:
    asks = Asks()
    whole = QualityHistory({"EURUSD": EURUSD}, THRESHOLDS).verdicts(asks, EURUSD, READ, (), ROWS)  # type: ignore[arg-type]
    for row, verdict in list(zip(ROWS.tolist(), whole, strict=True))[::5]:
        cut = {t: b.known_at(int(HOURS.close_time[row])) for t, b in READ.items()}
        alone = QualityHistory({"EURUSD": EURUSD}, THRESHOLDS)
        assert alone.verdicts(asks, EURUSD, cut, (), np.array([row])) == [verdict]  # type: ignore[arg-type]


def test_what_only_the_gates_read_must_be_good_too() -> None:
    asks, row = Asks(), np.array([560])
    history = QualityHistory({"EURUSD": EURUSD}, THRESHOLDS)
    (fine,) = history.verdicts(asks, EURUSD, READ, (), row)  # type: ignore[arg-type]
    assert fine.passed
    bad = HOURS.rows(slice(0, 495))  # ends with the impossible bar
    (refused,) = history.verdicts(asks, EURUSD, READ, (bad,), row)  # type: ignore[arg-type]
    assert refused.refusal.endswith("check=ohlc_consistent reason=failed")


def test_a_wish_without_any_bars_behind_it_is_refused() -> None:
    asks = Asks(timeframes=())
    (said,) = QualityHistory({"EURUSD": EURUSD}, THRESHOLDS).verdicts(asks, EURUSD, READ, (), np.array([5]))  # type: ignore[arg-type]
    assert not said.passed
    assert said.refusal.startswith("DATA_QUALITY: ")
