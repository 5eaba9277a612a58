"""The instrument may be traded in this mode, and the mode sends orders."""

from __future__ import annotations

from trading.instruments import Instrument, Mode
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent


@RULES.register("tradable", 40)
class Tradable:
    """Refuses modes that send no orders, or not to the broker there is, instruments that are only observed, and an intent for
    another instrument."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        allowed = ",".join(sorted(m.value for m in instrument.tradable_in)) or "none"
        if state.mode in (Mode.SHADOW, Mode.ALERT):
            return Finding(state.mode, "paper,live", refuse(RefusalCode.MODE, mode=state.mode))
        if state.barred is not None:
            return Finding(state.mode, "paper,live", state.barred)
        if intent.symbol != instrument.symbol:
            return Finding(
                instrument.symbol, intent.symbol,
                refuse(RefusalCode.NOT_TRADABLE, symbol=intent.symbol, instrument=instrument.symbol),
            )  # fmt: skip
        if state.mode not in instrument.tradable_in:
            return Finding(
                state.mode, allowed, refuse(RefusalCode.NOT_TRADABLE, symbol=intent.symbol, mode=state.mode, allowed=allowed)
            )
        return Finding(state.mode, allowed)
