"""Everything that is open, read once: positions, the trades they are made of, what these hold, and their orders.

What looks after open trades (exits, guards, managed plans) asks this picture instead of the ledger, trade by trade. It is as
true as the moment it was read at: whoever writes reads it under the ledger's write lock, and reads it again after an answer
of the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, tuple_

from desk import store
from desk.store import OrderRecord, PositionRecord, TradeTotal
from resources.ledger import tables as t
from resources.ledger.base import Gather
from resources.ledger.tables import audit
from trading.orders import MAY_BE_AT_BROKER

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class OpenTrades:
    """positions: those that are not flat, by strategy and symbol. made_of: by (strategy, symbol) the signed quantity by trade
    of everything the position is made of, its own trade first. orders: of those trades, by trade, oldest first."""

    positions: Sequence[PositionRecord]
    made_of: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    orders: Mapping[str, Sequence[OrderRecord]] = field(default_factory=dict)
    head: int = 0
    """Number of the audit's newest record then: while it is the newest, nothing of this has changed but the bars held."""

    def of(self, position: PositionRecord) -> Mapping[str, float]:
        """Signed quantity by trade of what `position` is made of."""
        return self.made_of.get((position.strategy, position.symbol), {})


HEAD = select(func.coalesce(func.max(audit.c.seq), 0).label("seq"))
"""Select of the number of the audit's newest record. Whatever writes an order's event, a fill, a position or an intent writes one
in the same transaction: the database's triggers see to that."""


def head_of(found: Mapping[str, Sequence[Any]]) -> int:
    """The number in the rows of a read with `HEAD` as ``head``."""
    return int(found["head"][0].seq)


def selects(*chosen: Any) -> dict[str, Any]:
    """Selects, by name, of what `of_rows` wants to know of the open positions (of these conditions)."""
    p = t.positions.c
    positions = select(t.positions).where(p.quantity != 0.0, *chosen)
    made_of = select(p.trade_id).where(p.quantity != 0.0, *chosen)
    return {
        "positions": positions.order_by(p.strategy, p.symbol),
        "totals": store.totals_of(made_of),
        "orders": store.orders_where(store.among(t.intents.c.trade_id, made_of)),
    }


_ALL = Gather(head=HEAD, **selects())
_CHOSEN = Gather(
    head=HEAD, **selects(tuple_(t.positions.c.strategy, t.positions.c.symbol).in_(bindparam("chosen", expanding=True)))
)


def read(connection: Connection, wanted: Iterable[tuple[str, str]] | None = None, **options: Any) -> OpenTrades:
    """The open trades, or those of the `wanted` (strategy, symbol) alone. One read, however many there are (more where a
    position is made of several trades). options: of its execution (`store.LOCKED`)."""
    chosen = {} if wanted is None else {"chosen": list(set(wanted))}
    return of_rows(connection, (_ALL if wanted is None else _CHOSEN).read(connection, chosen, **options))


def of_rows(connection: Connection, found: Mapping[str, Sequence[Any]]) -> OpenTrades:
    """The open trades of the rows of `selects` and `HEAD`; more is read where a position is made of several trades."""
    positions = [store.position_of(row) for row in found["positions"]]
    orders: dict[str, list[OrderRecord]] = {p.trade_id: [] for p in positions if p.trade_id}
    for row in found["orders"]:
        orders.setdefault(row.trade_id, []).append(store.order_of(row))
    totals = store.add_up(dict.fromkeys(orders, TradeTotal()), found["totals"])
    made_of = _made_of(connection, positions, {trade_id: total.quantity for trade_id, total in totals.items()})
    more = {trade for own in made_of.values() for trade in own} - orders.keys()
    return OpenTrades(positions, made_of, orders | orders_of(connection, more) if more else orders, head_of(found))


def still(connection: Connection, seen: OpenTrades, **options: Any) -> bool:
    """Is `seen` as it was read? Under the write lock it stays so. options: of the execution (`store.LOCKED`)."""
    return int(connection.execute(HEAD, **options).scalar_one()) == seen.head


def orders_of(connection: Connection, trade_ids: Iterable[str]) -> dict[str, list[OrderRecord]]:
    """Orders by trade, oldest first; one read. A trade without orders has an empty list."""
    return _by_trade(connection, trade_ids)


def _by_trade(connection: Connection, trade_ids: Iterable[str], *conditions: Any) -> dict[str, list[OrderRecord]]:
    found: dict[str, list[OrderRecord]] = {trade_id: [] for trade_id in sorted(trade_ids)}
    if found:
        for order in store.find_orders(connection, t.intents.c.trade_id.in_(list(found)), *conditions):
            found[order.trade_id].append(order)
    return found


def working_of(connection: Connection, trade_ids: Iterable[str]) -> dict[str, list[OrderRecord]]:
    """`orders_of`, of those the broker may hold."""
    return _by_trade(connection, trade_ids, store.in_states(*MAY_BE_AT_BROKER))


def quantities(connection: Connection, positions: Sequence[PositionRecord]) -> dict[tuple[str, str], dict[str, float]]:
    """By (strategy, symbol) the signed quantity by trade: its own trade, and others whose entry filled late beside it."""
    return _made_of(connection, positions, store.trade_quantities(connection, [p.trade_id for p in positions if p.trade_id]))


def _made_of(
    connection: Connection, positions: Sequence[PositionRecord], own: Mapping[str, float]
) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    beside: list[PositionRecord] = []
    for position in positions:
        held = own.get(position.trade_id, 0.0)
        found[position.strategy, position.symbol] = {position.trade_id: held} if held else {}
        if abs(position.quantity - held) > _TINY * abs(position.quantity):
            beside.append(position)
    if beside:
        f = t.fills.c
        keys = [(p.strategy, p.symbol) for p in beside]
        query = select(f.strategy, f.symbol, f.trade_id).distinct().where(tuple_(f.strategy, f.symbol).in_(keys))
        rows = connection.execute(query.order_by(f.trade_id)).all()
        others = store.trade_quantities(connection, {row.trade_id for row in rows} - own.keys())
        for row in rows:
            if held := others.get(row.trade_id, 0.0):
                found[row.strategy, row.symbol][row.trade_id] = held
    return found
