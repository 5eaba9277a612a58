"""The market is in a regime the strategy enters in."""

from __future__ import annotations

from trading.gates.base import GATES, Missing, Snapshot, look, off, passed, refused, switched_on
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("regime", 52)
class RegimeIs:
    """Refuses a regime that is not allowed, by the rules, by the hidden Markov model (filtered), or by either of both."""

    SINCE = 2
    code = RefusalCode.REGIME

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not switched_on(snapshot, "regime"):
            return off("regime")
        allowed = [str(name) for name in look(snapshot, "gates.regime.allowed", list)]
        by = look(snapshot, "gates.regime.by", str)
        models = ("rules", "markov") if by == "both" else (by,)
        if not set(models) <= {"rules", "markov"}:
            raise Missing("gates.regime.by")
        found = {model: look(snapshot, f"measured.regime.{model}", str) for model in models}
        value = " ".join(f"{model}={name}" for model, name in found.items())
        threshold = ",".join(allowed)
        for model, name in found.items():
            if name not in allowed:
                symbol = look(snapshot, "signal.symbol", str)
                return refused(
                    "regime", value, threshold, self.code, symbol=symbol, regime=name, by=model, allowed=threshold
                )  # fmt: skip
        return passed("regime", value, threshold)
