"""Commands of people: halts, auto-trade, strategies and plans, mismatches, the replay. Every one is audited with who."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field

from desk.api_base import Asked, Asker, Body, Desk, PathName, Text, errors, whole

AutoTrade = Literal["start", "pause", "stop"]


class HaltBody(Asked):
    level: Literal["reduce_only", "halted", "flatten"] = Field(
        description="reduce_only: exits only; halted: nothing new; flatten: halted, and positions are closed"
    )
    scope: Text = Field("desk", description="desk, a strategy's or plan's name, or instrument:SYMBOL; another name is a 404")


class ResumeBody(Asked):
    scope: Text = "desk"


class FlattenBody(Asked):
    strategy: Text | None = Field(None, description="Only this strategy's positions")
    symbol: Text | None = Field(None, description="Only this instrument's positions")


class ModeBody(Asked):
    mode: Literal["backtest", "shadow", "alert", "paper", "live"]
    force: bool = Field(False, description="Skip steps of a promotion; the terms of live stand all the same")


class ReplayBody(Body):
    sessions: Annotated[Annotated[int, Field(ge=0, le=250)] | None, BeforeValidator(whole)] = Field(
        None, description="How many last sessions; default: the setting"
    )


def router(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["control"], responses=errors())
    _halts(router, desk)
    _auto_trade(router, desk)
    for kind in ("strategies", "plans"):
        _evaluables(router, desk, kind)
    _modes(router, desk)
    _mismatches(router, desk)
    _replay(router, desk)
    return router


def _halts(router: APIRouter, desk: Desk) -> None:
    @router.post("/v1/halt", summary="Stop new risk (audited)", responses=errors(404, 409))
    async def halt(body: HaltBody) -> dict[str, Any]:
        await desk.note_call(body.who, "halt", body.model_dump(exclude={"who"}))
        return await desk.halt(body.level, body.scope, body.reason, body.who)

    @router.post("/v1/resume", summary="Allow new risk again (audited)", responses=errors(409))
    async def resume(body: ResumeBody) -> dict[str, Any]:
        await desk.note_call(body.who, "resume", body.model_dump(exclude={"who"}))
        return await desk.resume(body.scope, body.reason, body.who)

    @router.post("/v1/flatten", summary="Cancel entries and close positions (audited)", responses=errors(404, 409))
    async def flatten(body: FlattenBody) -> dict[str, Any]:
        await desk.note_call(body.who, "flatten", body.model_dump(exclude={"who"}))
        return await desk.flatten(body.reason, body.who, body.strategy, body.symbol)


def _auto_trade(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/auto-trade", summary="Does the desk take decisions by itself: running, paused or stopped; who, why")
    async def auto_trade() -> dict[str, Any]:
        return await desk.auto_trade()

    def command(word: AutoTrade, state: str, summary: str) -> None:
        @router.post(f"/v1/auto-trade/{word}", summary=summary, responses=errors(409), operation_id=f"auto_trade_{word}")
        async def change(body: Asked) -> dict[str, Any]:
            await desk.note_call(body.who, f"auto_trade_{word}", {"reason": body.reason})
            return await desk.set_auto_trade(state, body.reason, body.who)

    command("start", "running", "Take decisions again (audited); halts stay as they are")
    command("pause", "paused", "Take no new decision; what works goes on (audited)")
    command("stop", "stopped", "Take no new decision and cancel working entries; exits go on (audited)")


def _evaluables(router: APIRouter, desk: Desk, kind: str) -> None:
    one = {"strategies": "strategy", "plans": "plan"}[kind]

    @router.get(f"/v1/{kind}", summary=f"Every {one}: file, status, mode, halt, positions, problems", operation_id=f"list_{kind}")
    async def listed() -> dict[str, Any]:
        return {kind: await desk.evaluables(kind)}

    def command(word: str, action: Any, summary: str) -> None:
        name_of_call = f"{one}_{word.replace('-', '_')}"

        @router.post(
            f"/v1/{kind}/{{name}}/{word}", summary=summary, responses=errors(404, 409), operation_id=name_of_call
        )  # fmt: skip
        async def change(name: PathName, body: Asked) -> dict[str, Any]:
            await desk.note_call(body.who, name_of_call, {one: name, "reason": body.reason})
            return dict(await action(kind, name, body.reason, body.who))

    command("activate", desk.activate, f"Let the {one} enter again: its halt is lifted (audited)")
    command("deactivate", desk.deactivate, f"The {one} enters no more: halted, working entries cancelled, exits go on (audited)")
    command("emergency-stop", desk.emergency_stop, f"Halt the {one} and close its positions now (audited)")
    if kind == "plans":

        async def cancel(_kind: str, name: str, reason: str, who: str) -> dict[str, Any]:
            return await desk.cancel_plan(name, reason, who)

        command("cancel", cancel, "An armed plan enters no more, for good (audited)")


def _modes(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/modes", summary="The mode of every strategy and plan, since when, who set it and why, what its file states")
    async def modes() -> dict[str, Any]:
        return {"modes": await desk.modes()}

    @router.post(
        "/v1/modes/{name}", responses=errors(404, 409),
        summary="Set the mode of a strategy or plan (audited): up one step at a time, down always; live needs all its terms",
    )  # fmt: skip
    async def set_mode(name: PathName, body: ModeBody) -> dict[str, Any]:
        await desk.note_call(body.who, "mode_set", {"strategy": name, **body.model_dump(exclude={"who"})})
        return await desk.set_mode(name, body.mode, body.reason, body.who, force=body.force)


def _mismatches(router: APIRouter, desk: Desk) -> None:
    @router.post("/v1/reconcile", summary="Compare ledger and broker now (audited)", responses=errors(409))
    async def reconcile(who: Asker = "api") -> dict[str, Any]:
        await desk.note_call(who, "reconcile", {})
        return await desk.reconcile()

    @router.post(
        "/v1/mismatches/{symbol}/clear", responses=errors(404, 409),
        summary="A person has looked at a difference between ledger and broker (audited); it comes back if it still stands",
    )  # fmt: skip
    async def clear_mismatch(symbol: PathName, body: Asked) -> dict[str, Any]:
        await desk.note_call(body.who, "mismatch_clear", {"symbol": symbol, "reason": body.reason})
        return await desk.clear_mismatch(symbol, body.reason, body.who)


def _replay(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/replay", summary="Where the live day on recorded bars stands")
    async def replay() -> dict[str, Any]:
        return await desk.replay()

    @router.post(
        "/v1/replay/start", summary="Start it (audited); a running or finished one is left as it is", responses=errors(409)
    )
    async def start_replay(body: ReplayBody, who: Asker = "api") -> dict[str, Any]:
        await desk.note_call(who, "replay_start", {"sessions": body.sessions})
        return await desk.start_replay(body.sessions)
