"""A model's strategy takes no new risk that its drift policy does not allow, and none where nobody has looked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from desk.planning import _size
from tests.trading.test_decisions import EURUSD, SIGNAL, T, outcome, refusal, snapshot
from trading.decisions import decide, decision_of
from trading.ids import canonical
from trading.signals import Decision
from trading.timeframes import US_PER_DAY

MODEL = {"name": "tapeline-m-free", "version": "3", "role": "champion"}
FRESH = {"version": "3", "drifted": False, "judged_time": T}
RISK = {"kind": "risk_percent", "percent": 0.5}


def of(then: str | None, verdict: dict[str, Any] | None, **model: str) -> bytes:
    policy = {} if then is None else {"model_drift": {"then": then, "max_age_days": 5.0}}
    measured = {} if verdict is None else {"model_drift": verdict}
    return snapshot(replace(SIGNAL, model={**MODEL, **model}, sizing=RISK), gates=policy, measured=measured)


def test_a_signal_that_no_model_made_is_not_asked() -> None:
    (said,) = [v for v in outcome(snapshot())["verdicts"] if v["gate"] == "model_drift"]
    assert (said["passed"], said["value"]) == (True, "off")


@pytest.mark.parametrize("then", ["half_size", "halt"])
def test_a_fresh_verdict_that_nothing_has_drifted_lets_it_through_whole(then: str) -> None:
    assert refusal(of(then, FRESH)) == ""
    assert "factor" not in outcome(of(then, FRESH))["size"]


@pytest.mark.parametrize("then", ["half_size", "halt"])
@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (None, "reason=missing field=measured.model_drift.version"),
        ({**FRESH, "version": "2"}, "reason=other_version judged=2"),
        ({**FRESH, "judged_time": T - 6 * US_PER_DAY}, "reason=expired"),
        ({**FRESH, "drifted": "no"}, "reason=missing field=measured.model_drift.drifted"),
        ({"version": "3", "drifted": False}, "reason=missing field=measured.model_drift.judged_time"),
    ],
)
def test_without_a_fresh_verdict_on_this_version_there_is_no_new_risk(
    then: str, verdict: dict[str, Any] | None, why: str
) -> None:
    said = refusal(of(then, verdict))
    assert said.startswith("MODEL_DRIFT: ")
    assert why in said


@pytest.mark.parametrize("then", ["half_size", "halt"])
def test_what_was_seen_only_after_the_close_judges_no_signal_of_that_close(then: str) -> None:
    """A replay of the past meets the verdicts of today."""
    assert "reason=judged_later" in refusal(of(then, {**FRESH, "judged_time": T + 1}))
    assert refusal(of(then, FRESH)) == "", "a verdict that saw the close itself, and nothing after it"


def test_alert_does_not_call_drifted_what_drifted_later() -> None:
    data = of("alert", {**FRESH, "drifted": True, "judged_time": T + 1})
    (said,) = [v for v in outcome(data)["verdicts"] if v["gate"] == "model_drift"]
    assert (said["passed"], said["value"]) == (True, "not judged")


def test_snapshots_from_before_are_decided_as_they_were_then() -> None:
    later = json.loads(of("halt", {**FRESH, "judged_time": T + 1}))
    assert refusal(canonical({**later, "schema": 3})) == ""


@pytest.mark.parametrize("then", [None, "whatever"])
def test_without_a_policy_that_is_known_there_is_no_new_risk(then: str | None) -> None:
    assert refusal(of(then, FRESH)) == "MODEL_DRIFT: reason=missing field=gates.model_drift.then"


def test_halt_refuses_what_has_drifted() -> None:
    assert "reason=drifted" in refusal(of("halt", {**FRESH, "drifted": True}))


def test_alert_and_a_challenger_in_shadow_trade_on() -> None:
    assert refusal(of("alert", {**FRESH, "drifted": True})) == ""
    assert refusal(of("alert", None)) == ""
    assert refusal(of(None, None, role="challenger")) == ""


def test_half_size_is_half_of_what_is_decided_and_of_what_the_desk_orders() -> None:
    whole, half = of("half_size", FRESH), of("half_size", {**FRESH, "drifted": True})
    sizes = [outcome(data)["size"] for data in (whole, half)]
    assert sizes[1]["quantity"] == sizes[0]["quantity"] / 2
    assert sizes[1]["risk"] == sizes[0]["risk"] / 2
    ordered = [_size(decision_of(data, decide(data)), EURUSD, 1e5, "USD")[0] for data in (whole, half)]
    assert ordered[1] == ordered[0] / 2 > 0


@pytest.mark.parametrize("factor", [0.0, -1.0, 2.0, float("nan")])
def test_the_desk_orders_nothing_by_a_factor_that_is_no_part(factor: float) -> None:
    taken = Decision(replace(SIGNAL, sizing=RISK), True, (), "", {"rule": RISK, "quantity": None, "factor": factor})
    quantity, _, why = _size(taken, EURUSD, 1e5, "USD")
    assert quantity == 0
    assert why.startswith("CONFIG_INVALID")


def test_the_desk_halves_where_the_account_was_not_known_when_it_was_decided() -> None:
    sizes = [{"rule": RISK, "quantity": None, **more} for more in ({}, {"factor": 0.5})]
    ordered = [_size(Decision(replace(SIGNAL, sizing=RISK), True, (), "", s), EURUSD, 1e5, "USD")[0] for s in sizes]
    assert ordered[1] == ordered[0] / 2 > 0
