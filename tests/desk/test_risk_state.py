"""The risk state is rebuilt from the ledger each time: halts, losses, positions and doubts survive any restart."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import Engine, text

from desk import risk_state, store
from desk.risk_state import HaltLevel
from resources.brokers.protocol import Account
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, SESSION, Desk, bar, good_verdicts, hour
from tests.doubles.faulty_broker import FaultyBroker
from trading.instruments import Mode
from trading.risk import RiskState
from trading.signals import Action


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine).open()


def build(desk: Desk, now_time: int | None = None) -> RiskState:
    with desk.engine.connect() as connection:
        return risk_state.build(
            connection, mode=Mode.PAPER, account=desk.broker.account(), instruments=INSTRUMENTS, strategy="trend",
            quality_ok="", now_time=desk.clock() if now_time is None else now_time,
        )  # fmt: skip


def test_it_holds_positions_entries_prices_and_equity(desk: Desk) -> None:
    desk.submit()
    desk.close(1, bar("EURUSD", 1, 1.2, 1.211, 1.199, 1.21))
    desk.submit(1, "revert", "GBPUSD", quantity=500.0)
    state = build(desk)
    assert state.positions == {("trend", "EURUSD"): 1000}
    assert state.pending_entries == {("revert", "GBPUSD")}
    assert state.working_notional == {"GBPUSD": pytest.approx(500 * 1.2 * 2)}
    assert state.last_price["EURUSD"] == 1.21
    assert state.multipliers == {"EURUSD": 1.0, "GBPUSD": 2.0, "WATCHED": 1.0}  # no rate for JPY: its exposure is unknown
    assert (state.day_start_equity, state.equity) == (CASH, pytest.approx(CASH + 10))
    assert state.strategy_pnl["trend"] == pytest.approx(10)
    assert (state.halt_level, state.unknown_symbols, state.mismatch_symbols) == ("", frozenset(), frozenset())


def test_it_is_the_same_in_another_process(desk: Desk, ledger_engine: Engine) -> None:
    desk.submit()
    desk.close(1)
    desk.router.halt("REDUCE_ONLY", "trend", "loss", "ana")
    assert build(Desk(ledger_engine), desk.clock()) == build(desk)


def test_unknown_orders_and_mismatches_name_their_symbols(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine, wrap=lambda b: FaultyBroker(b, submit_faults=["timeout_after"])).open()
    desk.submit()
    assert build(desk).unknown_symbols == {"EURUSD"}
    with desk.engine.begin() as connection:
        store.put_state(connection, "mismatches", {"*": {"kind": "CASH", "text": "", "since_time": 0, "sticky": False}})
    assert build(desk).mismatch_symbols == set(INSTRUMENTS)


def test_the_day_starts_with_the_session_row_or_the_last_snapshot_or_is_unknown(ledger_engine: Engine) -> None:
    desk = Desk(ledger_engine)
    assert math.isnan(build(desk).day_start_equity)
    desk.store.snapshot_account(hour(-20), "2017-12-26", Account("paper", "USD", 90_000, 91_000))
    desk.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=None)
    assert build(desk).day_start_equity == 91_000


def test_a_strategys_day_pnl_starts_at_the_last_mark_of_the_day_before(desk: Desk) -> None:
    desk.submit()
    desk.close(1, bar("EURUSD", 1, 1.2, 1.211, 1.199, 1.21))  # +10 today
    for n in range(2, 15):
        desk.close(n, bar("EURUSD", n, 1.21, 1.211, 1.209, 1.21))
    desk.ledger.open_session("2017-12-28", opened_time=hour(14), start_equity=desk.broker.account().equity)
    desk.close(15, bar("EURUSD", 15, 1.21, 1.21, 1.2, 1.2))  # -10 tomorrow
    assert build(desk).strategy_pnl["trend"] == pytest.approx(-10)


def test_a_halt_stands_until_resumed_and_never_weakens(desk: Desk) -> None:
    desk.router.halt("flatten", "desk", "fire", "ana")
    assert desk.router.halt("REDUCE_ONLY", "desk", "smoke", "bob").level is HaltLevel.FLATTEN
    assert build(desk).halt_level == "FLATTEN"
    assert desk.submit().refusal == "HALTED: scope=desk level=FLATTEN"
    assert desk.router.resume("desk", "fire is out", "ana") is True
    assert desk.router.resume("desk", "again", "ana") is False
    assert desk.submit(strategy="revert").accepted


def test_a_strategys_halt_is_its_own(desk: Desk) -> None:
    desk.router.halt("HALTED", "trend", "strange", "ana")
    assert desk.submit().refusal == "HALTED: scope=strategy strategy=trend"
    assert desk.submit(strategy="revert").accepted
    desk.router.halt("HALTED", "desk", "all", "ana")
    desk.router.resume("desk", "ok", "ana")
    assert desk.submit(1, "trend", "GBPUSD").refusal.startswith("HALTED: scope=strategy")


def test_an_unknown_level_is_no_halt_and_no_silence(desk: Desk) -> None:
    desk.submit(0)
    desk.close(1)
    with pytest.raises(ValueError, match="PAUSE"):
        desk.router.halt("pause", "desk", "x", "ana")
    with desk.engine.begin() as connection:
        store.put_state(connection, "halt", {"global": "FROZEN"})
    with pytest.raises(ValueError, match="FROZEN"):
        desk.submit(1)
    assert {o.leg for o in desk.store.working_orders()} == {"stop", "target"}
    assert desk.router.exit_position("trend", "EURUSD", "rule", hour(1)).accepted
    assert len(desk.router.continue_exits()) == 0
    desk.close(2)
    assert desk.position() == 0


def lose(desk: Desk, n: int, low: float) -> None:
    """A long of 20000 that closes at `low`: its loss is 20000 * (1.2 - low)."""
    desk.submit(n, quantity=20_000.0, stop=1.0, target=None)
    desk.close(n + 1, bar("EURUSD", n + 1, 1.2, 1.2, low, low))


def test_the_daily_loss_latches_reduce_only_until_resumed(desk: Desk) -> None:
    lose(desk, 0, 1.149)
    pending = desk.submit(1, "revert", "GBPUSD", Action.ENTER_SHORT, stop=1.25, target=1.1, quantity=100.0)
    assert pending.refusal.startswith("HALTED: scope=desk level=REDUCE_ONLY")
    with desk.engine.connect() as connection:
        halt = risk_state.read_halt(connection)
    assert halt.reason == f"DAILY_LOSS: pnl=-1020.00 session={SESSION}"
    desk.close(2, bar("EURUSD", 2, 1.2, 1.21, 1.19, 1.2))  # the loss is gone, the latch is not
    assert desk.submit(2, "idea").refusal.startswith("HALTED")
    desk.router.resume("desk", "looked at it", "ana")
    assert desk.submit(2, "idea", "GBPUSD").accepted


def test_after_a_resume_the_rule_still_refuses_while_the_loss_stands(desk: Desk) -> None:
    lose(desk, 0, 1.149)
    assert desk.router.check_daily_loss() is True
    desk.router.resume("desk", "looked at it", "ana")
    assert desk.router.check_daily_loss() is False
    assert desk.submit(1, "revert", "GBPUSD").refusal.startswith("DAILY_LOSS: pnl=-1020 limit=1000")


def test_a_latch_outlives_the_night(desk: Desk) -> None:
    lose(desk, 0, 1.149)
    assert desk.router.check_daily_loss()
    desk.ledger.open_session("2017-12-28", opened_time=hour(14), start_equity=desk.broker.account().equity)
    desk.ledger.put_verdicts(good_verdicts("GBPUSD", "2017-12-28"))
    desk.clock.advance(hour(20))
    assert desk.submit(20, "revert", "GBPUSD").refusal.startswith("HALTED: scope=desk level=REDUCE_ONLY")


def test_the_latch_cancels_entries_and_lets_exits_go(desk: Desk) -> None:
    desk.submit(quantity=20_000.0, stop=1.0, target=None)
    pending = desk.submit(0, "revert", "GBPUSD")
    desk.close(1, bar("EURUSD", 1, 1.2, 1.2, 1.149, 1.149))
    assert desk.router.check_daily_loss()
    assert desk.states(*pending.intent_ids) == ["canceled"] * 3
    assert desk.router.exit_position("trend", "EURUSD", "rule", hour(1)).accepted
    desk.close(2)
    assert desk.position() == 0


def test_halts_and_resumes_are_audited(desk: Desk) -> None:
    desk.router.halt("HALTED", "desk", "x", "ana")
    desk.router.resume("desk", "y", "bob")
    with desk.engine.connect() as connection:
        rows = connection.execute(text("SELECT actor, action FROM audit WHERE action IN ('halt', 'resume') ORDER BY seq")).all()
    assert [tuple(r) for r in rows] == [("ana", "halt"), ("bob", "resume")]


def test_without_limits_nothing_is_latched_the_rules_refuse_anyway(desk: Desk) -> None:
    lose(desk, 0, 1.149)
    account = desk.broker.account()
    assert risk_state.check_daily_loss(desk.engine, None, account, desk.clock) is False
    partial = LIMITS.model_copy(update={"daily_loss": None})
    assert risk_state.check_daily_loss(desk.engine, partial, account, desk.clock) is False


@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_history_the_state_built_anew_is_the_running_one_and_what_the_fills_add_up_to(
    ledger_engine: Engine, seed: int
) -> None:
    import random

    dice, desk = random.Random(seed), Desk(ledger_engine).open()
    price = 1.2
    for n in range(8):
        for strategy in ("trend", "revert", "idea"):
            if dice.random() < 0.6:
                action = dice.choice((Action.ENTER_LONG, Action.ENTER_SHORT))
                stop = round(price - 0.004 * action.side.sign, 4)
                target = round(price + 0.008 * action.side.sign, 4)
                made = desk.submit(n, strategy, "EURUSD", action, reference=price, stop=stop, target=target)
                if made.accepted and dice.random() < 0.3:
                    desk.router.cancel(made.intent_ids[0], "no", "ana")
        opened, price = price, round(price + dice.randint(-30, 30) / 10_000, 4)
        high, low = round(max(opened, price) + 0.0005, 4), round(min(opened, price) - 0.0005, 4)
        desk.close(n + 1, bar("EURUSD", n + 1, opened, high, low, price))
        for held in desk.store.open_positions():
            if dice.random() < 0.3:
                desk.router.exit_position(held.strategy, held.symbol, "rule", hour(n + 1))
        if dice.random() < 0.2:
            desk.router.halt("REDUCE_ONLY", "trend", "hm", "ana")
        running = build(desk)
        assert build(Desk(ledger_engine), desk.clock()) == running
        with ledger_engine.connect() as connection:
            rows = connection.execute(text("SELECT strategy, symbol, side, quantity, price, commission FROM fills")).all()
            working = connection.execute(
                text("SELECT i.strategy FROM orders o JOIN intents i USING (id) WHERE i.leg = 'entry' AND o.state = 'accepted'")
            ).scalars()
            assert {(s, "EURUSD") for s in working} == running.pending_entries
        sums: dict[tuple[str, str], float] = {}
        cash = CASH
        for row in rows:
            signed = row.quantity if row.side == "buy" else -row.quantity
            sums[row.strategy, row.symbol] = sums.get((row.strategy, row.symbol), 0.0) + signed
            cash -= signed * row.price + row.commission
        assert running.positions == {key: quantity for key, quantity in sums.items() if quantity}
        assert running.cash == pytest.approx(cash)
        assert running.equity == pytest.approx(cash + sum(sums.values()) * price)
        assert sum(running.strategy_pnl.values()) == pytest.approx(running.equity - CASH)
