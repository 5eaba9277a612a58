"""Small bars, wishes and instruments for backtests that a person can follow."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.evaluation import Evaluation
from trading.instruments import AssetClass, Instrument, Mode
from trading.timeframes import US_PER_DAY, Timeframe

TEN = {"kind": "fixed", "quantity": 10}


def make(symbol: str = "X", kind: AssetClass = AssetClass.EQUITY, **changes: Any) -> Instrument:
    terms: dict[str, Any] = {"tick_size": "0.01", "lot_size": "1", "multiplier": "1", "calendar": "XNYS", "currency": "USD"}
    terms.update(changes)
    return Instrument(
        symbol, kind, terms["calendar"], Decimal(terms["tick_size"]), terms["currency"], "f", symbol, Timeframe.D1,
        lot_size=Decimal(terms["lot_size"]), multiplier=Decimal(terms["multiplier"]), tradable_in=frozenset({Mode.BACKTEST}),
        has_volume=terms.get("has_volume", True),
    )  # fmt: skip


def bars_of(text: str, symbol: str = "X", volume: float = 1000.0) -> Bars:
    """Daily bars from lines of ``open high low close [volume]``; one session each, a day apart."""
    rows = [[float(v) for v in line.split()] for line in text.strip().splitlines()]
    o, h, l, c = (np.array([row[k] for row in rows]) for k in range(4))  # noqa: E741
    traded = np.array([row[4] if len(row) > 4 else volume for row in rows])
    at = np.arange(1, len(rows) + 1, dtype=np.int64)
    return Bars(symbol, Timeframe.D1, at * US_PER_DAY, at.astype(np.int32), o, h, l, c, traded)


def wishes(bars: Bars, max_bars: int = 0, **columns: dict[int, Any]) -> Evaluation:
    """An evaluation that wishes nothing but what is given: enter_long={2: True}, stop_long={2: 95.0}, ..."""
    n = len(bars)
    values: dict[str, Any] = {}
    for name in ("enter_long", "enter_short", "exit_long", "exit_short"):
        values[name] = np.zeros(n, np.bool_)
    for name in ("stop_long", "stop_short", "target_long", "target_short"):
        values[name] = np.full(n, math.nan)
    for name, rows in columns.items():
        for row, value in rows.items():
            values[name][row] = value
    return Evaluation(
        bars.symbol, bars.timeframe, bars.close_time, np.ones(n, np.bool_), strength=np.ones(n), max_bars=max_bars, **values
    )


def run(bars: Bars, evaluation: Evaluation, **options: Any) -> BacktestResult:
    return backtest(evaluation, bars, options.pop("instrument", make()), **{"cash": 10_000.0, "sizing": TEN, **options})


def told(result: BacktestResult) -> list[tuple[int, str, float, float, str]]:
    """Fills as (day, side, quantity, price, leg)."""
    return [
        (int(date.fromisoformat(row["time"][:10]).toordinal() - date(1970, 1, 2).toordinal()), row["side"], row["quantity"],
         row["price"], row["leg"])
        for row in result.fill_rows()
    ]  # fmt: skip
