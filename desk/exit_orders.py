"""Exit orders: wanted first, sent only when the trade's resting orders are known to be gone.

A wish to exit is committed (an INITIALIZED exit order) before anything is cancelled, so a crash in between loses
nothing: ``continue_exits`` goes on where it stopped. A broker that puts orders in the place of others takes both in one step:
there the exit is committed as SENDING with the cancels. The exit joins the oco group of its trade, so that even a leg that
was not cancelled in time cannot close the trade a second time. A refused exit is asked for again under a new id:
entries may be lost, exits must not be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, bindparam, select

from desk import algo_ledger, events, guards, journal, store, submission, trades
from desk.faults import crash_point
from desk.journal import NewEvent, NewOrder
from desk.legs import kind_of
from desk.store import OrderRecord
from resources.brokers.protocol import Batching, Broker, BrokerError
from resources.ledger import action_tables as a
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.base import Gather, reading
from trading import ids
from trading.orders import MAY_BE_AT_BROKER, TERMINAL, OrderEvent, OrderState, OrderType, Side
from trading.signals import Intent

log = structlog.get_logger("desk.exits")

MAX_ATTEMPTS = 5
"""How often a refused exit is asked for again at once."""
_HEARD = frozenset({OrderState.SUBMITTED, OrderState.ACCEPTED, OrderState.TRIGGERED, OrderState.PARTIALLY_FILLED})
RETRY_US = 60_000_000
"""Market time between further attempts: a position is never given up."""
_UNSETTLED = select(a.action_applications.c.symbol).where(a.action_applications.c.state != "done")


def exit_leg(reason: str, close_time: int, attempt: int = 1) -> str:
    """Leg name of an exit: ``exit:<reason>:<close_time>``, with ``:<attempt>`` from the second on."""
    return f"exit:{reason}:{close_time}" + (f":{attempt}" if attempt > 1 else "")


def oco_group(decision_id: str) -> str:
    """Group of everything that closes the trade of a decision."""
    return ids.make_id("oco", decision_id)


@dataclass(frozen=True, slots=True)
class ExitWish:
    """The trade of `entry` is to be closed under the name `leg`. quantity: signed, as held."""

    entry: OrderRecord
    leg: str
    quantity: float


def want_exit(connection: Connection, entry: OrderRecord, leg: str, quantity: float, now_time: int, who: str) -> str:
    """Commit the wish to close `quantity` (signed, as held) of the trade of `entry`. Returns the exit's intent id."""
    return want_exits(connection, [ExitWish(entry, leg, quantity)], now_time, who)[0]


def want_exits(connection: Connection, wishes: Sequence[ExitWish], now_time: int, who: str) -> list[str]:
    """`want_exit` of several trades. Returns the exits' intent ids. The caller holds the ledger's write lock."""
    made = [_exit_of(connection, wish, now_time) for wish in wishes]
    ids_ = [intent.id for intent in made]
    known = set(connection.execute(select(t.intents.c.id).where(t.intents.c.id.in_(ids_))).scalars()) if ids_ else set()
    writes = journal.Writes()
    _insert(connection, list(zip(wishes, made, strict=True)), known, now_time, who, writes)
    return ids_


def want_and_cancel(
    connection: Connection, wishes: Sequence[ExitWish], orders: Mapping[str, Sequence[OrderRecord]], now_time: int, who: str,
    replacing: bool,
) -> Wanted:  # fmt: skip
    """`want_exits`, and in the same transaction the request to cancel what rests of their trades.

    orders: every order of those trades, by trade, as they were read in it; none of them is an exit under way. replacing: the
    broker puts orders in the place of others; an exit it can put there is committed as SENDING at once.
    """
    made = [_exit_of(connection, wish, now_time) for wish in wishes]
    known = {o.id for own in orders.values() for o in own}
    writes = journal.Writes()
    ends: dict[str, Mapping[str, float]] = {}
    for wish, intent in zip(wishes, made, strict=True):
        own = orders.get(wish.entry.trade_id, ())
        if replacing and intent.id not in known and not intent.meta.get("algo") and all(_is_as_heard(o) for o in own):
            ends[intent.id] = {o.id: o.filled_quantity for o in _in_turn(own)}
    asked = [(o, f"exit {wish.leg}") for wish in wishes for o in _in_turn(orders.get(wish.entry.trade_id, ()))]
    told = _cancel_requests(asked, "cancel", now_time)
    journal.plan_events(told, {o.id: o for o, _ in asked}, (), writes)
    if ends:
        crash_point("during_exit")
    wanted = _insert(connection, list(zip(wishes, made, strict=True)), known, now_time, who, writes, ends.keys())
    ending = {o.id for o, _ in asked}
    resting = {
        trade_id: [replace(o, state=OrderState.PENDING_CANCEL) if o.id in ending else o for o in own]
        for trade_id, own in orders.items()
    }
    sending = [o for o in wanted if o.id in ends]
    return Wanted([intent.id for intent in made], [o for o in wanted if o.id not in ends], resting, sending, ends)


def _is_as_heard(order: OrderRecord) -> bool:
    """Is it over, or one that the broker works and has nothing left to answer on? No entry: that may fill on."""
    return order.state in TERMINAL or (order.state in _HEARD and kind_of(order.leg) != "entry")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Exits that are wanted as of a commit. intent_ids: in the wishes' order. exits: those that were not wanted before, as
    INITIALIZED orders. orders: the other orders of the trades, by trade, as they are since. sending: exits that go in the place
    of what rests of their trades, committed as SENDING; ends: by their id what that is, with what is known to be filled of it."""

    intent_ids: Sequence[str] = ()
    exits: Sequence[OrderRecord] = ()
    orders: Mapping[str, Sequence[OrderRecord]] = field(default_factory=dict)
    sending: Sequence[OrderRecord] = ()
    ends: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def _insert(
    connection: Connection, wanted: Sequence[tuple[ExitWish, Intent]], known: Set[str], now_time: int, who: str,
    writes: journal.Writes, sending: Collection[str] = (),
) -> list[OrderRecord]:  # fmt: skip
    """Write the exits that are not `known`, with what else `writes` holds, and tell the audit. Gives them. sending: those that
    are written as SENDING; the others are INITIALIZED."""
    seen = set(known)
    alike: dict[tuple[str, str, str, OrderState], list[NewOrder]] = {}
    told: list[tuple[str, str, dict[str, Any]]] = []
    for wish, intent in wanted:
        if intent.id in seen:
            continue
        seen.add(intent.id)
        entry = wish.entry
        session = events.session_at(str(intent.meta["calendar"]), now_time)
        state = OrderState.SENDING if intent.id in sending else OrderState.INITIALIZED
        alike.setdefault((session, entry.broker, entry.mode, state), []).append(NewOrder(intent, entry.trade_id))
        told.append((who, "exit_wanted", {
            "intent": intent.id, "trade": entry.trade_id, "strategy": entry.strategy, "symbol": entry.symbol,
            "leg": wish.leg, "quantity": abs(wish.quantity), "side": intent.side.value,
        }))  # fmt: skip
    made: list[OrderRecord] = []
    for (session, broker, mode, state), group in alike.items():
        journal.insert_intents(
            connection, group, session=session, broker=broker, mode=mode, state=state, now_time=now_time, new=True, into=writes
        )
        made += [journal.order_of(new, session, broker, mode, state, now_time) for new in group]
    if len(made) > 1:
        crash_point("during_bracket_legs")
    told += [("desk", "exit_sent", {"intent": o.id, "quantity": o.quantity}) for o in made if o.state is OrderState.SENDING]
    audit.append_acts(connection, told, **writes.first(connection))
    return made


def _exit_of(connection: Connection, wish: ExitWish, now_time: int) -> Intent:
    entry, stated = wish.entry, wish.entry.content["meta"]
    side = Side.SELL if wish.quantity > 0 else Side.BUY
    meta = {k: stated.get(k) for k in ("multiplier", "currency", "calendar")}
    if algo := stated.get("algo"):
        meta["algo"] = algo
        algo_ledger.end_of_trade(connection, entry.trade_id, f"the trade is being closed: {wish.leg}")
    return Intent(
        entry.trade_id, wish.leg, entry.strategy, entry.symbol, side, abs(wish.quantity), OrderType.MARKET,
        oco_group=str(stated.get("oco_group", "")), reduce_only=True, meta={**meta, "wanted_time": now_time},
    )  # fmt: skip


def cancel_orders(
    engine: Engine, broker: Broker, clock: Callable[[], int], orders: Sequence[OrderRecord], reason: str, *, taken: bool = False
) -> None:
    """Ask the broker to cancel orders: request committed, sent, answer read from its events. Safe to repeat.

    taken: a person takes the guard of a trade away and means it; the trade is then left as it is.

    A call that fails leaves PENDING_CANCEL: the order's events or the next evidence say what happened.
    """
    _cancel(engine, broker, clock, [(order, reason) for order in orders], guards.TAKEN if taken else "cancel")


def _cancel(
    engine: Engine, broker: Broker, clock: Callable[[], int], orders: Sequence[tuple[OrderRecord, str]], word: str,
    then: events.Then | None = None,
) -> None:  # fmt: skip
    if not orders:
        return
    if any(o.state is not OrderState.PENDING_CANCEL for o, _ in orders):
        with engine.begin() as connection:
            store.lock(connection)
            _ask_cancel(connection, orders, word, clock())
    if len(orders) > 1 and isinstance(broker, Batching):
        crash_point("during_cancel")
        _told(lambda: broker.cancel_many([o.id for o, _ in orders]), f"{len(orders)} orders")
    else:
        for order, _ in orders:
            crash_point("during_cancel")
            _told(lambda o=order: broker.cancel(o.id), order.id)  # type: ignore[misc]
    events.drain(engine, broker, clock, then)


def _ask_cancel(connection: Connection, orders: Sequence[tuple[OrderRecord, str]], word: str, now: int) -> None:
    """Note that the broker is about to be asked. The caller holds the ledger's write lock."""
    journal.record_events(connection, _cancel_requests(orders, word, now))


def _cancel_requests(orders: Sequence[tuple[OrderRecord, str]], word: str, now: int) -> list[NewEvent]:
    wall = store.wall_us()
    return [
        NewEvent(o.id, OrderEvent.REQUEST_CANCEL, f"desk/{o.id}/{word}/{wall}", now, reason)
        for o, reason in orders
        if o.state is not OrderState.PENDING_CANCEL
    ]


def _told(call: Callable[[], None], what: str) -> None:
    try:
        call()
    except BrokerError as error:
        log.warning("cancel_unclear", order=what, error=str(error))
    except Exception as error:  # noqa: BLE001 the order may be cancelled or not: its events will say
        log.warning("cancel_unclear", order=what, error=type(error).__name__)


def continue_exits(engine: Engine, broker: Broker, clock: Callable[[], int]) -> list[str]:
    """Bring every exit that is wanted as far as it can go now. Returns the ids of the exits sent.

    Call it after each drain and at start. One exit that cannot go on does not hold up the others. What rests of all their
    trades is cancelled together, and the exits are sent together: how many there are costs little.
    """
    with store.routing_lock:
        with engine.begin() as connection:
            store.lock(connection)
            _ask_again(connection, clock())
            wanted = _wanted(connection)
        return _send(engine, broker, clock, wanted, None)


def send_wanted(engine: Engine, broker: Broker, clock: Callable[[], int], wanted: Wanted | None = None) -> list[str]:
    """`continue_exits` of what is wanted already: nobody is asked whether more should be. The caller holds the routing lock.

    wanted: of these alone, with what was known of their trades when they were committed; what ended since is cancelled in vain.
    """
    if wanted is not None:
        return _send(engine, broker, clock, wanted.exits, wanted.orders)
    with reading(engine) as connection:
        exits = _wanted(connection)
    return _send(engine, broker, clock, exits, None)


def send_in_place(engine: Engine, broker: Broker, clock: Callable[[], int], wanted: Wanted) -> list[str]:
    """Send the exits that go in the place of what rests of their trades, and hear what became of that: one call of the broker,
    after one commit. Returns their ids. The caller holds the routing lock.

    What the broker did not take is rejected, or unknown until its books say; what it never had is asked for again."""
    if not wanted.sending:
        return []
    crash_point("during_cancel")
    crash_point("intent_committed")
    submission.send_groups(engine, broker, clock, [[order] for order in wanted.sending], wanted.ends)
    events.drain(engine, broker, clock)
    return [order.id for order in wanted.sending]


def _wanted(connection: Connection) -> list[OrderRecord]:
    legs = t.intents.c.leg.startswith("exit:", autoescape=True)
    return store.find_orders(connection, store.in_states(OrderState.INITIALIZED), legs)


def _send(
    engine: Engine, broker: Broker, clock: Callable[[], int], wanted: Sequence[OrderRecord],
    seen: Mapping[str, Sequence[OrderRecord]] | None,
) -> list[str]:  # fmt: skip
    sent: list[str] = []
    left = list(wanted)
    while left:  # one of each trade at a time: an exit that is sent rests for the next one of its trade
        batch = list({order.trade_id: order for order in reversed(left)}.values())[::-1]
        taken = {order.id for order in batch}
        left = [order for order in left if order.id not in taken]
        sent += _advance(engine, broker, clock, batch, seen)
        seen = None
    return sent


def _advance(
    engine: Engine, broker: Broker, clock: Callable[[], int], exits: Sequence[OrderRecord],
    seen: Mapping[str, Sequence[OrderRecord]] | None,
) -> list[str]:  # fmt: skip
    """Send these exits, of one trade each, whose trades' other orders are known to be gone. Ids of those sent."""
    known = seen is not None and all(e.trade_id in seen for e in exits)
    resting = _others(exits, seen) if known and seen is not None else _resting(engine, exits)
    settled: dict[str, OrderRecord | None] = {}
    if any(resting.values()):
        asked = [(o, f"exit {e.leg}") for e in exits for o in resting[e.id]]
        _cancel(engine, broker, clock, asked, "cancel", partial(_commit, exits=exits, now=clock(), settled=settled))
        exits = [e for e in exits if e.id not in settled]
        resting = _resting(engine, exits) if exits else {}
        if any(o.state is OrderState.UNKNOWN for own in resting.values() for o in own):
            submission.resolve_unknown(engine, broker, clock)
            resting = _resting(engine, exits)
    for waits in exits:
        if resting[waits.id]:
            log.warning("exit_waits", exit=waits.id, trade=waits.trade_id, reason="resting orders not cancelled yet")
    if ready := [e for e in exits if not resting[e.id]]:
        with engine.begin() as connection:
            _commit(connection, store.LOCKED, exits=ready, now=clock(), settled=settled)
    committed = [order for order in settled.values() if order is not None]
    if not committed:
        return []
    crash_point("intent_committed")
    submission.send_groups(engine, broker, clock, [[order] for order in committed])
    return [order.id for order in committed]


_OF_TRADES = Gather(
    orders=store.orders_where(
        t.intents.c.trade_id.in_(bindparam("trade_ids", expanding=True)),
        store.in_states(OrderState.INITIALIZED, *MAY_BE_AT_BROKER),
    ),
    totals=store.totals_of(bindparam("trade_ids", expanding=True)),
)


def _commit(
    connection: Connection, options: Mapping[str, Any], *, exits: Sequence[OrderRecord], now: int,
    settled: dict[str, OrderRecord | None],
) -> None:  # fmt: skip
    """Of these exits, those whose trades' other orders are gone: written as SENDING with what is open of their trades, and as
    DENIED where the trade is closed. settled: gets them by id, None for a denied one. options: of the read (`store.LOCKED`);
    the caller holds the ledger's write lock, or takes it so."""
    trade_ids = [e.trade_id for e in exits]
    found = _OF_TRADES.read(connection, {"trade_ids": trade_ids}, **options)
    orders: dict[str, list[OrderRecord]] = {trade_id: [] for trade_id in trade_ids}
    for row in found["orders"]:
        orders[row.trade_id].append(store.order_of(row))
    initialized = {o.id: o for own in orders.values() for o in own if o.state is OrderState.INITIALIZED}
    resting = _others(exits, orders)
    ready = [e for e in exits if not resting[e.id] and e.id in initialized]
    if not ready:
        return
    crash_point("during_exit")
    totals = store.add_up(dict.fromkeys(trade_ids, store.TradeTotal()), found["totals"])
    held = {trade_id: total.quantity for trade_id, total in totals.items()}
    closed = [e for e in ready if held[e.trade_id] == 0.0 or (held[e.trade_id] > 0) is (e.side is Side.BUY)]
    ended = {e.id for e in closed}
    sending = [replace(e, quantity=abs(held[e.trade_id]), state=OrderState.SENDING) for e in ready if e.id not in ended]
    told = [NewEvent(e.id, OrderEvent.DENY, f"desk/{e.id}/deny", now, "the trade is closed already") for e in closed]
    sent = [NewEvent(e.id, OrderEvent.SEND, f"desk/{e.id}/send", now, quantity=e.quantity) for e in sending]
    writes = journal.Writes()
    journal.plan_events([*told, *sent], initialized, (), writes)
    said = [{"intent": e.id, "quantity": e.quantity} for e in sending]
    audit.append_all(connection, "desk", "exit_sent", said, **writes.first(connection))
    settled |= {e.id: None for e in closed} | {e.id: e for e in sending}


def _resting(engine: Engine, exits: Sequence[OrderRecord]) -> dict[str, list[OrderRecord]]:
    """By exit its trade's other orders that the broker may hold, the entry first: nothing more fills while legs protect."""
    with reading(engine) as connection:
        found = trades.working_of(connection, {e.trade_id for e in exits})
    return _others(exits, found)


def _others(exits: Sequence[OrderRecord], orders: Mapping[str, Sequence[OrderRecord]]) -> dict[str, list[OrderRecord]]:
    return {e.id: _in_turn(o for o in orders[e.trade_id] if o.id != e.id) for e in exits}


def _in_turn(orders: Iterable[OrderRecord]) -> list[OrderRecord]:
    """Those the broker may hold, slices of the entry first."""
    return sorted((o for o in orders if o.working), key=lambda o: not algo_ledger.is_slice(o))


def _ask_again(connection: Connection, now: int) -> None:
    """Want an exit for every open trade that is not fully guarded, whatever became of its guard: an exit that was refused or
    cancelled by the broker, a stop it did not take, an entry that filled after it was given up.

    Left alone are trades whose guard a person took away knowingly, and instruments whose corporate action is not done: what
    there is to close is not known before it is. The caller holds the ledger's write lock.
    """
    book = trades.read(connection)
    bare: dict[str, tuple[OrderRecord, float, str]] = {}  # the position's symbol: an action may have renamed it since the entry
    for position in book.positions:
        for trade_id, held in book.of(position).items():
            orders = book.orders[trade_id]
            entry = next((o for o in orders if o.leg == "entry"), None)
            if entry is not None and (guards.uncovered(orders, held) or _was_refused(orders)):
                bare[trade_id] = (entry, held, position.symbol)
    if not bare:
        return
    unsettled = set(connection.execute(_UNSETTLED).scalars())
    left_alone = guards.all_taken_away(connection, {trade_id: book.orders[trade_id] for trade_id in bare})
    for trade_id, (entry, held, symbol) in bare.items():
        if symbol not in unsettled and trade_id not in left_alone:
            _want_again(connection, entry, book.orders[trade_id], held, now)


def _was_refused(orders: Sequence[OrderRecord]) -> bool:
    """Is the trade's newest exit one that the broker refused or never had, and no other under way? It is wanted still, whatever
    guards the trade."""
    exits = [o for o in orders if o.is_exit]
    return bool(exits) and exits[-1].state is OrderState.REJECTED and not any(guards.may_fill(o) for o in exits)


def _want_again(connection: Connection, entry: OrderRecord, orders: Sequence[OrderRecord], held: float, now: int) -> None:
    exits = [o for o in orders if o.is_exit]
    if exits and exits[-1].state is not OrderState.FILLED:
        reason, close_time, _ = split_leg(exits[-1].leg)
    else:
        late = bool(exits) or (not entry.working and _was_ended(connection, entry))
        reason, close_time = ("late_fill" if late else "unprotected"), now
    known = {o.leg for o in orders}
    attempt = next(n for n in itertools.count(1) if exit_leg(reason, close_time, n) not in known)
    if attempt > MAX_ATTEMPTS and now - exits[-1].created_time < RETRY_US:
        return
    log.error(
        "exit_asked_again" if exits else "unprotected_closed", trade=entry.trade_id, symbol=entry.symbol, reason=reason,
        quantity=held, attempt=attempt,
    )  # fmt: skip
    want_exit(connection, entry, exit_leg(reason, close_time, attempt), held, now, "desk")


def _was_ended(connection: Connection, entry: OrderRecord) -> bool:
    """Was the entry ever cancelled, expired or given up, although it filled?"""
    e = t.order_events.c
    ended = (OrderEvent.REQUEST_CANCEL, OrderEvent.CANCELED, OrderEvent.EXPIRED, OrderEvent.NOT_FOUND)
    query = select(e.seq).where(e.order_id == entry.id, e.event.in_([x.value for x in ended])).limit(1)
    return connection.execute(query).first() is not None


def split_leg(leg: str) -> tuple[str, int, int]:
    """(reason, close_time, attempt) of an exit's leg name."""
    parts = leg.split(":")
    if len(parts) >= 4 and parts[-1].isdigit() and parts[-2].isdigit():
        return ":".join(parts[1:-2]), int(parts[-2]), int(parts[-1])
    return ":".join(parts[1:-1]), int(parts[-1]), 1
