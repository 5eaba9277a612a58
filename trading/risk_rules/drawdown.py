"""No new risk once the account has fallen too far from its highest equity."""

from __future__ import annotations

import math

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number
from trading.signals import Intent


@RULES.register("drawdown", 122)
class DrawdownReached:
    """Refuses while equity is more than the limit below the highest equity so far."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.drawdown is None:
            return not_limited()
        threshold = f"{number(limits.drawdown.percent)}%"
        if not state.peak_equity or not state.peak_equity > 0:
            return input_missing("drawdown", "peak_equity", threshold)
        fallen = (1.0 - state.equity / state.peak_equity) * 100.0
        if math.isnan(fallen):
            return input_missing("drawdown", "equity", threshold)
        # Float noise of the division must not let the last cent through.
        if fallen >= limits.drawdown.percent * (1.0 - 1e-9):
            return Finding(
                f"{number(fallen)}%", threshold, refuse(RefusalCode.DRAWDOWN, fallen=f"{fallen:.2f}%", limit=threshold)
            )
        return Finding(f"{number(max(fallen, 0.0))}%", threshold)
