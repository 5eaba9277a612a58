"""The desk's order path and the backtest make the same trades, at the same prices, from the same wishes and bars."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sqlalchemy import Engine, text

from resources.feeds.protocol import BarClose
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, Desk, bar, hour
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.limits import DailyLoss
from trading.signals import Action
from trading.timeframes import Timeframe

HOURS = 36
COSTS = Costs("per_value", 0.00002, 0.1, "fixed", 1)
SIZING = {"kind": "risk_percent", "percent": 0.05}
SLOTS = (("trend", "EURUSD"), ("revert", "GBPUSD"))
WIDE = LIMITS.model_copy(
    update={"max_order_quantity": 1e9, "max_notional": 1e9, "max_position_notional": 1e9, "daily_loss": DailyLoss(amount=1e9)}
)


def random_bars(symbol: str) -> list[BarClose]:
    """HOURS + 1 bars of a jumpy random walk: stops, targets, gaps and bars that hold both are all there."""
    dice, price, made = random.Random(f"parity {symbol}"), 12_000, []
    for n in range(HOURS + 1):
        opened = price + dice.randint(-12, 12)
        price = opened + dice.randint(-20, 20)
        high, low = max(opened, price) + dice.randint(0, 25), min(opened, price) - dice.randint(0, 25)
        made.append(bar(symbol, n, opened / 10_000, high / 10_000, low / 10_000, price / 10_000))
    return made


def as_arrays(bars: list[BarClose]) -> Bars:
    def column(name: str, kind: type) -> np.ndarray:
        return np.array([getattr(b, name) for b in bars], kind)

    prices = (column(name, np.float64) for name in ("open", "high", "low", "close", "volume"))
    return Bars(bars[0].symbol, Timeframe.H1, column("close_time", np.int64), column("session", np.int32), *prices)


def wishes(symbol: str, bars: Bars) -> Evaluation:
    """Random entries with stop and target around the close, random exits."""
    dice, size = np.random.default_rng(sum(map(ord, symbol))), len(bars)
    side = dice.integers(0, 4, size)  # long, short, nothing, nothing
    exits = dice.random(size) < 0.1
    away = np.round(dice.integers(8, 30, size) / 10_000, 4)
    stop_long, target_long = np.round(bars.close - away, 4), np.round(bars.close + 2 * away, 4)
    stop_short, target_short = np.round(bars.close + away, 4), np.round(bars.close - 2 * away, 4)
    return Evaluation(
        symbol, Timeframe.H1, bars.close_time, np.ones(size, bool), side == 0, side == 1, exits, exits, stop_long, stop_short,
        target_long, target_short, np.ones(size),
    )  # fmt: skip


def live(desk: Desk, bars: dict[str, list[BarClose]], evaluations: dict[str, Evaluation]) -> list[float]:
    """The same wishes through router and paper broker. Returns the equity at each close."""
    equity = []
    for n in range(HOURS + 1):
        desk.close(n, *(bars[symbol][n] for _, symbol in SLOTS))
        equity.append(desk.broker.account().equity)
        for strategy, symbol in SLOTS:
            wish, held = evaluations[symbol], desk.position(strategy, symbol)
            if held and wish.exit_long[n]:
                desk.router.exit_position(strategy, symbol, "rule", hour(n))
        for strategy, symbol in SLOTS:
            wish = evaluations[symbol]
            if wish.enter_long[n] or wish.enter_short[n]:
                is_long = bool(wish.enter_long[n])
                desk.submit(
                    n, strategy, symbol, Action.ENTER_LONG if is_long else Action.ENTER_SHORT,
                    reference=float(bars[symbol][n].close),
                    stop=float((wish.stop_long if is_long else wish.stop_short)[n]),
                    target=float((wish.target_long if is_long else wish.target_short)[n]), sizing=SIZING,
                )  # fmt: skip
    return equity


def test_desk_and_backtest_make_the_same_trades(ledger_engine: Engine) -> None:
    bars = {symbol: random_bars(symbol) for _, symbol in SLOTS}
    arrays = {symbol: as_arrays(made) for symbol, made in bars.items()}
    evaluations = {symbol: wishes(symbol, arrays[symbol]) for _, symbol in SLOTS}
    symbols = [symbol for _, symbol in SLOTS]
    expected: BacktestResult = backtest(
        [evaluations[s] for s in symbols], [arrays[s] for s in symbols], [INSTRUMENTS[s] for s in symbols], cash=CASH,
        sizing=SIZING, costs=COSTS, limits=WIDE, strategy=[s for s, _ in SLOTS], require_stop=True,
    )  # fmt: skip
    desk = Desk(ledger_engine, costs=COSTS).open()
    desk.config.limits = WIDE
    equity = live(desk, bars, evaluations)

    query = """
        SELECT e.strategy, e.quantity AS quantity, e.side AS side, e.price AS entry, x.price AS exit
          FROM fills e JOIN fills x ON x.trade_id = e.trade_id AND x.side <> e.side
         WHERE e.order_id = e.trade_id ORDER BY e.strategy, e.fill_time, x.fill_time"""
    with ledger_engine.connect() as connection:
        made = [
            (r.strategy, r.quantity if r.side == "buy" else -r.quantity, round(r.entry, 6), round(r.exit, 6))
            for r in connection.execute(text(query))
        ]
    trades = expected.trades
    closed = np.flatnonzero(trades.closed)
    told = [
        (SLOTS[trades.slot[i]][0], trades.quantity[i], round(trades.entry_price[i], 6), round(trades.exit_price[i], 6), i)
        for i in closed
    ]
    told.sort(key=lambda row: (row[0], trades.entry_time[row[4]], trades.exit_time[row[4]]))
    assert len(made) > 10
    assert made == [row[:4] for row in told]
    assert equity == pytest.approx(list(expected.equity), abs=1e-6)
