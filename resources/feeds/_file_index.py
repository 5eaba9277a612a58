"""The index of accepted files: which file holds which sessions of which symbol, and how it is read.

One JSON file, replaced atomically. A later entry is the newer file. It says enough to find the files for a range of
sessions without opening the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from resources.feeds._layout import Layout
from resources.feeds.protocol import MalformedData
from trading.calendars import Calendar
from trading.config_text import ConfigModel
from trading.timeframes import US_PER_MINUTE, Timeframe, session_date, session_number

INDEX = Path("done", "index.json")


class Held(ConfigModel):
    """Sessions of one feed symbol in one file. runs: spans of sessions that follow each other in the venue's calendar.

    partial: sessions at the file's edges of which it holds a part: [session, first close, last close], UTC us.
    """

    instrument: str
    rows: int
    runs: list[tuple[date, date]]
    partial: list[tuple[date, int, int]] = Field(default_factory=list)

    def holds(self, start: date, end: date) -> bool:
        return any(lo <= end and start <= hi for lo, hi in self.runs)


class Accepted(ConfigModel):
    """One accepted file. path: relative to the inbox; order: rises with every acceptance."""

    order: int
    sha256: str
    name: str
    path: str
    size: int
    accepted_wall: int
    profile: str
    profile_revision: str
    on_bad_rows: Literal["reject_file", "quarantine"]
    layout: Layout
    symbols: dict[str, Held]
    bad_rows: int = 0

    @property
    def span(self) -> tuple[date, date]:
        """First and last session of any symbol."""
        runs = [run for held in self.symbols.values() for run in held.runs]
        return min(lo for lo, _ in runs), max(hi for _, hi in runs)


class Index(ConfigModel):
    version: Literal[1] = 1
    files: list[Accepted] = Field(default_factory=list)

    @property
    def last_order(self) -> int:
        return self.files[-1].order if self.files else 0

    def of_symbol(self, symbol: str, timeframe: Timeframe) -> list[Accepted]:
        """Files with bars of `symbol`, newest first."""
        return [f for f in reversed(self.files) if symbol in f.symbols and f.layout.timeframe is timeframe]

    def symbols(self) -> set[str]:
        return {s for f in self.files for s in f.symbols}


def held_of(
    instrument: str, close_time: NDArray[np.int64], session: NDArray[np.int32], timeframe: Timeframe, venue: Calendar
) -> Held:
    """The index entry of one symbol's bars, ascending and not empty."""
    numbers, first = np.unique(session, return_index=True)
    rows = np.searchsorted(venue.number, numbers)
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    runs = [(session_date(int(part[0])), session_date(int(part[-1]))) for part in np.split(numbers, cuts)]
    partial: list[tuple[date, int, int]] = []
    if timeframe.intraday:
        ends = [*first[1:], len(session)]
        for i in sorted({0, len(numbers) - 1}):
            lo, hi = int(close_time[first[i]]), int(close_time[ends[i] - 1])
            opened, closed = venue.bounds(int(numbers[i]))
            # Inside, a file is whole; at its edges it may begin or end within a session.
            begins = lo <= opened + timeframe.minutes * US_PER_MINUTE
            if not (begins or i > 0) or not (hi == closed or i < len(numbers) - 1):
                partial.append((session_date(int(numbers[i])), lo, hi))
    return Held(instrument=instrument, rows=len(session), runs=runs, partial=partial)


def read_index(inbox: Path) -> Index:
    """The index of an inbox, parsed anew when the file changed; empty when nothing was accepted yet. Raises MalformedData."""
    path = inbox / INDEX
    try:
        stat = path.stat()
    except FileNotFoundError:
        return Index()
    return _parsed_index(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=4)
def _parsed_index(path: Path, _changed: int, _size: int, _inode: int) -> Index:
    # Sensors ask every few seconds, and the index of years of files is megabytes.
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Index()
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedData(f"{path}: cannot be read ({error}); restore it from a backup") from error
    try:
        return Index.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise MalformedData(
            f"{path}: {where or 'the file'}: {first['msg']}; it is written by the inbox only: restore it from a backup"
        ) from error


def write_index(inbox: Path, index: Index) -> None:
    """Replace the index atomically: whoever reads sees the old one or the new one, also after a crash."""
    write_atomically(inbox / INDEX, index.model_dump_json(indent=1).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write, fsync, rename, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Cover:
    """Which sessions newer files already answer, while files are asked from the newest to the oldest.

    A session inside a newer file is that file's. At a newer file's edge, where it holds a part of a session, it answers
    from its first to its last bar there; older files answer the rest.
    """

    def __init__(self, venue: Calendar, start: date, end: date) -> None:
        self._venue = venue
        lo = int(np.searchsorted(venue.number, session_number(start), side="left"))
        hi = int(np.searchsorted(venue.number, session_number(end), side="right"))
        self._wanted = venue.number[lo:hi]
        self._whole = np.zeros(len(self._wanted), bool)
        self._parts: dict[int, list[tuple[int, int]]] = {}

    def asks(self, held: Held) -> bool:
        """Can the file still answer something?"""
        open_now = self._wanted[~self._whole]
        for lo, hi in held.runs:
            a, b = np.searchsorted(open_now, [session_number(lo), session_number(hi) + 1])
            if b > a:
                return True
        return False

    def take(self, held: Held, close_time: NDArray[np.int64], session: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Rows of the file that no newer one answers; from now on the file answers for its sessions."""
        at = np.searchsorted(self._wanted, session)
        at = np.minimum(at, max(0, len(self._wanted) - 1))
        if not len(self._wanted):
            return np.zeros(len(session), bool)
        inside: NDArray[Any] = self._wanted[at] == session
        taken: NDArray[np.bool_] = inside & ~self._whole[at]
        for number, spans in self._parts.items():
            for lo, hi in spans:
                taken &= ~((session == number) & (close_time >= lo) & (close_time <= hi))
        partial = {session_number(d): (lo, hi) for d, lo, hi in held.partial}
        self._whole[at[inside & ~np.isin(session, list(partial))]] = True
        for number, span in partial.items():
            self._parts.setdefault(number, []).append(span)
        return taken


def overlaps(files: Sequence[Accepted], symbol: str, held: Held, timeframe: Timeframe) -> Iterable[tuple[Accepted, date, date]]:
    """Earlier files with sessions of `held`'s, and the first and last of those sessions."""
    for file in files:
        if symbol not in file.symbols or file.layout.timeframe is not timeframe:
            continue
        shared = [(max(lo, a), min(hi, b)) for lo, hi in held.runs for a, b in file.symbols[symbol].runs if lo <= b and a <= hi]
        if shared:
            yield file, min(lo for lo, _ in shared), max(hi for _, hi in shared)
