"""The desk of the paper book beside an account with real money: the same desk on a book, a broker and a ledger of its own.

It hears of bar closes from the ledger of the account's desk, reads the bars from the lake, and does with them what every desk
does: fills of its paper orders, exits, marks, its own limits. Between bars it hears the prices that desk asks its feeds for. It
stores no bars, judges no quality and changes no modes: those are facts of the installation, and the account's desk tells them.
Nothing it does can reach the account, and nothing that happens to it (a loss, a halt, its end) touches a live strategy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from desk import price_watch
from desk.breakers import Trip
from desk.clock import wall
from desk.corrections import Corrections
from desk.dagster_reporter import CloseReport
from desk.engine import CloseResult, DeskEngine
from desk.hot_bars import BarCache
from desk.live import HEARTBEAT_KEY, CloseHost, LiveDesk, Process
from desk.live_feed import LiveFeed
from desk.modes import Modes, PaperModes
from desk.plan_book import PlanBook
from desk.replay import SKIPPED, CloseGroup, ReplayState, Stopped
from resources import told_prices
from resources.config import Config
from resources.feeds.protocol import BarClose
from resources.lake import Lake, LakeError, Partition
from resources.ledger import plans as ledger_plans
from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from resources.ledger.base import Row, connect
from resources.ledger.close_watch import close_watch
from resources.ledger.store import Ledger
from resources.settings import PAPER_BOOK, Settings
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Mode
from trading.orders import MAY_BE_AT_BROKER
from trading.strategy import Evaluable
from trading.timeframes import Timeframe, iso, session_date, session_number
from trading.universe import Universe

log = structlog.get_logger("desk.beside")

AT_ONCE = 50
LOOK_SECONDS = 1.0
"""Between two looks at the account's desk when no bar close wakes this one: modes and market time move on meanwhile."""


def live_desk(settings: Settings) -> LiveDesk:
    """The desk of the book these settings are of. Raises what LiveDesk raises."""
    return PaperBesideDesk(settings) if settings.book == PAPER_BOOK else LiveDesk(settings)


class PaperReport(CloseReport):
    """What the paper book tells Dagster: its fills and positions, under names of their own. Bars are told by who stored them."""

    def bars(self, close_time: int, partitions: Sequence[Partition]) -> None:
        return

    def derived(self, lake: Lake, session: date) -> None:
        return

    def _tell(self, asset_key: str, session: str, metadata: Mapping[str, Any], description: str) -> None:
        super()._tell(f"paper_{asset_key}", session, metadata, description)


class _NothingToCorrect(Corrections):
    """Corrections of stored bars are the account's desk's work."""

    def heal(self, universe: Universe, before: int, now_time: int) -> None:
        return


class _PaperPlans(PlanBook):
    """Follows the plans in mode paper, and those that are under way here whatever their mode became."""

    def __init__(self, engine: Engine, mode_of: Callable[[str], Mode]) -> None:
        super().__init__(engine)
        self._own_engine = engine
        self._mode_of = mode_of

    def at_close(
        self,
        config: Any,
        evaluables: Mapping[str, Evaluable],
        cache: BarCache,
        closed: Mapping[str, Mapping[Timeframe, Bars]],
        close_time: int,
    ) -> None:
        with self._own_engine.connect() as connection:
            here = ledger_plans.states(connection)
        own = {name: plan for name, plan in config.plans.items() if name in here or self._mode_of(name) is Mode.PAPER}
        super().at_close(replace(config, plans=own), evaluables, cache, closed, close_time)


class PaperEngine(DeskEngine):
    """Bar closes on the paper book: everything but storing and judging the bars."""

    reports = PaperReport

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._corrections = _NothingToCorrect(parts["ledger"], parts["lake"], lambda instrument: instrument.feed)
        self._plans = _PaperPlans(parts["ledger"].engine, parts["router"].mode_of)

    def late_bars(self, bars: Sequence[BarClose]) -> list[Partition]:
        raise NotImplementedError("the account's desk stores bars that come late")

    def _store_bars(self, close_time: int, result: CloseResult) -> None:
        return


class PaperBesideDesk(LiveDesk):
    """A desk on the paper book. The account's desk of the same installation gives it bar closes, modes and market time."""

    def __init__(self, settings: Settings) -> None:
        self.main = Ledger(connect(settings.model_copy(update={"book": "main"}).ledger_url(), pool_size=2))
        """The ledger of the account's desk: read, never written."""
        try:
            super().__init__(settings)
        except BaseException:
            self.main.engine.dispose()
            raise
        self.missing: dict[str, str] = {}
        """Bars of the last close that could not be read: symbol -> why. Nothing was filled or decided on them."""
        self.caught_up = False
        """Whether every bar close of the account's desk was taken: only then a price of now is one of what is held here."""

    @staticmethod
    def _modes_of() -> type[Modes]:
        return PaperModes

    @staticmethod
    def _engine_of() -> type[DeskEngine]:
        return PaperEngine

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.main.engine.dispose()

    def start_replay(self, sessions: int | None) -> ReplayState:
        """Raises ValueError: the account's desk replays, and this one follows."""
        raise ValueError("the paper book follows the bars of the account's desk: start the replay there, without --book paper")

    def _live_feed(self) -> tuple[LiveFeed | None, str]:
        return None, ""

    def _note_problems(self, config: Config) -> None:
        """The account's desk tells what is wrong with the files."""

    def _market_time(self) -> int | None:
        """Where market time stands: this book's last close, and what the account's desk says, if that is later."""
        last = self.ledger.latest_close()
        times = [int(last["close_time"])] if last is not None else []
        return max([*times, *self._their_time()], default=None)

    def _their_time(self) -> list[int]:
        beat = self.main.get_state(HEARTBEAT_KEY)
        return [int(beat["market_time"])] if beat else []

    # -- following -----------------------------------------------------------------------------------------------------

    def next_closes(self) -> list[Row]:
        """Closes of the account's desk that this book has not seen, oldest first. A new book begins with the next one."""
        last = self.ledger.latest_close()
        if last is None:
            known = self.ledger.get_state("follows_after")
            if known is None:
                theirs = self.main.latest_close()
                known = {"close_time": int(theirs["close_time"]) if theirs is not None else 0}
                self.ledger.put_state("follows_after", known)
            return self.main.closes(after=int(known["close_time"]), limit=AT_ONCE)
        return self.main.closes(after=int(last["close_time"]), limit=AT_ONCE)

    def group_of(self, row: Row) -> CloseGroup:
        """The bars of a close as they lie in the lake. One that cannot be read is left out and named in `missing`."""
        universe, close_time = self.config().universe, int(row["close_time"])
        wanted: dict[tuple[str, date], list[str]] = {}
        for timeframe, symbols in dict(row["bars"]).items():
            for symbol in symbols:
                instrument = universe.instruments.get(symbol)
                if instrument is not None and str(instrument.native_timeframe) == timeframe:
                    day = _session_of(instrument.calendar, close_time, str(row["session"]))
                    wanted.setdefault((f"bars_{timeframe}", day), []).append(symbol)
        self.missing = {}
        found: list[BarClose] = []
        for (dataset, day), symbols in wanted.items():
            read = self._read(dataset, day, symbols)
            for symbol in symbols:
                bars = read.get(symbol)
                at = int(bars.close_time.searchsorted(close_time)) if bars is not None else 0
                if bars is not None and at < len(bars) and int(bars.close_time[at]) == close_time:
                    found.append(_bar(bars, at))
                else:
                    self.missing.setdefault(symbol, f"no bar at {iso(close_time)} in {dataset}")
        for symbol, why in sorted(self.missing.items()):
            log.error("bar_not_read", symbol=symbol, close=iso(close_time), error=why)
        number = session_number(date.fromisoformat(str(row["session"])))
        return CloseGroup(close_time, number, tuple(sorted(found, key=lambda bar: bar.symbol)))

    def _read(self, dataset: str, day: date, symbols: Sequence[str]) -> dict[str, Bars]:
        try:
            return self.lake.read_bars_of(dataset, dict.fromkeys(symbols, day), day)
        except LakeError:
            found: dict[str, Bars] = {}
            for symbol in symbols:  # one by one, which tells whose cannot be read
                try:
                    found[symbol] = self.lake.read_bars(dataset, symbol, day, day)
                except LakeError as error:
                    self.missing[symbol] = str(error)
            return found

    def mind_modes(self) -> None:
        """Working entries of strategies that left mode paper are cancelled; what they hold is managed to its end."""
        self.mode_book.note_files({})
        i, o = t.intents.c, t.orders.c
        working = select(i.strategy).join(t.orders, o.id == i.id).distinct()
        working = working.where(is_entry(i.leg), o.state.in_([s.value for s in MAY_BE_AT_BROKER]))
        with self.ledger.engine.connect() as connection:
            names = [str(name) for name in connection.execute(working).scalars() if name]
        for name in names:
            if name in self.mode_book.known and self.mode_of(name) is not Mode.PAPER:
                self.router.cancel_entries_of(name, f"mode {self.mode_book.known[name].mode}: set at the account's desk")

    def _bar_jobs(self, process: Process) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        heard = [("prices", self._hear_prices(process))] if self.settings.quote_seconds > 0 else []
        return [("follow", self._follow(process)), *heard]

    async def _hear_prices(self, process: Process) -> None:
        """Prices between bars, as the account's desk hears them; nobody asks a feed twice."""
        await process.work(self.router.check_daily_loss)
        with told_prices.listening(self.main.engine) as wait:
            while not process.stop.is_set():
                prices = await asyncio.to_thread(wait, LOOK_SECONDS)
                if prices and self.caught_up:
                    await process.work(self.judge_told, prices)

    def judge_told(self, prices: Sequence[told_prices.Price]) -> list[Trip]:
        """What these prices trip here, latched and acted on."""
        try:
            return price_watch.judge(self.router, prices)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - bar closes and resting stops still guard
            log.error("prices_not_judged", error=f"{type(error).__name__}: {error}")
            return []

    async def _follow(self, process: Process) -> None:
        """Every bar close of the account's desk, in order, as soon as it is recorded there."""
        host = CloseHost(self, process)
        with contextlib.suppress(Stopped), close_watch(self.main.engine) as wait:
            while not process.stop.is_set():
                for time_there in await process.read(self._their_time):
                    self.clock.advance(time_there)
                await process.work(self.mind_modes)
                rows = await process.read(self.next_closes)
                self.caught_up = not rows
                for row in rows:
                    group = await process.read(self.group_of, row)
                    self.clock.advance(group.close_time)
                    await host.close(group, wall())
                    if row["outcome"] is not None:  # its trade run is over: nobody decides on it any more
                        await host.end_close(group.close_time, SKIPPED)
                    if process.stop.is_set():
                        return
                if not rows:
                    await asyncio.to_thread(wait, LOOK_SECONDS)


def _session_of(venue: str, close_time: int, session: str) -> date:
    """The session a bar that closes then belongs to; the close's own where the venue has none."""
    import numpy as np

    number = int(calendar(venue).session_of(np.array([close_time], np.int64))[0])
    return session_date(number) if number >= 0 else date.fromisoformat(session)


def _bar(bars: Bars, row: int) -> BarClose:
    optional = {name: float(column[row]) for name in ("turnover", "trades") if (column := getattr(bars, name, None)) is not None}
    prices = (float(getattr(bars, name)[row]) for name in ("open", "high", "low", "close", "volume"))
    return BarClose(bars.symbol, bars.timeframe, int(bars.close_time[row]), int(bars.session[row]), *prices, **optional)  # type: ignore[arg-type]
