"""Exit orders: wanted first, sent only when the trade's resting orders are known to be gone.

A wish to exit is committed (an INITIALIZED exit order) before anything is cancelled, so a crash in between loses
nothing: ``continue_exits`` goes on where it stopped. The exit joins the oco group of its trade, so that even a leg that
was not cancelled in time cannot close the trade a second time. A refused exit is asked for again under a new id:
entries may be lost, exits must not be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection, Engine, select

from desk import algo_ledger, events, guards, journal, store, submission
from desk.faults import crash_point
from desk.journal import NewEvent, NewOrder
from desk.store import OrderRecord
from resources.brokers.protocol import Broker, BrokerError
from resources.ledger import action_tables as a
from resources.ledger import audit
from resources.ledger import tables as t
from trading import ids
from trading.orders import OrderEvent, OrderState, OrderType, Side
from trading.signals import Intent

log = structlog.get_logger("desk.exits")

MAX_ATTEMPTS = 5
"""How often a refused exit is asked for again at once."""
RETRY_US = 60_000_000
"""Market time between further attempts: a position is never given up."""
_UNSETTLED = select(a.action_applications.c.symbol).where(a.action_applications.c.state != "done")


def exit_leg(reason: str, close_time: int, attempt: int = 1) -> str:
    """Leg name of an exit: ``exit:<reason>:<close_time>``, with ``:<attempt>`` from the second on."""
    return f"exit:{reason}:{close_time}" + (f":{attempt}" if attempt > 1 else "")


def oco_group(decision_id: str) -> str:
    """Group of everything that closes the trade of a decision."""
    return ids.make_id("oco", decision_id)


def want_exit(connection: Connection, entry: OrderRecord, leg: str, quantity: float, now_time: int, who: str) -> str:
    """Commit the wish to close `quantity` (signed, as held) of the trade of `entry`. Returns the exit's intent id."""
    side = Side.SELL if quantity > 0 else Side.BUY
    meta = {k: entry.content["meta"].get(k) for k in ("multiplier", "currency", "calendar")}
    if algo := entry.content["meta"].get("algo"):
        meta["algo"] = algo
        algo_ledger.end_of_trade(connection, entry.trade_id, f"the trade is being closed: {leg}")
    intent = Intent(
        entry.trade_id, leg, entry.strategy, entry.symbol, side, abs(quantity), OrderType.MARKET,
        oco_group=str(entry.content["meta"].get("oco_group", "")), reduce_only=True, meta={**meta, "wanted_time": now_time},
    )  # fmt: skip
    session = events.session_at(str(meta["calendar"]), now_time)
    if journal.insert_intents(
        connection, [NewOrder(intent, entry.trade_id)], session=session, broker=entry.broker, mode=entry.mode,
        state=OrderState.INITIALIZED, now_time=now_time,
    ):  # fmt: skip
        content = {
            "intent": intent.id, "trade": entry.trade_id, "strategy": entry.strategy, "symbol": entry.symbol,
            "leg": leg, "quantity": abs(quantity), "side": side.value,
        }  # fmt: skip
        audit.append(connection, who, "exit_wanted", content)
    return intent.id


def cancel_orders(
    engine: Engine, broker: Broker, clock: Callable[[], int], orders: Sequence[OrderRecord], reason: str, *, taken: bool = False
) -> None:
    """Ask the broker to cancel orders: request committed, sent, answer read from its events. Safe to repeat.

    taken: a person takes the guard of a trade away and means it; the trade is then left as it is.

    A call that fails leaves PENDING_CANCEL: the order's events or the next evidence say what happened.
    """
    if not orders:
        return
    with engine.begin() as connection:
        store.lock(connection)
        wall, word = store.wall_us(), guards.TAKEN if taken else "cancel"
        asked = [
            NewEvent(o.id, OrderEvent.REQUEST_CANCEL, f"desk/{o.id}/{word}/{wall}", clock(), reason)
            for o in orders
            if o.state is not OrderState.PENDING_CANCEL
        ]
        journal.record_events(connection, asked)
    for order in orders:
        crash_point("during_cancel")
        try:
            broker.cancel(order.id)
        except BrokerError as error:
            log.warning("cancel_unclear", order=order.id, error=str(error))
        except Exception as error:  # noqa: BLE001 the order may be cancelled or not: its events will say
            log.warning("cancel_unclear", order=order.id, error=type(error).__name__)
    events.drain(engine, broker, clock)


def continue_exits(engine: Engine, broker: Broker, clock: Callable[[], int]) -> list[str]:
    """Bring every exit that is wanted as far as it can go now. Returns the ids of the exits sent.

    Call it after each drain and at start. One exit that cannot go on does not hold up the others.
    """
    sent: list[str] = []
    with store.routing_lock:
        _ask_again(engine, clock)
        with engine.connect() as connection:
            wanted = store.find_orders(
                connection, store.in_states(OrderState.INITIALIZED), t.intents.c.leg.startswith("exit:", autoescape=True)
            )
        for order in wanted:
            if _advance(engine, broker, clock, order):
                sent.append(order.id)
    return sent


def _advance(engine: Engine, broker: Broker, clock: Callable[[], int], exit_order: OrderRecord) -> bool:
    resting = _resting(engine, exit_order)
    if resting:
        cancel_orders(engine, broker, clock, resting, f"exit {exit_order.leg}")
        if any(o.state is OrderState.UNKNOWN for o in _resting(engine, exit_order)):
            submission.resolve_unknown(engine, broker, clock)
        if _resting(engine, exit_order):
            log.warning("exit_waits", exit=exit_order.id, trade=exit_order.trade_id, reason="resting orders not cancelled yet")
            return False
    crash_point("during_exit")
    now = clock()
    with engine.begin() as connection:
        store.lock(connection)
        held = store.trade_quantity(connection, exit_order.trade_id)
        if held == 0.0 or (held > 0) is (exit_order.side is Side.BUY):
            key = f"desk/{exit_order.id}/deny"
            journal.record_event(connection, NewEvent(exit_order.id, OrderEvent.DENY, key, now, "the trade is closed already"))
            return False
        submission.set_sent_quantity(connection, exit_order.id, abs(held))
        journal.record_event(connection, NewEvent(exit_order.id, OrderEvent.SEND, f"desk/{exit_order.id}/send", now))
        audit.append(connection, "desk", "exit_sent", {"intent": exit_order.id, "quantity": abs(held)})
    crash_point("intent_committed")
    submission.send(engine, broker, clock, [exit_order.id])
    return True


def _resting(engine: Engine, exit_order: OrderRecord) -> list[OrderRecord]:
    """The trade's other orders that the broker may hold, the entry first: nothing more fills while legs protect."""
    with engine.connect() as connection:
        found = store.find_orders(connection, t.intents.c.trade_id == exit_order.trade_id, t.orders.c.id != exit_order.id)
    return sorted((o for o in found if o.working), key=lambda o: not algo_ledger.is_slice(o))


def _ask_again(engine: Engine, clock: Callable[[], int]) -> None:
    """Want an exit for every open trade that is not fully guarded, whatever became of its guard: an exit that was refused or
    cancelled by the broker, a stop it did not take, an entry that filled after it was given up.

    Left alone are trades whose guard a person took away knowingly, and instruments whose corporate action is not done: what
    there is to close is not known before it is.
    """
    with engine.begin() as connection:
        store.lock(connection)
        unsettled = set(connection.execute(_UNSETTLED).scalars())
        for position in store.find_positions(connection):
            if position.symbol in unsettled:
                continue
            for trade_id, held in guards.open_trades(connection, position).items():
                orders = store.find_orders(connection, t.intents.c.trade_id == trade_id)
                entry = next((o for o in orders if o.leg == "entry"), None)
                if entry is not None and guards.uncovered(orders, held) and not guards.taken_away(connection, orders):
                    _want_again(connection, entry, orders, held, clock())


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
