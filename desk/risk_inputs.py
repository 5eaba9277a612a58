"""What the portfolio and behaviour limits are measured on, from ledger and lake: read only where a limit asks for it.

What cannot be read is absent, and an absent measure refuses: a limit never passes because its input was missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, cast

import numpy as np
import structlog
from sqlalchemy import Connection, func, select

from desk import store
from desk.store import OrderRecord
from resources.corporate_actions import read_actions
from resources.lake import Lake, LakeError
from resources.ledger import tables as t
from resources.ledger.actions import confirmed_actions
from resources.ledger.algo_tables import is_entry
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import CorporateAction, UnknownFactor, adjust
from trading.instruments import Instrument
from trading.limits import Limits
from trading.portfolio_math import newest_returns
from trading.risk import DailyReturns, Key
from trading.timeframes import US_PER_MINUTE, Timeframe, session_date

log = structlog.get_logger("desk.risk_inputs")

REMEMBERED_TRADES = 100
"""Newest closed trades of a strategy that are looked at for its losing streak."""
_DAY_US = 86_400_000_000


def _newest_session(instrument: Instrument, now_time: int) -> int:
    """The newest session of the instrument's venue that has ended by then."""
    venue = calendar(instrument.calendar)
    ended = int(np.searchsorted(venue.close_time, now_time, side="right"))
    return int(venue.number[ended - 1]) if ended else -1


class BarsReader(Protocol):
    """The part of the lake that is read here."""

    def read_bars(self, dataset: str, symbol: str, start: Any = None, end: Any = None) -> Bars: ...


class MarketView:
    """Prices for the risk rules, read from the lake and kept while they cannot have changed. Used by one thread only.

    All prices stand on the level of now: splits, spin-offs and rolls known and effective divide the prices before them, so that
    a split is no loss and no abnormal move. Where the factor of one is not known, nothing can be measured across it.
    actions: of a symbol; default those stored in the lake.
    """

    def __init__(self, lake: BarsReader, actions: Callable[[str], Sequence[CorporateAction]] | None = None) -> None:
        self._lake = lake
        self._actions = actions or (lambda symbol: read_actions(cast(Lake, lake), symbol))
        self._returns: tuple[Any, DailyReturns | None] | None = None

    def daily_returns(self, instruments: Mapping[str, Instrument], symbols: Iterable[str], sessions: int, now_time: int,
                      confirmed: Sequence[CorporateAction] = ()) -> DailyReturns | None:  # fmt: skip
        """Returns of the newest `sessions` sessions all of `symbols` closed before `now_time`; None when one has none.

        Sessions are those every symbol has a daily bar of: returns of different days are never compared. confirmed: actions
        that an operator confirmed and that are not stored yet.
        """
        wanted = tuple(sorted(symbols))
        try:
            known = {symbol: self._known_actions(symbol, confirmed) for symbol in wanted}
        except LakeError as error:
            log.warning("actions_unreadable", symbols=wanted, error=str(error))
            return None
        told = tuple((a.id, repr(a.factor)) for found in known.values() for a in found)
        if any(symbol not in instruments for symbol in wanted):
            return None
        ended = tuple(_newest_session(instruments[symbol], now_time) for symbol in wanted)
        key = (wanted, sessions, now_time // _DAY_US, ended, told)
        if self._returns is not None and self._returns[0] == key:
            return self._returns[1]
        found, newest = self._read_returns(wanted, sessions, now_time, known)
        if newest == ended:  # else the bars of a session that has ended are still to come
            self._returns = (key, found)
        return found

    def _known_actions(self, symbol: str, confirmed: Sequence[CorporateAction]) -> list[CorporateAction]:
        """Stored actions of `symbol`, and confirmed ones that are not among them. Raises LakeError."""
        stored = list(self._actions(symbol))
        ids = {a.id for a in stored}
        return stored + [a for a in confirmed if a.symbol == symbol and a.id not in ids]

    def _read_returns(
        self, symbols: tuple[str, ...], sessions: int, now_time: int, actions: Mapping[str, Sequence[CorporateAction]]
    ) -> tuple[DailyReturns | None, tuple[int, ...]]:
        """(returns, the newest session of each symbol)."""
        closes: list[tuple[np.ndarray, np.ndarray]] = []
        start = session_date(now_time // _DAY_US) - timedelta(days=sessions * 2 + 30)
        for symbol in symbols:
            try:
                bars = self._lake.read_bars(f"bars_{Timeframe.D1}", symbol, start, None)
                bars = adjust(bars, actions[symbol], as_of=now_time)
            except (LakeError, UnknownFactor) as error:
                log.warning("daily_bars_unreadable", symbol=symbol, error=str(error))
                return None, ()
            closes.append((bars.session, bars.close))
        if not closes:
            return None, ()
        ends = np.cumsum([len(session) for session, _ in closes])
        values = np.empty((sessions, len(symbols)))
        found = newest_returns(
            np.concatenate([session for session, _ in closes]).astype(np.int64), np.concatenate([close for _, close in closes]),
            np.concatenate([[0], ends[:-1]]).astype(np.int64), ends.astype(np.int64), sessions, values,
        )  # fmt: skip
        newest = tuple(int(session[-1]) if len(session) else -1 for session, _ in closes)
        return (DailyReturns(symbols, values[sessions - found :]) if found else None), newest

    def recent_prices(
        self, instrument: Instrument, minutes: float, now_time: int, confirmed: Sequence[CorporateAction] = ()
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(close times, closes) of the instrument's native bars of the last `minutes`, one bar before them included."""
        since = now_time - int(minutes * US_PER_MINUTE)
        try:
            bars = self._since(instrument, since)
            bars = adjust(bars, self._known_actions(instrument.symbol, confirmed), as_of=now_time)
        except (LakeError, UnknownFactor) as error:
            log.warning("recent_bars_unreadable", symbol=instrument.symbol, error=str(error))
            return None
        begin = max(0, int(np.searchsorted(bars.close_time, since, side="left")) - 1)
        return (bars.close_time[begin:], bars.close[begin:]) if len(bars) else None

    def traded_prices(self, instrument: Instrument, minutes: float, before: int) -> list[tuple[int, float]]:
        """(close time, close) of the instrument's native bars of the last `minutes` before `before` (UTC us), as traded. Raises
        LakeError."""
        since = before - int(minutes * US_PER_MINUTE)
        bars = self._since(instrument, since)
        first, end = (int(np.searchsorted(bars.close_time, at, side="left")) for at in (since, before))
        return [(int(at), float(p)) for at, p in zip(bars.close_time[first:end], bars.close[first:end], strict=True)]

    def actions(self, symbol: str) -> Sequence[CorporateAction]:
        """What is stored of corporate actions of `symbol`. Raises LakeError."""
        return self._actions(symbol)

    def _since(self, instrument: Instrument, since: int) -> Bars:
        """Native bars from the session before `since` (UTC us) on, as traded. Raises LakeError."""
        venue = calendar(instrument.calendar)
        at = int(np.searchsorted(venue.close_time, since, side="left"))
        first = max(0, min(at, len(venue.number) - 1) - 1)
        dataset = f"bars_{instrument.native_timeframe}"
        return self._lake.read_bars(dataset, instrument.symbol, session_date(int(venue.number[first])), None)

    def past_bars(self, instrument: Instrument, timeframe: Timeframe, sessions: int, before: int) -> Bars | None:
        """Bars of about the newest `sessions` sessions and more before `before` (UTC us), as they were traded; None when they
        cannot be read."""
        venue = calendar(instrument.calendar)
        at = int(np.searchsorted(venue.close_time, before, side="left"))
        first = session_date(int(venue.number[max(0, at - sessions * 2 - 5)]))
        try:
            bars = self._lake.read_bars(f"bars_{timeframe}", instrument.symbol, first, None)
        except LakeError as error:
            log.warning("past_bars_unreadable", symbol=instrument.symbol, error=str(error))
            return None
        return bars.known_at(before)

    def newest_volume(self, instrument: Instrument, timeframe: Timeframe, now_time: int) -> float | None:
        """Volume of the bar that has just closed, None when it is not there or older than a bar."""
        bars = self.past_bars(instrument, timeframe, 1, now_time)
        if bars is None or not len(bars) or int(bars.close_time[-1]) <= now_time - 2 * timeframe.minutes * US_PER_MINUTE:
            return None
        return float(bars.volume[-1])


def read(
    connection: Connection,
    limits: Limits | None,
    market: MarketView | None,
    *,
    instruments: Mapping[str, Instrument],
    symbol: str,
    strategy: str,
    equity: float,
    entries: Iterable[OrderRecord],
    prices: Mapping[str, float],
    now_time: int,
) -> dict[str, Any]:
    """The fields of trading.risk.RiskState that `limits` need, for an intent of `strategy` on `symbol`."""
    out: dict[str, Any] = {"now_time": now_time, "sectors": {s: i.sector for s, i in instruments.items() if i.sector}}
    if limits is None:
        return out
    own = limits.of(strategy)
    if limits.drawdown is not None:
        highest = connection.execute(select(func.max(t.account_snapshots.c.equity))).scalar()
        out["peak_equity"] = max(equity, float(highest)) if highest is not None else equity
    if limits.max_net_leverage is not None or limits.value_at_risk is not None or limits.correlation is not None:
        out["working_net"] = _working_net(entries, prices)
    if limits.order_rate is not None:
        out["order_times"] = _order_times(connection, now_time - int(limits.order_rate.seconds * 1_000_000))
    if limits.losing_streak is not None or own.losing_streak is not None:
        out["losing_streaks"] = {strategy: losing_streak(connection, strategy)}
    if limits.cooldown_minutes is not None or own.cooldown_minutes is not None:
        out["last_stops"] = last_stops(connection, strategy)
    if market is not None and (limits.value_at_risk is not None or limits.correlation is not None):
        held = {p.symbol for p in store.find_positions(connection) if p.quantity} | {o.symbol for o in entries} | {symbol}
        sessions = max(x.sessions for x in (limits.value_at_risk, limits.correlation) if x is not None)
        out["returns"] = market.daily_returns(instruments, held, sessions, now_time, confirmed_actions(connection))
    if market is not None and limits.circuit_breaker is not None and symbol in instruments:
        breaker = limits.circuit_breaker
        minutes = breaker.minutes + breaker.pause_minutes
        found = market.recent_prices(instruments[symbol], minutes, now_time, confirmed_actions(connection))
        out["recent_prices"] = {symbol: found} if found is not None else {}
    return out


def _working_net(entries: Iterable[OrderRecord], prices: Mapping[str, float]) -> dict[str, float]:
    out: dict[str, float] = {}
    for order in entries:
        price = prices.get(order.symbol) or float(order.content.get("reference_price") or "nan")
        left = (order.quantity - order.filled_quantity) * abs(price) * order.multiplier
        out[order.symbol] = out.get(order.symbol, 0.0) + order.side.sign * left
    return out


def _order_times(connection: Connection, since: int) -> tuple[int, ...]:
    """Market times of entry orders the desk wanted to send since then, ascending; refused ones do not count."""
    i = t.intents.c
    rows = connection.execute(
        select(i.created_time).where(is_entry(i.leg), i.refusal == "", i.created_time > since).order_by(i.created_time)
    )
    return tuple(int(row.created_time) for row in rows)


def losing_streak(connection: Connection, strategy: str) -> tuple[int, int]:
    """(closed trades in a row that lost money after commission, time of the newest of them); (0, 0) when the last won."""
    f = t.fills.c
    rows = connection.execute(
        select(f.trade_id, f.side, f.quantity, f.price, f.commission, f.fill_time)
        .where(f.strategy == strategy)
        .order_by(f.fill_time.desc(), f.id.desc())
        .limit(REMEMBERED_TRADES * 4)
    ).all()
    multipliers = store.trade_multipliers(connection, {row.trade_id for row in rows})
    trades: dict[str, list[float]] = {}
    for row in rows:
        sign = 1.0 if row.side == "buy" else -1.0
        made = trades.setdefault(row.trade_id, [0.0, 0.0, 0.0])
        made[0] -= sign * row.quantity * row.price * multipliers.get(row.trade_id, 1.0) + row.commission
        made[1] += sign * row.quantity
        made[2] = max(made[2], float(row.fill_time))
    lost, newest = 0, 0
    for pnl, open_quantity, ended in sorted(trades.values(), key=lambda x: -x[2]):
        if abs(open_quantity) > 1e-9:
            continue  # still open, or its beginning lies before the fills that were read
        if pnl >= 0:
            break
        lost += 1
        newest = newest or int(ended)
    return lost, newest


def last_stops(connection: Connection, strategy: str) -> dict[Key, int]:
    """(strategy, symbol) -> time of the newest fill of a protective stop."""
    f, i = t.fills.c, t.intents.c
    rows = connection.execute(
        select(f.symbol, func.max(f.fill_time).label("at"))
        .join(t.intents, i.id == f.order_id)
        .where(f.strategy == strategy, i.leg.op("~")(r"^stop($|[.:])"))
        .group_by(f.symbol)
    )
    return {(strategy, row.symbol): int(row.at) for row in rows}
