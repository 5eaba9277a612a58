"""The control API's commands and reads beside the order path: auto-trade, strategies and plans, limits, audit, the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from desk import auto_trade, desk_reads, risk_state, store
from desk.api_base import Conflict, Unavailable, Unknown
from desk.by_hand import Asked as ByHandAsked
from desk.by_hand import NoPosition, Reduced
from desk.live import LiveDesk
from resources import plan_view
from resources.brokers.protocol import Modification
from resources.ledger import audit, audit_read
from resources.ledger import notifications as queue
from resources.ledger import plans as ledger_plans
from trading.instruments import Mode
from trading.modes import SENDS

if TYPE_CHECKING:
    from desk.app import DeskProcess

log = structlog.get_logger("desk.service")


class ControlService:
    """The part of desk.api_base.Desk that needs no order of its own. Mixed into desk.desk_service.DeskService."""

    _process: DeskProcess

    def _live_now(self) -> LiveDesk:
        raise NotImplementedError

    async def _change(self, function: Callable[..., Any], *arguments: Any) -> Any:
        raise NotImplementedError

    # -- audit, limits, queues -----------------------------------------------------------------------------------------

    async def note_call(self, who: str, call: str, content: Mapping[str, Any]) -> None:
        """A person's or program's call is in the audit before it is done, whatever then becomes of it."""
        live = self._live_now()

        def write() -> None:
            with live.ledger.transaction() as connection:
                audit.append(connection, f"api:{who}", "api_call", {"call": call, **content})

        try:
            await self._process.read(write)
        except Unavailable as error:
            raise Unavailable(f"not done: it cannot be audited, {error}") from error

    async def audit(self, **chosen: Any) -> dict[str, Any]:
        live = self._live_now()
        return {"records": await self._process.read(lambda: audit_read.read(live.ledger.engine, **chosen))}

    async def audit_head(self) -> dict[str, Any]:
        live = self._live_now()

        def read() -> dict[str, Any]:
            with live.ledger.engine.connect() as c:
                head = audit.head(c)
            return {"seq": head.seq, "hash": head.hash} if head is not None else {"seq": 0, "hash": audit.GENESIS}

        return dict(await self._process.read(read))

    async def notifications(self) -> dict[str, Any]:
        live = self._live_now()

        def read() -> dict[str, Any]:
            beat = live.ledger.get_state("notifier") or {}
            return {
                "notifier_wall": beat.get("wall"), **queue.lag(live.ledger.engine),
                "channels": queue.overview(live.ledger.engine),
            }  # fmt: skip

        return dict(await self._process.read(read))

    async def limits(self) -> dict[str, Any]:
        live = self._live_now()

        def read() -> dict[str, Any]:
            now = live.clock()
            with live.ledger.engine.connect() as c:
                session, start = risk_state.current_session(c, now)
                marks, prices = store.get_states(c, "strategy_pnl", "prices")
                at = {s: float(p) for s, (p, _) in prices.items()}
                by_strategy = risk_state.strategy_day_pnl(c, marks, session, at)
                halt = store.get_state(c, risk_state.HALT_KEY)
                auto = auto_trade.read(c)
            account = live.ledger.latest_account()
            return {
                "limits": live.config().limits.model_dump(mode="json"), "halt": halt, "auto_trade": auto, "session": session,
                "start_equity": start, "account": account,
                "day_pnl": account["equity"] - start if account is not None and start is not None else None,
                "strategy_day_pnl": by_strategy,
            }  # fmt: skip

        return dict(await self._process.read(read))

    # -- auto-trade ----------------------------------------------------------------------------------------------------

    async def auto_trade(self) -> dict[str, Any]:
        live = self._live_now()

        def read() -> dict[str, Any]:
            with live.ledger.engine.connect() as c:
                return {**auto_trade.read(c), "halt": store.get_state(c, risk_state.HALT_KEY), "no_new_risk": live.no_new_risk}

        return dict(await self._process.read(read))

    async def set_auto_trade(self, state: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()

        def change() -> dict[str, Any]:
            with store.routing_lock, live.ledger.transaction() as connection:
                store.lock(connection)
                value = auto_trade.put(connection, state, reason, who, live.clock())
            if state == auto_trade.STOPPED:
                live.router.cancel_entries(f"auto-trade stopped: {reason}")
            return value

        value = await self._change(change)
        log.warning("auto_trade", state=state, reason=reason, who=who)
        return {**value, "halt": await self._process.read(live.store.state, risk_state.HALT_KEY)}

    def auto_trade_refusal(self, live: LiveDesk, decision_id: str) -> str:
        """Why a decision the desk has not routed yet is not taken, "" when it may be; the refusal is audited."""
        with live.ledger.engine.connect() as connection:
            refusal = auto_trade.refusal(connection)
            if not refusal or desk_reads.has_orders(connection, decision_id):
                return ""
        with live.ledger.transaction() as connection:
            audit.append(connection, "desk", "decision_not_taken", {"decision": decision_id, "refusal": refusal})
        return refusal

    # -- strategies and plans ------------------------------------------------------------------------------------------

    async def evaluables(self, kind: str) -> list[dict[str, Any]]:
        live = self._live_now()

        def read() -> list[dict[str, Any]]:
            config = live.config()
            files = {f.name: f for f in config.files if f.name}
            chosen: Mapping[str, Any] = config.strategies if kind == "strategies" else config.plans
            with live.ledger.engine.connect() as c:
                halt = risk_state.read_halt(c)
                held = store.find_positions(c)
                states = ledger_plans.states(c) if kind == "plans" else {}
                trades = plan_view.under_way(states)
                opened, modes = plan_view.opened_in(c, trades.values()) if trades else {}, live.mode_book.known
            rows = []
            for name in sorted({*chosen, *trades}):  # one whose file is gone is shown until its trade is closed
                evaluable = chosen.get(name) or live.config.evaluables.get(name)
                status = chosen[name].status if name in chosen else "no file"
                level, state, file = halt.level_of(name), states.get(name), files.get(name)
                own = halt.strategies.get(name)
                row = {
                    "name": name, "status": status, "mode": str(live.mode_of(name)),
                    "own_mode": str(evaluable.mode) if evaluable is not None else "",
                    "symbols": list(evaluable.symbols) if evaluable is not None else [states[name].symbol],
                    "timeframe": str(evaluable.timeframe) if evaluable is not None else "",
                    "revision": evaluable.revision if evaluable is not None else states[name].revision,
                    "file": file.path if file else "", "halt": str(level) if level else "",
                    "own_halt": dict(own) if own else None,
                    "enters": status == "active" and level is None,
                    "positions": {p.symbol: p.quantity for p in held if p.strategy == name},
                }  # fmt: skip
                if kind == "plans":
                    half, why = live.settings.paper_half, ""
                    if name in modes:
                        why = plan_view.elsewhere(state, modes[name], opened.get(trades.get(name, "")), half)
                    row |= {
                        "state": state.state if state else "new", "since_time": state.since_time if state else None,
                        "reason": "; ".join(filter(None, (state.reason if state else "", why))),
                        "problem": state.problem if state else "",
                    }  # fmt: skip
                rows.append(row)
            return rows

        return list(await self._process.read(read))

    async def activate(self, kind: str, name: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        evaluable = self._evaluable(live, kind, name)
        if evaluable is None:
            raise Conflict(f"{name} is in no file that can be used now: see config_problems in the status")
        if evaluable.status != "active":
            raise Conflict(f"{name}: its file says status: {evaluable.status}; set it to active there")
        if kind == "plans":
            with live.ledger.engine.connect() as c:
                state = ledger_plans.states(c).get(name)
            if state is not None and state.state in ledger_plans.ENDED:
                raise Conflict(f"plan {name} is {state.state}: a plan enters once; write a new one")
        lifted = await self._change(live.router.resume, name, reason, who)
        log.warning("activated", name=name, reason=reason, who=who, was_halted=lifted)
        return {"name": name, "was_halted": lifted, "halt": await self._process.read(live.store.state, risk_state.HALT_KEY)}

    async def deactivate(self, kind: str, name: str, reason: str, who: str) -> dict[str, Any]:
        return await self._halt_one(kind, name, "HALTED", reason, who)

    async def emergency_stop(self, kind: str, name: str, reason: str, who: str) -> dict[str, Any]:
        return await self._halt_one(kind, name, "FLATTEN", reason, who)

    async def _halt_one(self, kind: str, name: str, level: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        self._evaluable(live, kind, name)
        halt = await self._change(live.router.halt, level, name, reason, who)
        log.warning("halted", level=level, scope=name, reason=reason, who=who)
        left = await self._process.read(live.store.open_positions, name)
        return {"name": name, "halt": halt.to_dict(), "open_positions": {p.symbol: p.quantity for p in left}}

    async def cancel_plan(self, name: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        if name not in live.config.evaluables and name not in live.config().plans:
            raise Unknown(f"no plan {name!r}")

        def cancel() -> ledger_plans.PlanState:
            return ledger_plans.cancel(live.ledger.engine, name, who=who, reason=reason, now_time=live.clock())

        try:
            state = await self._change(cancel)
        except ledger_plans.PlanNotCancelled as error:
            raise Conflict(str(error)) from error
        return {"name": name, "state": state.state}

    @staticmethod
    def _evaluable(live: LiveDesk, kind: str, name: str) -> Any:
        """The strategy or plan in force; None when only an older good file, or a position, is left of it. Raises Unknown."""
        config = live.config()
        chosen: Mapping[str, Any] = config.strategies if kind == "strategies" else config.plans
        if name in chosen:
            return chosen[name]
        other = config.plans if kind == "strategies" else config.strategies
        if name in other or (name not in live.config.evaluables and not live.store.open_positions(name)):
            known = ", ".join(sorted(chosen)[:20]) or "none"
            raise Unknown(f"no {'strategy' if kind == 'strategies' else 'plan'} {name!r}; there are: {known}")
        return None

    # -- modes ---------------------------------------------------------------------------------------------------------

    async def modes(self) -> list[dict[str, Any]]:
        live = self._live_now()

        def read() -> list[dict[str, Any]]:
            named = live.config().evaluables()
            return [
                {"name": name, "effective": str(live.mode_of(name)), "in_a_file": name in named, "wish": s.wish, **s.plain()}
                for name, s in live.mode_book.known.items()
            ]

        return list(await self._process.read(read))

    async def set_mode(self, name: str, mode: str, reason: str, who: str, *, force: bool) -> dict[str, Any]:
        live = self._live_now()

        def change() -> dict[str, Any]:
            live.config.refresh()
            with store.routing_lock:
                before, now, held = live.mode_book.change(name, Mode(mode), reason=reason, who=who, forced=force)
                if now not in SENDS:
                    live.router.cancel_entries_of(name, f"mode {now}: {reason}")
            return {
                "name": name,
                "before": str(before),
                "mode": str(now),
                "effective": str(live.mode_of(name)),
                "still_open": held,
            }

        try:
            return dict(await self._change(change))
        except KeyError:
            known = ", ".join(live.mode_book.known) or "none"
            raise Unknown(f"no strategy or plan {name!r}; there are: {known}") from None

    # -- orders and positions ------------------------------------------------------------------------------------------

    async def signals(self, **chosen: Any) -> list[dict[str, Any]]:
        live = self._live_now()
        return list(await self._process.read(lambda: desk_reads.signals(live.ledger.engine, **chosen)))

    async def decisions(self, **chosen: Any) -> list[dict[str, Any]]:
        live = self._live_now()
        return list(await self._process.read(lambda: desk_reads.decisions(live.ledger.engine, **chosen)))

    async def decision(self, decision_id: str) -> dict[str, Any]:
        live = self._live_now()
        return self._found(
            await self._process.read(desk_reads.decision, live.ledger.engine, decision_id), "decision", decision_id
        )

    async def orders(
        self, session: str | None, state: str | None, limit: int, strategy: str | None = None, symbol: str | None = None
    ) -> list[dict[str, Any]]:
        live = self._live_now()
        chosen = {"session": session, "state": state, "strategy": strategy, "symbol": symbol, "limit": limit}
        return list(await self._process.read(lambda: desk_reads.orders(live.ledger.engine, **chosen)))  # type: ignore[arg-type]

    async def order(self, order_id: str) -> dict[str, Any]:
        live = self._live_now()
        return self._found(await self._process.read(desk_reads.order, live.ledger.engine, order_id), "order", order_id)

    async def fills(self, **chosen: Any) -> list[dict[str, Any]]:
        live = self._live_now()
        return list(await self._process.read(lambda: desk_reads.fills(live.ledger.engine, **chosen)))

    async def performance(self, session: str | None) -> dict[str, Any]:
        live = self._live_now()
        return dict(await self._process.read(desk_reads.performance, live.ledger.engine, session))

    async def algos(self, **chosen: Any) -> list[dict[str, Any]]:
        live = self._live_now()
        return list(await self._process.read(lambda: desk_reads.algos(live.ledger.engine, **chosen)))

    async def algo(self, parent_id: str) -> dict[str, Any]:
        live = self._live_now()
        return self._found(await self._process.read(desk_reads.algo, live.ledger.engine, parent_id), "execution", parent_id)

    async def cancel_algo(self, parent_id: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        try:
            done = await self._change(live.router.algos.cancel, parent_id, reason, who)
        except KeyError:
            raise Unknown(f"no execution {parent_id} in the ledger") from None
        log.warning("algo_cancel", parent=parent_id, who=who, reason=reason, state=done.state)
        return {"id": parent_id, "state": done.state, "reason": done.reason}

    async def modify(self, order_id: str, change: Mapping[str, float | None], reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        try:
            done = await self._change(live.router.modify, order_id, Modification(**change), reason, who)
        except KeyError:
            raise Unknown(f"no order {order_id} in the ledger") from None
        log.warning("modify", order=order_id, who=who, reason=reason, state=str(done.state), refusal=done.refusal)
        return {"order_id": done.order_id, "state": str(done.state), "accepted": not done.refusal, "refusal": done.refusal}

    async def close_position(self, strategy: str, symbol: str, reason: str, who: str) -> dict[str, Any]:
        live = self._live_now()
        if not await self._process.read(live.store.open_positions, strategy, symbol):
            raise Unknown(f"{strategy} holds no {symbol}")
        done = await self._change(live.router.exit_position, strategy, symbol, "manual", live.clock(), who)
        log.warning("position_close", strategy=strategy, symbol=symbol, who=who, reason=reason)
        return {
            "trade_id": done.decision_id,
            "accepted": done.accepted,
            "refusal": done.refusal,
            "intents": list(done.intent_ids),
        }

    async def reduce_position(self, strategy: str, symbol: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        live, wish = self._live_now(), ByHandAsked(strategy, symbol, asked["request"], asked["reason"], asked["who"])

        def reduce() -> Reduced:
            return live.router.by_hand.reduce(wish, quantity=asked["quantity"], share=asked["share"])

        try:
            done = await self._change(reduce)
        except NoPosition as error:
            raise Unknown(str(error)) from None
        log.warning("position_reduce", strategy=strategy, symbol=symbol, who=wish.who, reason=wish.reason, units=done.quantity)
        return asdict(done)

    async def reverse_position(self, strategy: str, symbol: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        live, wish = self._live_now(), ByHandAsked(strategy, symbol, asked["request"], asked["reason"], asked["who"])

        def reverse() -> dict[str, Any]:
            how = {k: asked[k] for k in ("stop", "target", "quantity")}
            return live.router.by_hand.reverse(wish, **how)

        try:
            done = await self._change(reverse)
        except NoPosition as error:
            raise Unknown(str(error)) from None
        log.warning("position_reverse", strategy=strategy, symbol=symbol, who=wish.who, reason=wish.reason, state=done["state"])
        return dict(done)

    @staticmethod
    def _found(row: dict[str, Any] | None, what: str, name: str) -> dict[str, Any]:
        if row is None:
            raise Unknown(f"no {what} {name} in the ledger")
        return dict(row)

    # -- the stream ----------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return self._process.stop.is_set()

    async def head(self) -> int:
        """Number of the newest audit record."""
        return int((await self.audit_head())["seq"])

    async def events_after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        return list((await self.audit(after=seq, limit=limit))["records"])
