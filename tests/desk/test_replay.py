"""The live day on recorded bars: in order, paced by the trade runs, and exactly where it was after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from desk.clock import SimulatedClock, wall
from desk.replay import SKIPPED, CloseGroup, Replay, ReplayFeed, ReplayState, Stopped, replay_sessions
from resources.feeds import get_feed
from resources.feeds.protocol import Capabilities, Feed, FeedError, SourceMissing
from resources.settings import Settings
from tests.desk.kit import config, instrument
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import Timeframe, iso, session_number

EURUSD = instrument("EURUSD", feed="sample_forex")
SPX = instrument(
    "SPX", feed="sample_indices", calendar="XNYS", native_timeframe=Timeframe.D1, asset_class=AssetClass.INDEX, lot_size=1
)
DAYS = [date(2017, 12, 28), date(2017, 12, 29)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def real_feeds() -> dict[str, Feed]:
    own = Settings(_env_file=None)  # type: ignore[call-arg]
    return {name: get_feed(name, own) for name in ("sample_forex", "sample_indices")}


class Broken:
    """A feed whose folder is gone."""

    def capabilities(self) -> Capabilities:
        return Capabilities("broken", frozenset(Timeframe), live=False)

    def lookup(self, text: str) -> list[str]:
        return []

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        raise SourceMissing("no folder /nowhere: set TAPELINE_LEAN_DATA")

    def subscribe(self, instruments: Any, timeframe: Timeframe) -> Any:
        raise FeedError("not live")


def test_the_last_sessions_of_the_history_are_replayed() -> None:
    ended = replace(config().universe, history_end=date(2018, 1, 2))
    assert replay_sessions(ended, 3) == [date(2017, 12, 29), date(2018, 1, 1), date(2018, 1, 2)]
    assert replay_sessions(ended, 0) == []
    assert replay_sessions(ended, 10_000)[0] == date(2017, 1, 2)


def test_closes_come_in_order_one_group_a_moment_each_with_all_its_bars() -> None:
    groups = ReplayFeed(real_feeds(), [EURUSD, SPX], DAYS).groups()
    times = [g.close_time for g in groups]
    assert times == sorted(set(times))
    assert len(groups) == 48
    (both,) = [g for g in groups if iso(g.close_time) == "2017-12-29T21:00:00Z"]
    assert sorted((b.symbol, str(b.timeframe)) for b in both.bars) == [("EURUSD", "1h"), ("SPX", "1d")]
    assert {g.session for g in groups} == {session_number(d) for d in DAYS}
    assert all(b.close_time == g.close_time for g in groups for b in g.bars)


def test_every_bar_of_the_source_is_emitted_once() -> None:
    feeds = real_feeds()
    source = feeds["sample_forex"].history(EURUSD, Timeframe.H1, DAYS[0], DAYS[-1])
    emitted = [b for g in ReplayFeed(feeds, [EURUSD], DAYS).groups() for b in g.bars]
    assert [(b.close_time, b.close) for b in emitted] == list(zip(source.close_time.tolist(), source.close.tolist(), strict=True))


def test_a_venue_closes_even_when_no_bar_does() -> None:
    feed = ReplayFeed({"sample_forex": Broken()}, [EURUSD], DAYS)
    groups = feed.groups()
    assert [(g.close_time, g.bars) for g in groups] == [(calendar("FX").bounds(d)[1], ()) for d in DAYS]


def test_a_missing_source_leaves_the_others() -> None:
    feed = ReplayFeed({**real_feeds(), "sample_indices": Broken()}, [EURUSD, SPX], DAYS)
    assert {b.symbol for g in feed.groups() for b in g.bars} == {"EURUSD"}
    assert "TAPELINE_LEAN_DATA" in feed.missing["SPX"]


@pytest.mark.anyio
async def test_it_is_a_live_feed() -> None:
    feed = ReplayFeed(real_feeds(), [EURUSD, SPX], DAYS)
    assert isinstance(feed, Feed)
    assert feed.capabilities().live
    bars = [bar async for bar in feed.subscribe([SPX], Timeframe.D1)]
    assert [b.symbol for b in bars] == ["SPX", "SPX"]


def test_the_state_survives_the_ledger() -> None:
    state = ReplayState("running", ("2017-12-29",), 5, 1, 24, 9, None, {"SPX": "gone"})
    assert ReplayState.from_dict(state.to_dict()) == state


# -- pacing ------------------------------------------------------------------------------------------------------------

GROUPS = [CloseGroup(n * 60_000_000, 0) for n in range(10, 15)]
RUNNING = ReplayState("running", ("1970-01-01",))


class Host:
    """A desk that records what the replay asks of it. answer(close_time): what the trade run does at a close."""

    def __init__(self, answer: Callable[[int], str | None] = lambda _: "done", recorded: Sequence[int] = ()) -> None:
        self.outcomes: dict[int, str | None] = dict.fromkeys(recorded)
        self.answer = answer
        self.said: list[tuple[str, Any]] = []
        self.states: list[ReplayState] = []
        self.clock = SimulatedClock(0)
        self.at_close: list[int] = []

    async def close(self, group: CloseGroup, emitted_wall: int) -> None:
        self.said.append(("close", group.close_time))
        self.at_close.append(self.clock())
        self.outcomes[group.close_time] = None

    async def outcome(self, close_time: int) -> str | None:
        if self.outcomes[close_time] is None:
            self.outcomes[close_time] = self.answer(close_time)
        return self.outcomes[close_time]

    async def last_close(self) -> int | None:
        return max(self.outcomes, default=None)

    async def end_close(self, close_time: int, outcome: str) -> None:
        self.said.append((outcome, close_time))
        self.outcomes[close_time] = outcome

    async def save(self, state: ReplayState) -> None:
        self.states.append(state)


async def play(host: Host, stop: asyncio.Event | None = None, *, speed: float = 0, barrier: float = 5.0) -> ReplayState:
    own = Replay(host, host.clock, stop or asyncio.Event(), speed=speed, barrier_seconds=barrier, poll_seconds=0.005)
    return await own.run(RUNNING, load)


async def load() -> tuple[list[CloseGroup], dict[str, str]]:
    return GROUPS, {}


@pytest.mark.anyio
async def test_closes_are_emitted_in_order_with_the_clock_on_them() -> None:
    host = Host()
    state = await play(host)
    assert [t for _, t in host.said] == [g.close_time for g in GROUPS]
    assert host.at_close == [g.close_time for g in GROUPS]
    assert (state.state, state.closes, state.last_close) == ("finished", 5, GROUPS[-1].close_time)
    assert host.states[-1] == state


@pytest.mark.anyio
async def test_a_close_waits_for_the_run_of_the_one_before() -> None:
    patience = {g.close_time: 3 for g in GROUPS}

    def after_a_while(close_time: int) -> str | None:
        patience[close_time] -= 1
        return "done" if patience[close_time] == 0 else None

    host = Host(after_a_while)
    original = host.close

    async def close(group: CloseGroup, emitted_wall: int) -> None:
        assert all(outcome is not None for outcome in host.outcomes.values())
        await original(group, emitted_wall)

    host.close = close  # type: ignore[method-assign]
    await play(host)
    assert set(patience.values()) == {0}


@pytest.mark.anyio
async def test_a_run_that_does_not_come_is_skipped_and_said_so() -> None:
    host = Host(lambda t: None if t == GROUPS[1].close_time else "done")
    await play(host, barrier=0.05)
    assert [said for said in host.said if said[0] == SKIPPED] == [(SKIPPED, GROUPS[1].close_time)]
    assert len([s for s in host.said if s[0] == "close"]) == 5


@pytest.mark.anyio
async def test_a_close_without_strategies_is_not_waited_for() -> None:
    host = Host(lambda t: "no_strategy")
    started = wall()
    await play(host, barrier=30.0)
    assert wall() - started < 5_000_000


@pytest.mark.anyio
@pytest.mark.parametrize("done", range(6))
async def test_after_a_restart_it_goes_on_behind_the_last_recorded_close(done: int) -> None:
    host = Host(recorded=[g.close_time for g in GROUPS[:done]])
    state = await play(host)
    assert [t for _, t in host.said] == [g.close_time for g in GROUPS[done:]]
    assert state.closes == 5


@pytest.mark.anyio
async def test_after_a_restart_the_open_run_of_the_last_close_is_waited_for() -> None:
    host = Host(lambda t: None if t == GROUPS[0].close_time else "done", recorded=[GROUPS[0].close_time])
    await play(host, barrier=0.05)
    assert host.said[0] == (SKIPPED, GROUPS[0].close_time)


@pytest.mark.anyio
async def test_a_stop_ends_it_behind_the_close_it_is_in() -> None:
    stop = asyncio.Event()
    host = Host(lambda t: None)
    task = asyncio.ensure_future(play(host, stop))
    while not host.said:
        await asyncio.sleep(0.001)
    stop.set()
    with pytest.raises(Stopped):
        await task
    assert [t for _, t in host.said] == [GROUPS[0].close_time]
    assert host.states[-1].last_close == GROUPS[0].close_time


@pytest.mark.anyio
async def test_with_a_speed_market_time_moves_between_the_closes_and_never_passes_the_next() -> None:
    host = Host()
    seen: list[int] = []
    original = host.outcome

    async def outcome(close_time: int) -> str | None:
        seen.append(host.clock())
        return await original(close_time)

    host.outcome = outcome  # type: ignore[method-assign]
    task = asyncio.ensure_future(play(host, speed=300))
    while not task.done():
        seen.append(host.clock())
        await asyncio.sleep(0.002)
    await task
    assert seen == sorted(seen)
    assert host.at_close == [g.close_time for g in GROUPS]
