"""The value of instruments that move together stays within a part of the equity."""

from __future__ import annotations

import math

import numpy as np

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.portfolio_math import correlation
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number, order_notional
from trading.signals import Intent


@RULES.register("correlation", 126)
class CorrelatedExposure:
    """Refuses an order when what it adds to, by correlation, would be above the limit.

    A position counts when it gains and loses with the order: the correlation of the daily returns, negative for
    positions of the other side, is at least `above`. The order's own instrument counts in the order's direction.
    """

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.correlation is None:
            return not_limited()
        own = limits.correlation
        most = state.equity * own.percent / 100.0
        exposures = state.net_exposures(intent)
        added = intent.side.sign * order_notional(intent, state)
        others = sorted(s for s, value in exposures.items() if s != intent.symbol and value != 0.0)
        values = state.returns.of([intent.symbol, *others], own.sessions) if state.returns is not None else None
        if others and values is None:
            return input_missing(
                "correlation", f"{own.sessions} daily returns of {', '.join([intent.symbol, *others])}", number(most)
            )
        together = max(exposures[intent.symbol] * intent.side.sign, abs(added))
        if others and values is not None:
            columns = np.ascontiguousarray(values)
            for k, symbol in enumerate(others, 1):
                r = correlation(columns, len(columns), 0, k)
                if math.isnan(r):
                    return input_missing("correlation", "returns that vary", number(most))
                if r * np.sign(exposures[symbol]) * intent.side.sign >= own.above:
                    together += abs(exposures[symbol])
        if exceeds(float(together), most):
            refusal = refuse(RefusalCode.CORRELATION, symbol=intent.symbol, would_be=number(together), limit=number(most))
            return Finding(number(together), number(most), refusal)
        return Finding(number(together), number(most))
