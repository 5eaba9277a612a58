"""Bars on the price level of one session: what ranges, volatilities and gates are measured on.

Nothing is measured across a step that no market made: a weekly bar with a split inside is made again of its shorter bars,
each on its own session's level; where there are none, the level is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from trading.bars import Bars
from trading.corporate_actions import MOVES_PRICE, ActionKind, CorporateAction, UnknownFactor, adjust, with_factors
from trading.price_units import Finer, folded, parts_of_weeks
from trading.timeframes import US_PER_DAY, session_date

_WEEK_COLUMNS: Final = ("open", "high", "low", "close", "volume")


def on_level(bars: Bars, actions: Sequence[CorporateAction], as_of: int, session: int) -> Bars:
    """`bars` on the price level of the bar of `session` that closes at `as_of`. After-hours bars may close on the next UTC day:
    an action of a later session is none of theirs. An overnight session begins on the UTC day before its own: its action counts
    from then on, in series that have no bar of it yet as well. Raises UnknownFactor."""
    its = [a for a in actions if a.ex_session <= session and a.known_time <= as_of]
    if not its:
        return bars
    return adjust(bars.known_at(as_of), its, as_of=max(as_of, *(a.ex_session * US_PER_DAY for a in its)))


def weeks_on_level(
    weeks: Bars, actions: Sequence[CorporateAction], as_of: int, session: int, held: Sequence[Bars], finer: Finer | None,
    *, blank: bool = False,
) -> Bars:  # fmt: skip
    """Weekly bars on one level: a week that an action splits is made again of its shorter bars, each on its own session's
    level. Raises UnknownFactor where one cannot be: a range measured across a step that no market made is no measure. blank: it
    is NaN instead, so that only what is measured on that very week is not known."""
    moving = [
        a for a in actions
        if a.kind in MOVES_PRICE and a.kind is not ActionKind.DIVIDEND and a.factor != 1.0 and a.ex_session <= session
        and a.known_time <= as_of
    ]  # fmt: skip
    told = [_told(a, weeks, held, finer) for a in moving]
    level = on_level(weeks, told, as_of, session)
    columns: dict[str, Any] = {}
    for row, part in parts_of_weeks(weeks, [a.ex_session for a in told], held, finer).items():
        if part is None and not blank:
            raise UnknownFactor(
                f"{weeks.symbol}: the week to {session_date(int(weeks.session[row]))} holds prices from both sides of a split "
                "and the lake has no shorter bars that make it"
            )
        columns = columns or {name: np.array(getattr(level, name), np.float64) for name in _WEEK_COLUMNS}
        if part is None:
            for column in columns.values():
                column[row] = np.nan
            continue
        for name, value in folded(on_level(part, told, as_of, session)).items():
            columns[name][row] = value
    return replace(level, **columns) if columns else level


def _told(action: CorporateAction, weeks: Bars, held: Sequence[Bars], finer: Finer | None) -> CorporateAction:
    """`action` with the factor its value means: from the last close before its session, for which a week's may be days too
    old."""
    if action.factor_known:
        return action
    near = finer(weeks.symbol, action.ex_session - 10, action.ex_session - 1) if finer is not None else None
    shorter = sorted((b for b in held if b.symbol == weeks.symbol), key=lambda b: b.timeframe.minutes)
    for bars in (near, *shorter):
        if bars is not None and len(bars):
            (told,) = with_factors([action], bars)
            if told.factor_known:
                return told
    return action
