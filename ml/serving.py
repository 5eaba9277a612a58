"""A stored model as something that can be asked at a bar close: numpy alone, no MLflow, no torch.

``serving.json`` stands beside the numbers of every model and says how it is asked: features and their schema, timeframe,
instruments, how much memory it has, until when it was trained. Features are computed here from the bars of the window by the
code that made the training set, and only where that code still defines the very schema the model was trained on.

Every answer is computed in blocks of one size, whatever is asked about: a matrix product of one row rounds differently from
that row within a hundred, and a backtest must give what the live run of one bar gave, to the bit. An agent's memory is not
kept from bar to bar: at each bar its last bars are played again from an empty memory and a flat account.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml.environment import EnvironmentConfig, MarketData, Segment, VectorMarket
from ml.environment.kernel import BUY_LONG, CLOSE_LONG, CLOSE_SHORT, SELL_SHORT
from ml.environment.market import MarketError
from ml.forecasters.arithmetic import Floats, ForecastFormatError, ForecastModel
from ml.relative import relative_features, relative_version
from ml.scaling import Scaler
from ml.threads import blas_threads, torch_threads
from trading import features, ids
from trading.bars import Bars
from trading.costs import Costs
from trading.instruments import Instrument
from trading.models import Wanted
from trading.plugins import PluginError
from trading.timeframes import Timeframe

FILE: Final = "serving.json"
FORMAT: Final = "tapeline-serving-1"
BLOCK: Final = 128
"""Rows computed together; the last block of a question is filled up."""
REPLAYED: Final = 64
"""Bars an agent's memory is rebuilt from, where its training episodes were not shorter."""
_UNITS: Final = {f.name: f.unit for f in features.FEATURES}
Asked = Sequence[tuple[Bars, Instrument, int]]
_Values = NDArray[np.float32]


class NotServable(ValueError):
    """Files that are no model that can be asked. The message says which and why."""


@lru_cache(maxsize=16)
def schema_of(timeframe: Timeframe) -> tuple[tuple[str, ...], str, str]:
    """(names, version, schema hash) of the features that this code computes from bars; as FeatureMatrix.schema_hash."""
    names, _ = relative_features(features.NAMES, _UNITS, np.empty((0, len(features.NAMES))), np.empty(0))
    version = relative_version(features.FEATURES_VERSION)
    return names, version, ids.content_hash([list(names), version, str(timeframe)])


def market_features(bars: Bars, first: int = 0) -> _Values:
    """float32 (T - first, F) over exactly the bars given, the columns of `schema_of`."""
    values = features.compute_from(bars, first)
    return np.asarray(relative_features(features.NAMES, _UNITS, values, bars.close[first:])[1], np.float32)


def about(
    *, kind: str, model_hash: str, data_hash: str, schema_hash: str, features_version: str, names: Sequence[str],
    timeframe: Timeframe, symbols: Sequence[str], warm_up: int, memory: int, trained_until: int, margin: float, synthetic: str,
    agent: str = "", size: float = 0.0, costs: Costs | None = None,
) -> bytes:  # fmt: skip
    """``serving.json``. memory: bars an answer is made of; warm_up: of the features alone; trained_until: UTC us."""
    said = {
        "format": FORMAT, "kind": kind, "agent": agent, "model_hash": model_hash, "data_hash": data_hash,
        "schema_hash": schema_hash, "features_version": features_version, "features": list(names), "timeframe": str(timeframe),
        "symbols": list(symbols), "warm_up": warm_up, "memory": memory, "trained_until": trained_until, "margin": margin,
        "synthetic": synthetic, "size": size, "costs": asdict(costs) if costs is not None else None,
    }  # fmt: skip
    return json.dumps(said, sort_keys=True, indent=1).encode() + b"\n"


Answer = Callable[[Sequence[tuple[_Values, Bars, Instrument, int]], float], list[Wanted]]


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A loaded model (trading.models.ServedModel). kind: ``forecaster`` or ``agent NAME``; features_version: of its training;
    synthetic: what made-up market it learnt from, "" for a real one."""

    registered: str
    version: str
    run_id: str
    kind: str
    model_hash: str
    data_hash: str
    schema_hash: str
    features_version: str
    timeframe: Timeframe
    symbols: tuple[str, ...]
    warm_up: int
    memory: int
    trained_until: int
    margin: float
    synthetic: str
    answer: Answer

    @property
    def fits(self) -> bool:
        """Are its features those that this code computes?"""
        return self.schema_hash == schema_of(self.timeframe)[2]

    def wanted(self, windows: Asked, margin: float) -> list[Wanted]:
        """What it wants at rows ``first`` and later of each (bars, instrument, first), computed over exactly those bars.

        Raises NotServable when its features are not those of this code: nothing is guessed.
        """
        if not self.fits:
            raise NotServable(f"{self.registered} version {self.version} was trained on features {self.features_version}")
        if all(first >= len(bars) for bars, _, first in windows):
            return [_nothing(0) for _ in windows]
        asked = [self._seen(*window) for window in windows]
        with blas_threads(), torch_threads():
            return self.answer(asked, margin)

    def _seen(self, bars: Bars, instrument: Instrument, first: int) -> tuple[_Values, Bars, Instrument, int]:
        """(features, bars, instrument, first row) of the part that the answers are made of; features know all of `bars`."""
        start = min(max(0, first - self.memory + 1), len(bars))
        # A question without rows needs no features.
        nothing = np.empty((len(bars) - start, len(schema_of(self.timeframe)[0])), np.float32)
        values = market_features(bars, start) if first < len(bars) else nothing
        return values, bars.rows(slice(start, None)), instrument, first - start


def load(files: Mapping[str, bytes], *, registered: str, version: str, run_id: str) -> Served:
    """The model of its stored files. Raises NotServable."""
    try:
        told = json.loads(files[FILE])
        if told["format"] != FORMAT:
            raise NotServable(f"{FILE} is of format {told['format']!r}, expected {FORMAT!r}")
        answer = _forecaster(files) if told["kind"] == "forecaster" else _agent(files, told)
        return Served(
            registered, version, run_id, f"agent {told['agent']}" if told["kind"] == "agent" else str(told["kind"]),
            str(told["model_hash"]), str(told["data_hash"]), str(told["schema_hash"]), str(told["features_version"]),
            Timeframe(told["timeframe"]), tuple(told["symbols"]), int(told["warm_up"]) + int(told["memory"]) - 1,
            int(told["memory"]), int(told["trained_until"]), float(told["margin"]), str(told["synthetic"]), answer,
        )  # fmt: skip
    except NotServable:
        raise
    except KeyError as error:
        raise NotServable(f"{error.args[0]} is missing") from error
    except (ForecastFormatError, TypeError, ValueError) as error:
        raise NotServable(f"{type(error).__name__}: {error}") from error


def _nothing(rows: int) -> Wanted:
    no = np.zeros(rows, bool)
    return Wanted(no, no, no, no, no, np.zeros(rows))


# -- forecasters ---------------------------------------------------------------------------------------------------------


def _forecaster(files: Mapping[str, bytes]) -> Answer:
    model = ForecastModel.from_bytes(files["model.safetensors"])

    def answer(asked: Sequence[tuple[_Values, Bars, Instrument, int]], margin: float) -> list[Wanted]:
        rows = [_histories(values, model.window, first) for values, _, _, first in asked]
        p = probabilities(model, np.concatenate(rows))
        out, at = [], 0
        for part in rows:
            out.append(of_probability(p[at : at + len(part)], model.prior, margin))
            at += len(part)
        return out

    return answer


def _histories(values: _Values, window: int, first: int) -> _Values:
    """(T - first, W, F): the last W rows up to each of the rows asked about; NaN before the bars begin."""
    if first >= len(values):
        return np.empty((0, window, values.shape[1]), np.float32)
    start = first - window + 1
    padded = values[max(start, 0) :]
    if start < 0:
        padded = np.vstack([np.full((-start, values.shape[1]), np.nan, np.float32), padded])
    return np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).transpose(0, 2, 1)


def probabilities(model: ForecastModel, histories: _Values) -> Floats:
    """float64 (N,) of histories (N, W, F), computed in blocks of one size."""
    n = len(histories)
    out = np.empty(n)
    for start in range(0, n, BLOCK):
        part = histories[start : start + BLOCK]
        block = np.zeros((BLOCK, *part.shape[1:]), np.float32)
        block[: len(part)] = part
        out[start : start + BLOCK] = model.forecast(block).probability[: len(part)]
    return out


def of_probability(p: Floats, prior: float, margin: float) -> Wanted:
    """The rule the model was judged by (ml.decisions.of_forecasts): in where the probability is clearly beyond what the prior
    says, out where it is back at it."""
    high, low = max(prior, 0.5), min(prior, 0.5)
    known = np.isfinite(p)
    with np.errstate(invalid="ignore"):
        long, short, stay_long, stay_short = p > high + margin, p < low - margin, p > high, p < low
    strength = np.where(known, np.clip(2.0 * np.abs(np.where(known, p, 0.5) - 0.5), 0.0, 1.0), 0.0)
    return Wanted(known, long & known, short & known, stay_long & known, stay_short & known, strength)


# -- agents --------------------------------------------------------------------------------------------------------------


class NumpyPolicy:
    """The forward pass of ml.agents.recurrent_ppo, many lanes at once."""

    def __init__(self, weights: bytes) -> None:
        from safetensors.numpy import load as load_tensors

        self._p = {name: value.astype(np.float64) for name, value in load_tensors(weights).items()}
        self._size = self._p["memory.recurrent"].shape[1]

    def start(self, lanes: int) -> tuple[Floats, Floats]:
        return np.zeros((lanes, self._size)), np.zeros((lanes, self._size))

    def act(
        self, observation: _Values, mask: NDArray[np.bool_], memory: Any, begins: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], Any]:
        """The most probable allowed action per lane, and the memory after it."""
        p, size = self._p, self._size
        h, c = (np.where(begins[:, None], 0.0, part) for part in memory)
        x = np.tanh(observation.astype(np.float64) @ p["encoder.weight"].T + p["encoder.bias"])
        gates = x @ p["memory.input.weight"].T + p["memory.input.bias"] + h @ p["memory.recurrent"].T
        i, f, o = (1.0 / (1.0 + np.exp(-np.clip(gates[:, k * size : (k + 1) * size], -60.0, 60.0))) for k in range(3))
        c = f * c + i * np.tanh(gates[:, 3 * size :])
        h = o * np.tanh(c)
        logits = np.round(h @ p["action.weight"].T + p["action.bias"], 9)
        return np.argmax(np.where(mask, logits, -np.inf), axis=1), (h, c)


def _agent(files: Mapping[str, bytes], told: Mapping[str, Any]) -> Answer:
    policy = NumpyPolicy(files["weights.safetensors"]) if told["agent"] == "recurrent_ppo" else _plugin(files)
    s = json.loads(files["scaler.json"])
    mean, scale = (np.array(s[k], np.float32) for k in ("mean", "scale"))
    scaler = Scaler(mean, scale, float(s["clip"]), int(s["first_time"]), int(s["last_time"]), int(s["rows"]))
    memory, costs = int(told["memory"]), Costs.from_dict(told["costs"])
    # Ruin at nothing: an account of its own for each bar, which only an impossible price can empty.
    config = EnvironmentConfig(size=float(told["size"]), ruin=0.0)

    def answer(asked: Sequence[tuple[_Values, Bars, Instrument, int]], margin: float) -> list[Wanted]:
        return replayed(policy, [(scaler(values), *rest) for values, *rest in asked], memory, config, costs)

    return answer


def replayed(
    policy: Any, asked: Sequence[tuple[Any, ...]], memory: int, config: EnvironmentConfig, costs: Costs
) -> list[Wanted]:  # fmt: skip
    """What an agent wants at each row: it plays the last `memory` bars up to it, flat and with an empty memory at first, each
    row an account of its own. asked: (scaled features (T, F), bars, instrument, first row)."""
    segments: list[Segment] = []
    lanes: list[tuple[int, int]] = []
    out: list[Wanted] = []
    places: list[NDArray[np.int64]] = []
    for values, bars, instrument, first in asked:
        count = max(0, len(bars) - first)
        start = first - memory + 1
        wishes = np.zeros((5, count), bool)
        said = Wanted(wishes[0], wishes[1], wishes[2], wishes[3], wishes[4], np.zeros(count))
        out.append(said)
        places.append(np.empty(0, np.int64))
        if not count or start < 0:
            continue
        kept = np.append(np.arange(start, len(bars)), len(bars) - 1)  # a bar more: none of those asked about ends an episode
        finite = np.isfinite(values[kept]).all(axis=1)
        try:
            segment = Segment(
                instrument, bars.rows(kept), np.where(finite[:, None], values[kept], np.float32(0)).astype(np.float32), costs
            )
        except MarketError:
            continue  # a price is missing: no answer
        gaps = np.lib.stride_tricks.sliding_window_view(~finite[:-1], memory).any(axis=1)
        places[-1] = np.flatnonzero(~gaps).astype(np.int64)
        lanes += [(len(segments), int(row)) for row in places[-1]]
        segments.append(segment)
    if not lanes:
        return out
    data = MarketData.of(segments)
    target = np.zeros(len(lanes), np.int64)
    alive = np.ones(len(lanes), bool)
    for begin in range(0, len(lanes), BLOCK):
        part = lanes[begin : begin + BLOCK]
        held, ok = _play(policy, data, config, [*part, *[part[0]] * (BLOCK - len(part))], memory)
        target[begin : begin + BLOCK], alive[begin : begin + BLOCK] = held[: len(part)], ok[: len(part)]
    at = 0
    for said, place in zip(out, places, strict=True):
        its, good = target[at : at + len(place)], alive[at : at + len(place)]
        at += len(place)
        said.known[place] = good
        for column, wish in ((said.long, its > 0), (said.short, its < 0), (said.stay_long, its > 0), (said.stay_short, its < 0)):
            column[place] = good & wish
        said.strength[place] = np.where(good & (its != 0), 1.0, 0.0)
    return out


def _play(
    policy: Any, data: MarketData, config: EnvironmentConfig, lanes: Sequence[tuple[int, int]], memory: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(position each lane wants after its last bar: 1, 0 or -1; whether its account lived so long)."""
    market = VectorMarket(data, config, len(lanes), 0)
    for lane, (segment, row) in enumerate(lanes):
        market.place(lane, segment, row)
    state, begins = policy.start(len(lanes)), np.ones(len(lanes), bool)
    alive = np.ones(len(lanes), bool)
    for bar in range(memory):
        actions, state = policy.act(market.observation, market.mask, state, begins)
        begins = np.zeros(len(lanes), bool)
        if bar < memory - 1:
            alive &= ~market.step(np.asarray(actions, np.int64)).terminated
    held = np.sign(market.position).astype(np.int64)
    held = np.where(actions == BUY_LONG, 1, np.where(actions == SELL_SHORT, -1, held))
    return np.where((actions == CLOSE_LONG) | (actions == CLOSE_SHORT), 0, held), alive


class _Guarded:
    """A plug-in's agent whose mistakes are its author's: they silence its strategy and stop no other."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def start(self, lanes: int) -> Any:
        return self._guarded(self._agent.start, lanes)

    def act(self, *given: Any) -> Any:
        return self._guarded(self._agent.act, *given)

    @staticmethod
    def _guarded(ask: Callable[..., Any], *given: Any) -> Any:
        try:
            return ask(*given)
        except Exception as error:
            raise PluginError(f"the served agent: {type(error).__name__}: {error}") from error


def _plugin(files: Mapping[str, bytes]) -> Any:
    """A plug-in's agent from the source and files that were kept with it, as it was trained."""
    kept = json.loads(files["plugin.json"])
    module = ModuleType("tapeline_served_plugin_agent")
    sys.modules[module.__name__] = module
    folder = Path(tempfile.mkdtemp(prefix="tapeline-agent-"))
    try:
        exec(compile(files["agent_source.py"].decode(), "agent_source.py", "exec"), module.__dict__)  # noqa: S102 - the operator's own plug-in
        for name in kept["files"].values():
            (folder / name).write_bytes(files[name])
        return _Guarded(getattr(module, kept["class"]).load(folder))
    except Exception as error:
        raise NotServable(f"its plug-in: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
