"""Enough of the timeframes agree."""

from __future__ import annotations

from trading.gates.base import GATES, Snapshot, look, number, off, passed, refused, switched_on
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("confluence", 54)
class ConfluenceOf:
    """Refuses a score below the least one; value: the score and every part's share of it."""

    SINCE = 2
    code = RefusalCode.CONFLUENCE

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not switched_on(snapshot, "confluence"):
            return off("confluence")
        least = number(snapshot, "gates.confluence.at_least")
        score = number(snapshot, "measured.confluence.score")
        parts = look(snapshot, "measured.confluence.parts", dict)
        # Part names are people's text and may hold dots: each is read by itself, not by a path.
        shares = {name: number({"share": share}, "share") for name, share in sorted(parts.items())}
        value = f"{score:.4g} (" + ", ".join(f"{name} {share:.3g}" for name, share in shares.items()) + ")"
        if score < least - 1e-9:
            missing = ",".join(name.replace(" ", "_") for name, share in shares.items() if not share > 0) or "none"
            symbol = look(snapshot, "signal.symbol", str)
            return refused(
                "confluence", value, f"{least:g}", self.code, symbol=symbol, score=f"{score:.4g}", minimum=f"{least:g}",
                missing=missing,
            )  # fmt: skip
        return passed("confluence", value, f"{least:g}")
