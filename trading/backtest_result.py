"""What a backtest gives: trades, fills, orders, equity, exposures, refusals, figures; as arrays and as plain tables."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import engine_records as er
from trading import metrics, trade_metrics
from trading.bars import Bars
from trading.instruments import Instrument
from trading.matching import ORDER_TYPE_CODES
from trading.timeframes import iso

EXIT_REASONS = er.EXIT_REASONS
"""Why a trade ended, by engine code."""
VIEWER = "resources.backtest_view"
"""Module that draws results: plot(result), html(result, title, periods_per_year)."""
_TYPE_NAMES = {code: name for name, code in ORDER_TYPE_CODES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """N trades as columns, ascending by exit; open ones last, marked at their last close.

    slot: int64, index into symbols and strategies. quantity: signed. signal_time, entry_time, exit_time: int64 UTC us,
    close times of the bar that decided the entry, of the bar whose open or range filled it, of the bar that filled the
    exit. commission: of both fills; pnl: net of it, with dividends and borrow cost, in account currency. bars_held: closes
    seen, the exit bar counted when it ended inside it. reason: int64 codes into EXIT_REASONS. trade: int64, parts of one
    entry (several targets, partial fills, a roll) share it.
    """

    symbols: tuple[str, ...]
    strategies: tuple[str, ...]
    slot: NDArray[np.int64]
    quantity: NDArray[np.float64]
    signal_time: NDArray[np.int64]
    entry_time: NDArray[np.int64]
    exit_time: NDArray[np.int64]
    entry_price: NDArray[np.float64]
    exit_price: NDArray[np.float64]
    commission: NDArray[np.float64]
    pnl: NDArray[np.float64]
    bars_held: NDArray[np.int64]
    reason: NDArray[np.int64]
    trade: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def closed(self) -> NDArray[np.bool_]:
        """(N,): has the trade ended?"""
        return self.reason != er.OPEN

    def rows(self) -> list[dict[str, Any]]:
        """Trades as plain mappings for tables and reports, times as ISO text."""
        return [
            {
                "strategy": self.strategies[self.slot[i]],
                "symbol": self.symbols[self.slot[i]],
                "side": "long" if self.quantity[i] > 0 else "short",
                "quantity": abs(float(self.quantity[i])),
                "signal_time": iso(self.signal_time[i]),
                "entry_time": iso(self.entry_time[i]),
                "entry_price": float(self.entry_price[i]),
                "exit_time": iso(self.exit_time[i]),
                "exit_price": float(self.exit_price[i]),
                "reason": EXIT_REASONS[self.reason[i]],
                "bars_held": int(self.bars_held[i]),
                "commission": float(self.commission[i]),
                "pnl": float(self.pnl[i]),
            }
            for i in range(len(self))
        ]

    def round_trips(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(trade numbers, net P&L) of entries of which nothing is open any more, one value per entry: what win rates count."""
        numbers, where = np.unique(self.trade, return_inverse=True)
        pnl = np.asarray(np.bincount(where, weights=self.pnl, minlength=len(numbers)), np.float64)
        still_open = np.zeros(len(numbers), np.bool_)
        still_open[where[~self.closed]] = True
        return numbers[~still_open], pnl[~still_open]


@dataclass(frozen=True, slots=True, eq=False)
class BacktestResult:
    """What a backtest gives. close_time int64 (G,) and equity float64 (G,): one value per distinct bar close, cash plus
    positions marked at it. orders: orders that would have been sent, protective legs included. refusals: refused entry
    wishes by RefusalCode or gate name. ambiguous_bars: bars that reached both stop and target, decided for the stop.
    traded_value: sum of |quantity * price * multiplier| of all fills. margin_calls: closes at which the equity was below the
    maintenance margin; liquidations: positions ended by them. rolled_out: trades managed by a plan that a roll ended.
    borrow_paid, dividends: account currency, in the trades' P&L. Amounts are in account currency. slot_refusals: refusals by
    slot; empty where several slots went the short way. halts_made: what breakers latched and the operator lifted.
    """

    trades: Trades
    orders: int
    close_time: NDArray[np.int64]
    equity: NDArray[np.float64]
    cash: float
    refusals: dict[str, int]
    ambiguous_bars: int
    traded_value: float
    bars: int
    margin_calls: int = 0
    liquidations: int = 0
    rolled_out: int = 0
    borrow_paid: float = 0.0
    dividends: float = 0.0
    fills_made: er.Records | None = field(default=None, repr=False)
    orders_made: er.Records | None = field(default=None, repr=False)
    gross: NDArray[np.float64] | None = field(default=None, repr=False)
    net: NDArray[np.float64] | None = field(default=None, repr=False)
    slot_bars: tuple[Bars, ...] = field(default=(), repr=False)
    instruments: tuple[Instrument, ...] = field(default=(), repr=False)
    slot_refusals: tuple[Mapping[str, int], ...] = field(default=(), repr=False)
    halts_made: er.Records | None = None

    @property
    def returns(self) -> NDArray[np.float64]:
        """(G,): simple returns of the equity from value to value, the first against the starting cash."""
        return metrics.simple_returns(self.equity, self.cash)

    def metrics(self, periods_per_year: float | None = None) -> metrics.Metrics:
        """Figures of the run; periods_per_year: how many values of `equity` make a year (see trading.metrics); None: as many as
        the run had. Trades are counted by entry: the parts of one are one trade."""
        return metrics.measure(
            self.equity,
            self.cash,
            self.trades.pnl[self.trades.closed] if self.fills_made is None else self.trades.round_trips()[1],
            periods_per_year=metrics.per_year(self.close_time) if periods_per_year is None else periods_per_year,
            bars_held=self._bars_held(),
            bars_total=self.bars,
            traded_value=self.traded_value,
        )

    def _bars_held(self) -> int:
        """Bars with a position: of several parts of one entry, the one that was held longest."""
        if self.fills_made is None or not len(self.trades):
            return int(self.trades.bars_held.sum())
        _, where = np.unique(self.trades.trade, return_inverse=True)
        longest = np.zeros(int(where.max()) + 1, np.int64)
        np.maximum.at(longest, where, self.trades.bars_held)
        return int(longest.sum())

    def exposures(self) -> dict[str, NDArray[np.float64]]:
        """gross and net value of the positions at each close, float64 (G,), account currency."""
        if self.gross is not None and self.net is not None:
            return {"gross": self.gross, "net": self.net}
        gross, net = trade_metrics.exposures(self.trades, self.slot_bars, self.instruments, self.close_time)
        return {"gross": gross, "net": net}

    def excursions(self) -> trade_metrics.Excursions:
        """Best and worst open profit of each trade (see trading.trade_metrics)."""
        return trade_metrics.excursions(self.trades, self.slot_bars, self.instruments)

    def by_hour(self, timezone: str) -> dict[str, trade_metrics.TradeFigures]:
        """Figures of closed trades by hour of entry in `timezone`: {"09": ...}."""
        return trade_metrics.grouped(self.trades, trade_metrics.hours(self.trades.entry_time, timezone))

    def by_regime(self, times: NDArray[np.int64], regimes: Sequence[str]) -> dict[str, trade_metrics.TradeFigures]:
        """Figures of closed trades by the regime known when they were decided: regimes[i] from times[i] (UTC us) on."""
        return trade_metrics.grouped(self.trades, trade_metrics.labels_at(self.trades.signal_time, times, regimes))

    def fill_rows(self) -> list[dict[str, Any]]:
        """Every fill in the order of time, as plain mappings. leg: entry or the exit's reason."""
        t, f = self.trades, self.fills_made
        if f is None:
            f = trade_metrics.fills_of(t)
        return [
            {
                "time": iso(one["time"]), "trade": int(one["trade"]), "strategy": t.strategies[one["slot"]],
                "symbol": t.symbols[one["slot"]], "side": "buy" if one["quantity"] > 0 else "sell",
                "quantity": abs(float(one["quantity"])), "price": float(one["price"]), "commission": float(one["commission"]),
                "leg": "entry" if one["reason"] == er.ENTRY else EXIT_REASONS[one["reason"]],
            }
            for one in f
        ]  # fmt: skip

    def halt_rows(self) -> list[dict[str, Any]]:
        """Every breaker that tripped and every halt the operator lifted, in the order of time. scope: desk or the instrument;
        code: the breaker's, empty where it was lifted; level: what it did, ``resumed`` where it was lifted."""
        rows = self.halts_made if self.halts_made is not None else ()
        return [
            {
                "time": iso(h["time"]), "scope": "desk" if h["slot"] < 0 else self.trades.symbols[h["slot"]],
                "code": er.REFUSAL_NAMES[h["code"]] if h["level"] else "",
                "level": ("resumed", "reduce_only", "flatten")[h["level"]],
            }
            for h in rows
        ]  # fmt: skip

    def order_rows(self) -> list[dict[str, Any]]:
        """Entry orders and how they ended, as plain mappings; of the plain lane, those that filled. Exits are in fill_rows."""
        t, orders = self.trades, self.orders_made
        if orders is None:
            orders = trade_metrics.orders_of(t)
        return [
            {
                "time": iso(o["time"]), "done": iso(o["done_time"]) if o["done_time"] >= 0 else "",
                "strategy": t.strategies[o["slot"]], "symbol": t.symbols[o["slot"]],
                "side": "buy" if o["quantity"] > 0 else "sell", "type": _TYPE_NAMES[int(o["type"])],
                "quantity": abs(float(o["quantity"])), "filled": abs(float(o["filled"])), "end": er.ORDER_ENDS[o["end"]],
                "limit": _number(o["limit"]), "trigger": _number(o["trigger"]), "stop": _number(o["stop"]),
                "trail": _number(o["trail"]), "trade": int(o["trade"]),
            }
            for o in orders
        ]  # fmt: skip

    def plot(self) -> Any:
        """Equity, drawdown and exposure as a matplotlib figure, which a notebook shows (resources/backtest_view.py)."""
        return _viewer().plot(self)

    def html(self, title: str = "Backtest", periods_per_year: float | None = None) -> str:
        """One self-contained page: figures (see `metrics`), plots, trades, refusals (resources/backtest_view.py)."""
        page: str = _viewer().html(self, title, periods_per_year)
        return page

    def to_frames(self) -> dict[str, dict[str, Any]]:
        """Plain columns for data frames: trades, equity (with returns, drawdown and exposures), fills, orders, refusals."""
        exposures = self.exposures()
        equity = {
            "close_time": self.close_time, "equity": self.equity, "return": self.returns,
            "drawdown": metrics.drawdowns(self.equity, self.cash), **exposures,
        }  # fmt: skip
        return {
            "trades": _columns(self.trades.rows()), "equity": equity, "fills": _columns(self.fill_rows()),
            "orders": _columns(self.order_rows()),
            "refusals": {"code": list(self.refusals), "count": list(self.refusals.values())},
        }  # fmt: skip


def _viewer() -> Any:
    """Drawing lives where the libraries for it may be imported; it is looked up by name, so that this floor stays pure."""
    return importlib.import_module(VIEWER)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
