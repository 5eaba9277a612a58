"""What the portfolio may lose in a session stays within a part of the equity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number, order_notional
from trading.signals import Intent


def at_risk(returns: NDArray[np.float64], values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """(value at risk, expected shortfall) of one session, account currency, at least 0: the worse of historical and normal.

    returns (T, N), values (N,) signed. Historical: the loss at the (1 - confidence) quantile of returns @ values (the worse
    neighbour, no interpolation), and the mean of the losses from there on. Normal: z s and s phi(z) / (1 - confidence),
    s^2 = values' cov values, mean 0 (McNeil, Frey and Embrechts 2015, section 2.3).
    """
    pnl = np.sort(returns @ values)
    tail = max(1, int(np.floor(len(pnl) * (1.0 - confidence))))
    historical, mean_tail = -float(pnl[tail - 1]), -float(pnl[:tail].mean())
    deviation = math.sqrt(max(0.0, float(values @ np.atleast_2d(np.cov(returns, rowvar=False)) @ values)))
    z = float(ndtri(confidence))
    density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return max(0.0, historical, z * deviation), max(0.0, mean_tail, deviation * density / (1.0 - confidence))


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
