"""Orders, fills and positions in the ledger as the desk reads them, its locks, and the marks of a bar close.

Orders, events, fills and positions are written by desk.journal.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Engine,
    Float,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    func,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from resources.brokers.protocol import Account
from resources.ledger import action_tables
from resources.ledger import tables as t
from resources.ledger.base import BOOK_KEY, at_once, reading
from trading import portfolio
from trading.orders import MAY_BE_AT_BROKER, OrderState, OrderType, Side, TimeInForce
from trading.signals import Intent

_DESK_LOCK = 0x7461_7065_6465  # one desk process
_WRITE_LOCK = 0x7461_7065_6F72  # one writer of orders at a time

routing_lock = threading.RLock()
"""Held over a whole routing step (commit, send, commit): nothing else of this process may send or apply meanwhile."""


class SecondDesk(Exception):
    """Another desk process works on this ledger."""


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """One order with its intent. trade_id: the entry intent's id. close_time of exits is in `leg`."""

    id: str
    broker: str
    broker_order_id: str
    mode: str
    parent: str
    leg: str
    trade_id: str
    strategy: str
    symbol: str
    session: str
    side: Side
    quantity: float
    order_type: OrderType
    limit_price: float | None
    stop_price: float | None
    state: OrderState
    filled_quantity: float
    average_price: float | None
    text: str
    refusal: str
    created_time: int
    content: Mapping[str, Any]

    @property
    def working(self) -> bool:
        """May the broker hold it?"""
        return self.state in MAY_BE_AT_BROKER

    @property
    def is_exit(self) -> bool:
        return self.leg.startswith("exit:")

    @property
    def multiplier(self) -> float:
        return float(self.content["meta"]["multiplier"])


@dataclass(frozen=True, slots=True)
class PositionRecord:
    """A strategy's position in an instrument. quantity is signed; realized_pnl net of commissions, since ever."""

    strategy: str
    symbol: str
    trade_id: str
    quantity: float
    average_price: float
    realized_pnl: float
    commission: float
    opened_time: int | None
    bars_held: int
    exit_state: Mapping[str, Any]


@contextmanager
def exclusive(engine: Engine) -> Iterator[Callable[[], bool]]:
    """Be the only desk on this ledger. Gives ``held() -> bool``: does the lock still stand (the server may restart)?

    Raises SecondDesk at once when another process holds it.
    """
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        if not connection.execute(text(f"SELECT pg_try_advisory_lock({BOOK_KEY})"), {"key": _DESK_LOCK}).scalar():
            raise SecondDesk("another desk works on this ledger: stop it first (two desks would manage the same orders)")
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        asking = threading.Lock()

        def held() -> bool:
            with asking:
                try:
                    return bool(connection.execute(text("SELECT pg_backend_pid()")).scalar() == pid)
                except SQLAlchemyError:
                    return False

        yield held
    finally:
        try:
            connection.execute(text(f"SELECT pg_advisory_unlock({BOOK_KEY})"), {"key": _DESK_LOCK})
        except SQLAlchemyError:
            connection.invalidate()  # the server ended the session, and the lock with it
        connection.close()


def lock(connection: Connection) -> None:
    """Write orders alone until the end of this transaction, whatever process asks."""
    connection.execute(_LOCK)


_LOCK = text(f"SELECT pg_advisory_xact_lock({BOOK_KEY.replace(':key', str(_WRITE_LOCK))})")
LOCKED = at_once(_LOCK.text)
"""Execution options of a transaction's first statement: it has `lock` done before it, in the same round trip."""
LOCKED_NOT_FLUSHED = at_once(f"SET LOCAL synchronous_commit TO off; {_LOCK.text}")
"""`LOCKED`, of a transaction whose commit is not waited for on the disk. For what a power cut may take, because it is told or
found again: what a broker said (with the cursor that says so), and wishes that nobody was sent for. Never for a commit that a
send relies on: that one waits, and with it is on the disk whatever was committed before."""


def wall_us() -> int:
    """Real clock, UTC us."""
    return time.time_ns() // 1_000


_STATE = select(t.desk_state.c.value).where(t.desk_state.c.key == bindparam("state_key"))


def get_state(connection: Connection, key: str, **options: Any) -> dict[str, Any]:
    """Value of a desk_state key, empty when it was never written. options: of the execution (`LOCKED`)."""
    return dict(connection.execute(_STATE, {"state_key": key}, **options).scalar() or {})


def get_states(connection: Connection, *keys: str) -> list[dict[str, Any]]:
    """Values of several desk_state keys in one read."""
    rows = connection.execute(select(t.desk_state.c.key, t.desk_state.c.value).where(t.desk_state.c.key.in_(keys)))
    found = {row.key: dict(row.value) for row in rows}
    return [found.get(key, {}) for key in keys]


def put_state(connection: Connection, key: str, value: Mapping[str, Any]) -> None:
    values = {"value": dict(value), "updated_wall": wall_us()}
    statement = insert(t.desk_state).values(key=key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))


def trade_quantity(connection: Connection, trade_id: str) -> float:
    """Signed open quantity of a trade: what its fills sum up to, and what splits made of them."""
    return trade_quantities(connection, [trade_id])[trade_id]


def trade_quantities(connection: Connection, trade_ids: Iterable[str]) -> dict[str, float]:
    """`trade_quantity` of several trades, in one read."""
    return {trade_id: total.quantity for trade_id, total in trade_totals(connection, trade_ids).items()}


@dataclass(frozen=True, slots=True)
class TradeTotal:
    """What a trade's fills and splits add up to. largest: the biggest of them, by which a rest of rounding is told from units."""

    total: float = 0.0
    largest: float = 0.0

    def plus(self, signed: float, *sizes: float) -> TradeTotal:
        return TradeTotal(self.total + signed, max(self.largest, *(abs(x) for x in sizes or (signed,))))

    @property
    def quantity(self) -> float:
        """Signed open quantity."""
        return 0.0 if abs(self.total) <= portfolio.QUANTITY_EPSILON * self.largest else self.total


def among(column: Any, asked: Any) -> Any:
    """Is the column's value one of a parameter's, or of a select's, which is done first: it gives few values of a long table?"""
    if isinstance(asked, Select | CompoundSelect):
        return column == any_(func.array(asked.scalar_subquery()))
    return column.in_(asked)


def totals_of(asked: Any) -> Any:
    """Select of what every fill and every split did to the trades asked for (a parameter or a select): fills first, in order."""
    f, p = t.fills.c, action_tables.position_adjustments.c
    none = cast(null(), Float)
    filled = (
        select(
            t.intents.c.trade_id, f.side, f.quantity, none.label("before"), none.label("after"), literal(0).label("kind"),
            f.recorded_wall.label("at"), f.id,
        )
        .join(t.fills, t.intents.c.id == f.order_id)
        .where(among(t.intents.c.trade_id, asked))
    )  # fmt: skip
    split = select(
        p.trade_id, cast(null(), Text), none, p.quantity_before, p.quantity_after, literal(1), p.adjusted_time, p.action_id
    ).where(among(p.trade_id, asked))
    both = filled.union_all(split).subquery()
    c = both.c
    return select(c.trade_id, c.side, c.quantity, c.before, c.after).order_by(c.kind, c.at, c.id)


_TOTALS = totals_of(bindparam("trade_ids", expanding=True))


def trade_totals(connection: Connection, trade_ids: Iterable[str]) -> dict[str, TradeTotal]:
    """What the fills and splits of several trades add up to, by trade; nothing for a trade without any."""
    totals = dict.fromkeys(trade_ids, TradeTotal())
    return add_up(totals, connection.execute(_TOTALS, {"trade_ids": list(totals)})) if totals else {}


def add_up(totals: dict[str, TradeTotal], rows: Iterable[Any]) -> dict[str, TradeTotal]:
    """`totals` with what the rows of `totals_of` did to them, by trade."""
    for row in rows:
        total = totals.get(row.trade_id, TradeTotal())
        if row.side is not None:
            totals[row.trade_id] = total.plus(Side(row.side).sign * row.quantity)
        else:
            totals[row.trade_id] = total.plus(row.after - row.before, row.before, row.after)
    return totals


_MULTIPLIER = t.intents.c.content["meta"]["multiplier"].as_float().label("multiplier")
_JOINED = select(
    t.orders, t.intents.c.parent, t.intents.c.leg, t.intents.c.trade_id, t.intents.c.strategy, t.intents.c.session,
    t.intents.c.refusal, cast(t.intents.c.content, Text).label("content"),
).join(t.intents, t.intents.c.id == t.orders.c.id)  # fmt: skip


def find_orders(connection: Connection, *conditions: Any) -> list[OrderRecord]:
    """Orders of `conditions` over the tables orders and intents, oldest first."""
    return [order_of(row) for row in connection.execute(orders_where(*conditions))]


def orders_where(*conditions: Any) -> Any:
    """Select of orders with their intents, oldest first; its rows are for `order_of`."""
    return _JOINED.where(*conditions).order_by(t.orders.c.created_wall, t.orders.c.id)


def find_order(connection: Connection, order_id: str) -> OrderRecord | None:
    found = find_orders(connection, t.orders.c.id == order_id)
    return found[0] if found else None


def in_states(*states: OrderState) -> Any:
    return t.orders.c.state.in_([s.value for s in states])


_parsed: Callable[[str], Mapping[str, Any]] = lru_cache(4096)(json.loads)
"""An intent never changes, and the orders of open trades are read again and again: by its text, so that none is ever stale."""


def order_of(row: Any) -> OrderRecord:
    """The order of a row of `orders_where`."""
    return OrderRecord(
        row.id, row.broker, row.broker_order_id, row.mode, row.parent, row.leg, row.trade_id, row.strategy, row.symbol,
        row.session, Side(row.side), row.quantity, OrderType(row.order_type), row.limit_price, row.stop_price,
        OrderState(row.state), row.filled_quantity, row.average_price, row.text, row.refusal, row.created_time,
        _parsed(row.content),
    )  # fmt: skip


def intent_of(content: Mapping[str, Any]) -> Intent:
    """The intent that `Intent.to_dict` wrote."""
    values = {k: v for k, v in content.items() if k != "id"}
    return Intent(
        **{
            **values,
            "side": Side(values["side"]),
            "order_type": OrderType(values["order_type"]),
            "time_in_force": TimeInForce(values["time_in_force"]),
        }
    )


class DeskStore:
    """What others may know of the desk's ledger, each read in its own transaction; and the marks of a bar close."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def open_positions(self, strategy: str | None = None, symbol: str | None = None) -> list[PositionRecord]:
        """Positions that are not flat, by strategy and symbol."""
        with reading(self.engine) as connection:
            return find_positions(connection, strategy, symbol)

    def working_orders(self, symbol: str | None = None) -> list[OrderRecord]:
        """Orders the broker may hold, UNKNOWN ones included."""
        return self._orders(in_states(*MAY_BE_AT_BROKER), *([t.orders.c.symbol == symbol] if symbol else []))

    def unknown_orders(self) -> list[OrderRecord]:
        return self._orders(in_states(OrderState.UNKNOWN))

    def orders_of_trade(self, trade_id: str) -> list[OrderRecord]:
        return self._orders(t.intents.c.trade_id == trade_id)

    def order(self, order_id: str) -> OrderRecord | None:
        return next(iter(self._orders(t.orders.c.id == order_id)), None)

    def state(self, key: str) -> dict[str, Any]:
        """Value of a desk_state key: ``halt``, ``mismatches``, ``prices``, ..."""
        with reading(self.engine) as connection:
            return get_state(connection, key)

    def newest_order_time(self) -> int:
        """Market time of the newest order, sent or only wanted; UTC us, 0 when there is none."""
        with reading(self.engine) as connection:
            return int(connection.execute(select(func.max(t.orders.c.created_time))).scalar() or 0)

    def last_prices(self) -> dict[str, float]:
        """Newest marked price by symbol."""
        return {symbol: float(price) for symbol, (price, _) in self.state("prices").items()}

    def set_bars_held(self, held: Mapping[tuple[str, str], int]) -> None:
        """Keep how many bars open positions, by (strategy, symbol), have been held."""
        if not held:
            return
        p = t.positions.c
        key = (p.strategy == bindparam("of_strategy")) & (p.symbol == bindparam("of_symbol"))
        statement = update(t.positions).where(key, p.quantity != 0.0).values(bars_held=bindparam("now_held"))
        rows = [{"of_strategy": s, "of_symbol": i, "now_held": n} for (s, i), n in sorted(held.items())]
        with self.engine.begin() as connection:
            connection.execute(statement, rows)

    def mark(self, close_time: int, session: str, prices: Mapping[str, float]) -> None:
        """The last prices after a bar close (UTC us; session ISO date), and what each strategy has earned at them.

        Call it once a close, after its fills are drained: the collar and the strategies' daily loss read it.
        """
        with self.engine.begin() as connection:
            lock(connection)
            known = get_state(connection, "prices")
            known |= {s: [float(p), close_time] for s, p in prices.items() if close_time >= known.get(s, (0, 0))[1]}
            put_state(connection, "prices", known)
            marks = get_state(connection, "strategy_pnl")
            if marks.get("session") != session:
                marks = {"session": session, "start": marks.get("last", {}), "last": {}}
            marks["last"] = strategy_totals(connection, {s: p for s, (p, _) in known.items()})
            put_state(connection, "strategy_pnl", marks)

    def snapshot_account(self, close_time: int, session: str, account: Account) -> None:
        """Write the account at a bar close, once; gross exposure is of the ledger's positions at the last prices."""
        prices = self.last_prices()
        with self.engine.begin() as connection:
            multipliers = position_multipliers(connection)
            gross = sum(
                abs(p.quantity) * prices.get(p.symbol, p.average_price) * multipliers.get(p.trade_id, 1.0)
                for p in find_positions(connection)
            )
            row = {
                "close_time": close_time, "session": session, "cash": account.cash, "equity": account.equity,
                "currency": account.currency, "gross_exposure": gross,
            }  # fmt: skip
            connection.execute(insert(t.account_snapshots).values(**row).on_conflict_do_nothing())

    def _orders(self, *conditions: Any) -> list[OrderRecord]:
        with reading(self.engine) as connection:
            return find_orders(connection, *conditions)


def find_positions(connection: Connection, strategy: str | None = None, symbol: str | None = None) -> list[PositionRecord]:
    """Positions that are not flat."""
    p = t.positions.c
    query = select(t.positions).where(p.quantity != 0.0).order_by(p.strategy, p.symbol)
    if strategy is not None:
        query = query.where(p.strategy == strategy)
    if symbol is not None:
        query = query.where(p.symbol == symbol)
    return [position_of(row) for row in connection.execute(query)]


def position_of(row: Any) -> PositionRecord:
    """The position of a row of its table."""
    return PositionRecord(
        row.strategy, row.symbol, row.trade_id, row.quantity, row.average_price, row.realized_pnl, row.commission,
        row.opened_time, row.bars_held, row.exit_state,
    )  # fmt: skip


def position_multipliers(connection: Connection) -> dict[str, float]:
    """Multiplier by the trade id of the open positions."""
    i, p = t.intents.c, t.positions.c
    rows = connection.execute(select(i.id, _MULTIPLIER).join(t.positions, p.trade_id == i.id).where(p.quantity != 0.0))
    return {row.id: float(row.multiplier) for row in rows}


def trade_multipliers(connection: Connection, trade_ids: Iterable[str]) -> dict[str, float]:
    """Multiplier by trade id, of trades open or closed."""
    i = t.intents.c
    rows = connection.execute(select(i.id, _MULTIPLIER).where(i.id.in_(list(trade_ids))))
    return {row.id: float(row.multiplier) for row in rows}


def strategy_totals(connection: Connection, prices: Mapping[str, float]) -> dict[str, float]:
    """Profit and loss since ever by strategy, open positions at `prices` (at cost where there is none)."""
    multipliers = position_multipliers(connection)
    totals: dict[str, float] = {}
    for row in connection.execute(select(t.positions)):
        open_pnl = row.quantity * (prices.get(row.symbol, row.average_price) - row.average_price)
        total = row.realized_pnl + open_pnl * multipliers.get(row.trade_id, 1.0)
        totals[row.strategy] = totals.get(row.strategy, 0.0) + total
    return totals
