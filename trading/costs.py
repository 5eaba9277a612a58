"""What trading costs: commission and slippage of one instrument or account, in names for people and codes for kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from trading import matching

COMMISSION_CODES: Final = {
    "per_share": matching.COMMISSION_PER_SHARE,
    "per_contract": matching.COMMISSION_PER_CONTRACT,
    "per_value": matching.COMMISSION_PER_VALUE,
}
SLIPPAGE_CODES: Final = {
    "none": matching.SLIPPAGE_NONE,
    "fixed": matching.SLIPPAGE_FIXED,
    "volume": matching.SLIPPAGE_VOLUME,
    "sqrt_volume": matching.SLIPPAGE_SQRT,
}


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a fill.

    commission_kind: per_share and per_contract (rate in currency per unit) or per_value (rate as a fraction of the
    traded value). minimum: currency per fill. slippage_kind: none, fixed (value in ticks), volume or sqrt_volume (value is
    the fraction of the price paid at full participation in the bar's volume; it shrinks with the participation, or with
    its square root). participation: largest share of a bar's volume that one order may fill, 0 = all of it at once.
    borrow: yearly rate paid on the value of shorts held overnight. Raises ValueError on an unknown kind, a negative number
    or a participation above 1.
    """

    commission_kind: str = "per_share"
    rate: float = 0.0
    minimum: float = 0.0
    slippage_kind: str = "none"
    value: float = 0.0
    participation: float = 0.0
    borrow: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("commission_kind", COMMISSION_CODES), ("slippage_kind", SLIPPAGE_CODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        for name in ("rate", "minimum", "value", "participation", "borrow"):
            number = getattr(self, name)
            if not math.isfinite(number) or number < 0:
                raise ValueError(f"{name} {number!r}: expected a finite number of at least 0")
        if self.participation > 1:
            raise ValueError(f"participation {self.participation!r}: expected a share of the bar's volume, at most 1")

    @property
    def commission_code(self) -> int:
        return COMMISSION_CODES[self.commission_kind]

    @property
    def slippage_code(self) -> int:
        return SLIPPAGE_CODES[self.slippage_kind]

    def commission(self, quantity: float, price: float, multiplier: float) -> float:
        """Commission of one fill (see trading.matching.commission)."""
        return float(matching.commission(abs(quantity), price, multiplier, self.commission_code, self.rate, self.minimum))

    def fillable(self, quantity: float, volume: float, lot: float) -> float:
        """How much of `quantity` one order may fill in a bar of `volume` (see trading.matching.fillable)."""
        return float(matching.fillable(abs(quantity), self.participation, volume, lot))

    def scaled(self, factor: float) -> Costs:
        """The same costs `factor` times as high: commission, minimum, slippage and borrow; the cap on volume stays."""
        return replace(
            self, rate=self.rate * factor, minimum=self.minimum * factor, value=self.value * factor, borrow=self.borrow * factor
        )

    def slipped(self, price: float, side: int, tick: float, quantity: float = 0.0, volume: float = 0.0) -> float:
        """Price of a market or stop fill after slippage (see trading.matching.with_slippage)."""
        return float(matching.with_slippage(price, side, self.slippage_code, self.value, tick, quantity, volume))

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Costs:
        """Costs of plain values; missing keys keep their default. Raises ValueError on an unknown key or value."""
        known = set(Costs.__slots__)
        unknown = set(data) - known
        if unknown:
            raise ValueError(f"unknown costs key {sorted(unknown)[0]!r}: expected one of {', '.join(sorted(known))}")
        return Costs(**data)
