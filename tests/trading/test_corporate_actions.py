"""Corporate actions: the adjusted view is point-in-time, a jump is explained by its action or not at all."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.feeds.lean import LeanFeed
from tests.paths import lean_data
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import (
    ActionKind,
    CorporateAction,
    Identity,
    TickerSpan,
    UnknownFactor,
    adjust,
    exact_factor,
    explained_jumps,
    split_like,
    steps,
    unexplained_splits,
)
from trading.instruments import AssetClass, Instrument
from trading.price_grid import on_grid
from trading.price_units import SplitAt, across_splits
from trading.timeframes import US_PER_DAY, Timeframe, session_date, session_number

FIRST = session_number(date(2014, 6, 2))
NEVER = 2**62
FACTORS = [7.0, 4.0, 2.0, 1.5, 0.05, 0.1, 1 / 3, 1.0027]


def daily(closes: list[float], volume: float = 1000.0) -> Bars:
    """One bar a calendar day from FIRST on, closing at 20:00 UTC."""
    n = len(closes)
    session = np.arange(FIRST, FIRST + n, dtype=np.int32)
    close = np.array(closes, np.float64)
    time = session.astype(np.int64) * US_PER_DAY + 20 * 3_600_000_000
    return Bars(
        "AAPL", Timeframe.D1, time, session, close, close * 1.01, close * 0.99, close, np.full(n, volume),
        turnover=close * volume, trades=np.full(n, 10.0),
    )  # fmt: skip


def action(
    day: int, factor: float, kind: ActionKind = ActionKind.SPLIT, known: int | None = None, amount: float = 0.0
) -> CorporateAction:
    ex = FIRST + day
    return CorporateAction("AAPL", kind, ex, ex * US_PER_DAY if known is None else known, factor, amount)


class TestAdjust:
    def test_a_split_divides_earlier_prices_and_multiplies_earlier_volumes(self) -> None:
        bars = daily([700.0, 700.0, 100.0, 101.0])
        got = adjust(bars, [action(2, 7.0)], as_of=NEVER)
        assert got.close.tolist() == [100.0, 100.0, 100.0, 101.0]
        assert got.volume.tolist() == [7000.0, 7000.0, 1000.0, 1000.0]

    def test_turnover_and_trades_are_what_they_were(self) -> None:
        bars = daily([700.0, 100.0])
        got = adjust(bars, [action(1, 7.0)], as_of=NEVER)
        assert got.turnover is not None
        assert got.trades is not None
        assert (got.turnover.tolist(), got.trades.tolist()) == ([700_000.0, 100_000.0], [10.0, 10.0])
        assert got.vwap[0] == pytest.approx(100.0)

    def test_dividends_count_only_when_asked_for_and_leave_volume_alone(self) -> None:
        bars = daily([100.0, 98.0])
        paid = action(1, 100.0 / 98.0, ActionKind.DIVIDEND, amount=2.0)
        assert adjust(bars, [paid], as_of=NEVER) is not bars
        assert adjust(bars, [paid], as_of=NEVER).close[0] == 100.0
        got = adjust(bars, [paid], as_of=NEVER, dividends=True)
        assert (got.close[0], got.volume[0]) == (pytest.approx(98.0), 1000.0)

    def test_a_dividend_told_as_cash_is_measured_by_the_close_before(self) -> None:
        bars = daily([100.0, 98.0])
        paid = action(1, math.nan, ActionKind.DIVIDEND, amount=2.0)
        assert adjust(bars, [paid], as_of=NEVER, dividends=True).close[0] == pytest.approx(98.0)

    def test_a_spin_off_moves_prices_and_no_volume(self) -> None:
        got = adjust(daily([32.6, 28.8]), [action(1, 1.1327, ActionKind.SPIN_OFF)], as_of=NEVER)
        assert (got.close[0], got.volume[0]) == (pytest.approx(32.6 / 1.1327), 1000.0)

    def test_what_is_not_known_yet_adjusts_nothing(self) -> None:
        bars = daily([700.0, 700.0, 100.0])
        late = action(2, 7.0, known=(FIRST + 30) * US_PER_DAY)
        assert adjust(bars, [late], as_of=(FIRST + 29) * US_PER_DAY).close[0] == 700.0
        assert adjust(bars, [late], as_of=(FIRST + 30) * US_PER_DAY).close[0] == 100.0

    def test_an_announced_split_moves_no_price_before_its_day(self) -> None:
        bars = daily([700.0, 700.0, 100.0])
        announced = action(2, 7.0, known=FIRST * US_PER_DAY)
        assert adjust(bars, [announced], as_of=(FIRST + 2) * US_PER_DAY - 1).close.tolist() == [700.0, 700.0]
        assert adjust(bars, [announced], as_of=(FIRST + 2) * US_PER_DAY).close.tolist() == [100.0, 100.0]

    def test_an_unknown_factor_is_an_error_and_names_the_day(self) -> None:
        with pytest.raises(UnknownFactor, match="2014-06-03"):
            adjust(daily([700.0, 100.0]), [action(1, math.nan)], as_of=NEVER)
        before = (FIRST + 5) * US_PER_DAY - 1
        assert len(adjust(daily([700.0, 100.0]), [action(5, math.nan)], as_of=before)) == 2

    def test_an_action_of_another_symbol_is_refused(self) -> None:
        with pytest.raises(ValueError, match="MSFT"):
            adjust(daily([1.0]), [replace(action(0, 2.0), symbol="MSFT")], as_of=NEVER)

    @given(
        st.lists(st.integers(100, 90_000), min_size=4, max_size=30),
        st.lists(st.tuples(st.integers(0, 30), st.sampled_from(FACTORS)), max_size=4, unique_by=lambda x: x[0]),
        st.integers(-1, 31),
    )
    def test_it_is_prefix_invariant_in_as_of(self, cents: list[int], made: list[tuple[int, float]], day: int) -> None:
        bars = daily([c / 100 for c in cents])
        actions = [action(d, f) for d, f in made]
        as_of = (FIRST + day) * US_PER_DAY + 21 * 3_600_000_000
        whole, cut = adjust(bars, actions, as_of=as_of), adjust(bars.known_at(as_of), actions, as_of=as_of)
        assert whole.content_hash() == cut.content_hash()
        future = [a for a in actions if a.known_time > as_of]
        assert adjust(bars, [a for a in actions if a not in future], as_of=as_of).content_hash() == whole.content_hash()

    @given(st.lists(st.integers(100, 90_000), min_size=3, max_size=20), st.sampled_from([7.0, 4.0, 49.0, 1.5, 3.0, 20.0]))
    def test_split_then_reverse_split_is_the_identity_on_the_tick_grid(self, cents: list[int], factor: float) -> None:
        stock = Instrument("AAPL", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "x", "x", Timeframe.D1)
        bars = daily([c / 100 for c in cents])
        there_and_back = [action(1, factor), action(2, 1.0 / factor)]
        got = adjust(bars, there_and_back, as_of=NEVER)
        assert np.array_equal(on_grid(got.close, stock)[0:1], on_grid(bars.close, stock)[0:1])
        assert np.array_equal(got.volume[0:1], bars.volume[0:1])
        assert got.close[2:].tolist() == bars.close[2:].tolist()

    @given(
        st.lists(st.integers(1000, 90_000), min_size=3, max_size=30),
        st.lists(st.tuples(st.integers(1, 29), st.sampled_from(FACTORS)), max_size=4, unique_by=lambda x: x[0]),
    )
    def test_adjusted_returns_equal_raw_ones_but_at_ex_dates(self, cents: list[int], made: list[tuple[int, float]]) -> None:
        bars = daily([c / 100 for c in cents])
        got = adjust(bars, [action(d, f) for d, f in made], as_of=NEVER)
        factors = dict(made)
        for i in range(1, len(bars)):
            raw, adjusted = bars.close[i] / bars.close[i - 1], got.close[i] / got.close[i - 1]
            assert adjusted == pytest.approx(raw * factors.get(i, 1.0), rel=1e-12)

    def test_factors_are_the_fractions_they_mean(self) -> None:
        assert [str(exact_factor(f)) for f in (7.0, 0.05, 1 / 3, 1.5)] == ["7", "1/20", "1/3", "3/2"]


class TestJumps:
    def test_a_known_split_explains_its_jump_and_no_other(self) -> None:
        bars = daily([700.0, 702.0, 100.0, 50.0])
        session, before, opened = steps(bars)
        assert explained_jumps(session, before, opened, [action(2, 7.0)]).tolist() == [False, True, False]
        assert [(s - FIRST, f) for s, f in unexplained_splits(session, before, opened, [action(2, 7.0)])] == [(3, 2.0)]

    def test_a_missing_ex_session_moves_the_jump_to_the_next_bar(self) -> None:
        bars = daily([700.0, 702.0, 100.0, 101.0])
        bars = bars.rows(bars.session != FIRST + 2)
        assert explained_jumps(*steps(bars), [action(2, 7.0)]).tolist() == [False, True]

    def test_the_wrong_factor_explains_nothing(self) -> None:
        bars = daily([700.0, 100.0])
        for factor in (2.0, 1 / 7, math.nan, 1.0):
            assert not explained_jumps(*steps(bars), [action(1, factor)]).any(), factor

    def test_only_the_first_minute_of_the_session_is_explained(self) -> None:
        session = np.array([1, 1, 2, 2], np.int32) + FIRST
        close, opened = np.array([700.0, 700.0, 700.0, 100.0]), np.array([700.0, 700.0, 100.0, 100.0])
        assert explained_jumps(session, close, opened, [action(2, 7.0)]).tolist() == [False, False, True, False]

    def test_customary_ratios_look_like_splits_and_a_crash_between_them_does_not(self) -> None:
        before = np.array([700.0, 100.0, 100.0, 5.0, 100.0, 0.0, np.nan])
        opened = np.array([100.0, 80.0, 58.0, 100.0, 50.5, 1.0, 1.0])
        looks = split_like(before, opened)
        assert looks[[0, 3, 4]].tolist() == [7.0, 0.05, 2.0]
        assert np.isnan(looks[[1, 2, 5, 6]]).all()


class TestIdentity:
    def test_data_outside_the_spans_is_another_companys(self) -> None:
        known = Identity("wm", (TickerSpan("uw", 1, 10), TickerSpan("wmi", 11, 20), TickerSpan("wm", 21, 99)))
        assert [known.ticker(n) for n in (0, 1, 15, 21, 100)] == [None, "uw", "wmi", "wm", None]
        assert known.within(np.array([5, 21, 30], np.int32), "wm").tolist() == [False, True, True]

    def test_overlapping_spans_are_no_identity(self) -> None:
        with pytest.raises(ValueError, match="overlaps"):
            Identity("x", (TickerSpan("a", 1, 10), TickerSpan("b", 10, 20)))

    @pytest.mark.parametrize(("factor", "amount"), [(0.0, 0.0), (-1.0, 0.0), (math.inf, 0.0), (1.0, math.nan)])
    def test_numbers_that_mean_nothing_are_refused(self, factor: float, amount: float) -> None:
        with pytest.raises(ValueError, match="AAPL on 2014-06-03"):
            action(1, factor, amount=amount)

    def test_the_same_action_from_two_sources_has_one_id(self) -> None:
        assert replace(action(1, 7.0), source="a", known_time=1).id == replace(action(1, 6.9), source="b").id


# ---- on real files -----------------------------------------------------------------------------------------------


@pytest.fixture
def lean() -> LeanFeed:
    return LeanFeed(lean_data())


def stock(ticker: str) -> Instrument:
    return Instrument(
        ticker.upper(), AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "lean", f"equity/usa/{ticker}", Timeframe.D1
    )


@pytest.mark.parametrize(
    ("ticker", "day", "kind", "factor", "other"),
    [
        ("aapl", date(2014, 6, 9), "split", 7.0, ""),
        ("aapl", date(2020, 8, 31), "split", 4.0, ""),
        ("aig", date(2009, 7, 1), "split", 0.05, ""),
        ("uso", date(2020, 4, 29), "split", 0.125, ""),
        ("googl", date(2014, 4, 3), "split", 2.0, ""),
        ("googl", date(2014, 4, 3), "symbol_change", 1.0, "GOOG"),
        ("goog", date(2014, 4, 3), "symbol_change", 1.0, "GOOCV"),
        ("goog", date(2015, 4, 27), "split", pytest.approx(1.0027, abs=1e-4), ""),
        ("tfcfa", date(2013, 7, 1), "symbol_change", 1.0, "NWSA"),
        ("tfcfa", date(2013, 7, 1), "spin_off", pytest.approx(1.1327, abs=1e-4), ""),
        ("tfcfa", date(2019, 3, 21), "delisting", 1.0, ""),
        ("wm", date(2009, 8, 5), "symbol_change", 1.0, "WMI"),
        ("twx", date(2009, 3, 30), "split", pytest.approx(1 / 3, rel=1e-9), ""),
    ],
)
def test_the_factor_and_map_files_tell_what_happened(
    lean: LeanFeed, ticker: str, day: date, kind: str, factor: float, other: str
) -> None:
    found = [a for a in lean.actions(stock(ticker)) if session_date(a.ex_session) == day and str(a.kind) == kind]
    assert [(a.factor, a.other_symbol) for a in found] == [(factor, other)]
    assert found[0].known_time == calendar("XNYS").bounds(day)[0]


@pytest.mark.parametrize("ticker", ["aapl", "aig", "goog", "googl", "fb", "wm", "uso"])
def test_every_split_like_step_of_the_real_prices_is_explained_but_real_crashes(lean: LeanFeed, ticker: str) -> None:
    bars = lean.history(stock(ticker), Timeframe.D1, date(1998, 1, 1), date(2021, 3, 31))
    left = {session_date(s).isoformat() for s, _ in unexplained_splits(*steps(bars), lean.actions(stock(ticker)))}
    # Warnings of Apple and Waste Management, and AIG's rescue: the market's own steps, for an operator to dismiss.
    crashes = {
        "aapl": {"2000-09-29"}, "wm": {"1999-07-07"}, "aig": {"2008-09-16", "2008-09-17", "2009-03-19"},
    }  # fmt: skip
    assert left == crashes.get(ticker, set()), "a step without an action"


def test_adjusted_apple_is_one_series_of_2020_dollars(lean: LeanFeed) -> None:
    apple = stock("aapl")
    bars = lean.history(apple, Timeframe.D1, date(2014, 6, 2), date(2020, 12, 31))
    actions = lean.actions(apple)
    now = adjust(bars, actions, as_of=NEVER)
    assert now.close[0] == pytest.approx(float(bars.close[0]) / 28)
    assert np.max(np.abs(np.diff(np.log(now.close)))) < 0.15
    in_2015 = adjust(bars, actions, as_of=session_number(date(2015, 1, 1)) * US_PER_DAY)
    assert in_2015.close[0] == pytest.approx(float(bars.close[0]) / 7)
    assert session_date(int(in_2015.session[-1])) == date(2014, 12, 31)
    jumps = explained_jumps(*steps(bars), actions)
    assert [session_date(int(s)) for s in steps(bars)[0][jumps] if s] >= [date(2014, 6, 9)]


# ---- strategies and plans across a split ---------------------------------------------------------------------------


def plan_of(close: str, level: float, stop: float) -> object:
    from tests.trading.samples import universe
    from trading.plans import parse_plan

    text = (
        f"name: idea\nsymbol: AAPL\nuniverse: sample\ndirection: long\ntimeframe: 1d\nstatus: active\nmode: paper\n"
        f"valid: {{from: 2014-06-01, to: 2014-06-30}}\nentry: {{kind: {close}, level: {level}}}\nstop: {stop}\n"
        "sizing: {kind: fixed, quantity: 10}\ngates: {min_reward_to_risk: 0, quality_sessions: 1, valid_bars: 1}\n"
    )
    plan, problems = parse_plan(text, "idea.yaml", universe())
    assert plan is not None, problems
    return plan


def test_a_plan_written_before_a_split_keeps_its_meaning_after_it() -> None:
    from tests.trading.samples import universe

    instrument = universe().instruments["AAPL"]
    split_at = SplitAt(FIRST + 3, 7.0)
    plan = plan_of("close_above", 707.0, 630.0)
    raw = daily([700.0, 701.0, 702.0, 100.5, 101.0, 102.0])
    wrapped = across_splits(plan, {"AAPL": [split_at]}, {"AAPL": [split_at]})  # type: ignore[arg-type]
    got = wrapped.evaluate({Timeframe.D1: raw}, instrument)
    assert got.enter_long.tolist() == [False, False, False, False, False, True]  # 102 x 7 = 714 is above 707
    assert got.stop_long[-1] == 90.0
    unwrapped = plan.evaluate({Timeframe.D1: raw}, instrument)  # type: ignore[attr-defined]
    assert not unwrapped.enter_long.any()


def test_a_strategys_window_shows_no_step_at_a_split() -> None:
    class Seen:
        name, symbols, timeframe, revision = "s", ("AAPL",), Timeframe.D1, "r"
        windows: dict[Timeframe, Bars]

        def evaluate(self, bars: dict[Timeframe, Bars], instrument: Instrument) -> object:
            self.windows = bars
            n = len(bars[Timeframe.D1])
            from trading.evaluation import Evaluation

            no, level = np.zeros(n, bool), np.full(n, 90.004)
            return Evaluation(
                "AAPL", Timeframe.D1, bars[Timeframe.D1].close_time, no, no, no, no, no, level, level, level, level, level
            )

    seen = Seen()
    raw = daily([700.0, 707.0, 100.0, 101.0])
    stock_ = Instrument("AAPL", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "x", "x", Timeframe.D1)
    wrapped = across_splits(seen, {"AAPL": [SplitAt(FIRST + 2, 7.0)]})  # type: ignore[arg-type]
    got = wrapped.evaluate({Timeframe.D1: raw}, stock_)
    assert seen.windows[Timeframe.D1].close.tolist() == pytest.approx([100.0, 101.0, 100.0, 101.0])
    assert got.stop_long[-1] == 90.0
    assert across_splits(seen, {}) is seen  # type: ignore[arg-type, comparison-overlap]
