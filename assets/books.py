"""The books of an installation: the main one, and beside an account with real money the paper book (desk/beside.py).

Whoever works on "the ledger" and "the desk" for strategies works on those of the book a strategy trades in: what is in mode
paper on the paper book, everything else on the main one. Where the broker is simulated there is one book, and it has all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from resources.settings import PAPER_BOOK, Settings, settings
from trading.instruments import Mode

if TYPE_CHECKING:
    from resources.config import Config
    from resources.desk_client import DeskClient
    from resources.ledger.store import Ledger

PAPER_SECONDS = 10.0
"""How long a trade run waits for the paper book to have taken a bar close; the account's decisions are made before."""

SILENT_SECONDS = 20.0
"""Without a sign of life for this long, its desk is not waited for at all."""


@dataclass(frozen=True)
class Book:
    """One book. settings: as its processes see the installation. alone: there is no other one."""

    settings: Settings
    ledger: Ledger
    alone: bool

    @property
    def paper(self) -> bool:
        return self.settings.book == PAPER_BOOK

    def desk(self) -> DeskClient:
        """A client of its desk. Raises DeskUnavailable when that was never started."""
        from resources.dagster_resources import desk_client

        return desk_client(self.settings)

    def config(self, config: Config) -> Config:
        """`config` with the strategies and plans that trade in this book, by the modes the ledger keeps now."""
        if self.alone:
            return config
        from resources.ledger import modes as ledger_modes

        with self.ledger.engine.connect() as connection:
            kept = ledger_modes.read(connection)

        def mine(items: Mapping[str, Any]) -> dict[str, Any]:
            own = {}
            for name, item in items.items():
                in_paper = ledger_modes.mode_of(kept, name, item.mode, Mode.LIVE) is Mode.PAPER
                if in_paper is self.paper:
                    own[name] = item
            return own

        return replace(config, strategies=mine(config.strategies), plans=mine(config.plans))

    def waits_for(self, close_time: int) -> bool:
        """Whether its desk has taken the bar close, waiting up to `PAPER_SECONDS` for it."""
        import time

        from resources.ledger.close_watch import close_watch

        beat = self.ledger.get_state("heartbeat") or {}
        silent = time.time() - int(beat.get("wall", 0)) / 1e6 > max(SILENT_SECONDS, 4 * self.settings.heartbeat_seconds)
        # A desk that gives no sign of life is not waited for: the account's next close would wait, too.
        end = time.monotonic() + (0.0 if silent else PAPER_SECONDS)
        with close_watch(self.ledger.engine) as wait:
            while self.ledger.close(close_time) is None:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                wait(min(left, 0.5))
        return True


def together(books: Sequence[Book], page: Callable[[Book], Mapping[str, Any]]) -> dict[str, Any]:
    """The page of the main book, and what the paper book says of itself under its own names."""
    shown = dict(page(books[0]))
    for book in books[1:]:
        shown = merged(shown, page(book))
    return shown


def merged(main: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of both books, the paper book's under names of its own."""
    return {**main, **{f"paper_book_{name.removeprefix('dagster/')}": value for name, value in beside.items()}}


def books_of(ledger: Ledger, own: Settings | None = None) -> list[Book]:
    """The books of this installation, the main one first. ledger: the main book's."""
    installation = own or settings()
    if not installation.two_books:
        return [Book(installation, ledger, alone=True)]
    from resources.dagster_resources import ledger_at

    beside = installation.paper_book()
    return [
        Book(installation, ledger, alone=False),
        Book(beside, ledger_at(beside.ledger_url(), os.getpid()), alone=False),
    ]
