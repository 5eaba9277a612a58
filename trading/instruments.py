"""What is traded: symbol, venue calendar, price grid, contract terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum

from trading.timeframes import Timeframe


class AssetClass(str, Enum):
    EQUITY = "equity"
    INDEX = "index"
    FOREX = "forex"
    FUTURE = "future"
    OPTION = "option"
    CRYPTO = "crypto"

    def __str__(self) -> str:
        return self.value


class Mode(str, Enum):
    """How a strategy runs: one code path, only the clock, the feed and the broker differ."""

    BACKTEST = "backtest"
    SHADOW = "shadow"
    ALERT = "alert"
    PAPER = "paper"
    LIVE = "live"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable (or only observed) thing of the universe.

    tick_size: price grid in quote currency; multiplier: currency per price point and unit of quantity;
    lot_size: smallest quantity step; feed: name of the feed that delivers its native bars; native_timeframe:
    the timeframe the feed delivers, higher ones are derived; tradable_in: modes in which orders are allowed.
    """

    symbol: str
    asset_class: AssetClass
    calendar: str
    tick_size: Decimal
    currency: str
    feed: str
    feed_symbol: str
    native_timeframe: Timeframe
    lot_size: Decimal = Decimal(1)
    multiplier: Decimal = Decimal(1)
    description: str = ""
    tradable_in: frozenset[Mode] = field(default_factory=frozenset)
    has_volume: bool = True
    broker_ids: tuple[tuple[str, str], ...] = ()

    @property
    def price_scale(self) -> int:
        """Decimal digits of the tick size, e.g. 5 for 0.00001."""
        exponent = self.tick_size.normalize().as_tuple().exponent
        return max(0, -int(exponent))

    def ticks(self, price: float) -> int:
        """`price` as a whole number of ticks, rounded half away from zero. The one place that does so."""
        quotient = Decimal(repr(float(price))) / self.tick_size
        return int(quotient.to_integral_value(rounding="ROUND_HALF_UP"))

    def round_price(self, price: float) -> float:
        """`price` on the tick grid."""
        return float(self.ticks(price) * self.tick_size)

    def round_quantity_down(self, quantity: float) -> float:
        """Largest lot multiple not above `quantity` (never more than risk allows)."""
        lots = (Decimal(repr(float(quantity))) / self.lot_size).to_integral_value(rounding="ROUND_FLOOR")
        return float(lots * self.lot_size)
