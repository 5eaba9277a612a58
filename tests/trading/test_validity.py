"""Screening: every row of a source is either valid or handed out with its reasons; none is lost, none is changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.test_quality import at, made
from trading.calendars import calendar
from trading.quality import VALIDITY_CHECKS
from trading.timeframes import Timeframe
from trading.validity import merged, screen

XNYS = calendar("XNYS")
CALM = made(XNYS, date(2014, 6, 5), date(2014, 6, 6), Timeframe.M5)


def reasons(bars: object) -> list[tuple[str, ...]]:
    return [r.reasons for r in screen(bars, XNYS)[1]]  # type: ignore[arg-type]


def test_valid_bars_pass_untouched() -> None:
    valid, aside = screen(CALM, XNYS)
    assert valid is CALM
    assert aside == []


def test_each_fault_is_named_and_the_values_are_kept_as_they_came() -> None:
    assert reasons(at(CALM, 5, low=200.0)) == [("ohlc_consistent",)]
    assert reasons(at(CALM, 5, low=-1.0)) == [("positive_prices",)]
    assert reasons(at(CALM, 5, volume=-1.0)) == [("columns_and_types",)]
    (row,) = screen(at(CALM, 5, close=np.nan, high=np.inf), XNYS)[1]
    assert dict(row.values)["close"] == "nan"
    assert dict(row.values)["high"] == "inf"
    assert np.isnan(row.floats()["close"])


def test_a_row_outside_its_session_is_put_aside_only_where_regular_hours_are_promised() -> None:
    late = at(CALM, len(CALM) - 1, close_time=int(CALM.close_time[-1]) + 60_000_000)
    late = replace(late, close_time=late.close_time.astype(np.int64))
    assert reasons(late) == [("within_session",)]
    assert screen(late, XNYS, regular_hours=False)[1] == []


def test_a_repeat_with_equal_values_is_put_aside_alone() -> None:
    doubled = CALM.rows(np.insert(np.arange(len(CALM)), 7, 7))
    valid, aside = screen(doubled, XNYS)
    assert valid.content_hash() == CALM.content_hash()
    assert [r.reasons for r in aside] == [("monotonic_unique_times",)]


def test_a_repeat_with_other_values_puts_both_aside() -> None:
    doubled = at(CALM.rows(np.insert(np.arange(len(CALM)), 7, 7)), 8, volume=7.0)
    valid, aside = screen(doubled, XNYS)
    assert len(valid) == len(CALM) - 1
    assert [(r.row, r.reasons) for r in aside] == [(7, ("monotonic_unique_times",)), (8, ("monotonic_unique_times",))]


def test_rows_out_of_order_are_put_aside() -> None:
    order = np.arange(len(CALM))
    order[[3, 4]] = [4, 3]
    valid, aside = screen(CALM.rows(order), XNYS)
    assert [r.close_time for r in aside] == [int(CALM.close_time[3])]
    assert bool((np.diff(valid.close_time) > 0).all())


def test_the_same_row_has_the_same_id_and_another_value_another() -> None:
    (first,) = screen(at(CALM, 5, low=200.0), XNYS)[1]
    (again,) = screen(at(CALM, 5, low=200.0).rows(slice(2, None)), XNYS)[1]
    (other,) = screen(at(CALM, 5, low=201.0), XNYS)[1]
    ids = [r.id_of("f", "bars_5m", "X") for r in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert first.id_of("g", "bars_5m", "X") != ids[0]


_FAULTS = st.lists(
    st.tuples(
        st.integers(0, len(CALM) - 1),
        st.sampled_from(["open", "high", "low", "close", "volume"]),
        st.sampled_from([np.nan, np.inf, -1.0, 0.0, 1.0, 1e9]),
    ),
    max_size=6,
)


@given(_FAULTS, st.lists(st.integers(0, len(CALM) - 1), max_size=4), st.randoms(use_true_random=False))
def test_no_row_is_lost_and_what_is_left_is_valid(
    faults: list[tuple[int, str, float]], repeats: list[int], chance: object
) -> None:
    bars = CALM
    for row, column, value in faults:
        bars = at(bars, row, **{column: value})
    order = [*range(len(bars)), *repeats]
    chance.shuffle(order) if len(repeats) > 2 else order.sort()  # type: ignore[attr-defined]
    bars = bars.rows(np.array(order))
    valid, aside = screen(bars, XNYS)
    assert len(valid) + len(aside) == len(bars)
    assert len({r.row for r in aside}) == len(aside)
    assert all(r.reasons and set(r.reasons) <= set(VALIDITY_CHECKS) for r in aside)
    assert screen(valid, XNYS)[1] == []
    for r in aside:
        assert [repr(float(getattr(bars, n)[r.row])) for n, _ in r.values] == [v for _, v in r.values]


@given(st.sets(st.integers(0, len(CALM) - 1), max_size=8))
def test_rows_put_back_as_they_came_give_the_source_again(rows: set[int]) -> None:
    bars = CALM
    for row in rows:
        bars = at(bars, row, low=200.0)
    valid, aside = screen(bars, XNYS)
    assert merged(valid, {r.close_time: (r.session, r.floats()) for r in aside}).content_hash() == bars.content_hash()
