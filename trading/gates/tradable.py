"""The instrument may be traded in the mode the strategy runs in."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, passed, refused
from trading.instruments import Mode
from trading.refusals import RefusalCode
from trading.signals import GateVerdict

_AS_IF = {Mode.SHADOW.value, Mode.ALERT.value}


@GATES.register("tradable", 50)
class Tradable:
    """Refuses an instrument whose tradable_in does not have the mode.

    Shadow and alert send nothing: they decide as if, wherever the instrument is tradable in paper or live.
    """

    code = RefusalCode.NOT_TRADABLE

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        mode = look(snapshot, "mode", str)
        allowed = look(snapshot, "instrument.tradable_in", list)
        symbol = look(snapshot, "signal.symbol", str)
        threshold = ",".join(str(m) for m in allowed) or "none"
        if look(snapshot, "instrument.symbol", str) != symbol:
            return refused("tradable", symbol, threshold, self.code, symbol=symbol, reason="another_instrument")
        wanted = {Mode.PAPER.value, Mode.LIVE.value} if mode in _AS_IF else {mode}
        if not wanted & {m for m in allowed if isinstance(m, str)}:
            return refused("tradable", mode, threshold, self.code, symbol=symbol, mode=mode, allowed=threshold)
        return passed("tradable", mode, threshold)
