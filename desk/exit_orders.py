"""Exit orders: wanted first, sent only when the trade's resting orders are known to be gone.

A wish to exit is committed (an INITIALIZED exit order) before anything is cancelled, so a crash in between loses
nothing: ``continue_exits`` goes on where it stopped. The exit joins the oco group of its trade, so that even a leg that
was not cancelled in time cannot close the trade a second time. A refused exit is asked for again under a new id:
entries may be lost, exits must not be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection, Engine, select

from desk import events, journal, store, submission
from desk.faults import crash_point
from desk.journal import NewEvent, NewOrder
from desk.store import OrderRecord
from resources.brokers.protocol import Broker, BrokerError
from resources.ledger import audit
from resources.ledger import tables as t
from trading import ids
from trading.orders import OrderEvent, OrderState, OrderType, Side
from trading.signals import Intent

log = structlog.get_logger("desk.exits")

MAX_ATTEMPTS = 5
_FAILED = (OrderState.REJECTED, OrderState.EXPIRED)


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


def cancel_orders(engine: Engine, broker: Broker, clock: Callable[[], int], orders: Sequence[OrderRecord], reason: str) -> None:
    """Ask the broker to cancel orders: request committed, sent, answer read from its events. Safe to repeat.

    A call that fails leaves PENDING_CANCEL: the order's events or the next evidence say what happened.
    """
    if not orders:
        return
    with engine.begin() as connection:
        store.lock(connection)
        wall = store.wall_us()
        asked = [
            NewEvent(o.id, OrderEvent.REQUEST_CANCEL, f"desk/{o.id}/cancel/{wall}", clock(), reason)
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
    return sorted((o for o in found if o.working), key=lambda o: o.leg != "entry")


def _ask_again(engine: Engine, clock: Callable[[], int]) -> None:
    """Want a new exit for trades whose newest exit was refused while the trade is open, and one for trades that came into
    being although their entry was given up."""
    with engine.begin() as connection:
        store.lock(connection)
        for position in store.find_positions(connection):
            orders = store.find_orders(connection, t.intents.c.trade_id == position.trade_id)
            if _unwanted(connection, orders):
                quantity = store.trade_quantity(connection, position.trade_id)
                root = next(o for o in orders if o.leg == "entry")
                if quantity != 0.0:
                    log.error("late_fill_closed", trade=position.trade_id, symbol=position.symbol, quantity=quantity)
                    want_exit(connection, root, exit_leg("late_fill", clock()), quantity, clock(), "desk")
                continue
            exits = [o for o in orders if o.is_exit]
            if not exits or exits[-1].state not in _FAILED or any(o.working and o.leg != "entry" for o in orders):
                continue
            held = store.trade_quantity(connection, position.trade_id)
            entry = next((o for o in orders if o.leg == "entry"), None)
            reason, close_time, attempt = split_leg(exits[-1].leg)
            if entry is None or held == 0.0:
                continue
            if attempt >= MAX_ATTEMPTS:
                log.error("exit_refused", trade=position.trade_id, symbol=position.symbol, attempts=attempt)
                continue
            log.warning("exit_asked_again", trade=position.trade_id, symbol=position.symbol, attempt=attempt + 1)
            want_exit(connection, entry, exit_leg(reason, close_time, attempt + 1), held, clock(), "desk")


def _unwanted(connection: Connection, orders: Sequence[OrderRecord]) -> bool:
    """Did the entry of this open trade fill after it was cancelled or given up, so that nothing protects what it bought?

    Its legs went with it, or filled before and closed what there was then. Nobody waits for this trade: it is closed. A stop
    that a person took away is another matter.
    """
    entry = next((o for o in orders if o.leg == "entry"), None)
    exits = [o for o in orders if o.is_exit]
    guards = [*exits, *(o for o in orders if o.leg.partition(".")[0].partition(":")[0] == "stop")]
    if entry is None or any(o.working or o.state is OrderState.INITIALIZED for o in guards):
        return False
    if exits and exits[-1].state is not OrderState.FILLED:  # what became of it is looked at by `_ask_again`
        return False
    if not exits and any(o.filled_quantity > 0.0 and o.state is not OrderState.FILLED for o in guards):
        return False
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
