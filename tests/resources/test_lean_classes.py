"""LEAN's indices, futures, options, crypto and quotes, on the real files: every awkward case of the sample by its name."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from resources.feeds.lean import LeanFeed, QuoteHistory
from resources.feeds.protocol import Feed, FeedError, SymbolNotFound
from tests.conformance.feed_suite import FeedCase, FeedSuite
from tests.paths import lean_data
from tests.trading.samples import CONFIG
from trading.calendar_files import parse_calendar
from trading.calendars import calendar, define
from trading.instruments import AssetClass, FutureTerms, Instrument, OptionRight, OptionTerms, RollRule
from trading.resample import resample
from trading.session_grid import missing_bars
from trading.timeframes import Timeframe, iso, session_date, session_number

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1


def make(
    symbol: str,
    feed_symbol: str,
    kind: AssetClass,
    venue: str,
    timeframe: Timeframe = M1,
    tick: str = "0.01",
    future: FutureTerms | None = None,
    option: OptionTerms | None = None,
) -> Instrument:
    return Instrument(symbol, kind, venue, Decimal(tick), "USD", "lean", feed_symbol, timeframe, future=future, option=option)


ES_DECEMBER = make(
    "ESZ3", "future/cme/es/20131220", AssetClass.FUTURE, "CMES", tick="0.25", future=FutureTerms("ES", date(2013, 12, 20))
)
ES = make("ES", "future/cme/es", AssetClass.FUTURE, "CMES", tick="0.25", future=FutureTerms("ES"))
GC_DECEMBER = make("GCZ3", "future/comex/gc/201312", AssetClass.FUTURE, "CMES", tick="0.1")
GOOG_CALL = make(
    "GOOG_C750", "option/usa/goog/20160617/call/750", AssetClass.OPTION, "XNYS",
    option=OptionTerms("GOOG", date(2016, 6, 17), OptionRight.CALL, Decimal(750)),
)  # fmt: skip
NIFTY = make("NIFTY50", "index/india/nifty50", AssetClass.INDEX, "XBOM", tick="0.05")
YESBANK = make("YESBANK", "equity/india/yesbank", AssetClass.EQUITY, "XBOM", tick="0.05")


@pytest.fixture
def lean() -> LeanFeed:
    return LeanFeed(lean_data())


def by_session(feed: LeanFeed, instrument: Instrument, start: date, end: date) -> dict[date, int]:
    bars = feed.history(instrument, instrument.native_timeframe, start, end)
    numbers, counts = np.unique(bars.session, return_counts=True)
    return {session_date(int(n)): int(c) for n, c in zip(numbers, counts, strict=True)}


# ---- the suite, one class of instruments each --------------------------------------------------------------------


class LeanSuite(FeedSuite):
    @pytest.fixture
    def feed(self) -> Feed:
        return LeanFeed(lean_data())


class TestFutureContract(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        december = make("ESZ3", "future/cme/es/201312", AssetClass.FUTURE, "CMES", tick="0.25")
        return FeedCase(december, M1, date(2013, 10, 7), date(2013, 10, 11), (date(2012, 1, 2), date(2012, 2, 1)), 6826)


class TestContinuousFuture(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(ES, M1, date(2013, 12, 2), date(2013, 12, 20), (date(2012, 1, 2), date(2012, 2, 1)), 5398)


class TestGold(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(GC_DECEMBER, M1, date(2013, 10, 7), date(2013, 10, 11), (date(2012, 1, 2), date(2012, 2, 1)), 6687)


class TestOption(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        contract = make("TWX_C65", "option/usa/twx/20140621/call/65", AssetClass.OPTION, "XNYS", D1)
        return FeedCase(contract, D1, date(2014, 6, 5), date(2014, 6, 6), (date(2013, 1, 2), date(2013, 2, 1)), 2)


class TestIndianIndex(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(NIFTY, M1, date(2019, 1, 1), date(2019, 1, 4), (date(2018, 1, 1), date(2018, 1, 31)), 1500)


class TestIndianEquity(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        return FeedCase(YESBANK, M1, date(2019, 7, 9), date(2019, 7, 11), (date(2018, 1, 1), date(2018, 1, 31)), 1125)


class TestPerpetual(LeanSuite):
    @pytest.fixture
    def case(self) -> FeedCase:
        coin = make("BTCPERP", "cryptofuture/bybit/btcusdt", AssetClass.CRYPTO, "CRYPTO", tick="0.1")
        return FeedCase(coin, M1, date(2022, 12, 13), date(2022, 12, 13), (date(2021, 1, 1), date(2021, 1, 31)), 721)


# ---- sessions ----------------------------------------------------------------------------------------------------


def test_two_days_in_one_zip_do_not_double_the_bars_nifty50_2019_01(lean: LeanFeed) -> None:
    got = by_session(lean, NIFTY, date(2019, 1, 1), date(2019, 1, 4))
    assert got == dict.fromkeys((date(2019, 1, d) for d in (1, 2, 3, 4)), 375)


def test_pre_open_bars_are_left_out_and_told_nifty50_0907(lean: LeanFeed) -> None:
    bars = lean.history(NIFTY, M1, date(2019, 1, 1), date(2019, 1, 1))
    assert iso(int(bars.close_time[0])) == "2019-01-01T03:46:00Z"  # 09:15 in Mumbai, and a minute
    told = [x for x in lean.left_out if "closing 2019-01-01 03:38" in x.reason]
    assert len(told) == 1
    assert told[0].where.endswith(" line 1")


def test_of_a_file_of_many_years_only_the_rows_beside_the_sessions_asked_for_are_told(lean: LeanFeed) -> None:
    """Nineteen years of Apple's hours are one file; a question about a day says nothing of the others' after-hours rows."""
    stock = make("AAPL", "equity/usa/aapl", AssetClass.EQUITY, "XNYS@clock", H1)
    lean.history(stock, H1, date(2000, 7, 3), date(2000, 7, 3))  # closes at 13:00
    (told,) = [x for x in lean.left_out if x.symbol == "equity/usa/aapl"]
    assert told.where.endswith("#aapl.csv line 4410")
    assert told.reason == "closing 2000-07-03 18:00 UTC, outside the sessions of XNYS@clock"
    lean.history(stock, H1, date(2014, 6, 5), date(2014, 6, 9))
    assert not [x for x in lean.left_out if x.symbol == "equity/usa/aapl"]


def test_bars_after_the_close_are_left_out_and_told_yesbank_1540(lean: LeanFeed) -> None:
    bars = lean.history(YESBANK, M1, date(2019, 7, 9), date(2019, 7, 9))
    assert iso(int(bars.close_time[-1])) == "2019-07-09T10:00:00Z"
    told = [x for x in lean.left_out if "2019-07-09" in x.reason]
    assert ["10:11" in x.reason for x in told] == [True]


def test_an_illiquid_fund_has_half_its_minutes_juniorbees(lean: LeanFeed) -> None:
    fund = make("JUNIORBEES", "equity/india/juniorbees", AssetClass.EQUITY, "XBOM")
    assert list(by_session(lean, fund, date(2019, 1, 1), date(2019, 1, 4)).values()) == [217, 201, 188, 177]


@pytest.mark.parametrize(
    ("ticker", "day", "rows"),
    [
        ("goog", date(2015, 12, 28), 382),
        ("twx", date(2014, 6, 6), 387),
        ("shy", date(2008, 3, 7), 333),
        ("twx", date(2014, 6, 23), 6),
    ],
    ids=["GOOG 2015-12-28", "TWX 2014-06-06", "SHY 2008-03-07", "TWX 2014-06-23 cut short"],
)
def test_minutes_missing_inside_the_session_stay_missing(lean: LeanFeed, ticker: str, day: date, rows: int) -> None:
    stock = make(ticker.upper(), f"equity/usa/{ticker}", AssetClass.EQUITY, "XNYS")
    assert by_session(lean, stock, day, day) == {day: rows}


def test_a_half_day_keeps_its_210_minutes_and_tells_of_the_14_behind_goog_2015_12_24(lean: LeanFeed) -> None:
    stock = make("GOOG", "equity/usa/goog", AssetClass.EQUITY, "XNYS")
    bars = lean.history(stock, M1, date(2015, 12, 24), date(2015, 12, 24))
    assert (len(bars), iso(int(bars.close_time[-1]))) == (210, "2015-12-24T18:00:00Z")
    after = [x for x in lean.left_out if "closing 2015-12-24 18:0" in x.reason]
    assert sum(int(x.where.rpartition("(")[2].split()[0]) for x in after) >= 1


def test_an_index_half_day_spx_2023_07_03(lean: LeanFeed) -> None:
    spx = make("SPX", "index/usa/spx", AssetClass.INDEX, "XNYS")
    assert by_session(lean, spx, date(2023, 6, 30), date(2023, 7, 3)) == {date(2023, 6, 30): 390, date(2023, 7, 3): 210}


@pytest.mark.parametrize(
    ("day", "rows", "first", "last"),
    [
        (date(2011, 3, 7), 1017, "2011-03-07T05:01:00Z", "2011-03-07T22:00:00Z"),
        # Europe's clocks are back already, New York's are not: the session ends at 21:00 UTC.
        (date(2011, 10, 31), 960, "2011-10-31T05:01:00Z", "2011-10-31T21:00:00Z"),
    ],
)
def test_fxcm_stamps_are_utc_minus_five_all_year(lean: LeanFeed, day: date, rows: int, first: str, last: str) -> None:
    pair = make("EURUSD", "forex/fxcm/eurusd", AssetClass.FOREX, "FX", tick="0.00001")
    bars = lean.history(pair, M1, day, day)
    assert (len(bars), iso(int(bars.close_time[0])), iso(int(bars.close_time[-1]))) == (rows, first, last)


@pytest.mark.parametrize(
    ("feed_symbol", "day", "last"),
    [
        ("crypto/coinbase/btcusd", date(2018, 4, 4), "2018-04-04T16:48:00Z"),
        ("cryptofuture/bybit/btcusdt", date(2022, 12, 13), "2022-12-13T12:01:00Z"),
    ],
)
def test_days_cut_short_end_where_the_file_ends(lean: LeanFeed, feed_symbol: str, day: date, last: str) -> None:
    coin = make("BTC", feed_symbol, AssetClass.CRYPTO, "CRYPTO")
    assert iso(int(lean.history(coin, M1, day, day).close_time[-1])) == last


# ---- futures -----------------------------------------------------------------------------------------------------


def test_sunday_evening_belongs_to_mondays_session_of_the_cme(lean: LeanFeed) -> None:
    bars = lean.history(ES_DECEMBER, M1, date(2013, 10, 7), date(2013, 10, 7))
    assert iso(int(bars.close_time[0])) == "2013-10-06T22:01:00Z"
    assert bars.open[0] == 1676.75


def test_a_contract_trades_on_its_expiry_day_until_it_settles_es_2013_12_20(lean: LeanFeed) -> None:
    bars = lean.history(ES_DECEMBER, M1, date(2013, 12, 20), date(2014, 1, 31))
    assert len(bars) == 533
    assert iso(int(bars.close_time[-1])) == "2013-12-20T14:30:00Z"  # 08:30 in Chicago
    assert bars.close[-1] == 1810.25


@pytest.mark.parametrize("day", [date(2013, 10, 10), date(2013, 12, 3)])
def test_on_the_venue_s_hours_of_2013_only_minutes_without_a_trade_are_missed(lean: LeanFeed, day: date) -> None:
    """Whole sessions of the sample: the pause after 15:15 and the rest after 16:15 are 60 of the 1440 minutes CMES calls for."""
    globex, _ = parse_calendar((CONFIG / "calendars" / "GLOBEX.yaml").read_text(), "GLOBEX.yaml")
    assert globex is not None
    define([globex])
    try:
        missed = {}
        for name in ("CMES", "GLOBEX"):
            bars = lean.history(replace(ES, calendar=name), M1, day, day)
            gap = missing_bars(bars, calendar(name), None, [session_number(day)])[session_number(day)]
            missed[name] = gap.missing, gap.expected, gap.longest, len(bars)
    finally:
        define([])
    (wrong, due, longest, held), (real, due_then, longest_real, held_then) = missed["CMES"], missed["GLOBEX"]
    assert (wrong - real, due, due_then, held) == (60, 1440, 1380, held_then)
    assert 0.044 < wrong / due < 0.054
    assert real / due_then < 0.013
    assert (longest, longest_real <= 3) == (45, True)


def test_each_expiry_of_a_zip_is_its_own_series(lean: LeanFeed) -> None:
    march = make("ESH4", "future/cme/es/201403", AssetClass.FUTURE, "CMES", tick="0.25")
    december = lean.history(ES_DECEMBER, M1, date(2013, 12, 20), date(2013, 12, 20))
    later = lean.history(march, M1, date(2013, 12, 20), date(2013, 12, 20))
    assert (len(december), len(later)) == (533, 1308)
    assert abs(later.close[0] - december.close[0]) > 5


def test_the_continuous_series_changes_to_the_contract_that_traded_more_on_the_day_before(lean: LeanFeed) -> None:
    (roll, *_) = lean.roll_table(ES).rolls
    assert (session_date(roll.session), roll.old, roll.new) == (date(2013, 12, 16), "201312", "201403")
    assert (session_date(roll.decided), roll.old_close, roll.new_close) == (date(2013, 12, 13), 1775.0, 1768.75)
    march = make("ESH4", "future/cme/es/201403", AssetClass.FUTURE, "CMES", tick="0.25")
    ask = (M1, date(2013, 12, 16), date(2013, 12, 20))
    assert np.array_equal(lean.history(ES, *ask).close, lean.history(march, *ask).close)


@pytest.mark.parametrize(
    ("rule", "days", "session"),
    [
        (RollRule.CALENDAR, 0, date(2013, 12, 23)),
        (RollRule.CALENDAR, 1, date(2013, 12, 20)),
        (RollRule.CALENDAR, 8, date(2013, 12, 11)),
        (RollRule.VOLUME, 1, date(2013, 12, 16)),
        (RollRule.OPEN_INTEREST, 0, date(2013, 12, 23)),
    ],
)
def test_the_expiry_of_december_2013_by_every_rule(lean: LeanFeed, rule: RollRule, days: int, session: date) -> None:
    future = make("ES", "future/cme/es", AssetClass.FUTURE, "CMES", future=FutureTerms("ES", None, rule, days))
    assert session_date(lean.roll_table(future).rolls[0].session) == session


def test_a_contract_is_named_by_its_month_or_its_expiry(lean: LeanFeed) -> None:
    by_month = make("ESZ3", "future/cme/es/201312", AssetClass.FUTURE, "CMES", tick="0.25")
    ask = (M1, date(2013, 12, 20), date(2013, 12, 20))
    assert lean.history(by_month, *ask).content_hash() == lean.history(ES_DECEMBER, *ask).content_hash()
    assert lean.lookup("FUTURE/CME/ES/20131220")[0] == "future/cme/es/20131220"


def test_open_interest_of_a_contract_is_read_by_session(lean: LeanFeed) -> None:
    assert lean.open_interest(ES_DECEMBER, date(2013, 12, 20), date(2013, 12, 20)) == {date(2013, 12, 20): 782646.0}


def test_an_unknown_root_needs_its_expiry_rule_said(lean: LeanFeed) -> None:
    corn = make("ZC", "future/cbot/zc", AssetClass.FUTURE, "CMES", future=FutureTerms("ZC"))
    with pytest.raises(FeedError, match="expiry_rule"):
        lean.history(corn, M1, date(2013, 10, 7), date(2013, 10, 8))


def test_a_contract_nobody_listed_is_unknown(lean: LeanFeed) -> None:
    with pytest.raises(SymbolNotFound, match="future/cme/es/203012"):
        lean.history(make("X", "future/cme/es/20301220", AssetClass.FUTURE, "CMES"), M1, date(2013, 10, 7), date(2013, 10, 8))


REGULAR, MIDNIGHT = "CMES@08:30-16:00", "CMES@UTC"


def es_december(venue: str) -> Instrument:
    return make("ESZ3", "future/cme/es/201312", AssetClass.FUTURE, venue, tick="0.25")


def gc_december(venue: str) -> Instrument:
    return make("GCZ3", "future/comex/gc/201312", AssetClass.FUTURE, venue, tick="0.1")


class TestDailyBarsOfFutures:
    """ES days are cut to the market hours of the folder's database, GC days at midnight UTC: the minutes say so."""

    def test_on_the_venues_sessions_they_are_refused_with_the_calendars_that_may_fit(self, lean: LeanFeed) -> None:
        with pytest.raises(FeedError, match=r"calendar: CMES@UTC .*CMES@08:30-16:00.*derive 1d"):
            lean.history(es_december("CMES"), D1, date(2013, 12, 2), date(2013, 12, 20))

    def test_days_of_the_market_hours_are_what_the_minutes_of_these_hours_make_es_2013(self, lean: LeanFeed) -> None:
        start, end = date(2013, 10, 14), date(2013, 12, 18)
        days, minutes = (lean.history(es_december(REGULAR), t, start, end) for t in (D1, M1))
        made = resample(minutes, D1, calendar(REGULAR))
        both = np.isin(days.close_time, made.close_time)
        assert (len(days), int(both.sum())) == (48, 7)
        for column in ("close_time", "session", "open", "high", "low", "close", "volume"):
            assert np.array_equal(getattr(days, column)[both], getattr(made, column)), column

    def test_days_of_a_date_are_what_the_minutes_of_the_date_make_gc_2013(self, lean: LeanFeed) -> None:
        start, end = date(2013, 10, 8), date(2013, 10, 10)
        days, minutes = (lean.history(gc_december(MIDNIGHT), t, start, end) for t in (D1, M1))
        made = resample(minutes, D1, calendar(MIDNIGHT))
        for column in ("close_time", "session", "open", "high", "low", "close"):
            assert np.array_equal(getattr(days, column), getattr(made, column)), column

    def test_the_folders_own_minutes_have_the_last_word_on_the_cut(self, lean: LeanFeed) -> None:
        """Either cut is one LEAN uses; taken for the other they would be other prices."""
        with pytest.raises(FeedError, match=r"not cut as calendar CMES@UTC is: .*2013-10-07 1669 to 1668, its minutes 1676.5"):
            lean.history(es_december(MIDNIGHT), D1, date(2013, 10, 7), date(2013, 10, 11))
        with pytest.raises(FeedError, match=r"not cut as calendar CMES@08:30-16:00 is"):
            lean.history(gc_december(REGULAR), D1, date(2013, 10, 7), date(2013, 10, 11))
        continuous = make("ES", "future/cme/es", AssetClass.FUTURE, MIDNIGHT, tick="0.25", future=FutureTerms("ES"))
        with pytest.raises(FeedError, match="not cut as calendar CMES@UTC is"):
            lean.history(continuous, D1, date(2013, 10, 7), date(2013, 10, 11))

    def test_a_sunday_row_outside_the_hours_is_told(self, lean: LeanFeed) -> None:
        lean.history(es_december(REGULAR), D1, date(2013, 10, 7), date(2013, 10, 11))
        assert any("line 1" in x.where and "has no session on that day" in x.reason for x in lean.left_out)


# ---- options -----------------------------------------------------------------------------------------------------


def test_a_chain_of_thousands_is_listed_and_searched_at_once_goog_2015_12_24(lean: LeanFeed) -> None:
    began = time.perf_counter()
    chain = lean.chain("option/usa/goog", date(2015, 12, 24))
    found = lean.lookup("option/usa/goog/20160617/call/750")
    assert len(chain) == 2192
    assert found[0] == "option/usa/goog/20160617/call/750"
    assert time.perf_counter() - began < 5  # a second pass over each zip's directory would take longer than a busy machine


def test_an_options_price_is_scaled_and_its_quotes_keep_both_sides(lean: LeanFeed) -> None:
    bars = lean.history(GOOG_CALL, M1, date(2015, 12, 28), date(2015, 12, 28))
    assert bars.close.tolist() == [58.61, 61.9]
    quotes = lean.quotes(GOOG_CALL, M1, date(2015, 12, 28), date(2015, 12, 28))
    assert len(quotes) == 60
    assert np.all(quotes.bid_close <= quotes.ask_close)


def test_a_side_nobody_quotes_is_no_quote(lean: LeanFeed) -> None:
    dead = make("X", "option/usa/goog/20151224/call/1000", AssetClass.OPTION, "XNYS")
    quotes = lean.quotes(dead, M1, date(2015, 12, 24), date(2015, 12, 24))
    assert len(quotes) == 96
    assert np.isnan(quotes.bid_close).all()
    assert np.isnan(quotes.bid_size).all()
    assert quotes.ask_close[0] == 0.5
    assert quotes.ask_size[0] == 19
    assert np.isnan(quotes.mid).all()


# ---- quotes ------------------------------------------------------------------------------------------------------


def test_forex_bars_are_the_middle_of_its_quote_bars(lean: LeanFeed) -> None:
    assert isinstance(lean, QuoteHistory)
    pair = make("EURUSD", "forex/oanda/eurusd", AssetClass.FOREX, "FX", tick="0.00001")
    day = date(2014, 5, 7)
    bars, quotes = lean.history(pair, M1, day, day), lean.quotes(pair, M1, day, day)
    assert np.array_equal(bars.close_time, quotes.close_time)
    assert np.allclose(bars.close, quotes.mid, atol=1e-8)
    assert np.all(quotes.spread > 0)


def test_quotes_of_a_stock_lie_around_its_trades(lean: LeanFeed) -> None:
    apple = make("AAPL", "equity/usa/aapl", AssetClass.EQUITY, "XNYS")
    quotes = lean.quotes(apple, M1, date(2014, 6, 6), date(2014, 6, 9))
    assert len(quotes) == 780
    assert np.array_equal(calendar("XNYS").session_of(quotes.close_time), quotes.session)
    assert 640 < float(quotes.mid[0]) < 655
    assert 90 < float(quotes.mid[-1]) < 95


def test_no_quotes_there_is_an_empty_answer(lean: LeanFeed) -> None:
    apple = make("AAPL", "equity/usa/aapl", AssetClass.EQUITY, "XNYS")
    assert len(lean.quotes(apple, M1, date(2010, 1, 4), date(2010, 1, 8))) == 0
    assert len(lean.quotes(NIFTY, M1, date(2019, 1, 1), date(2019, 1, 4))) == 0
