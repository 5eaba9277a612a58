"""After a stop the same strategy keeps out of the instrument for a while."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number
from trading.signals import Intent
from trading.timeframes import US_PER_MINUTE, iso


@RULES.register("cooldown", 115)
class CooldownAfterStop:
    """Refuses an entry into an instrument the same strategy was stopped out of a short while ago."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        minutes = max(filter(None, (limits.cooldown_minutes, limits.of(intent.strategy).cooldown_minutes)), default=None)
        if minutes is None:
            return not_limited()
        threshold = f"{number(minutes)} min"
        if state.last_stops is None or state.now_time is None:
            return input_missing("cooldown_minutes", "times of the last stops", threshold)
        at = state.last_stops.get((intent.strategy, intent.symbol))
        if at is not None and state.now_time - at < minutes * US_PER_MINUTE:
            refusal = refuse(RefusalCode.COOLDOWN, strategy=intent.strategy, symbol=intent.symbol, stopped=iso(at))
            return Finding(iso(at), threshold, refusal)
        return Finding("" if at is None else iso(at), threshold)
