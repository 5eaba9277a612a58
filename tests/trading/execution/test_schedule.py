"""Slices add up to the parent, lie inside its window and validity, and are the same whenever they are asked for."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.desk.kit import instrument
from trading.bars import Bars
from trading.calendars import calendar
from trading.execution import slicing
from trading.execution.profile import volume_weights
from trading.execution.schedule import Schedule, limit_of, make, next_slice, parent_id, planned, units
from trading.execution.spec import Iceberg, Twap, Vwap, parse
from trading.execution.window import NoSchedule, window_of
from trading.timeframes import US_PER_HOUR, US_PER_MINUTE, Timeframe

T0 = 1_514_361_600_000_000
"""2017-12-27T08:00Z, 14 hours before the FX session's end."""
FX = calendar("FX")
EURUSD = instrument("EURUSD")
SIXTH = replace(EURUSD, lot_size=Decimal("0.1"))


def made(rule: Twap | Vwap | Iceberg, quantity: float = 1000.0, name: str = "dec-1", **changes: object) -> Schedule:
    values: dict[str, object] = {
        "parent": parent_id(name, rule.algo), "quantity": quantity, "instrument": EURUSD, "venue": FX, "close_time": T0,
        "valid_until": T0 + 10 * US_PER_HOUR, "reference": 1.2, "side": 1,
    }  # fmt: skip
    return make(rule, **{**values, **changes})  # type: ignore[arg-type]


rules = st.one_of(
    st.builds(
        Twap, algo=st.just("twap"), minutes=st.integers(1, 600), slices=st.integers(2, 40), jitter=st.floats(0, 0.9),
        min_lots=st.integers(1, 20), rest=st.sampled_from(["cancel", "market"]),
    ),
    st.builds(Iceberg, algo=st.just("iceberg"), minutes=st.integers(1, 600), visible=st.integers(1, 300).map(float)),
)  # fmt: skip
vwaps = st.builds(Vwap, algo=st.just("vwap"), minutes=st.integers(1, 600), slices=st.integers(2, 30), min_lots=st.integers(1, 9))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    rule: Twap | Vwap | Iceberg = draw(st.one_of(rules, vwaps))
    quantity = float(draw(st.integers(getattr(rule, "min_lots", 1), 5000)))
    weights = None
    if isinstance(rule, Vwap):
        raw = draw(st.lists(st.integers(0, 1000), min_size=rule.slices, max_size=rule.slices).filter(sum))
        weights = tuple(w / sum(raw) for w in raw)
    return made(rule, quantity, f"dec-{draw(st.integers(0, 10**6))}", weights=weights)


class TestWhatIsPlanned:
    @settings(max_examples=40)
    @given(schedules())
    def test_adds_up_to_the_parent_in_whole_lots_inside_window_and_validity(self, schedule: Schedule) -> None:
        slices = planned(schedule)
        assert sum(lots for _, lots in slices) == schedule.lots
        assert all(lots >= min(schedule.min_lots, schedule.lots) for _, lots in slices)
        times = [at for at, _ in slices]
        assert times == sorted(times)
        assert all(schedule.start_time <= at < schedule.end_time <= schedule.valid_until for at in times)

    @settings(max_examples=40)
    @given(schedules())
    def test_is_the_same_on_every_machine_and_after_storage(self, schedule: Schedule) -> None:
        assert planned(Schedule.from_dict(schedule.to_dict())) == planned(schedule)

    def test_twap_is_even(self) -> None:
        schedule = made(Twap(algo="twap", minutes=60, slices=4), 10)
        assert planned(schedule) == [(T0 + n * 15 * US_PER_MINUTE, lots) for n, lots in enumerate((3, 2, 3, 2))]

    def test_jitter_comes_from_the_parents_id(self) -> None:
        rule = Twap(algo="twap", minutes=60, slices=6, jitter=0.5)
        times = [made(rule, name=name).slot_times() for name in ("dec-1", "dec-1", "dec-2")]
        assert times[0] == times[1] != times[2]
        late = [at - T0 - n * 10 * US_PER_MINUTE for n, at in enumerate(times[0])]
        assert late[0] == 0
        assert all(0 <= x < 5 * US_PER_MINUTE for x in late)
        assert len(set(late)) == 6

    def test_fewer_lots_than_slots_are_spread(self) -> None:
        slots = [slot for slot, _ in planned(made(Twap(algo="twap", minutes=60, slices=6), 2))]
        assert len(slots) == 2
        assert slots[1] - slots[0] >= 10 * US_PER_MINUTE

    def test_lots_become_decimal_units(self) -> None:
        schedule = made(Twap(algo="twap", minutes=60, slices=2), 0.7, instrument=SIXTH)
        assert (schedule.lots, schedule.quantity, units(3, 0.1)) == (7, 0.7, 0.3)


class TestWhatHappens:
    @settings(max_examples=40)
    @given(schedules(), st.data())
    def test_whatever_is_missed_refused_or_comes_back_never_more_than_the_parent(
        self, schedule: Schedule, data: st.DataObject
    ) -> None:
        now, last, done, working, bursts = schedule.start_time - 1, -1, 0, 0, 0
        while now <= schedule.end_time:
            found = next_slice(schedule, now=now, last_slot=last, rest=schedule.lots - done - working, working=working)
            if found is not None:
                assert found == next_slice(
                    schedule, now=now, last_slot=last, rest=schedule.lots - done - working, working=working
                )
                assert 0 < found.lots <= schedule.lots - done - working
                assert found.slot > last
                last = found.slot
                if data.draw(st.booleans()):  # else refused: it comes back
                    working += found.lots
            if working and data.draw(st.booleans()):
                filled = data.draw(st.integers(0, working))
                done, working = done + filled, 0
                bursts += filled > 0
            now += data.draw(st.integers(0, (schedule.end_time - schedule.start_time) // 4))
            if data.draw(st.integers(0, 30)) == 0:
                break
            now += 1
        assert done + working <= schedule.lots

    def test_missed_slices_are_spread_over_what_is_left_of_the_window(self) -> None:
        schedule = made(Twap(algo="twap", minutes=60, slices=6), 600)
        at = T0 + 35 * US_PER_MINUTE  # down from the second slot to the fourth
        found = next_slice(schedule, now=at, last_slot=0, rest=500)
        assert found is not None
        assert (found.slot, found.lots) == (3, 167)
        assert next_slice(schedule, now=at + US_PER_MINUTE, last_slot=3, rest=333) is None, "no burst"

    def test_nothing_before_the_window_after_it_or_after_the_validity(self) -> None:
        schedule = made(Twap(algo="twap", minutes=60, slices=6), 600)
        for at in (T0 - 1, schedule.end_time, schedule.end_time + US_PER_HOUR):
            assert next_slice(schedule, now=at, last_slot=-1, rest=600) is None
        assert next_slice(replace(schedule, valid_until=T0), now=T0 + 1, last_slot=-1, rest=600) is None

    def test_an_icebergs_next_part_waits_for_the_last(self) -> None:
        schedule = made(Iceberg(algo="iceberg", minutes=60, visible=400), 1000)
        assert next_slice(schedule, now=T0, last_slot=0, rest=600, working=1) is None
        assert [next_slice(schedule, now=T0, last_slot=n, rest=r).lots for n, r in ((0, 600), (1, 200))] == [400, 200]  # type: ignore[union-attr]

    def test_participation_caps_a_slice_and_an_unknown_volume_sends_none(self) -> None:
        schedule = made(Twap(algo="twap", minutes=60, slices=2, participation=0.1), 1000)
        assert next_slice(schedule, now=T0, last_slot=-1, rest=1000, volume=2000.0) == next_slice(
            replace(schedule, lots=400, participation=0.0), now=T0, last_slot=-1, rest=400
        )
        assert next_slice(schedule, now=T0, last_slot=-1, rest=1000) is None


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("reason", "rule", "quantity", "close", "hours"),
        [
            ("window_outside_session", Twap(algo="twap", minutes=180, slices=3), 100, T0 + 12 * US_PER_HOUR, 20),
            ("window_beyond_validity", Twap(algo="twap", minutes=90, slices=3), 100, T0, 1),
            ("too_few_lots", Twap(algo="twap", minutes=60, slices=3, min_lots=20), 19, T0, 10),
            ("profile_missing", Vwap(algo="vwap", minutes=60, slices=3), 100, T0, 10),
            ("less_than_a_lot", Iceberg(algo="iceberg", minutes=60, visible=0.4), 100, T0, 10),
        ],
    )
    def test_it_says_why(self, reason: str, rule: Twap | Vwap | Iceberg, quantity: float, close: int, hours: int) -> None:
        with pytest.raises(NoSchedule, match=reason):
            made(rule, quantity, close_time=close, valid_until=close + hours * US_PER_HOUR)

    def test_a_window_begins_with_the_next_session_where_none_runs(self) -> None:
        nyse = calendar("XNYS")
        row = int(nyse.number.searchsorted(17_526))
        start, end = window_of(nyse, int(nyse.close_time[row]), 30, int(nyse.close_time[row + 1]))
        assert (start, end) == (int(nyse.open_time[row + 1]), int(nyse.open_time[row + 1]) + 30 * US_PER_MINUTE)

    @pytest.mark.parametrize(
        "wrong", [{"algo": "pov"}, {"algo": "twap", "minutes": 30}, {"algo": "iceberg", "minutes": 5, "visible": 0}]
    )
    def test_a_rule_that_is_none(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError):
            parse(wrong)


class TestTheVolumeProfile:
    @staticmethod
    def bars(days: int, volume: object) -> Bars:
        nyse = calendar("XNYS")
        row = int(nyse.number.searchsorted(17_500))
        times, numbers = [], []
        for r in range(row, row + days):
            for at in range(int(nyse.open_time[r]) + 30 * US_PER_MINUTE, int(nyse.close_time[r]) + 1, 30 * US_PER_MINUTE):
                times.append(at)
                numbers.append(int(nyse.number[r]))
        price = np.ones(len(times))
        volumes = np.array([volume(n) for n in range(len(times))], np.float64)  # type: ignore[operator]
        return Bars("SPY", Timeframe.M30, np.array(times), np.array(numbers, np.int32), price, price, price, price, volumes)

    def test_weights_are_the_mean_shares_of_past_sessions(self) -> None:
        nyse, bars = calendar("XNYS"), self.bars(4, lambda n: 300.0 if n % 13 == 0 else 100.0)
        start = int(nyse.open_time[int(nyse.number.searchsorted(17_500)) + 3])
        weights = volume_weights(bars, nyse, start, start + 2 * US_PER_HOUR, 4, 3)
        assert weights == pytest.approx((0.5, 1 / 6, 1 / 6, 1 / 6))

    @pytest.mark.parametrize("volume", [lambda n: np.nan, lambda n: 0.0])
    def test_without_volume_or_sessions_there_is_none(self, volume: object) -> None:
        nyse = calendar("XNYS")
        start = int(nyse.open_time[int(nyse.number.searchsorted(17_500)) + 3])
        for bars, sessions in ((self.bars(4, volume), 3), (self.bars(4, lambda n: 1.0), 4)):
            with pytest.raises(NoSchedule, match="profile_missing"):
                volume_weights(bars, nyse, start, start + US_PER_HOUR, 2, sessions)


def test_a_sellers_limit_lies_below_the_price() -> None:
    rule = Iceberg(algo="iceberg", minutes=5, visible=1, limit_ticks=3)
    assert (limit_of(rule, 1.2, 1, EURUSD), limit_of(rule, 1.2, -1, EURUSD)) == (1.2003, 1.1997)


def test_chance_is_spread_over_the_unit_interval() -> None:
    drawn = [slicing.chance(seed, n) for seed in range(40) for n in range(25)]
    assert 0 <= min(drawn) < 0.01 < 0.99 < max(drawn) < 1
    assert abs(sum(drawn) / 1000 - 0.5) < 0.03
