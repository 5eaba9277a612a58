"""The venue can fill an order."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, passed, refused
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("session", 40)
class Session:
    """Refuses when the snapshot says that the venue is closed to the order."""

    code = RefusalCode.SESSION_CLOSED

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not look(snapshot, "session_open", bool):
            return refused("session", "closed", "open", self.code, symbol=look(snapshot, "signal.symbol", str))
        return passed("session", "open", "open")
