"""Many other ways it could have gone: resampled equity paths and what they say about return and drawdown."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from trading.statistics.bootstrap import block_length, stationary_indices

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """P paths: total return and deepest drawdown of each, float64 (P,), and quantiles of equity over time.

    bands float64 (Q, T): quantiles `levels` of equity as a multiple of the start.
    """

    total_return: Floats
    max_drawdown: Floats
    levels: tuple[float, ...]
    bands: Floats

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval of ``total_return`` or ``max_drawdown``."""
        low, high = np.quantile(getattr(self, name), [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def probability_of_drawdown(self, depth: float) -> float:
        """Share of the paths that fell by at least `depth` (0.2: a fifth) from a high."""
        return float((self.max_drawdown >= depth).mean())


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@numba.njit(cache=True)
def _deepest(equity, out):  # type: ignore[no-untyped-def]
    for p in range(equity.shape[0]):
        peak = 1.0
        worst = 0.0
        for t in range(equity.shape[1]):
            e = equity[p, t]
            if e > peak:
                peak = e
            fall = 1.0 - e / peak
            if fall > worst:
                worst = fall
        out[p] = worst


def _paths(equity: Floats) -> Paths:
    deepest = np.empty(len(equity))
    _deepest(equity, deepest)
    return Paths(equity[:, -1] - 1.0, deepest, LEVELS, np.quantile(equity, LEVELS, axis=0))


def shuffle_paths(pnl: Floats, cash: float, *, paths: int = 2_000, seed: int = 0) -> Paths:
    """The trades' results (T,), account currency, in random order on `cash`: what the order of the same trades was worth.

    The total is the same on every path; the drawdowns differ. Trades are added, not compounded. Raises ValueError when
    there is no trade or `cash` is not positive.
    """
    trades = np.asarray(pnl, np.float64)
    if not len(trades) or not cash > 0:
        raise ValueError(f"{len(trades)} trades on {cash!r}: expected at least one, and a positive amount")
    random = np.random.default_rng(seed)
    order = np.argsort(random.random((paths, len(trades))), axis=1)
    return _paths(np.asarray(1.0 + np.cumsum(trades[order], axis=1) / cash, np.float64))


def bootstrap_paths(
    returns: Floats, *, paths: int = 2_000, block: float | None = None, periods: int | None = None, seed: int = 0
) -> Paths:
    """Compounded paths of resampled periods of returns (T,), simple, by the stationary bootstrap; block None: `block_length`.

    periods: length of the paths; None: as long as the returns.
    """
    r = np.asarray(returns, np.float64)
    if len(r) < 2 or not np.isfinite(r).all():
        raise ValueError(f"{len(r)} returns, expected at least 2, all of them numbers")
    rows = stationary_indices(len(r), paths, block_length(r) if block is None else block, seed)
    if periods is not None:
        whole = -(-periods // len(r))
        more = [rows, *(stationary_indices(len(r), paths, block_length(r), seed + k) for k in range(1, whole))]
        rows = np.concatenate(more, axis=1)[:, :periods]
    return _paths(np.asarray(np.cumprod(1.0 + r[rows], axis=1), np.float64))
