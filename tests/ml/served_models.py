"""Small models whose numbers are drawn, not learnt, as the files a version consists of: for tests of serving."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from ml import serving
from ml.environment import OWN_FEATURES
from ml.forecasters.arithmetic import ForecastModel, Member
from resources.model_store import files_hash
from trading.bars import Bars
from trading.costs import Costs
from trading.features import WARM_UP
from trading.timeframes import Timeframe

WINDOW, MEMORY, HIDDEN = 12, 24, 8
COSTS = Costs("per_value", rate=0.0002, slippage_kind="fixed", value=1.0)


def _scaler(bars: Bars) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    values = serving.market_features(bars)
    good = values[np.isfinite(values).all(axis=1)]
    deviation = good.std(axis=0)
    return good.mean(axis=0), np.where(deviation > 1e-9, deviation, 1.0).astype(np.float32)


def _about(
    kind: str, bars: Bars, model_hash: str, memory: int, trained_until: int, symbols: tuple[str, ...], **more: object
) -> bytes:
    names, version, schema = serving.schema_of(Timeframe.D1)
    given = {
        "schema_hash": schema, "features_version": version, "names": names, "timeframe": Timeframe.D1, "margin": 0.02,
        "synthetic": "", "data_hash": bars.content_hash(), **more,
    }  # fmt: skip
    return serving.about(
        kind=kind, model_hash=model_hash, symbols=symbols or (bars.symbol,), warm_up=WARM_UP, memory=memory,
        trained_until=trained_until, **given,  # type: ignore[arg-type]
    )  # fmt: skip


def forecaster(
    bars: Bars, *, seed: int = 0, trained_until: int = 0, symbols: tuple[str, ...] = (), **more: object
) -> dict[str, bytes]:
    """An LSTM beside a linear member, half and half, that look at `bars`' features; the seed draws their weights."""
    random, (mean, scale) = np.random.default_rng(seed), _scaler(bars)
    about = {"window": WINDOW, "clip": 5.0, "return_scale": 0.01, "calibration": [1.0, 0.0], "quantile_shift": [0.0]}
    width = len(mean)
    own = {"scaler.mean": mean, "scaler.scale": scale}

    def draw(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
        return (0.4 * random.standard_normal(shape)).astype(np.float32)

    linear = Member("linear", "linear", about, {**own, "head.weight": draw(2, width) / 4, "head.bias": np.zeros(2, np.float32)})
    lstm = Member("lstm", "lstm", about, {
        **own, "lstm.weight_ih_l0": draw(4 * HIDDEN, width), "lstm.weight_hh_l0": draw(4 * HIDDEN, HIDDEN),
        "lstm.bias_ih_l0": draw(4 * HIDDEN), "lstm.bias_hh_l0": draw(4 * HIDDEN), "head.weight": draw(2, HIDDEN),
        "head.bias": np.zeros(2, np.float32),
    })  # fmt: skip
    names = serving.schema_of(Timeframe.D1)[0]
    model = ForecastModel(names, WINDOW, (0.5,), (linear, lstm), (0.5, 0.5), 0.5, {"seed": seed})
    said = _about("forecaster", bars, model.content_hash(), WINDOW, trained_until, symbols, **more)
    return {"model.safetensors": model.to_bytes(), serving.FILE: said}


def agent(bars: Bars, *, seed: int = 0, trained_until: int = 0, symbols: tuple[str, ...] = ()) -> dict[str, bytes]:
    """A recurrent agent of HIDDEN units whose memory is rebuilt from MEMORY bars."""
    from safetensors.numpy import save

    random, (mean, scale) = np.random.default_rng(seed), _scaler(bars)
    width = len(mean) + len(OWN_FEATURES)
    shapes = {
        "encoder.weight": (HIDDEN, width), "encoder.bias": (HIDDEN,), "memory.input.weight": (4 * HIDDEN, HIDDEN),
        "memory.input.bias": (4 * HIDDEN,), "memory.recurrent": (4 * HIDDEN, HIDDEN), "action.weight": (5, HIDDEN),
        "action.bias": (5,), "value.weight": (1, HIDDEN), "value.bias": (1,),
    }  # fmt: skip
    weights = save({name: (0.6 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()})
    names = list(serving.schema_of(Timeframe.D1)[0])
    scaler = {
        "mean": mean.tolist(), "scale": scale.tolist(), "clip": 5.0, "first_time": 0, "last_time": 0, "rows": 1,
        "features": names,
    }  # fmt: skip
    about = _about(
        "agent", bars, hashlib.sha256(weights).hexdigest(), MEMORY, trained_until, symbols, agent="recurrent_ppo", size=0.95,
        costs=COSTS,
    )  # fmt: skip
    told = {"agent": "recurrent_ppo", "width": width, "settings": {"hidden": HIDDEN}}
    return {
        "weights.safetensors": weights, "scaler.json": json.dumps(scaler).encode(), "agent.json": json.dumps(told).encode(),
        serving.FILE: about,
    }  # fmt: skip


def tags(files: dict[str, bytes]) -> dict[str, str]:
    """What MLflow says of a version of these files."""
    order = list(files)
    return {"files": " ".join(order), "files_hash": files_hash(files, order), "data_hash": "d" * 64}


def loaded(files: dict[str, bytes], version: str = "1") -> serving.Served:
    return serving.load(files, registered="tapeline-drawn-sample", version=version, run_id=f"run-{version}")
