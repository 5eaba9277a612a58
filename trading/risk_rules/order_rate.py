"""Not more than so many orders that add risk within a time."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number
from trading.signals import Intent


@RULES.register("order_rate", 128)
class OrdersPerTime:
    """Refuses the order that would be one too many in the time before it."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.order_rate is None:
            return not_limited()
        own = limits.order_rate
        threshold = f"{own.orders} in {number(own.seconds)} s"
        if state.order_times is None or state.now_time is None:
            return input_missing("order_rate", "times of the last orders", threshold)
        since = state.now_time - int(own.seconds * 1_000_000)
        recent = sum(time > since for time in state.order_times)
        if recent >= own.orders:
            return Finding(recent, threshold, refuse(RefusalCode.ORDER_RATE, orders=recent, limit=threshold.replace(" ", "_")))
        return Finding(recent, threshold)
