"""Timeframes and time units. Inside Tapeline a time is an int: microseconds since 1970-01-01 UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import Enum

US_PER_SECOND = 1_000_000
US_PER_MINUTE = 60 * US_PER_SECOND
US_PER_HOUR = 60 * US_PER_MINUTE
US_PER_DAY = 24 * US_PER_HOUR

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class Timeframe(str, Enum):
    """Bar length. Intraday bars are anchored at the session open; 1d is the session; 1w the week's sessions."""

    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"
    W1 = "1w"

    @property
    def minutes(self) -> int:
        """Nominal length in minutes (1d and 1w: calendar length; their real length is the session's)."""
        return _MINUTES[self]

    @property
    def intraday(self) -> bool:
        return _MINUTES[self] < 1440

    def __str__(self) -> str:
        return self.value


_MINUTES = {
    Timeframe.M1: 1,
    Timeframe.M3: 3,
    Timeframe.M5: 5,
    Timeframe.M15: 15,
    Timeframe.M30: 30,
    Timeframe.H1: 60,
    Timeframe.H4: 240,
    Timeframe.D1: 1440,
    Timeframe.W1: 10080,
}


def to_us(moment: datetime) -> int:
    """UTC microseconds of an aware datetime. Raises ValueError for a naive one: its zone would be a guess."""
    if moment.tzinfo is None:
        raise ValueError(f"naive datetime {moment!r}: give it a time zone")
    delta = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * US_PER_SECOND + delta.microseconds


def from_us(us: int) -> datetime:
    """Aware UTC datetime of UTC microseconds."""
    seconds, micro = divmod(int(us), US_PER_SECOND)
    return datetime.fromtimestamp(seconds, tz=UTC).replace(microsecond=micro)


def iso(us: int) -> str:
    """``2017-12-29T21:00:00Z`` of UTC microseconds."""
    return from_us(us).isoformat().replace("+00:00", "Z")


def session_number(day: date) -> int:
    """Days since 1970-01-01: the int32 form of a session date inside arrays."""
    return day.toordinal() - _EPOCH_ORDINAL


def session_date(number: int) -> date:
    """Session date of its number."""
    return date.fromordinal(int(number) + _EPOCH_ORDINAL)
