"""Where a plan stands: every step from files, orders, positions and bars, kept and audited."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from desk.plan_book import PlanBook
from resources.ledger import plans as ledger_plans
from resources.ledger.plans import PlanNotCancelled, PlanState
from tests.desk.kit import Desk, hour
from tests.desk.test_managing import PLAN, Cache, arrays, up
from trading.plans import Plan, parse_plan
from trading.timeframes import Timeframe

SIMPLE = PLAN.split("targets:")[0] + "target: 1.2200\nsizing: {kind: fixed, quantity: 1000}\n"
INVALID = SIMPLE + "invalidation: {kind: close_below, level: 1.1950}\n"


class Book:
    """A plan book over a desk, with one plan."""

    def __init__(self, engine: Engine, text_: str = SIMPLE) -> None:
        self.engine, self.desk, self.cache = engine, Desk(engine).open(), Cache()
        self.book = PlanBook(engine)
        self.edit(text_)

    def edit(self, text_: str) -> None:
        plan, problems = parse_plan(text_, "idea.yaml", self.desk.config.universe)
        assert plan is not None, [str(p) for p in problems]
        self.plan = plan
        self.desk.config.plans["idea"] = plan

    def close(self, n: int, price: float = 1.2) -> PlanState:
        made = up(n, price)
        self.cache.bars_.append(made)
        self.desk.close(n, made)
        closed = {"EURUSD": {Timeframe.H1: arrays([made])}}
        evaluables: Any = dict(self.desk.config.plans)
        self.book.at_close(self.desk.config, evaluables, self.cache, closed, hour(n))  # type: ignore[arg-type]
        return self.state()

    def state(self) -> PlanState:
        with self.engine.connect() as connection:
            return ledger_plans.states(connection)["idea"]

    def events(self) -> list[str]:
        with self.engine.connect() as connection:
            return [e["event"] for e in ledger_plans.events_of(connection, "idea")]

    def enter(self, n: int) -> Any:
        return self.desk.submit(n, "idea", stop=1.19, target=1.22, strategy_revision=self.plan.revision)


def _has_entered(engine: Engine) -> bool:
    with engine.connect() as connection:
        return "idea" in ledger_plans.entered(connection, ["idea", "another"])


def test_a_plan_is_armed_entered_managed_and_closed(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    assert book.close(1).state == "armed"
    assert not _has_entered(ledger_engine)
    assert book.enter(1).accepted
    managing = book.close(2)
    assert managing.state == "managing"
    assert managing.trade_id
    book.desk.router.exit_position("idea", "EURUSD", "rule", hour(2))
    assert book.close(3).state == "closed"
    assert book.events() == ["armed", "managing", "closed"]
    assert _has_entered(ledger_engine)
    with ledger_engine.connect() as connection:
        told = connection.execute(text("SELECT action FROM audit WHERE action LIKE 'plan_%' ORDER BY seq")).scalars().all()
    assert told == ["plan_armed", "plan_managing", "plan_closed"]


def test_an_entry_on_its_way_is_entered(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    book.close(1)
    assert book.enter(1).accepted
    evaluables: Any = dict(book.desk.config.plans)
    book.book.at_close(book.desk.config, evaluables, book.cache, {}, hour(1))  # type: ignore[arg-type]
    assert book.state().state == "entered"


def test_an_armed_plan_expires_with_its_last_session(ledger_engine: Engine) -> None:
    book = Book(ledger_engine, SIMPLE.replace("to: 2017-12-29", "to: 2017-12-27"))
    assert book.close(1).state == "armed"
    assert book.close(20).state == "expired"
    refused = book.desk.submit(20, "idea", stop=1.19, target=1.22)
    assert refused.refusal.startswith("PLAN_DONE")
    book.edit(SIMPLE)
    assert book.close(21).state == "armed", "a file that lets it live longer arms it again"


def test_an_invalidated_plan_enters_no_more(ledger_engine: Engine) -> None:
    book = Book(ledger_engine, INVALID)
    assert book.close(1, 1.1951).state == "armed"
    cancelled = book.close(2, 1.1949)
    assert (cancelled.state, cancelled.reason) == ("cancelled", "invalidated: close_below(1.195)")
    assert book.close(3, 1.2).state == "cancelled"
    assert _has_entered(ledger_engine)


def test_an_operator_cancels_an_armed_plan_and_no_other(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    with pytest.raises(PlanNotCancelled, match="no plan 'idea'"):
        ledger_plans.cancel(ledger_engine, "idea", who="me", reason="news", now_time=hour(1))
    book.close(1)
    ledger_plans.cancel(ledger_engine, "idea", who="me", reason="news", now_time=hour(1))
    assert (book.state().state, book.state().reason) == ("cancelled", "news")
    assert book.enter(1).refusal.startswith("PLAN_DONE")
    with pytest.raises(PlanNotCancelled, match="cancelled already"):
        ledger_plans.cancel(ledger_engine, "idea", who="me", reason="again", now_time=hour(1))


def test_a_plan_with_an_order_under_way_is_not_cancelled(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    book.close(1)
    book.enter(1)
    with pytest.raises(PlanNotCancelled, match="flatten --strategy idea"):
        ledger_plans.cancel(ledger_engine, "idea", who="me", reason="news", now_time=hour(1))


def test_a_changed_file_is_noted_with_both_revisions(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    old = book.close(1).revision
    book.edit(SIMPLE.replace("stop: 1.1900", "stop: 1.1950"))
    state = book.close(2)
    assert state.revision == book.plan.revision != old
    with ledger_engine.connect() as connection:
        told = ledger_plans.events_of(connection, "idea")[-1]
        kept = ledger_plans.revision_content(connection, "idea", old)
    assert told["content"] == {"old_revision": old, "new_revision": state.revision}
    assert kept is not None


def test_another_direction_of_an_entered_plan_is_not_taken(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    book.close(1)
    book.enter(1)
    before = book.close(2)
    short = SIMPLE.replace("direction: long", "direction: short").replace("1.1900", "1.2100").replace("1.2200", "1.1800")
    book.edit(short)
    state = book.close(3)
    assert state.revision == before.revision
    assert "not taken" in state.problem
    book.close(4)
    assert book.events() == ["armed", "managing", "edit_refused"], "said once"
    for one in (book.book, PlanBook(ledger_engine)):  # a desk that was started since knows the revision in force, too
        force = one.in_force({"idea": book.plan}, book.desk.config.universe)["idea"]
        assert isinstance(force, Plan)
        assert (force.direction, force.revision) == ("long", before.revision)


def test_a_lost_file_leaves_the_plan_as_it_was_and_says_so(ledger_engine: Engine) -> None:
    book = Book(ledger_engine)
    book.close(1)
    del book.desk.config.plans["idea"]
    assert "missing or invalid" in book.close(2).problem
    book.desk.config.plans["idea"] = book.plan
    assert replace(book.close(3), since_time=0).problem == ""


def test_a_paused_plan_is_not_armed(ledger_engine: Engine) -> None:
    book = Book(ledger_engine, SIMPLE.replace("status: active", "status: paused"))
    with pytest.raises(KeyError):
        book.close(1)


def test_what_the_ui_shows_of_a_managed_plan_are_the_levels_in_force_and_the_orders_that_rest(ledger_engine: Engine) -> None:
    from resources.plan_view import plan_rows

    book = Book(ledger_engine)
    book.close(1)
    assert book.enter(1).accepted
    book.close(2)
    book.edit(SIMPLE.replace("direction: long", "direction: short").replace("1.2200", "1.1000").replace("1.1900", "1.2500"))
    book.close(3)
    plans = {"idea": book.plan}
    with ledger_engine.connect() as connection:
        (row,) = plan_rows(plans, connection, book.desk.config.universe)
    assert (row.state, row.direction, row.targets) == ("managing", "long", "1.22"), (
        "of the revision in force, not the newest file"
    )
    assert "its trade is long EURUSD: not taken" in row.problem
    assert [part.split(" x ")[0] for part in row.resting.split(", ")] == ["stop 1.19", "target 1.22"]
    assert row.last.startswith("edit_refused 2017-12-")
