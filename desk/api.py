"""The desk's control API: what Dagster, the command line and the operator ask of it. Loopback, bearer token, JSON.

Every refusal of the API itself is ``{"error": "…"}``; a decision that risk refuses is an answer (200), not an error.
503 means: no new risk is taken right now, and why; asking again is safe. 429 says in Retry-After when to come again. What
happens is told on the WebSocket ``/v1/stream``, numbered, so that a client goes on where it was.
"""

from __future__ import annotations

from fastapi import Depends, FastAPI

from desk import api_control, api_state, api_stream, api_trading
from desk.api_base import Conflict, Desk, Malformed, Unavailable, Unknown
from desk.api_guard import Guard, answer_errors

__all__ = ["Conflict", "Desk", "Malformed", "Unavailable", "Unknown", "create_api"]

REQUESTS_PER_SECOND = 200.0


def create_api(desk: Desk, token: str, requests_per_second: float = REQUESTS_PER_SECOND) -> FastAPI:
    """The ASGI application for `desk`, guarded by `token`; requests_per_second: of one address, twice that at once."""
    guard = Guard(token, requests_per_second)
    api = FastAPI(title="Tapeline desk", version="1", description=__doc__ or "", docs_url="/docs", redoc_url=None)
    api.include_router(api_state.open_router(desk))
    for part in (api_state, api_trading, api_control):
        api.include_router(part.router(desk), dependencies=[Depends(guard.request)])
    api.include_router(api_stream.router(desk, guard))
    answer_errors(api)
    return api
