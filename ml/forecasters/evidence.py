"""Is what a forecaster earned on the validation rows more than luck? Asked before anything it says is believed.

The epoch that earned most is chosen after the fact: among many epochs one always looks good. The same choice is therefore made
on returns whose blocks of time were put in another order, where nothing can be forecast: the share of orders in which the best
epoch earns as much is the p-value (a permutation test of the largest of several statistics, Westfall and Young 1993). Whole
blocks are moved, all instruments together, so that labels that overlap and instruments that move together count once; a mean
return that helps whoever is always long helps in every order.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ORDERS: Final = 1999
LEAST_BLOCKS: Final = 7
"""Fewer have too few orders for a small p-value."""


def positions_of(probability: Floats, neutral: float) -> Floats:
    """As large as the forecast is sure: (p - neutral) * 10, between -1 and 1; smooth, so that a few rows do not decide."""
    return np.clip((probability - neutral) * 10.0, -1.0, 1.0)


def luck(
    positions: Floats,
    returns: Floats,
    times: NDArray[np.int64],
    symbol: NDArray[np.int32],
    costs: float,
    block: int,
    seed: int = 0,
) -> float:
    """p-value of the best row of `positions` (E, N) having earned what it did on returns (N,) by luck; 1 when it earned nothing.

    Row n is known at times[n] of instrument symbol[n]; costs: of one side of a trade, as a fraction; block: distinct times that
    stay together. 1 when there are fewer than LEAST_BLOCKS blocks: too little to tell.
    """
    paid = 2.0 * costs * np.abs(positions).sum(axis=1)
    earned = positions @ returns - paid
    if not len(positions) or not float(earned.max()) > 0.0:
        return 1.0
    distinct, row = np.unique(times, return_inverse=True)
    count = len(distinct) // block
    if count < LEAST_BLOCKS:
        return 1.0
    names, column = np.unique(symbol, return_inverse=True)
    # The oldest times that fill no whole block are left out.
    kept = row >= len(distinct) - count * block
    at = row[kept] - (len(distinct) - count * block), column[kept]
    outcome = np.zeros((count * block, len(names)))
    outcome[at] = returns[kept]
    held = np.zeros((len(positions), count * block, len(names)))
    held[:, at[0], at[1]] = positions[:, kept]
    # result[e, i, j]: what epoch e earns when the returns of block j come in place of those of block i.
    result = held.reshape(len(positions), count, -1) @ outcome.reshape(count, -1).T
    cost = 2.0 * costs * np.abs(held).sum(axis=(1, 2))
    best = float((np.trace(result, axis1=1, axis2=2) - cost).max())
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (ORDERS, 1)), axis=1)
    others = (result[:, np.arange(count), order].sum(axis=2) - cost[:, None]).max(axis=0)
    # Sums of the same numbers in another order differ in their last digits: those are ties, not wins.
    return (1.0 + float(np.sum(others >= best - 1e-9 * abs(best)))) / (1.0 + ORDERS)
