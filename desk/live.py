"""The desk while it stands on the ledger: its parts, how they are put together, and the jobs that keep them going."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from desk import broker_kill, external, kill_booking, mismatches, price_watch, store, submission
from desk.api import Unavailable
from desk.clock import SimulatedClock, wall
from desk.config_watch import ConfigWatch
from desk.dagster_reporter import DagsterReporter
from desk.engine import DeskEngine
from desk.live_feed import LiveFeed, live_feeds
from desk.modes import Modes
from desk.reconcile import reconcile
from desk.replay import STATE_KEY, CloseGroup, Replay, ReplayFeed, ReplayState, Stopped, replay_sessions
from desk.risk_inputs import MarketView
from desk.router import Router
from desk.store import DeskStore, exclusive
from resources.brokers import BrokerContext, get_broker
from resources.brokers.protocol import BrokerError, Connected
from resources.config import Config, load_config
from resources.feeds import get_feed
from resources.feeds.protocol import BarClose, Feed, FeedError
from resources.lake import open_lake
from resources.ledger import audit, settings_audit
from resources.ledger.store import Ledger, connect
from resources.model_serving import evaluables_at_close
from resources.revision import code_revision
from resources.settings import Settings
from trading.costs import Costs
from trading.instruments import Mode
from trading.timeframes import iso

log = structlog.get_logger("desk.live")

HEARTBEAT_KEY = "heartbeat"
ALGO_SECONDS = 1.0
"""Real time between two looks at entries that are worked in slices."""


class Process(Protocol):
    """What the live desk asks of the process around it (desk.app.DeskProcess)."""

    stop: asyncio.Event

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any: ...
    async def read(self, function: Callable[..., Any], *arguments: Any) -> Any: ...
    def lose(self, reason: str) -> None: ...
    @property
    def state(self) -> str: ...
    @property
    def working_since(self) -> int | None: ...


class LiveDesk:
    """All parts of the desk on one ledger connection. Made, taken over and closed on the worker thread."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigInvalid, SQLAlchemyError, FileNotFoundError: there is nothing to run on yet."""
        self.settings = settings
        self.ledger = Ledger(connect(settings.ledger_url()))
        try:
            self.lake = open_lake(settings)
            self.store = DeskStore(self.ledger.engine)
            self.modes: Modes | None = None
            self.config = ConfigWatch(lambda: load_config(settings), settings.config, self._note_problems)
            self.live_feed, self.feed_problem = self._live_feed()
            self.clock = SimulatedClock(self._market_time())
            if self.live_feed is not None and not self._replays():
                self.clock.follow(self.live_feed.market_time)
            context = BrokerContext(
                self.ledger.engine, self.config().universe.instruments, self.costs_of, settings.paper_cash,
                settings.account_currency, self.clock, settings.simulated_broker,
            )  # fmt: skip
            self.broker = get_broker(settings.broker, context)
            self.modes = self._modes_of()(self.ledger.engine, settings, self.broker, lambda: self.config().limits)
            self.modes.note_files(self.config().evaluables())
            self.router = Router(
                self.ledger.engine, self.broker, self.config, self.clock, self.mode_of, MarketView(self.lake), self.modes.barred
            )
            self.router.by_hand.no_new_risk = lambda: self.no_new_risk
            self.router.algos.hold = lambda: self.no_new_risk
            self.engine = self._engine_of()(
                ledger=self.ledger, lake=self.lake, broker=self.broker, router=self.router, config=self.config,
                trouble=self._feed_trouble,
                models=lambda known, at: evaluables_at_close(known, at, self.ledger, settings, self.config().universe.name),
            )  # fmt: skip
            self.reporter = DagsterReporter(self.ledger, settings.webserver_url)
        except BaseException:
            self.ledger.engine.dispose()
            raise
        self.broker_trouble = ""
        """Why the broker cannot be reached; empty when it answers."""
        self._connection = 0
        self.trouble = ""
        """Why the bar close under way cannot be finished; empty when all is well."""
        self.closed = asyncio.Condition()
        self.replay_wanted = asyncio.Event()
        self._replay: Replay | None = None
        self._lock = contextlib.ExitStack()
        self._held: Callable[[], bool] = lambda: False

    @staticmethod
    def _modes_of() -> type[Modes]:
        return Modes

    @staticmethod
    def _engine_of() -> type[DeskEngine]:
        return DeskEngine

    # -- for the API ---------------------------------------------------------------------------------------------------

    @property
    def no_new_risk(self) -> str:
        """Why no decision is taken right now; empty when decisions are taken."""
        return self.trouble or self.broker_trouble or self.config.trouble or self.feed_problem

    @property
    def market_time_text(self) -> str:
        return iso(self.clock())

    def mode_of(self, strategy: str) -> Mode:
        """The mode the ledger keeps for it, never above the installation's; shadow for a strategy that no file ever defined."""
        return self.modes.of(strategy) if self.modes is not None else Mode.SHADOW

    @property
    def mode_book(self) -> Modes:
        """The modes of strategies and plans."""
        assert self.modes is not None  # made with the desk
        return self.modes

    def costs_of(self, symbol: str) -> Costs:
        """Costs of paper fills of `symbol`: those of the first strategy or plan, by name, that trades it and says so."""
        for _, evaluable in sorted(self.config.evaluables.items()):
            if symbol in evaluable.symbols and evaluable.costs is not None:
                return Costs.from_dict(evaluable.costs)
        return Costs()

    def nudge(self) -> None:
        """A close has ended: the replay need not wait for its next look."""
        if self._replay is not None:
            self._replay.nudge()

    # -- on the worker -------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Be the only desk, hear what happened meanwhile, and finish what was under way.

        Raises SecondDesk, SQLAlchemyError, BrokerError.
        """
        engine = self.ledger.engine
        self._held = self._lock.enter_context(exclusive(engine))
        external.remember(engine, self.config().universe.instruments)
        found = submission.recover(engine, self.broker, self.clock)
        kill_booking.book(engine, self.broker, self.clock, broker_kill.folder(self.settings))
        self.engine.actions.resume()
        self.router.continue_exits()
        reconcile(engine, self.broker, self.clock)
        content = {
            "pid": os.getpid(), "code_revision": code_revision(), "mode": self.settings.mode,
            "universe": f"{self.config().universe.name}@{self.config().universe.revision}",
            "resolved": {order: str(state) for order, state in found.resolved.items()},
        }  # fmt: skip
        settings_audit.note_settings(engine, self.settings)
        with self.ledger.transaction() as connection:
            audit.append(connection, "desk", "desk_started", content)

    def close(self) -> None:
        """Give the lock back and drop the connections."""
        try:
            self._lock.close()
        finally:
            self.ledger.engine.dispose()

    def reconcile(self) -> None:
        external.remember(self.ledger.engine, self.config().universe.instruments)
        reconcile(self.ledger.engine, self.broker, self.clock)
        self.router.continue_exits()

    def work_algos(self) -> None:
        """Bring entries that are worked in slices on, unless no new risk is taken; those that end are taken back all the same."""
        if not self.router.algos.anything():
            return
        self.router.drain()
        self.router.algos.work()

    def mind_connection(self) -> None:
        """Compare the books when the broker's connection was made anew: something may have been missed."""
        if isinstance(self.broker, Connected):
            try:
                number = self.broker.connection()
            except BrokerError as error:
                if not self.broker_trouble:
                    log.error("broker_disconnected", broker=self.broker.name, error=str(error))
                self.broker_trouble = f"the broker {self.broker.name} does not answer: {error}"
                return
            anew, self._connection = number != self._connection, number
            if anew or self.broker_trouble:
                log.warning("broker_reconnected", broker=self.broker.name, connection=number)
                self.reconcile()
            self.broker_trouble = ""

    def clear_mismatch(self, symbol: str, reason: str, who: str) -> bool:
        """A person resolves a mismatch; ledger and broker are compared again at once. False when there is none."""
        with self.ledger.transaction() as connection:
            store.lock(connection)
            cleared = mismatches.clear(connection, symbol, who, reason)
        if cleared:
            self.reconcile()
        return cleared

    def start_replay(self, sessions: int | None) -> ReplayState:
        """Record that the live day begins; one that runs or has run stays what it is. Raises ValueError on live feeds."""
        if self.live_feed is not None:
            raise ValueError("the desk listens to live feeds: a replay needs TAPELINE_LIVE_FEED=off")
        known = self.ledger.get_state(STATE_KEY)
        if known is not None:
            return ReplayState.from_dict(known)
        days = replay_sessions(self.config().universe, self.settings.replay_sessions if sessions is None else sessions)
        state = ReplayState("running" if days else "finished", tuple(day.isoformat() for day in days), started_wall=wall())
        with self.ledger.transaction() as connection:
            self.ledger.put_state(STATE_KEY, state.to_dict(), connection=connection)
            audit.append(connection, "desk", "replay_started", {"sessions": list(state.sessions)})
        return state

    def replay_state(self) -> ReplayState | None:
        known = self.ledger.get_state(STATE_KEY)
        return ReplayState.from_dict(known) if known is not None else None

    def replay_groups(self, state: ReplayState) -> tuple[list[CloseGroup], dict[str, str]]:
        """The closes of the replay's sessions, and the symbols whose source cannot be read."""
        from datetime import date

        instruments = self.config().universe.instruments
        sources: dict[str, Feed] = {}
        for name in sorted({i.feed for i in instruments.values()}):
            try:
                sources[name] = get_feed(name, self.settings)
            except FeedError as error:
                log.error("feed_unavailable", feed=name, error=str(error))
        feed = ReplayFeed(sources, instruments.values(), [date.fromisoformat(day) for day in state.sessions])
        return feed.groups(), dict(feed.missing)

    def heartbeat(self, state: str, working_since: int | None) -> bool:
        """Write a sign of life. False when the lock on the ledger is gone."""
        value = {
            "wall": wall(), "market_time": self.clock(), "pid": os.getpid(), "state": state, "mode": self.settings.mode.upper(),
            "no_new_risk": self.no_new_risk, "working_since_wall": working_since, "broker": self.broker.name,
            "broker_trouble": self.broker_trouble,
        }  # fmt: skip
        self.ledger.put_state(HEARTBEAT_KEY, value)
        return self._held()

    def _market_time(self) -> int | None:
        """Where market time stands: the last close, or one that was under way when the desk was stopped and has left orders (sent
        at an earlier time, a simulated broker would fill them inside its bar); before the first close, just before the replay;
        None: real time."""
        last = self.ledger.latest_close()
        if last is not None:
            return max(int(last["close_time"]), self.store.newest_order_time())
        if self.live_feed is not None:
            return self.live_feed.market_time()
        universe = self.config().universe
        sessions = replay_sessions(universe, self.settings.replay_sessions)
        if not sessions:
            return None
        from trading.timeframes import session_number

        first = session_number(sessions[0])
        opens = [venue.bounds(first)[0] for venue in universe.calendars().values() if first in venue.number]
        return min(opens)

    def _live_feed(self) -> tuple[LiveFeed | None, str]:
        """The live day when the universe has live feeds, and why there is none although it should be."""
        universe = self.config().universe
        try:
            feeds = live_feeds(universe, self.settings)
            return (LiveFeed(universe, self.settings, self.ledger, self.lake, feeds) if feeds else None), ""
        except FeedError as error:
            log.error("live_feed_unusable", error=str(error))
            return None, f"no live feed: {error}"

    def _replays(self) -> bool:
        state = self.replay_state()
        return state is not None and state.state == "running"

    def _feed_trouble(self, symbol: str) -> str:
        return "" if self.live_feed is None else self.live_feed.trouble_of(symbol)

    def _note_problems(self, config: Config) -> None:
        for problem in config.problems:
            log.warning("config_problem", problem=str(problem))
        self.ledger.replace_config_problems(config.problems)
        if self.modes is not None:
            self.modes.note_files(config.evaluables())
        modes = {name: str(evaluable.mode) for name, evaluable in config.evaluables().items()}
        settings_audit.note_config(self.ledger.engine, self.settings.config, config.files, modes)

    # -- jobs on the event loop ----------------------------------------------------------------------------------------

    def jobs(self, process: Process) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs until the desk stops or the ledger is lost."""
        watched = self.live_feed if self.settings.quote_seconds > 0 else None
        return [
            ("heartbeat", self._beat(process)),
            ("reconcile", self._reconcile_now_and_then(process)),
            *([("connection", self._mind_connection(process))] if isinstance(self.broker, Connected) else []),
            ("dagster", self.reporter.run(process.stop)),
            ("algos", self._work_algos(process)),
            *self._bar_jobs(process),
            *([("prices", self._watch_prices(process, watched))] if watched is not None else []),
        ]

    def _bar_jobs(self, process: Process) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Where bar closes come from."""
        jobs = [("replay", self._replay_when_wanted(process))]
        return [*jobs, ("live_feed", self._live_day(process, self.live_feed))] if self.live_feed is not None else jobs

    async def _beat(self, process: Process) -> None:
        while not process.stop.is_set():
            try:
                held = await process.read(self.heartbeat, process.state, process.working_since)
            except Unavailable:
                held = True  # the process has noticed by itself when the ledger is gone
            if not held:
                process.lose("the desk's lock on the ledger is gone: taking it again before any new risk")
                return
            await _sleep(process.stop, self.settings.heartbeat_seconds)

    async def _reconcile_now_and_then(self, process: Process) -> None:
        while not process.stop.is_set():
            await _sleep(process.stop, self.settings.reconcile_seconds)
            if not process.stop.is_set():
                try:
                    await process.work(self.reconcile)
                except SQLAlchemyError:
                    raise
                except Exception as error:  # noqa: BLE001 - a broker that cannot be read now is read again in a minute
                    log.error("reconcile_failed", error=f"{type(error).__name__}: {error}")

    async def _watch_prices(self, process: Process, live_feed: LiveFeed) -> None:
        feeds = price_watch.quoting(live_feed.feeds, self.config().universe.instruments)
        if feeds:
            await process.work(self.router.check_daily_loss)
            told = {"told": price_watch.Teller(self.ledger.engine)} if self.settings.two_books else {}
            await price_watch.watch(self.router, feeds, process, self.settings.quote_seconds, **told)
        await process.stop.wait()  # a job that ends would end the desk

    async def _work_algos(self, process: Process) -> None:
        """Slices fall due between bar closes, too: looked at every second of real time while something is being worked."""
        while not process.stop.is_set():
            try:
                await process.work(self.work_algos)
            except SQLAlchemyError:
                raise
            except Exception as error:  # noqa: BLE001 - what is bought is protected; the next look goes on
                log.error("algos_not_worked", error=f"{type(error).__name__}: {error}")
            await _sleep(process.stop, ALGO_SECONDS)

    async def _mind_connection(self, process: Process) -> None:
        while not process.stop.is_set():
            try:
                await process.work(self.mind_connection)
            except SQLAlchemyError:
                raise
            except Exception as error:  # noqa: BLE001 - no comparison, no conclusion: the next look makes it
                log.error("reconcile_failed", error=f"{type(error).__name__}: {error}")
                self._connection = 0
            await _sleep(process.stop, min(1.0, self.settings.reconcile_seconds))

    async def _replay_when_wanted(self, process: Process) -> None:
        host = CloseHost(self, process)
        with contextlib.suppress(Stopped):
            while not process.stop.is_set():
                state = await process.work(self.replay_state)
                if state is not None and state.state == "running":

                    async def load(running: ReplayState = state) -> tuple[list[CloseGroup], dict[str, str]]:
                        groups: tuple[list[CloseGroup], dict[str, str]] = await asyncio.to_thread(self.replay_groups, running)
                        return groups

                    self._replay = Replay(
                        host, self.clock, process.stop,
                        speed=self.settings.replay_speed, barrier_seconds=self.settings.replay_barrier_seconds,
                    )  # fmt: skip
                    await self._replay.run(state, load)
                    self._replay = None
                waiters = [asyncio.ensure_future(e.wait()) for e in (process.stop, self.replay_wanted)]
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                for waiter in waiters:
                    waiter.cancel()
                self.replay_wanted.clear()

    async def _live_day(self, process: Process, live_feed: LiveFeed) -> None:
        """Bars of live feeds, once a replay under way is over."""
        while not process.stop.is_set() and await process.work(self._replays):
            await _sleep(process.stop, 0.5)
        self.clock.follow(live_feed.market_time)
        await process.work(live_feed.prepare)
        with contextlib.suppress(Stopped):
            await live_feed.run(CloseHost(self, process), process.stop)


class CloseHost:
    """The view of the desk that whatever brings bars has: bar closes through the worker, repeated until they are done."""

    def __init__(self, live: LiveDesk, process: Process) -> None:
        self._live = live
        self._process = process

    async def close(self, group: CloseGroup, emitted_wall: int) -> None:
        await self._until_done(f"bar close {iso(group.close_time)}", self._live.engine.process_close, group, emitted_wall)
        async with self._live.closed:
            self._live.closed.notify_all()

    async def late(self, bars: tuple[BarClose, ...]) -> None:
        await self._until_done(f"storing {len(bars)} late bar(s)", self._live.engine.late_bars, bars)

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._process.work(function, *arguments)

    async def _until_done(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        live, pause = self._live, 0.25
        while True:
            try:
                await self._process.work(function, *arguments)
                live.trouble = ""
                return
            except SQLAlchemyError:
                raise  # the ledger: the desk comes back from it and does this close again
            except Exception as error:
                live.trouble = f"{what} is not finished: {type(error).__name__}: {error}"
                log.error("bar_close_failed", what=what, error=live.trouble, exc_info=pause < 0.5)
            await _sleep(self._process.stop, pause)
            if self._process.stop.is_set():
                raise Stopped
            pause = min(pause * 2, 10.0)

    async def outcome(self, close_time: int) -> str | None:
        row: Mapping[str, Any] | None = await self._reading(self._live.ledger.close, close_time)
        return None if row is None else row["outcome"]

    async def last_close(self) -> int | None:
        row = await self._reading(self._live.ledger.latest_close)
        return None if row is None else int(row["close_time"])

    async def end_close(self, close_time: int, outcome: str) -> None:
        await self._process.work(self._live.engine.end_close, close_time, outcome)

    async def save(self, state: ReplayState) -> None:
        await self._process.work(self._live.ledger.put_state, STATE_KEY, state.to_dict())

    async def _reading(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._process.read(function, *arguments)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
