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
    volume_anomaly           its volume is unusual for the time of day (warning; an error above volume_z_error)
    volatility_anomaly       its range is unusual for the time of day (warning; an error above volatility_z_error)

A jump that a known corporate action explains is none, and rows an operator accepted are exempt from the rules on validity;
both are named in the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from trading import anomalies
from trading import quality_kernels as kernels
from trading.bars import PRICE_COLUMNS, Bars
from trading.calendars import Calendar
from trading.instruments import Instrument, PriceFloor
from trading.session_grid import Gap, missing_bars, on_grid, sessions_of
from trading.timeframes import US_PER_MINUTE, Timeframe, iso

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
ALL_CHECKS: Final = (*ERROR_CHECKS, "volume_sane", "volume_anomaly", "volatility_anomaly")
VALIDITY_CHECKS: Final = ("columns_and_types", "ohlc_consistent", "positive_prices", "monotonic_unique_times", "within_session")
"""Rules about a row by itself: what fails one at ingest is put aside."""


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


_Z_LIMITS: Final = ("volume_z_warn", "volume_z_error", "volatility_z_warn", "volatility_z_error")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Numbers of the rules.

    jump_sigmas: trailing volatilities (one bar's, times the root of the bars' worth of time passed) a price may be away
    from the last close. jump_window: trailing returns the volatility is taken from. jump_minimum: log moves below this
    are never a jump. stale_repeats: this many identical OHLC bars in a row are stale. volume_ratio, volume_window:
    multiple of the median of the trailing volumes. max_gap_share, max_gap_bars: share of a session's bars that may be
    missing, and the longest run of them. anomaly_sessions, *_z_warn, *_z_error: see trading.anomalies.
    """

    jump_sigmas: float = 12.0
    jump_window: int = 100
    jump_minimum: float = 0.01
    stale_repeats: int = 10
    volume_ratio: float = 50.0
    volume_window: int = 50
    max_gap_share: float = 0.0
    max_gap_bars: int = 0
    anomaly_sessions: int = 20
    volume_z_warn: float = math.inf
    volume_z_error: float = math.inf
    volatility_z_warn: float = math.inf
    volatility_z_error: float = math.inf

    @staticmethod
    def of(values: Any, instrument: Instrument, timeframe: Timeframe | None = None) -> Thresholds:
        """The numbers of any object with these attributes; its `of(asset_class, timeframe)` is asked first when it has one."""
        if isinstance(values, Thresholds):
            return values
        if callable(getattr(values, "of", None)):
            values = values.of(instrument.asset_class, timeframe)
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
            anomaly_sessions=int(getattr(values, "anomaly_sessions", 20)),
            **{name: float(getattr(values, name, math.inf)) for name in _Z_LIMITS},
        )


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule's verdict on one session. failed_rows: rows of the session's bars; severity: ``error`` or ``warn``.

    message: what failed, or why a row that would fail does not.
    """

    check: str
    passed: bool
    severity: str
    failed_rows: tuple[int, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about rows beyond the rows. jumps: ex session (number) -> the action that explains its jump;
    accepted: close_time (UTC us) of a row an operator accepted as it came -> who and why."""

    jumps: Mapping[int, str] = field(default_factory=dict)
    accepted: Mapping[int, str] = field(default_factory=dict)


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
    "volume_anomaly": "volumes unusual for the time of day",
    "volatility_anomaly": "ranges unusual for the time of day",
}


def trailing_rows(thresholds: ThresholdValues | Any, timeframe: Timeframe | None = None, calendar: Calendar | None = None) -> int:
    """Bars before a session that `judge` needs to see as much as a judge of the whole history.

    Without timeframe and calendar: what the rules that look back a number of bars need, not those that look back sessions.
    """
    t = thresholds
    bars = max(int(t.jump_window), int(getattr(t, "volume_window", t.jump_window)), int(t.stale_repeats))
    if timeframe is not None and calendar is not None:
        per_session = 1
        if timeframe.intraday and len(calendar.number):
            longest = int((calendar.close_time - calendar.open_time).max())
            per_session = -(-longest // (timeframe.minutes * US_PER_MINUTE))
        bars = max(bars, int(getattr(t, "anomaly_sessions", 0)) * per_session)
    return bars + 2


def judge(
    bars_of_session: Bars,
    trailing: Bars,
    instrument: Instrument,
    calendar: Calendar,
    thresholds: ThresholdValues | Any,
    *,
    known_until: int | None = None,
    session: int | None = None,
    known: Known | None = None,
) -> list[RuleResult]:
    """Every rule's verdict on one session's bars, in the order of ALL_CHECKS.

    trailing: the bars before the session (at least trailing_rows(thresholds, timeframe, calendar), or all there are).
    known_until: now, for a session still forming: only bars due by then can be missing (UTC us; None: the session is over).
    session: needed when the session has no bars. known: jumps explained and rows accepted. Raises ValueError when there
    are neither bars nor a session number.
    """
    if session is None:
        if len(bars_of_session) == 0:
            raise ValueError(f"{instrument.symbol}: no bars to judge and no session named")
        session = int(bars_of_session.session[-1])
    limits = Thresholds.of(thresholds, instrument, bars_of_session.timeframe)
    keep, far = trailing_rows(limits), trailing_rows(limits, bars_of_session.timeframe, calendar)
    before = trailing.rows(slice(max(0, len(trailing) - keep), None))
    joined = _joined(before, bars_of_session)
    unjudged = np.full(len(before), np.nan)
    z = anomalies.session_scores(
        trailing.rows(slice(max(0, len(trailing) - far), None)), bars_of_session, calendar, limits.anomaly_sessions,
        float(instrument.tick_size),
    )  # fmt: skip
    scores = np.concatenate([unjudged, z[0]]), np.concatenate([unjudged, z[1]])
    marks = _marks(joined, instrument, calendar, limits, known_until, len(before), known or Known(), scores)
    if not _types_right(bars_of_session):
        marks.failing["columns_and_types"][len(before) :] = True
    gaps = missing_bars(joined, calendar, known_until, [session])
    return _results(len(before), len(joined), joined, marks, gaps.get(session), limits)


def judge_history(
    bars: Bars,
    instrument: Instrument,
    calendar: Calendar,
    thresholds: ThresholdValues | Any,
    *,
    known_until: int | None = None,
    sessions: Iterable[int] | None = None,
    known: Known | None = None,
) -> dict[int, list[RuleResult]]:
    """`judge` of every session (number) of a history at once.

    sessions: those to judge, also ones without bars; default: the ones that have bars. Rows of one session must stand
    together.
    """
    present, first, counts = np.unique(bars.session, return_index=True, return_counts=True)
    spans = {int(s): (int(a), int(a + n)) for s, a, n in zip(present, first, counts, strict=True)}
    wanted = list(spans) if sessions is None else sorted(int(s) for s in sessions)
    limits = Thresholds.of(thresholds, instrument, bars.timeframe)
    place, opens = on_grid(bars, calendar)[0], sessions_of(bars.session, calendar)[2]
    z = anomalies.scores(bars, place, opens, limits.anomaly_sessions, float(instrument.tick_size), 0)
    marks = _marks(bars, instrument, calendar, limits, known_until, 0, known or Known(), z)
    gaps = missing_bars(bars, calendar, known_until, wanted)
    speaking: set[int] = {int(s) for s in bars.session[list(marks.notes)]} if marks.notes else set()
    for mask in marks.failing.values():
        speaking.update(int(s) for s in np.unique(bars.session[mask]))
    clean = [_PASSED[check] for check in ALL_CHECKS]
    out: dict[int, list[RuleResult]] = {}
    for s in wanted:
        if s not in speaking and s not in gaps:
            out[s] = list(clean)
        else:
            a, b = spans.get(s, (0, 0))
            out[s] = _results(a, b, bars, marks, gaps.get(s), limits)
    return out


@dataclass(slots=True)
class _Marks:
    """failing rows by check; severe: those that make a warning an error; notes: row -> {check: why it does not fail}."""

    failing: dict[str, NDArray[np.bool_]]
    severe: dict[str, NDArray[np.bool_]]
    notes: dict[int, dict[str, str]]


def _results(a: int, b: int, bars: Bars, marks: _Marks, gap: Gap | None, limits: Thresholds) -> list[RuleResult]:
    out = []
    notes = [marks.notes[row] for row in sorted(marks.notes) if a <= row < b]
    for check in ALL_CHECKS:
        if check == "no_gaps":
            out.append(_gap_result(gap, a, limits))
            continue
        rows = tuple(np.flatnonzero(marks.failing[check][a:b]).tolist())
        if not rows:
            said = "; ".join(note[check] for note in notes if check in note)
            out.append(RuleResult(check, True, _SEVERITY[check], (), said) if said else _PASSED[check])
            continue
        severity = ERROR if check in marks.severe and marks.severe[check][a:b].any() else _SEVERITY[check]
        where = ", ".join(iso(int(bars.close_time[a + i])) for i in rows[:3])
        text = f"{len(rows)} of {b - a} rows: {_ADVICE[check]} ({where}{', ...' if len(rows) > 3 else ''})"
        out.append(RuleResult(check, False, severity, rows, text))
    return out


def _gap_result(gap: Gap | None, offset: int, t: Thresholds) -> RuleResult:
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
    bars: Bars,
    instrument: Instrument,
    calendar: Calendar,
    t: Thresholds,
    known_until: int | None,
    first: int,
    known: Known,
    z: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> _Marks:
    """Failing rows by check, judged from row `first` on. z: anomaly scores of volume and volatility."""
    n = len(bars)
    prices = [np.ascontiguousarray(getattr(bars, c), np.float64) for c in PRICE_COLUMNS]
    o, h, low, c = prices
    volume = np.ascontiguousarray(bars.volume, np.float64)
    times = np.ascontiguousarray(bars.close_time, np.int64)
    place, good, width, per_session = on_grid(bars, calendar)
    if known_until is not None:
        good = good & (bars.close_time <= known_until)
    failing = {**row_faults(bars, instrument.price_floor), "within_session": ~good}
    failing |= {check: np.zeros(n, bool) for check in ALL_CHECKS if check not in failing}
    notes: dict[int, dict[str, str]] = {}
    for row in np.flatnonzero(np.isin(times, list(known.accepted))).tolist() if known.accepted else ():
        said = known.accepted[int(times[row])]
        notes[row] = {check: said for check in VALIDITY_CHECKS if failing[check][row]}
        for check in VALIDITY_CHECKS:
            failing[check][row] = False
    explained = np.zeros(n, bool)
    for session, said in known.jumps.items():
        # The first bar of the ex session; without one, of the next session that has bars, or of its week.
        row = int(np.searchsorted(bars.session, session))
        if row < n:
            explained[row] = True
            notes.setdefault(row, {})["jump"] = said
    kernels.jumps(
        o, h, low, c, times, place, width, per_session, t.jump_window, t.jump_sigmas, t.jump_minimum, first, explained,
        failing["jump"],
    )  # fmt: skip
    if instrument.price_floor is PriceFloor.ANY:
        failing["jump"] |= _through_zero(o, h, low, c, first) & ~explained
    kernels.stale(o, h, low, c, t.stale_repeats, first, failing["stale_repeat"])
    if instrument.has_volume:
        kernels.loud(volume, t.volume_window, t.volume_ratio, first, failing["volume_sane"])
    severe = {}
    limits = ((t.volume_z_warn, t.volume_z_error), (t.volatility_z_warn, t.volatility_z_error))
    for check, score, (warn, error) in zip(("volume_anomaly", "volatility_anomaly"), z, limits, strict=True):
        with np.errstate(invalid="ignore"):
            if check == "volatility_anomaly" or instrument.has_volume:
                failing[check] = score > min(warn, error)
            severe[check] = failing[check] & (score > error)
    return _Marks(failing, severe, notes)


def _through_zero(
    o: NDArray[np.float64], h: NDArray[np.float64], low: NDArray[np.float64], c: NDArray[np.float64], first: int
) -> NDArray[np.bool_]:
    """bool (T,), rows from `first` on: a price lies on the other side of zero than the close before. No return measures such
    a step, so that a person has to look at it; prices that stay below zero are judged by the other rules."""
    crossed = np.zeros(len(c), bool)
    before = c[:-1] > 0
    crossed[1:] = (before & (np.minimum.reduce([o, h, low, c])[1:] <= 0)) | (
        ~before & (np.maximum.reduce([o, h, low, c])[1:] > 0)
    )
    crossed[:first] = False
    return crossed


def row_faults(bars: Bars, floor: PriceFloor = PriceFloor.POSITIVE) -> dict[str, NDArray[np.bool_]]:
    """Failing rows of the rules that need no calendar: columns_and_types, ohlc_consistent, positive_prices,
    monotonic_unique_times. floor: how low the instrument's prices may be."""
    n = len(bars)
    o, h, low, c = (np.ascontiguousarray(getattr(bars, name), np.float64) for name in PRICE_COLUMNS)
    volume = np.ascontiguousarray(bars.volume, np.float64)
    typed = np.isfinite(volume) & np.logical_and.reduce([np.isfinite(p) for p in (o, h, low, c)])
    with np.errstate(invalid="ignore"):
        typed &= volume >= 0
        consistent = (low <= o) & (o <= h) & (low <= c) & (c <= h)
        positive = floor.allows(np.minimum.reduce([o, h, low, c]))
    if not _types_right(bars):
        typed = np.zeros(n, bool)
    later = np.ones(n, bool)
    later[1:] = np.diff(bars.close_time) > 0
    return {
        "columns_and_types": ~typed,
        "ohlc_consistent": ~consistent,
        "positive_prices": ~positive,
        "monotonic_unique_times": ~later,
    }


def _types_right(bars: Bars) -> bool:
    floats = all(getattr(bars, c).dtype == np.float64 for c in (*PRICE_COLUMNS, "volume"))
    return floats and bars.close_time.dtype == np.int64 and bars.session.dtype == np.int32
