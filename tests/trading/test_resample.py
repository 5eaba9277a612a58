"""Higher timeframes: anchored at the session open, complete bars only, exact, and the way there does not matter."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trading.bars import Bars, quantise_turnover
from trading.calendars import Calendar, calendar
from trading.resample import bars_in_session, forming_bar, resample, session_ends
from trading.timeframes import US_PER_MINUTE, Timeframe, from_us, session_date, session_number

T = Timeframe
CHAINS = [T.M1, T.M5, T.M15, T.M30, T.H1, T.H4, T.D1, T.W1]


def full_sessions(cal: Calendar, start: date, end: date, timeframe: Timeframe = T.M1, seed: int = 0) -> Bars:
    """Every bar of the sessions, with random prices and whole volumes."""
    step = timeframe.minutes * US_PER_MINUTE
    times, sessions = [], []
    for day in cal.sessions(start, end):
        opens, closes = cal.bounds(day)
        ends = np.minimum(np.arange(opens + step, closes + step, step), closes)
        times.append(ends)
        sessions.append(np.full(len(ends), session_number(day), np.int32))
    t = np.concatenate(times)
    rng = np.random.default_rng(seed)
    body = 100 + np.cumsum(rng.normal(0, 0.1, (len(t), 2)), axis=0)
    o, c = body[:, 0], body[:, 1]
    h, low = np.maximum(o, c) + rng.random(len(t)), np.minimum(o, c) - rng.random(len(t))
    volume = rng.integers(0, 10_000, len(t)).astype(float)
    turnover = quantise_turnover((h + low) / 2 * volume)
    return Bars(
        "X",
        timeframe,
        t,
        np.concatenate(sessions),
        o,
        h,
        low,
        c,
        volume,
        turnover,
        rng.integers(0, 900, len(t)).astype(np.float64),
    )


def in_decimals(bars: Bars, places: int, seed: int) -> Bars:
    """The same bars with volumes of that many decimals, as crypto venues count them."""
    units = np.random.default_rng(seed).integers(0, 10**11, len(bars))
    return replace(bars, volume=np.array([float(Decimal(int(u)).scaleb(-places)) for u in units]))


@lru_cache(maxsize=4096)
def is_session(cal: Calendar, number: int) -> bool:
    return number in cal.number


def reference(bars: Bars, timeframe: Timeframe, cal: Calendar, known_until: int) -> list[tuple[float, ...]]:
    """The definition, bar by bar."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    step = timeframe.minutes * US_PER_MINUTE
    for i in range(len(bars)):
        session, t = int(bars.session[i]), int(bars.close_time[i])
        opens, closes = cal.bounds(session)
        pause = cal.breaks(session)
        if timeframe.intraday and pause is not None and t > pause[0]:
            key = (min(pause[1] + max(1, -(-(t - pause[1]) // step)) * step, closes), session)
        elif timeframe.intraday:
            key = (min(opens + -(-(t - opens) // step) * step, pause[0] if pause is not None else closes), session)
        elif timeframe is T.D1:
            key = (closes, session)
        else:
            week = session_date(session).isocalendar()[:2]
            later = [n for n in range(session, session + 7) if session_date(n).isocalendar()[:2] == week and is_session(cal, n)]
            last = max(later)
            key = (cal.bounds(last)[1], last)
        if t <= known_until:
            groups[key].append(i)
    return [
        (
            end, session, bars.open[rows[0]], max(bars.high[rows]), min(bars.low[rows]), bars.close[rows[-1]],
            *(float(sum(Decimal(repr(x)) for x in getattr(bars, name)[rows].tolist())) for name in ("volume", *bars.extras)),
        )
        for (end, session), rows in sorted(groups.items())
        if end <= known_until
    ]  # fmt: skip


def rows_of(bars: Bars) -> list[tuple[float, ...]]:
    names = ("close_time", "session", "open", "high", "low", "close", "volume", *bars.extras)
    return list(zip(*(getattr(bars, n).tolist() for n in names), strict=True))


@pytest.fixture(scope="module")
def christmas() -> Bars:
    """XNYS minutes around the half day 2015-12-24 and the holiday after it."""
    return full_sessions(calendar("XNYS"), date(2015, 12, 21), date(2015, 12, 30))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    holes=st.integers(0, 1500),
    cut=st.integers(1, 1600),
    timeframe=st.sampled_from([t for t in Timeframe if t is not T.M1]),
    name=st.sampled_from(["XNYS", "FX", "CRYPTO", "XHKG"]),
    places=st.sampled_from([0, 0, 2, 8]),
)
@example(seed=0, holes=900, cut=1600, timeframe=T.M5, name="XNYS", places=0)
@example(seed=1, holes=900, cut=1600, timeframe=T.W1, name="XNYS", places=8)
@example(seed=2, holes=0, cut=1600, timeframe=T.H1, name="XHKG", places=8)
def test_equals_the_definition(seed: int, holes: int, cut: int, timeframe: Timeframe, name: str, places: int) -> None:
    cal = calendar(name)
    bars = full_sessions(cal, date(2015, 12, 23), date(2015, 12, 28), seed=seed)
    if places:
        bars = in_decimals(bars, places, seed)
    keep = np.sort(np.random.default_rng(seed).permutation(len(bars))[holes:])
    bars = bars.rows(keep).rows(slice(0, cut))
    if len(bars) == 0:
        return
    known = int(bars.close_time[-1])
    assert rows_of(resample(bars, timeframe, cal)) == reference(bars, timeframe, cal, known)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(["XNYS", "FX", "XTKS"]), seed=st.integers(0, 1000), places=st.sampled_from([0, 4, 8]))
def test_the_way_there_does_not_matter(data: st.DataObject, name: str, seed: int, places: int) -> None:
    cal = calendar(name)
    bars = full_sessions(cal, date(2017, 7, 3), date(2017, 7, 11), seed=seed)
    if places:
        bars = in_decimals(bars, places, seed)
    keep = np.random.default_rng(seed).random(len(bars)) > data.draw(st.sampled_from([0.0, 0.3, 0.9]))
    bars = bars.rows(keep)
    known = data.draw(st.integers(int(bars.close_time[0]), int(bars.close_time[-1])))
    stops = sorted(data.draw(st.sets(st.sampled_from(CHAINS[1:]), min_size=2)), key=CHAINS.index)
    steps = bars
    for timeframe in stops:
        steps = resample(steps, timeframe, cal, known_until=known)
    assert rows_of(steps) == rows_of(resample(bars, stops[-1], cal, known_until=known))


@settings(max_examples=30, deadline=None)
@given(minute=st.integers(0, 5 * 390), timeframe=st.sampled_from([t for t in Timeframe if t is not T.M1]))
def test_what_was_known_then_is_a_prefix_of_what_is_known_later(minute: int, timeframe: Timeframe) -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2015, 12, 21), date(2015, 12, 30))
    t = int(bars.close_time[min(minute, len(bars) - 1)])
    whole = resample(bars, timeframe, cal)
    assert rows_of(resample(bars.known_at(t), timeframe, cal)) == rows_of(whole.known_at(t))
    assert rows_of(resample(bars, timeframe, cal, known_until=t)) == rows_of(whole.known_at(t))


def test_hours_start_at_the_open_and_the_last_one_ends_at_the_close(christmas: Bars) -> None:
    hours = resample(christmas, T.H1, calendar("XNYS"))
    ends = [from_us(t).astimezone(ZoneInfo("America/New_York")).strftime("%d %H:%M") for t in hours.close_time]
    assert ends[:7] == ["21 10:30", "21 11:30", "21 12:30", "21 13:30", "21 14:30", "21 15:30", "21 16:00"]
    half_day = [e for e in ends if e.startswith("24")]
    assert half_day == ["24 10:30", "24 11:30", "24 12:30", "24 13:00"]


def test_four_hours_of_forex_are_anchored_at_five_in_new_york_in_winter_and_summer() -> None:
    cal = calendar("FX")
    for day in (date(2017, 3, 10), date(2017, 3, 13)):  # US clocks change on the 12th
        bars = full_sessions(cal, day, day, T.H1)
        ends = [from_us(t).astimezone(ZoneInfo("America/New_York")).hour for t in resample(bars, T.H4, cal).close_time]
        assert ends == [21, 1, 5, 9, 13, 17]


def test_a_week_ends_with_its_last_session_even_before_a_holiday() -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2014, 4, 14), date(2014, 4, 25))  # Good Friday: the 18th
    weeks = resample(bars, T.W1, cal)
    assert [session_date(int(s)) for s in weeks.session] == [date(2014, 4, 17), date(2014, 4, 25)]
    assert weeks.close_time.tolist() == [cal.bounds(date(2014, 4, 17))[1], cal.bounds(date(2014, 4, 25))[1]]
    before_close = int(weeks.close_time[1]) - 1
    assert len(resample(bars, T.W1, cal, known_until=before_close)) == 1


def test_a_bar_whose_last_minute_is_missing_is_complete_once_its_end_is_known_to_have_passed() -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2014, 6, 5), date(2014, 6, 5)).rows(slice(0, 4))
    end = int(bars.close_time[0]) + 4 * US_PER_MINUTE
    assert len(resample(bars, T.M5, cal)) == 0
    assert resample(bars, T.M5, cal, known_until=end).close_time.tolist() == [end]


def test_a_not_a_number_stays_visible() -> None:
    cal = calendar("XNYS")
    bars = full_sessions(cal, date(2014, 6, 5), date(2014, 6, 5))
    for row in (0, 2, 4):
        high = bars.high.copy()
        high[row] = np.nan
        assert np.isnan(resample(replace(bars, high=high), T.M5, cal).high[0])


def test_bars_outside_their_session_are_refused(christmas: Bars) -> None:
    cal = calendar("XNYS")
    after_close = replace(christmas, close_time=christmas.close_time + 7 * 60 * US_PER_MINUTE)
    holiday = replace(christmas, session=np.full(len(christmas), session_number(date(2015, 12, 25)), np.int32))
    for wrong in (after_close, holiday):
        for timeframe in (T.H1, T.D1, T.W1):
            with pytest.raises(ValueError, match="not inside session"):
                resample(wrong, timeframe, cal)


@pytest.mark.parametrize(("source", "target"), [(T.M3, T.M5), (T.H1, T.M30), (T.W1, T.D1), (T.H4, T.H1)])
def test_timeframes_not_made_of_whole_source_bars_are_refused(source: Timeframe, target: Timeframe) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        resample(Bars.empty("X", source), target, calendar("XNYS"))


def test_no_bars_make_no_bars() -> None:
    assert len(resample(Bars.empty("X", T.M1), T.H1, calendar("XNYS"))) == 0


def test_every_chain_step_divides_the_next() -> None:
    assert all(b.minutes % a.minutes == 0 for a, b in pairwise(CHAINS))


class TestSums:
    def test_decimal_volumes_add_up_as_decimals_do(self) -> None:
        cal = calendar("CRYPTO")
        bars = full_sessions(cal, date(2021, 5, 1), date(2021, 5, 1)).rows(slice(0, 10))
        assert resample(replace(bars, volume=np.full(10, 0.1)), T.M5, cal).volume.tolist() == [0.5, 0.5]
        tiny = replace(bars, volume=np.full(10, 0.00000001))
        assert resample(tiny, T.M5, cal).volume.tolist() == [0.00000005, 0.00000005]
        large = replace(bars, volume=np.array([3e9, 0.5, 0.5, 1e-8, 0.0] * 2))
        assert resample(large, T.M5, cal).volume.tolist() == [3_000_000_001.0] * 2

    def test_the_order_of_the_summands_makes_no_difference(self) -> None:
        cal = calendar("CRYPTO")
        bars = in_decimals(full_sessions(cal, date(2021, 5, 1), date(2021, 5, 1)), 8, 3)
        other = replace(bars, volume=bars.volume[::-1].copy())
        assert resample(bars, T.D1, cal).volume.tolist() == resample(other, T.D1, cal).volume.tolist()
        assert sum(bars.volume.tolist()) != sum(bars.volume[::-1].tolist()), "plain sums differ here"

    def test_the_average_price_is_that_of_all_minutes(self) -> None:
        cal = calendar("XNYS")
        bars = full_sessions(cal, date(2014, 6, 5), date(2014, 6, 6))
        assert bars.turnover is not None
        days = resample(resample(bars, T.M15, cal), T.D1, cal)
        for i, day in enumerate(days.session):
            rows = bars.session == day
            assert days.vwap[i] == bars.turnover[rows].sum() / bars.volume[rows].sum()

    def test_bars_without_the_optional_columns_stay_without(self) -> None:
        cal = calendar("XNYS")
        bars = replace(full_sessions(cal, date(2014, 6, 5), date(2014, 6, 5)), turnover=None)
        assert resample(bars, T.H1, cal).extras == ("trades",)

    def test_a_volume_that_is_no_number_stays_visible(self) -> None:
        cal = calendar("XNYS")
        bars = full_sessions(cal, date(2014, 6, 5), date(2014, 6, 5)).rows(slice(0, 10))
        volume = bars.volume + 0.5
        volume[7] = np.nan
        made = resample(replace(bars, volume=volume), T.M5, cal).volume
        assert np.isnan(made).tolist() == [False, True]


class TestLunchBreak:
    DAY = date(2021, 12, 29)  # Hong Kong: 09:30 to 12:00 and 13:00 to 16:00

    def ends(self, bars: Bars) -> list[str]:
        return [from_us(int(t)).astimezone(ZoneInfo("Asia/Hong_Kong")).strftime("%H:%M") for t in bars.close_time]

    def minutes(self) -> Bars:
        cal = calendar("XHKG")
        bars = full_sessions(cal, self.DAY, self.DAY)
        return bars.rows(~cal.in_break(bars.close_time, bars.session))

    def test_the_grid_starts_again_after_the_break(self) -> None:
        cal, bars = calendar("XHKG"), self.minutes()
        assert self.ends(resample(bars, T.H1, cal)) == ["10:30", "11:30", "12:00", "14:00", "15:00", "16:00"]
        assert self.ends(resample(bars, T.H4, cal)) == ["12:00", "16:00"]
        assert self.ends(resample(bars, T.M30, cal))[4:6] == ["12:00", "13:30"]

    def test_it_is_the_grid_of_the_calendar_library(self) -> None:
        import exchange_calendars

        cal, bars = calendar("XHKG"), self.minutes()
        library = exchange_calendars.get_calendar("XHKG")
        for timeframe in (T.M5, T.M30, T.H1, T.H4):
            ends = library.trading_index(
                str(self.DAY), str(self.DAY), f"{timeframe.minutes}min", force=True, closed="right", intervals=True
            ).right
            assert resample(bars, timeframe, cal).close_time.tolist() == [int(t.value) // 1000 for t in ends]

    def test_no_bar_is_missed_that_the_grid_does_not_have_and_one_it_has_is(self) -> None:
        from trading.session_grid import missing_bars, on_grid

        cal, hours = calendar("XHKG"), resample(self.minutes(), T.H1, calendar("XHKG"))
        number = session_number(self.DAY)
        assert on_grid(hours, cal)[1].all()
        assert missing_bars(hours, cal, None, [number]) == {}
        gap = missing_bars(hours.rows(np.arange(6) != 2), cal, None, [number])[number]
        assert (gap.missing, gap.expected) == (1, 6)
        assert from_us(gap.first_time).astimezone(ZoneInfo("Asia/Hong_Kong")).strftime("%H:%M") == "12:00"

    def test_a_half_day_has_no_break(self) -> None:
        cal, half = calendar("XHKG"), date(2021, 12, 31)
        assert self.ends(resample(full_sessions(cal, half, half), T.H1, cal)) == ["10:30", "11:30", "12:00"]

    def test_what_was_printed_in_the_break_counts_to_the_first_bar_after_it(self) -> None:
        cal = calendar("XHKG")
        bars = full_sessions(cal, self.DAY, self.DAY)
        hours = resample(bars, T.H1, cal)
        assert hours.volume.sum() == bars.volume.sum()
        noon, one = cal.breaks(self.DAY) or (0, 0)
        first = (bars.close_time > noon) & (bars.close_time <= one + 60 * US_PER_MINUTE)
        assert hours.volume[3] == bars.volume[first].sum()
        assert hours.high[2] == bars.high[(bars.close_time > noon - 30 * US_PER_MINUTE) & (bars.close_time <= noon)].max()

    @pytest.mark.parametrize("name", ["XHKG", "XTKS", "XNYS", "CMES"])
    @pytest.mark.parametrize("timeframe", [T.M5, T.M30, T.H1, T.H4])
    def test_the_bars_of_a_session_can_be_counted_without_bars(self, name: str, timeframe: Timeframe) -> None:
        cal = calendar(name)
        counts = bars_in_session(cal, timeframe)
        for day in cal.sessions(date(2021, 12, 20), date(2021, 12, 31)):
            at = cal.position(day)
            minutes = full_sessions(cal, day, day)
            minutes = minutes.rows(~cal.in_break(minutes.close_time, minutes.session))
            made = resample(minutes, timeframe, cal).close_time.tolist()
            assert session_ends(cal, at, timeframe).tolist() == made
            assert counts[at] == len(made)


class TestForming:
    def test_it_is_the_bar_as_far_as_it_is_known_with_its_end_in_the_future(self) -> None:
        cal = calendar("XNYS")
        bars = full_sessions(cal, date(2014, 6, 4), date(2014, 6, 5))
        now = int(bars.close_time[390 + 7])
        forming = forming_bar(bars, T.M5, cal, known_until=now)
        assert forming is not None
        assert forming.close_time.tolist() == [int(bars.close_time[390 + 9])]
        assert forming.open[0] == bars.open[390 + 5]
        assert forming.high[0] == bars.high[390 + 5 : 390 + 8].max()
        assert forming.volume[0] == bars.volume[390 + 5 : 390 + 8].sum()

    def test_there_is_none_at_a_bars_end_and_none_before_the_first_bar(self) -> None:
        cal = calendar("XNYS")
        bars = full_sessions(cal, date(2014, 6, 5), date(2014, 6, 5))
        assert forming_bar(bars, T.M5, cal, known_until=int(bars.close_time[9])) is None
        assert forming_bar(bars, T.M5, cal, known_until=int(bars.close_time[0]) - 1) is None

    def test_a_week_forms_from_monday_on(self) -> None:
        cal = calendar("XNYS")
        bars = full_sessions(cal, date(2014, 6, 2), date(2014, 6, 4))
        week = forming_bar(bars, T.W1, cal, known_until=int(bars.close_time[-1]))
        assert week is not None
        assert week.volume[0] == bars.volume.sum()
        assert session_date(int(week.session[0])) == date(2014, 6, 6)
