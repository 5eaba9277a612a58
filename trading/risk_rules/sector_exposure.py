"""The gross value of one sector's instruments stays within a part of the equity."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limit_math import exceeds
from trading.limits import Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, input_missing, not_limited, number, order_notional
from trading.signals import Intent


@RULES.register("sector_exposure", 125)
class SectorExposure:
    """Refuses an order that would bring its sector above the limit. An instrument without a sector cannot be judged: refused."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if limits.max_sector_percent is None:
            return not_limited()
        most = state.equity * limits.max_sector_percent / 100.0
        sector = state.sectors.get(intent.symbol, "")
        if not sector:
            return input_missing("max_sector_percent", f"sector of {intent.symbol}", number(most))
        held = {symbol for (_, symbol), quantity in state.positions.items() if quantity != 0.0} | set(state.working_notional)
        nameless = sorted(symbol for symbol in held if not state.sectors.get(symbol))
        if nameless:
            return input_missing("max_sector_percent", f"sector of {nameless[0]}", number(most))
        inside = sum(state.position_notional(symbol) for symbol in held if state.sectors[symbol] == sector)
        would_be = inside + order_notional(intent, state)
        if exceeds(would_be, most):
            refusal = refuse(RefusalCode.SECTOR_EXPOSURE, sector=sector, would_be=number(would_be), limit=number(most))
            return Finding(number(would_be), number(most), refusal)
        return Finding(number(would_be), number(most))
