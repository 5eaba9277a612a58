"""Regimes by rules and by a hidden Markov model: what they call what, and that they never look ahead."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.bars import Bars
from trading.regime import MarkovModel, Regime, RegimeRules, fit, markov_regimes, observations, rule_regimes
from trading.timeframes import US_PER_HOUR, Timeframe, to_us

RULES = RegimeRules(window=10, history=60, trending=0.5, volatile=2.0)


def bars_of(returns: np.ndarray) -> Bars:
    close = 100 * np.exp(np.cumsum(returns))
    n = len(close)
    times = to_us(datetime(2017, 1, 2, tzinfo=UTC)) + (np.arange(n, dtype=np.int64) + 1) * US_PER_HOUR
    session = (17_168 + np.arange(n) // 24).astype(np.int32)
    return Bars("X", Timeframe.H1, times, session, close, close, close, close, np.ones(n))


def three_markets(seed: int = 1, each: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Returns that range, trend, and jump about, in spells of `each` bars; and which is which."""
    random = np.random.default_rng(seed)
    spells, truth = [], []
    for k in range(9):
        kind = k % 3
        noise = random.normal(0, 1, each)
        if kind == 0:
            spells.append(0.002 * (noise - np.concatenate([[0], noise[:-1]])))
        elif kind == 1:
            spells.append(0.001 * noise + 0.002)
        else:
            spells.append(0.012 * noise)
        truth.append(np.full(each, kind))
    return np.concatenate(spells), np.concatenate(truth)


class TestRules:
    def test_a_straight_line_trends_a_zigzag_ranges_and_a_storm_is_volatile(self) -> None:
        calm = np.tile([0.002, -0.002], 60)
        labels = rule_regimes(bars_of(np.concatenate([calm, np.full(30, 0.002), np.tile([0.02, -0.02], 10)])), RULES)
        assert labels[RULES.warm_up : 120].tolist() == [Regime.RANGING] * (120 - RULES.warm_up)
        assert labels[149] == Regime.TRENDING
        assert labels[169] == Regime.VOLATILE

    def test_before_there_is_enough_history_nothing_is_said(self) -> None:
        labels = rule_regimes(bars_of(np.full(100, 0.001)), RULES)
        assert set(labels[: RULES.warm_up - 1].tolist()) == {Regime.UNKNOWN}
        assert labels[RULES.warm_up - 1] == Regime.TRENDING
        assert set(rule_regimes(bars_of(np.full(20, 0.001)), RULES).tolist()) == {Regime.UNKNOWN}

    def test_impossible_rules_are_refused(self) -> None:
        with pytest.raises(ValueError, match="history=5"):
            RegimeRules(window=10, history=5)


class TestMarkov:
    def test_filtering_is_what_adding_up_every_history_gives(self) -> None:
        random = np.random.default_rng(4)
        model = MarkovModel(
            np.array([0.5, 0.3, 0.2]), np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]), random.normal(size=(3, 2)),
            np.full((3, 2), 0.7), (Regime.RANGING, Regime.TRENDING, Regime.VOLATILE), np.zeros(2), np.ones(2), 0.0,
        )  # fmt: skip
        x = random.normal(size=(5, 2))
        density = np.exp(-0.5 * ((x[:, None] - model.mean) ** 2 / model.variance).sum(axis=2))
        for t in range(5):
            weight = np.zeros(3)
            for path in itertools.product(range(3), repeat=t + 1):
                p = model.start[path[0]] * density[0, path[0]]
                for k in range(1, t + 1):
                    p *= model.transition[path[k - 1], path[k]] * density[k, path[k]]
                weight[path[-1]] += p
            assert model.filtered(x)[t] == pytest.approx(weight / weight.sum())

    def test_a_missing_observation_keeps_the_belief_moved_on(self) -> None:
        returns, _ = three_markets()
        seen = observations(bars_of(returns))
        model = fit(seen)
        part = seen[100:110].copy()
        part[5] = np.nan
        got = model.filtered(part)
        assert got[5] == pytest.approx(got[4] @ model.transition)

    def test_it_finds_the_three_markets_again(self) -> None:
        returns, truth = three_markets()
        labels = markov_regimes(bars_of(returns), train=900, refit=300)
        settled = (np.arange(len(truth)) % 300 >= 40) & (labels != Regime.UNKNOWN)
        assert settled.sum() > 1_200
        assert (labels[settled] == truth[settled]).mean() > 0.85

    def test_the_same_data_give_the_same_model(self) -> None:
        seen = observations(bars_of(three_markets()[0]))
        a, b = fit(seen), fit(seen)
        assert np.array_equal(a.transition, b.transition)
        assert np.allclose(a.transition.sum(axis=1), 1.0)
        with pytest.raises(ValueError, match="at least 100"):
            fit(seen[:90])


@given(cut=st.integers(300, 700), seed=st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_no_label_depends_on_bars_to_come(cut: int, seed: int) -> None:
    returns, _ = three_markets(seed, 90)
    whole, part = bars_of(returns), bars_of(returns[:cut])
    assert np.array_equal(rule_regimes(whole, RULES)[:cut], rule_regimes(part, RULES))
    options = {"train": 200, "refit": 100}
    assert np.array_equal(markov_regimes(whole, **options)[:cut], markov_regimes(part, **options))
