"""Bar closes of 100 instruments with trades of 100 plans, exits at most of them: where the slowest exits lose their time.

    python -m bench closes

A real Postgres (durable, as an installation has it), the real desk engine and paper broker, no Dagster. Four trades end at each
of about fifty closes by their longest holding time, others are moved to break-even or stopped out, and four are entered after
it. That is done alone, then beside two processes that keep both cores busy, as an installation's other processes do when a
close comes: at the priority that the installation gives these (pipelines.services.BESIDE_NICE), and at the desk's own.

The clock of an exit starts where the feed's bars reach the desk and stops when the paper broker's answer on it is back. What
the steps of a close cost is printed for the middle and for the slowest of the closes, with the statements, transactions and
connections that the desk asked for until its last exit was sent.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from bench.core import Row, at_most
from bench.exits import GOAL_MS, Day, Sent

INSTRUMENTS = 100
CLOSES = 28
"""Closes of a round; every plan enters once in a round, four at a close."""
EACH = 4
LONGEST = 4
PAUSE_SECONDS = 0.15

_PLAN = """\
name: {plan}
universe: exits
status: active
mode: paper
symbol: {name}
direction: long
timeframe: 1m
valid: {{from: 2017-12-29, to: 2017-12-29}}
entry: {{kind: indicator_condition, condition: {{">": [{{indicator: roc, params: {{period: 3}}}}, 0.2]}}}}
stop: {{kind: points, points: 3}}
target: {{kind: reward, ratio: 3}}
{manage}max_bars: {longest}
sizing: {{kind: fixed, quantity: 1}}
gates: {{min_reward_to_risk: 1.0, quality_sessions: 1, valid_bars: 2}}
"""
_BREAK_EVEN = "manage:\n  - {kind: break_even, after_r: 0.02}\n"
_BUSY = """\
import os
os.nice({nice})
x, parent = list(range(50000)), os.getppid()
while os.getppid() == parent:
    sum(i * i for i in x)
"""


def run(quick: bool) -> Iterator[Row]:
    """Exits of about fifty closes: how long, which steps, what the slowest one waited for."""
    from resources.ledger.migrate import create_databases, upgrade
    from resources.ports import free_port
    from resources.postgres import EmbeddedPostgres

    instruments = 12 if quick else INSTRUMENTS
    room = Path(tempfile.mkdtemp(prefix="tapeline-closes-"))
    room.chmod(0o755)
    server = EmbeddedPostgres(
        room / "postgres", room / "secrets" / "password", free_port(), relocate_to=(Path("/tmp"), Path("/var/tmp"))
    )
    try:
        server.start()
        base = server.url("").rstrip("/")
        create_databases(base, ["exits"])
        upgrade(f"{base}/exits")
        yield from _measured(base, room, instruments)
    finally:
        server.stop()
        rmtree(server.place, ignore_errors=True)
        rmtree(room, ignore_errors=True)


def _measured(base: str, room: Path, instruments: int) -> Iterator[Row]:
    import logging

    import structlog

    from desk.live import LiveDesk
    from desk.quiet import settler
    from pipelines.services import BESIDE_NICE

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    day = _Walk(room, instruments)
    day.plans(0)
    live = LiveDesk(day.settings(base))
    settler.start()
    watch = _Watch(live)
    sent = Sent(live.broker, watch.note)
    try:
        live.take_over()
        with watch:
            _round(live, day, 0, sent, watch, closes=9)  # compiles, connects, fills the caches
            yield from _rows("alone", _round(live, day, 1, sent, watch))
            with _busy(BESIDE_NICE):
                yield from _rows(f"beside 2 busy processes of nice {BESIDE_NICE}", _round(live, day, 2, sent, watch))
            with _busy(0):
                yield from _rows("beside 2 busy processes of nice 0", _round(live, day, 3, sent, watch))
    finally:
        live.close()


@contextmanager
def _busy(nice: int) -> Iterator[None]:
    """Both cores are wanted by others, too."""
    others = [subprocess.Popen([sys.executable, "-c", _BUSY.format(nice=nice)]) for _ in range(2)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


class _Walk(Day):
    """Plans that end after some bars, on prices that walk about."""

    def __init__(self, room: Path, count: int) -> None:
        super().__init__(room, count)
        self._dice = np.random.default_rng(7)
        self.prices = np.full(count, 100.0)

    def plan(self, number: int, n: int, name: str) -> tuple[str, str]:
        made = f"r{number}_{name.lower()}"
        return made, _PLAN.format(plan=made, name=name, manage="" if n % 4 else _BREAK_EVEN, longest=LONGEST)

    def step(self) -> Any:
        """The next minute of every instrument."""
        self.prices = np.round(self.prices * np.exp(self._dice.normal(0, 0.0006, len(self.prices))), 2)
        return self.close_at([float(price) for price in self.prices])


@dataclass
class _Close:
    """One close. exits: ms of each from the bars to the broker's answer; processor: ms of the desk's own until the last of them;
    whole: ms until it was recorded; stages: ms by step of the whole close; asked, collected: what was sent to the ledger, and ms
    of the garbage collector's pauses, until the last exit."""

    whole: float = 0.0
    exits: list[float] = field(default_factory=list)
    processor: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    collected: float = 0.0


class _Watch:
    """Times the steps of a close and counts what they ask the ledger for."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self.stages: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.collected = 0.0
        self._began = 0.0
        self.until: tuple[Counter[str], float, float] = (Counter(), 0.0, 0.0)

    def note(self) -> None:
        """The broker has answered."""
        self.until = (self.asked.copy(), self.collected, time.thread_time())

    def __enter__(self) -> _Watch:
        from sqlalchemy import event

        from desk import exit_orders, exit_routing, submission
        from resources.ledger.base import engines_of

        engine, router, live = self._live.engine, self._live.router, self._live
        for owner, name, label in (
            (live.ledger, "close", "is it done already"), (live.config, "refresh", "config"),
            (engine.actions, "begin", "corporate actions"), (engine.exits, "_take_bars", "take bars"),
            (live.broker, "on_bars", "paper broker matches"), (router, "hear", "hear the broker"),
            (engine._plans, "in_force", "plans in force"), (engine.actions, "evaluables", "units of today"),
            (engine._manager, "judge", "managed trades"), (router, "exit_positions", "exits wanted and sent"),
            (exit_orders, "send_wanted", "- sent"), (exit_orders, "send_in_place", "- sent in place"),
            (exit_orders, "_cancel", "  - legs cancelled"), (submission, "send_groups", "  - orders sent"),
            (exit_routing, "want", "- wanted"), (engine.exits, "look", "what is open, read or proven"),
            (engine._manager, "align", "legs moved"), (router, "continue_exits", "exits go on"),
            (engine.exits, "_derive_of", "higher timeframes"), (engine._store, "mark", "marks"),
            (router, "check_daily_loss", "breakers"), (engine._plans, "at_close", "plan book"),
            (engine, "_store_bars", "bars stored"), (engine, "_commit", "close recorded"),
        ):  # fmt: skip
            setattr(owner, name, self._timed(getattr(owner, name), label))
        for sql in engines_of(self._live.ledger.engine):
            event.listen(sql, "before_cursor_execute", lambda *_: self._count("statements"))
            event.listen(sql, "checkout", lambda *_: self._count("connections"))
        event.listen(self._live.ledger.engine, "commit", lambda *_: self._count("commits"))
        gc.callbacks.append(self._collect)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._collect)

    def _count(self, what: str) -> None:
        self.asked[what] += 1

    def _timed(self, call: Callable[..., Any], label: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.stages[label] += (time.perf_counter() - began) * 1e3  # type: ignore[assignment]

        return timed

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.collected += (time.perf_counter() - self._began) * 1e3

    def taken(self) -> Counter[str]:
        """The steps since the last call; counts begin anew."""
        taken, self.stages, self.asked, self.collected = self.stages, Counter(), Counter(), 0.0
        return taken


def _round(live: Any, day: _Walk, number: int, sent: Sent, watch: _Watch, closes: int = CLOSES) -> list[_Close]:
    """Every plan enters once, four after each close."""
    from desk.clock import wall

    plans = list(zip(day.plans(number), day.names, range(len(day.names)), strict=True))
    found: list[_Close] = []
    for _ in range(closes):
        time.sleep(PAUSE_SECONDS)
        group = day.step()
        live.clock.advance(group.close_time)
        sent.at.clear()
        watch.taken()
        processor, began = time.thread_time(), time.perf_counter()
        result = live.engine.process_close(group, wall())
        one = _Close((time.perf_counter() - began) * 1e3)
        one.stages = watch.taken()
        one.asked, one.collected, until = watch.until
        one.processor = (until - processor) * 1e3
        legs = {o["id"]: o["leg"] for o in live.ledger.orders() if o["id"] in sent.at} if sent.at else {}
        one.exits = [(at - began) * 1e3 for i, at in sent.at.items() if legs[i].startswith("exit:")]
        found.append(one)
        for _ in range(min(EACH, len(plans))):
            plan, name, n = plans.pop(0)
            evaluable = live.config.evaluables[plan]
            wish = day.decision(plan, name, evaluable, result.partitions, result.close_time, float(day.prices[n]))
            answer = live.router.submit_decision(wish)
            if not answer.accepted:
                raise SystemExit(f"closes: an entry was refused: {answer.refusal}")
        live.engine.end_close(group.close_time, "done", "bench")  # as a trade run does, when its decisions are answered
    return found[2:]  # the first ones read the new files


def _rows(where: str, closes: Sequence[_Close]) -> Iterator[Row]:
    exits = np.array([x for c in closes for x in c.exits])
    yield Row(f"{where}: exits", float(len(exits)), "orders")
    yield Row(f"{where}: bar to exit, median", float(np.median(exits)), "ms")
    yield Row(f"{where}: bar to exit, p90", float(np.percentile(exits, 90)), "ms")
    yield Row(f"{where}: bar to exit, p99", float(np.percentile(exits, 99)), "ms", goal=at_most(GOAL_MS))
    yield Row(f"{where}: processor until the last exit, median", float(np.median([c.processor for c in closes if c.exits])), "ms")
    yield Row(f"{where}: whole close, median", float(np.median([c.whole for c in closes])), "ms")
    leaving = sorted((c for c in closes if c.exits), key=lambda c: max(c.exits))
    for what, close in (("middle", leaving[len(leaving) // 2]), ("slowest", leaving[-1])):
        yield Row(f"{where}: {what} close", max(close.exits), "ms")
        yield Row("  processor", close.processor, "ms")
        yield Row("  garbage collector", close.collected, "ms")
        for label, spent in close.stages.items():
            yield Row(f"  {label}", float(spent), "ms")
        for label, count in close.asked.items():
            yield Row(f"  {label}", float(count), "")
