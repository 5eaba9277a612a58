"""Strategies with their gates over the lake's history: what trading.gated needs, read where a strategy asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resources.price_view import native_bars
from trading.bars import Bars
from trading.corporate_actions import CorporateAction
from trading.evaluable import Evaluable
from trading.gate_inputs import reads_of
from trading.gated import gated
from trading.gates.settings import gates_of
from trading.news import NewsCalendar
from trading.quality_history import QualityHistory
from trading.quotes import QuoteBars
from trading.universe import Universe

if TYPE_CHECKING:
    from resources.lake import Lake


def gated_from_lake(
    evaluable: Evaluable, universe: Universe, news: NewsCalendar | None, lake: Lake,
    actions: Mapping[str, Sequence[CorporateAction]], quality: QualityHistory | None = None,
) -> Evaluable:  # fmt: skip
    """`evaluable` with its gates over histories (trading.gated), on whole series of the lake; quality judges the bars behind each
    wish. Raises LakeError."""
    gates = gates_of(evaluable)
    reads = reads_of(gates, {}, evaluable.timeframe)
    series: dict[Any, Bars] = {}
    quotes: dict[str, QuoteBars] = {}
    if reads is not None:
        for symbol in evaluable.symbols:
            for timeframe in reads.warm_up:
                if timeframe not in evaluable.timeframes:
                    series[symbol, timeframe] = lake.read_bars(f"bars_{timeframe}", symbol)
            if reads.quotes and universe.instruments[symbol].quotes:
                quotes[symbol] = lake.read_quotes("quotes_1m", symbol)
        for symbol, timeframe in reads.context:
            if (symbol, timeframe) not in getattr(evaluable, "context", ()) and symbol in universe.instruments:
                series[symbol, timeframe] = lake.read_bars(f"bars_{timeframe}", symbol)
    return gated(evaluable, series=series, news=news, quotes=quotes, actions=actions, finer=native_bars(lake, universe),
                 quality=quality)  # fmt: skip
