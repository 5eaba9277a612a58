"""The desk and the simulated broker of tests.faults.remote_desk as processes: the desk dies anywhere, the market goes on."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from desk import faults
from resources.brokers.remote import wire
from resources.brokers.remote.faults import FAULTS, FaultPlan
from resources.brokers.remote.server import BrokerServer
from resources.brokers.remote.venue import Venue, VenueOptions
from resources.feeds.protocol import BarClose
from tests.desk.kit import CASH, INSTRUMENTS, hour
from tests.faults import remote_desk, warm_engine
from tests.faults.remote_desk import COSTS, TIMEOUT, Stretch, bars_at
from tests.faults.zygote import Child, single, zygote
from trading.orders import OrderState

_PLACES = (*faults.BOUNDARIES, *faults.ACTION_BOUNDARIES, *faults.PLAN_BOUNDARIES, *faults.REDUCE_BOUNDARIES,
           *faults.ALGO_BOUNDARIES, *faults.REVERSE_BOUNDARIES)  # fmt: skip


class Board:
    """Counters in a file that desk, broker and whoever watches them share; a killed process leaves what it wrote.

    passed: how often a boundary was come by, struck: how often a fault was, by name; died: the boundary where the last desk
    died by itself ("" where it did not).
    """

    _NAMES = ("port", "died", *_PLACES, *FAULTS)

    def __init__(self, path: Path) -> None:
        size = 8 * len(self._NAMES)
        with open(path, "a+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._cells = memoryview(self._map).cast("q")
        self._at = {name: i for i, name in enumerate(self._NAMES)}

    def __getitem__(self, name: str) -> int:
        return self._cells[self._at[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._cells[self._at[name]] = value

    @property
    def died(self) -> str:
        return _PLACES[self["died"] - 1] if self["died"] else ""

    def dies(self, place: str) -> None:
        self["died"] = _PLACES.index(place) + 1

    def struck(self) -> dict[str, int]:
        return {name: self[name] for name in FAULTS if self[name]}


@dataclass(frozen=True)
class Death:
    """Where a desk kills itself: at the first of the places `at` that it passes for the so-manieth time.

    after: faults that must have struck since this desk started; passes count from then on. patience: after so many passes of
    any place, the next will do (0: it waits for ever).
    """

    at: Mapping[str, int] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    patience: int = 0

    def watch(self, board: Board) -> None:
        """Let this process die so."""
        began = {name: board[name] for name in self.after}
        own: dict[str, int] = {}
        total = 0

        def passed(place: str) -> None:
            nonlocal total
            board[place] += 1
            if any(board[name] == count for name, count in began.items()):
                return
            own[place] = own.get(place, 0) + 1
            total += 1
            due = place in self.at and own[place] >= self.at[place]
            if due or (self.patience and total > self.patience):
                board.dies(place)
                os.kill(os.getpid(), signal.SIGKILL)

        faults.observer = passed


# -- what the processes do -----------------------------------------------------------------------------------------------


def quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def be_desk(stretch: Stretch, board: str, death: Death) -> None:
    """Be the desk of `stretch`, counting on `board`, until it is done or dies."""
    quiet()
    death.watch(Board(Path(board)))
    remote_desk.live(stretch)


@dataclass
class _Counted(FaultPlan):
    """Counts what struck on the board."""

    board: Board | None = None

    def _note(self, kind: str) -> str:
        if self.board is not None and kind != "partial_fill":  # counted when an order is really filled in part
            self.board[kind] += 1
        return super()._note(kind)


class _Venue(Venue):
    """Counts partial fills on the board."""

    def on_bars(self, close_time: int, bars: Sequence[BarClose]) -> bool:
        before = self._parts()
        began = super().on_bars(close_time, bars)
        if isinstance(self.faults, _Counted) and self.faults.board is not None:
            self.faults.board["partial_fill"] += len(self._parts() - before)
        return began

    def _parts(self) -> set[tuple[str, float]]:
        orders = self.book.orders.items()
        return {(name, o.filled_quantity) for name, o in orders if o.state is OrderState.PARTIALLY_FILLED}


class _Server(BrokerServer):
    """Drops everybody at any close, not only where a session begins: a life of a few closes has it, too."""

    def _bars(self, args: dict[str, Any]) -> None:
        super()._bars(args)
        if not self.down and self.venue.faults.strike("session", {"disconnect_daily": ""}):
            self.disconnect_all()


def be_broker(book: str, board: str, rates: dict[str, float], seed: int, often: bool) -> None:
    """Be the simulated broker until killed; its port is on the board."""
    quiet()
    counters = Board(Path(board))
    plan = _Counted(rates, seed, board=counters)
    venue = _Venue(Path(book), INSTRUMENTS, lambda s: COSTS, VenueOptions(CASH, "USD", durable=False), plan)
    server = (_Server if often else BrokerServer)(venue, late_seconds=TIMEOUT * 2, down_seconds=0.05)
    counters["port"] = server.port
    server.serve_forever(poll_interval=1.0)


def warm_up(url: str, address: str, room: str) -> None:
    """Called in the zygote: do once what every desk and broker does, so that none of them compiles it."""
    quiet()
    remote_desk.live(Stretch(url, address, 0, 3))
    warm_engine.cool()
    venue = Venue(Path(room) / "warm.sqlite", INSTRUMENTS, lambda s: COSTS, VenueOptions(CASH, "USD", durable=False))
    venue.on_bars(hour(1), bars_at(0, 1))
    venue.close()
    single()


# -- whoever watches -----------------------------------------------------------------------------------------------------


class Market:
    """The broker's own side: its process, its market, and a person at its screen."""

    def __init__(self, board: Path, process: Child) -> None:
        self.board_file = board
        self.board = Board(board)
        self.process = process
        while not self.board["port"]:
            if process.poll() is not None:
                raise RuntimeError(f"the simulated broker ended with {process.returncode}: {process.output()}")
            time.sleep(0.002)
        port = self.board["port"]
        self.address = f"127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port), 10.0)
        self._file = self._socket.makefile("rb")
        self.ask("hello", **{"as": "market"})

    def ask(self, op: str, **args: Any) -> Any:
        self._socket.sendall(wire.encode({"id": 1, "op": op, "now": 0, "args": args}))
        answer = wire.decode(self._file.readline())
        if "error" in answer:
            raise RuntimeError(f"simulated broker, {op}: {answer['error']}")
        return answer["ok"]

    def move(self, seed: int, n: int) -> None:
        """Let the market go on to the n-th close, whether a desk listens or not."""
        self.ask("bars", close_time=hour(n), bars=[wire.bar_values(b) for b in bars_at(seed, n)])

    def books(self) -> dict[str, Any]:
        """Orders, executions, positions and cash as the broker has them."""
        orders = [*self.ask("open_orders"), *self.ask("completed_orders", since_us=0)]
        return {
            "orders": [wire.report_of(o) for o in orders],
            "executions": [wire.execution_of(e) for e in self.ask("executions", since_us=0)],
            "positions": {p["symbol"]: p["quantity"] for p in self.ask("positions")},
            "cash": self.ask("account")["cash"],
            "events": self.ask("poll_events", after_key=""),
        }

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def market(book: Path, rates: dict[str, float], seed: int, often: bool = False) -> Iterator[Market]:
    """A simulated broker in a process of its own, with its book in a file. often: it drops everybody at closes, not once a
    session."""
    board = book.with_suffix(".board")
    process = zygote().spawn("tests.faults.remote_process:be_broker", str(book), str(board), rates, seed, often)
    try:
        made = Market(board, process)
        try:
            yield made
        finally:
            made.close()
    finally:
        process.kill()
        process.wait()


def run(market: Market, stretch: Stretch, death: Death | None = None, kill_after: float | None = None,
        timeout: float = 180.0) -> bool:  # fmt: skip
    """Run a desk process until it ends, dies at a boundary, or is killed after so many seconds. True: it was killed.

    Where it died is on the market's board. Raises RuntimeError when it fails by itself, TimeoutError when it hangs.
    """
    market.board["died"] = 0
    process = zygote().spawn("tests.faults.remote_process:be_desk", stretch, str(market.board_file), death or Death())
    try:
        code = process.wait(timeout if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()  # it may have come to its end just now
        if kill_after is None:
            raise TimeoutError(f"desk process of seed {stretch.seed} did not end ({death}): {process.output()}") from None
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"desk process of seed {stretch.seed} failed with {code} ({death}): {process.output()}")
    return code != 0


def warm(new_ledger: Callable[[], str], room: Path) -> None:
    """Let the zygote of this process do everything once, on a ledger for nothing else. Only the first call does."""
    target = "tests.faults.remote_process:warm_up"
    if zygote().did(target):
        return
    with market(room / "warm_up.sqlite", {}, 0) as made:
        zygote().call(target, new_ledger(), made.address, str(room))
