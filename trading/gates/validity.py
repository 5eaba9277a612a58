"""The signal is a signal, and not older than its validity."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, passed, refused
from trading.refusals import RefusalCode
from trading.signals import GateVerdict, Signal
from trading.timeframes import iso


@GATES.register("validity", 10)
class Validity:
    """Refuses after valid_until, before the bar closed (a clock that is wrong), and what does not carry its own id."""

    code = RefusalCode.EXPIRED

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        now = look(snapshot, "now_time", int)
        until = look(snapshot, "signal.valid_until", int)
        close = look(snapshot, "signal.close_time", int)
        look(snapshot, "signal.id", str)
        try:
            Signal.from_dict(look(snapshot, "signal", dict))
        except (KeyError, TypeError, ValueError):
            return refused("validity", "malformed", "a signal with the id of its content", self.code, reason="malformed_signal")
        if now > until:
            return refused("validity", iso(now), iso(until), self.code, now=iso(now), valid_until=iso(until))
        if now < close:
            return refused("validity", iso(now), iso(close), self.code, reason="before_close", now=iso(now), close=iso(close))
        return passed("validity", iso(now), iso(until))
