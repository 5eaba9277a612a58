"""A market made up for the purpose, whose truth is known: prices lean towards a hidden state that the features show dimly.

The state of an instrument is +1 or -1 and turns at random; the drift of the next bar follows it. Every row of the features
shows the state through so much noise that one bar says little, but the last dozen bars together say a lot: a model with a
memory finds it, one without does not. With an edge of 0 there is nothing to be found. Whatever is trained on it is labelled
synthetic and says nothing about real markets.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.dataset import SourceSpan, TrainingSet, label_matrix
from ml.labels import BarrierRule
from ml.matrix import FeaturePart, assemble
from trading import ids
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument, Mode
from trading.timeframes import Timeframe

UNIVERSE: Final = "synthetic"
NAMES: Final = ("signal", "return_1", "return_5", "volatility_20", "noise_1", "noise_2", "noise_3")
WARM_UP: Final = 21
_VERSION: Final = "planted1"


@dataclass(frozen=True, slots=True)
class PlantedMarket:
    """edge: drift of a bar in deviations of its return, towards the state. noise: deviation of what the features show of it,
    whose own size is 1. turn: chance that the state turns at a bar. volatility: deviation of a bar's return. leak: how far the
    signal looks ahead, in bars; anything but 0 is a fault planted for the audit to find."""

    edge: float = 0.3
    noise: float = 1.5
    turn: float = 1 / 30
    volatility: float = 0.01
    symbols: int = 4
    rows: int = 2200
    seed: int = 1
    leak: int = 0

    @property
    def label(self) -> str:
        """What a model trained on it is labelled with."""
        return f"synthetic market, planted edge of {self.edge:g} deviations, seed {self.seed}" if self.edge else (
            f"synthetic market, no edge, seed {self.seed}")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Bars, instruments, hidden state float64 (T,) and observed signal float64 (T,) by symbol."""

    market: PlantedMarket
    bars: dict[str, Bars]
    instruments: dict[str, Instrument]
    state: dict[str, NDArray[np.float64]]
    signal: dict[str, NDArray[np.float64]]

    def features(self, symbol: str, rows: int) -> NDArray[np.float64]:
        """Features (rows, F) computed from the first `rows` bars and signals; what the audit recomputes."""
        return _features(self.bars[symbol].close[:rows], self.signal[symbol][: rows + self.market.leak], rows, self.market)

    def recompute(self, symbol: str, time: int) -> NDArray[np.float64]:
        """Features (F,) of the bar that closes at `time`, from bars and signals known then (see ml.leakage)."""
        rows = int(np.searchsorted(self.bars[symbol].close_time, time, side="right"))
        close, signal = self.bars[symbol].close[:rows], self.signal[symbol][:rows]
        return np.asarray(_features(close, signal, rows, self.market)[-1], np.float64)


def make(market: PlantedMarket) -> Made:
    """The market of those settings. The same settings give the same prices on any machine."""
    venue = calendar("XNYS")
    at = venue.position(date(2005, 1, 3))
    span = slice(at, at + market.rows)
    bars: dict[str, Bars] = {}
    states: dict[str, NDArray[np.float64]] = {}
    signals: dict[str, NDArray[np.float64]] = {}
    for i in range(market.symbols):
        random = np.random.default_rng([market.seed, i])
        n = market.rows
        state = np.asarray(np.cumprod(np.where(random.random(n) < market.turn, -1.0, 1.0)), np.float64)
        lean = market.edge * market.volatility * np.concatenate([[0.0], state[:-1]])
        close = np.round(500 * np.exp(np.cumsum(lean + market.volatility * random.standard_normal(n))), 2)
        open_ = np.concatenate([[500.0], close[:-1]])
        wide = np.abs(random.standard_normal((2, n))) * market.volatility * 0.4
        high = np.round(np.maximum(open_, close) * (1 + wide[0]), 2)
        low = np.round(np.minimum(open_, close) * (1 - wide[1]), 2)
        symbol = f"PLANTED{i + 1}"
        bars[symbol] = Bars(
            symbol,
            Timeframe.D1,
            venue.close_time[span].copy(),
            venue.number[span].copy(),
            open_,
            high,
            low,
            close,
            np.full(n, 1e6),
        )
        states[symbol] = state
        signals[symbol] = state + market.noise * random.standard_normal(n)
    return Made(market, bars, {s: instrument(s) for s in bars}, states, signals)


def instrument(symbol: str) -> Instrument:
    """A made-up stock that only a backtest may trade."""
    return Instrument(
        symbol, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "planted", symbol, Timeframe.D1,
        tradable_in=frozenset({Mode.BACKTEST}),
    )  # fmt: skip


def training_set(made: Made, horizon: int, horizons: tuple[int, ...] = (), barrier: BarrierRule | None = None) -> TrainingSet:
    """The market's labelled rows, marked synthetic."""
    parts, sources = {}, []
    for symbol, bars in made.bars.items():
        values = made.features(symbol, len(bars))
        parts[symbol] = FeaturePart(bars.close_time, bars.session, values)
        sources.append(SourceSpan.of("planted", symbol, [("2005-01-03", bars.content_hash())]))
    version = ids.content_hash([_VERSION, made.market.leak])[:12]
    matrix = assemble(parts, NAMES, Timeframe.D1, version, WARM_UP)
    return label_matrix(
        matrix, made.bars, horizon, UNIVERSE, sources, horizons=horizons, barrier=barrier, synthetic=made.market.label
    )


def _features(close: NDArray[np.float64], signal: NDArray[np.float64], rows: int, market: PlantedMarket) -> NDArray[np.float64]:
    """(rows, F). Row t reads closes up to t, and the signal of t (of t + leak where a leak is planted)."""
    out = np.full((rows, len(NAMES)), np.nan)
    shown = signal[market.leak :][:rows]
    out[: len(shown), 0] = shown
    if len(shown) < rows:
        out[len(shown) :, 0] = 0.0
    logs = np.diff(np.log(close))
    out[1:, 1] = logs
    if rows > 5:
        out[5:, 2] = np.log(close[5:] / close[:-5])
    if rows > 20:
        # Each window summed by itself: a running sum would depend on where the series began.
        out[20:, 3] = np.lib.stride_tricks.sliding_window_view(logs, 20).std(axis=1)
    # Noise that is the same for a row however many rows are asked for.
    out[:, 4:] = np.random.default_rng([market.seed, 99]).standard_normal((market.rows, 3))[:rows]
    return out
