# ruff: noqa: F811, F401 - fixtures are imported by name
"""A paper book beside an account: live and paper strategies side by side, and neither's orders or limits in the other's book."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from assets import trade_lane
from assets.books import Book, books_of
from assets.plans import plans_metadata
from desk import price_watch
from desk.beside import PaperBesideDesk, live_desk
from desk.clock import wall
from desk.desk_control import ControlService
from desk.live import LiveDesk
from desk.modes import ModeNotChanged
from desk.risk_state import HaltLevel
from resources.brokers import get_broker
from resources.config import load_config
from resources.feeds.protocol import Quote
from resources.lake import Lake
from resources.ledger import audit, books
from resources.plan_view import PlanRow, plan_rows
from resources.settings import Settings
from resources.trace import trace
from tests.desk.running import STRATEGY, UNIVERSE, Installation, MakeInstallation, history, install
from tests.doubles.account_broker import ACCOUNT, NAME, AccountBroker, brokers
from trading.instruments import Mode

SURE = STRATEGY.replace("name: often", "name: sure")
CLOSES = 9


class Day:
    """A live day, close by close in this process: the account's desk, the paper book's behind it, and the trade run of both."""

    def __init__(self, at: Installation, settings: Settings) -> None:
        self.at, self.settings = at, settings
        self.main = live_desk(settings)
        self.main.take_over()
        self.groups, _ = self.main.replay_groups(self.main.start_replay(None))
        self.books: list[Book] = books_of(self.main.ledger, settings)
        self.beside: PaperBesideDesk | None = None
        self.next = 0

    def follow(self) -> None:
        """The paper book's desk starts."""
        desk = live_desk(self.settings.paper_book())
        assert isinstance(desk, PaperBesideDesk)
        self.beside = desk
        self.beside.take_over()
        assert self.beside.next_closes() == [], "a new book begins with the next close"

    def desk_of(self, book: Book) -> LiveDesk:
        if not book.paper:
            return self.main
        assert self.beside is not None
        return self.beside

    def close(self) -> None:
        """The next close at both desks, then its trade run, book after book."""
        group = self.groups[self.next]
        self.next += 1
        self.main.clock.advance(group.close_time)
        self.main.engine.process_close(group, wall())
        self.catch_up()
        config = load_config(self.settings)
        for book in self.books:
            own, desk = book.config(config), self.desk_of(book)
            row = desk.ledger.close(group.close_time)
            assert row is not None
            session = str(row["session"])
            seen = trade_lane.evaluate_close(group.close_time, session, own, self.at.lake, book.ledger, book.settings.mode)
            book.ledger.insert_signals(seen.signals, session=session, code_revision="test", run_id="run")
            made = trade_lane.decide(seen.signals, own, book.ledger, group.close_time)
            book.ledger.insert_decisions(made, session=session, code_revision="test", run_id="run")
            for item in made:
                if item.decision.approved:
                    desk.router.submit_decision(item.decision)
            desk.engine.end_close(group.close_time, "done", "run")

    def catch_up(self) -> None:
        if self.beside is not None:
            self.beside.mind_modes()
            for row in self.beside.next_closes():
                group = self.beside.group_of(row)
                assert self.beside.missing == {}
                self.beside.clock.advance(group.close_time)
                self.beside.engine.process_close(group, wall())

    def until(self, condition: Callable[[], Any]) -> Any:
        while not (found := condition()):
            assert self.next < len(self.groups), "the day is over"
            self.close()
        return found

    def end(self) -> None:
        if self.beside is not None:
            self.beside.close()
        self.main.close()


@pytest.fixture
def make(install: MakeInstallation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Day]]:
    made: list[Day] = []
    monkeypatch.setattr("desk.live.get_broker", brokers(get_broker))

    def new(*, account: bool = True, beside: bool = True, **strategies: str) -> Day:
        at = install(strategies=strategies)
        universe = UNIVERSE.replace("tradable_in: [backtest, paper]", "tradable_in: [backtest, paper, live]")
        (at.config_dir / "universe" / "sample.yaml").write_text(universe)
        settings = at.settings
        if account:
            settings = settings.model_copy(update={"broker": NAME, "mode": "live", "live_account": ACCOUNT})
            books.ensure_book(at.ledger.engine)
        made.append(Day(at, settings))
        if account and beside:
            made[-1].follow()
        return made[-1]

    yield new
    for day in made:
        day.end()


def traded(desk: LiveDesk) -> set[tuple[str, str, str]]:
    return {(o["strategy"], o["mode"], o["broker"]) for o in desk.ledger.orders()}


def plain_fills(desk: LiveDesk) -> list[tuple[Any, ...]]:
    names = ("strategy", "symbol", "side", "quantity", "price", "fill_time", "commission")
    return sorted(tuple(row[name] for name in names) for row in desk.ledger.fills())


def live_too(day: Day) -> Day:
    day.main.mode_book.change("sure", Mode.LIVE, reason="ready", who="ann", forced=True)
    return day


class TestSideBySide:
    def test_each_strategy_trades_in_its_own_book_as_if_the_other_were_not_there(self, make: Callable[..., Day]) -> None:
        day = live_too(make(often=STRATEGY, sure=SURE))
        alone = make(account=False, often=STRATEGY)
        for _ in range(CLOSES):
            day.close()
            alone.close()
        assert traded(day.main) == {("sure", "live", NAME)}
        assert traded(day.desk_of(day.books[1])) == {("often", "paper", "paper")}
        assert plain_fills(day.desk_of(day.books[1])) == plain_fills(alone.main) != []
        account = day.main.broker
        assert isinstance(account, AccountBroker)
        sent = {i for together in account.submitted for i in together}
        assert sent == {o["id"] for o in day.main.ledger.orders() if o["state"] != "denied"}
        for book in day.books:
            assert audit.verify(book.ledger.engine) == []

    def test_an_order_of_the_paper_book_is_traced_to_its_bars(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.desk_of(day.books[1])
        order = day.until(paper.ledger.orders)[0]
        (chain,) = trace(paper.ledger.engine, Lake(day.settings.lake_dir), order["id"]).chains
        assert chain.signal["strategy"] == "often"
        assert [f["strategy"] for f in chain.fills] == ["often"] * len(chain.fills)

    def test_a_loss_or_halt_of_one_is_none_of_the_other(self, make: Callable[..., Day]) -> None:
        day = live_too(make(often=STRATEGY, sure=SURE))
        paper = day.desk_of(day.books[1])
        paper.router.halt(HaltLevel.FLATTEN.value, "desk", "a paper loss", "ann")
        day.until(day.main.ledger.orders)
        assert paper.ledger.fills() == []
        assert {o["state"] for o in paper.ledger.orders()} <= {"denied"}
        assert day.main.store.state("halt") in ({}, None)

    def test_the_paper_book_stores_no_bar_and_tells_only_what_is_its_own(
        self, make: Callable[..., Day], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        day = make(often=STRATEGY)
        paper = day.desk_of(day.books[1])
        stored: list[str] = []
        monkeypatch.setattr(paper.lake, "append_hot", lambda dataset, *_, **__: stored.append(dataset))
        day.until(paper.ledger.fills)
        assert stored == []
        assert {row["asset_key"] for row in paper.ledger.unsent(1000)} == {"paper_fills", "paper_positions"}


class OneThread:
    """The process around both desks: everything on the loop's own thread, one after the other."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    read = work


class Quoting:
    """A feed that quotes one price again and again."""

    def __init__(self, symbol: str, price: float, time_us: int) -> None:
        self.said = Quote(symbol, time_us, math.nan, 0.0, math.nan, 0.0, price)
        self.asked = 0

    def quote(self, instruments: Sequence[Any]) -> list[Quote]:
        self.asked += 1
        return [replace(self.said, time=self.said.time + self.asked)]


class TestBetweenBars:
    def test_a_price_that_the_accounts_desk_heard_trips_the_paper_books_limits_alone(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.beside
        assert paper is not None
        (held,) = day.until(lambda: paper.store.open_positions())
        price, at = paper.store.state("prices")["EURUSD"]
        feed = Quoting("EURUSD", price * (0.1 if held.quantity > 0 else 3.0), at)
        process: Any = OneThread()
        jobs_of_it = paper.jobs(process)
        assert {"follow", "prices"} <= {name for name, _ in jobs_of_it}
        for _, job in jobs_of_it:
            job.close()
        day.main.router.check_daily_loss()

        async def both() -> None:
            told = price_watch.Teller(day.main.ledger.engine)
            jobs = [
                asyncio.create_task(paper._hear_prices(process)),
                asyncio.create_task(price_watch.watch(day.main.router, [(feed, [])], process, 0.01, told)),  # type: ignore[list-item]
            ]
            while feed.asked < 5:
                await asyncio.sleep(0.01)
            assert not paper.store.state("halt"), "closes that come before these prices are still to be taken"
            paper.caught_up = True
            while not paper.store.state("halt"):
                assert not any(job.done() for job in jobs)
                await asyncio.sleep(0.01)
            process.stop.set()
            await asyncio.gather(*jobs)

        asyncio.run(asyncio.wait_for(both(), 60))
        assert paper.store.state("halt")["daily_loss_session"]
        assert not day.main.store.state("halt").get("global")


PLAN = """\
name: idea
status: active
mode: paper
symbol: EURUSD
direction: long
timeframe: 1h
valid: {from: 2017-12-20, to: 2018-01-31}
entry: {kind: close_above, level: 1.1950}
stop: 1.1880
target: 1.2160
sizing: {kind: fixed, quantity: 1000}
gates: {min_reward_to_risk: 1.0, quality_sessions: 1}
"""


class Control(ControlService):
    """The control API's reads of one desk."""

    def __init__(self, desk: LiveDesk) -> None:
        self._process, self._live = OneThread(), desk  # type: ignore[assignment]

    def _live_now(self) -> LiveDesk:
        return self._live

    def plans(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in asyncio.run(self.evaluables("plans"))}


class TestPlans:
    def test_a_plan_that_left_paper_is_shown_on_the_paper_half_until_its_trade_is_closed(
        self, make: Callable[..., Day], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        day = make(often=STRATEGY.replace("status: active", "status: paused"))
        paper, file = day.beside, day.at.config_dir / "plans" / "idea.yaml"
        assert paper is not None
        file.parent.mkdir()
        file.write_text(PLAN)
        day.until(lambda: Control(paper).plans().get("idea", {}).get("state") == "managing")
        assert Control(paper).plans()["idea"]["reason"] == ""
        day.main.mode_book.change("idea", Mode.SHADOW, reason="enough", who="ann", forced=False)
        day.close()
        why = (
            r"its trade was opened in paper and is managed to its end there; the plan is in mode shadow since .* \(ann: enough\)"
        )
        (shown,) = self.shown(day, True)
        assert (shown.state, shown.status) == ("managing", "active")
        assert re.fullmatch(why, shown.reason)
        assert re.fullmatch(why, Control(paper).plans()["idea"]["reason"])
        monkeypatch.setattr("assets.books.settings", lambda: day.settings)
        page = plans_metadata(load_config(day.settings), day.main.ledger)
        assert "its trade was opened in paper" in str(page["paper_book_plans"])
        file.unlink()
        day.close()
        row = Control(paper).plans()["idea"]
        assert (row["status"], row["state"], row["symbols"]) == ("no file", "managing", ["EURUSD"])
        assert row["positions"] == {"EURUSD": 1000.0}
        assert (row["enters"], row["problem"]) == (False, "its file is missing or invalid")
        paper.router.flatten("over", "ann", "idea")
        day.close()
        day.close()
        assert "idea" not in Control(paper).plans()
        (shown,) = self.shown(day, True)
        assert shown.state == "closed"
        assert "managed to its end" not in shown.reason

    @staticmethod
    def shown(day: Day, paper: bool) -> list[PlanRow]:
        book = day.books[int(paper)]
        config = load_config(day.settings)
        with book.ledger.engine.connect() as connection:
            return plan_rows(config.plans, connection, config.universe, book.settings.paper_half)


class TestTheDeskBeside:
    def test_catches_up_in_order_with_what_it_missed(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.beside
        assert paper is not None
        day.until(paper.ledger.fills)
        held = [p.quantity for p in paper.store.open_positions()]
        seen = len(paper.ledger.closes())
        paper.close()
        day.beside = None
        day.books = day.books[:1]
        for _ in range(3):
            day.close()
        desk = live_desk(day.settings.paper_book())
        assert isinstance(desk, PaperBesideDesk)
        day.beside = desk
        desk.take_over()
        assert [p.quantity for p in desk.store.open_positions()] == held
        assert len(desk.next_closes()) == 3
        day.catch_up()
        assert len(desk.ledger.closes()) == seen + 3
        assert [c["close_time"] for c in desk.ledger.closes()] == [c["close_time"] for c in day.main.ledger.closes()][-seen - 3 :]

    def test_a_strategy_that_leaves_paper_gets_no_new_trade_and_keeps_its_exits(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.desk_of(day.books[1])
        day.until(lambda: paper.store.open_positions())
        day.main.mode_book.change("often", Mode.SHADOW, reason="enough", who="ann", forced=False)
        entries = len([o for o in paper.ledger.orders() if o["leg"] == "entry"])
        day.until(lambda: not paper.store.open_positions())  # three bars later: its exit still comes
        day.close()
        assert len([o for o in paper.ledger.orders() if o["leg"] == "entry"]) == entries
        assert {o["mode"] for o in day.main.ledger.orders()} == {"shadow"}
        assert day.main.ledger.fills() == []

    def test_an_entry_that_works_when_its_strategy_leaves_paper_is_cancelled(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.beside
        assert paper is not None
        day.until(paper.broker.open_orders)
        day.main.mode_book.change("often", Mode.SHADOW, reason="enough", who="ann", forced=False)
        day.catch_up()
        assert paper.broker.open_orders() == []
        assert paper.ledger.fills() == []

    def test_a_decision_of_a_strategy_that_left_paper_meanwhile_is_not_sent(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.beside
        assert paper is not None
        sent = paper.router.submit_decision
        late: list[Any] = []
        paper.router.submit_decision = late.append  # type: ignore[method-assign, assignment]
        day.until(lambda: late)
        day.main.mode_book.change("often", Mode.SHADOW, reason="enough", who="ann", forced=False)
        paper.mind_modes()
        sent(late[0])
        assert paper.broker.open_orders() == []
        assert {o["mode"] for o in paper.ledger.orders()} == {"shadow"}

    def test_promotion_to_live_waits_for_the_paper_trade_to_end(self, make: Callable[..., Day]) -> None:
        day = make(often=STRATEGY)
        paper = day.desk_of(day.books[1])
        day.until(lambda: paper.store.open_positions())
        with pytest.raises(ModeNotChanged, match=r"holds or works EURUSD in paper: close it \(`tapeline --book paper close`\)"):
            day.main.mode_book.change("often", Mode.LIVE, reason="ready", who="ann", forced=False)
        paper.router.halt(HaltLevel.REDUCE_ONLY.value, "often", "its last trade there", "ann")
        day.until(lambda: not paper.store.open_positions() and not paper.broker.open_orders())
        day.main.mode_book.change("often", Mode.LIVE, reason="ready", who="ann", forced=False)
        day.until(day.main.ledger.fills)
        assert ("often", "live", NAME) in traded(day.main)

    def test_changes_no_mode_and_starts_no_replay(self, make: Callable[..., Day]) -> None:
        paper = make(often=STRATEGY).beside
        assert paper is not None
        with pytest.raises(ModeNotChanged, match="without --book paper"):
            paper.mode_book.change("often", Mode.SHADOW, reason="x", who="x", forced=False)
        with pytest.raises(ValueError, match="start the replay there"):
            paper.start_replay(None)

    def test_a_bar_that_cannot_be_read_decides_nothing(self, make: Callable[..., Day], monkeypatch: pytest.MonkeyPatch) -> None:
        day = make(often=STRATEGY)
        paper = day.beside
        assert paper is not None
        group = day.groups[day.next]
        day.main.clock.advance(group.close_time)
        day.main.engine.process_close(group, wall())
        monkeypatch.setattr(paper.lake, "read_bars_of", lambda dataset, starts, end: {})
        (row,) = paper.next_closes()
        assert paper.group_of(row).bars == ()
        assert set(paper.missing) == {bar.symbol for bar in group.bars}
