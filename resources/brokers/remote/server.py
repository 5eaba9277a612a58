"""The simulated broker's server: JSON lines over TCP on loopback. It forgets nothing; how it answers is another matter."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from typing import Any

import structlog

from resources.brokers.protocol import Replacement
from resources.brokers.remote import wire
from resources.brokers.remote.faults import ANSWER_FAULTS
from resources.brokers.remote.venue import NoSuchOrder, Venue
from trading.orders import OrderType, Side

log = structlog.get_logger("brokers.remote")

LOOPBACK = "127.0.0.1"


class BrokerServer(socketserver.ThreadingTCPServer):
    """Serves `venue` on a loopback port. late_seconds: how late a late answer is. down_seconds: how long nobody gets in
    after the daily disconnect."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, venue: Venue, port: int = 0, late_seconds: float = 5.0, down_seconds: float = 0.2) -> None:
        super().__init__((LOOPBACK, port), _Connection)
        self.venue = venue
        self.late_seconds = late_seconds
        self.down_seconds = down_seconds
        self.lock = threading.Lock()
        self.delayed: list[dict[str, Any]] = []
        """Requests that are carried out only when the market has moved on."""
        self._desks: set[socket.socket] = set()
        self._down_until = 0.0

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def down(self) -> bool:
        return time.monotonic() < self._down_until

    def joined(self, connection: socket.socket) -> None:
        self._desks.add(connection)

    def left(self, connection: socket.socket) -> None:
        self._desks.discard(connection)

    def disconnect_all(self) -> None:
        """Drop every desk and let none in for a moment, as brokers do once a day."""
        self._down_until = time.monotonic() + self.down_seconds
        for connection in list(self._desks):
            _drop(connection)

    def perform(self, op: str, now: int, args: dict[str, Any]) -> Any:
        """Do what was asked. Raises NoSuchOrder, ValueError, KeyError on what cannot be."""
        venue = self.venue
        match op:
            case "hello":
                return {"account_id": venue.account().account_id}
            case "submit":
                return [wire.plain(r) for r in venue.submit([wire.request_of(r) for r in args["requests"]], now)]
            case "replace":
                wanted = [Replacement(r["ends"], [wire.request_of(x) for x in r["requests"]]) for r in args["replacements"]]
                return [[wire.plain(r) for r in group] for group in venue.replace_groups(wanted, now)]
            case "cancel":
                return venue.cancel(args["client_id"], now)
            case "modify":
                return venue.modify(args["client_id"], wire.modification_of(args["change"]), now)
            case "open_orders":
                return [wire.plain(r) for r in venue.open_orders()]
            case "completed_orders":
                return [wire.plain(r) for r in venue.completed_orders(args["since_us"])]
            case "executions":
                return [wire.plain(e) for e in venue.executions(args["since_us"])]
            case "positions":
                return [wire.plain(p) for p in venue.positions()]
            case "account":
                return wire.plain(venue.account())
            case "poll_events":
                return [wire.plain(e) for e in venue.poll_events(args["after_key"])]
            case "bars":
                return self._bars(args)
            case "place":
                order_type = OrderType(args.get("order_type", "market"))
                prices = (args.get("limit_price"), args.get("stop_price"))
                return wire.plain(venue.place(args["symbol"], Side(args["side"]), args["quantity"], order_type, *prices))
            case "arm":
                return venue.faults.arm(**args)
            case "calm":
                venue.faults.calm()
                self._arrive()
                return venue.tell_all()
            case "struck":
                return dict(venue.faults.struck)
        raise ValueError(f"no operation {op!r}")

    def _bars(self, args: dict[str, Any]) -> None:
        bars = [wire.bar_of(b) for b in args["bars"]]
        began = self.venue.on_bars(args["close_time"], bars)
        self._arrive()
        if began and self.venue.faults.strike("session", {"disconnect_daily": ""}):
            self.disconnect_all()

    def _arrive(self) -> None:
        """What was held back reaches the book."""
        delayed, self.delayed = self.delayed, []
        for message in delayed:
            try:
                self.perform(message["op"], message["now"], message["args"])
            except (NoSuchOrder, ValueError, KeyError) as error:
                log.info("delayed_request_refused", op=message["op"], error=str(error))


class _Connection(socketserver.StreamRequestHandler):
    server: BrokerServer
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._sending = threading.Lock()
        self._held: bytes = b""

    def handle(self) -> None:
        if self.server.down:
            return
        first = self.rfile.readline(wire.MAX_LINE)
        if not first:
            return
        hello = wire.decode(first)
        desk = hello.get("args", {}).get("as") == "desk"
        if desk:
            self.server.joined(self.connection)
        try:
            self._send(self._answer(hello))
            while line := self.rfile.readline(wire.MAX_LINE):
                if not self._one(wire.decode(line), desk):
                    return
        except (OSError, ValueError) as error:
            log.info("connection_ended", error=str(error))
        finally:
            self.server.left(self.connection)

    def _one(self, message: dict[str, Any], desk: bool) -> bool:
        """Take one request; False ends the connection."""
        with self.server.lock:
            fault = self.server.venue.faults.strike(message["op"], ANSWER_FAULTS) if desk else ""
            if fault == "never":
                return True
            if fault == "delayed_accept":
                self.server.delayed.append(message)
                return True
            answer = self._answer(message)
        match fault:
            case "accept_then_timeout":
                return True
            case "disconnect":
                _drop(self.connection)
                return False
            case "accept_then_5xx":
                answer = wire.encode({"id": message["id"], "error": "bad gateway: the order may have been placed", "code": 502})
            case "late":
                threading.Timer(self.server.late_seconds, self._send, (answer,)).start()
                return True
            case "out_of_order":
                self._held += answer
                return True
            case "twice":
                answer += answer
        held, self._held = self._held, b""
        self._send(answer + held)
        return True

    def _answer(self, message: dict[str, Any]) -> bytes:
        try:
            return wire.encode(
                {"id": message["id"], "ok": self.server.perform(message["op"], message.get("now", 0), message["args"])}
            )
        except NoSuchOrder as error:
            return wire.encode({"id": message["id"], "error": str(error), "code": 404})
        except (ValueError, KeyError, TypeError) as error:
            return wire.encode({"id": message["id"], "error": f"{type(error).__name__}: {error}", "code": 400})

    def _send(self, answer: bytes) -> None:
        try:
            with self._sending:
                self.wfile.write(answer)
        except (OSError, ValueError) as error:  # who asked is gone: that is the point
            log.debug("answer_not_delivered", error=str(error))


def _drop(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("connection_gone", error=str(error))
