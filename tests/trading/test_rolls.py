"""Rolls: decided by what was known the day before, forward only, and taken out of a series point-in-time."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import UnknownFactor, adjust
from trading.instruments import ExpiryRule, RollRule
from trading.rolls import (
    Contract,
    ContractDay,
    NoExpiryRule,
    Roll,
    RollAdjust,
    RollTable,
    back_adjusted,
    expiry_session,
    roll_actions,
    roll_table,
)
from trading.timeframes import Timeframe, session_date, session_number

CME = calendar("CMES")
DAYS = [session_number(d) for d in CME.sessions(date(2013, 12, 2), date(2013, 12, 31))]
DEC, MAR = Contract("201312", session_number(date(2013, 12, 20))), Contract("201403", session_number(date(2014, 3, 21)))


def days(volumes: list[tuple[float, float]], interest: list[tuple[float, float]] | None = None) -> list[ContractDay]:
    found = []
    for i, (session, (old, new)) in enumerate(zip(DAYS, volumes, strict=False)):
        held = interest[i] if interest else (math.nan, math.nan)
        found += [
            ContractDay("201312", session, 1800.0 + i, old, held[0]),
            ContractDay("201403", session, 1794.0 + i, new, held[1]),
        ]
    return found


@pytest.mark.parametrize(
    ("root", "month", "rule", "day"),
    [
        ("ES", "201312", None, date(2013, 12, 20)),
        ("ES", "200804", ExpiryRule.THIRD_FRIDAY, date(2008, 4, 18)),
        ("GC", "201312", None, date(2013, 12, 27)),
        ("NIFTY", "201901", None, date(2019, 1, 31)),
        ("X", "201402", ExpiryRule.LAST_BUSINESS_DAY, date(2014, 2, 28)),
    ],
)
def test_the_last_day_follows_from_the_contract_month(root: str, month: str, rule: ExpiryRule | None, day: date) -> None:
    venue = calendar("XBOM") if root == "NIFTY" else CME
    assert session_date(expiry_session(root, month, venue, rule)) == day


def test_a_third_friday_that_is_a_holiday_ends_on_the_session_before() -> None:
    assert session_date(expiry_session("ES", "200803", calendar("XNYS"))) == date(2008, 3, 20)  # Good Friday


def test_an_unknown_root_is_not_guessed() -> None:
    with pytest.raises(NoExpiryRule, match="ZC"):
        expiry_session("ZC", "201312", CME)


def test_volume_of_a_session_decides_from_the_next_one_on() -> None:
    table = roll_table("ES", [DEC, MAR], days([(9, 1)] * 5 + [(3, 4)] * 3), CME, RollRule.VOLUME)
    (roll,) = [r for r in table.rolls if r.session <= DAYS[10]]
    assert (roll.session, roll.decided) == (DAYS[6], DAYS[5])
    assert (roll.old_close, roll.new_close) == (1805.0, 1799.0)
    assert (roll.difference, roll.factor) == (-6.0, pytest.approx(1805 / 1799))


def test_a_roll_never_goes_back() -> None:
    table = roll_table("ES", [DEC, MAR], days([(9, 1)] * 3 + [(1, 9)] + [(9, 1)] * 6), CME, RollRule.VOLUME)
    assert [(r.old, r.new) for r in table.rolls if r.session <= DAYS[12]] == [("201312", "201403")]


def test_open_interest_told_after_the_session_decides_from_the_next_one_on() -> None:
    held = [(9.0, 1.0)] * 4 + [(4.0, 5.0)] * 4
    table = roll_table("ES", [DEC, MAR], days([(9, 1)] * 8, held), CME, RollRule.OPEN_INTEREST)
    assert table.rolls[0].session == DAYS[5]


@pytest.mark.parametrize(("before", "first"), [(0, date(2013, 12, 23)), (1, date(2013, 12, 20)), (3, date(2013, 12, 18))])
def test_by_the_calendar_it_rolls_so_many_sessions_before_expiry(before: int, first: date) -> None:
    table = roll_table("ES", [DEC, MAR], days([(9, 1)] * 16), CME, RollRule.CALENDAR, roll_days=before)
    assert session_date(table.rolls[0].session) == first


def test_an_expiring_contract_is_left_even_when_it_still_trades_more() -> None:
    table = roll_table("ES", [DEC, MAR], days([(9, 1)] * 16), CME, RollRule.VOLUME, roll_days=1)
    assert session_date(table.rolls[0].session) == date(2013, 12, 20)


def test_there_is_no_front_before_the_first_figures_are_known() -> None:
    table = roll_table("ES", [DEC, MAR], days([(9, 1)] * 4), CME, RollRule.VOLUME)
    assert (table.contract(DAYS[0]), table.contract(DAYS[1])) == ("", "201312")
    assert table.segments(DAYS[0], DAYS[3]) == [("201312", DAYS[1], DAYS[3])]


def test_closes_from_long_before_the_roll_are_no_closes() -> None:
    told = [*days([(9, 1)] * 3), ContractDay("201403", DAYS[14], 1850.0, 5.0)]
    table = roll_table("ES", [DEC, MAR], told, CME, RollRule.VOLUME)
    assert math.isnan(table.rolls[0].factor)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12), st.integers(1, 12))
def test_the_front_of_a_session_does_not_depend_on_what_came_later(volumes: list[tuple[int, int]], cut: int) -> None:
    figures = [(float(a), float(b)) for a, b in volumes]
    whole = roll_table("ES", [DEC, MAR], days(figures), CME, RollRule.VOLUME)
    known = roll_table("ES", [DEC, MAR], days(figures[:cut]), CME, RollRule.VOLUME)
    for session in DAYS[: min(cut, len(figures)) + 1]:
        if session <= DAYS[min(cut, len(figures))]:
            assert known.contract(session) == whole.contract(session)


# ---- the series ---------------------------------------------------------------------------------------------------


def series(closes: list[float]) -> Bars:
    session = np.array(DAYS[: len(closes)], np.int32)
    close = np.array(closes)
    time = np.array([CME.bounds(int(s))[1] for s in session], np.int64)
    return Bars("ES", Timeframe.D1, time, session, close, close + 1, close - 1, close, np.full(len(closes), 5.0))


ROLL = Roll(DAYS[2], "201312", "201403", DAYS[1], 1801.0, 1795.0, "volume")
NEVER = 2**62


def test_by_difference_the_steps_stay_and_by_ratio_the_returns() -> None:
    raw = series([1800.0, 1801.0, 1796.0, 1797.0])
    by_difference = back_adjusted(raw, [ROLL], as_of=NEVER, method=RollAdjust.DIFFERENCE, venue=CME)
    assert by_difference.close.tolist() == [1794.0, 1795.0, 1796.0, 1797.0]
    by_ratio = back_adjusted(raw, [ROLL], as_of=NEVER, method=RollAdjust.RATIO, venue=CME)
    assert by_ratio.close[1] / by_ratio.close[0] == pytest.approx(1801 / 1800)
    assert by_ratio.close[2] / by_ratio.close[1] == pytest.approx(1796 / 1795)
    assert back_adjusted(raw, [ROLL], as_of=NEVER, method=RollAdjust.RAW, venue=CME) is not None
    assert np.array_equal(by_ratio.volume, raw.volume)


def test_before_the_roll_is_known_the_series_is_raw() -> None:
    raw = series([1800.0, 1801.0, 1796.0])
    as_of = CME.bounds(DAYS[2])[0] - 1
    got = back_adjusted(raw, [ROLL], as_of=as_of, method=RollAdjust.DIFFERENCE, venue=CME)
    assert got.close.tolist() == [1800.0]  # the bar before closes as the roll's session opens


def test_a_roll_without_closes_is_not_adjusted_across() -> None:
    blind = Roll(DAYS[2], "201312", "201403", DAYS[1], math.nan, 1795.0, "")
    with pytest.raises(UnknownFactor, match="201312"):
        back_adjusted(series([1.0, 2.0, 3.0]), [blind], as_of=NEVER, method=RollAdjust.RATIO, venue=CME)


def test_as_actions_they_adjust_by_ratio() -> None:
    table = RollTable("ES", DAYS[0], "201312", (ROLL,))
    raw = series([1800.0, 1801.0, 1796.0])
    (action,) = roll_actions("ES", table, CME, "test")
    assert (action.amount, action.other_symbol) == (-6.0, "ES 201403")
    by_ratio = back_adjusted(raw, [ROLL], as_of=NEVER, method=RollAdjust.RATIO, venue=CME)
    assert adjust(raw, [action], as_of=NEVER).close.tolist() == pytest.approx(by_ratio.close.tolist())
