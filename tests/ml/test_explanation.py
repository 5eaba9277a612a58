"""Why a model said what it said: Shapley values that are the brute-force ones, attributions that add up to the decision."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import explanation, gradients, occlusion, planted, tree_shap
from ml.agents.recurrent_ppo import Policy, RecurrentPPO
from ml.forecasters import ForecastModel, Settings, history_of, windows_of
from ml.forecasters.arithmetic import Member, logit
from ml.forecasting import ForecastConfig, bundle, fold_of
from ml.training_files import parse_training


@pytest.fixture(scope="module")
def market() -> tuple[ForecastModel, np.ndarray, np.ndarray]:
    """(a model of all four kinds, windows (N, W, F), background rows)."""
    data = planted.training_set(planted.make(planted.PlantedMarket(edge=0.5, rows=500, symbols=2)), 1)
    kinds = ("linear", "boosting", "lstm", "transformer")
    config = ForecastConfig(kinds, settings=Settings(window=6, hidden=8, epochs=2, trees=6, min_leaf=30))
    history = history_of(data.matrix.symbol, 6)
    members, _, _, _, prior = fold_of(data, config, np.arange(len(data), dtype=np.int64), kinds, history)
    # Slopes of a calibration that found nothing would hide what is tested here.
    loud = {k: Member(m.name, m.kind, {**m.about, "calibration": [0.8, 0.1]}, m.tensors) for k, m in members.items()}
    model = bundle(data, config, loud, dict.fromkeys(kinds, 0.25), prior)
    windows = windows_of(data.matrix.values, history, np.arange(len(data), dtype=np.int64))
    return model, windows, data.matrix.values[::20].astype(np.float64)


def member(model: ForecastModel, kind: str) -> Member:
    return next(m for m in model.members if m.kind == kind)


def brute_force(f: object, x: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Shapley values by every coalition of every background row."""
    n = len(x)

    def value(coalition: tuple[int, ...]) -> float:
        mixed = background.copy()
        mixed[:, list(coalition)] = x[list(coalition)]
        return float(np.mean(f(mixed)))  # type: ignore[operator]

    out = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            share = factorial(size) * factorial(n - size - 1) / factorial(n)
            out[i] += share * sum(value((*s, i)) - value(s) for s in combinations(others, size))
    return out


class TestTrees:
    def test_are_explained_as_every_coalition_would(self, market: tuple[ForecastModel, np.ndarray, np.ndarray]) -> None:
        model, windows, background = market
        trees = member(model, "boosting")
        rows = windows[[50, 300, 700], -1].astype(np.float64)

        def odds(x: np.ndarray) -> np.ndarray:
            return trees.raw(x[:, None])[0]

        values, base = tree_shap.tree_shap(trees.tensors, trees.about["intercepts"][0], rows, background[:12])
        assert base == pytest.approx(odds(background[:12]).mean())
        for row, found in zip(rows, values, strict=True):
            assert found == pytest.approx(brute_force(odds, row, background[:12]), abs=1e-12)

    def test_add_up_to_the_output_for_every_head(self, market: tuple[ForecastModel, np.ndarray, np.ndarray]) -> None:
        model, windows, background = market
        trees = member(model, "boosting")
        rows = windows[::40, -1].astype(np.float64)
        odds, quantiles = trees.raw(rows[:, None])
        for head, wanted in enumerate([odds, *quantiles.T]):
            values, base = tree_shap.tree_shap(trees.tensors, trees.about["intercepts"][head], rows, background, head)
            assert base + values.sum(axis=1) == pytest.approx(wanted, abs=1e-12)

    def test_need_something_to_be_held_against(self, market: tuple[ForecastModel, np.ndarray, np.ndarray]) -> None:
        trees = member(market[0], "boosting")
        with pytest.raises(ValueError, match="no background"):
            tree_shap.tree_shap(trees.tensors, 0.0, np.zeros((1, 7)), np.zeros((0, 7)))


class TestGradients:
    @pytest.mark.parametrize("kind", ["linear", "lstm", "transformer"])
    def test_of_a_network_are_complete(self, market: tuple[ForecastModel, np.ndarray, np.ndarray], kind: str) -> None:
        model, windows, _ = market
        network = member(model, kind)
        for row in (3, 200, 800):  # 3: its window reaches before the history
            found = gradients.of_member(network, windows[row])
            assert found.output == pytest.approx(network.raw(windows[row : row + 1])[0][0], abs=1e-9)
            assert abs(found.gap) <= 5e-3  # the norms of the transformer bend sharply at the baseline

    def test_of_a_linear_network_are_its_weights(self, market: tuple[ForecastModel, np.ndarray, np.ndarray]) -> None:
        model, windows, _ = market
        network = member(model, "linear")
        found = gradients.of_member(network, windows[200])
        z = (windows[200, -1] - network.tensors["scaler.mean"]) / network.tensors["scaler.scale"]
        assert found.values[-1] == pytest.approx(np.clip(z, -5, 5) * network.tensors["head.weight"][0], abs=1e-6)
        assert not found.values[:-1].any()

    def test_of_a_policy_are_complete_and_look_at_the_past(self) -> None:
        agent = RecurrentPPO(hidden=16)
        agent.policy = Policy(9, 16)
        random = np.random.default_rng(2)
        mask = np.tile([True, True, True, False, False], (12, 1))
        found = gradients.of_policy(agent, random.normal(size=(12, 9)).astype(np.float32), mask, 1)
        assert abs(found.gap) < 1e-6
        assert np.abs(found.values[:-1]).sum() > 0
        with pytest.raises(ValueError, match="no policy whose gradient"):
            gradients.of_policy(object(), np.zeros((1, 9), np.float32), mask[:1], 1)


class TestAnEnsemble:
    def test_is_explained_in_its_own_log_odds(self, market: tuple[ForecastModel, np.ndarray, np.ndarray]) -> None:
        model, windows, background = market
        made = explanation.of_forecast(model, windows[400], background)
        wanted = float(logit(model.forecast(windows[400:401]).probability)[0])
        assert made.base + sum(made.values.values()) == pytest.approx(wanted, abs=5e-3)
        assert made.log_odds == pytest.approx(wanted, abs=1e-6)
        assert set(made.values) == set(model.features)
        assert set(made.members) == {"linear", "boosting", "lstm", "transformer"}
        assert abs(made.gap) < 5e-3


def test_an_agent_is_explained_at_its_entries() -> None:
    made = planted.make(planted.PlantedMarket(edge=0.5, rows=120, symbols=1))
    data = planted.training_set(made, 1)
    file, _ = parse_training("name: a\nkind: agent\ndata: planted\nhorizon: 1\n", "models/a.yaml")
    from ml.agent_training import matrix_segments
    from ml.scaling import fit_scaler

    agent = RecurrentPPO(hidden=8)
    agent.policy = Policy(len(data.matrix.names) + 4, 8)
    config = file.config()  # type: ignore[union-attr]
    scaler = fit_scaler(data.matrix.values, data.event_start)
    every = np.arange(len(data), dtype=np.int64)
    segments = matrix_segments(data.matrix, made.bars, made.instruments, every, scaler, config)  # type: ignore[arg-type]
    found = explanation.of_agent(agent, segments, config, data.matrix.names, 3)  # type: ignore[arg-type]
    assert 1 <= len(found) <= 3
    for one in found:
        assert abs(one.gap) < 1e-3
        assert {"position", "signal"} <= set(one.values)
        assert one.base + sum(one.values.values()) == pytest.approx(one.log_odds, abs=1e-3)


class Summing:
    """Buys when the sum of what it has seen of column 1 is positive; remembers, and looks at nothing else."""

    name = "summing"

    def start(self, lanes: int) -> np.ndarray:
        return np.zeros(lanes)

    def act(self, observation: np.ndarray, mask: np.ndarray, memory: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, Any]:
        memory = np.where(begins, 0.0, memory) + observation[:, 1]
        return np.where((memory > 0) & mask[:, 1], 1, 0).astype(np.int64), memory


class TestAnAgentOfAPlugin:
    SEEN = np.random.default_rng(4).normal(size=(300, 7)).astype(np.float32)
    MASK = np.tile([True, True, True, False, False], (300, 1))

    def found(self, last: int) -> gradients.Attribution:
        own = slice(last - 20, last)
        return occlusion.of_action(Summing(), self.SEEN[own], self.MASK[own], 1, self.SEEN)  # type: ignore[arg-type]

    def test_is_explained_by_what_it_looks_at_and_by_nothing_else(self) -> None:
        last = next(t for t in range(40, 300) if self.SEEN[t - 20 : t, 1].sum() > 3)
        found = self.found(last)
        assert found.output == 1.0
        assert 0.0 < found.base < 1.0
        assert found.values[1] == pytest.approx(1.0 - found.base)
        assert not found.values[[0, 2, 3, 4, 5, 6]].any()

    @given(last=st.integers(20, 300))
    @settings(max_examples=15, deadline=None)
    def test_the_values_add_up_and_repeat(self, last: int) -> None:
        found = self.found(last)
        assert abs(found.gap) < 1e-9
        assert np.array_equal(found.values, self.found(last).values)

    def test_its_memory_is_as_long_as_it_takes_to_act_so_again(self) -> None:
        seen = np.zeros((200, 7), np.float32)
        seen[20, 1] = 1.0
        mask = np.tile([True, True, True, False, False], (200, 1))
        assert occlusion.remembered(Summing(), seen[:40], mask[:40], 1) == 32  # type: ignore[arg-type]
        assert occlusion.remembered(Summing(), seen[:140], mask[:140], 1) == 128  # type: ignore[arg-type]
        assert occlusion.remembered(Summing(), seen, mask, 1) == 200  # type: ignore[arg-type]

    def test_too_few_moments_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="at least 20 needed"):
            occlusion.of_action(Summing(), self.SEEN[:20], self.MASK[:20], 1, self.SEEN[:5])  # type: ignore[arg-type]
