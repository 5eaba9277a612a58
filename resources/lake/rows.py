"""Rows on their way into the lake: checked, merged with what is held."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from resources.lake import periods
from resources.lake.codec import BAR_VALUES, Codec, Rows
from resources.lake.commit import SymbolRows
from resources.lake.errors import CorruptPartition, HotConflict, LakeError
from resources.lake.manifest import REPAIR, Manifest
from resources.lake.model import FeatureFrame
from resources.lake.parts import PartReader
from resources.lake.periods import DatasetName
from trading.bars import Bars
from trading.timeframes import iso, session_date, session_number


def _check_rows(where: str, rows: Rows, start: date, end: date) -> Rows:
    times, sessions = rows["close_time"], rows["session"]
    if len(times) == 0:
        return rows
    if not bool(np.all(np.diff(times) > 0)):
        raise LakeError(f"{where}: close_time must ascend without repeats")
    if not bool(np.all(np.diff(sessions) >= 0)):
        raise LakeError(f"{where}: a session must not go back while close_time goes on")
    lo, hi = session_number(start), session_number(end)
    if int(sessions[0]) < lo or int(sessions[-1]) > hi:
        first, last = session_date(int(sessions[0])), session_date(int(sessions[-1]))
        raise LakeError(f"{where}: sessions {first} to {last} reach outside the written range {start} to {end}")
    return rows


def bar_rows(name: DatasetName, symbol: str, bars: Bars, start: date, end: date) -> Rows:
    where = f"{name.name} {symbol}"
    if bars.symbol != symbol or bars.timeframe is not name.timeframe:
        raise LakeError(f"{where}: got bars of {bars.symbol} {bars.timeframe}")
    rows: Rows = {"close_time": np.asarray(bars.close_time, np.int64), "session": np.asarray(bars.session, np.int32)}
    rows.update({c: np.asarray(getattr(bars, c), np.float64) for c in BAR_VALUES})
    return _check_rows(where, rows, start, end)


def feature_rows(name: DatasetName, frame: FeatureFrame, start: date, end: date) -> Rows:
    where = f"{name.name} {frame.symbol}"
    values = np.asarray(frame.values, np.float64)
    shape = (len(frame.close_time), len(frame.names))
    if values.shape != shape or len(set(frame.names)) != len(frame.names) or len(frame.session) != shape[0]:
        raise LakeError(f"{where}: values {values.shape}, expected {shape} with distinct names")
    rows: Rows = {"close_time": np.asarray(frame.close_time, np.int64), "session": np.asarray(frame.session, np.int32)}
    rows.update({n: np.ascontiguousarray(values[:, i]) for i, n in enumerate(frame.names)})
    return _check_rows(where, rows, start, end)


def merge_closes(name: DatasetName, symbol: str, held: Rows, new: Rows) -> Rows | None:
    """`held` with the closes of `new` it lacks, None when it lacks none. Raises HotConflict."""
    at = np.searchsorted(held["close_time"], new["close_time"])
    known = np.zeros(len(new["close_time"]), bool)
    inside = at < len(held["close_time"])
    known[inside] = held["close_time"][at[inside]] == new["close_time"][inside]
    for column in BAR_VALUES:
        old, offered = held[column][at[known]], new[column][known]
        differs = old.view(np.int64) != np.ascontiguousarray(offered).view(np.int64)
        if differs.any():
            i = int(np.flatnonzero(differs)[0])
            when = iso(int(new["close_time"][known][i]))
            raise HotConflict(
                f"{name.name} {symbol} {when}: {column} held {old[i]!r}, offered {offered[i]!r}; the held bar stays"
            )
    if known.all():
        return None
    fresh = {c: np.concatenate([held[c], v[~known]]) for c, v in new.items()}
    order = np.argsort(fresh["close_time"], kind="stable")
    return {c: v[order] for c, v in fresh.items()}


def replaced_rows(
    reader: PartReader,
    folder: Path,
    old: Manifest | None,
    symbol: str,
    rows: Rows,
    lo: int,
    hi: int,
    write: tuple[str, int],
    codec: Codec,
    tag: str,
) -> SymbolRows | None:
    """All rows of `symbol` in the period after the replacement; None when nothing changes."""
    sessions, starts = periods.runs(rows["session"])
    hashes = codec.hashes(symbol, rows, starts, tag)
    entry = old.symbols.get(symbol) if old else None
    if old is None or entry is None:
        if not sessions:
            return None
        return SymbolRows(rows, sessions, np.diff(starts).tolist(), hashes, [write] * len(sessions))
    inside = [i for i, s in enumerate(entry.sessions) if lo <= s <= hi]
    if [(entry.sessions[i], entry.hashes[i]) for i in inside] == list(zip(sessions, hashes, strict=True)):
        return None
    known = {(entry.sessions[i], entry.hashes[i]): old.writes[entry.write[i]] for i in inside}
    writes = [known.get(key, write) for key in zip(sessions, hashes, strict=True)]
    before = [i for i, s in enumerate(entry.sessions) if s < lo]
    after = [i for i, s in enumerate(entry.sessions) if s > hi]
    pieces = [rows]
    if before or after:
        part, offsets = old.parts[entry.part], entry.starts()
        try:
            table = reader.read(folder / part.file, part, entry.offset, entry.offset + offsets[-1])
        except FileNotFoundError as error:
            raise CorruptPartition(f"{folder / part.file}: named by its manifest but not there; {REPAIR}") from error
        all_old = codec.decode(table, part.kind, entry.meta, part.columns)
        a, b = offsets[len(before)], offsets[len(entry.sessions) - len(after)]
        if sessions and tuple(all_old) != tuple(rows):
            raise LakeError(
                f"{folder}: {symbol} holds other columns outside the written range; write whole periods when features change"
            )
        pieces = [
            {c: v[:a] for c, v in all_old.items()},
            *([rows] if sessions else []),
            {c: v[b:] for c, v in all_old.items()},
        ]
    joined = pieces[0] if len(pieces) == 1 else {c: np.concatenate([p[c] for p in pieces]) for c in pieces[0]}
    return SymbolRows(
        joined,
        [entry.sessions[i] for i in before] + sessions + [entry.sessions[i] for i in after],
        [entry.rows[i] for i in before] + np.diff(starts).tolist() + [entry.rows[i] for i in after],
        [entry.hashes[i] for i in before] + hashes + [entry.hashes[i] for i in after],
        [old.writes[entry.write[i]] for i in before] + writes + [old.writes[entry.write[i]] for i in after],
    )
