"""How many positions may be open at once."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing
from trading.signals import Intent


@RULES.register("concurrent_positions", 100)
class ConcurrentPositions:
    """Refuses one more position than max_concurrent_positions, of the account and of the strategy."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.max_concurrent_positions is None:
            return limit_missing("max_concurrent_positions")
        this = {(intent.strategy, intent.symbol)}
        would_be = len(state.open_keys() | this)
        limit = limits.max_concurrent_positions
        own_limit = limits.of(intent.strategy).max_concurrent_positions
        own = len(state.open_keys(intent.strategy) | this)
        if would_be <= limit and own_limit is not None and own > own_limit:
            refusal = refuse(RefusalCode.CONCURRENT_POSITIONS, strategy=intent.strategy, would_be=own, limit=own_limit)
            return Finding(own, own_limit, refusal)
        if would_be > limit:
            return Finding(would_be, limit, refuse(RefusalCode.CONCURRENT_POSITIONS, would_be=would_be, limit=limit))
        return Finding(would_be, limit)
