"""What the ledger says about risk that is open, and about the trades a strategy has closed.

Risk of a position: what is lost from the price now to its protective stops; what no stop covers counts whole. Amounts are in
account currency. What cannot be known is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from trading.orders import MAY_BE_AT_BROKER, OrderState
from trading.sizing_inputs import Evidence

_RESTING = [s.value for s in (*MAY_BE_AT_BROKER, OrderState.EMULATED)]
_AT_BROKER = [s.value for s in MAY_BE_AT_BROKER]
_NOISE = 1e-9


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """The account as the desk noted it at a bar close."""

    equity: float
    currency: str
    close_time: int


@dataclass(frozen=True, slots=True)
class OpenRisk:
    """open: of positions; working: of entries that may still fill. None where a price or stop cannot be known."""

    open: float | None
    working: float | None


def known_account(connection: Connection, until: int) -> KnownAccount | None:
    """The newest account snapshot at or before `until` (UTC us)."""
    a = t.account_snapshots.c
    row = connection.execute(
        select(a.equity, a.currency, a.close_time).where(a.close_time <= until).order_by(a.close_time.desc()).limit(1)
    ).one_or_none()
    return None if row is None else KnownAccount(float(row.equity), str(row.currency), int(row.close_time))


def open_risk(connection: Connection) -> OpenRisk:
    """Risk of every open position and of every entry at work, all strategies together."""
    d = t.desk_state.c
    marks = connection.execute(select(d.value).where(d.key == "prices")).scalar() or {}
    prices = {symbol: float(mark[0]) for symbol, mark in marks.items()}
    return OpenRisk(_of_positions(connection, prices), _of_entries(connection))


def _of_positions(connection: Connection, prices: Mapping[str, float]) -> float | None:
    p, o, i = t.positions.c, t.orders.c, t.intents.c
    held = connection.execute(select(p.symbol, p.trade_id, p.quantity).where(p.quantity != 0.0)).all()
    if not held:
        return 0.0
    trades = [row.trade_id for row in held]
    multipliers = _multipliers(connection, trades)
    stops: dict[str, list[tuple[float, float]]] = {}
    rows = connection.execute(
        select(i.trade_id, o.quantity, o.filled_quantity, o.stop_price)
        .join(t.intents, i.id == o.id)
        .where(i.trade_id.in_(trades), i.leg.op("~")(r"^stop($|[.:])"), o.state.in_(_RESTING), o.stop_price.is_not(None))
    )
    for row in rows:
        stops.setdefault(row.trade_id, []).append((float(row.quantity - row.filled_quantity), float(row.stop_price)))
    total = 0.0
    for row in held:
        price, multiplier = prices.get(row.symbol), multipliers.get(row.trade_id)
        if price is None or multiplier is None or not math.isfinite(price):
            return None
        left, side = abs(float(row.quantity)), 1.0 if row.quantity > 0 else -1.0
        # The furthest stop first: where stops of a replaced order overlap, the least favourable counts.
        for quantity, stop in sorted(stops.get(row.trade_id, []), key=lambda x: -(price - x[1]) * side):
            covered = min(quantity, left)
            total += covered * max((price - stop) * side, 0.0) * multiplier
            left -= covered
        if left > _NOISE * abs(row.quantity):
            total += left * abs(price) * multiplier
    return total


def _of_entries(connection: Connection) -> float | None:
    o, i = t.orders.c, t.intents.c
    rows = connection.execute(
        select(o.quantity, o.filled_quantity, i.content)
        .join(t.intents, i.id == o.id)
        .where(is_entry(i.leg), o.state.in_(_AT_BROKER))
    )
    total = 0.0
    for row in rows:
        meta: Mapping[str, Any] = row.content.get("meta", {})
        reference, stop, multiplier = row.content.get("reference_price"), meta.get("stop_price"), meta.get("multiplier")
        if reference is None or multiplier is None:
            return None
        distance = abs(reference - stop) if stop is not None else abs(reference)
        total += max(row.quantity - row.filled_quantity, 0.0) * distance * multiplier
    return total


def _multipliers(connection: Connection, trades: list[str]) -> dict[str, float]:
    i = t.intents.c
    rows = connection.execute(select(i.id, i.content).where(i.id.in_(trades)))
    return {row.id: float(row.content["meta"]["multiplier"]) for row in rows}


def evidence_of(connection: Connection, strategy: str, until: int) -> Evidence:
    """Closed trades of `strategy` whose last fill came at or before `until` (UTC us), in multiples of what each risked."""
    results = [r for r in multiples_of(connection, strategy, until) if r != 0.0]
    won, lost = [r for r in results if r > 0], [-r for r in results if r < 0]
    return Evidence(len(won), len(lost), math.fsum(won), math.fsum(lost))


def multiples_of(connection: Connection, strategy: str, until: int) -> list[float]:
    """Results, net of commissions, of the closed trades of `strategy` whose last fill came at or before `until` (UTC us), in
    multiples of what each risked, by their first fill.

    Risked: entered quantity times the distance of its average price from the first stop. A trade that was split on the way
    does not add up to nothing and is left out, as is one whose stop is not on record.
    """
    f, i = t.fills.c, t.intents.c
    fills = connection.execute(
        select(f.trade_id, f.order_id, f.side, f.quantity, f.price, f.commission)
        .where(f.strategy == strategy, f.fill_time <= until)
        .order_by(f.fill_time, f.id)
    ).all()
    entries = {
        row.id: row.content for row in connection.execute(select(i.id, i.content).where(i.strategy == strategy, i.leg == "entry"))
    }
    by_trade: dict[str, list[Any]] = {}
    for fill in fills:
        by_trade.setdefault(fill.trade_id, []).append(fill)
    found = (_multiple(its, trade_id, entries.get(trade_id)) for trade_id, its in by_trade.items())
    return [r for r in found if r is not None]


def _multiple(fills: list[Any], trade_id: str, content: Mapping[str, Any] | None) -> float | None:
    """Result of a closed trade over what it risked, None when it is open or its risk is not known."""
    if content is None or content.get("meta", {}).get("stop_price") is None:
        return None
    signed = [f.quantity if f.side == "buy" else -f.quantity for f in fills]
    side = content.get("side") or next((f.side for f in fills if f.order_id == trade_id), None)
    entered = [f for f in fills if f.side == side]  # of the entry, or of all its slices
    quantity = sum(f.quantity for f in entered)
    if not quantity > 0 or abs(sum(signed)) > _NOISE * quantity:
        return None
    multiplier = float(content["meta"]["multiplier"])
    average = sum(f.quantity * f.price for f in entered) / quantity
    risked = quantity * abs(average - float(content["meta"]["stop_price"])) * multiplier
    pnl = -sum(s * f.price for s, f in zip(signed, fills, strict=True)) * multiplier - sum(f.commission for f in fills)
    return float(pnl / risked) if risked > 0 else None
