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
from trading.bars import Bars
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
