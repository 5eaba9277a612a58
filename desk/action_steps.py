"""One split or spin-off in the desk's books, step by step; each may be repeated, so that a killed desk goes on where it was.

started    what is held and what rests is written down, with the audit entry
cancelled  the symbol's resting orders are cancelled through the normal order path: their levels are of yesterday
broker     the broker exchanges the units (a paper broker is told to, a real one has done it by itself); in a spin-off the
           units stay, and a paper broker pays out what was spun off
adjusted   positions, averages, cash in lieu, last price and plan levels in the ledger, in one transaction
done       protection works again at the new levels, and exits that were under way are asked for again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import structlog
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects.postgresql import insert

from desk import exit_orders, journal, store, submission
from desk.faults import crash_point
from desk.legs import kind_of, part_of
from desk.store import OrderRecord, PositionRecord
from resources.brokers.paper_book import Split, spun_off, whole_lots
from resources.brokers.protocol import Broker
from resources.ledger import action_tables as a
from resources.ledger import audit
from resources.ledger import tables as t
from trading.calendars import calendar
from trading.corporate_actions import CorporateAction, exact_factor
from trading.instruments import Instrument
from trading.orders import OrderState
from trading.timeframes import session_date

log = structlog.get_logger("desk.actions")

STARTED, ADJUSTED, DONE, HELD = "started", "adjusted", "done", "held"
MAX_ATTEMPTS = 5
_LIVES = frozenset({OrderState.FILLED, OrderState.PARTIALLY_FILLED})


class ActionIncomplete(Exception):
    """A split could not be finished now: what rests at the broker is not known to be gone, or it has not split yet."""


@runtime_checkable
class SplitsOnRequest(Protocol):
    """A broker that exchanges units when it is told to (paper)."""

    def apply_split(self, action_id: str, symbol: str, factor: float, split_time: int, *, units: bool = True) -> Split: ...


@dataclass(frozen=True, slots=True)
class Books:
    """What the steps work on."""

    engine: Engine
    broker: Broker
    clock: Callable[[], int]


def apply(books: Books, action: CorporateAction, instrument: Instrument, plans: Sequence[tuple[str, str]]) -> None:
    """Bring a split with a known factor through all steps that are still to do. plans: (name, revision) whose levels are
    of before. The caller holds the routing lock. Raises ActionIncomplete, and what ledger or broker raise."""
    state = _start(books, action)
    if state == DONE:
        return
    if state == STARTED:
        _cancel(books, action)
        crash_point("action_cancelled")
        split = _at_broker(books, action, instrument)
        crash_point("action_at_broker")
        _adjust(books, action, instrument, split, plans)
        crash_point("action_adjusted")
    _protect(books, action, instrument)
    with books.engine.begin() as connection:
        store.lock(connection)
        set_state(connection, action, DONE, done_wall=store.wall_us())
        audit.append(connection, "desk", "corporate_action_done", {"action": action.id, "symbol": action.symbol})
    session = str(session_date(action.ex_session))
    log.info("action_applied", symbol=action.symbol, kind=str(action.kind), factor=action.factor, session=session)


def _start(books: Books, action: CorporateAction) -> str:
    """The state so far; a new one begins with what is held and what rests."""
    with books.engine.begin() as connection:
        store.lock(connection)
        row = connection.execute(_where(select(a.action_applications), action)).one_or_none()
        if row is not None and row.state != HELD:
            return str(row.state)
        positions = store.find_positions(connection, symbol=action.symbol)
        resting = [o for o in store.find_orders(connection, t.orders.c.symbol == action.symbol) if o.working]
        content = {
            "kind": str(action.kind), "other_symbol": action.other_symbol, "factor": action.factor, "source": action.source,
            "positions": [_position(p) for p in positions], "resting": [_order(o) for o in resting],
        }  # fmt: skip
        values = {
            "action_id": action.id, "symbol": action.symbol, "session": session_date(action.ex_session).isoformat(),
            "factor": action.factor, "state": STARTED, "content": content, "started_time": books.clock(),
            "started_wall": store.wall_us(),
        }  # fmt: skip
        changed = {k: values[k] for k in ("factor", "state", "content")}
        connection.execute(
            insert(a.action_applications)
            .values(values)
            .on_conflict_do_update(index_elements=["action_id", "symbol"], set_=changed)
        )
        told = {"action": action.id, "symbol": action.symbol, "session": values["session"], **content}
        audit.append(connection, "desk", "corporate_action_started", told)
    crash_point("action_started")
    return STARTED


def _position(p: PositionRecord) -> dict[str, Any]:
    return {"strategy": p.strategy, "trade_id": p.trade_id, "quantity": p.quantity, "average_price": p.average_price}


def _order(o: OrderRecord) -> dict[str, Any]:
    return {
        "id": o.id, "leg": o.leg, "trade_id": o.trade_id, "strategy": o.strategy, "side": o.side.value, "quantity": o.quantity,
        "limit_price": o.limit_price, "stop_price": o.stop_price, "state": o.state.value,
    }  # fmt: skip


def _where(statement: Any, action: CorporateAction) -> Any:
    c = a.action_applications.c
    return statement.where(c.action_id == action.id, c.symbol == action.symbol)


def set_state(connection: Connection, action: CorporateAction, state: str, **more: Any) -> None:
    connection.execute(_where(update(a.action_applications), action).values(state=state, **more))


def _content(books: Books, action: CorporateAction) -> Mapping[str, Any]:
    with books.engine.connect() as connection:
        return dict(connection.execute(_where(select(a.action_applications.c.content), action)).scalar_one())


def _resting(books: Books, symbol: str) -> list[OrderRecord]:
    with books.engine.connect() as connection:
        found = store.find_orders(connection, t.orders.c.symbol == symbol)
    # entries first: nothing more fills while legs protect
    return sorted((o for o in found if o.working), key=lambda o: kind_of(o.leg) != "entry")


def _cancel(books: Books, action: CorporateAction) -> None:
    resting = _resting(books, action.symbol)
    if not resting:
        return
    exit_orders.cancel_orders(books.engine, books.broker, books.clock, resting, f"{action.kind} {action.id}")
    if _resting(books, action.symbol):
        submission.resolve_unknown(books.engine, books.broker, books.clock)
    if left := _resting(books, action.symbol):
        raise ActionIncomplete(f"{action.symbol}: {len(left)} order(s) may still rest at the broker: {left[0].id}")


def _at_broker(books: Books, action: CorporateAction, instrument: Instrument) -> Split | None:
    """What the broker did to the position; None when it holds none of it by itself (a real broker, compared instead)."""
    if isinstance(books.broker, SplitsOnRequest):
        opened = calendar(instrument.calendar).bounds(action.ex_session)[0]
        return books.broker.apply_split(action.id, action.symbol, action.factor, opened, units=action.rescales_units)
    held = sum(p.quantity for p in books.broker.positions() if p.symbol == action.symbol)
    with books.engine.connect() as connection:
        ours = store.find_positions(connection, symbol=action.symbol)
    expected = float(sum((Fraction(p.quantity) for p in ours), Fraction(0)) * action.units)
    if abs(held - expected) >= float(instrument.lot_size):
        raise ActionIncomplete(
            f"{action.symbol}: the broker holds {held:g}, a {action.kind} by {action.factor:g} makes {expected:g}"
        )
    return None


def shares(quantities: Mapping[str, float], factor: Fraction, total: float, lot: Fraction) -> dict[str, float]:
    """`quantities` times `factor` in whole lots that sum up to `total`: who loses the largest fraction gets the lot over."""
    exact = {name: Fraction(q) * factor for name, q in quantities.items()}
    whole = {name: (abs(x) // lot * lot) * (1 if x >= 0 else -1) for name, x in exact.items()}
    left = (Fraction(total) - sum(whole.values(), Fraction(0))) / lot
    side = 1 if left > 0 else -1
    by_rest = sorted(exact, key=lambda name: ((exact[name] - whole[name]) * side, name), reverse=True)
    for name in by_rest[: int(abs(left))]:
        whole[name] += lot * side
    return {name: float(value) for name, value in whole.items()}


def _adjust(
    books: Books, action: CorporateAction, instrument: Instrument, split: Split | None, plans: Sequence[tuple[str, str]]
) -> None:
    factor, wall, now = exact_factor(action.factor), store.wall_us(), books.clock()
    session = session_date(action.ex_session).isoformat()
    with books.engine.begin() as connection:
        store.lock(connection)
        positions = store.find_positions(connection, symbol=action.symbol)
        quantities = {p.strategy: p.quantity for p in positions}
        net = sum((Fraction(q) for q in quantities.values()), Fraction(0))
        agreed = split is not None and abs(float(net) - split.quantity_before) < 1e-9 * max(1.0, abs(float(net)))
        total = split.quantity_after if split is not None and agreed else whole_lots(net * action.units, instrument)
        after = shares(quantities, action.units, total, Fraction(instrument.lot_size)) if action.rescales_units else quantities
        prices = store.get_state(connection, "prices")
        last = float(prices[action.symbol][0]) if action.symbol in prices else 0.0
        # A real broker's payment for the fraction is in its statement: only what is known here is booked.
        price = split.price if split is not None else 0.0
        changes = []
        for position in positions:
            told = _adjust_one(connection, action, instrument, position, after[position.strategy], price)
            changes.append(told)
            connection.execute(
                a.position_adjustments.insert().values(
                    action_id=action.id, symbol=action.symbol, broker=books.broker.name, session=session, factor=action.factor,
                    adjusted_time=now, recorded_wall=wall, **told,
                )
            )  # fmt: skip
        opened = calendar(instrument.calendar).bounds(action.ex_session)[0]
        now_last = last
        if action.symbol in prices and int(prices[action.symbol][1]) <= opened:  # a later mark is at the new level already
            now_last = float(Fraction(last) / factor)
            prices[action.symbol] = [now_last, prices[action.symbol][1]]
            store.put_state(connection, "prices", prices)
        for name, revision in plans:
            row = {"plan": name, "revision": revision, "action_id": action.id, "symbol": action.symbol, "factor": action.factor}
            connection.execute(insert(a.plan_levels).values(**row, recorded_wall=wall).on_conflict_do_nothing())
        set_state(connection, action, ADJUSTED)
        content = {
            "action": action.id, "symbol": action.symbol, "session": session, "factor": action.factor, "positions": changes,
            "last_price": [last, now_last], "plans": [name for name, _ in plans],
        }  # fmt: skip
        audit.append(connection, "desk", "corporate_action_adjusted", content)


def _adjust_one(
    connection: Connection, action: CorporateAction, instrument: Instrument, position: PositionRecord, after: float, price: float
) -> dict[str, Any]:
    """Write one strategy's position; returns what changed."""
    factor, multiplier = exact_factor(action.factor), float(instrument.multiplier)
    average = float(Fraction(position.average_price) / factor)
    if not action.rescales_units and not price:  # what a real broker delivered is another holding: nothing is booked out here
        average = position.average_price
    fraction = float(Fraction(position.quantity) * action.units - Fraction(after))
    paid = fraction * price * multiplier
    realized = fraction * (price - average) * multiplier if price else 0.0
    if not action.rescales_units and price:  # the part that was spun off leaves at what the price lost, against its share
        value = spun_off(after, price, action.factor, multiplier)
        paid, realized = paid + value, realized + value - after * (position.average_price - average) * multiplier
    values: dict[str, Any] = {
        "quantity": after, "average_price": average if after else 0.0, "realized_pnl": position.realized_pnl + realized,
    }  # fmt: skip
    if not after:
        values |= {"trade_id": "", "opened_time": None, "bars_held": 0, "exit_state": {}}
    p = t.positions.c
    connection.execute(update(t.positions).where(p.strategy == position.strategy, p.symbol == position.symbol).values(**values))
    return {
        "strategy": position.strategy, "trade_id": position.trade_id, "quantity_before": position.quantity,
        "quantity_after": after, "average_before": position.average_price, "average_after": values["average_price"],
        "cash_in_lieu": paid,
    }  # fmt: skip


# -- protection --------------------------------------------------------------------------------------------------------


def _protect(books: Books, action: CorporateAction, instrument: Instrument) -> None:
    """Stops and targets that rested work again at the new levels; exits that were under way are wanted again."""
    resting = list(_content(books, action)["resting"])
    exits = [o for o in resting if o["leg"].startswith("exit:")]
    with books.engine.begin() as connection:
        store.lock(connection)
        for told in exits:
            _want_again(connection, told, books.clock())
    leaving = {o["trade_id"] for o in exits}
    for trade_id in sorted({o["trade_id"] for o in resting} - leaving):
        legs = [o for o in resting if o["trade_id"] == trade_id and kind_of(o["leg"]) in ("stop", "target")]
        for attempt in range(1, MAX_ATTEMPTS + 1):
            wanted = _replace_legs(books, action, instrument, legs, attempt)
            crash_point("action_legs_committed")
            if wanted:
                submission.send(books.engine, books.broker, books.clock, wanted)
                submission.resolve_unknown(books.engine, books.broker, books.clock)
            if not _unprotected(books, action, trade_id, legs):
                break
        else:
            log.error("not_protected", symbol=action.symbol, trade=trade_id, attempts=MAX_ATTEMPTS)
    crash_point("action_protected")
    exit_orders.continue_exits(books.engine, books.broker, books.clock)


def _want_again(connection: Connection, told: Mapping[str, Any], now_time: int) -> None:
    quantity = store.trade_quantity(connection, told["trade_id"])
    orders = store.find_orders(connection, t.intents.c.trade_id == told["trade_id"])
    entry = next((o for o in orders if o.leg == "entry"), None)
    alive = any(o.is_exit and (o.working or o.state is OrderState.INITIALIZED) for o in orders)
    if entry is not None and quantity != 0.0 and not alive:
        reason, close_time, attempt = exit_orders.split_leg(told["leg"])
        exit_orders.want_exit(
            connection, entry, exit_orders.exit_leg(reason, close_time, attempt + 1), quantity, now_time, "desk"
        )


def _mark(action: CorporateAction) -> str:
    return action.id.removeprefix("act-")[:8]


def _unprotected(books: Books, action: CorporateAction, trade_id: str, legs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Kinds of legs the trade had and has no more, while it is open."""
    with books.engine.connect() as connection:
        if store.trade_quantity(connection, trade_id) == 0.0:
            return []
        orders = store.find_orders(connection, t.intents.c.trade_id == trade_id)
    kinds = {str(o["leg"]).split(":")[0] for o in legs}
    alive = {o.leg.split(":")[0] for o in orders if f":{_mark(action)}:" in o.leg and (o.working or o.state in _LIVES)}
    return sorted(kinds - alive)


def _replace_legs(
    books: Books, action: CorporateAction, instrument: Instrument, legs: Sequence[Mapping[str, Any]], attempt: int
) -> list[str]:
    """Commit the new legs of one trade as SENDING; returns their ids, stop first; [] when nothing is to be sent."""
    if not legs:
        return []
    missing = _unprotected(books, action, legs[0]["trade_id"], legs)
    factor, now, session = exact_factor(action.factor), books.clock(), session_date(action.ex_session).isoformat()
    with books.engine.begin() as connection:
        store.lock(connection)
        held = store.trade_quantity(connection, legs[0]["trade_id"])
        newest = {str(o["leg"]).split(":")[0]: o for o in sorted(legs, key=lambda o: str(o["leg"]))}  # of two, the moved one
        guarded = {kind: float(o["quantity"]) for kind, o in newest.items() if kind_of(kind) == "stop"}
        total, lot = Fraction(abs(held)), Fraction(instrument.lot_size)
        ratio = total / sum((Fraction(q) for q in guarded.values()), Fraction(0)) if guarded else Fraction(0)
        each = {part_of(kind): q for kind, q in shares(guarded, ratio, abs(held), lot).items()}
        group: list[journal.NewOrder] = []
        changes: list[dict[str, Any]] = []
        mode = broker = ""
        for kind, told in sorted(newest.items()):  # stop before target
            old = store.find_order(connection, told["id"])
            quantity = each.get(part_of(kind), abs(held) if len(guarded) < 2 else 0.0)
            if kind not in missing or held == 0.0 or old is None or quantity <= 0.0:
                continue
            before = store.intent_of(old.content)
            intent = replace(
                before, leg=f"{kind}:{_mark(action)}:{attempt}", quantity=quantity, valid_until=None,
                stop_price=_moved(before.stop_price, factor, instrument),
                limit_price=_moved(before.limit_price, factor, instrument),
                meta={**before.meta, "replaces": old.id, "action": action.id},
            )  # fmt: skip
            group.append(journal.NewOrder(intent, old.trade_id))
            mode, broker = old.mode, old.broker
            level = "stop_price" if before.stop_price is not None else "limit_price"
            changes.append(
                {
                    "replaces": old.id, "intent": intent.id, "leg": intent.leg, "quantity": [old.quantity, intent.quantity],
                    level: [getattr(before, level), getattr(intent, level)],
                }
            )  # fmt: skip
        if not group or not journal.insert_intents(
            connection, group, session=session, broker=broker, mode=mode, state=OrderState.SENDING, now_time=now
        ):
            return []
        content = {"action": action.id, "symbol": action.symbol, "trade": legs[0]["trade_id"], "legs": changes}
        audit.append(connection, "desk", "corporate_action_protection", content)
    return [n.intent.id for n in group]


def _moved(price: float | None, factor: Fraction, instrument: Instrument) -> float | None:
    """`price` at the new level, on the tick grid, never below one tick."""
    if price is None:
        return None
    return max(instrument.round_price(float(Fraction(price) / factor)), float(instrument.tick_size))


def report(action: CorporateAction) -> dict[str, Any]:
    """An action as plain values for the audit."""
    values = asdict(action)
    return {**values, "kind": str(action.kind), "factor": action.factor if action.factor_known else None}
