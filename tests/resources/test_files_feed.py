"""The feed `files`: vendors' CSV and Parquet files become the bars they mean, and nothing is guessed."""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from resources.feeds import feed_names
from resources.feeds.files import FilesFeed, UniverseOfFiles
from resources.feeds.lean import LeanFeed
from resources.feeds.protocol import Feed, SourceMissing
from resources.inbox import Inbox
from resources.settings import ROOT, Settings
from tests.conformance.feed_suite import DamagedCase, FeedCase, FeedSuite
from tests.paths import lean_data
from tests.resources.vendor_files import accept, feed_of, installation, lean_member, take
from trading.bars import TURNOVER_QUANTUM, Bars
from trading.calendars import calendar, define, defined
from trading.instruments import AssetClass, Instrument
from trading.timeframes import Timeframe, from_us, iso, session_date

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1


def instrument(
    symbol: str, timeframe: Timeframe, kind: AssetClass = AssetClass.EQUITY, venue: str = "XNYS", feed_symbol: str = ""
) -> Instrument:
    return Instrument(
        symbol,
        kind,
        venue,
        Decimal("0.01"),
        "USD",
        "files",
        feed_symbol or symbol,
        timeframe,
        has_volume=kind is not AssetClass.FOREX,
    )


EURUSD = instrument("EURUSD", M1, AssetClass.FOREX, "FX")
AAPL, AAPL_DAILY = instrument("AAPL", M1), instrument("AAPL", D1)


# ---- the suite ---------------------------------------------------------------------------------------------------------


class TestLeanDaily(FeedSuite):
    """One file of 23 years."""

    @pytest.fixture
    def feed(self, tmp_path: Path) -> Feed:
        of = installation(tmp_path, AAPL_DAILY)
        name, data = lean_member("equity", "usa", "daily", "aapl.zip")
        accept(of, f"lean_daily/{name}", data)
        return feed_of(of)

    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(AAPL_DAILY, D1, date(2020, 1, 1), date(2021, 3, 31), (date(2021, 4, 1), date(2021, 12, 31)), 314)


class TestFxcmMinutes(FeedSuite):
    """A file a day, cut at a clock's midnight that is in the middle of a session."""

    DAYS = ("20140504", "20140505", "20140506", "20140507", "20140508", "20140509")

    @pytest.fixture
    def feed(self, tmp_path: Path) -> FilesFeed:
        of = installation(tmp_path, EURUSD)
        for day in self.DAYS:
            name, data = lean_member("forex", "fxcm", "minute", "eurusd", f"{day}_quote.zip")
            accept(of, f"lean_fxcm_minute/{name}", data)
        return feed_of(of)

    @pytest.fixture
    def case(self) -> FeedCase:
        lean = LeanFeed(lean_data()).history(
            replace(EURUSD, feed_symbol="forex/fxcm/eurusd"), M1, date(2014, 5, 5), date(2014, 5, 9)
        )
        return FeedCase(EURUSD, M1, date(2014, 5, 5), date(2014, 5, 9), (date(2013, 1, 1), date(2013, 12, 31)), len(lean))

    @pytest.fixture
    def damaged(self, feed: FilesFeed, tmp_path: Path) -> DamagedCase:
        path = next((tmp_path / "data" / "inbox" / "done").glob("*/*20140506_eurusd*.csv"))
        path.write_bytes(path.read_bytes()[:-100])
        return DamagedCase(feed, date(2014, 5, 6), r"20140506_eurusd.*not the file that was accepted", date(2014, 5, 9))

    def test_they_are_the_bars_the_lean_feed_reads(self, feed: Feed, case: FeedCase) -> None:
        lean = LeanFeed(lean_data()).history(replace(EURUSD, feed_symbol="forex/fxcm/eurusd"), M1, case.start, case.end)
        assert feed.history(EURUSD, M1, case.start, case.end).content_hash() == lean.content_hash()


class TestParquet(FeedSuite):
    """A data frame with a DatetimeIndex that knows its zone."""

    @pytest.fixture
    def feed(self, tmp_path: Path) -> Feed:
        import pandas as pd

        of = installation(tmp_path, AAPL)
        lean = LeanFeed(lean_data()).history(replace(AAPL, feed_symbol="equity/usa/aapl"), M1, date(2014, 6, 5), date(2014, 6, 9))
        index = pd.to_datetime(lean.close_time - 60_000_000, unit="us", utc=True).tz_convert("America/New_York")
        frame = pd.DataFrame({n.title(): getattr(lean, n) for n in ("open", "high", "low", "close", "volume")}, index=index)
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        outcome = accept(of, "AAPL.pandas.parquet", buffer.getvalue())
        said = (of.path("inbox") / outcome.report).read_text()
        assert "| time.stamp | `start` |" in said
        return feed_of(of)

    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(AAPL, M1, date(2014, 6, 5), date(2014, 6, 9), (date(2010, 1, 1), date(2010, 12, 31)), 1170)

    def test_they_are_the_bars_the_frame_was_made_of(self, feed: Feed, case: FeedCase) -> None:
        lean = LeanFeed(lean_data()).history(replace(AAPL, feed_symbol="equity/usa/aapl"), M1, case.start, case.end)
        assert feed.history(AAPL, M1, case.start, case.end).content_hash() == lean.content_hash()


def test_the_feed_is_registered() -> None:
    assert "files" in feed_names()


def test_an_instrument_whose_first_file_has_not_come_yet_has_no_bars(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL)
    assert len(feed_of(of).history(AAPL, M1, date(2014, 6, 5), date(2014, 6, 9))) == 0
    assert feed_of(of).lookup("aap") == ["AAPL"]


def test_an_accepted_file_that_is_gone_is_named(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL)
    name, data = lean_member("equity", "usa", "minute", "aapl", "20140606_trade.zip")
    outcome = accept(of, name, data)
    (of.path("inbox") / outcome.path).unlink()
    with pytest.raises(SourceMissing, match=r"aapl_minute_trade\.csv: accepted on .*, now gone"):
        feed_of(of).history(AAPL, M1, date(2014, 6, 6), date(2014, 6, 6))


# ---- real files with known oddities ------------------------------------------------------------------------------------


def texts(bars_start: np.ndarray, zone: str, pattern: str = "%Y-%m-%d %H:%M:%S") -> list[str]:
    """Bar starts (UTC us) as a wall clock in `zone` shows them."""
    from zoneinfo import ZoneInfo

    return [from_us(int(t)).astimezone(ZoneInfo(zone)).strftime(pattern) for t in bars_start]


def csv_text(bars: Bars, times: list[str], header: str = "time,open,high,low,close,volume") -> str:
    rows = zip(times, bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True)
    return (
        header
        + "\n"
        + "".join(f"{t},{float(o)!r},{float(h)!r},{float(low)!r},{float(c)!r},{float(v)!r}\n" for t, o, h, low, c, v in rows)
    )


def profile_text(name: str) -> str:
    """A shipped profile without its name."""
    text = (ROOT / "data" / "config" / "feeds" / f"{name}.yaml").read_text()
    return text.replace(f"name: {name}\n", "")


def test_fxcm_stamps_are_a_fixed_offset_and_agree_with_the_utc_minutes_of_oanda(tmp_path: Path) -> None:
    quotes = (lean_profile := profile_text("lean_fxcm_minute")).replace('"-05:00"', "UTC")
    assert quotes != lean_profile
    of = installation(tmp_path, EURUSD)
    day = date(2014, 5, 6)
    for name in ("20140505", "20140506"):
        accept(of, "lean_fxcm_minute/" + (m := lean_member("forex", "fxcm", "minute", "eurusd", f"{name}_quote.zip"))[0], m[1])
    fxcm = feed_of(of).history(EURUSD, M1, day, day)
    other = installation(tmp_path / "oanda", EURUSD, utc_quotes=quotes)
    for name in ("20140505", "20140506"):
        accept(other, "utc_quotes/" + (m := lean_member("forex", "oanda", "minute", "eurusd", f"{name}_quote.zip"))[0], m[1])
    oanda = feed_of(other).history(EURUSD, M1, day, day)
    shared, a, b = np.intersect1d(fxcm.close_time, oanda.close_time, return_indices=True)
    assert len(shared) > 1300
    assert np.median(np.abs(fxcm.close[a] - oanda.close[b])) < 2e-5
    _, a, b = np.intersect1d(fxcm.close_time, oanda.close_time + 60 * 60_000_000, return_indices=True)
    assert np.median(np.abs(fxcm.close[a] - oanda.close[b])) > 5e-5


def test_a_fixed_offset_is_detected_from_the_edges_of_the_week(tmp_path: Path) -> None:
    of = installation(tmp_path, EURUSD)
    week = date(2014, 5, 5), date(2014, 5, 9)
    bars = LeanFeed(lean_data()).history(replace(EURUSD, feed_symbol="forex/fxcm/eurusd"), M1, *week)
    accept(of, "EURUSD.csv", csv_text(bars, texts(bars.close_time - 60_000_000, "Etc/GMT+5")))
    assert feed_of(of).history(EURUSD, M1, *week).content_hash() == bars.content_hash()
    found = {f.what: f.value for f in Inbox(of).check(next(of.path("inbox").glob("done/*/*EURUSD.csv"))).findings}
    assert found["time.zone"] in ("-05:00", "America/Chicago"), "in May Chicago's clock shows the same"
    assert found["time.stamp"] == "start"


def test_bars_after_the_close_of_yesbank_are_left_out_and_told(tmp_path: Path) -> None:
    bank = instrument("YESBANK", M1, venue="XBOM")
    of = installation(tmp_path, bank)
    name, data = lean_member("equity", "india", "minute", "yesbank", "20190709_trade.zip")
    outcome = accept(of, f"lean_india_minute/{name}", data)
    feed = feed_of(of)
    bars = feed.history(bank, M1, date(2019, 7, 9), date(2019, 7, 9))
    assert iso(int(bars.close_time[-1])) == "2019-07-09T10:00:00Z"  # 15:30 in Mumbai
    assert feed.left_out
    assert all("outside every session of XBOM" in x.reason for x in feed.left_out)
    assert "outside every session of XBOM" in (of.path("inbox") / outcome.report).read_text()


def with_dates(day: date, data: bytes) -> str:
    """LEAN minutes with the date and time of day written out."""
    lines = []
    for line in data.decode().split():
        ms, rest = line.split(",", 1)
        lines.append(f"{day} {timedelta(milliseconds=int(ms))!s:0>8},{rest}")
    return "time,open,high,low,close,volume\n" + "\n".join(lines)


def test_start_stamps_of_yesbank_are_seen_although_a_bar_lies_after_the_close(tmp_path: Path) -> None:
    bank = instrument("YESBANK", M1, venue="XBOM")
    of = installation(tmp_path, bank, mumbai="match: {files: ['Y*']}\ntime: {zone: exchange}\nadjustment: none")
    _, data = lean_member("equity", "india", "minute", "yesbank", "20190710_trade.zip")
    text = with_dates(date(2019, 7, 10), data)
    assert " 15:40:00" in text
    accept(of, "YESBANK.csv", text)
    check = Inbox(of).check(next(of.path("inbox").glob("done/*/*YESBANK.csv")))
    (found,) = [f for f in check.findings if f.what == "time.stamp"]
    assert (found.value, found.evidence) == ("start", "1 of 1 sessions have a row at their open, none at its close")


def test_zone_and_start_of_junior_bees_are_found_although_half_its_minutes_are_absent(tmp_path: Path) -> None:
    bees = instrument("JUNIORBEES", M1, venue="XBOM")
    of = installation(tmp_path, bees, raw="match: {files: ['J*']}\nadjustment: none")
    _, data = lean_member("equity", "india", "minute", "juniorbees", "20190102_trade.zip")
    accept(of, "JUNIORBEES.csv", with_dates(date(2019, 1, 2), data))
    found = {f.what: f.value for f in Inbox(of).check(next(of.path("inbox").glob("done/*/*JUNIORBEES.csv"))).findings}
    assert (found["time.zone"], found["time.stamp"], found["timeframe"]) == ("Asia/Kolkata", "start", "1m")
    bars = feed_of(of).history(bees, M1, date(2019, 1, 2), date(2019, 1, 2))
    assert iso(int(bars.close_time[0])) == "2019-01-02T03:46:00Z"


def test_a_pre_open_bar_of_nifty_is_left_out(tmp_path: Path) -> None:
    nifty = instrument("NIFTY50", M1, AssetClass.INDEX, "XBOM")
    of = installation(tmp_path, nifty, mumbai="match: {files: ['N*']}\ntime: {zone: exchange, stamp: start}")
    packed, days = two_days()
    with zipfile.ZipFile(packed) as archive:
        text = with_dates(days[0], archive.read(archive.namelist()[0]))
    assert " 09:07:00" in text
    accept(of, "NIFTY50.csv", text)
    feed = feed_of(of)
    bars = feed.history(nifty, M1, days[0], days[0])
    assert iso(int(bars.close_time[0]))[11:] == "03:46:00Z"
    assert "line 2" in feed.left_out[0].where


def test_rows_at_the_open_and_at_the_close_do_not_tell_start_from_end_and_the_file_is_refused(tmp_path: Path) -> None:
    bank = instrument("YESBANK", M1, venue="XBOM")
    of = installation(tmp_path, bank, mumbai="match: {files: ['Y*']}\ntime: {zone: exchange}\nadjustment: none")
    _, data = lean_member("equity", "india", "minute", "yesbank", "20190709_trade.zip")
    text = with_dates(date(2019, 7, 9), data)
    assert " 09:15:00" in text
    assert " 15:30:00" in text
    outcome = take(of, "YESBANK.csv", text)
    assert outcome.state == "rejected"
    assert "add to the profile: time: {stamp: start}" in outcome.why


def two_days() -> tuple[Path, list[date]]:
    """A zip of NIFTY50 minutes that holds two days, and those days in the order of its members."""
    for path in sorted((lean_data() / "index" / "india" / "minute" / "nifty50").glob("*_trade.zip")):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if len(names) > 1:
            return path, [date(int(n[:4]), int(n[4:6]), int(n[6:8])) for n in names]
    raise AssertionError("no zip of two days")


def test_a_zip_with_two_days_is_refused_because_reading_both_would_double_the_bars(tmp_path: Path) -> None:
    nifty = instrument("NIFTY50", M1, AssetClass.INDEX, "XBOM")
    of = installation(tmp_path, nifty)
    packed, _ = two_days()
    outcome = take(of, f"lean_india_minute/{packed.name}", packed.read_bytes())
    assert outcome.state == "rejected"
    assert "holds 2 files" in outcome.why
    assert "double the bars" in outcome.why


def test_a_half_day_ends_at_one_and_what_comes_after_is_left_out(tmp_path: Path) -> None:
    goog = instrument("GOOG", M1)
    of = installation(tmp_path, goog)
    name, data = lean_member("equity", "usa", "minute", "goog", "20151224_trade.zip")
    accept(of, name, data)
    bars = feed_of(of).history(goog, M1, date(2015, 12, 24), date(2015, 12, 24))
    assert len(bars) == 210
    assert iso(int(bars.close_time[-1])) == "2015-12-24T18:00:00Z"


def test_wall_clock_stamps_follow_the_us_clock_change_over_the_weekend(tmp_path: Path) -> None:
    shy = instrument("SHY", M1)
    of = installation(
        tmp_path, shy, ny="match: {files: ['SHY*']}\nadjustment: none\ntime: {zone: America/New_York, stamp: start}"
    )
    lean = LeanFeed(lean_data()).history(replace(shy, feed_symbol="equity/usa/shy"), M1, date(2008, 3, 7), date(2008, 3, 10))
    accept(of, "SHY.csv", csv_text(lean, texts(lean.close_time - 60_000_000, "America/New_York")))
    bars = feed_of(of).history(shy, M1, date(2008, 3, 7), date(2008, 3, 10))
    assert bars.content_hash() == lean.content_hash()
    opens = [int(bars.close_time[bars.session == s][0]) for s in np.unique(bars.session)]
    assert [iso(t)[11:16] for t in opens] == ["14:31", "13:31"]


@pytest.mark.parametrize(("packing", "ending"), [("gzip", ".gz"), ("zip", ".zip")])
def test_packed_files_are_read_as_they_are(tmp_path: Path, packing: str, ending: str) -> None:
    of = installation(tmp_path, AAPL)
    name, data = lean_member("equity", "usa", "minute", "aapl", "20140606_trade.zip")
    if packing == "gzip":
        packed = gzip.compress(data)
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, data)
        packed = buffer.getvalue()
    accept(of, f"lean_equity_minute/{name}{ending}", packed)
    assert len(feed_of(of).history(AAPL, M1, date(2014, 6, 6), date(2014, 6, 6))) == 390


# ---- the shipped profiles ----------------------------------------------------------------------------------------------

DAY = date(2014, 6, 6)


@pytest.fixture(scope="module")
def apple() -> Bars:
    """Real minutes of one session, 09:30 to 16:00."""
    return LeanFeed(lean_data()).history(replace(AAPL, feed_symbol="equity/usa/aapl"), M1, DAY, DAY)


def written(bars: Bars, profile: str) -> tuple[str, str, str]:
    """(name, text, feed symbol) of the file the vendor would write of these minutes."""
    start = bars.close_time - 60_000_000
    rows = list(zip(bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True))
    ohlc = [f"{float(o)!r},{float(h)!r},{float(low)!r},{float(c)!r}" for o, h, low, c, _ in rows]
    volume = [f"{v:.0f}" for *_, v in rows]
    ny = "America/New_York"

    def lines(times: list[str], *more: list[str], sep: str = ",") -> str:
        return "\n".join(sep.join((t, p.replace(",", sep), *rest)) for t, p, *rest in zip(times, ohlc, *more, strict=True)) + "\n"

    if profile == "kibot":
        return "kibot/AAPL.txt", lines(texts(start, ny, "%m/%d/%Y,%H:%M"), volume), "AAPL"
    if profile == "firstrate":
        return "AAPL_full_1min_UNADJUSTED.txt", lines(texts(start, ny), volume), "AAPL"
    if profile == "alpha_vantage_intraday":
        body = lines(texts(start, ny), volume).splitlines()[::-1]
        return "intraday_1min_AAPL.csv", "timestamp,open,high,low,close,volume\n" + "\n".join(body), "AAPL"
    if profile == "ninjatrader":
        return "AAPL.Last.txt", lines(texts(bars.close_time, "UTC", "%Y%m%d %H%M%S"), volume, sep=";"), "AAPL"
    if profile == "tradingview":
        extra = ["1.5"] * len(rows)
        head = "time,open,high,low,close,VWAP,Volume\n"
        return "NASDAQ_AAPL, 1.csv", head + lines([str(t // 1_000_000) for t in start], extra, volume), "AAPL"
    if profile == "polygon_minute":
        body = [f"AAPL,{v:.0f},{float(o)!r},{float(c)!r},{float(h)!r},{float(low)!r},{t * 1000},7\nZZZZ,1,1,1,1,1,{t * 1000},1"
                for t, (o, h, low, c, v) in zip(start.tolist(), rows, strict=True)]  # fmt: skip
        return (
            "polygon_minute/2014-06-06.csv.gz",
            "ticker,volume,open,close,high,low,window_start,transactions\n" + "\n".join(body),
            "AAPL",
        )
    if profile == "databento_ohlcv":
        body = [f"{t * 1000},33,2,1,{o * 1e9:.0f},{h * 1e9:.0f},{low * 1e9:.0f},{c * 1e9:.0f},{v:.0f},AAPL"
                for t, (o, h, low, c, v) in zip(start.tolist(), rows, strict=True)]  # fmt: skip
        head = "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        return "xnas-itch-20140606.ohlcv-1m.csv", head + "\n".join(body), "AAPL"
    if profile == "metatrader5":
        head = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        times = texts(start + 7 * 3_600_000_000, ny, "%Y.%m.%d\t%H:%M:%S")
        zero = ["0"] * len(rows)
        return "AAPL_M1_201406060000_201406062359.csv", head + lines(times, volume, zero, zero, sep="\t"), "AAPL"
    if profile == "dukascopy":
        head = "Gmt time,Open,High,Low,Close,Volume\n"
        return (
            "AAPL_Candlestick_1_M_BID_06.06.2014.csv",
            head + lines(texts(start, "UTC", "%d.%m.%Y %H:%M:%S.000"), volume),
            "AAPL",
        )
    if profile == "binance_klines":
        ms = [str(t // 1000) for t in start]
        end = [str(t // 1000 + 59_999) for t in start]
        turn = [f"{float(v * c)!r}" for _, _, _, c, v in rows]
        return (
            "AAPL-1m-2014-06.csv",
            lines(ms, volume, end, turn, ["5"] * len(rows), ["0"] * len(rows), ["0"] * len(rows), ["0"] * len(rows)),
            "AAPL",
        )
    raise AssertionError(profile)


@pytest.mark.parametrize(
    "profile",
    ["kibot", "firstrate", "alpha_vantage_intraday", "ninjatrader", "tradingview", "polygon_minute", "databento_ohlcv",
     "metatrader5", "dukascopy", "binance_klines"],
)  # fmt: skip
def test_a_shipped_profile_reads_what_its_vendor_writes(tmp_path: Path, apple: Bars, profile: str) -> None:
    of = installation(tmp_path, AAPL)
    name, text, symbol = written(apple, profile)
    data = (
        gzip.compress(text.encode())
        if name.endswith(".gz")
        else text.encode("utf-16")
        if profile == "metatrader5"
        else text.encode()
    )
    accept(of, name, data)
    assert Inbox(of).index().files[0].profile == profile
    bars = feed_of(of).history(replace(AAPL, feed_symbol=symbol), M1, DAY, DAY)
    plain = Bars("AAPL", M1, *(getattr(bars, n) for n in ("close_time", "session", "open", "high", "low", "close", "volume")))
    assert plain.content_hash() == apple.content_hash()
    if profile == "polygon_minute":
        assert bars.trades is not None
        assert set(bars.trades) == {7.0}
    if profile == "binance_klines":
        assert bars.turnover is not None
        assert np.allclose(bars.turnover, apple.close * apple.volume, atol=TURNOVER_QUANTUM)


@pytest.mark.parametrize("profile", ["histdata", "histdata_mt"])
def test_histdata_is_read_in_its_fixed_offset_summer_and_winter(tmp_path: Path, profile: str) -> None:
    of = installation(tmp_path, EURUSD)
    times = {"histdata": "20240702 170000", "histdata_mt": "2024.07.02,17:00"}[profile]
    name = {"histdata": "DAT_ASCII_EURUSD_M1_202407.csv", "histdata_mt": "DAT_MT_EURUSD_M1_202407.csv"}[profile]
    sep = ";" if profile == "histdata" else ","
    accept(of, name, sep.join([times, "1.07", "1.08", "1.06", "1.075", "0"]) + "\n")
    bars = feed_of(of).history(EURUSD, M1, date(2024, 7, 1), date(2024, 7, 4))
    assert [iso(int(t)) for t in bars.close_time] == ["2024-07-02T22:01:00Z"]


def test_yfinance_frames_of_several_symbols_are_read_symbol_by_symbol(tmp_path: Path) -> None:
    import pandas as pd

    ibm = instrument("IBM", D1)
    of = installation(tmp_path, AAPL_DAILY, ibm, yf=(
        "match: {files: ['prices*']}\nadjustment: splits\naccept_adjusted: true"
    ))  # fmt: skip
    index = pd.DatetimeIndex(pd.to_datetime(["2024-01-02", "2024-01-03", "2024-01-04"]), name="Date")
    fields = ["Adj Close", "Close", "High", "Low", "Open", "Volume"]
    columns = pd.MultiIndex.from_product([fields, ["AAPL", "IBM"]], names=["Price", "Ticker"])
    values = np.array([[1.0, 9, 10, 20, 12, 22, 9, 19, 9.5, 19.5, 100, 200]] * 3)
    values[1, 1::2] = np.nan  # IBM has no row on the second day
    frame = pd.DataFrame(values, index=index, columns=columns)
    accept(of, "prices.csv", frame.to_csv())
    feed = feed_of(of)
    apple = feed.history(AAPL_DAILY, D1, date(2024, 1, 1), date(2024, 1, 31))
    assert apple.close.tolist() == [10, 10, 10]
    assert [session_date(int(s)).day for s in feed.history(ibm, D1, date(2024, 1, 1), date(2024, 1, 31)).session] == [2, 4]
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    accept(of, "prices.parquet", buffer.getvalue())
    assert feed_of(of).history(ibm, D1, date(2024, 1, 1), date(2024, 1, 31)).open.tolist() == [19.5, 19.5]


def test_adjusted_prices_of_stocks_are_refused_unless_the_profile_takes_them(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY, feed_symbol_map="description: unused")
    text = "Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,100\n2024-01-03,2,3,2,2.5,50\n"
    outcome = take(of, "aapl_us_d.csv", text)
    assert outcome.state == "rejected"
    assert "the prices are adjusted (splits_and_dividends)" in outcome.why
    assert "accept_adjusted: true" in outcome.why


def test_prices_back_from_ten_thousandths_are_the_nearest_doubles(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY)
    accept(of, "lean_daily/aapl.csv", "20240102 00:00,6450002,6455800,6440000,6455701,10\n")
    assert 6450002 * 0.0001 != 645.0002
    bars = feed_of(of).history(AAPL_DAILY, D1, date(2024, 1, 2), date(2024, 1, 2))
    assert (bars.open[0], bars.close[0]) == (645.0002, 645.5701)


# ---- round trip --------------------------------------------------------------------------------------------------------


@st.composite
def daily_bars(draw: st.DrawFn) -> Bars:
    venue = calendar("XNYS")
    first = draw(st.integers(2000, 8000))
    rows = np.sort(draw(st.lists(st.integers(0, 60), min_size=18, max_size=40, unique=True)))
    at = first + np.asarray(rows)
    low = np.array(draw(st.lists(st.integers(100, 200_000), min_size=len(at), max_size=len(at)))) / 100
    spread = np.array(draw(st.lists(st.tuples(*(st.integers(0, 500),) * 3), min_size=len(at), max_size=len(at)))) / 100
    high = np.round(low + spread.max(axis=1), 2)
    open_, close = (np.round(low + spread[:, i], 2) for i in (0, 1))
    volume = np.array(draw(st.lists(st.integers(1000, 9_999_999), min_size=len(at), max_size=len(at))), float)
    return Bars("AAPL", D1, venue.close_time[at], venue.number[at], open_, high, low, close, volume)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), bars=daily_bars())
def test_bars_written_in_any_layout_are_the_bars_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, bars: Bars
) -> None:
    separator = data.draw(st.sampled_from([",", ";", "\t", "|"]), "separator")
    decimal = data.draw(st.sampled_from([".", ","] if separator != "," else ["."]), "decimal")
    pattern = data.draw(st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%d-%b-%Y", "epoch"]), "dates")
    order = data.draw(st.permutations(["Date", "Open", "High", "Low", "Close", "Volume"]), "columns")
    thousands = data.draw(st.booleans(), "thousands")
    newest_first = data.draw(st.booleans(), "newest first")
    comment = data.draw(st.booleans(), "comment")
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), "encoding")
    line_end = data.draw(st.sampled_from(["\n", "\r\n"]), "line end")

    def number(value: float, digits: int) -> str:
        text = f"{value:,.{digits}f}" if thousands and separator != "," else f"{value:.{digits}f}"
        return text.translate(str.maketrans(".,", ",.")) if decimal == "," else text

    def cell(name: str, i: int) -> str:
        if name == "Date":
            day = session_date(int(bars.session[i]))
            return str(int(bars.session[i]) * 86_400) if pattern == "epoch" else day.strftime(pattern)
        return number(float(getattr(bars, name.lower())[i]), 0 if name == "Volume" else 2)

    rows = [separator.join(cell(name, i) for name in order) for i in range(len(bars))]
    text = line_end.join(
        [*(["# a vendor's remark"] if comment else []), separator.join(order), *(rows[::-1] if newest_first else rows)]
    )
    of = installation(tmp_path_factory.mktemp("trip"), AAPL_DAILY, trip="match: {files: ['AAPL*']}\nadjustment: none")
    outcome = take(of, "AAPL.csv", text.encode(encoding))
    event(outcome.state)
    if outcome.state == "rejected":
        # What a file does not decide is refused, with the line that would decide it; it is never read wrongly.
        assert "add to the profile" in outcome.why
        return
    got = feed_of(of).history(AAPL_DAILY, D1, date(1990, 1, 1), date(2035, 1, 1))
    assert got.content_hash() == bars.content_hash()


def test_instruments_may_name_calendars_of_the_configuration(tmp_path: Path) -> None:
    """A command such as `tapeline inbox check` reads the universe before anything else of the configuration."""
    config = tmp_path / "config"
    for name in ("universe", "calendars"):
        (config / name).mkdir(parents=True)
    (config / "calendars" / "NIGHT.yaml").write_text("name: NIGHT\nbased_on: XBOM\nhours: {open: '09:00', close: '23:30'}\n")
    (config / "universe" / "night.yaml").write_text(
        "name: night\nhistory_start: 2024-01-02\ninstruments:\n  GOLDM: {asset_class: future, calendar: NIGHT, tick_size: 1, "
        "currency: INR, feed: files, native_timeframe: 1m, tradable_in: []}\n"
    )
    own = Settings(universe="night", config_dir=config, data_dir=tmp_path / "data", _env_file=None)  # type: ignore[call-arg]
    before = [calendar(name) for name in defined()]
    try:
        define([])
        assert list(UniverseOfFiles(own)()) == ["GOLDM"]
        assert defined() == ["NIGHT"]
    finally:
        define(before)
