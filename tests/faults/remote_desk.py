"""A small desk over the simulated broker and what it lives through; tests.faults.remote_process makes processes of the two."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Engine

from desk import algo_ledger, events, external, reconcile, store, submission
from desk.by_hand import Asked, NoPosition
from desk.reductions import NotReduced
from desk.reversals import NotReversed
from desk.router import RouteResult
from desk.store import PositionRecord
from resources.brokers.protocol import Broker, BrokerError, Modification
from resources.brokers.simulated_remote import connect
from resources.feeds.protocol import BarClose
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, SESSION, Desk, bar, decision, good_verdicts, hour
from tests.faults import warm_engine
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
_WIDE = LIMITS.model_copy(
    update={
        "daily_loss": DailyLoss(amount=1e9), "price_collar_percent": 50.0, "max_concurrent_positions": 20,
        "max_gross_leverage": 100.0, "max_position_notional": 1e9,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Habits:
    """How often the desk is asked for what, at a close, as shares. modify and by hand: of those trades that are not closed."""

    entry: float = 0.5
    in_parts: float = 0.3
    change_of_mind: float = 0.2
    exit: float = 0.2
    modify: float = 0.3
    reduce: float = 0.35
    reverse: float = 0.35
    flatten: float = 0.15


BUSY = Habits(entry=0.7, change_of_mind=0.3, modify=0.25, reduce=0.45, reverse=0.7, flatten=0.25)
"""A few closes see everything that can happen."""


@dataclass(frozen=True)
class Stretch:
    """A part of a life: until `closes` bar closes are done, going on behind the last one that was finished.

    From `decide_until` on nothing new is wanted: what is under way ends.
    """

    url: str
    address: str
    seed: int
    closes: int = MAX_CLOSES
    decide_until: int = MAX_CLOSES
    habits: Habits = Habits()


@dataclass
class RemoteDesk(Desk):
    """Everything of the order path, over a broker that is another process."""

    address: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.remote = connect(self.address, self.clock, TIMEOUT)
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


def live(stretch: Stretch) -> None:
    """Be the desk of `stretch`."""
    engine = warm_engine.engine_of(stretch.url)
    desk = RemoteDesk(engine, costs=COSTS, address=stretch.address)
    warm_engine.alone(engine, lambda: _live(desk, stretch))
    desk.remote.close()


def _live(desk: RemoteDesk, stretch: Stretch) -> None:
    seed, closes, decide_until = stretch.seed, stretch.closes, stretch.decide_until
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
        _decide(desk, stretch, done)
    for n in range(done + 1, closes + 1):
        desk.close(n, *bars_at(seed, n))
        until_done(desk.router.continue_exits)
        until_done(desk.router.algos.work)
        if n < decide_until:
            _look_after(desk, stretch, n)
        now = until_done(desk.remote.connection)
        if n % 3 == 0 or now != connection or n > decide_until:  # every minute, and after a lost connection
            connection = now
            until_done(lambda: reconcile.reconcile(desk.engine, desk.broker, desk.clock))
            until_done(desk.router.continue_exits)
        with desk.engine.begin() as c:
            store.put_state(c, PROGRESS, {"close": n})
        if n < decide_until:
            _decide(desk, stretch, n)


def _look_after(desk: RemoteDesk, stretch: Stretch, n: int) -> None:
    """Exits, moved stops and now and then a flatten."""
    seed, habits = stretch.seed, stretch.habits
    for held in desk.store.open_positions():
        if held.strategy == external.STRATEGY:
            continue
        dice = random.Random(f"{seed} exit {n} {held.strategy} {held.symbol}")
        if dice.random() < habits.exit:
            until_done(lambda h=held: desk.router.exit_position(h.strategy, h.symbol, "rule", hour(n)))  # type: ignore[misc]
        elif dice.random() < habits.modify:
            for order in desk.store.orders_of_trade(held.trade_id):
                if order.stop_price is not None and order.state is OrderState.ACCEPTED:
                    price = round(order.stop_price - 0.0001 * order.side.sign, 4)
                    until_done(lambda o=order, p=price: desk.router.modify(o.id, Modification(stop_price=p), "closer", "torture"))  # type: ignore[misc]
        else:
            _by_hand(desk, stretch, n, held)
    if random.Random(f"{seed} flatten {n}").random() < habits.flatten:
        until_done(lambda: desk.router.flatten("enough", "torture"))


def _by_hand(desk: RemoteDesk, stretch: Stretch, n: int, held: PositionRecord) -> None:
    """A person reduces a position or turns it around. The request is named by the close: a desk that was killed asks again."""
    seed, habits = stretch.seed, stretch.habits
    dice = random.Random(f"{seed} hand {n} {held.strategy} {held.symbol}")
    share, away = dice.choice((0.3, 0.5, 0.7)), 0.002 if held.quantity > 0 else -0.002  # its stop is on the other side
    with contextlib.suppress(NoPosition, NotReduced, NotReversed):  # it is closed, or being closed already
        if dice.random() < habits.reduce:
            asked = Asked(held.strategy, held.symbol, f"reduce-{n}", "less", "torture")
            until_done(lambda: desk.router.by_hand.reduce(asked, share=share))
        elif dice.random() < habits.reverse:
            asked = Asked(held.strategy, held.symbol, f"reverse-{n}", "other side", "torture")
            until_done(lambda: desk.router.by_hand.reverse(asked, stop=round(path(seed, held.symbol)[n] + away, 4)))


def _decide(desk: RemoteDesk, stretch: Stretch, n: int) -> None:
    seed, habits = stretch.seed, stretch.habits
    for strategy, symbol in PAIRS:
        dice = random.Random(f"{seed} entry {n} {strategy} {symbol}")
        if dice.random() < habits.entry:
            action = dice.choice([Action.ENTER_LONG, Action.ENTER_SHORT])
            price, away = path(seed, symbol)[n], 0.002 * action.side.sign
            levels: dict[str, Any] = {"reference": price, "stop": round(price - away, 4), "target": round(price + 2 * away, 4)}
            more: dict[str, Any] = {}
            if dice.random() < habits.in_parts:  # closed in two parts
                more["targets"] = ((0.5, round(price + away, 4)), (0.5, round(price + 2 * away, 4)))
            elif strategy == "revert":  # entered in slices, where the session has room for them
                more |= {"execution": dice.choice(EXECUTIONS), "valid_until": hour(n + 4)}
            wish = decision(n, strategy, symbol, action, **levels, **more)
            result = until_done(lambda w=wish: desk.router.submit_decision(w))  # type: ignore[misc]
            if result.accepted and dice.random() < habits.change_of_mind:
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


def progress(engine: Engine) -> int:
    """The last close a desk finished."""
    with engine.connect() as connection:
        return int(store.get_state(connection, PROGRESS).get("close", 0))
