"""Entries worked in slices: what is committed, what is sent when, and how each ends.

A parent is committed with its whole schedule before anything is sent. At every look (bar close, tick of the desk's clock,
start) the schedule and the ledger alone say what is due: at most one slice, never more than the parent, whatever was missed or
killed before. A slice goes through the same submission protocol and the same rules as any entry.

A parent ends when it is filled, when its window is over, when its trade is being closed, on a halt, a command, a changed mode,
a corporate action, or when somebody cancels one of its slices. First it is committed that it ends, then what still works is
taken back, then it is marked ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from desk import algo_ledger, auto_trade, breakers, events, exit_orders, journal, risk_state, slices, store, submission
from desk.algo_ledger import Parent, Progress
from desk.faults import crash_point
from desk.legs import STOP, TARGET, kind_of
from desk.planning import ConfigView, EntryPlan, evaluable_of, quality_now, refused_before_risk
from desk.risk_inputs import MarketView
from desk.store import OrderRecord
from resources.brokers.protocol import Account, Broker
from resources.ledger import action_tables as a
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.algo_tables import ENDED, ENDING, WORKING
from resources.ledger.plans import has_ended
from resources.ledger.store import Ledger
from trading.calendars import calendar
from trading.execution.profile import volume_weights
from trading.execution.schedule import Schedule, Slice, make, next_slice, parent_id
from trading.execution.spec import Vwap, parse
from trading.execution.window import NoSchedule, window_of
from trading.ids import intent_id
from trading.instruments import Mode
from trading.orders import OrderState
from trading.refusals import Refusal, RefusalCode, refuse
from trading.signals import Decision, Signal

log = structlog.get_logger("desk.algos")

WINDOW_OVER, COMPLETE = "window over", "complete"


class ExecutionAlgos:
    """Works parents over `broker`. Arguments as of desk.router.Router, which owns it and whose lock it takes."""

    def __init__(
        self,
        engine: Engine,
        broker: Callable[[], Broker],
        config_provider: Callable[[], ConfigView],
        clock: Callable[[], int],
        mode_of: Callable[[str], Mode],
        market: MarketView | None,
        barred: Callable[[Mode, Account], Refusal | None],
    ) -> None:
        self._engine = engine
        self._broker_of = broker
        self._config_provider = config_provider
        self._clock = clock
        self._mode_of = mode_of
        self._market = market
        self._barred = barred
        self._ledger = Ledger(engine)
        self.hold: Callable[[], str] = lambda: ""
        """Why no slice is sent now, "" when they are."""

    @property
    def _broker(self) -> Broker:
        return self._broker_of()

    # -- a new parent --------------------------------------------------------------------------------------------------

    def weights_of(self, signal: Signal, config: ConfigView) -> tuple[float, ...] | NoSchedule | None:
        """The volume profile a VWAP needs, or why there is none; None for every other way of working an entry."""
        instrument = config.universe.instruments.get(signal.symbol)
        try:
            rule = parse(signal.execution) if signal.execution else None
        except ValueError:
            return None  # said by `plan`
        if not isinstance(rule, Vwap) or instrument is None:
            return None
        venue = calendar(instrument.calendar)
        try:
            start, end = window_of(venue, signal.close_time, rule.minutes, signal.valid_until)
            bars = self._market.past_bars(instrument, signal.timeframe, rule.sessions, start) if self._market else None
            if bars is None:
                raise NoSchedule("profile_missing", bars="unreadable")
            return volume_weights(bars, venue, start, end, rule.slices, rule.sessions)
        except NoSchedule as error:
            return error

    def plan(
        self, decision: Decision, plan: EntryPlan, config: ConfigView, weights: tuple[float, ...] | NoSchedule | None,
        mode: Mode, now: int,
    ) -> tuple[EntryPlan, Parent | None]:  # fmt: skip
        """The parent of an approved entry, or the plan with why it cannot be worked like that."""
        signal, entry = decision.signal, plan.orders[0].intent
        instrument = config.universe.instruments[signal.symbol]
        try:
            if isinstance(weights, NoSchedule):
                raise weights
            if signal.targets:
                raise NoSchedule("closed_in_parts", parts=len(signal.targets), set="one target, or no execution")
            rule = parse(signal.execution)
            name = parent_id(decision.id, rule.algo)
            schedule = make(
                rule, parent=name, quantity=entry.quantity, instrument=instrument, venue=calendar(instrument.calendar),
                close_time=signal.close_time, valid_until=signal.valid_until, reference=signal.reference_price,
                side=entry.side.sign, weights=weights,
            )  # fmt: skip
        except NoSchedule as error:
            refusal = str(refuse(RefusalCode.EXECUTION, reason=error.reason, **error.values))
            return replace(plan, orders=plan.orders[:1], refusal=refusal), None
        except ValueError as error:
            refusal = str(refuse(RefusalCode.CONFIG_INVALID, strategy=signal.strategy, execution=str(error).replace("\n", " ")))
            return replace(plan, orders=plan.orders[:1], refusal=refusal), None
        content = {
            "entry": entry.to_dict(), "signal": signal.to_dict(), "sizing": dict(plan.sizing),
            "risk": [dict(v) for v in plan.orders[0].verdicts],
        }  # fmt: skip
        return plan, Parent(
            name, decision.id, intent_id(decision.id, algo_ledger.ENTRY), entry.strategy, entry.symbol, plan.session,
            self._broker.name, mode.value, rule.algo, entry.side, schedule.quantity, schedule, content, WORKING, "", now,
        )  # fmt: skip

    # -- looking after the parents -------------------------------------------------------------------------------------

    def anything(self) -> bool:
        """Is there anything to look after: a parent at work, or an open trade of one? One read."""
        with self._engine.connect() as connection:
            return bool(algo_ledger.looked_after(connection))

    def work(self, only: str | None = None, *, new_risk: bool = True) -> list[str]:
        """Bring every parent (or one) as far as it can go now. Returns the ids of the slices sent; safe to repeat.

        new_risk False, `hold`, or auto-trade not running: nothing is sent, but what ends is taken back.

        One parent's trouble does not hold up the others. Raises SQLAlchemyError while the ledger is away.
        """
        sent: list[str] = []
        with store.routing_lock:
            new_risk = new_risk and not self.hold()
            with self._engine.connect() as connection:
                names = [p.id for p in algo_ledger.looked_after(connection) if only in (None, p.id)]
            for name in names:
                try:
                    sent += self._work(name, new_risk)
                except SQLAlchemyError:
                    raise
                except Exception as error:  # noqa: BLE001 what it has bought is protected; it is looked at again
                    log.error("algo_not_worked", parent=name, error=f"{type(error).__name__}: {error}")
        return sent

    def cancel(self, name: str, reason: str, who: str) -> Parent:
        """Send no more slices of a parent and take back what works; what it has bought stays. Audited.

        Raises KeyError for a parent the ledger does not have.
        """
        with store.routing_lock:
            with self._engine.begin() as connection:
                store.lock(connection)
                parent = algo_ledger.get(connection, name)
                if parent is None:
                    raise KeyError(f"no execution {name} in the ledger")
                if parent.state == WORKING:
                    audit.append(connection, who, "algo_cancel", {"parent": name, "reason": reason})
                    algo_ledger.end(connection, parent, f"cancelled by {who}: {reason}", who=who)
            self.work(name, new_risk=False)
            with self._engine.connect() as connection:
                found = algo_ledger.get(connection, name)
            assert found is not None
            return found

    def stop(self, reason: str, strategy: str | None, symbol: str | None) -> None:
        """Commit that the parents of a strategy, an instrument, or all send no more. The next `work` takes back what works."""
        with self._engine.begin() as connection:
            store.lock(connection)
            for parent in algo_ledger.running(connection, strategy, symbol):
                algo_ledger.end(connection, parent, reason)

    def _work(self, name: str, new_risk: bool) -> list[str]:
        now, config = self._clock(), self._config_provider()
        with self._engine.begin() as connection:
            store.lock(connection)
            parent = algo_ledger.get(connection, name)
            if parent is None:
                return []
            trade = store.find_orders(connection, t.intents.c.trade_id == parent.trade_id)
            made = algo_ledger.progress(connection, parent)
            self._close_overfilled(connection, parent, made, trade, now)
            if parent.state == ENDED:
                return []
            reason = self._why_end(connection, parent, made, trade, config, now)
            if reason == COMPLETE:
                algo_ledger.ended(connection, parent, COMPLETE, made, now)
                return []
            new_risk = new_risk and not auto_trade.refusal(connection)
            if reason and (parent.state == WORKING or reason != WINDOW_OVER):
                algo_ledger.end(connection, parent, reason)
        if reason or parent.state == ENDING:
            crash_point("algo_ending")
            # What was said first stands, but for what forbids the order for the rest.
            said = parent.state == ENDING and reason in ("", WINDOW_OVER)
            return self._finish(parent, parent.reason if said else reason, now, new_risk)
        if not new_risk:
            return []
        due = next_slice(
            parent.schedule, now=now, last_slot=made.last_slot, rest=made.rest_lots, working=made.working_lots,
            volume=self._volume(parent, config, now),
        )  # fmt: skip
        return self._send(parent, due, config, now) if due is not None else []

    def _why_end(
        self, connection: Connection, parent: Parent, made: Progress, trade: list[OrderRecord], config: ConfigView, now: int
    ) -> str:
        """Why no slice follows; "" while the parent goes on."""
        if made.filled >= parent.quantity * (1.0 - 1e-9):
            return COMPLETE if not made.working else ""
        closing = [o for o in trade if not algo_ledger.is_slice(o) and _closes(o)]
        if closing:
            return f"the trade is being closed: {closing[0].leg}"
        halt = risk_state.read_halt(connection)
        if halt.level_of(parent.strategy) or f"{breakers.INSTRUMENT}{parent.symbol}" in halt.strategies:
            return "halt"
        evaluable = evaluable_of(config, parent.strategy)
        if evaluable is None or evaluable.status != "active" or has_ended(connection, parent.strategy):
            return "its strategy or plan is not active any more"
        if self._mode_of(parent.strategy).value != parent.mode:
            return "its strategy's mode was changed"
        done = select(a.action_applications.c.action_id).where(
            a.action_applications.c.symbol == parent.symbol, a.action_applications.c.started_time >= parent.created_time
        )
        if connection.execute(done.limit(1)).first() is not None:
            return "a corporate action of its instrument"
        if parent.state == WORKING and (wrong := self._given_up(connection, parent, made)):
            return wrong
        return WINDOW_OVER if now >= parent.schedule.end_time else ""

    @staticmethod
    def _given_up(connection: Connection, parent: Parent, made: Progress) -> str:
        """A slice that somebody cancelled ends its parent; so does the part of an iceberg that did not come to be filled."""
        for order in made.orders:
            if order.state is OrderState.CANCELED:
                return f"slice {order.leg} was cancelled"
        if parent.algo != "iceberg":
            return ""
        if made.newest_refused:
            return "its next part was refused"
        newest = made.newest
        if newest is None or newest.state not in (OrderState.REJECTED, OrderState.EXPIRED):
            return ""
        return "" if algo_ledger.never_there(connection, newest.id) else f"its part {newest.leg} is {newest.state}"

    def _close_overfilled(
        self, connection: Connection, parent: Parent, made: Progress, trade: list[OrderRecord], now: int
    ) -> None:
        """More was filled than approved (an order that was proven never to be there, and came all the same): out of it."""
        if made.filled <= parent.quantity * (1.0 + 1e-9) or any(o.is_exit for o in trade):
            return
        held = store.trade_quantity(connection, parent.trade_id)
        root = next((o for o in trade if o.leg == algo_ledger.ENTRY), None)
        if root is not None and held != 0.0:
            log.error("algo_overfilled", parent=parent.id, filled=made.filled, quantity=parent.quantity)
            exit_orders.want_exit(connection, root, exit_orders.exit_leg("overfilled", now), held, now, "desk")

    def _finish(self, parent: Parent, reason: str, now: int, new_risk: bool) -> list[str]:
        """Take back what works; then the rest at the market if that was asked for; then the end."""
        self._take_back(parent, keep_rest=reason == WINDOW_OVER)
        with self._engine.connect() as connection:
            made = algo_ledger.progress(connection, parent)
        if made.working > 0.0:
            return []  # the broker has not said yet what became of it, or the order for the rest works
        crash_point("algo_cancelled")
        schedule = parent.schedule
        left = reason == WINDOW_OVER and schedule.rest == "market" and not made.swept and made.rest_lots > 0
        if left and now <= schedule.valid_until:
            if not new_risk:
                return []
            rest = Slice(algo_ledger.REST_SLOT, made.rest_lots)
            if sent := self._send(parent, rest, self._config_provider(), now, at_market=True):
                return sent
        with self._engine.begin() as connection:
            store.lock(connection)
            made = algo_ledger.progress(connection, parent)
            if made.working == 0.0:
                complete = made.filled >= parent.quantity * (1.0 - 1e-9)
                algo_ledger.ended(connection, parent, COMPLETE if complete else reason, made, now)
        exit_orders.continue_exits(self._engine, self._broker, self._clock)
        return []

    def _take_back(self, parent: Parent, *, keep_rest: bool) -> None:
        with self._engine.connect() as connection:
            made = algo_ledger.progress(connection, parent)
        at_work = [o for o in made.orders if o.working]
        if keep_rest and made.swept and made.newest is not None:
            at_work = [o for o in at_work if o.id != made.newest.id]
        if not at_work:
            return
        exit_orders.cancel_orders(self._engine, self._broker, self._clock, at_work, f"algo: {parent.algo} ends")
        if any(o.state is OrderState.UNKNOWN for o in at_work):
            submission.resolve_unknown(self._engine, self._broker, self._clock)
            events.drain(self._engine, self._broker, self._clock)

    # -- one slice -----------------------------------------------------------------------------------------------------

    def _send(self, parent: Parent, due: Slice, config: ConfigView, now: int, *, at_market: bool = False) -> list[str]:
        """Judge one slice, commit it with its legs, send it. [] when it was refused, which is noted."""
        instrument = config.universe.instruments.get(parent.symbol)
        evaluable = evaluable_of(config, parent.strategy)
        account, signal = self._broker.account(), parent.signal
        verdicts = self._ledger.verdicts(signal.partitions)
        mode = self._mode_of(parent.strategy)
        quality = quality_now(signal, verdicts, config.universe, now, store.wall_us())
        refusal = refused_before_risk(signal, instrument, evaluable, False, account.currency, now)
        with self._engine.begin() as connection:
            store.lock(connection)
            made = algo_ledger.progress(connection, parent)
            if due.lots > made.rest_lots:
                raise RuntimeError(f"a slice of {due.lots} lots where {made.rest_lots} are left")
            state = risk_state.build(
                connection, mode=mode, account=account, instruments=config.universe.instruments, strategy=parent.strategy,
                quality_ok=quality, now_time=now, limits=config.limits, symbol=parent.symbol, market=self._market,
                slice_of=parent.id,
            )  # fmt: skip
            own = _only_own(connection, parent)
            key = (parent.strategy, parent.symbol)
            state = replace(state, barred=self._barred(mode, account), slicing=frozenset({key}) if own else frozenset())
            if instrument is None:
                algo_ledger.add_slice(connection, parent, due.slot, due.lots * parent.schedule.lot, None, refusal, (), now)
                return []
            trade = store.find_orders(connection, t.intents.c.trade_id == parent.trade_id)
            wanted = slices.orders_of(
                parent, made, trade, due.lots, state.last_price.get(parent.symbol), instrument, at_market=at_market
            )
            judged = slices.judge(wanted, refusal, config.limits, state, instrument, parent.side.sign)
            entry, risk = judged.entry, judged.orders[0][1]
            told = {
                "parent": parent.id, "strategy": parent.strategy, "symbol": parent.symbol, "side": entry.side.value,
                "slot": due.slot, "quantity": entry.quantity,
            }  # fmt: skip
            if judged.refusal:
                algo_ledger.add_slice(connection, parent, due.slot, entry.quantity, None, judged.refusal, risk, now)
                audit.append(connection, "desk", "slice_denied", {**told, "refusal": judged.refusal})
                log.info("slice_denied", parent=parent.id, slot=due.slot, refusal=judged.refusal)
                return []
            if not journal.insert_intents(
                connection, [journal.NewOrder(i, parent.trade_id, v) for i, v in judged.orders], session=parent.session,
                broker=self._broker.name, mode=mode.value, state=OrderState.SENDING, now_time=now,
                sizing={"parent": parent.id, "slot": due.slot},
            ):  # fmt: skip
                raise RuntimeError(f"slice {entry.leg} of {parent.id} is in the ledger already")
            algo_ledger.add_slice(connection, parent, due.slot, entry.quantity, entry.id, "", risk, now)
            audit.append(connection, "desk", "slice_sending", {**told, "intents": [i.id for i, _ in judged.orders]})
        crash_point("slice_committed")
        submission.send(self._engine, self._broker, self._clock, [i.id for i, _ in judged.orders])
        crash_point("slice_sent")
        return [entry.id]

    def _volume(self, parent: Parent, config: ConfigView, now: int) -> float | None:
        """Volume of the newest closed bar of the signal's timeframe, where a cap on the participation asks for it."""
        instrument = config.universe.instruments.get(parent.symbol)
        if parent.schedule.participation <= 0.0 or instrument is None or self._market is None:
            return None
        return self._market.newest_volume(instrument, parent.signal.timeframe, now)


def _closes(order: OrderRecord) -> bool:
    """Does this order close the trade, or a part of it: an exit or anything beside stops and targets, or one of those that
    filled?"""
    if kind_of(order.leg) in (STOP, TARGET):
        return order.filled_quantity > 0.0
    return order.state is not OrderState.DENIED


def _only_own(connection: Connection, parent: Parent) -> bool:
    """Is everything the strategy holds or enters of the instrument this parent's own trade?"""
    held = store.find_positions(connection, parent.strategy, parent.symbol)
    mine = (
        (t.intents.c.strategy == parent.strategy)
        & (t.intents.c.trade_id != parent.trade_id)
        & (t.orders.c.symbol == parent.symbol)
    )
    others = [o for o in store.find_orders(connection, mine) if o.working and algo_ledger.is_slice(o)]
    parents = [p for p in algo_ledger.running(connection, parent.strategy, parent.symbol) if p.id != parent.id]
    return not others and not parents and all(p.trade_id == parent.trade_id for p in held)


__all__ = ["COMPLETE", "WINDOW_OVER", "ExecutionAlgos", "Schedule"]
