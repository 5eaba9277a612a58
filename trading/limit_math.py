"""The arithmetic of risk limits, compiled: the desk's rules and the backtest loop call the same functions.

Amounts in account currency. A NaN limit is a missing one: every function answers "breached" for it, so that what is not
configured never lets an order through. A NaN value (unknown exposure) breaches, too.
"""

from __future__ import annotations

import math

from numba import njit


@njit(cache=True)
def exceeds(value: float, limit: float) -> bool:
    """Is `value` above `limit`, or either unknown? Float noise of 1e-9 relative is not a breach."""
    return not (value <= limit * (1.0 + 1e-9))


@njit(cache=True)
def order_notional(quantity: float, price: float, value_per_point: float) -> float:
    """Value of an order in account currency; value_per_point: multiplier times account currency per quote currency."""
    return abs(quantity) * abs(price) * value_per_point


@njit(cache=True)
def risk_to(quantity: float, price: float, stop: float, value_per_point: float) -> float:
    """Account currency lost by a signed quantity when the price goes from `price` to its stop; nothing when the stop lies
    beyond, the whole value without one (NaN)."""
    if math.isnan(stop):
        return abs(quantity * price) * value_per_point
    return max(quantity * (price - stop), 0.0) * value_per_point


@njit(cache=True)
def daily_loss_reached(day_pnl: float, day_start_equity: float, amount: float, percent: float) -> bool:
    """Has the day lost `amount`, or `percent` of the equity it started with? NaN in one of the two: that one is not set;
    NaN in both, or an unknown P&L: reached."""
    if math.isnan(day_pnl) or (math.isnan(amount) and math.isnan(percent)):
        return True
    if not math.isnan(amount) and -day_pnl >= amount:
        return True
    if math.isnan(percent):
        return False
    return not (-day_pnl < day_start_equity * percent / 100.0)


@njit(cache=True)
def leverage_exceeded(gross_exposure: float, equity: float, max_gross_leverage: float) -> bool:
    """Would `gross_exposure` (this order included) be more than `max_gross_leverage` times the equity?"""
    if not (equity > 0.0):
        return True
    return exceeds(gross_exposure, equity * max_gross_leverage)
