"""Signals, decisions, orders, fills and positions: read, handed over, cancelled, changed, closed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from desk.api_base import (
    LATEST,
    MAX_WAIT_SECONDS,
    Asked,
    Body,
    CancelBody,
    Desk,
    Limit,
    Malformed,
    PathName,
    PathTime,
    QueryDay,
    QueryText,
    Text,
    errors,
)  # fmt: skip
from trading.signals import Decision

Price = Annotated[float | None, Field(gt=0, le=1e15, allow_inf_nan=False)]


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


class CloseDoneBody(Body):
    run_id: Text
    outcome: Literal["done", "failed"] = "done"


class ModifyBody(Asked):
    """What is to change; what is left out stays. The quantity can only become smaller; a stop or target is refused where it
    would trade at once, and a stop that moves away only within the price collar."""

    quantity: Price = Field(None, description="New whole quantity")
    limit_price: Price = None
    stop_price: Price = None


_NAMED = "Names this command: repeating it with the same name does nothing more"
Request = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{8,40}$", description=_NAMED)]


class ReduceBody(Asked):
    """Part of a position to close now: units, or a share of what is open, one of both."""

    request: Request
    quantity: Price = Field(None, description="Units; rounded down to whole lots; all that is open or more closes the position")
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(None, description="Instead: 0.5 is half of it")


class ReverseBody(Asked):
    """The other side of a position, entered once it is closed. The entry is judged by every risk rule."""

    request: Request
    stop: Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False, description="Stop of the new side")]
    target: Price = Field(None, description="Target of the new side")
    quantity: Price = Field(None, description="Units of the new side; default: as many as are open now")


def _which(session: QueryDay = None, strategy: QueryText = None, symbol: QueryText = None) -> dict[str, Any]:
    return {"session": session, "strategy": strategy, "symbol": symbol}


Which = Annotated[dict[str, Any], Depends(_which)]
"""The rows a list is asked for."""


def router(desk: Desk) -> APIRouter:
    router = APIRouter(responses=errors())
    _decided(router, desk)
    _closes(router, desk)
    _orders(router, desk)
    _algos(router, desk)
    _positions(router, desk)
    return router


def _decided(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/signals", tags=["trading"], summary="Signals, newest first, with what became of each")
    async def signals(which: Which, limit: Limit = 100) -> dict[str, Any]:
        return {"signals": await desk.signals(**which, limit=limit)}

    @router.post("/v1/decisions", response_model=DecisionAnswer, tags=["trading"], summary="Hand over a decision")
    async def submit(body: DecisionBody) -> Any:
        try:
            decision = Decision.from_dict(body.model_dump(exclude={"close_time"}))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise Malformed(f"not a decision: {type(error).__name__}: {error}") from error
        if body.close_time is not None and body.close_time < decision.signal.close_time:
            raise Malformed(f"close_time {body.close_time} lies before the signal's {decision.signal.close_time}")
        return await desk.submit_decision(decision)

    @router.get("/v1/decisions", tags=["trading"], summary="Decisions with every gate's verdict, newest first")
    async def decisions(which: Which, approved: bool | None = None, limit: Limit = 100) -> dict[str, Any]:
        return {"decisions": await desk.decisions(**which, approved=approved, limit=limit)}

    @router.get(
        "/v1/decisions/{decision_id}", tags=["trading"], responses=errors(404),
        summary="One decision: its signal, verdicts, and the orders with every risk rule's verdict",
    )  # fmt: skip
    async def decision(decision_id: PathName) -> dict[str, Any]:
        return await desk.decision(decision_id)


def _closes(router: APIRouter, desk: Desk) -> None:
    @router.post("/v1/closes/{close_time}/done", tags=["trading"], summary="The trade run of a bar close is over")
    async def close_done(close_time: PathTime, body: CloseDoneBody) -> dict[str, Any]:
        await desk.note_call(f"run {body.run_id}", "close_done", {"close_time": close_time, "outcome": body.outcome})
        return await desk.close_done(close_time, body.run_id, body.outcome)

    @router.get("/v1/closes", tags=["state"], summary="Bar closes after a time; can wait for the next")
    async def closes(
        after: Annotated[int, Query(ge=0, le=LATEST, description="UTC microseconds")] = 0,
        wait_seconds: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0.0,
        limit: Limit = 1000,
    ) -> dict[str, Any]:
        return {"closes": await desk.closes(after, wait_seconds, limit)}


def _orders(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/orders", tags=["trading"], summary="Orders, newest first")
    async def orders(which: Which, state: QueryText = None, limit: Limit = 1000) -> dict[str, Any]:
        return {"orders": await desk.orders(state=state, limit=limit, **which)}

    @router.get(
        "/v1/orders/{order_id}", tags=["trading"], summary="One order: intent, every event, fills", responses=errors(404)
    )  # fmt: skip
    async def order(order_id: PathName) -> dict[str, Any]:
        return await desk.order(order_id)

    @router.post(
        "/v1/orders/{order_id}/cancel", tags=["control"], responses=errors(404, 409),
        summary="Ask the broker to cancel an order (audited)",
    )  # fmt: skip
    async def cancel(order_id: PathName, body: CancelBody) -> dict[str, Any]:
        await desk.note_call(body.who, "order_cancel", {"order": order_id, "reason": body.reason, "force": body.force})
        return await desk.cancel(order_id, body.reason, body.who, force=body.force)

    @router.post(
        "/v1/orders/{order_id}/modify", tags=["control"], responses=errors(404, 409),
        summary="Ask the broker to change a resting order; adds no risk (audited)",
    )  # fmt: skip
    async def modify(order_id: PathName, body: ModifyBody) -> dict[str, Any]:
        change = {"quantity": body.quantity, "limit_price": body.limit_price, "stop_price": body.stop_price}
        await desk.note_call(body.who, "order_modify", {"order": order_id, "reason": body.reason, **change})
        return await desk.modify(order_id, change, body.reason, body.who)

    @router.get("/v1/fills", tags=["trading"], summary="Fills, newest first")
    async def fills(which: Which, limit: Limit = 1000) -> dict[str, Any]:
        return {"fills": await desk.fills(**which, limit=limit)}


def _algos(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/algos", tags=["trading"], summary="Entries worked in slices, newest first, with their progress and slices")
    async def algos(
        which: Which,
        state: Annotated[Literal["running", "working", "ending", "ended"] | None, Query()] = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        return {"algos": await desk.algos(**which, state=state, limit=limit)}

    @router.get("/v1/algos/{algo_id}", tags=["trading"], summary="One entry worked in slices", responses=errors(404))
    async def algo(algo_id: PathName) -> dict[str, Any]:
        return await desk.algo(algo_id)

    @router.post(
        "/v1/algos/{algo_id}/cancel", tags=["control"], responses=errors(404, 409),
        summary="Send no more slices and take back what works; what is bought stays (audited)",
    )  # fmt: skip
    async def cancel_algo(algo_id: PathName, body: Asked) -> dict[str, Any]:
        await desk.note_call(body.who, "algo_cancel", {"algo": algo_id, "reason": body.reason})
        return await desk.cancel_algo(algo_id, body.reason, body.who)


def _positions(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/positions", tags=["trading"], summary="Open positions by strategy and symbol")
    async def positions() -> dict[str, Any]:
        return {"positions": await desk.positions()}

    @router.get("/v1/positions/performance", tags=["trading"], summary="What positions, strategies and the account earned")
    async def performance(session: QueryDay = None) -> dict[str, Any]:
        return await desk.performance(session)

    @router.post(
        "/v1/positions/{strategy}/{symbol}/close", tags=["control"], responses=errors(404, 409),
        summary="Close one position now: its resting orders are cancelled first (audited)",
    )  # fmt: skip
    async def close(strategy: PathName, symbol: PathName, body: Asked) -> dict[str, Any]:
        told = {"strategy": strategy, "symbol": symbol, "reason": body.reason}
        await desk.note_call(body.who, "position_close", told)
        return await desk.close_position(strategy, symbol, body.reason, body.who)

    @router.post(
        "/v1/positions/{strategy}/{symbol}/reduce", tags=["control"], responses=errors(404, 409),
        summary="Close a part of one position now; stop and target shrink with it first (audited)",
    )  # fmt: skip
    async def reduce(strategy: PathName, symbol: PathName, body: ReduceBody) -> dict[str, Any]:
        told = {"strategy": strategy, "symbol": symbol, **body.model_dump(exclude={"who"})}
        await desk.note_call(body.who, "position_reduce", told)
        return await desk.reduce_position(strategy, symbol, body.model_dump())

    @router.post(
        "/v1/positions/{strategy}/{symbol}/reverse", tags=["control"], responses=errors(404, 409),
        summary="Close one position, then enter the other side through the whole risk path (audited)",
    )  # fmt: skip
    async def reverse(strategy: PathName, symbol: PathName, body: ReverseBody) -> dict[str, Any]:
        told = {"strategy": strategy, "symbol": symbol, **body.model_dump(exclude={"who"})}
        await desk.note_call(body.who, "position_reverse", told)
        return await desk.reverse_position(strategy, symbol, body.model_dump())
