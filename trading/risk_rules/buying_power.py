"""Gross exposure stays within the equity times its leverage."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limit_math import leverage_exceeded
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing, number, order_notional
from trading.signals import Intent


@RULES.register("buying_power", 130)
class BuyingPower:
    """Refuses an order that would bring gross exposure above max_gross_leverage times the equity."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.max_gross_leverage is None:
            return limit_missing("max_gross_leverage")
        would_be = state.gross_exposure() + order_notional(intent, state)
        most = state.equity * limits.max_gross_leverage
        if leverage_exceeded(would_be, state.equity, limits.max_gross_leverage):
            refusal = refuse(RefusalCode.BUYING_POWER, symbol=intent.symbol, exposure=number(would_be), limit=number(most))
            return Finding(number(would_be), number(most), refusal)
        return Finding(number(would_be), number(most))
