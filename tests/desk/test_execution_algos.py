"""An entry worked in slices: one order a slot, each protected from its fill on, never more than was approved."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from desk import algo_ledger, submission
from desk.algo_ledger import Parent
from desk.reconcile import reconcile
from desk.risk_inputs import MarketView
from desk.risk_state import HaltLevel, set_halt
from resources.brokers.protocol import Modification
from tests.desk.kit import CASH, INSTRUMENTS, Desk, bar, hour
from tests.doubles.faulty_broker import FaultyBroker
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.evaluation import Evaluation
from trading.execution.spec import parse
from trading.limits import OrderRate
from trading.order_rules import OrderRules
from trading.signals import Action
from trading.timeframes import US_PER_HOUR, Timeframe, session_number

TWAP: dict[str, Any] = {"algo": "twap", "minutes": 240, "slices": 4}
ICEBERG: dict[str, Any] = {"algo": "iceberg", "minutes": 240, "visible": 400.0, "limit_ticks": 5}


def desk_of(engine: Engine, **limits: Any) -> Desk:
    desk = Desk(engine).open()
    assert desk.config.limits is not None
    desk.config.limits = desk.config.limits.model_copy(update=limits)
    return desk


def start(desk: Desk, execution: dict[str, Any], quantity: float = 1000.0, n: int = 0, **more: Any) -> Parent:
    result = desk.submit(n, quantity=quantity, execution=execution, valid_until=hour(n + 8), **more)
    assert result.accepted, result.refusal
    with desk.engine.connect() as connection:
        parent = algo_ledger.of_decision(connection, result.decision_id)
    assert parent is not None
    return parent


def now(desk: Desk, parent: Parent) -> dict[str, Any]:
    with desk.engine.connect() as connection:
        found = algo_ledger.get(connection, parent.id)
        assert found is not None
        return algo_ledger.told(connection, found)


def step(desk: Desk, n: int, *bars: Any) -> None:
    """One bar close as the desk does it: fills, exits, slices; and what is open is guarded all the while."""
    desk.close(n, *bars)
    desk.router.continue_exits()
    desk.router.algos.work()
    guarded(desk)


def guarded(desk: Desk) -> None:
    for held in desk.store.open_positions():
        trade = desk.store.orders_of_trade(held.trade_id)
        stops = [o for o in trade if o.leg.startswith("stop") and o.working]
        exits = [o for o in trade if o.is_exit and o.working]
        assert exits or sum(o.quantity - o.filled_quantity for o in stops) >= abs(held.quantity)
    assert reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}


class TestTwap:
    def test_one_slice_a_slot_until_the_whole_is_bought(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP, 1002.0)
        held = []
        for n in range(1, 6):
            step(desk, n)
            held.append(desk.position())
        assert held == [251.0, 501.0, 752.0, 1002.0, 1002.0]
        told = now(desk, parent)
        assert (told["state"], told["reason"], told["filled"], told["sent"]) == ("ended", "complete", 1002.0, 4)
        assert [s["quantity"] for s in told["slices"]] == [251.0, 250.0, 251.0, 250.0]
        orders = {o.leg: o for o in desk.store.orders_of_trade(parent.trade_id)}
        assert {leg for leg in orders if leg.startswith("entry")} == {"entry", "entry.2", "entry.3", "entry.4"}
        assert {o.trade_id for o in orders.values()} == {orders["entry"].id} == {parent.trade_id}
        assert orders["stop.3"].quantity == orders["entry.3"].quantity == orders["target.3"].quantity
        said = [r["action"] for r in audit_of(desk) if r["action"].startswith(("algo", "slice"))]
        assert said == ["algo_started", *["slice_sending"] * 4, "algo_ended"]

    def test_asking_again_answers_and_sends_nothing(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        again = desk.submit(0, execution=TWAP, valid_until=hour(8))
        assert (again.accepted, again.decision_id) == (True, parent.decision_id)
        for _ in range(3):
            assert desk.router.algos.work() == []
        assert now(desk, parent)["sent"] == 1

    def test_slices_missed_in_a_downtime_are_spread_over_the_rest_of_the_window(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, {"algo": "twap", "minutes": 360, "slices": 6}, 600.0)
        desk.close(1)
        desk.close(2)
        desk.close(3)  # nobody looked after it at 1 and 2
        desk.router.algos.work()
        assert [s["quantity"] for s in now(desk, parent)["slices"]] == [100.0, 167.0]
        step(desk, 4)
        step(desk, 5)
        step(desk, 6)
        assert (desk.position(), now(desk, parent)["reason"]) == (600.0, "complete")

    def test_what_is_left_at_the_windows_end_is_given_up(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        for n in range(1, 5):
            desk.close(n)
        step(desk, 5)
        assert (desk.position(), now(desk, parent)["state"], now(desk, parent)["reason"]) == (250.0, "ended", "window over")

    def test_the_rest_is_bought_at_the_market_where_the_file_says_so(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, {**TWAP, "rest": "market"})
        for n in range(1, 5):
            desk.close(n)
        desk.router.algos.work()
        told = now(desk, parent)
        assert (told["state"], told["slices"][-1]["slot"], told["slices"][-1]["quantity"]) == ("ending", -1, 750.0)
        step(desk, 5)
        assert (desk.position(), now(desk, parent)["state"]) == (1000.0, "ended")

    def test_a_stop_that_is_hit_ends_it(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        step(desk, 1)
        step(desk, 2)
        step(desk, 3, bar("EURUSD", 3, 1.195, 1.196, 1.18, 1.185))
        assert desk.position() == 0.0
        told = now(desk, parent)
        assert (told["state"], told["filled"]) == ("ended", 750.0)
        assert "stop" in told["reason"]
        step(desk, 4)
        assert desk.position() == 0.0

    def test_a_new_slices_stop_is_where_the_trades_stop_rests_now(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        step(desk, 1)
        stop = next(o for o in desk.store.orders_of_trade(parent.trade_id) if o.leg == "stop")
        desk.router.modify(stop.id, Modification(stop_price=1.195), "tighter", "test")
        step(desk, 2)
        assert next(o for o in desk.store.orders_of_trade(parent.trade_id) if o.leg == "stop.3").stop_price == 1.195


class TestIceberg:
    def test_the_next_part_follows_when_the_last_is_filled(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, ICEBERG)
        assert [(o.quantity, o.limit_price) for o in entries(desk, parent)] == [(400.0, 1.2005)]
        step(desk, 1, bar("EURUSD", 1, 1.202, 1.203, 1.201, 1.202))  # not reached
        assert (len(entries(desk, parent)), desk.position()) == (1, 0.0)
        step(desk, 2)
        step(desk, 3)
        step(desk, 4)
        assert [o.quantity for o in entries(desk, parent)] == [400.0, 400.0, 200.0][: len(entries(desk, parent))]
        assert desk.position() == sum(o.filled_quantity for o in entries(desk, parent))

    def test_what_is_not_filled_in_the_window_is_cancelled(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, {**ICEBERG, "limit_ticks": -50})
        for n in range(1, 5):
            step(desk, n)
        assert [o.state.value for o in entries(desk, parent)] == ["canceled"]
        assert (now(desk, parent)["state"], now(desk, parent)["reason"]) == ("ended", "window over")


class TestWhatEndsIt:
    def test_an_exit_takes_the_remaining_slices_back_first_and_closes_all(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        step(desk, 1)
        step(desk, 2)
        result = desk.router.exit_position("trend", "EURUSD", "rule", hour(2))
        assert result.accepted
        assert now(desk, parent)["state"] != "working"
        assert all(not o.working for o in entries(desk, parent))
        step(desk, 3)
        assert (desk.position(), now(desk, parent)["state"], now(desk, parent)["sent"]) == (0.0, "ended", 3)
        step(desk, 4)
        assert desk.position() == 0.0

    def test_an_exit_closes_the_whole_trade_beside_an_opposite_position_of_another_strategy(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        start(desk, TWAP)
        short = desk.submit(0, "revert", action=Action.ENTER_SHORT, stop=1.21, target=1.18, quantity=5000.0, valid_until=hour(4))
        assert short.accepted, short.refusal
        step(desk, 1)
        step(desk, 2)
        desk.router.exit_position("trend", "EURUSD", "rule", hour(2))
        step(desk, 3)
        assert (desk.position("trend"), desk.position("revert")) == (0.0, -5000.0)

    @pytest.mark.parametrize("scope", ["desk", "trend", "instrument:EURUSD"])
    def test_a_halt_ends_it_and_what_it_bought_stays_protected(self, ledger_engine: Engine, scope: str) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        step(desk, 1)
        desk.router.halt(HaltLevel.REDUCE_ONLY, scope, "enough", "test")
        assert now(desk, parent)["state"] == "ended"
        step(desk, 2)
        step(desk, 3)
        assert (desk.position(), now(desk, parent)["sent"]) == (250.0, 2)

    def test_a_halt_that_is_only_latched_ends_it_too(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        with desk.engine.begin() as connection:  # by another process, or by a desk that died behind it
            set_halt(connection, HaltLevel.REDUCE_ONLY, "trend", "enough", "test", hour(0))
        desk.router.algos.work()
        assert (now(desk, parent)["state"], now(desk, parent)["reason"]) == ("ended", "halt")
        assert [o.state.value for o in entries(desk, parent)] == ["canceled"]

    def test_a_flatten_closes_what_it_bought(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        step(desk, 1)
        desk.router.flatten("enough", "test")
        step(desk, 2)
        assert (desk.position(), now(desk, parent)["state"]) == (0.0, "ended")

    def test_a_command_ends_it(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        step(desk, 1)
        assert desk.router.algos.cancel(parent.id, "enough", "me").state == "ended"
        step(desk, 2)
        assert (desk.position(), now(desk, parent)["reason"]) == (250.0, "cancelled by me: enough")
        with pytest.raises(KeyError):
            desk.router.algos.cancel("alg-none", "enough", "me")

    def test_a_slice_that_somebody_cancels_ends_it(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        desk.router.cancel(entries(desk, parent)[0].id, "not now", "me")
        desk.router.algos.work()
        assert (now(desk, parent)["state"], now(desk, parent)["reason"]) == ("ended", "slice entry was cancelled")

    def test_a_strategy_that_is_paused_sends_no_more(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        desk.config.strategies["trend"] = replace(desk.config.strategies["trend"], status="paused")
        step(desk, 1)
        assert (now(desk, parent)["state"], desk.position()) == ("ended", 250.0)


class TestRisk:
    def test_every_slice_passes_the_rules_again_and_a_refused_ones_share_is_spread(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, TWAP)
        assert desk.config.limits is not None
        free = desk.config.limits
        desk.config.limits = free.model_copy(update={"order_rate": OrderRate(orders=1, seconds=2 * 3600)})
        step(desk, 1)
        assert now(desk, parent)["slices"][-1]["refusal"].startswith("ORDER_RATE")
        assert now(desk, parent)["slices"][-1]["order"] is None
        desk.config.limits = free
        step(desk, 2)
        step(desk, 3)
        step(desk, 4)
        assert [s["quantity"] for s in now(desk, parent)["slices"]] == [250.0, 250.0, 375.0, 375.0]
        assert (desk.position(), now(desk, parent)["reason"]) == (1000.0, "complete")

    def test_the_whole_is_judged_before_the_first_slice(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine, max_order_quantity=900)
        result = desk.submit(0, execution=TWAP, valid_until=hour(8))
        assert (result.accepted, result.refusal[:18]) == (False, "MAX_ORDER_QUANTITY")

    def test_what_is_not_sent_yet_counts_for_everybody_else(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine, max_position_notional=3000.0)
        start(desk, TWAP, 2000.0)
        other = desk.submit(0, "revert", quantity=600.0)
        assert other.refusal.startswith("MAX_POSITION: symbol=EURUSD would_be=3120")
        assert desk.submit(0, "revert", "GBPUSD", quantity=600.0).accepted

    def test_the_strategys_next_signal_waits_until_it_is_over(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        start(desk, TWAP)
        step(desk, 1)
        assert desk.submit(1).refusal.startswith("POSITION_OPEN")

    @pytest.mark.parametrize(
        ("execution", "reason", "more"),
        [
            ({"algo": "twap", "minutes": 900, "slices": 4}, "window_outside_session", {}),
            (TWAP, "window_beyond_validity", {"valid_until": hour(2)}),
            (TWAP, "closed_in_parts", {"targets": ((0.5, 1.21), (0.5, 1.22))}),
            ({"algo": "vwap", "minutes": 240, "slices": 4}, "profile_missing", {}),
        ],
    )
    def test_what_cannot_be_worked_is_refused(
        self, ledger_engine: Engine, execution: dict[str, Any], reason: str, more: dict[str, Any]
    ) -> None:
        desk = desk_of(ledger_engine)
        result = desk.submit(0, execution=execution, **{"valid_until": hour(40), **more})
        assert result.refusal.startswith(f"EXECUTION: reason={reason}"), result.refusal
        assert desk.store.working_orders() == []


def entries(desk: Desk, parent: Parent) -> list[Any]:
    return [o for o in desk.store.orders_of_trade(parent.trade_id) if o.leg.startswith("entry")]


def audit_of(desk: Desk) -> list[dict[str, Any]]:
    with desk.engine.connect() as connection:
        rows = connection.execute(text("SELECT action FROM audit ORDER BY seq")).mappings()
        return [dict(row) for row in rows]


class PastBars:
    """Hourly bars of the weeks before: three times the volume in the hour after 08:00Z."""

    def read_bars(self, dataset: str, symbol: str, start: Any = None, end: Any = None) -> Bars:
        venue = calendar("FX")
        row = int(venue.number.searchsorted(session_number(date(2017, 12, 6))))
        times: list[int] = []
        numbers: list[int] = []
        for r in range(row, row + 16):
            for at in range(int(venue.open_time[r]) + US_PER_HOUR, int(venue.close_time[r]) + 1, US_PER_HOUR):
                times.append(at)
                numbers.append(int(venue.number[r]))
        price = np.full(len(times), 1.2)
        volume = np.array([3000.0 if (at // US_PER_HOUR) % 24 == 9 else 1000.0 for at in times])
        numbered = np.array(numbers, np.int32)
        return Bars(symbol, Timeframe.H1, np.array(times, np.int64), numbered, price, price, price, price, volume)


class TestVolume:
    def test_vwap_follows_the_profile_of_past_sessions_and_the_backtest_does_too(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        desk.router.algos._market = MarketView(PastBars(), lambda symbol: ())
        execution = {"algo": "vwap", "minutes": 240, "slices": 4, "sessions": 5}
        parent = start(desk, execution, 1200.0)
        for n in range(1, 5):
            step(desk, n)
        bought = [s["quantity"] for s in now(desk, parent)["slices"]]
        assert bought == [600.0, 200.0, 200.0, 200.0]
        bars = PastBars().read_bars("bars_1h", "EURUSD")
        at = bars.close_time == hour(0)
        nothing, never = np.full(len(bars), np.nan), np.zeros(len(bars), bool)
        evaluation = Evaluation(
            "EURUSD", Timeframe.H1, bars.close_time, ~never, at, never, never, never, np.full(len(bars), 1.19), nothing, nothing,
            nothing, np.ones(len(bars)),
        )  # fmt: skip
        traded = replace(INSTRUMENTS["EURUSD"], has_volume=True)
        result = backtest(
            evaluation, bars, traded, cash=CASH, sizing={"kind": "fixed", "quantity": 1200},
            orders=OrderRules(execution=parse(execution)),
        )  # fmt: skip
        assert [row["quantity"] for row in result.fill_rows()] == bought
        short = bars.rows(bars.close_time >= hour(-50))
        few = replace(
            evaluation, close_time=short.close_time,
            **{n: getattr(evaluation, n)[-len(short) :] for n in ("ready", "enter_long", "enter_short", "exit_long", "exit_short",
               "stop_long", "stop_short", "target_long", "target_short", "strength")},
        )  # fmt: skip
        refused = backtest(
            few,
            short,
            traded,
            cash=CASH,
            sizing={"kind": "fixed", "quantity": 1200},
            orders=OrderRules(execution=parse(execution)),
        )
        assert (refused.refusals, refused.fill_rows()) == ({"EXECUTION": 1}, [])

    def test_a_slice_takes_no_more_than_its_share_of_the_newest_bars_volume(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        desk.router.algos._market = MarketView(PastBars(), lambda symbol: ())
        parent = start(desk, {**TWAP, "participation": 0.2})
        for n in range(1, 5):
            step(desk, n)
        assert [s["quantity"] for s in now(desk, parent)["slices"]] == [200.0, 267.0, 200.0, 200.0]
        assert now(desk, parent)["reason"] == "window over"

    def test_without_volume_nothing_is_sent(self, ledger_engine: Engine) -> None:
        desk = desk_of(ledger_engine)
        parent = start(desk, {**TWAP, "participation": 0.2})
        step(desk, 1)
        assert (now(desk, parent)["sent"], desk.position()) == (0, 0.0)


class TestAnOrderThatWasGivenUp:
    def test_its_share_is_spread_and_when_it_comes_all_the_same_nothing_stays_above_what_was_approved(
        self, ledger_engine: Engine
    ) -> None:
        desk = Desk(ledger_engine, wrap=FaultyBroker).open()
        broker = desk.broker
        assert isinstance(broker, FaultyBroker)
        broker.submit_faults = ["late"]
        parent = start(desk, TWAP)
        for n in range(1, 5):
            submission.resolve_unknown(desk.engine, broker, desk.clock)
            step(desk, n)
        assert [s["state"] for s in now(desk, parent)["slices"]] == ["rejected", "filled", "filled", "filled"]
        assert (desk.position(), now(desk, parent)["reason"]) == (1000.0, "complete")
        broker.arrive()
        for n in range(5, 9):
            desk.close(n)
            reconcile(desk.engine, desk.broker, desk.clock)  # its legs work again: what it bought is guarded
            desk.router.continue_exits()
            desk.router.algos.work()
        assert [o.leg for o in desk.store.orders_of_trade(parent.trade_id) if o.is_exit] == [f"exit:overfilled:{hour(5)}"]
        assert desk.position() == 0.0
        assert not [o for o in desk.store.orders_of_trade(parent.trade_id) if o.working and desk.position() == 0.0]
