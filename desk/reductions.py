"""A part of a trade is closed by a person's command: the protective legs shrink first, then a market order closes the part.

The wish is committed (an INITIALIZED order ``reduce:<request>``) before anything is touched. Then each part's stop and target
get smaller ones beside them, in the same one-cancels-other group, and the old ones are cancelled: what is to stay open is
never without a stop, and never more can be closed than is open. Last the part itself is sold, with what is open by then beyond
what the stops guard. Ids come from the request, so a desk that was killed anywhere goes on where it was, and a command that
is repeated reduces once. A refused reduction is asked for again, like an exit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection, Engine, select

from desk import events, exit_orders, guards, journal, store, submission
from desk.action_steps import shares
from desk.faults import crash_point
from desk.journal import NewEvent, NewOrder
from desk.legs import REDUCE, SCALE, STOP, TARGET, kind_of, named, part_of
from desk.managing import RESTS, newer, settle
from desk.store import OrderRecord, PositionRecord
from resources.brokers.protocol import Broker
from resources.ledger import action_tables, audit
from resources.ledger import tables as t
from trading.instruments import Instrument
from trading.orders import OrderEvent, OrderState, OrderType, Side
from trading.signals import Intent
from trading.sizing import floor_to_lot

log = structlog.get_logger("desk.reductions")

MAX_ATTEMPTS = 5
_ENDED = (OrderState.REJECTED, OrderState.EXPIRED, OrderState.CANCELED)
_TINY = 1e-9
WHOLE_KEY = "reductions_whole"
"""desk_state: ``strategy/symbol/request`` -> the trade that a reduction by all or more closed, of the newest requests."""
_KEPT = 500


class NotReduced(ValueError):
    """Nothing was done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for: `quantity` units or `share` (0..1) of what is open now. request: names the command, for ever."""

    strategy: str
    symbol: str
    request: str
    reason: str
    who: str
    quantity: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Books:
    """What the steps work on."""

    engine: Engine
    broker: Broker
    clock: Callable[[], int]


def units(wish: Wish, held: float, lot: float) -> float:
    """Whole lots to close of `held` (signed). All of it or more gives abs(held). Raises NotReduced below one lot."""
    wanted = wish.quantity if wish.quantity is not None else abs(held) * float(wish.share or 0.0)
    if wanted >= abs(held) * (1.0 - _TINY):
        return abs(held)
    lots = float(floor_to_lot(wanted, lot))
    if lots <= 0.0:
        raise NotReduced(f"{wanted:g} of {abs(held):g} {wish.symbol} is less than one lot of {lot:g}")
    return lots


def want(connection: Connection, wish: Wish, position: PositionRecord, quantity: float, now_time: int) -> str:
    """Commit the wish; the id of its order. Repeating the request gives the same one. The caller holds the write lock.

    Raises NotReduced while the trade is being closed or reduced already, or is not one the desk opened.
    """
    leg = f"{REDUCE}:{wish.request}"
    if (same := ordered(connection, wish)) is not None:
        return same.id
    orders = store.find_orders(connection, t.intents.c.trade_id == position.trade_id)
    root = next((o for o in orders if o.id == position.trade_id), None)
    if root is None:
        raise NotReduced(f"{wish.strategy} {wish.symbol}: trade {position.trade_id!r} has no entry order here")
    busy = next((o for o in orders if (o.is_exit or kind_of(o.leg) == REDUCE) and guards.may_fill(o)), None)
    if busy is not None:
        raise NotReduced(f"{wish.strategy} {wish.symbol}: {busy.leg.split(':')[0]} {busy.id} is under way ({busy.state})")
    intent = _order(root, leg, quantity, position.quantity, {"who": wish.who, "reason": wish.reason, "wanted_time": now_time})
    session = events.session_at(str(intent.meta["calendar"]), now_time)
    journal.insert_intents(
        connection, [NewOrder(intent, root.trade_id)], session=session, broker=root.broker, mode=root.mode,
        state=OrderState.INITIALIZED, now_time=now_time,
    )  # fmt: skip
    content = {
        "intent": intent.id, "trade": root.trade_id, "strategy": root.strategy, "symbol": root.symbol, "reason": wish.reason,
        "quantity": quantity, "held": position.quantity, "request": wish.request,
    }  # fmt: skip
    audit.append(connection, wish.who, "reduce_wanted", content)
    return intent.id


class Named(Protocol):
    """What names a request: as a Wish or a command does."""

    @property
    def strategy(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def request(self) -> str: ...


def ordered(connection: Connection, wish: Named) -> OrderRecord | None:
    """The order of a request that was made before."""
    i = t.intents.c
    found = store.find_orders(
        connection, i.leg == f"{REDUCE}:{wish.request}", i.strategy == wish.strategy, i.symbol == wish.symbol
    )
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Whole:
    """A trade that a request closed altogether. quantity: units."""

    trade_id: str
    quantity: float


def note_whole(connection: Connection, wish: Wish, position: PositionRecord, now_time: int) -> None:
    """Keep that a request closes all of a trade: repeating it closes no later one. The caller holds the write lock."""
    known = store.get_state(connection, WHOLE_KEY)
    told = {"trade": position.trade_id, "quantity": abs(position.quantity), "time": now_time}
    newest = sorted({**known, _name(wish): told}.items(), key=lambda item: item[1]["time"])[-_KEPT:]
    store.put_state(connection, WHOLE_KEY, dict(newest))
    content = {"strategy": wish.strategy, "symbol": wish.symbol, "request": wish.request, "reason": wish.reason, **told}
    audit.append(connection, wish.who, "reduce_wanted", content)


def closed_whole(connection: Connection, wish: Named) -> Whole | None:
    """What a request closed that asked for all or more; None when it did not, or was never made."""
    told = store.get_state(connection, WHOLE_KEY).get(_name(wish))
    return Whole(str(told["trade"]), float(told["quantity"])) if told is not None else None


def _name(wish: Named) -> str:
    return f"{wish.strategy}/{wish.symbol}/{wish.request}"


def _order(root: OrderRecord, leg: str, quantity: float, held: float, more: dict[str, Any]) -> Intent:
    stated = root.content["meta"]
    meta = {k: stated.get(k) for k in ("multiplier", "currency", "calendar")}
    algo = stated.get("algo")  # several orders entered this trade: it is told apart by itself
    if algo:
        more = {**more, "algo": algo}
    # Below its entry, so that a broker that counts by trade knows whose it is; in no group: it takes no leg with it.
    return Intent(
        root.trade_id, leg, root.strategy, root.symbol, Side.SELL if held > 0 else Side.BUY, quantity, OrderType.MARKET,
        parent_intent=root.id if root.leg == "entry" and not algo else "", reduce_only=True, meta={**meta, **more},
    )  # fmt: skip


def continue_reductions(books: Books, instruments: Callable[[str], Instrument | None]) -> list[str]:
    """Bring every reduction that is wanted as far as it can go now. Ids of the orders sent. Call it after each drain and at
    start; one that cannot go on does not hold up the others."""
    sent: list[str] = []
    with store.routing_lock:
        with books.engine.connect() as connection:
            legs = t.intents.c.leg.startswith(f"{REDUCE}:", autoescape=True)
            wanted = store.find_orders(connection, store.in_states(OrderState.INITIALIZED), legs)
        for order in wanted:
            if _advance(books, order, instruments(order.symbol)):
                sent.append(order.id)
    return sent


def _advance(books: Books, order: OrderRecord, instrument: Instrument | None) -> bool:
    orders, held = _trade(books, order)
    if why := _pointless(books, order, orders, held):
        _deny(books, order, why)
        return False
    entry = [o for o in orders if o.working and not o.content.get("reduce_only")]
    if entry:  # what is being sold is not bought at the same time
        exit_orders.cancel_orders(books.engine, books.broker, books.clock, entry, order.leg)
    for _ in range(MAX_ATTEMPTS):
        settle(books.engine, books.broker, books.clock, order.trade_id)
        orders, held = _trade(books, order)
        if waits := _waits_for(orders):
            submission.resolve_unknown(books.engine, books.broker, books.clock)
            orders, held = _trade(books, order)
            waits = _waits_for(orders)
        if waits:
            log.warning("reduce_waits", reduce=order.id, trade=order.trade_id, reason=waits)
            return False
        guarded = _guarded(orders)
        if sum(guarded.values()) <= max(0.0, abs(held) - order.quantity) * (1.0 + _TINY):
            return _send(books, order)
        if instrument is None or not _shrink(books, order, orders, guarded, abs(held) - order.quantity, instrument):
            break
    _deny(books, order, "the protective orders could not be made smaller")
    return False


def _trade(books: Books, order: OrderRecord) -> tuple[list[OrderRecord], float]:
    with books.engine.connect() as connection:
        orders = store.find_orders(connection, t.intents.c.trade_id == order.trade_id)
        return orders, store.trade_quantity(connection, order.trade_id)


def _pointless(books: Books, order: OrderRecord, orders: Sequence[OrderRecord], held: float) -> str:
    """Why there is nothing to reduce any more, "" when there is."""
    if held == 0.0 or (held > 0) is (order.side is Side.BUY):
        return "the trade is closed already"
    if any(o.is_exit and guards.may_fill(o) for o in orders):
        return "the whole trade is being closed"
    p = action_tables.position_adjustments.c
    later = select(p.action_id).where(p.trade_id == order.trade_id, p.adjusted_time >= order.created_time).limit(1)
    with books.engine.connect() as connection:
        if connection.execute(later).first() is not None:
            return "a corporate action changed what a unit is: ask again"
    return ""


def _waits_for(orders: Sequence[OrderRecord]) -> str:
    """Which order must be clear before the legs can be touched, "" when none."""
    for order in orders:
        if not order.working:
            continue
        kind, rests = kind_of(order.leg), order.state in RESTS
        enters = not order.content.get("reduce_only")
        if enters or kind == SCALE or (kind == STOP and not rests) or (kind == TARGET and _doubtful(order)):
            return f"{order.leg} {order.id} is {order.state}"
        if kind in (STOP, TARGET) and newer(orders, order) and any(n.working for n in newer(orders, order)):
            return f"{order.leg} {order.id} is being replaced"
    return ""


def _doubtful(order: OrderRecord) -> bool:
    return order.state not in (*RESTS, OrderState.PARTIALLY_FILLED)


def _guarded(orders: Sequence[OrderRecord]) -> dict[int, float]:
    """Units that each part's resting stop would close."""
    return {part_of(o.leg): o.quantity - o.filled_quantity for o in orders if kind_of(o.leg) == STOP and o.working}


def _shrink(
    books: Books, order: OrderRecord, orders: Sequence[OrderRecord], guarded: dict[int, float], stays: float,
    instrument: Instrument,
) -> bool:  # fmt: skip
    """Put smaller legs beside the old ones and take the old ones away; parts that end lose theirs. False when nothing new
    could be asked for."""
    total = sum((Fraction(q) for q in guarded.values()), Fraction(0))
    after = shares({str(k): q for k, q in guarded.items()}, Fraction(stays) / total, stays, Fraction(instrument.lot_size))
    now, group, dropped = books.clock(), [], []
    for leg in [o for o in orders if o.working and kind_of(o.leg) in (STOP, TARGET) and part_of(o.leg) in guarded]:
        part = part_of(leg.leg)
        quantity = after[str(part)]
        if quantity <= 0.0:
            dropped.append(leg)
        elif abs(quantity - guarded[part]) > _TINY * guarded[part]:
            group.append((leg, _smaller(leg, orders, order, quantity)))
    with books.engine.begin() as connection:
        store.lock(connection)
        new = [n.id for o, n in group if _commit(connection, order, o, n, now)]
    crash_point("reduce_legs_committed")
    for one in new:  # each for itself: they are of different groups, and one refusal must not take the others along
        submission.send(books.engine, books.broker, books.clock, [one])
    crash_point("reduce_legs_sent")
    if dropped:
        exit_orders.cancel_orders(books.engine, books.broker, books.clock, dropped, order.leg)
    events.drain(books.engine, books.broker, books.clock)
    return bool(new or dropped)


def _smaller(leg: OrderRecord, orders: Sequence[OrderRecord], order: OrderRecord, quantity: float) -> Intent:
    """The leg that takes the place of `leg`. Its quantity is a beginning of its own, as after a split (managing)."""
    before = store.intent_of(leg.content)
    name = f"{named(kind_of(leg.leg), part_of(leg.leg))}:{order.leg.partition(':')[2]}"
    tries = sum(o.leg.startswith(f"{name}:") for o in orders) + 1
    return replace(
        before, leg=f"{name}:{tries}", quantity=quantity, valid_until=None, stop_price=leg.stop_price,
        limit_price=leg.limit_price, meta={**before.meta, "replaces": leg.id, "action": order.id},
    )  # fmt: skip


def _commit(connection: Connection, order: OrderRecord, old: OrderRecord, intent: Intent, now: int) -> bool:
    if not journal.insert_intents(
        connection, [NewOrder(intent, old.trade_id)], session=old.session, broker=old.broker, mode=old.mode,
        state=OrderState.SENDING, now_time=now,
    ):  # fmt: skip
        return False
    content = {
        "intent": intent.id, "trade": old.trade_id, "strategy": old.strategy, "symbol": old.symbol, "leg": intent.leg,
        "replaces": old.id, "quantity": intent.quantity, "reduce": order.id,
    }  # fmt: skip
    audit.append(connection, "desk", "leg_moved", content)
    return True


def _send(books: Books, order: OrderRecord) -> bool:
    """Close what is open beyond what the stops guard, at most what was asked for."""
    crash_point("reduce_guards_fit")
    now = books.clock()
    with books.engine.begin() as connection:
        store.lock(connection)
        orders = store.find_orders(connection, t.intents.c.trade_id == order.trade_id)
        held = store.trade_quantity(connection, order.trade_id)
        quantity = min(order.quantity, abs(held) - sum(_guarded(orders).values()))
        if quantity <= _TINY * abs(held):
            key = f"desk/{order.id}/deny"
            journal.record_event(connection, NewEvent(order.id, OrderEvent.DENY, key, now, "what is open is guarded already"))
            return False
        submission.set_sent_quantity(connection, order.id, quantity)
        journal.record_event(connection, NewEvent(order.id, OrderEvent.SEND, f"desk/{order.id}/send", now))
        audit.append(connection, "desk", "reduce_sent", {"intent": order.id, "quantity": quantity, "stays": abs(held) - quantity})
    crash_point("intent_committed")
    submission.send(books.engine, books.broker, books.clock, [order.id])
    return True


def _deny(books: Books, order: OrderRecord, why: str) -> None:
    log.warning("not_reduced", reduce=order.id, trade=order.trade_id, why=why)
    with books.engine.begin() as connection:
        store.lock(connection)
        journal.record_event(connection, NewEvent(order.id, OrderEvent.DENY, f"desk/{order.id}/deny", books.clock(), why))
        content = {"intent": order.id, "strategy": order.strategy, "symbol": order.symbol, "why": why}
        audit.append(connection, "desk", "reduce_given_up", content)


def ask_again(books: Books) -> None:
    """Want what is left of reductions that ended without closing their part, while nothing else guards it. After MAX_ATTEMPTS
    it is left to the rule that closes whatever is not guarded (exit_orders)."""
    i, p = t.intents.c, t.positions.c
    reduced = select(p.trade_id).join(t.intents, i.trade_id == p.trade_id)
    reduced = reduced.where(p.quantity != 0.0, i.leg.startswith(f"{REDUCE}:", autoescape=True)).distinct()
    with books.engine.connect() as connection:
        trades = set(connection.execute(reduced).scalars())
    if not trades:
        return
    with books.engine.begin() as connection:
        store.lock(connection)
        for position in [p for p in store.find_positions(connection) if p.trade_id in trades]:
            orders = store.find_orders(connection, t.intents.c.trade_id == position.trade_id)
            tried = [o for o in orders if kind_of(o.leg) == REDUCE]
            if not tried or tried[-1].state not in _ENDED or guards.taken_away(connection, orders):
                continue
            held = store.trade_quantity(connection, position.trade_id)
            bare = guards.uncovered(orders, held)
            root = next((o for o in orders if o.id == position.trade_id), None)
            request, _, attempt = tried[-1].leg.partition(":")[2].partition("#")
            number = int(attempt or 1)
            if bare == 0.0 or root is None or any(o.working and o.state is OrderState.UNKNOWN for o in orders):
                continue
            if number >= MAX_ATTEMPTS:
                log.error("reduce_refused", trade=position.trade_id, symbol=position.symbol, attempts=number, bare=bare)
                continue
            log.warning("reduce_asked_again", trade=position.trade_id, symbol=position.symbol, attempt=number + 1)
            intent = _order(root, f"{REDUCE}:{request}#{number + 1}", bare, held, {"wanted_time": books.clock()})
            session = events.session_at(str(intent.meta["calendar"]), books.clock())
            journal.insert_intents(
                connection, [NewOrder(intent, root.trade_id)], session=session, broker=root.broker, mode=root.mode,
                state=OrderState.INITIALIZED, now_time=books.clock(),
            )  # fmt: skip
            content = {"intent": intent.id, "trade": root.trade_id, "strategy": root.strategy, "symbol": root.symbol}
            audit.append(connection, "desk", "reduce_wanted", {**content, "quantity": bare, "attempt": number + 1})
