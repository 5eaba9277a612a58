"""How much: a strategy's sizing rule turned into a quantity, always rounded down to the lot.

``size`` is the one place a quantity is made; the compiled backtest loop calls `raw_quantity` and `floor_to_lot`, which
``size`` calls too, so that research and desk never size differently.

Adaptive rules (atr_risk, volatility_target, kelly) become one of the plain ones at each bar: trading/sizing_inputs.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit

from trading.instruments import Instrument

FIXED: Final = 0
NOTIONAL: Final = 1
PERCENT_EQUITY: Final = 2
RISK_PERCENT: Final = 3

SIZING_KINDS: Final[dict[str, tuple[int, str]]] = {
    "fixed": (FIXED, "quantity"),
    "notional": (NOTIONAL, "amount"),
    "percent_equity": (PERCENT_EQUITY, "percent"),
    "risk_percent": (RISK_PERCENT, "percent"),
}
"""kind -> (code of the compiled functions, name of its one parameter)."""

ATR_RISK: Final = "atr_risk"
VOLATILITY_TARGET: Final = "volatility_target"
KELLY: Final = "kelly"
ADAPTIVE: Final = (ATR_RISK, VOLATILITY_TARGET, KELLY)
"""Kinds that need more than price and stop."""


@dataclass(frozen=True, slots=True)
class AdaptiveRule:
    """Parameters of a kelly rule; see trading.strategy_schema.Kelly."""

    fraction: float
    cap_percent: float
    prior_trades: float
    prior_win_rate: float
    prior_payoff: float

    @staticmethod
    def of(sizing: Mapping[str, Any]) -> AdaptiveRule:
        """Raises ValueError naming the key that is missing or no positive number."""
        values = {}
        for name in ("fraction", "cap_percent", "prior_trades", "prior_win_rate", "prior_payoff"):
            value = sizing.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"sizing kelly: {name} is {value!r}, expected a positive number")
            values[name] = float(value)
        return AdaptiveRule(**values)


@njit(cache=True)
def kelly_percent(
    wins: float, losses: float, won: float, lost: float, fraction: float, cap: float, prior: float, prior_win_rate: float,
    prior_payoff: float,
) -> float:  # fmt: skip
    """Percent of equity to risk to the stop, 0 without an edge.

    wins, losses: closed trades; won, lost: sums of their results in multiples of what each risked, both positive. The
    estimates are shrunk: as if `prior` trades had come before, of which `prior_win_rate` won `prior_payoff` and the others
    lost 1 (a beta prior of the win rate, the means of both weighted alike). With p the win rate, W and L the mean win and
    loss, the growth-optimal risk is p / L - (1 - p) / W (Kelly 1956); of it `fraction` is taken, and at most `cap` percent.
    """
    winners = wins + prior * prior_win_rate
    losers = losses + prior * (1.0 - prior_win_rate)
    if not (winners > 0.0 and losers > 0.0):
        return 0.0
    p = winners / (winners + losers)
    win = (won + prior * prior_win_rate * prior_payoff) / winners
    loss = (lost + prior * (1.0 - prior_win_rate)) / losers
    if not (win > 0.0 and loss > 0.0):
        return 0.0
    optimal = p / loss - (1.0 - p) / win
    if not optimal > 0.0:
        return 0.0
    return min(100.0 * fraction * optimal, cap)


@njit(cache=True)
def raw_quantity(
    kind: int, parameter: float, equity: float, reference_price: float, stop_price: float, multiplier: float, fx_rate: float
) -> float:
    """Quantity before rounding, 0 when the rule cannot say (no stop for risk_percent, no equity, a price of 0 or NaN)."""
    quantity = 0.0
    if kind == FIXED:
        quantity = parameter
    elif kind == RISK_PERCENT:
        risk = abs(reference_price - stop_price) * multiplier * fx_rate
        if risk > 0.0:
            quantity = equity * parameter / 100.0 / risk
    else:
        unit = abs(reference_price) * multiplier * fx_rate
        if unit > 0.0:
            quantity = (parameter if kind == NOTIONAL else equity * parameter / 100.0) / unit
    if quantity > 0.0 and quantity < math.inf:
        return quantity
    return 0.0


@njit(cache=True)
def floor_to_lot(quantity: float, lot: float) -> float:
    """Largest lot multiple not above `quantity`; a quantity within 1e-9 lots of one counts as it.

    Lots whose inverse is whole (0.01, 0.5) give the same float as the decimal quantity would.
    """
    if not (quantity > 0.0 and quantity < math.inf and lot > 0.0):
        return 0.0
    inverse = 1.0 / lot
    scale = float(round(inverse))
    if scale >= 1.0 and abs(inverse - scale) <= 1e-9 * scale:
        rounded = np.floor(quantity * scale * (1.0 + 1e-15) + 1e-9) / scale
    else:
        rounded = np.floor(quantity / lot + 1e-9) * lot
    return rounded if rounded < math.inf else 0.0


def parse_sizing(sizing: Mapping[str, Any]) -> tuple[int, float]:
    """(kind code, parameter) of a sizing rule such as ``{"kind": "risk_percent", "percent": 0.5}``.

    Raises ValueError naming the key that is unknown, missing or not a positive number.
    """
    kind = sizing.get("kind")
    if kind in ADAPTIVE:
        raise ValueError(f"sizing {kind}: becomes a plain rule at the bar it is decided (trading.sizing_inputs.resolve) first")
    if kind not in SIZING_KINDS:
        raise ValueError(f"sizing kind {kind!r}: expected one of {', '.join(SIZING_KINDS)}")
    code, name = SIZING_KINDS[kind]
    value = sizing.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"sizing {kind}: {name} is {value!r}, expected a positive number")
    unknown = set(sizing) - {"kind", name}
    if unknown:
        raise ValueError(f"sizing {kind}: unknown key {sorted(unknown)[0]!r}, expected only {name}")
    return code, float(value)


def size(
    sizing: Mapping[str, Any],
    *,
    equity: float,
    reference_price: float,
    stop_price: float,
    instrument: Instrument,
    fx_rate: float = 1.0,
) -> float:
    """Quantity of an entry: unsigned, in units of the instrument, rounded down to its lot; 0 when less than one lot.

    equity: in account currency; fx_rate: account currency per unit of the instrument's currency.
    Kinds: fixed {quantity}, notional {amount} (account currency), percent_equity {percent},
    risk_percent {percent}: equity * percent / 100 / (|reference - stop| * multiplier).
    Raises ValueError on a malformed rule (see parse_sizing).
    """
    code, parameter = parse_sizing(sizing)
    quantity = raw_quantity(code, parameter, equity, reference_price, stop_price, float(instrument.multiplier), fx_rate)
    return float(floor_to_lot(quantity, float(instrument.lot_size)))
