"""`desk`: the execution process as an asset, whose checks say whether a person must look at it.

The desk is no product of a run, so the sensor `desk_health` reports the checks without one: when an answer changes, and every
quarter of an hour so that their age says somebody is looking. Everything is read from the ledger, where a desk that hangs or
died stops writing. The checks stop nothing by themselves; the desk and the kill switch do.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from sqlalchemy import func, select

from assets.books import books_of
from assets.common import configured_universe, markdown_table
from resources.dagster_resources import LedgerResource
from resources.ledger import tables as t
from resources.ledger.notification_tables import notifications
from resources.ledger.store import Ledger
from resources.settings import PAPER_BOOK, Settings, settings
from trading.orders import MAY_BE_AT_BROKER, OrderState
from trading.timeframes import Timeframe, iso
from trading.universe import Universe

DESK = dg.AssetKey("desk")
PAPER_DESK = dg.AssetKey("paper_desk")
"""The desk of the paper book beside an account (desk/beside.py)."""
HEARTBEAT, BROKER, QUEUES, LAST_BAR, NEW_RISK = "heartbeat", "broker_connection", "queue_lag", "last_bar_age", "takes_new_risk"
SLACK_BEATS = 4
"""Heartbeats that may be missing: a bar close that takes long is no dead desk."""
LAG_SECONDS = {"bar closes": 30.0, "outbox to Dagster": 60.0, "notifications": 60.0}
BAR_SLACK_SECONDS = 30.0
DESCRIPTIONS = {
    HEARTBEAT: "The desk gives a sign of life at its interval, and its worker does not hang in one thing.",
    BROKER: "The broker answers the desk.",
    QUEUES: "No bar close waits for its trade run, no event for Dagster and no message for its channel longer than it should.",
    LAST_BAR: "While a venue of the universe is open, bars close: the last one is not older than its timeframe and a margin.",
    NEW_RISK: "The desk takes decisions: configuration, ledger, feeds and bar closes are in order.",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ledger says of the desk. now_wall: real time, UTC us. oldest: queue -> seconds its oldest entry waits.

    live: the feeds are live, so bars are due by the clock; a replay has no such clock.
    """

    now_wall: int
    heartbeat: Mapping[str, Any] | None
    last_close: Mapping[str, Any] | None
    live: bool
    oldest: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)


def look(ledger: Ledger, now_wall: int) -> Seen:
    """Read the ledger; raises what it raises when it is away."""
    with ledger.engine.connect() as c:
        closes = select(func.count(), func.min(t.closes.c.stored_wall)).where(t.closes.c.outcome.is_(None))
        outbox = select(func.count(), func.min(t.dagster_outbox.c.created_wall)).where(t.dagster_outbox.c.sent_wall.is_(None))
        told = select(func.count(), func.min(notifications.c.queued_wall)).where(notifications.c.state == "queued")
        counted = {name: c.execute(q).one() for name, q in zip(LAG_SECONDS, (closes, outbox, told), strict=True)}
    state = ledger.get_state("live_feed")
    return Seen(
        now_wall,
        ledger.get_state("heartbeat"),
        ledger.latest_close(),
        bool(state and state.get("feeds")),
        {name: (now_wall - first) / 1e6 for name, (_, first) in counted.items() if first is not None},
        {name: int(count) for name, (count, _) in counted.items()},
    )


def judge(seen: Seen, own: Settings, universe: Universe) -> list[dg.AssetCheckResult]:
    """Every check's answer, in the order of DESCRIPTIONS. own: as the processes of the desk's book see the settings."""
    return [answer._replace(asset_key=asset_of(own)) for answer in _judged(seen, own, universe)]


def asset_of(own: Settings) -> dg.AssetKey:
    """The asset that stands for the desk of these settings' book."""
    return PAPER_DESK if own.book == PAPER_BOOK else DESK


def _judged(seen: Seen, own: Settings, universe: Universe) -> list[dg.AssetCheckResult]:
    beat = seen.heartbeat
    if beat is None:
        return [_answer(name, False, "The desk was never started.", {}) for name in DESCRIPTIONS]
    return [_heartbeat(seen, beat, own), _broker(seen, beat, own), _queues(seen), _last_bar(seen, own, universe), _new_risk(beat)]


def _age(seen: Seen, beat: Mapping[str, Any]) -> float:
    return (seen.now_wall - int(beat["wall"])) / 1e6


def _silent_after(own: Settings) -> float:
    return own.heartbeat_seconds * SLACK_BEATS


def _heartbeat(seen: Seen, beat: Mapping[str, Any], own: Settings) -> dg.AssetCheckResult:
    age, since = _age(seen, beat), beat.get("working_since_wall")
    busy = (int(beat["wall"]) - int(since)) / 1e6 if since else 0.0
    silent, hangs = age > _silent_after(own), busy > own.kill_switch_seconds
    metadata = {
        "age_seconds": round(age, 1), "pid": int(beat["pid"]), "state": str(beat["state"]), "mode": str(beat["mode"]),
        "busy_seconds": round(busy, 1), "market_time": iso(int(beat["market_time"])),
    }  # fmt: skip
    if silent:
        log = "desk_paper" if own.book == PAPER_BOOK else "desk"
        said = f"No sign of life since {iso(int(beat['wall']))}: is it running? See data/logs/{log}.log."
    elif hangs:
        said = f"Its worker has done one thing for {busy:.0f} s: bar closes and orders wait."
    else:
        said = f"Seen {age:.1f} s ago, {beat['state']}."
    return _answer(HEARTBEAT, not (silent or hangs), said, metadata)


def _broker(seen: Seen, beat: Mapping[str, Any], own: Settings) -> dg.AssetCheckResult:
    trouble, name = str(beat.get("broker_trouble") or ""), str(beat.get("broker") or own.broker)
    if _age(seen, beat) > _silent_after(own):
        return _answer(BROKER, False, f"Not known: the desk, which asks {name}, is silent.", {"broker": name})
    return _answer(BROKER, not trouble, trouble or f"{name} answers.", {"broker": name})


def _queues(seen: Seen) -> dg.AssetCheckResult:
    late = {name: seconds for name, seconds in seen.oldest.items() if seconds > LAG_SECONDS[name]}
    metadata: dict[str, Any] = {}
    for name, limit in LAG_SECONDS.items():
        key = name.replace(" ", "_")
        metadata |= {
            f"{key}_waiting": seen.waiting.get(name, 0), f"{key}_oldest_seconds": round(seen.oldest.get(name, 0.0), 1),
            f"{key}_limit_seconds": limit,
        }  # fmt: skip
    said = "; ".join(f"{name}: {seen.waiting[name]} wait, the oldest for {seconds:.0f} s" for name, seconds in late.items())
    return _answer(QUEUES, not late, said or "Nothing waits longer than it should.", metadata)


def _market(seen: Seen, own: Settings, universe: Universe) -> tuple[int, float]:
    """Where the market of live bars stands, UTC us, and its seconds per real one: a simulated exchange has a clock of its own."""
    if not universe.simulated or not own.path("simulated", "clock.json").exists():
        return seen.now_wall, 1.0
    from resources.feeds.simulated import market_clock

    clock = market_clock(own, lambda: seen.now_wall)
    return clock(), clock.running_speed


def _last_bar(seen: Seen, own: Settings, universe: Universe) -> dg.AssetCheckResult:
    close = seen.last_close
    if close is None:
        return _answer(LAST_BAR, True, "No bar has closed yet.", {"live": seen.live})
    close_time = int(close["close_time"])
    metadata: dict[str, Any] = {"live": seen.live, "last_close": iso(close_time)}
    if not seen.live:
        return _answer(LAST_BAR, True, f"Replayed: the last bar closed at {iso(close_time)} of market time.", metadata)
    now, speed = _market(seen, own, universe)
    age = (now - close_time) / 1e6
    due = _due(universe, now, BAR_SLACK_SECONDS * speed)
    metadata |= {"age_seconds": round(age, 1), "due_seconds": due}
    if due is None:
        return _answer(LAST_BAR, True, "Every venue is closed.", metadata)
    said = f"The last bar closed {age:.0f} s ago" + (f", one was due within {due:.0f} s." if age > due else ".")
    return _answer(LAST_BAR, age <= due, said, metadata)


def _due(universe: Universe, now: int, slack: float) -> float | None:
    """Seconds since the last close beyond which a bar is missing: those of the shortest timeframe of what is open long enough
    for one to have closed, and a margin (slack); None: nothing is."""
    spans = []
    for instrument in universe.instruments.values():
        venue = universe.calendars()[instrument.calendar]
        native: Timeframe = instrument.native_timeframe
        span = native.minutes * 60 + slack
        at = int(venue.close_time.searchsorted(now, side="left"))
        if (
            native.minutes < Timeframe.D1.minutes
            and at < len(venue.close_time)
            and now - int(venue.open_time[at]) > span * 1e6
        ):
            spans.append(span)
    return min(spans, default=None)


def _new_risk(beat: Mapping[str, Any]) -> dg.AssetCheckResult:
    why = str(beat.get("no_new_risk") or "")
    return _answer(NEW_RISK, not why, why or "Decisions are taken.", {})


def _answer(name: str, passed: bool, said: str, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed, asset_key=DESK, check_name=name, severity=dg.AssetCheckSeverity.ERROR, description=said,
        metadata=dict(metadata),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Face:
    """What the asset's page shows of the desk. halts: scope -> level and why, ``desk`` for the whole desk.

    working: orders that may be at the broker, in_doubt: those of them whose fate is not known.
    """

    mode: str
    broker: str
    state: str
    last_close: str
    halts: Mapping[str, str]
    positions: Sequence[Mapping[str, Any]]
    working: int
    in_doubt: int

    @property
    def news(self) -> str:
        """Changes when a person should look again: mode, halts, orders in doubt. Positions change too often for that."""
        told = "|".join((self.mode, str(self.in_doubt), *sorted(self.halts)))
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    def metadata(self) -> dict[str, Any]:
        rows = [[p["symbol"], p["strategy"], f"{p['quantity']:g}", f"{p['average_price']:g}"] for p in self.positions]
        return {
            "mode": self.mode, "broker": self.broker, "state": self.state, "last_close": self.last_close or "none yet",
            "halts": dg.MetadataValue.md(markdown_table(["scope", "level and reason"], self.halts.items())),
            "open_positions": len(rows), "working_orders": self.working, "orders_in_doubt": self.in_doubt,
            "positions": dg.MetadataValue.md(markdown_table(["symbol", "strategy", "quantity", "average price"], rows)),
        }  # fmt: skip


def face(ledger: Ledger, seen: Seen) -> Face | None:
    """The desk as it is now; None before its first start. Raises what the ledger raises."""
    from desk import risk_state  # compiled rules: nothing the code server should load at its start

    beat = seen.heartbeat
    if beat is None:
        return None
    with ledger.engine.connect() as c:
        halt = risk_state.read_halt(c)
        o = t.orders.c.state
        known = (s.value for s in MAY_BE_AT_BROKER)
        counted = {state: int(n) for state, n in c.execute(select(o, func.count()).where(o.in_(known)).group_by(o))}
    halts = {"desk": f"{halt.level.value}: {halt.reason}"} if halt.level else {}
    halts |= {scope: f"{own['level']}: {own.get('reason', '')}" for scope, own in halt.strategies.items()}
    close = iso(int(seen.last_close["close_time"])) if seen.last_close else ""
    return Face(
        str(beat["mode"]), str(beat.get("broker") or ""), str(beat["state"]), close, halts, ledger.positions(open_only=True),
        sum(counted.values()), counted.get(OrderState.UNKNOWN.value, 0),
    )  # fmt: skip


def _spec(asset: dg.AssetKey, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset,
        group_name="desk",
        owners=["team:trading"],
        kinds={"python", "postgres"},
        tags={"lane": "operation"},
        description=description,
    )


def _checks_of(asset: dg.AssetKey, name: str) -> dg.AssetChecksDefinition:
    """The checks of one book's desk, for a person to run by hand."""

    @dg.multi_asset_check(
        name=name,
        specs=[dg.AssetCheckSpec(check, asset=asset, description=words) for check, words in DESCRIPTIONS.items()],
        can_subset=False,
    )
    def made(ledger: LedgerResource) -> Iterator[dg.AssetCheckResult]:
        for book in books_of(ledger.ledger()):
            if asset_of(book.settings) == asset:
                yield from judge(look(book.ledger, time.time_ns() // 1000), book.settings, configured_universe())

    return made


desk = _spec(
    DESK,
    "The execution process: holds positions, sends orders, runs whether or not Dagster does. Its checks are told by the sensor "
    "desk_health, which also shows mode, halts, positions and orders of that moment. External: nothing here makes it.",
)
paper_desk = _spec(
    PAPER_DESK,
    "PAPER, simulated money: the desk of the paper book beside the account. It follows the bar closes of the asset desk and "
    "trades what is in mode paper. Told by the sensor desk_health. External: nothing here makes it.",
)
desk_health_checks = _checks_of(DESK, "desk_health_checks")
paper_desk_health_checks = _checks_of(PAPER_DESK, "paper_desk_health_checks")


_TWO = settings().two_books
ASSETS: list[Any] = [desk, paper_desk] if _TWO else [desk]
CHECKS: list[Any] = [desk_health_checks, paper_desk_health_checks] if _TWO else [desk_health_checks]
