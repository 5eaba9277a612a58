"""Figures of single trades and of groups of them, with their formulas; and what a plain backtest's trades imply.

MFE and MAE (maximum favourable and adverse excursion): the largest profit and loss the open position showed, per unit and
in account currency without costs, from the bar of its entry to the bar of its exit:

    long:  MFE = max(high) - entry price,  MAE = entry price - min(low)      short: the mirror

The exit bar counts with the exit price only (its range after the exit is not the trade's), and an entry inside a bar
counts that whole bar: which part came after the entry is not known. Both are at least 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from trading import engine_records as er
from trading.bars import Bars
from trading.instruments import Instrument
from trading.metrics import TradeFigures, trade_figures
from trading.timeframes import from_us

if TYPE_CHECKING:
    from trading.backtest_result import Trades

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Excursions:
    """mfe, mae: float64 (N,), price units, at least 0. mfe_value, mae_value: times quantity and multiplier, quote currency."""

    mfe: Floats
    mae: Floats
    mfe_value: Floats
    mae_value: Floats


def excursions(trades: Trades, bars: Sequence[Bars], instruments: Sequence[Instrument]) -> Excursions:
    """MFE and MAE of each trade (see the module). bars, instruments: one per slot."""
    mfe, mae, unit = np.zeros(len(trades)), np.zeros(len(trades)), np.zeros(len(trades))
    for s in np.unique(trades.slot):
        rows = np.flatnonzero(trades.slot == s)
        b = bars[s]
        first = np.searchsorted(b.close_time, trades.entry_time[rows])
        last = np.searchsorted(b.close_time, trades.exit_time[rows])
        high, low = _range_before(b.high, first, last, np.fmax), _range_before(b.low, first, last, np.fmin)
        entry, leaving = trades.entry_price[rows], trades.exit_price[rows]
        high, low = np.fmax(high, leaving), np.fmin(low, leaving)
        long = trades.quantity[rows] > 0
        mfe[rows] = np.maximum(np.where(long, high - entry, entry - low), 0.0)
        mae[rows] = np.maximum(np.where(long, entry - low, high - entry), 0.0)
        unit[rows] = np.abs(trades.quantity[rows]) * float(instruments[s].multiplier)
    return Excursions(mfe, mae, mfe * unit, mae * unit)


def _range_before(column: Floats, first: NDArray[np.int64], last: NDArray[np.int64], extreme: np.ufunc) -> Floats:
    """Extreme of column[first:last] of each trade, NaN where that is empty."""
    out = np.full(len(first), np.nan)
    for i, (begin, end) in enumerate(zip(first, last, strict=True)):
        if begin < end:
            out[i] = extreme.reduce(column[begin:end])
    return out


def hours(times: NDArray[np.int64], timezone: str) -> list[str]:
    """Hour of the venue's wall clock of each time, "00" to "23"."""
    zone = ZoneInfo(timezone)
    return [f"{from_us(int(t)).astimezone(zone).hour:02d}" for t in times]


def labels_at(asked: NDArray[np.int64], times: NDArray[np.int64], labels: Sequence[str]) -> list[str]:
    """The newest label known at each asked time; "unknown" before the first. labels[i] holds from times[i] on."""
    if len(times) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(times)} times")
    row = np.searchsorted(times, asked, side="right") - 1
    return [labels[r] if r >= 0 else "unknown" for r in row]


def grouped(trades: Trades, labels: Sequence[str]) -> dict[str, TradeFigures]:
    """Figures of closed trades by label, one label per trade; parts of one entry count as one trade."""
    numbers, first, where = np.unique(trades.trade, return_index=True, return_inverse=True)
    pnl = np.bincount(where, weights=trades.pnl, minlength=len(numbers))
    closed = np.ones(len(numbers), np.bool_)
    closed[where[~trades.closed]] = False
    names = np.array([labels[i] for i in first], dtype=object)
    return {name: trade_figures(pnl[closed & (names == name)]) for name in sorted(set(names[closed]))}


def exposures(
    trades: Trades, bars: Sequence[Bars], instruments: Sequence[Instrument], times: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """(gross, net) value of the positions at each of `times`, from the trades of a plain run: units held times close."""
    gross, net = np.zeros(len(times)), np.zeros(len(times))
    for s in np.unique(trades.slot):
        rows = np.flatnonzero(trades.slot == s)
        b = bars[s]
        change = np.zeros(len(b) + 1)
        np.add.at(change, np.searchsorted(b.close_time, trades.entry_time[rows]), trades.quantity[rows])
        ended = rows[trades.closed[rows]]
        np.add.at(change, np.searchsorted(b.close_time, trades.exit_time[ended]), -trades.quantity[ended])
        held = np.cumsum(change[:-1])
        close = b.close
        if np.isnan(close).any():  # a bar without prices leaves the mark where it was
            known = np.maximum.accumulate(np.where(np.isnan(close), 0, np.arange(len(close))))
            close = close[known]
        value = np.where(held == 0, 0.0, held * close * float(instruments[s].multiplier))
        newest = np.searchsorted(b.close_time, times, side="right") - 1
        now = np.where(newest >= 0, value[np.maximum(newest, 0)], 0.0)
        gross += np.abs(now)
        net += now
    return gross, net


def fills_of(trades: Trades) -> er.Records:
    """FILL records of a plain run, by time: two of each closed trade. The commission of a trade is told half and half."""
    rows: list[tuple[Any, ...]] = []
    for i in range(len(trades)):
        fee = float(trades.commission[i])
        entry_fee = fee / 2 if trades.closed[i] else fee
        slot, number = int(trades.slot[i]), int(trades.trade[i])
        rows.append((slot, number, trades.entry_time[i], er.ENTRY, trades.quantity[i], trades.entry_price[i], entry_fee, 1.0))
        if trades.closed[i]:
            left, price = -trades.quantity[i], trades.exit_price[i]
            rows.append((slot, number, trades.exit_time[i], int(trades.reason[i]), left, price, fee - entry_fee, 1.0))
    rows.sort(key=lambda r: (r[2], r[0]))
    return np.array(rows, er.FILL)


def orders_of(trades: Trades) -> er.Records:
    """ORDER records of the entries of a plain run: all market orders that filled."""
    orders = np.zeros(len(trades), er.ORDER)
    orders["slot"], orders["trade"], orders["time"], orders["done_time"] = (
        trades.slot, trades.trade, trades.signal_time, trades.entry_time,
    )  # fmt: skip
    orders["end"], orders["quantity"], orders["filled"] = er.FILLED, trades.quantity, trades.quantity
    for name in ("limit", "trigger", "stop", "trail"):
        orders[name] = np.nan
    return orders[np.argsort(orders["time"], kind="stable")]
