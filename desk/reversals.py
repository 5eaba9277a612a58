"""A position is turned around by a person's command: it is closed, then the other side is entered through the whole risk path.

The wish is committed first, so that a desk that dies in between goes on with it. The exit is never refused. The entry is an
order like any other once the trade is over for certain: sized as asked, judged by every rule at the prices of then, refused
with a code when one says so, and given up when the trade is not over in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import Connection, Engine, func, select

from desk import exit_orders, store
from desk.faults import crash_point
from desk.guards import may_fill
from resources.ledger import audit
from resources.ledger import tables as t
from trading.instruments import Instrument
from trading.signals import Action, Decision, GateVerdict, PartitionRef, Signal
from trading.timeframes import Timeframe

log = structlog.get_logger("desk.reversals")

KEY: Final = "reversals"
"""desk_state: ``strategy/symbol`` -> the wish."""
DONE_KEY: Final = "reversals_done"
"""desk_state: request -> what came of it, of the newest ones: a command that is repeated turns nothing around twice."""
_KEPT = 500
REASON: Final = "reverse"


class NotReversed(ValueError):
    """Nothing was done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for. stop, target: levels of the new side; quantity: its units; valid_until: market time (UTC us)
    until which the entry may be made; trade_id: of the position to close. request: names the command, for ever."""

    strategy: str
    symbol: str
    request: str
    reason: str
    who: str
    trade_id: str
    long: bool
    stop: float
    target: float | None
    quantity: float
    timeframe: str
    asked_time: int
    valid_until: int

    @property
    def key(self) -> str:
        return f"{self.strategy}/{self.symbol}"


class Routes(Protocol):
    """What is asked of the router."""

    def submit_decision(self, decision: Decision) -> Any: ...
    def exit_position(self, strategy: str, symbol: str, reason: str, close_time: int, who: str = "desk") -> Any: ...


def standing(connection: Connection) -> dict[str, Wish]:
    """Reversals under way, by ``strategy/symbol``."""
    return {key: Wish(**value) for key, value in store.get_state(connection, KEY).items()}


def outcome(connection: Connection, request: str) -> dict[str, Any] | None:
    """What came of a request that is over; None while it is not, or never was."""
    found = store.get_state(connection, DONE_KEY).get(request)
    return dict(found) if found is not None else None


def want(connection: Connection, wish: Wish) -> None:
    """Commit the wish. Repeating the request changes nothing. The caller holds the write lock. Raises NotReversed."""
    known = standing(connection).get(wish.key)
    if known is not None and known.request != wish.request:
        raise NotReversed(f"{wish.key} is being reversed already, asked for by {known.who}")
    if known is None:
        _put(connection, wish.key, wish)
        audit.append(connection, wish.who, "reverse_wanted", {k: v for k, v in asdict(wish).items() if k != "who"})


def timeframe_of(connection: Connection, trade_id: str) -> str:
    """The timeframe its entry was decided on. Raises NotReversed for a trade that no decision of ours opened."""
    root = store.find_order(connection, trade_id)
    timeframe = root.content["meta"].get("timeframe") if root is not None and root.leg == "entry" else None
    if timeframe is None:
        raise NotReversed(f"trade {trade_id!r} was opened by no decision of this desk: close it, and enter by hand")
    return str(timeframe)


def continue_reversals(
    engine: Engine, router: Routes, clock: Callable[[], int], instruments: Callable[[str], Instrument | None], no_new_risk: str
) -> dict[str, Any]:
    """Bring every reversal as far as it can go now: request -> what the risk path said of its entry.

    no_new_risk: why no decision is taken now, "" when they are; the exit goes on, the entry waits.
    """
    done: dict[str, Any] = {}
    with store.routing_lock:
        with engine.connect() as connection:
            wishes = standing(connection)
        for wish in wishes.values():
            state = _state(engine, wish)
            if state == "open":  # killed before the exit was wanted
                router.exit_position(wish.strategy, wish.symbol, REASON, wish.asked_time, wish.who)
                state = _state(engine, wish)
            if clock() > wish.valid_until:
                _end(engine, wish, "reverse_expired", {"entry": "not made: the trade was not over in time"})
            elif state == "flat" and not no_new_risk:
                crash_point("reverse_flat")
                result = router.submit_decision(_decision(engine, wish, clock(), instruments(wish.symbol)))
                crash_point("reverse_routed")
                told = {"accepted": result.accepted, "refusal": result.refusal, "intents": list(result.intent_ids)}
                _end(engine, wish, "reverse_entered" if result.accepted else "reverse_refused", told)
                done[wish.request] = result
    return done


def _state(engine: Engine, wish: Wish) -> str:
    """open (nothing closes the trade yet), closing, or flat: over, with nothing of it left at the broker."""
    with engine.connect() as connection:
        orders = store.find_orders(connection, t.intents.c.trade_id == wish.trade_id)
        held = store.trade_quantity(connection, wish.trade_id)
    if held == 0.0 and not any(o.working for o in orders):
        return "flat"
    leg = exit_orders.exit_leg(REASON, wish.asked_time)
    known = any(o.leg == leg or (o.is_exit and may_fill(o)) for o in orders)
    return "closing" if known or held == 0.0 else "open"


def _decision(engine: Engine, wish: Wish, now: int, instrument: Instrument | None) -> Decision:
    """The entry as a decision: approved by a person, at the last price, on the newest judged bars."""
    timeframe = Timeframe(wish.timeframe)
    with engine.connect() as connection:
        last = store.get_state(connection, "prices").get(wish.symbol)
        refs = _newest_bars(connection, f"bars_{timeframe}", wish.symbol)
        root = store.find_order(connection, wish.trade_id)
    price = float(last[0]) if last is not None else math.nan
    revision = str(root.content["meta"].get("strategy_revision", "")) if root is not None else ""
    signal = Signal(
        strategy=wish.strategy,
        strategy_revision=f"{revision}+{wish.request}",  # of its own: the strategy's signal of the same bar is another one
        symbol=wish.symbol,
        timeframe=timeframe,
        close_time=wish.asked_time,
        action=Action.ENTER_LONG if wish.long else Action.ENTER_SHORT,
        strength=1.0,
        reference_price=instrument.round_price(price) if instrument is not None and math.isfinite(price) else price,
        stop_price=wish.stop,
        target_price=wish.target,
        valid_until=wish.valid_until,
        sizing={"kind": "fixed", "quantity": wish.quantity},
        features_version="manual",
        partitions=refs,
        reason=f"reversed by {wish.who}: {wish.reason}",
    )
    return Decision(signal, True, (GateVerdict("manual", True, wish.who, wish.reason),))


def _newest_bars(connection: Connection, dataset: str, symbol: str) -> tuple[PartitionRef, ...]:
    """The newest judged partition; one that no verdict is on, which the rules refuse, when there is none."""
    q = t.quality_verdicts.c
    newest = connection.execute(select(func.max(q.session)).where(q.dataset == dataset, q.symbol == symbol)).scalar()
    if newest is None:
        return (PartitionRef(dataset, "1970-01-01", symbol, ""),)
    row = select(q.content_hash).where(q.dataset == dataset, q.symbol == symbol, q.session == newest)
    judged = connection.execute(row.order_by(q.evaluated_wall.desc()).limit(1)).scalar()
    return (PartitionRef(dataset, str(newest), symbol, str(judged)),)


def _end(engine: Engine, wish: Wish, action: str, told: Mapping[str, Any]) -> None:
    log.warning(action, strategy=wish.strategy, symbol=wish.symbol, request=wish.request, **told)
    with engine.begin() as connection:
        store.lock(connection)
        _put(connection, wish.key, None)
        over = {**store.get_state(connection, DONE_KEY), wish.request: {"action": action, "time": wish.asked_time, **told}}
        newest = sorted(over.items(), key=lambda item: item[1]["time"])[-_KEPT:]
        store.put_state(connection, DONE_KEY, dict(newest))
        content = {"strategy": wish.strategy, "symbol": wish.symbol, "request": wish.request, "asked_by": wish.who}
        audit.append(connection, "desk", action, {**content, **told})


def _put(connection: Connection, key: str, wish: Wish | None) -> None:
    value = store.get_state(connection, KEY)
    if wish is None:
        value.pop(key, None)
    else:
        value[key] = asdict(wish)
    store.put_state(connection, KEY, value)
