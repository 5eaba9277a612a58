"""One position per strategy and instrument."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent


@RULES.register("position_open", 110)
class PositionOpen:
    """Refuses an entry while the strategy holds or is entering the instrument."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        key = (intent.strategy, intent.symbol)
        if key in state.slicing:
            return Finding("slices of this entry", "flat")
        if key in state.pending_entries:
            refusal = refuse(RefusalCode.POSITION_OPEN, strategy=intent.strategy, symbol=intent.symbol, state="entering")
            return Finding("entering", "flat", refusal)
        quantity = state.positions.get(key, 0.0)
        if quantity != 0.0:
            refusal = refuse(RefusalCode.POSITION_OPEN, strategy=intent.strategy, symbol=intent.symbol, quantity=f"{quantity:g}")
            return Finding(f"{quantity:g}", "flat", refusal)
        return Finding("flat", "flat")
