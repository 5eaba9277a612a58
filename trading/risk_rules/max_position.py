"""One instrument's position has a limit, over all strategies and with the entries under way."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing, number, order_notional, tighter
from trading.signals import Intent


@RULES.register("max_position", 90)
class MaxPosition:
    """Refuses an order that would bring the instrument's gross value above max_position_notional."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        limit = tighter(limits.max_position_notional, limits.of(intent.strategy).max_position_notional)
        if limit is None:
            return limit_missing("max_position_notional")
        would_be = state.position_notional(intent.symbol) + order_notional(intent, state)
        if exceeds(would_be, limit):
            return Finding(
                number(would_be), number(limit),
                refuse(RefusalCode.MAX_POSITION, symbol=intent.symbol, would_be=number(would_be), limit=number(limit)),
            )  # fmt: skip
        return Finding(number(would_be), number(limit))
