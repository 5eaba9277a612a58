"""``python -m resources.notifications.worker``: the notifier, a process of its own beside the desk.

One thread reads the audit into the queues; each channel has a thread that hands its queue over. A channel that hangs, fails
or asks for time holds up nobody else, and nothing of this is in the way of trading. Killed at any moment it goes on where
it was: a message the channel had but whose end was not written comes again, with the same id.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from resources.ledger import audit, audit_anchor
from resources.ledger import notifications as queue
from resources.ledger.base import BOOK_KEY, connect, now_us
from resources.notifications import routing as routes
from resources.notifications.channel_worker import ChannelWorker
from resources.notifications.channels import transport_of
from resources.notifications.desk_watch import DeskWatch
from resources.notifications.ledger_away import LedgerAway
from resources.notifications.router import pump
from resources.notifications.routing import Loaded, Notifications
from resources.notifications.scrub import Scrubber
from resources.secrets import read_named_secret
from resources.settings import Settings

log = structlog.get_logger("notifier")

POLL_SECONDS = 0.2
ANCHOR_SECONDS = 60.0
BEAT_SECONDS = 5.0
FORGET_SECONDS = 3600.0
KEEP_DONE_DAYS = 30
_LOCK = 0x7461_7065_6E6F  # one notifier: two would tell everything twice
STATE_KEY = "notifier"


class Notifier:
    """The notifier on one ledger. run: until `stop` is set."""

    def __init__(self, settings: Settings, transport: Callable[..., Any] = transport_of) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._transport = transport
        self._scrub = Scrubber(settings.path("secrets"))
        self._routing: Notifications | None = None
        self._stamp: tuple[int, int] | None = None
        self._workers: dict[str, ChannelWorker] = {}
        self._due = dict.fromkeys(("beat", "anchor", "forget"), 0.0)
        self._watch = DeskWatch(settings.heartbeat_seconds)
        self._away = LedgerAway(settings.mode, lambda name, channel: transport(name, channel, self._secret), self._scrub)

    def run(self) -> None:
        """Tell what happens until asked to stop; waits for a ledger that is away and for another notifier to end."""
        pause, engine = 0.25, None
        while not self.stop.is_set():
            try:
                engine = engine or connect(self.settings.ledger_url())
                with _alone(engine) as held:
                    if held is not None:
                        pause = 0.25
                        self._tell(engine, held)
            except FileNotFoundError as error:
                log.warning("no_ledger_yet", missing=error.filename)
            except SQLAlchemyError as error:
                log.warning("ledger_unavailable", error=type(error).__name__)
                self._away.gone(self._routing, type(error).__name__)
            finally:
                self._stop_workers()
            self.stop.wait(pause)
            pause = min(pause * 2, 5.0)
        if engine is not None:
            engine.dispose()

    def _tell(self, engine: Engine, held: Callable[[], bool]) -> None:
        log.info("notifier_ready")
        self._away.back(engine)
        while not self.stop.is_set():
            self._read_routes(engine)
            if self._routing is not None:  # without a usable file nothing is read, so nothing is lost
                read, fresh = pump(engine, self._routing, self._scrub, self.settings.mode)
                for name in fresh:
                    self._workers[name].wake()
                if read:
                    continue
            if not self._now_and_then(engine, held):
                log.warning("notifier_lock_lost")
                return
            self.stop.wait(POLL_SECONDS)

    def _now_and_then(self, engine: Engine, held: Callable[[], bool]) -> bool:
        """Sign of life, anchors, old messages. False when another notifier may run."""
        now = time.monotonic()
        if now >= self._due["beat"]:
            self._due["beat"] = now + BEAT_SECONDS
            if not held():
                return False
            with engine.begin() as c:
                beat = text(
                    "INSERT INTO desk_state (key, value, updated_wall) VALUES (:k, jsonb_build_object('wall', :w), :w) "
                    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_wall = excluded.updated_wall"
                )
                c.execute(beat.bindparams(k=STATE_KEY, w=now_us()))
            self._watch.look(engine)
        if now >= self._due["anchor"]:
            self._due["anchor"] = now + ANCHOR_SECONDS
            note_anchor(engine, self.settings)
        if now >= self._due["forget"]:
            self._due["forget"] = now + FORGET_SECONDS
            queue.forget_done(engine, now_us() - KEEP_DONE_DAYS * 86_400 * 1_000_000)
        return True

    def _read_routes(self, engine: Engine) -> None:
        path = self.settings.config / routes.FILE_NAME
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = (0, 0)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        found: Loaded = routes.load(self.settings.config)
        for problem in found.problems:
            log.warning("notifications_file", problem=str(problem))
        if found.settings is None:
            consequence = "what was good stays" if self._routing is not None else "nothing is told until it is mended"
            log.error("notifications_file_unusable", consequence=consequence)
            return
        before, self._routing = self._routing, found.settings
        changed = before is None or before.channels != found.settings.channels
        if changed:
            self._stop_workers()
            self._stamp = stamp
        for name, channel in found.settings.channels.items():
            if name not in self._workers:
                transport = self._transport(name, channel, self._secret)
                self._workers[name] = ChannelWorker(engine, transport, self._scrub, self.stop)
                self._workers[name].start()

    def _secret(self, name: str) -> str:
        return read_named_secret(self.settings.path("secrets"), name)

    def _stop_workers(self) -> None:
        """End the channels' threads; one that hangs in its channel ends by itself when the channel does."""
        for worker in self._workers.values():
            worker.end()
        for worker in self._workers.values():
            worker.join(0.5)
        self._workers.clear()
        self._stamp = None


@contextlib.contextmanager
def _alone(engine: Engine) -> Any:
    """Be the only notifier: gives ``held()``, or None when another one is."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        if not connection.execute(text(f"SELECT pg_try_advisory_lock({BOOK_KEY})"), {"key": _LOCK}).scalar():
            yield None
            return
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()

        def held() -> bool:
            return bool(connection.execute(text("SELECT pg_backend_pid()")).scalar() == pid)

        yield held
    finally:
        try:
            connection.execute(text("SELECT pg_advisory_unlock_all()"))
        except SQLAlchemyError:
            connection.invalidate()
        connection.close()


def note_anchor(engine: Engine, settings: Settings) -> None:
    """Keep the audit's head in the data folder; a disk that does not take it is said, and tried again."""
    with engine.connect() as c:
        head = audit.head(c)
    if head is None:
        return
    try:
        audit_anchor.note(settings.book_path("audit"), audit_anchor.Anchor(head.seq, head.hash, now_us()))
    except OSError as error:
        log.error("audit_not_anchored", error=f"{type(error).__name__}: {error.strerror}")


def main() -> int:
    """Run the notifier until SIGTERM or SIGINT."""
    from resources.logs import configure
    from resources.settings import settings

    own = settings()
    configure("notifier", own.log_level)
    notifier = Notifier(own)

    def ask(number: int, _frame: object) -> None:
        log.info("notifier_stopping", signal=signal.Signals(number).name)
        notifier.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    notifier.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
