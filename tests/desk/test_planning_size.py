"""The desk never orders more than the decision was taken with, nor more than its own account allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from desk.planning import _size
from tests.trading.test_decisions import EURUSD, SIGNAL
from trading.signals import Decision

ATR = {"kind": "atr_risk", "percent": 1.0, "multiple": 2.0, "period": 14}


def decision(sizing: dict[str, Any], size: dict[str, Any] | None) -> Decision:
    return Decision(replace(SIGNAL, sizing=sizing), True, (), "", size)


def planned(taken: Decision, equity: float = 100_000.0) -> tuple[float, dict[str, Any], str]:
    return _size(taken, EURUSD, equity, "USD")


RISK = {"kind": "risk_percent", "percent": 0.5}  # 500 of 100,000 over a distance of 0.002: 250,000 units


@pytest.mark.parametrize(("decided", "equity", "quantity"), [(250_000.0, 1e5, 250_000), (200_000.0, 1e5, 200_000),
                                                             (250_000.0, 5e4, 125_000), (None, 1e5, 250_000)])  # fmt: skip
def test_the_smaller_of_the_decisions_size_and_the_accounts_is_ordered(
    decided: float | None, equity: float, quantity: float
) -> None:
    found, record, refusal = planned(decision(RISK, {"rule": RISK, "quantity": decided}), equity)
    assert (found, refusal) == (quantity, "")
    assert record["quantity"] == quantity
    assert ("by_equity" in record) == (decided == 200_000.0)


def test_a_plain_rule_is_the_strategys_own_whatever_the_decision_says() -> None:
    found, record, _ = planned(decision(RISK, {"rule": {"kind": "risk_percent", "percent": 5.0}, "quantity": None}))
    assert (found, record["rule"]) == (250_000, RISK)


def test_an_adaptive_rule_is_sized_as_decided_and_recorded_beside_what_the_file_states() -> None:
    found, record, refusal = planned(decision(ATR, {"rule": RISK, "quantity": 250_000.0}))
    assert (found, refusal) == (250_000, "")
    assert (record["rule"], record["stated"]) == (RISK, ATR)


WRONG: list[dict[str, Any] | None] = [
    None,
    {"rule": None, "quantity": 1.0},
    {"rule": {"kind": "risk_percent", "percent": 2.0}},
    {"rule": {"kind": "fixed", "quantity": 9.0}},
    {"rule": RISK, "quantity": float("nan")},
]


@pytest.mark.parametrize("size", WRONG)
def test_an_adaptive_rule_without_a_decision_within_the_files_cap_orders_nothing(size: dict[str, Any] | None) -> None:
    found, _, refusal = planned(decision(ATR, size))
    assert found == 0
    assert refusal.startswith("CONFIG_INVALID: strategy=ema_trend sizing=")
