"""What a changed bars partition makes out of date: from (dataset, symbol, session) to what was computed from it.

- Bars of a higher timeframe derived from it: the same session's; for 1w the week's last session.
- Features of its timeframe and of those derived from it: every later session whose anchored window (trading.windows)
  contains the changed one, and the session itself. Earlier rows never saw it.

Sessions come as inclusive ranges of session numbers: which of them exist is the lake's to say. Sessions before the
changed one are never in a range, and no range is longer than the windows make it: nothing else has to be recomputed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from trading import windows
from trading.calendars import Calendar
from trading.resample import last_of_week
from trading.timeframes import Timeframe

Range = tuple[int, int]
"""First and last session number, both included."""

BARS, FEATURES = "bars_", "features_"


def derives(native: Timeframe, timeframe: Timeframe) -> bool:
    """Are bars of `timeframe` made of whole `native` bars?"""
    return timeframe.minutes > native.minutes and (not timeframe.intraday or timeframe.minutes % native.minutes == 0)


def derived_session(session: int, timeframe: Timeframe, calendar: Calendar) -> int:
    """Session the bars of `timeframe` made of bars of `session` belong to. Raises KeyError when the venue has none such."""
    at = calendar.position(session)
    if timeframe is not Timeframe.W1:
        return session
    return int(calendar.number[last_of_week(calendar)[at]])


def feature_range(session: int, timeframe: Timeframe, warm_up_bars: int, calendar: Calendar) -> Range:
    """Sessions whose features of `timeframe` are computed from bars of `session`: from it to the end of the last block
    whose anchored window begins at or before it."""
    last = session
    block = session
    while True:
        _, after = windows.block_bounds(block, timeframe)
        at = int(np.searchsorted(calendar.number, after, side="left"))
        last = max(last, int(calendar.number[at - 1])) if at else last
        if at == len(calendar.number):
            return session, last
        block = int(calendar.number[at])
        # Windows of later blocks never begin earlier: the first that begins later ends the range.
        if windows.window_start(block, timeframe, warm_up_bars, calendar) > session:
            return session, last


def dependents(
    dataset: str,
    sessions: Iterable[int],
    *,
    native: Timeframe,
    calendar: Calendar,
    timeframes: Collection[Timeframe],
    feature_timeframes: Collection[Timeframe],
    warm_up_bars: int,
) -> dict[str, list[Range]]:
    """Datasets out of date when bars of one symbol changed in `sessions` (numbers) of `dataset` (``bars_<timeframe>``).

    native: the symbol's native timeframe: only a change of its bars reaches other timeframes. timeframes: those the
    universe holds. feature_timeframes: those features are made of. Ranges are merged and ascend. Other datasets than
    bars have no dependents in the lake.
    """
    if not dataset.startswith(BARS):
        return {}
    changed = sorted({int(s) for s in sessions})
    own = Timeframe(dataset.removeprefix(BARS))
    made: dict[Timeframe, list[int]] = {own: changed}
    if own is native:
        for timeframe in timeframes:
            if derives(native, timeframe):
                made[timeframe] = [derived_session(s, timeframe, calendar) for s in changed]
    found: dict[str, list[Range]] = {}
    for timeframe, numbers in made.items():
        if timeframe is not own:
            found[f"{BARS}{timeframe}"] = merge([(n, n) for n in numbers])
        if timeframe in feature_timeframes:
            ranges = [feature_range(n, timeframe, warm_up_bars, calendar) for n in numbers]
            found[f"{FEATURES}{timeframe}"] = merge(ranges)
    return found


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The same sessions as ascending ranges that neither overlap nor touch."""
    out: list[Range] = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out
