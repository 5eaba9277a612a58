"""Broker events become the ledger's truth: each once, in any order, nothing real dropped, nothing impossible applied."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from desk import events
from resources.brokers.protocol import BrokerEvent, Execution
from tests.desk.kit import Desk, bar, decision, hour
from tests.doubles.faulty_broker import FaultyBroker
from trading.orders import TERMINAL, TRANSITIONS, OrderEvent, OrderState, Side, apply


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine, wrap=FaultyBroker).open()


@pytest.fixture
def faulty(desk: Desk) -> FaultyBroker:
    assert isinstance(desk.broker, FaultyBroker)
    return desk.broker


def counts(desk: Desk) -> tuple[int, int, float]:
    """(fills, anomalous events, position)."""
    with desk.engine.connect() as connection:
        fills = connection.execute(text("SELECT count(*) FROM fills")).scalar_one()
        anomalous = connection.execute(text("SELECT count(*) FROM order_events WHERE anomalous")).scalar_one()
    return fills, anomalous, desk.position()


def test_draining_is_idempotent(desk: Desk) -> None:
    desk.submit()
    assert desk.close(1).fills == 1
    assert events.drain(desk.engine, desk.broker, desk.clock) == events.DrainResult(0, 0)
    with desk.engine.begin() as connection:
        connection.execute(text("DELETE FROM desk_state WHERE key LIKE 'event_cursor%'"))
    assert events.drain(desk.engine, desk.broker, desk.clock) == events.DrainResult(0, 0)
    assert counts(desk) == (1, 0, 1000)


def test_duplicates_and_disorder_change_nothing(desk: Desk, faulty: FaultyBroker) -> None:
    shuffler = random.Random(7)

    def mangle(told: list[BrokerEvent]) -> list[BrokerEvent]:
        doubled = [*told, *told]
        shuffler.shuffle(doubled)
        return [*doubled, *told[-1:]]  # the last key last: the cursor stands at the end

    faulty.mangle = mangle
    entered = desk.submit()
    desk.close(1)
    desk.close(2, bar("EURUSD", 2, 1.19, 1.191, 1.18, 1.185))
    assert desk.states(*entered.intent_ids) == ["filled", "filled", "canceled"]
    assert counts(desk) == (2, 0, 0)


def test_fill_position_and_profit_are_written_together(desk: Desk) -> None:
    desk.submit(symbol="GBPUSD")
    desk.close(1, bar("GBPUSD", 1, 1.2, 1.201, 1.199, 1.2))
    (held,) = desk.store.open_positions()
    assert (held.quantity, held.average_price, held.opened_time, held.bars_held) == (1000, 1.2, hour(0), 0)
    desk.close(2, bar("GBPUSD", 2, 1.21, 1.23, 1.209, 1.22))
    assert desk.store.open_positions() == []
    with desk.engine.connect() as connection:
        row = connection.execute(text("SELECT trade_id, realized_pnl, opened_time FROM positions")).one()
    assert (row.trade_id, row.opened_time) == ("", None)
    assert row.realized_pnl == pytest.approx(1000 * 0.02 * 2)  # multiplier 2


def test_the_bars_held_are_counted_anew_with_each_trade(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    desk.store.set_bars_held({("trend", "EURUSD"): 3, ("revert", "EURUSD"): 5})
    assert [p.bars_held for p in desk.store.open_positions()] == [3]
    desk.close(2, bar("EURUSD", 2, 1.19, 1.191, 1.18, 1.185))
    desk.submit(2, reference=1.185, stop=1.17, target=1.21)
    desk.close(3, bar("EURUSD", 3, 1.185, 1.186, 1.184, 1.185))
    assert (desk.store.open_positions()[0].bars_held, desk.store.open_positions()[0].exit_state) == (0, {})


def test_a_fill_after_a_cancel_is_kept(desk: Desk) -> None:
    entered = desk.submit()
    entry = entered.intent_ids[0]
    desk.router.cancel(entry)
    late = _event(entry, OrderEvent.FILL, Execution("x1", entry, "b", "EURUSD", Side.BUY, 1000, 1.2, 0.0, "USD", hour(0)))
    _apply(desk, late)
    assert desk.states(entry) == ["filled"]
    assert counts(desk) == (1, 0, 1000)


def test_partial_fills_add_up_in_any_order(desk: Desk) -> None:
    entry = desk.submit().intent_ids[0]
    parts = [
        _event(entry, OrderEvent.FILL, Execution(f"x{i}", entry, "b", "EURUSD", Side.BUY, q, 1.2 + i / 100, 0.0, "USD", hour(0)))
        for i, q in enumerate((300, 200, 500))
    ]
    states = []
    for part in reversed(parts):  # the broker calls each a full fill: the sums decide
        _apply(desk, part)
        states += desk.states(entry)
    assert states == ["partially_filled", "partially_filled", "filled"]
    order = desk.store.order(entry)
    assert order is not None
    assert order.average_price == pytest.approx((300 * 1.2 + 200 * 1.21 + 500 * 1.22) / 1000)
    assert counts(desk) == (3, 0, 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"symbol": "GBPUSD"}, {"side": Side.SELL}, {"quantity": 0.0}, {"quantity": float("nan")}, {"price": float("inf")},
        {"currency": "JPY"}, {"client_id": "int-other"},
    ],
)  # fmt: skip
def test_an_execution_that_cannot_be_is_kept_as_evidence_and_blocks_the_instrument(desk: Desk, wrong: dict[str, object]) -> None:
    entry = desk.submit().intent_ids[0]
    good = Execution("x1", entry, "b", "EURUSD", Side.BUY, 1000, 1.2, 0.0, "USD", hour(0))
    _apply(desk, _event(entry, OrderEvent.FILL, replace(good, **wrong)))  # type: ignore[arg-type]
    assert counts(desk) == (0, 1, 0)
    assert desk.states(entry) == ["accepted"]
    assert desk.store.state("mismatches")["EURUSD"]["kind"] == "BAD_EXECUTION"
    assert desk.submit(strategy="revert").refusal == "RECONCILIATION: symbol=EURUSD"


def test_a_fill_of_an_order_that_is_not_ours_blocks_its_instrument(desk: Desk) -> None:
    foreign = Execution("x1", "somebody", "b", "EURUSD", Side.BUY, 5, 1.2, 0.0, "USD", hour(0))
    _apply(desk, _event("somebody", OrderEvent.FILL, foreign))
    assert counts(desk) == (0, 1, 0)
    assert desk.store.state("mismatches")["EURUSD"]["kind"] == "FOREIGN_FILL"


def test_a_fill_told_without_its_execution_needs_evidence(desk: Desk) -> None:
    entry = desk.submit().intent_ids[0]
    _apply(desk, _event(entry, OrderEvent.FILL, None))
    assert desk.states(entry) == ["unknown"]
    assert counts(desk) == (0, 0, 0)


def test_facts_cannot_be_changed_afterwards(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    for table in ("fills", "order_events", "audit"):
        with pytest.raises(Exception, match="append-only"), desk.engine.begin() as connection:
            connection.execute(text(f"DELETE FROM {table}"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(list(OrderEvent)), max_size=30))
def test_whatever_events_come_the_states_make_sense(told: list[OrderEvent]) -> None:
    state, filled = OrderState.INITIALIZED, False
    for event in told:
        step = apply(state, event)
        assert step.anomalous is ((state, event) not in TRANSITIONS)
        assert not (step.anomalous and step.changed)
        if state is OrderState.UNKNOWN and step.changed:  # only evidence ends it, never our own wish
            assert event not in (OrderEvent.SEND, OrderEvent.REQUEST_CANCEL, OrderEvent.REQUEST_UPDATE, OrderEvent.LOST)
        if state in TERMINAL and step.changed:
            late = {(OrderEvent.FILL, OrderState.FILLED), (OrderEvent.FOUND, OrderState.ACCEPTED)}
            if state is OrderState.REJECTED:  # given up for want of evidence: how the broker says it ended is how it ended
                late |= {(OrderEvent.CANCELED, OrderState.CANCELED), (OrderEvent.EXPIRED, OrderState.EXPIRED)}
            assert (event, step.state) in late
        filled = filled or (event is OrderEvent.FILL and not step.anomalous)
        state = step.state
        if filled:
            assert state is OrderState.FILLED
        if state is not OrderState.INITIALIZED and event is not OrderEvent.EMULATE:
            assert apply(state, event).state is state or event in _ONCE


_ONCE = {OrderEvent.SEND, OrderEvent.LOST, OrderEvent.NOT_FOUND, OrderEvent.UPDATED, OrderEvent.UPDATE_REJECTED} | {
    OrderEvent.CANCEL_REJECTED,
    OrderEvent.ACK,
    OrderEvent.ACCEPT,
    OrderEvent.FOUND,
}
"""Events whose repetition may move an order on in some state; no other one does."""


def _event(client_id: str, event: OrderEvent, execution: Execution | None) -> BrokerEvent:
    key = f"t-{event}-{execution.execution_id if execution else ''}"
    return BrokerEvent(key, client_id, "b", event, hour(0), "", execution)


def _apply(desk: Desk, event: BrokerEvent) -> None:
    with desk.engine.begin() as connection:
        events.apply_event(connection, desk.broker, event, hour(0))


def test_a_trades_late_fill_beside_an_open_trade_belongs_to_the_position_and_is_closed(desk: Desk) -> None:
    first = desk.submit().intent_ids[0]
    desk.router.cancel(first)
    second = desk.submit(1 - 1, stop=1.18, close_time=hour(0) - 1).intent_ids[0]
    desk.close(1)
    assert desk.store.open_positions()[0].trade_id == second
    late = Execution("x1", first, "b", "EURUSD", Side.BUY, 1000, 1.2, 0.0, "USD", hour(0))
    _apply(desk, _event(first, OrderEvent.FILL, late))
    (held,) = desk.store.open_positions()
    assert (held.quantity, held.trade_id) == (2000, second)
    desk.close(2, bar("EURUSD", 2, 1.18, 1.181, 1.17, 1.175))  # the second trade is stopped out
    (held,) = desk.store.open_positions()
    assert (held.quantity, held.trade_id) == (1000, first)
    assert decision().id
