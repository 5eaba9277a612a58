"""The window an entry is worked in: from the signal's close, inside one session and the signal's validity."""

from __future__ import annotations

from trading.calendars import Calendar
from trading.timeframes import US_PER_MINUTE


class NoSchedule(Exception):
    """The entry cannot be worked as its file asks; `reason` is one word, `values` say more."""

    def __init__(self, reason: str, **values: object) -> None:
        super().__init__(f"{reason} {values}")
        self.reason, self.values = reason, values


def window_of(venue: Calendar, close_time: int, minutes: int, valid_until: int) -> tuple[int, int]:
    """(start, end), UTC us: `minutes` from `close_time` on, or from the next session's open where none runs.

    Raises NoSchedule when it does not lie inside the session and the validity, or nobody trades for a part of it.
    """
    row = int(venue.close_time.searchsorted(close_time, side="right"))
    if row >= len(venue.close_time):
        raise NoSchedule("calendar_ends", venue=venue.name)
    start = max(close_time, int(venue.open_time[row]))
    end = start + minutes * US_PER_MINUTE
    if end > int(venue.close_time[row]):
        raise NoSchedule(
            "window_outside_session", minutes=minutes, session_left=(int(venue.close_time[row]) - start) // US_PER_MINUTE
        )
    if max(start, int(venue.break_start[row])) < min(end, int(venue.break_end[row])):
        raise NoSchedule("break_in_window", minutes=minutes)
    if end > valid_until:
        raise NoSchedule("window_beyond_validity", end=end, valid_until=valid_until)
    return start, end
