"""Many conditions at one close: the compiled answer is each trigger's own."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.trading.samples import eurusd, eurusd_4h
from trading.bars import Bars
from trading.execution_functions import triggers
from trading.execution_functions.base import Trigger
from trading.frame import Frame
from trading.monitors import Monitor, Monitors, compiled
from trading.timeframes import Timeframe

COLUMNS = ["low", "close"]


def trigger(**values: Any) -> Trigger:
    return triggers()[values["kind"]].model_validate(values)


def some(dice: random.Random, price: float) -> Trigger:
    level = round(price + dice.uniform(-0.002, 0.002), 4)
    timeframe = dice.choice([None, "4h"])
    made = [
        {"kind": "close_above", "level": level, "timeframe": timeframe},
        {"kind": "close_below", "level": level, "timeframe": timeframe},
        {"kind": "closes_beyond", "direction": dice.choice(["above", "below"]), "level": level, "count": dice.randint(1, 4)},
        {"kind": "level", "price": level},
        {"kind": "close_back_inside", "upper": round(level + 0.001, 4), "lower": level},
        {"kind": "indicator_condition", "condition": {dice.choice(["<", ">=", ">", "<="]): [dice.choice(COLUMNS), level]}},
        {"kind": "indicator_condition", "condition": {">": ["close", {"indicator": "sma", "params": {"period": 20}}]}},
        {"kind": "multi_timeframe", "of": [{"timeframe": "4h", "condition": {">": ["close", "open"]}}]},
    ]
    return trigger(**dice.choice(made))


def windows(row: int) -> dict[Timeframe, Bars]:
    hours = eurusd().rows(slice(0, row + 1))
    return {Timeframe.H1: hours, Timeframe.H4: eurusd_4h().known_at(int(hours.close_time[-1]))}


@pytest.mark.parametrize("row", [400, 1999, 4203, 6000, 6224])
def test_the_compiled_answer_is_each_triggers_own(row: int) -> None:
    dice, bars = random.Random(row), windows(row)
    price = float(eurusd().close[row])
    watched = [Monitor(f"m{n}", "EURUSD", Timeframe.H1, some(dice, price)) for n in range(200)]
    answer = Monitors(watched).at_close({("EURUSD", Timeframe.H1)}, lambda symbol, timeframe: bars[timeframe], lambda m: bars)
    expected = [m.key for m in watched if m.trigger.holds(Frame(bars, Timeframe.H1))[-1]]
    assert sorted(answer) == sorted(expected)
    assert 20 < len(expected) < 180


def test_only_what_closed_is_asked() -> None:
    one = Monitor("a", "EURUSD", Timeframe.H1, trigger(kind="close_above", level=0.5))
    other = Monitor("b", "EURUSD", Timeframe.H4, trigger(kind="close_above", level=0.5))
    bars = windows(3000)
    watched = Monitors([one, other])
    assert len(watched) == 2
    ask = lambda closed: watched.at_close(closed, lambda s, t: bars[t], lambda m: bars)  # noqa: E731
    assert ask({("EURUSD", Timeframe.H1)}) == ["a"]
    assert ask({("EURUSD", Timeframe.H4)}) == ["b"]
    assert ask(set()) == []


def test_levels_are_compiled_and_indicators_are_not() -> None:
    level = Monitor("a", "EURUSD", Timeframe.H1, trigger(kind="close_above", level=1.2))
    average = {">": ["close", {"indicator": "sma", "params": {"period": 20}}]}
    indicator = Monitor("b", "EURUSD", Timeframe.H1, trigger(kind="indicator_condition", condition=average))
    crosses = trigger(kind="indicator_condition", condition={"cross_above": ["close", 1.2]})
    crossing = Monitor("c", "EURUSD", Timeframe.H1, crosses)
    assert compiled(level) is not None
    assert compiled(indicator) is None
    assert compiled(crossing) is None


def test_a_missing_price_answers_no() -> None:
    bars = windows(3000)
    hours = bars[Timeframe.H1]
    close = hours.close.copy()
    close[-1] = np.nan
    gone = Bars("EURUSD", Timeframe.H1, hours.close_time, hours.session, hours.open, hours.high, hours.low, close, hours.volume)
    asked = (("close_above", 0.5), ("close_below", 9.0))
    watched = Monitors([Monitor(k, "EURUSD", Timeframe.H1, trigger(kind=k, level=level)) for k, level in asked])
    assert watched.at_close({("EURUSD", Timeframe.H1)}, lambda s, t: gone, lambda m: bars) == []
