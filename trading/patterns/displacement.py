"""Displacement: one bar that goes much further than its predecessors, and keeps what it won."""

from __future__ import annotations

import numpy as np
from numba import njit

from trading.patterns.base import Bars, Floats, Mapping, Parameter, Sequence, pattern, whole


@njit(cache=True)
def _sizes(body: Floats, period: int) -> Floats:
    """Body of each bar over the mean body of the `period` bars before it; NaN where those have no body."""
    out = np.full(len(body), np.nan)
    for i in range(period, len(body)):
        total = 0.0
        for j in range(i - period, i):
            total += body[j]
        if total > 0.0:
            out[i] = body[i] * period / total
    return out


@pattern(
    "displacement", ("open", "high", "low", "close"), ("size",),
    (whole("period", 20, 2, 1000), Parameter("multiple", "", 2.0, 0.1, 50, whole=False),
     Parameter("share", "", 0.6, 0.0, 1.0, whole=False)),
    before=lambda p: int(p["period"]), what="displacement: a large, decided bar",
    definition="|close - open| is at least `multiple` times the mean of it over the `period` bars before, and at least `share` "
    "of high - low. signal: 1 when close > open, else -1. size: the body over that mean.",
    reference='wide-range body; Michael Huddleston ("ICT"), displacement',
)  # fmt: skip
def _displacement(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    open_, high, low, close = columns
    body = np.abs(close - open_)
    size = _sizes(body, int(p["period"]))
    with np.errstate(invalid="ignore"):
        found = (size >= float(p["multiple"])) & (body > 0) & (body >= float(p["share"]) * (high - low))
    return np.where(found, np.sign(close - open_), 0.0), size
