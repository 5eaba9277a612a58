"""Judging what the lake holds of a dataset in a span of sessions, by the kernel's rules."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from resources.lake import LakeError
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.instruments import Instrument
from trading.quality import Known, RuleResult, Thresholds, judge_history, trailing_rows
from trading.resample import last_of_week
from trading.session_grid import Gap, missing_bars
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_date, session_number
from trading.universe import Universe

if TYPE_CHECKING:
    from resources.lake import Lake

ENDED_AFTER_SESSIONS = 20
"""A symbol without bars in this many newest sessions has ended (delisted, source stopped): its absence is then no gap on
every later session. It has no verdicts there either, so nothing can be traded on it."""

EXAMPLES = 5


@dataclass(frozen=True, slots=True, eq=False)
class JudgedPartition:
    """The verdicts on one symbol's bars of one session, in the order of trading.quality.ALL_CHECKS.

    gap: its missing bars, None without any. judged_time: market time up to which it was judged (UTC us): the session's
    close, or now while the session is open. extra: verdicts of other checks than the rules'.
    """

    symbol: str
    session: date
    content_hash: str
    bars: Bars
    results: tuple[RuleResult, ...]
    gap: Gap | None = None
    judged_time: int | None = None
    extra: tuple[RuleResult, ...] = ()


@dataclass
class Judged:
    """All verdicts of one run.

    unreadable: partition, symbol or dataset -> what is wrong with it; those have no verdicts. ended: symbols without bars
    at the end of the span.
    """

    dataset: str
    start: date
    end: date
    partitions: list[JudgedPartition] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    bars: list[Bars] = field(default_factory=list)
    seconds: float = 0.0

    def failures(self, check: str) -> Iterator[tuple[JudgedPartition, RuleResult]]:
        """Partitions that fail `check`, newest first."""
        for part in sorted(self.partitions, key=lambda p: (p.session, p.symbol), reverse=True):
            for result in (*part.results, *part.extra):
                if result.check == check and not result.passed:
                    yield part, result


KnownOf = Callable[[Instrument, Bars], Known]
"""What is known about the rows of an instrument's bars: see assets.quality.known."""


def judge_dataset(
    lake: Lake,
    universe: Universe,
    dataset: str,
    symbols: Iterable[str],
    start: date,
    end: date,
    *,
    now: int | None = None,
    known_of: KnownOf | None = None,
) -> Judged:
    """Judge every symbol's sessions in [start, end]. now: UTC us of a live market, bars due later are not missing.

    What the lake cannot read, or reads otherwise than its manifest promises, becomes an entry of `unreadable` and gets no
    verdict; the rest is judged.
    """
    began = time.perf_counter()
    judged = Judged(dataset, start, end)
    timeframe = Timeframe(dataset.removeprefix("bars_"))
    wanted = list(symbols)
    try:
        hashes = {(p.session, p.symbol): p.content_hash for p in lake.partitions(dataset, start, end, wanted)}
    except LakeError as error:
        judged.unreadable[dataset] = str(error)
        hashes = {}
    for symbol in wanted:
        instrument = universe.instruments[symbol]
        try:
            _judge_symbol(judged, lake, universe, instrument, timeframe, hashes, now, known_of)
        except LakeError as error:
            judged.unreadable[symbol] = str(error)
    judged.seconds = time.perf_counter() - began
    return judged


def _judge_symbol(
    judged: Judged,
    lake: Lake,
    universe: Universe,
    instrument: Instrument,
    timeframe: Timeframe,
    hashes: Mapping[tuple[date, str], str],
    now: int | None,
    known_of: KnownOf | None,
) -> None:
    venue = calendar(instrument.calendar)
    thresholds = Thresholds.of(universe.quality, instrument, timeframe)
    rows = trailing_rows(thresholds, timeframe, venue)
    bars = _with_trailing(lake, judged, instrument.symbol, timeframe, venue, rows)
    lo, hi = session_number(judged.start), session_number(judged.end)
    inside = bars.rows((bars.session >= lo) & (bars.session <= hi))
    sessions, ended = _sessions_to_judge(bars, timeframe, venue, lo, hi, now)
    if ended:
        judged.ended.add(instrument.symbol)
    if not sessions:
        return
    judged.bars.append(inside)
    known = known_of(instrument, bars) if known_of is not None else Known()
    verdicts = judge_history(bars, instrument, venue, universe.quality, known_until=now, sessions=sessions, known=known)
    gaps = missing_bars(bars, venue, now, sessions)
    first = np.searchsorted(inside.session, np.array(sessions, np.int32), side="left")
    after = np.searchsorted(inside.session, np.array(sessions, np.int32), side="right")
    for number, a, b in zip(sessions, first.tolist(), after.tolist(), strict=True):
        day = session_date(number)
        held = inside.rows(slice(a, b))
        promised = hashes.get((day, instrument.symbol), "")
        if promised and held.content_hash() != promised:
            name = f"{judged.dataset}/{day}/{instrument.symbol}"
            judged.unreadable[name] = f"{name}: the rows read are not those its manifest promises; ingest the session again"
            continue
        judged.partitions.append(
            JudgedPartition(
                instrument.symbol,
                day,
                promised,
                held,
                tuple(verdicts[number]),
                gaps.get(number),
                _judged_time(venue, number, now),
            )
        )


def _judged_time(venue: Calendar, session: int, now: int | None) -> int | None:
    try:
        closes = venue.bounds(session)[1]
    except KeyError:  # a session the venue does not have is never over: only now can be said of it
        return now
    return closes if now is None else min(now, closes)


def _with_trailing(lake: Lake, judged: Judged, symbol: str, timeframe: Timeframe, venue: Calendar, rows: int) -> Bars:
    """The symbol's bars of the span and at least `rows` before it, or all there are."""
    first = judged.start - timedelta(days=_trailing_days(timeframe, venue, rows))
    bars = lake.read_bars(judged.dataset, symbol, first, judged.end)
    before = int((bars.session < session_number(judged.start)).sum())
    if before < rows:
        bars = lake.read_bars(judged.dataset, symbol, None, judged.end)
        before = int((bars.session < session_number(judged.start)).sum())
    return bars.rows(slice(max(0, before - rows), None))


def _trailing_days(timeframe: Timeframe, venue: Calendar, rows: int) -> int:
    if timeframe is Timeframe.W1:
        return rows * 7 + 14
    per_session = 1
    if timeframe.intraday:
        usual = int(np.median(venue.close_time - venue.open_time))
        per_session = max(1, usual // (timeframe.minutes * US_PER_MINUTE))
    return math.ceil(rows / per_session * 1.6) + 10


def _sessions_to_judge(
    bars: Bars, timeframe: Timeframe, venue: Calendar, lo: int, hi: int, now: int | None
) -> tuple[list[int], bool]:
    """(sessions of the symbol in [lo, hi]: those that have bars and those between or right after them that have none; has
    the symbol ended?)"""
    numbers = venue.number
    if timeframe is Timeframe.W1:
        numbers = numbers[np.unique(last_of_week(venue))]
    if now is not None:
        begun = venue.open_time[np.searchsorted(venue.number, numbers)] < now
        numbers = numbers[begun]
    present = np.unique(bars.session)
    if len(present) == 0:
        return [], True
    last = int(present[-1])
    # Bars before the span vouch for its beginning, as the newest ones do for its end.
    later = int(((numbers > last) & (numbers <= hi)).sum())
    ended = later >= ENDED_AFTER_SESSIONS
    until = last if ended else hi
    due = numbers[(numbers >= max(lo, int(present[0]))) & (numbers <= until)]
    mine = present[(present >= lo) & (present <= hi)]
    return [int(n) for n in np.union1d(due, mine)], ended


def examples(part: JudgedPartition, result: RuleResult, limit: int = EXAMPLES) -> tuple[dict[str, Any], ...]:
    """The first failing rows as plain values, then the rule's own words."""
    found: list[dict[str, Any]] = []
    for row in result.failed_rows[:limit]:
        if 0 <= row < len(part.bars):
            values: dict[str, Any] = {"row": int(row), "close_time": iso(int(part.bars.close_time[row]))}
            values |= {n: _plain(float(getattr(part.bars, n)[row])) for n in ("open", "high", "low", "close", "volume")}
            found.append(values)
    if result.message:
        found.append({"message": result.message})
    return tuple(found)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
