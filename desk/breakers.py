"""Breakers: the day's loss, the fall from the highest equity and abnormal moves, judged at every price.

A price costs one addition and a comparison: equity moves by what the price moved times what is held, and the lowest equity
that is still allowed is kept. Prices and positions stand on the level of the moment: over a split both are brought to the
new one (`Breakers.scale`, desk/breaker_levels.py). What trips is latched in the ledger (a halt of the desk, or of the
instrument that moved), at the level its limit asks for; only an audited ``resume`` lifts it. Entries end, exits go on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from sqlalchemy import Connection, func, select

from desk import risk_state, store
from desk.risk_state import DESK, HaltLevel
from resources.brokers.protocol import Account
from resources.ledger import tables as t
from resources.ledger.actions import APPLIED
from trading.breaker_window import PriceWindow, Told, divided
from trading.corporate_actions import exact_factor
from trading.instruments import Instrument
from trading.limits import CircuitBreaker, Limits
from trading.timeframes import US_PER_MINUTE, iso

DAILY_LOSS, DRAWDOWN, CIRCUIT_BREAKER = "DAILY_LOSS", "DRAWDOWN", "CIRCUIT_BREAKER"
LATCHED_KEY = "breakers"
"""desk_state: what tripped last: {drawdown_peak, moves: {symbol: market time}}. Each tripped once for its cause."""
INSTRUMENT = "instrument:"
"""Scope of a halt of one instrument: ``instrument:EURUSD``."""


@dataclass(frozen=True, slots=True)
class Trip:
    """One breaker that tripped: level and scope of the halt, its reason (``CODE: key=value``), the price's market time."""

    code: str
    level: HaltLevel
    scope: str
    reason: str
    time: int = field(default=0, compare=False)


@dataclass(slots=True)
class _Held:
    """value_per_point: signed quantity times multiplier; mark: price the base equity has it at; moved: earned since."""

    value_per_point: float
    mark: float
    moved: float = 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows, beside the account. start_equity: of the session, peak_equity: the highest so far (NaN: none);
    positions: signed quantity by symbol; marks: the newest marked prices; marked: the same with their market time; applied:
    factors of the splits and spin-offs it has followed, by symbol and ISO date of the ex session. Amounts in account
    currency."""

    start_equity: float
    peak_equity: float
    positions: Mapping[str, float]
    marks: Mapping[str, float]
    multipliers: Mapping[str, float]
    marked: Mapping[str, Told] = field(default_factory=dict)
    applied: Mapping[tuple[str, str], float] = field(default_factory=dict)


class Breakers:
    """Judges every price. Rebuilt from the ledger by `rebase` at start, after fills and at bar closes. One thread only."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._windows: dict[str, PriceWindow] = {}
        self._limits: Limits | None = None
        self._floor = -math.inf
        self._peak_floor = -math.inf
        self.equity = math.nan
        """Account equity at the newest prices; NaN before the first `rebase`."""
        self.peak = math.nan
        self._start = math.nan

    def rebase(self, limits: Limits | None, account: Account, known: Known) -> None:
        """Begin from what ledger and broker say now."""
        positions, marks, multipliers = known.positions, known.marks, known.multipliers
        self._limits, self.equity, self._start = limits, account.equity, (start_equity := known.start_equity)
        self.peak = max(known.peak_equity, account.equity) if math.isfinite(known.peak_equity) else account.equity
        self._held = {
            symbol: _Held(quantity * multipliers[symbol], marks[symbol])
            for symbol, quantity in positions.items()
            if quantity and symbol in marks and symbol in multipliers
        }
        self._floor = -math.inf
        if limits is not None and limits.daily_loss is not None and math.isfinite(start_equity):
            amount, percent = limits.daily_loss.codes
            allowed = [x for x in (amount, start_equity * percent / 100.0) if not math.isnan(x)]
            self._floor = start_equity - min(allowed) if allowed else -math.inf
        self._set_peak_floor()

    def on_price(self, symbol: str, price: float, time_us: int) -> tuple[Trip, ...]:
        """Take one price (market time, UTC us); what trips by it. A price that is no number is no price."""
        if not 0.0 < price < math.inf:
            return ()
        held = self._held.get(symbol)
        if held is not None:
            moved = held.value_per_point * (price - held.mark)
            self.equity += moved - held.moved
            held.moved = moved
            if self.equity > self.peak:
                self.peak = self.equity
                self._set_peak_floor()
            if trips := self.equity_trips():
                self.hear(symbol, price, time_us)  # a move is judged by this price, too, when the next one comes
                return trips
        move = self.moved(symbol, price, time_us)
        return () if move is None else (move,)

    def moved(self, symbol: str, price: float, time_us: int) -> Trip | None:
        """What the instrument's move to this price trips, or None; the account is not looked at."""
        limit = self._limits.circuit_breaker if self._limits is not None else None
        return self._moved(symbol, price, time_us, limit) if limit is not None and 0.0 < price < math.inf else None

    def hear(self, symbol: str, price: float, time_us: int) -> float:
        """Keep the price and judge nothing; the largest move to it within the breaker's time, percent."""
        limit = self._limits.circuit_breaker if self._limits is not None else None
        if limit is None:
            return 0.0
        return self._windows.setdefault(symbol, PriceWindow()).move(time_us, price, int(limit.minutes * US_PER_MINUTE))

    def scale(
        self, symbol: str, factor: float, *, units: bool = True, held: bool = True, window: bool = True, before: int | None = None
    ) -> None:
        """Bring `symbol` to the level after a step of its price by `factor` (price before / price after), before the first
        price of that level is judged. Equity stays what it is.

        units: a split, of which the units held are multiplied; else what was held is worth less by what left. held: the
        position is of before the step; window: the prices the circuit breaker looks back on are, at or before `before`
        (UTC us; None: all of them).
        """
        kept = self._windows.get(symbol)
        if window and kept is not None:
            kept.scale(factor, before)
        own = self._held.get(symbol)
        if held and own is not None:
            exact = exact_factor(factor)
            if units:
                own.value_per_point = float(Fraction(own.value_per_point) * exact)
                own.mark = divided(own.mark, exact)
            else:
                earned = own.moved / own.value_per_point
                own.mark = divided(own.mark + earned, exact) - earned

    def newest(self, symbol: str) -> float | None:
        """The newest price of `symbol` that is still looked back on or that its position is valued at; None: neither."""
        kept, own = self._windows.get(symbol), self._held.get(symbol)
        if kept is not None and kept.newest is not None:
            return kept.newest[1]
        return own.mark + own.moved / own.value_per_point if own is not None else None

    def equity_trips(self) -> tuple[Trip, ...]:
        """What the equity of this moment trips: each limit by itself, for one may ask for more than the other."""
        limits = self._limits
        if limits is None or not (self.equity <= self._floor or self.equity <= self._peak_floor):
            return ()
        trips: list[Trip] = []
        if self.equity <= self._floor and limits.daily_loss is not None:
            reason = f"{DAILY_LOSS}: pnl={self.equity - self._start:.2f}"
            trips.append(Trip(DAILY_LOSS, HaltLevel(limits.daily_loss.then.upper()), DESK, reason))
        if self.equity <= self._peak_floor and limits.drawdown is not None:
            fall = (1.0 - self.equity / self.peak) * 100.0
            reason = f"{DRAWDOWN}: fall={fall:.2f}% peak={self.peak:.2f} limit={limits.drawdown.percent:g}%"
            trips.append(Trip(DRAWDOWN, HaltLevel(limits.drawdown.then.upper()), DESK, reason))
        return tuple(trips)

    def _moved(self, symbol: str, price: float, time_us: int, limit: CircuitBreaker) -> Trip | None:
        moved = self.hear(symbol, price, time_us)
        if moved < limit.percent:
            return None
        self._windows[symbol] = PriceWindow()  # it has tripped for this move; the next one is another
        reason = f"{CIRCUIT_BREAKER}: symbol={symbol} moved={moved:.2f}% minutes={limit.minutes:g} at={iso(time_us)}"
        return Trip(CIRCUIT_BREAKER, HaltLevel(limit.then.upper()), f"{INSTRUMENT}{symbol}", reason, time_us)

    def _set_peak_floor(self) -> None:
        drawdown = self._limits.drawdown if self._limits is not None else None
        self._peak_floor = self.peak * (1.0 - drawdown.percent / 100.0) if drawdown is not None else -math.inf


def inputs(connection: Connection, instruments: Mapping[str, Instrument], now_time: int) -> Known:
    """What `Breakers.rebase` needs of the ledger."""
    session, start = risk_state.current_session(connection, now_time)
    highest = connection.execute(select(func.max(t.account_snapshots.c.equity))).scalar()
    quantities: dict[str, float] = {}
    for position in store.find_positions(connection):
        quantities[position.symbol] = quantities.get(position.symbol, 0.0) + position.quantity
    prices = store.get_state(connection, "prices")
    return Known(
        start_equity=risk_state.day_start_equity(connection, session, start),
        peak_equity=math.nan if highest is None else float(highest),
        positions=quantities,
        marks={s: float(p) for s, (p, _) in prices.items()},
        multipliers={s: float(i.multiplier) for s, i in instruments.items()},
        marked={s: (int(at), float(p)) for s, (p, at) in prices.items()},
        applied={(row.symbol, row.session): float(row.factor) for row in connection.execute(APPLIED)},
    )


def tripped_moves(connection: Connection) -> dict[str, int]:
    """Market time of the newest move of each instrument that tripped: prices until then are not looked back on again."""
    return {symbol: int(at) for symbol, at in store.get_state(connection, LATCHED_KEY).get("moves", {}).items()}


def latch(connection: Connection, trip: Trip, peak: float, now_time: int) -> bool:
    """Halt as the trip asks, once for its cause: a session's loss, a peak's fall, a move. True when it was latched now.

    The caller holds the ledger's write lock. A level that stands and is stricter stays.
    """
    known = store.get_state(connection, LATCHED_KEY)
    if trip.code == DAILY_LOSS:
        session, _ = risk_state.current_session(connection, now_time)
        halt = risk_state.read_halt(connection)
        if halt.daily_loss_session == session:
            return False
        risk_state.set_halt(connection, trip.level, trip.scope, f"{trip.reason} session={session}", "desk", now_time)
        values = risk_state.read_halt(connection).to_dict()
        store.put_state(connection, risk_state.HALT_KEY, {**values, "daily_loss_session": session})
        return True
    if trip.code == DRAWDOWN:
        if peak <= float(known.get("drawdown_peak", -math.inf)):
            return False
        store.put_state(connection, LATCHED_KEY, {**known, "drawdown_peak": peak})
    else:
        moves = {**known.get("moves", {}), trip.scope.removeprefix(INSTRUMENT): trip.time}
        store.put_state(connection, LATCHED_KEY, {**known, "moves": moves})
        if risk_state.read_halt(connection).strategies.get(trip.scope) is not None:
            return False
    risk_state.set_halt(connection, trip.level, trip.scope, trip.reason, "desk", now_time)
    return True
