"""What a person does to an open position beside closing it: reduce it, or turn it around. All of it audited, who and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from desk import reductions, reversals, store
from desk.faults import crash_point
from desk.store import PositionRecord
from resources.brokers.protocol import Broker
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe
from trading.windows import close_after

ENTRY_BARS = 2
"""Bars of the trade's timeframe in which the entry of a reversal may be made: the exit fills in the first."""


class NoPosition(LookupError):
    """The strategy does not hold the instrument."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command about one position. request: names the command, so that repeating it does nothing more."""

    strategy: str
    symbol: str
    request: str
    reason: str
    who: str


@dataclass(frozen=True, slots=True)
class Reduced:
    """What became of it. quantity: units that are closed; left: what stays; order_id: of the order that closes them."""

    trade_id: str
    quantity: float
    left: float
    order_id: str
    state: str


class ByHand:
    """instrument_of(symbol): None when the universe does not have it. no_new_risk(): why no decision is taken now."""

    def __init__(
        self, engine: Engine, broker: Callable[[], Broker], clock: Callable[[], int], router: reversals.Routes,
        instrument_of: Callable[[str], Instrument | None],
    ) -> None:  # fmt: skip
        self._engine = engine
        self._broker = broker
        self._clock = clock
        self._router = router
        self._instrument_of = instrument_of
        self.no_new_risk: Callable[[], str] = lambda: ""

    def reduce(self, asked: Asked, *, quantity: float | None = None, share: float | None = None) -> Reduced:
        """Close `quantity` units or `share` (0..1) of a position; all of it or more closes it. Never refused by risk or a halt.

        A request that is repeated says what came of the first one: it never meets what is open by then. Raises NoPosition,
        reductions.NotReduced.
        """
        if (quantity is None) is (share is None):
            raise reductions.NotReduced("exactly one of quantity and share says how much to close")
        wish = reductions.Wish(asked.strategy, asked.symbol, asked.request, asked.reason, asked.who, quantity, share)
        with store.routing_lock:
            if (before := self._reduced_before(asked)) is not None:
                return before
            position = self._held(asked)
            instrument = self._instrument_of(asked.symbol)
            if instrument is None:
                raise reductions.NotReduced(f"{asked.symbol} is not in the universe: its lot size is not known; close it instead")
            units = reductions.units(wish, position.quantity, float(instrument.lot_size))
            if units >= abs(position.quantity):
                with self._engine.begin() as connection:
                    store.lock(connection)
                    reductions.note_whole(connection, wish, position, self._clock())
                done = self._router.exit_position(asked.strategy, asked.symbol, "manual", self._clock(), asked.who)
                return Reduced(position.trade_id, units, 0.0, next(iter(done.intent_ids), ""), done.refusal or "closing")
            with self._engine.begin() as connection:
                store.lock(connection)
                order_id = reductions.want(connection, wish, position, units, self._clock())
            crash_point("reduce_wanted")
            self._reductions()
            with self._engine.connect() as connection:
                order = store.find_order(connection, order_id)
            assert order is not None
            return Reduced(order.trade_id, order.quantity, abs(position.quantity) - order.quantity, order_id, str(order.state))

    def _reduced_before(self, asked: Asked) -> Reduced | None:
        """What came of a request that was made before, going on with it where it stands; None for a new one."""
        with self._engine.connect() as connection:
            order = reductions.ordered(connection, asked)
            whole = reductions.closed_whole(connection, asked)
            held = store.find_positions(connection, asked.strategy, asked.symbol)
        if order is not None:
            self._reductions()
            with self._engine.connect() as connection:
                order = store.find_order(connection, order.id)
                assert order is not None
                left = abs(store.trade_quantity(connection, order.trade_id))
            closing = order.quantity - order.filled_quantity if order.working else 0.0
            return Reduced(order.trade_id, order.quantity, max(0.0, left - closing), order.id, str(order.state))
        if whole is None:
            return None
        if not held or held[0].trade_id != whole.trade_id:
            return Reduced(whole.trade_id, whole.quantity, 0.0, "", "closed")
        done = self._router.exit_position(asked.strategy, asked.symbol, "manual", self._clock(), asked.who)
        return Reduced(whole.trade_id, whole.quantity, 0.0, next(iter(done.intent_ids), ""), done.refusal or "closing")

    def reverse(self, asked: Asked, *, stop: float, target: float | None = None, quantity: float | None = None) -> dict[str, Any]:
        """Close a position, then enter the other side with `stop` through the whole risk path. quantity: default as much.

        ``{"trade_id", "state": closing | entered | refused, ...}``. Raises NoPosition, reversals.NotReversed.
        """
        with store.routing_lock:
            with self._engine.connect() as connection:
                over = reversals.outcome(connection, asked.request)
                known = reversals.standing(connection).get(f"{asked.strategy}/{asked.symbol}")
            if over is not None:
                return {"trade_id": "", "state": over["action"].removeprefix("reverse_"), **over}
            if known is None or known.request != asked.request:
                self._want_reverse(asked, self._held(asked), stop, target, quantity)
                crash_point("reverse_wanted")
            done = self._reversals().get(asked.request)
            with self._engine.connect() as connection:
                known = reversals.standing(connection).get(f"{asked.strategy}/{asked.symbol}")
            told: dict[str, Any] = {"trade_id": known.trade_id if known is not None else "", "state": "closing"}
            if done is not None:
                told |= {
                    "state": "entered" if done.accepted else "refused",
                    "refusal": done.refusal,
                    "intents": list(done.intent_ids),
                }
            return told

    def before_exits(self) -> None:
        """Ask again for reductions that were refused: else the whole trade is closed, because a part of it is not guarded."""
        reductions.ask_again(self._books())

    def go_on(self) -> None:
        """Bring what is under way as far as it can go now: after each drain, at start, after each comparison of the books."""
        self._reductions()
        self._reversals()

    def _want_reverse(
        self, asked: Asked, position: PositionRecord, stop: float, target: float | None, quantity: float | None
    ) -> None:
        instrument, now = self._instrument_of(asked.symbol), self._clock()
        if instrument is None:
            raise reversals.NotReversed(f"{asked.symbol} is not in the universe: nothing can be entered there; close it instead")
        for name, price in (("stop", stop), ("target", target)):
            if price is not None and not math.isclose(instrument.round_price(price), price, rel_tol=1e-12):
                raise reversals.NotReversed(f"{name} {price:g} is not on the tick grid of {instrument.tick_size}")
        with self._engine.begin() as connection:
            store.lock(connection)
            timeframe = reversals.timeframe_of(connection, position.trade_id)
            until = close_after(now, Timeframe(timeframe), ENTRY_BARS, calendar(instrument.calendar))
            units = quantity if quantity is not None else abs(position.quantity)
            wish = reversals.Wish(
                asked.strategy, asked.symbol, asked.request, asked.reason, asked.who, position.trade_id,
                position.quantity < 0, stop, target, units, timeframe, now, until,
            )  # fmt: skip
            reversals.want(connection, wish)

    def _held(self, asked: Asked) -> PositionRecord:
        with self._engine.connect() as connection:
            held = store.find_positions(connection, asked.strategy, asked.symbol)
        if not held:
            raise NoPosition(f"{asked.strategy} holds no {asked.symbol}")
        return held[0]

    def _books(self) -> reductions.Books:
        return reductions.Books(self._engine, self._broker(), self._clock)

    def _reductions(self) -> list[str]:
        return reductions.continue_reductions(self._books(), self._instrument_of)

    def _reversals(self) -> dict[str, Any]:
        return reversals.continue_reversals(
            self._engine, self._router, self._clock, self._instrument_of, self.no_new_risk()
        )  # fmt: skip
