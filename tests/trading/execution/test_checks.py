"""A file that asks for what cannot be worked is told so, with the line and what to write instead."""

from __future__ import annotations

import re

import pytest

from tests.desk.kit import config
from tests.paths import ROOT
from tests.trading.samples import universe
from trading.execution.spec import parse
from trading.plans import parse_plan
from trading.strategy import parse_strategy
from trading.universe import Universe

UNIVERSE: Universe = config().universe
STRATEGY = """\
name: slow
symbols: [EURUSD]
timeframe: {timeframe}
entry: {{long: {{">": [{{indicator: roc, params: {{period: 3}}}}, 0]}}}}
exits: {{stop: {{kind: points, points: 0.01}}}}
sizing: {{kind: fixed, quantity: 600}}
gates: {{valid_bars: {valid}}}
execution: {execution}
"""
PLAN = """\
name: slow_plan
symbol: EURUSD
direction: long
timeframe: 1h
valid: {{from: 2017-12-20, to: 2018-01-29}}
entry: {{kind: close_above, level: 1.2}}
stop: 1.19
{more}
sizing: {{kind: fixed, quantity: 600}}
gates: {{valid_bars: 4}}
execution: {{algo: twap, minutes: 180, slices: 3}}
"""


def problems(execution: str, valid: int = 4, timeframe: str = "1h") -> list[str]:
    _, found = parse_strategy(STRATEGY.format(execution=execution, valid=valid, timeframe=timeframe), "slow.yaml", UNIVERSE)
    return [str(p) for p in found]


def test_a_strategy_and_a_plan_carry_it() -> None:
    strategy, found = parse_strategy(
        STRATEGY.format(execution="{algo: twap, minutes: 180, slices: 3}", valid=4, timeframe="1h"), "slow.yaml", UNIVERSE
    )
    assert strategy is not None, found
    plan, found = parse_plan(PLAN.format(more="target: 1.3"), "slow.yaml", UNIVERSE)
    assert plan is not None, found
    assert strategy.execution == plan.execution
    assert (plan.execution["algo"], plan.execution["slices"], plan.execution["rest"]) == ("twap", 3, "cancel")


@pytest.mark.parametrize(
    ("execution", "says"),
    [
        ("{algo: pov, minutes: 30}", "algo"),
        ("{algo: twap, minutes: 180}", "slices"),
        ("{algo: twap, minutes: 180, slices: 3, visible: 5}", "visible"),
        ("{algo: twap, minutes: 300, slices: 5}", "gates.valid_bars of at least 5"),
        ("{algo: twap, minutes: 240, slices: 4, rest: market}", "gates.valid_bars of at least 5, or rest: cancel"),
        ("{algo: twap, minutes: 180, slices: 6}", "at most 3 slices"),
        ("{algo: twap, minutes: 90, slices: 3}", "minutes of at least 120"),
        ("{algo: twap, minutes: 240, slices: 3, jitter: 0.5}", "at most 2 slices, or less jitter"),
        ("{algo: vwap, minutes: 180, slices: 3}", "no volume to make a profile of"),
        ("{algo: twap, minutes: 180, slices: 3, participation: 0.1}", "no volume to take a share of"),
        ("{algo: iceberg, minutes: 30, visible: 100}", "shorter than a bar"),
        ("{algo: iceberg, minutes: 180, visible: 100.5}", "a multiple of 1"),
    ],
)
def test_what_cannot_be_worked_is_an_error(execution: str, says: str) -> None:
    found = problems(execution)
    assert any(says in p for p in found), found
    assert any("slow.yaml:8" in p for p in found), found


def test_what_is_closed_in_parts_cannot_be_entered_in_slices() -> None:
    plan, found = parse_plan(PLAN.format(more="targets: [{share: 0.5, at: 1.3}, {share: 0.5, at: 1.4}]"), "slow.yaml", UNIVERSE)
    assert plan is None
    assert "cannot be closed in parts, as the targets of this file ask for" in str(found[0])
    assert "a file with execution for each part" in str(found[0])


def test_the_pages_example_is_a_strategy() -> None:
    page = (ROOT / "docs" / "execution-algorithms.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(name: .*?)^```", page, re.MULTILINE | re.DOTALL)
    strategy, found = parse_strategy(text, "strategies/slow_trend.yaml", universe())
    assert strategy is not None, [str(p) for p in found]
    assert found == []
    assert parse(strategy.execution).rest == "market"
