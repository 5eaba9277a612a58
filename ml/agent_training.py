"""Agents trained and judged walk-forward with several seeds, so that a kill loses minutes and luck has a name.

Every (fold, seed) is a training of its own with checkpoints below one work folder; what is finished is not done again. Each
test window is played once by each seed, from an empty memory, and its actions are kept as decisions. The final agent is
trained on everything before the locked slice, with the seed whose walk-forward result is the median one: the typical agent,
not the lucky one.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml import leakage
from ml.agents import Agent, Progress, agent_class
from ml.baseline import TrainingError
from ml.dataset import TrainingSet
from ml.decisions import Decisions, of_actions
from ml.environment import EnvironmentConfig, MarketData, Segment, VectorMarket, segments_of
from ml.forecasting import locked
from ml.matrix import FeatureMatrix
from ml.protocol import interquartile_mean
from ml.scaling import Scaler, fit_scaler
from ml.splits import Fold, walk_forward
from ml.threads import torch_threads
from trading import ids
from trading.bars import Bars
from trading.costs import Costs
from trading.instruments import Instrument

Say = Callable[[str], None]
SCALER_FILE = "scaler.json"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How an agent is trained. agent: registered name; settings: its own. steps: of the environment per training. seeds: how
    many trainings each fold gets. max_steps: bars of a training episode. final_fraction, embargo: see ForecastConfig."""

    agent: str = "recurrent_ppo"
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 65_536
    seeds: int = 5
    folds: int = 2
    first_train: float = 0.5
    final_fraction: float = 0.15
    embargo: int = 10
    min_train: int = 250
    max_steps: int = 256
    reward: str = "log_equity"
    size: float = 0.95
    costs: Costs = field(default_factory=lambda: Costs("per_value", rate=0.0002, slippage_kind="fixed", value=1.0))
    clip: float = 5.0
    seed: int = 20170103

    @property
    def revision(self) -> str:
        """Hash of the values: names the way of training."""
        return ids.content_hash(asdict(self))[:12]

    def environment(self, *, training: bool) -> EnvironmentConfig:
        return EnvironmentConfig(size=self.size, max_steps=self.max_steps if training else 0, reward=self.reward)

    def params(self) -> dict[str, str]:
        flat = {k: v for k, v in asdict(self).items() if k != "settings"}
        return {k: str(v) for k, v in {**flat, **{f"agent.{k}": v for k, v in self.settings.items()}}.items()}


@dataclass(frozen=True, slots=True, eq=False)
class AgentRun:
    """What a training gives. folder: the final agent's files. decisions: by seed number, over all test windows. scores:
    float64 (folds, seeds), Sharpe ratios per bar of the test windows. typical: number of the median seed."""

    folder: Path
    config: AgentConfig
    folds: tuple[Fold, ...]
    decisions: tuple[dict[str, Decisions], ...]
    scores: NDArray[np.float64]
    typical: int
    development: NDArray[np.int64]
    final: NDArray[np.int64]
    slice_start: int
    audit: leakage.Audit
    curve: tuple[float, ...]
    seconds: float


def train(
    data: TrainingSet,
    bars: Mapping[str, Bars],
    instruments: Mapping[str, Instrument],
    config: AgentConfig,
    work: Path,
    progress: Say | None = None,
) -> AgentRun:
    """Train every (fold, seed), play the test windows, train the final agent. work: a folder that belongs to exactly this
    training; call again with it after a kill. Raises TrainingError when there are too few rows."""
    say = progress or (lambda _: None)
    began = time.perf_counter()
    folds, development, final, slice_start = folds_of(data, config)
    key = ids.content_hash([data.content_hash(), config.revision])
    _claim(work, key)
    played: list[dict[str, list[Decisions]]] = [{} for _ in range(config.seeds)]
    scores = np.full((len(folds), config.seeds), np.nan)
    fitted: list[tuple[Fold, Scaler, NDArray[np.int64]]] = []
    jobs = len(folds) * config.seeds + 1
    for f, fold in enumerate(folds):
        scaler = fit_scaler(data.matrix.values[fold.train], data.event_start[fold.train], config.clip)
        fitted.append((fold, scaler, fold.train))
        market = MarketData.of(segments(data, bars, instruments, fold.train, scaler, config))
        tests = segments(data, bars, instruments, fold.test, scaler, config)
        for s in range(config.seeds):
            number = f * config.seeds + s + 1
            place = work / f"fold_{fold.number}" / f"seed_{s}"
            agent = trained(market, config, config.seed + s, place, say, f"{number} of {jobs}: fold {fold.number}, seed {s}")
            actions, equity = play(agent, tests, config)
            scores[f, s] = _sharpe(equity)
            for segment, act in zip(tests, actions, strict=True):
                played[s].setdefault(segment.bars.symbol, []).append(of_actions(segment.bars, act))
    typical = median_seed(scores)
    scaler = fit_scaler(data.matrix.values[development], data.event_start[development], config.clip)
    slice_fold = Fold(0, development, final, slice_start, int(data.event_start[final[-1]]), 0)
    fitted.append((slice_fold, scaler, development))
    market = MarketData.of(segments(data, bars, instruments, development, scaler, config))
    place = work / "final"
    curve: list[float] = []
    agent = trained(market, config, config.seed + typical, place, say, f"{jobs} of {jobs}: final agent, seed {typical}", curve)
    keep_scaler(scaler, data.matrix.names, place)
    audit = leakage.merge(
        leakage.label_overlap(data.events, [*folds, slice_fold]),
        leakage.scaler_range(data.matrix.values, data.event_start, fitted),
    )
    return AgentRun(
        place, config, tuple(folds), tuple({s: joined(parts) for s, parts in one.items()} for one in played), scores, typical,
        development, final, slice_start, audit, tuple(curve), time.perf_counter() - began,
    )  # fmt: skip


def folds_of(data: TrainingSet, config: AgentConfig) -> tuple[list[Fold], NDArray[np.int64], NDArray[np.int64], int]:
    """(walk-forward folds before the locked slice, development rows, final rows, start of the slice)."""
    development, final, slice_start = locked(data, config.final_fraction, config.embargo)
    folds = [
        Fold(f.number, development[f.train], development[f.test], f.test_start, f.test_end, f.purged)
        for f in walk_forward(
            data.event_start[development], data.event_end[development], folds=config.folds, embargo=config.embargo,
            first_train=config.first_train, min_train=config.min_train,
        )
    ]  # fmt: skip
    if not folds:
        raise TrainingError(
            f"{len(data)} rows ({data.span()}) give no fold with {config.min_train} training rows: load more history"
        )
    return folds, development, final, slice_start


def segments(
    data: TrainingSet,
    bars: Mapping[str, Bars],
    instruments: Mapping[str, Instrument],
    rows: NDArray[np.int64],
    scaler: Scaler,
    config: AgentConfig,
) -> list[Segment]:
    """Unbroken runs of `rows` (positions), one instrument each, with scaled features. Bars between rows that are not among
    them end a run: nothing is traded where nothing is known."""
    return matrix_segments(data.matrix, bars, instruments, rows, scaler, config)


def matrix_segments(
    matrix: FeatureMatrix,
    bars: Mapping[str, Bars],
    instruments: Mapping[str, Instrument],
    rows: NDArray[np.int64],
    scaler: Scaler,
    config: AgentConfig,
) -> list[Segment]:
    """`segments` of rows without labels."""
    out: list[Segment] = []
    for code, symbol in enumerate(matrix.symbols):
        if symbol not in instruments:
            continue
        own = rows[matrix.symbol[rows] == code]
        if len(own) < 2:
            continue
        times = matrix.close_time[own]
        span = bars[symbol].rows((bars[symbol].close_time >= times[0]) & (bars[symbol].close_time <= times[-1]))
        features = np.full((len(span), matrix.values.shape[1]), np.nan, np.float32)
        features[np.searchsorted(span.close_time, times)] = scaler(matrix.values[own])
        out += segments_of(instruments[symbol], span, features, config.costs)
    if not out:
        raise TrainingError(f"{len(rows)} rows give no two bars in a row of an instrument that may be traded")
    return out


def trained(
    market: MarketData, config: AgentConfig, seed: int, place: Path, say: Say, what: str, curve: list[float] | None = None
) -> Agent:
    """The agent of one training; the finished one in `place` when there is one, else trained, from its checkpoint if any."""
    kind = agent_class(config.agent)
    done = place / "done.json"
    if done.is_file():
        say(f"{what}: was finished before")
        if curve is not None:
            curve += json.loads(done.read_text())["curve"]
        found: Agent = kind.load(place)
        return found
    agent: Agent = kind(**config.settings)
    told = [-1]
    rewards: list[float] = []

    def tell(p: Progress) -> None:
        rewards.append(float(p.figures.get("reward", math.nan)))
        tenth = int(10 * p.steps / p.total)
        if tenth > told[0]:
            told[0] = tenth
            figures = ", ".join(f"{k} {v:.3g}" for k, v in list(p.figures.items())[:3])
            say(f"{what} [{'#' * tenth}{'.' * (10 - tenth)}] {p.steps:,} of {p.total:,} steps; {figures}")

    agent.train(market, config.environment(training=True), steps=config.steps, seed=seed, checkpoint=place, progress=tell)
    agent.save(place)
    clean = [r for r in rewards if math.isfinite(r)]
    draft = done.with_suffix(".part")
    draft.write_text(json.dumps({"seed": seed, "curve": clean}))
    draft.replace(done)
    if curve is not None:
        curve += clean
    return agent


def play(agent: Agent, tests: Sequence[Segment], config: AgentConfig) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """(actions int64 (T,) of each segment, equity float64 (S, T_max) of each on an account of its own): the agent's best
    actions from the first bar on, all segments side by side, its memory empty at the beginning. What is held at the last
    decision is closed by it."""
    lanes = VectorMarket(MarketData.of(tests), config.environment(training=False), len(tests), 0)
    lengths = np.array([len(s.bars) for s in tests])
    for lane in range(len(tests)):
        lanes.place(lane, lane)
    memory, begins = agent.start(len(tests)), np.ones(len(tests), bool)
    actions = np.zeros((len(tests), int(lengths.max())), np.int64)
    equity = np.full((len(tests), int(lengths.max())), lanes.config.cash)
    alive = np.ones(len(tests), bool)
    for t in range(int(lengths.max()) - 1):
        with torch_threads():
            chosen, memory = agent.act(lanes.observation, lanes.mask, memory, begins)
        begins = np.zeros(len(tests), bool)
        chosen = np.where(alive, chosen, 0)
        held = lanes.position
        last = alive & (t == lengths - 2)  # its order fills at the last bar's open
        chosen = np.where(last, np.where(held > 0, 3, np.where(held < 0, 4, 0)), chosen)
        actions[alive, t] = chosen[alive]
        step = lanes.step(np.asarray(chosen, np.int64))
        growth = np.exp(step.reward) if config.reward == "log_equity" else lanes.equity / np.maximum(equity[:, t], 1e-9)
        equity[:, t + 1] = np.where(alive, equity[:, t] * growth, equity[:, t])
        alive &= ~step.terminated
    return [actions[i, :n] for i, n in enumerate(lengths)], equity


def _sharpe(equity: NDArray[np.float64]) -> float:
    """Sharpe ratio per bar of the mean over all accounts; 0 where nothing was done."""
    r = np.diff(equity, axis=1) / equity[:, :-1]
    mean = r.mean(axis=0)
    deviation = float(mean.std(ddof=1)) if len(mean) > 1 else 0.0
    return float(mean.mean() / deviation) if deviation > 1e-15 else 0.0


def median_seed(scores: NDArray[np.float64]) -> int:
    """The seed whose mean over the folds is nearest to the interquartile mean of all seeds; the first of equals."""
    means = np.nanmean(scores, axis=0)
    return int(np.argmin(np.abs(means - interquartile_mean(means))))


def joined(parts: Sequence[Decisions]) -> Decisions:
    """Decisions of one instrument over several spans, in order of time."""
    ordered = sorted(parts, key=lambda d: int(d.bars.close_time[0]))
    columns = [np.concatenate([getattr(d, n) for d in ordered]) for n in ("enter_long", "enter_short", "exit_long", "exit_short")]
    first = ordered[0].bars
    whole = Bars(
        first.symbol, first.timeframe,
        *(np.concatenate([getattr(d.bars, n) for d in ordered])
          for n in ("close_time", "session", "open", "high", "low", "close", "volume")),
    )  # fmt: skip
    return Decisions(whole, *columns)


def keep_scaler(scaler: Scaler, features: Sequence[str], folder: Path) -> None:
    """Beside the agent's weights: what its observations are scaled with."""
    about = {
        "mean": scaler.mean.tolist(), "scale": scaler.scale.tolist(), "clip": scaler.clip, "first_time": scaler.first_time,
        "last_time": scaler.last_time, "rows": scaler.rows, "features": list(features),
    }  # fmt: skip
    (folder / SCALER_FILE).write_text(json.dumps(about, sort_keys=True) + "\n")


def read_scaler(folder: Path) -> Scaler:
    """Inverse of keep_scaler. Raises ValueError when the file is not one."""
    try:
        about = json.loads((folder / SCALER_FILE).read_text())
        mean, scale = (np.array(about[k], np.float32) for k in ("mean", "scale"))
        return Scaler(mean, scale, float(about["clip"]), int(about["first_time"]), int(about["last_time"]), int(about["rows"]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / SCALER_FILE} is not a scaler ({type(error).__name__}): train the agent again") from error


def _claim(work: Path, key: str) -> None:
    """Make the folder this training's; what another one left there is removed."""
    mark = work / "training.json"
    if mark.is_file() and json.loads(mark.read_text()).get("key") == key:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    mark.write_text(json.dumps({"key": key}))
