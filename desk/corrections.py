"""Bars the feed tells late, or again with other values: they replace what is stored, with all that follows from it.

The source's newest word counts. The session's partition is replaced, the change is a fact in the ledger with the decisions
that were taken on the former bars, and the higher timeframes of the session are made again at once. Nothing that was done
is undone: no order is matched and no exit decided on a bar a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import structlog

from desk.hot_bars import by_session, derived_timeframes
from resources.changes import Noted, replace_bars
from resources.lake import Lake, LakeError
from resources.ledger import changes as book
from resources.ledger.store import Ledger
from trading.bars import Bars
from trading.calendars import calendar
from trading.dependents import BARS
from trading.instruments import Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, session_date
from trading.universe import Universe

log = structlog.get_logger("desk.corrections")


class Corrections:
    """Replaces partitions of the session the desk writes. Used by the desk's one worker thread."""

    def __init__(self, ledger: Ledger, lake: Lake, source: Callable[[Instrument], str]) -> None:
        self._ledger, self._lake, self._source = ledger, lake, source

    def apply(self, universe: Universe, native: Bars, until: int) -> list[str]:
        """Take over late or corrected native bars of one symbol; derived bars are those complete at `until` (UTC us).

        Returns the partitions that hold something else now. Bars known with the same values change nothing. Raises
        LakeError (LakeWriteFailed: to be repeated) and sqlalchemy's OperationalError.
        """
        changed: list[str] = []
        instrument = universe.instruments[native.symbol]
        for number, part in by_session(native).items():
            day = session_date(number)
            held = self._lake.read_bars(f"{BARS}{native.timeframe}", native.symbol, day, day)
            again = np.isin(part.close_time, held.close_time)
            if not len(held) or int(part.close_time[0]) > int(held.close_time[-1]):
                continue  # not late: it is stored like any bar
            kept = held.rows(~np.isin(held.close_time, part.close_time))
            merged = _merged(kept, part) if len(kept) else part
            reason = "the feed told it again with other values" if bool(again.any()) else "the feed told it late"
            noted = self._replace(universe, instrument, merged, day, reason, book.database_now(self._ledger.engine))
            changed += [c.name for c in noted.changes]
            changed += self.derive(universe, instrument, number, until, reason)
        if changed:
            log.warning("bars_corrected", symbol=native.symbol, partitions=changed)
        return changed

    def heal(self, universe: Universe, session: int, until: int) -> None:
        """Derived bars of the open `session` that are stale, because the desk died while it corrected: made again."""
        marks = book.stale(self._ledger.engine, session=session_date(session).isoformat())
        for symbol in sorted({m.symbol for m in marks if m.dataset.startswith(BARS)} & set(universe.instruments)):
            try:
                self.derive(universe, universe.instruments[symbol], session, until, "made again after a correction was cut off")
            except (LakeError, OSError, ValueError) as error:  # it stays stale, which refuses; exits must not wait for it
                log.error("not_healed", symbol=symbol, error=f"{type(error).__name__}: {error}")

    def derive(self, universe: Universe, instrument: Instrument, session: int, until: int, reason: str) -> list[str]:
        """Make the session's stored derived bars again from the native ones in the lake; their marks go."""
        venue = calendar(instrument.calendar)
        before = book.database_now(self._ledger.engine)
        monday = session_date(session - session_date(session).weekday())
        day = session_date(session)
        native = self._lake.read_bars(f"{BARS}{instrument.native_timeframe}", instrument.symbol, monday, day)
        changed: list[str] = []
        for timeframe in derived_timeframes(instrument.native_timeframe):
            of = native if timeframe is Timeframe.W1 else native.rows(native.session == session)
            made = resample(of, timeframe, venue, known_until=until)
            made = made.rows(made.session == session)
            if len(made) or self._lake.partitions(f"{BARS}{timeframe}", day, day, [instrument.symbol]):
                noted = self._replace(universe, instrument, made, day, f"recomputed: {reason}", before)
                changed += [c.name for c in noted.changes]
        return changed

    def _replace(self, universe: Universe, instrument: Instrument, bars: Bars, day: date, reason: str, before: int) -> Noted:
        _, noted = replace_bars(
            self._ledger, self._lake, universe, f"{BARS}{bars.timeframe}", {bars.symbol: bars}, start=day, end=day,
            source=self._source(instrument), run_id="desk", reason=reason, before=before,
        )  # fmt: skip
        return noted


def _merged(kept: Bars, part: Bars) -> Bars:
    """Rows of both, none of them in both, in order of close_time."""
    extras = [n for n in kept.extras if n in part.extras]
    names = ("close_time", "session", "open", "high", "low", "close", "volume", *extras)
    columns = {n: np.concatenate([getattr(kept, n), getattr(part, n)]) for n in names}
    order = np.argsort(columns["close_time"], kind="stable")
    return Bars(kept.symbol, kept.timeframe, **{n: c[order] for n, c in columns.items()})
