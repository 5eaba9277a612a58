"""Risk files: every mistake named, and an absent limit never becomes a permission."""

from __future__ import annotations

import math

import pytest

from tests.paths import ROOT
from trading.ids import file_revision
from trading.limit_math import daily_loss_reached, exceeds, leverage_exceeded, order_notional
from trading.limits import REQUIRED, parse_limits

DEFAULT = ROOT / "data" / "config" / "risk" / "default.yaml"


def test_the_shipped_risk_file_is_complete() -> None:
    text = DEFAULT.read_text()
    limits, problems = parse_limits(text, "risk/default.yaml")
    assert problems == []
    assert limits is not None
    assert limits.missing() == []
    assert limits.revision == file_revision(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_notionl: 5\n", "risk.yaml:1: max_notionl: unknown key"),
        (
            "name: x\nmax_order_quantity: -1\n",
            "risk.yaml:2: max_order_quantity: is -1 ",
        ),
        ("name: x\nmax_notional: lots\n", "risk.yaml:2: max_notional: is 'lots' "),
        ("max_concurrent_positions: 2.5\n", "risk.yaml:1: max_concurrent_positions: is 2.5 "),
        ("daily_loss:\n  percent: 300\n", "risk.yaml:2: daily_loss.percent: is 300"),
        ("strategies:\n  trend:\n    max_gross_leverage: 2\n", "risk.yaml:3: strategies.trend.max_gross_leverage: unknown key"),
        ("", "risk.yaml:1: the file is empty"),
        ("[1, 2]\n", "risk.yaml:1: is a list"),
    ],
)
def test_a_bad_risk_file_gives_no_limits_and_says_where_and_what(text: str, expected: str) -> None:
    limits, problems = parse_limits(text, "risk.yaml")
    assert limits is None
    assert any(str(p).startswith(expected) for p in problems), [str(p) for p in problems]


def test_the_nearest_name_is_offered() -> None:
    _, problems = parse_limits("max_notionl: 5\n", "risk.yaml")
    assert problems[0].nearest == "max_notional"


def test_absent_limits_are_problems_and_the_given_ones_keep_guarding() -> None:
    limits, problems = parse_limits("max_notional: 5\n", "risk.yaml")
    assert limits is not None
    assert limits.max_notional == 5
    assert {p.key for p in problems} == set(REQUIRED) - {"max_notional"}
    assert limits.missing() == [name for name in REQUIRED if name != "max_notional"]


def test_a_daily_loss_without_a_number_is_missing() -> None:
    limits, problems = parse_limits(DEFAULT.read_text().replace("  amount: 3000\n  percent: 3\n", "  {}\n"), "risk.yaml")
    assert limits is not None
    assert limits.missing() == ["daily_loss"]
    assert [p.key for p in problems] == ["daily_loss"]


def test_a_strategy_limit_without_effect_is_reported_with_its_line() -> None:
    text = DEFAULT.read_text().replace("strategies: {}", "strategies:\n  trend:\n    max_notional: 900000")
    _, problems = parse_limits(text, "risk.yaml")
    assert [(p.line, p.key) for p in problems] == [
        (text.splitlines().index("    max_notional: 900000") + 1, "strategies.trend.max_notional")
    ]


def test_a_revision_cannot_be_written() -> None:
    _, problems = parse_limits(DEFAULT.read_text() + "revision: abc\n", "risk.yaml")
    assert [p.key for p in problems] == ["revision"]


def test_unknown_values_and_missing_limits_always_breach() -> None:
    assert exceeds(math.nan, 5.0)
    assert exceeds(5.0, math.nan)
    assert not exceeds(5.0, 5.0)
    assert exceeds(5.01, 5.0)
    assert leverage_exceeded(math.nan, 100.0, 2.0)
    assert leverage_exceeded(0.0, 0.0, 2.0)
    assert leverage_exceeded(0.0, -5.0, 2.0)
    assert not leverage_exceeded(200.0, 100.0, 2.0)
    assert order_notional(-3.0, 10.0, 50.0) == 1500.0


@pytest.mark.parametrize(
    ("pnl", "amount", "percent", "reached"),
    [
        (-99.0, 100.0, math.nan, False),
        (-100.0, 100.0, math.nan, True),
        (-2.9, math.nan, 3.0, False),
        (-3.0, math.nan, 3.0, True),
        (-3.0, 100.0, 3.0, True),
        (50.0, 100.0, 3.0, False),
        (0.0, math.nan, math.nan, True),
        (math.nan, 100.0, 3.0, True),
    ],
)
def test_a_daily_loss_is_reached_at_its_number(pnl: float, amount: float, percent: float, reached: bool) -> None:
    assert daily_loss_reached(pnl, 100.0, amount, percent) == reached
