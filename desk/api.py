"""The desk's control API: what Dagster, the command line and the operator ask of it. Loopback, bearer token, JSON.

Every refusal of the API itself is ``{"error": "…"}``; a decision that risk refuses is an answer (200), not an error.
503 means: no new risk is taken right now, and why; asking again is safe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol

import structlog
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from resources.secrets import same
from trading.signals import Decision

log = structlog.get_logger("desk.api")

MAX_WAIT_SECONDS = 50.0
MAX_BODY_BYTES = 1_000_000
_BEARER = HTTPBearer(auto_error=False, description="Content of the desk's token file")


class Unavailable(Exception):
    """The desk takes no new risk now; the text says why and is shown to the caller."""


class Unknown(Exception):
    """No such close or order."""


class Conflict(Exception):
    """The request cannot be done in the state the thing is in."""


class Desk(Protocol):
    """What the API can ask. Methods raise Unavailable, Unknown or Conflict; anything else is a fault of the desk."""

    def health(self) -> dict[str, Any]: ...
    async def status(self) -> dict[str, Any]: ...
    async def submit_decision(self, decision: Decision) -> dict[str, Any]: ...
    async def close_done(self, close_time: int, run_id: str, outcome: str) -> dict[str, Any]: ...
    async def halt(self, level: str, scope: str, reason: str, who: str) -> dict[str, Any]: ...
    async def resume(self, scope: str, reason: str, who: str) -> dict[str, Any]: ...
    async def flatten(self, reason: str, who: str, strategy: str | None, symbol: str | None) -> dict[str, Any]: ...
    async def cancel(self, order_id: str, reason: str, who: str) -> dict[str, Any]: ...
    async def reconcile(self) -> dict[str, Any]: ...
    async def clear_mismatch(self, symbol: str, reason: str, who: str) -> dict[str, Any]: ...
    async def orders(self, session: str | None, state: str | None, limit: int) -> list[dict[str, Any]]: ...
    async def positions(self) -> list[dict[str, Any]]: ...
    async def closes(self, after: int, wait_seconds: float, limit: int) -> list[dict[str, Any]]: ...
    async def replay(self) -> dict[str, Any]: ...
    async def start_replay(self, sessions: int | None) -> dict[str, Any]: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DecisionBody(BaseModel):
    """One decision as its `to_dict` gives it, plus the bar close of the run that made it."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Decision id; must be the id of the content")
    signal: dict[str, Any] = Field(description="The signal, with its id")
    approved: bool
    verdicts: list[dict[str, Any]] = Field(description="Every gate's verdict")
    refusal: str = ""
    size: dict[str, Any] | None = Field(None, description="Size the decision was taken with; the desk orders no more")
    close_time: int | None = Field(None, description="Bar close of the trade run, UTC microseconds")


class DecisionAnswer(BaseModel):
    decision_id: str
    accepted: bool
    refusal: str = Field(description="CODE: key=value of the first refusing rule; empty when accepted")
    intents: list[str] = Field(description="Ids of the orders the decision became")


class CloseDoneBody(_Body):
    run_id: str = Field(min_length=1)
    outcome: Literal["done", "failed"] = "done"


_Reason = Annotated[str, Field(min_length=1, max_length=500, description="Why; kept in the audit")]
_Who = Annotated[str, Field(min_length=1, max_length=100, description="Who asks; kept in the audit")]


class HaltBody(_Body):
    level: Literal["reduce_only", "halted", "flatten"] = Field(
        description="reduce_only: exits only; halted: nothing new; flatten: halted, and positions are closed"
    )
    scope: str = Field("desk", description="desk, or a strategy's name")
    reason: _Reason
    who: _Who


class ResumeBody(_Body):
    scope: str = "desk"
    reason: _Reason
    who: _Who


class FlattenBody(_Body):
    reason: _Reason
    who: _Who
    strategy: str | None = Field(None, description="Only this strategy's positions")
    symbol: str | None = Field(None, description="Only this instrument's positions")


class CancelBody(_Body):
    reason: _Reason
    who: _Who


class ClearBody(_Body):
    reason: _Reason
    who: _Who


class ReplayBody(_Body):
    sessions: int | None = Field(None, ge=0, le=250, description="How many last sessions; default: the setting")


class Failure(BaseModel):
    error: str


class HealthAnswer(BaseModel):
    status: Literal["starting", "ok", "degraded", "stopping"]
    mode: str = Field(description="PAPER or SHADOW: the highest mode any strategy runs in")


def create_api(desk: Desk, token: str) -> FastAPI:
    """The ASGI application for `desk`, guarded by `token`."""

    def authorised(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if credentials is None or not same(credentials.credentials, token):
            raise HTTPException(401, "missing or wrong bearer token: it is in the desk's token file (secrets/desk_token)")

    errors: dict[int | str, dict[str, Any]] = {
        401: {"model": Failure, "description": "Missing or wrong token"},
        422: {"model": Failure, "description": "Malformed request"},
        503: {"model": Failure, "description": "No new risk now; the error says why"},
    }
    missing: dict[int | str, dict[str, Any]] = {**errors, 404: {"model": Failure, "description": "No such thing"}}
    api = FastAPI(title="Tapeline desk", version="1", description=__doc__ or "", docs_url="/docs", redoc_url=None)
    guarded: dict[str, Any] = {"dependencies": [Depends(authorised)], "responses": errors}

    @api.get("/v1/health", response_model=HealthAnswer, tags=["state"], summary="Is the desk there? Needs no token")
    def health() -> Any:
        return desk.health()

    @api.get("/v1/status", tags=["state"], summary="Mode, market time, halts, replay, ledger, config problems", **guarded)
    async def status() -> dict[str, Any]:
        return await desk.status()

    @api.post("/v1/decisions", response_model=DecisionAnswer, tags=["trading"], summary="Hand over a decision", **guarded)
    async def decisions(body: DecisionBody) -> Any:
        try:
            decision = Decision.from_dict(body.model_dump(exclude={"close_time"}))
        except (ValueError, TypeError, KeyError) as error:
            raise HTTPException(422, f"not a decision: {type(error).__name__}: {error}") from error
        if body.close_time is not None and body.close_time < decision.signal.close_time:
            raise HTTPException(422, f"close_time {body.close_time} lies before the signal's {decision.signal.close_time}")
        return await desk.submit_decision(decision)

    @api.post(
        "/v1/closes/{close_time}/done",
        tags=["trading"],
        summary="The trade run of a bar close is over",
        **guarded,
    )
    async def close_done(close_time: Annotated[int, Path(description="UTC microseconds")], body: CloseDoneBody) -> dict[str, Any]:
        return await desk.close_done(close_time, body.run_id, body.outcome)

    @api.get("/v1/closes", tags=["state"], summary="Bar closes after a time; can wait for the next", **guarded)
    async def closes(
        after: int = 0,
        wait_seconds: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0.0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> dict[str, Any]:
        return {"closes": await desk.closes(after, wait_seconds, limit)}

    @api.post("/v1/halt", tags=["control"], summary="Stop new risk (audited)", **guarded)
    async def halt(body: HaltBody) -> dict[str, Any]:
        return await desk.halt(body.level, body.scope, body.reason, body.who)

    @api.post("/v1/resume", tags=["control"], summary="Allow new risk again (audited)", **guarded)
    async def resume(body: ResumeBody) -> dict[str, Any]:
        return await desk.resume(body.scope, body.reason, body.who)

    @api.post("/v1/flatten", tags=["control"], summary="Cancel entries and close positions (audited)", **guarded)
    async def flatten(body: FlattenBody) -> dict[str, Any]:
        return await desk.flatten(body.reason, body.who, body.strategy, body.symbol)

    @api.post("/v1/reconcile", tags=["control"], summary="Compare ledger and broker now", **guarded)
    async def reconcile() -> dict[str, Any]:
        return await desk.reconcile()

    @api.post(
        "/v1/mismatches/{symbol}/clear",
        tags=["control"],
        summary="A person has looked at a difference between ledger and broker (audited); it comes back if it still stands",
        dependencies=[Depends(authorised)],
        responses=missing,
    )
    async def clear_mismatch(symbol: str, body: ClearBody) -> dict[str, Any]:
        return await desk.clear_mismatch(symbol, body.reason, body.who)

    @api.get("/v1/orders", tags=["state"], summary="Orders, newest first", **guarded)
    async def orders(
        session: str | None = None, state: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
    ) -> dict[str, Any]:
        return {"orders": await desk.orders(session, state, limit)}

    @api.post(
        "/v1/orders/{order_id}/cancel",
        tags=["control"],
        summary="Ask the broker to cancel an order (audited)",
        dependencies=[Depends(authorised)],
        responses=missing,
    )
    async def cancel(order_id: str, body: CancelBody) -> dict[str, Any]:
        return await desk.cancel(order_id, body.reason, body.who)

    @api.get("/v1/positions", tags=["state"], summary="Open positions by strategy and symbol", **guarded)
    async def positions() -> dict[str, Any]:
        return {"positions": await desk.positions()}

    @api.get("/v1/replay", tags=["replay"], summary="Where the live day on recorded bars stands", **guarded)
    async def replay() -> dict[str, Any]:
        return await desk.replay()

    @api.post("/v1/replay/start", tags=["replay"], summary="Start it; a running or finished one is left as it is", **guarded)
    async def start_replay(body: ReplayBody) -> dict[str, Any]:
        return await desk.start_replay(body.sessions)

    _answer_errors(api)
    return api


def _answer_errors(api: FastAPI) -> None:
    def answer(status: int, text: str) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "1"} if status == 503 else None
        return JSONResponse({"error": text}, status, headers=headers)

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    @api.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
        return answer(422, said)

    @api.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Unavailable) -> JSONResponse:
        return answer(503, str(error))

    @api.exception_handler(Unknown)
    async def unknown(request: Request, error: Unknown) -> JSONResponse:
        return answer(404, str(error))

    @api.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> JSONResponse:
        return answer(409, str(error))

    @api.middleware("http")
    async def bounded(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
            return answer(413, f"request body above {MAX_BODY_BYTES} bytes")
        try:
            return await call_next(request)
        except Exception as error:
            log.error("api_fault", path=request.url.path, error=type(error).__name__, exc_info=True)
            return answer(500, f"the desk failed on this request ({type(error).__name__}): ask its state before repeating it")
