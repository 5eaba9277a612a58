"""What is traded: symbol, venue calendar, price grid, contract terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum

import numpy as np
from numpy.typing import NDArray

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


class RollRule(str, Enum):
    """When a continuous future passes to the next contract (trading/rolls.py)."""

    CALENDAR = "calendar"  # a number of sessions before expiry
    VOLUME = "volume"  # the session after the next contract traded more
    OPEN_INTEREST = "open_interest"  # the session after the next contract was held more

    def __str__(self) -> str:
        return self.value


class ExpiryRule(str, Enum):
    """Which day of its contract month a future of the root ends on (the session before it when that day is none)."""

    THIRD_FRIDAY = "third_friday"  # index futures of CME and Eurex
    LAST_BUSINESS_DAY = "last_business_day"
    THIRD_LAST_BUSINESS_DAY = "third_last_business_day"  # COMEX and NYMEX metals
    LAST_THURSDAY = "last_thursday"  # NSE index and stock futures

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class FutureTerms:
    """root: the product (ES). expiry: last day of this contract, None for the continuous series of the root, which rolls
    by `roll`, at the latest `roll_days` sessions before expiry. expiry_rule: None where the root's is known
    (trading/rolls.py)."""

    root: str
    expiry: date | None = None
    roll: RollRule = RollRule.VOLUME
    roll_days: int = 1
    expiry_rule: ExpiryRule | None = None

    @property
    def continuous(self) -> bool:
        return self.expiry is None


class OptionRight(str, Enum):
    CALL = "call"
    PUT = "put"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class OptionTerms:
    """underlying: its symbol. expiry: last trading day. strike in the quote currency."""

    underlying: str
    expiry: date
    right: OptionRight
    strike: Decimal


class ActionSource(str, Enum):
    """Where corporate actions of an instrument come from, beside data/config/actions, which always counts."""

    NONE = "none"
    LEAN = "lean"  # factor and map files of the LEAN Data folder

    def __str__(self) -> str:
        return self.value


class PriceFloor(str, Enum):
    """How low a price of the instrument can be and still be one."""

    POSITIVE = "positive"  # shares, pairs, coins
    ZERO = "zero_or_more"  # options: worthless is a price
    ANY = "any"  # futures that may be negative, as crude oil in April 2020

    def __str__(self) -> str:
        return self.value

    def allows(self, lowest: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool (T,): the lowest price of each row can be one. NaN never is."""
        if self is PriceFloor.ANY:
            return ~np.isnan(lowest)
        return lowest >= 0.0 if self is PriceFloor.ZERO else lowest > 0.0


@dataclass(frozen=True, slots=True)
class FormerTicker:
    """A former ticker and the last session traded under it."""

    ticker: str
    last: date


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable (or only observed) thing of the universe.

    tick_size: price grid in quote currency; multiplier: currency per price point and unit of quantity;
    lot_size: smallest quantity step; feed: name of the feed that delivers its native bars; native_timeframe:
    the timeframe the feed delivers, higher ones are derived; tradable_in: modes in which orders are allowed;
    quotes: its quote bars are kept as well (dataset quotes_1m); sector: for exposure rules, "" when not said; future,
    option: contract terms; actions: where its corporate actions come from; second_feed: a feed whose bars its own are
    compared with, "" when there is none; prices: how low one may be, None: as usual for the asset class; former: tickers the
    feed had it under before feed_symbol, oldest first.
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
    quotes: bool = False
    sector: str = ""
    future: FutureTerms | None = None
    option: OptionTerms | None = None
    actions: ActionSource = ActionSource.NONE
    second_feed: str = ""
    second_feed_symbol: str = ""
    prices: PriceFloor | None = None
    former: tuple[FormerTicker, ...] = ()

    @property
    def price_floor(self) -> PriceFloor:
        """The one rule on how low its prices may be: file feeds, quarantine, quality checks and the lake's writers ask it."""
        if self.prices is not None:
            return self.prices
        return PriceFloor.ZERO if self.asset_class is AssetClass.OPTION else PriceFloor.POSITIVE

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
