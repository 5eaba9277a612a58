"""Weekly bars across a split: stored as traded and marked; used in one unit, each session on its own level before the week
is made of them.

Apple's 7:1 split of 2014-06-09 fell on a Monday: no week holds it. Its 2:1 split of 2000-06-21 and AIG's 1:20 of 2009-07-01
fell on Wednesdays.
"""

# ruff: noqa: F811, F401 - fixtures are imported by name
from __future__ import annotations

from dataclasses import replace
from datetime import date
from types import MappingProxyType

import numpy as np
import pytest
from numpy.typing import NDArray

from resources.corporate_actions import write_actions
from resources.feeds.lean import LeanFeed
from resources.lake import Lake
from resources.price_view import native_bars
from resources.read import Market
from tests.paths import lean_data
from tests.resources.lake_kit import folder_lake
from tests.trading.strategies import parsed
from trading import gate_inputs
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.gates.settings import OptionalGates
from trading.price_levels import on_level
from trading.price_units import AcrossSplits, Finer, SplitAt, to_unit, weeks_across
from trading.price_view import point_in_time
from trading.resample import resample
from trading.sizing_inputs import average_range, wish_scale
from trading.timeframes import US_PER_DAY, Timeframe, session_number
from trading.universe import Universe, parse_universe

W1, D1 = Timeframe.W1, Timeframe.D1
US = """
name: test
history_start: 2000-01-03
history_end: 2014-06-30
instruments:
  AAPL: &us {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1d,
             feed_symbol: equity/usa/aapl, tradable_in: [backtest]}
  AIG: {<<: *us, feed_symbol: equity/usa/aig}
"""
MARCH, DECEMBER = date(2000, 3, 1), date(2000, 12, 29)


def split(symbol: str, day: str, factor: float) -> CorporateAction:
    ex = session_number(date.fromisoformat(day))
    return CorporateAction(symbol, ActionKind.SPLIT, ex, calendar("XNYS").bounds(ex)[0], factor)


APPLE_2000, AIG_2009 = split("AAPL", "2000-06-21", 2.0), split("AIG", "2009-07-01", 0.05)
APPLE_2014 = split("AAPL", "2014-06-09", 7.0)


@pytest.fixture
def market(folder_lake: Lake) -> Market:
    universe, problems = parse_universe(US, "test.yaml")
    assert universe is not None, problems
    feed = LeanFeed(lean_data())
    spans = {"AAPL": [(MARCH, DECEMBER), (date(2014, 6, 2), date(2014, 6, 13))], "AIG": [(date(2009, 6, 22), date(2009, 7, 10))]}
    for symbol, stretches in spans.items():
        for start, end in stretches:
            days = feed.history(universe.instruments[symbol], D1, start, end)
            weeks = resample(days, W1, calendar("XNYS"))
            for bars in (days, weeks):
                folder_lake.write_bars(
                    f"bars_{bars.timeframe}",
                    {symbol: bars},
                    start=start,
                    end=end,
                    source="lean",
                    instruments=universe.instruments,
                )
    write_actions(folder_lake, "AAPL", [APPLE_2000, APPLE_2014])
    write_actions(folder_lake, "AIG", [AIG_2009])
    return Market(folder_lake, universe)


def _universe(market: Market) -> Universe:
    return market._universe


def ohlc(bars: Bars, row: int) -> list[float]:
    return [round(float(getattr(bars, name)[row]), 6) for name in ("open", "high", "low", "close")]


class TestRead:
    def test_apples_split_of_june_2014_falls_between_two_weeks(self, market: Market) -> None:
        raw = market.bars("AAPL", "1w", "2014-06-02")
        adjusted = market.bars("AAPL", "1w", "2014-06-02", adjusted=True)
        assert raw["close"].tolist() == [645.57, 91.28]
        assert raw.attrs["mixed_levels"] == []
        np.testing.assert_allclose(adjusted["high"], [651.25 / 7, 95.05])
        np.testing.assert_allclose(adjusted["low"], [622.5 / 7, 90.88])

    def test_a_week_with_a_split_inside_is_as_traded_and_named_when_raw(self, market: Market) -> None:
        raw = market.bars("AAPL", "1w", "2000-06-12", "2000-06-30")
        assert raw.loc["2000-06-23", ["open", "high", "low", "close"]].to_numpy().ravel().tolist() == [
            90.56,
            103.94,
            50.31,
            51.69,
        ]
        assert raw.attrs["mixed_levels"] == ["2000-06-23"]
        assert market.bars("AAPL", "1d", "2000-06-12").attrs["mixed_levels"] == []

    def test_adjusted_it_is_made_of_adjusted_sessions(self, market: Market) -> None:
        week = market.bars("AAPL", "1w", "2000-06-12", "2000-06-30", adjusted=True, as_of="2000-06-30T21:00Z")
        assert week.attrs["mixed_levels"] == []
        # Monday 90.56 / 2, Tuesday's high and Monday's low halved, Friday as traded; volume in new shares.
        row = week.loc["2000-06-23"].iloc[0]
        assert row[["open", "high", "low", "close"]].tolist() == [45.28, 57.63, 44.905, 51.69]
        assert row["volume"] == 2 * (3472400 + 4353700) + 8735600 + 8037100 + 3596400

    def test_a_reverse_split_too(self, market: Market) -> None:
        week = market.bars("AIG", "1w", adjusted=True)
        np.testing.assert_allclose(week.loc["2009-07-02", ["open", "high", "low"]].to_numpy().ravel(), [29.2, 29.2, 17.55])


class TestUnits:
    """What strategies, plans and the desk see."""

    def test_a_weekly_bar_is_made_again_of_shorter_bars_in_the_same_window(self, market: Market) -> None:
        days, weeks = (market.bars("AAPL", t, "2000-06-01", "2000-07-31", form="numpy") for t in ("1d", "1w"))
        split_at = [SplitAt(APPLE_2000.ex_session, 2.0)]
        (row,) = weeks_across(weeks, [APPLE_2000.ex_session])
        assert ohlc(to_unit(weeks, split_at, (), [days]), row) == [45.28, 57.63, 44.905, 51.69]
        # A plan written before the split speaks in the old price: the other way round, by the same sessions.
        assert ohlc(to_unit(weeks, (), split_at, [days]), row) == [90.56, 115.26, 89.81, 103.38]

    def test_without_the_bars_it_was_made_of_it_stays_as_traded(self, market: Market) -> None:
        weeks = market.bars("AAPL", "1w", "2000-06-01", "2000-07-31", form="numpy")
        split_at = [SplitAt(APPLE_2000.ex_session, 2.0)]
        (row,) = weeks_across(weeks, [APPLE_2000.ex_session])
        torn = market.bars("AAPL", "1d", "2000-06-20", "2000-07-31", form="numpy")
        assert ohlc(to_unit(weeks, split_at, (), [torn]), row) == [90.56, 103.94, 50.31, 51.69]

    def test_a_rule_about_the_weeks_high_is_not_met_by_the_price_of_other_shares(self, market: Market, folder_lake: Lake) -> None:
        rule = parsed(RULE)
        aapl = _universe(market).instruments["AAPL"]
        weeks = market.bars("AAPL", "1w", end="2000-12-31", form="numpy")
        finer = native_bars(folder_lake, _universe(market))
        row = int(weeks_across(weeks, [APPLE_2000.ex_session])[0])
        seen = point_in_time(rule, {"AAPL": [APPLE_2000]}, finer).evaluate({W1: weeks}, aapl)
        assert (bool(rule.evaluate({W1: weeks}, aapl).enter_long[row]), bool(seen.enter_long[row])) == (True, False)

    def test_nothing_is_known_of_a_split_before_its_day(self, market: Market, folder_lake: Lake) -> None:
        weeks = market.bars("AAPL", "1w", end="2000-12-31", form="numpy")
        row = int(weeks_across(weeks, [APPLE_2000.ex_session])[0])
        finer = native_bars(folder_lake, _universe(market))
        across = AcrossSplits(parsed(RULE), {"AAPL": [SplitAt(APPLE_2000.ex_session, 2.0)]}, finer=finer)
        before, _ = across.in_one_unit({W1: weeks.rows(slice(0, row))}, _universe(market).instruments["AAPL"])
        np.testing.assert_array_equal(before[W1].high, weeks.high[:row] / 2)


class TestGates:
    """What a gate measures on weeks: here the average range of the last six."""

    GATES = OptionalGates.model_validate({"volatility": {"atr": {"bars": "1w", "period": 6, "max_percent": 50}}})

    def live(
        self, market: Market, row: int, finer: Finer | None, actions: list[CorporateAction], days_since: date = MARCH
    ) -> float | None:
        """The percentage at the close of daily bar `row`, from the windows a trade run reads; days before `days_since` gone."""
        days, weeks = (market.bars("AAPL", t, end="2000-12-31", form="numpy") for t in ("1d", "1w"))
        reads = gate_inputs.reads_of(self.GATES, {}, D1)
        assert reads is not None
        venue, aapl = calendar("XNYS"), _universe(market).instruments["AAPL"]
        starts = reads.starts(int(days.session[row]), venue)
        given = {
            b.timeframe: known.rows(slice(int(np.searchsorted(known.session, starts[b.timeframe])), None))
            for b in (days, weeks)
            if (known := b.known_at(int(days.close_time[row]))) is not None
        }
        given[D1] = given[D1].rows(given[D1].session >= session_number(days_since))
        found = gate_inputs.measure_last(self.GATES, {}, given, D1, aapl, venue, None, {"AAPL": actions}, finer)
        value: float | None = found.at(-1, 1)["volatility"]["atr_percent"]
        return value

    def test_a_week_with_a_split_inside_is_measured_on_one_level_live_and_in_a_backtest(
        self, market: Market, folder_lake: Lake
    ) -> None:
        days = market.bars("AAPL", "1d", end="2000-12-31", form="numpy")
        finer = native_bars(folder_lake, _universe(market))
        smooth = market.bars("AAPL", "1w", end="2000-12-31", adjusted=True, as_of="2000-12-30T00:00Z", form="numpy")
        ranges = average_range(smooth, 6) / smooth.close * 100
        bars = {t: market.bars("AAPL", str(t), end="2000-12-31", form="numpy") for t in (D1, W1)}
        aapl, venue = _universe(market).instruments["AAPL"], calendar("XNYS")
        ever = gate_inputs.measure_history(self.GATES, {}, bars, D1, aapl, venue, None, {"AAPL": [APPLE_2000]}, finer).columns[
            "volatility/atr_percent"
        ]
        for day in ("2000-06-20", "2000-06-21", "2000-06-23", "2000-06-26", "2000-07-14", "2000-08-25"):
            row = int(np.searchsorted(days.session, session_number(date.fromisoformat(day))))
            week = int(np.searchsorted(smooth.close_time, days.close_time[row], side="right")) - 1
            now = self.live(market, row, finer, [APPLE_2000])
            assert now == ever[row] == pytest.approx(ranges[week], rel=1e-12), day

    def test_a_week_that_cannot_be_made_again_leaves_the_measure_unknown(self, market: Market) -> None:
        days = market.bars("AAPL", "1d", end="2000-12-31", form="numpy")
        july = int(np.searchsorted(days.session, session_number(date(2000, 7, 14))))
        assert self.live(market, july, None, [APPLE_2000], date(2000, 6, 21)) is None
        assert self.live(market, july, None, [], date(2000, 6, 21)) is not None

    def test_an_overnight_session_stands_on_its_own_level_from_its_first_bar_on(self) -> None:
        """Chicago opens on the UTC evening before: days that have no bar of the session yet stand on its level as well."""
        venue, ex = calendar("CMES"), session_number(date(2013, 12, 12))
        sessions = np.array([ex - 3, ex - 2, ex - 1], np.int32)  # Monday to Wednesday
        closes = np.array([venue.bounds(int(n))[1] for n in sessions])
        price = np.full(len(sessions), 100.0)
        days = Bars("ES", D1, closes, sessions, price, price, price, price, price)
        roll = CorporateAction("ES", ActionKind.ROLL, ex, venue.bounds(ex - 1)[1], 0.5)
        first_close = venue.bounds(ex)[0] + 60_000_000
        assert first_close < ex * US_PER_DAY
        assert on_level(days, [roll], first_close, ex).close.tolist() == [200.0] * len(days)
        assert on_level(days, [roll], first_close, ex - 1).close.tolist() == [100.0] * len(days)
        late = replace(roll, known_time=first_close + 1)
        assert on_level(days, [late], first_close, ex).close.tolist() == [100.0] * len(days)

    def test_where_the_minutes_are_gone_the_days_make_the_week(self, market: Market, folder_lake: Lake) -> None:
        """As retention leaves it: minutes for a year, days for ever."""
        minutes = replace(_universe(market).instruments["AAPL"], native_timeframe=Timeframe.M1)
        finer = native_bars(folder_lake, replace(_universe(market), instruments={"AAPL": minutes}))
        found = finer("AAPL", session_number(date(2000, 6, 19)), session_number(date(2000, 6, 23)))
        assert (found.timeframe, len(found)) == (D1, 5)

    def test_a_spin_off_told_by_its_value_is_measured_by_the_session_before_it(self, market: Market, folder_lake: Lake) -> None:
        days = market.bars("AAPL", "1d", end="2000-12-31", form="numpy")
        at = int(np.searchsorted(days.session, APPLE_2000.ex_session))
        told = replace(APPLE_2000, kind=ActionKind.SPIN_OFF, factor=float("nan"), amount=float(days.close[at - 1]) / 2)
        finer = native_bars(folder_lake, _universe(market))
        july = int(np.searchsorted(days.session, session_number(date(2000, 7, 14))))
        assert self.live(market, july, finer, [told]) == pytest.approx(self.live(market, july, finer, [APPLE_2000]), rel=1e-12)


RULE = """\
name: probe
description: Probe.
symbols: [AAPL]
timeframe: 1w
entry:
  long: {'>': [high, 100]}
exits:
  stop: {kind: percent, percent: 2.0}
sizing: {kind: fixed, quantity: 10}
"""
HELD = (
    RULE.replace("[high, 100]", "[close, 0]")
    .replace("2.0}\n", "5.0}\n  max_bars: 1\n", 1)
    .replace("{kind: fixed, quantity: 10}", "{kind: atr_risk, percent: 1.0, period: 3, multiple: 2.0}")
)


class TestSizes:
    """What a backtest of a weekly strategy sizes by: here the average range of three weeks."""

    ATR = MappingProxyType({"kind": "atr_risk", "percent": 1.0, "period": 3, "multiple": 2.0})

    def shares(self, bars: Bars, market: Market, finer: Finer | None, held: tuple[Bars, ...] = ()) -> NDArray[np.float64]:
        """Share of `percent` a wish of each week risks, its stop a tenth of its close away."""
        rows, aapl = np.arange(len(bars)), _universe(market).instruments["AAPL"]
        found = wish_scale(self.ATR, rows, bars.close, bars.close * 0.9, bars, aapl, {"AAPL": [APPLE_2000]}, finer, held)
        assert found is not None
        return found

    def test_a_week_with_a_split_inside_sizes_as_its_sessions_on_one_level_do(self, market: Market, folder_lake: Lake) -> None:
        weeks, days = (market.bars("AAPL", t, end="2000-12-31", form="numpy") for t in ("1w", "1d"))
        smooth = market.bars("AAPL", "1w", end="2000-12-31", adjusted=True, as_of="2000-12-30T00:00Z", form="numpy")
        (mixed,) = weeks_across(weeks, [APPLE_2000.ex_session])
        known = np.minimum(smooth.close * 0.1 / (2.0 * average_range(smooth, 3)), 1.0)
        for made in (
            self.shares(weeks, market, native_bars(folder_lake, _universe(market))),
            self.shares(weeks, market, None, (days,)),
        ):
            assert made[mixed:].tolist() == pytest.approx(known[mixed:].tolist(), rel=1e-9)

    def test_a_week_that_cannot_be_made_again_sizes_to_nothing_while_it_is_measured(self, market: Market) -> None:
        weeks = market.bars("AAPL", "1w", end="2000-12-31", form="numpy")
        (mixed,) = weeks_across(weeks, [APPLE_2000.ex_session])
        unknown = np.flatnonzero(np.isnan(self.shares(weeks, market, None)))
        assert unknown.tolist() == [0, 1, 2, *range(mixed, mixed + 4)]

    def test_the_backtest_asks_the_model_for_shorter_bars(self, market: Market, folder_lake: Lake) -> None:
        """Of a weekly strategy on prices as of each week, as an experiment makes it."""
        weeks = market.bars("AAPL", "1w", end="2000-12-31", form="numpy")
        strategy = parsed(HELD)
        finer, actions = native_bars(folder_lake, _universe(market)), {"AAPL": [APPLE_2000]}
        aapl = _universe(market).instruments["AAPL"]
        unknown = [
            backtest(model, {"AAPL": {W1: weeks}}, {"AAPL": aapl}, cash=1e6, actions=actions).refusals
            for model in (point_in_time(strategy, actions, finer), point_in_time(strategy, actions))
        ]
        assert sum(unknown[0].values()) < sum(unknown[1].values()), unknown
