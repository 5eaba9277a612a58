"""Reconciliation: what ledger and broker disagree on blocks new risk on its instrument, and evidence ends it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from desk import mismatches, submission
from desk.reconcile import reconcile
from resources.brokers.protocol import BrokerError, OrderRequest
from tests.desk.kit import Desk, bar, hour
from tests.doubles.faulty_broker import FaultyBroker
from trading.orders import OrderType, Side, TimeInForce


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine).open()


def run(desk: Desk) -> dict[str, str]:
    """Symbol -> kind of what stands after a reconciliation."""
    return {s: m["kind"] for s, m in reconcile(desk.engine, desk.broker, desk.clock).mismatches.items()}


def sql(desk: Desk, statement: str) -> None:
    with desk.engine.begin() as connection:
        connection.execute(text(statement))


def foreign(desk: Desk, side: Side = Side.BUY, **changes: object) -> None:
    values: dict[str, object] = {
        "client_id": "by-hand", "symbol": "EURUSD", "side": side, "quantity": 10, "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.GTC,
    }  # fmt: skip
    desk.paper.submit([OrderRequest(**{**values, **changes})])  # type: ignore[arg-type]


def test_books_that_agree_have_no_mismatch_at_any_moment(desk: Desk) -> None:
    assert run(desk) == {}
    desk.submit()
    assert run(desk) == {}
    desk.close(1)
    assert run(desk) == {}
    desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    assert run(desk) == {}
    desk.close(2)
    assert run(desk) == {}


def test_fills_the_ledger_has_not_heard_of_are_drained_not_accused(desk: Desk) -> None:
    desk.submit()
    desk.clock.advance(hour(1))
    desk.paper.on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.201, 1.199, 1.2)])
    assert run(desk) == {}
    assert desk.position() == 1000


def test_an_order_somebody_placed_by_hand_blocks_its_instrument(desk: Desk) -> None:
    foreign(desk, order_type=OrderType.LIMIT, limit_price=1.1)
    assert run(desk) == {"EURUSD": "FOREIGN_ORDER"}
    assert desk.submit().refusal == "RECONCILIATION: symbol=EURUSD"
    assert desk.submit(symbol="GBPUSD").accepted
    desk.paper.cancel("by-hand")
    assert run(desk) == {}
    assert desk.submit(strategy="revert").accepted


def test_a_position_difference_and_its_cash_stand_until_cleared_by_a_person(desk: Desk) -> None:
    foreign(desk)
    desk.close(1)
    assert run(desk) == {"EURUSD": "FOREIGN_FILL", "*": "CASH"}
    assert desk.submit(symbol="GBPUSD").refusal == "RECONCILIATION: symbol=GBPUSD"  # cash is everybody's
    foreign(desk, Side.SELL, client_id="by-hand-2")
    desk.close(2)
    assert run(desk) == {"EURUSD": "FOREIGN_FILL"}  # positions and cash agree again; what happened is still unexplained
    with desk.engine.begin() as connection:
        assert mismatches.clear(connection, "EURUSD", "ana", "it was me, by hand")
        assert not mismatches.clear(connection, "EURUSD", "ana", "again")
    assert run(desk) == {}


def test_a_position_only_the_ledger_has(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    sql(desk, "UPDATE paper.positions SET quantity = 400")
    assert run(desk) == {"EURUSD": "POSITION"}
    sql(desk, "UPDATE paper.positions SET quantity = 1000")
    assert run(desk) == {}


def test_wrong_cash_blocks_everything(desk: Desk) -> None:
    sql(desk, "UPDATE paper.account SET cash = cash - 0.01")
    assert run(desk) == {"*": "CASH"}
    assert desk.submit().refusal == "RECONCILIATION: symbol=EURUSD"


def test_an_order_that_vanished_at_the_broker_is_given_up_by_evidence(desk: Desk) -> None:
    entered = desk.submit()
    sql(desk, "DELETE FROM paper.orders")
    result = reconcile(desk.engine, desk.broker, desk.clock)
    assert set(result.resolved_unknown) == set(entered.intent_ids)
    assert desk.states(*entered.intent_ids) == ["rejected"] * 3


def test_a_position_without_a_working_stop_is_reported(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1)
    desk.router.cancel(entered.intent_ids[1], "my own stop is elsewhere", "ana", force=True)
    assert run(desk) == {"EURUSD": "UNPROTECTED"}
    desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    assert run(desk) == {}


def test_unknown_orders_are_resolved_on_the_way(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine, wrap=lambda b: FaultyBroker(b, submit_faults=["timeout_after"])).open()
    entered = desk.submit()
    result = reconcile(desk.engine, desk.broker, desk.clock)
    assert {k: v.value for k, v in result.resolved_unknown.items()} == dict.fromkeys(entered.intent_ids, "accepted")
    assert result.mismatches == {}


def test_a_broker_that_cannot_be_read_concludes_nothing(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine, wrap=FaultyBroker).open()
    assert isinstance(desk.broker, FaultyBroker)
    entered = desk.submit()
    desk.broker.read_faults = 1
    with pytest.raises(BrokerError):
        reconcile(desk.engine, desk.broker, desk.clock)
    assert desk.states(*entered.intent_ids) == ["accepted"] * 3


def test_the_cash_baseline_is_noted_once(desk: Desk) -> None:
    before = desk.store.state(f"{submission.BASELINE_KEY}:paper")
    desk.submit()
    desk.close(1)
    submission.recover(desk.engine, desk.broker, desk.clock)
    assert desk.store.state(f"{submission.BASELINE_KEY}:paper") == before


def test_found_and_resolved_mismatches_are_audited(desk: Desk) -> None:
    sql(desk, "UPDATE paper.account SET cash = cash + 1")
    run(desk)
    run(desk)
    sql(desk, "UPDATE paper.account SET cash = cash - 1")
    run(desk)
    with desk.engine.connect() as connection:
        actions = list(connection.execute(text("SELECT action FROM audit WHERE action LIKE 'mismatch%' ORDER BY seq")).scalars())
    assert actions == ["mismatch_found", "mismatch_resolved"]


def test_a_fill_between_two_reads_of_the_books_is_no_mismatch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.submit()
    real, moved = desk.paper.positions, []

    def positions() -> object:
        if not moved:  # the broker fills after its open orders were read and before its positions are
            moved.append(True)
            desk.clock.advance(hour(1))
            desk.paper.on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.201, 1.199, 1.2)])
        return real()

    monkeypatch.setattr(desk.paper, "positions", positions)
    assert run(desk) == {}
    assert desk.position() == 1000
