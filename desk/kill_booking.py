"""What the kill switch did without a ledger is booked by the next desk that starts, before it does anything else.

Rule. The orders of the pull are taken over as `external` by their fills. Those that still work are cancelled: what they did
not do, the desk does itself, because the halt FLATTEN is latched first. Then the strategies' trades are handed over to
`external` at the price the pull got, instrument by instrument, as far as it closed them: no order is sent for that, and
neither the account's cash nor its net position changes. Whatever does not come out even is left with `external` or shows as a
mismatch at the comparison of the books, which blocks new risk on the instrument until a person has looked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from desk import events, exit_orders, external, journal, risk_state, store
from desk.broker_kill import BOOKED, PENDING, at_work, pending, write
from desk.journal import NewEvent, NewOrder
from desk.store import OrderRecord, PositionRecord
from resources.brokers.protocol import Broker, BrokerError, Execution
from resources.ledger import audit
from resources.ledger import tables as t
from trading.orders import OrderEvent, OrderState, OrderType, Side
from trading.signals import Intent

log = structlog.get_logger("desk.kill_booking")

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Transfer:
    """A strategy's trade that the pull closed: signed units as held, and the price."""

    strategy: str
    symbol: str
    trade_id: str
    quantity: float
    price: float


def book(engine: Engine, broker: Broker, clock: Callable[[], int], where: Path) -> list[Transfer]:
    """Book every pull that is not booked yet. The caller has drained the broker's events and sends nothing before.

    Raises BrokerError while an order of a pull may still work: the desk then does not begin, and asks again. A file that
    cannot be read raises, too: what was closed is not known.
    """
    done: list[Transfer] = []
    for path in pending(where):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            run, closes = str(told["run"]), [(str(c["client_id"]), str(c["symbol"])) for c in told["closes"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokerError(
                f"{path} cannot be read ({type(error).__name__}): it says what the kill switch closed without the ledger. "
                f"Compare the broker's statement with `tapeline positions`, then rename it to {path.stem}{BOOKED}"
            ) from error
        if at_work(told):
            raise BrokerError(
                f"process {told['pid']} cancels and closes at the broker (tapeline kill --broker-only): wait for it"
            )
        with store.routing_lock:
            _latch(engine, told, clock())
            _end_orders(engine, broker, clock, [c for c, _ in closes])
            moved = _hand_over(engine, clock(), run, closes)
            with engine.begin() as connection:
                store.lock(connection)
                content = {**told, "transfers": [[m.strategy, m.symbol, m.quantity, m.price] for m in moved]}
                audit.append(connection, str(told.get("who") or "kill_switch"), "kill_broker_only", content)
            write(path.with_name(path.name.removesuffix(PENDING) + BOOKED), told)
            path.unlink()
        log.error("kill_booked", run=run, file=path.name, transfers=len(moved))
        done += moved
    return done


def _latch(engine: Engine, told: Mapping[str, Any], now: int) -> None:
    with engine.begin() as connection:
        store.lock(connection)
        reason = f"kill switch without the ledger: {told.get('reason', '')}"
        who = str(told.get("who") or "kill_switch")
        risk_state.set_halt(connection, risk_state.HaltLevel.FLATTEN, risk_state.DESK, reason, who, now)


def _end_orders(engine: Engine, broker: Broker, clock: Callable[[], int], client_ids: Sequence[str]) -> None:
    """Cancel closing orders that still work, until the broker's books say that none does."""
    working = [o for o in broker.open_orders() if o.client_id in client_ids]
    for order in working:
        broker.cancel(order.client_id)
    events.drain(engine, broker, clock)
    left = [o.client_id for o in broker.open_orders() if o.client_id in client_ids]
    if left:
        raise BrokerError(f"orders of the kill switch may still work at the broker: {', '.join(left)}; nothing is booked before")


def _hand_over(engine: Engine, now: int, run: str, closes: Sequence[tuple[str, str]]) -> list[Transfer]:
    moved: list[Transfer] = []
    for symbol in sorted({symbol for _, symbol in closes}):
        with engine.begin() as connection:
            store.lock(connection)
            mine = [c for c, s in closes if s == symbol]
            orders = [o for o in store.find_orders(connection, t.orders.c.id.in_(mine)) if o.filled_quantity > 0.0]
            filled = sum(o.filled_quantity * o.side.sign for o in orders)
            if not orders or filled == 0.0:
                continue
            price = sum(o.filled_quantity * (o.average_price or 0.0) for o in orders) / sum(o.filled_quantity for o in orders)
            held = [p for p in store.find_positions(connection, symbol=symbol) if p.strategy != external.STRATEGY]
            for number, (position, quantity) in enumerate(_closed(held, filled)):
                transfer = Transfer(position.strategy, symbol, position.trade_id, quantity, price)
                _book(connection, transfer, orders[0], f"{run}.{symbol}.{number}", now)
                moved.append(transfer)
    return moved


def _closed(held: Sequence[PositionRecord], filled: float) -> list[tuple[PositionRecord, float]]:
    """(position, signed units of it) that fills of `filled` (signed) closed: all of them when that is their net, else those on
    the other side, as far as it goes."""
    net = sum(p.quantity for p in held)
    if abs(net + filled) <= _TINY * max(abs(net), abs(filled)):
        return [(p, p.quantity) for p in held]
    left, found = abs(filled), []
    for position in held:
        if position.quantity * filled < 0 and left > 0.0:
            units = min(abs(position.quantity), left)
            left -= units
            found.append((position, units if position.quantity > 0 else -units))
    return found


def _book(connection: Connection, transfer: Transfer, closing: OrderRecord, name: str, now: int) -> None:
    """Two fills that cancel each other out: the strategy's trade closes, `external` gets the other side."""
    entry = store.find_order(connection, transfer.trade_id)
    if entry is None:
        return  # nothing of it is known here: it shows as a mismatch
    out = Side.SELL if transfer.quantity > 0 else Side.BUY
    leg = exit_orders.exit_leg(f"kill.{name}", now)
    for order, side in ((entry, out), (closing, out.opposite)):
        meta = {k: order.content["meta"].get(k) for k in ("multiplier", "currency", "calendar")}
        intent = Intent(
            order.trade_id, leg, order.strategy, transfer.symbol, side, abs(transfer.quantity), OrderType.MARKET,
            reduce_only=True, meta={**meta, "booked": closing.id},
        )  # fmt: skip
        session = events.session_at(str(meta["calendar"]), now)
        if not journal.insert_intents(
            connection, [NewOrder(intent, order.trade_id)], session=session, broker=order.broker, mode=order.mode,
            state=OrderState.SENDING, now_time=now,
        ):  # fmt: skip
            continue
        record = store.find_order(connection, intent.id)
        assert record is not None
        execution = Execution(
            f"kill.{name}.{order.strategy}", intent.id, "", transfer.symbol, side, abs(transfer.quantity), transfer.price, 0.0,
            str(meta["currency"]), now,
        )  # fmt: skip
        journal.record_fill(connection, record, execution, session)
        key, told = f"kill/{intent.id}/booked", f"booked: closed at the broker by {closing.id}"
        journal.record_event(connection, NewEvent(intent.id, OrderEvent.FILL, key, now, told))
