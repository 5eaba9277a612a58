"""The simulated exchange: one market per seed, the same in history and live, never ahead of its clock."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from resources.feeds import get_feed
from resources.feeds._exchange_clock import ExchangeClock
from resources.feeds.protocol import BarClose, Feed, FeedError, Heartbeat, MalformedData, QuoteFeed, SymbolNotFound
from resources.feeds.simulated import SimulatedFeed
from resources.settings import Settings
from tests.conformance.feed_suite import FeedCase, FeedSuite, LiveCase
from trading.bar_builder import bars_of_trades
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.quality import ERROR_CHECKS, judge_history
from trading.simulate import Dirt, session_trades
from trading.timeframes import Timeframe, iso, session_number, to_us
from trading.universe import QualityThresholds

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1


def instrument(symbol: str, kind: AssetClass, venue: str, tick: str, lot: str = "1", timeframe: Timeframe = M1) -> Instrument:
    return Instrument(symbol, kind, venue, Decimal(tick), "USD", "simulated", symbol, timeframe, lot_size=Decimal(lot))


ALPHA = instrument("ALPHA", AssetClass.EQUITY, "XNYS", "0.01")
ES = instrument("ES", AssetClass.FUTURE, "CMES", "0.25")
EURUSD = instrument("EURUSD", AssetClass.FOREX, "FX", "0.00001", "1000")
BTCUSD = instrument("BTCUSD", AssetClass.CRYPTO, "CRYPTO", "0.01", "0.0001")
ALL = [ALPHA, ES, EURUSD, BTCUSD]
WEDNESDAY = date(2026, 3, 4)
AT_FOUR = to_us(datetime(2026, 3, 4, 16, 0, 20, tzinfo=UTC))


class Wall:
    """Real time under the test's hand."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def feed_at(moment: int, tmp_path: Path, *, seed: int = 7, dirt: Dirt | None = None, speed: float = 1.0) -> SimulatedFeed:
    """An exchange whose market stands at `moment` and runs `speed` times as fast as real time."""
    return SimulatedFeed(seed, ExchangeClock(tmp_path / "clock.json", speed, iso(moment)), dirt)


class SimulatedSuite(FeedSuite):
    @pytest.fixture
    def feed(self, tmp_path: Path) -> Feed:
        return feed_at(AT_FOUR, tmp_path)

    @pytest.fixture
    def live(self, tmp_path: Path, case: FeedCase) -> LiveCase:
        return LiveCase(feed_at(AT_FOUR, tmp_path, speed=300.0), [case.instrument], M1, 6)


class TestEquities(SimulatedSuite):
    @pytest.fixture(params=[(M1, 3 * 390), (H1, 21), (D1, 3)], ids=["1m", "1h", "1d"])
    def case(self, request: pytest.FixtureRequest) -> FeedCase:
        timeframe, rows = request.param
        return FeedCase(ALPHA, timeframe, date(2026, 2, 25), date(2026, 2, 27), (date(2027, 1, 1), date(2027, 2, 1)), rows)


class TestFutures(SimulatedSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        venue = calendar("CMES")
        days = venue.sessions(date(2026, 2, 25), date(2026, 2, 27))
        rows = sum((venue.bounds(day)[1] - venue.bounds(day)[0]) // 60_000_000 for day in days)
        return FeedCase(ES, M1, date(2026, 2, 25), date(2026, 2, 27), (date(2027, 1, 1), date(2027, 2, 1)), rows)


class TestForex(SimulatedSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(EURUSD, M1, date(2026, 2, 25), date(2026, 2, 27), (date(2027, 1, 1), date(2027, 2, 1)), 3 * 1440)


class TestCrypto(SimulatedSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(BTCUSD, M1, date(2026, 2, 27), date(2026, 3, 1), (date(2027, 1, 1), date(2027, 2, 1)), 3 * 1440)


# ---- the market ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ALL, ids=lambda i: i.symbol)
def test_its_bars_pass_every_quality_rule(which: Instrument, tmp_path: Path) -> None:
    feed = feed_at(AT_FOUR, tmp_path)
    bars = feed.history(which, M1, date(2026, 2, 20), date(2026, 3, 3))
    verdicts = judge_history(bars, which, calendar(which.calendar), QualityThresholds())
    assert len(verdicts) >= 8
    assert [r for results in verdicts.values() for r in results if not r.passed and r.check in ERROR_CHECKS] == []
    assert bars.trades is not None
    assert bars.turnover is not None
    assert np.all((bars.low <= bars.vwap * (1 + 1e-3)) & (bars.vwap <= bars.high * (1 + 1e-3)))


def test_a_price_lies_on_the_tick_grid_and_a_size_is_whole_lots(tmp_path: Path) -> None:
    for which in ALL:
        t = session_trades(which, calendar(which.calendar), session_number(WEDNESDAY), 7)
        for price in (t.price, t.bid, t.ask):
            assert all(which.round_price(float(p)) == p for p in price[:200])
        assert all(which.round_quantity_down(float(s)) == s for s in t.size[:200])
        assert np.all(np.diff(t.time) >= 0)
        assert np.all(t.bid < t.ask)


def test_seeds_and_symbols_are_different_markets_and_the_same_ones_the_same(tmp_path: Path) -> None:
    ask = (M1, WEDNESDAY, WEDNESDAY)
    one = feed_at(AT_FOUR, tmp_path / "a").history(ALPHA, *ask)
    again = feed_at(AT_FOUR, tmp_path / "b").history(ALPHA, *ask)
    other_seed = feed_at(AT_FOUR, tmp_path / "c", seed=8).history(ALPHA, *ask)
    other = feed_at(AT_FOUR, tmp_path / "d").history(instrument("BRAVO", AssetClass.EQUITY, "XNYS", "0.01"), *ask)
    assert one.content_hash() == again.content_hash()
    assert not np.array_equal(one.close, other_seed.close)
    assert not np.array_equal(one.close, other.close)


def test_the_market_of_a_seed_never_changes() -> None:
    """What a stored lake and a test of tomorrow rely on: these numbers are the market of seed 7."""
    t = session_trades(ALPHA, calendar("XNYS"), session_number(WEDNESDAY), 7)
    bars = bars_of_trades("ALPHA", M1, calendar("XNYS"), t.time, t.price, t.size)
    assert (len(t.time), float(bars.open[0]), float(bars.close[-1]), float(bars.volume.sum())) == EXPECTED


EXPECTED = (2919, 60.1, 60.87, 40933.0)


def test_a_session_begins_near_where_the_one_before_ended(tmp_path: Path) -> None:
    for which in ALL:
        bars = feed_at(AT_FOUR, tmp_path / which.symbol).history(which, M1, date(2025, 11, 3), date(2026, 3, 3))
        begins = np.flatnonzero(np.diff(bars.session)) + 1
        assert np.max(np.abs(np.log(bars.open[begins] / bars.close[begins - 1]))) < 0.06


def test_nobody_can_ask_it_for_the_future(tmp_path: Path) -> None:
    feed = feed_at(AT_FOUR, tmp_path)
    for which in ALL:
        bars = feed.history(which, M1, WEDNESDAY, date(2026, 3, 6))
        assert iso(int(bars.close_time[-1])) == "2026-03-04T16:00:00Z"
    assert len(feed.history(ALPHA, D1, WEDNESDAY, WEDNESDAY)) == 0
    assert feed.trades(ALPHA, WEDNESDAY).time[-1] <= feed.market_time()


def test_quotes_surround_the_price_and_are_crossed_only_when_asked_for(tmp_path: Path) -> None:
    clean = feed_at(AT_FOUR, tmp_path).quote_history(ALPHA, M1, WEDNESDAY, WEDNESDAY)
    assert len(clean) == 90
    assert not clean.crossed.any()
    dirty = feed_at(AT_FOUR, tmp_path / "d", dirt=Dirt(crossed=0.2)).quote_history(ALPHA, M1, WEDNESDAY, WEDNESDAY)
    assert 5 < dirty.crossed.sum() < 40
    feed = feed_at(AT_FOUR, tmp_path / "e")
    assert isinstance(feed, QuoteFeed)
    (now,) = feed.quote([ALPHA])
    assert now.bid < now.ask
    assert AT_FOUR - 60_000_000 <= now.time <= feed.market_time()


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SymbolNotFound, match="capital letters"):
        feed_at(AT_FOUR, tmp_path).history(instrument("a b", AssetClass.EQUITY, "XNYS", "0.01"), M1, WEDNESDAY, WEDNESDAY)


# ---- its clock -------------------------------------------------------------------------------------------------------


def test_the_market_runs_fast_until_it_has_reached_real_time(tmp_path: Path) -> None:
    wall = Wall(to_us(datetime(2026, 3, 4, 12, tzinfo=UTC)))
    clock = ExchangeClock(tmp_path / "clock.json", 60.0, "2026-03-04T10:00:00Z", wall)
    assert iso(clock()) == "2026-03-04T10:00:00Z"
    wall.now += 60_000_000
    assert iso(clock()) == "2026-03-04T11:00:00Z"
    assert clock.running_speed == 60.0
    wall.now += 3_600_000_000
    assert clock() == wall.now
    assert clock.running_speed == 1.0


def test_a_restart_goes_on_where_the_market_stood_also_at_another_speed(tmp_path: Path) -> None:
    wall = Wall(to_us(datetime(2026, 3, 4, 12, tzinfo=UTC)))
    first = ExchangeClock(tmp_path / "clock.json", 60.0, "2026-03-04T00:00:00Z", wall)
    wall.now += 60_000_000
    stood = first()
    again = ExchangeClock(tmp_path / "clock.json", 60.0, "2026-03-04T00:00:00Z", wall)
    assert again() == stood
    slower = ExchangeClock(tmp_path / "clock.json", 2.0, "", wall)
    assert slower() == stood
    wall.now += 10_000_000
    assert slower() == stood + 20_000_000
    with pytest.raises(FeedError, match="cannot begin again at 2026-03-01"):
        ExchangeClock(tmp_path / "clock.json", 2.0, "2026-03-01T00:00:00Z", wall)


def test_a_start_in_the_future_is_now_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    wall = Wall(AT_FOUR)
    assert ExchangeClock(tmp_path / "a.json", 1.0, "2099-01-01T00:00:00Z", wall)() == AT_FOUR
    with pytest.raises(FeedError, match="TAPELINE_SIMULATED_START=yesterday"):
        ExchangeClock(tmp_path / "b.json", 1.0, "yesterday", wall)
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(MalformedData, match=r"c\.json"):
        ExchangeClock(tmp_path / "c.json", 1.0, "", wall)


def test_real_time_needs_no_file(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg]
    feed = get_feed("simulated", settings)
    assert feed.capabilities().simulated
    assert not (tmp_path / "simulated").exists()
    with pytest.raises(FeedError, match="TAPELINE_SIMULATED_DIRT"):
        get_feed("simulated", Settings(_env_file=None, data_dir=tmp_path, simulated_dirt="gap=1"))  # type: ignore[call-arg]


# ---- live ------------------------------------------------------------------------------------------------------------


async def _events(feed: Feed, which: Sequence[Instrument], bars: int) -> list[BarClose | Heartbeat]:
    out: list[BarClose | Heartbeat] = []
    stream = feed.subscribe(which, M1)
    async with asyncio.timeout(20):
        async for event in stream:
            out.append(event)
            if sum(isinstance(e, BarClose) for e in out) >= bars:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    return out


def test_several_instruments_come_in_order_of_time_with_heartbeats_between(tmp_path: Path) -> None:
    events = asyncio.run(_events(feed_at(AT_FOUR, tmp_path, speed=600.0), [ALPHA, BTCUSD], 12))
    bars = [e for e in events if isinstance(e, BarClose)]
    assert [b.close_time for b in bars] == sorted(b.close_time for b in bars)
    assert Counter(b.symbol for b in bars) == {"ALPHA": 6, "BTCUSD": 6}
    assert isinstance(events[0], Heartbeat)
    assert all(b.trades is not None and b.turnover is not None for b in bars)


def test_the_dirt_is_on_the_wire_and_not_in_history(tmp_path: Path) -> None:
    dirt = Dirt(gaps=0.15, duplicates=0.15, late=0.15, spikes=0.15)
    feed = feed_at(AT_FOUR, tmp_path, dirt=dirt, speed=1200.0)
    bars = [e for e in asyncio.run(_events(feed, [BTCUSD], 40)) if isinstance(e, BarClose)]
    times = [b.close_time for b in bars]
    assert len(set(times)) < len(times)  # duplicates
    assert times != sorted(times)  # late ones
    assert max(times) - min(times) > 60_000_000 * (len(set(times)) - 1)  # gaps
    held = feed.history(BTCUSD, M1, WEDNESDAY, WEDNESDAY)
    clean = {int(t): (float(h), float(low)) for t, h, low in zip(held.close_time, held.high, held.low, strict=True)}
    assert any((b.high, b.low) != clean[b.close_time] for b in bars)  # spikes
    untouched = feed_at(AT_FOUR, tmp_path / "clean").history(BTCUSD, M1, WEDNESDAY, WEDNESDAY)
    assert held.rows(slice(0, len(untouched))).content_hash() == untouched.content_hash()


def test_the_wire_breaks_when_asked_for(tmp_path: Path) -> None:
    feed = feed_at(AT_FOUR, tmp_path, dirt=Dirt(cuts=1.0), speed=1200.0)
    with pytest.raises(ConnectionResetError, match="simulated cut before the bar of BTCUSD"):
        asyncio.run(_events(feed, [BTCUSD], 1))


def test_dirt_is_read_from_words() -> None:
    assert Dirt.parse(" gaps=0.5, late=1 ") == Dirt(gaps=0.5, late=1.0)
    assert Dirt.parse("") == Dirt()
    for text in ("gaps", "mud=1", "gaps=x", "gaps=2"):
        with pytest.raises(ValueError, match=r".+"):
            Dirt.parse(text)


def test_the_clock_file_says_when_it_began(tmp_path: Path) -> None:
    feed_at(AT_FOUR, tmp_path, speed=2.0)
    said = json.loads((tmp_path / "clock.json").read_text())
    assert said["market"] == to_us(datetime(2026, 3, 4, 16, 0, 20, tzinfo=UTC))
