"""What every gate is, and how it reads the snapshot: strictly, by path and kind, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from trading.refusals import RefusalCode, refuse
from trading.registry import Registry
from trading.signals import GateVerdict

Snapshot = Mapping[str, Any]


class Missing(Exception):
    """The snapshot does not have what a gate needs, at `path`, in the kind it needs."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Gate(Protocol):
    """One gate. code: what a missing field is refused with. Gates that came later state ``SINCE``, the schema of the first
    snapshots they judge: an older snapshot is decided as it was then, byte for byte."""

    code: RefusalCode

    def judge(self, snapshot: Snapshot) -> GateVerdict: ...


GATES: Registry[Gate] = Registry("trading.gates")


def since(gate: Gate) -> int:
    """Schema of the first snapshots that `gate` judges."""
    return int(getattr(gate, "SINCE", 1))


def switched_on(snapshot: Snapshot, name: str) -> bool:
    """Is the optional gate `name` on for this signal? Raises Missing when the snapshot does not say which gates are."""
    return name in look(snapshot, "gates", dict)


def off(gate: str) -> GateVerdict:
    """The verdict of a gate that is not switched on."""
    return passed(gate, "off", "")


def look(snapshot: Snapshot, path: str, kind: type) -> Any:
    """Value at dotted `path`. Raises Missing when it is absent, None, or not exactly of `kind` (True is no int)."""
    value: Any = snapshot
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise Missing(path)
        value = value[key]
    if type(value) is not kind:
        raise Missing(path)
    return value


def present(snapshot: Snapshot, path: str) -> bool:
    """Is there a value at `path`, None included?"""
    value: Any = snapshot
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def number(snapshot: Snapshot, path: str) -> float:
    """Finite number at `path`, int or float. Raises Missing."""
    try:
        value = float(look(snapshot, path, float))
    except Missing:
        value = float(look(snapshot, path, int))
    if not math.isfinite(value):
        raise Missing(path)
    return value


def passed(gate: str, value: object, threshold: object) -> GateVerdict:
    return GateVerdict(gate, True, str(value), str(threshold))


def refused(gate: str, value: object, threshold: object, code: RefusalCode, **values: object) -> GateVerdict:
    return GateVerdict(gate, False, str(value), str(threshold), str(refuse(code, **values)))
