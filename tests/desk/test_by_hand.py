"""Reducing and reversing by command: never unguarded, never more closed than is open, nothing twice, wherever it is killed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from desk import by_hand, exit_orders, reconcile, reductions, reversals, submission
from desk.by_hand import Asked, NoPosition
from desk.reductions import NotReduced
from tests.desk.kit import Desk, bar, hour
from tests.desk.test_managing import Killed, guarded
from tests.doubles.faulty_broker import FaultyBroker

PARTS = ((0.5, 1.21), (0.25, 1.23), (0.25, None))


def opened(engine: Engine, targets: Any = (), **more: Any) -> Desk:
    desk = Desk(engine, **more).open()
    result = desk.submit(targets=targets) if targets else desk.submit()
    assert result.accepted, result.refusal
    desk.close(1)
    return desk


def asked(request: str = "one", strategy: str = "trend") -> Asked:
    return Asked(strategy, "EURUSD", request, "too much", "ann")


def legs(desk: Desk) -> dict[str, float]:
    """Working protective legs by kind and part: units."""
    found = desk.store.working_orders("EURUSD")
    return {o.leg.split(":")[0]: o.quantity for o in found if not o.leg.startswith("reduce")}


def audited(engine: Engine, action: str) -> list[tuple[str, str]]:
    query = text("SELECT actor, convert_from(content, 'UTF8') FROM audit WHERE action = :a ORDER BY seq")
    with engine.connect() as connection:
        return [(r[0], r[1]) for r in connection.execute(query, {"a": action})]


class TestReduce:
    def test_stop_and_target_are_what_stays_open(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        done = desk.router.by_hand.reduce(asked(), quantity=400.0)
        assert (done.quantity, done.left, done.state) == (400.0, 600.0, "accepted")
        assert legs(desk) == {"stop": 600.0, "target": 600.0}
        assert guarded(ledger_engine) == (1000.0, 1000.0, 1000.0), "the order that reduces guards the rest until it fills"
        desk.close(2)
        assert desk.position() == 600.0
        assert guarded(ledger_engine) == (600.0, 600.0, 600.0)
        ((who, content),) = audited(ledger_engine, "reduce_wanted")
        assert who == "ann"
        assert '"reason":"too much"' in content
        assert reconcile.reconcile(ledger_engine, desk.broker, desk.clock).mismatches == {}

    def test_a_share_is_taken_of_every_part(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine, PARTS)
        desk.router.by_hand.reduce(asked(), share=0.5)
        assert legs(desk) == {"stop.1": 250.0, "target.1": 250.0, "stop.2": 125.0, "target.2": 125.0, "stop.3": 125.0}
        desk.close(2)
        assert desk.position() == 500.0
        desk.close(3, bar("EURUSD", 3, 1.2, 1.2105, 1.1995, 1.2))
        assert desk.position() == 250.0, "the target of the first part closed its smaller share"
        assert guarded(ledger_engine) == (250.0, 250.0, 250.0)

    def test_a_part_that_ends_loses_its_legs(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine, PARTS)
        desk.router.by_hand.reduce(asked(), quantity=998.0)
        desk.close(2)
        assert desk.position() == 2.0
        assert sum(q for leg, q in legs(desk).items() if leg.startswith("stop")) == 2.0
        assert guarded(ledger_engine) == (2.0, 2.0, 2.0)

    def test_all_of_it_is_a_close(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        done = desk.router.by_hand.reduce(asked(), share=1.0)
        assert (done.left, done.state) == (0.0, "closing")
        desk.close(2)
        assert desk.position() == 0.0
        assert legs(desk) == {}

    def test_the_same_request_reduces_once(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        first = desk.router.by_hand.reduce(asked(), quantity=400.0)
        assert desk.router.by_hand.reduce(asked(), quantity=400.0).order_id == first.order_id
        desk.close(2)
        assert desk.router.by_hand.reduce(asked(), quantity=400.0).state == "filled"
        desk.close(3)
        assert desk.position() == 600.0
        desk.router.by_hand.reduce(asked("two"), quantity=400.0)
        desk.close(4)
        assert desk.position() == 200.0
        assert guarded(ledger_engine) == (200.0, 200.0, 200.0)

    def test_a_request_that_is_repeated_never_meets_what_is_left(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.by_hand.reduce(asked(), quantity=600.0)
        desk.close(2)
        again = desk.router.by_hand.reduce(asked(), quantity=600.0)  # 600 of the 400 left would be all of it
        assert (again.quantity, again.left, again.state) == (600.0, 400.0, "filled")
        desk.close(3)
        assert desk.position() == 400.0
        assert guarded(ledger_engine) == (400.0, 400.0, 400.0)

    def test_a_request_that_closed_a_trade_closes_no_later_one(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        first = desk.router.by_hand.reduce(asked(), share=1.0)
        assert desk.router.by_hand.reduce(asked(), share=1.0).order_id == first.order_id
        desk.close(2)
        assert desk.submit(2).accepted
        desk.close(3)
        again = desk.router.by_hand.reduce(asked(), share=1.0)
        assert (again.trade_id, again.state, again.order_id) == (first.trade_id, "closed", "")
        desk.close(4)
        assert desk.position() == 1000.0
        assert len(audited(ledger_engine, "reduce_wanted")) == 1

    def test_what_cannot_be_done_says_why(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        with pytest.raises(NotReduced, match="less than one lot"):
            desk.router.by_hand.reduce(asked(), quantity=0.5)
        with pytest.raises(NoPosition, match="nobody holds no EURUSD"):
            desk.router.by_hand.reduce(asked(strategy="nobody"), quantity=1.0)
        desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
        with pytest.raises(NotReduced, match=r"exit .* is under way"):
            desk.router.by_hand.reduce(asked(), quantity=400.0)

    def test_an_exit_goes_before_a_reduction_that_waits(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.by_hand.reduce(asked(), quantity=400.0)
        desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
        desk.close(2)
        assert desk.position() == 0.0
        assert legs(desk) == {}

    def test_a_stop_that_fills_first_leaves_only_the_rest_to_sell(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.by_hand.reduce(asked(), quantity=400.0)
        desk.close(2, bar("EURUSD", 2, 1.2, 1.2, 1.185, 1.187))
        desk.router.continue_exits()
        assert desk.position() == 0.0
        assert guarded(ledger_engine) == (0.0, 0.0, 0.0)

    def test_a_refused_reduction_is_asked_for_again(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.by_hand.reduce(asked(), quantity=400.0)
        order = next(o for o in desk.store.working_orders() if o.leg == "reduce:one")
        desk.paper.cancel(order.id)  # the broker ended it by itself
        desk.router.drain()
        again = [o for o in desk.store.working_orders() if o.leg.startswith("reduce:")]
        assert [(o.leg, o.quantity) for o in again] == [("reduce:one#2", 400.0)]
        desk.close(2)
        assert desk.position() == 600.0

    @pytest.mark.parametrize("fault", ["timeout_before", "timeout_after", "late", "empty"])
    def test_an_unclear_answer_leaves_nothing_unguarded(self, ledger_engine: Engine, fault: str) -> None:
        desk = opened(ledger_engine, wrap=FaultyBroker)
        assert isinstance(desk.broker, FaultyBroker)
        desk.broker.submit_faults = ["", fault, fault]
        desk.router.by_hand.reduce(asked(), quantity=400.0)
        for n in range(2, 6):
            desk.broker.arrive()
            reconcile.reconcile(ledger_engine, desk.broker, desk.clock)
            desk.router.continue_exits()
            held, stops, most = guarded(ledger_engine)
            assert stops >= min(held, 600.0)
            assert most <= held
            desk.close(n)
        assert desk.position() == 600.0
        assert guarded(ledger_engine) == (600.0, 600.0, 600.0)

    @pytest.mark.parametrize("kill", [1, 2, 4, 7, 10, 12, 13])
    def test_wherever_it_is_killed_what_stays_is_guarded_and_no_more_is_closed(
        self, ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch, kill: int
    ) -> None:
        desk = opened(ledger_engine, PARTS)
        passed = 0

        def crash_point(name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == kill:
                raise Killed(name)

        with monkeypatch.context() as patch:
            for module in (reductions, by_hand, submission, exit_orders):
                patch.setattr(module, "crash_point", crash_point)
            try:
                desk.router.by_hand.reduce(asked(), quantity=400.0)
            except Killed:
                held, stops, most = guarded(ledger_engine)
                assert stops >= 600.0
                assert most <= held
        again = Desk(ledger_engine)
        again.clock.advance(hour(1))
        submission.recover(ledger_engine, again.broker, again.clock)
        again.router.continue_exits()
        again.router.by_hand.reduce(asked(), quantity=400.0)
        again.close(2)
        again.router.continue_exits()
        assert again.position() == 600.0
        assert guarded(ledger_engine) == (600.0, 600.0, 600.0)
        assert reconcile.reconcile(ledger_engine, again.broker, again.clock).mismatches == {}


class TestReverse:
    def test_it_is_closed_and_the_other_side_is_entered_through_risk(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        assert desk.router.by_hand.reverse(asked(), stop=1.21, target=1.18)["state"] == "closing"
        desk.close(2)
        desk.router.continue_exits()
        desk.close(3)
        assert desk.position() == -1000.0
        assert legs(desk) == {"stop": 1000.0, "target": 1000.0}
        assert guarded(ledger_engine) == (1000.0, 1000.0, 1000.0)
        assert desk.router.by_hand.reverse(asked(), stop=1.21)["state"] == "entered", "the same request does nothing more"
        desk.close(4)
        assert desk.position() == -1000.0
        assert [who for who, _ in audited(ledger_engine, "reverse_wanted")] == ["ann"]
        (entry,) = [o for o in desk.store._orders() if o.leg == "entry" and o.side.value == "sell"]
        with ledger_engine.connect() as connection:
            rules = connection.execute(
                text("SELECT jsonb_array_length(risk) FROM intents WHERE id = :i"), {"i": entry.id}
            ).scalar()
        assert rules is not None
        assert rules > 10, "every rule judged it"

    def test_the_entry_may_be_refused_and_the_exit_is_not(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.halt("reduce_only", "desk", "enough", "ann")
        desk.router.by_hand.reverse(asked(), stop=1.21)
        desk.close(2)
        desk.router.continue_exits()
        assert desk.position() == 0.0
        ((_, content),) = audited(ledger_engine, "reverse_refused")
        assert "HALTED" in content
        assert desk.store.working_orders() == []

    def test_a_stop_on_the_wrong_side_is_refused_and_nothing_is_entered(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.by_hand.reverse(asked(), stop=1.19)
        desk.close(2)
        desk.router.continue_exits()
        ((_, content),) = audited(ledger_engine, "reverse_refused")
        assert "STOP_REQUIRED" in content

    def test_while_no_new_risk_is_taken_the_entry_waits_and_then_expires(self, ledger_engine: Engine) -> None:
        desk = opened(ledger_engine)
        desk.router.by_hand.no_new_risk = lambda: "the feed is away"
        desk.router.by_hand.reverse(asked(), stop=1.21)
        for n in (2, 3, 4):
            desk.close(n)
            desk.router.continue_exits()
        assert desk.position() == 0.0
        assert len(audited(ledger_engine, "reverse_expired")) == 1
        desk.router.by_hand.no_new_risk = lambda: ""
        desk.router.continue_exits()
        assert desk.store.working_orders() == []

    @pytest.mark.parametrize("name", ["reverse_wanted", "during_exit", "before_send", "reverse_flat", "reverse_routed"])
    def test_wherever_it_is_killed_it_ends_turned_around_once(
        self, ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        desk = opened(ledger_engine)

        def crash_point(passed: str) -> None:
            if passed == name:
                raise Killed(name)

        def live() -> None:
            desk.router.by_hand.reverse(asked(), stop=1.21)
            desk.close(2)
            desk.router.continue_exits()

        with monkeypatch.context() as patch:
            for module in (reversals, by_hand, submission, exit_orders):
                patch.setattr(module, "crash_point", crash_point)
            with pytest.raises(Killed):
                live()
        again = Desk(ledger_engine)
        again.clock.advance(desk.clock())
        submission.recover(ledger_engine, again.broker, again.clock)
        for n in (2, 3, 4):
            again.router.continue_exits()
            again.close(n)
        assert again.position() == -1000.0
        with ledger_engine.connect() as connection:
            count = connection.execute(text("SELECT count(*) FROM intents WHERE leg = 'entry'")).scalar()
        assert count == 2
