"""A strategy in Python, as an example to copy.

One file holds one strategy: a class derived from PythonStrategy. `settings` has the keys of a strategy file without `entry`;
they are checked the same way (`tapeline strategies check`), errors name the line in this file. `wishes` says where it would
enter and leave, as arrays over closed bars. Stops, targets, sizes, gates and limits stay the settings' matter.

When this file is loaded it is tried on made-up bars: if an answer for a past bar changes when later bars are hidden, it looks
ahead and is refused. If `wishes` raises while trading, this strategy is silent at that bar, the error is shown in the run's
metadata, and the other strategies go on.

Paused and in shadow mode, so that it sends nothing: set status to "active" and mode to "paper" to let it trade on paper.
"""

import numpy as np

from trading.conditions import Frame
from trading.plugins import PythonStrategy, Wishes


class SqueezeRelease(PythonStrategy):
    """Volatility contracts until the Bollinger bands lie inside the Keltner channel; when they come out again, the move is
    taken in the direction of the close against the middle of the last 20 bars (after John Carter's "squeeze")."""

    settings = {
        "name": "squeeze_release",
        "description": "Daily Bollinger bands come out of the Keltner channel; entry in the direction of the close.",
        "owner": "sample",
        "universe": "sample",
        "status": "paused",
        "mode": "shadow",
        "symbols": ["SPX"],
        "timeframe": "1d",
        "exits": {
            "stop": {"kind": "atr", "period": 14, "multiple": 2.0},
            "target": {"kind": "reward", "ratio": 2.0},
            "max_bars": 15,
        },
        "sizing": {"kind": "risk_percent", "percent": 0.5},
        "gates": {"min_reward_to_risk": 1.5},
        "costs": {"commission_kind": "per_value", "rate": 0.0001, "minimum": 1.0},
    }

    # Bars before it may enter: the slowest indicator below, the Keltner channel, needs 20 and about four times that to settle.
    warm_up = 120

    def wishes(self, frame: Frame) -> Wishes:
        close = frame.price("close")
        upper = frame.indicator("bollinger", {"period": 20}, "upper")
        lower = frame.indicator("bollinger", {"period": 20}, "lower")
        channel_top = frame.indicator("keltner", {"period": 20, "atr_period": 20, "multiple": 1.5}, "upper")
        channel_bottom = frame.indicator("keltner", {"period": 20, "atr_period": 20, "multiple": 1.5}, "lower")
        middle = frame.indicator("midprice", {"period": 20})

        # Comparisons with an unknown value (NaN) are False, so nothing is entered before everything is known.
        squeezed = (upper < channel_top) & (lower > channel_bottom)
        before = np.zeros(len(frame), bool)
        before[1:] = squeezed[:-1]  # row i may look at rows up to i, never at later ones
        released = before & ~squeezed & np.isfinite(upper)

        return Wishes(
            long=released & (close > middle),
            short=released & (close < middle),
            exit_long=close < lower,
            exit_short=close > upper,
        )

    def reason(self, side: str) -> str:
        return f"squeeze released, close {'above' if side == 'long' else 'below'} the middle"
