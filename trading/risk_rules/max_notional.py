"""One order's value has a limit."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing, number, order_notional, tighter
from trading.signals import Intent


@RULES.register("max_notional", 80)
class MaxNotional:
    """Refuses an order whose value at the least favourable of its prices is above max_notional."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        limit = tighter(limits.max_notional, limits.of(intent.strategy).max_notional)
        if limit is None:
            return limit_missing("max_notional")
        value = order_notional(intent, state)
        if exceeds(value, limit):
            return Finding(
                number(value), number(limit),
                refuse(RefusalCode.MAX_NOTIONAL, symbol=intent.symbol, notional=number(value), limit=number(limit)),
            )  # fmt: skip
        return Finding(number(value), number(limit))
