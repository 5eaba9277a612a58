"""Open trades that no price of a bar has touched: nothing at the broker can have changed them while the bar ran.

Their exits need not wait for what the bar did to other trades. Whatever is not known for certain counts as touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from desk.store import OrderRecord, PositionRecord
from desk.trades import OpenTrades
from resources.feeds.protocol import BarClose
from trading.orders import OrderState, OrderType, Side, TimeInForce
from trading.strategy import Evaluable, legs_of

_TINY = 1e-9


def is_untouched(position: PositionRecord, book: OpenTrades, evaluable: Evaluable | None, bars: Sequence[BarClose]) -> bool:
    """Is the position of one trade alone, and does everything that rests of this lie beyond all prices of `bars`, the closing
    ones of its instrument?"""
    if evaluable is None or not bars or legs_of(evaluable):
        return False
    if set(book.of(position)) != {position.trade_id}:
        return False
    if abs(book.of(position)[position.trade_id] - position.quantity) > _TINY * abs(position.quantity):
        return False
    orders = book.orders.get(position.trade_id, ())
    if any(o.content["meta"].get("algo") or o.state is OrderState.INITIALIZED for o in orders):
        return False
    return all(_beyond(order, bar) for order in orders if order.working for bar in bars)


def _beyond(order: OrderRecord, bar: BarClose) -> bool:
    """Is it a stop or a limit at work that the bar leaves as it is? A price that is no number is beyond nothing."""
    if order.state is not OrderState.ACCEPTED or order.content.get("time_in_force") != TimeInForce.GTC.value:
        return False
    prices = (bar.open, bar.high, bar.low, bar.close)
    if not all(map(math.isfinite, prices)) or bar.low > min(prices) or bar.high < max(prices):
        return False
    buys = order.side is Side.BUY
    if order.order_type is OrderType.STOP and order.stop_price is not None:
        return bar.high < order.stop_price if buys else bar.low > order.stop_price
    if order.order_type is OrderType.LIMIT and order.limit_price is not None:
        return bar.low > order.limit_price if buys else bar.high < order.limit_price
    return False
