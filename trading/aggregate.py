"""Higher timeframes bar by bar, as source bars close: the same bars as trading.resample makes of all of them at once.

An Aggregator holds the source bars of the current week of one symbol. Whatever comes in, in whatever order, late or with
other values than before, exactly the higher bars that contain it are made again from their source bars by the batch code,
so that both agree bit for bit. After a restart it is filled from the stored source bars and goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading.bars import OPTIONAL_COLUMNS, PRICE_COLUMNS, Bars
from trading.calendars import Calendar
from trading.resample import bar_ends, forming_bar, last_of_week, resample
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_date

_VALUES: Final = (*PRICE_COLUMNS, "volume")


class TooOld(ValueError):
    """The bar belongs to a week that is over. Correct its partition in the lake instead; that reaches what depends on it."""


class Kind(str, Enum):
    """What an update says about its bars. FORMING ones will still change; only who asked for them gets any."""

    COMPLETED = "completed"
    CORRECTED = "corrected"
    FORMING = "forming"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Bars of one higher timeframe, ascending. CORRECTED ones replace those of the same close_time given before."""

    kind: Kind
    bars: Bars


class Aggregator:
    """Higher timeframes of one symbol, fed with its closed source bars."""

    def __init__(
        self, symbol: str, source: Timeframe, targets: Iterable[Timeframe], calendar: Calendar, *, forming: bool = False
    ) -> None:
        """targets: timeframes above `source` made of whole source bars. forming: give forming bars, too.

        Raises ValueError for a target that cannot be made of `source`.
        """
        self.symbol, self.source, self.calendar, self.forming = symbol, source, calendar, forming
        self.targets = tuple(sorted(set(targets), key=lambda t: t.minutes))
        for target in self.targets:
            resample(Bars.empty(symbol, source), target, calendar)
            if target is source:
                raise ValueError(f"{symbol}: {target} bars are the source bars themselves")
        self._bars = Bars.empty(symbol, source)
        self._known_until = 0
        self._week_start = -(2**31)
        self._bounds = (-1, 0, 0, 0, 0, 0)
        self._given: dict[Timeframe, dict[int, bytes]] = {t: {} for t in self.targets}
        self._waiting: dict[Timeframe, set[int]] = {t: set() for t in self.targets}

    @property
    def source_bars(self) -> Bars:
        """The source bars of the current week as they are known now."""
        return self._bars

    @property
    def known_until(self) -> int:
        """The latest moment known to have passed, UTC us."""
        return self._known_until

    def bars(self, timeframe: Timeframe) -> Bars:
        """Completed bars of `timeframe` made of the source bars held."""
        return resample(self._bars, timeframe, self.calendar, known_until=self._known_until)

    def add(self, bars: Bars | None = None, *, known_until: int | None = None) -> list[Update]:
        """Take in closed source bars, one or many, in any order, and the moment it is now (default: their last close_time).

        Of two bars with one close_time the later one counts. Returns what changed: per timeframe the bars that completed
        or were corrected, ascending; at the end forming ones when asked for. Bars told again with the same values change
        nothing. Raises TooOld for bars of a week that is over, ValueError for bars of another symbol or timeframe, or
        outside their session; nothing is taken in then.
        """
        bars = self._checked(bars)
        now = max(int(bars.close_time[-1]) if len(bars) else 0, known_until or 0, self._known_until)
        found: list[Update] = []
        if len(bars) == 0:
            found += self._add(bars, self._week_start, now)
        elif (week := _week(int(bars.session[0]))) == _week(int(bars.session[-1])):
            found += self._add(bars, week * 7 - 3, now)
        else:
            weeks = (bars.session.astype(np.int64) + 3) // 7
            for week in np.unique(weeks).tolist():
                part = bars.rows(weeks == week)
                found += self._add(part, week * 7 - 3, int(part.close_time[-1]) if bool(np.any(weeks > week)) else now)
        if self.forming:
            for target in self.targets:
                one = forming_bar(self._bars, target, self.calendar, known_until=self._known_until)
                if one is not None:
                    found.append(Update(Kind.FORMING, one))
        return found

    def _checked(self, bars: Bars | None) -> Bars:
        """`bars` ascending, each close_time once."""
        if bars is None or len(bars) == 0:
            return Bars.empty(self.symbol, self.source)
        if bars.symbol != self.symbol or bars.timeframe is not self.source:
            raise ValueError(f"expected bars of {self.symbol} {self.source}, got {bars.symbol} {bars.timeframe}")
        if len(bars) > 1 and not bool(np.all(bars.close_time[1:] > bars.close_time[:-1])):
            order = np.argsort(bars.close_time, kind="stable")
            times = bars.close_time[order]
            bars = bars.rows(order[np.append(times[1:] != times[:-1], True)])
        if int(bars.session.min()) < self._week_start:
            first = bars.rows(bars.session == bars.session.min())
            raise TooOld(
                f"{self.symbol} {self.source}: the bar closing {iso(int(first.close_time[0]))} is of a week before "
                f"{session_date(self._week_start)}: correct its partition in the lake"
            )
        ends = self._ends(Timeframe.D1, bars.close_time, bars.session)
        if min(ends) < 0:
            i = ends.index(-1)
            raise ValueError(
                f"{self.symbol} {self.source}: the bar closing {iso(int(bars.close_time[i]))} is not inside session "
                f"{session_date(int(bars.session[i]))} of {self.calendar.name}"
            )
        return bars

    def _add(self, bars: Bars, week_start: int, known_until: int) -> list[Update]:
        found: list[Update] = []
        if week_start > self._week_start:
            if len(self._bars):  # a new week has begun: all of the old one has closed
                found += self._publish(np.empty(0, np.int64), np.empty(0, np.int32), _week_end(self._bars, self.calendar))
            self._bars, self._week_start = Bars.empty(self.symbol, self.source), week_start
            for target in self.targets:
                self._given[target].clear()
                self._waiting[target].clear()
        times, sessions = self._merge(bars)
        return found + self._publish(times, sessions, max(known_until, self._known_until))

    def _ends(self, target: Timeframe, times: NDArray[np.int64], sessions: NDArray[np.int32]) -> list[int]:
        """trading.resample.bar_ends, kept apart for the one bar that a live minute brings."""
        if len(times) > 1:
            return bar_ends(times, sessions, target, self.calendar).tolist()  # type: ignore[no-any-return]
        if len(times) == 0:
            return []
        time, session = int(times[0]), int(sessions[0])
        if session != self._bounds[0]:
            self._bounds = _bounds(session, self.calendar)
        _, opened, closed, pause, resumed, week_end = self._bounds
        if not opened < time <= closed:
            return [-1]
        if not target.intraday:
            return [week_end if target is Timeframe.W1 else closed]
        base, limit = (resumed, closed) if resumed and time > pause else (opened, pause or closed)
        width = target.minutes * US_PER_MINUTE
        return [min(limit, base + max(-(-(time - base) // width), 1) * width)]

    def _merge(self, new: Bars) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Take `new` in; close_time and session of the rows that are different now."""
        held = self._bars
        if len(new) == 0:
            return new.close_time, new.session
        if len(held) == 0:
            self._bars = new
            return new.close_time, new.session
        extras = tuple(n for n in OPTIONAL_COLUMNS if n in held.extras and n in new.extras)
        if extras != held.extras:  # what one bar does not say is unknown for the week: all is made anew
            held = _with(held, extras)
            self._bars = held
            times, sessions = held.close_time, held.session
        else:
            times, sessions = new.close_time[:0], new.session[:0]
        new = _with(new, extras)
        if int(new.close_time[0]) > int(held.close_time[-1]):
            self._bars = _joined(held, new)
            return np.append(times, new.close_time), np.append(sessions, new.session)
        at = np.searchsorted(held.close_time, new.close_time)
        inside = np.minimum(at, len(held) - 1)
        known = held.close_time[inside] == new.close_time
        same = known & (held.session[inside] == new.session)
        for name in (*_VALUES, *extras):
            same &= _bits(getattr(held, name)[inside]) == _bits(getattr(new, name))
        if not bool(same.all()):
            kept = np.ones(len(held), bool)
            kept[inside[known]] = False
            merged = _joined(held.rows(kept), new)
            self._bars = merged.rows(np.argsort(merged.close_time, kind="stable"))
        changed = new.rows(~same)
        return np.append(times, changed.close_time), np.append(sessions, changed.session)

    def _publish(self, times: NDArray[np.int64], sessions: NDArray[np.int32], known_until: int) -> list[Update]:
        """Make the bars again that contain the rows at `times`, and those that `known_until` completes."""
        self._known_until = max(self._known_until, known_until)
        found: list[Update] = []
        for target in self.targets:
            waiting = self._waiting[target]
            if len(times):
                waiting.update(self._ends(target, times, sessions))
            if waiting and min(waiting) <= self._known_until:
                due = sorted(end for end in waiting if end <= self._known_until)
                waiting.difference_update(due)
                found += self._make(target, np.array(due, np.int64))
        return found

    def _make(self, target: Timeframe, due: NDArray[np.int64]) -> list[Update]:
        first = 0
        if target is not Timeframe.W1:  # no bar but the week's has rows of two sessions
            at = int(np.searchsorted(self.calendar.close_time, due[0]))
            first = int(np.searchsorted(self._bars.session, self.calendar.number[at]))
        rows = slice(first, int(np.searchsorted(self._bars.close_time, due[-1], side="right")))
        made = resample(self._bars.rows(rows), target, self.calendar, known_until=int(due[-1]))
        made = made.rows(slice(len(made) - 1, None) if len(due) == 1 else np.isin(made.close_time, due))
        given = self._given[target]
        kinds = np.empty(len(made), np.int8)
        for i, (end, content) in enumerate(zip(made.close_time.tolist(), _contents(made), strict=True)):
            kinds[i] = 0 if end not in given else 1 if given[end] != content else 2
            given[end] = content
        parts = ((Kind.COMPLETED, made.rows(kinds == 0)), (Kind.CORRECTED, made.rows(kinds == 1)))
        return [Update(kind, part) for kind, part in parts if len(part)]


def _week(session: int) -> int:
    return (session + 3) // 7


def _bounds(session: int, calendar: Calendar) -> tuple[int, int, int, int, int, int]:
    """(session, open, close, break start, break end, end of the week); an empty span where the venue has no such session."""
    try:
        at = calendar.position(session)
    except KeyError:
        return session, 0, -1, 0, 0, 0
    times = (calendar.open_time[at], calendar.close_time[at], calendar.break_start[at], calendar.break_end[at])
    opened, closed, pause, resumed = (int(t) for t in times)
    return session, opened, closed, pause, resumed, int(calendar.close_time[last_of_week(calendar)[at]])


def _week_end(bars: Bars, calendar: Calendar) -> int:
    return int(bar_ends(bars.close_time[-1:], bars.session[-1:], Timeframe.W1, calendar)[0])


def _with(bars: Bars, extras: tuple[str, ...]) -> Bars:
    columns = {n: getattr(bars, n) for n in ("close_time", "session", *_VALUES, *extras)}
    return Bars(bars.symbol, bars.timeframe, **columns)


def _joined(first: Bars, second: Bars) -> Bars:
    """Rows of both, as they come. Both have the same optional columns."""
    names = ("close_time", "session", *_VALUES, *first.extras)
    return Bars(
        first.symbol, first.timeframe, **{n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in names}
    )  # fmt: skip


def _bits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values, np.float64).view(np.int64)


def _contents(bars: Bars) -> list[bytes]:
    """Each row's values, and which optional ones it has, as bytes."""
    table = np.column_stack([getattr(bars, n) for n in (*_VALUES, *bars.extras)])
    tag = ",".join(bars.extras).encode()
    return [tag + row.tobytes() for row in table]
