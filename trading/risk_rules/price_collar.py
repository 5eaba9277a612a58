"""An order's price must be near the last price: a mistyped or stale level is not sent."""

from __future__ import annotations

import math

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing, number, order_prices
from trading.signals import Intent


@RULES.register("price_collar", 60)
class PriceCollar:
    """Refuses when any price of the order is further than price_collar_percent from the last price."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.price_collar_percent is None:
            return limit_missing("price_collar_percent")
        last = state.last_price.get(intent.symbol, math.nan)
        threshold = f"{number(limits.price_collar_percent)}%"
        if not math.isfinite(last) or last == 0:
            return Finding("no price", threshold, refuse(RefusalCode.PRICE_MISSING, symbol=intent.symbol))
        furthest = max(order_prices(intent, state), key=lambda price: abs(price - last))
        distance = abs(furthest - last) / abs(last) * 100
        if exceeds(distance, limits.price_collar_percent):
            return Finding(
                f"{number(distance)}%", threshold,
                refuse(
                    RefusalCode.PRICE_COLLAR, symbol=intent.symbol, price=number(furthest), last=number(last), limit=threshold
                ),
            )  # fmt: skip
        return Finding(f"{number(distance)}%", threshold)
