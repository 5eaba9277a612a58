"""The world the signal's model was trained in is still there."""

from __future__ import annotations

from typing import Final

from trading.gates.base import GATES, Missing, Snapshot, look, number, off, passed, present, refused
from trading.limit_math import exceeds
from trading.refusals import RefusalCode
from trading.signals import GateVerdict
from trading.timeframes import US_PER_DAY, iso

GATE: Final = "model_drift"
ALERT: Final = "alert"
HALF_SIZE: Final = "half_size"
HALT: Final = "halt"
HALF: Final = 0.5
_NOT_LATER: Final = 4
"""Schema from which on a verdict on bars after the signal's close counts as none."""


def policy_of(snapshot: Snapshot) -> str:
    """What the model's file wants done when it has drifted; "" for a signal that no champion made. Raises Missing."""
    look(snapshot, "signal", dict)
    if not present(snapshot, "signal.model"):
        return ""
    if look(snapshot, "signal.model.role", str) == "challenger":
        return ""  # a record beside the champion's, never an order
    then = look(snapshot, f"gates.{GATE}.then", str)
    if then not in (ALERT, HALF_SIZE, HALT):
        raise Missing(f"gates.{GATE}.then")
    return then


def size_factor(snapshot: Snapshot) -> float:
    """What the size of the signal is multiplied by: a half where its model has drifted and its file says so. Raises Missing."""
    return HALF if policy_of(snapshot) == HALF_SIZE and look(snapshot, f"measured.{GATE}.drifted", bool) else 1.0


def _age(snapshot: Snapshot) -> int:
    """Time from the newest bar that was judged to the signal's close (us); below 0: what was seen only later. Raises Missing."""
    return int(look(snapshot, "signal.close_time", int) - look(snapshot, f"measured.{GATE}.judged_time", int))


def _later(snapshot: Snapshot) -> bool:
    return look(snapshot, "schema", int) >= _NOT_LATER and _age(snapshot) < 0


@GATES.register(GATE, 35)
class ModelDrift:
    """Refuses when the file says ``halt`` and the model has drifted; with ``half_size`` or ``halt`` also when no verdict on
    this very version is there, or it is too old, or it saw bars after the signal's close: what nobody had looked at by then is
    not traded."""

    SINCE = 3
    code = RefusalCode.MODEL_DRIFT

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        then = policy_of(snapshot)
        if not then:
            return off(GATE)
        if then == ALERT:
            known = present(snapshot, f"measured.{GATE}.drifted") and not _later(snapshot)
            drifted = known and look(snapshot, f"measured.{GATE}.drifted", bool)
            return passed(GATE, "drifted" if drifted else "not drifted" if known else "not judged", then)
        about = {"model": look(snapshot, "signal.model.name", str), "version": look(snapshot, "signal.model.version", str)}
        judged = look(snapshot, f"measured.{GATE}.version", str)
        drifted = look(snapshot, f"measured.{GATE}.drifted", bool)
        if judged != about["version"]:
            return refused(GATE, f"version {judged}", then, self.code, **about, reason="other_version", judged=judged)
        if _later(snapshot):
            at = iso(look(snapshot, f"measured.{GATE}.judged_time", int))
            return refused(GATE, f"judged {at}", then, self.code, **about, reason="judged_later", judged=at)
        days, most = _age(snapshot) / US_PER_DAY, number(snapshot, f"gates.{GATE}.max_age_days")
        if exceeds(days, most):
            return refused(GATE, f"{days:.1f} days old", then, self.code, **about, reason="expired", days=f"{days:.1f}")
        if drifted and then == HALT:
            return refused(GATE, "drifted", then, self.code, **about, reason="drifted")
        return passed(GATE, f"drifted: {HALF:g} of the size" if drifted else "not drifted", then)
