"""What the parts of the control API share: refusals, words of requests and answers, and what the desk must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from trading.signals import Decision

MAX_WAIT_SECONDS = 50.0
LATEST = 2**62
"""No time and no number is beyond this."""

_PLAIN = r"^[^\x00-\x1f\x7f]+$"


class Unavailable(Exception):
    """The desk takes no new risk now; the text says why and is shown to the caller."""


class Unknown(Exception):
    """No such close or order."""


class Conflict(Exception):
    """The request cannot be done in the state the thing is in."""


class Malformed(Exception):
    """The request says something that cannot be meant."""


class Body(BaseModel):
    """Base of every request body: unknown keys are errors, and a text is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def whole(value: Any) -> Any:
    """JSON knows one kind of number: 3.0 is the whole number 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Failure(BaseModel):
    error: str


Reason = Annotated[str, Field(min_length=1, max_length=500, pattern=_PLAIN, description="Why; kept in the audit")]
Who = Annotated[str, Field(min_length=1, max_length=100, pattern=_PLAIN, description="Who asks; kept in the audit")]
Text = Annotated[str, Field(min_length=1, max_length=100, pattern=_PLAIN)]
PathName = Annotated[str, Path(min_length=1, max_length=100, pattern=_PLAIN)]
PathTime = Annotated[int, Path(ge=0, le=LATEST, description="UTC microseconds")]
QueryText = Annotated[str | None, Query(min_length=1, max_length=100, pattern=_PLAIN)]
QueryTime = Annotated[int | None, Query(ge=0, le=LATEST, description="UTC microseconds")]
QueryDay = Annotated[str | None, Query(pattern=r"^\d{4}-\d{2}-\d{2}$", description="A session, like 2017-12-29")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="At most so many")]
Asker = Annotated[str, Header(alias="X-Tapeline-Who", min_length=1, max_length=100, description="Who asks; kept in the audit")]


class Asked(Body):
    """A command: why, and who asks."""

    reason: Reason
    who: Who


class CancelBody(Asked):
    """force: also when the order guards a trade, which is then left unprotected."""

    force: bool = False


def errors(*more: int) -> dict[int | str, dict[str, Any]]:
    """Documented refusals: those every guarded call can give, and `more`."""
    texts = {
        400: "The body cannot be read",
        401: "Missing or wrong token",
        404: "No such thing",
        409: "Cannot be done as things stand; the error says why",
        413: "The body is too large",
        422: "Malformed request",
        429: "Too many requests: Retry-After says when the next one is taken",
        503: "Not now: the error says why; asking again later is safe",
    }
    return {code: {"model": Failure, "description": texts[code]} for code in (400, 401, 413, 422, 429, 503, *more)}


class Desk(Protocol):
    """What the API can ask. Methods raise Unavailable, Unknown or Conflict; anything else is a fault of the desk."""

    def health(self) -> dict[str, Any]: ...
    async def status(self) -> dict[str, Any]: ...
    async def limits(self) -> dict[str, Any]: ...
    async def audit(self, **chosen: Any) -> dict[str, Any]: ...
    async def audit_head(self) -> dict[str, Any]: ...
    async def notifications(self) -> dict[str, Any]: ...
    async def note_call(self, who: str, call: str, content: Mapping[str, Any]) -> None: ...

    async def submit_decision(self, decision: Decision) -> dict[str, Any]: ...
    async def close_done(self, close_time: int, run_id: str, outcome: str) -> dict[str, Any]: ...
    async def closes(self, after: int, wait_seconds: float, limit: int) -> list[dict[str, Any]]: ...
    async def signals(self, **chosen: Any) -> list[dict[str, Any]]: ...
    async def decisions(self, **chosen: Any) -> list[dict[str, Any]]: ...
    async def decision(self, decision_id: str) -> dict[str, Any]: ...
    async def orders(
        self, session: str | None, state: str | None, limit: int, strategy: str | None = None, symbol: str | None = None
    ) -> list[dict[str, Any]]: ...
    async def order(self, order_id: str) -> dict[str, Any]: ...
    async def fills(self, **chosen: Any) -> list[dict[str, Any]]: ...
    async def cancel(self, order_id: str, reason: str, who: str, *, force: bool = False) -> dict[str, Any]: ...
    async def modify(self, order_id: str, change: Mapping[str, float | None], reason: str, who: str) -> dict[str, Any]: ...
    async def positions(self) -> list[dict[str, Any]]: ...
    async def performance(self, session: str | None) -> dict[str, Any]: ...
    async def close_position(self, strategy: str, symbol: str, reason: str, who: str) -> dict[str, Any]: ...
    async def reduce_position(self, strategy: str, symbol: str, asked: Mapping[str, Any]) -> dict[str, Any]: ...
    async def reverse_position(self, strategy: str, symbol: str, asked: Mapping[str, Any]) -> dict[str, Any]: ...

    async def halt(self, level: str, scope: str, reason: str, who: str) -> dict[str, Any]: ...
    async def resume(self, scope: str, reason: str, who: str) -> dict[str, Any]: ...
    async def flatten(self, reason: str, who: str, strategy: str | None, symbol: str | None) -> dict[str, Any]: ...
    async def reconcile(self) -> dict[str, Any]: ...
    async def clear_mismatch(self, symbol: str, reason: str, who: str) -> dict[str, Any]: ...
    async def auto_trade(self) -> dict[str, Any]: ...
    async def set_auto_trade(self, state: str, reason: str, who: str) -> dict[str, Any]: ...
    async def evaluables(self, kind: str) -> list[dict[str, Any]]: ...
    async def activate(self, kind: str, name: str, reason: str, who: str) -> dict[str, Any]: ...
    async def deactivate(self, kind: str, name: str, reason: str, who: str) -> dict[str, Any]: ...
    async def emergency_stop(self, kind: str, name: str, reason: str, who: str) -> dict[str, Any]: ...
    async def modes(self) -> list[dict[str, Any]]: ...
    async def set_mode(self, name: str, mode: str, reason: str, who: str, *, force: bool) -> dict[str, Any]: ...
    async def cancel_plan(self, name: str, reason: str, who: str) -> dict[str, Any]: ...
    async def replay(self) -> dict[str, Any]: ...
    async def start_replay(self, sessions: int | None) -> dict[str, Any]: ...

    async def events_after(self, seq: int, limit: int) -> list[dict[str, Any]]: ...
    async def head(self) -> int: ...
    @property
    def stopping(self) -> bool: ...
