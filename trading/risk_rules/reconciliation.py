"""No new risk on an instrument on which ledger and broker disagree."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent


@RULES.register("reconciliation", 25)
class Reconciliation:
    """Refuses until the difference is resolved by evidence."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if intent.symbol in state.mismatch_symbols:
            return Finding("differs", "agrees", refuse(RefusalCode.RECONCILIATION, symbol=intent.symbol))
        return Finding("agrees", "agrees")
