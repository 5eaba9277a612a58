"""Quality rules: what each catches, what it lets pass, and that history and live judge alike."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.feeds.lean import LeanFeed
from tests.paths import lean_data
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.instruments import AssetClass, Instrument
from trading.quality import ALL_CHECKS, ERROR_CHECKS, RuleResult, Thresholds, judge, judge_history, trailing_rows
from trading.resample import resample
from trading.timeframes import US_PER_MINUTE, Timeframe, session_number

XNYS = calendar("XNYS")
DAY = date(2014, 6, 6)
NUMBER = session_number(DAY)
LIMITS = Thresholds()
LEAN_LIMITS = Thresholds(jump_minimum=0.02, max_gap_share=0.05, max_gap_bars=5, stale_repeats=30, volume_ratio=500)


def stock(symbol: str = "X", timeframe: Timeframe = Timeframe.M1, **changes: object) -> Instrument:
    base = Instrument(
        symbol, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "lean", f"equity/usa/{symbol.lower()}", timeframe
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def made(cal: Calendar, start: date, end: date, timeframe: Timeframe = Timeframe.M1, seed: int = 0) -> Bars:
    """A calm, complete market."""
    step = timeframe.minutes * US_PER_MINUTE
    times, sessions = [], []
    for day in cal.sessions(start, end):
        opens, closes = cal.bounds(day)
        ends = np.minimum(np.arange(opens + step, closes + step, step), closes) if timeframe.intraday else np.array([closes])
        times.append(ends)
        sessions.append(np.full(len(ends), session_number(day), np.int32))
    t = np.concatenate(times)
    rng = np.random.default_rng(seed)
    c = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.0005, len(t)))), 4)
    o = np.concatenate([[100.0], c[:-1]])
    h, low = np.maximum(o, c) + 0.01, np.minimum(o, c) - 0.01
    return Bars("X", timeframe, t, np.concatenate(sessions), o, h, low, c, rng.integers(500, 1500, len(t)).astype(float))


def at(bars: Bars, row: int, **values: float) -> Bars:
    changed = {}
    for name, value in values.items():
        column = getattr(bars, name).copy()
        column[row] = value
        changed[name] = column
    return replace(bars, **changed)


@pytest.fixture(scope="module")
def calm() -> Bars:
    return made(XNYS, date(2014, 6, 4), date(2014, 6, 9))


def session_of(bars: Bars, number: int = NUMBER) -> tuple[Bars, Bars]:
    """(the session's bars, those before)."""
    first = int(np.searchsorted(bars.session, number))
    return bars.rows(bars.session == number), bars.rows(slice(0, first))


def verdict(bars: Bars, known_until: int | None = None, limits: Thresholds = LIMITS) -> dict[str, RuleResult]:
    mine, before = session_of(bars)
    results = judge(mine, before, stock(), XNYS, limits, known_until=known_until)
    assert tuple(r.check for r in results) == ALL_CHECKS
    return {r.check: r for r in results}


def failed(results: dict[str, RuleResult]) -> list[str]:
    return [check for check, r in results.items() if not r.passed]


def test_a_calm_complete_session_passes_every_rule(calm: Bars) -> None:
    assert failed(verdict(calm)) == []


ROW = 390 * 2 + 100  # a row of DAY
CASES = {
    "ohlc_consistent": {"low": 100.5, "high": 99.5},
    "columns_and_types": {"volume": -1.0},
    "jump": {"high": 150.0},
    "volume_sane": {"volume": 1e6},
}


@pytest.mark.parametrize("check", CASES)
def test_one_bad_bar_fails_its_rule_and_names_its_row(calm: Bars, check: str) -> None:
    results = verdict(at(calm, ROW, **CASES[check]))
    assert check in failed(results)
    assert results[check].failed_rows == (100,)
    assert "2014-06-06T15:11:00Z" in results[check].message
    assert results[check].severity == ("error" if check in ERROR_CHECKS else "warn")


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_price_not_above_zero(calm: Bars, value: float) -> None:
    assert "positive_prices" in failed(verdict(at(calm, ROW, low=value)))


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite(calm: Bars, column: str, value: float) -> None:
    results = verdict(at(calm, ROW, **{column: value}))
    assert results["columns_and_types"].failed_rows == (100,)


def test_columns_of_a_wrong_type(calm: Bars) -> None:
    mine, before = session_of(calm)
    narrow = replace(mine, close=mine.close.astype(np.float32))
    for trailing in (before, Bars.empty("X", Timeframe.M1)):
        results = {r.check: r for r in judge(narrow, trailing, stock(), XNYS, LIMITS)}
        assert len(results["columns_and_types"].failed_rows) == 390


def test_repeated_and_reversed_times(calm: Bars) -> None:
    twice = calm.close_time.copy()
    twice[ROW] = twice[ROW - 1]
    results = verdict(replace(calm, close_time=twice))
    assert results["monotonic_unique_times"].failed_rows == (100,)
    assert not results["no_gaps"].passed


def test_a_close_off_the_session_grid_or_outside_it(calm: Bars) -> None:
    for shift in (1, 400 * US_PER_MINUTE):
        moved = calm.close_time.copy()
        moved[390 * 3 - 1] += shift
        assert verdict(replace(calm, close_time=moved))["within_session"].failed_rows == (389,)
    holiday = replace(calm, session=np.full(len(calm), session_number(date(2014, 6, 7)), np.int32))
    results = judge(holiday.rows(slice(0, 5)), Bars.empty("X", Timeframe.M1), stock(), XNYS, LIMITS)
    assert {r.check for r in results if not r.passed} == {"within_session"}


def test_missing_minutes_are_counted_and_located(calm: Bars) -> None:
    keep = np.ones(len(calm), bool)
    keep[[ROW, ROW + 1, ROW + 5, 390 * 3 - 1]] = False
    result = verdict(calm.rows(keep))["no_gaps"]
    assert result.failed_rows == (100, 103, 385)
    assert "4 of 390 bars missing, longest run 2, first one due 2014-06-06T15:11:00Z" in result.message
    assert verdict(calm.rows(keep), limits=replace(LIMITS, max_gap_share=0.02, max_gap_bars=2))["no_gaps"].passed
    assert not verdict(calm.rows(keep), limits=replace(LIMITS, max_gap_share=0.02, max_gap_bars=1))["no_gaps"].passed
    assert not verdict(calm.rows(keep), limits=replace(LIMITS, max_gap_share=0.01, max_gap_bars=9))["no_gaps"].passed


def test_a_forming_session_misses_only_what_is_due(calm: Bars) -> None:
    mine, before = session_of(calm)
    forming = mine.rows(slice(0, 100))
    now = int(forming.close_time[-1])

    def gaps(bars: Bars, known_until: int) -> bool:
        return next(r for r in judge(bars, before, stock(), XNYS, LIMITS, known_until=known_until) if r.check == "no_gaps").passed

    assert gaps(forming, now)
    assert gaps(forming, now + US_PER_MINUTE - 1)
    assert not gaps(forming, now + US_PER_MINUTE)
    assert not gaps(forming.rows(slice(0, 99)), now)


def test_a_session_without_bars_fails_when_it_should_have_some(calm: Bars) -> None:
    _, before = session_of(calm)
    nothing = Bars.empty("X", Timeframe.M1)
    results = judge(nothing, before, stock(), XNYS, LIMITS, session=NUMBER)
    assert [r.check for r in results if not r.passed] == ["no_gaps"]
    results = judge(nothing, before, stock(), XNYS, LIMITS, session=NUMBER, known_until=XNYS.bounds(DAY)[0])
    assert all(r.passed for r in results)
    with pytest.raises(ValueError, match="no session"):
        judge(nothing, before, stock(), XNYS, LIMITS)


def test_thin_forex_days_are_not_gaps_but_others_are() -> None:
    fx = calendar("FX")
    bars = made(fx, date(2017, 12, 18), date(2017, 12, 29), Timeframe.H1)
    pair = stock(timeframe=Timeframe.H1, asset_class=AssetClass.FOREX, calendar="FX")
    keep = np.ones(len(bars), bool)
    for day in (date(2017, 12, 25), date(2017, 12, 20)):
        keep[np.flatnonzero(bars.session == session_number(day))[5:9]] = False
    results = judge_history(bars.rows(keep), pair, fx, LIMITS)
    assert [s for s, rs in results.items() if not all(r.passed for r in rs)] == [session_number(date(2017, 12, 20))]


def test_an_opening_gap_is_judged_by_the_volatility_of_a_session_not_of_a_minute(calm: Bars) -> None:
    def gapped(factor: float) -> Bars:
        scale = np.where(calm.session >= NUMBER, factor, 1.0)
        return replace(calm, **{c: getattr(calm, c) * scale for c in ("open", "high", "low", "close")})

    assert verdict(gapped(1.05))["jump"].passed
    assert verdict(gapped(0.5))["jump"].failed_rows == (0,)


def test_a_jump_before_anything_is_known_of_volatility() -> None:
    bars = made(XNYS, DAY, DAY).rows(slice(0, 10))
    results = {r.check: r for r in judge(at(bars, 5, close=60.0, low=60.0), Bars.empty("X", Timeframe.M1), stock(), XNYS, LIMITS)}
    assert results["jump"].failed_rows == (5, 6)


def test_the_tenth_identical_bar_is_stale(calm: Bars) -> None:
    same = {c: getattr(calm, c).copy() for c in ("open", "high", "low", "close")}
    for column in same.values():
        column[ROW : ROW + 10] = column[ROW]
    assert verdict(replace(calm, **same))["stale_repeat"].failed_rows == (109,)


def test_no_volume_rule_where_there_is_no_volume(calm: Bars) -> None:
    mine, before = session_of(at(calm, ROW, volume=1e9))
    assert all(r.passed for r in judge(mine, before, stock(has_volume=False), XNYS, LIMITS))


def test_thresholds_may_be_any_object_and_differ_by_asset_class(calm: Bars) -> None:
    values = SimpleNamespace(jump_sigmas=12, jump_window=50, stale_repeats=10, volume_ratio=50, max_gap_share=0.0)
    strict = SimpleNamespace(
        of=lambda asset_class, timeframe: SimpleNamespace(**{**vars(values), "jump_sigmas": 0.001, "jump_minimum": 0.0})
    )
    mine, before = session_of(calm)
    assert all(r.passed for r in judge(mine, before, stock(), XNYS, values))
    assert not all(r.passed for r in judge(mine, before, stock(), XNYS, strict))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    timeframe=st.sampled_from([Timeframe.M30, Timeframe.H1, Timeframe.D1, Timeframe.W1]),
    window=st.integers(10, 40),
)
def test_history_and_live_judge_alike(seed: int, timeframe: Timeframe, window: int) -> None:
    """Random damage; each session judged with just the trailing rows it needs equals the verdict of the whole history."""
    rng = np.random.default_rng(seed)
    limits = Thresholds(jump_window=window, volume_window=window // 2, stale_repeats=4, volume_ratio=3, jump_sigmas=4)
    bars = made(XNYS, date(2015, 11, 2), date(2016, 1, 15), Timeframe.M30 if timeframe.intraday else Timeframe.D1, seed)
    bars = resample(bars, timeframe, XNYS)
    bars = bars.rows(rng.random(len(bars)) > 0.05)
    for name in ("open", "high", "low", "close", "volume"):
        for value in (np.nan, 0.0, 200.0, -1.0):
            bars = at(bars, int(rng.integers(len(bars))), **{name: value})
    history = judge_history(bars, stock(timeframe=timeframe), XNYS, limits)
    assert list(history) == sorted({int(s) for s in bars.session})
    for number, expected in history.items():
        first = int(np.searchsorted(bars.session, number))
        trailing = bars.rows(slice(max(0, first - trailing_rows(limits)), first))
        live = judge(bars.rows(bars.session == number), trailing, stock(timeframe=timeframe), XNYS, limits)
        assert live == expected


def test_the_trailing_rows_asked_for_are_all_that_matters() -> None:
    """At the very threshold where a row's verdict flips, live and history still agree."""
    bars = made(XNYS, date(2015, 1, 2), date(2016, 6, 30), Timeframe.D1)
    instrument = stock(timeframe=Timeframe.D1)

    def jumped(row: int, sigmas: float, *, live: bool) -> bool:
        limits = Thresholds(jump_window=60, volume_window=10, jump_sigmas=sigmas, jump_minimum=0.0)
        number = int(bars.session[row])
        if live:
            trailing = bars.rows(slice(row - trailing_rows(limits), row))
            results = judge(bars.rows(slice(row, row + 1)), trailing, instrument, XNYS, limits)
        else:
            results = judge_history(bars, instrument, XNYS, limits, sessions=[number])[number]
        return not next(r for r in results if r.check == "jump").passed

    for row in (200, 300):
        low, high = 0.0, 50.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if jumped(row, middle, live=False) else (low, middle)
        assert jumped(row, low - 1e-9, live=True)
        assert not jumped(row, high + 1e-9, live=True)


def test_sessions_without_bars_are_judged_when_asked() -> None:
    bars = made(XNYS, date(2014, 6, 2), date(2014, 6, 30), Timeframe.D1)
    hole = bars.rows(bars.session != NUMBER)
    asked = [session_number(d) for d in XNYS.sessions(date(2014, 6, 2), date(2014, 6, 30))]
    results = judge_history(hole, stock(timeframe=Timeframe.D1), XNYS, LIMITS, sessions=asked)
    assert [s for s in asked if not all(r.passed for r in results[s])] == [NUMBER]


# ---- real data ---------------------------------------------------------------------------------------------------


def lean_verdicts(symbol: str, start: date, end: date) -> dict[date, list[str]]:
    instrument = stock(symbol)
    bars = LeanFeed(lean_data()).history(instrument, Timeframe.M1, start, end)
    found = judge_history(bars, instrument, XNYS, LEAN_LIMITS)
    return {date.fromordinal(719163 + s): [r.check for r in rs if not r.passed] for s, rs in found.items()}


def test_the_seven_for_one_split_of_apple_is_a_jump() -> None:
    assert lean_verdicts("AAPL", date(2014, 6, 5), date(2014, 6, 9)) == {
        date(2014, 6, 5): [],
        date(2014, 6, 6): [],
        date(2014, 6, 9): ["jump"],
    }


def test_googles_half_day_is_complete_with_210_minutes() -> None:
    found = lean_verdicts("GOOG", date(2015, 12, 23), date(2015, 12, 28))
    assert found == {date(2015, 12, 23): [], date(2015, 12, 24): [], date(2015, 12, 28): []}


def test_a_day_that_breaks_off_and_thinly_traded_days_are_gaps() -> None:
    assert lean_verdicts("TWX", date(2014, 6, 5), date(2014, 6, 23))[date(2014, 6, 23)] == ["no_gaps"]
    assert lean_verdicts("SHY", date(2008, 3, 7), date(2008, 3, 10)) == {
        date(2008, 3, 7): ["no_gaps"],
        date(2008, 3, 10): ["no_gaps"],
    }


@pytest.mark.parametrize("symbol", ["AIG", "BAC", "IBM"])
def test_six_ordinary_sessions_pass(symbol: str) -> None:
    assert all(checks == [] for checks in lean_verdicts(symbol, date(2013, 10, 4), date(2013, 10, 11)).values())
