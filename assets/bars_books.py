"""The ledger as an ingest of bars uses it: for rows put aside, for content that changed, for what was made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from assets.changes import database_now

if TYPE_CHECKING:
    from resources.ledger.store import Ledger


class IngestRefused(Exception):
    """An ingest that would lose something. The message says what and what to do."""


class Books:
    """The ledger as an ingest uses it: not asked when there is nothing to say, never skipped when there is."""

    def __init__(self, open_ledger: Callable[[], Ledger] | None) -> None:
        self._open = open_ledger
        self._away = ""

    def ledger(self, *, needed: str = "") -> Ledger | None:
        """The ledger; None when it cannot be reached. needed: what must be written, then that is an error."""
        if self._open is None:
            self._away = "this run has no ledger"
        elif not self._away:
            try:
                ledger = self._open()
                with ledger.engine.connect():
                    return ledger
            except (FileNotFoundError, OperationalError) as error:
                self._away = f"the ledger does not answer ({type(error).__name__})"
        if needed:
            raise IngestRefused(
                f"{needed}, and that cannot be written down: {self._away}. Nothing was written to the lake; run again"
            )
        return None

    def now(self) -> int | None:
        ledger = self.ledger()
        return None if ledger is None else database_now(ledger.engine)
