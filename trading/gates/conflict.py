"""Opposite signals on one instrument at one close: the policy says which may go on."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, passed, present, refused
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("conflict", 80)
class Conflict:
    """Refuses the signal that lost (trading.conflicts.resolve). A snapshot of a time before conflicts were looked for says
    nothing of them and passes; a trade run always says it."""

    code = RefusalCode.CONFLICT

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        symbol = look(snapshot, "signal.symbol", str)
        if not present(snapshot, "conflict"):
            return passed("conflict", "not asked", "")
        policy = look(snapshot, "conflict.policy", str)
        against = look(snapshot, "conflict.against", list)
        names = ",".join(str(name) for name in against) or "none"
        if look(snapshot, "conflict.lost", bool):
            return refused(
                "conflict", names, policy, self.code, symbol=symbol, against=names, policy=policy,
                why=look(snapshot, "conflict.why", str),
            )  # fmt: skip
        return passed("conflict", names, policy)
