"""The live day on recorded bars: the feed emits the last sessions of the history as if they closed now.

Only the clock and the feed differ from a live day. The state is in the ledger, so that a desk that was killed in
mid-replay goes on exactly behind the last bar close it finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Protocol

import structlog

from desk.clock import SimulatedClock, wall
from resources.feeds.protocol import BarClose, Capabilities, Feed, FeedError
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe, from_us, iso, session_number
from trading.universe import Universe

log = structlog.get_logger("desk.replay")

STATE_KEY = "replay"
NO_STRATEGY = "no_strategy"
SKIPPED = "skipped"
_CLOCK_STEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class CloseGroup:
    """Everything that closes at `close_time` (UTC us). No bars: only the time passes (a venue closes)."""

    close_time: int
    session: int
    bars: tuple[BarClose, ...] = ()


def replay_sessions(universe: Universe, count: int) -> list[date]:
    """The last `count` sessions of the universe's history, ascending: those the live day replays."""
    if count <= 0:
        return []
    end = universe.history_end or from_us(wall()).date() - timedelta(days=1)
    return list(universe.sessions(universe.history_start, end))[-count:]


class ReplayFeed:
    """A live feed made of the history of others. Emits the bars of `sessions` in order of close time."""

    def __init__(self, sources: Mapping[str, Feed], instruments: Iterable[Instrument], sessions: Sequence[date]) -> None:
        """sources: feed by its name, one for every `Instrument.feed`."""
        self._sources = dict(sources)
        self._instruments = {i.symbol: i for i in instruments}
        self._sessions = sorted(sessions)
        self.missing: dict[str, str] = {}
        """Symbols whose source could not be read, with the reason: they get no bars, hence no new risk."""

    def capabilities(self) -> Capabilities:
        timeframes = frozenset(i.native_timeframe for i in self._instruments.values())
        first = self._sessions[0] if self._sessions else None
        return Capabilities("replay", timeframes, live=True, history_start=first)

    def lookup(self, text: str) -> list[str]:
        return [s for s in sorted(self._instruments) if text.upper() in s.upper()]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        return self._sources[instrument.feed].history(instrument, timeframe, start, end)

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[BarClose]:
        wanted = {i.symbol for i in instruments}
        for group in await asyncio.to_thread(self.groups):
            for bar in group.bars:
                if bar.symbol in wanted and bar.timeframe is timeframe:
                    yield bar

    def groups(self) -> list[CloseGroup]:
        """All closes of the sessions, grouped by close time; every venue's session close is there even without bars.

        A symbol whose source fails is left out and named in `missing`: the others go on.
        """
        if not self._sessions:
            return []
        numbers = {session_number(day) for day in self._sessions}
        bars: dict[int, list[BarClose]] = {}
        session_of: dict[int, int] = {}
        self.missing.clear()
        for symbol in sorted(self._instruments):
            instrument = self._instruments[symbol]
            venue = calendar(instrument.calendar)
            for number in numbers & set(venue.number.tolist()):
                close_time = venue.bounds(int(number))[1]
                session_of[close_time] = max(session_of.get(close_time, number), number)
            try:
                for bar in _closes(self._read(instrument), numbers):
                    bars.setdefault(bar.close_time, []).append(bar)
                    session_of[bar.close_time] = max(session_of.get(bar.close_time, bar.session), bar.session)
            except FeedError as error:
                self.missing[symbol] = str(error)
                log.error("replay_source_failed", symbol=symbol, error=str(error))
        return [CloseGroup(t, session_of[t], tuple(bars.get(t, ()))) for t in sorted(session_of)]

    def _read(self, instrument: Instrument) -> Bars:
        source = self._sources.get(instrument.feed)
        if source is None:
            raise FeedError(f"{instrument.symbol}: no feed {instrument.feed!r}; expected one of {sorted(self._sources)}")
        return source.history(instrument, instrument.native_timeframe, self._sessions[0], self._sessions[-1])


def _closes(bars: Bars, sessions: set[int]) -> list[BarClose]:
    return [
        BarClose(
            bars.symbol, bars.timeframe, int(bars.close_time[i]), int(bars.session[i]), float(bars.open[i]), float(bars.high[i]),
            float(bars.low[i]), float(bars.close[i]), float(bars.volume[i]),
        )
        for i in range(len(bars))
        if int(bars.session[i]) in sessions
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplayState:
    """Where the live day stands. state: ``running`` or ``finished``; last_close: last finished bar close, None before."""

    state: str
    sessions: tuple[str, ...]
    last_close: int | None = None
    closes: int = 0
    total: int | None = None
    started_wall: int = 0
    finished_wall: int | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "sessions": list(self.sessions),
            "last_close": self.last_close,
            "closes": self.closes,
            "total": self.total,
            "started_wall": self.started_wall,
            "finished_wall": self.finished_wall,
            "missing": self.missing,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ReplayState:
        return ReplayState(**{**data, "sessions": tuple(data["sessions"])})


class Host(Protocol):
    """What the replay needs of the desk around it. Every method retries until the ledger answers or the desk stops."""

    async def close(self, group: CloseGroup, emitted_wall: int) -> None:
        """Take one bar close to its end: stored, matched, exits sent, recorded."""

    async def outcome(self, close_time: int) -> str | None:
        """Outcome of the trade run of a recorded close, None while it is open."""

    async def last_close(self) -> int | None:
        """Newest recorded close."""

    async def end_close(self, close_time: int, outcome: str) -> None: ...

    async def save(self, state: ReplayState) -> None: ...


Load = Callable[[], Awaitable[tuple[list[CloseGroup], dict[str, str]]]]
"""Reads the groups of a replay's sessions, and which symbols are missing and why."""


class Stopped(Exception):
    """The desk was asked to stop; no error."""


class Replay:
    """Emits close after close: paced by the trade runs (speed 0), or by real time as well (speed > 0)."""

    def __init__(
        self,
        host: Host,
        clock: SimulatedClock,
        stop: asyncio.Event,
        *,
        speed: float,
        barrier_seconds: float,
        poll_seconds: float = 0.25,
    ) -> None:
        self._host = host
        self._clock = clock
        self._stop = stop
        self._speed = speed
        self._barrier_seconds = barrier_seconds
        self._poll_seconds = poll_seconds
        self._nudge = asyncio.Event()

    def nudge(self) -> None:
        """A close was ended: look now instead of at the next poll."""
        self._nudge.set()

    async def run(self, state: ReplayState, load: Load) -> ReplayState:
        """Replay `state` to its end. load gives the groups of its sessions and the symbols that are missing.

        Raises Stopped when the desk stops; the ledger then holds where to go on.
        """
        groups, missing = await load()
        last = await self._host.last_close()
        done = [g for g in groups if last is not None and g.close_time <= last]
        last_done = done[-1].close_time if done else None
        state = replace(state, total=len(groups), closes=len(done), missing=missing, last_close=last_done)
        await self._host.save(state)
        if groups:
            self._clock.advance(last if last is not None else _just_before(groups[0]))
        if done:
            await self._barrier(done[-1].close_time)
        log.info("replay_running", sessions=state.sessions, done=len(done), total=len(groups))
        for group in groups[len(done) :]:
            await self._pace(group.close_time)
            self._clock.advance(group.close_time)
            await self._host.close(group, wall())
            state = replace(state, last_close=group.close_time, closes=state.closes + 1)
            await self._host.save(state)
            await self._barrier(group.close_time)
        state = replace(state, state="finished", finished_wall=wall())
        await self._host.save(state)
        log.info("replay_finished", sessions=state.sessions, closes=state.closes)
        return state

    async def _pace(self, close_time: int) -> None:
        """With a speed: real time passes until `close_time`, the market clock moving along."""
        while self._speed > 0 and (left := (close_time - self._clock()) / 1e6 / self._speed) > 0:
            step = min(left, _CLOCK_STEP_SECONDS)
            await self._wait(step)
            self._clock.advance(min(close_time - 1, self._clock() + int(step * self._speed * 1e6)))
            if left <= _CLOCK_STEP_SECONDS:
                return
        self._check()

    async def _barrier(self, close_time: int) -> None:
        """Wait for the trade run of `close_time`; when it does not come in time, go on and record that it was skipped."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._barrier_seconds
        while True:
            self._nudge.clear()
            if await self._host.outcome(close_time) is not None:
                return
            left = deadline - loop.time()
            if left <= 0:
                log.warning("trade_run_skipped", close=iso(close_time), waited_seconds=self._barrier_seconds)
                await self._host.end_close(close_time, SKIPPED)
                return
            await self._wait(min(left, self._poll_seconds), self._nudge)

    async def _wait(self, seconds: float, *also: asyncio.Event) -> None:
        """Sleep, woken by stop or one of `also`."""
        waiters = [asyncio.ensure_future(event.wait()) for event in (self._stop, *also)]
        try:
            await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        self._check()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _just_before(first: CloseGroup) -> int:
    """Market time just before the first close of a replay: one minute, so that nothing of it is known yet."""
    return first.close_time - 60_000_000
