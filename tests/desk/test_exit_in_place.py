"""At a broker that puts orders in the place of others an exit goes out in one step with the end of what rests of its trade."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, event, text

from desk import exit_orders, reconcile, submission
from resources.ledger.base import engines_of
from tests.desk.kit import Desk, bar, hour
from tests.doubles.faulty_broker import SUBMIT_FAULTS, FaultyReplacingBroker
from trading.costs import Costs


class Killed(BaseException):
    """The process is gone."""


def opened(engine: Engine, faulty: bool = False) -> Desk:
    """A desk with a filled entry, its stop and its target at work."""
    desk = Desk(engine, wrap=FaultyReplacingBroker if faulty else None).open()
    desk.submit()
    desk.close(1)
    return desk


def leave(desk: Desk, n: int = 1) -> tuple[str, ...]:
    return desk.router.exit_position("trend", "EURUSD", "rule", hour(n)).intent_ids


def settled(desk: Desk, n: int) -> None:
    """What a desk does after a start and at each close: hear, find out, finish exits."""
    desk.clock.advance(hour(n))
    submission.recover(desk.engine, desk.broker, desk.clock)
    desk.router.continue_exits()


def states(engine: Engine) -> dict[str, str]:
    query = "SELECT leg, state FROM intents JOIN orders USING (id) ORDER BY orders.created_wall, leg"
    with engine.connect() as connection:
        return {row.leg: row.state for row in connection.execute(text(query))}


def test_one_commit_and_one_call_stand_between_the_wish_and_the_answer(ledger_engine: Engine) -> None:
    desk = opened(ledger_engine)
    commits: list[str] = []
    answered: list[int] = []
    whole = desk.paper.replace_groups

    def answer(replacements: object) -> object:
        reports = whole(replacements)  # type: ignore[arg-type]
        answered.append(len(commits))
        return reports

    desk.paper.replace_groups = answer  # type: ignore[assignment,method-assign]
    for engine in engines_of(ledger_engine):
        event.listen(engine, "commit", lambda _: commits.append(""))
    leave(desk)
    assert answered == [2]  # the wish with what it asks for, and the broker's own
    assert states(ledger_engine) == {
        "entry": "filled",
        "stop": "canceled",
        "target": "canceled",
        f"exit:rule:{hour(1)}": "accepted",
    }


def test_the_audit_tells_that_it_was_wanted_and_that_it_was_sent(ledger_engine: Engine) -> None:
    desk = opened(ledger_engine)
    desk.router.exit_position("trend", "EURUSD", "rule", hour(1), who="ana")
    with ledger_engine.connect() as connection:
        told = connection.execute(text("SELECT actor, action FROM audit WHERE action LIKE 'exit_%' ORDER BY seq")).all()
    assert [tuple(row) for row in told] == [("ana", "exit_wanted"), ("desk", "exit_sent")]


@pytest.mark.parametrize("fault", SUBMIT_FAULTS)
def test_whatever_the_answer_is_the_trade_is_closed_once(ledger_engine: Engine, fault: str) -> None:
    desk = opened(ledger_engine, faulty=True)
    faulty = desk.broker
    assert isinstance(faulty, FaultyReplacingBroker)
    faulty.submit_faults = [fault]
    leave(desk)
    faulty.arrive()
    settled(desk, 1)
    for n in (2, 3):
        desk.close(n)
        settled(desk, n)
    assert (desk.position(), desk.paper.positions(), desk.paper.open_orders()) == (0.0, [], [])
    assert [e.quantity for e in desk.paper.executions(0)] == [1000.0, 1000.0]
    found = reconcile.reconcile(ledger_engine, desk.broker, desk.clock)
    assert found.mismatches == {}


@pytest.mark.parametrize(
    "boundary", ["during_exit", "during_cancel", "intent_committed", "before_send", "after_send_before_answer"]
)
def test_wherever_it_is_killed_the_trade_is_closed_once(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch, boundary: str
) -> None:
    desk = opened(ledger_engine)

    def crash_point(passed: str) -> None:
        if passed == boundary:
            raise Killed

    with monkeypatch.context() as patch:
        for module in (exit_orders, submission):
            patch.setattr(module, "crash_point", crash_point)
        with pytest.raises(Killed):
            leave(desk)
    again = Desk(ledger_engine)
    settled(again, 1)
    if boundary == "during_exit":  # nothing of it was committed: the close is done again
        leave(again)
    for n in (2, 3):
        again.close(n)
        settled(again, n)
    assert (again.position(), again.paper.positions(), again.paper.open_orders()) == (0.0, [], [])
    assert [e.quantity for e in again.paper.executions(0)] == [1000.0, 1000.0]


def test_an_exit_that_the_broker_never_had_is_wanted_still_although_its_stop_works(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = opened(ledger_engine, faulty=True)
    faulty = desk.broker
    assert isinstance(faulty, FaultyReplacingBroker)
    faulty.submit_faults = ["timeout_before"]
    (first,) = leave(desk)
    assert desk.states(first) == ["unknown"]
    assert len(desk.paper.open_orders()) == 2
    settled(desk, 1)
    assert desk.states(first) == ["rejected"]
    assert states(ledger_engine)[f"exit:rule:{hour(1)}:2"] == "accepted"
    assert len(desk.paper.open_orders()) == 1


def test_a_stop_that_filled_unheard_has_the_exit_rejected_and_nothing_is_closed_twice(ledger_engine: Engine) -> None:
    desk = opened(ledger_engine)
    desk.clock.advance(hour(2))
    desk.paper.on_bars(hour(2), [bar("EURUSD", 2, 1.2, 1.2005, 1.185, 1.19)])
    (order,) = leave(desk, 2)
    assert desk.states(order) == ["rejected"]
    settled(desk, 2)
    desk.close(3)
    assert (desk.position(), desk.paper.positions(), desk.paper.open_orders()) == (0.0, [], [])


def test_an_entry_that_may_still_fill_is_taken_back_before_the_exit_is_sized(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(ledger_engine, costs=Costs(participation=0.1)).open()
    entry, *_ = desk.submit().intent_ids
    desk.close(1, bar("EURUSD", 1, 1.2, 1.2005, 1.1995, 1.2, volume=6000.0))
    assert (desk.states(entry), desk.position()) == (["partially_filled"], 600.0)
    monkeypatch.setattr(desk.paper, "replace_groups", None)  # it is not asked for that
    leave(desk)
    assert desk.states(entry) == ["canceled"]
    desk.close(2, bar("EURUSD", 2, 1.2, 1.2005, 1.1995, 1.2, volume=60000.0))
    assert (desk.position(), desk.paper.positions(), desk.paper.open_orders()) == (0.0, [], [])
