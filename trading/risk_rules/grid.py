"""Prices on the tick grid, quantity a positive number of lots: what the venue would reject is not sent."""

from __future__ import annotations

import math

from trading.instruments import Instrument
from trading.limits import Limits
from trading.orders import OrderType
from trading.refusals import Refusal, RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent

_TOLERANCE = 1e-6  # of a tick or lot: float noise
_NEEDS_LIMIT = (OrderType.LIMIT, OrderType.STOP_LIMIT)
_NEEDS_STOP = (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP)


def _off_grid(value: float, step: float, on_grid: float) -> bool:
    return not (abs(value - on_grid) <= step * _TOLERANCE + abs(value) * 1e-15)


@RULES.register("grid", 50)
class Grid:
    """Refuses off-grid or missing prices and quantities, of exits too: the broker would not take them."""

    guards_exits = True

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        refusal = self._quantity(intent, instrument) or self._prices(intent, instrument)
        return Finding(f"{intent.quantity:g}", f"lot {instrument.lot_size}, tick {instrument.tick_size}", refusal)

    def _quantity(self, intent: Intent, instrument: Instrument) -> Refusal | None:
        quantity = intent.quantity
        if not math.isfinite(quantity) or quantity <= 0:
            return refuse(RefusalCode.SIZE_ZERO, symbol=intent.symbol, quantity=quantity)
        lot = float(instrument.lot_size)
        # Half a lot up and then down again finds the nearest lot with the instrument's own rounding.
        nearest = instrument.round_quantity_down(quantity + lot / 2)
        if _off_grid(quantity, lot, nearest):
            return refuse(RefusalCode.PRICE_GRID, symbol=intent.symbol, quantity=quantity, lot=instrument.lot_size)
        return None

    def _prices(self, intent: Intent, instrument: Instrument) -> Refusal | None:
        needed = (
            ("limit_price", intent.limit_price, intent.order_type in _NEEDS_LIMIT),
            ("stop_price", intent.stop_price, intent.order_type in _NEEDS_STOP),
        )
        for name, price, required in needed:
            if price is None:
                if required:
                    return refuse(RefusalCode.PRICE_GRID, symbol=intent.symbol, **{name: "missing"})
                continue
            if not math.isfinite(price) or _off_grid(price, float(instrument.tick_size), instrument.round_price(price)):
                return refuse(RefusalCode.PRICE_GRID, symbol=intent.symbol, **{name: price}, tick=instrument.tick_size)
        return None
