"""The data-quality gate over a whole history: would the bars a wish was computed from have had good verdicts at its close?

The rules are trading.quality's, asked again of the bars: a session that was over at the close as a whole, the session going on
only up to the close. Required are the partitions a trade run requires: the newest ``quality_sessions`` of every series of the
strategy's window, and the newest of what its gates read. What only the desk knew at the time is not asked here: how old a verdict
was, rows that waited in quarantine, a second source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.decisions import verdict_of
from trading.evaluable import Evaluable, context_of
from trading.gates.base import GATES
from trading.instruments import Instrument
from trading.quality import ALL_CHECKS, ERROR_CHECKS, Known, RuleResult, Thresholds, judge, judge_history, trailing_rows
from trading.session_grid import missing_bars
from trading.signals import GateVerdict
from trading.timeframes import Timeframe, session_date
from trading.windows import window_start

GATE: Final = "data_quality"
KnownOf = Callable[[Instrument, Bars], Known]


@dataclass(slots=True, eq=False)
class _Judged:
    """Verdicts on one series. doubtful: sessions in which anything fails or is missing, and that must be judged again up to a
    close; failed: check by session, of those that fail as a whole."""

    bars: Bars
    doubtful: frozenset[int]
    failed: dict[int, str]
    known: Known
    so_far: dict[tuple[int, int], str] = field(default_factory=dict)


class QualityHistory:
    """Judges the partitions behind wishes; each series is judged once. thresholds: as trading.quality.Thresholds.of reads them.
    known_of: jumps that actions explain, rows that were accepted."""

    def __init__(self, instruments: Mapping[str, Instrument], thresholds: Any, known_of: KnownOf | None = None) -> None:
        self._instruments, self._thresholds, self._known_of = dict(instruments), thresholds, known_of
        self._series: dict[int, _Judged] = {}

    def verdicts(
        self, evaluable: Evaluable, instrument: Instrument, series: Mapping[Any, Bars], beside: Iterable[Bars],
        rows: np.ndarray[Any, np.dtype[np.int64]],
    ) -> list[GateVerdict]:  # fmt: skip
        """The gate's verdict on the wish at each of `rows` of the primary bars. series: what the strategy reads, by timeframe and
        (symbol, timeframe); beside: what only its gates read."""
        venue = calendar(instrument.calendar)
        own = series[evaluable.timeframe]
        read = [(series[t], t) for t in evaluable.timeframes]
        read += [(series[key], key[1]) for key in context_of(evaluable, instrument.symbol)]
        starts: dict[tuple[int, Timeframe], int] = {}
        found = []
        for row in rows.tolist():
            session, close_time = int(own.session[row]), int(own.close_time[row])
            asked, bad = 0, None
            for bars, timeframe in read:
                at = session, timeframe
                if at not in starts:
                    starts[at] = window_start(session, timeframe, evaluable.warm_up.get(timeframe, 0), venue)
                count, failed = self._failed(bars, close_time, evaluable.quality_sessions, starts[at])
                asked, bad = asked + count, bad or failed
            for bars in beside:
                count, failed = self._failed(bars, close_time, 1, -(2**31))
                asked, bad = asked + count, bad or failed
            found.append(_verdict(asked, bad))
        return found

    def _failed(self, bars: Bars, close_time: int, sessions: int, start: int) -> tuple[int, tuple[Bars, int, str] | None]:
        """(partitions required of a series at a close, the newest that fails with its check)."""
        known = int(np.searchsorted(bars.close_time, close_time, side="right"))
        if known == 0:
            return 0, None
        judged = self._judged(bars)
        recent = np.unique(bars.session[max(0, known - sessions * 1440) : known])[::-1]
        wanted = [int(n) for n in recent[:sessions] if n >= start]
        for place, number in enumerate(wanted):
            check = judged.failed.get(number, "")
            if place == 0 and number in judged.doubtful:
                check = self._up_to(judged, number, known, close_time)
            if check:
                return len(wanted), (bars, number, check)
        return len(wanted), None

    def _judged(self, bars: Bars) -> _Judged:
        held = self._series.get(id(bars))
        if held is not None and held.bars is bars:
            return held
        instrument = self._instruments[bars.symbol]
        venue = calendar(instrument.calendar)
        known = self._known_of(instrument, bars) if self._known_of is not None else Known()
        results = judge_history(bars, instrument, venue, self._thresholds, known=known)
        gaps = missing_bars(bars, venue, None, list(results))
        doubtful = {n for n, its in results.items() if n in gaps or not all(r.passed for r in its)}
        failed = {n: check for n, its in results.items() if (check := _error(its))}
        self._series[id(bars)] = made = _Judged(bars, frozenset(doubtful), failed, known)
        return made

    def _up_to(self, judged: _Judged, number: int, known: int, close_time: int) -> str:
        """The check that a session still going on fails at a close, "" when none does."""
        key = number, known
        if key not in judged.so_far:
            bars, instrument = judged.bars, self._instruments[judged.bars.symbol]
            venue: Calendar = calendar(instrument.calendar)
            limits = Thresholds.of(self._thresholds, instrument, bars.timeframe)
            first = int(np.searchsorted(bars.session, number, side="left"))
            before = bars.rows(slice(max(0, first - trailing_rows(limits, bars.timeframe, venue)), first))
            judged.so_far[key] = _error(
                judge(
                    bars.rows(slice(first, known)),
                    before,
                    instrument,
                    venue,
                    self._thresholds,
                    known_until=close_time,
                    known=judged.known,
                )
            )
        return judged.so_far[key]


def _error(results: Iterable[RuleResult]) -> str:
    return next((r.check for r in results if not r.passed and r.severity != "warn"), "")


def _verdict(asked: int, bad: tuple[Bars, int, str] | None) -> GateVerdict:
    """What the gate itself says of the partition that fails; of partitions that all pass it would only count them."""
    if bad is None and asked:
        return GateVerdict(GATE, True, f"{asked} partitions", f"{len(ERROR_CHECKS)} checks each")
    if bad is None:
        return verdict_of(GATE, dict(GATES.ordered())[GATE], {})  # nothing was required: the gate refuses what it cannot see
    bars, number, failing = bad
    ref = {
        "dataset": f"bars_{bars.timeframe}", "session": session_date(number).isoformat(), "symbol": bars.symbol,
        "content_hash": "-",
    }  # fmt: skip
    said = [
        {**ref, "check": check, "passed": check != failing, "severity": "error"}
        for check in ALL_CHECKS
        if check in ERROR_CHECKS or check == failing
    ]
    snapshot = {
        "required": [ref], "required_checks": list(ERROR_CHECKS), "verdicts": said, "signal": {"partitions": [ref]},
    }  # fmt: skip
    return dict(GATES.ordered())[GATE].judge(snapshot)
