"""Data arrival to model output: a bar of 100 instruments has closed and its bars are in memory; when has the model answered?

forecaster_100_ms: an LSTM, a Transformer and a linear member over 100 instruments asked together, features of the whole
anchored windows (four years of days) included; reference: asked one by one. with_rules: the strategy's stop and exits, too.
agent_100_ms: a recurrent agent whose memory is rebuilt from its last 64 bars. of_it_features_cpu_ms: the part that is features.
Median of the runs, by the clock and (cpu) in processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import Any

import numpy as np

from bench.core import Row, at_most
from bench.reference_data import stock
from ml import serving
from ml.environment import OWN_FEATURES
from ml.forecasters.arithmetic import ForecastModel, Member
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.features import WARM_UP
from trading.frame import BarWindow
from trading.models import ModelFile, ModelStrategy, bound, build
from trading.timeframes import Timeframe
from trading.windows import window_start

GOAL_MS = 100.0
WINDOW, HIDDEN, HEADS, MEMORY = 16, 16, 2, serving.REPLAYED


def run(quick: bool) -> Iterator[Row]:
    count, times = (10, 3) if quick else (100, 15)
    symbols = tuple(f"S{i:03d}" for i in range(count))
    bars = {symbol: _days(symbol, i) for i, symbol in enumerate(symbols)}
    _, features = _median_ms(times, partial(_features, bars))
    for name, files in (("forecaster", _forecaster(symbols)), ("agent", _agent(symbols))):
        served = serving.load(files, registered="tapeline-bench", version="1", run_id="")
        strategy = bound(_strategy(symbols), served)
        wall, cpu = _median_ms(times, partial(_answer, strategy, bars, ask=True, rules=False))
        _, whole = _median_ms(times, partial(_answer, strategy, bars, ask=True))
        alone, _ = _median_ms(max(1, times // 5), partial(_answer, strategy, bars, ask=False))
        yield Row(f"{name}_{count}_ms", wall, "ms", alone, wall / alone, goal=at_most(GOAL_MS))
        yield Row(f"{name}_{count}_cpu_ms", cpu, "ms", goal=at_most(GOAL_MS))
        yield Row(f"{name}_{count}_with_rules_cpu_ms", whole, "ms")
    yield Row("of_it_features_cpu_ms", features, "ms")


def _features(bars: dict[str, Bars]) -> None:
    for own in bars.values():
        serving.market_features(own, len(own) - WINDOW)


def _answer(strategy: ModelStrategy, bars: dict[str, Bars], *, ask: bool, rules: bool = True) -> int:
    """What a trade run does with the windows of a close; gives the number of wishes."""
    read = []
    for symbol, own in bars.items():
        window = BarWindow({strategy.timeframe: own})
        window.tail = 1
        read.append((window, stock(symbol, Timeframe.D1)))
    if ask:
        # One cache for all, as trade_lane.KnownBars has it.
        for window, _ in read:
            window.cache = read[0][0].cache
        strategy.ask_together(read)
    wishes = 0
    for window, instrument in read if rules else ():
        said = strategy.evaluate(window, instrument)
        wishes += int(said.enter_long[-1]) + int(said.enter_short[-1])
    return wishes


def _median_ms(times: int, work: Callable[[], Any]) -> tuple[float, float]:
    """(wall clock, processor time) of one call."""
    work()
    walls, spent = [], []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(1e3 * (time.perf_counter() - began))
        spent.append(1e3 * (time.process_time() - cpu))
    return statistics.median(walls), statistics.median(spent)


def _days(symbol: str, seed: int) -> Bars:
    """The anchored window of a day at the end of 2016: the three years before, and the year itself."""
    venue = calendar("XNYS")
    last = venue.position(date(2016, 12, 30))
    first = int(np.searchsorted(venue.number, window_start(int(venue.number[last]), Timeframe.D1, WARM_UP + MEMORY, venue)))
    span, random = slice(first, last + 1), np.random.default_rng(seed)
    n = last + 1 - first
    close = np.round(100 * np.exp(np.cumsum(0.01 * random.standard_normal(n))), 2)
    open_ = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(open_, close) + 0.5, np.minimum(open_, close) - 0.5
    volume = np.rint(random.lognormal(10, 1, n))
    return Bars(symbol, Timeframe.D1, venue.close_time[span], venue.number[span], open_, high, low, close, volume)


def _strategy(symbols: tuple[str, ...]) -> ModelStrategy:
    file = ModelFile.model_validate(
        {
            "name": "bench", "kind": "model", "status": "active", "mode": "paper", "symbols": list(symbols), "timeframe": "1d",
            "model": {"name": "bench"}, "exits": {"stop": {"kind": "atr", "period": 14, "multiple": 2.0}},
            "sizing": {"kind": "fixed", "quantity": 1.0},
        }
    )  # fmt: skip
    return build(file, "bench")


def _about(kind: str, symbols: tuple[str, ...], memory: int, **more: Any) -> bytes:
    names, version, schema = serving.schema_of(Timeframe.D1)
    return serving.about(
        kind=kind, model_hash="m", data_hash="d", schema_hash=schema, features_version=version, names=names,
        timeframe=Timeframe.D1, symbols=symbols, warm_up=WARM_UP, memory=memory, trained_until=0, margin=0.02, synthetic="drawn",
        **more,
    )  # fmt: skip


def _forecaster(symbols: tuple[str, ...]) -> dict[str, bytes]:
    names = serving.schema_of(Timeframe.D1)[0]
    random, f, d = np.random.default_rng(0), len(names), HIDDEN
    about = {"window": WINDOW, "clip": 5.0, "return_scale": 0.01, "calibration": [1.0, 0.0], "quantile_shift": [0.0] * 3}
    own = {"scaler.mean": np.zeros(f, np.float32), "scaler.scale": np.ones(f, np.float32)}

    def draw(*shape: int) -> Any:
        return (0.2 * random.standard_normal(shape)).astype(np.float32)

    def head(width: int) -> dict[str, Any]:
        return {"head.weight": draw(4, width), "head.bias": draw(4)}

    norms = {f"layer.norm{k}.{part}": draw(d) for k in (1, 2, 3) for part in ("weight", "bias")}
    members = (
        Member("linear", "linear", about, {**own, **head(f)}),
        Member("lstm", "lstm", about, {
            **own, **head(d), "lstm.weight_ih_l0": draw(4 * d, f), "lstm.weight_hh_l0": draw(4 * d, d),
            "lstm.bias_ih_l0": draw(4 * d), "lstm.bias_hh_l0": draw(4 * d),
        }),
        Member("transformer", "transformer", {**about, "heads": HEADS}, {
            **own, **head(d), **norms, "embed.weight": draw(d, f), "embed.bias": draw(d), "place": draw(WINDOW, d),
            "layer.mixed.weight": draw(3 * d, d), "layer.mixed.bias": draw(3 * d), "layer.out.weight": draw(d, d),
            "layer.out.bias": draw(d), "layer.up.weight": draw(2 * d, d), "layer.up.bias": draw(2 * d),
            "layer.down.weight": draw(d, 2 * d), "layer.down.bias": draw(d),
        }),
    )  # fmt: skip
    model = ForecastModel(names, WINDOW, (0.1, 0.5, 0.9), members, (0.2, 0.4, 0.4), 0.5, {})
    return {"model.safetensors": model.to_bytes(), serving.FILE: _about("forecaster", symbols, WINDOW)}


def _agent(symbols: tuple[str, ...]) -> dict[str, bytes]:
    import json

    from safetensors.numpy import save

    names = serving.schema_of(Timeframe.D1)[0]
    random, width, h = np.random.default_rng(1), len(names) + len(OWN_FEATURES), 2 * HIDDEN
    shapes = {
        "encoder.weight": (h, width), "encoder.bias": (h,), "memory.input.weight": (4 * h, h), "memory.input.bias": (4 * h,),
        "memory.recurrent": (4 * h, h), "action.weight": (5, h), "action.bias": (5,),
    }  # fmt: skip
    weights = save({name: (0.3 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()})
    scaler = {"mean": [0.0] * len(names), "scale": [1.0] * len(names), "clip": 5.0, "first_time": 0, "last_time": 0, "rows": 1}
    costs = Costs("per_value", rate=0.0002, slippage_kind="fixed", value=1.0)
    about = _about("agent", symbols, MEMORY, agent="recurrent_ppo", size=0.95, costs=costs)
    return {"weights.safetensors": weights, "scaler.json": json.dumps(scaler).encode(), serving.FILE: about}
