"""Changing a resting order: committed first, judged by the rules, and the broker's book is the truth afterwards."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine, text

from desk import doubts, modify
from desk.reconcile import reconcile
from desk.store import OrderRecord
from resources.brokers.protocol import Modification
from tests.desk.kit import Desk, bar
from tests.doubles.faulty_broker import FaultyBroker
from trading.orders import OrderState, OrderType, Side


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine, wrap=FaultyBroker).open()


@pytest.fixture
def faulty(desk: Desk) -> FaultyBroker:
    assert isinstance(desk.broker, FaultyBroker)
    return desk.broker


@pytest.fixture
def stop(desk: Desk) -> str:
    """The resting stop of an open long: 1000 EURUSD, stop 1.19, target 1.22."""
    entered = desk.submit()
    desk.close(1)
    return entered.intent_ids[1]


def order(desk: Desk, order_id: str) -> OrderRecord:
    found = desk.store.order(order_id)
    assert found is not None
    return found


def _stop_order(stop_price: float) -> OrderRecord:
    """What `level_problem` reads of the stop of a long."""
    fields: dict[str, Any] = {
        "id": "int-s",
        "leg": "stop",
        "side": Side.SELL,
        "order_type": OrderType.STOP,
        "stop_price": stop_price,
    }
    return cast(OrderRecord, SimpleNamespace(**fields))


def test_a_moved_stop_closes_at_its_new_level(desk: Desk, stop: str) -> None:
    result = desk.router.modify(stop, Modification(stop_price=1.195), "closer", "ana")
    assert (result.refusal, result.state) == ("", OrderState.ACCEPTED)
    assert order(desk, stop).stop_price == 1.195
    desk.close(2, bar("EURUSD", 2, 1.2, 1.2, 1.194, 1.2))
    assert desk.position() == 0
    assert order(desk, stop).average_price == pytest.approx(1.195)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Modification(), "CONFIG_INVALID"),
        (Modification(quantity=1001), "MAX_ORDER_QUANTITY"),
        (Modification(quantity=0), "MAX_ORDER_QUANTITY"),
        (Modification(limit_price=1.3), "PRICE_GRID"),
        (Modification(stop_price=1.19505), "PRICE_GRID"),
        (Modification(stop_price=1.2), "STOP_REQUIRED"),  # at the price: it would be a market order
        (Modification(stop_price=12.0), "STOP_REQUIRED"),
        (Modification(stop_price=1.13), "PRICE_COLLAR"),  # so far away that it guards nothing: 5 % is the collar
    ],
)
def test_what_may_not_be_is_refused_with_a_code_and_never_asked_for(
    desk: Desk, stop: str, change: Modification, code: str
) -> None:
    assert desk.router.modify(stop, change, "x", "ana").refusal.startswith(f"{code}:")
    assert order(desk, stop).state is OrderState.ACCEPTED
    with desk.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit WHERE action = 'modify'")).scalar() == 0


def test_a_stop_may_move_away_from_the_price_within_the_collar(desk: Desk, stop: str) -> None:
    assert desk.router.modify(stop, Modification(stop_price=1.15), "room", "ana").refusal == ""
    assert order(desk, stop).stop_price == 1.15


def test_a_stop_that_is_out_of_sight_may_come_nearer() -> None:
    far = modify.level_problem(_stop_order(stop_price=0.9), Modification(stop_price=0.95), 1.2, 5.0)
    farther = modify.level_problem(_stop_order(stop_price=0.9), Modification(stop_price=0.85), 1.2, 5.0)
    assert (far, farther.partition(":")[0]) == ("", "PRICE_COLLAR")


@pytest.mark.parametrize(("level", "code"), [(1.25, ""), (1.2, "STOP_REQUIRED"), (0.12, "STOP_REQUIRED")])
def test_a_target_across_the_price_is_not_asked_for(desk: Desk, stop: str, level: float, code: str) -> None:
    target = next(o.id for o in desk.store.working_orders() if o.leg == "target")
    assert desk.router.modify(target, Modification(limit_price=level), "x", "ana").refusal.partition(":")[0] == code


def test_while_nobody_knows_the_price_a_guard_can_be_moved() -> None:
    assert modify.level_problem(_stop_order(stop_price=1.19), Modification(stop_price=1.3), math.nan, 5.0) == ""


def test_an_order_that_is_over_or_in_doubt_is_not_changed(desk: Desk, faulty: FaultyBroker, stop: str) -> None:
    desk.router.cancel(stop, force=True)
    assert desk.router.modify(stop, Modification(stop_price=1.195), "x").refusal.startswith("STATE_UNKNOWN:")
    with pytest.raises(KeyError):
        desk.router.modify("int-none", Modification(stop_price=1.195), "x")


@pytest.mark.parametrize(("fault", "rests_at"), [("timeout_before", 1.19), ("timeout_after", 1.195)])
def test_after_an_unclear_answer_the_order_has_the_price_the_broker_says(
    desk: Desk, faulty: FaultyBroker, stop: str, fault: str, rests_at: float
) -> None:
    faulty.modify_faults = [fault]
    assert desk.router.modify(stop, Modification(stop_price=1.195), "x").state is OrderState.ACCEPTED
    assert order(desk, stop).stop_price == rests_at


def test_books_that_cannot_be_read_leave_the_change_in_doubt_until_the_next_comparison(
    desk: Desk, faulty: FaultyBroker, stop: str
) -> None:
    faulty.modify_faults, faulty.read_faults = ["timeout_before"], 1
    assert desk.router.modify(stop, Modification(stop_price=1.195), "x").state is OrderState.PENDING_UPDATE
    with desk.engine.connect() as connection:
        (doubt,) = doubts.standing(connection)
    assert (doubt.kind, doubt.order, doubt.blocks) == ("PENDING_UPDATE", stop, "changes of this order")
    reconcile(desk.engine, desk.broker, desk.clock)
    assert order(desk, stop).state is OrderState.ACCEPTED


def test_a_refusal_by_the_broker_leaves_the_order_working(desk: Desk, stop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = desk.paper.modify
    monkeypatch.setattr(desk.paper, "modify", lambda c, m: real(c, Modification(stop_price=1.19505)))
    assert desk.router.modify(stop, Modification(stop_price=1.195), "x").state is OrderState.ACCEPTED
    assert order(desk, stop).stop_price == 1.19
    assert desk.states(stop) == ["accepted"]


def test_who_and_why_are_kept(desk: Desk, stop: str) -> None:
    desk.router.modify(stop, Modification(stop_price=1.195), "nervous", "ana")
    with desk.engine.connect() as connection:
        row = connection.execute(text("SELECT actor, convert_from(content, 'UTF8') c FROM audit WHERE action = 'modify'")).one()
    assert row.actor == "ana"
    assert '"reason":"nervous"' in row.c
    assert '"stop_price":[1.19,1.195]' in row.c
