"""Both legs of a pair, or none."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, passed, present, refused
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("legs", 90)
class Legs:
    """Refuses a leg when another leg of its pair has no signal at this close, or one that a gate refused. A signal without
    legs passes."""

    code = RefusalCode.LEG_MISSING

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        symbol = look(snapshot, "signal.symbol", str)
        if not present(snapshot, "legs"):
            return passed("legs", "single", "")
        legs = look(snapshot, "legs", dict)
        for other in sorted(legs):
            state = legs[other]
            if state != "approved":
                said = str(state).split(":")[0] or "unknown"
                return refused("legs", said, "approved", self.code, symbol=symbol, leg=other, reason=state)
        return passed("legs", "approved", "approved")
