"""A live subscription that survives its connection.

    feed.subscribe ── bars, heartbeats ──> checked, in order, once ──> the desk
                 cut, silence, garbage ──> again after a pause, the hole filled from history first

Every bar is checked against the venue's calendar before it is believed. A repeated one is dropped and counted, one that
comes after a newer one is passed on marked `late`, one that says something else than before too (what was stored stands,
and the contradiction is on record). A hole is filled from history before newer bars go on; when history cannot fill it in
time the newer bars go on (exits must not wait), the symbol is in trouble, and the hole is tried again.

What is in trouble and why is asked with `trouble`: overdue bars by the calendar, a dead connection, an open hole.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as _random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog

from resources.feeds._live_state import Gap, SymbolState
from resources.feeds.protocol import BarClose, Feed, FeedError, LiveEvent
from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe, iso, session_date

log = structlog.get_logger("feeds.live")

_TICK_SECONDS = 0.25
_WELCOME_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """How patient a subscription is, in real seconds.

    stale_seconds: a bar may come this long after it was due. silence_seconds: a connection that says nothing for longer,
    while a venue is open, is made anew. backoff_first_seconds doubles with every failed try up to backoff_most_seconds;
    each pause is drawn between half and the whole of it. repair_seconds: longest wait for history before newer bars go
    on; repair_again_seconds: between two tries to fill a hole.
    """

    stale_seconds: float = 10.0
    silence_seconds: float = 30.0
    backoff_first_seconds: float = 0.5
    backoff_most_seconds: float = 30.0
    repair_seconds: float = 5.0
    repair_again_seconds: float = 30.0

    def backoff(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait before the next try, after `failures` (>= 1) in a row. random: uniform in [0, 1)."""
        full = min(self.backoff_most_seconds, self.backoff_first_seconds * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + 0.5 * random())


class LiveSubscription:
    """Bars of `instruments` in `timeframe` from `feed`, for as long as they are asked for.

    last: close time of the newest bar already held, per symbol (UTC us): what closed since comes from history first.
    tolerated: bars in a row that may be missing, per symbol. market_time: the market's clock, UTC us; speed(): market
    seconds per real second. sleep and random are replaced by tests.
    """

    def __init__(
        self,
        feed: Feed,
        instruments: Iterable[Instrument],
        timeframe: Timeframe,
        *,
        last: Mapping[str, int],
        market_time: Callable[[], int],
        policy: LivePolicy | None = None,
        tolerated: Mapping[str, int] | None = None,
        speed: Callable[[], float] = lambda: 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.feed, self.timeframe = feed, timeframe
        self.name = feed.capabilities().name
        self.policy = policy or LivePolicy()
        self._market_time, self.speed, self._sleep, self._random = market_time, speed, sleep, random
        now = market_time()
        self.symbols = {
            i.symbol: SymbolState(i, timeframe, last.get(i.symbol, now), (tolerated or {}).get(i.symbol, 0)) for i in instruments
        }
        self.connected = False
        self.connects = 0
        self.failures = 0
        """Failed tries in a row."""
        self.unknown = 0
        """Bars of symbols nobody asked for."""
        self.last_error = ""
        self._down_since = self._up_since = time.monotonic()
        self._heard = time.monotonic()
        self._repair_at = 0.0

    # -- bars ----------------------------------------------------------------------------------------------------------

    async def bars(self) -> AsyncIterator[BarClose]:
        """Closed bars, per symbol in order and once; late ones marked. Never ends by itself."""
        while True:
            queue: asyncio.Queue[LiveEvent | BaseException] = asyncio.Queue()
            reader = asyncio.create_task(self._read(queue), name=f"live-{self.name}")
            self._heard = time.monotonic()
            try:
                async for bar in self._connection(queue):
                    yield bar
            except (FeedError, OSError, EOFError, TimeoutError) as error:
                self.last_error = f"{type(error).__name__}: {error}"
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await reader
            if self.connected:
                self._down_since = time.monotonic()
                if self._down_since - self._up_since > 2 * self.policy.backoff_most_seconds:
                    self.failures = 0  # it held for a while, even if nothing was traded
            self.connected = False
            self.failures += 1
            pause = self.policy.backoff(self.failures, self._random)
            log.warning("live_feed_lost", feed=self.name, error=self.last_error, again_in_seconds=round(pause, 2))
            await self._sleep(pause)

    async def _read(self, queue: asyncio.Queue[LiveEvent | BaseException]) -> None:
        stream = self.feed.subscribe([s.instrument for s in self.symbols.values()], self.timeframe)
        try:
            async for event in stream:
                queue.put_nowait(event)
            queue.put_nowait(EOFError("the feed ended the subscription"))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a feed does not survive is told and tried again
            known = isinstance(error, (FeedError, OSError, EOFError))
            queue.put_nowait(error if known else FeedError(f"{type(error).__name__}: {error}"))
        finally:
            with contextlib.suppress(Exception):
                await stream.aclose()  # type: ignore[attr-defined]

    async def _connection(self, queue: asyncio.Queue[LiveEvent | BaseException]) -> AsyncIterator[BarClose]:
        """One connection's bars, the hole before it first. Raises what ends it."""
        first: LiveEvent | None = None
        with contextlib.suppress(TimeoutError):  # asked for before history, so that nothing falls between the two
            first = await self._next(queue, _WELCOME_SECONDS)
        async for bar in self._fill(list(self.symbols.values())):
            yield bar
        while True:
            if first is None:
                try:
                    first = await self._next(queue, _TICK_SECONDS)
                except TimeoutError:
                    self._check_silence()
            if isinstance(first, BarClose):
                async for bar in self._pass_on(first):
                    yield bar
            first = None
            if time.monotonic() >= self._repair_at and (holes := [s for s in self.symbols.values() if s.gap is not None]):
                async for bar in self._fill(holes):
                    yield bar

    async def _next(self, queue: asyncio.Queue[LiveEvent | BaseException], seconds: float) -> LiveEvent:
        event = await asyncio.wait_for(queue.get(), seconds)
        if isinstance(event, BaseException):
            raise event
        self._heard = time.monotonic()
        if not self.connected:
            self.connected, self._up_since = True, time.monotonic()
            self.connects += 1
            self.last_error = ""
            log.info("live_feed_connected", feed=self.name, symbols=len(self.symbols), connects=self.connects)
        if isinstance(event, BarClose) or self.feed.capabilities().heartbeat_seconds is None:
            self.failures = 0
        return event

    def _check_silence(self) -> None:
        limit = self.policy.silence_seconds
        promised = self.feed.capabilities().heartbeat_seconds
        if promised is not None:
            limit = min(limit, max(3 * promised, self.policy.stale_seconds))
        elif not self._open():
            self._heard = time.monotonic()  # nobody promised to say anything now
            return
        else:
            limit = max(limit, self.timeframe.minutes * 60 / self.speed() + self.policy.stale_seconds)
        silent = time.monotonic() - self._heard
        if silent > limit:
            raise TimeoutError(f"nothing heard for {silent:.1f} s")

    def _open(self) -> bool:
        now = self._market_time()
        return any(s.venue.is_open(now) for s in self.symbols.values())

    # -- one bar -------------------------------------------------------------------------------------------------------

    async def _pass_on(self, bar: BarClose) -> AsyncIterator[BarClose]:
        state = self.symbols.get(bar.symbol)
        if state is None:
            self.unknown += 1
            return
        fault = state.fault(bar, self._market_time() + int(_TICK_SECONDS * 1e6 * self.speed()))
        if fault:
            state.malformed += 1
            log.warning("live_bar_malformed", feed=self.name, symbol=bar.symbol, why=fault)
            return  # a hole now, if it was to be one: history fills it
        known = state.known(bar)
        if known:
            state.duplicates += 1
            return
        if known is None:
            state.corrected += 1
            log.warning("live_bar_told_differently", feed=self.name, symbol=bar.symbol, close=iso(bar.close_time))
            yield replace(bar, late=True)
            return
        if state.missing(bar.close_time) > state.tolerated:
            # What the others miss of that time goes first, too: bars are passed on in order of time over all instruments.
            behind = [s for s in self.symbols.values() if s is state or s.missing(bar.close_time) > s.tolerated]
            async for repaired in self._fill(behind, bar.close_time):
                yield repaired
        yield self._taken(state, bar)

    def _taken(self, state: SymbolState, bar: BarClose) -> BarClose:
        return replace(bar, late=state.take(bar, time.time_ns() // 1000))

    # -- holes ---------------------------------------------------------------------------------------------------------

    async def _fill(self, states: list[SymbolState], before: int | None = None) -> AsyncIterator[BarClose]:
        """The bars missing since each symbol's last one (or in its open hole), by close time.

        before: only bars that close earlier (UTC us); None: up to now.
        """
        found: list[tuple[SymbolState, BarClose]] = []
        # One moment for all: time goes on while history answers, and one symbol must not be brought further than another.
        until = before if before is not None else self._market_time() + 1
        for state in states:
            after = state.last if state.gap is None else min(state.gap.after, state.last)
            try:
                bars = await asyncio.wait_for(asyncio.to_thread(self._history, state, after, until), self.policy.repair_seconds)
            except (FeedError, OSError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}" if str(error) else f"no answer in {self.policy.repair_seconds:g} s"
                if state.gap is not None or state.missing(until):
                    state.gap = Gap(after, max(until, state.gap.until if state.gap else 0), why)
                    log.warning("live_gap_open", feed=self.name, symbol=state.instrument.symbol, after=iso(after), why=why)
                self._repair_at = time.monotonic() + self.policy.repair_again_seconds
                continue
            if state.gap is not None and until >= state.gap.until:
                state.gap = None
            found += [(state, bar) for bar in bars if state.known(bar) is False]
        for state, bar in sorted(found, key=lambda pair: (pair[1].close_time, pair[1].symbol)):
            if state.known(bar) is False:
                state.repaired += 1
                yield self._taken(state, bar)

    def _history(self, state: SymbolState, after: int, until: int) -> list[BarClose]:
        """Bars that close in (after, until). Raises FeedError."""
        venue = state.venue
        first = int(np.searchsorted(venue.close_time, after, side="right"))
        last = int(np.searchsorted(venue.open_time, until, side="left")) - 1
        if last < first:
            return []
        start, end = (session_date(int(venue.number[row])) for row in (first, last))
        bars = self.feed.history(state.instrument, self.timeframe, start, end)
        chosen = np.flatnonzero((bars.close_time > after) & (bars.close_time < until))
        return [bar_close(bars, int(row)) for row in chosen]

    # -- how it is -----------------------------------------------------------------------------------------------------

    def trouble(self) -> dict[str, str]:
        """Symbol -> why nothing new may be risked on it; only those in trouble."""
        now = self._market_time()
        tolerance = int(self.policy.stale_seconds * 1e6 * max(1.0, self.speed()))
        down = time.monotonic() - self._down_since
        lost = ""
        if not self.connected and down > self.policy.stale_seconds:
            lost = f"no connection for {down:.0f} s" + (f" ({self.last_error})" if self.last_error else "")
        found: dict[str, str] = {}
        for symbol, state in self.symbols.items():
            said = [state.overdue(now, tolerance)]
            if state.venue.is_open(now):
                said.append(lost)
            if state.gap is not None:
                said.append(f"bars from {iso(state.gap.after)} to {iso(state.gap.until)} are missing: {state.gap.why}")
            if text := "; ".join(s for s in said if s):
                found[symbol] = f"feed {self.name}: {text}"
        return found

    def status(self) -> dict[str, Any]:
        """Plain values for people: the connection, and every symbol."""
        now = self._market_time()
        return {
            "feed": self.name,
            "timeframe": str(self.timeframe),
            "connected": self.connected,
            "reconnects": max(0, self.connects - 1),
            "failures": self.failures,
            "last_error": self.last_error,
            "heard_seconds_ago": round(time.monotonic() - self._heard, 1),
            "symbols": {symbol: state.status(now) for symbol, state in self.symbols.items()},
        }


def bar_close(bars: Bars, row: int) -> BarClose:
    """Row `row` of `bars` as a live feed would have emitted it."""
    o, h, low, c, v = (float(getattr(bars, name)[row]) for name in ("open", "high", "low", "close", "volume"))
    turnover, trades = (None if extra is None else float(extra[row]) for extra in (bars.turnover, bars.trades))
    return BarClose(
        bars.symbol, bars.timeframe, int(bars.close_time[row]), int(bars.session[row]), o, h, low, c, v, turnover, trades
    )
