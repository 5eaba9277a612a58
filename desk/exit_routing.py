"""Positions that are to be closed become wishes for exits: what is open of their trades, and nothing that is under way twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from desk import exit_orders, external, mismatches
from desk.exit_orders import ExitWish
from desk.store import PositionRecord
from desk.trades import OpenTrades
from trading.orders import OrderState
from trading.refusals import RefusalCode, refuse


@dataclass(frozen=True, slots=True)
class RouteResult:
    """What became of a request. decision_id: of an exit, the trade's id. refusal: ``CODE: key=value``, "" when accepted.
    intent_ids: the orders it became, a denied one included."""

    decision_id: str
    accepted: bool
    refusal: str
    intent_ids: tuple[str, ...]


def want(
    connection: Connection, leaving: Sequence[tuple[str, str, str]], book: OpenTrades, close_time: int, now_time: int, who: str
) -> list[RouteResult]:
    """Commit the wish to close each of these (strategy, symbol, reason), together. book: read under the write lock, which the
    caller holds. A position that is not of its trade is noted as a mismatch, and not touched."""
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
    ids = iter(exit_orders.want_exits(connection, wishes, now_time, who))
    return [RouteResult(a.entry.trade_id, True, "", (next(ids),)) if isinstance(a, ExitWish) else a for a in answers]


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
