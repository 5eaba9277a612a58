"""One order's quantity has a limit."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing, number, tighter
from trading.signals import Intent


@RULES.register("max_order_quantity", 70)
class MaxOrderQuantity:
    """Refuses an order of more than max_order_quantity units."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        limit = tighter(limits.max_order_quantity, limits.of(intent.strategy).max_order_quantity)
        if limit is None:
            return limit_missing("max_order_quantity")
        quantity = number(intent.quantity)
        if exceeds(intent.quantity, limit):
            refusal = refuse(RefusalCode.MAX_ORDER_QUANTITY, symbol=intent.symbol, quantity=quantity, limit=number(limit))
            return Finding(quantity, number(limit), refusal)
        return Finding(quantity, number(limit))
