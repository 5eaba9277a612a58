"""Changing a resting order: the wish is committed first, the broker's word on what rests is the truth afterwards.

A change adds no quantity: that needs a decision of its own, and every rule that judges such an order judges the changed one.
A stop may be moved away from the price, but not across it nor out of sight (`level_problem`). An answer that does not come
leaves PENDING_UPDATE, which the broker's open orders end: whatever price they say is the order's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Connection, Engine, update

from desk import events, journal, store
from desk.faults import crash_point
from desk.journal import NewEvent
from desk.legs import TARGET, kind_of
from desk.store import OrderRecord
from resources.brokers.protocol import Broker, Modification, OrderReport
from resources.ledger import audit
from resources.ledger import tables as t
from trading.limit_math import exceeds
from trading.orders import TERMINAL, OrderEvent, OrderState, OrderType, Side
from trading.refusals import RefusalCode, refuse
from trading.signals import Intent

log = structlog.get_logger("desk.modify")

MAY_CHANGE = (OrderState.SUBMITTED, OrderState.ACCEPTED)
"""What rests, untouched and undoubted."""


@dataclass(frozen=True, slots=True)
class ModifyResult:
    """The order's state afterwards; refusal: ``CODE: key=value`` when it was not even asked for, else ""."""

    order_id: str
    state: OrderState
    refusal: str = ""


def problem_of(order: OrderRecord, change: Modification) -> str:
    """Why this change is not asked for, as a refusal's text; "" when it may be."""
    if order.state not in MAY_CHANGE or order.filled_quantity > 0.0:
        reason = "it_is_over" if order.state in TERMINAL else "not_at_rest"
        return str(
            refuse(RefusalCode.STATE_UNKNOWN, order=order.id, state=order.state, filled=order.filled_quantity, reason=reason)
        )
    if (change.quantity, change.limit_price, change.stop_price) == (None, None, None):
        return str(refuse(RefusalCode.CONFIG_INVALID, order=order.id, reason="nothing to change"))
    if change.quantity is not None and not 0.0 < change.quantity <= order.quantity:
        return str(refuse(RefusalCode.MAX_ORDER_QUANTITY, order=order.id, would_be=change.quantity, limit=order.quantity))
    for name, price, has in (
        ("limit_price", change.limit_price, order.limit_price),
        ("stop_price", change.stop_price, order.stop_price),
    ):
        if price is not None and has is None:
            return str(refuse(RefusalCode.PRICE_GRID, order=order.id, order_type=order.order_type, **{name: price}))
    if order.order_type is OrderType.TRAILING_STOP:
        return str(refuse(RefusalCode.PRICE_GRID, order=order.id, order_type=order.order_type))
    return ""


def changed(order: OrderRecord, change: Modification) -> Intent:
    """The intent as it would be: what the rules judge."""
    intent = store.intent_of(order.content)
    return replace(
        intent,
        quantity=order.quantity if change.quantity is None else change.quantity,
        limit_price=order.limit_price if change.limit_price is None else change.limit_price,
        stop_price=order.stop_price if change.stop_price is None else change.stop_price,
    )


def level_problem(order: OrderRecord, change: Modification, last: float, collar_percent: float | None) -> str:
    """Why a new price is surely not meant, as a refusal's text; "" when it may be. last: newest price, NaN: unknown.

    A stop at or beyond the price, a target likewise, would trade at once: that is what closing is for. A stop that moves away
    from the price, and further than an order's price may be from it (collar_percent), guards nothing any more.
    """
    if not math.isfinite(last) or last == 0.0:
        return ""  # a guard must be movable while nobody knows the price
    sell, stop, limit = order.side is Side.SELL, change.stop_price, change.limit_price
    told = {"order": order.id, "side": order.side.value, "last": last}
    if stop is not None and order.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        if stop >= last if sell else stop <= last:
            return str(refuse(RefusalCode.STOP_REQUIRED, **told, stop=stop, reason="would_trade_at_once"))
        before = math.inf if order.stop_price is None else abs(order.stop_price - last)
        if collar_percent is not None and abs(stop - last) > before and exceeds(abs(stop / last - 1.0) * 100, collar_percent):
            return str(refuse(RefusalCode.PRICE_COLLAR, **told, stop=stop, limit=f"{collar_percent:g}%"))
    if limit is not None and kind_of(order.leg) == TARGET and (limit <= last if sell else limit >= last):
        return str(refuse(RefusalCode.STOP_REQUIRED, **told, target=limit, reason="would_trade_at_once"))
    return ""


def modify(
    engine: Engine, broker: Broker, clock: Callable[[], int], order: OrderRecord, change: Modification, reason: str, who: str
) -> None:
    """Ask the broker for a change that `problem_of` and the rules allow. The caller holds the routing lock."""
    with engine.begin() as connection:
        store.lock(connection)
        key = f"desk/{order.id}/modify/{store.wall_us()}"
        journal.record_event(connection, NewEvent(order.id, OrderEvent.REQUEST_UPDATE, key, clock(), reason))
        content = {
            "order": order.id, "strategy": order.strategy, "symbol": order.symbol, "reason": reason,
            "quantity": [order.quantity, change.quantity], "limit_price": [order.limit_price, change.limit_price],
            "stop_price": [order.stop_price, change.stop_price],
        }  # fmt: skip
        audit.append(connection, who, "modify", content)
    crash_point("during_modify")
    try:
        broker.modify(order.id, change)
    except Exception as error:  # noqa: BLE001 the change may have been made or not: the books will say
        log.warning("modify_unclear", order=order.id, error=f"{type(error).__name__}: {error}")
    crash_point("modify_sent")
    events.drain(engine, broker, clock)
    try:
        reports = broker.open_orders()
    except Exception as error:  # noqa: BLE001 read again at the next reconciliation
        log.warning("books_unreadable", order=order.id, error=type(error).__name__)
        return
    with engine.begin() as connection:
        store.lock(connection)
        align(connection, [r for r in reports if r.client_id == order.id], clock())


def align(connection: Connection, reports: Sequence[OrderReport], now_time: int) -> list[str]:
    """Bring orders to what the broker's open orders say of prices and quantity; ends PENDING_UPDATE. Ids of those changed.

    The caller holds the ledger's write lock, and has drained the events the books may contain.
    """
    by_id = {r.client_id: r for r in reports}
    found = store.find_orders(connection, t.orders.c.id.in_(list(by_id)))
    done: list[str] = []
    for order in found:
        report = by_id[order.id]
        if (report.symbol, report.side) != (order.symbol, order.side):
            continue  # not this order: reconciliation says so
        if order.state is OrderState.PENDING_UPDATE:
            key = f"evidence/{order.id}/{store.wall_us()}/updated"
            journal.record_event(connection, NewEvent(order.id, OrderEvent.UPDATED, key, now_time, "evidence: it rests"))
            done.append(order.id)
        if report.order_type is None or report.order_type is OrderType.TRAILING_STOP:
            continue  # the broker does not say, or moves it by itself
        theirs = {"limit_price": report.limit_price, "stop_price": report.stop_price, "quantity": report.quantity}
        ours = {"limit_price": order.limit_price, "stop_price": order.stop_price, "quantity": order.quantity}
        if theirs != ours and (report.quantity <= order.quantity or order.leg == "external"):
            connection.execute(update(t.orders).where(t.orders.c.id == order.id).values(**theirs))
            audit.append(connection, "desk", "order_as_broker_says", {"order": order.id, "was": ours, "is": theirs})
            done.append(order.id)
    return done
