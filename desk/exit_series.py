"""Which bars the exits of open positions are decided on: those are taken before anything else of a close."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from desk.store import PositionRecord
from trading.instruments import Instrument
from trading.strategy import Evaluable, context_of


def symbols(positions: Collection[PositionRecord], evaluables: Mapping[str, Evaluable]) -> set[str]:
    """Instruments whose bars the exits of these positions read."""
    found = {position.symbol for position in positions}
    for position in positions:
        if (evaluable := evaluables.get(position.strategy)) is not None:
            found |= {symbol for symbol, _ in context_of(evaluable, position.symbol)}
            found |= set(evaluable.symbols)
    return found


def of_higher(
    positions: Collection[PositionRecord], evaluables: Mapping[str, Evaluable], instruments: Mapping[str, Instrument]
) -> set[str]:
    """Instruments of which they read higher timeframes than the native one."""
    found: set[str] = set()
    for position in positions:
        evaluable = evaluables.get(position.strategy)
        if evaluable is not None:
            series = [(position.symbol, timeframe) for timeframe in evaluable.timeframes]
            series += context_of(evaluable, position.symbol)
            found |= {s for s, timeframe in series if s in instruments and timeframe is not instruments[s].native_timeframe}
    return found
