"""The account can afford one more risk."""

from __future__ import annotations

from trading.gates.base import GATES, Missing, Snapshot, look, number, off, passed, refused, switched_on
from trading.gates.size import size_of
from trading.limit_math import exceeds
from trading.refusals import RefusalCode
from trading.signals import GateVerdict
from trading.sizing_inputs import NoSize


@GATES.register("budget", 97)
class PortfolioBudget:
    """Refuses when the risk of open positions, working entries, what was accepted before at the same close, and this entry
    would be above its share of the equity. Risk: what is lost from the price now to the stop; a position without a stop
    counts whole."""

    SINCE = 2
    code = RefusalCode.RISK_BUDGET

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not switched_on(snapshot, "budget"):
            return off("budget")
        percent = number(snapshot, "gates.budget.percent")
        taken = {name: number(snapshot, f"measured.budget.{name}") for name in ("open", "working", "accepted")}
        try:
            size = size_of(snapshot)
        except (NoSize, ValueError):
            raise Missing("sizing") from None
        if size["risk"] is None:
            raise Missing("sizing.equity")
        equity, total = size["equity"], sum(taken.values()) + size["risk"]
        value = f"{100 * total / equity:.4g}%" if equity > 0 else "no equity"
        if not equity > 0 or exceeds(total, equity * percent / 100.0):
            parts = {name: f"{amount:.2f}" for name, amount in taken.items()}
            symbol = look(snapshot, "signal.symbol", str)
            return refused(
                "budget", value, f"{percent:g}%", self.code, symbol=symbol, **parts, this=f"{size['risk']:.2f}",
                limit=f"{equity * percent / 100.0:.2f}",
            )  # fmt: skip
        return passed("budget", value, f"{percent:g}%")
