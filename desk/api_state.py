"""What can be read without changing anything: health, status, limits, the audit, the notification queues."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from desk.api_base import LATEST, Desk, Limit, QueryText, QueryTime, errors


class HealthAnswer(BaseModel):
    status: Literal["starting", "ok", "degraded", "stopping"]
    mode: str = Field(description="SHADOW, ALERT, PAPER or LIVE: the highest mode any strategy may run in here")


def open_router(desk: Desk) -> APIRouter:
    """What needs no token."""
    router = APIRouter()

    @router.get("/v1/health", response_model=HealthAnswer, tags=["state"], summary="Is the desk there? Needs no token")
    def health() -> Any:
        return desk.health()

    return router


def router(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["state"], responses=errors())

    @router.get("/v1/status", summary="Mode, market time, halts, auto-trade, replay, ledger, config problems")
    async def status() -> dict[str, Any]:
        return await desk.status()

    @router.get("/v1/limits", summary="Every limit in force, the halts, and where the account and strategies stand")
    async def limits() -> dict[str, Any]:
        return await desk.limits()

    @router.get("/v1/audit", summary="Audit records by number, time, actor and action (a * at the end: all that begin so)")
    async def audit(
        after: Annotated[int, Query(ge=0, le=LATEST, description="Only records with a greater number")] = 0,
        before: Annotated[int | None, Query(ge=0, le=LATEST, description="Only records with a smaller number")] = None,
        start_time: QueryTime = None,
        end_time: QueryTime = None,
        actor: QueryText = None,
        action: QueryText = None,
        newest_first: bool = False,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        return await desk.audit(
            after=after, before=before, start_us=start_time, end_us=end_time, actor=actor, action=action,
            newest_first=newest_first, limit=limit,
        )  # fmt: skip

    @router.get("/v1/audit/head", summary="Number and hash of the newest audit record")
    async def audit_head() -> dict[str, Any]:
        return await desk.audit_head()

    @router.get("/v1/notifications", summary="Channels, what waits in their queues, how far behind they are")
    async def notifications() -> dict[str, Any]:
        return await desk.notifications()

    return router
