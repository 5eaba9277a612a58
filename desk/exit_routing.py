"""Positions that are to be closed become wishes for exits: what is open of their trades, and nothing that is under way twice.

One transaction commits the wishes and that the broker is about to be asked to cancel what rests of the trades: a desk that is
killed after it goes on with both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from desk import exit_orders, external, mismatches, store, trades
from desk.exit_orders import ExitWish, Wanted
from desk.store import PositionRecord
from desk.trades import OpenTrades
from resources.brokers.protocol import Broker, Replacing
from trading.orders import OrderState
from trading.refusals import RefusalCode, refuse

DESK = "desk"
"""Who wants what the desk's own rules ask for."""


@dataclass(frozen=True, slots=True)
class RouteResult:
    """What became of a request. decision_id: of an exit, the trade's id. refusal: ``CODE: key=value``, "" when accepted.
    intent_ids: the orders it became, a denied one included."""

    decision_id: str
    accepted: bool
    refusal: str
    intent_ids: tuple[str, ...]


def close_positions(
    engine: Engine, broker: Broker, clock: Callable[[], int], leaving: Sequence[tuple[str, str, str]], close_time: int, who: str,
    seen: OpenTrades | None = None,
) -> list[RouteResult]:  # fmt: skip
    """Close each of these (strategy, symbol, reason): committed together, cancelled together and sent together. seen: everything
    that was open when it was read last; it is read again when something has happened since."""
    with store.routing_lock:
        if not leaving:
            return []
        replacing = isinstance(broker, Replacing)
        # What the desk wants by itself it finds out again; what a person was told is wanted must outlast a power cut, and so must
        # what is committed as SENDING.
        locked = store.LOCKED_NOT_FLUSHED if who == DESK and not replacing else store.LOCKED
        with engine.begin() as connection:
            if seen is not None and trades.still(connection, seen, **locked):
                book = seen
            else:
                locked = locked if seen is None else {}
                book = trades.read(connection, {(strategy, symbol) for strategy, symbol, _ in leaving}, **locked)
            results, wanted = want(connection, leaving, book, close_time, clock(), who, replacing)
        made = {order.id for order in (*wanted.exits, *wanted.sending)}
        under_way = any(intent_id not in made for result in results for intent_id in result.intent_ids)
        exit_orders.send_in_place(engine, broker, clock, wanted)
        if under_way or wanted.exits:
            exit_orders.send_wanted(engine, broker, clock, None if under_way else wanted)
        return results


def want(
    connection: Connection, leaving: Sequence[tuple[str, str, str]], book: OpenTrades, close_time: int, now_time: int, who: str,
    replacing: bool = False,
) -> tuple[list[RouteResult], Wanted]:  # fmt: skip
    """Commit the wish to close each of these (strategy, symbol, reason), together. book: read under the write lock, which the
    caller holds. replacing: see `want_and_cancel`. A position that is not of its trade is noted as a mismatch, and not touched.
    Returns the answers, and the exits with their trades' orders as they are after it."""
    held = {(p.strategy, p.symbol): p for p in book.positions}
    answers: list[RouteResult | ExitWish] = []
    wished: set[str] = set()
    for strategy, symbol, reason in leaving:
        position = held.get((strategy, symbol))
        if position is None:
            text = str(refuse(RefusalCode.SIZE_ZERO, strategy=strategy, symbol=symbol, reason="no_open_position"))
            answers.append(RouteResult("", False, text, ()))
            continue
        leg = exit_orders.exit_leg(reason.replace(":", "_"), close_time)
        answer = _exit_of(connection, position, leg, book, now_time)
        if isinstance(answer, ExitWish) and position.trade_id in wished:
            answer = RouteResult(position.trade_id, True, "", ())  # asked for twice at once: the first reason stands
        wished.add(position.trade_id)
        answers.append(answer)
    wishes = [a for a in answers if isinstance(a, ExitWish)]
    own = {wish.entry.trade_id: book.orders.get(wish.entry.trade_id, ()) for wish in wishes}
    wanted = exit_orders.want_and_cancel(connection, wishes, own, now_time, who, replacing)
    ids = iter(wanted.intent_ids)
    results = [RouteResult(a.entry.trade_id, True, "", (next(ids),)) if isinstance(a, ExitWish) else a for a in answers]
    return results, wanted


def _exit_of(
    connection: Connection, position: PositionRecord, leg: str, book: OpenTrades, now_time: int
) -> RouteResult | ExitWish:
    """What is to be wanted, or what is answered instead."""
    trade_id = position.trade_id
    orders = book.orders.get(trade_id, ())
    under_way = [o.id for o in orders if o.is_exit and (o.working or o.state is OrderState.INITIALIZED)]
    same = [o.id for o in orders if o.leg == leg]
    if under_way or same:
        return RouteResult(trade_id, True, "", tuple(under_way or same))
    entry = next((o for o in orders if o.leg in ("entry", external.LEG)), None)
    quantity = book.of(position).get(trade_id, 0.0)
    if entry is None or quantity == 0.0:
        text = f"position {position.quantity:g} is not of trade {trade_id!r}: its fills sum up to {quantity:g}"
        mismatches.put(connection, position.symbol, "POSITION", text, now_time, sticky=True)
        refusal = str(refuse(RefusalCode.RECONCILIATION, symbol=position.symbol, strategy=position.strategy))
        return RouteResult(trade_id, False, refusal, ())
    return ExitWish(entry, leg, quantity)
