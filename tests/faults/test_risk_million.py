"""The short risk million: random intents against random limits with fills in between exceed no limit."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tests.faults import risk_million
from trading.limits import Limits
from trading.risk import RULES, Finding


def test_no_accepted_intent_exceeds_a_limit_and_no_exit_is_refused() -> None:
    tally = risk_million.Campaign(5).run(2_000)
    assert tally.breaches == []
    assert (tally.intents, tally.exits_refused, tally.needless) == (2_000, 0, 0)
    assert tally.accepted > 100
    assert min(tally.fills, tally.exits) > 100
    assert tally.rebuilt > 0
    assert len(tally.refused) > 8


@pytest.mark.parametrize(
    "rule",
    ["max_notional", "max_position", "concurrent_positions", "price_collar", "halt", "max_order_quantity", "position_open"],
)
def test_a_rule_that_lets_orders_through_is_found(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict(RULES.ordered())[rule]
    monkeypatch.setattr(type(made), "judge", lambda *_: Finding("", ""))
    assert risk_million.Campaign(5).run(800).breaches


def test_the_routers_orders_exceed_no_limit_either(ledger_engine: Engine) -> None:
    asked, accepted, breaches = risk_million.router_campaign(ledger_engine, 24, 3)
    assert breaches == []
    assert asked >= 24
    assert 0 < accepted < asked


def test_random_limits_leave_required_ones_out_now_and_then() -> None:
    import random

    dice = random.Random(1)
    made = [risk_million.random_limits(dice) for _ in range(200)]
    assert all(isinstance(x, Limits) for x in made)
    assert any(x.missing() for x in made)
