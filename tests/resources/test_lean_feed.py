"""The LEAN Data folder read as LEAN means it: the conformance suite for every class, zones, and damaged files."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from resources.feeds import get_feed
from resources.feeds._lean_files import read_day
from resources.feeds._lean_symbols import LeanSymbol
from resources.feeds._lean_time import local_to_utc
from resources.feeds.lean import LeanFeed
from resources.feeds.protocol import Feed, FeedError, MalformedData, SourceMissing, SymbolNotFound
from resources.settings import Settings
from tests.conformance.feed_suite import FeedCase, FeedSuite
from tests.paths import lean_data
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, from_us, session_date, to_us

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1


def instrument(
    symbol: str,
    feed: str,
    feed_symbol: str = "",
    kind: AssetClass = AssetClass.EQUITY,
    calendar: str = "XNYS",
    timeframe: Timeframe = D1,
) -> Instrument:
    return Instrument(symbol, kind, calendar, Decimal("0.01"), "USD", feed, feed_symbol or symbol, timeframe)


# ---- the suite ---------------------------------------------------------------------------------------------------


class LeanSuite(FeedSuite):
    @pytest.fixture
    def feed(self) -> Feed:
        return LeanFeed(lean_data())


class TestLeanEquityMinutes(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        apple = instrument("AAPL", "lean", "equity/usa/aapl", timeframe=M1)
        return FeedCase(apple, M1, date(2014, 6, 5), date(2014, 6, 9), (date(2010, 1, 1), date(2010, 12, 31)), 1170)


class TestLeanEquityDaily(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        apple = instrument("AAPL", "lean", "equity/usa/aapl")
        return FeedCase(apple, D1, date(2020, 1, 1), date(2021, 3, 31), (date(2021, 4, 1), date(2021, 12, 31)), 314)


class TestLeanForexMinutes(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        pair = instrument("EURUSD", "lean", "forex/oanda/eurusd", AssetClass.FOREX, "FX", M1)
        return FeedCase(pair, M1, date(2014, 5, 5), date(2014, 5, 9), (date(2013, 1, 1), date(2013, 12, 31)), 6967)


class TestLeanForexHours(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        pair = instrument("EURUSD", "lean", "forex/fxcm/eurusd", AssetClass.FOREX, "FX", H1)
        return FeedCase(pair, H1, date(2014, 3, 3), date(2014, 3, 14), (date(2000, 1, 1), date(2000, 12, 31)), 240)


class TestLeanCrypto(LeanSuite):
    @pytest.fixture(params=[(M1, 1419), (D1, 1)], ids=["1m", "1d"])
    def case(self, request: pytest.FixtureRequest) -> FeedCase:
        timeframe, rows = request.param
        coin = instrument("BTCUSD", "lean", "crypto/coinbase/btcusd", AssetClass.CRYPTO, "CRYPTO", timeframe)
        return FeedCase(coin, timeframe, date(2016, 10, 7), date(2016, 10, 7), (date(2012, 1, 1), date(2012, 12, 31)), rows)


# ---- LEAN --------------------------------------------------------------------------------------------------------

AAPL_M1 = instrument("AAPL", "lean", "equity/usa/aapl", timeframe=M1)


def utc(*parts: int) -> int:
    return to_us(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


def test_equity_minutes_are_scaled_raw_and_without_pre_and_post_market() -> None:
    bars = LeanFeed(lean_data()).history(AAPL_M1, M1, date(2014, 6, 6), date(2014, 6, 9))
    assert bars.close_time[0] == utc(2014, 6, 6, 13, 31)
    assert bars.close_time[389] == utc(2014, 6, 6, 20)
    assert (bars.close[389], bars.close[-1]) == (645.57, 93.7)  # the 7:1 split lies between


def test_a_half_day_ends_at_its_close() -> None:
    goog = instrument("GOOG", "lean", "equity/usa/goog", timeframe=M1)
    bars = LeanFeed(lean_data()).history(goog, M1, date(2015, 12, 24), date(2015, 12, 24))
    assert (len(bars), bars.close_time[-1]) == (210, utc(2015, 12, 24, 18))


def test_local_midnight_moves_with_the_clock_change() -> None:
    shy = instrument("SHY", "lean", "equity/usa/shy", timeframe=M1)
    bars = LeanFeed(lean_data()).history(shy, M1, date(2008, 3, 7), date(2008, 3, 10))
    first_of = {session_date(int(s)): int(bars.close_time[np.searchsorted(bars.session, s)]) for s in set(bars.session)}
    assert first_of == {date(2008, 3, 7): utc(2008, 3, 7, 14, 31), date(2008, 3, 10): utc(2008, 3, 10, 13, 31)}


def test_sunday_evening_forex_belongs_to_monday() -> None:
    pair = instrument("EURUSD", "lean", "forex/oanda/eurusd", AssetClass.FOREX, "FX", M1)
    bars = LeanFeed(lean_data()).history(pair, M1, date(2014, 5, 5), date(2014, 5, 5))
    assert bars.close_time[0] == utc(2014, 5, 4, 21, 1)
    assert bars.open[0] == round((1.38817 + 1.38884) / 2, 6)
    assert not bars.volume.any()


def test_two_brokers_stamps_agree_once_each_is_read_in_its_own_zone() -> None:
    feed = LeanFeed(lean_data())
    fxcm, oanda = (
        feed.history(
            instrument("E", "lean", f"forex/{m}/eurusd", AssetClass.FOREX, "FX", M1), M1, date(2014, 5, 7), date(2014, 5, 8)
        )
        for m in ("fxcm", "oanda")
    )
    common, a, b = np.intersect1d(fxcm.close_time, oanda.close_time, return_indices=True)
    assert len(common) > 2500
    apart = np.abs(fxcm.close[a] - oanda.close[b])
    shifted = np.abs(fxcm.close[a][:-60] - oanda.close[b][60:])
    assert np.median(apart) * 3 < np.median(shifted)


@pytest.mark.parametrize(
    ("zone", "utc_hour"),
    [("UTC", 12.0), ("UTC-05", 17.0), ("UTC+05:30", 6.5), ("America/New_York", 16.0), ("Asia/Kolkata", 6.5)],
)
def test_noon_in_every_kind_of_zone(zone: str, utc_hour: float) -> None:
    noon = np.array([utc(2014, 6, 6, 12)], np.int64)
    assert (int(local_to_utc(noon, zone)[0]) - utc(2014, 6, 6)) / 3.6e9 == utc_hour
    with pytest.raises(FeedError, match="Mars/Olympus"):
        local_to_utc(noon, "Mars/Olympus")


class TestDailyBarsOfForex:
    """They run from midnight to midnight of the data's zone: a calendar cut there takes them, no other."""

    @pytest.mark.parametrize("venue", ["FX", "FX@UTC", "FX@08:00-12:00"])
    def test_on_another_cut_they_are_refused_with_the_calendar_that_fits(self, venue: str) -> None:
        pair = instrument("EURUSD", "lean", "forex/fxcm/eurusd", AssetClass.FOREX, venue, D1)
        with pytest.raises(FeedError, match=r"calendar: FX@UTC-05 .*derive 1d"):
            LeanFeed(lean_data()).history(pair, D1, date(2014, 6, 6), date(2014, 6, 6))

    @pytest.mark.parametrize(("broker", "venue"), [("fxcm", "FX@UTC-05"), ("oanda", "FX@UTC")])
    def test_each_is_of_the_date_the_minutes_say(self, broker: str, venue: str) -> None:
        """Closes agree to the last digit; opens and extremes differ where brokers print before trading opens on Sunday."""
        feed = LeanFeed(lean_data())
        pair = instrument("EURUSD", "lean", f"forex/{broker}/eurusd", AssetClass.FOREX, venue, D1)
        days, minutes = (feed.history(pair, t, date(2014, 5, 1), date(2014, 5, 15)) for t in (D1, M1))
        made = resample(minutes, D1, calendar(venue))
        assert days.close_time.tolist() == made.close_time.tolist()
        assert days.close.tolist() == made.close.tolist()
        assert len(days) == 13  # Sunday evenings are sessions of their own


def test_a_bare_ticker_means_a_us_stock_and_a_path_out_of_the_folder_nothing() -> None:
    feed = LeanFeed(lean_data())
    bare = feed.history(instrument("AAPL", "lean", timeframe=M1), M1, date(2014, 6, 6), date(2014, 6, 6))
    assert len(bare) == 390
    for text in ("equity/usa/..", "EURUSD/x", "option/usa/aapl"):
        with pytest.raises(SymbolNotFound, match="class/market/ticker"):
            feed.history(instrument("AAPL", "lean", text, timeframe=M1), M1, date(2014, 6, 6), date(2014, 6, 6))


def test_no_folder_is_named() -> None:
    with pytest.raises(SourceMissing, match="TAPELINE_LEAN_DATA"):
        get_feed("lean", Settings(lean_data=None)).history(AAPL_M1, M1, date(2014, 6, 6), date(2014, 6, 6))
    with pytest.raises(SourceMissing, match="/no/such/folder"):
        LeanFeed(Path("/no/such/folder")).lookup("aapl")


# ---- LEAN files as they should not be ----------------------------------------------------------------------------

ROW = "34200000,1000000,1000000,1000000,1000000,100\n"
SYMBOL = LeanSymbol("equity", "usa", "aapl")
DAY = date(2014, 6, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "equity" / "usa" / "minute" / "aapl").mkdir(parents=True)
    return tmp_path


def put(folder: Path, members: dict[str, str], name: str = "20140606_trade.zip") -> Path:
    path = folder / "equity" / "usa" / "minute" / "aapl" / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


MEMBER = "20140606_aapl_minute_trade.csv"


def test_only_the_member_of_the_date_is_read(folder: Path) -> None:
    put(folder, {MEMBER: ROW, "20140609_aapl_minute_trade.csv": ROW})
    bars = LeanFeed(folder).history(AAPL_M1, M1, date(2014, 6, 1), date(2014, 6, 30))
    assert [from_us(int(t)).isoformat() for t in bars.close_time] == ["2014-06-06T13:31:00+00:00"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ROW + "34260000,1,2,3\n", r"#2"),
        (ROW + "34260000,1,2,x,4,5\n", r"column #3.*Row #2"),
        (ROW + ROW, "line 2: not later than the line before"),
        ("86400000,1,1,1,1,1\n", "line 1: time 86400000, expected ms since midnight"),
        ("", "empty"),
    ],
    ids=["short row", "no number", "repeated time", "time past midnight", "empty"],
)
def test_a_malformed_row_is_named_with_file_and_line(folder: Path, text: str, says: str) -> None:
    path = put(folder, {MEMBER: text})
    with pytest.raises(MalformedData, match=says) as error:
        LeanFeed(folder).history(AAPL_M1, M1, DAY, DAY)
    assert str(path) in str(error.value)


def test_a_truncated_zip_is_named_and_other_days_stay_readable(folder: Path) -> None:
    put(folder, {"20140605_aapl_minute_trade.csv": ROW}, "20140605_trade.zip")
    path = put(folder, {MEMBER: ROW * 1})
    path.write_bytes(path.read_bytes()[:60])
    feed = LeanFeed(folder)
    with pytest.raises(MalformedData, match=r"20140606_trade\.zip: not a whole zip file"):
        feed.history(AAPL_M1, M1, date(2014, 6, 1), DAY)
    assert len(feed.history(AAPL_M1, M1, date(2014, 6, 1), date(2014, 6, 5))) == 1


def test_a_zip_with_a_flipped_byte_or_without_the_days_member_is_refused(folder: Path) -> None:
    path = put(folder, {MEMBER: "".join(f"{34200000 + 60000 * i},{i},1,1,1,1\n" for i in range(300))})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(MalformedData, match="not a whole zip file"):
        read_day(path, SYMBOL, DAY)
    put(folder, {"20140605_aapl_minute_trade.csv": ROW})
    with pytest.raises(MalformedData, match=r"expected one member 20140606_\*\.csv"):
        read_day(path, SYMBOL, DAY)


def test_a_market_whose_time_zone_nobody_knows_is_refused(folder: Path) -> None:
    (folder / "equity" / "mars" / "minute" / "aapl").mkdir(parents=True)
    martian = instrument("AAPL", "lean", "equity/mars/aapl", timeframe=M1)
    with pytest.raises(FeedError, match=r"Equity-mars"):
        LeanFeed(folder).history(martian, M1, DAY, DAY)


def test_a_one_sided_quote_is_no_bar(tmp_path: Path) -> None:
    target = tmp_path / "forex" / "oanda" / "minute" / "eurusd"
    target.mkdir(parents=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "20140606_eurusd_minute_quote.csv", "0,1.1,1.1,1.1,1.1,0,1.3,1.3,1.3,1.3,0\n60000,1.1,1.1,1.1,1.1,0,,,,,\n"
        )
    (target / "20140606_quote.zip").write_bytes(buffer.getvalue())
    pair = instrument("EURUSD", "lean", "forex/oanda/eurusd", AssetClass.FOREX, "FX", M1)
    bars = LeanFeed(tmp_path).history(pair, M1, DAY, DAY)
    assert bars.close.tolist() == [1.2]
