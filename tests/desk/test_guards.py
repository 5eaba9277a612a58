"""An open trade is guarded, whatever became of its guard: what nothing closes any more is closed, unless a person said no."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from desk import events, guards
from desk.exit_orders import MAX_ATTEMPTS, RETRY_US
from desk.reconcile import reconcile
from desk.router import GuardNeeded
from resources.brokers.protocol import BrokerEvent, Execution
from tests.desk.kit import Desk, bar, hour
from trading.orders import OrderEvent, OrderState, Side

ENTRY, STOP, TARGET = 0, 1, 2


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine).open()


def at_broker(desk: Desk, order_id: str) -> None:
    """The broker ends an order by itself; the desk hears of it."""
    desk.paper.cancel(order_id)
    events.drain(desk.engine, desk.broker, desk.clock)


def asked(desk: Desk) -> list[str]:
    """Legs of the exits that are sent now."""
    found = [desk.store.order(i) for i in desk.router.continue_exits()]
    return [o.leg for o in found if o is not None]


def mismatches(desk: Desk) -> dict[str, str]:
    return {s: m["text"] for s, m in reconcile(desk.engine, desk.broker, desk.clock).mismatches.items()}


def test_a_guarded_trade_is_left_alone(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    assert asked(desk) == []
    assert mismatches(desk) == {}


def test_a_trade_whose_stop_the_broker_ended_is_closed(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1)
    at_broker(desk, entered.intent_ids[STOP])
    assert mismatches(desk)["EURUSD"].endswith("holds 1000 without a working stop or exit")
    assert asked(desk) == [f"exit:unprotected:{hour(1)}"]
    assert mismatches(desk) == {}, "the exit guards it"
    desk.close(2)
    assert (desk.position(), desk.paper.positions(), desk.paper.open_orders()) == (0, [], [])


def test_a_trade_of_which_a_part_lost_its_stop_is_closed_whole(desk: Desk) -> None:
    entered = desk.submit(targets=((0.5, 1.21), (0.5, 1.22)), target=1.22)
    desk.close(1)
    stops = [o for i in entered.intent_ids if (o := desk.store.order(i)) is not None and o.leg.startswith("stop")]
    at_broker(desk, stops[0].id)
    assert mismatches(desk)["EURUSD"].endswith("without a working stop or exit for 500 of it")
    assert asked(desk) == [f"exit:unprotected:{hour(1)}"]
    desk.close(2)
    assert (desk.position(), desk.paper.open_orders()) == (0, [])


def test_an_exit_that_the_broker_cancels_while_the_trade_is_open_is_asked_for_again(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    (exit_id,) = desk.router.exit_position("trend", "EURUSD", "rule", hour(1)).intent_ids
    at_broker(desk, exit_id)
    assert asked(desk) == [f"exit:rule:{hour(1)}:2"]
    desk.close(2)
    assert desk.position() == 0


def test_a_stop_of_a_part_that_fills_although_cancelled_takes_the_exit_with_it_and_the_rest_is_closed(desk: Desk) -> None:
    """The broker confirms the cancel of a stop, fills it all the same, and its group cancels the exit for both parts."""
    entered = desk.submit(targets=((0.5, 1.21), (0.5, 1.22)), target=1.22)
    desk.close(1)
    stop = next(o for i in entered.intent_ids if (o := desk.store.order(i)) is not None and o.leg == "stop.1")
    (exit_id,) = desk.router.exit_position("trend", "EURUSD", "rule", hour(1)).intent_ids
    told = Execution("late", stop.id, "b", "EURUSD", Side.SELL, 500, 1.19, 0.0, "USD", hour(1))
    with desk.engine.begin() as connection:
        late = BrokerEvent("late", stop.id, "b", OrderEvent.FILL, hour(1), "", told)
        events.apply_event(connection, desk.broker, late, hour(1))
    at_broker(desk, exit_id)
    assert desk.position() == 500
    assert asked(desk) == [f"exit:rule:{hour(1)}:2"]
    desk.close(2)
    assert desk.position() == 0


def test_a_trade_that_filled_late_beside_another_is_closed_and_the_other_stays(desk: Desk) -> None:
    first = desk.submit().intent_ids[ENTRY]
    desk.router.cancel(first)
    second = desk.submit(0, stop=1.18, close_time=hour(0) - 1)
    desk.close(1)
    late = Execution("x1", first, "b", "EURUSD", Side.BUY, 1000, 1.2, 0.0, "USD", hour(0))
    with desk.engine.begin() as connection:
        told = BrokerEvent("x1", first, "b", OrderEvent.FILL, hour(0), "", late)
        events.apply_event(connection, desk.broker, told, hour(0))
    assert desk.position() == 2000
    assert asked(desk) == [f"exit:late_fill:{hour(1)}"]
    assert desk.states(second.intent_ids[STOP]) == ["accepted"]


def test_a_position_is_never_given_up_however_often_its_exit_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.submit()
    desk.close(1)
    whole = desk.paper._instruments
    monkeypatch.setattr(desk.paper, "_instruments", {})  # every order is refused
    desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    for attempt in range(2, MAX_ATTEMPTS + 1):
        assert asked(desk) == [f"exit:rule:{hour(1)}:{attempt}"]
    assert asked(desk) == [], "the broker is not asked without end"
    desk.clock.advance(hour(1) + RETRY_US)
    assert asked(desk) == [f"exit:rule:{hour(1)}:{MAX_ATTEMPTS + 1}"]
    assert asked(desk) == []
    monkeypatch.setattr(desk.paper, "_instruments", whole)
    desk.clock.advance(hour(1) + 2 * RETRY_US)
    assert asked(desk) == [f"exit:rule:{hour(1)}:{MAX_ATTEMPTS + 2}"]
    desk.close(2)  # it was sent inside this bar: it fills at the next one's open
    desk.close(3)
    assert desk.position() == 0


class TestAPersonAndAGuard:
    def test_may_not_cancel_it_by_mistake(self, desk: Desk) -> None:
        entered = desk.submit()
        with pytest.raises(GuardNeeded, match="close the position instead"):
            desk.router.cancel(entered.intent_ids[STOP], "typo", "ana")  # the entry may fill any moment
        desk.close(1)
        with pytest.raises(GuardNeeded, match=r"stop int-\w+ guards the trade of trend in EURUSD"):
            desk.router.cancel(entered.intent_ids[STOP], "typo", "ana")
        assert desk.states(entered.intent_ids[STOP]) == ["accepted"]
        with desk.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM audit WHERE action = 'cancel'")).scalar() == 0

    def test_may_cancel_a_target_and_an_exit_beside_a_stop(self, desk: Desk) -> None:
        entered = desk.submit()
        desk.close(1)
        assert desk.router.cancel(entered.intent_ids[TARGET], "let it run", "ana") is OrderState.CANCELED

    def test_who_forces_it_is_left_alone_and_the_trade_is_said_to_be_unprotected(self, desk: Desk) -> None:
        entered = desk.submit()
        desk.close(1)
        assert desk.router.cancel(entered.intent_ids[STOP], "mine is elsewhere", "ana", force=True) is OrderState.CANCELED
        assert asked(desk) == []
        assert "EURUSD" in mismatches(desk)
        assert desk.submit(1, "revert").refusal.startswith("RECONCILIATION:")
        with desk.engine.connect() as connection:
            told = connection.execute(text("SELECT actor, content FROM audit WHERE action = 'cancel'")).one()
        assert (told.actor, json.loads(bytes(told.content))["left_unprotected"]) == ("ana", True)

    def test_who_then_asks_for_an_exit_gets_it_whatever_the_broker_does(self, desk: Desk) -> None:
        entered = desk.submit()
        desk.close(1)
        desk.router.cancel(entered.intent_ids[STOP], "mine is elsewhere", "ana", force=True)
        (exit_id,) = desk.router.exit_position("trend", "EURUSD", "manual", hour(1), "ana").intent_ids
        at_broker(desk, exit_id)
        assert asked(desk) == [f"exit:manual:{hour(1)}:2"]


def test_an_instrument_whose_corporate_action_is_not_done_waits_for_it(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1, bar("EURUSD", 1, 1.2, 1.2005, 1.1995, 1.2))
    at_broker(desk, entered.intent_ids[STOP])
    row = (
        "INSERT INTO action_applications (action_id, symbol, session, factor, state, content, started_time, started_wall)"
        " VALUES ('act-1', 'EURUSD', '2017-12-28', 2, 'started', '{}', 0, 0)"
    )
    with desk.engine.begin() as connection:
        connection.execute(text(row))
    assert asked(desk) == []
    with desk.engine.begin() as connection:
        connection.execute(text("UPDATE action_applications SET state = 'done'"))
    assert asked(desk) == [f"exit:unprotected:{hour(1)}"]


def test_a_trade_whose_position_an_action_renamed_waits_for_the_action_although_its_stop_is_gone(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1, bar("EURUSD", 1, 1.2, 1.2005, 1.1995, 1.2))
    at_broker(desk, entered.intent_ids[STOP])
    with desk.engine.begin() as connection:  # halfway: the position has its new name, its orders have the old one
        connection.execute(text("UPDATE positions SET symbol = 'GBPUSD' WHERE symbol = 'EURUSD'"))
        connection.execute(
            text(
                "INSERT INTO action_applications"
                " (action_id, symbol, session, factor, state, content, started_time, started_wall)"
                " VALUES ('act-1', 'GBPUSD', '2017-12-28', 1, 'adjusted', '{}', 0, 0)"
            )
        )
    assert asked(desk) == []
    assert not [o for o in desk.store.orders_of_trade(entered.intent_ids[ENTRY]) if o.is_exit], "not even wanted"
    with desk.engine.begin() as connection:
        connection.execute(text("UPDATE action_applications SET state = 'done'"))
    assert asked(desk) == [f"exit:unprotected:{hour(1)}"]


def test_the_stop_of_a_slice_that_has_not_filled_guards_nothing(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1)
    orders = desk.store.orders_of_trade(entered.intent_ids[ENTRY])
    stop = next(o for o in orders if o.leg == "stop")
    entry = next(o for o in orders if o.leg == "entry")
    waiting = replace(entry, id="int-second", leg="entry.2", state=OrderState.ACCEPTED, filled_quantity=0.0)
    its_stop = replace(
        stop, id="int-second-stop", leg="stop.2", content={**stop.content, "parent_intent": waiting.id, "leg": "stop.2"}
    )
    gone = replace(stop, state=OrderState.CANCELED)
    assert guards.uncovered([entry, gone, waiting, its_stop], 1000.0) == 1000.0
    assert guards.uncovered([entry, stop, waiting, its_stop], 1000.0) == 0.0
    filled = replace(waiting, filled_quantity=1000.0, state=OrderState.FILLED)
    assert guards.uncovered([entry, gone, filled, its_stop], 1000.0) == 0.0
    assert guards.would_bare([entry, stop, waiting, its_stop], its_stop, 1000.0), "it guards what may still fill"


def test_a_forced_cancel_that_the_broker_refused_took_nothing_away(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1)
    stop = entered.intent_ids[STOP]
    real = desk.paper.cancel
    desk.paper.cancel = lambda client_id: None  # type: ignore[method-assign] # it is asked, and says no
    desk.router.cancel(stop, "mine is elsewhere", "ana", force=True)
    with desk.engine.begin() as connection:
        told = BrokerEvent("no", stop, "b", OrderEvent.CANCEL_REJECTED, hour(1), "too late to cancel")
        events.apply_event(connection, desk.broker, told, hour(1))
    desk.paper.cancel = real  # type: ignore[method-assign]
    assert desk.states(stop) == ["accepted"]
    assert asked(desk) == [], "it guards the trade again"
    at_broker(desk, stop)  # and dies later by itself
    assert asked(desk) == [f"exit:unprotected:{hour(1)}"]
