"""The costs of a strategy file: every key of trading.costs, each mistake with its line."""

from __future__ import annotations

import pytest

from tests.trading.samples import universe
from trading.costs import SLIPPAGE_CODES, Costs
from trading.strategy import json_schema, parse_strategy
from trading.strategy_schema import Costs as Written

RULES = """\
name: probe
symbols: [{symbol}]
timeframe: 1d
entry: {{long: {{">": [close, 1.1]}}}}
exits: {{stop: {{kind: percent, percent: 2}}}}
sizing: {{kind: fixed, quantity: 1000}}
costs:
  commission_kind: per_share
  rate: 0.005
  {key}: {value}
"""


def test_every_key_of_the_costs_can_be_written_and_says_the_same() -> None:
    assert set(Written.model_fields) == set(Costs.__slots__)
    costs = "{rate: 0.005, minimum: 1, slippage_kind: sqrt_volume, value: 0.05, participation: 0.1, borrow: 0.02}"
    text = RULES.split("costs:")[0].format(symbol="AAPL") + f"costs: {costs}\n"
    strategy, problems = parse_strategy(text, "probe.yaml", universe())
    assert strategy is not None, problems
    assert strategy.costs is not None
    expected = Costs("per_share", 0.005, 1.0, "sqrt_volume", 0.05, participation=0.1, borrow=0.02)
    assert Costs.from_dict(strategy.costs) == expected
    assert Costs.from_dict(Written().model_dump(mode="json")) == Costs()


def test_the_schema_for_editors_offers_every_kind_of_slippage() -> None:
    definition = json_schema()["$defs"]["Costs"]["properties"]
    assert definition["slippage_kind"]["enum"] == list(SLIPPAGE_CODES)
    assert {"participation", "borrow"} <= set(definition)


@pytest.mark.parametrize(
    ("symbol", "key", "value", "said"),
    [
        ("AAPL", "participation", "1.5", "costs.participation"),
        ("AAPL", "participaton", "0.1", "participation"),
        ("AAPL", "borrow", "-0.01", "costs.borrow"),
        ("AAPL", "slippage_kind", "root_volume", "sqrt_volume"),
        ("VIX", "participation", "0.1", "VIX has no volume"),
    ],
)
def test_a_mistake_in_the_costs_is_named_with_its_line(symbol: str, key: str, value: str, said: str) -> None:
    strategy, problems = parse_strategy(RULES.format(symbol=symbol, key=key, value=value), "probe.yaml", universe())
    assert strategy is None
    (problem,) = [p for p in problems if p.line == 10]
    assert said in str(problem)
