"""Which file period a session belongs to.

Intraday datasets are kept by month, daily and weekly ones by year. The session being traded of a dataset up to 30m
is kept by itself (hot) until its final bars are written: a live append then rewrites one small file, and the months
stay few and large, so that a symbol's year is a dozen reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import pairwise

import numpy as np

from resources.lake.codec import Rows
from resources.lake.errors import LakeError
from trading.timeframes import Timeframe, session_date

HOT_FOLDER = "hot"
CONTENTS = ("bars", "quotes", "features")


@dataclass(frozen=True, slots=True)
class DatasetName:
    """``bars_1m``, ``quotes_1m`` or ``features_1d`` taken apart.

    hot: live sessions are kept in files of their own. history: what is replaced is kept aside. Features are not: they are
    computed again from the bars and the definition their version names.
    """

    name: str
    content: str
    timeframe: Timeframe

    @property
    def hot(self) -> bool:
        return self.content == "bars" and self.timeframe.minutes <= 30

    @property
    def history(self) -> bool:
        return self.content != "features"

    @property
    def yearly(self) -> bool:
        return not self.timeframe.intraday


@lru_cache(maxsize=64)
def parse_dataset(name: str) -> DatasetName:
    """Raises LakeError for anything but bars_, quotes_ or features_ and a timeframe."""
    content, _, timeframe = name.partition("_")
    try:
        if content in CONTENTS:
            return DatasetName(name, content, Timeframe(timeframe))
    except ValueError:
        pass
    raise LakeError(f"no dataset {name!r}: expected bars_, quotes_ or features_ and a timeframe such as 1m, 1h, 1d")


@lru_cache(maxsize=65536)
def period_of(session: int, yearly: bool) -> str:
    """``2014`` or ``2014-06``."""
    day = session_date(session)
    return f"{day.year:04d}" if yearly else f"{day.year:04d}-{day.month:02d}"


def hot_period(session: int) -> str:
    return session_date(session).isoformat()


def in_range(period: str, start: date | None, end: date | None) -> bool:
    """Could `period` (any prefix of an ISO date) hold sessions of [start, end]?"""
    n = len(period)
    return (start is None or period >= start.isoformat()[:n]) and (end is None or period <= end.isoformat()[:n])


def runs(sessions: np.ndarray) -> tuple[list[int], list[int]]:
    """(session numbers, starts with the row count at the end) of consecutive equal sessions."""
    if len(sessions) == 0:
        return [], [0]
    cuts = np.flatnonzero(sessions[1:] != sessions[:-1]) + 1
    return [int(sessions[0]), *sessions[cuts].tolist()], [0, *cuts.tolist(), len(sessions)]


def split(rows: Rows, yearly: bool) -> dict[str, Rows]:
    """Rows by period; they must ascend by session."""
    sessions, starts = runs(rows["session"])
    cuts: list[tuple[str, int]] = []
    for session, start in zip(sessions, starts, strict=False):
        period = period_of(session, yearly)
        if not cuts or cuts[-1][0] != period:
            cuts.append((period, start))
    bounds = [*cuts, ("", starts[-1])]
    return {a[0]: {name: column[a[1] : b[1]] for name, column in rows.items()} for a, b in pairwise(bounds)}
