"""How old a quality verdict may be when a decision rests on it.

Two ages, two limits, both from the quality thresholds:

- market age: how much of its session's market time the verdict has not seen,
  ``min(now_time, close) - min(judged_time, close)``, with `close` the session's close and `judged_time` the market time up
  to which it was judged. It is 0 for every finished session judged after its close, however long ago, in a replay of 2017 as
  well; it grows while a session is open and nobody judges. Above `verdict_max_age_minutes` the verdict has expired.
- real age: ``now_wall - evaluated_wall``, on the real clock. Above `verdict_max_age_days` it has expired, whatever it is
  about: somebody has to look again (the checks run over a range of sessions do).

A verdict that does not say what the limit asks for has expired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from trading.calendars import calendar
from trading.signals import PartitionRef
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe
from trading.universe import Universe


@dataclass(frozen=True, slots=True)
class Freshness:
    """Limits of the verdicts on one partition. close_time: its session's close (UTC us; None: the venue has none such).

    max_age: market time (us), max_wall_age: real time (us); None: no limit.
    """

    dataset: str
    session: str
    symbol: str
    close_time: int | None
    max_age: int | None
    max_wall_age: int | None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def freshness_of(required: Iterable[PartitionRef], universe: Universe) -> list[Freshness]:
    """Limits of the verdicts on each required partition. Raises KeyError for a symbol that is not in the universe."""
    out = []
    for ref in required:
        instrument = universe.instruments[ref.symbol]
        limits = universe.quality.of(instrument.asset_class, Timeframe(ref.dataset.removeprefix("bars_")))
        try:
            close_time: int | None = calendar(instrument.calendar).bounds(date.fromisoformat(ref.session))[1]
        except KeyError:
            close_time = None
        minutes, days = limits.verdict_max_age_minutes, limits.verdict_max_age_days
        out.append(
            Freshness(
                ref.dataset, ref.session, ref.symbol, close_time,
                None if minutes is None else round(minutes * US_PER_MINUTE),
                None if days is None else round(days * US_PER_DAY),
            )
        )  # fmt: skip
    return out


def expired(verdict: Mapping[str, Any], limit: Mapping[str, Any], now_time: int, now_wall: int) -> bool:
    """Is the verdict too old for `limit` (Freshness.plain())? Fail closed: what it does not say counts as too old."""
    max_age, max_wall_age, close_time = limit.get("max_age"), limit.get("max_wall_age"), limit.get("close_time")
    if max_age is not None:
        judged = verdict.get("judged_time")
        if type(judged) is not int or type(max_age) is not int:
            return True
        until = now_time if close_time is None else min(now_time, close_time)
        seen = judged if close_time is None else min(judged, close_time)
        if until - seen > max_age:
            return True
    if max_wall_age is not None:
        evaluated = verdict.get("evaluated_wall")
        if type(evaluated) is not int or type(max_wall_age) is not int or now_wall - evaluated > max_wall_age:
            return True
    return False
