"""The one way to the broker: decision -> size -> risk -> intent committed -> sent -> acknowledged; and exits and halts.

Everything here is serialised by one lock in the process and by a lock in the ledger across processes. Whatever fails
before the commit leaves nothing behind and may be tried again; whatever fails after it is cleared up by evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection, Engine, select

from desk import (
    algo_ledger,
    breakers,
    events,
    exit_orders,
    exit_routing,
    external,
    guards,
    journal,
    modify,
    risk_state,
    store,
    submission,
)
from desk.breaker_levels import Levels
from desk.by_hand import ByHand
from desk.execution_algos import ExecutionAlgos
from desk.exit_routing import RouteResult as RouteResult
from desk.faults import crash_point
from desk.planning import ConfigView, EntryPlan, evaluable_of, plan_entry
from desk.risk_inputs import MarketView
from desk.store import OrderRecord, PositionRecord
from desk.trades import OpenTrades
from resources.brokers.protocol import Account, Broker, Modification
from resources.lake import LakeError
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from resources.ledger.plans import has_ended
from resources.ledger.store import Ledger
from trading import risk
from trading.instruments import Instrument, Mode
from trading.orders import MAY_BE_AT_BROKER, OrderState
from trading.refusals import Refusal, RefusalCode, refuse
from trading.risk import RiskState
from trading.signals import Decision

log = structlog.get_logger("desk.router")


class GuardNeeded(Exception):
    """A cancel would leave a trade without its stop or exit."""


class Router:
    """Routes decisions and exits to `broker`.

    config_provider(): the configuration as it is now. clock(): market time, UTC us. mode_of(strategy): the mode it runs
    in. Methods raise what the ledger or the broker's account raise while these cannot be read: nothing was sent then,
    and asking again is right.
    """

    def __init__(
        self,
        engine: Engine,
        broker: Broker,
        config_provider: Callable[[], ConfigView],
        clock: Callable[[], int],
        mode_of: Callable[[str], Mode],
        market: MarketView | None = None,
        barred: Callable[[Mode, Account], Refusal | None] = lambda mode, account: None,
    ) -> None:
        """market: prices for the portfolio limits; without it those that need prices refuse. barred: see desk.modes.Modes."""
        self._engine = engine
        self._broker = broker
        self._config_provider = config_provider
        self._clock = clock
        self._mode_of = mode_of
        self._market = market
        self._barred = barred
        self._ledger = Ledger(engine)
        self.by_hand = ByHand(engine, lambda: self._broker, clock, self, self._instrument)
        """What a person does to a position beside closing it."""
        self.algos = ExecutionAlgos(engine, lambda: self._broker, config_provider, clock, mode_of, market, barred)
        """Works entries that are to be entered in slices."""
        self.breakers = breakers.Breakers()
        """Judge every price; rebuilt from the ledger at start and at each bar close."""
        self.levels = Levels(
            self.breakers, engine, lambda: config_provider().universe.instruments, market.actions if market is not None else None
        )
        """Keeps the breakers in the unit of the prices they judge, over splits."""
        self._remembered = market is None

    def _instrument(self, symbol: str) -> Instrument | None:
        return self._config_provider().universe.instruments.get(symbol)

    @property
    def clock(self) -> Callable[[], int]:
        """Market time, UTC us."""
        return self._clock

    @property
    def mode_of(self) -> Callable[[str], Mode]:
        """The mode a strategy or plan runs in."""
        return self._mode_of

    # -- entries ------------------------------------------------------------------------------------------------------

    def submit_decision(self, decision: Decision) -> RouteResult:
        """Route one decision. Idempotent: the first answer stands, asking again reads it from the ledger."""
        with store.routing_lock:
            with self._engine.connect() as connection:
                known = self._known(connection, decision.id)
                refusal = "" if known is not None else self._not_approved(connection, decision)
            if known is not None:
                return known
            if refusal:
                return RouteResult(decision.id, False, refusal, ())
            config, account, now = self._config_provider(), self._broker.account(), self._clock()
            mode = self._mode_of(decision.signal.strategy)
            verdicts = self._ledger.verdicts(decision.signal.partitions)
            weights = self.algos.weights_of(decision.signal, config)
            with self._engine.begin() as connection:
                store.lock(connection)
                if risk_state.latch_daily_loss(connection, config.limits, account, now):
                    log.error("daily_loss_latched", equity=account.equity)

                def state_of(quality: str) -> RiskState:
                    state = risk_state.build(
                        connection, mode=mode, account=account, instruments=config.universe.instruments,
                        strategy=decision.signal.strategy, quality_ok=quality, now_time=now, limits=config.limits,
                        symbol=decision.signal.symbol, market=self._market,
                    )  # fmt: skip
                    return replace(state, barred=self._barred(mode, account))

                plan = plan_entry(
                    decision, config=config, mode=mode, state_of=state_of, verdicts=verdicts,
                    entered_before=self._entered_before(connection, config, decision.signal.strategy), equity=account.equity,
                    currency=account.currency, now_time=now, now_wall=store.wall_us(),
                )  # fmt: skip
                parent = None
                if decision.signal.execution and not plan.refusal:
                    plan, parent = self.algos.plan(decision, plan, config, weights, mode, now)
                if parent is not None:
                    ours = algo_ledger.insert_parent(connection, parent)
                else:
                    ours = self._commit(connection, decision, plan, mode, now)
            intent_ids = tuple(p.intent.id for p in plan.orders)
            if not ours:  # another process was faster: its answer stands
                return self.submit_decision(decision)
            if parent is not None:
                crash_point("algo_committed")
                return RouteResult(decision.id, True, "", tuple(self.algos.work(parent.id)))
            if plan.refusal:
                log.info("denied", decision=decision.id, strategy=decision.signal.strategy, refusal=plan.refusal)
            else:
                crash_point("intent_committed")
                submission.send(self._engine, self._broker, self._clock, intent_ids)
            return RouteResult(decision.id, not plan.refusal, plan.refusal, intent_ids)

    @staticmethod
    def _known(connection: Connection, decision_id: str) -> RouteResult | None:
        i = t.intents.c
        query = select(i.id, i.refusal).where(i.parent == decision_id).order_by(i.leg != "entry", i.leg)
        rows = connection.execute(query).all()
        if not rows and algo_ledger.of_decision(connection, decision_id) is None:
            return None
        refusal = next((row.refusal for row in rows if row.refusal), "")
        return RouteResult(decision_id, not refusal, refusal, tuple(row.id for row in rows))

    @staticmethod
    def _not_approved(connection: Connection, decision: Decision) -> str:
        """The refusal of a decision that is not approved, by itself or by the ledger's record of it."""
        failed = next((v.refusal for v in decision.verdicts if not v.passed), "")
        if not decision.approved or failed or decision.refusal:
            return decision.refusal or failed or str(refuse(RefusalCode.CONFIG_INVALID, decision=decision.id, approved=False))
        d = t.decisions.c
        row = connection.execute(select(d.approved, d.refusal).where(d.id == decision.id)).one_or_none()
        if row is not None and not row.approved:
            return str(row.refusal) or str(refuse(RefusalCode.CONFIG_INVALID, decision=decision.id, approved=False))
        return ""

    @staticmethod
    def _entered_before(connection: Connection, config: ConfigView, strategy: str) -> bool:
        """Has any entry of the strategy filled, or may one still? A plan that was cancelled or ended counts as entered.

        Asked of what enters once: of all others the answer is not used, and False.
        """
        evaluable = evaluable_of(config, strategy)
        if evaluable is not None and not evaluable.once:
            return False
        if has_ended(connection, strategy) or algo_ledger.ever_worked(connection, strategy):
            return True
        own = (t.intents.c.strategy == strategy) & (t.intents.c.leg == "entry")
        maybe = t.orders.c.state.in_([s.value for s in MAY_BE_AT_BROKER]) | (t.orders.c.filled_quantity > 0)
        query = select(t.orders.c.id).join(t.intents, t.intents.c.id == t.orders.c.id).where(own & maybe).limit(1)
        return connection.execute(query).first() is not None

    def _commit(self, connection: Connection, decision: Decision, plan: EntryPlan, mode: Mode, now: int) -> bool:
        """Write the plan: SENDING, or DENIED with its refusal. False when the decision has orders already."""
        trade_id = plan.orders[0].intent.id
        if not journal.insert_intents(
            connection, [journal.NewOrder(p.intent, trade_id, p.verdicts) for p in plan.orders], session=plan.session,
            broker=self._broker.name, mode=mode.value, state=OrderState.DENIED if plan.refusal else OrderState.SENDING,
            now_time=now, sizing=plan.sizing, refusal=plan.refusal,
        ):  # fmt: skip
            return False
        entry = plan.orders[0].intent
        content = {
            "decision": decision.id, "strategy": entry.strategy, "symbol": entry.symbol, "side": entry.side.value,
            "quantity": entry.quantity, "intents": [p.intent.id for p in plan.orders],
        }  # fmt: skip
        if plan.refusal:
            content["refusal"] = plan.refusal
        audit.append(connection, "desk", "order_denied" if plan.refusal else "order_sending", content)
        return True

    # -- exits --------------------------------------------------------------------------------------------------------

    def exit_position(self, strategy: str, symbol: str, reason: str, close_time: int, who: str = "desk") -> RouteResult:
        """Close a strategy's position: its resting orders are cancelled, then a reduce-only market order is sent.

        Idempotent per (trade, reason, close_time), and an exit that is under way is never doubled. Never refused by risk
        or a halt. reason: a short name such as ``exit_long`` or ``max_bars``.
        """
        return self.exit_positions([(strategy, symbol, reason)], close_time, who)[0]

    def exit_positions(
        self, leaving: Sequence[tuple[str, str, str]], close_time: int, who: str = "desk", seen: OpenTrades | None = None
    ) -> list[RouteResult]:
        """`exit_position` of several (strategy, symbol, reason), committed together, cancelled together and sent together.
        seen: what was open when the caller read it."""
        if not leaving:
            return []
        return exit_routing.close_positions(self._engine, self._broker, self._clock, leaving, close_time, who, seen)

    def continue_exits(self) -> list[str]:
        """Finish exits that wait for their cancels, ask again for refused ones, close what a FLATTEN halt left open.

        Call it after each drain and at start. Returns the ids of the exits sent.
        """
        with store.routing_lock:
            with self._engine.connect() as connection:
                held = store.find_positions(connection)
                try:
                    halt = risk_state.read_halt(connection)
                except ValueError as error:  # it ends new risk, never an exit
                    log.error("halt_unreadable", error=str(error))
                    halt = risk_state.HaltState()
            flat = [(p.strategy, p.symbol, "flatten") for p in held if self._is_flattened(halt, p)]
            self.exit_positions(flat, self._clock())
            self.by_hand.before_exits()
            sent = exit_orders.continue_exits(self._engine, self._broker, self._clock)
            self.by_hand.go_on()
            return sent

    @staticmethod
    def _is_flattened(halt: risk_state.HaltState, position: PositionRecord) -> bool:
        """Does a FLATTEN halt stand over this position? One that was placed by hand is closed only when it is named."""
        flat = risk_state.HaltLevel.FLATTEN
        own = halt.strategies.get(position.strategy, {}).get("level")
        moved = halt.strategies.get(f"{breakers.INSTRUMENT}{position.symbol}", {}).get("level")
        if position.strategy == external.STRATEGY and own != flat.value:
            return False
        return halt.level_of(position.strategy) is flat or moved == flat.value

    def flatten(self, reason: str, who: str, strategy: str | None = None, symbol: str | None = None) -> list[RouteResult]:
        """Cancel working entries and close positions, of one strategy or symbol, or all. Audited; safe to repeat.

        Positions of orders placed by hand are closed only when `strategy` names them (``external``).
        """
        with store.routing_lock:
            with self._engine.begin() as connection:
                content = {"reason": reason, "strategy": strategy or "", "symbol": symbol or ""}
                audit.append(connection, who, "flatten", content)
            self._cancel_entries(f"flatten: {reason}", strategy, symbol)
            with self._engine.connect() as connection:
                held = store.find_positions(connection, strategy, symbol)
            named = strategy == external.STRATEGY
            by_hand = [p for p in held if p.strategy == external.STRATEGY and not named]
            results = []
            for position in by_hand:
                left = refuse(RefusalCode.MODE, strategy=position.strategy, symbol=position.symbol, reason="placed_by_hand")
                results.append(RouteResult(position.trade_id, False, str(left), ()))
            closing = [(p.strategy, p.symbol, "flatten") for p in held if p not in by_hand]
            for part in (closing[:1], closing[1:]):  # the first one's answer is heard before all the others are sent
                if part:
                    crash_point("during_flatten")
                    results += self.exit_positions(part, self._clock(), who)
            return results

    def cancel(self, order_id: str, reason: str = "by command", who: str = "desk", *, force: bool = False) -> OrderState:
        """Ask the broker to cancel one order; audited. Returns its state afterwards: it may have filled instead.

        What guards an open trade, or one that may still open, is cancelled with `force` only; the trade is then said to be
        unprotected, blocks new risk on its instrument and is left to whoever forced it. Raises KeyError for an order the
        ledger does not have, GuardNeeded for a guard without `force`.
        """
        with store.routing_lock:
            order = self._order(order_id)
            if order.working:
                with self._engine.begin() as connection:
                    store.lock(connection)
                    bares = self._would_bare(connection, order)
                    if bares and not force:
                        raise GuardNeeded(
                            f"{order.leg} {order.id} guards the trade of {order.strategy} in {order.symbol}: close the position "
                            "instead, or force the cancel to leave it unprotected"
                        )
                    audit.append(connection, who, "cancel", {"order": order_id, "reason": reason, "left_unprotected": bares})
                exit_orders.cancel_orders(self._engine, self._broker, self._clock, [order], reason, taken=bares)
            return self._order(order_id).state

    @staticmethod
    def _would_bare(connection: Connection, order: OrderRecord) -> bool:
        if order.strategy == external.STRATEGY:  # placed by hand: a person guards it
            return False
        trade = store.find_orders(connection, t.intents.c.trade_id == order.trade_id)
        return guards.would_bare(trade, order, store.trade_quantity(connection, order.trade_id))

    def modify(self, order_id: str, change: Modification, reason: str, who: str = "desk") -> modify.ModifyResult:
        """Change prices or lower the quantity of a resting order; audited. Judged by the rules as a new order would be.

        The result's state tells what came of it: PENDING_UPDATE when the broker did not answer, which the next
        reconciliation ends. Raises KeyError for an order the ledger does not have.
        """
        with store.routing_lock:
            order = self._order(order_id)
            refusal = modify.problem_of(order, change) or self._refused(order, change)
            if not refusal:
                modify.modify(self._engine, self._broker, self._clock, order, change, reason, who)
            return modify.ModifyResult(order_id, self._order(order_id).state, refusal)

    def _refused(self, order: OrderRecord, change: Modification) -> str:
        """What the risk rules say to the changed order."""
        config, account, now = self._config_provider(), self._broker.account(), self._clock()
        instrument = config.universe.instruments.get(order.symbol)
        if instrument is None:
            return str(refuse(RefusalCode.NOT_TRADABLE, symbol=order.symbol, reason="unknown_instrument"))
        with self._engine.begin() as connection:
            state = risk_state.build(
                connection, mode=self._mode_of(order.strategy), account=account, instruments=config.universe.instruments,
                strategy=order.strategy, quality_ok="", now_time=now, limits=config.limits, symbol=order.symbol,
                market=self._market,
            )  # fmt: skip
        found = risk.refusal(risk.check(config.limits, state, modify.changed(order, change), instrument))
        last = state.last_price.get(order.symbol, math.nan)
        collar = config.limits.price_collar_percent if config.limits is not None else None
        return found or modify.level_problem(order, change, last, collar)

    def _order(self, order_id: str) -> OrderRecord:
        with self._engine.connect() as connection:
            order = store.find_order(connection, order_id)
        if order is None:
            raise KeyError(f"no order {order_id} in the ledger")
        return order

    def cancel_entries(self, reason: str) -> None:
        """Cancel every working entry that has not filled."""
        with store.routing_lock:
            self._cancel_entries(reason, None, None)

    def cancel_entries_of(self, strategy: str, reason: str) -> None:
        """Cancel the working entries of one strategy that have not filled."""
        with store.routing_lock:
            self._cancel_entries(reason, strategy, None)

    def _cancel_entries(self, reason: str, strategy: str | None, symbol: str | None) -> None:
        """Cancel entries that have not filled, and end those worked in slices. What filled is its trade's exit's business."""
        self.algos.stop(reason, strategy, symbol)
        with self._engine.connect() as connection:
            found = store.find_orders(connection, store.in_states(*MAY_BE_AT_BROKER), is_entry(t.intents.c.leg))
        chosen = [o for o in found if o.filled_quantity == 0.0 and strategy in (None, o.strategy) and symbol in (None, o.symbol)]
        exit_orders.cancel_orders(self._engine, self._broker, self._clock, chosen, reason)
        self.algos.work(new_risk=False)

    # -- halts --------------------------------------------------------------------------------------------------------

    def halt(self, level: risk_state.HaltLevel | str, scope: str, reason: str, who: str) -> risk_state.HaltState:
        """Halt the desk (scope ``desk``), a strategy or ``instrument:SYMBOL``: latched and audited first, then working
        entries are cancelled and, at FLATTEN, positions closed. Raises ValueError on an unknown level."""
        with store.routing_lock:
            with self._engine.begin() as connection:
                store.lock(connection)
                halt = risk_state.set_halt(connection, level, scope, reason, who, self._clock())
            self._stop(risk_state.HaltLevel(str(level).upper()), scope, reason, who)
            return halt

    def _stop(self, level: risk_state.HaltLevel, scope: str, reason: str, who: str) -> None:
        """Working entries end; at FLATTEN positions, too."""
        symbol = scope.removeprefix(breakers.INSTRUMENT) if scope.startswith(breakers.INSTRUMENT) else None
        strategy = None if scope == risk_state.DESK or symbol is not None else scope
        self._cancel_entries(f"halt: {reason}", strategy, symbol)
        if level is risk_state.HaltLevel.FLATTEN:
            self.flatten(reason, who, strategy, symbol)

    def resume(self, scope: str, reason: str, who: str) -> bool:
        """Lift a halt; audited. False when there was none."""
        with store.routing_lock, self._engine.begin() as connection:
            store.lock(connection)
            return risk_state.clear_halt(connection, scope, reason, who, self._clock())

    def check_daily_loss(self) -> bool:
        """Rebuild the breakers from ledger and account and judge them: for the desk after a close. True when one latched."""
        account: Account = self._broker.account()
        config, now = self._config_provider(), self._clock()
        with self._engine.connect() as connection:
            known = breakers.inputs(connection, config.universe.instruments, now)
        self.breakers.rebase(config.limits, account, known)
        self.levels.rebased(known)
        if not self._remembered:
            self._remember(config, now)
        trips: list[breakers.Trip | None] = [*self.breakers.equity_trips()]
        trips += [
            self.breakers.moved(symbol, price, at)
            for symbol, (at, price) in known.marked.items()
            if at == now and self.levels.judged(symbol, price, at)
        ]
        return any([self.trip(trip) for trip in dict.fromkeys(t for t in trips if t is not None)])

    def on_price(self, symbol: str, price: float, time_us: int) -> tuple[breakers.Trip, ...]:
        """What one price trips. Costs microseconds; `trip` is for the worker."""
        return self.breakers.on_price(symbol, price, time_us) if self.levels.judged(symbol, price, time_us) else ()

    def _remember(self, config: ConfigView, now: int) -> None:
        """What a desk that was not restarted would look back on: bar closes since the newest move that tripped. Prices between
        bars are not kept anywhere."""
        limit = config.limits.circuit_breaker if config.limits is not None else None
        if limit is None or self._market is None:
            return
        self._remembered = True
        with self._engine.connect() as connection:
            tripped = breakers.tripped_moves(connection)
        for symbol, instrument in config.universe.instruments.items():
            try:
                told = self._market.traded_prices(instrument, limit.minutes, now)
            except (LakeError, OSError) as error:
                log.warning("recent_bars_unreadable", symbol=symbol, error=str(error))
                continue
            self.levels.begin(symbol, [(at, price) for at, price in told if at > tripped.get(symbol, 0)])

    def trip(self, trip: breakers.Trip) -> bool:
        """Latch what tripped, once for its cause; entries end, at FLATTEN positions, too. True when it was latched now."""
        with store.routing_lock:
            with self._engine.begin() as connection:
                store.lock(connection)
                latched = breakers.latch(connection, trip, self.breakers.peak, self._clock())
            if latched:
                log.error("breaker_tripped", code=trip.code, level=trip.level.value, scope=trip.scope, reason=trip.reason)
                self._stop(trip.level, trip.scope, trip.reason, "desk")
        return latched

    def has_news(self) -> bool:
        """Has the broker said anything since it was heard last? True also when it cannot be asked."""
        return events.has_news(self._engine, self._broker)

    def hear(self) -> events.DrainResult:
        """What the broker said since: into the ledger, and nothing more. `continue_exits` follows, however soon."""
        return events.drain(self._engine, self._broker, self._clock)

    def drain(self) -> events.DrainResult:
        """`hear`, then whatever exits the news allow."""
        result = self.hear()
        self.continue_exits()
        return result
