"""Nothing new while the desk or the strategy is halted."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent


@RULES.register("halt", 10)
class Halt:
    """Refuses while any halt level is in force: REDUCE_ONLY, HALTED and FLATTEN all end new risk."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if state.halt_level not in ("", "none"):
            return Finding(state.halt_level, "none", refuse(RefusalCode.HALTED, scope="desk", level=state.halt_level))
        if intent.strategy in state.strategy_halted:
            return Finding("halted", "none", refuse(RefusalCode.HALTED, scope="strategy", strategy=intent.strategy))
        if f"instrument:{intent.symbol}" in state.strategy_halted:
            return Finding("halted", "none", refuse(RefusalCode.HALTED, scope="instrument", symbol=intent.symbol))
        return Finding("none", "none")
