"""Longs less shorts stay within a multiple of the equity."""

from __future__ import annotations

import math

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number, order_notional
from trading.signals import Intent


@RULES.register("net_exposure", 124)
class NetExposure:
    """Refuses an order after which |longs - shorts| would be above the limit, unless it brings that number down."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.max_net_leverage is None:
            return not_limited()
        most = state.equity * limits.max_net_leverage
        after = abs(sum(state.net_exposures(intent).values()))
        if math.isnan(after):
            return input_missing("max_net_leverage", "a price or an order's value", number(most))
        before = abs(sum(state.net_exposures(intent).values()) - intent.side.sign * order_notional(intent, state))
        if exceeds(after, most) and after > before:
            refusal = refuse(RefusalCode.NET_EXPOSURE, symbol=intent.symbol, would_be=number(after), limit=number(most))
            return Finding(number(after), number(most), refusal)
        return Finding(number(after), number(most))
