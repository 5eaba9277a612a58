"""A stored model answers at a bar what it answers for that bar in a backtest, to the bit, and never where it cannot know."""

from __future__ import annotations

import json
from dataclasses import fields
from decimal import Decimal

import numpy as np
import pytest

from ml import serving
from ml.environment import EnvironmentConfig, MarketData, Segment, VectorMarket
from ml.forecasters.arithmetic import ForecastModel
from tests.ml import served_models
from tests.trading.samples import spx
from trading.bars import Bars
from trading.instruments import AssetClass, Instrument
from trading.models import Wanted
from trading.timeframes import Timeframe

BARS = spx().rows(slice(0, 900))
SPX = Instrument("SPX", AssetClass.INDEX, "XNYS", Decimal("0.01"), "USD", "sample", "SPX", Timeframe.D1)
KINDS = {"forecaster": served_models.forecaster(BARS), "agent": served_models.agent(BARS, seed=5)}


def wanted(served: serving.Served, bars: Bars, first: int) -> Wanted:
    return served.wanted([(bars, SPX, first)], served.margin)[0]


def same(a: Wanted, b: Wanted, rows: slice = slice(None)) -> bool:
    return all(np.array_equal(getattr(a, f.name)[rows], getattr(b, f.name)) for f in fields(Wanted))


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_one_row_alone_is_that_row_among_all_and_later_bars_change_nothing(self, kind: str) -> None:
        served = served_models.loaded(KINDS[kind])
        first = served.warm_up - 1
        whole = wanted(served, BARS, first)
        assert whole.known.all()
        assert {bool(x) for x in whole.long} == {True, False}
        for row in (first, first + 1, first + 200, len(BARS) - 1):
            alone = wanted(served, BARS.rows(slice(0, row + 1)), row)
            assert same(whole, alone, slice(row - first, row - first + 1)), row

    def test_several_instruments_asked_together_are_each_asked_alone(self, kind: str) -> None:
        served = served_models.loaded(KINDS[kind])
        windows = [(BARS.rows(slice(0, end)), SPX, end - 1) for end in range(500, 700)]
        together = served.wanted(windows, served.margin)
        for at in (0, 1, 127, 128, 199):
            assert same(together[at], served.wanted([windows[at]], served.margin)[0])

    def test_after_the_warm_up_it_answers_and_long_before_it_does_not(self, kind: str) -> None:
        served = served_models.loaded(KINDS[kind])
        assert wanted(served, BARS.rows(slice(0, served.warm_up)), served.warm_up - 1).known.all()
        assert not wanted(served, BARS.rows(slice(0, served.warm_up - 12)), served.warm_up - 13).known.any()

    def test_where_a_price_is_missing_there_is_no_answer(self, kind: str) -> None:
        served = served_models.loaded(KINDS[kind])
        close = BARS.close.copy()
        close[600] = np.nan
        broken = Bars("SPX", BARS.timeframe, BARS.close_time, BARS.session, BARS.open, BARS.high, BARS.low, close, BARS.volume)
        assert not wanted(served, broken, 600).known[0]

    def test_a_model_of_other_features_is_never_asked(self, kind: str) -> None:
        files = dict(KINDS[kind])
        said = json.loads(files[serving.FILE]) | {"schema_hash": "other", "features_version": "other"}
        served = served_models.loaded({**files, serving.FILE: json.dumps(said).encode()})
        assert not served.fits
        with pytest.raises(serving.NotServable, match="features other"):
            wanted(served, BARS, 800)


def test_a_forecaster_wants_what_it_was_judged_by() -> None:
    served = served_models.loaded(KINDS["forecaster"])
    model = ForecastModel.from_bytes(KINDS["forecaster"]["model.safetensors"])
    values = serving.market_features(BARS)
    first = served.warm_up - 1
    windows = np.stack([values[row - model.window + 1 : row + 1] for row in range(first, len(BARS))])
    p = model.forecast(windows).probability
    said = wanted(served, BARS, first)
    assert np.array_equal(said.long, p > 0.5 + 0.02)
    assert np.array_equal(said.short, p < 0.5 - 0.02)
    assert np.array_equal(said.stay_long, p > 0.5)
    assert np.array_equal(said.stay_short, p < 0.5)


def test_an_agent_wants_the_position_it_plays_itself_into_from_flat() -> None:
    served = served_models.loaded(KINDS["agent"])
    scaler = json.loads(KINDS["agent"]["scaler.json"])
    values = (serving.market_features(BARS) - np.float32(scaler["mean"])) / np.float32(scaler["scale"])
    values = np.clip(values, -5, 5).astype(np.float32)
    policy = serving.NumpyPolicy(KINDS["agent"]["weights.safetensors"])
    rows = range(400, 700, 5)
    held = []
    for row in rows:
        start = row - served_models.MEMORY + 1
        segment = Segment(SPX, BARS.rows(slice(start, row + 3)), values[start : row + 3], served_models.COSTS)
        market = VectorMarket(MarketData.of([segment]), EnvironmentConfig(size=0.95, ruin=0.0), 1, 0)
        market.place(0, 0)
        memory, begins = policy.start(1), np.array([True])
        for _ in range(served_models.MEMORY):
            action, memory = policy.act(market.observation, market.mask, memory, begins)
            begins = np.array([False])
            market.step(action)  # what it wants is what it then holds at the next open
        held.append(float(np.sign(market.position[0])))
    said = wanted(served, BARS, 400)
    at = np.array(rows) - 400
    assert np.array_equal(said.long[at].astype(float) - said.short[at], held)
    assert set(held) == {-1.0, 0.0, 1.0}


def test_the_numpy_policy_acts_as_the_agent_that_was_trained() -> None:
    import torch

    from ml.agents.recurrent_ppo import Policy

    weights = KINDS["agent"]["weights.safetensors"]
    from safetensors.torch import load

    width = len(serving.schema_of(Timeframe.D1)[0]) + 4
    policy = Policy(width, served_models.HIDDEN)
    policy.load_state_dict(load(weights))
    seen = np.random.default_rng(1).standard_normal((40, 16, width)).astype(np.float32)
    mask = np.ones((16, 5), bool)
    ours, state = serving.NumpyPolicy(weights), policy.memory.empty_state(16)
    memory = ours.start(16)
    for t, row in enumerate(seen):
        begins = np.full(16, t == 0)
        with torch.no_grad():
            log_p, _, state = policy(
                torch.from_numpy(row)[None], torch.from_numpy(mask)[None], state, torch.from_numpy(begins)[None]
            )
        actions, memory = ours.act(row, mask, memory, begins)
        assert np.array_equal(actions, log_p[0].argmax(-1).numpy())


@pytest.mark.parametrize("missing", ["serving.json", "model.safetensors"])
def test_files_that_are_no_model_are_named(missing: str) -> None:
    files = {name: content for name, content in KINDS["forecaster"].items() if name != missing}
    with pytest.raises(serving.NotServable, match=missing):
        served_models.loaded(files)
    with pytest.raises(serving.NotServable):
        served_models.loaded({**KINDS["forecaster"], missing: b"{}"})
