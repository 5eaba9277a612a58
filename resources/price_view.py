"""Corporate actions for research, by the setting `price_view`: what windows are adjusted for and positions cross."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trading.bars import Bars
from trading.corporate_actions import MOVES_PRICE, ActionKind, CorporateAction, with_factors
from trading.evaluable import Evaluable, context_of
from trading.price_units import Finer, weeks_across
from trading.price_view import PriceView, adjusted_rows
from trading.timeframes import Timeframe, session_date

if TYPE_CHECKING:
    from resources.lake import Lake
    from trading.instruments import Instrument
    from trading.universe import Universe


def actions_for(lake: Lake, symbol: str, view: str) -> list[CorporateAction]:
    """Stored actions of `symbol`; [] on raw prices. Raises LakeError when they cannot be read."""
    from resources.corporate_actions import read_actions

    return read_actions(lake, symbol) if PriceView(view) is PriceView.ADJUSTED else []


def native_bars(lake: Any, universe: Universe) -> Finer:
    """What weekly bars across a split are made of: the instrument's own bars in the lake, read when asked for, or its daily ones
    where those are kept longer. They raise LakeError."""

    def read(symbol: str, first: int, last: int) -> Bars:
        native, span = universe.instruments[symbol].native_timeframe, (session_date(first), session_date(last))
        bars: Bars = lake.read_bars(f"bars_{native}", symbol, *span)
        if native is Timeframe.D1:
            return bars
        days: Bars = lake.read_bars(f"bars_{Timeframe.D1}", symbol, *span)
        return days if len(days) > len(set(bars.session.tolist())) else bars

    return read


def mixed_weeks(lake: Lake, bars: Bars) -> list[str]:
    """Sessions of weekly `bars` that hold prices from both sides of a split, spin-off or roll; none of other timeframes.
    Raises LakeError."""
    from resources.corporate_actions import read_actions

    if bars.timeframe is not Timeframe.W1:
        return []
    steps = MOVES_PRICE - {ActionKind.DIVIDEND}
    ex = [a.ex_session for a in read_actions(lake, bars.symbol) if a.kind in steps and a.factor != 1.0]
    return [session_date(int(bars.session[row])).isoformat() for row in weeks_across(bars, ex)]


def outcome_bars(lake: Lake, bars: Bars, view: str) -> Bars:
    """`bars` on one price level throughout, so that what follows a bar can be measured across a split: for labels, never for
    what a rule may look at. Raises LakeError, UnknownFactor."""
    return adjusted_rows(bars, actions_for(lake, bars.symbol, view))


def research_actions(lake: Lake, evaluable: Evaluable, view: str) -> dict[str, list[CorporateAction]]:
    """Actions of every symbol a strategy or plan reads, by symbol; only of those that have some. Raises LakeError."""
    symbols = dict.fromkeys(evaluable.symbols)
    for symbol in evaluable.symbols:
        symbols |= dict.fromkeys(other for other, _ in context_of(evaluable, symbol))
    found = {symbol: actions_for(lake, symbol, view) for symbol in symbols}
    return {symbol: actions for symbol, actions in found.items() if actions}


def carried(
    actions: Mapping[str, list[CorporateAction]], slots: Iterable[tuple[Instrument, Bars]]
) -> dict[str, list[CorporateAction]]:
    """What the backtest carries positions across: everything that moves a price or ends the instrument, inside its bars,
    with the factors a value alone gives."""
    wanted = MOVES_PRICE | {ActionKind.DELISTING}
    found = {
        instrument.symbol: [
            a
            for a in with_factors(actions.get(instrument.symbol, ()), bars)
            if a.kind in wanted and len(bars) and bars.session[0] < a.ex_session <= bars.session[-1] + 1
        ]
        for instrument, bars in slots
    }
    return {symbol: kept for symbol, kept in found.items() if kept}
