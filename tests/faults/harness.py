"""A small desk that lives through random hours in a process of its own, so that it can be killed anywhere and started again."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
from collections.abc import Callable

import structlog

from desk import faults, reconcile, store, submission
from desk.by_hand import Asked
from desk.reductions import NotReduced
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, SESSION, Desk, bar, decision, good_verdicts, hour
from tests.faults import warm_engine
from tests.faults.zygote import Child, zygote
from trading.costs import Costs
from trading.limits import DailyLoss
from trading.signals import Action

PAIRS = [("trend", "EURUSD"), ("trend", "GBPUSD"), ("revert", "EURUSD"), ("revert", "GBPUSD"), ("idea", "EURUSD")]
PROGRESS = "torture"
MAX_CLOSES = 55
"""The hours up to the weekend after kit.T0."""

_WIDE = LIMITS.model_copy(
    update={
        "daily_loss": DailyLoss(amount=1e9), "price_collar_percent": 50.0, "max_concurrent_positions": 20,
        "max_gross_leverage": 100.0, "max_position_notional": 1e9,
    }
)  # fmt: skip


def live(url: str, seed: int, closes: int) -> None:
    """Be the desk until `closes` bar closes are done, going on behind the last one that was finished."""
    engine = warm_engine.engine_of(url)
    desk = Desk(engine, costs=Costs("per_value", 0.00002, 0.1, "fixed", 1))
    desk.config.limits = _WIDE
    warm_engine.alone(engine, lambda: _live(desk, seed, closes))


def _live(desk: Desk, seed: int, closes: int) -> None:
    done = int(desk.store.state(PROGRESS).get("close", 0))
    desk.clock.advance(hour(done))
    submission.recover(desk.engine, desk.broker, desk.clock)
    if done == 0:
        desk.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=CASH)
        for symbol in INSTRUMENTS:
            desk.ledger.put_verdicts(good_verdicts(symbol))
        desk.store.mark(hour(0), SESSION, {s: _path(seed, s)[0] for s in ("EURUSD", "GBPUSD")})
    desk.router.continue_exits()
    _decide(desk, seed, done)
    for n in range(done + 1, closes + 1):
        desk.close(n, *(_bar(seed, symbol, n) for symbol in ("EURUSD", "GBPUSD")))
        desk.router.continue_exits()
        for held in desk.store.open_positions():
            if random.Random(f"{seed} exit {n} {held.strategy} {held.symbol}").random() < 0.25:
                desk.router.exit_position(held.strategy, held.symbol, "rule", hour(n))
            elif random.Random(f"{seed} reduce {n} {held.strategy} {held.symbol}").random() < 0.15:
                with contextlib.suppress(NotReduced):  # it is being closed already
                    desk.router.by_hand.reduce(Asked(held.strategy, held.symbol, f"reduce-{n}", "less", "torture"), share=0.4)
        if n % 9 == 0:
            reconcile.reconcile(desk.engine, desk.broker, desk.clock)
        with desk.engine.begin() as connection:
            store.put_state(connection, PROGRESS, {"close": n})
        _decide(desk, seed, n)


def _decide(desk: Desk, seed: int, n: int) -> None:
    for strategy, symbol in PAIRS:
        dice = random.Random(f"{seed} entry {n} {strategy} {symbol}")
        if dice.random() < 0.5:
            action = dice.choice([Action.ENTER_LONG, Action.ENTER_SHORT])
            price, away = _path(seed, symbol)[n], 0.002 * action.side.sign
            result = desk.router.submit_decision(
                decision(
                    n, strategy, symbol, action, reference=price, stop=round(price - away, 4), target=round(price + 2 * away, 4)
                )
            )
            if result.accepted and dice.random() < 0.15:
                desk.router.cancel(result.intent_ids[0], "changed my mind", "torture")


def _path(seed: int, symbol: str) -> list[float]:
    """Closes of a random walk on the grid."""
    dice, price, path = random.Random(f"{seed} path {symbol}"), 12_000, []
    for _ in range(MAX_CLOSES + 1):
        path.append(price / 10_000)
        price += dice.randint(-15, 15)
    return path


def _bar(seed: int, symbol: str, n: int):  # type: ignore[no-untyped-def]
    before, after = _path(seed, symbol)[n - 1 : n + 1]
    dice = random.Random(f"{seed} bar {symbol} {n}")
    opened = round(before + dice.randint(-3, 3) / 10_000, 4)
    high = round(max(opened, after) + dice.randint(0, 15) / 10_000, 4)
    low = round(min(opened, after) - dice.randint(0, 15) / 10_000, 4)
    return bar(symbol, n, opened, high, low, after)


def be_desk(url: str, seed: int, closes: int, crash_at: str) -> None:
    """Be the desk until `closes` bar closes are done, or until it dies at the boundary `crash_at`."""
    os.environ.pop(faults.VARIABLE, None)
    if crash_at:
        os.environ[faults.VARIABLE] = crash_at
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    live(url, seed, closes)


def warm_up(url: str) -> None:
    """Called in the zygote: do once what every desk does."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    live(url, 0, 3)
    warm_engine.cool()


def warm(new_ledger: Callable[[], str]) -> None:
    """Let the zygote of this process do everything once, on a ledger for nothing else. Only the first call does."""
    if not zygote().did("tests.faults.harness:warm_up"):
        zygote().call("tests.faults.harness:warm_up", new_ledger())


def start(url: str, seed: int, closes: int, crash_at: str = "") -> Child:
    """A desk process on the ledger at `url`."""
    return zygote().spawn("tests.faults.harness:be_desk", url, seed, closes, crash_at)


def finish(url: str, seed: int, closes: int, crash_at: str = "", timeout: float = 120.0) -> int:
    """Run a desk process to its end; its exit code (-9: killed)."""
    process = start(url, seed, closes, crash_at)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise TimeoutError(f"desk process of seed {seed} did not end (crash_at={crash_at!r}): {process.output()}") from None
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"desk process of seed {seed} failed with {code}: {process.output()}")
    return code


def kill_after(url: str, seed: int, closes: int, seconds: float) -> bool:
    """Run a desk process and kill it after `seconds`. False when it had ended by then. Raises when it failed by itself."""
    process = start(url, seed, closes)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"desk process of seed {seed} failed with {code}: {process.output()}")
    return code != 0
