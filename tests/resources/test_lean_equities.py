"""LEAN's equities with their identities and hours, on the real files: every awkward case of the sample by its name."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from resources.feeds.lean import LeanFeed
from resources.feeds.protocol import FeedError
from tests.paths import lean_data
from tests.resources.test_lean_classes import D1, H1, M1, make
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, iso, session_date, session_number


@pytest.fixture
def lean() -> LeanFeed:
    return LeanFeed(lean_data())


def stock(ticker: str, timeframe: Timeframe = D1) -> Instrument:
    return make(ticker.upper(), f"equity/usa/{ticker}", AssetClass.EQUITY, "XNYS", timeframe)


def test_a_reused_ticker_is_not_joined_uso_1998_is_another_company(lean: LeanFeed) -> None:
    bars = lean.history(stock("uso"), D1, date(1998, 1, 1), date(2021, 3, 31))
    assert session_date(int(bars.session[0])) == date(2006, 4, 10)
    (told,) = [x for x in lean.left_out if x.symbol == "equity/usa/uso"]
    assert "140 rows" in told.where
    assert "1998-01-02 to 1998-12-30" in told.reason


def test_facebook_begins_with_its_listing_fb_1999_is_another_company(lean: LeanFeed) -> None:
    assert session_date(int(lean.history(stock("fb"), D1, date(1998, 1, 1), date(2021, 3, 31)).session[0])) == date(2012, 5, 18)


def test_waste_management_is_found_under_all_its_tickers_wmi_to_wm(lean: LeanFeed) -> None:
    bars = lean.history(stock("wm"), D1, date(1998, 1, 1), date(2021, 3, 31))
    assert len(bars) == 135 + 2780 + 2934
    ends = {date(1998, 7, 16): 57.75, date(1998, 7, 17): 57.5, date(2009, 8, 4): 27.97, date(2009, 8, 5): 28.58}
    for day, close in ends.items():
        row = int(np.searchsorted(bars.session, session_number(day)))
        assert bars.close[row] == pytest.approx(close, rel=0.02), day
    # WM was Washington Mutual until 2008
    assert any("1998-12-09 to 2008-09-26" in x.reason for x in lean.left_out)


def test_the_two_google_shares_part_in_april_2014_goocv_goog_googl(lean: LeanFeed) -> None:
    old, new = (lean.history(stock(t), D1, date(2004, 1, 1), date(2021, 3, 31)) for t in ("googl", "goog"))
    assert session_date(int(old.session[0])) == date(2004, 8, 19)
    assert session_date(int(new.session[0])) == date(2014, 3, 27)  # when issued, as GOOCV
    row = int(np.searchsorted(old.session, session_number(date(2014, 4, 2))))
    assert (round(float(old.close[row])), round(float(old.close[row + 1]))) == (1135, 572)


def test_the_when_issued_google_shares_end_where_the_new_ones_begin_gooav_goocv_2014_03(lean: LeanFeed) -> None:
    """GOOAV was the A share for five sessions, GOOCV the C share; the C share goes on as GOOG, GOOAV is nobody's history."""
    march, april = date(2014, 3, 1), date(2014, 4, 10)
    when_issued, joined = (lean.history(stock(t), D1, march, april) for t in ("gooav", "goog"))
    days = [session_date(int(n)) for n in when_issued.session]
    assert (len(days), days[0], days[-1]) == (5, date(2014, 3, 27), date(2014, 4, 2))
    assert [session_date(int(n)) for n in joined.session[:6]] == [*days, date(2014, 4, 3)]
    assert when_issued.close[-1] == 568.67
    assert joined.close[4] == 567.0, "GOOCV's"
    assert len(lean.history(stock("goocv"), D1, march, april)) == 0
    assert any(x.symbol == "equity/usa/goocv" and "that of GOOG then" in x.reason for x in lean.left_out)


def test_news_corp_becomes_fox_nwsa_2013_06_28_to_foxa(lean: LeanFeed) -> None:
    fox = stock("tfcfa", M1)
    bars = lean.history(fox, M1, date(2013, 6, 27), date(2013, 7, 2))
    assert len(bars) == 4 * 390
    assert (bars.close[779], bars.close[-1]) == (32.6, 29.21)  # the shares of the new News Corp are gone
    assert len(lean.history(stock("foxa", M1), M1, date(2013, 6, 27), date(2013, 7, 2))) == 0


def test_a_symbol_that_only_a_map_file_names_is_found(lean: LeanFeed) -> None:
    assert lean.lookup("tfcfa")[0] == "equity/usa/tfcfa"


def test_the_split_between_two_files_stays_in_the_raw_prices_aapl_2014_06_09(lean: LeanFeed) -> None:
    bars = lean.history(stock("aapl", M1), M1, date(2014, 6, 6), date(2014, 6, 9))
    assert bars.close[389] == 645.57
    assert bars.close[-1] == 93.7


class TestHoursOfEquities:
    """LEAN cuts them at full hours: a calendar cut there takes them, no other."""

    def test_on_the_sessions_grid_they_are_refused_with_the_calendar_that_fits(self, lean: LeanFeed) -> None:
        with pytest.raises(FeedError, match=r"calendar: XNYS@clock .*derive 1h"):
            lean.history(stock("aapl", H1), H1, date(2014, 6, 6), date(2014, 6, 9))

    def test_each_is_of_the_interval_the_minutes_say_aapl_2014_06(self, lean: LeanFeed) -> None:
        """Volumes agree to the share; prices are of another build of the vendor's, a few cents apart."""
        apple = replace(stock("aapl", H1), calendar="XNYS@clock")
        hours, minutes = (lean.history(apple, t, date(2014, 6, 5), date(2014, 6, 9)) for t in (H1, M1))
        made = resample(minutes, H1, calendar("XNYS@clock"))
        assert np.array_equal(hours.close_time, made.close_time)
        assert np.array_equal(hours.volume, made.volume)
        assert float(np.abs(hours.close - made.close).max()) < 0.2

    def test_the_first_closes_half_an_hour_after_the_open_and_a_half_day_ends_at_one(self, lean: LeanFeed) -> None:
        apple = replace(stock("aapl", H1), calendar="XNYS@clock")
        closes = [iso(int(t))[11:16] for t in lean.history(apple, H1, date(2015, 12, 24), date(2015, 12, 24)).close_time]
        assert closes == ["15:00", "16:00", "17:00", "18:00"]

    def test_of_an_index_by_its_own_zone_spx_2021(self, lean: LeanFeed) -> None:
        index = replace(make("SPX", "index/usa/spx", AssetClass.INDEX, "XNYS@clock"), native_timeframe=H1)
        hours = lean.history(index, H1, date(2021, 1, 4), date(2021, 1, 4))
        assert [iso(int(t))[11:16] for t in hours.close_time] == ["15:00", "16:00", "17:00", "18:00", "19:00", "20:00", "21:00"]
        assert hours.open[0] == 3764.61
