"""The kill switch without a ledger: only the broker is asked, everything on the account is cancelled and closed.

For the day when Postgres is gone and positions are open. Nothing is known then of strategies or trades: every working order is
cancelled, every position is closed by one market order, the broker's books say what is left. Each step is written to a file
before it is made, and the next desk that starts books that file before it does anything else (`desk.kill_booking`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from resources.brokers import BrokerContext, get_broker
from resources.brokers.protocol import EXTERNAL_PREFIX, Account, Broker, BrokerError, OrderRequest
from resources.settings import Settings
from trading import ids
from trading.costs import Costs
from trading.orders import TERMINAL, OrderType, Side, TimeInForce

log = structlog.get_logger("kill_switch")

PENDING: Final = ".json"
BOOKED: Final = ".booked.json"
PAUSE_SECONDS: Final = 0.25
_PREFIX: Final = f"{EXTERNAL_PREFIX}kill-"
"""Its orders are nobody's to a desk, so that it takes them over like those placed by hand, and books them by the file."""


class KillRefused(Exception):
    """Nothing was done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Close:
    """One market order that closes a position. quantity > 0."""

    client_id: str
    symbol: str
    side: str
    quantity: float


@dataclass(frozen=True, slots=True)
class RawOutcome:
    """What was done. flat: the broker holds no working order and no position. run: names the pull; wall: when, UTC us.

    cancelled: client ids whose cancel was asked for. closes: what was sent. orders, positions: what is left. pid: of the process
    that does it; finished: it does no more.
    """

    run: str
    wall: int
    reason: str
    who: str
    broker: str
    account: str
    cancelled: tuple[str, ...] = ()
    closes: tuple[Close, ...] = ()
    flat: bool = False
    orders: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()
    ended_desks: tuple[int, ...] = ()
    seconds: float = 0.0
    pid: int = 0
    finished: bool = False


@dataclass
class RawKill:
    """One pull of the switch over `broker` alone. patience: seconds to wait until it is flat. clock(): market time, UTC us."""

    broker: Broker
    folder: Path
    reason: str
    who: str
    patience: float = 30.0
    ended_desks: tuple[int, ...] = ()
    _start: float = field(default_factory=time.monotonic)
    _done: RawOutcome = field(init=False, repr=False)

    def pull(self) -> RawOutcome:
        """Do it. Raises BrokerError while the broker cannot be reached at all; the file says how far it came."""
        wall = time.time_ns() // 1000
        account = self.broker.account()
        self._done = RawOutcome(
            ids.make_id("kill", wall, account.account_id), wall, self.reason, self.who, self.broker.name, account.account_id,
            ended_desks=self.ended_desks, pid=os.getpid(),
        )  # fmt: skip
        self._note()
        deadline = time.monotonic() + self.patience
        while True:
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - whatever the connection does, it is tried until patience ends
                trouble = f"{type(error).__name__}: {error}"
                log.error("kill_look_failed", error=trouble)
                self._note(flat=False, trouble=(*self._done.trouble, trouble)[-20:])
            self._note(seconds=round(time.monotonic() - self._start, 3))
            if self._done.flat or time.monotonic() > deadline:
                self._note(finished=True)
                return self._done
            time.sleep(PAUSE_SECONDS)

    def _look(self) -> None:
        """Cancel what works, close what is held and has nothing working beside it; then what is left."""
        for order in [o for o in self.broker.open_orders() if not o.client_id.startswith(_PREFIX)]:
            if order.client_id not in self._done.cancelled:
                self._note(cancelled=(*self._done.cancelled, order.client_id))
            with contextlib.suppress(BrokerError, TimeoutError, OSError):  # it ended, or it is asked again at the next look
                self.broker.cancel(order.client_id)
        busy = {o.symbol for o in self.broker.open_orders()}
        for held in self.broker.positions():
            if held.quantity != 0.0 and held.symbol not in busy:
                self._close(held.symbol, held.quantity)
        orders = tuple(o.client_id for o in self.broker.open_orders())
        positions = tuple(f"{p.symbol} {p.quantity:g}" for p in self.broker.positions() if p.quantity != 0.0)
        self._note(orders=orders, positions=positions, flat=not orders and not positions)

    def _close(self, symbol: str, quantity: float) -> None:
        """One market order for the whole position. An earlier one of this pull is repeated under its own id when no book has
        it: it never arrived; a new one is sent only when the books say that the earlier one is over."""
        own = [c for c in self._done.closes if c.symbol == symbol]
        books = {r.client_id: r for r in (*self.broker.completed_orders(0), *self.broker.open_orders())}
        last = own[-1] if own else None
        if last is not None and last.client_id in books and books[last.client_id].state not in TERMINAL:
            return
        if last is None or last.client_id in books:
            name = f"{_PREFIX}{ids.make_id('k', self._done.run, symbol, len(own)).removeprefix('k-')}"[:40]
            last = Close(name, symbol, str(Side.SELL if quantity > 0 else Side.BUY), abs(quantity))
            self._note(closes=(*self._done.closes, last))
        request = OrderRequest(
            last.client_id, symbol, Side(last.side), last.quantity, OrderType.MARKET, TimeInForce.GTC, reduce_only=True
        )  # fmt: skip
        self.broker.submit([request])

    def _note(self, **changes: Any) -> None:
        """What was done so far, on the disk before the next step: whole or as before."""
        self._done = replace(self._done, **changes)
        write(self.folder / f"{self._done.run}{PENDING}", asdict(self._done))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """`content` as JSON at `path`, whole or not at all, and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def folder(settings: Settings) -> Path:
    """Where the files of all pulls lie."""
    return settings.book_path("kill")


def pending(where: Path) -> list[Path]:
    """Files of pulls that no desk has booked, oldest first."""
    found = [p for p in where.glob(f"*{PENDING}") if not p.name.endswith(BOOKED) and not p.name.startswith(".")]
    return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))


def at_work(told: Mapping[str, Any]) -> bool:
    """Is the process that wrote this file still at it?"""
    if told.get("finished"):
        return False
    try:
        arguments = Path(f"/proc/{int(told['pid'])}/cmdline").read_bytes()
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return b"--broker-only" in arguments


def kill_broker_only(settings: Settings, reason: str, who: str, patience: float) -> RawOutcome:
    """End the desks of this installation, then cancel and close everything on the broker's account.

    Raises KillRefused, BrokerError. What needs Postgres itself (the paper book) cannot be reached without it.
    """
    broker = _connection(settings)
    account: Account = broker.account()
    if settings.live_account and account.account_id != settings.live_account:
        raise KillRefused(
            f"the broker's account is {account.account_id}, TAPELINE_LIVE_ACCOUNT is {settings.live_account}: nothing was done"
        )
    return RawKill(broker, folder(settings), reason, who, patience, _end_desks()).pull()


def _connection(settings: Settings) -> Broker:
    """A connection to the broker that asks no ledger anything."""
    from sqlalchemy import create_engine

    from resources.config import ConfigInvalid, load_config

    try:
        instruments: Mapping[str, Any] = load_config(settings).universe.instruments
    except (ConfigInvalid, OSError) as error:
        log.error("config_unreadable", error=str(error), consequence="positions are closed by what the broker says of them")
        instruments = {}
    try:
        url = settings.ledger_url()
    except OSError:
        url = "postgresql+psycopg2://nobody@127.0.0.1:1/none"  # only asked by a broker whose book lies in Postgres
    engine = create_engine(url, connect_args={"connect_timeout": 3})
    newest: list[int] = []
    context = BrokerContext(
        engine, instruments, lambda symbol: Costs(), settings.paper_cash, settings.account_currency, _market_time(newest),
        settings.simulated_broker,
    )  # fmt: skip
    broker = get_broker(settings.broker, context)
    newest.extend(e.fill_time for e in broker.executions(0))
    return broker


def _market_time(fills: list[int]) -> Callable[[], int]:
    """The newest moment the broker is known to have traded at: a simulated market need not be at the real time."""
    return lambda: max(fills, default=time.time_ns() // 1000)


def _end_desks() -> tuple[int, ...]:
    """SIGKILL to every desk of this installation: none may send while its orders are being cancelled. Their pids."""
    from desk.kill_switch import is_desk

    ended = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and is_desk(int(entry.name)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                ended.append(int(entry.name))
                log.error("desk_ended", pid=ended[-1])
    return tuple(ended)
