"""Canaries: small trainings whose right answer is known, run in every training job before anything else is believed.

A planted edge must be found (an agent earns at least nine tenths of what a rule earns that knows the truth), in pure noise
nothing may be traded, and a planted leak must be caught by the audit. When one of them fails, the machinery is broken or a
leak has crept in, and no model trained beside it is promoted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml import decisions, forecasting, leakage, planted
from ml.agents import Agent, agent_class
from ml.environment import EnvironmentConfig, MarketData, Segment, VectorMarket
from ml.forecasters import Settings
from ml.threads import torch_threads
from trading.bars import Bars
from trading.costs import Costs
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_HOUR, Timeframe, session_number, to_us

COSTS: Final = Costs("per_value", 0.0002, 0.0, "fixed", 1.0)
WANTED_SHARE: Final = 0.9
ENTRIES_ALLOWED: Final = 0
STEPS: Final = 180_000
SETTINGS: Final = {"learning_rate": 3e-3, "entropy": 0.002}
"""Of the agent: with these it earns 0.95 to 0.96 of what the knowing rule does, whatever the seed."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One canary. measured against wanted; at_least: which way. seconds: what it took."""

    name: str
    question: str
    measured: float
    wanted: float
    at_least: bool
    seconds: float

    @property
    def passed(self) -> bool:
        # Compared this way a value that is missing fails.
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def instrument(symbol: str = "TEST", *, tick: str = "0.01", lot: str = "1", multiplier: str = "1") -> Instrument:
    """An instrument that trades round the clock."""
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


def total_return(agent: Agent, data: MarketData) -> tuple[float, int]:
    """(log return, entries) of the agent over the whole first segment."""
    lanes = VectorMarket(data, EnvironmentConfig(), 1, 0)
    lanes.place(0, 0)
    memory, begins = agent.start(1), np.array([True])
    total, entries = 0.0, 0
    with torch_threads():
        for _ in range(len(data.segments[0].bars) - 1):
            action, memory = agent.act(lanes.observation, lanes.mask, memory, begins)
            begins = np.array([False])
            entries += int(action[0] in (1, 2))
            total += float(lanes.step(action).reward[0])
    return total, entries


def trained_agent(data: MarketData, steps: int, name: str = "recurrent_ppo", settings: dict[str, Any] | None = None) -> Agent:
    """An agent trained on all of `data`."""
    agent: Agent = agent_class(name)(**(settings if settings is not None else SETTINGS))
    agent.train(data, EnvironmentConfig(max_steps=256), steps=steps, seed=1)
    return agent


def agent_finds_the_edge(steps: int = STEPS, name: str = "recurrent_ppo", settings: dict[str, Any] | None = None) -> float:
    """Share of the knowing rule's log return that the agent earns."""
    data, state = market(edge=0.0012)
    best = oracle_return(VectorMarket(data, EnvironmentConfig(), 1, 0), state)
    return total_return(trained_agent(data, steps, name, settings), data)[0] / best


def agent_leaves_noise_alone(steps: int = STEPS, name: str = "recurrent_ppo", settings: dict[str, Any] | None = None) -> float:
    """How often the agent enters in 8,000 bars of pure noise with costs."""
    data, _ = market(edge=0.0)
    return float(total_return(trained_agent(data, steps, name, settings), data)[1])


_SMALL: Final = forecasting.ForecastConfig(
    ("lstm",), folds=1, first_train=0.6, settings=Settings(window=12, epochs=8, patience=3, batch=128, trees=10)
)


def forecaster_finds_the_edge() -> float:
    """AUC of the LSTM on a market with a planted edge, out of sample."""
    made = planted.make(planted.PlantedMarket(rows=900, symbols=3, edge=0.8, noise=1.0))
    data = planted.training_set(made, 1)
    return float(forecasting.scores(data, forecasting.train(data, _SMALL))["lstm"]["auc"])


def forecaster_leaves_noise_alone() -> float:
    """Entries per 100 bars made on forecasts of a market without an edge, by the rule that trades at any leaning (margin 0)."""
    made = planted.make(planted.PlantedMarket(rows=900, symbols=3, edge=0.0))
    data = planted.training_set(made, 1)
    oos = forecasting.train(data, _SMALL).out_of_sample(forecasting.ENSEMBLE)
    times = data.event_start[oos.row]
    made_of = decisions.of_forecasts(
        made.bars, data.matrix.symbols, data.matrix.symbol[oos.row], times, oos.probability, oos.prior,
        0.0, (int(times.min()), int(times.max())),
    )  # fmt: skip
    trades = decisions.experiment("noise", made_of, made.instruments, decisions.Terms()).run().trades
    return 100.0 * len(trades) / len(oos.row)


def leaks_caught() -> float:
    """How many of four planted leaks the audit finds: a feature that looks one bar ahead, a label whose event end is too
    early, a training event that reaches into the test, a scaler fitted on everything."""
    from dataclasses import replace

    from ml.scaling import fit_scaler
    from ml.splits import walk_forward

    market_ = planted.PlantedMarket(rows=500, symbols=1, leak=1)
    leaky = planted.make(market_)
    data = planted.training_set(leaky, 5)
    honest = planted.make(replace(market_, leak=0))
    clean = planted.training_set(honest, 5)
    if not leakage.merge(
        leakage.truncate_and_recompute(clean, honest.recompute), leakage.labels_known_late(clean, honest.bars)
    ).passed:
        return 0.0  # an audit that always cries is worth nothing
    caught = [not leakage.truncate_and_recompute(data, leaky.recompute).passed]
    early = replace(clean, event_end=clean.event_start)
    caught.append(not leakage.labels_known_late(early, honest.bars).passed)
    # Splits made from event ends that are too early leave real events overlapping.
    folds = walk_forward(early.event_start, early.event_end, folds=2, embargo=0, min_train=50)
    caught.append(not leakage.label_overlap(clean.events, folds).passed)
    everything = np.arange(len(clean), dtype=np.int64)
    scaler = fit_scaler(clean.matrix.values, clean.event_start)
    caught.append(not leakage.scaler_range(clean.matrix.values, clean.event_start, [(folds[0], scaler, everything)]).passed)
    return float(sum(caught))


def run_all(agent_steps: int = STEPS, progress: Callable[[str], None] | None = None) -> list[Canary]:
    """Every canary, in order of what is cheapest."""
    asked: list[tuple[str, str, Callable[[], float], float, bool]] = [
        ("leaks", "planted leaks the audit catches, of 4", leaks_caught, 4.0, True),
        ("forecaster_edge", "AUC of the LSTM where an edge is planted", forecaster_finds_the_edge, 0.6, True),
        ("forecaster_noise", "entries per 100 bars of pure noise", forecaster_leaves_noise_alone, 0.0, False),
        ("agent_edge", "share of the knowing rule's return the agent earns", lambda: agent_finds_the_edge(agent_steps),
         WANTED_SHARE, True),
        ("agent_noise", "entries of the agent in 8,000 bars of pure noise", lambda: agent_leaves_noise_alone(agent_steps),
         float(ENTRIES_ALLOWED), False),
    ]  # fmt: skip
    out = []
    for name, question, ask, wanted, at_least in asked:
        began = time.perf_counter()
        one = Canary(name, question, ask(), wanted, at_least, time.perf_counter() - began)
        out.append(one)
        if progress is not None:
            progress(f"canary {name}: {one.measured:.3g}, wanted {'at least' if at_least else 'at most'} {wanted:g}: "
                     f"{'passed' if one.passed else 'FAILED'} ({one.seconds:.1f} s)")  # fmt: skip
    return out
