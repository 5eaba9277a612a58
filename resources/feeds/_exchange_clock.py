"""Where the simulated market stands: a market time that runs at any speed, never goes back and never passes real time.

With speed 1 and no start of its own it is real time. Otherwise the moment it began is kept in a file, so that every
process and every start of the installation agree on it. Once it has caught up it goes on in real time: a session of
tomorrow would be one that no partition, report or person knows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from resources.feeds.protocol import FeedError, MalformedData
from trading.timeframes import iso, to_us


@dataclass(frozen=True, slots=True)
class Anchor:
    """At real time `wall` the market stood at `market` (both UTC us) and ran at `speed` from there. start: as was asked."""

    wall: int
    market: int
    speed: float
    start: str

    def at(self, wall: int) -> int:
        """Market time at real time `wall`."""
        return min(wall, self.market + int(max(0, wall - self.wall) * self.speed))


class ExchangeClock:
    """The market time of one installation. Raises FeedError for a start that cannot be read or contradicts the file."""

    def __init__(self, file: Path, speed: float, start: str, wall: Callable[[], int] | None = None) -> None:
        self._wall = wall or (lambda: time.time_ns() // 1000)
        self._file, self.speed = file, speed
        self._anchor: Anchor | None = None
        if speed != 1.0 or start or file.exists():
            self._anchor = self._agree(start)

    def __call__(self) -> int:
        now = self._wall()
        return now if self._anchor is None else self._anchor.at(now)

    @property
    def running_speed(self) -> float:
        """Market seconds per real second now: 1 once real time is reached."""
        now = self._wall()
        return 1.0 if self._anchor is None or self._anchor.at(now) >= now else self._anchor.speed

    def _agree(self, start: str) -> Anchor:
        now = self._wall()
        known = self._read()
        if known is None:
            begin = min(now, _moment(start)) if start else now
            anchor = Anchor(now, begin, self.speed, start)
        elif start and start != known.start:
            raise FeedError(
                f"the simulated market began at {known.start or 'its first start'} and stands at {iso(known.at(now))}: it cannot "
                f"begin again at {start}. Set TAPELINE_SIMULATED_START back, or start with an empty TAPELINE_DATA_DIR"
            )
        elif known.speed == self.speed:
            return known
        else:
            anchor = Anchor(now, known.at(now), self.speed, known.start)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        draft.write_text(json.dumps({"wall": anchor.wall, "market": anchor.market, "speed": anchor.speed, "start": anchor.start}))
        if known is None:
            try:
                os.link(draft, self._file)  # two processes that start together agree on the first one's
            except FileExistsError:
                return self._read() or anchor
            finally:
                draft.unlink()
        else:
            os.replace(draft, self._file)
        return anchor

    def _read(self) -> Anchor | None:
        try:
            said = json.loads(self._file.read_text())
            return Anchor(int(said["wall"]), int(said["market"]), float(said["speed"]), str(said["start"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedData(
                f"{self._file}: {error!r}; expected the simulated market's clock; remove it to begin anew"
            ) from error


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return to_us(moment)
    except ValueError as error:
        raise FeedError(f"TAPELINE_SIMULATED_START={text}: {error}; expected a moment such as 2026-03-02T14:00:00Z") from None
