"""A live data server on loopback that does what it is told: sends, cuts, stalls, repeats, reorders, sends garbage.

It speaks JSON lines over TCP. A client sends ``{"subscribe": [symbols]}`` and gets ``{"heartbeat": time}`` and
``{"bar": [...]}``. What it sends is a script of steps; a step is taken once, whichever connection is there then.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import astuple, dataclass
from datetime import date
from typing import Any

import numpy as np

from resources.feeds.protocol import BarClose, Capabilities, FeedError, Heartbeat, LiveEvent, MalformedData
from resources.ports import free_port
from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_number


@dataclass(frozen=True)
class Send:
    """Send these bars, at once, after market time has moved to the newest of them (`moves`)."""

    bars: tuple[BarClose, ...]
    moves: bool = True


@dataclass(frozen=True)
class Miss:
    """The market goes on (market time moves to the bar's close), but nothing is sent."""

    bar: BarClose


@dataclass(frozen=True)
class Beat:
    """Send a heartbeat."""


@dataclass(frozen=True)
class BeatUntil:
    """Send heartbeats, one a pause, until `seen` says so."""

    seen: Callable[[], bool]


@dataclass(frozen=True)
class Garbage:
    """Send bytes that are no line of the protocol."""

    data: bytes = b"\x00\xff<html>oops\n"


@dataclass(frozen=True)
class Cut:
    """Close the connection; with `half`, in the middle of a line."""

    half: bool = False


@dataclass(frozen=True)
class Stall:
    """Say nothing until the client has gone away."""


@dataclass(frozen=True)
class Refuse:
    """Close the next connection at once."""


@dataclass(frozen=True)
class After:
    """Go on when the client has passed on so many bars (`LiveServer.passed`)."""

    bars: int


Step = Send | Miss | Beat | BeatUntil | Garbage | Cut | Stall | Refuse | After


class Market:
    """Market time under the server's hand, UTC us; it never goes back."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def reach(self, moment: int) -> None:
        self.now = max(self.now, moment)


class LiveServer:
    """The server, in a thread of its own. Use as a context manager."""

    def __init__(self, market: Market, steps: Iterable[Step], pause_seconds: float = 0.0) -> None:
        self.market, self.steps, self.pause = market, deque(steps), pause_seconds
        self.connections = 0
        self.passed = 0
        """Counted by the test."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> LiveServer:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.steps and isinstance(self.steps[0], Refuse):
                self.steps.popleft()
                return
            await reader.readline()
            writer.write(_line({"heartbeat": self.market()}))
            while self.steps:
                step = self.steps.popleft()
                if not await self._take(step, reader, writer):
                    return
                await writer.drain()
                await asyncio.sleep(self.pause)
            await reader.read()  # the script is over: quiet until the client goes
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _take(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False when the connection ends with this step."""
        if isinstance(step, Send):
            if step.moves and step.bars:
                self.market.reach(max(b.close_time for b in step.bars))
            for bar in step.bars:
                writer.write(_line({"bar": [str(v) if isinstance(v, Timeframe) else v for v in astuple(bar)[:11]]}))
        elif isinstance(step, Miss):
            self.market.reach(step.bar.close_time)
        elif isinstance(step, After):
            while self.passed < step.bars:
                await asyncio.sleep(0.005)
        elif isinstance(step, Beat):
            writer.write(_line({"heartbeat": self.market()}))
        elif isinstance(step, BeatUntil):
            while not step.seen():
                writer.write(_line({"heartbeat": self.market()}))
                await writer.drain()
                await asyncio.sleep(self.pause)
        elif isinstance(step, Garbage):
            writer.write(step.data)
        elif isinstance(step, Stall):
            await reader.read()
            return False
        elif isinstance(step, Cut):
            if step.half:
                writer.write(b'{"bar": ["BTC')
                await writer.drain()
            return False
        return True


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class WireFeed:
    """The client: a live feed over that protocol, with a history that can be switched off."""

    def __init__(
        self, port: Callable[[], int], held: dict[str, Bars], market: Market, heartbeat_seconds: float | None = 0.1
    ) -> None:
        self._port, self._held, self._market, self._heartbeat = port, held, market, heartbeat_seconds
        self.history_fails = ""
        """Why history cannot answer; empty: it can."""
        self.asked = 0

    def capabilities(self) -> Capabilities:
        return Capabilities("wire", frozenset({Timeframe.M1}), live=True, simulated=True, heartbeat_seconds=self._heartbeat)

    def lookup(self, text: str) -> list[str]:
        return [s for s in self._held if text.upper() in s]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        self.asked += 1
        if self.history_fails:
            raise FeedError(self.history_fails)
        bars = self._held[instrument.symbol].known_at(self._market())
        inside = (bars.session >= session_number(start)) & (bars.session <= session_number(end))
        return bars.rows(np.flatnonzero(inside))

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port())
        try:
            writer.write(_line({"subscribe": [i.symbol for i in instruments]}))
            while line := await reader.readline():
                try:
                    message = json.loads(line)
                except ValueError as error:
                    raise MalformedData(f"wire: {line[:40]!r} is no message") from error
                if "heartbeat" in message:
                    yield Heartbeat(int(message["heartbeat"]))
                else:
                    symbol, frame, *values = message["bar"]
                    yield BarClose(symbol, Timeframe(frame), *values)
            raise ConnectionResetError("wire: the server closed the connection")
        finally:
            writer.close()


def free_then_closed_port() -> int:
    """A port nobody listens on."""
    return free_port()
