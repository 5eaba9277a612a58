"""Finding missing bars, planning the fewest requests for them, and asking the source, within its budget.

Nothing is asked twice: what came is in the lake and no longer missing, what the source does not have is written down with
the date and its evidence and left alone for a while, and only one process at a time asks. A run that is interrupted is
simply planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from assets.bars_run import BarsRun
from assets.quality.recompute import recompute
from resources.feeds.protocol import Feed, FeedError, RateLimited
from resources.ledger import backfill as book
from resources.ledger.base import now_us
from trading import ids
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.gaps import Missing, Request, missing_of, plan_backfill
from trading.instruments import Instrument
from trading.timeframes import US_PER_DAY, Timeframe, iso, session_date, session_number
from trading.universe import Universe

if TYPE_CHECKING:
    from resources.dagster_resources import ConfigFilesResource
    from resources.lake import Lake
    from resources.ledger.store import Ledger

ASK_AGAIN_DAYS = 30
RECENT_DAYS = 7
"""A source may still publish sessions this young: they are asked for again the next day."""


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """A request and the feed it goes to."""

    feed: str
    request: Request

    @property
    def dataset(self) -> str:
        return f"bars_{self.request.timeframe}"

    @property
    def id(self) -> str:
        r = self.request
        return ids.make_id("bf", self.feed, self.dataset, r.symbol, r.first, r.last, list(r.sessions), r.missing)


@dataclass
class BackfillPlan:
    """requests in the order they will be asked; empty: (dataset, symbol, session) not asked again yet -> why.

    left: feed -> requests left (this minute, today), None without a limit. problems: symbol -> why nothing can be planned.
    """

    start: date
    end: date
    requests: list[FeedRequest] = field(default_factory=list)
    empty: dict[tuple[str, str, str], str] = field(default_factory=dict)
    left: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def table(self) -> tuple[list[str], list[list[object]]]:
        """(header, rows) of the dry run."""
        header = ["feed", "symbol", "bars", "first", "last", "sessions with gaps", "missing bars", "bars to come"]
        rows: list[list[object]] = [
            [f.feed, f.request.symbol, str(f.request.timeframe), session_date(f.request.first), session_date(f.request.last),
             len(f.request.sessions), f.request.missing, f.request.bars]
            for f in self.requests
        ]  # fmt: skip
        return header, rows


@dataclass
class Filled:
    """What a run of a plan did. stopped: feed -> why it was not asked any further."""

    asked: int = 0
    filled_bars: int = 0
    filled_sessions: int = 0
    empty_sessions: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    rows: list[list[object]] = field(default_factory=list)


class Backfill:
    """Plans and fills the gaps of the universe's native bars."""

    def __init__(
        self,
        config_files: ConfigFilesResource,
        lake: Lake,
        ledger: Ledger,
        *,
        run_id: str,
        left_of: Callable[[Feed], tuple[int | None, int | None] | None] | None = None,
    ) -> None:
        """left_of: a feed's requests left (this minute, today), None without a limit; default: its budget in the ledger."""
        self._files, self._lake, self._ledger, self._run_id = config_files, lake, ledger, run_id
        self._left_of = left_of or _left
        self.universe: Universe = config_files.load().universe

    def plan(self, start: date, end: date, symbols: Iterable[str] | None = None) -> BackfillPlan:
        """The fewest requests for the bars missing in sessions [start, end]. Nothing is asked of any source."""
        now = now_us()
        plan = BackfillPlan(start, end)
        wanted = set(self.universe.instruments if symbols is None else symbols)
        by_frame: dict[tuple[Timeframe, str], list[Instrument]] = {}
        for symbol, instrument in self.universe.instruments.items():
            if symbol in wanted:
                by_frame.setdefault((instrument.native_timeframe, instrument.feed), []).append(instrument)
        for unknown in sorted(wanted - set(self.universe.instruments)):
            plan.problems[unknown] = f"not in the universe {self.universe.name}"
        for (timeframe, feed_name), instruments in sorted(by_frame.items(), key=lambda item: (item[0][0].minutes, item[0][1])):
            try:
                feed = self._files.feed(feed_name)
                limits = feed.capabilities()
                left = self._left_of(feed)
            except FeedError as error:
                plan.problems.update({i.symbol: str(error) for i in instruments})
                continue
            if left is not None:
                plan.left[feed_name] = left
            first = start
            if limits.history_start is not None:
                first = max(first, limits.history_start)
            if limits.history_days is not None:
                first = max(first, session_date(now // US_PER_DAY - limits.history_days))
            missing = [m for i in instruments for m in self._missing(i, first, end, now)]
            empty = book.known_empties(self._ledger.engine, f"bars_{timeframe}", {i.symbol: feed_name for i in instruments}, now)
            skip = {(s, session_number(date.fromisoformat(day))): row["received"] for (s, day), row in empty.items()}
            for m in missing:
                row = empty.get((m.symbol, session_date(m.session).isoformat()))
                if row is not None:
                    name = (f"bars_{timeframe}", m.symbol, row["session"])
                    plan.empty[name] = (
                        f"{row['evidence']}, asked {iso(row['asked_wall'])}, again from {iso(row['ask_again_wall'])}"
                    )
            requests = plan_backfill(
                missing, calendar_of=self._calendar, timeframe=timeframe, page_bars=limits.page_size, known_empty=skip
            )
            plan.requests += [FeedRequest(feed_name, r) for r in requests]
        return plan

    def run(
        self,
        plan: BackfillPlan,
        *,
        ask_again_days: int = ASK_AGAIN_DAYS,
        progress: Callable[[int, int, FeedRequest, str], None] = lambda *_: None,
    ) -> Filled:
        """Ask for what was planned, write what came, judge it. A feed out of budget or in error is not asked further.

        Raises BackfillBusy while another process fills gaps. progress(done, total, request, what became of it).
        """
        out = Filled()
        engine = self._ledger.engine
        with book.only_one(engine):
            book.put_planned(engine, [self._planned(f) for f in plan.requests])
            for number, item in enumerate(plan.requests, 1):
                if item.feed in out.stopped:
                    said = "left for later"
                else:
                    said = self._one(item, out, ask_again_days)
                out.rows.append([item.feed, str(item.request), said])
                progress(number, len(plan.requests), item, said)
        return out

    def _one(self, item: FeedRequest, out: Filled, ask_again_days: int) -> str:
        engine, request = self._ledger.engine, item.request
        instrument = self.universe.instruments[request.symbol]
        book.mark(engine, item.id, book.ASKED)
        run = BarsRun(self._files, self._lake, request.timeframe, ledger=lambda: self._ledger, run_id=self._run_id)
        try:
            received, filled = run.fill(instrument, [session_date(s) for s in request.sessions])
        except RateLimited as error:
            out.stopped[item.feed] = str(error)
            book.mark(engine, item.id, book.PLANNED, message=str(error))
            return f"left for later: {error}"
        except FeedError as error:
            out.failed[str(request)] = str(error)
            book.mark(engine, item.id, book.FAILED, message=str(error))
            return f"failed: {error}"
        out.asked += 1
        out.filled_bars += sum(filled.values())
        out.filled_sessions += len(filled)
        if filled:
            recompute(
                self._files, self._lake, self._ledger, request.symbol, min(filled), max(filled), run_id=self._run_id, native=False
            )
        still = self._missing(instrument, session_date(request.first), session_date(request.last), now_us())
        gone = [m for m in still if m.session in request.sessions]
        book.put_known_empty(engine, [self._empty(item, m, received, ask_again_days) for m in gone])
        out.empty_sessions += len(gone)
        said = f"{sum(filled.values())} bars filled in {len(filled)} session(s)"
        if gone:
            said += f"; the source has no more of {len(gone)} session(s)"
        total = sum(received.values())
        book.mark(engine, item.id, book.DONE, received_bars=total, filled_bars=sum(filled.values()), message=said)
        return said

    def _missing(self, instrument: Instrument, start: date, end: date, now: int) -> list[Missing]:
        """Sessions with gaps beyond what is allowed. A replayed universe ends with its history."""
        timeframe = instrument.native_timeframe
        limits = self.universe.quality.of(instrument.asset_class, timeframe)
        held: Bars = self._lake.read_bars(f"bars_{timeframe}", instrument.symbol, start, end)
        future = instrument.future
        return missing_of(
            held, self._calendar(instrument.symbol), session_number(start), session_number(end),
            known_until=now, max_gap_share=limits.max_gap_share, max_gap_bars=limits.max_gap_bars,
            listed_until=session_number(future.expiry) if future is not None and future.expiry is not None else None,
        )  # fmt: skip

    def _calendar(self, symbol: str) -> Calendar:
        return calendar(self.universe.instruments[symbol].calendar)

    def _planned(self, item: FeedRequest) -> dict[str, object]:
        r = item.request
        return {
            "id": item.id, "feed": item.feed, "dataset": item.dataset, "symbol": r.symbol,
            "first_session": session_date(r.first).isoformat(), "last_session": session_date(r.last).isoformat(),
            "sessions": len(r.sessions), "missing_bars": r.missing, "state": book.PLANNED, "received_bars": 0, "filled_bars": 0,
            "message": "", "run_id": self._run_id, "planned_wall": now_us(), "asked_wall": None, "done_wall": None,
        }  # fmt: skip

    def _empty(self, item: FeedRequest, m: Missing, received: Mapping[date, int], days: int) -> dict[str, object]:
        wall, session = now_us(), session_date(m.session)
        young = wall // US_PER_DAY - m.session <= RECENT_DAYS
        got = received.get(session, 0)
        return {
            "feed": item.feed, "dataset": item.dataset, "symbol": m.symbol, "session": session.isoformat(),
            "expected": m.expected, "received": got,
            "evidence": f"asked for {session_date(item.request.first)} to {session_date(item.request.last)}, the source gave "
            f"{got} of {m.expected} bars",
            "run_id": self._run_id, "asked_wall": wall, "ask_again_wall": wall + (1 if young else days) * US_PER_DAY,
        }  # fmt: skip


def _left(feed: Feed) -> tuple[int | None, int | None] | None:
    from resources.feeds.budget import budget_of
    from resources.settings import settings

    budget = budget_of(feed.capabilities(), settings())
    return None if budget is None else budget.left()
