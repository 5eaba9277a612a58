"""Bar by bar gives what all bars at once give, bit for bit, whatever the order, the batches, corrections and restarts."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.trading.test_resample import full_sessions, in_decimals
from trading.aggregate import Aggregator, Kind, TooOld, Update
from trading.bars import Bars, concat
from trading.calendars import calendar
from trading.resample import forming_bar, resample
from trading.timeframes import Timeframe

T = Timeframe
TARGETS = (T.M3, T.M5, T.M15, T.M30, T.H1, T.H4, T.D1, T.W1)


@lru_cache(maxsize=8)
def week(name: str, decimals: bool) -> Bars:
    """Three sessions of one week, thinned to every second to third minute."""
    bars = full_sessions(calendar(name), date(2017, 7, 5), date(2017, 7, 7), seed=5)
    bars = bars.rows(np.random.default_rng(1).random(len(bars)) < (0.4 if len(bars) < 2000 else 0.1))
    return in_decimals(bars, 8, 1) if decimals else bars


def spoilt(bars: Bars, at: list[int]) -> Bars:
    """The bars at `at` as first told, before they were corrected."""
    return replace(bars.rows(np.array(at)), high=bars.high[at] + 1.0, volume=bars.volume[at] + 7.0)


def bits(bars: Bars) -> str:
    return bars.content_hash()


def applied(updates: list[Update], timeframe: Timeframe) -> Bars | None:
    """The bars a listener holds who replaces what is corrected."""
    held: dict[int, Bars] = {}
    for update in updates:
        if update.bars.timeframe is timeframe and update.kind is not Kind.FORMING:
            for i, end in enumerate(update.bars.close_time.tolist()):
                assert (end in held) == (update.kind is Kind.CORRECTED), "completed once, corrected only afterwards"
                held[end] = update.bars.rows(slice(i, i + 1))
    return concat(list(held.values())) if held else None


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(["XNYS", "FX", "XHKG"]),
    decimals=st.booleans(),
    size=st.integers(1, 300),
    disorder=st.sampled_from([0, 5, 10**6]),
    forming=st.booleans(),
)
def test_equals_the_batch_in_any_order_and_batches_with_late_and_corrected_bars(
    data: st.DataObject, name: str, decimals: bool, size: int, disorder: int, forming: bool
) -> None:
    cal, bars = calendar(name), week(name, decimals)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    order = np.argsort(np.arange(len(bars)) + rng.uniform(0, disorder, len(bars)) if disorder else np.arange(len(bars)))
    wrong = sorted(rng.choice(len(bars), 20, replace=False).tolist())
    live = Aggregator("X", T.M1, TARGETS, cal, forming=forming)
    updates: list[Update] = []
    told_wrong = set(rng.choice(wrong, 10, replace=False).tolist())
    for start in range(0, len(order), size):
        rows = np.sort(order[start : start + size])
        part = bars.rows(rows)
        first = [i for i, row in enumerate(rows.tolist()) if row in told_wrong]
        if first:  # told wrong, and corrected at the end
            high = part.high.copy()
            high[first] += 1.0
            part = replace(part, high=high)
        updates += live.add(part)
        if data.draw(st.integers(0, 9)) == 0:
            updates += live.add(part)  # told again
    updates += live.add(bars.rows(np.array(sorted(told_wrong))))
    for timeframe in TARGETS:
        batch = resample(bars, timeframe, cal)
        assert bits(live.bars(timeframe)) == bits(batch)
        got = applied(updates, timeframe)
        assert (bits(got) if got is not None else None) == (bits(batch) if len(batch) else None)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 400), seed=st.integers(0, 100), name=st.sampled_from(["XNYS", "XHKG"]))
@example(cut=1, seed=0, name="XNYS")
def test_a_restart_goes_on_where_it_was(cut: int, seed: int, name: str) -> None:
    cal, bars = calendar(name), week(name, True)
    before, after = bars.rows(slice(0, cut)), bars.rows(slice(cut, None))
    through = Aggregator("X", T.M1, TARGETS, cal)
    first = through.add(before)
    again = Aggregator("X", T.M1, TARGETS, cal)
    rebuilt = again.add(before)  # what the store holds
    assert [(u.kind, bits(u.bars)) for u in rebuilt] == [(u.kind, bits(u.bars)) for u in first]
    rows = np.random.default_rng(seed).integers(0, len(after), 30)
    for batch in (after.rows(slice(0, 40)), after.rows(np.sort(np.unique(rows))), after):
        one, other = through.add(batch), again.add(batch)
        assert [(u.kind, bits(u.bars)) for u in one] == [(u.kind, bits(u.bars)) for u in other]


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 10_000), timeframe=st.sampled_from(TARGETS))
def test_a_correction_changes_exactly_the_bars_that_contain_it(row: int, timeframe: Timeframe) -> None:
    cal, bars = calendar("XNYS"), week("XNYS", True)
    row %= len(bars)
    live = Aggregator("X", T.M1, [timeframe], cal)
    live.add(bars)
    updates = live.add(spoilt(bars, [row]))
    before = resample(bars, timeframe, cal)
    containing = before.rows(before.close_time >= bars.close_time[row]).rows(slice(0, 1))
    if len(containing) == 0:
        assert updates == []
        return
    (update,) = updates
    assert update.kind is Kind.CORRECTED
    assert update.bars.close_time.tolist() == containing.close_time.tolist()
    untouched = live.bars(timeframe).rows(before.close_time != containing.close_time[0])
    assert bits(untouched) == bits(before.rows(before.close_time != containing.close_time[0]))


def test_time_alone_completes_a_bar_whose_last_minute_never_came() -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2017, 7, 5), date(2017, 7, 5)).rows(slice(0, 3))
    live = Aggregator("X", T.M1, [T.M5], cal)
    assert live.add(bars) == []
    end = int(bars.close_time[0]) + 4 * 60_000_000
    (update,) = live.add(known_until=end)
    assert (update.kind, update.bars.close_time.tolist()) == (Kind.COMPLETED, [end])


def test_forming_bars_come_only_when_asked_for_and_are_marked() -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2017, 7, 5), date(2017, 7, 5)).rows(slice(0, 7))
    assert [u.kind for u in Aggregator("X", T.M1, [T.M5], cal).add(bars)] == [Kind.COMPLETED]
    updates = Aggregator("X", T.M1, [T.M5], cal, forming=True).add(bars)
    assert [u.kind for u in updates] == [Kind.COMPLETED, Kind.FORMING]
    expected = forming_bar(bars, T.M5, cal, known_until=int(bars.close_time[-1]))
    assert expected is not None
    assert bits(updates[1].bars) == bits(expected)
    assert int(updates[1].bars.close_time[0]) > int(bars.close_time[-1])


def test_a_new_week_completes_what_the_old_one_left_open_and_closes_it() -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2017, 7, 5), date(2017, 7, 11))
    keep = np.ones(len(bars), bool)
    keep[390 * 3 - 5 : 390 * 3] = False  # Friday's last minutes never came
    bars = bars.rows(keep)
    live = Aggregator("X", T.M1, TARGETS, cal)
    updates = [u for start in range(0, len(bars), 97) for u in live.add(bars.rows(slice(start, start + 97)))]
    for timeframe in TARGETS:
        got = applied(updates, timeframe)
        assert got is not None
        assert bits(got) == bits(resample(bars, timeframe, cal))
    with pytest.raises(TooOld, match="correct its partition"):
        live.add(bars.rows(slice(0, 1)))


def test_bars_that_do_not_say_their_turnover_make_it_unknown_for_the_week() -> None:
    cal, bars = calendar("XNYS"), week("XNYS", False)
    live = Aggregator("X", T.M1, [T.H1], cal)
    half = len(bars) // 2
    live.add(bars.rows(slice(0, half)))
    updates = live.add(replace(bars.rows(slice(half, None)), turnover=None))
    assert {u.kind for u in updates} == {Kind.COMPLETED, Kind.CORRECTED}
    assert bits(live.bars(T.H1)) == bits(resample(replace(bars, turnover=None), T.H1, cal))


def test_what_does_not_belong_is_refused_and_nothing_of_it_taken_in() -> None:
    cal, bars = calendar("XNYS"), week("XNYS", False)
    live = Aggregator("X", T.M1, [T.H1], cal)
    live.add(bars.rows(slice(0, 10)))
    outside = replace(bars, session=bars.session + 3)
    for wrong in (outside.rows(slice(20, 30)), Bars.empty("Y", T.M1), Bars.empty("X", T.M3)):
        if len(wrong):
            with pytest.raises(ValueError, match="not inside session"):
                live.add(wrong)
    with pytest.raises(ValueError, match="expected bars of X 1m"):
        live.add(replace(bars, symbol="Y"))
    assert bits(live.source_bars) == bits(bars.rows(slice(0, 10)))
    with pytest.raises(ValueError, match="cannot be made"):
        Aggregator("X", T.M3, [T.M5], cal)
