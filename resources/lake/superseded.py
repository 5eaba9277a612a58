"""Rows that were replaced: kept beside the dataset so that a decision's bars can be read as they were.

``<dataset>/superseded/<period>/*.parquet``: each file holds the rows of the (symbol, session)s one write replaced, and in
its footer what they were. A file is written before the manifest that replaces its rows, so nothing is ever in neither
place. Bars that only had others added behind them are not copied: they still begin the version that followed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from resources.lake.codec import Rows
from resources.lake.commit import Place
from resources.lake.errors import LakeWriteFailed
from resources.lake.manifest import Part
from resources.lake.model import Partition
from resources.lake.parts import Piece, write_part
from resources.lake.steps import step
from trading.timeframes import session_date, session_number

FOLDER = "superseded"
NOTE = "tapeline.superseded"
MERGE_FILES = 8
"""A period with more files than this is merged by the next compaction."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """One replaced (symbol, session): what it was, and its rows."""

    partition: Partition
    rows: Rows


@dataclass(frozen=True, slots=True)
class Kept:
    """A replaced (symbol, session) as it lies in a file: rows [offset, offset + partition.rows) of `part`."""

    partition: Partition
    path: str
    part: Part
    offset: int
    meta: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int, str, int]:
        p = self.partition
        return p.symbol, session_number(p.session), p.content_hash, p.written_wall


def folder_of(dataset: str, period: str) -> str:
    return f"{dataset}/{FOLDER}/{period}"


def keep(place: Place, period: str, replaced: Sequence[Replaced]) -> list[str]:
    """Write `replaced` durably, one file a layout; the paths. Raises LakeWriteFailed; what was written then is harmless."""
    folder = folder_of(place.dataset, period)
    layouts: dict[tuple[str, tuple[str, ...]], list[tuple[Replaced, Any]]] = {}
    for item in replaced:
        encoded = place.codec.encode(item.partition.symbol, item.rows)
        layouts.setdefault((encoded.kind, encoded.columns), []).append((item, encoded))
    paths = []
    try:
        if layouts:
            place.storage.make_folder(folder)
        for number, ((kind, columns), items) in enumerate(sorted(layouts.items(), key=lambda kv: kv[0])):
            offset, records, pieces = 0, [], []
            for item, encoded in items:
                p = item.partition
                records.append(
                    [p.symbol, session_number(p.session), p.rows, p.content_hash, p.first_close_time, p.last_close_time,
                     p.source, p.written_wall, p.superseded_wall, offset, encoded.meta]
                )  # fmt: skip
                pieces.append(Piece(p.symbol, p.rows, encoded.arrays))
                offset += p.rows
            note = json.dumps({"kind": kind, "columns": columns, "records": records}, separators=(",", ":"))
            path = f"{folder}/{max(r[8] for r in records):016d}-{number}-{os.urandom(4).hex()}.parquet"
            paths.append(path)
            write_part(place.storage, path, pieces, place.codec.writer_options(kind, columns), {NOTE: note})
        if layouts:
            place.storage.sync_folder(folder)
            step("superseded_written")
    except OSError as error:
        for path in paths:
            with suppress(OSError):
                place.storage.delete(path)
        where = place.storage.where(folder)
        raise LakeWriteFailed(
            f"{where}: cannot keep what is replaced ({error}); nothing was replaced, free space and write again"
        ) from error
    return paths


def periods(place: Place) -> list[str]:
    """Periods that have replaced rows."""
    return place.storage.folders(f"{place.dataset}/{FOLDER}")


def kept(place: Place, period: str, where: Callable[[str, int], bool] | None = None) -> list[Kept]:
    """What is kept of a period and `where` (symbol, session number) says yes to, newest first. Raises CorruptPartition.

    A file whose writing was cut off does not have its name yet and is passed over.
    """
    folder = folder_of(place.dataset, period)
    found: dict[tuple[str, int, str, int], Kept] = {}
    for file in place.storage.files(folder):
        if not file.name.endswith(".parquet"):
            continue
        path = f"{folder}/{file.name}"
        try:
            text, size, groups = place.reader.note(path, NOTE)
        except FileNotFoundError:  # merged into another file since the folder was listed
            continue
        note = json.loads(text)
        part = Part(file.name, note["kind"], size, groups, tuple(note["columns"]))
        for symbol, session, rows, digest, first, last, source, wall, until, offset, meta in note["records"]:
            if where is not None and not where(symbol, session):
                continue
            partition = Partition(
                place.dataset, session_date(session), symbol, rows, digest, first, last, source, wall, superseded_wall=until
            )
            one = Kept(partition, path, part, offset, tuple(meta))
            # The same version in two files: a write that failed after keeping it and was repeated, or a merge cut short.
            other = found.get(one.key)
            if other is None or other.partition.superseded_wall < until:
                found[one.key] = one
    return sorted(found.values(), key=lambda k: (-k.partition.superseded_wall, k.partition.symbol, k.partition.session))


def rows_of(place: Place, one: Kept) -> Rows:
    """Raises FileNotFoundError (merged or removed meanwhile), CorruptPartition."""
    columns = place.reader.read(one.path, one.part, one.offset, one.offset + one.partition.rows)
    return place.codec.decode(columns, one.part.kind, one.meta, one.part.columns)


def rewrite(place: Place, period: str, stay: Callable[[Kept], bool]) -> tuple[int, int]:
    """Put what `stay` says yes to into as few files as there are layouts and remove the others; (kept, removed).

    The caller holds the period's lock. The new files are there before the old ones go.
    """
    folder = folder_of(place.dataset, period)
    everything = kept(place, period)
    staying = [k for k in everything if stay(k)]
    before = [f"{folder}/{file.name}" for file in place.storage.files(folder)]
    if len(staying) == len(everything) and len(before) <= 1:
        return len(staying), 0
    keep(place, period, [Replaced(k.partition, rows_of(place, k)) for k in staying])
    for path in before:
        place.storage.delete(path)
    if not staying:
        with suppress(OSError):
            place.storage.remove_folder(folder)
    return len(staying), len(everything) - len(staying)


def newest_first(partitions: Iterable[Partition]) -> list[Partition]:
    """The current version first, then by when each stopped counting."""
    return sorted(partitions, key=lambda p: -p.superseded_wall if p.superseded_wall else -(2**63))
