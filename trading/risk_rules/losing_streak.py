"""A strategy that keeps losing pauses."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited
from trading.signals import Intent
from trading.timeframes import US_PER_MINUTE, iso


@RULES.register("losing_streak", 121)
class LosingStreakReached:
    """Refuses for a while after so many losing trades in a row; the tighter of the account's and the strategy's own limit."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        both = [x for x in (limits.losing_streak, limits.of(intent.strategy).losing_streak) if x is not None]
        if not both:
            return not_limited()
        threshold = f"{min(x.trades for x in both)} in a row"
        if state.losing_streaks is None or state.now_time is None:
            return input_missing("losing_streak", "results of the last trades", threshold)
        lost, at = state.losing_streaks.get(intent.strategy, (0, 0))
        for own in both:
            if lost >= own.trades and state.now_time - at < own.pause_minutes * US_PER_MINUTE:
                refusal = refuse(RefusalCode.LOSING_STREAK, strategy=intent.strategy, lost=lost, since=iso(at))
                return Finding(lost, threshold, refusal)
        return Finding(lost, threshold)
