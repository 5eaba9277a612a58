"""A simulated market: trades and quotes of any instrument and session out of a seed.

Any session is computed by itself: its first and last price come from a random walk that is known at every day without
walking there (midpoints of dyadic spans of days, each drawn by a hash of its place: Levy's construction of Brownian
motion, pinned near the instrument's base price every 1024 days), and between them trades are a bridge. Random numbers are
hashes of (seed, symbol, place), made of additions, multiplications and square roots only, so that every machine draws
the same ones.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trading.calendars import Calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE

_SPAN: Final = 1024
"""Days between two pinned prices."""
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1

_YEARLY: Final = {
    AssetClass.EQUITY: 0.25, AssetClass.INDEX: 0.16, AssetClass.FOREX: 0.08, AssetClass.FUTURE: 0.18,
    AssetClass.OPTION: 0.60, AssetClass.CRYPTO: 0.55,
}  # fmt: skip
"""Volatility of a year, as a share of the price."""
_TICKS: Final = {
    AssetClass.EQUITY: (3_000, 40_000), AssetClass.INDEX: (100_000, 500_000), AssetClass.FOREX: (70_000, 160_000),
    AssetClass.FUTURE: (8_000, 24_000), AssetClass.OPTION: (100, 2_000), AssetClass.CRYPTO: (300_000, 6_000_000),
}  # fmt: skip
"""Base price in ticks: between these."""
_PER_MINUTE: Final = 8
"""Mean number of trades in a minute."""


class Trades(NamedTuple):
    """N trades of one session, ascending by time (UTC us): price on the tick grid, size in units, best bid and ask then."""

    time: NDArray[np.int64]
    price: NDArray[np.float64]
    size: NDArray[np.float64]
    bid: NDArray[np.float64]
    bid_size: NDArray[np.float64]
    ask: NDArray[np.float64]
    ask_size: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dirt:
    """What goes wrong on the way, as shares of the bars: 0 nothing, 1 all.

    gaps: a live bar is lost. duplicates: it comes twice. late: it comes after the next two. spikes: its high or low is
    off by a tenth. crossed: a quote's bid is above its ask. cuts: the connection breaks before it. History is clean:
    dirt is what happens on the wire.
    """

    gaps: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0
    spikes: float = 0.0
    crossed: float = 0.0
    cuts: float = 0.0

    def __post_init__(self) -> None:
        for name in KINDS:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a share from 0 to 1")

    @staticmethod
    def parse(text: str) -> Dirt:
        """``"gaps=0.01,late=0.02"``; empty: none. Raises ValueError."""
        shares: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, sign, value = part.partition("=")
            if name.strip() not in KINDS or not sign:
                raise ValueError(f"{part!r}: expected NAME=SHARE with a name of {', '.join(KINDS)}")
            shares[name.strip()] = float(value)
        return Dirt(**shares)

    def happens(self, kind: str, seed: int, symbol: str, time: int) -> bool:
        """Does `kind` of dirt fall on what happens to `symbol` at `time`? The same answer whenever it is asked."""
        share = float(getattr(self, kind))
        return share > 0.0 and float(_uniform(_key(seed, symbol, kind), np.array([time], np.uint64))[0]) < share


KINDS: Final = ("gaps", "duplicates", "late", "spikes", "crossed", "cuts")


def _key(seed: int, *names: str) -> int:
    digest = hashlib.blake2b("\x00".join((str(seed), *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _uniform(key: int, place: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each place: splitmix64 of key and place."""
    with np.errstate(over="ignore"):
        x = (place + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(key & _MASK)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(key: int, place: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Nearly normal numbers of mean 0 and variance 1: the sum of four uniform ones, exact on every machine."""
    total = np.zeros(len(place))
    for k in range(4):
        total += _uniform(key, place * np.uint64(4) + np.uint64(k))
    return (total - 2.0) * math.sqrt(3.0)


@lru_cache(maxsize=65536)
def _walk(key: int, day: int) -> float:
    """The walk at the end of `day` (a session number), in daily standard deviations. Known without walking there."""
    block, place = divmod(day, _SPAN)

    def drawn(lo: int, hi: int) -> float:
        return float(_normal(key, np.array([((lo << 24) ^ hi) & _MASK], np.uint64))[0])

    lo, hi = block * _SPAN, (block + 1) * _SPAN
    at_lo, at_hi = 4.0 * drawn(lo, lo), 4.0 * drawn(hi, hi)
    if place == 0:
        return at_lo
    while hi - lo > 1:
        middle = (lo + hi) // 2
        at_middle = (at_lo + at_hi) / 2 + math.sqrt(hi - lo) / 2 * drawn(lo, hi)
        if day == middle:
            return at_middle
        if day < middle:
            hi, at_hi = middle, at_middle
        else:
            lo, at_lo = middle, at_middle
    raise AssertionError("every day is a midpoint")


class Grid(NamedTuple):
    """Ticks to prices: price = ticks x numerator / denominator, the float64 nearest to the decimal price."""

    numerator: int
    denominator: int

    @staticmethod
    def of(step: Decimal) -> Grid:
        scale = 10 ** max(0, -int(step.normalize().as_tuple().exponent))
        return Grid(int(step * scale), scale)

    def prices(self, ticks: NDArray[np.float64]) -> NDArray[np.float64]:
        return ticks * self.numerator / self.denominator


def base_ticks(instrument: Instrument, seed: int) -> float:
    """The price the walk moves around, in ticks."""
    low, high = _TICKS[instrument.asset_class]
    share = float(_uniform(_key(seed, instrument.feed_symbol, "base"), np.zeros(1, np.uint64))[0])
    return low * math.exp(share * math.log(high / low))


def session_trades(instrument: Instrument, venue: Calendar, session: int, seed: int, crossed: float = 0.0) -> Trades:
    """All trades of `session` (a session number of `venue`), at least one in every minute. crossed: share of bad quotes.

    Raises KeyError when the venue has no such session.
    """
    row = venue.position(session)
    opened, closed = int(venue.open_time[row]), int(venue.close_time[row])
    name = instrument.feed_symbol
    walk = _key(seed, name, "walk")
    sigma = _YEARLY[instrument.asset_class] / math.sqrt(365.0)
    before = int(venue.number[row - 1]) if row else session - 1
    last, end = sigma * _walk(walk, before), sigma * _walk(walk, session)
    overnight = opened - int(venue.close_time[row - 1]) if row else 0
    start = last + (0.3 * (end - last) if overnight > 0 else 0.0)  # a pause ends with a step
    own = _key(seed, name, f"session:{session}")
    minutes = -(-(closed - opened) // US_PER_MINUTE)
    minute = np.arange(minutes, dtype=np.uint64)
    busy = 0.6 + 0.8 * (2.0 * np.arange(minutes) / max(1, minutes - 1) - 1.0) ** 2  # busier at both ends
    count = 1 + np.floor(_uniform(own ^ 1, minute) * 2.0 * _PER_MINUTE * busy).astype(np.int64)
    n = int(count.sum())
    place = np.arange(n, dtype=np.uint64)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    of_minute = np.repeat(np.arange(minutes), count)
    within = np.arange(n) - first[of_minute]
    length = np.minimum(US_PER_MINUTE, closed - opened - of_minute * US_PER_MINUTE)
    share = (within + _uniform(own ^ 2, place)) / count[of_minute]
    time = opened + of_minute * US_PER_MINUTE + np.floor(share * length).astype(np.int64)
    steps = np.cumsum(_normal(own ^ 3, place))
    bridge = (end - start - sigma * 0.7 * steps[-1] / math.sqrt(n)) * (np.arange(n) + 1) / n
    log = start + sigma * 0.7 / math.sqrt(n) * steps + bridge
    ticks = np.maximum(1.0, np.rint(base_ticks(instrument, seed) * np.exp(log)))
    grid, lots = Grid.of(instrument.tick_size), Grid.of(instrument.lot_size)

    def sizes(key: int) -> NDArray[np.float64]:
        return lots.prices(1.0 + np.floor(_uniform(key, place) ** 2 * 40.0))

    below = np.floor(_uniform(own ^ 5, place) * 2.0)
    bid, ask = ticks - below, ticks + 1.0 - below
    bad = _uniform(own ^ 6, place) < crossed
    bid, ask = np.where(bad, ask + 2.0, np.maximum(1.0, bid)), np.where(bad, bid, ask)
    t = Trades(time, grid.prices(ticks), sizes(own ^ 4), grid.prices(bid), sizes(own ^ 7), grid.prices(ask), sizes(own ^ 8))
    pause, resume = int(venue.break_start[row]), int(venue.break_end[row])
    if not resume:
        return t
    open_ = (time < pause) | (time >= resume)
    return Trades(time[open_], *(column[open_] for column in t[1:]))
