"""Is a session's data fit to trade on? Pure rules over bars, the same for a whole history and for the bar just closed.

Each rule marks failing rows; `judge` answers for one session, `judge_history` for every session of a history, alike to
the bit. What needs looking back looks only back.

    rule                     a row fails when
    columns_and_types        a value is not finite, a volume is negative, an array has the wrong type
    ohlc_consistent          not low <= open, close <= high
    positive_prices          a price is not above 0
    monotonic_unique_times   its close_time is not after the one before
    within_session           its session does not exist, or its close is not a bar end inside that session
    no_gaps                  it comes after missing bars (more than max_gap_share, or a run above max_gap_bars)
    jump                     a price is more than jump_sigmas trailing volatilities from the last close
    stale_repeat             it repeats the prices of stale_repeats - 1 bars before
    volume_sane (warning)    its volume is above volume_ratio times the trailing median
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from trading import quality_kernels as kernels
from trading.bars import PRICE_COLUMNS, Bars
from trading.calendars import FX_THIN_DAYS, Calendar
from trading.instruments import Instrument
from trading.resample import last_of_week
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_date

ERROR: Final = "error"
WARN: Final = "warn"
ERROR_CHECKS: Final = (
    "columns_and_types",
    "ohlc_consistent",
    "positive_prices",
    "monotonic_unique_times",
    "within_session",
    "no_gaps",
    "jump",
    "stale_repeat",
)
"""Checks that stop trading when they fail or are missing."""
ALL_CHECKS: Final = (*ERROR_CHECKS, "volume_sane")


class ThresholdValues(Protocol):
    """Numbers the rules need, as properties. See Thresholds for the meaning; jump_minimum, volume_window and
    max_gap_bars may be absent."""

    @property
    def jump_sigmas(self) -> float: ...
    @property
    def jump_window(self) -> int: ...
    @property
    def stale_repeats(self) -> int: ...
    @property
    def volume_ratio(self) -> float: ...
    @property
    def max_gap_share(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Numbers of the rules.

    jump_sigmas: trailing volatilities (one bar's, times the root of the bars' worth of time passed) a price may be away
    from the last close. jump_window: trailing returns the volatility is taken from. jump_minimum: log moves below this
    are never a jump. stale_repeats: this many identical OHLC bars in a row are stale. volume_ratio, volume_window:
    multiple of the median of the trailing volumes. max_gap_share, max_gap_bars: share of a session's bars that may be
    missing, and the longest run of them.
    """

    jump_sigmas: float = 12.0
    jump_window: int = 100
    jump_minimum: float = 0.01
    stale_repeats: int = 10
    volume_ratio: float = 50.0
    volume_window: int = 50
    max_gap_share: float = 0.0
    max_gap_bars: int = 0

    @staticmethod
    def of(values: Any, instrument: Instrument) -> Thresholds:
        """The numbers of any object with these attributes; its `of(asset_class)` is asked first when it has one."""
        if isinstance(values, Thresholds):
            return values
        if callable(getattr(values, "of", None)):
            values = values.of(instrument.asset_class)
        window = int(values.jump_window)
        return Thresholds(
            jump_sigmas=float(values.jump_sigmas),
            jump_window=window,
            jump_minimum=float(getattr(values, "jump_minimum", 0.01)),
            stale_repeats=int(values.stale_repeats),
            volume_ratio=float(values.volume_ratio),
            volume_window=int(getattr(values, "volume_window", window)),
            max_gap_share=float(values.max_gap_share),
            max_gap_bars=int(getattr(values, "max_gap_bars", np.iinfo(np.int32).max)),
        )


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule's verdict on one session. failed_rows: rows of the session's bars; severity: ``error`` or ``warn``."""

    check: str
    passed: bool
    severity: str
    failed_rows: tuple[int, ...] = ()
    message: str = ""


_SEVERITY: Final = {check: ERROR if check in ERROR_CHECKS else WARN for check in ALL_CHECKS}
_PASSED: Final = {check: RuleResult(check, True, _SEVERITY[check]) for check in ALL_CHECKS}
_ADVICE: Final = {
    "columns_and_types": "values that are not finite or volumes below 0",
    "ohlc_consistent": "bars without low <= open, close <= high",
    "positive_prices": "prices not above 0",
    "monotonic_unique_times": "closes not after the one before",
    "within_session": "closes that are no bar end of their session",
    "jump": "prices too far from the last close for the trailing volatility",
    "stale_repeat": "bars repeating the ones before",
    "volume_sane": "volumes far above the trailing median",
}


def trailing_rows(thresholds: ThresholdValues | Any) -> int:
    """Bars before a session that `judge` needs to see as much as a judge of the whole history."""
    t = thresholds
    return max(int(t.jump_window), int(getattr(t, "volume_window", t.jump_window)), int(t.stale_repeats)) + 2


def judge(
    bars_of_session: Bars,
    trailing: Bars,
    instrument: Instrument,
    calendar: Calendar,
    thresholds: ThresholdValues | Any,
    *,
    known_until: int | None = None,
    session: int | None = None,
) -> list[RuleResult]:
    """Every rule's verdict on one session's bars, in the order of ALL_CHECKS.

    trailing: the bars before the session (at least trailing_rows(thresholds), or all there are). known_until: now, for
    a session still forming: only bars due by then can be missing (UTC us; None: the session is over). session: needed
    when the session has no bars. Raises ValueError when there are neither bars nor a session number.
    """
    if session is None:
        if len(bars_of_session) == 0:
            raise ValueError(f"{instrument.symbol}: no bars to judge and no session named")
        session = int(bars_of_session.session[-1])
    keep = trailing_rows(Thresholds.of(thresholds, instrument))
    before = trailing.rows(slice(max(0, len(trailing) - keep), None))
    joined = _joined(before, bars_of_session)
    marks = _marks(joined, instrument, calendar, thresholds, known_until, len(before))
    if not _types_right(bars_of_session):
        marks["columns_and_types"][len(before) :] = True
    gaps = _gaps(joined, calendar, known_until, [session])
    return _results(session, len(before), len(joined), joined, marks, gaps.get(session), calendar, thresholds, instrument)


def judge_history(
    bars: Bars,
    instrument: Instrument,
    calendar: Calendar,
    thresholds: ThresholdValues | Any,
    *,
    known_until: int | None = None,
    sessions: Iterable[int] | None = None,
) -> dict[int, list[RuleResult]]:
    """`judge` of every session (number) of a history at once.

    sessions: those to judge, also ones without bars; default: the ones that have bars. Rows of one session must stand
    together.
    """
    present, first, counts = np.unique(bars.session, return_index=True, return_counts=True)
    spans = {int(s): (int(a), int(a + n)) for s, a, n in zip(present, first, counts, strict=True)}
    wanted = list(spans) if sessions is None else sorted(int(s) for s in sessions)
    marks = _marks(bars, instrument, calendar, thresholds, known_until, 0)
    gaps = _gaps(bars, calendar, known_until, wanted)
    failing: set[int] = set()
    for mask in marks.values():
        failing.update(int(s) for s in np.unique(bars.session[mask]))
    clean = [_PASSED[check] for check in ALL_CHECKS]
    out: dict[int, list[RuleResult]] = {}
    for s in wanted:
        if s not in failing and s not in gaps:
            out[s] = list(clean)
        else:
            a, b = spans.get(s, (0, 0))
            out[s] = _results(s, a, b, bars, marks, gaps.get(s), calendar, thresholds, instrument)
    return out


@dataclass(frozen=True, slots=True)
class _Gap:
    """Missing bars of one session: rows (of the whole array) that come after some, and the counts."""

    rows: tuple[int, ...]
    missing: int
    expected: int
    longest: int
    first_time: int


def _results(
    session: int,
    a: int,
    b: int,
    bars: Bars,
    marks: dict[str, NDArray[np.bool_]],
    gap: _Gap | None,
    calendar: Calendar,
    thresholds: ThresholdValues | Any,
    instrument: Instrument,
) -> list[RuleResult]:
    out = []
    for check in ALL_CHECKS:
        if check == "no_gaps":
            out.append(_gap_result(gap, a, Thresholds.of(thresholds, instrument)))
            continue
        rows = tuple(np.flatnonzero(marks[check][a:b]).tolist())
        if not rows:
            out.append(_PASSED[check])
            continue
        where = ", ".join(iso(int(bars.close_time[a + i])) for i in rows[:3])
        text = f"{len(rows)} of {b - a} rows: {_ADVICE[check]} ({where}{', ...' if len(rows) > 3 else ''})"
        out.append(RuleResult(check, False, _SEVERITY[check], rows, text))
    return out


def _gap_result(gap: _Gap | None, offset: int, t: Thresholds) -> RuleResult:
    if gap is None or (gap.missing <= t.max_gap_share * gap.expected and gap.longest <= t.max_gap_bars):
        return _PASSED["no_gaps"]
    text = (
        f"{gap.missing} of {gap.expected} bars missing, longest run {gap.longest}, first one due {iso(gap.first_time)} "
        f"(allowed: share {t.max_gap_share:g}, run {t.max_gap_bars})"
    )
    return RuleResult("no_gaps", False, ERROR, tuple(r - offset for r in gap.rows), text)


def _joined(before: Bars, bars: Bars) -> Bars:
    """Both one after the other, in whatever order of time they are: order is one of the things judged."""
    names = ("close_time", "session", *PRICE_COLUMNS, "volume")
    return Bars(bars.symbol, bars.timeframe, *(np.concatenate([getattr(before, n), getattr(bars, n)]) for n in names))


def _marks(
    bars: Bars, instrument: Instrument, calendar: Calendar, thresholds: ThresholdValues | Any, known_until: int | None, first: int
) -> dict[str, NDArray[np.bool_]]:
    """Failing rows by check, judged from row `first` on."""
    t = Thresholds.of(thresholds, instrument)
    n = len(bars)
    prices = [np.ascontiguousarray(getattr(bars, c), np.float64) for c in PRICE_COLUMNS]
    o, h, low, c = prices
    volume = np.ascontiguousarray(bars.volume, np.float64)
    finite = np.isfinite(volume) & np.logical_and.reduce([np.isfinite(p) for p in prices])
    with np.errstate(invalid="ignore"):
        typed = finite & (volume >= 0)
        consistent = (low <= o) & (o <= h) & (low <= c) & (c <= h)
        positive = np.logical_and.reduce([p > 0 for p in prices])
    if not _types_right(bars):
        typed = np.zeros(n, bool)
    later = np.ones(n, bool)
    later[1:] = np.diff(bars.close_time) > 0
    place, on_grid, width, per_session = _grid(bars, calendar)
    if known_until is not None:
        on_grid = on_grid & (bars.close_time <= known_until)
    jump, stale, loud = (np.zeros(n, bool) for _ in range(3))
    times = np.ascontiguousarray(bars.close_time, np.int64)
    kernels.jumps(o, h, low, c, times, place, width, per_session, t.jump_window, t.jump_sigmas, t.jump_minimum, first, jump)
    kernels.stale(o, h, low, c, t.stale_repeats, first, stale)
    if instrument.has_volume:
        kernels.loud(volume, t.volume_window, t.volume_ratio, first, loud)
    return {
        "columns_and_types": ~typed,
        "ohlc_consistent": ~consistent,
        "positive_prices": ~positive,
        "monotonic_unique_times": ~later,
        "within_session": ~on_grid,
        "jump": jump,
        "stale_repeat": stale,
        "volume_sane": loud,
    }


def _types_right(bars: Bars) -> bool:
    floats = all(getattr(bars, c).dtype == np.float64 for c in (*PRICE_COLUMNS, "volume"))
    return floats and bars.close_time.dtype == np.int64 and bars.session.dtype == np.int32


def _grid(bars: Bars, calendar: Calendar) -> tuple[NDArray[np.int64], NDArray[np.bool_], int, float]:
    """(place of each row's session among the sessions, is its close a bar end of it, bar length or 0, bars a session)."""
    row, exists, opens, closes = _sessions_of(bars.session, calendar)
    t = bars.close_time
    if bars.timeframe.intraday:
        width = bars.timeframe.minutes * US_PER_MINUTE
        good = exists & (t > opens) & (t <= closes) & (((t - opens) % width == 0) | (t == closes))
        length = float(np.median(calendar.close_time - calendar.open_time)) if len(calendar.number) else 0.0
        return row, good, width, max(1.0, np.ceil(length / width))
    good = exists & (t == closes)
    if bars.timeframe is Timeframe.W1:
        last = last_of_week(calendar)
        good &= last[row] == row
        row = (calendar.number[row].astype(np.int64) + 3) // 7
    return row, good, 0, 1.0


def _sessions_of(
    sessions: NDArray[np.int32], calendar: Calendar
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Calendar row (the nearest where there is none), whether the session exists, its open and close."""
    row = np.minimum(np.searchsorted(calendar.number, sessions), len(calendar.number) - 1).astype(np.int64)
    return row, calendar.number[row] == sessions, calendar.open_time[row], calendar.close_time[row]


def _gaps(bars: Bars, calendar: Calendar, known_until: int | None, sessions: list[int]) -> dict[int, _Gap]:
    """Sessions of `sessions` with missing bars."""
    wanted = np.array(sorted(sessions), np.int32)
    _, exists, opens, closes = _sessions_of(wanted, calendar)
    intraday = bars.timeframe.intraday
    length = closes - opens
    width = np.full(len(wanted), bars.timeframe.minutes * US_PER_MINUTE) if intraday else np.maximum(length, 1)
    total = -(-length // width)
    if known_until is None:
        due = total
    else:
        due = np.where(known_until >= closes, total, np.clip((known_until - opens) // width, 0, total))
    if calendar.name == "FX":
        thin = np.array([(d.month, d.day) in FX_THIN_DAYS for d in map(session_date, wanted)], bool)
        exists = exists & ~thin
    # Which bar of its session each row is, for the rows whose session is asked about and exists.
    where = np.searchsorted(wanted, bars.session)
    where = np.minimum(where, max(0, len(wanted) - 1))
    mine = (wanted[where] == bars.session) & exists[where] if len(wanted) else np.zeros(len(bars), bool)
    rows = np.flatnonzero(mine)
    at = where[rows]
    index = np.clip(-(-(bars.close_time[rows] - opens[at]) // width[at]) - 1, -1, total[at])
    return _count_gaps(wanted, exists, due, opens, closes, width, rows, at, index)


def _count_gaps(
    wanted: NDArray[np.int32],
    exists: NDArray[np.bool_],
    due: NDArray[np.int64],
    opens: NDArray[np.int64],
    closes: NDArray[np.int64],
    width: NDArray[np.int64],
    rows: NDArray[np.int64],
    at: NDArray[np.int64],
    index: NDArray[np.int64],
) -> dict[int, _Gap]:
    order = np.lexsort((index, at))
    rows, at, index = rows[order], at[order], index[order]
    starts_session = np.ones(len(rows), bool)
    starts_session[1:] = at[1:] != at[:-1]
    previous = np.empty(len(rows), np.int64)
    previous[1:] = index[:-1]
    previous[starts_session] = -1
    skipped = np.maximum(index - previous - 1, 0)
    last_index = np.full(len(wanted), -1, np.int64)
    last_row = np.full(len(wanted), -1, np.int64)
    last_index[at] = index  # ascending: the last assignment stands
    last_row[at] = rows
    tail = np.maximum(due - 1 - last_index, 0)
    found: dict[int, list[tuple[int, int, int]]] = {}
    for i in np.flatnonzero(skipped):
        found.setdefault(int(at[i]), []).append((int(rows[i]), int(skipped[i]), int(previous[i]) + 1))
    for late in np.flatnonzero(exists & (tail > 0)):
        found.setdefault(int(late), []).append((int(last_row[late]), int(tail[late]), int(last_index[late]) + 1))
    out = {}
    for k, gaps in found.items():
        first_time = min(int(opens[k]) + (gaps[0][2] + 1) * int(width[k]), int(closes[k]))
        out[int(wanted[k])] = _Gap(
            tuple(sorted({g[0] for g in gaps if g[0] >= 0})),
            sum(g[1] for g in gaps),
            int(due[k]),
            max(g[1] for g in gaps),
            first_time,
        )
    return out
