"""Orders placed by hand at the broker: adopted, counted in risk, never touched unless told."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from desk import external, risk_state
from desk.reconcile import reconcile
from resources.brokers.protocol import OrderRequest
from tests.desk.kit import INSTRUMENTS, Desk, hour
from trading.instruments import Mode
from trading.orders import OrderType, Side, TimeInForce
from trading.risk import RiskState


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    external.remember(ledger_engine, INSTRUMENTS)
    return Desk(ledger_engine).open()


def by_hand(desk: Desk, number: int = 1, side: Side = Side.BUY, symbol: str = "EURUSD", **changes: object) -> str:
    values: dict[str, object] = {
        "client_id": f"ext-{number}", "symbol": symbol, "side": side, "quantity": 10, "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.GTC,
    }  # fmt: skip
    desk.paper.submit([OrderRequest(**{**values, **changes})])  # type: ignore[arg-type]
    return f"ext-{number}"


def run(desk: Desk) -> dict[str, str]:
    return {s: m["kind"] for s, m in reconcile(desk.engine, desk.broker, desk.clock).mismatches.items()}


def risk(desk: Desk) -> RiskState:
    with desk.engine.connect() as connection:
        return risk_state.build(
            connection, mode=Mode.PAPER, account=desk.broker.account(), instruments=INSTRUMENTS, strategy="trend",
            quality_ok="", now_time=desk.clock(),
        )  # fmt: skip


def test_a_resting_order_is_adopted_and_counted_and_blocks_nothing(desk: Desk) -> None:
    order_id = by_hand(desk, order_type=OrderType.LIMIT, limit_price=1.1, quantity=500)
    assert run(desk) == {}
    order = desk.store.order(order_id)
    assert order is not None
    assert (order.strategy, order.state, order.limit_price, order.quantity) == (external.STRATEGY, "accepted", 1.1, 500)
    state = risk(desk)
    assert state.working_notional == {"EURUSD": pytest.approx(500 * 1.2)}
    assert ("external", "EURUSD") in state.pending_entries
    assert desk.submit().accepted


def test_a_filled_one_is_a_position_with_its_cash(desk: Desk) -> None:
    by_hand(desk)
    by_hand(desk, 2, symbol="GBPUSD", side=Side.SELL)
    from tests.desk.kit import bar

    desk.close(1, bar("EURUSD", 1, 1.2, 1.2005, 1.1995, 1.2), bar("GBPUSD", 1, 1.2, 1.2005, 1.1995, 1.2))
    assert run(desk) == {}
    assert (desk.position("external"), desk.position("external", "GBPUSD")) == (10, -10)
    assert risk(desk).positions == {("external", "EURUSD"): 10, ("external", "GBPUSD"): -10}


def test_a_persons_buys_and_sells_are_one_position(desk: Desk) -> None:
    for number, (side, quantity, held) in enumerate(
        [(Side.BUY, 10, 10), (Side.SELL, 4, 6), (Side.SELL, 6, 0), (Side.SELL, 5, -5)], 1
    ):
        by_hand(desk, number, side, quantity=quantity)
        desk.close(number)
        assert run(desk) == {}
        assert desk.position("external") == held


def test_it_counts_against_the_limits(desk: Desk) -> None:
    by_hand(desk, quantity=66_000)
    desk.close(1)
    assert run(desk) == {}
    assert desk.submit(1, quantity=2_000.0).refusal.startswith("MAX_POSITION")


def test_flatten_and_halt_leave_it_alone_unless_it_is_named(desk: Desk) -> None:
    by_hand(desk)
    resting = by_hand(desk, 2, order_type=OrderType.LIMIT, limit_price=1.1)
    desk.submit()
    desk.close(1)
    run(desk)
    results = desk.router.flatten("enough", "ana")
    assert [r.refusal for r in results if not r.accepted] == ["MODE: strategy=external symbol=EURUSD reason=placed_by_hand"]
    desk.router.halt("FLATTEN", "desk", "fire", "ana")
    desk.router.continue_exits()
    desk.close(2)
    assert (desk.position(), desk.position("external")) == (0, 10)
    assert desk.states(resting) == ["accepted"]
    assert desk.router.flatten("told to", "ana", strategy="external")[0].accepted
    desk.close(3)
    assert desk.position("external") == 0
    assert desk.states(resting) == ["canceled"]
    assert run(desk) == {}


def test_an_order_on_an_instrument_nobody_knows_stays_a_mismatch(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine).open()  # nothing remembered: its worth per point cannot be told
    by_hand(desk, order_type=OrderType.LIMIT, limit_price=1.1)
    assert run(desk) == {"EURUSD": "FOREIGN_ORDER"}
    external.remember(ledger_engine, INSTRUMENTS)
    assert run(desk) == {}


def test_a_change_made_by_hand_is_followed(desk: Desk) -> None:
    from resources.brokers.protocol import Modification

    order_id = by_hand(desk, order_type=OrderType.LIMIT, limit_price=1.1)
    run(desk)
    desk.paper.modify(order_id, Modification(quantity=25, limit_price=1.15))
    assert run(desk) == {}
    order = desk.store.order(order_id)
    assert order is not None
    assert (order.quantity, order.limit_price) == (25, 1.15)


def test_adoption_is_audited_once(desk: Desk) -> None:
    by_hand(desk)
    desk.close(1)
    run(desk)
    run(desk)
    with desk.engine.connect() as connection:
        rows = connection.execute(text("SELECT count(*) FROM audit WHERE action = 'external_adopted'")).scalar()
    assert rows == 1
    assert hour(1) == desk.clock()
