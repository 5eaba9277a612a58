"""Small markets of known character for tests of agents: a planted edge, and pure noise."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from ml.environment import MarketData, Segment, VectorMarket
from trading.bars import Bars
from trading.costs import Costs
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_HOUR, Timeframe, session_number, to_us

COSTS = Costs("per_value", 0.0002, 0.0, "fixed", 1.0)


def instrument(symbol: str = "TEST", *, tick: str = "0.01", lot: str = "1", multiplier: str = "1") -> Instrument:
    return Instrument(
        symbol, AssetClass.CRYPTO, "CRYPTO", Decimal(tick), "USD", "test", symbol, Timeframe.H1, Decimal(lot), Decimal(multiplier)
    )


def bars_of(prices: NDArray[np.float64], symbol: str = "TEST") -> Bars:
    """Hourly bars that open at the last close, on a grid of a cent."""
    close = np.round(prices, 2)
    opens = np.concatenate([close[:1], close[:-1]])
    n = len(close)
    start = to_us(datetime.fromisoformat("2017-01-01T00:00:00+00:00"))
    times = start + (np.arange(n, dtype=np.int64) + 1) * US_PER_HOUR
    session = (session_number(date(2017, 1, 1)) + np.arange(n) // 24).astype(np.int32)
    high, low = np.maximum(opens, close), np.minimum(opens, close)
    return Bars(symbol, Timeframe.H1, times, session, opens, high, low, close, np.full(n, 1e6))


def market(*, edge: float, bars: int = 8_000, seed: int = 7, costs: Costs = COSTS) -> tuple[MarketData, NDArray[np.float64]]:
    """A market whose drift is `edge` a bar times a hidden state of +-1, and that state, float64 (T,).

    Feature 0 shows the state through noise; seven features are noise. edge 0: nothing to be found.
    """
    random = np.random.default_rng(seed)
    state = np.asarray(np.cumprod(np.where(random.random(bars) < 1 / 30, -1.0, 1.0)), np.float64)
    drift = edge * np.concatenate([[0.0], state[:-1]])
    prices = 100 * np.exp(np.cumsum(random.normal(0, 0.002, bars) + drift))
    features = random.normal(size=(bars, 8)).astype(np.float32)
    features[:, 0] = state + random.normal(0, 0.3, bars)
    return MarketData.of([Segment(instrument(), bars_of(prices), features, costs)]), state


def oracle_return(lanes: VectorMarket, state: NDArray[np.float64]) -> float:
    """Log return of the rule that knows the state, over the whole segment."""
    lanes.place(0, 0)
    total = 0.0
    for i in range(len(state) - 1):
        position = lanes.position[0]
        action = (1 if state[i] > 0 else 2) if position == 0 else ((3 if position > 0 else 4) if position * state[i] < 0 else 0)
        total += float(lanes.step(np.array([action])).reward[0])
    return total
