"""Who is let in and how often, and how refusals look: ``{"error": "..."}`` with a status that says what to do."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Match

from desk.api_base import Conflict, Malformed, Unavailable, Unknown
from resources.secrets import same

log = structlog.get_logger("desk.api")

MAX_BODY_BYTES = 1_000_000
WRONG_TOKENS_PER_SECOND = 20.0
_ADDRESSES = 1000
_BEARER = HTTPBearer(auto_error=False, description="Content of the desk's token file")


class RateLimit:
    """A bucket of requests for each address: `per_second` flow in, up to `burst`."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> float:
        """Take one; seconds until there is one again when there is none (0: taken)."""
        now = self._clock()
        left, seen = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - seen) * self._per_second)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._per_second
        self._buckets[address] = (left - 1.0 if wait == 0.0 else left, now)
        while len(self._buckets) > _ADDRESSES:  # the one not heard of for longest
            self._buckets.popitem(last=False)
        return wait


class TooMany(Exception):
    """More requests than are taken; `seconds` until the next one is."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many requests: try again in {seconds:.2f} s")
        self.seconds = seconds


class Guard:
    """Lets in who has the token, at a bounded rate. Wrong tokens have a bucket of their own: guessing does not lock out."""

    def __init__(self, token: str, per_second: float) -> None:
        self._token = token
        self._limit = RateLimit(per_second, 2 * per_second)
        self._wrong = RateLimit(WRONG_TOKENS_PER_SECOND, 20 * WRONG_TOKENS_PER_SECOND)

    def check(self, token: str | None, address: str) -> None:
        """Raises HTTPException 401 or TooMany."""
        if token is None or not same(token, self._token):
            _raise_if(self._wrong.take(address))
            raise HTTPException(401, "missing or wrong bearer token: it is in the desk's token file (secrets/desk_token)")
        _raise_if(self._limit.take(address))

    def request(self, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        """The dependency of every guarded call."""
        self.check(credentials.credentials if credentials is not None else None, address_of(request))


def address_of(connection: Any) -> str:
    return connection.client.host if connection.client is not None else ""


def _raise_if(wait: float) -> None:
    if wait > 0:
        raise TooMany(wait)


def answer(status: int, text: str, **headers: str) -> JSONResponse:
    """A refusal."""
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers.setdefault("Retry-After", "1")
    return JSONResponse({"error": text}, status, headers=headers)


def _methods(api: FastAPI, request: Request) -> set[str]:
    return {
        method
        for route in api.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }


def answer_errors(api: FastAPI) -> None:
    """Every refusal and fault as JSON, large bodies refused before they are read."""

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # every method of the path, not of the one route that was looked at
            headers["Allow"] = ", ".join(sorted(_methods(api, request)))
        return answer(error.status_code, str(error.detail), **headers)

    @api.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()))

    @api.exception_handler(TooMany)
    async def too_many(request: Request, error: TooMany) -> JSONResponse:
        return answer(429, str(error), **{"Retry-After": f"{max(error.seconds, 0.01):.2f}"})

    for kind, status in ((Unavailable, 503), (Unknown, 404), (Conflict, 409), (Malformed, 422)):

        def told(request: Request, error: Exception, status: int = status) -> JSONResponse:
            return answer(status, str(error))

        api.add_exception_handler(kind, told)

    @api.middleware("http")
    async def bounded(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        length = request.headers.get("content-length") or "0"
        if not length.isdigit():
            return answer(400, "Content-Length is no number")
        if int(length) > MAX_BODY_BYTES:
            return answer(413, f"request body above {MAX_BODY_BYTES} bytes")
        if "chunked" in request.headers.get("transfer-encoding", "").lower():
            return answer(413, "send the body with its Content-Length")
        try:
            return await call_next(request)
        except Exception as error:
            log.error("api_fault", path=request.url.path, error=type(error).__name__, exc_info=True)
            return answer(500, f"the desk failed on this request ({type(error).__name__}): ask its state before repeating it")
