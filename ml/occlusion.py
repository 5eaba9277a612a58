"""Why an agent acted as it did when nothing is known of it but what it does: its inputs are replaced, and it is asked again.

Shapley values by sampling (Strumbelj and Kononenko 2014): features are put back one after another, in a random order, into bars
of another moment; a feature is worth what its coming changes in whether the action is taken, on average over orders and moments.
The values of each order add up by themselves, so their mean does. Works for whatever has an agent's methods (ml.agents.base).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ml.threads import torch_threads

if TYPE_CHECKING:
    from ml.agents import Agent
    from ml.gradients import Attribution

ORDERS: Final = 24
"""Orders that are drawn, each with a moment of its own."""
MEMORIES: Final = (32, 128)
"""Bars that are tried as the agent's memory before all of them are."""


def remembered(agent: Agent, seen: NDArray[np.float32], mask: NDArray[np.bool_], action: int) -> int:
    """How many of the last bars of `seen` (T, W) the agent must see again, from an empty memory, to take `action` again at the
    last of them: the first of MEMORIES that is enough, else all."""
    for bars in MEMORIES:
        if bars < len(seen) and int(_asked(agent, seen[None, -bars:], mask[-bars:])[0]) == action:
            return bars
    return len(seen)


def of_action(
    agent: Agent, seen: NDArray[np.float32], mask: NDArray[np.bool_], action: int, moments: NDArray[np.float32], seed: int = 0
) -> Attribution:
    """What each column of `seen` (T, W) adds to the chance that the agent takes `action` at the last of these bars.

    mask: bool (T, A), as it was; it is never replaced. moments: (M, W), M >= T, consecutive bars that replacements are drawn
    from. values (W,); output: 1 where the agent takes the action again; base: the chance that it takes it whatever it sees.
    Raises ValueError when there are too few moments.
    """
    from ml.gradients import Attribution

    steps, width = seen.shape
    if len(moments) < steps:
        raise ValueError(f"{len(moments)} bars to draw replacements from, at least {steps} needed")
    random = np.random.default_rng(seed)
    order = random.permuted(np.tile(np.arange(width), (ORDERS, 1)), axis=1)
    start = random.integers(0, len(moments) - steps + 1, ORDERS)
    other = moments[start[:, None] + np.arange(steps)]  # (ORDERS, T, W)
    # here[o, j]: columns that are as they were after j of them came back.
    place = np.argsort(order, axis=1)
    here = place[:, None, :] < np.arange(width + 1)[None, :, None]
    rows = np.where(here[:, :, None, :], seen, other[:, None])  # (ORDERS, W + 1, T, W)
    taken = _asked(agent, rows.reshape(-1, steps, width), mask).reshape(ORDERS, width + 1) == action
    came = np.diff(taken.astype(np.float64), axis=1)
    values = np.zeros(width)
    np.add.at(values, order, came / ORDERS)
    return Attribution(values, float(taken[:, -1].mean()), float(taken[:, 0].mean()))


def _asked(agent: Agent, rows: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The agent's last action on each of rows (N, T, W), int64 (N,), from an empty memory."""
    lanes = len(rows)
    memory, begins = agent.start(lanes), np.ones(lanes, np.bool_)
    action = np.zeros(lanes, np.int64)
    with torch_threads():
        for t in range(rows.shape[1]):
            allowed = np.tile(mask[t], (lanes, 1))
            action, memory = agent.act(np.ascontiguousarray(rows[:, t], np.float32), allowed, memory, begins)
            begins = np.zeros(lanes, np.bool_)
    return np.asarray(action, np.int64)
