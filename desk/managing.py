"""The open trades of plans, looked after at bar closes: stops moved, parts closed, levels of an edited file brought to market.

A leg is replaced by putting the new one beside the old one, in the same one-cancels-other group at the broker, and only
then cancelling the old one: there is no moment without a stop, and no two of them can both close. A part is closed by a
market order in its stop's own group: when it fills, the broker takes the stop away with it. Ids come from the bar close, so
that a desk that was killed anywhere in between goes on where it was and sends nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select

from desk import algo_ledger, events, exit_orders, exits, journal, store, submission, trades
from desk.faults import crash_point
from desk.hot_bars import BarCache
from desk.legs import REDUCE, SCALE, STOP, TARGET, kind_of, named, part_of
from desk.store import OrderRecord, PositionRecord
from resources.brokers.protocol import Broker
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.base import reading
from trading.bars import Bars
from trading.execution_functions.level import FixedLevel
from trading.execution_functions.managing import Trade
from trading.instruments import Instrument
from trading.orders import OrderState, OrderType, TimeInForce
from trading.plan_management import Asked, ask, manages
from trading.signals import Intent
from trading.strategy import Evaluable
from trading.timeframes import Timeframe, iso

log = structlog.get_logger("desk.managing")

RESTS = (OrderState.SUBMITTED, OrderState.ACCEPTED)
_ENDED_EMPTY = (OrderState.REJECTED, OrderState.EXPIRED, OrderState.CANCELED, OrderState.DENIED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the open trade of a plan should look like at the broker. targets: price by part (0: the whole position)."""

    stop: float
    targets: Mapping[int, float]
    scale_outs: tuple[int, ...]
    leave: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One trade judged by its bars. wanted: None when there is nothing to do, or nothing that can be done: then trouble says
    why. close: of its newest bar. orders: of the trade, as they were then."""

    position: PositionRecord
    wanted: Wanted | None = None
    trouble: str = ""
    close: float = 0.0
    instrument: Instrument | None = None
    orders: Sequence[OrderRecord] = ()


@dataclass(frozen=True, slots=True)
class Looked:
    """One trade looked after. leave: why it ends now, "" when it stays. trouble: what could not be done, and why."""

    strategy: str
    symbol: str
    leave: str = ""
    trouble: str = ""
    sent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Step:
    """A new leg beside `old`, or, of the leg name ``scale``, the order that closes its part."""

    old: OrderRecord
    intent: Intent

    @property
    def closes(self) -> bool:
        return kind_of(self.intent.leg) == SCALE


class TradeManager:
    """Looks after the open trades of plans over `broker`. clock(): market time, UTC us."""

    def __init__(self, engine: Engine, broker: Broker, clock: Callable[[], int]) -> None:
        self._engine = engine
        self._broker = broker
        self._clock = clock

    def at_close(
        self,
        positions: Sequence[PositionRecord],
        evaluables: Mapping[str, Evaluable],
        instruments: Mapping[str, Instrument],
        cache: BarCache,
        closed: Mapping[str, Mapping[Timeframe, Bars]],
        close_time: int,
    ) -> list[Looked]:
        """`judge`, then `align`."""
        return self.align(self.judge(positions, evaluables, instruments, cache, closed, close_time), close_time)

    def judge(
        self,
        positions: Sequence[PositionRecord],
        evaluables: Mapping[str, Evaluable],
        instruments: Mapping[str, Instrument],
        cache: BarCache,
        closed: Mapping[str, Mapping[Timeframe, Bars]],
        close_time: int,
        orders: Mapping[str, Sequence[OrderRecord]] | None = None,
    ) -> list[Judged]:
        """Every trade of a plan whose primary timeframe has a new bar at `close_time`: what it should look like. One failure
        leaves the others theirs. orders: of the open trades, by trade; default: read from the ledger."""
        chosen: list[tuple[PositionRecord, Evaluable, Instrument]] = []
        for position in positions:
            plan, instrument = evaluables.get(position.strategy), instruments.get(position.symbol)
            if plan is None or instrument is None or getattr(plan, "kind", "") != "plan":
                continue
            new = closed.get(position.symbol, {}).get(plan.timeframe)
            if new is not None and len(new):
                chosen.append((position, plan, instrument))
        if not chosen:
            return []
        if orders is None:
            with reading(self._engine) as connection:
                orders = trades.orders_of(connection, {position.trade_id for position, _, _ in chosen})
        judged: list[Judged] = []
        for position, plan, instrument in chosen:
            try:
                judged.append(self._judge(position, plan, instrument, cache, close_time, orders[position.trade_id]))
            except Exception as error:  # noqa: BLE001 - its resting stop and target guard it, the other trades are looked after
                judged.append(Judged(position, trouble=_not_managed(error)))
        return judged

    def _judge(
        self, position: PositionRecord, plan: Any, instrument: Instrument, cache: BarCache, close_time: int,
        orders: Sequence[OrderRecord],
    ) -> Judged:  # fmt: skip
        entry = next((o for o in orders if o.leg == "entry"), None)
        if entry is None:
            return Judged(position, trouble=f"trade {position.trade_id} has no entry order")
        edited = plan.revision != entry.content["meta"].get("strategy_revision")
        if not manages(plan) and not edited and not any(":" in o.leg for o in orders if not o.is_exit):
            return Judged(position)
        leaving = [o for o in orders if o.is_exit or kind_of(o.leg) == REDUCE]
        if any(o.state is OrderState.INITIALIZED or (o.is_exit and o.working) for o in leaving):
            return Judged(position)
        bars = exits.windows(plan, instrument, cache, close_time)
        wanted, trouble = self._wanted(position, plan, instrument, algo_ledger.as_one(entry, orders), bars, edited)
        return Judged(position, wanted, trouble, float(bars[plan.timeframe].close[-1]), instrument, orders)

    def _wanted(
        self, position: PositionRecord, plan: Any, instrument: Instrument, entry: OrderRecord, bars: Mapping[Any, Bars],
        edited: bool,
    ) -> tuple[Wanted, str]:  # fmt: skip
        """What the plan's file and bars ask for, in today's price units, and what of an edit cannot be done."""
        meta, rules = entry.content["meta"], plan.rules
        side = 1 if position.quantity > 0 else -1
        # After a split the entry's own levels are of another unit; its average price was brought to today's.
        today = position.average_price / entry.average_price if entry.average_price else 1.0
        unit = 1.0
        if hasattr(plan, "in_one_unit"):
            bars, units = plan.in_one_unit(bars, instrument)
            unit = float(units[-1])
        first = float(meta["stop_price"]) * today
        parts = [(float(s), None if p is None else float(p) * today) for s, p in meta.get("targets", [])]
        scale_from = len(parts) - len(rules.scale_outs)
        levels = [p for _, p in parts[: max(0, scale_from)]] or [_of(meta.get("target_price"), today)]
        trade = Trade(
            side, position.average_price * unit, first * unit,
            position.opened_time if position.opened_time is not None else entry.created_time,
            tuple(float("nan") if p is None else p * unit for p in levels),
        )  # fmt: skip
        asked: Asked = ask(plan, bars, instrument, trade)
        stop, targets, trouble = asked.stop / unit, {}, ""
        if edited:
            resting = getattr(rules, "disaster_stop", None) or rules.stop
            if isinstance(resting, FixedLevel):
                file_stop = resting.price / unit
                if (file_stop - first) * side < -float(instrument.tick_size) / 2:
                    trouble = f"the edited stop {file_stop:g} is looser than the trade's {first:g}: not applied"
                elif (file_stop - stop) * side > 0:
                    stop = file_stop
            same = len(rules.targets) + len(rules.scale_outs) == len(parts) or not parts
            if not same:
                trouble = "the edit changes the parts of an open trade: its targets and scale-outs stay as they are"
            elif isinstance(rules.target, FixedLevel):
                targets = {0: rules.target.price / unit} if not parts else {}
            else:
                targets = {i: p.at.price / unit for i, p in enumerate(rules.targets, 1) if isinstance(p.at, FixedLevel)}
        due = tuple(scale_from + i + 1 for i in asked.scale_outs) if 0 <= scale_from < len(parts) and not trouble else ()
        rounded = {part: instrument.round_price(price) for part, price in targets.items()}
        return Wanted(instrument.round_price(stop), rounded, due, asked.leave), trouble

    # -- orders --------------------------------------------------------------------------------------------------------

    def align(self, judged: Sequence[Judged], close_time: int) -> list[Looked]:
        """Bring the resting legs of the trades that stay to what is wanted. What there is to do for all of them is committed
        together and sent together."""
        sent: dict[str, list[str]] = {}
        failed: dict[str, str] = {}
        staying = [j for j in judged if j.wanted is not None and not j.wanted.leave]
        if staying:
            with store.routing_lock:
                try:
                    self._align(staying, close_time, sent, failed)
                except Exception as error:  # noqa: BLE001 - the resting stops and targets guard them; ids come from the close
                    log.error("plans_not_managed", close=iso(close_time), error=f"{type(error).__name__}: {error}")
                    failed |= {j.position.trade_id: _not_managed(error) for j in staying}
        done = [
            Looked(
                j.position.strategy, j.position.symbol, j.wanted.leave if j.wanted is not None else "",
                failed.get(j.position.trade_id, j.trouble), tuple(sent.get(j.position.trade_id, ())),
            )
            for j in judged
        ]  # fmt: skip
        for looked in done:
            if looked.trouble:
                log.error("plan_not_managed", plan=looked.strategy, close=iso(close_time), why=looked.trouble)
        return done

    def _align(self, staying: Sequence[Judged], close_time: int, sent: dict[str, list[str]], failed: dict[str, str]) -> None:
        """New legs beside the old ones, then the old ones away. sent, failed: by trade."""
        orders: Mapping[str, Sequence[OrderRecord]] = {j.position.trade_id: j.orders for j in staying}
        if stale := [old for own in orders.values() for old in replaced(own)]:
            exit_orders.cancel_orders(self._engine, self._broker, self._clock, stale, "replaced")
            with reading(self._engine) as connection:
                orders = trades.orders_of(connection, list(orders))
        due = [j for j in staying if self._tried(j, orders[j.position.trade_id], close_time, failed)]
        if not due:
            return
        now = self._clock()
        steps: list[_Step] = []
        with self._engine.begin() as connection:
            store.lock(connection)
            orders = trades.orders_of(connection, {j.position.trade_id for j in due})
            held = store.trade_quantities(connection, list(orders))
            for one in due:
                trade_id = one.position.trade_id
                if held[trade_id] != 0.0 and not any(o.is_exit and o.working for o in orders[trade_id]):
                    steps += self._tried(one, orders[trade_id], close_time, failed)
            steps = _commit(connection, steps, now)
        for chosen, committed, told in (
            ([x for x in steps if not x.closes], "move_committed", "move_sent"),
            ([x for x in steps if x.closes], "scale_committed", "scale_sent"),
        ):
            if chosen:
                crash_point(committed)
                # Each for itself: they are of different groups, and one refusal must not take the others along.
                submission.send_groups(self._engine, self._broker, self._clock, [[_as_order(step, now)] for step in chosen])
                crash_point(told)
        if steps:
            events.drain(self._engine, self._broker, self._clock)
            with reading(self._engine) as connection:
                orders = trades.orders_of(connection, {step.old.trade_id for step in steps})
            stale = [old for own in orders.values() for old in replaced(own)]
            exit_orders.cancel_orders(self._engine, self._broker, self._clock, stale, "replaced")
        for step in steps:
            sent.setdefault(step.old.trade_id, []).append(step.intent.id)

    @staticmethod
    def _tried(one: Judged, orders: Sequence[OrderRecord], close_time: int, failed: dict[str, str]) -> list[_Step]:
        try:
            return _steps(one, orders, close_time)
        except Exception as error:  # noqa: BLE001 - one trade's trouble does not hold up the others
            failed[one.position.trade_id] = _not_managed(error)
            return []


def _not_managed(error: Exception) -> str:
    return f"not managed ({type(error).__name__}: {error}): its resting stop and target guard it"


def _steps(one: Judged, orders: Sequence[OrderRecord], close_time: int) -> list[_Step]:
    """What is to be put beside the resting legs of a trade, and which of its parts are to be closed."""
    wanted, instrument, close = one.wanted, one.instrument, one.close
    if wanted is None or instrument is None:
        return []
    side, half = (1 if one.position.quantity > 0 else -1), float(instrument.tick_size) / 2
    scaled = {part_of(o.leg) for o in orders if kind_of(o.leg) == SCALE and o.state not in _ENDED_EMPTY}
    steps: list[_Step] = []
    for order in [o for o in orders if o.state in RESTS and o.filled_quantity == 0.0]:
        kind, part = kind_of(order.leg), part_of(order.leg)
        if kind not in (STOP, TARGET) or part in scaled or _twice(orders, order):
            continue
        if kind == STOP and part in wanted.scale_outs:
            steps.append(_Step(order, _closing(order, orders, close_time)))
        elif kind == STOP and order.stop_price is not None:
            better = (wanted.stop - order.stop_price) * side > half and (close - wanted.stop) * side > 0
            if better:
                steps.append(_Step(order, _moved(order, orders, close_time, stop_price=wanted.stop)))
        elif kind == TARGET and order.limit_price is not None:
            price = wanted.targets.get(part, wanted.targets.get(0))
            if price is not None and abs(price - order.limit_price) > half and part not in wanted.scale_outs:
                steps.append(_Step(order, _moved(order, orders, close_time, limit_price=price)))
    return [step for step in steps if step.intent.quantity > 0.0]


def _commit(connection: Connection, steps: Sequence[_Step], now: int) -> list[_Step]:
    """Write legs as SENDING, audited; those that are there already are left out. Gives what was written."""
    known = set(connection.execute(select(t.intents.c.id).where(t.intents.c.id.in_([s.intent.id for s in steps]))).scalars())
    fresh = [step for step in steps if step.intent.id not in known]
    alike: dict[tuple[str, str, str], list[journal.NewOrder]] = {}
    for step in fresh:
        old = step.old
        alike.setdefault((old.session, old.broker, old.mode), []).append(journal.NewOrder(step.intent, old.trade_id))
    for (session, broker, mode), group in alike.items():
        journal.insert_intents(
            connection, group, session=session, broker=broker, mode=mode, state=OrderState.SENDING, now_time=now
        )
    for action, chosen in (
        ("leg_moved", [s for s in fresh if not s.closes]), ("part_closing", [s for s in fresh if s.closes]),
    ):  # fmt: skip
        told = [
            {
                "intent": s.intent.id, "trade": s.old.trade_id, "strategy": s.old.strategy, "symbol": s.old.symbol,
                "leg": s.intent.leg, "replaces": s.old.id, "quantity": s.intent.quantity,
                "stop_price": [s.old.stop_price, s.intent.stop_price], "limit_price": [s.old.limit_price, s.intent.limit_price],
            }
            for s in chosen
        ]  # fmt: skip
        audit.append_all(connection, "desk", action, told)
    return fresh


def _as_order(step: _Step, now: int) -> OrderRecord:
    """The order of a step as it is committed: SENDING."""
    old, intent = step.old, step.intent
    return replace(
        old, id=intent.id, broker_order_id="", parent=intent.parent, leg=intent.leg, side=intent.side, quantity=intent.quantity,
        order_type=intent.order_type, limit_price=intent.limit_price, stop_price=intent.stop_price, state=OrderState.SENDING,
        filled_quantity=0.0, average_price=None, text="", refusal="", created_time=now, content=intent.to_dict(),
    )  # fmt: skip


def settle(engine: Engine, broker: Broker, clock: Callable[[], int], trade_id: str) -> None:
    """Cancel legs beside which a newer one of the same part rests for certain."""
    with engine.connect() as connection:
        orders = store.find_orders(connection, t.intents.c.trade_id == trade_id)
    exit_orders.cancel_orders(engine, broker, clock, replaced(orders), "replaced")


def replaced(orders: Sequence[OrderRecord]) -> list[OrderRecord]:
    """Working legs beside which a newer one of the same part rests for certain. orders: of one trade, oldest first."""
    return [o for o in orders if o.working and any(n.state in RESTS for n in newer(orders, o))]


def _of(price: Any, factor: float) -> float | None:
    return None if price is None else float(price) * factor


def newer(orders: Sequence[OrderRecord], order: OrderRecord) -> list[OrderRecord]:
    """Legs that replace `order`, directly or one after the other."""
    found: list[OrderRecord] = []
    replaced = {order.id}
    for other in orders:  # oldest first
        if other.content["meta"].get("replaces") in replaced and kind_of(other.leg) == kind_of(order.leg):
            replaced.add(other.id)
            found.append(other)
    return found


def _twice(orders: Sequence[OrderRecord], order: OrderRecord) -> bool:
    """Is a leg that replaces this one on its way, or may it be at the broker?"""
    return any(o.working for o in newer(orders, order))


def open_quantity(order: OrderRecord, orders: Collection[OrderRecord]) -> float:
    """What is open of the part that `order` belongs to: its first stop's quantity (of after the last split) less its fills."""
    own = [o for o in orders if part_of(o.leg) == part_of(order.leg) and kind_of(o.leg) in (STOP, TARGET, SCALE)]
    never = (OrderState.REJECTED, OrderState.DENIED)  # at no time at the broker: the one before it is still the beginning
    meta = [(o, o.content["meta"]) for o in own if kind_of(o.leg) == STOP and o.state not in never]
    roots = [o for o, m in meta if "replaces" not in m or "action" in m]
    if not roots:
        return 0.0
    root = roots[-1]
    return max(0.0, root.quantity - sum(o.filled_quantity for o in own if o.created_time >= root.created_time))


def _moved(
    order: OrderRecord, orders: Collection[OrderRecord], close_time: int, stop_price: float | None = None,
    limit_price: float | None = None,
) -> Intent:  # fmt: skip
    """The leg that takes the place of `order`."""
    before = store.intent_of(order.content)
    return replace(
        before, leg=f"{named(kind_of(order.leg), part_of(order.leg))}:{close_time}",
        quantity=open_quantity(order, orders), valid_until=None, meta={**before.meta, "replaces": order.id},
        stop_price=stop_price, limit_price=limit_price,
    )  # fmt: skip


def _closing(stop: OrderRecord, orders: Collection[OrderRecord], close_time: int) -> Intent:
    """The market order that closes the part `stop` guards."""
    before = store.intent_of(stop.content)
    return replace(
        before, leg=f"{named(SCALE, part_of(stop.leg))}:{close_time}", quantity=open_quantity(stop, orders),
        order_type=OrderType.MARKET, time_in_force=TimeInForce.GTC, stop_price=None, parent_intent="", valid_until=None,
        meta={**before.meta, "closes": stop.id},
    )  # fmt: skip
