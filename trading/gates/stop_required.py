"""No entry without a protective stop on the right side of the price."""

from __future__ import annotations

from trading.gates.base import GATES, Missing, Snapshot, look, number, passed, refused
from trading.refusals import RefusalCode
from trading.signals import Action, GateVerdict


def direction(snapshot: Snapshot) -> int:
    """+1 for a long entry, -1 for a short one. Raises Missing for anything else."""
    action = look(snapshot, "signal.action", str)
    if action not in (Action.ENTER_LONG.value, Action.ENTER_SHORT.value):
        raise Missing("signal.action")
    return 1 if action == Action.ENTER_LONG.value else -1


@GATES.register("stop_required", 60)
class StopRequired:
    """Refuses a stop that is missing, or not below the price of a long (above that of a short)."""

    code = RefusalCode.STOP_REQUIRED

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        side = direction(snapshot)
        stop = number(snapshot, "signal.stop_price")
        reference = number(snapshot, "signal.reference_price")
        threshold = f"{'below' if side > 0 else 'above'} {reference:.10g}"
        if (reference - stop) * side <= 0:
            return refused("stop_required", f"{stop:.10g}", threshold, self.code, stop=f"{stop:.10g}", price=f"{reference:.10g}")
        return passed("stop_required", f"{stop:.10g}", threshold)
