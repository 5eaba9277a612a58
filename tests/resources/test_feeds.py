"""The feeds: each passes the conformance suite, and reads its own source as that source means it."""

from __future__ import annotations

import gzip
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from resources.feeds import feed_names, get_feed
from resources.feeds import sample as sample_module
from resources.feeds.protocol import Feed, FeedError, MalformedData, SourceMissing
from resources.feeds.sample import read_csv
from resources.settings import Settings
from tests.conformance.feed_suite import FeedCase, FeedSuite
from trading.instruments import AssetClass, Instrument
from trading.timeframes import Timeframe, iso, session_date

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


SPX = instrument("SPX", "sample_indices", kind=AssetClass.INDEX)
VIX = instrument("VIX", "sample_indices", kind=AssetClass.INDEX)
EURUSD = instrument("EURUSD", "sample_forex", kind=AssetClass.FOREX, calendar="FX", timeframe=H1)
AAPL = instrument("AAPL", "sample_stocks")


# ---- the suite ---------------------------------------------------------------------------------------------------


class SampleSuite(FeedSuite):
    @pytest.fixture
    def feed(self, case: FeedCase) -> Feed:
        return get_feed(case.instrument.feed, Settings())


class TestSampleStocks(SampleSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(AAPL, D1, date(2001, 9, 4), date(2001, 9, 28), (date(1999, 1, 1), date(1999, 12, 31)), 15)


class TestSampleIndices(SampleSuite):
    @pytest.fixture(params=[SPX, VIX], ids=["SPX", "VIX"])
    def case(self, request: pytest.FixtureRequest) -> FeedCase:
        return FeedCase(request.param, D1, date(2017, 1, 1), date(2017, 12, 31), (date(1998, 1, 1), date(1998, 12, 31)), 251)


class TestSampleForex(SampleSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(EURUSD, H1, date(2017, 3, 6), date(2017, 3, 17), (date(2016, 1, 1), date(2016, 12, 30)), 240)


# ---- the sample --------------------------------------------------------------------------------------------------


def test_feeds_are_found_by_name() -> None:
    assert {"lean", "sample_forex", "sample_indices", "sample_stocks"} <= set(feed_names())
    with pytest.raises(FeedError, match="did you mean 'sample_stocks'"):
        get_feed("sample_stock", Settings())


def test_a_stock_bar_is_known_at_the_close_of_its_session() -> None:
    bars = get_feed("sample_stocks", Settings()).history(AAPL, D1, date(2000, 6, 20), date(2000, 11, 24))
    assert iso(int(bars.close_time[0])) == "2000-06-20T20:00:00Z"
    assert iso(int(bars.close_time[-1])) == "2000-11-24T18:00:00Z"  # the day after Thanksgiving closes at 13:00
    assert bars.close[:2].tolist() == [101.25, 55.63]  # raw: the 2:1 split of 2000-06-21 is in the prices


def test_index_files_are_read_as_their_own_loader_reads_them() -> None:
    from arch.data import nasdaq, vix

    frame = nasdaq.load()
    bars = get_feed("sample_indices", Settings()).history(
        instrument("COMP", "sample_indices", kind=AssetClass.INDEX), D1, date(1990, 1, 1), date(2030, 1, 1)
    )
    assert [session_date(int(s)) for s in bars.session] == [t.date() for t in frame.index]
    for name, column in (("open", "Open"), ("high", "High"), ("low", "Low"), ("close", "Close"), ("volume", "Volume")):
        assert np.array_equal(getattr(bars, name), frame[column].to_numpy(np.float64))
    closes = get_feed("sample_indices", Settings()).history(VIX, D1, date(1990, 1, 1), date(2030, 1, 1))
    assert np.array_equal(closes.close, vix.load()["vix"].dropna().to_numpy())


def test_the_volatility_index_has_closes_only_and_days_without_one_are_left_out_and_told() -> None:
    feed = get_feed("sample_indices", Settings())
    bars = feed.history(VIX, D1, date(2014, 1, 1), date(2018, 12, 31))
    assert np.array_equal(bars.open, bars.close)
    assert not bars.volume.any()
    left_out = [x for x in feed.left_out if x.symbol == "VIX"]  # type: ignore[attr-defined]
    assert len(left_out) == 46
    assert "2014-01-20" in left_out[0].where  # Martin Luther King day


def test_a_forex_stamp_is_the_start_of_its_hour() -> None:
    bars = get_feed("sample_forex", Settings()).history(EURUSD, H1, date(2017, 1, 1), date(2017, 12, 31))
    assert iso(int(bars.close_time[0])) == "2017-01-01T23:00:00Z"
    assert session_date(int(bars.session[0])) == date(2017, 1, 2)
    assert (bars.open[0], bars.close[0]) == (1.05236, 1.05227)
    assert iso(int(bars.close_time[-1])) == "2017-12-29T22:00:00Z"
    assert len(bars) == 6225


def test_the_sample_is_read_without_importing_heavy_packages() -> None:
    import subprocess

    code = (
        "import sys; from datetime import date\n"
        "from resources.feeds import get_feed; from resources.settings import Settings\n"
        "from tests.resources.test_feeds import EURUSD, SPX, D1, H1\n"
        "for i, t in ((SPX, D1), (EURUSD, H1)):\n"
        "    assert len(get_feed(i.feed, Settings()).history(i, t, date(2017, 1, 1), date(2017, 12, 31)))\n"
        "assert not {'arch', 'gym_anytrading', 'gymnasium', 'statsmodels', 'dagster'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_missing_package_and_a_damaged_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceMissing, match="no_such_package"):
        sample_module.package_file("no_such_package", "x.csv")
    damaged = tmp_path / "FOREX_EURUSD_1H_ASK.csv"
    damaged.write_text("Time,Open,High,Low,Close,Volume\n02.01.2017 10:00:00.000,1,1,1,1,1\n2017-01-02 11:00,1,1,1,1,1\n")
    monkeypatch.setattr(sample_module, "package_file", lambda *parts: damaged)
    with pytest.raises(MalformedData, match=r"EURUSD_1H_ASK.csv line 3: time '2017-01-02 11:00'"):
        sample_module._forex.__wrapped__("EURUSD", "FX")
    cut = tmp_path / "x.csv.gz"
    cut.write_bytes(gzip.compress(b"Date,vix\n1/3/2014,13.76\n" * 1000)[:-20])
    with pytest.raises(MalformedData, match=r"x\.csv\.gz"):
        read_csv(cut, {"Date": "string", "vix": "double"})


def test_a_calendar_that_does_not_fit_the_data_is_an_error_not_a_thin_history(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MalformedData, match="no session of XBOM"):
        sample_module._stocks.__wrapped__("IBM", "XBOM")
