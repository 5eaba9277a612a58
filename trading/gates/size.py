"""The sizing rule can say a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trading.gates.base import GATES, Missing, Snapshot, look, number, passed, present, refused
from trading.gates.model_drift import size_factor
from trading.refusals import RefusalCode
from trading.signals import GateVerdict
from trading.sizing import floor_to_lot, parse_sizing, raw_quantity
from trading.sizing_inputs import NoSize, resolve


def size_of(snapshot: Snapshot) -> dict[str, Any]:
    """What the signal's rule is at this bar: ``rule`` (a plain one), and where the account is known ``quantity`` (whole lots),
    ``risk`` (account currency lost when the stop is hit at its price) and ``equity``; else those are None. ``factor`` is there
    where only a part of what the rule says is taken.

    Raises Missing, NoSize, or ValueError on a malformed rule.
    """
    given = look(snapshot, "signal.sizing", dict)
    reference, stop = number(snapshot, "signal.reference_price"), number(snapshot, "signal.stop_price")
    measured = look(snapshot, "measured.sizing", dict) if present(snapshot, "measured.sizing") else {}
    evidence = look(snapshot, "sizing.evidence", dict) if present(snapshot, "sizing.evidence") else None
    rule = resolve(given, measured, evidence, reference, stop)
    kind, parameter = parse_sizing(rule)
    factor = size_factor(snapshot)
    found: dict[str, Any] = {"rule": rule, "quantity": None, "risk": None, "equity": None}
    if factor != 1.0:
        found["factor"] = factor
    account = _account(snapshot)
    if account is None:
        return found
    equity, rate = account
    multiplier = float(look(snapshot, "instrument.multiplier", str))
    lot = float(look(snapshot, "instrument.lot_size", str))
    quantity = float(floor_to_lot(raw_quantity(kind, parameter, equity, reference, stop, multiplier, rate) * factor, lot))
    return {**found, "quantity": quantity, "risk": quantity * abs(reference - stop) * multiplier * rate, "equity": equity}


def _account(snapshot: Snapshot) -> tuple[float, float] | None:
    """(equity, account currency per quote currency), None where either is not known."""
    try:
        equity = number(snapshot, "sizing.equity")
        own = look(snapshot, "sizing.currency", str) == look(snapshot, "instrument.currency", str)
    except Missing:
        return None
    return (equity, 1.0) if own else None


@GATES.register("size", 95)
class Size:
    """Refuses when an adaptive rule lacks what it is measured on, sees no edge, or the size is less than a lot. Without a
    known account the desk sizes alone, and refuses what is too small."""

    SINCE = 2
    code = RefusalCode.SIZE_ZERO

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        symbol = look(snapshot, "signal.symbol", str)
        kind = look(snapshot, "signal.sizing.kind", str)
        try:
            found: Mapping[str, Any] = size_of(snapshot)
        except NoSize as error:
            reason = str(error).replace(" ", "_")
            return refused("size", "none", kind, self.code, symbol=symbol, sizing=kind, reason=reason)
        except ValueError:
            return refused("size", "none", kind, RefusalCode.CONFIG_INVALID, symbol=symbol, sizing=kind)
        if found["quantity"] is None:
            return passed("size", "account not known here", kind)
        if found["quantity"] <= 0:
            equity = f"{found['equity']:.2f}"
            return refused("size", "0", "one lot", self.code, symbol=symbol, sizing=kind, equity=equity)
        return passed("size", f"{found['quantity']:.10g}", kind)
