"""``python -m tests.faults.router_machine --transitions 100000``: router and order states under a state machine of hypothesis.

Hypothesis drives a real router on a real Postgres over the paper broker: decisions, bars, exits, cancels, changes, halts and
restarts in any order, while the broker answers badly, tells events twice, late and in the wrong order, takes orders after
they were given up, and a person trades by hand. After every step the books may differ for a while, but no order is sent
twice and no trade is closed beyond zero; at the end, calm again, ledger and broker are equal. Every transition the ledger
recorded is looked up in the state table.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import text

from desk import external, reconcile, submission
from desk.guards import is_guard
from desk.router import GuardNeeded
from resources.brokers.protocol import BrokerEvent, Modification, OrderRequest
from resources.ledger.store import connect
from tests.desk.kit import INSTRUMENTS, Desk, bar, hour
from tests.doubles.faulty_broker import SUBMIT_FAULTS, FaultyBroker
from tests.faults import checks
from trading.orders import TRANSITIONS, OrderEvent, OrderState, OrderType, Side, TimeInForce
from trading.signals import Action

SYMBOLS = ("EURUSD", "GBPUSD")
STRATEGIES = ("trend", "revert", "idea")
new_ledger: Callable[[], str]
"""Makes an empty ledger for each life; set by whoever runs the machine."""
counted = {"steps": 0, "transitions": 0, "lives": 0, "anomalous": 0, "external": 0, "found": 0, "not_found": 0}


class Events:
    """Between broker and desk: events that come late, twice, or in the wrong order."""

    def __init__(self) -> None:
        self.kind = ""

    def __call__(self, told: list[BrokerEvent]) -> list[BrokerEvent]:
        kind, self.kind = self.kind, ""
        if kind == "late":
            return []
        if kind == "twice":
            return [e for e in told for _ in range(2)]
        if kind == "swapped" and len(told) > 1:
            # The last stays last: what was read up to is known by its key.
            return [*reversed(told[:-1]), told[-1]]
        return told


class RouterMachine(RuleBasedStateMachine):
    """One desk's life. Every rule is a thing that may happen; none may raise."""

    @initialize(long=st.booleans())
    def start(self, long: bool) -> None:
        self.engine = connect(new_ledger())
        self.events = Events()
        external.remember(self.engine, INSTRUMENTS)
        self._desk(hour(0))
        self.desk.open()
        self.n, self.by_hand = 0, 0
        self.bared: set[str] = set()
        self.price = {"EURUSD": 12_000, "GBPUSD": 12_000}
        counted["lives"] += 1
        self.decide("trend", "EURUSD", long, False)  # no life passes in which nothing was ever sent

    def _desk(self, now: int) -> None:
        self.desk = Desk(self.engine, wrap=FaultyBroker)
        assert isinstance(self.desk.broker, FaultyBroker)
        self.broker = self.desk.broker
        self.broker.mangle = self.events
        self.desk.clock.advance(now)

    # -- what the desk is asked ------------------------------------------------------------------------------------------

    @rule(strategy=st.sampled_from(STRATEGIES), symbol=st.sampled_from(SYMBOLS), long=st.booleans(), parts=st.booleans())
    def decide(self, strategy: str, symbol: str, long: bool, parts: bool) -> None:
        side, price = (1 if long else -1), self.price[symbol]
        more: dict[str, Any] = {}
        if parts:
            more["targets"] = ((0.5, (price + 20 * side) / 10_000), (0.5, (price + 40 * side) / 10_000))
        self.desk.submit(
            self.n, strategy, symbol, Action.ENTER_LONG if long else Action.ENTER_SHORT, reference=price / 10_000,
            stop=(price - 20 * side) / 10_000, target=(price + 40 * side) / 10_000, **more,
        )  # fmt: skip
        self._step()

    @rule(long=st.booleans())
    def everybody_decides(self, long: bool) -> None:
        for strategy in STRATEGIES:
            for symbol in SYMBOLS:
                self.decide(strategy, symbol, long, True)

    @rule(strategy=st.sampled_from(STRATEGIES), symbol=st.sampled_from(SYMBOLS))
    def leave(self, strategy: str, symbol: str) -> None:
        self.desk.router.exit_position(strategy, symbol, "rule", hour(self.n))
        self._step()

    @rule(which=st.integers(0, 50), force=st.booleans())
    def cancel(self, which: int, force: bool) -> None:
        working = self.desk.store.working_orders()
        if working:
            order = working[which % len(working)]
            try:
                self.desk.router.cancel(order.id, "because", "person", force=force)
            except GuardNeeded:
                assert not force
            else:
                if force and is_guard(order):  # a person may do that: it is said, and blocks new risk
                    self.bared.add(order.trade_id)
        self._step()

    @rule(which=st.integers(0, 50), ticks=st.integers(1, 5))
    def modify(self, which: int, ticks: int) -> None:
        stops = [o for o in self.desk.store.working_orders() if o.stop_price is not None]
        if stops:
            order = stops[which % len(stops)]
            assert order.stop_price is not None
            price = round(order.stop_price - order.side.sign * ticks / 10_000, 4)
            self.desk.router.modify(order.id, Modification(stop_price=price), "closer", "person")
        self._step()

    @rule(strategy=st.sampled_from([None, *STRATEGIES]))
    def flatten(self, strategy: str | None) -> None:
        self.desk.router.flatten("enough", "person", strategy)
        self._step()

    @rule(level=st.sampled_from(["REDUCE_ONLY", "FLATTEN"]), scope=st.sampled_from(["desk", *STRATEGIES, "instrument:EURUSD"]))
    def halt_and_resume(self, level: str, scope: str) -> None:
        self.desk.router.halt(level, scope, "hm", "person")
        self.desk.router.continue_exits()
        self.desk.router.resume(scope, "well", "person")
        self._step()

    @rule()
    def compare(self) -> None:
        reconcile.reconcile(self.engine, self.desk.broker, self.desk.clock)
        self.desk.router.continue_exits()
        self._step()

    @rule()
    def restart(self) -> None:
        self._desk(self.desk.clock())
        submission.recover(self.engine, self.desk.broker, self.desk.clock)
        self.desk.router.continue_exits()
        self._step()

    # -- what the world does ---------------------------------------------------------------------------------------------

    @rule(moves=st.tuples(st.integers(-30, 30), st.integers(-30, 30)))
    def close(self, moves: tuple[int, int]) -> None:
        self.n += 1
        bars = []
        for symbol, move in zip(SYMBOLS, moves, strict=True):
            opened = self.price[symbol]
            self.price[symbol] = opened + move
            high, low = max(opened, opened + move) + 5, min(opened, opened + move) - 5
            bars.append(bar(symbol, self.n, opened / 10_000, high / 10_000, low / 10_000, (opened + move) / 10_000))
        self.desk.close(self.n, *bars)
        self.desk.router.continue_exits()
        self._step()

    @rule(fault=st.sampled_from(SUBMIT_FAULTS))
    def submit_goes_wrong(self, fault: str) -> None:
        self.broker.submit_faults = [fault]
        self._step()

    @rule(fault=st.sampled_from(["timeout_before", "timeout_after"]), what=st.sampled_from(["cancel_faults", "modify_faults"]))
    def change_goes_wrong(self, fault: str, what: str) -> None:
        setattr(self.broker, what, [fault])
        self._step()

    @rule(kind=st.sampled_from(["late", "twice", "swapped"]))
    def events_come_badly(self, kind: str) -> None:
        self.events.kind = kind
        self._step()

    @rule()
    def what_was_late_arrives(self) -> None:
        self.broker.arrive()
        self._step()

    @rule(symbol=st.sampled_from(SYMBOLS), buy=st.booleans(), limit=st.booleans())
    def a_person_trades(self, symbol: str, buy: bool, limit: bool) -> None:
        self.by_hand += 1
        price = (self.price[symbol] + (-10 if buy else 10)) / 10_000 if limit else None
        request = OrderRequest(
            f"ext-{self.by_hand}", symbol, Side.BUY if buy else Side.SELL, 7, OrderType.LIMIT if limit else OrderType.MARKET,
            TimeInForce.GTC, price,
        )  # fmt: skip
        self.desk.paper.submit([request])
        self._step()

    # -- what must hold --------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        counted["steps"] += 1
        sent = [client_id for group in self.broker.submitted for client_id in group]
        assert len(sent) == len(set(sent)), "an order was sent twice"
        with self.engine.connect() as connection:
            for name in ("duplicates", "overclosed"):
                assert connection.execute(text(checks._COUNTS[name])).scalar_one() == 0, name

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            self._end()
        finally:
            self.engine.dispose()

    def _end(self) -> None:
        self.broker.submit_faults, self.broker.cancel_faults, self.broker.modify_faults = [], [], []
        self.events.kind = ""
        self.broker.arrive()
        for _ in range(4):
            reconcile.reconcile(self.engine, self.desk.broker, self.desk.clock)
            self.desk.router.continue_exits()
            self.close((0, 0))
        reconcile.reconcile(self.engine, self.desk.broker, self.desk.clock)
        found = checks.compare(self.engine)
        anomalous = found.pop("anomalous")
        bare = [p for p in self.desk.store.open_positions() if p.trade_id in self.bared]
        told = {s: m["kind"] for s, m in self.desk.store.state("mismatches").items()}
        assert set(told) <= {p.symbol for p in bare}
        assert set(told.values()) <= {"UNPROTECTED"}
        assert found["unprotected"] <= len(bare)
        assert {k: v for k, v in found.items() if v and k != "unprotected"} == {}, found
        assert bool(found["unprotected"]) is bool(told), f"what nothing protects is said: {found}, {told}, {bare}"
        with self.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT order_id, event, state_before, state_after, anomalous FROM order_events ORDER BY seq")
            )
            state: dict[str, str] = {}
            for row in rows:
                counted["transitions"] += 1
                if row.event in ("found", "not_found"):
                    counted[row.event] += 1
                if row.state_before:
                    assert state.get(row.order_id, row.state_before) == row.state_before
                    after = TRANSITIONS.get((OrderState(row.state_before), OrderEvent(row.event)))
                    assert row.anomalous == (after is None)
                    assert row.state_after == (after.value if after is not None else row.state_before)
                state[row.order_id] = row.state_after
        counted["anomalous"] += anomalous
        counted["external"] += self.by_hand


def machine(lives: int, steps: int, *, shrink: bool = True, fixed: bool = False) -> None:
    """Run so many lives of up to `steps` steps. Raises what hypothesis found, with the steps to it.

    fixed: the same lives at every call, whatever the environment; otherwise others each time.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    own = settings(
        max_examples=lives, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        derandomize=fixed, print_blob=True, phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )  # fmt: skip
    run_state_machine_as_test(RouterMachine, settings=own)


def main(arguments: list[str] | None = None) -> int:
    from resources.ledger.migrate import create_databases, upgrade
    from tests.faults import torture

    global new_ledger
    parser = argparse.ArgumentParser(prog="python -m tests.faults.router_machine", description="Router under hypothesis.")
    parser.add_argument("--transitions", type=int, default=100_000, help="transitions of orders in the ledger, at least")
    parser.add_argument("--steps", type=int, default=80, help="of one life")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    with torture._server() as server:
        create_databases(server, [torture._TEMPLATE])
        upgrade(f"{server}/{torture._TEMPLATE}")
        from sqlalchemy import create_engine

        admin = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
        made: list[str] = []

        def make() -> str:
            with admin.connect() as connection:
                if made:
                    connection.execute(text(f'DROP DATABASE IF EXISTS "{made[-1]}" WITH (FORCE)'))
                made.append(f"machine_{len(made)}")
                connection.execute(text(f'CREATE DATABASE "{made[-1]}" TEMPLATE "{torture._TEMPLATE}"'))
            return f"{server}/{made[-1]}"

        new_ledger = make
        while counted["transitions"] < chosen.transitions:
            machine(20, chosen.steps)
            print(f"{counted}, {time.monotonic() - started:.0f} s", flush=True)
        admin.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
