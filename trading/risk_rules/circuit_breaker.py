"""No new risk on an instrument that has just moved abnormally."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trading.instruments import Instrument
from trading.limits import Limits
from trading.portfolio_math import moves
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number
from trading.signals import Intent
from trading.timeframes import US_PER_MINUTE, iso


def largest_move(times: NDArray[np.int64], prices: NDArray[np.float64], window: int, since: int) -> tuple[float, int]:
    """(percent, time): the largest move between two prices at most `window` us apart, the later one at or after `since`.

    times (T,), UTC us ascending; prices (T,). (0, 0) when there is no such pair.
    """
    first = int(np.searchsorted(times, since, side="left"))
    if first == len(times):
        return 0.0, 0
    found = np.empty(len(times))
    moves(np.ascontiguousarray(times, np.int64), np.ascontiguousarray(prices, np.float64), window, math.inf, found)
    at = first + int(np.argmax(found[first:]))
    return (float(found[at]), int(times[at])) if found[at] > 0.0 else (0.0, 0)


@RULES.register("circuit_breaker", 45)
class CircuitBreakerTripped:
    """Refuses for a while after the instrument moved more than the limit within a time, up or down."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        own = limits.circuit_breaker
        if own is None:
            return not_limited()
        threshold = f"{number(own.percent)}% in {number(own.minutes)} min"
        known = state.recent_prices.get(intent.symbol)
        if known is None or state.now_time is None or not len(known[0]):
            return input_missing("circuit_breaker", f"recent prices of {intent.symbol}", threshold)
        times, prices = known
        moved, at = largest_move(
            times, prices, int(own.minutes * US_PER_MINUTE), state.now_time - int(own.pause_minutes * US_PER_MINUTE)
        )
        if moved >= own.percent:
            refusal = refuse(RefusalCode.CIRCUIT_BREAKER, symbol=intent.symbol, moved=f"{moved:.2f}%", at=iso(at))
            return Finding(f"{number(moved)}%", threshold, refusal)
        return Finding(f"{number(moved)}%", threshold)
