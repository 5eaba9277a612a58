"""One channel's thread: takes its queue in order, at the channel's speed, and writes down what became of each message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from resources.ledger import audit
from resources.ledger import notifications as queue
from resources.ledger.base import Row, now_us
from resources.notifications.channels._base import Delivery, Said, Transport
from resources.notifications.compose import Item, Message, compose
from resources.notifications.scrub import Scrubber

log = structlog.get_logger("notifier")

IDLE_SECONDS = 1.0
LONGEST_BACK_OFF_SECONDS = 60.0
DOWN_AFTER_SECONDS = 120.0
"""A channel that has failed this long is told of on the others, once."""


class Pace:
    """How fast a channel may be used: `burst` at once, then one each 60/per_minute seconds."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = 60.0 / per_minute
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._seen = clock()

    def wait_seconds(self) -> float:
        """Seconds until one more may go."""
        now = self._clock()
        self._left = min(float(self._burst), self._left + (now - self._seen) / self._every)
        self._seen = now
        return 0.0 if self._left >= 1.0 else (1.0 - self._left) * self._every

    def take(self) -> None:
        self._left -= 1.0


class ChannelWorker(threading.Thread):
    """Hands the queue of `transport`'s channel over until it is ended."""

    def __init__(self, engine: Engine, transport: Transport, scrub: Scrubber, stop: threading.Event) -> None:
        super().__init__(name=f"channel-{transport.name}", daemon=True)
        self._engine = engine
        self._transport = transport
        self._scrub = scrub
        self._stop_all = stop
        self._ended = False
        self._more = threading.Event()
        self._pace = Pace(transport.per_minute, transport.burst)

    def wake(self) -> None:
        """There is something new."""
        self._more.set()

    def end(self) -> None:
        self._ended = True
        self._more.set()

    def run(self) -> None:
        while not self._over:
            self._more.clear()
            try:
                pause = self.step()
            except SQLAlchemyError as error:
                log.warning("queue_unavailable", channel=self._transport.name, error=type(error).__name__)
                pause = 1.0
            except Exception as error:
                log.error("channel_fault", channel=self._transport.name, error=type(error).__name__, exc_info=True)
                pause = 5.0
            if pause > 0 and not self._over:
                self._more.wait(pause)
        self._transport.close()

    @property
    def _over(self) -> bool:
        return self._ended or self._stop_all.is_set()

    def step(self) -> float:
        """Hand over one message when it may go; returns the seconds to wait before the next look (0: look at once)."""
        name = self._transport.name
        pause = self._pace.wait_seconds()
        if pause > 0:
            return min(pause, IDLE_SECONDS)
        rows = queue.waiting(self._engine, name, self._transport.most_items)
        if not rows:
            return IDLE_SECONDS
        state = queue.channel_state(self._engine, name)
        early = (state["not_before_wall"] - now_us()) / 1e6
        if early > 0:
            return min(early, IDLE_SECONDS)
        # What was refused or failed goes alone, so that one bad message does not take others with it.
        alone = rows[0]["attempts"] > 0 and rows[0]["parts_sent"] == 0
        message = compose([_item(r) for r in (rows[:1] if alone else rows)], self._transport.limit, self._transport.size)
        self._pace.take()
        done = self._transport.send(message)
        if self._ended and done.said is not Said.TAKEN:
            return 0.0
        self._note(message, done, state)
        return 0.0

    def _note(self, message: Message, done: Delivery, state: Row) -> None:
        name, now = self._transport.name, now_us()
        ids = [item.id for item in message.items]
        error = self._scrub(done.text)
        if done.said is Said.TAKEN:
            later = now + int(done.wait_seconds * 1e6) if done.wait_seconds else 0
            queue.note_sent(
                self._engine, name, ids, parts_sent=None if message.completes else message.part, not_before_wall=later
            )
            if state["failing_since_wall"] is not None and now - state["failing_since_wall"] > DOWN_AFTER_SECONDS * 1e6:
                self._tell("notification_channel_up", "")
            return
        if done.said is Said.WAIT:
            log.info("channel_waits", channel=name, seconds=round(done.wait_seconds, 1))
            queue.note_wait(self._engine, name, not_before_wall=now + int(done.wait_seconds * 1e6), error=error)
            return
        if done.said is Said.REFUSED:
            if len(ids) == 1:
                log.error("notification_refused", channel=name, id=ids[0], error=error)
                tell = message.items[0].kind not in ("failure.notification", "test")
                queue.note_refused(self._engine, ids[0], error, tell=tell)
                return
            queue.note_failure(self._engine, name, ids, not_before_wall=0, failures=0, since_wall=now, error=error)
            return
        failures = state["failures"] + 1
        since = state["failing_since_wall"] or now
        back_off = max(min(2.0 ** (failures - 1), LONGEST_BACK_OFF_SECONDS), done.wait_seconds)
        log.warning("channel_failed", channel=name, failures=failures, error=error, again_seconds=back_off)
        queue.note_failure(
            self._engine, name, ids, not_before_wall=now + int(back_off * 1e6), failures=failures, since_wall=since, error=error
        )
        before, after = state["last_sent_wall"] or 0, DOWN_AFTER_SECONDS * 1e6
        if now - since > after and not self._told_since(since):
            self._tell("notification_channel_down", error, since=since, last_sent=before)

    def _told_since(self, since: int) -> bool:
        from sqlalchemy import select

        from resources.ledger.tables import audit as a

        chosen = select(a.c.content).where(a.c.action == "notification_channel_down", a.c.time_us >= since)
        with self._engine.connect() as c:
            return any(f'"channel":"{self._transport.name}"'.encode() in bytes(row) for row in c.execute(chosen).scalars())

    def _tell(self, action: str, error: str, **more: int) -> None:
        with self._engine.begin() as c:
            audit.append(c, "notifier", action, {"channel": self._transport.name, "error": error, **more})


def _item(row: Row) -> Item:
    return Item(
        row["id"],
        row["dedupe_id"],
        row["kind"],
        row["severity"],
        row["title"],
        row["body"],
        row["happened_wall"],
        row["parts_sent"],
    )
