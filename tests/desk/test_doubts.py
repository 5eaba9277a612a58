"""What is not known is shown: since when, what it blocks, and which evidence ends it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from desk import doubts, mismatches, submission
from desk.doubts import Doubt
from tests.desk.kit import Desk, hour
from tests.doubles.faulty_broker import FaultyBroker


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine, wrap=FaultyBroker).open()


@pytest.fixture
def faulty(desk: Desk) -> FaultyBroker:
    assert isinstance(desk.broker, FaultyBroker)
    return desk.broker


def standing(desk: Desk) -> list[Doubt]:
    with desk.engine.connect() as connection:
        return doubts.standing(connection)


def test_nothing_is_in_doubt_when_all_is_well(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    assert standing(desk) == []


def test_an_unknown_order_names_what_it_blocks_and_awaits(desk: Desk, faulty: FaultyBroker) -> None:
    faulty.submit_faults = ["timeout_after"]
    result = desk.submit()
    found = standing(desk)
    assert {d.order for d in found} == set(result.intent_ids)
    entry = next(d for d in found if d.leg == "entry")
    assert (entry.kind, entry.symbol, entry.strategy, entry.quantity) == ("UNKNOWN", "EURUSD", "trend", 1000)
    assert entry.blocks == "new risk on EURUSD"
    assert entry.awaits == doubts.BOOKS
    assert entry.says == "submit: TimeoutError"
    assert entry.since_time == hour(0)
    assert entry.since_wall is not None
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert standing(desk) == []


def test_an_exit_that_waits_for_a_cancel_is_shown_with_what_holds_it_up(desk: Desk, faulty: FaultyBroker) -> None:
    desk.submit()
    desk.close(1)
    faulty.cancel_faults = ["timeout_before"] * 2
    desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    kinds = {d.kind: d for d in standing(desk)}
    assert set(kinds) == {"PENDING_CANCEL", "EXIT_WAITS"}
    assert kinds["PENDING_CANCEL"].blocks == "changes of this order; the exit of trend in EURUSD"
    desk.router.continue_exits()
    assert standing(desk) == []


def test_differences_with_the_broker_are_doubts_too(desk: Desk) -> None:
    with desk.engine.begin() as connection:
        mismatches.put(connection, "*", "CASH", "ledger 1, broker 2", hour(1))
        mismatches.put(connection, "GBPUSD", "FOREIGN_FILL", "whose", hour(0), sticky=True)
    first, second = standing(desk)
    assert (first.symbol, first.awaits) == ("GBPUSD", "a person: `tapeline clear-mismatch`")
    assert (second.blocks, second.awaits) == ("all new risk", "ledger and broker agreeing again")


def test_since_is_when_the_doubt_began_not_when_the_order_did(desk: Desk) -> None:
    result = desk.submit()
    desk.close(1)
    submission.lose(desk.engine, desk.clock, [result.intent_ids[1]], "not among the broker's open orders")
    (found,) = standing(desk)
    assert found.since_time == hour(1)
    with desk.engine.connect() as connection:
        wall = connection.execute(text("SELECT max(recorded_wall) FROM order_events WHERE event = 'lost'")).scalar()
    assert found.since_wall == wall
