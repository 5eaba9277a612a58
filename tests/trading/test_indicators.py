"""Indicators: declared outputs, inputs and warm-ups are TA-Lib's own; nothing looks ahead; bad input never leaks through."""

from __future__ import annotations

import numpy as np
import pytest
from talib import abstract

from tests.trading.samples import eurusd
from trading.bars import Bars
from trading.indicators import INDICATORS, Indicator, get

ALL = list(INDICATORS.values())
REGIMES = {"sar", "supertrend", "trend_mode"}  # a state that flips, not a memory that fades


def changed(bars: Bars, row: int, value: float) -> Bars:
    columns = {n: getattr(bars, n).copy() for n in ("open", "high", "low", "close", "volume")}
    for values in columns.values():
        values[row] = value
    return Bars(bars.symbol, bars.timeframe, bars.close_time, bars.session, **columns)


@pytest.fixture(scope="module")
def bars() -> Bars:
    return eurusd().rows(slice(0, 900))


@pytest.mark.parametrize("definition", ALL, ids=lambda d: d.name)
def test_the_first_value_comes_exactly_after_the_lookback_and_stays(definition: Indicator, bars: Bars) -> None:
    outputs = definition.compute(bars)
    assert len(outputs) == len(definition.outputs)
    for values in outputs:
        assert values.dtype == np.float64
        first = definition.lookback({})
        assert np.isnan(values[:first]).all()
        assert definition.sparse or np.isfinite(values[first:]).all()


@pytest.mark.parametrize("definition", [d for d in ALL if d.formula is None], ids=lambda d: d.name)
def test_declarations_agree_with_talib(definition: Indicator) -> None:
    info = abstract.Function(definition.function).info  # type: ignore[attr-defined]
    assert len(info["output_names"]) == len(definition.outputs)
    assert {p.talib_name for p in definition.parameters} <= set(info["parameters"])
    if any("unstable" in flag for flag in info["function_flags"]):
        assert definition.settle(definition.complete({})) > 0, "a recursive function needs bars to settle"


@pytest.mark.parametrize("definition", ALL, ids=lambda d: d.name)
def test_a_value_depends_on_no_later_bar(definition: Indicator, bars: Bars) -> None:
    whole = definition.compute(bars)
    for cut in (300, 555, 899):
        for full, prefix in zip(whole, definition.compute(bars.rows(slice(0, cut))), strict=True):
            assert full[:cut].tobytes() == prefix.tobytes()


@pytest.mark.parametrize(
    "definition", [d for d in ALL if d.settle(d.complete({})) and d.name not in REGIMES], ids=lambda d: d.name
)
def test_after_the_warm_up_the_start_hardly_matters(definition: Indicator, bars: Bars) -> None:
    warm = definition.warm_up({})
    for whole, late in zip(definition.compute(bars), definition.compute(bars.rows(slice(200, None))), strict=True):
        scale = np.nanstd(whole)
        assert np.max(np.abs(whole[200 + warm :] - late[warm:])) < 0.01 * scale


@pytest.mark.parametrize("definition", ALL, ids=lambda d: d.name)
def test_from_a_missing_input_on_every_value_is_unknown(definition: Indicator, bars: Bars) -> None:
    for values in definition.compute(changed(bars, 600, np.nan)):
        assert np.isnan(values[600:]).all()
        assert definition.sparse or np.isfinite(values[599])


@pytest.mark.parametrize("definition", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_bars_give_unknown_not_an_error(definition: Indicator, bars: Bars, rows: int) -> None:
    for values in definition.compute(bars.rows(slice(0, rows))):
        assert len(values) == rows


def test_sma_is_the_mean_and_the_source_can_be_chosen(bars: Bars) -> None:
    (values,) = get("sma").compute(bars, {"period": 5}, "high")
    np.testing.assert_allclose(values[10], bars.high[6:11].mean(), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [("ema", {"perod": 3}, "no parameter 'perod'"), ("ema", {"period": 1.5}, "whole number"), ("ema", {"period": 0}, "from 2 to"),
     ("ema", {"period": True}, "whole number"), ("bollinger", {"deviations_up": "2"}, "a number from")],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_by_name(name: str, params: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        get(name).complete(params)
