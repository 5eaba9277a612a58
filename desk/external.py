"""Orders that no desk sent: placed by hand at the broker. Adopted into the ledger, counted in risk, never touched unless told.

They belong to the strategy ``external``; all of one instrument are one trade, so that a person's buys and sells add up to
one position. A halt or a flatten of the whole desk leaves them alone; ``--strategy external`` names them.

What an instrument is worth per point, its currency and its calendar are kept in the ledger (desk_state key
``instruments``), so that an order is adopted by whatever process hears of it first. An order on an instrument that is not
there cannot be counted: it stays a mismatch, which blocks new risk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select

from desk import store
from resources.brokers.protocol import EXTERNAL_PREFIX, Broker, OrderReport
from resources.ledger import audit
from resources.ledger import tables as t
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.orders import OrderEvent, OrderState, OrderType, TimeInForce
from trading.signals import Intent
from trading.timeframes import US_PER_DAY, from_us, session_date

log = structlog.get_logger("desk.external")

STRATEGY = "external"
LEG = "external"
INSTRUMENTS_KEY = "instruments"
_ID_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Adopted:
    """One order taken over: its id here and at the broker."""

    order_id: str
    symbol: str
    broker_order_id: str


def is_external(client_id: str) -> bool:
    return client_id.startswith(EXTERNAL_PREFIX) and len(client_id) <= _ID_LENGTH


def remember(engine: Engine, instruments: Mapping[str, Instrument]) -> None:
    """Keep in the ledger what is needed to count an order on any instrument of the universe."""
    wanted: dict[str, Any] = {
        s: {"multiplier": float(i.multiplier), "currency": i.currency, "calendar": i.calendar} for s, i in instruments.items()
    }
    with engine.begin() as connection:
        known = store.get_state(connection, INSTRUMENTS_KEY)
        if {**known, **wanted} != known:  # one that left the universe may still be traded by hand
            store.put_state(connection, INSTRUMENTS_KEY, {**known, **wanted})


def unheard(connection: Connection, client_ids: Collection[str]) -> set[str]:
    """Those of the ids that are external orders the ledger does not have."""
    foreign = {c for c in client_ids if is_external(c)}
    if not foreign:
        return foreign
    return foreign - set(connection.execute(select(t.orders.c.id).where(t.orders.c.id.in_(foreign))).scalars())


def adopt(engine: Engine, broker: Broker, client_ids: Collection[str], now_time: int) -> list[Adopted]:
    """Take over the external orders of these ids, as the broker's books describe them. Raises what the broker raises."""
    with engine.connect() as connection:
        wanted = unheard(connection, client_ids)
    if not wanted:
        return []
    completed = broker.completed_orders(now_time - 7 * US_PER_DAY)  # a person's order of last week, told of now at the latest
    reports = {r.client_id: r for r in (*broker.open_orders(), *completed) if r.client_id in wanted}
    with engine.begin() as connection:
        store.lock(connection)
        return adopt_reports(connection, broker.name, reports.values(), now_time)


def adopt_reports(connection: Connection, broker_name: str, reports: Collection[OrderReport], now_time: int) -> list[Adopted]:
    """Take over what the reports describe, under the ledger's write lock. Orders of unknown instruments are left out."""
    known = store.get_state(connection, INSTRUMENTS_KEY)
    made: list[Adopted] = []
    fresh = unheard(connection, [r.client_id for r in reports])
    for report in reports:
        facts = known.get(report.symbol)
        if report.client_id not in fresh:
            continue
        if facts is None:
            log.error("external_order_not_counted", order=report.client_id, symbol=report.symbol, why="unknown instrument")
            continue
        _insert(connection, broker_name, report, facts, now_time)
        made.append(Adopted(report.client_id, report.symbol, report.broker_order_id))
        audit.append(
            connection, "desk", "external_adopted",
            {"order": report.client_id, "broker": broker_name, "broker_order_id": report.broker_order_id,
             "symbol": report.symbol, "side": report.side.value, "quantity": report.quantity},
        )  # fmt: skip
        log.warning("external_adopted", order=report.client_id, symbol=report.symbol, quantity=report.quantity)
    return made


def _insert(connection: Connection, broker_name: str, report: OrderReport, facts: Mapping[str, Any], now_time: int) -> None:
    kind = report.order_type or OrderType.MARKET
    intent = Intent(
        broker_name, LEG, STRATEGY, report.symbol, report.side, report.quantity, kind, TimeInForce.GTC, report.limit_price,
        report.stop_price, meta=dict(facts),
    )  # fmt: skip
    venue = calendar(str(facts["calendar"]))
    i = int(venue.close_time.searchsorted(now_time))
    session = session_date(int(venue.number[i])) if i < len(venue.number) else from_us(now_time).date()
    wall = store.wall_us()
    first = select(t.intents.c.trade_id).where(t.intents.c.strategy == STRATEGY, t.intents.c.symbol == report.symbol).limit(1)
    trade_id = connection.execute(first).scalar() or report.client_id
    connection.execute(
        t.intents.insert().values(
            id=report.client_id, parent=report.client_id, leg=LEG, trade_id=trade_id, strategy=STRATEGY, symbol=report.symbol,
            session=session.isoformat(), content={**intent.to_dict(), "id": report.client_id}, sizing={}, risk=[], refusal="",
            created_time=now_time, created_wall=wall,
        )
    )  # fmt: skip
    # Accepted, whatever became of it: its fills and its end are told by events and books, like any other order's.
    connection.execute(
        t.orders.insert().values(
            id=report.client_id, broker=broker_name, broker_order_id=report.broker_order_id, mode=STRATEGY,
            symbol=report.symbol, side=report.side.value, quantity=report.quantity, order_type=kind.value,
            limit_price=report.limit_price, stop_price=report.stop_price, state=OrderState.ACCEPTED.value,
            state_since=now_time, filled_quantity=0.0, text="placed at the broker, not by the desk", created_time=now_time,
            created_wall=wall,
        )
    )  # fmt: skip
    connection.execute(
        t.order_events.insert().values(
            order_id=report.client_id, event=OrderEvent.ACCEPT.value, event_key=f"desk/{report.client_id}/adopted",
            state_before="", state_after=OrderState.ACCEPTED.value, anomalous=False, text="adopted", event_time=now_time,
            recorded_wall=wall,
        )
    )  # fmt: skip
