"""The market moves enough, not too much, and can be traded: ATR, spread, volatility index, volume."""

from __future__ import annotations

from collections.abc import Iterator

from trading.gates.base import GATES, Snapshot, look, number, off, passed, present, refused, switched_on
from trading.refusals import RefusalCode
from trading.signals import GateVerdict

_BOUNDS = (
    ("atr", "min_percent", "atr_percent"), ("atr", "max_percent", "atr_percent"),
    ("spread", "max_percent", "spread_percent"), ("spread", "max_ticks", "spread_ticks"),
    ("vix", "min_level", "vix"), ("vix", "max_level", "vix"),
    ("volume", "min_ratio", "volume_ratio"), ("volume", "min_value", "traded_value"),
)  # fmt: skip
"""(part of the settings, its bound, what is held against it)."""


@GATES.register("volatility", 56)
class Volatility:
    """Refuses with the first measure that is outside its bound; value: every measure that has one."""

    SINCE = 2
    code = RefusalCode.VOLATILITY

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not switched_on(snapshot, "volatility"):
            return off("volatility")
        bounds = list(self._bounds(snapshot))
        measured = {name: number(snapshot, f"measured.volatility.{name}") for _, name, _ in bounds}
        value = " ".join(f"{name}={v:.4g}" for name, v in measured.items())
        threshold = " ".join(f"{name}{'>=' if bound.startswith('min') else '<='}{limit:g}" for bound, name, limit in bounds)
        for bound, name, limit in bounds:
            low = bound.startswith("min")
            if measured[name] < limit if low else measured[name] > limit:
                values = {name: f"{measured[name]:.4g}", "minimum" if low else "maximum": f"{limit:g}"}
                symbol = look(snapshot, "signal.symbol", str)
                return refused("volatility", value, threshold, self.code, symbol=symbol, **values)
        return passed("volatility", value, threshold)

    def _bounds(self, snapshot: Snapshot) -> Iterator[tuple[str, str, float]]:
        look(snapshot, "gates.volatility", dict)
        for part, bound, name in _BOUNDS:
            if present(snapshot, f"gates.volatility.{part}.{bound}"):
                yield bound, name, number(snapshot, f"gates.volatility.{part}.{bound}")
