"""Keeping a lake small: hot minutes folded into their month, replaced versions merged, and what everything takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta

from resources.lake import periods, superseded
from resources.lake.manifest import collect_garbage
from resources.lake.periods import DatasetName
from resources.lake.reading import LakeReader
from resources.lake.storage import MANIFEST
from resources.lake.writing import LakeWriter, now_wall
from trading.timeframes import from_us

OVER_DAYS = 2
"""A hot session this many days before today (UTC) is over whatever its venue."""
TOMBSTONE_DAYS = 7


@dataclass(frozen=True, slots=True)
class Compacted:
    """One thing a compaction did: what is ``folded`` (a hot session), ``merged`` (replaced versions) or ``swept``."""

    dataset: str
    period: str
    what: str
    symbols: int
    rows: int
    files_before: int
    files_after: int


@dataclass(frozen=True, slots=True)
class Size:
    """What one dataset takes. bytes: part files that count; hot_bytes: of sessions not folded yet; previous_bytes: of the
    version before, for readers still in it; superseded_*: replaced versions kept for time travel."""

    dataset: str
    first_session: str
    last_session: str
    symbols: int
    partitions: int
    rows: int
    files: int
    bytes: int
    hot_sessions: int
    hot_bytes: int
    previous_bytes: int
    manifest_bytes: int
    superseded: int
    superseded_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.bytes + self.hot_bytes + self.previous_bytes + self.manifest_bytes + self.superseded_bytes


def sessions_over(hot: Sequence[date], today: date) -> list[date]:
    """Hot sessions that nothing is added to any more: a later one has begun, or they are OVER_DAYS old."""
    limit = max([today - timedelta(days=OVER_DAYS), *hot])
    return [day for day in hot if day < limit]


def compact(reader: LakeReader, writer: LakeWriter, name: DatasetName, before: date | None) -> Iterator[Compacted]:
    """Fold hot sessions before `before` (None: all but the newest, and that one too when it is long over), merge replaced
    versions that lie in many files, remove what no manifest names. Raises LakeError where a period cannot be read."""
    hot = reader.periods(name, hot=True) if name.hot else []
    today = from_us(now_wall()).date()
    days = [date.fromisoformat(p) for p in hot]
    over = set(sessions_over(days, today)) if before is None else {day for day in days if day < before}
    for period in hot:
        if date.fromisoformat(period) not in over:
            continue
        folder = reader.folder(name, period, hot=True)
        files = len(reader.storage.files(folder))
        symbols, rows = writer.fold(name, period)
        if symbols:
            yield Compacted(name.name, period, "folded", symbols, rows, files, len(reader.storage.files(folder)))
        elif not reader.storage.durable_delete and date.fromisoformat(period) < today - timedelta(days=TOMBSTONE_DAYS):
            reader.storage.delete(f"{folder}/{MANIFEST}")  # an empty manifest nobody will append to any more
    place = reader.place(name)
    for period in superseded.periods(place) if name.history else ():
        folder = superseded.folder_of(name.name, period)
        files = len(reader.storage.files(folder))
        if files > superseded.MERGE_FILES:
            kept, _ = writer.rewrite_superseded(name, period, lambda _: True)
            yield Compacted(name.name, period, "merged", 0, kept, files, len(reader.storage.files(folder)))
    for period in reader.periods(name):
        folder = reader.folder(name, period)

        def sweep(folder: str = folder) -> int:
            manifest = reader.manifests.load(folder)
            before_ = len(reader.storage.files(folder))
            if manifest is not None:
                collect_garbage(reader.storage, folder, manifest)
            return before_

        manifest = reader.manifests.load(folder)
        named = {MANIFEST, *(p.file for p in manifest.parts), *(f for v in manifest.previous for f in v)} if manifest else set()
        if manifest and any(f.name not in named for f in reader.storage.files(folder)):
            files = writer.exclusively(name, period, sweep)
            yield Compacted(name.name, period, "swept", 0, 0, files, len(reader.storage.files(folder)))


def sizes(reader: LakeReader, name: DatasetName) -> Size:
    """Raises CorruptPartition when a manifest cannot be read."""
    rows = partitions = files = used = hot_used = previous = manifests = hot_sessions = 0
    symbols: set[str] = set()
    sessions: set[int] = set()
    for hot in (False, True) if name.hot else (False,):
        for period in reader.periods(name, hot=hot):
            folder = reader.folder(name, period, hot=hot)
            manifest = reader.manifests.load(folder)
            if manifest is None:
                continue
            hot_sessions += int(hot and bool(manifest.symbols))
            named = {p.file for p in manifest.parts}
            for file in reader.storage.files(folder):
                if file.name == MANIFEST:
                    manifests += file.size
                elif file.name not in named:
                    previous += file.size
                elif hot:
                    hot_used += file.size
                else:
                    used, files = used + file.size, files + 1
            for symbol, entry in manifest.symbols.items():
                symbols.add(symbol)
                sessions.update(entry.sessions)
                partitions += len(entry.sessions)
                rows += sum(entry.rows)
    place = reader.place(name)
    aside = kept = 0
    for period in superseded.periods(place) if name.history else ():
        aside += sum(f.size for f in reader.storage.files(superseded.folder_of(name.name, period)))
        with suppress(FileNotFoundError):
            kept += len(superseded.kept(place, period))
    first, last = (periods.hot_period(min(sessions)), periods.hot_period(max(sessions))) if sessions else ("", "")
    counts = (len(symbols), partitions, rows, files)
    return Size(name.name, first, last, *counts, used, hot_sessions, hot_used, previous, manifests, kept, aside)
