"""One bar close, from the feed's bars to the committed row that lets the trade run start.

The order is fixed: exits of trades that no price of the bar can have touched at the broker, fills of the old orders, the
other exits, marks and breakers, hot bars, quality verdicts, the account, then the close itself. Every step may be repeated,
and the close is committed last: a desk that dies in between does the whole close again and ends where it would have been.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from typing import Any, Protocol, runtime_checkable

import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import SQLAlchemyError

from desk import hot_bars, quiet
from desk.clock import wall
from desk.close_exits import CloseExits, CloseResult
from desk.config_watch import ConfigWatch
from desk.corporate_actions import CorporateActions
from desk.corrections import Corrections
from desk.dagster_reporter import CloseReport
from desk.hot_bars import BarCache
from desk.hot_derive import HotDerive
from desk.hot_store import HOT_CONFLICT, HotStore
from desk.managing import TradeManager
from desk.plan_book import PlanBook
from desk.replay import NO_STRATEGY, SKIPPED, CloseGroup
from desk.router import Router
from desk.store import DeskStore
from resources.brokers.protocol import Account, Broker
from resources.feeds.protocol import BarClose
from resources.lake import Lake, LakeError, LakeWriteFailed, Partition
from resources.ledger import tables as t
from resources.ledger.store import Ledger, VerdictRow
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.resample import resample
from trading.strategy import Evaluable
from trading.timeframes import iso, session_date, session_number
from trading.universe import Universe

log = structlog.get_logger("desk.engine")


@runtime_checkable
class BarDriven(Protocol):
    """A broker that fills orders from the bars the desk gives it (paper)."""

    def on_bars(self, close_time: int, bars: Sequence[BarClose]) -> None: ...


class CloseIncomplete(Exception):
    """A step of a bar close failed for now (lake, disk). Exits were done; the close must be repeated."""


class DeskEngine:
    """Processes bar closes. Used by the desk's one worker thread."""

    reports: type[CloseReport] = CloseReport
    """What a close tells Dagster."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        lake: Lake,
        broker: Broker,
        router: Router,
        config: ConfigWatch,
        source: Callable[[Instrument], str] = lambda instrument: instrument.feed,
        trouble: Callable[[str], str] = lambda symbol: "",
        models: Callable[[Mapping[str, Evaluable], int], Mapping[str, Evaluable]] = lambda evaluables, close_time: evaluables,
    ) -> None:
        """models: binds model strategies to what serves them at a close (resources.model_serving)."""
        self._models = models
        self._ledger = ledger
        self._store = DeskStore(ledger.engine)
        self._lake = lake
        self._broker = broker
        self._router = router
        self._config = config
        self._cache = BarCache(lake)
        self._derived = HotDerive(self._cache)
        self._corrections = Corrections(ledger, lake, source)
        self._hot = HotStore(lake, self._cache, source, trouble, self._standing_conflict)
        self.actions = CorporateActions(engine=ledger.engine, broker=broker, clock=router.clock, lake=lake, config=config)
        self._manager = TradeManager(ledger.engine, broker, router.clock)
        self._plans = PlanBook(ledger.engine)
        self._session = -1
        self._recorded_until: int | None = None
        self._opened: set[int] = set()
        self.exits = CloseExits(
            ledger.engine, router, self._manager, self._plans, self.actions, config, self._cache, self._take_bars, self._derive_of
        )

    @property
    def unmanaged(self) -> Mapping[str, str]:
        """Open positions whose exit could not be judged at their last close: ``strategy/symbol`` -> why."""
        return self.exits.unmanaged

    @property
    def cache(self) -> BarCache:
        return self._cache

    def _standing_conflict(self, dataset: str, session: str, symbol: str) -> str:
        """What the ledger says of a bar told differently twice in this partition; empty when nothing."""
        chosen = {"dataset": dataset, "session": session, "symbol": symbol, "check_name": HOT_CONFLICT}
        for row in self._ledger.rows(t.quality_verdicts, list(t.quality_verdicts.primary_key), **chosen):
            if not row["passed"]:
                told: Mapping[str, Any] = next(iter(row["examples"]), {})
                return str(told.get("message", "a bar was told differently before"))
        return ""

    def process_close(self, group: CloseGroup, emitted_wall: int) -> CloseResult:
        """Take one close to its committed row. Does nothing when that row is there.

        Raises CloseIncomplete when the lake could not be written; SQLAlchemyError when the ledger is away.
        """
        result = CloseResult(group.close_time)
        with quiet.no_collection():
            evaluables = self._until_exits(group, result)
        if evaluables is None:
            return result
        self._after_exits(group, result, evaluables, emitted_wall)
        log.info(
            "bar_close",
            close=iso(group.close_time),
            bars=hot_bars.closed_at(result.closed, group.close_time),
            fills=result.fills,
            exits=[f"{e.strategy}/{e.symbol}:{e.reason}" for e in result.exits if e.reason],
            milliseconds=round((wall() - emitted_wall) / 1000, 1),
        )
        quiet.settler.after_close()
        return result

    def _until_exits(self, group: CloseGroup, result: CloseResult) -> dict[str, Evaluable] | None:
        """Fills of the old orders, then the exits; nothing that these do not need. Gives strategies and plans as they are in
        force; None: the close was recorded before."""
        if self._is_recorded(group.close_time):
            return None
        self._config.refresh()
        if group.session != self._session:  # final bars may have replaced the traded-on ones since
            self._forget()
            self._corrections.heal(self._config().universe, group.session, group.close_time)
            self._session = group.session
        instruments = self._config().universe.instruments
        bars = [bar for bar in group.bars if bar.symbol in instruments]
        self._open_sessions(bars)
        now = self.exits.look()
        held = self.actions.begin(bars, now["actions"][0])
        if self.actions.acted:
            self.exits.forget()
            now = self.exits.look()
        known = self._models(self._config.evaluables, group.close_time)
        # No exit waits for anything it does not need; a close that is repeated asks for the same exits again.
        sent: frozenset[tuple[str, str]] = frozenset()
        if isinstance(self._broker, BarDriven):
            if not self._router.has_news():
                sent = self.exits.of_untouched(result, bars, known, now)
            self._broker.on_bars(group.close_time, [bar for bar in bars if bar.symbol not in held])
        result.fills = self._router.hear().fills
        return self.exits.of_all(result, bars, known, sent)

    def _after_exits(
        self, group: CloseGroup, result: CloseResult, evaluables: Mapping[str, Evaluable], emitted_wall: int
    ) -> None:
        """What a close leaves behind, recorded last."""
        instruments, held = self._config().universe.instruments, self.actions.held
        bars = [bar for bar in group.bars if bar.symbol in instruments]
        session = session_date(group.session).isoformat()
        self._router.continue_exits()
        self._take_bars([bar for bar in bars if bar.symbol not in result.closed], result)
        self._derive_of(instruments, result)
        # The price of a held instrument may be of another unit than its position.
        self._store.mark(group.close_time, session, {bar.symbol: bar.close for bar in bars if bar.symbol not in held})
        self._router.check_daily_loss()
        self._plans.at_close(self._config(), evaluables, self._cache, result.closed, group.close_time)
        try:
            self._store_bars(group.close_time, result)
        except (LakeWriteFailed, OSError) as error:
            raise CloseIncomplete(f"bar close {iso(group.close_time)} is not stored: {error}") from error
        self._router.algos.work()  # new risk comes last, and only where the bars are stored
        self._commit(group, session, result, emitted_wall)
        self._recorded_until = max(self._recorded_until or 0, group.close_time)

    def _is_recorded(self, close_time: int) -> bool:
        """Only this desk records closes: one after the newest it knows of is not asked for again."""
        if self._recorded_until is None:
            last = self._ledger.latest_close()
            self._recorded_until = int(last["close_time"]) if last is not None else 0
        return close_time <= self._recorded_until and self._ledger.close(close_time) is not None

    def late_bars(self, bars: Sequence[BarClose]) -> list[Partition]:
        """Bars of closes that are done: stored and judged, and no order is matched or exit decided on them again.

        They replace what was known of their closes, and what was derived from that is made again (desk/corrections.py).
        Raises what the lake raises when it cannot be written, and what the ledger raises while it is away: to be repeated.
        """
        universe = self._config().universe
        last = self._ledger.latest_close()
        until = max(int(last["close_time"]) if last is not None else 0, max((b.close_time for b in bars), default=0))
        partitions: list[Partition] = []
        verdicts: list[VerdictRow] = []

        def store(part: Bars, number: int) -> None:
            held, judged = self._hot.append(universe, f"bars_{part.timeframe}", number, part, until)
            partitions.extend(held)
            verdicts.extend(judged)

        for native in hot_bars.to_bars([b for b in bars if b.symbol in universe.instruments]):
            venue = calendar(universe.instruments[native.symbol].calendar)
            try:
                self._corrections.apply(universe, native, until)
            except LakeWriteFailed:
                raise
            except LakeError as error:  # what is stored stands, and contradicts: a failed verdict below
                log.error("not_corrected", symbol=native.symbol, error=f"{type(error).__name__}: {error}")
            for number, part in hot_bars.by_session(native).items():
                store(part, number)
                self._cache.forget()
                self._derive_again(universe, native.symbol, number, until)
                for timeframe in hot_bars.derived_timeframes(native.timeframe):
                    start = hot_bars.period_start(number, timeframe)
                    made = resample(
                        self._cache.bars(native.symbol, native.timeframe, start, until), timeframe, venue, known_until=until
                    )
                    if len(touched := made.rows(made.session == number)):
                        store(touched, number)
        self._forget()
        with self._ledger.transaction() as c:
            self._ledger.put_verdicts(verdicts, connection=c)
            self.reports(self._ledger, c, universe, self._broker.name.upper()).bars(until, partitions)
        named = [f"{b.symbol}@{iso(b.close_time)}" for b in bars[:5]]
        log.warning("bars_of_closes_that_are_done", count=len(bars), first=named, partitions=len(partitions))
        return partitions

    def _derive_again(self, universe: Universe, symbol: str, session: int, until: int) -> None:
        """Derived bars that were made before their last native bar had come. Raises LakeWriteFailed: to be repeated."""
        try:
            self._corrections.derive(universe, universe.instruments[symbol], session, until, "a native bar came late")
        except LakeWriteFailed:
            raise
        except LakeError as error:  # what is stored stands, and contradicts: a failed verdict
            log.error("not_corrected", symbol=symbol, error=f"{type(error).__name__}: {error}")

    def end_close(self, close_time: int, outcome: str, run_id: str | None = None) -> dict[str, Any] | None:
        """Note how the trade run of a close ended; the first word stands. Gives the row as it is now, None if unknown."""
        still_open = update(t.closes).where(t.closes.c.close_time == close_time, t.closes.c.outcome.is_(None))
        with self._ledger.transaction() as c:
            first = c.execute(still_open.values(outcome=outcome)).rowcount == 1
            if outcome != SKIPPED:
                self._ledger.stamp_close(close_time, run_id=run_id if first else None, done_wall=wall(), connection=c)
        self._hear_ahead()
        self.exits.read_ahead(close_time)
        return self._ledger.close(close_time)

    def _hear_ahead(self) -> None:
        """What the broker said on the close's entries, so that the next close's exits need not wait for it."""
        try:
            self._router.hear()
        except SQLAlchemyError:
            raise  # the ledger: the desk comes back from it
        except Exception as error:  # noqa: BLE001 - the close has ended; whatever the broker said is heard at the next one
            log.warning("not_heard", error=type(error).__name__)

    def _forget(self) -> None:
        """Read and derive everything from the lake again at the next use."""
        self._cache.forget()
        self._derived.forget()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _open_sessions(self, bars: Sequence[BarClose]) -> None:
        """A session begins with its first bar: its start equity is what the account was worth before it."""
        for number in sorted({bar.session for bar in bars} - self._opened):
            bounds = self._bounds(number)
            if bounds:
                self._ledger.open_session(
                    session_date(number).isoformat(),
                    opened_time=min(opened for opened, _ in bounds),
                    start_equity=self._broker.account().equity,
                )
                self._opened.add(number)

    def _bounds(self, session: int) -> list[tuple[int, int]]:
        """(open, close) of `session` at every venue of the universe that has it."""
        found = []
        for venue in self._config().universe.calendars().values():
            try:
                found.append(venue.bounds(session))
            except KeyError:
                continue
        return found

    def _take_bars(self, bars: Sequence[BarClose], result: CloseResult) -> None:
        """Native bars, in memory: what exits are decided on."""
        for native in hot_bars.to_bars(bars):
            self._cache.extend(native)
            result.closed.setdefault(native.symbol, {})[native.timeframe] = native

    def _derive_of(self, symbols: Collection[str], result: CloseResult) -> None:
        """The higher timeframes of these instruments that are complete now, once a close."""
        instruments = self._config().universe.instruments
        for symbol in [s for s in instruments if s in symbols and s not in result.derived]:
            result.derived.add(symbol)
            try:
                self._derive(symbol, instruments[symbol], result.close_time, result)
            except (LakeError, ValueError) as error:  # its higher timeframes stay behind, the other symbols go on
                why = f"{type(error).__name__}: {error}"
                log.error("not_derived", symbol=symbol, close=iso(result.close_time), error=why)

    def _store_bars(self, close_time: int, result: CloseResult) -> None:
        """The new bars of every timeframe into the lake, judged. Raises what the lake raises when it cannot be written."""
        universe = self._config().universe
        verdicts: list[VerdictRow] = []
        together: dict[tuple[str, int], list[Bars]] = {}
        for symbol in sorted(result.closed):
            for timeframe, rows in result.closed[symbol].items():
                for number, part in hot_bars.by_session(rows).items():
                    together.setdefault((f"bars_{timeframe}", number), []).append(part)
        for (dataset, number), parts in together.items():
            partitions, judged = self._hot.append_all(universe, dataset, number, parts, close_time)
            result.partitions += partitions
            verdicts += judged
        self._ledger.put_verdicts(verdicts)

    def _derive(self, symbol: str, instrument: Instrument, until: int, result: CloseResult) -> None:
        """Add the bars of higher timeframes that `until` completes, late ones of this session included."""
        native = result.closed.get(symbol, {}).get(instrument.native_timeframe)
        for timeframe, new in self._derived.completed(instrument, until, native).items():
            self._cache.extend(new)
            result.closed.setdefault(symbol, {})[timeframe] = new

    def _commit(self, group: CloseGroup, session: str, result: CloseResult, emitted_wall: int) -> None:
        """The close, what it tells Dagster and the sessions it ends: one transaction, the last step."""
        account = self._broker.account()
        self._store.snapshot_account(group.close_time, session, account)
        bars = hot_bars.closed_at(result.closed, group.close_time)
        with self._ledger.transaction() as c:
            before = c.execute(select(t.closes.c.stored_wall).order_by(t.closes.c.close_time.desc()).limit(1)).scalar() or 0
            stored = wall()
            result.recorded = self._ledger.record_close(
                group.close_time, session, bars, emitted_wall=emitted_wall, stored_wall=stored, connection=c
            )
            if not result.recorded:
                return
            if not self._wanted(bars):
                self._ledger.stamp_close(group.close_time, outcome=NO_STRATEGY, done_wall=stored, connection=c)
            report = self.reports(self._ledger, c, self._config().universe, self._broker.name.upper())
            report.bars(group.close_time, result.partitions)
            report.fills(before, session)
            for name in c.execute(select(t.sessions.c.session).where(t.sessions.c.state == "open")).scalars().all():
                self._end_session(c, name, group.close_time, account, report, result)

    def _wanted(self, bars: Mapping[str, Sequence[str]]) -> bool:
        """Does an active strategy or plan decide on one of these bars?"""
        return any(set(e.symbols) & set(bars.get(str(e.timeframe), ())) for e in self._config().active())

    def _end_session(
        self, c: Connection, session: str, close_time: int, account: Account, report: CloseReport, result: CloseResult
    ) -> None:
        """A session ends when the last venue that has it has closed."""
        day = date.fromisoformat(session)
        over = max((closed for _, closed in self._bounds(session_number(day))), default=close_time)
        if close_time >= over:
            self._ledger.end_session(session, ended_time=over, end_equity=account.equity, connection=c)
            result.ended_sessions.append(session)
            report.derived(self._lake, day)
            report.positions(session, account)
