"""The router: an approved decision becomes one bracket, once; anything in doubt becomes a refusal with a code."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from desk import store
from desk.risk_state import HaltLevel
from resources.ledger import audit
from resources.ledger.store import VerdictRow
from tests.desk.kit import SESSION, Desk, Rule, bar, config, decision, good_verdicts, hour
from trading.orders import OrderState, OrderType
from trading.quality_thresholds import parse_quality
from trading.signals import Action, PartitionRef
from trading.timeframes import US_PER_DAY, US_PER_MINUTE


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine).open()


def test_an_approved_decision_becomes_a_bracket_at_the_broker(desk: Desk) -> None:
    result = desk.submit()
    assert (result.accepted, result.refusal) == (True, "")
    entry, stop, target = (desk.store.order(i) for i in result.intent_ids)
    assert entry
    assert stop
    assert target
    assert [o.leg for o in (entry, stop, target)] == ["entry", "stop", "target"]
    assert [o.state for o in (entry, stop, target)] == [OrderState.ACCEPTED] * 3
    assert (entry.order_type, stop.order_type, target.order_type) == (OrderType.MARKET, OrderType.STOP, OrderType.LIMIT)
    assert (stop.stop_price, target.limit_price, entry.quantity) == (1.19, 1.22, 1000)
    assert {o.trade_id for o in (entry, stop, target)} == {entry.id}
    assert entry.parent == result.decision_id
    assert entry.broker_order_id
    assert [r.client_id for r in desk.paper.open_orders()] == sorted(result.intent_ids, key=lambda i: i)
    desk.close(1)
    assert desk.position() == 1000


def test_every_rule_has_its_verdict_on_record(desk: Desk) -> None:
    result = desk.submit()
    with desk.engine.connect() as connection:
        rows = connection.execute(text("SELECT leg, risk, sizing FROM intents")).all()
    by_leg = {row.leg: row for row in rows}
    assert {v["rule"] for v in by_leg["entry"].risk} >= {"halt", "data_quality", "max_position", "daily_loss", "buying_power"}
    assert all(v["passed"] for row in rows for v in row.risk)
    assert by_leg["entry"].sizing["quantity"] == 1000
    assert result.accepted


def test_asking_twice_gives_the_first_answer_and_one_order(desk: Desk) -> None:
    first = desk.submit()
    desk.close(1)
    desk.clock.advance(hour(99))
    assert desk.submit() == first
    assert len(desk.paper.executions(0)) == 1


def test_a_refused_decision_stays_refused_when_the_reason_is_gone(desk: Desk) -> None:
    desk.router.halt("HALTED", "desk", "lunch", "ana")
    first = desk.submit()
    desk.router.resume("desk", "back", "ana")
    assert first.refusal.startswith("HALTED: ")
    assert desk.submit() == first
    assert desk.paper.open_orders() == []


def test_a_decision_the_gates_refused_is_never_sent(desk: Desk) -> None:
    result = desk.submit(approved=False)
    assert (result.accepted, result.refusal, result.intent_ids) == (False, "REWARD_TO_RISK: ratio=0.5 minimum=1", ())
    forged = replace(decision(approved=False), approved=True)
    assert desk.router.submit_decision(forged).accepted is False
    assert desk.paper.open_orders() == []


def test_a_decision_the_ledger_knows_as_refused_is_never_sent(desk: Desk) -> None:
    from resources.ledger.store import DecisionRow

    refused = decision(approved=False)
    desk.ledger.insert_decisions([DecisionRow(refused, b"s", b"o")], session=SESSION, code_revision="c", run_id="r")
    assert desk.submit().refusal == refused.refusal


def test_concurrent_submissions_of_one_decision_make_one_order(desk: Desk) -> None:
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(desk.submit())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert len(desk.paper.open_orders()) == 3


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"strategy": "nobody"}, "CONFIG_INVALID"),
        ({"symbol": "NOSUCH"}, "CONFIG_INVALID"),
        ({"strategy": "shadowed"}, "MODE"),
        ({"symbol": "WATCHED"}, "NOT_TRADABLE"),
        ({"symbol": "USDJPY", "reference": 110.0, "stop": 109.0, "target": 112.0}, "PRICE_MISSING: fx=JPY/USD"),
        ({"n": -3}, "EXPIRED"),
        ({"quantity": 0.4}, "SIZE_ZERO"),
        ({"sizing": {"kind": "martingale"}}, "CONFIG_INVALID"),
        ({"quantity": 60_000.0}, "MAX_ORDER_QUANTITY"),
        ({"quantity": 50_000.0, "reference": 1.21, "stop": 1.2, "target": 1.25}, "MAX_NOTIONAL"),
        ({"reference": 1.4, "stop": 1.39, "target": 1.5}, "PRICE_COLLAR"),
        ({"stop": 1.21}, "STOP_REQUIRED"),
        ({"stop": float("nan")}, "STOP_REQUIRED"),
        ({"target": 1.15}, "STOP_REQUIRED"),
        ({"stop": 1.19005}, "PRICE_GRID"),
        ({"partitions": (PartitionRef("bars_1h", "2017-12-26", "EURUSD", "h"),)}, "DATA_QUALITY"),
        ({"partitions": ()}, "DATA_QUALITY"),
    ],
)
def test_what_is_in_doubt_is_refused_with_its_code(desk: Desk, changes: dict[str, object], code: str) -> None:
    result = desk.submit(**changes)
    assert not result.accepted
    assert result.refusal.startswith(code)
    (order_id,) = result.intent_ids
    assert desk.states(order_id) == ["denied"]
    assert (desk.paper.open_orders(), desk.paper.completed_orders(0)) == ([], [])
    assert desk.submit(**changes) == result


def test_a_failed_check_on_the_needed_bars_refuses_with_partition_and_check(desk: Desk) -> None:
    bad = VerdictRow("bars_1h", SESSION, "EURUSD", "ohlc_consistent", False, "error", "hash1")
    desk.ledger.put_verdicts([bad])
    assert desk.submit().refusal == f"DATA_QUALITY: partition=bars_1h/{SESSION}/EURUSD check=ohlc_consistent reason=failed"


def test_the_running_session_may_have_grown_but_a_finished_one_must_be_the_same(desk: Desk) -> None:
    yesterday = PartitionRef("bars_1h", "2017-12-26", "EURUSD", "old")
    desk.ledger.put_verdicts(good_verdicts("EURUSD", "2017-12-26", "old"))
    desk.ledger.put_verdicts(good_verdicts("EURUSD", SESSION, "one bar more"))
    today = PartitionRef("bars_1h", SESSION, "EURUSD", "hash1")
    assert desk.submit(partitions=(today, yesterday)).accepted
    desk.ledger.put_verdicts(good_verdicts("EURUSD", "2017-12-26", "corrected"))
    refusal = desk.submit(strategy="revert", partitions=(today, yesterday)).refusal
    assert refusal.startswith("DATA_QUALITY: partition=bars_1h/2017-12-26/EURUSD")
    assert refusal.endswith("reason=stale")


def test_nothing_is_entered_at_a_price_that_is_not_above_zero(desk: Desk) -> None:
    refusal = desk.submit(reference=-37.63, stop=-40.0, target=-20.0).refusal
    assert refusal.startswith("NOT_TRADABLE: symbol=EURUSD price=-37.63")


class TestVerdictsExpireAtTheDeskAsTheyDoInTheGate:
    """A decision may wait; when it arrives, its verdicts are measured again by the same rule (trading/freshness.py)."""

    @staticmethod
    def limited(desk: Desk, text: str) -> None:
        parsed, problems = parse_quality(text, "q.yaml")
        assert parsed is not None, problems
        universe = desk.config.universe
        desk.config.universe = replace(universe, quality=universe.quality.over(parsed.thresholds))

    @staticmethod
    def judged(desk: Desk, judged_time: int | None) -> None:
        desk.ledger.put_verdicts([replace(v, judged_time=judged_time) for v in good_verdicts("EURUSD")])

    def test_one_that_saw_the_market_lately_is_good(self, desk: Desk) -> None:
        self.limited(desk, "by_timeframe: {1h: {verdict_max_age_minutes: 150}}\n")
        self.judged(desk, desk.clock() - 150 * US_PER_MINUTE)
        assert desk.submit().accepted

    @pytest.mark.parametrize("missing", [False, True])
    def test_one_that_did_not_or_does_not_say_is_refused(self, desk: Desk, missing: bool) -> None:
        self.limited(desk, "by_timeframe: {1h: {verdict_max_age_minutes: 150}}\n")
        self.judged(desk, None if missing else desk.clock() - 150 * US_PER_MINUTE - 1)
        refusal = desk.submit().refusal
        assert refusal.startswith(f"DATA_QUALITY: partition=bars_1h/{SESSION}/EURUSD")
        assert refusal.endswith("reason=expired")

    def test_a_limit_in_real_days_counts_on_the_real_clock(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limited(desk, "verdict_max_age_days: 30\n")
        later = store.wall_us() + 31 * US_PER_DAY
        monkeypatch.setattr(store, "wall_us", lambda: later)
        assert desk.submit().refusal.endswith("reason=expired")

    def test_a_timeframe_nobody_has_limits_for_is_refused(self, desk: Desk) -> None:
        refusal = desk.submit(partitions=(PartitionRef("bars_7m", SESSION, "EURUSD", "hash1"),)).refusal
        assert refusal.startswith("DATA_QUALITY: reason=missing field=freshness")


def test_a_missing_limit_or_price_refuses(desk: Desk) -> None:
    desk.config.limits = config().limits.model_copy(update={"daily_loss": None})  # type: ignore[union-attr]
    assert desk.submit().refusal.startswith("LIMIT_MISSING: limit=daily_loss")
    desk.config.limits = None
    assert desk.submit(strategy="revert").refusal.startswith("LIMIT_MISSING")


def test_no_price_no_order(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine)
    desk.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=100_000)
    desk.ledger.put_verdicts(good_verdicts("EURUSD"))
    assert desk.submit().refusal.startswith("PRICE_MISSING: symbol=EURUSD")


def test_no_start_equity_means_no_new_risk(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine)
    desk.ledger.put_verdicts(good_verdicts("EURUSD"))
    desk.store.mark(hour(0), SESSION, {"EURUSD": 1.2})
    assert desk.submit().refusal.startswith("DAILY_LOSS")


def test_one_position_per_strategy_and_instrument(desk: Desk) -> None:
    assert desk.submit().accepted
    assert "state=entering" in desk.submit(action=Action.ENTER_SHORT, stop=1.21, target=1.18).refusal
    desk.close(1)
    assert desk.submit(1).refusal.startswith("POSITION_OPEN: ")
    assert desk.submit(1, "revert").accepted


def test_a_plan_enters_once_in_its_life(desk: Desk) -> None:
    assert desk.submit(strategy="idea").accepted
    desk.close(1)
    desk.close(2, bar("EURUSD", 2, 1.19, 1.19, 1.18, 1.185))  # stopped out
    assert desk.position("idea") == 0
    assert desk.submit(2, "idea", reference=1.185, stop=1.17, target=1.21).refusal == "PLAN_DONE: plan=idea"


def test_a_paused_strategy_does_not_trade(desk: Desk) -> None:
    desk.config.strategies["trend"] = Rule("trend", status="paused")
    assert desk.submit().refusal == "HALTED: scope=strategy strategy=trend status=paused"


def test_an_order_late_for_its_validity_expires_unsent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from desk import submission

    real = submission.send

    def slow(*args: object, **kw: object) -> object:
        desk.clock.advance(hour(5))
        return real(*args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(submission, "send", slow)
    result = desk.submit()
    assert desk.states(*result.intent_ids) == ["expired"] * 3
    assert desk.paper.completed_orders(0) == []


def test_an_exit_cancels_the_legs_and_closes_at_the_next_open(desk: Desk) -> None:
    entered = desk.submit()
    desk.close(1)
    result = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    assert result.accepted
    assert desk.states(*entered.intent_ids) == ["filled", "canceled", "canceled"]
    assert desk.states(*result.intent_ids) == ["accepted"]
    desk.close(2, bar("EURUSD", 2, 1.205, 1.206, 1.1, 1.2))
    assert desk.position() == 0
    assert [e.price for e in desk.paper.executions(0)] == [1.2, 1.205]


def test_an_exit_is_never_doubled(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    first = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    assert desk.router.exit_position("trend", "EURUSD", "rule", hour(1)) == first
    assert desk.router.exit_position("trend", "EURUSD", "max_bars", hour(1)) == first
    desk.close(2)
    assert [p.quantity for p in desk.paper.positions()] == []
    assert desk.router.exit_position("trend", "EURUSD", "rule", hour(2)).refusal.startswith("SIZE_ZERO")


def test_exits_pass_every_halt_and_unknown_limit(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    desk.router.halt("HALTED", "desk", "trouble", "ana")
    desk.config.limits = None
    assert desk.router.exit_position("trend", "EURUSD", "rule", hour(1)).accepted
    desk.close(2)
    assert desk.position() == 0


def test_an_exit_waits_until_the_cancel_is_confirmed(ledger_engine: Engine) -> None:
    from tests.doubles.faulty_broker import FaultyBroker

    desk = Desk(ledger_engine, wrap=FaultyBroker).open()
    faulty = desk.broker
    assert isinstance(faulty, FaultyBroker)
    entered = desk.submit()
    desk.close(1)
    faulty.cancel_faults = ["timeout_before"] * 2
    result = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    assert desk.states(*result.intent_ids) == ["initialized"]
    assert desk.states(*entered.intent_ids[1:]) == ["pending_cancel"] * 2
    assert len(desk.router.continue_exits()) == 1
    desk.close(2)
    assert desk.position() == 0


@pytest.mark.parametrize("action", list(Action))
def test_a_stop_that_fills_while_the_exit_waits_ends_the_exit(ledger_engine: Engine, action: Action) -> None:
    from tests.doubles.faulty_broker import FaultyBroker

    desk = Desk(ledger_engine, wrap=FaultyBroker).open()
    faulty = desk.broker
    assert isinstance(faulty, FaultyBroker)
    away = 0.01 * action.side.sign
    desk.submit(action=action, stop=round(1.2 - away, 4), target=round(1.2 + 5 * away, 4))
    desk.close(1)
    faulty.cancel_faults = ["timeout_before"] * 2
    result = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    desk.close(2, bar("EURUSD", 2, 1.2, 1.215, 1.185, 1.19))
    assert desk.router.continue_exits() == []
    assert desk.states(*result.intent_ids) == ["denied"]
    assert desk.paper.positions() == []


def test_a_rejected_exit_is_asked_for_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.submit()
    desk.close(1)
    whole = desk.paper._instruments
    monkeypatch.setattr(desk.paper, "_instruments", {})
    result = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    assert desk.states(*result.intent_ids) == ["rejected"]
    monkeypatch.setattr(desk.paper, "_instruments", whole)
    (again,) = desk.router.continue_exits()
    order = desk.store.order(again)
    assert order is not None
    assert order.leg == f"exit:rule:{hour(1)}:2"
    desk.close(2)
    assert desk.position() == 0


def test_flatten_cancels_entries_and_closes_positions(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    pending = desk.submit(1, "revert")
    results = desk.router.flatten("going home", "ana")
    assert [r.accepted for r in results] == [True]
    assert desk.states(*pending.intent_ids) == ["canceled"] * 3
    desk.close(2)
    assert (desk.position(), desk.position("revert")) == (0, 0)
    assert desk.paper.open_orders() == []


def test_flatten_of_one_strategy_leaves_the_others(desk: Desk) -> None:
    desk.submit()
    desk.submit(strategy="revert")
    desk.close(1)
    desk.router.flatten("enough", "ana", strategy="trend")
    desk.close(2)
    assert (desk.position(), desk.position("revert")) == (0, 1000)


def test_a_halt_cancels_working_entries_and_a_flatten_halt_closes(desk: Desk) -> None:
    desk.submit()
    desk.close(1)
    pending = desk.submit(1, "revert")
    desk.router.halt("reduce_only", "desk", "storm", "ana")
    assert desk.states(*pending.intent_ids) == ["canceled"] * 3
    assert desk.position() == 1000
    desk.router.halt(HaltLevel.FLATTEN, "trend", "worse", "ana")
    desk.close(2)
    assert desk.position() == 0


def test_cancel_answers_with_what_really_happened(desk: Desk) -> None:
    entered = desk.submit()
    assert desk.router.cancel(entered.intent_ids[0], "mistake", "ana") is OrderState.CANCELED
    assert desk.states(*entered.intent_ids) == ["canceled"] * 3
    other = desk.submit(strategy="revert")
    desk.close(1)
    assert desk.router.cancel(other.intent_ids[0]) is OrderState.FILLED
    with pytest.raises(KeyError):
        desk.router.cancel("int-unknown")


def test_every_step_is_in_the_audit_and_the_chain_holds(desk: Desk) -> None:
    desk.submit()
    desk.submit(strategy="nobody")
    desk.close(1)
    desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
    desk.router.halt("HALTED", "desk", "x", "ana")
    with desk.engine.connect() as connection:
        actions = list(connection.execute(text("SELECT action FROM audit ORDER BY seq")).scalars())
    rows = {"session", "intent", "order_event", "fill", "position"}
    acts = [action for action in actions if action not in rows]
    assert acts == ["cash_baseline", "order_sending", "order_denied", "exit_wanted", "exit_sent", "halt"]
    assert set(actions) >= rows - {"session"}
    assert audit.verify(desk.engine) == []


def test_a_second_desk_on_the_ledger_is_refused(desk: Desk) -> None:
    with store.exclusive(desk.engine) as held:
        assert held()
        with pytest.raises(store.SecondDesk), store.exclusive(desk.engine):
            pass
        with desk.engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()")
            )
        assert not held()
    with store.exclusive(desk.engine) as held:
        assert held()
