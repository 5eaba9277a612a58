"""What the control API does: each request goes to the live desk, on the worker when it may change something."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from desk import auto_trade, doubts, store
from desk.api import Conflict, Unavailable, Unknown
from desk.desk_control import ControlService
from desk.live import LiveDesk
from desk.router import GuardNeeded, RouteResult
from desk.scopes import scope_problem, strategy_problem, symbol_problem
from resources.ledger import tables as t
from resources.revision import code_revision
from trading.orders import MAY_BE_AT_BROKER
from trading.signals import Decision
from trading.timeframes import iso

if TYPE_CHECKING:
    from desk.app import DeskProcess

log = structlog.get_logger("desk.service")


class DeskService(ControlService):
    """Keeps desk.api.Desk for a DeskProcess."""

    def __init__(self, process: DeskProcess) -> None:
        self._process = process

    def health(self) -> dict[str, Any]:
        return {"status": self._process.state, "mode": self._mode}

    async def status(self) -> dict[str, Any]:
        process, live = self._process, self._process.live
        answer: dict[str, Any] = {
            "state": process.state,
            "mode": self._mode,
            "no_new_risk": process.reason if live is None else live.no_new_risk,
            "pid": os.getpid(),
            "started_wall": process.started_wall,
            "code_revision": await asyncio.to_thread(code_revision),
            "ledger": "ok" if live is not None else "not available",
        }
        return answer if live is None else {**answer, **await process.read(self._live_status, live)}

    async def submit_decision(self, decision: Decision) -> dict[str, Any]:
        live = self._live_now()

        def route() -> RouteResult:
            live.config.refresh()
            if live.no_new_risk:  # asked on the worker: what was before this in the queue has been done by now
                raise Unavailable(f"no new risk: {live.no_new_risk}")
            if refusal := self.auto_trade_refusal(live, decision.id):
                return RouteResult(decision.id, False, refusal, ())
            return live.router.submit_decision(decision)

        result = await self._change(route)
        return {
            "decision_id": decision.id,
            "accepted": result.accepted,
            "refusal": result.refusal,
            "intents": list(result.intent_ids),
        }

    async def close_done(self, close_time: int, run_id: str, outcome: str) -> dict[str, Any]:
        live = self._live_now()
        row = await self._change(live.engine.end_close, close_time, outcome, run_id)
        live.nudge()
        return {"close_time": close_time, "known": row is not None, "outcome": None if row is None else row["outcome"]}

    async def halt(self, level: str, scope: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        if problem := await self._process.read(scope_problem, live, scope):
            raise Unknown(f"nothing was halted: {problem}")
        halt = await self._change(live.router.halt, level, scope, reason, who)
        log.warning("halted", level=level, scope=scope, reason=reason, who=who)
        return {"halt": halt.to_dict()}

    async def resume(self, scope: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        lifted = await self._change(live.router.resume, scope, reason, who)
        log.warning("resumed", scope=scope, reason=reason, who=who, was_halted=lifted)
        return {"resumed": lifted, "halt": await self._process.read(live.store.state, "halt")}

    async def flatten(self, reason: str, who: str, strategy: str | None, symbol: str | None) -> dict[str, Any]:
        live = self._live_now()
        problem = "" if strategy is None else await self._process.read(strategy_problem, live, strategy)
        if problem := problem or ("" if symbol is None else await self._process.read(symbol_problem, live, symbol)):
            raise Unknown(f"nothing was closed: {problem}")
        log.warning("flatten", reason=reason, who=who, strategy=strategy, symbol=symbol)
        results = await self._change(live.router.flatten, reason, who, strategy, symbol)
        return {"exits": [{"trade_id": r.decision_id, "refusal": r.refusal, "intents": list(r.intent_ids)} for r in results]}

    async def cancel(self, order_id: str, reason: str, who: str, *, force: bool = False) -> dict[str, Any]:
        live = self._live_now()
        try:
            state = await self._change(partial(live.router.cancel, order_id, reason, who, force=force))
        except KeyError:
            raise Unknown(f"no order {order_id} in the ledger") from None
        except GuardNeeded as error:
            raise Conflict(str(error)) from error
        return {"order_id": order_id, "state": str(state)}

    async def reconcile(self) -> dict[str, Any]:
        live = self._live_now()
        await self._change(live.reconcile)
        return {"mismatches": await self._process.read(live.store.state, "mismatches")}

    async def clear_mismatch(self, symbol: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        cleared = await self._change(live.clear_mismatch, symbol, reason, who)
        stand = await self._process.read(live.store.state, "mismatches")
        if not cleared:
            named = f"; those that stand: {', '.join(sorted(stand))}" if stand else ""
            raise Unknown(f"no mismatch of {symbol}{named}")
        log.warning("mismatch_cleared", symbol=symbol, reason=reason, who=who, stands_again=symbol in stand)
        return {"cleared": symbol, "stands_again": symbol in stand, "mismatches": stand}

    async def positions(self) -> list[dict[str, Any]]:
        live = self._live_now()
        return list(await self._process.read(lambda: live.ledger.positions(open_only=True)))

    async def closes(self, after: int, wait_seconds: float, limit: int) -> list[dict[str, Any]]:
        live = self._live_now()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
            rows = await self._process.read(lambda: live.ledger.closes(after=after, limit=limit))
            left = deadline - loop.time()
            if rows or left <= 0 or self._process.stop.is_set() or self._process.live is not live:
                return list(rows)
            try:
                async with live.closed:
                    await asyncio.wait_for(live.closed.wait(), min(left, 1.0))
            except TimeoutError:
                continue

    async def replay(self) -> dict[str, Any]:
        live = self._live_now()
        state = await self._process.read(live.replay_state)
        return {"state": "none", "sessions": []} if state is None else state.to_dict()

    async def start_replay(self, sessions: int | None) -> dict[str, Any]:
        live = self._live_now()
        state = await self._change(live.start_replay, sessions)
        live.replay_wanted.set()
        return dict(state.to_dict())

    # -- within --------------------------------------------------------------------------------------------------------

    @property
    def _mode(self) -> str:
        return self._process.settings.mode.upper()

    def _live_now(self) -> LiveDesk:
        if self._process.stop.is_set():
            raise Unavailable("the desk is stopping")
        if self._process.live is None:
            raise Unavailable(self._process.reason)
        return self._process.live

    async def _change(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self._process.work(function, *arguments)
        except SQLAlchemyError as error:
            raise Unavailable(f"the ledger does not answer ({type(error).__name__}): nothing is known to be done") from error
        except ValueError as error:
            raise Conflict(str(error)) from error

    @staticmethod
    def _auto_trade_state(live: LiveDesk) -> str:
        with live.ledger.engine.connect() as connection:
            return str(auto_trade.read(connection)["state"])

    def _live_status(self, live: LiveDesk) -> dict[str, Any]:
        states = [s.value for s in MAY_BE_AT_BROKER]
        with live.ledger.engine.connect() as c:
            unsent = c.execute(
                select(func.count()).select_from(t.dagster_outbox).where(t.dagster_outbox.c.sent_wall.is_(None))
            ).scalar_one()
            working = c.execute(select(func.count()).select_from(t.orders).where(t.orders.c.state.in_(states))).scalar_one()
            in_doubt = [d.to_dict() for d in doubts.standing(c)]
            unknown = c.execute(select(func.count()).select_from(t.orders).where(t.orders.c.state == "unknown")).scalar_one()
        account, last, replay = live.ledger.latest_account(), live.ledger.latest_close(), live.replay_state()
        config = live.config()
        universe = config.universe
        return {
            "heartbeat_age_seconds": _age(live.store.state("heartbeat")),
            "market_time": live.clock(),
            "market_time_text": live.market_time_text,
            "halt": live.store.state("halt"),
            "auto_trade": self._auto_trade_state(live),
            "mismatches": live.store.state("mismatches"),
            "last_close": None if last is None else {**last, "close_time_text": iso(last["close_time"])},
            "open_positions": len(live.store.open_positions()),
            "working_orders": working,
            "unknown_orders": unknown,
            "in_doubt": in_doubt,
            "account": account,
            "replay": None if replay is None else replay.to_dict(),
            "live_feed": None if live.live_feed is None else live.live_feed.status(),
            "unmanaged_exits": dict(live.engine.unmanaged),
            "universe": {"name": universe.name, "revision": universe.revision, "simulated": universe.simulated},
            "strategies": {n: {"status": e.status, "mode": str(live.mode_of(n))} for n, e in sorted(config.evaluables().items())},
            "config_problems": [str(p) for p in config.problems],
            "dagster": {"unsent": unsent, "trouble": live.reporter.trouble},
        }


def _age(beat: Mapping[str, Any]) -> float | None:
    """Seconds since that heartbeat, None when there never was one."""
    return round((store.wall_us() - int(beat["wall"])) / 1e6, 1) if beat.get("wall") else None
