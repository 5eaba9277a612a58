"""The live day: bars of live feeds become closes, in order, once, and what is wrong with a feed refuses new risk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desk.close_groups import CloseGroups
from desk.hot_store import FEED_LIVE
from desk.live_feed import STATE_KEY, LiveFeed, ended_sessions_until, live_feeds, market_clock
from desk.replay import SKIPPED, CloseGroup, Stopped
from resources.config import ConfigInvalid, load_config
from resources.feeds import get_feed
from resources.feeds.protocol import BarClose, FeedError
from resources.lake import Lake
from resources.ledger.store import Ledger, VerdictRow
from resources.settings import Settings
from tests.doubles.live_server import After, BeatUntil, Cut, LiveServer, Market, Miss, Step, WireFeed
from tests.resources.test_live_feed import at, bar, history, numbers, sent
from trading.calendars import calendar
from trading.gates.base import GATES
from trading.quality import ERROR_CHECKS
from trading.timeframes import US_PER_MINUTE, Timeframe, session_date, to_us
from trading.universe import Universe, parse_universe

M1 = Timeframe.M1

# ---- bars into closes ------------------------------------------------------------------------------------------------

BOTH = {"BTCUSD", "ETHUSD"}


def groups_of(expected: set[str], grace: float = 2.0, done_until: int = at(0)) -> CloseGroups:
    return CloseGroups(done_until, lambda close_time: expected, [], grace)


def take(groups: CloseGroups, now: float, market: int = at(50)) -> list[tuple[int, str]]:
    """Process what is ready at `now`: (minute, first letters of its symbols)."""
    out = []
    for group in groups.ready(now, market):
        out.append(((group.close_time - at(0)) // US_PER_MINUTE, "".join(b.symbol[0] for b in group.bars)))
        groups.done(group)
    return out


def test_a_close_is_ready_when_everything_due_is_there() -> None:
    groups = groups_of(BOTH)
    groups.add(bar(1), 0.0)
    assert take(groups, 0.0) == []
    groups.add(bar(1, "ETHUSD"), 0.5)
    assert take(groups, 0.5) == [(1, "BE")]
    assert groups.waiting == 0


def test_a_straggler_is_waited_for_no_longer_than_the_grace_and_is_late_then() -> None:
    groups = groups_of(BOTH)
    groups.add(bar(1), 10.0)
    assert take(groups, 11.99) == []
    assert take(groups, 12.0) == [(1, "B")]
    groups.add(bar(1, "ETHUSD"), 12.1)
    assert take(groups, 20.0) == []
    assert [b.symbol for b in groups.late] == ["ETHUSD"]


def test_a_newer_close_never_overtakes_an_older_one_that_waits() -> None:
    groups = groups_of(BOTH)
    groups.add(bar(1), 0.0)
    groups.add(bar(2), 0.1)
    groups.add(bar(2, "ETHUSD"), 0.1)
    assert take(groups, 0.2) == []
    assert take(groups, 2.0) == [(1, "B"), (2, "BE")]


def test_a_bar_that_comes_while_its_close_is_processed_is_late() -> None:
    groups = groups_of({"BTCUSD"})
    groups.add(bar(1), 0.0)
    (group,) = groups.ready(0.0, at(1))
    groups.add(bar(1, "ETHUSD"), 0.0)
    groups.done(group)
    assert [b.symbol for b in groups.late] == ["ETHUSD"]


def test_a_venue_closes_even_when_no_bar_does() -> None:
    venue = calendar("XNYS")
    closed = venue.bounds(date(2026, 3, 4))[1]
    groups = CloseGroups(closed - 3_600_000_000, lambda t: set(), [venue], 2.0)
    assert groups.ready(0.0, closed - 1) == []
    (group,) = groups.ready(0.0, closed)
    assert (group.close_time, group.bars, session_date(group.session)) == (closed, (), date(2026, 3, 4))
    groups.done(group)
    assert groups.ready(9.0, closed + 60_000_000) == []


@given(st.permutations([(k, s) for k in range(1, 7) for s in sorted(BOTH)]), st.lists(st.floats(0, 3), min_size=12, max_size=12))
def test_whatever_the_order_each_bar_is_given_once_in_its_close_or_as_late_and_closes_ascend(
    order: list[tuple[int, str]], pauses: list[float]
) -> None:
    groups, now = groups_of(BOTH, grace=1.0), 0.0
    given_: list[CloseGroup] = []
    for (k, symbol), pause in zip(order, pauses, strict=True):
        now += pause
        groups.add(bar(k, symbol), now)
        for group in groups.ready(now, at(0)):
            groups.done(group)
            given_.append(group)
    for group in groups.ready(now + 5, at(0)):
        groups.done(group)
        given_.append(group)
    times = [g.close_time for g in given_]
    assert times == sorted(set(times))
    seen = [(b.close_time, b.symbol) for g in given_ for b in g.bars] + [(b.close_time, b.symbol) for b in groups.late]
    assert sorted(seen) == sorted((at(k), s) for k, s in order)


# ---- which universe is live ------------------------------------------------------------------------------------------

UNIVERSE = """\
name: {name}
history_start: 2026-02-01
simulated: {simulated}
instruments:
  BTCUSD: &coin
    asset_class: crypto
    calendar: CRYPTO
    tick_size: 0.01
    lot_size: 0.0001
    currency: USD
    feed: {feed}
    native_timeframe: 1m
    tradable_in: [backtest, paper]
  ETHUSD:
    <<: *coin
"""


def universe(feed: str = "simulated", **changes: Any) -> Universe:
    parsed, problems = parse_universe(UNIVERSE.format(name="sample", simulated="true", feed=feed), "u.yaml")
    assert parsed is not None, problems
    return replace(parsed, **changes)


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path, **more)  # type: ignore[call-arg]


def test_a_universe_of_live_feeds_is_live_and_one_of_files_is_replayed(tmp_path: Path) -> None:
    assert sorted(live_feeds(universe(), settings(tmp_path))) == ["simulated"]
    assert live_feeds(universe(), settings(tmp_path, live_feed="off")) == {}
    assert live_feeds(universe("sample_forex"), settings(tmp_path)) == {}
    assert live_feeds(universe(history_end=date(2026, 2, 27)), settings(tmp_path)) == {}
    with pytest.raises(FeedError, match="no feed of universe sample is live"):
        live_feeds(universe("sample_forex"), settings(tmp_path, live_feed="on"))


def test_the_shipped_universes_are_what_they_say(tmp_path: Path) -> None:
    shipped = load_config(settings(tmp_path, universe="simulated"))
    assert sorted(live_feeds(shipped.universe, settings(tmp_path))) == ["simulated"]
    assert {i.asset_class.value for i in shipped.universe.instruments.values()} == {"equity", "future", "forex", "crypto"}
    assert "ema_trend_simulated" in shipped.strategies
    assert live_feeds(load_config(settings(tmp_path)).universe, settings(tmp_path)) == {}


def test_simulated_prices_never_pass_for_real_ones(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "universe"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(UNIVERSE.format(name="mine", simulated="false", feed="simulated"))
    with pytest.raises(ConfigInvalid, match=r"universe/mine.yaml.*simulated.*BTCUSD, ETHUSD are simulated") as refused:
        load_config(settings(tmp_path, universe="mine", config_dir=tmp_path / "config"))
    assert refused.value.problems[0].line == 3


def test_feeds_of_different_times_are_not_traded_together(tmp_path: Path) -> None:
    past = get_feed("simulated", settings(tmp_path, simulated_start="2026-03-04T10:00:00Z"))
    real = WireFeed(lambda: 0, {}, Market(0))
    assert market_clock({"simulated": past})() < to_us(datetime(2026, 3, 5, tzinfo=UTC))
    with pytest.raises(FeedError, match="simulated is at 2026-03-04T10:00"):
        market_clock({"simulated": past, "wire": real})


def test_history_alone_writes_only_sessions_that_are_over_at_every_venue() -> None:
    mixed = universe()
    mixed.instruments["IBM"] = replace(mixed.instruments["BTCUSD"], symbol="IBM", calendar="XNYS")
    assert ended_sessions_until(mixed, to_us(datetime(2026, 3, 4, 16, tzinfo=UTC))) == "2026-03-03"
    assert ended_sessions_until(mixed, to_us(datetime(2026, 3, 4, 22, tzinfo=UTC))) == "2026-03-03"
    assert ended_sessions_until(mixed, to_us(datetime(2026, 3, 5, 0, 0, 0, tzinfo=UTC))) == "2026-03-04"


# ---- a server that drops ---------------------------------------------------------------------------------------------


class Recorder:
    """A desk that records what the live day asks of it, on a real ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.closes: list[CloseGroup] = []
        self.late_bars: list[BarClose] = []
        self.skipped: list[int] = []

    async def close(self, group: CloseGroup, emitted_wall: int) -> None:
        self.closes.append(group)

    async def late(self, bars: tuple[BarClose, ...]) -> None:
        self.late_bars += bars

    async def end_close(self, close_time: int, outcome: str) -> None:
        assert outcome == SKIPPED
        self.skipped.append(close_time)

    async def work(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)


def feed_live(ledger: Ledger, symbol: str = "BTCUSD") -> list[VerdictRow]:
    return [v for v in ledger.session_verdicts("2026-03-04") if v.check == FEED_LIVE and v.symbol == symbol]


def play(
    steps: list[Step], tmp_path: Path, ledger: Ledger, until: Any, *, stale: float = 0.4, lake: Lake | None = None
) -> tuple[Recorder, LiveFeed]:
    """A live day against a server with `steps`, until `until(recorder, live feed)` is true."""
    market, own = Market(at(0)), settings(tmp_path, live_stale_seconds=stale, live_silence_seconds=0.8, live_grace_seconds=0.2)
    recorder = Recorder(ledger)
    only = universe("wire")
    del only.instruments["ETHUSD"]
    with LiveServer(market, steps, pause_seconds=0.05) as server:
        feed = WireFeed(lambda: server.port, {"BTCUSD": history()}, market)
        live = LiveFeed(only, own, ledger, lake or Lake(tmp_path / "lake"), {"wire": feed})
        live.market_time = market
        live.prepare()
        for subscription in live.subscriptions:
            subscription._market_time = market
            for state in subscription.symbols.values():
                state.start = state.last = at(0)

        async def day() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(live.run(recorder, stop))
            try:
                async with asyncio.timeout(120):
                    while not await asyncio.to_thread(until, recorder, live):
                        server.passed = sum(len(c.bars) for c in recorder.closes)
                        assert not running.done(), running.exception()
                        await asyncio.sleep(0.01)
            finally:
                stop.set()
                with pytest.raises(Stopped):
                    await running

        asyncio.run(day())
    return recorder, live


def test_a_cut_in_the_middle_of_the_day_loses_no_close(tmp_path: Path, ledger: Ledger) -> None:
    steps: list[Step] = [sent(1), sent(2), After(2), Cut(), Miss(bar(4)), sent(5), After(5), sent(6)]
    recorder, live = play(steps, tmp_path, ledger, lambda r, _: len(r.closes) == 6)
    bars = [b for c in recorder.closes for b in c.bars]
    assert numbers(bars) == [1, 2, 3, 4, 5, 6]
    assert recorder.late_bars == []
    assert live.status()["feeds"][0]["reconnects"] == 1


def test_a_feed_that_falls_silent_is_a_failed_verdict_within_seconds_and_fresh_bars_clear_it(
    tmp_path: Path, ledger: Ledger
) -> None:
    lake = Lake(tmp_path / "lake")
    lake.append_hot(
        "bars_1m", date(2026, 3, 4), [history(count=1)], source="wire", instruments=universe("wire").instruments
    )  # fmt: skip
    failed: list[VerdictRow] = []

    def silent_then_back(recorder: Recorder, live: LiveFeed) -> bool:
        now = next((v for v in feed_live(ledger) if v.dataset == "bars_1m"), None)
        if now is not None and not now.passed and not failed:
            failed.append(now)
            assert "overdue" in live.trouble["BTCUSD"]
            assert "overdue" in (ledger.get_state(STATE_KEY) or {})["trouble"]["BTCUSD"]
        return bool(failed) and now is not None and now.passed and len(recorder.closes) == 4

    steps: list[Step] = [sent(1), After(1), Miss(bar(3)), BeatUntil(lambda: bool(failed)), sent(4), BeatUntil(lambda: False)]
    play(steps, tmp_path, ledger, silent_then_back, lake=lake)
    held = lake.partitions("bars_1m", date(2026, 3, 4), date(2026, 3, 4))[0]
    assert (failed[0].severity, failed[0].content_hash) == ("error", held.content_hash)
    assert "bar(s) overdue" in failed[0].examples[0]["message"]
    ref = {"dataset": "bars_1m", "session": "2026-03-04", "symbol": "BTCUSD", "content_hash": held.content_hash}
    good = [{**ref, "check": check, "passed": True, "severity": "error"} for check in ERROR_CHECKS]
    snapshot = {"required": [ref], "required_checks": list(ERROR_CHECKS), "signal": {"partitions": [ref]}, "verdicts": good}
    gate = next(gate for name, gate in GATES.ordered() if name == "data_quality")
    assert gate.judge(snapshot).passed
    refused = gate.judge({**snapshot, "verdicts": [*good, failed[0].snapshot()]})
    assert refused.refusal == "DATA_QUALITY: partition=bars_1m/2026-03-04/BTCUSD check=feed_live reason=failed"


def test_a_close_done_without_a_due_bar_is_trouble_until_the_bar_has_come(tmp_path: Path, ledger: Ledger) -> None:
    troubles: list[str] = []
    market = Market(at(0))
    live = LiveFeed(universe(), settings(tmp_path), ledger, Lake(tmp_path / "lake"), {"simulated": WireFeed(int, {}, market)})
    live.market_time = market
    live.prepare()
    for group in (CloseGroup(at(1), 0, (bar(1), bar(1, "ETHUSD"))), CloseGroup(at(2), 0, (bar(2),))):
        live._note_absent(group)
        troubles.append(live.trouble_of("ETHUSD"))
    assert troubles == ["", "its bar of 2026-03-04T00:02:00Z has not come"]
    assert live.trouble_of("BTCUSD") == ""
    live._note_absent(CloseGroup(at(3), 0, (bar(3), bar(3, "ETHUSD"))))
    assert live.trouble_of("ETHUSD") == ""


def test_closes_nobody_decided_on_in_time_are_skipped(tmp_path: Path, ledger: Ledger) -> None:
    ledger.record_close(at(0) - 60_000_000, "2026-03-03", {"1m": ["BTCUSD"]}, emitted_wall=1, stored_wall=1)
    recorder, _ = play([sent(1)], tmp_path, ledger, lambda r, _: bool(r.skipped))
    assert recorder.skipped[0] == at(0) - 60_000_000
