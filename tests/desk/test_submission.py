"""The submission protocol: whatever the broker answers, no order is lost, sent twice or believed without evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from desk import reconcile, submission
from resources.brokers.protocol import BrokerError, Execution
from tests.desk.kit import Desk, bar, hour
from tests.doubles.faulty_broker import SUBMIT_FAULTS, FaultyBroker
from trading.orders import OrderState, Side

REACHED = ("timeout_after", "error_after", "empty", "garbage", "other")


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine, wrap=FaultyBroker).open()


@pytest.fixture
def faulty(desk: Desk) -> FaultyBroker:
    assert isinstance(desk.broker, FaultyBroker)
    return desk.broker


def agree(desk: Desk) -> None:
    """Ledger and paper book say the same, and nothing is in doubt."""
    result = reconcile.reconcile(desk.engine, desk.broker, desk.clock)
    assert result.mismatches == {}
    assert desk.store.unknown_orders() == []


@pytest.mark.parametrize("fault", SUBMIT_FAULTS)
def test_an_unclear_answer_makes_the_order_unknown_and_never_a_second_one(desk: Desk, faulty: FaultyBroker, fault: str) -> None:
    faulty.submit_faults = [fault]
    result = desk.submit()
    assert result.accepted
    assert "unknown" in desk.states(*result.intent_ids)
    desk.submit()
    assert len(faulty.submitted) == 1
    resolved = submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert resolved
    expected = "accepted" if fault in (*REACHED, "half") else "rejected"
    assert desk.states(*result.intent_ids) == [expected] * 3
    agree(desk)
    desk.close(1)
    assert desk.position() == (1000 if expected == "accepted" else 0)
    assert len(faulty.submitted) == 1
    agree(desk)


def test_an_unknown_order_blocks_new_risk_on_its_instrument_only(desk: Desk, faulty: FaultyBroker) -> None:
    faulty.submit_faults = ["timeout_after"]
    desk.submit()
    assert desk.submit(strategy="revert").refusal == "STATE_UNKNOWN: symbol=EURUSD"
    assert desk.submit(strategy="revert", symbol="GBPUSD").accepted
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert desk.submit(strategy="idea").accepted


def test_books_that_cannot_be_read_leave_everything_unknown(desk: Desk, faulty: FaultyBroker) -> None:
    faulty.submit_faults = ["timeout_before"]
    result = desk.submit()
    faulty.read_faults = 1
    assert submission.resolve_unknown(desk.engine, desk.broker, desk.clock) == {}
    assert desk.states(*result.intent_ids) == ["unknown"] * 3
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert desk.states(*result.intent_ids) == ["rejected"] * 3


def test_an_unknown_order_that_filled_meanwhile_is_filled_once(desk: Desk, faulty: FaultyBroker) -> None:
    faulty.submit_faults = ["timeout_after"]
    result = desk.submit()
    desk.clock.advance(hour(1))
    desk.paper.on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.201, 1.199, 1.2)])
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)  # executions first, their events come after
    assert desk.states(*result.intent_ids) == ["filled", "accepted", "accepted"]
    assert desk.position() == 1000
    drained = desk.close(2)
    assert drained.fills == 0
    assert desk.position() == 1000
    agree(desk)


def test_an_order_that_arrives_after_it_was_given_up_is_canceled_not_kept(desk: Desk, faulty: FaultyBroker) -> None:
    faulty.submit_faults = ["late"]
    result = desk.submit()
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert desk.states(*result.intent_ids) == ["rejected"] * 3
    faulty.arrive()
    found = reconcile.reconcile(desk.engine, desk.broker, desk.clock)
    assert found.mismatches["EURUSD"]["kind"] == "DEAD_ORDER_WORKS"
    assert desk.submit(strategy="revert").refusal == "RECONCILIATION: symbol=EURUSD"
    assert desk.paper.open_orders() == []
    agree(desk)
    assert desk.submit(strategy="idea").accepted


def test_a_given_up_order_that_fills_is_a_real_position(desk: Desk, faulty: FaultyBroker) -> None:
    faulty.submit_faults = ["late"]
    result = desk.submit()
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    faulty.arrive()
    desk.close(1)
    assert desk.states(result.intent_ids[0]) == ["filled"]
    assert desk.position() == 1000
    exit_result = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    desk.close(2)
    assert exit_result.accepted
    assert desk.paper.positions() == []
    assert desk.position() == 0


def test_a_rejected_bracket_is_rejected_here_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.paper, "_instruments", {})
    result = desk.submit()
    assert desk.states(*result.intent_ids) == ["rejected"] * 3
    order = desk.store.order(result.intent_ids[0])
    assert order is not None
    assert order.text.startswith("NOT_TRADABLE")


def test_a_start_clears_up_what_was_being_sent(desk: Desk, faulty: FaultyBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        """As if the process had ended here."""

    real = faulty.submit

    def die(requests: object) -> object:
        real(requests)  # type: ignore[arg-type]
        raise Died

    monkeypatch.setattr(faulty, "submit", die)
    with pytest.raises(Died):
        desk.submit()
    monkeypatch.undo()
    with desk.engine.connect() as connection:
        assert set(connection.execute(text("SELECT state FROM orders")).scalars()) == {"sending"}
    # The events tell first: an ACCEPT is the broker's own word.
    result = submission.recover(desk.engine, desk.broker, desk.clock)
    assert result.drained.events == 3
    assert {o.state for o in desk.store.working_orders()} == {OrderState.ACCEPTED}
    agree(desk)


def test_sending_orders_count_as_unknown_until_the_evidence_is_read(desk: Desk, faulty: FaultyBroker) -> None:
    result = desk.submit()
    with desk.engine.begin() as connection:
        connection.execute(text("UPDATE orders SET state = 'sending'"))
    assert desk.submit(strategy="revert").refusal == "STATE_UNKNOWN: symbol=EURUSD"
    submission.recover(desk.engine, desk.broker, desk.clock)
    assert desk.states(*result.intent_ids) == ["accepted"] * 3


def test_a_ledger_that_cannot_be_written_after_sending_loses_nothing(
    desk: Desk, faulty: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kw: object) -> object:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(submission, "_record_all", broken)
    with pytest.raises(ConnectionError):
        desk.submit()
    monkeypatch.undo()
    assert desk.submit().accepted
    assert len(faulty.submitted) == 1
    submission.recover(desk.engine, desk.broker, desk.clock)
    agree(desk)
    desk.close(1)
    assert desk.position() == 1000


def test_an_unreadable_account_sends_nothing_and_may_be_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> object:
        raise BrokerError("no answer")

    monkeypatch.setattr(desk.paper, "account", unreadable)
    with pytest.raises(BrokerError):
        desk.submit()
    monkeypatch.undo()
    assert desk.submit().accepted


def test_a_broker_with_other_numbers_on_record_settles_nothing(
    desk: Desk, faulty: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.submit_faults = ["timeout_after"]
    result = desk.submit()
    real = faulty.open_orders
    monkeypatch.setattr(faulty, "open_orders", lambda: [replace(r, quantity=7) for r in real()])
    assert submission.resolve_unknown(desk.engine, desk.broker, desk.clock) == {}
    assert desk.states(*result.intent_ids) == ["unknown"] * 3
    assert desk.store.state("mismatches")["EURUSD"]["sticky"] is True


def test_a_fill_of_an_order_in_no_book_is_kept_and_the_order_stays_unknown(
    desk: Desk, faulty: FaultyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Execution("x1", "", "b", "EURUSD", Side.BUY, 400, 1.2, 0.0, "USD", hour(0))
    faulty.submit_faults = ["timeout_before"]
    entry = desk.submit().intent_ids[0]
    monkeypatch.setattr(faulty, "executions", lambda since: [replace(part, client_id=entry)])
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert desk.states(entry) == ["unknown"]
    assert desk.position() == 400
    submission.resolve_unknown(desk.engine, desk.broker, desk.clock)
    assert desk.position() == 400
