"""What is known about rows beyond the rows: jumps a corporate action explains, rows an operator accepted as they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from resources.quarantine import Quarantine
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.corporate_actions import MOVES_PRICE, CorporateAction, explained_jumps
from trading.instruments import Instrument
from trading.quality import Known
from trading.session_grid import bar_end
from trading.timeframes import session_date

if TYPE_CHECKING:
    from resources.lake import Lake
    from resources.ledger.store import Ledger


class Knowledge:
    """Callable for judge_dataset: (instrument, its bars) -> Known."""

    def __init__(self, lake: Lake, ledger: Ledger, now: int | None) -> None:
        """now: UTC us; actions that became known later explain nothing yet (None: all count)."""
        self._lake = lake
        self._quarantine = Quarantine(ledger.engine)
        self._now = now

    def __call__(self, instrument: Instrument, bars: Bars) -> Known:
        from resources.corporate_actions import read_actions

        actions = [a for a in read_actions(self._lake, instrument.symbol) if self._now is None or a.known_time <= self._now]
        accepted = self._quarantine.accepted(instrument.symbol, f"bars_{instrument.native_timeframe}")
        return Known(jumps_of(bars, actions), accepted_bars(accepted, bars, calendar(instrument.calendar)))


def jumps_of(bars: Bars, actions: Sequence[CorporateAction]) -> dict[int, str]:
    """Session of the first bar after each jump that `actions` explain -> the action in words."""
    if not actions or not len(bars):
        return {}
    previous = np.concatenate([[np.nan], bars.close[:-1]])
    explained = explained_jumps(bars.session, previous, bars.open, actions)
    found: dict[int, str] = {}
    for row in np.flatnonzero(explained).tolist():
        session = int(bars.session[row])
        before = int(bars.session[row - 1]) if row else session - 1
        mine = [a for a in actions if a.kind in MOVES_PRICE and before < a.ex_session <= session]
        found[session] = "explained by " + "; ".join(_words(a) for a in mine)
    return found


def _words(action: CorporateAction) -> str:
    size = f"factor {action.factor:g}" if action.factor_known else f"{action.amount:g} a unit"
    what = f"{action.kind} of {size}" + (f" ({action.other_symbol})" if action.other_symbol else "")
    return f"{what}, ex {session_date(action.ex_session)}" + (f", from {action.source}" if action.source else "")


def accepted_bars(accepted: Mapping[int, tuple[int, str]], bars: Bars, venue: Calendar) -> dict[int, str]:
    """close_time of the bar of this timeframe that each accepted native row is in -> who accepted it and why."""
    found: dict[int, str] = {}
    for close_time, (session, said) in accepted.items():
        end = bar_end(close_time, session, bars.timeframe, venue)
        if end is not None:
            found[end] = said
    return found
