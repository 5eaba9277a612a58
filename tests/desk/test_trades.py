"""What is open, read once: the same as asked trade by trade; and what is done for all trades at once: the same as one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from desk import events, store, trades
from desk.by_hand import Asked
from resources.brokers.protocol import Modification
from resources.ledger import audit
from resources.ledger.base import engines_of
from resources.ledger.store import connect
from tests.desk.kit import LIMITS, Desk, bar, hour
from trading.costs import Costs
from trading.limits import DailyLoss
from trading.orders import OrderState

WIDE = LIMITS.model_copy(
    update={
        "daily_loss": DailyLoss(amount=1e9), "max_concurrent_positions": 20, "max_gross_leverage": 100.0,
        "max_position_notional": 1e9,
    }
)  # fmt: skip
PAIRS = [("trend", "EURUSD"), ("trend", "GBPUSD"), ("revert", "EURUSD"), ("revert", "GBPUSD"), ("idea", "EURUSD")]


def entered(engine: Engine, pairs: list[tuple[str, str]] = PAIRS, **more: Any) -> Desk:
    """A desk on which every pair holds a position with its stop and target."""
    desk = Desk(engine, **more).open()
    desk.config.limits = WIDE
    for strategy, symbol in pairs:
        assert desk.submit(0, strategy, symbol).accepted
    desk.close(1, *(bar(symbol, 1, 1.2, 1.2005, 1.1995, 1.2) for symbol in ("EURUSD", "GBPUSD")))
    return desk


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    for one in engines_of(engine):
        event.listen(one, "before_cursor_execute", note)
    yield seen
    for one in engines_of(engine):
        event.remove(one, "before_cursor_execute", note)


def one_by_one(engine: Engine) -> tuple[dict[str, float], dict[str, list[str]]]:
    """(open quantity by trade, its orders), asked in plain SQL."""
    with engine.connect() as c:
        held = c.execute(text(
            "SELECT trade_id, sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) AS q FROM fills GROUP BY 1"
        )).all()  # fmt: skip
        orders = c.execute(text(
            "SELECT i.trade_id, o.id FROM orders o JOIN intents i ON i.id = o.id ORDER BY o.created_wall, o.id"
        )).all()  # fmt: skip
    by_trade: dict[str, list[str]] = {}
    for row in orders:
        by_trade.setdefault(row.trade_id, []).append(row.id)
    return {row.trade_id: row.q for row in held if abs(row.q) > 1e-6}, by_trade


@pytest.mark.parametrize("seed", range(3))
def test_one_reading_of_everything_says_what_reading_trade_by_trade_says(ledger_engine: Engine, seed: int) -> None:
    dice = random.Random(seed)
    desk = Desk(ledger_engine, costs=Costs("per_value", 0.00002, 0.1, "fixed", 1)).open()
    desk.config.limits = WIDE
    seen = 0
    for n in range(1, 9):
        for strategy, symbol in PAIRS:
            if dice.random() < 0.6:
                desk.submit(n - 1, strategy, symbol)
        price = round(1.2 + dice.choice((-0.0105, 0.0, 0.0, 0.004)), 4)
        volume = dice.choice((2000.0, 30_000.0))  # some bars fill only a part
        desk.close(n, *(bar(s, n, 1.2, max(1.2005, price), min(1.1995, price), price, volume) for s in ("EURUSD", "GBPUSD")))
        for held in desk.store.open_positions():
            if dice.random() < 0.2:
                desk.router.exit_position(held.strategy, held.symbol, "rule", hour(n))
        with ledger_engine.connect() as c:
            book = trades.read(c)
            quantities, orders = one_by_one(ledger_engine)
            read = {trade: q for own in book.made_of.values() for trade, q in own.items()}
            assert read == pytest.approx(quantities)
            assert {(p.strategy, p.symbol) for p in book.positions} == set(book.made_of)
            for position in book.positions:
                assert sum(book.of(position).values()) == pytest.approx(position.quantity)
            assert {t: [o.id for o in own] for t, own in book.orders.items()} == {t: orders[t] for t in book.orders}
            assert store.trade_quantities(c, orders) == pytest.approx({t: quantities.get(t, 0.0) for t in orders})
        seen += len(read)
    assert seen > 10


def books(desk: Desk) -> dict[str, Any]:
    """What must not depend on whether things were done together: orders, fills and positions by what they are of."""
    ledger = desk.ledger
    return {
        "orders": sorted((o["id"], o["state"], o["quantity"], o["filled_quantity"], o["leg"]) for o in ledger.orders()),
        "fills": sorted((f["id"], f["quantity"], f["price"], f["session"]) for f in ledger.fills()),
        "positions": [{k: v for k, v in p.items() if k != "updated_wall"} for p in ledger.positions()],
        "cash": desk.paper.account(),
    }  # fmt: skip


def test_many_exits_at_once_end_as_exits_one_by_one(new_ledger_url: Callable[[], str]) -> None:
    found = []
    for together in (True, False):
        engine = connect(new_ledger_url())
        desk = entered(engine)
        leaving = [(strategy, symbol, "rule") for strategy, symbol in PAIRS]
        if together:
            results = desk.router.exit_positions(leaving, hour(1))
        else:
            results = [desk.router.exit_position(*wish, hour(1)) for wish in leaving]
        assert all(r.accepted for r in results)
        assert [desk.store.order(i).leg for r in results for i in r.intent_ids] == [f"exit:rule:{hour(1)}"] * 5  # type: ignore[union-attr]
        desk.close(2, *(bar(s, 2, 1.2, 1.2005, 1.1995, 1.2) for s in ("EURUSD", "GBPUSD")))
        assert desk.store.open_positions() == []
        assert audit.verify(engine) == []
        found.append((results, books(desk)))
        engine.dispose()
    assert found[0] == found[1]


@pytest.mark.parametrize("step", ["leave", "fill", "guard"])
def test_how_many_trades_there_are_costs_no_statement_more(new_ledger_url: Callable[[], str], step: str) -> None:
    counts = []
    for pairs in (PAIRS[:2], PAIRS):
        engine = connect(new_ledger_url())
        desk = entered(engine, pairs)
        down = [bar(s, 2, 1.2, 1.2005, 1.18, 1.185) for s in ("EURUSD", "GBPUSD")]
        if step == "fill":
            desk.clock.advance(hour(2))
            desk.paper.on_bars(hour(2), down)
        with statements(engine) as seen:
            if step == "leave":
                desk.router.exit_positions([(*pair, "rule") for pair in pairs], hour(1))
            elif step == "fill":
                assert events.drain(engine, desk.broker, desk.clock).fills == len(pairs)
            else:
                desk.router.continue_exits()
        counts.append(len(seen))
        engine.dispose()
    assert counts[0] == counts[1]


def test_an_exit_that_the_broker_refuses_takes_no_other_along(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = entered(ledger_engine, PAIRS[:2])
    monkeypatch.delitem(desk.paper._instruments, "GBPUSD")  # type: ignore[arg-type]
    good, bad = (r.intent_ids[0] for r in desk.router.exit_positions([(*pair, "rule") for pair in PAIRS[:2]], hour(1)))
    assert desk.states(good, bad) == [OrderState.ACCEPTED.value, OrderState.REJECTED.value]


def test_an_answer_that_never_came_leaves_every_exit_of_the_call_unknown_and_none_is_sent_again(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = entered(ledger_engine)
    real, calls = desk.paper.replace_groups, []

    def silent(groups: Any) -> Any:
        calls.append(real(groups))
        raise TimeoutError("no answer")

    monkeypatch.setattr(desk.paper, "replace_groups", silent)
    results = desk.router.exit_positions([(*pair, "rule") for pair in PAIRS], hour(1))
    sent = [i for r in results for i in r.intent_ids]
    assert set(desk.states(*sent)) <= {"unknown", "accepted"}
    desk.router.continue_exits()
    assert len(calls) == 1
    desk.close(2, *(bar(s, 2, 1.2, 1.2005, 1.1995, 1.2) for s in ("EURUSD", "GBPUSD")))
    assert desk.store.open_positions() == []


def test_a_reason_that_is_asked_for_twice_at_once_closes_once(ledger_engine: Engine) -> None:
    desk = entered(ledger_engine, PAIRS[:1])
    first, second = desk.router.exit_positions([("trend", "EURUSD", "rule"), ("trend", "EURUSD", "max_bars")], hour(1))
    assert (first.accepted, second.accepted, second.intent_ids) == (True, True, ())
    assert [o["leg"] for o in desk.ledger.orders() if o["leg"].startswith("exit:")] == [f"exit:rule:{hour(1)}"]


class TestWhatIsOpenIsTakenAsItWasReadOnlyWhileNothingHasHappened:
    def looked(self, desk: Desk) -> trades.OpenTrades:
        with desk.engine.connect() as connection:
            return trades.read(connection)

    def stands(self, desk: Desk, seen: trades.OpenTrades) -> bool:
        with desk.engine.connect() as connection:
            return trades.still(connection, seen)

    @pytest.mark.parametrize("what", ["nothing", "entry", "fill", "modify", "cancel", "reduce", "exit", "by hand at the broker"])
    def test_whatever_changes_it_is_noticed(self, ledger_engine: Engine, what: str) -> None:
        desk = entered(ledger_engine, PAIRS[:2])
        if what == "fill":
            desk.submit(1, *PAIRS[2])
        seen = self.looked(desk)
        stop = next(o for o in desk.store.working_orders("EURUSD") if o.leg == "stop")
        acts: dict[str, Callable[[], object]] = {
            "nothing": lambda: self.looked(desk),
            "entry": lambda: desk.submit(1, *PAIRS[2]),
            "fill": lambda: desk.close(2),
            "modify": lambda: desk.router.modify(stop.id, Modification(stop_price=1.18), "wider", "ana"),
            "cancel": lambda: desk.router.cancel(stop.id, "ana means it", "ana", force=True),
            "reduce": lambda: desk.router.by_hand.reduce(Asked("trend", "EURUSD", "one", "less", "ana"), quantity=400.0),
            "exit": lambda: desk.router.exit_position(*PAIRS[0], "rule", hour(1)),
            "by hand at the broker": lambda: (desk.paper.cancel(stop.id), desk.router.hear()),
        }
        acts[what]()
        assert self.stands(desk, seen) is (what == "nothing")
        same = (self.looked(desk).positions, self.looked(desk).orders) == (seen.positions, seen.orders)
        assert same is (what in ("nothing", "entry"))  # an entry that has not filled is not of it: looked at once too often

    def test_an_exit_that_was_decided_on_what_was_open_before_closes_what_is_open_now(self, ledger_engine: Engine) -> None:
        desk = entered(ledger_engine, PAIRS[:1])
        seen = self.looked(desk)
        desk.close(2, bar("EURUSD", 2, 1.2, 1.201, 1.185, 1.19))  # its stop
        assert desk.submit(2, *PAIRS[0], quantity=300.0).accepted
        desk.close(3)
        (answer,) = desk.router.exit_positions([(*PAIRS[0], "rule")], hour(3), seen=seen)
        (order,) = (desk.store.order(i) for i in answer.intent_ids)
        assert order is not None
        assert order.quantity == 300.0

    def test_an_exit_decided_on_what_is_open_reads_nothing_of_it_again(self, ledger_engine: Engine) -> None:
        desk = entered(ledger_engine)
        seen = self.looked(desk)
        with statements(ledger_engine) as asked:
            desk.router.exit_positions([(*pair, "rule") for pair in PAIRS], hour(1), seen=seen)
        assert not any("FROM positions" in s and "all_orders" in s for s in asked)
        desk.close(2, *(bar(s, 2, 1.2, 1.2005, 1.1995, 1.2) for s in ("EURUSD", "GBPUSD")))
        assert desk.store.open_positions() == []
