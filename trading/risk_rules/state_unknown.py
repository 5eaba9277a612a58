"""No new risk on an instrument whose orders we cannot vouch for."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent


@RULES.register("state_unknown", 20)
class StateUnknown:
    """Refuses while an order of the instrument is UNKNOWN: it may be working or filled."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if intent.symbol in state.unknown_symbols:
            return Finding("unknown", "known", refuse(RefusalCode.STATE_UNKNOWN, symbol=intent.symbol))
        return Finding("known", "known")
