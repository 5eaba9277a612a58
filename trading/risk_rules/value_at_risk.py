"""What the portfolio may lose in a session stays within a part of the equity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.portfolio_math import normal_quantile, tail_loss
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number, order_notional
from trading.signals import Intent


def at_risk(returns: NDArray[np.float64], values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """(value at risk, expected shortfall) of one session, account currency: trading.portfolio_math.tail_loss over all of returns
    (T, N) with values (N,), signed."""
    z, density = normal_quantile(confidence)
    columns = np.ascontiguousarray(returns, np.float64)
    risk, shortfall = tail_loss(columns, len(columns), np.ascontiguousarray(values, np.float64), confidence, z, density)
    return float(risk), float(shortfall)


@RULES.register("value_at_risk", 127)
class PortfolioValueAtRisk:
    """Refuses an order after which value at risk or expected shortfall would be above the limit.

    Both are measured twice, by the returns as they were (historical) and by their covariance (parametric, normal); the
    worse counts. An order that brings the number down passes: a hedge is no new risk.
    """

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        own = limits.value_at_risk
        if own is None:
            return not_limited()
        most = state.equity * own.percent / 100.0
        after = state.net_exposures(intent)
        before = dict(after)
        before[intent.symbol] -= intent.side.sign * order_notional(intent, state)
        symbols = sorted(after)
        values = state.returns.of(symbols, own.sessions) if state.returns is not None else None
        if values is None or any(math.isnan(v) for v in after.values()):
            return input_missing("value_at_risk", f"{own.sessions} daily returns of {', '.join(symbols)}", number(most))
        risk, shortfall = at_risk(values, np.array([after[s] for s in symbols]), own.confidence)
        risk_before, shortfall_before = at_risk(values, np.array([before[s] for s in symbols]), own.confidence)
        if exceeds(risk, most) and risk > risk_before:
            refusal = refuse(
                RefusalCode.VALUE_AT_RISK,
                measure="value_at_risk",
                would_be=number(risk),
                limit=number(most),
                confidence=own.confidence,
            )
            return Finding(number(risk), number(most), refusal)
        if own.shortfall_percent is not None:
            most_shortfall = state.equity * own.shortfall_percent / 100.0
            if exceeds(shortfall, most_shortfall) and shortfall > shortfall_before:
                refusal = refuse(
                    RefusalCode.VALUE_AT_RISK, measure="expected_shortfall", would_be=number(shortfall),
                    limit=number(most_shortfall), confidence=own.confidence,
                )  # fmt: skip
                return Finding(number(shortfall), number(most_shortfall), refusal)
        return Finding(number(risk), number(most))
