"""Which mode each strategy runs in, what that allows at this desk's broker, and how it is changed.

One desk has one broker, and that is either a paper book or an account with real money. Paper orders go to the first kind
only, live ones to the second only: `barred` refuses a decision of the other kind, and `never_sent` keeps any single order of
it, exits included, from the broker, whatever came before. Where an account and a paper book stand side by side, each has its
desk (desk/beside.py): modes are changed at the account's, and a strategy changes books only with nothing open in the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from sqlalchemy import Connection, Engine, select

from desk.store import OrderRecord
from resources.brokers.protocol import Account, Broker, is_simulated
from resources.ledger import books
from resources.ledger import modes as ledger_modes
from resources.ledger import tables as t
from resources.ledger.modes import Standing
from resources.settings import Settings
from trading import modes
from trading.instruments import Mode
from trading.limits import Limits
from trading.orders import MAY_BE_AT_BROKER
from trading.refusals import Refusal, RefusalCode, refuse

log = structlog.get_logger("desk.modes")


class Stated(Protocol):
    """A strategy or plan: what is asked of its file."""

    @property
    def mode(self) -> Mode: ...


class ModeNotChanged(ValueError):
    """The mode stays as it is; the text says why and what to do."""


def live_terms(settings: Settings, broker: Broker, account: Account | None, limits: Limits | None) -> list[Refusal]:
    """What is missing for live, each with what to do; [] when nothing is. account: the broker's, None when not known."""

    def missing(reason: str, **values: object) -> Refusal:
        return refuse(RefusalCode.MODE, mode=Mode.LIVE, reason=reason, **values)

    found: list[Refusal] = []
    if settings.mode != Mode.LIVE.value:
        found.append(missing("live_not_enabled", set="TAPELINE_MODE=live", now=settings.mode))
    if is_simulated(broker):
        found.append(missing("broker_is_simulated", broker=broker.name, set="TAPELINE_BROKER"))
    theirs = account.account_id if account is not None else "unknown"
    if not settings.live_account:
        found.append(missing("live_account_not_set", set="TAPELINE_LIVE_ACCOUNT", broker_account=theirs))
    elif theirs != settings.live_account:
        found.append(missing("other_account", broker_account=theirs, live_account=settings.live_account))
    gaps = ["risk file"] if limits is None else limits.missing()
    if gaps:
        found.append(missing("risk_file_incomplete", missing=",".join(gaps)))
    return found


def never_sent(order: OrderRecord, broker: Broker) -> str:
    """Why `order` must not go to `broker`, whoever asks; "" when it may. Orders adopted from the broker have its own mode."""
    if order.broker != broker.name:
        return str(refuse(RefusalCode.MODE, order_broker=order.broker, broker=broker.name, reason="another_broker"))
    if order.mode == "external":
        return ""
    book = Mode.PAPER.value if is_simulated(broker) else Mode.LIVE.value
    return "" if order.mode == book else str(refuse(RefusalCode.MODE, mode=order.mode, broker=broker.name, book=book))


class Modes:
    """The modes of an installation, read once and kept: this desk is the only one that changes them.

    limits(): the risk file's, as it is now.
    """

    def __init__(self, engine: Engine, settings: Settings, broker: Broker, limits: Callable[[], Limits | None]) -> None:
        self._engine = engine
        self._settings = settings
        self._broker = broker
        self._limits = limits
        self._highest = Mode(settings.mode)
        self._known: dict[str, Standing] = {}
        self._account: Account | None = None

    @property
    def known(self) -> Mapping[str, Standing]:
        return self._known

    def note_files(self, stated: Mapping[str, Stated]) -> None:
        """What the files state now: new ones and demotions are taken over."""
        with self._engine.begin() as connection:
            self._known = ledger_modes.note_files(connection, {name: item.mode for name, item in stated.items()})

    def of(self, name: str) -> Mode:
        """The mode `name` runs in; shadow for what no file ever defined."""
        standing = self._known.get(name)
        return modes.capped(standing.mode, self._highest) if standing is not None else modes.capped(Mode.SHADOW, self._highest)

    def barred(self, mode: Mode, account: Account) -> Refusal | None:
        """Why nothing new is taken in `mode` at this broker; None when the risk rules may judge it."""
        if mode is Mode.BACKTEST:
            return refuse(RefusalCode.MODE, mode=mode, reason="research_only", set="tapeline modes set")
        if mode is Mode.PAPER and not is_simulated(self._broker):
            return refuse(RefusalCode.MODE, mode=mode, reason="broker_is_real", broker=self._broker.name, set="TAPELINE_BROKER")
        if mode is Mode.LIVE:
            return next(iter(live_terms(self._settings, self._broker, account, self._limits())), None)
        return None

    def change(self, name: str, to: Mode, *, reason: str, who: str, forced: bool) -> tuple[Mode, Mode, dict[str, float]]:
        """Set the mode of `name`: (before, now, what stays open and is managed to its end in the mode it was opened in).

        Down is always allowed. Raises KeyError for an unknown name, ModeNotChanged when it may not be; forced skips steps, and
        nothing else.
        """
        before = self._known[name].mode
        if before is to:
            raise ModeNotChanged(f"{name} is in {to} already")
        problem = modes.step_problem(before, to, forced=forced)
        if problem:
            raise ModeNotChanged(problem)
        if to is Mode.LIVE:
            missing = live_terms(self._settings, self._broker, self._broker.account(), self._limits())
            if missing:
                raise ModeNotChanged(f"{name} cannot go live: " + "; ".join(str(m) for m in missing))
        with self._engine.begin() as connection:
            held = self._held(connection, name)
            if modes.rank(to) > modes.rank(before) and to in modes.SENDS:
                other = sorted({mode for _, mode, _ in held} - {to.value})
                if other:
                    what = ", ".join(sorted({symbol for symbol, _, _ in held}))
                    at = " (`tapeline --book paper close`)" if self._settings.two_books and Mode.PAPER.value in other else ""
                    raise ModeNotChanged(f"{name} holds or works {what} in {', '.join(other)}: close it{at}, then promote")
            self._known = ledger_modes.change(connection, name, to, reason=reason, who=who, forced=forced)
        log.warning("mode_set", strategy=name, before=before.value, mode=to.value, who=who, reason=reason, forced=forced)
        return before, to, {symbol: quantity for symbol, _, quantity in held if quantity}

    def _held(self, connection: Connection, name: str) -> list[tuple[str, str, float]]:
        """What the strategy holds and works, in the paper book beside this desk's as well."""
        held = _held(connection, name)
        if self._settings.two_books and books.has_book(connection):
            books.look_into(connection, books.SCHEMA)
            held += _held(connection, name)
            books.look_into(connection, None)
        return held


class PaperModes(Modes):
    """The modes as the desk of a paper book beside an account reads them: it changes none, and trades those in paper."""

    FRESH_SECONDS = 0.5

    def __init__(self, engine: Engine, settings: Settings, broker: Broker, limits: Callable[[], Limits | None]) -> None:
        super().__init__(engine, settings, broker, limits)
        self._read_at = -math.inf

    def note_files(self, stated: Mapping[str, Stated]) -> None:
        """Read what the account's desk has taken over from the files."""
        with self._engine.connect() as connection:
            self._known = ledger_modes.read(connection)
        self._read_at = time.monotonic()

    def of(self, name: str) -> Mode:
        """paper or shadow: what is in another mode is the other desk's."""
        if time.monotonic() - self._read_at > self.FRESH_SECONDS:
            self.note_files({})
        standing = self._known.get(name)
        return Mode.PAPER if standing is not None and standing.mode is Mode.PAPER else Mode.SHADOW

    def change(self, name: str, to: Mode, *, reason: str, who: str, forced: bool) -> tuple[Mode, Mode, dict[str, float]]:
        """Raises ModeNotChanged: promotions are decided where the account is."""
        raise ModeNotChanged("the paper book changes no modes: `tapeline modes set` without --book paper")


def _held(connection: Connection, name: str) -> list[tuple[str, str, float]]:
    """(symbol, mode, open quantity) of what the strategy holds, and of its entries the broker may work (quantity 0)."""
    i, o, p = t.intents.c, t.orders.c, t.positions.c
    open_ = select(p.symbol, o.mode, p.quantity).join(t.orders, o.id == p.trade_id)
    found = [(r.symbol, r.mode, r.quantity) for r in connection.execute(open_.where(p.strategy == name, p.quantity != 0.0))]
    working = select(o.symbol, o.mode).join(t.intents, i.id == o.id)
    working = working.where(i.strategy == name, i.leg == "entry", o.state.in_([s.value for s in MAY_BE_AT_BROKER]))
    return found + [(r.symbol, r.mode, 0.0) for r in connection.execute(working)]
