"""The request budget of a provider's plan, counted in the ledger: so many a minute, so many a day, over all processes.

A minute is any 61 seconds (counted by whole seconds), so that neither a provider with a sliding window nor one with
fixed minutes sees too many. A day begins at midnight in the provider's zone. A request is counted before it is sent: one
that never left is counted all the same, one that left is never forgotten. Counts survive restarts; a clock set back never
gives requests back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from resources.feeds.protocol import Capabilities, FeedError, RateLimited
from resources.ledger.base import connect
from resources.ledger.feed_tables import feed_budgets
from resources.settings import Settings
from trading.timeframes import from_us, to_us

_WINDOW_SECONDS = 61
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a budget's row says. day: the provider's date its used_day counts; recent: (second, requests), ascending."""

    day: date
    used_day: int
    recent: tuple[tuple[int, int], ...]
    latest_wall: int
    held_until_wall: int = 0
    held_because: str = ""

    def at(self, now: int, zone: ZoneInfo) -> BudgetState:
        """The state at real time `now` (UTC us): old seconds dropped, a new day begun, a clock set back made good."""
        state = self
        if now < self.latest_wall:
            # The clock was set back. What was counted "in the future" counts as of now; the day is kept until it is over.
            back = self.latest_wall - now
            held = max(0, self.held_until_wall - back) if self.held_until_wall > self.latest_wall else self.held_until_wall
            moved: dict[int, int] = {}
            for second, count in self.recent:
                at = min(second, now // _SECOND)
                moved[at] = moved.get(at, 0) + count
            state = replace(state, recent=tuple(sorted(moved.items())), held_until_wall=held)
        oldest = now // _SECOND - _WINDOW_SECONDS
        recent = tuple((second, count) for second, count in state.recent if second > oldest)
        state = replace(state, recent=recent, latest_wall=now)
        today = from_us(now).astimezone(zone).date()
        return replace(state, day=today, used_day=0) if today > state.day else state

    def wait_seconds(self, n: int, now: int, zone: ZoneInfo, per_minute: int | None, per_day: int | None) -> float:
        """Seconds until `n` requests may go; 0 now."""
        until = max(now, self.held_until_wall)
        if per_day is not None and self.used_day + n > per_day:
            midnight = datetime.combine(self.day + timedelta(days=1), datetime.min.time(), zone)
            until = max(until, to_us(midnight.astimezone(UTC)))
        if per_minute is not None:
            over = sum(count for _, count in self.recent) + n - per_minute
            for second, count in self.recent:
                if over <= 0:
                    break
                over -= count
                until = max(until, (second + _WINDOW_SECONDS) * _SECOND)
        return (until - now) / 1e6

    def taken(self, n: int, now: int) -> BudgetState:
        """The state after `n` requests."""
        second = now // _SECOND
        counts = dict(self.recent)
        counts[second] = counts.get(second, 0) + n
        return replace(self, used_day=self.used_day + n, recent=tuple(sorted(counts.items())))


class Budget:
    """The budget of the plan of `feed`, shared by all processes that use the same ledger.

    per_minute, per_day: most requests, None without a limit. zone: where the provider's day begins. now: real time, UTC
    us; default: the database's clock, the same for every machine. Methods raise sqlalchemy's errors while the ledger is
    away: what cannot be counted must not be sent.
    """

    def __init__(
        self,
        ledger_engine: Engine,
        feed: str,
        per_minute: int | None,
        per_day: int | None,
        *,
        zone: str = "UTC",
        now: Callable[[], int] | None = None,
    ) -> None:
        for limit in (per_minute, per_day):
            if limit is not None and limit < 1:
                raise ValueError(f"budget of {feed}: limit {limit}, expected at least 1, or None for no limit")
        self.feed, self.per_minute, self.per_day = feed, per_minute, per_day
        self.zone = ZoneInfo(zone)
        self._engine = ledger_engine
        self._now = now

    def take(self, n: int = 1) -> float:
        """Ask for `n` requests. 0.0: go, they are counted. Else nothing is counted: seconds to wait before asking again."""
        smallest = min((limit for limit in (self.per_minute, self.per_day) if limit is not None), default=n)
        if not 1 <= n <= smallest:
            raise ValueError(f"budget of {self.feed}: {n} requests at once, expected 1 to {smallest}")
        with self._engine.begin() as connection:
            state, now = self._locked(connection)
            wait = state.wait_seconds(n, now, self.zone, self.per_minute, self.per_day)
            self._write(connection, state.taken(n, now) if wait <= 0 else state)
        return max(0.0, wait)

    def left(self) -> tuple[int | None, int | None]:
        """Requests left (this minute, this day); None where there is no limit. Counts nothing."""
        with self._engine.connect() as connection:
            row = connection.execute(select(feed_budgets).where(feed_budgets.c.feed == self.feed)).mappings().first()
            now = self._clock(connection)
        state = _state(row).at(now, self.zone) if row is not None else BudgetState(date.min, 0, (), now)
        held = state.held_until_wall > now
        used = sum(count for _, count in state.recent)
        minute = None if self.per_minute is None else 0 if held else max(0, self.per_minute - used)
        return minute, None if self.per_day is None else max(0, self.per_day - state.used_day)

    def hold(self, seconds: float, because: str) -> None:
        """The provider asks for silence: no process gets a request for `seconds`. A longer hold stands."""
        with self._engine.begin() as connection:
            state, now = self._locked(connection)
            until = now + int(seconds * 1e6)
            if until > state.held_until_wall:
                state = replace(state, held_until_wall=until, held_because=because)
            self._write(connection, state)

    def acquire(self, n: int = 1, *, max_wait_seconds: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take `n` requests, waiting up to `max_wait_seconds` in all. Raises RateLimited when that is not enough."""
        waited = 0.0
        while (wait := self.take(n)) > 0:
            if waited + wait > max_wait_seconds:
                with self._engine.connect() as connection:
                    now = self._clock(connection)
                minute, day = self.left()
                plan = f"{self.per_minute or 'any number'} a minute, {self.per_day or 'any number'} a day"
                raise RateLimited(
                    f"feed {self.feed}: the request budget ({plan}) has {_words(minute)} left this minute, {_words(day)} today",
                    now + int(wait * 1e6) + 1,
                )
            sleep(wait)
            waited += wait

    def state(self) -> BudgetState | None:
        """What the ledger holds; None before the first request."""
        with self._engine.connect() as connection:
            row = connection.execute(select(feed_budgets).where(feed_budgets.c.feed == self.feed)).mappings().first()
        return None if row is None else _state(row)

    def _locked(self, connection: Connection) -> tuple[BudgetState, int]:
        new = insert(feed_budgets).values(
            feed=self.feed, day=date.min.isoformat(), used_day=0, recent=[], latest_wall=0, held_until_wall=0, held_because=""
        )
        connection.execute(new.on_conflict_do_nothing(index_elements=[feed_budgets.c.feed]))
        mine = select(feed_budgets).where(feed_budgets.c.feed == self.feed).with_for_update()
        row = connection.execute(mine).mappings().one()
        now = self._clock(connection)  # after the lock: a process that waited for it must not count in the past
        return _state(row).at(now, self.zone), now

    def _write(self, connection: Connection, state: BudgetState) -> None:
        values: dict[str, Any] = {
            "day": state.day.isoformat(), "used_day": state.used_day, "recent": [list(pair) for pair in state.recent],
            "latest_wall": state.latest_wall, "held_until_wall": state.held_until_wall, "held_because": state.held_because,
        }  # fmt: skip
        connection.execute(update(feed_budgets).where(feed_budgets.c.feed == self.feed).values(values))

    def _clock(self, connection: Connection) -> int:
        if self._now is not None:
            return self._now()
        return int(connection.execute(select(func.extract("epoch", func.clock_timestamp()) * 1_000_000)).scalar_one())


def _state(row: Any) -> BudgetState:
    recent = tuple((int(second), int(count)) for second, count in row["recent"])
    return BudgetState(
        date.fromisoformat(row["day"]), row["used_day"], recent, row["latest_wall"], row["held_until_wall"], row["held_because"]
    )


def _words(left: int | None) -> str:
    return "no limit" if left is None else str(left)


@lru_cache(maxsize=8)
def _engine(url: str) -> Engine:
    return connect(url, pool_size=1)


def budget_of(capabilities: Capabilities, settings: Settings, *, engine: Engine | None = None) -> Budget | None:
    """The budget of a feed's plan in the installation's ledger; None for a feed without limits.

    A feed takes its own requests: a planner only looks at left(). Raises FeedError when there is no ledger to count in.
    """
    if capabilities.requests_per_minute is None and capabilities.requests_per_day is None:
        return None
    if engine is None:
        try:
            engine = _engine(settings.ledger_url())
        except FileNotFoundError as error:
            raise FeedError(
                f"feed {capabilities.name}: its requests cannot be counted, Postgres was never started here "
                f"({error.filename} is missing); start Tapeline with `tapeline up`"
            ) from None
    return Budget(
        engine, capabilities.name, capabilities.requests_per_minute, capabilities.requests_per_day, zone=capabilities.budget_zone
    )
