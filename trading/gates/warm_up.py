"""Enough bars for the strategy's indicators."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, passed, refused
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("warm_up", 30)
class WarmUp:
    """Refuses while any input is still warming up."""

    code = RefusalCode.WARM_UP

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not look(snapshot, "warm", bool):
            return refused("warm_up", "warming up", "warm", self.code, symbol=look(snapshot, "signal.symbol", str))
        return passed("warm_up", "warm", "warm")
