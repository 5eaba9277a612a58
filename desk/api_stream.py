"""``/v1/stream``: everything that happens, over a WebSocket, numbered by the audit: a client that lost the line goes on where
it was, after a restart of the desk as well, and misses nothing.

Ask with ``?after=NUMBER`` (0: from the first record; left out: from now on) and ``?kinds=order,position``. The token goes in the
Authorization header or, from a browser, as the second of the subprotocols ``tapeline.v1, bearer.TOKEN``. Messages are JSON:

- ``{"type": "hello", "head": 120, "mode": "PAPER"}`` first;
- ``{"type": "event", "seq": 121, "kind": "order", "action": "order_event", "time": "...", "time_us": ..., "who": "desk",
  "data": {...}}`` for each record of the kinds asked for, by number;
- ``{"type": "alive", "seq": 130}`` every ten seconds: nothing of these kinds up to there; and why, while the ledger is away.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.exceptions import HTTPException

from desk.api_base import LATEST, Desk, Unavailable
from desk.api_guard import Guard, TooMany, address_of, answer

log = structlog.get_logger("desk.api")

KINDS = ("signal", "rule", "order", "position", "desk")
SUBPROTOCOL = "tapeline.v1"
MAX_STREAMS = 50
ALIVE_SECONDS = 10.0
POLL_SECONDS = 0.1
PAGE = 500
_SEND_SECONDS = 30.0
_GOING = 1012

_KIND_OF = {
    "signal": "signal", "decision": "rule", "intent": "rule", "quality": "rule", "order_denied": "rule", "order_event": "order",
    "fill": "order", "order_sending": "order", "exit_wanted": "order", "exit_sent": "order", "cancel": "order", "modify": "order",
    "unknown_resolved": "order", "position": "position",
}  # fmt: skip


def kind_of(action: str) -> str:
    """Kind of an audit action; what is none of the others is the desk's."""
    if action.startswith("plan_"):
        return "rule"
    return _KIND_OF.get(action, "desk")


class Tail:
    """Wakes every stream when the chain has grown; asks the ledger once for all of them, and only while somebody listens."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asking: asyncio.Task[int] | None = None

    async def beyond(self, seq: int, seconds: float) -> bool:
        """Wait up to `seconds` for a record after `seq`. Raises Unavailable."""
        until = time.monotonic() + seconds
        while not self._desk.stopping:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.ensure_future(self._desk.head())
            if await asyncio.shield(self._asking) > seq:
                return True
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return False


def router(desk: Desk, guard: Guard) -> APIRouter:
    router = APIRouter()
    tail = Tail(desk)
    open_streams: set[WebSocket] = set()

    @router.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        protocols = socket.scope.get("subprotocols", [])
        try:
            guard.check(_token(socket, protocols), address_of(socket))
            after, kinds = _asked(socket)
        except TooMany as error:
            return await socket.send_denial_response(answer(429, str(error)))
        except HTTPException as error:
            return await socket.send_denial_response(answer(error.status_code, str(error.detail)))
        except ValueError as error:
            return await socket.send_denial_response(answer(422, str(error)))
        if len(open_streams) >= MAX_STREAMS or desk.stopping:
            return await socket.send_denial_response(answer(503, "the desk is stopping, or has as many streams as it takes"))
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in protocols else None)
        open_streams.add(socket)
        try:
            listening = asyncio.ensure_future(_until_gone(socket))
            telling = asyncio.ensure_future(_tell(socket, desk, tail, after, kinds))
            await asyncio.wait([listening, telling], return_when=asyncio.FIRST_COMPLETED)
            for task in (listening, telling):
                task.cancel()
            _, ended = await asyncio.gather(listening, telling, return_exceptions=True)
            if isinstance(ended, Exception) and not isinstance(ended, (WebSocketDisconnect, RuntimeError, TimeoutError)):
                log.error("stream_fault", error=type(ended).__name__, exc_info=ended)
        finally:
            open_streams.discard(socket)

    return router


def _token(socket: WebSocket, protocols: list[str]) -> str | None:
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token
    return next((p.removeprefix("bearer.") for p in protocols if p.startswith("bearer.")), None)


def _asked(socket: WebSocket) -> tuple[int | None, frozenset[str]]:
    """(after, kinds) of the query. Raises ValueError."""
    given, wanted = socket.query_params.get("after"), socket.query_params.get("kinds")
    if given is not None and not (given.isdecimal() and int(given) <= LATEST):
        raise ValueError("after: expected the number of the last event you have, 0 for all")
    kinds = frozenset(k.strip() for k in wanted.split(",")) if wanted is not None else frozenset(KINDS)
    if strange := kinds - set(KINDS):
        raise ValueError(f"kinds: no {', '.join(sorted(strange))!r}; there are {', '.join(KINDS)}")
    return (int(given) if given is not None else None), kinds


async def _until_gone(socket: WebSocket) -> None:
    """The client has nothing to say but goodbye."""
    try:
        while True:
            await socket.receive()
    except (WebSocketDisconnect, RuntimeError):
        return


async def _tell(socket: WebSocket, desk: Desk, tail: Tail, after: int | None, kinds: frozenset[str]) -> None:
    seq = after
    alive = time.monotonic()
    greeted, why = False, ""
    while not desk.stopping:
        try:
            if not greeted:
                head = await desk.head()
                seq = head if seq is None else seq
                if seq > head:
                    text = f"after {seq} lies beyond the newest event {head}: is this another ledger?"
                    await _send(socket, {"type": "error", "error": text, "head": head})
                    return await socket.close(1008, "after lies beyond the newest event")
                await _send(socket, {"type": "hello", "head": head, "mode": desk.health()["mode"]})
                greeted = True
            assert seq is not None
            grown = await tail.beyond(seq, max(0.0, ALIVE_SECONDS - (time.monotonic() - alive)))
            events = await desk.events_after(seq, PAGE) if grown else []
            why = ""
        except Unavailable as error:
            if str(error) != why:
                why = str(error)
                await _send(socket, {"type": "alive", "seq": seq, "unavailable": why})
            await asyncio.sleep(0.5)
            continue
        for event in events:
            if (kind := kind_of(event["action"])) in kinds:
                await _send(socket, _told(event, kind))
            seq = event["seq"]
        if time.monotonic() - alive >= ALIVE_SECONDS:
            alive = time.monotonic()
            await _send(socket, {"type": "alive", "seq": seq})
    await socket.close(_GOING, "the desk is stopping: come back with after")


def _told(event: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "type": "event", "seq": event["seq"], "kind": kind, "action": event["action"], "time": event["time"],
        "time_us": event["time_us"], "who": event["actor"], "data": event["content"],
    }  # fmt: skip


async def _send(socket: WebSocket, message: dict[str, Any]) -> None:
    """A client that takes nothing for a while is let go: it comes back with its number."""
    await asyncio.wait_for(socket.send_json(message), _SEND_SECONDS)
