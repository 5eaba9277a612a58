"""The arithmetic of portfolio limits against plain references: returns that line up, tails, correlation, trips of a breaker."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trading.bars import Bars
from trading.corporate_actions import ActionKind, CorporateAction
from trading.portfolio_math import all_known, correlation, moves, newest_returns, normal_quantile, tail_loss
from trading.risk_history import NONE_BROKEN, RiskHistory, levels
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe

PRICE = st.integers(50, 400).map(lambda n: n / 4)
CLOSES = st.dictionaries(st.integers(0, 25), PRICE, max_size=20)
"""Closes by session."""


class TestReturnsThatLineUp:
    @given(st.lists(CLOSES, min_size=1, max_size=4), st.integers(1, 12))
    @settings(deadline=None)
    def test_they_are_those_of_the_newest_sessions_that_all_have(self, symbols: list[dict[int, float]], wanted: int) -> None:
        common = sorted(set.intersection(*(set(closes) for closes in symbols)))[-(wanted + 1) :]
        expected = [[c[now] / c[before] - 1 for c in symbols] for before, now in itertools.pairwise(common)]
        lengths = [len(c) for c in symbols]
        ends = np.cumsum(lengths).astype(np.int64)
        sessions = np.array([s for c in symbols for s in sorted(c)], np.int64)
        closes = np.array([c[s] for c in symbols for s in sorted(c)])
        out = np.full((wanted, len(symbols)), 9.9)
        rows = newest_returns(sessions, closes, ends - lengths, ends, wanted, out)
        assert rows == len(expected)
        np.testing.assert_array_equal(out[len(out) - rows :], np.reshape(expected, (rows, len(symbols))))

    def test_a_close_that_is_missing_or_zero_makes_a_return_that_is_not_known(self) -> None:
        for bad in (math.nan, 0.0):
            out = np.empty((3, 1))
            levels_of = np.array([10.0, bad, 11.0, 12.0])
            at = np.array([0], np.int64), np.array([4], np.int64)
            assert newest_returns(np.arange(4, dtype=np.int64), levels_of, *at, 3, out) == 3
            assert (all_known(out, 1), all_known(out, 2)) == (True, False)


class TestTails:
    @given(st.integers(60, 300), st.sampled_from(["0.9", "0.95", "0.975", "0.99", "0.999"]), st.integers(0, 1000))
    @settings(deadline=None, max_examples=60)
    def test_they_are_what_sorting_gives(self, rows: int, confidence: str, seed: int) -> None:
        dice = np.random.default_rng(seed)
        returns, values = dice.normal(0, 0.01, (rows + 5, 3)), dice.normal(0, 50_000, 3)
        made = np.sort(returns[5:] @ values)
        tail = max(1, int(rows * (1 - Decimal(confidence))))
        z, density = normal_quantile(float(confidence))
        spread = float(np.std(made, ddof=1))
        loss, shortfall = tail_loss(returns, rows, values, float(confidence), z, density)
        assert loss == pytest.approx(max(0.0, -made[tail - 1], z * spread))
        assert shortfall == pytest.approx(max(0.0, -made[:tail].mean(), spread * density / (1 - float(confidence))))

    def test_a_tenth_of_250_sessions_is_25_of_them(self) -> None:
        returns = np.arange(-125.0, 125.0)[:, None] / 1000  # the 25th worst loses 0.101
        assert tail_loss(returns, 250, np.ones(1), 0.9, 0.0, 0.0)[0] == pytest.approx(0.101)

    @given(st.integers(60, 120), st.integers(0, 1000))
    @settings(deadline=None, max_examples=30)
    def test_correlation_is_pearson_s_over_the_newest_rows(self, rows: int, seed: int) -> None:
        returns = np.random.default_rng(seed).normal(0, 0.01, (rows + 7, 3))
        assert correlation(returns, rows, 0, 2) == pytest.approx(np.corrcoef(returns[7:, 0], returns[7:, 2])[0, 1])
        returns[:, 2] = 0.0
        assert math.isnan(correlation(returns, rows, 0, 2))


@given(st.lists(st.tuples(st.integers(0, 4), PRICE | st.just(math.nan)), min_size=1, max_size=40), st.integers(1, 6))
@settings(deadline=None)
def test_a_breaker_trips_where_a_plain_look_at_all_prices_since_the_last_trip_says_so(
    steps: list[tuple[int, float]], window: int
) -> None:
    times, prices = np.cumsum([gap for gap, _ in steps]).astype(np.int64), np.array([price for _, price in steps])
    expected, since = [], 0
    for k, price in enumerate(prices):
        heard = [p for t, p in zip(times[since : k + 1], prices[since : k + 1], strict=True) if t >= times[k] - window and p > 0]
        if price > 0 and max(price / min(heard) - 1, 1 - price / max(heard)) * 100 >= 20.0:
            expected.append(k)
            since = k + 1
    assert moves(times, prices, window, 20.0, np.empty(len(times))).tolist() == expected


def bars(closes: list[float], minutes: int = Timeframe.D1.minutes, a_session: int = 1) -> Bars:
    n = len(closes)
    session = 100 + np.arange(n) // a_session
    time = session * US_PER_DAY + (1 + np.arange(n) % a_session) * US_PER_MINUTE
    timeframe = next(t for t in Timeframe if t.minutes == minutes)
    price = np.array(closes)
    return Bars("X", timeframe, time.astype(np.int64), session.astype(np.int32), price, price, price, price, np.ones(n))


class TestHistory:
    def test_daily_closes_of_finer_bars_are_those_of_each_session_s_last_bar_known_at_its_close(self) -> None:
        fine = bars([float(n) for n in range(1, 8)], Timeframe.M1.minutes, a_session=3)
        daily = RiskHistory.of([fine]).daily["X"]
        assert daily.close.tolist() == [3.0, 6.0, 7.0]
        assert daily.close_time.tolist() == fine.close_time[[2, 5, 6]].tolist()

    @given(
        st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True), st.lists(st.integers(-3, 6), min_size=3, max_size=3),
        st.integers(0, 9),
    )  # fmt: skip
    @settings(deadline=None)
    def test_a_holder_earns_nothing_by_a_split_once_it_is_known_and_is_shown_the_step_before(
        self, rows: list[int], late_by: list[int], now: int
    ) -> None:
        """A price of 720 that never moves, split two for one at each of `rows`."""
        assume(all(late != 0 for late in late_by))
        price, closes = 720.0, []
        for row in range(10):
            price /= 2 if row in rows else 1
            closes.append(price)
        daily = bars(closes)
        actions = [
            CorporateAction("X", ActionKind.SPLIT, 100 + row, int(daily.close_time[row]) + late * US_PER_DAY - 1, 2.0)
            for row, late in zip(sorted(rows), late_by, strict=False)
        ]
        level, broken = levels(daily, actions, int(daily.close_time[now]))
        made = level[1 : now + 1] / level[:now]
        known = {a.ex_session - 100 for a in actions if a.known_time <= daily.close_time[now]}
        assert broken == NONE_BROKEN
        assert [row for row in range(1, now + 1) if made[row - 1] != 1.0] == [
            r for r in sorted(rows) if r <= now and r not in known
        ]

    def test_a_split_whose_factor_nobody_knows_is_said_from_its_session_on(self) -> None:
        daily = bars([10.0] * 5)
        unknown = CorporateAction("X", ActionKind.SPLIT, 103, 0, math.nan)
        assert levels(daily, [unknown], int(daily.close_time[2]))[1] == NONE_BROKEN
        assert levels(daily, [unknown], int(daily.close_time[3]))[1] == 103
