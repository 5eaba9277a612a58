"""Many lanes of trading over shared bars: the environment an agent is trained and judged in.

At each step an agent sees what is known at a bar's close and takes one of five actions; it is filled at the next bar's
open by trading.matching, marked at that bar's close. An episode ends (terminated) at the end of its data or when the
equity is ruined, and what is held is then sold at the close with its costs; one cut by `max_steps` is truncated: nothing
is sold, the value of the last observation is the agent's to estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.environment import kernel
from ml.environment.kernel import BUY_LONG, CLOSE_LONG, CLOSE_SHORT, HOLD, SELL_SHORT
from trading.bars import Bars
from trading.costs import Costs
from trading.instruments import Instrument

__all__ = [
    "ACTIONS", "BUY_LONG", "CLOSE_LONG", "CLOSE_SHORT", "HOLD", "OWN_FEATURES", "SELL_SHORT", "EnvironmentConfig",
    "MarketError", "MarketData", "Segment", "Step", "VectorMarket", "segments_of",
]  # fmt: skip

ACTIONS: Final = ("HOLD", "BUY_LONG", "SELL_SHORT", "CLOSE_LONG", "CLOSE_SHORT")
OWN_FEATURES: Final = ("position", "unrealised_pnl", "bars_held", "drawdown")
REWARDS: Final = {
    "log_equity": kernel.REWARD_LOG_EQUITY, "pnl": kernel.REWARD_PNL, "drawdown_penalised": kernel.REWARD_DRAWDOWN,
}  # fmt: skip


class MarketError(ValueError):
    """Data or settings an environment cannot be made of; the message names what and what was expected."""


@dataclass(frozen=True, slots=True)
class EnvironmentConfig:
    """How the account of a lane works.

    cash: start, account currency. sizing: ``fixed`` (value = units) or ``equity`` (value = fraction of equity at the
    decision's close); whole lots, rounded down. max_steps: bars of an episode before it is cut; 0: to the end of the data.
    ruin: an episode ends when equity falls to this fraction of `cash`. reward: ``log_equity`` (change of log equity, net
    of costs), ``pnl`` (change of equity over start cash), ``drawdown_penalised`` (log_equity less any deepening of the
    drawdown). bars_held_scale: bars after which the observation's bars_held is 1.
    """

    cash: float = 100_000.0
    sizing: Literal["fixed", "equity"] = "equity"
    size: float = 0.95
    max_steps: int = 0
    ruin: float = 0.2
    reward: str = "log_equity"
    bars_held_scale: int = 50

    def __post_init__(self) -> None:
        if not (self.cash > 0 and np.isfinite(self.cash)):
            raise MarketError(f"cash {self.cash!r}: expected a positive number")
        if not (self.size > 0 and np.isfinite(self.size)) or self.sizing not in ("fixed", "equity"):
            raise MarketError(f"sizing {self.sizing!r} of {self.size!r}: expected fixed or equity of a positive number")
        if self.reward not in REWARDS:
            raise MarketError(f"reward {self.reward!r}: expected one of {', '.join(REWARDS)}")
        if self.max_steps < 0 or self.bars_held_scale < 1 or not 0.0 <= self.ruin < 1.0:
            raise MarketError("max_steps must be >= 0, bars_held_scale >= 1 and ruin in [0, 1)")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """T consecutive bars of one instrument with the features known at their closes.

    features: float32 (T, F), finite. The last bar can only be held into: there is no open after it.
    """

    instrument: Instrument
    bars: Bars
    features: NDArray[np.float32]
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.bars):
            raise MarketError(f"{self.bars.symbol}: features have shape {self.features.shape}, expected ({len(self.bars)}, F)")
        if len(self.bars) < 2:
            raise MarketError(f"{self.bars.symbol}: {len(self.bars)} bars, expected at least 2")
        if not np.isfinite(self.features).all():
            raise MarketError(f"{self.bars.symbol}: features hold NaN or infinity; leave the warm-up out")
        prices = (self.bars.open, self.bars.close)
        if not all(np.isfinite(p).all() and (p > 0).all() for p in prices):
            raise MarketError(f"{self.bars.symbol}: a price is missing or not positive")


def segments_of(instrument: Instrument, bars: Bars, features: NDArray[Any], costs: Costs, least: int = 2) -> list[Segment]:
    """The runs of rows whose features are all finite, each a segment of at least `least` bars."""
    good = np.isfinite(features).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], good, [False])).astype(np.int8)))
    return [
        Segment(instrument, bars.rows(slice(a, b)), np.ascontiguousarray(features[a:b], np.float32), costs)
        for a, b in edges.reshape(-1, 2).tolist()
        if b - a >= max(2, least)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class MarketData:
    """All segments' rows joined, read-only and shared by any number of environments.

    features float32 (R, F). prices float64 (R, 3): open, close, volume. rows int64 (S, 3): first and last row of each
    segment, row of its terms. terms float64 (S, 8): the instrument's and its costs', as ml.environment.kernel has them.
    """

    segments: tuple[Segment, ...]
    features: NDArray[np.float32]
    prices: NDArray[np.float64]
    rows: NDArray[np.int64]
    terms: NDArray[np.float64]

    @staticmethod
    def of(segments: Sequence[Segment]) -> MarketData:
        """Join segments. Raises MarketError when there are none or their features differ in width."""
        if not segments:
            raise MarketError("no segment: nothing to trade on")
        widths = {s.features.shape[1] for s in segments}
        if len(widths) > 1:
            raise MarketError(f"segments have {sorted(widths)} features, expected one width")
        lengths = np.array([len(s.bars) for s in segments], np.int64)
        ends = np.cumsum(lengths)
        rows = np.stack([ends - lengths, ends - 1, np.arange(len(segments))], axis=1).astype(np.int64)
        terms = np.array(
            [
                [s.instrument.multiplier, s.instrument.tick_size, s.instrument.lot_size, s.costs.commission_code, s.costs.rate,
                 s.costs.minimum, s.costs.slippage_code, s.costs.value]
                for s in segments
            ],
            np.float64,
        )  # fmt: skip
        prices = np.concatenate([np.stack([s.bars.open, s.bars.close, s.bars.volume], axis=1) for s in segments])
        features = np.ascontiguousarray(np.concatenate([s.features for s in segments]), np.float32)
        for array in (features, prices, rows, terms):
            array.setflags(write=False)
        return MarketData(tuple(segments), features, prices, rows, terms)

    @property
    def width(self) -> int:
        """Columns of an observation: market features and the lane's own."""
        return self.features.shape[1] + len(OWN_FEATURES)


class Step(NamedTuple):
    """What one step gave, one entry per lane; the arrays are the environment's own and are overwritten by the next step.

    observation float32 (N, W), mask bool (N, 5): of the new bar, the first one of a new episode where one ended.
    reward float64 (N,). terminated, truncated bool (N,). final float32 (N, W): last observation of the lanes that ended.
    """

    observation: NDArray[np.float32]
    mask: NDArray[np.bool_]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final: NDArray[np.float32]


class VectorMarket:
    """N independent lanes over the same data. Deterministic by seed, whatever else runs."""

    def __init__(self, data: MarketData, config: EnvironmentConfig, lanes: int, seed: int) -> None:
        if lanes < 1:
            raise MarketError(f"{lanes} lanes, expected at least 1")
        self.data, self.config, self.lanes = data, config, lanes
        self._random = np.empty(lanes, np.uint64)
        self._counters = np.zeros((lanes, kernel.LANE_COUNTERS), np.int64)
        self._numbers = np.zeros((lanes, kernel.LANE_NUMBERS))
        self._out = np.zeros((lanes, data.width), np.float32)
        self._final = np.zeros((lanes, data.width), np.float32)
        self._mask = np.zeros((lanes, len(ACTIONS)), np.bool_)
        self._reward = np.zeros(lanes)
        self._flags = np.zeros((lanes, kernel.FLAGS), np.bool_)
        self._settings = np.array(
            [config.cash, config.sizing == "equity", config.size, config.max_steps, config.ruin, 1.0 / config.bars_held_scale,
             REWARDS[config.reward]],
            np.float64,
        )  # fmt: skip
        self._step = Step(
            self._out, self._mask, self._reward, self._flags[:, kernel.TERMINATED], self._flags[:, kernel.TRUNCATED], self._final
        )
        self.reset(seed)

    def reset(self, seed: int | None = None, *, stagger: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Start every lane anew; (observation, mask). seed None: go on with the generators as they are.

        stagger: first episodes are cut at different steps, so that later the lanes do not all begin at once.
        """
        if seed is not None:
            self._random[:] = np.random.SeedSequence(seed).generate_state(self.lanes, np.uint64)
        d = self.data
        kernel.reset_lanes(
            d.features, d.prices, d.rows, d.terms, self._settings, self._random, self._counters, self._numbers, self._out,
            self._mask,
        )  # fmt: skip
        self._flags[:] = False
        if stagger and self.config.max_steps:
            self._counters[:, kernel.AGE] = np.arange(self.lanes) * self.config.max_steps // self.lanes
        return self._out, self._mask

    def step(self, actions: NDArray[np.int64]) -> Step:
        """One bar for every lane. actions int64 (N,); one the mask forbids raises MarketError naming the lane.

        The lanes have been stepped (as HOLD) when it raises: an agent that ignores the mask is a fault, not a market.
        """
        d = self.data
        kernel.step_lanes(
            actions, d.features, d.prices, d.rows, d.terms, self._settings, self._random, self._counters, self._numbers,
            self._out, self._final, self._reward, self._flags, self._mask,
        )  # fmt: skip
        if self._flags[:, kernel.ILLEGAL].any():
            lane = int(np.flatnonzero(self._flags[:, kernel.ILLEGAL])[0])
            raise MarketError(f"lane {lane}: action {int(actions[lane])} is not allowed by its mask")
        return self._step

    @property
    def observation(self) -> NDArray[np.float32]:
        """What each lane sees now, float32 (N, W); the environment's own array."""
        return self._out

    @property
    def mask(self) -> NDArray[np.bool_]:
        """What each lane may do now, bool (N, 5); the environment's own array."""
        return self._mask

    @property
    def equity(self) -> NDArray[np.float64]:
        """Equity of each lane now, account currency."""
        return self._numbers[:, kernel.EQUITY].copy()

    @property
    def position(self) -> NDArray[np.float64]:
        """Signed units each lane holds."""
        return self._numbers[:, kernel.POSITION].copy()

    @property
    def traded(self) -> NDArray[np.float64]:
        """Value each lane bought and sold in the last step, account currency."""
        return self._numbers[:, kernel.TRADED].copy()

    def place(self, lane: int, segment: int, row: int = 0) -> None:
        """Put a lane at bar `row` of a segment, flat: to judge an agent on a span rather than at random."""
        first, last, _ = self.data.rows[segment].tolist()
        if not 0 <= row < last - first:
            raise MarketError(f"segment {segment}: row {row}, expected 0 to {last - first - 1}")
        self._counters[lane] = 0
        self._counters[lane, kernel.SEGMENT] = segment
        self._counters[lane, kernel.AT] = first + row
        self._numbers[lane] = 0.0
        self._numbers[lane, [kernel.CASH, kernel.EQUITY, kernel.PEAK]] = self.config.cash
        self._out[lane, : -len(OWN_FEATURES)] = self.data.features[first + row]
        self._out[lane, -len(OWN_FEATURES) :] = 0.0
        self._mask[lane] = [True, True, True, False, False]

    def _parts(self) -> dict[str, NDArray[Any]]:
        return {
            "random": self._random, "counters": self._counters, "numbers": self._numbers, "out": self._out, "mask": self._mask,
        }  # fmt: skip

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that decides what comes next, to be given to `restore`."""
        return {name: array.copy() for name, array in self._parts().items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where `state` was taken. Raises MarketError when it is of another shape."""
        for name, array in self._parts().items():
            if name not in state or state[name].shape != array.shape:
                raise MarketError(f"state of {name} does not fit {self.lanes} lanes of width {self.data.width}")
            array[...] = state[name]
