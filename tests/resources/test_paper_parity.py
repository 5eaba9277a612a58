"""The paper broker's book and the backtest fill the same orders alike: every type, trailing stops, parts, gaps, both sides.

The book is driven as a careful desk would: entry with its legs at once, exits at market after its legs are taken back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.brokers.paper_book import Book
from resources.brokers.protocol import OrderRequest
from resources.feeds.protocol import BarClose
from tests.trading.backtest_kit import TEN, make, wishes
from trading.backtest import BacktestResult, OrderRules, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import Instrument
from trading.orders import OrderType, Side, TimeInForce
from trading.timeframes import US_PER_DAY, Timeframe

settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")
INSTRUMENT = make()
ENTRIES = {
    "market": OrderRules(),
    "limit": OrderRules(entry=OrderType.LIMIT, limit=0.3),
    "stop": OrderRules(entry=OrderType.STOP, trigger=0.3),
    "stop_limit": OrderRules(entry=OrderType.STOP_LIMIT, trigger=0.2, limit=0.1),
}
COSTS = (
    Costs(),
    Costs("per_share", 0.01, 1.0, "fixed", 1.0),
    Costs("per_value", 0.0001, 0.0, "sqrt_volume", 0.01, participation=0.05),
    Costs("per_share", 0.01, 0.0, "volume", 0.01, participation=0.02),
)


def market(seed: int, count: int) -> Bars:
    """A jumpy walk of daily bars: gaps, bars that hold both levels, bars without a trade."""
    dice = np.random.default_rng(seed)
    close = np.round(50 + np.cumsum(dice.normal(0, 0.4, count)), 2)
    open_ = np.round(np.concatenate(([50.0], close[:-1])) + dice.normal(0, 0.3, count), 2)
    high = np.round(np.maximum(open_, close) + np.abs(dice.normal(0, 0.3, count)), 2)
    low = np.round(np.minimum(open_, close) - np.abs(dice.normal(0, 0.3, count)), 2)
    at = np.arange(1, count + 1, dtype=np.int64)
    volume = np.where(dice.random(count) < 0.1, 0.0, dice.integers(50, 400, count)).astype(np.float64)
    return Bars("X", Timeframe.D1, at * US_PER_DAY, at.astype(np.int32), open_, high, low, close, volume)


def random_wishes(bars: Bars, seed: int) -> Evaluation:
    dice, n = np.random.default_rng(seed), len(bars)
    side, away = dice.integers(0, 4, n), np.round(dice.uniform(0.5, 1.2, n), 2)  # beyond any entry level
    exits = dice.random(n) < 0.15
    return replace(
        wishes(bars), enter_long=side == 0, enter_short=side == 1, exit_long=exits, exit_short=exits,
        stop_long=np.round(bars.close - away, 2), stop_short=np.round(bars.close + away, 2),
        target_long=np.round(bars.close + 1.5 * away, 2), target_short=np.round(bars.close - 1.5 * away, 2),
    )  # fmt: skip


def on_paper(
    bars: Bars, evaluation: Evaluation, rules: OrderRules, costs: Costs, *, instrument: Instrument = INSTRUMENT,
    step: int = US_PER_DAY, cash: float = 10_000.0,
) -> tuple[list[tuple[Any, ...]], list[float]]:  # fmt: skip
    """The same wishes through the paper broker's book. step: length of a bar, us. Returns fills (signed quantity, price,
    commission) and the equity at each close."""
    book, equity, current, number, symbol = Book("USD", cash), [], "", 0, instrument.symbol
    for i in range(len(bars)):
        o, h, l, c, v = (float(getattr(bars, n)[i]) for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
        now = int(bars.close_time[i])
        book.match(BarClose(symbol, bars.timeframe, now, int(bars.session[i]), o, h, l, c, v), now - step, instrument, costs)
        position = book.positions[symbol]
        equity.append(book.cash + position.quantity * position.last_price * float(instrument.multiplier))
        held = position.quantity
        pending = bool(current) and book.orders[current].working
        leaving = any(k.startswith("exit") and o_.working for k, o_ in book.orders.items())
        stopped = any(o_.reached and o_.working and o_.request.reduce_only for o_ in book.orders.values())
        if held and (evaluation.exit_long if held > 0 else evaluation.exit_short)[i] and not leaving and not stopped:
            for order in list(book.orders.values()):
                if order.working:
                    book.cancel(order, now, "exit")
            side = Side.SELL if held > 0 else Side.BUY
            request = OrderRequest(
                f"exit{i}", symbol, side, abs(held), OrderType.MARKET, TimeInForce.GTC, oco_group=f"g{number}", reduce_only=True
            )
            book.accept(request, f"B{request.client_id}", now)
            continue
        long, short = bool(evaluation.enter_long[i]), bool(evaluation.enter_short[i])
        if long == short or held or pending or leaving:
            continue
        number += 1
        current = f"entry{number}"
        for request in bracket(current, bars, evaluation, rules, i, 1 if long else -1, number):
            book.accept(request, f"B{request.client_id}", now)
    made = [e.execution for e in book.events if e.execution is not None]
    return [(x.quantity * x.side.sign, round(x.price, 6), round(x.commission, 6)) for x in made], equity


def bracket(
    name: str, bars: Bars, evaluation: Evaluation, rules: OrderRules, i: int, side: int, number: int
) -> list[OrderRequest]:  # fmt: skip
    entry, out = (Side.BUY, Side.SELL) if side > 0 else (Side.SELL, Side.BUY)
    close = float(bars.close[i])
    trigger = round(close + side * rules.trigger, 2) if isinstance(rules.trigger, float) else None
    limit = None
    if isinstance(rules.limit, float):
        limit = round(trigger + side * rules.limit, 2) if trigger is not None else round(close - side * rules.limit, 2)
    stop = float((evaluation.stop_long if side > 0 else evaluation.stop_short)[i])
    target = float((evaluation.target_long if side > 0 else evaluation.target_short)[i])
    shared: dict[str, Any] = {"parent_client_id": name, "oco_group": f"g{number}", "reduce_only": True}
    trail = rules.trail if isinstance(rules.trail, float) else None
    kind = OrderType.STOP if trail is None else OrderType.TRAILING_STOP
    return [
        OrderRequest(name, bars.symbol, entry, 10.0, rules.entry, TimeInForce.GTC, limit, trigger),
        OrderRequest(f"{name}s", bars.symbol, out, 10.0, kind, TimeInForce.GTC, None, stop, trail=trail, **shared),
        OrderRequest(f"{name}t", bars.symbol, out, 10.0, OrderType.LIMIT, TimeInForce.GTC, target, None, **shared),
    ]


def in_backtest(bars: Bars, evaluation: Evaluation, rules: OrderRules, costs: Costs) -> BacktestResult:
    return backtest(
        evaluation, bars, INSTRUMENT, cash=10_000.0, sizing=TEN, costs=costs, orders=rules, require_stop=True, detail=True
    )


@settings(max_examples=80)
@given(
    st.integers(0, 2**31), st.sampled_from(sorted(ENTRIES)), st.sampled_from(COSTS), st.sampled_from([None, 0.5]),
)  # fmt: skip
def test_book_and_backtest_fill_alike(seed: int, entry: str, costs: Costs, trail: float | None) -> None:
    bars = market(seed, 60)
    rules = replace(ENTRIES[entry], trail=trail)
    evaluation = random_wishes(bars, seed + 1)
    result = in_backtest(bars, evaluation, rules, costs)
    fills, equity = on_paper(bars, evaluation, rules, costs)
    assert result.fills_made is not None
    told = [(float(f["quantity"]), round(float(f["price"]), 6), round(float(f["commission"]), 6)) for f in result.fills_made]
    assert fills == told
    np.testing.assert_allclose(equity, result.equity, atol=1e-6)


def test_the_comparison_meets_what_it_is_about() -> None:
    """Over a few seeds: parts of entries, parts of stops, trailing exits, targets and rule exits all occur."""
    seen: set[str] = set()
    for seed in range(12):
        bars = market(seed, 60)
        result = in_backtest(bars, random_wishes(bars, seed + 1), OrderRules(trail=0.5), COSTS[3])
        fills = result.fill_rows()
        for trade in {f["trade"] for f in fills}:
            legs = [f["leg"] for f in fills if f["trade"] == trade]
            seen |= {leg for leg in legs} | {f"{leg} in parts" for leg in legs if legs.count(leg) > 1}
    assert {"entry in parts", "stop in parts", "stop", "target", "rule"} <= seen
