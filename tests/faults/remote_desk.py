"""A small desk over the simulated broker, each in a process of its own, so that the desk can be killed anywhere while the
market goes on; and what the two books say afterwards."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Engine

from desk import algo_ledger, events, external, faults, reconcile, store, submission
from desk.by_hand import Asked, NoPosition
from desk.reductions import NotReduced
from desk.reversals import NotReversed
from desk.router import RouteResult
from desk.store import PositionRecord
from resources.brokers.protocol import Broker, BrokerError, Modification
from resources.brokers.remote import wire
from resources.brokers.remote.faults import FaultPlan
from resources.brokers.remote.server import BrokerServer
from resources.brokers.remote.venue import Venue, VenueOptions
from resources.brokers.simulated_remote import SimulatedRemoteBroker
from resources.feeds.protocol import BarClose
from resources.ledger.store import connect
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, SESSION, Desk, bar, decision, good_verdicts, hour
from trading.costs import Costs
from trading.limits import DailyLoss
from trading.orders import OrderState
from trading.signals import Action
from trading.timeframes import session_date

PAIRS = [("trend", "EURUSD"), ("trend", "GBPUSD"), ("revert", "EURUSD"), ("revert", "GBPUSD"), ("idea", "EURUSD")]
SYMBOLS = ("EURUSD", "GBPUSD")
PROGRESS = "torture"
MAX_CLOSES = 48
SETTLING = 6
"""Closes after the last decision in which everything under way ends."""
TIMEOUT = 0.15
"""Longest wait of the desk for an answer; a late answer takes twice as long."""
COSTS = Costs("per_value", 0.00002, 0.1, "fixed", 1)
EXECUTIONS: tuple[dict[str, Any], ...] = (
    {"algo": "twap", "minutes": 180, "slices": 3, "rest": "market"},
    {"algo": "twap", "minutes": 240, "slices": 4},
    {"algo": "iceberg", "minutes": 180, "visible": 400.0, "limit_ticks": 5, "rest": "market"},
)

T = TypeVar("T")
_FORK = multiprocessing.get_context("fork")
_WIDE = LIMITS.model_copy(
    update={
        "daily_loss": DailyLoss(amount=1e9), "price_collar_percent": 50.0, "max_concurrent_positions": 20,
        "max_gross_leverage": 100.0, "max_position_notional": 1e9,
    }
)  # fmt: skip


@dataclass
class RemoteDesk(Desk):
    """Everything of the order path, over a broker that is another process."""

    address: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.remote = SimulatedRemoteBroker(self.address, self.clock, TIMEOUT)
        self.broker: Broker = self.remote
        self.router._broker = self.remote
        self.config.limits = _WIDE

    def close(self, n: int, *bars: BarClose) -> events.DrainResult:
        self.clock.advance(hour(n))
        until_done(lambda: self.remote.on_bars(hour(n), bars))
        result = until_done(lambda: events.drain(self.engine, self.broker, self.clock))
        self.store.mark(hour(n), session_date(bars[0].session).isoformat(), {b.symbol: b.close for b in bars})
        return result


def until_done(action: Callable[[], T], attempts: int = 400) -> T:
    """What the desk does with a step that the broker did not let through: the same again, a little later."""
    for attempt in range(attempts):
        try:
            return action()
        except BrokerError:
            if attempt == attempts - 1:
                raise
            time.sleep(0.005)
    raise AssertionError("unreachable")


# -- the desk ------------------------------------------------------------------------------------------------------------


def live(url: str, address: str, seed: int, closes: int, decide_until: int = MAX_CLOSES) -> None:
    """Be the desk until `closes` bar closes are done, going on behind the last one that was finished.

    From `decide_until` on nothing new is wanted: what is under way ends.
    """
    engine = connect(url)
    desk = RemoteDesk(engine, costs=COSTS, address=address)
    for _ in range(400):  # the server notices a killed desk's end after a moment
        try:
            with store.exclusive(engine):
                _live(desk, seed, closes, decide_until)
            return
        except store.SecondDesk:
            time.sleep(0.01)
    raise TimeoutError("the lock of a killed desk was never freed")


def _live(desk: RemoteDesk, seed: int, closes: int, decide_until: int) -> None:
    done = int(desk.store.state(PROGRESS).get("close", 0))
    desk.clock.advance(hour(done))
    external.remember(desk.engine, INSTRUMENTS)
    until_done(lambda: submission.recover(desk.engine, desk.broker, desk.clock))
    if done == 0:
        desk.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=CASH)
        for symbol in INSTRUMENTS:
            desk.ledger.put_verdicts(good_verdicts(symbol))
        desk.store.mark(hour(0), SESSION, {s: path(seed, s)[0] for s in SYMBOLS})
    until_done(desk.router.continue_exits)
    until_done(lambda: reconcile.reconcile(desk.engine, desk.broker, desk.clock))
    connection = until_done(desk.remote.connection)
    if done < decide_until:
        _decide(desk, seed, done)
    for n in range(done + 1, closes + 1):
        desk.close(n, *bars_at(seed, n))
        until_done(desk.router.continue_exits)
        until_done(desk.router.algos.work)
        if n < decide_until:
            _look_after(desk, seed, n)
        now = until_done(desk.remote.connection)
        if n % 3 == 0 or now != connection or n > decide_until:  # every minute, and after a lost connection
            connection = now
            until_done(lambda: reconcile.reconcile(desk.engine, desk.broker, desk.clock))
            until_done(desk.router.continue_exits)
        with desk.engine.begin() as c:
            store.put_state(c, PROGRESS, {"close": n})
        if n < decide_until:
            _decide(desk, seed, n)


def _look_after(desk: RemoteDesk, seed: int, n: int) -> None:
    """Exits, moved stops and now and then a flatten."""
    for held in desk.store.open_positions():
        if held.strategy == external.STRATEGY:
            continue
        dice = random.Random(f"{seed} exit {n} {held.strategy} {held.symbol}")
        if dice.random() < 0.2:
            until_done(lambda h=held: desk.router.exit_position(h.strategy, h.symbol, "rule", hour(n)))  # type: ignore[misc]
        elif dice.random() < 0.3:
            for order in desk.store.orders_of_trade(held.trade_id):
                if order.stop_price is not None and order.state is OrderState.ACCEPTED:
                    price = round(order.stop_price - 0.0001 * order.side.sign, 4)
                    until_done(lambda o=order, p=price: desk.router.modify(o.id, Modification(stop_price=p), "closer", "torture"))  # type: ignore[misc]
        else:
            _by_hand(desk, seed, n, held)
    if random.Random(f"{seed} flatten {n}").random() < 0.15:
        until_done(lambda: desk.router.flatten("enough", "torture"))


def _by_hand(desk: RemoteDesk, seed: int, n: int, held: PositionRecord) -> None:
    """A person reduces a position or turns it around. The request is named by the close: a desk that was killed asks again."""
    dice = random.Random(f"{seed} hand {n} {held.strategy} {held.symbol}")
    share, away = dice.choice((0.3, 0.5, 0.7)), 0.002 if held.quantity > 0 else -0.002  # its stop is on the other side
    with contextlib.suppress(NoPosition, NotReduced, NotReversed):  # it is closed, or being closed already
        if dice.random() < 0.35:
            asked = Asked(held.strategy, held.symbol, f"reduce-{n}", "less", "torture")
            until_done(lambda: desk.router.by_hand.reduce(asked, share=share))
        elif dice.random() < 0.35:
            asked = Asked(held.strategy, held.symbol, f"reverse-{n}", "other side", "torture")
            until_done(lambda: desk.router.by_hand.reverse(asked, stop=round(path(seed, held.symbol)[n] + away, 4)))


def _decide(desk: RemoteDesk, seed: int, n: int) -> None:
    for strategy, symbol in PAIRS:
        dice = random.Random(f"{seed} entry {n} {strategy} {symbol}")
        if dice.random() < 0.5:
            action = dice.choice([Action.ENTER_LONG, Action.ENTER_SHORT])
            price, away = path(seed, symbol)[n], 0.002 * action.side.sign
            levels: dict[str, Any] = {"reference": price, "stop": round(price - away, 4), "target": round(price + 2 * away, 4)}
            more: dict[str, Any] = {}
            if dice.random() < 0.3:  # closed in two parts
                more["targets"] = ((0.5, round(price + away, 4)), (0.5, round(price + 2 * away, 4)))
            elif strategy == "revert":  # entered in slices, where the session has room for them
                more |= {"execution": dice.choice(EXECUTIONS), "valid_until": hour(n + 4)}
            wish = decision(n, strategy, symbol, action, **levels, **more)
            result = until_done(lambda w=wish: desk.router.submit_decision(w))  # type: ignore[misc]
            if result.accepted and dice.random() < 0.2:
                until_done(lambda r=result: _change_mind(desk, r))  # type: ignore[misc]


def _change_mind(desk: RemoteDesk, result: RouteResult) -> None:
    with desk.engine.connect() as connection:
        parent = algo_ledger.of_decision(connection, result.decision_id)
    if parent is not None:
        desk.router.algos.cancel(parent.id, "changed my mind", "torture")
    else:
        desk.router.cancel(result.intent_ids[0], "changed my mind", "torture")


_paths: dict[tuple[int, str], list[float]] = {}


def path(seed: int, symbol: str) -> list[float]:
    """Closes of a random walk on the grid."""
    if (seed, symbol) not in _paths:
        dice, price, made = random.Random(f"{seed} path {symbol}"), 12_000, []
        for _ in range(MAX_CLOSES + SETTLING + 1):
            made.append(price / 10_000)
            price += dice.randint(-15, 15)
        _paths[seed, symbol] = made
    return _paths[seed, symbol]


def bars_at(seed: int, n: int) -> list[BarClose]:
    """The bars of both instruments at the n-th close."""
    return [_bar(seed, symbol, n) for symbol in SYMBOLS]


def _bar(seed: int, symbol: str, n: int) -> BarClose:
    before, after = path(seed, symbol)[n - 1 : n + 1]
    dice = random.Random(f"{seed} bar {symbol} {n}")
    opened = round(before + dice.randint(-3, 3) / 10_000, 4)
    high = round(max(opened, after) + dice.randint(0, 15) / 10_000, 4)
    low = round(min(opened, after) - dice.randint(0, 15) / 10_000, 4)
    return bar(symbol, n, opened, high, low, after)


# -- processes -----------------------------------------------------------------------------------------------------------


def quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _desk_child(url: str, address: str, seed: int, closes: int, decide_until: int, crash_at: str) -> None:
    os.environ.pop(faults.VARIABLE, None)
    if crash_at:
        os.environ[faults.VARIABLE] = crash_at
    quiet()
    try:
        live(url, address, seed, closes, decide_until)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def run(url: str, address: str, seed: int, closes: int, crash_at: str = "", kill_after: float | None = None,
        decide_until: int = MAX_CLOSES, timeout: float = 180.0) -> bool:  # fmt: skip
    """Run a desk process until it ends, is killed at a boundary, or is killed after so many seconds. True: it was killed.

    Raises RuntimeError when it fails by itself, TimeoutError when it hangs.
    """
    process: BaseProcess = _FORK.Process(target=_desk_child, args=(url, address, seed, closes, decide_until, crash_at))
    process.start()
    process.join(timeout if kill_after is None else kill_after)
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if kill_after is None:
            raise TimeoutError(f"desk process of seed {seed} did not end (crash_at={crash_at!r})")
        return True
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"desk process of seed {seed} failed with {process.exitcode} (crash_at={crash_at!r})")
    return process.exitcode != 0


def _serve(book: str, rates: dict[str, float], seed: int, said: Any) -> None:
    quiet()
    venue = Venue(Path(book), INSTRUMENTS, lambda s: COSTS, VenueOptions(CASH, "USD", durable=False), FaultPlan(rates, seed))
    server = BrokerServer(venue, late_seconds=TIMEOUT * 2, down_seconds=0.05)
    said.send(server.port)
    said.close()
    server.serve_forever(poll_interval=1.0)


class Market:
    """The broker's own side: its process, its market, and a person at its screen."""

    def __init__(self, port: int, process: BaseProcess) -> None:
        self.address = f"127.0.0.1:{port}"
        self.process = process
        self._socket = socket.create_connection(("127.0.0.1", port), 10.0)
        self._file = self._socket.makefile("rb")
        self.ask("hello", **{"as": "market"})

    def ask(self, op: str, **args: Any) -> Any:
        self._socket.sendall(wire.encode({"id": 1, "op": op, "now": 0, "args": args}))
        answer = wire.decode(self._file.readline())
        if "error" in answer:
            raise RuntimeError(f"simulated broker, {op}: {answer['error']}")
        return answer["ok"]

    def move(self, seed: int, n: int) -> None:
        """Let the market go on to the n-th close, whether a desk listens or not."""
        self.ask("bars", close_time=hour(n), bars=[wire.bar_values(b) for b in bars_at(seed, n)])

    def books(self) -> dict[str, Any]:
        """Orders, executions, positions and cash as the broker has them."""
        orders = [*self.ask("open_orders"), *self.ask("completed_orders", since_us=0)]
        return {
            "orders": [wire.report_of(o) for o in orders],
            "executions": [wire.execution_of(e) for e in self.ask("executions", since_us=0)],
            "positions": {p["symbol"]: p["quantity"] for p in self.ask("positions")},
            "cash": self.ask("account")["cash"],
            "events": self.ask("poll_events", after_key=""),
        }

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def market(book: Path, rates: dict[str, float], seed: int) -> Iterator[Market]:
    """A simulated broker in a process of its own, with its book in a file."""
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_serve, args=(str(book), rates, seed, theirs))
    process.start()
    theirs.close()
    try:
        made = Market(ours.recv(), process)
        try:
            yield made
        finally:
            made.close()
    finally:
        process.kill()
        process.join()
        ours.close()


def progress(engine: Engine) -> int:
    """The last close a desk finished."""
    with engine.connect() as connection:
        return int(store.get_state(connection, PROGRESS).get("close", 0))
