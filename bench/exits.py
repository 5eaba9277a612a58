"""One bar close of 100 instruments with 100 open, managed trades: from the bars to the exit orders at the paper broker.

    python -m bench exits

A real Postgres (durable, as an installation has it), the real desk engine and paper broker, no Dagster. In each round 100
plans enter; at one close half of them leave by their longest holding time and half scale out of one part, so that the desk
has 100 market orders to send at once; at the next ones what is left is stopped out at the broker. The clock of the figures
starts where the desk takes the close, and stops when the broker's answer on an order is back; rounds after the first count.
Prints the statements that each step sent to the ledger and the paper book, too: unlike milliseconds, they do not depend on
what else the machine is doing.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from bench.core import Row, at_most

INSTRUMENTS = 100
ROUNDS = 3
GOAL_MS = 50.0
DAY = "2017-12-29"
_LONGEST = 3
"""Bars that every second plan holds its position; the other ones scale out at the same close."""

_UNIVERSE = """\
name: exits
history_start: 2017-12-29
history_end: 2017-12-29
simulated: true
quality: {max_gap_share: 0.99, max_gap_bars: 2000, jump_minimum: 0.5, stale_repeats: 500, volume_ratio: 100000}
instruments:
"""
_INSTRUMENT = """\
  {name}: {{asset_class: crypto, calendar: CRYPTO, tick_size: 0.01, lot_size: 0.01, currency: USD, feed: lean,
         feed_symbol: crypto/coinbase/{lower}, native_timeframe: 1m, tradable_in: [backtest, paper]}}
"""
_PLAN = """\
name: {plan}
universe: exits
status: active
mode: paper
symbol: {name}
direction: long
timeframe: 1m
valid: {{from: 2017-12-29, to: 2017-12-29}}
entry: {{kind: close_above, level: 1000}}
stop: {{kind: points, points: 3}}
targets:
  - {{share: 0.5, at: {{kind: reward, ratio: 5}}}}
manage:
  - {{kind: break_even, after_r: 4}}
  - {{kind: scale_out, share: 0.5, when: {{kind: close_above, level: {scale}}}}}
{longest}sizing: {{kind: fixed, quantity: 2}}
gates: {{min_reward_to_risk: 1.0, quality_sessions: 1, valid_bars: 5}}
"""
_RISK = """\
name: default
description: Wide enough that 100 plans may hold a position at once
max_order_quantity: 1000
max_notional: 100000
max_position_notional: 100000
max_concurrent_positions: 400
price_collar_percent: 20
max_gross_leverage: 50
daily_loss: {amount: 900000, percent: 90}
strategies: {}
"""


def run(quick: bool) -> Iterator[Row]:
    """Exit orders and entries of one close: how long, and how many statements."""
    from resources.ledger.migrate import create_databases, upgrade
    from resources.ports import free_port
    from resources.postgres import EmbeddedPostgres

    instruments, rounds = (10, 2) if quick else (INSTRUMENTS, ROUNDS)
    room = Path(tempfile.mkdtemp(prefix="tapeline-exits-"))
    room.chmod(0o755)
    server = EmbeddedPostgres(
        room / "postgres", room / "secrets" / "password", free_port(), relocate_to=(Path("/tmp"), Path("/var/tmp"))
    )
    try:
        server.start()
        base = server.url("").rstrip("/")
        create_databases(base, ["exits"])
        upgrade(f"{base}/exits")
        yield from _measured(base, room, instruments, rounds)
    finally:
        server.stop()
        rmtree(server.place, ignore_errors=True)
        rmtree(room, ignore_errors=True)


def _measured(base: str, room: Path, instruments: int, rounds: int) -> Iterator[Row]:
    import logging

    import structlog

    from desk.live import LiveDesk

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    day = Day(room, instruments)
    day.plans(0)
    live = LiveDesk(day.settings(base))
    sent = Sent(live.broker)
    with Statements(live.ledger.engine) as statements:
        try:
            live.take_over()
            figures = [_round(live, day, number, statements, sent) for number in range(rounds)]
        finally:
            live.close()
    yield from _rows(figures[1:], instruments)


class Day:
    """A universe of made-up instruments, their plans, and the minutes of one day."""

    def __init__(self, room: Path, count: int) -> None:
        self.names = [f"C{n:03d}USD" for n in range(count)]
        self._room = room
        self._config = room / "config"
        for part in ("universe", "plans", "strategies", "risk", "quality"):
            (self._config / part).mkdir(parents=True)
        made = "".join(_INSTRUMENT.format(name=name, lower=name.lower()) for name in self.names)
        (self._config / "universe" / "exits.yaml").write_text(_UNIVERSE + made)
        (self._config / "risk" / "default.yaml").write_text(_RISK)
        self.minute = 0

    def settings(self, base: str) -> Any:
        from resources.settings import Settings

        return Settings(
            _env_file=None, universe="exits", data_dir=self._room / "data", config_dir=self._config, replay_sessions=1,  # type: ignore[call-arg]
            lean_data=self._room / "lean", postgres_url=base, ledger_database="exits", paper_cash=1e7, live_feed="off",
        )  # fmt: skip

    def plans(self, number: int) -> list[str]:
        """The plans of a round, in the place of those of the round before."""
        for old in (self._config / "plans").glob("*.yaml"):
            old.unlink()
        made = []
        for n, name in enumerate(self.names):
            plan, text = self.plan(number, n, name)
            (self._config / "plans" / f"{plan}.yaml").write_text(text)
            made.append(plan)
        return made

    def plan(self, number: int, n: int, name: str) -> tuple[str, str]:
        """Name and file of the `n`-th plan of a round."""
        plan = f"r{number}_{name.lower()}"
        longest = f"max_bars: {_LONGEST}\n" if n % 2 else ""
        scale = 5000 if n % 2 else 101
        return plan, _PLAN.format(plan=plan, name=name, longest=longest, scale=scale)

    def close(self, price: float) -> Any:
        """The next minute of every instrument, closing at about `price`."""
        return self.close_at([price] * len(self.names))

    def close_at(self, prices: Sequence[float]) -> Any:
        """The next minute: a price for every instrument."""
        from desk.replay import CloseGroup
        from resources.feeds.protocol import BarClose
        from trading.calendars import calendar
        from trading.timeframes import US_PER_MINUTE, Timeframe, session_number

        self.minute += 1
        number = session_number(date.fromisoformat(DAY))
        opened, _ = calendar("CRYPTO").bounds(number)
        at = opened + self.minute * US_PER_MINUTE
        bars = tuple(
            BarClose(name, Timeframe.M1, at, number, price, price + 0.02, price - 0.02, price, 10.0 + n + self.minute % 7)
            for n, (name, price) in enumerate(zip(self.names, prices, strict=True))
        )
        return CloseGroup(at, number, bars)

    def decision(self, plan: str, name: str, evaluable: Any, partitions: Sequence[Any], at: int, price: float) -> Any:
        """The entry of a plan, as its gates would have let it through."""
        from trading.signals import Action, Decision, GateVerdict, PartitionRef, Signal
        from trading.timeframes import US_PER_MINUTE, Timeframe

        refs = tuple(PartitionRef(p.dataset, DAY, p.symbol, p.content_hash) for p in partitions if p.symbol == name)
        signal = Signal(
            strategy=plan, strategy_revision=evaluable.revision, symbol=name, timeframe=Timeframe.M1, close_time=at,
            action=Action.ENTER_LONG, strength=1.0, reference_price=price, stop_price=price - 3.0, target_price=None,
            valid_until=at + 5 * US_PER_MINUTE, sizing={"kind": "fixed", "quantity": 2.0}, features_version="bench",
            partitions=refs, targets=((0.5, price + 15.0), (0.5, None)),
        )  # fmt: skip
        return Decision(signal, True, (GateVerdict("bench", True, "", ""),))


@dataclass
class Figures:
    """One round. exits, entries: ms of each order until the broker's answer was back; closes: ms of each whole close, by what
    happened at it; statements: by the same names, with counts by statement."""

    exits: list[float] = field(default_factory=list)
    entries: list[float] = field(default_factory=list)
    closes: dict[str, float] = field(default_factory=dict)
    statements: dict[str, Counter[str]] = field(default_factory=dict)


class Statements:
    """What goes to the database: each statement once, however many rows it writes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.seen: Counter[str] = Counter()

    def __enter__(self) -> Statements:
        from sqlalchemy import event

        from resources.ledger.base import engines_of

        for engine in engines_of(self._engine):
            event.listen(engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        from sqlalchemy import event

        from resources.ledger.base import engines_of

        for engine in engines_of(self._engine):
            event.remove(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.seen[_short(statement)] += 1

    def taken(self) -> Counter[str]:
        """What was counted since the last call."""
        seen, self.seen = self.seen, Counter()
        return seen


def _short(statement: str) -> str:
    """Verb and table of a statement."""
    words = statement.replace("\n", " ").split()
    lowered = [w.lower() for w in words]
    for before in ("from", "into", "update"):
        if before in lowered and lowered.index(before) + 1 < len(words):
            return f"{words[0]} {words[lowered.index(before) + 1]}"
    return " ".join(words[:2])[:40]


class Sent:
    """When the broker's answer on each order was back, by the order's id (perf_counter seconds)."""

    def __init__(self, broker: Any, then: Callable[[], None] = lambda: None) -> None:
        """then: called at each answer."""
        self.at: dict[str, float] = {}
        self._then = then
        for name in ("submit", "submit_groups", "replace_groups"):
            if (call := getattr(broker, name, None)) is not None:
                setattr(broker, name, self._timed(call))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(requests: Any) -> Any:
            answer = call(requests)
            now = time.perf_counter()
            for part in requests:
                part = getattr(part, "requests", part)
                for request in part if isinstance(part, Sequence) else (part,):
                    self.at[request.client_id] = now
            self._then()
            return answer

        return timed


def _round(live: Any, day: Day, number: int, statements: Statements, sent: Sent) -> Figures:
    """100 plans enter; half of their trades end and half shrink at one close; the rest is stopped out."""
    from desk.clock import wall
    from trading.orders import OrderType

    made = Figures()
    plans = day.plans(number)

    def close(what: str, price: float) -> tuple[Any, float]:
        group = day.close(price)
        live.clock.advance(group.close_time)
        statements.taken()
        began = time.perf_counter()
        result = live.engine.process_close(group, wall())
        made.closes[what] = (time.perf_counter() - began) * 1e3
        made.statements[what] = statements.taken()
        live.engine.end_close(group.close_time, "done", "bench")
        return result, began

    close("warm", 100.0)
    result, _ = close("quiet", 100.0)
    evaluables = live.config.evaluables
    at = result.close_time
    wishes = [day.decision(p, n, evaluables[p], result.partitions, at, 100.0) for p, n in zip(plans, day.names, strict=True)]
    statements.taken()
    for wish in wishes:
        began = time.perf_counter()
        answer = live.router.submit_decision(wish)
        made.entries.append((time.perf_counter() - began) * 1e3)
        if not answer.accepted:
            raise SystemExit(f"exits: an entry was refused: {answer.refusal}")
    made.statements["entries"] = statements.taken()
    close("100 entries fill", 100.0)
    close("100 held", 100.0)
    sent.at.clear()
    _, began = close("100 exits", 102.0)
    orders = {o["id"]: o for o in live.ledger.orders()}
    leaving = [i for i in sent.at if orders[i]["order_type"] == OrderType.MARKET.value]
    if len(leaving) != len(plans):
        raise SystemExit(f"exits: {len(leaving)} of {len(plans)} exits were sent: {live.engine.unmanaged}")
    made.exits = [(sent.at[i] - began) * 1e3 for i in leaving]
    close("100 exits fill", 102.0)
    close("50 stopped out", 96.0)
    if live.store.open_positions() or live.store.working_orders():
        raise SystemExit("exits: something is left open")
    return made


def _rows(figures: Sequence[Figures], instruments: int) -> Iterator[Row]:
    exits = np.array([x for f in figures for x in f.exits])
    entries = np.array([x for f in figures for x in f.entries])
    yield Row("bar_to_exit_median", float(np.median(exits)), "ms")
    yield Row("bar_to_exit_p99", float(np.percentile(exits, 99)), "ms", goal=at_most(GOAL_MS))
    yield Row("decision_to_order_median", float(np.median(entries)), "ms")
    yield Row("decision_to_order_p99", float(np.percentile(entries, 99)), "ms")
    for what in figures[0].closes:
        yield Row(f"close: {what}", float(np.median([f.closes[what] for f in figures])), "ms")
    for what, seen in figures[-1].statements.items():
        yield Row(f"statements: {what}", float(sum(seen.values())), "statements")
        yield from _most(what, seen)


def _most(what: str, seen: Mapping[str, int]) -> Iterator[Row]:
    for statement, count in Counter(seen).most_common(6):
        yield Row(f"  {what}: {statement}", float(count), "statements")
