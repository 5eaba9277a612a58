"""The live day: bars of live feeds into the desk's engine, close by close, and what is wrong with the feeds on record.

One subscription for each feed and timeframe of the universe (resources.feeds.live), all of them into one line of closes
(desk.close_groups), each close through the same engine as a replay's. What a feed is in trouble for becomes a failed
verdict `feed_live` on the symbol's partitions of the session, so that the data-quality gate refuses; fresh bars clear it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol

import numpy as np
import structlog

from desk.clock import wall
from desk.close_groups import CloseGroups
from desk.hot_bars import derived_timeframes
from desk.hot_store import FEED_LIVE
from desk.replay import SKIPPED, CloseGroup, Stopped
from resources.feeds import get_feed
from resources.feeds._live_state import expected_closes
from resources.feeds.live import LivePolicy, LiveSubscription
from resources.feeds.protocol import BarClose, Feed, FeedError, MarketClock
from resources.lake import Lake, LakeError
from resources.ledger.store import Ledger, VerdictRow
from resources.settings import Settings
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import US_PER_DAY, Timeframe, from_us, iso, session_date
from trading.universe import Universe

log = structlog.get_logger("desk.live_feed")

STATE_KEY: Final = "live_feed"
CATCH_UP_DAYS: Final = 5
"""A desk that was down longer does not live through the days before again: their closes are not its any more."""
CLOCK_DIFFERENCE_US: Final = 2_000_000
_LOOK_SECONDS: Final = 0.05
_REPORT_SECONDS: Final = 1.0


def live_feeds(universe: Universe, settings: Settings) -> dict[str, Feed]:
    """The feeds the desk listens to, by name; none when it replays instead. Raises FeedError for a feed without live data
    where TAPELINE_LIVE_FEED is on."""
    ended = universe.history_end is not None and universe.history_end < from_us(wall()).date()
    if settings.live_feed == "off" or (settings.live_feed == "auto" and ended):
        return {}
    found: dict[str, Feed] = {}
    for name in sorted({i.feed for i in universe.instruments.values()}):
        try:
            feed = get_feed(name, settings)
        except FeedError:
            if settings.live_feed == "on":
                raise
            continue
        if feed.capabilities().live:
            found[name] = feed
    if settings.live_feed == "on" and not found:
        raise FeedError(f"TAPELINE_LIVE_FEED is on, and no feed of universe {universe.name} is live: set it to auto or off")
    return found


def market_clock(feeds: Mapping[str, Feed]) -> Callable[[], int]:
    """The clock of the market these feeds bring, UTC us. Raises FeedError when they live in different times."""
    clocks: dict[str, Callable[[], int]] = {
        name: feed.market_time if isinstance(feed, MarketClock) else wall for name, feed in feeds.items()
    }
    times = {name: clock() for name, clock in clocks.items()}
    if times and max(times.values()) - min(times.values()) > CLOCK_DIFFERENCE_US:
        said = ", ".join(f"{name} is at {iso(now)}" for name, now in times.items())
        raise FeedError(f"feeds of different market times cannot be traded together: {said}")
    return next((clock for name, clock in clocks.items() if isinstance(feeds[name], MarketClock)), wall)


def ended_sessions_until(universe: Universe, now: int) -> str:
    """ISO date of the newest session whose every venue has closed by `now` (UTC us): what history alone may write."""
    open_ = [
        int(venue.number[row])
        for venue in universe.calendars().values()
        if (row := int(np.searchsorted(venue.close_time, now, side="right"))) < len(venue.number)
    ]
    first_open = min(open_, default=0)
    return (session_date(first_open) - timedelta(days=1)).isoformat()


class Host(Protocol):
    """What the live day needs of the desk around it. Every method retries until it is done or the desk stops."""

    async def close(self, group: CloseGroup, emitted_wall: int) -> None: ...
    async def late(self, bars: tuple[BarClose, ...]) -> None: ...
    async def end_close(self, close_time: int, outcome: str) -> None: ...
    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any: ...


class LiveFeed:
    """The live day of one desk. Made on the worker; run on the event loop. Raises FeedError."""

    def __init__(self, universe: Universe, settings: Settings, ledger: Ledger, lake: Lake, feeds: Mapping[str, Feed]) -> None:
        self._universe, self._settings, self._ledger, self._lake = universe, settings, ledger, lake
        self._feeds = self.feeds = dict(feeds)
        self.market_time = market_clock(feeds)
        self.subscriptions: list[LiveSubscription] = []
        self.trouble: dict[str, str] = {}
        """Symbol -> why nothing new may be risked on it, as the feeds' own looks say."""
        self._absent: dict[str, set[int]] = {}
        """Closes that were done without the symbol's bar although it was due: what was derived then may be wrong."""
        self._groups: CloseGroups | None = None
        self.closes = 0
        self.late_bars = 0

    # -- starting ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find where to go on: behind the last close of the ledger. The very first time the bars of the sessions under
        way are only stored, and the first close is the next one: there is nothing to exit from yet."""
        now = self.market_time()
        last = self._ledger.latest_close()
        done_until = int(last["close_time"]) if last is not None else 0
        if last is not None and done_until < now - CATCH_UP_DAYS * US_PER_DAY:
            log.warning("live_catch_up_cut", last_close=iso(done_until), days=CATCH_UP_DAYS)
            done_until = 0
        wanted: dict[tuple[str, Timeframe], list[Instrument]] = {}
        for instrument in self._universe.instruments.values():
            if instrument.feed in self._feeds:
                wanted.setdefault((instrument.feed, instrument.native_timeframe), []).append(instrument)
        starts = {
            i.symbol: self._start_of(i, done_until, now) for instruments in wanted.values() for i in instruments
        }  # fmt: skip
        own = self._settings
        policy = LivePolicy(stale_seconds=own.live_stale_seconds, silence_seconds=own.live_silence_seconds)
        for (name, timeframe), instruments in wanted.items():
            feed = self._feeds[name]
            tolerated = {i.symbol: self._universe.quality.of(i.asset_class, timeframe).max_gap_bars for i in instruments}
            self.subscriptions.append(
                LiveSubscription(
                    feed, instruments, timeframe, last=starts, market_time=self.market_time, policy=policy, tolerated=tolerated,
                    speed=_speed_of(feed),
                )
            )  # fmt: skip
        venues = self._universe.calendars().values()
        self._groups = CloseGroups(done_until or now, self._expected, venues, own.live_grace_seconds)
        log.info("live_feed_begins", feeds=sorted(self._feeds), behind=iso(self._groups.done_until), market_time=iso(now))

    def _start_of(self, instrument: Instrument, done_until: int, now: int) -> int:
        """The newest bar of `instrument` that needs not be asked for: its last one in the lake where that is older than
        the last close of the desk (it was missing then), else that close; at the first start the session's open."""
        venue = calendar(instrument.calendar)
        row = int(np.searchsorted(venue.open_time, now, side="right")) - 1
        opened = int(venue.open_time[max(row, 0)])
        if not done_until:
            return opened if venue.is_open(now) else now
        day = from_us(done_until).date()
        try:
            held = self._lake.read_bars(
                f"bars_{instrument.native_timeframe}", instrument.symbol, day - timedelta(days=1), day + timedelta(days=1)
            )
        except LakeError:
            return done_until
        times = held.close_time[held.close_time <= done_until]
        if not len(times):
            return done_until
        if self._universe.quality.of(instrument.asset_class, instrument.native_timeframe).max_gap_bars:
            return min(int(times[-1]), done_until)
        # A bar that was on its way when the desk went down is a hole behind newer ones: go on in front of it.
        row = max(0, int(np.searchsorted(venue.open_time, done_until, side="left")) - 1)
        due = expected_closes(venue, instrument.native_timeframe, int(venue.open_time[row]), done_until)
        missing = np.setdiff1d(due, times)
        return int(missing[0]) - 1 if len(missing) else done_until

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self, host: Host, stop: asyncio.Event) -> None:
        """Process closes until the desk stops. Raises Stopped, and what the ledger raises when it goes away."""
        groups = self._groups
        if groups is None:
            raise RuntimeError("prepare comes first")
        queue: asyncio.Queue[BarClose] = asyncio.Queue()
        tasks = [asyncio.create_task(_pump(s, queue), name=f"live-{s.name}-{s.timeframe}") for s in self.subscriptions]
        tasks.append(asyncio.create_task(self._report(host, stop), name="live-report"))
        loop = asyncio.get_running_loop()
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    groups.add(await asyncio.wait_for(queue.get(), _LOOK_SECONDS), loop.time())
                while not queue.empty():
                    groups.add(queue.get_nowait(), loop.time())
                for task in tasks:
                    if task.done():
                        task.result()  # a pump never ends by itself: what ended it ends the live day
                if groups.late:
                    late, groups.late = tuple(groups.late), []
                    self.late_bars += len(late)
                    for bar in late:
                        self._absent.get(bar.symbol, set()).discard(bar.close_time)
                    await host.late(late)
                for group in groups.ready(loop.time(), self.market_time()):
                    self._note_absent(group)
                    await host.close(group, wall())
                    groups.done(group)
                    self.closes += 1
                    await self._skip_old(host, group.close_time)
            raise Stopped
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def trouble_of(self, symbol: str) -> str:
        """Why nothing new may be risked on `symbol` at the close being processed; empty when all is well."""
        said = self.trouble.get(symbol, "")
        missing = self._absent.get(symbol)
        if said or not missing:
            return said
        return f"its bar of {iso(max(missing))} has not come" + (f" and {len(missing) - 1} before" if len(missing) > 1 else "")

    def _note_absent(self, group: CloseGroup) -> None:
        """Which due bars are not in `group`. Those that history knows nothing of either were no bars."""
        have = {bar.symbol for bar in group.bars}
        for subscription in self.subscriptions:
            for symbol, state in subscription.symbols.items():
                known = self._absent.setdefault(symbol, set())
                if symbol in have and state.gap is None:
                    known.clear()  # history was asked for what lies before a newer bar, and had none
                elif (
                    symbol not in have
                    and not state.tolerated
                    and len(expected_closes(state.venue, state.timeframe, group.close_time - 1, group.close_time))
                ):
                    known.add(group.close_time)

    async def _skip_old(self, host: Host, close_time: int) -> None:
        """Closes whose decisions would come too late are nobody's to decide: an entry is never made on an old bar."""
        patience = self._settings.replay_barrier_seconds
        speed = max((s.speed() for s in self.subscriptions), default=1.0)
        if self.market_time() - close_time > patience * 1e6 * max(1.0, speed):
            await host.end_close(close_time, SKIPPED)
        for row in await host.work(lambda: self._ledger.closes(pending=True, limit=200)):
            if wall() - int(row["stored_wall"]) > patience * 1e6:
                log.warning("trade_run_skipped", close=iso(int(row["close_time"])), waited_seconds=patience)
                await host.end_close(int(row["close_time"]), SKIPPED)

    def _expected(self, close_time: int) -> set[str]:
        """Symbols whose bar of `close_time` is due and not in trouble."""
        found: set[str] = set()
        for subscription in self.subscriptions:
            for symbol, state in subscription.symbols.items():
                if symbol not in self.trouble and len(expected_closes(state.venue, state.timeframe, close_time - 1, close_time)):
                    found.add(symbol)
        return found

    # -- how it is -----------------------------------------------------------------------------------------------------

    async def _report(self, host: Host, stop: asyncio.Event) -> None:
        """Look at the feeds every second; a change is on record within the next."""
        said: dict[str, str] = {}
        while not stop.is_set():
            trouble = {symbol: why for s in self.subscriptions for symbol, why in s.trouble().items()}
            self.trouble = trouble
            changed = {symbol for symbol in {*said, *trouble} if (symbol in said) != (symbol in trouble)}
            for symbol in sorted(changed):
                log.log(40 if symbol in trouble else 20, "feed_live", symbol=symbol, trouble=trouble.get(symbol, ""))
            await host.work(self.record, changed)
            said = dict(trouble)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _REPORT_SECONDS)

    def record(self, changed: set[str]) -> None:
        """Write the state, and the verdicts of symbols whose trouble began or ended. On the worker."""
        verdicts = [row for symbol in sorted(changed) for row in self._verdicts(symbol)]
        with self._ledger.transaction() as connection:
            self._ledger.put_state(STATE_KEY, self.status(), connection=connection)
            self._ledger.put_verdicts(verdicts, connection=connection)

    def _verdicts(self, symbol: str) -> list[VerdictRow]:
        """`feed_live` on the symbol's partitions of the session under way, native and derived."""
        instrument = self._universe.instruments[symbol]
        venue = calendar(instrument.calendar)
        row = max(0, int(np.searchsorted(venue.open_time, self.market_time(), side="right")) - 1)
        day = session_date(int(venue.number[row]))
        why = self.trouble.get(symbol, "")
        rows = []
        for timeframe in (instrument.native_timeframe, *derived_timeframes(instrument.native_timeframe)):
            dataset = f"bars_{timeframe}"
            try:
                held = self._lake.partitions(dataset, day, day, [symbol])
            except LakeError:
                held = []
            if not held and timeframe is not instrument.native_timeframe:
                continue  # nothing is there that a decision could need
            content_hash = held[0].content_hash if held else ""
            rows.append(
                VerdictRow(
                    dataset, day.isoformat(), symbol, FEED_LIVE, not why, "error", content_hash, int(bool(why)),
                    ({"message": why},) if why else (), "desk",
                )
            )  # fmt: skip
        return rows

    def status(self) -> dict[str, Any]:
        """Plain values for people and for the check `feed_live`."""
        return {
            "wall": wall(),
            "market_time": self.market_time(),
            "market_time_text": iso(self.market_time()),
            "closes": self.closes,
            "late_bars": self.late_bars,
            "waiting": 0 if self._groups is None else self._groups.waiting,
            "trouble": {s: why for s in self._universe.instruments if (why := self.trouble_of(s))},
            "feeds": [s.status() for s in self.subscriptions],
        }


async def _pump(subscription: LiveSubscription, queue: asyncio.Queue[BarClose]) -> None:
    async for bar in subscription.bars():
        queue.put_nowait(bar)


def _speed_of(feed: Feed) -> Callable[[], float]:
    speed = getattr(feed, "market_speed", None)
    return speed if callable(speed) else lambda: 1.0
