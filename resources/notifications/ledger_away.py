"""The one thing no queue can tell, because the queues are in it: that the ledger does not answer. Told directly, once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Engine

from resources.ledger import audit
from resources.ledger.base import now_us
from resources.notifications.channels._base import Transport
from resources.notifications.compose import Item, compose
from resources.notifications.events import Event, Severity
from resources.notifications.routing import Notifications
from resources.notifications.scrub import Scrubber

log = structlog.get_logger("notifier")

PATIENCE_SECONDS = 30.0
"""A server that restarts is not worth a message."""


class LedgerAway:
    """Tells the channels that take ``failure.desk`` when the ledger has been away for a while, and the audit when it is back."""

    def __init__(
        self, mode: str, transport: Callable[[str, Any], Transport], scrub: Scrubber, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._mode = mode
        self._transport = transport
        self._scrub = scrub
        self._patience = patience_seconds
        self._since: int | None = None
        self._seen = 0.0
        self._told = False

    def gone(self, routing: Notifications | None, why: str) -> None:
        """The ledger did not answer. Never raises, never waits for a channel."""
        if self._since is None:
            self._since, self._seen = now_us(), time.monotonic()
        if self._told or routing is None or time.monotonic() - self._seen < self._patience:
            return
        self._told = True
        title = f"{self._mode.upper()} the ledger does not answer ({why}): no new risk, and nothing else is told until it is back"
        event = Event("failure.desk", Severity.CRITICAL, title, "", 0, self._since, mode=self._mode)
        item = Item(0, f"ledger-{self._since}", event.kind, str(event.severity), self._scrub(title), "", self._since)
        for name in routing.channels_for(event):
            threading.Thread(target=self._send, args=(name, routing.channels[name], item), daemon=True).start()

    def back(self, engine: Engine) -> None:
        """The ledger answers."""
        since, told = self._since, self._told
        self._since, self._told = None, False
        if since is not None and told:
            with engine.begin() as c:
                audit.append(c, "notifier", "ledger_back", {"away_since_wall": since, "seconds": (now_us() - since) // 1_000_000})

    def _send(self, name: str, channel: Any, item: Item) -> None:
        transport = self._transport(name, channel)
        try:
            done = transport.send(compose([item], transport.limit, transport.size))
            log.warning("ledger_away_told", channel=name, said=done.said.value, error=self._scrub(done.text))
        finally:
            transport.close()
