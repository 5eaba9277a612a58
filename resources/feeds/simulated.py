"""The simulated exchange: trades, quotes and bars of any instrument out of a seed, past and live. Never a real price.

Every name of capital letters, digits and . _ - ^ is listed. History and the live subscription are cut from the same
trades: what was emitted live is what history says later, the dirt on the wire aside (TAPELINE_SIMULATED_DIRT). History
ends where the simulated market stands now: nobody can ask it for the future. A universe that uses it must say
``simulated: true``.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date

import numpy as np

from resources.feeds._base import rank
from resources.feeds._exchange_clock import ExchangeClock
from resources.feeds.live import bar_close
from resources.feeds.protocol import BarClose, Capabilities, Feed, FeedError, Heartbeat, LiveEvent, Quote, SymbolNotFound
from resources.settings import Settings
from trading.bar_builder import bars_of_trades
from trading.bars import Bars, concat
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.quotes import QuoteBars
from trading.quotes import concat as concat_quotes
from trading.simulate import Dirt, Trades, session_trades
from trading.timeframes import Timeframe, session_date, session_number

DIRECTORY = (
    "ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "ES", "GC", "EURUSD", "GBPUSD", "USDJPY", "BTCUSD", "ETHUSD",
)  # fmt: skip
"""Names shown when someone looks around; every well-formed name is listed."""
HEARTBEAT_SECONDS = 1.0
_NAME = re.compile(r"[A-Z0-9._^-]{1,24}")
_CACHED_SESSIONS = 4096
_LATE_BY = 2
_SPIKE = 0.1


class SimulatedFeed:
    """The simulated exchange. clock: where its market stands, UTC us."""

    def __init__(self, seed: int, clock: ExchangeClock, dirt: Dirt | None = None) -> None:
        self._seed, self._clock, self._dirt = seed, clock, dirt or Dirt()
        self._cache: OrderedDict[tuple[object, ...], Bars] = OrderedDict()
        self._lock = threading.Lock()

    def capabilities(self) -> Capabilities:
        frames = frozenset(t for t in Timeframe if t is not Timeframe.W1)
        return Capabilities(
            "simulated", frames, live=True, simulated=True, quotes=True, history_start=date(1990, 1, 3),
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )  # fmt: skip

    def market_time(self) -> int:
        """Where the simulated market stands, UTC us."""
        return self._clock()

    def market_speed(self) -> float:
        """Simulated seconds per real second now; 1 once real time is reached."""
        return self._clock.running_speed

    def lookup(self, text: str) -> list[str]:
        """Names that match `text`; a well-formed name is always one of them."""
        found = rank(text, list(DIRECTORY))
        name = text.strip().upper()
        return found if name in found or not _NAME.fullmatch(name) else [*found, name]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        """Bars closed by now. Raises SymbolNotFound, FeedError."""
        parts = [self._session(instrument, timeframe, number) for number in self._sessions(instrument, timeframe, start, end)]
        if not parts:
            return Bars.empty(instrument.symbol, timeframe)
        known = concat(parts).known_at(self._clock())
        return known.rows(np.arange(len(known)))  # a copy: the cache is not the caller's

    def trades(self, instrument: Instrument, session: date) -> Trades:
        """Every trade and quote of a session up to now, clean. Raises SymbolNotFound, KeyError (no such session)."""
        self._check(instrument, Timeframe.M1)
        made = session_trades(instrument, calendar(instrument.calendar), session_number(session), self._seed)
        known = slice(0, int(np.searchsorted(made.time, self._clock(), side="right")))
        return Trades(made.time[known], *(column[known] for column in made[1:]))

    def quote_history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> QuoteBars:
        """Quote bars closed by now, with the crossed quotes that TAPELINE_SIMULATED_DIRT asks for."""
        parts = [
            self._quotes(instrument, timeframe, number)
            for number in self._sessions(instrument, timeframe, start, end)
        ]  # fmt: skip
        if not parts:
            return QuoteBars.empty(instrument.symbol, timeframe)
        return concat_quotes(parts).known_at(self._clock())

    def quote(self, instruments: Sequence[Instrument]) -> list[Quote]:
        """The last quote of each instrument; none of one that has not traded in the current or last session."""
        now, found = self._clock(), []
        for instrument in instruments:
            venue = calendar(instrument.calendar)
            row = int(np.searchsorted(venue.open_time, now, side="right")) - 1
            if row < 0:
                continue
            t = self.trades(instrument, session_date(int(venue.number[row])))
            if len(t.time):
                last = (float(c[-1]) for c in (t.bid, t.bid_size, t.ask, t.ask_size, t.price))
                found.append(Quote(instrument.symbol, int(t.time[-1]), *last))
        return found

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        """Bars as they close from now on, a heartbeat a second, and the dirt that was asked for."""
        begin = self._clock()
        tapes = [_Tape(self, instrument, timeframe, begin) for instrument in instruments]
        for tape in tapes:
            self._check(tape.instrument, timeframe)
        held: list[tuple[int, BarClose]] = []  # late bars, with the count of bars they wait for
        yield Heartbeat(begin)
        while True:
            await asyncio.to_thread(_load, tapes, self._clock())
            due = sorted((bar for tape in tapes for bar in tape.due(self._clock())), key=lambda b: (b.close_time, b.symbol))
            for bar in due:
                for event in self._on_the_wire(bar, held):
                    yield event
            if not due:
                yield Heartbeat(self._clock())
            upcoming = min((t for tape in tapes if (t := tape.upcoming) is not None), default=None)
            wait = HEARTBEAT_SECONDS
            if upcoming is not None:
                wait = min(wait, max(0.0, (upcoming - self._clock()) / 1e6 / self._clock.running_speed))
            await asyncio.sleep(max(wait, 0.001))

    # -- within --------------------------------------------------------------------------------------------------------

    def _on_the_wire(self, bar: BarClose, held: list[tuple[int, BarClose]]) -> list[LiveEvent]:
        """What arrives of `bar`. Raises ConnectionResetError where the wire breaks."""

        def happens(kind: str) -> bool:
            return self._dirt.happens(kind, self._seed, bar.symbol, bar.close_time)

        if happens("cuts"):
            raise ConnectionResetError(f"simulated cut before the bar of {bar.symbol}")
        out: list[LiveEvent] = []
        if happens("spikes"):
            up = bar.close >= bar.open
            bar = replace(bar, high=bar.high * (1 + _SPIKE)) if up else replace(bar, low=bar.low * (1 - _SPIKE))
        if happens("late"):
            held.append((_LATE_BY + 1, bar))
        elif not happens("gaps"):
            out += [bar, bar] if happens("duplicates") else [bar]
        waiting = [(left - 1 if b.symbol == bar.symbol else left, b) for left, b in held]
        out += [b for left, b in waiting if left <= 0]
        held[:] = [(left, b) for left, b in waiting if left > 0]
        return out

    def _check(self, instrument: Instrument, timeframe: Timeframe) -> None:
        if not _NAME.fullmatch(instrument.feed_symbol):
            raise SymbolNotFound(
                f"feed simulated has no symbol {instrument.feed_symbol!r}: its names are capital letters, digits and . _ - ^"
            )
        if timeframe not in self.capabilities().timeframes:
            raise FeedError(f"feed simulated has no {timeframe} bars of {instrument.feed_symbol}; derive them from 1d")

    def _sessions(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> list[int]:
        """Sessions of [start, end] that have opened by now."""
        self._check(instrument, timeframe)
        venue = calendar(instrument.calendar)
        first = max(session_number(start), session_number(self.capabilities().history_start or start))
        opened = (venue.number >= first) & (venue.number <= session_number(end)) & (venue.open_time < self._clock())
        return [int(n) for n in venue.number[opened]]

    def _session(self, instrument: Instrument, timeframe: Timeframe, number: int) -> Bars:
        """The whole session's bars, those of later today included: for this module only."""
        i = instrument
        key = (i.symbol, i.feed_symbol, i.calendar, i.asset_class, i.tick_size, i.lot_size, timeframe, number)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        venue = calendar(instrument.calendar)
        t = session_trades(instrument, venue, number, self._seed)
        bars = bars_of_trades(instrument.symbol, timeframe, venue, t.time, t.price, t.size)
        with self._lock:
            self._cache[key] = bars
            while len(self._cache) > _CACHED_SESSIONS:
                self._cache.popitem(last=False)
        return bars

    def _quotes(self, instrument: Instrument, timeframe: Timeframe, number: int) -> QuoteBars:
        venue = calendar(instrument.calendar)
        t = session_trades(instrument, venue, number, self._seed, self._dirt.crossed)
        bid = bars_of_trades(instrument.symbol, timeframe, venue, t.time, t.bid, t.bid_size)
        ask = bars_of_trades(instrument.symbol, timeframe, venue, t.time, t.ask, t.ask_size)
        last = np.searchsorted(t.time, bid.close_time, side="left") - 1  # the size then, not the sum of sizes
        return QuoteBars(
            instrument.symbol, timeframe, bid.close_time, bid.session,
            bid.open, bid.high, bid.low, bid.close, t.bid_size[last],
            ask.open, ask.high, ask.low, ask.close, t.ask_size[last],
        )  # fmt: skip


class _Tape:
    """One instrument's bars still to come: of the session under way, then of the next one."""

    def __init__(self, feed: SimulatedFeed, instrument: Instrument, timeframe: Timeframe, begin: int) -> None:
        self.instrument = instrument
        self._feed, self._timeframe, self._venue = feed, timeframe, calendar(instrument.calendar)
        self._after = begin
        self._bars = Bars.empty(instrument.symbol, timeframe)
        self._at = 0
        self._next_row = int(np.searchsorted(self._venue.close_time, begin, side="right"))

    @property
    def upcoming(self) -> int | None:
        """When the next bar closes, or the next session opens; None at the end of the calendar."""
        if self._at < len(self._bars):
            return int(self._bars.close_time[self._at])
        return int(self._venue.open_time[self._next_row]) + 1 if self._next_row < len(self._venue.number) else None

    def load(self, now: int) -> None:
        """Make the bars of the next session once it has opened."""
        if self._at < len(self._bars) or self._next_row >= len(self._venue.number):
            return
        if int(self._venue.open_time[self._next_row]) < now:
            self._bars = self._feed._session(self.instrument, self._timeframe, int(self._venue.number[self._next_row]))
            self._at = int(np.searchsorted(self._bars.close_time, self._after, side="right"))
            self._next_row += 1

    def due(self, now: int) -> list[BarClose]:
        """Bars closed by `now` that were not given yet."""
        until = int(np.searchsorted(self._bars.close_time, now, side="right"))
        out = [bar_close(self._bars, row) for row in range(self._at, until)]
        self._at = max(self._at, until)
        if out:
            self._after = out[-1].close_time
        return out


def _load(tapes: Iterable[_Tape], now: int) -> None:
    for tape in tapes:
        tape.load(now)


def market_clock(settings: Settings, wall: Callable[[], int] | None = None) -> ExchangeClock:
    """Where the simulated market of this installation stands. wall(): real time, UTC us."""
    file = settings.path("simulated", "clock.json")
    return ExchangeClock(file, settings.simulated_speed, settings.simulated_start, wall)


def _simulated(settings: Settings) -> Feed:
    try:
        dirt = Dirt.parse(settings.simulated_dirt)
    except ValueError as error:
        raise FeedError(f"TAPELINE_SIMULATED_DIRT: {error}") from None
    return SimulatedFeed(settings.simulated_seed, market_clock(settings), dirt)


FEEDS = {"simulated": _simulated}
