"""The awkward days of the real market data: read by the feed, stored in the lake, judged by the checks as the desk would be.

Each test names its case and says what the verdicts must be. The universe allows what a stock without a trade in a minute
looks like (no row), and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from assets.bars_run import BarsRun
from assets.quality.cross import compare_sources
from assets.quality.history import Judged, judge_dataset
from assets.quality.known import Knowledge
from assets.quality.score import scorecards
from assets.quality.verdicts import record
from resources.config import load_config
from resources.corporate_actions import write_actions
from resources.dagster_resources import ConfigFilesResource
from resources.feeds.lean import LeanFeed
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.read import Market
from resources.settings import Settings
from tests.assets.sample_lake import installation
from tests.paths import lean_data
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor
from trading.quality import RuleResult
from trading.scorecard import Scorecard
from trading.timeframes import Timeframe, iso, session_number

UNIVERSE = """\
name: dirty
history_start: 1998-01-02
history_end: 2022-12-31
quality:
  max_gap_share: 0.05
  max_gap_bars: 5
  jump_minimum: 0.02
  stale_repeats: 30
  volume_ratio: 500
instruments:
  AAPL: &us
    {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1m,
     feed_symbol: equity/usa/aapl}
  GOOG: {<<: *us, feed_symbol: equity/usa/goog}
  TWX: {<<: *us, feed_symbol: equity/usa/twx}
  SHY: {<<: *us, feed_symbol: equity/usa/shy}
  TFCFA: {<<: *us, feed_symbol: equity/usa/tfcfa}
  USO: {<<: *us, feed_symbol: equity/usa/uso, native_timeframe: 1d}
  WM: {<<: *us, feed_symbol: equity/usa/wm, native_timeframe: 1d}
  GOOGL: {<<: *us, feed_symbol: equity/usa/googl, native_timeframe: 1d}
  AIG: {<<: *us, feed_symbol: equity/usa/aig, native_timeframe: 1d}
  APPLE: {<<: *us, feed_symbol: equity/usa/aapl, native_timeframe: 1d}
  JUNIORBEES: &india
    {asset_class: equity, calendar: XBOM, tick_size: 0.01, currency: INR, feed: lean, native_timeframe: 1m,
     feed_symbol: equity/india/juniorbees}
  YESBANK: {<<: *india, feed_symbol: equity/india/yesbank}
  NIFTY50: {<<: *india, asset_class: index, has_volume: false, feed_symbol: index/india/nifty50}
  BTCUSD:
    {asset_class: crypto, calendar: CRYPTO, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1m,
     feed_symbol: crypto/coinbase/btcusd}
  BTCUSDT:
    {asset_class: crypto, calendar: CRYPTO, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1m,
     feed_symbol: crypto/bybit/btcusdt}
  EURUSD:
    {asset_class: forex, calendar: FX, tick_size: 0.00001, currency: USD, feed: lean, native_timeframe: 1m, has_volume: false,
     feed_symbol: forex/fxcm/eurusd, second_feed: lean, second_feed_symbol: forex/oanda/eurusd}
"""


@dataclass
class Desk:
    """One installation on the real files."""

    settings: Settings
    lake: Lake
    ledger: Ledger

    def ingest(self, symbol: str, start: date, end: date, timeframe: Timeframe = Timeframe.M1) -> None:
        run = BarsRun(ConfigFilesResource(), self.lake, timeframe, ledger=lambda: self.ledger, run_id="test")
        outcome = run.ingest(start.isoformat(), end.isoformat(), [symbol])
        assert outcome.failed == {}

    def judge(self, symbol: str, start: date, end: date, timeframe: Timeframe = Timeframe.M1) -> Judged:
        universe = load_config(self.settings).universe
        return judge_dataset(
            self.lake, universe, f"bars_{timeframe}", [symbol], start, end, known_of=Knowledge(self.lake, self.ledger, None)
        )

    def failing(
        self, symbol: str, start: date, end: date | None = None, timeframe: Timeframe = Timeframe.M1
    ) -> dict[date, set[str]]:
        """Checks that stop trading, by session with bars."""
        self.ingest(symbol, start, end or start, timeframe)
        judged = self.judge(symbol, start, end or start, timeframe)
        assert judged.unreadable == {}
        return {
            p.session: {r.check for r in p.results if not r.passed and r.severity == "error"}
            for p in judged.partitions
            if len(p.bars)
        }

    def result(self, symbol: str, day: date, check: str, timeframe: Timeframe = Timeframe.M1) -> RuleResult:
        part = next(p for p in self.judge(symbol, day, day, timeframe).partitions if p.session == day)
        return next(r for r in part.results if r.check == check)

    def card(self, symbol: str, day: date) -> Scorecard:
        judged = self.judge(symbol, day, day)
        return scorecards(judged, load_config(self.settings).universe, self.ledger)[symbol, day]

    def bars(self, symbol: str, start: date, end: date | None = None, timeframe: Timeframe = Timeframe.M1) -> Bars:
        return self.lake.read_bars(f"bars_{timeframe}", symbol, start, end or start)


@pytest.fixture
def desk(tmp_path: Path, ledger: Ledger) -> Iterator[Desk]:
    data = lean_data()
    with installation(tmp_path, TAPELINE_UNIVERSE="dirty", TAPELINE_LEAN_DATA=str(data)) as of:
        (of.config / "universe" / "dirty.yaml").write_text(UNIVERSE)
        yield Desk(of, Lake(of.lake_dir), ledger)


SPLIT_DAY = date(2014, 6, 9)


def test_a_7_for_1_split_between_files_is_a_jump_that_stops_trading(desk: Desk) -> None:
    """AAPL 2014-06-06 closes at 645.57, 2014-06-09 opens at 92.7."""
    failing = desk.failing("AAPL", date(2014, 6, 5), SPLIT_DAY)
    assert failing == {date(2014, 6, 5): set(), date(2014, 6, 6): set(), SPLIT_DAY: {"jump"}}
    jump = desk.result("AAPL", SPLIT_DAY, "jump")
    assert jump.failed_rows == (0,)


def test_the_same_split_known_as_a_corporate_action_explains_the_jump_and_is_named(desk: Desk) -> None:
    known = CorporateAction("AAPL", ActionKind.SPLIT, session_number(SPLIT_DAY), 0, factor=7.0, source="factor file")
    write_actions(desk.settings.lake_dir, "AAPL", [known])
    assert desk.failing("AAPL", date(2014, 6, 5), SPLIT_DAY)[SPLIT_DAY] == set()
    jump = desk.result("AAPL", SPLIT_DAY, "jump")
    assert jump.message == "explained by split of factor 7, ex 2014-06-09, from factor file"


@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_another_factor_or_an_unknown_one_explains_nothing(desk: Desk, factor: float) -> None:
    known = CorporateAction("AAPL", ActionKind.SPLIT, session_number(SPLIT_DAY), 0, factor=factor)
    write_actions(desk.settings.lake_dir, "AAPL", [known])
    assert desk.failing("AAPL", date(2014, 6, 5), SPLIT_DAY)[SPLIT_DAY] == {"jump"}


def test_a_half_day_ends_at_its_early_close_and_the_bars_after_it_are_no_session_bars(desk: Desk) -> None:
    """GOOG 2015-12-24: 13:00 close, 14 bars after it."""
    day = date(2015, 12, 24)
    assert desk.failing("GOOG", day) == {day: set()}
    bars = desk.bars("GOOG", day)
    assert len(bars) == 210
    assert iso(int(bars.close_time[-1])) == "2015-12-24T18:00:00Z"
    assert desk.card("GOOG", day).completeness == 1.0


@pytest.mark.parametrize(
    ("symbol", "day", "rows", "stops"),
    [
        ("GOOG", date(2015, 12, 28), 382, set()),
        ("TWX", date(2014, 6, 6), 387, set()),
        ("SHY", date(2008, 3, 7), 333, {"no_gaps"}),
    ],
)
def test_minutes_missing_inside_the_session(desk: Desk, symbol: str, day: date, rows: int, stops: set[str]) -> None:
    """A few are within the tolerance of a stock that did not trade; the score says them all the same."""
    assert desk.failing(symbol, day) == {day: stops}
    card = desk.card(symbol, day)
    assert card.counts.rows == rows
    assert card.completeness == pytest.approx(rows / 390)
    assert card.fault_share == pytest.approx(1 - rows / 390)


def test_an_illiquid_stock_with_half_its_minutes_absent_is_not_tradable_by_the_minute(desk: Desk) -> None:
    """JUNIORBEES 2019-01-01..04: 177 to 217 of 375."""
    failing = desk.failing("JUNIORBEES", date(2019, 1, 1), date(2019, 1, 4))
    assert all(checks == {"no_gaps"} for checks in failing.values())
    assert len(failing) == 4
    assert 0.4 < desk.card("JUNIORBEES", date(2019, 1, 4)).completeness < 0.6


def test_bars_after_the_close_stay_out_and_leave_the_session_complete(desk: Desk) -> None:
    """YESBANK 2019-07-09..11 has rows until 15:40, ten minutes after the close."""
    assert set().union(*desk.failing("YESBANK", date(2019, 7, 9), date(2019, 7, 11)).values()) == set()
    bars = desk.bars("YESBANK", date(2019, 7, 9))
    assert (len(bars), iso(int(bars.close_time[-1]))) == (375, "2019-07-09T10:00:00Z")


def test_two_days_in_one_archive_give_each_bar_once(desk: Desk) -> None:
    """NIFTY50 2019-01-01..04: every zip holds two days."""
    failing = desk.failing("NIFTY50", date(2019, 1, 1), date(2019, 1, 4))
    assert set().union(*failing.values()) == set()
    assert [len(desk.bars("NIFTY50", day)) for day in failing] == [375] * 4


@pytest.mark.parametrize(
    ("symbol", "feed_symbol", "day", "rows"),
    [
        ("BTCUSD", "crypto/coinbase/btcusd", date(2018, 4, 4), 1007),
        ("PERP", "cryptofuture/bybit/btcusdt", date(2022, 12, 13), 721),
        ("TWX", "equity/usa/twx", date(2014, 6, 23), 6),
    ],
)
def test_a_day_cut_short_stops_trading_on_it(desk: Desk, symbol: str, feed_symbol: str, day: date, rows: int) -> None:
    """Coinbase 2018-04-04 ends 16:47, Bybit 2022-12-13 ends 12:00, TWX 2014-06-23 has 6 rows."""
    if symbol == "PERP":
        path = desk.settings.config / "universe" / "dirty.yaml"
        path.write_text(
            path.read_text() + "  PERP: {asset_class: crypto, calendar: CRYPTO, tick_size: 0.01, currency: USD, feed: lean, "
            f"native_timeframe: 1m, feed_symbol: {feed_symbol}}}\n"
        )
    assert desk.failing(symbol, day) == {day: {"no_gaps"}}
    assert len(desk.bars(symbol, day)) == rows
    gap = desk.result(symbol, day, "no_gaps")
    assert gap.failed_rows[-1] == rows - 1  # the last bar there is comes before the hole


def test_a_reused_ticker_s_former_company_is_no_history_of_it(desk: Desk) -> None:
    """Daily USO: the rows of 1998 are another company's; the next row is 2006-04-10."""
    failing = desk.failing("USO", date(1998, 1, 2), date(2006, 12, 29), Timeframe.D1)
    assert min(failing) == date(2006, 4, 10)
    assert set().union(*failing.values()) == set()


def test_the_american_clock_change_over_a_weekend_leaves_both_sessions_in_place(desk: Desk) -> None:
    """SHY 2008-03-07 opens 14:30 UTC, 2008-03-10 13:30 UTC; what fails is that minutes are absent, not where they are."""
    failing = desk.failing("SHY", date(2008, 3, 7), date(2008, 3, 10))
    assert all(checks == {"no_gaps"} for checks in failing.values())
    for day, first in ((date(2008, 3, 7), "14:31"), (date(2008, 3, 10), "13:31")):
        opens = calendar("XNYS").bounds(day)[0]
        bars = desk.bars("SHY", day)
        assert iso(opens + 60_000_000)[11:16] == first
        assert 0 < int(bars.close_time[0]) - opens <= 5 * 60_000_000


def test_clocks_out_of_step_in_europe_and_america_and_a_vendor_in_a_fixed_offset(desk: Desk) -> None:
    """EURUSD FXCM 2011-10-31: the file begins at midnight UTC-05 and the session at 17:00 New York the day before."""
    day = date(2011, 10, 31)
    assert desk.failing("EURUSD", day) == {day: {"no_gaps"}}
    bars = desk.bars("EURUSD", day)
    assert (iso(int(bars.close_time[0])), len(bars)) == ("2011-10-31T05:01:00Z", 960)
    assert desk.result("EURUSD", day, "within_session").passed


def test_the_session_after_a_contract_s_expiry_is_not_missed(desk: Desk) -> None:
    """ES 2013-12-20 is the last day of the December contract: what it is listed until bounds its gaps."""
    from trading.gaps import missing_of

    held = Bars.empty("ESZ13", Timeframe.D1)
    venue = calendar("CMES")
    last = session_number(date(2013, 12, 20))
    found = missing_of(held, venue, last - 4, last + 7, known_until=None, listed_until=last)
    assert max(m.session for m in found) == last


MAY = date(2014, 5, 5), date(2014, 5, 14)


def test_two_brokers_of_the_same_currency_pair_agree_bar_by_bar(desk: Desk) -> None:
    """EURUSD FXCM against Oanda, 2014-05: FXCM's stamps are UTC-05 all year, Oanda's UTC."""
    desk.ingest("EURUSD", *MAY)
    judged = desk.judge("EURUSD", *MAY)
    compared = compare_sources(judged, load_config(desk.settings).universe, ConfigFilesResource().feed)
    assert compared.failed == {}
    assert compared.sessions["EURUSD"] == 8
    verdicts = [r for p in judged.partitions for r in p.extra]
    assert len(verdicts) == 8
    assert all(v.passed or v.severity == "warn" for v in verdicts)


def test_bars_a_minute_off_or_another_price_level_disagree_by_name_and_stop_trading(desk: Desk) -> None:
    desk.ingest("EURUSD", *MAY)
    day = date(2014, 5, 8)
    bars = desk.bars("EURUSD", day)
    close = bars.close.copy()
    close[100:180] += 0.005
    wrong = Bars("EURUSD", Timeframe.M1, bars.close_time, bars.session, bars.open, np.maximum(bars.high, close), bars.low, close,
                 bars.volume)  # fmt: skip
    universe = load_config(desk.settings).universe
    desk.lake.write_bars("bars_1m", {"EURUSD": wrong}, start=day, end=day, source="x", instruments=universe.instruments)
    judged = desk.judge("EURUSD", day, day)
    compare_sources(judged, universe, ConfigFilesResource().feed)
    (verdict,) = judged.partitions[0].extra
    assert (verdict.passed, verdict.severity, len(verdict.failed_rows) >= 70) == (False, "error", True)
    assert iso(int(bars.close_time[100])) in verdict.message
    record(desk.ledger, judged, "run")
    from trading.signals import PartitionRef

    written = desk.ledger.verdicts([PartitionRef("bars_1m", day.isoformat(), "EURUSD", judged.partitions[0].content_hash)])
    assert [(v.check, v.severity, v.failed_count) for v in written if not v.passed and v.check == "cross_source"] == [
        ("cross_source", "error", len(verdict.failed_rows))
    ]


def test_a_spin_off_is_a_jump_until_it_is_known_and_then_named(desk: Desk) -> None:
    """NWSA becomes FOXA on 2013-06-28 and spins off the new News Corp: the first FOXA session opens 11 % lower."""
    first, ex = date(2013, 6, 27), date(2013, 7, 1)
    assert desk.failing("TFCFA", first, date(2013, 7, 2)) == {
        first: set(), date(2013, 6, 28): set(), ex: {"jump"}, date(2013, 7, 2): set()
    }  # fmt: skip
    before, after = desk.bars("TFCFA", date(2013, 6, 28)), desk.bars("TFCFA", ex)
    factor = float(before.close[-1] / after.open[0])
    known = CorporateAction("TFCFA", ActionKind.SPIN_OFF, session_number(ex), 0, factor=factor, other_symbol="NWSA")
    write_actions(desk.settings.lake_dir, "TFCFA", [known])
    assert desk.failing("TFCFA", first, date(2013, 7, 2))[ex] == set()
    assert "spin_off of factor" in desk.result("TFCFA", ex, "jump").message
    assert "(NWSA)" in desk.result("TFCFA", ex, "jump").message


def test_the_value_of_what_was_spun_off_adjusts_the_history_before_it_and_none_known_halts_it(desk: Desk) -> None:
    """NWSA -> FOXA 2013-06-28: 32.60 before, 28.80 after; adjusted on what is known on the day that is asked for."""
    ex = date(2013, 7, 1)
    desk.ingest("TFCFA", date(2013, 6, 27), date(2013, 7, 2))
    opened = calendar("XNYS").bounds(ex)[0]
    before, after = desk.bars("TFCFA", date(2013, 6, 28)), desk.bars("TFCFA", ex)
    value = round(float(before.close[-1] - after.open[0]), 2)
    unknown = CorporateAction("TFCFA", ActionKind.SPIN_OFF, session_number(ex), opened, float("nan"), other_symbol="NWSA")
    market = Market(desk.lake, load_config(desk.settings).universe)
    write_actions(desk.lake, "TFCFA", [unknown])
    with pytest.raises(UnknownFactor, match=r"spin_off on 2013-07-01 is not known.*actions confirm"):
        market.bars("TFCFA", "1d", adjusted=True)
    write_actions(desk.lake, "TFCFA", [replace(unknown, amount=value)])
    seen = market.bars("TFCFA", "1d", adjusted=True)
    raw = market.bars("TFCFA", "1d")
    np.testing.assert_allclose(seen["close"].iloc[:2], raw["close"].iloc[:2] * (1 - value / float(before.close[-1])))
    np.testing.assert_array_equal(seen["volume"], raw["volume"])
    assert abs(seen["open"].iloc[2] / seen["close"].iloc[1] - 1) < 1e-3, "no step is left"
    friday = market.bars("TFCFA", "1d", adjusted=True, as_of="2013-06-29T00:00Z")
    np.testing.assert_array_equal(friday["close"], raw["close"].iloc[:2])
    assert desk.failing("TFCFA", date(2013, 6, 27), date(2013, 7, 2))[ex] == set(), "the jump is explained by the value, too"


@pytest.mark.parametrize(
    ("symbol", "ex", "factor", "looks_like"),
    [("APPLE", date(2020, 8, 31), 4.0, 499.23), ("AIG", date(2009, 7, 1), 0.05, 1.13)],
)
def test_splits_of_the_factor_files_are_known_from_their_day_and_not_before(
    desk: Desk, symbol: str, ex: date, factor: float, looks_like: float
) -> None:
    """AAPL 4:1 after 2020-08-28 and AIG's 20:1 reverse split after 2009-06-30, as the factor files say."""
    first, last = date(ex.year, ex.month - 1, 15), date(ex.year, ex.month, 28 if ex.month < 8 else 31)
    instrument = load_config(desk.settings).universe.instruments[symbol]
    feed = ConfigFilesResource().feed("lean")
    assert isinstance(feed, LeanFeed)
    (split,) = [a for a in feed.actions(instrument) if a.kind is ActionKind.SPLIT and a.ex_session == session_number(ex)]
    assert split.factor == pytest.approx(factor)
    write_actions(desk.lake, symbol, feed.actions(instrument))
    desk.ingest(symbol, first, last, Timeframe.D1)
    market = Market(desk.lake, load_config(desk.settings).universe)
    raw = market.bars(symbol, "1d", form="numpy")
    row = int(np.searchsorted(raw.session, session_number(ex)))
    assert raw.close[row - 1] == pytest.approx(looks_like, rel=0.01)
    on_the_day = market.bars(symbol, "1d", adjusted=True, form="numpy")
    np.testing.assert_allclose(on_the_day.close[:row], raw.close[:row] / factor)
    np.testing.assert_allclose(on_the_day.volume[:row], raw.volume[:row] * factor)
    before = market.bars(symbol, "1d", adjusted=True, as_of=int(raw.close_time[row - 1]), form="numpy")
    np.testing.assert_array_equal(before.close, raw.close[:row])
    assert "jump" not in desk.failing(symbol, first, last, Timeframe.D1)[ex]


def test_history_continues_under_the_new_ticker_in_the_lake_and_a_reused_one_joins_nobody(desk: Desk) -> None:
    """UW -> WMI -> WM (Washington Mutual was WM until 2008) and GOOG -> GOOGL: one company each, from first to last row."""
    desk.ingest("WM", date(1998, 1, 2), date(2021, 3, 31), Timeframe.D1)
    lean = ConfigFilesResource().feed("lean")
    instruments = load_config(desk.settings).universe.instruments
    waste = desk.bars("WM", date(1998, 1, 2), date(2021, 3, 31), Timeframe.D1)
    assert len(waste) == 135 + 2780 + 2934
    for day, close in ((date(2008, 9, 25), 1.69), (date(2007, 1, 3), 45.5)):  # Washington Mutual's
        held = waste.close[int(np.searchsorted(waste.session, session_number(day)))]
        assert abs(held / close - 1) > 0.1, day
    renamed = [a for a in lean.actions(instruments["WM"]) if a.kind is ActionKind.SYMBOL_CHANGE]  # type: ignore[attr-defined]
    assert [a.other_symbol.upper() for a in renamed] == ["UW", "WMI"]
    desk.ingest("GOOGL", date(2014, 3, 27), date(2014, 4, 4), Timeframe.D1)
    google = desk.bars("GOOGL", date(2014, 4, 2), date(2014, 4, 3), Timeframe.D1)
    assert [round(float(c)) for c in google.close] == [1135, 572]
