"""The STRAT: every bar is one of four types by its relation to the bar before, and types in a row are setups.

Types: 1 inside (neither a higher high nor a lower low; equal is neither), 2u a higher high and no lower low, 2d a lower
low and no higher high, 3 outside (both). After Rob Smith, "The Strat" (RobInTheBlack, 2017). The originals trigger while
the bar forms; here the types of closed bars count, so that what is seen in research is what is known live.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trading.patterns.base import Bars, Floats, Mapping, Sequence, pattern

_RANGE = ("high", "low")
_AFTER = 'Rob Smith, "The Strat"'

INSIDE, UP, DOWN, OUTSIDE = 1.0, 2.0, -2.0, 3.0


def types(high: Floats, low: Floats) -> Floats:
    """float64 (T,): 1 inside, 2 up, -2 down, 3 outside; NaN for the first bar, which has none before it."""
    out = np.full(len(high), np.nan)
    up, down = high[1:] > high[:-1], low[1:] < low[:-1]
    out[1:] = np.where(up & down, OUTSIDE, np.where(up, UP, np.where(down, DOWN, INSIDE)))
    return out


def _ago(values: Floats, bars: int) -> Floats:
    out = np.full(len(values), np.nan)
    out[bars:] = values[:-bars]
    return out


@pattern(
    "strat_candle", _RANGE, ("type",), before=lambda _: 1,
    what="STRAT candle type: 1 inside, 2 up, -2 down, 3 outside",
    definition="type 3: high > high[1] and low < low[1]; 2: only the former; -2: only the latter; 1: neither. "
    "signal: 1 for type 2, -1 for type -2, else 0.",
    reference=_AFTER,
)  # fmt: skip
def _candle(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    kind = types(*columns)
    return np.where(kind == UP, 1.0, np.where(kind == DOWN, -1.0, 0.0)), kind


def _setup(
    columns: Sequence[Floats], first: tuple[float, ...] | None, middle: tuple[float, ...], relation: int
) -> tuple[Floats, ...]:
    """signal, trigger, stop of: `first` (None: any directional), then `middle`, then a directional bar.

    relation: 1 the last bar's direction is that of the first, -1 the opposite, 0 either, -2 the opposite of the middle one.
    """
    high, low = columns
    kind = types(high, low)
    one, two = _ago(kind, 1), _ago(kind, 2)
    direction: NDArray[np.float64] = np.where(kind == UP, 1.0, np.where(kind == DOWN, -1.0, 0.0))
    fits = np.isin(one, middle)
    if first is not None:
        fits &= np.isin(two, first)
    compared = one if relation == -2 else two
    if relation:
        fits &= np.sign(compared) == np.sign(relation) * direction
    signal = np.where(fits, direction, 0.0)
    trigger = np.where(signal > 0, _ago(high, 1), np.where(signal < 0, _ago(low, 1), np.nan))
    stop = np.where(signal > 0, _ago(low, 1), np.where(signal < 0, _ago(high, 1), np.nan))
    return signal, trigger, stop


def _define(name: str, what: str, rule: str, first: tuple[float, ...] | None, middle: tuple[float, ...], relation: int) -> None:
    before = 2 if first is None else 3

    @pattern(
        name, _RANGE, ("trigger", "stop"), before=lambda _: before, what=what,
        definition=f"{rule} signal: the direction of the last bar; trigger: the extreme of the bar before that it broke; "
        "stop: that bar's other extreme.",
        reference=_AFTER,
    )  # fmt: skip
    def _formula(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
        return _setup(columns, first, middle, relation)


_define("strat_212", "STRAT 2-1-2, either kind", "type 2 or -2, then 1, then 2 or -2.", (UP, DOWN), (INSIDE,), 0)
_define(
    "strat_212_continuation", "STRAT 2-1-2 continuation",
    "type 2, 1, 2 (up) or -2, 1, -2 (down).", (UP, DOWN), (INSIDE,), 1,
)  # fmt: skip
_define("strat_212_reversal", "STRAT 2-1-2 reversal", "type -2, 1, 2 (up) or 2, 1, -2 (down).", (UP, DOWN), (INSIDE,), -1)
_define("strat_312", "STRAT 3-1-2", "type 3, then 1, then 2 or -2.", (OUTSIDE,), (INSIDE,), 0)
_define("strat_22_reversal", "STRAT 2-2 reversal", "type -2, 2 (up) or 2, -2 (down).", None, (UP, DOWN), -2)
_define("strat_122", "STRAT 1-2-2 reversal", "type 1, then -2, 2 (up) or 2, -2 (down).", (INSIDE,), (UP, DOWN), -2)
