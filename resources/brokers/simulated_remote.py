"""The adapter of the simulated broker (resources/brokers/remote): a real broker's distance, and never real money.

A call that gets no clear answer in time raises BrokerError, which says nothing about what the broker did. A request that
changes something is sent once; books are asked for again once when the connection broke under the question. Answers are
matched by their number: late ones and second ones are dropped.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from resources.brokers import BrokerContext
from resources.brokers.protocol import (
    Account,
    BrokerError,
    BrokerEvent,
    BrokerPosition,
    Execution,
    Modification,
    OrderReport,
    OrderRequest,
    Replacement,
)  # fmt: skip
from resources.brokers.remote import wire
from resources.feeds.protocol import BarClose

log = structlog.get_logger("brokers.simulated_remote")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SimulatedRemoteBroker:
    """Broker protocol over one TCP connection to ``address`` (host:port, loopback). clock(): market time, UTC us.

    timeout_seconds: longest wait for one answer. Safe from several threads: one question at a time.
    """

    name = "simulated_remote"
    simulated = True

    def __init__(self, address: str, clock: Callable[[], int], timeout_seconds: float = 2.0) -> None:
        host, _, port = address.rpartition(":")
        if host.strip("[]") not in _LOOPBACK or not port.isdigit():
            raise BrokerError(
                f"simulated broker at {address!r}: expected 127.0.0.1:PORT; start one with `tapeline broker simulate` and set "
                "TAPELINE_SIMULATED_BROKER to the address it prints"
            )
        self._address = (host.strip("[]"), int(port))
        self._clock = clock
        self._timeout = timeout_seconds
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._received = b""
        self._asked = 0
        self._connections = 0

    # -- Broker ----------------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[OrderRequest]) -> list[OrderReport]:
        if not requests:
            return []
        return [wire.report_of(r) for r in self._ask("submit", {"requests": [wire.plain(r) for r in requests]})]

    def cancel(self, client_id: str) -> None:
        self._ask("cancel", {"client_id": client_id})

    def modify(self, client_id: str, change: Modification) -> None:
        self._ask("modify", {"client_id": client_id, "change": wire.plain(change)})

    def open_orders(self) -> list[OrderReport]:
        return [wire.report_of(r) for r in self._read("open_orders", {})]

    def completed_orders(self, since_us: int) -> list[OrderReport]:
        return [wire.report_of(r) for r in self._read("completed_orders", {"since_us": since_us})]

    def executions(self, since_us: int) -> list[Execution]:
        return [wire.execution_of(e) for e in self._read("executions", {"since_us": since_us})]

    def positions(self) -> list[BrokerPosition]:
        return [wire.position_of(p) for p in self._read("positions", {})]

    def account(self) -> Account:
        return wire.account_of(self._read("account", {}))

    def poll_events(self, after_key: str) -> list[BrokerEvent]:
        return [wire.event_of(e) for e in self._read("poll_events", {"after_key": after_key})]

    def connection(self) -> int:
        """Number of the connection, after it has answered (see protocol.Connected)."""
        self._read("account", {})
        return self._connections

    def on_bars(self, close_time: int, bars: Sequence[BarClose]) -> None:
        """Let the simulated market move: idempotent by symbol and close."""
        self._read("bars", {"close_time": close_time, "bars": [wire.bar_values(b) for b in bars]})

    def place_by_hand(self, symbol: str, side: str, quantity: float, limit_price: float | None = None) -> OrderReport:
        """Enter an order as a person at the broker's own screen would: no desk knows it. For drills."""
        wanted = {"symbol": symbol, "side": side, "quantity": quantity, "limit_price": limit_price}
        kind = "market" if limit_price is None else "limit"
        return wire.report_of(self._ask("place", {**wanted, "order_type": kind}))

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    # -- the connection --------------------------------------------------------------------------------------------------

    def _read(self, op: str, args: Mapping[str, Any]) -> Any:
        """Ask for what may be asked twice: once more when the connection broke under the question."""
        with self._lock:
            had = self._socket is not None
            try:
                return self._ask(op, args)
            except ConnectionLost:
                if not had:
                    raise
                return self._ask(op, args)

    def _ask(self, op: str, args: Mapping[str, Any]) -> Any:
        with self._lock:
            if self._socket is None:
                self._connect()
            answer = self._exchange(op, args)
        if "error" in answer:
            raise BrokerError(f"simulated broker, {op}: code {answer.get('code')}: {answer['error']}")
        return answer["ok"]

    def _connect(self) -> None:
        try:
            self._socket = socket.create_connection(self._address, self._timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self._disconnect()
            raise ConnectionLost(f"simulated broker at {self._address[0]}:{self._address[1]}: {error}") from error
        self._received = b""
        self._exchange("hello", {"as": "desk"})
        self._connections += 1

    def _exchange(self, op: str, args: Mapping[str, Any]) -> dict[str, Any]:
        if self._socket is None:
            raise ConnectionLost("simulated broker: not connected")
        self._asked += 1
        number, deadline = self._asked, time.monotonic() + self._timeout
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(wire.encode({"id": number, "op": op, "now": self._clock(), "args": args}))
            while True:
                answer = wire.decode(self._line(deadline))
                if answer.get("id") == number:
                    return answer
                log.info("stray_answer", op=op, id=answer.get("id"), asked=number)
        except TimeoutError:
            # The connection stays: the answer may still come, and is known by its number.
            raise BrokerError(f"simulated broker, {op}: no answer within {self._timeout:g} s") from None
        except (OSError, ValueError) as error:
            self._disconnect()
            raise ConnectionLost(f"simulated broker, {op}: the connection broke ({error})") from error

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or self._socket is None:
                raise TimeoutError
            self._socket.settimeout(left)
            more = self._socket.recv(1 << 16)
            if not more:
                raise ConnectionResetError("closed by the broker")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._received = None, b""


class ReplacingRemoteBroker(SimulatedRemoteBroker):
    """The same for a desk that has it put exits in the place of what rests."""

    def replace_groups(self, replacements: Sequence[Replacement]) -> list[list[OrderReport]]:
        if not replacements:
            return []
        told = [{"ends": dict(r.ends), "requests": [wire.plain(x) for x in r.requests]} for r in replacements]
        return [[wire.report_of(r) for r in group] for group in self._ask("replace", {"replacements": told})]


class ConnectionLost(BrokerError):
    """There is no connection, or it broke before the answer."""


def create(context: BrokerContext) -> SimulatedRemoteBroker:
    """The registry's factory. An address with ``?replacing`` behind it is of a broker that puts orders in the place of others."""
    return connect(context.address, context.clock)


def connect(address: str, clock: Callable[[], int], timeout_seconds: float = 2.0) -> SimulatedRemoteBroker:
    """The adapter for an address, host:port or host:port?replacing."""
    plain = address.removesuffix("?replacing")
    return (SimulatedRemoteBroker if plain == address else ReplacingRemoteBroker)(plain, clock, timeout_seconds)
