"""Which rows of a source may not enter the lake, and why. Nothing is repaired here, and nothing is dropped: a row that
fails is handed out with its reasons, for an operator to accept, repair or discard.

A row is put aside when it fails a rule on validity: a value that is not finite or a negative volume, OHLC out of order, a
price lower than the instrument's may be, a close that is no bar end inside its session (for sources that promise regular
hours), or a close_time that is not after the newest valid one before it. A row that repeats a close_time with the same
values is put aside alone; with other values both are: which of them is true is not for us to guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from trading import ids
from trading.bars import PRICE_COLUMNS, Bars
from trading.calendars import Calendar
from trading.instruments import PriceFloor
from trading.quality import row_faults
from trading.session_grid import on_grid

VALUES: Final = (*PRICE_COLUMNS, "volume")
ACCEPTABLE: Final = frozenset({"ohlc_consistent", "positive_prices", "monotonic_unique_times"})
"""Reasons an operator may set aside: the others name what cannot be stored or computed with."""


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """One row as the source gave it. session: number; close_time: UTC us.

    values: open, high, low, close, volume and what else the source tells, as text that reads back to the same float
    (``nan``, ``inf`` included). reasons: rules it failed. row: its place in the source's answer, no part of what it is.
    """

    close_time: int
    session: int
    values: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    row: int

    def id_of(self, feed: str, dataset: str, symbol: str) -> str:
        """Content id: the same row from the same source has it on every ingest, another row has another."""
        return ids.make_id("qr", feed, dataset, symbol, self.session, self.close_time, dict(self.values))

    def floats(self) -> dict[str, float]:
        """The values as floats."""
        return {name: float(text) for name, text in self.values}


def screen(
    bars: Bars, calendar: Calendar, *, regular_hours: bool = True, floor: PriceFloor = PriceFloor.POSITIVE
) -> tuple[Bars, list[InvalidRow]]:
    """(the valid rows, those put aside in the source's order). floor: how low the instrument's prices may be."""
    faults = row_faults(bars, floor)
    del faults["monotonic_unique_times"]
    if regular_hours:
        faults["within_session"] = ~on_grid(bars, calendar)[1]
    bad = np.logical_or.reduce(list(faults.values())) if len(bars) else np.zeros(0, bool)
    times = np.where(bad, np.iinfo(np.int64).min, bars.close_time)
    if not bad.any() and not (np.diff(bars.close_time) <= 0).any():
        return bars, []
    # Newest valid close before each row: one that is not after it is out of order or comes twice.
    newest = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(times)[:-1]])
    disorder = ~bad & (bars.close_time <= newest)
    first_at = {int(t): int(i) for i, t in reversed(list(enumerate(bars.close_time))) if not bad[i] and not disorder[i]}
    for i in np.flatnonzero(disorder).tolist():
        twin = first_at.get(int(bars.close_time[i]))
        if twin is not None and not _same(bars, i, twin):
            disorder[twin] = True
    faults["monotonic_unique_times"] = disorder
    aside = bad | disorder
    rows = [
        InvalidRow(
            int(bars.close_time[i]),
            int(bars.session[i]),
            tuple((name, repr(float(getattr(bars, name)[i]))) for name in (*VALUES, *bars.extras)),
            tuple(check for check, mask in faults.items() if mask[i]),
            i,
        )
        for i in np.flatnonzero(aside).tolist()
    ]
    return bars.rows(~aside), rows


def _same(bars: Bars, i: int, k: int) -> bool:
    return all(getattr(bars, name)[i] == getattr(bars, name)[k] for name in (*VALUES, *bars.extras))


def merged(bars: Bars, rows: Mapping[int, tuple[int, Mapping[str, float]]]) -> Bars:
    """`bars` with rows added in order of time: close_time -> (session, values), values of every column `bars` has.

    Raises ValueError for a close that is held already.
    """
    if not rows:
        return bars
    times = np.array(sorted(rows), np.int64)
    if np.isin(times, bars.close_time).any():
        raise ValueError(f"{bars.symbol} {bars.timeframe}: a row at that close_time is held already")
    columns: dict[str, Any] = {
        "close_time": np.concatenate([bars.close_time, times]),
        "session": np.concatenate([bars.session, np.array([rows[int(t)][0] for t in times], np.int32)]),
    }
    for name in (*VALUES, *bars.extras):
        columns[name] = np.concatenate([getattr(bars, name), np.array([rows[int(t)][1][name] for t in times], np.float64)])
    order = np.argsort(columns["close_time"], kind="stable")
    return Bars(bars.symbol, bars.timeframe, **{name: column[order] for name, column in columns.items()})
