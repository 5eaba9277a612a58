"""Why a model said what it said at one bar: what each feature added, in the unit the model decides in.

Forecasters: log odds of a rise; networks by integrated gradients, trees by their Shapley values, members added up by their
weights. Agents: log probability of the action taken, by integrated gradients through the memory; agents whose policy is not
ours: chance of the action, by replacing what they see (ml.occlusion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml import gradients, occlusion, tree_shap
from ml.agent_training import AgentConfig
from ml.agents import Agent
from ml.environment import OWN_FEATURES, MarketData, Segment, VectorMarket
from ml.forecasters import ForecastModel
from ml.threads import torch_threads

Floats = NDArray[np.float64]
MEMORY = 32
"""Bars an agent's decision is traced back over, at most."""
RISE, ACTION, CHANCE = "log odds of a rise", "log probability of the action", "chance of the action"
_ENTRIES = {1: "BUY_LONG", 2: "SELL_SHORT"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """base: what the model says of the average row; values: what each feature adds; log_odds: what it says of this one. gap:
    what the method did not catch, log_odds - base - sum of the values. members: the same by member. symbol, close_time, what:
    of the decision. unit: of all of them."""

    base: float
    values: Mapping[str, float]
    log_odds: float
    members: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    symbol: str = ""
    close_time: int = 0
    what: str = ""
    unit: str = RISE

    @property
    def gap(self) -> float:
        return self.log_odds - self.base - sum(self.values.values())


def of_forecast(
    model: ForecastModel, window: NDArray[np.floating], background: Floats, symbol: str = "", close_time: int = 0, what: str = ""
) -> Explanation:
    """Of the ensemble's forecast for `window` (W, F). background: rows (K, F) of the training part that trees are held against.

    Raises ValueError when the newest row is not complete.
    """
    if not np.isfinite(window[-1]).all():
        raise ValueError("a row with a missing value has no forecast to explain")
    base = total = 0.0
    members: dict[str, dict[str, float]] = {}
    for member, weight in zip(model.members, model.weights, strict=True):
        slope, intercept = member.about["calibration"]
        if weight == 0.0:
            continue
        if member.kind == "boosting":
            rows = np.asarray(window[-1:], np.float64)
            shap, its_base = tree_shap.tree_shap(member.tensors, float(member.about["intercepts"][0]), rows, background)
            by_feature, output = shap[0], float(member.raw(window[None])[0][0])
        else:
            made = gradients.of_member(member, np.asarray(window, np.float64))
            by_feature, output, its_base = made.values.sum(axis=0), made.output, made.base
        base += weight * (slope * its_base + intercept)
        total += weight * (slope * output + intercept)
        members[member.name] = {n: float(weight * slope * v) for n, v in zip(model.features, by_feature, strict=True)}
    values = {n: sum(m[n] for m in members.values()) for n in model.features}
    return Explanation(float(base), values, float(total), members, symbol, close_time, what)


def of_agent(
    agent: Agent, segments: Sequence[Segment], config: AgentConfig, names: Sequence[str], samples: int
) -> list[Explanation]:
    """Of the newest `samples` entries the agent makes on `segments`, oldest first. names: of the market features."""
    columns = (*names, *OWN_FEATURES)
    entries = []
    for segment in segments:
        seen, masks, actions = _played(agent, segment, config)
        entries += [
            (int(segment.bars.close_time[t]), segment.bars.symbol, t, seen, masks, actions[t])
            for t in [i for i in range(len(actions)) if actions[i] in _ENTRIES][-samples:]
        ]
    found: list[Explanation] = []
    for close_time, symbol, t, seen, masks, action in sorted(entries, key=lambda e: e[0])[-samples:]:
        if gradients.is_ours(agent):
            first, unit = max(0, t + 1 - MEMORY), ACTION
            made = gradients.of_policy(agent, seen[first : t + 1], masks[first : t + 1], action)
            by_column = made.values.sum(axis=0)
        else:
            bars, unit = occlusion.remembered(agent, seen[: t + 1], masks[: t + 1], action), CHANCE
            own = slice(t + 1 - bars, t + 1)
            made = occlusion.of_action(agent, seen[own], masks[own], action, seen)
            by_column = made.values
        values = dict(zip(columns, by_column.tolist(), strict=True))
        found.append(Explanation(made.base, values, made.output, {}, symbol, close_time, _ENTRIES[action], unit))
    return found


def _played(agent: Agent, segment: Segment, config: AgentConfig) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[int]]:
    """(observations (T, W), masks (T, A), actions) of one segment, from an empty memory and a flat account."""
    lanes = VectorMarket(MarketData.of([segment]), config.environment(training=False), 1, 0)
    lanes.place(0, 0)
    memory, begins = agent.start(1), np.array([True])
    seen, masks, actions = [], [], []
    with torch_threads():
        for _ in range(len(segment.bars) - 1):
            seen.append(lanes.observation[0].copy())
            masks.append(lanes.mask[0].copy())
            action, memory = agent.act(lanes.observation, lanes.mask, memory, begins)
            begins = np.array([False])
            actions.append(int(action[0]))
            if lanes.step(action).terminated[0]:
                break
    return np.array(seen), np.array(masks), actions
