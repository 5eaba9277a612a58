"""How a backtest sends its wishes: entry order, targets, trailing stop, margins, rates of exchange.

An evaluation says when, and with which stop and target; these say in what form. All have the meaning the paper broker
gives them (trading/matching.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.execution.spec import Iceberg, Twap, Vwap
from trading.instruments import AssetClass, Instrument
from trading.orders import OrderType
from trading.timeframes import US_PER_DAY

Floats = NDArray[np.float64]
Level = float | Floats
"""A distance in price units (float) or price levels by bar (float64 (T,), NaN: no entry there)."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One of several targets. share: of the entry's quantity it closes. reward: at this multiple of the distance to the
    stop; or long, short: float64 (T,), levels by bar for entries of that side."""

    share: float
    reward: float | None = None
    long: Floats | None = None
    short: Floats | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"target share {self.share!r}: expected above 0 and at most 1")
        if (self.reward is None) == (self.long is None and self.short is None):
            raise ValueError("a target has either a reward or levels")
        if self.reward is not None and not (self.reward > 0 and math.isfinite(self.reward)):
            raise ValueError(f"target reward {self.reward!r}: expected a positive multiple of the risk")


@dataclass(frozen=True, slots=True, eq=False)
class OrderRules:
    """Form of a slot's orders.

    entry: market, limit, stop or stop_limit. limit: a float is the distance of the limit from the close, on the side that
    waits (below for a buy); an array holds the levels. trigger: the same for stops, on the side that follows (above for a
    buy). A stop-limit given as distances has its limit that far beyond the trigger. valid_bars: bars the entry order works,
    0 = until it fills. trail: distance of a trailing stop from the bar's extreme, float or (T,); it starts at the
    evaluation's stop, or where there is none, from the first close. targets: instead of the evaluation's one; their shares
    add up to at most 1. flat_at_session_end: positions are closed at the open of the session's last bar, and nothing is
    entered from the bar before it on. execution: the entry is worked in slices (trading.execution); strategies bring theirs.
    """

    entry: OrderType = OrderType.MARKET
    limit: Level | None = None
    trigger: Level | None = None
    valid_bars: int = 0
    trail: Level | None = None
    targets: tuple[Target, ...] = ()
    flat_at_session_end: bool = False
    execution: Twap | Vwap | Iceberg | None = None

    def __post_init__(self) -> None:
        needs = {
            OrderType.MARKET: (False, False), OrderType.LIMIT: (True, False), OrderType.STOP: (False, True),
            OrderType.STOP_LIMIT: (True, True),
        }  # fmt: skip
        if self.entry not in needs:
            raise ValueError(f"entry {self.entry}: expected one of {', '.join(map(str, needs))}")
        if self.execution is not None and (self.entry is not OrderType.MARKET or self.valid_bars or self.trail is not None):
            raise ValueError("execution: slices are sent in its own way: no entry type, valid_bars or trail beside it")
        for name, needed in zip(("limit", "trigger"), needs[self.entry], strict=True):
            if needed != (getattr(self, name) is not None):
                raise ValueError(f"{self.entry} entry: {name} is {'missing' if needed else 'not used'}")
        for name in ("limit", "trigger", "trail"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} {value!r}: expected a distance of at least 0, or levels by bar")
        if self.valid_bars < 0:
            raise ValueError(f"valid_bars {self.valid_bars}: expected 0 or more")
        if sum(t.share for t in self.targets) > 1 + 1e-9:
            raise ValueError(f"the targets' shares add up to {sum(t.share for t in self.targets):g}: expected at most 1")

    @property
    def plain(self) -> bool:
        """Is this a market entry with the evaluation's own stop and target and nothing else?"""
        return (
            self.entry is OrderType.MARKET and self.valid_bars == 0 and self.trail is None and not self.targets
            and not self.flat_at_session_end and self.execution is None
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Margin:
    """initial: share of the value that the account needs to enter; maintenance: below which positions are liquidated."""

    initial: float
    maintenance: float

    def __post_init__(self) -> None:
        if not (0 < self.maintenance <= self.initial and math.isfinite(self.initial)):
            raise ValueError(f"margin {self.initial!r}/{self.maintenance!r}: expected 0 < maintenance <= initial")


Margins = Margin | Mapping[str, Margin]
"""One margin for all, or by symbol or asset class (the symbol's own counts first)."""


def margin_of(margins: Margins | None, instrument: Instrument) -> Margin | None:
    """The margin that counts for `instrument`; None: it is paid in full."""
    if margins is None or isinstance(margins, Margin):
        return margins
    return margins.get(instrument.symbol) or margins.get(str(AssetClass(instrument.asset_class)))


@dataclass(frozen=True, slots=True, eq=False)
class FxSeries:
    """Account currency per unit of a quote currency: rate float64 (N,) known from time int64 (N,), ascending, UTC us.

    max_age_us: how long a rate counts; afterwards it is unknown and new risk is refused. The default covers a long weekend.
    """

    time: NDArray[np.int64]
    rate: Floats
    max_age_us: int = 5 * US_PER_DAY

    def __post_init__(self) -> None:
        if len(self.time) != len(self.rate):
            raise ValueError(f"fx: {len(self.time)} times and {len(self.rate)} rates")
        if len(self.time) > 1 and not bool(np.all(np.diff(self.time) > 0)):
            raise ValueError("fx: times are not ascending")
        if not bool(np.all(np.isfinite(self.rate) & (self.rate > 0))):
            raise ValueError("fx: expected positive rates")

    def at(self, times: NDArray[np.int64]) -> Floats:
        """The newest rate known at each of `times`, float64 (T,); NaN where there is none or it is too old."""
        row = np.searchsorted(self.time, times, side="right") - 1
        known = row >= 0
        row = np.maximum(row, 0)
        out = np.full(len(times), np.nan)
        if len(self.time):
            fresh = known & (times - self.time[row] <= self.max_age_us)
            out[fresh] = self.rate[row][fresh]
        return out
