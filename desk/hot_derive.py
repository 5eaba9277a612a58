"""Higher timeframes at a close: one Aggregator a symbol, filled from what is known and fed with what closes.

It is only a faster way to what resampling the whole week gives: thrown away and filled again whenever a close is repeated,
bars were corrected or a session begins.
"""

from __future__ import annotations

import numpy as np

from desk.hot_bars import BarCache, derived_timeframes, period_start
from trading.aggregate import Aggregator, Kind
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe


class HotDerive:
    """The bars of higher timeframes that complete now. Used by one thread only."""

    def __init__(self, cache: BarCache) -> None:
        self._cache = cache
        self._aggregators: dict[str, Aggregator] = {}

    def forget(self) -> None:
        """Fill them anew at the next use."""
        self._aggregators.clear()

    def completed(self, instrument: Instrument, until: int, closed: Bars | None) -> dict[Timeframe, Bars]:
        """New bars of the session open at `until` (UTC us) by timeframe: those that end now, and earlier ones missing so far.

        closed: the native bars that closed now; the cache has them already. Empty while the venue is closed. Raises the
        lake's LakeError, and ValueError for bars outside their session; nothing is remembered then.
        """
        venue = calendar(instrument.calendar)
        position = int(venue.close_time.searchsorted(until, side="left"))
        if position == len(venue.number) or int(venue.open_time[position]) >= until:
            return {}
        session, symbol, native = int(venue.number[position]), instrument.symbol, instrument.native_timeframe
        known = self._aggregators.pop(symbol, None)
        if known is None or known.known_until >= until or known.source is not native or known.calendar is not venue:
            known = Aggregator(symbol, native, derived_timeframes(native), venue)
            updates = known.add(self._cache.bars(symbol, native, period_start(session, Timeframe.W1), until), known_until=until)
        else:
            updates = known.add(closed, known_until=until)
        found: dict[Timeframe, Bars] = {}
        for update in updates:
            timeframe = update.bars.timeframe
            bars = update.bars.rows(update.bars.session == session)
            if len(bars) and update.kind is Kind.COMPLETED:
                if len(bars) > 1 or int(bars.close_time[0]) != until:
                    held = self._cache.bars(symbol, timeframe, period_start(session, timeframe), until)
                    # The bar that ends right now is new even when an earlier try of this close has stored it already.
                    bars = bars.rows((bars.close_time == until) | ~np.isin(bars.close_time, held.close_time))
                if len(bars):
                    found[timeframe] = bars
        self._aggregators[symbol] = known
        return found
