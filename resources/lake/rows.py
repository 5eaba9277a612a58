"""Rows on their way into the lake: checked, merged with what is held."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resources.lake import periods
from resources.lake.bar_codec import BAR_VALUES
from resources.lake.codec import KEYS, Codec, Rows
from resources.lake.commit import NOTHING, Place, SymbolRows
from resources.lake.errors import CorruptPartition, HotConflict, LakeError
from resources.lake.manifest import REPAIR, Manifest, SymbolEntry
from resources.lake.model import FeatureFrame, Partition
from resources.lake.periods import DatasetName
from resources.lake.quote_codec import canonical
from resources.lake.select import partition_of
from resources.lake.superseded import Replaced
from resources.lake.ticks import faults
from trading.bars import Bars
from trading.quotes import QUOTE_COLUMNS, QuoteBars
from trading.timeframes import iso, session_date, session_number


def _check_rows(where: str, rows: Rows, start: date, end: date) -> Rows:
    times, sessions = rows["close_time"], rows["session"]
    if len(times) == 0:
        return rows
    stuck, back, _ = faults(times, sessions)  # type: ignore[call-arg]
    if stuck:
        raise LakeError(f"{where}: close_time must ascend without repeats")
    if back:
        raise LakeError(f"{where}: a session must not go back while close_time goes on")
    lo, hi = session_number(start), session_number(end)
    if int(sessions[0]) < lo or int(sessions[-1]) > hi:
        first, last = session_date(int(sessions[0])), session_date(int(sessions[-1]))
        raise LakeError(f"{where}: sessions {first} to {last} reach outside the written range {start} to {end}")
    return rows


def bar_rows(name: DatasetName, symbol: str, bars: Bars, start: date, end: date) -> Rows:
    """Raises LakeError when the bars do not fit the dataset or the range."""
    where = f"{name.name} {symbol}"
    if bars.symbol != symbol or bars.timeframe is not name.timeframe:
        raise LakeError(f"{where}: got bars of {bars.symbol} {bars.timeframe}")
    rows = _keys(bars.close_time, bars.session)
    rows.update({c: np.asarray(getattr(bars, c), np.float64) for c in (*BAR_VALUES, *bars.extras)})
    return _check_rows(where, rows, start, end)


def quote_rows(name: DatasetName, symbol: str, quotes: QuoteBars, start: date, end: date) -> Rows:
    """Raises LakeError when the quotes do not fit the dataset or the range."""
    where = f"{name.name} {symbol}"
    if quotes.symbol != symbol or quotes.timeframe is not name.timeframe:
        raise LakeError(f"{where}: got quotes of {quotes.symbol} {quotes.timeframe}")
    rows = _keys(quotes.close_time, quotes.session)
    rows.update({c: canonical(getattr(quotes, c)) for c in QUOTE_COLUMNS})
    return _check_rows(where, rows, start, end)


def feature_rows(name: DatasetName, frame: FeatureFrame, start: date, end: date) -> Rows:
    """Raises LakeError when the frame is not well formed or does not fit the range."""
    where = f"{name.name} {frame.symbol}"
    values = np.asarray(frame.values, np.float64)
    shape = (len(frame.close_time), len(frame.names))
    if values.shape != shape or len(set(frame.names)) != len(frame.names) or len(frame.session) != shape[0]:
        raise LakeError(f"{where}: values {values.shape}, expected {shape} with distinct names")
    rows = _keys(frame.close_time, frame.session)
    columns = np.ascontiguousarray(values.T)  # nothing is copied where the values came by column, as the lake gives them
    rows.update(zip(frame.names, columns, strict=True))
    return _check_rows(where, rows, start, end)


def _keys(close_time: NDArray[np.int64], session: NDArray[np.int32]) -> Rows:
    return {"close_time": np.ascontiguousarray(close_time, np.int64), "session": np.ascontiguousarray(session, np.int32)}


def mask_of(optional: Sequence[str], rows: Rows) -> int:
    """Which `optional` columns `rows` have, bit by bit."""
    return sum(1 << i for i, name in enumerate(optional) if name in rows)


def with_mask(optional: Sequence[str], rows: Rows, mask: int) -> Rows:
    """`rows` without the optional columns `mask` lacks."""
    gone = [name for i, name in enumerate(optional) if name in rows and not mask >> i & 1]
    return {c: v for c, v in rows.items() if c not in gone} if gone else rows


def merge_closes(name: DatasetName, symbol: str, held: Rows, new: Rows) -> tuple[Rows, bool] | None:
    """(`held` with the closes of `new` it lacks, were they only added behind?), None when it lacks none.

    An optional column that either lacks is unknown for the whole. Raises HotConflict.
    """
    at = np.searchsorted(held["close_time"], new["close_time"])
    known = np.zeros(len(new["close_time"]), bool)
    inside = at < len(held["close_time"])
    known[inside] = held["close_time"][at[inside]] == new["close_time"][inside]
    for column in (c for c in new if c in held and c not in KEYS):
        old, offered = held[column][at[known]], new[column][known]
        differs = old.view(np.int64) != np.ascontiguousarray(offered).view(np.int64)
        if differs.any():
            i = int(np.flatnonzero(differs)[0])
            when = iso(int(new["close_time"][known][i]))
            raise HotConflict(
                f"{name.name} {symbol} {when}: {column} held {old[i].item()!r}, offered {offered[i].item()!r}; the held bar stays"
            )
    if known.all():
        return None
    columns = [c for c in new if c in held]
    fresh = {c: np.concatenate([held[c], new[c][~known]]) for c in columns}
    behind = int(new["close_time"][~known][0]) > int(held["close_time"][-1])
    if not behind:
        order = np.argsort(fresh["close_time"], kind="stable")
        fresh = {c: v[order] for c, v in fresh.items()}
    return fresh, behind and len(columns) == len(held)


@dataclass(frozen=True, slots=True)
class Stored:
    """All rows a manifest has of one symbol."""

    manifest: Manifest
    entry: SymbolEntry
    rows: Rows
    optional: tuple[str, ...]

    def session(self, i: int) -> Rows:
        """Rows of session `i` with the columns that session has."""
        starts = self.entry.starts()
        rows = {c: v[starts[i] : starts[i + 1]] for c, v in self.rows.items()}
        return with_mask(self.optional, rows, self.entry.mask(i))

    def partition(self, dataset: str, symbol: str, i: int) -> Partition:
        return partition_of(dataset, symbol, self.manifest, self.entry, i)


def stored(place: Place, folder: str, manifest: Manifest, symbol: str) -> Stored:
    """Raises CorruptPartition."""
    entry = manifest.symbols[symbol]
    part = manifest.parts[entry.part]
    path = f"{folder}/{part.file}"
    try:
        columns = place.reader.read(path, part, entry.offset, entry.offset + sum(entry.rows))
    except FileNotFoundError as error:
        raise CorruptPartition(f"{place.storage.where(path)}: named by its manifest but not there; {REPAIR}") from error
    rows = place.codec.decode(columns, part.kind, entry.meta, part.columns)
    return Stored(manifest, entry, rows, place.codec.optional)


@dataclass(frozen=True, slots=True)
class Sessions:
    """New rows of one symbol cut into sessions, with their hashes."""

    rows: Rows
    numbers: list[int]
    starts: list[int]
    hashes: list[str]

    @staticmethod
    def of(codec: Codec, symbol: str, rows: Rows, tag: str) -> Sessions:
        numbers, starts = periods.runs(rows["session"])
        return Sessions(rows, numbers, starts, codec.hashes(symbol, rows, starts, tag))

    def session(self, number: int) -> Rows | None:
        if number not in self.numbers:
            return None
        i = self.numbers.index(number)
        return {c: v[self.starts[i] : self.starts[i + 1]] for c, v in self.rows.items()}


def replaced_by(codec: Codec, symbol: str, new: Sessions, number: int, old_hash: str, old_rows: int) -> bool:
    """Is the content `old_hash` of session `number` lost when `new` takes its place? Not when `new` begins with it."""
    if not old_rows:
        return False
    rows = new.session(number)
    if rows is None or len(rows["close_time"]) < old_rows:
        return True
    return codec.hashes(symbol, {c: v[:old_rows] for c, v in rows.items()}, [0, old_rows], "")[0] != old_hash


def replaced_rows(
    place: Place,
    folder: str,
    old: Manifest | None,
    symbol: str,
    new: Sessions,
    lo: int,
    hi: int,
    write: tuple[str, int],
    keep: bool,
) -> tuple[SymbolRows | None, list[Replaced]]:
    """(all rows of `symbol` in the period after the replacement, what of the old ones must be kept aside).

    The first is None when nothing changes. keep False: nothing is kept aside.
    """
    sessions, starts, rows = new.numbers, new.starts, new.rows
    counts, mask = np.diff(starts).tolist(), mask_of(place.codec.optional, rows)
    entry = old.symbols.get(symbol) if old else None
    if old is None or entry is None:
        if not sessions:
            return None, []
        return SymbolRows(rows, sessions, counts, new.hashes, [write] * len(sessions), [mask] * len(sessions)), []
    inside = [i for i, s in enumerate(entry.sessions) if lo <= s <= hi]
    if [(entry.sessions[i], entry.hashes[i]) for i in inside] == list(zip(sessions, new.hashes, strict=True)):
        return None, []
    known = {(entry.sessions[i], entry.hashes[i]): old.writes[entry.write[i]] for i in inside}
    writes = [known.get(key, write) for key in zip(sessions, new.hashes, strict=True)]
    before = [i for i, s in enumerate(entry.sessions) if s < lo]
    after = [i for i, s in enumerate(entry.sessions) if s > hi]
    lost = (
        [i for i in inside if replaced_by(place.codec, symbol, new, entry.sessions[i], entry.hashes[i], entry.rows[i])]
        if keep
        else []
    )
    held: Stored | None = None
    if before or after or lost:
        try:
            held = stored(place, folder, old, symbol)
        except CorruptPartition:
            if before or after:
                raise
            # All of it is replaced, which is how a torn period is repaired: what cannot be read cannot be kept.
    aside = [
        Replaced(until(held.partition(place.dataset, symbol, i), write[1]), held.session(i)) for i in lost if held is not None
    ]
    pieces: list[tuple[Rows, list[int]]] = [(rows, [mask] * len(sessions))] if sessions else []
    if held is not None and (before or after):
        offsets = entry.starts()
        a, b = offsets[len(before)], offsets[len(entry.sessions) - len(after)]
        head = {c: v[:a] for c, v in held.rows.items()}
        tail = {c: v[b:] for c, v in held.rows.items()}
        pieces = [(head, [entry.mask(i) for i in before]), *pieces, (tail, [entry.mask(i) for i in after])]
    if not pieces:
        return NOTHING, aside
    where = f"{place.storage.where(folder)}: {symbol}"
    masks = [m for _, of_piece in pieces for m in of_piece]
    return SymbolRows(
        _joined(place.codec, where, pieces),
        [entry.sessions[i] for i in before] + sessions + [entry.sessions[i] for i in after],
        [entry.rows[i] for i in before] + counts + [entry.rows[i] for i in after],
        [entry.hashes[i] for i in before] + new.hashes + [entry.hashes[i] for i in after],
        [old.writes[entry.write[i]] for i in before] + writes + [old.writes[entry.write[i]] for i in after],
        masks,
    ), aside


def without_sessions(place: Place, folder: str, old: Manifest, symbol: str, gone: Collection[int]) -> SymbolRows:
    """All rows of `symbol` but those of the sessions `gone`."""
    held = stored(place, folder, old, symbol)
    entry = held.entry
    stay = [i for i, s in enumerate(entry.sessions) if s not in gone]
    if not stay:
        return NOTHING
    starts = entry.starts()
    rows = {c: np.concatenate([v[starts[i] : starts[i + 1]] for i in stay]) for c, v in held.rows.items()}
    return SymbolRows(
        rows,
        [entry.sessions[i] for i in stay],
        [entry.rows[i] for i in stay],
        [entry.hashes[i] for i in stay],
        [old.writes[entry.write[i]] for i in stay],
        [entry.mask(i) for i in stay],
    )


def until(p: Partition, wall: int) -> Partition:
    """`p` as replaced at `wall`."""
    return replace(p, superseded_wall=wall)


def _joined(codec: Codec, where: str, pieces: Sequence[tuple[Rows, list[int]]]) -> Rows:
    """Rows one behind the other, with the masks of their sessions.

    An optional column that some of them lack is filled there; the masks say that it means nothing.
    """
    if len(pieces) == 1:
        return pieces[0][0]
    optional = codec.optional
    for (a, _), (b, _) in pairwise(pieces):
        if [c for c in a if c not in optional] != [c for c in b if c not in optional]:
            raise LakeError(f"{where} holds other columns outside the written range; write whole periods when features change")
    used = 0
    for _, masks in pieces:
        for mask in masks:
            used |= mask
    names = [c for c in pieces[0][0] if c not in optional] + [c for i, c in enumerate(optional) if used >> i & 1]
    filled = [{c: p[c] if c in p else np.zeros(len(p["close_time"])) for c in names} for p, _ in pieces]
    return {c: np.concatenate([p[c] for p in filled]) for c in names}
