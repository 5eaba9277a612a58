"""Part files: one Parquet file of encoded rows, symbol after symbol, never changed once a manifest names it.

Any Parquet reader can open one: the columns are ``symbol`` (string), ``close_time`` (UTC us), ``session`` (days since
1970-01-01) and the codec's value columns. Pages carry checksums, which every read here verifies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resources.lake.codec import Rows
from resources.lake.errors import CorruptPartition, StorageFailed
from resources.lake.manifest import REPAIR, Part
from resources.lake.storage import Storage

GROUP_ROWS = 4096
"""Rows a row group holds at least, where there are that many: small enough to prune to a symbol, large enough to pack."""
WIDEST_GROUP_ROWS = 16384
"""A symbol with more rows gets several row groups: a session of it is then found without reading all of them."""
STATISTICS = ["symbol", "close_time", "session"]

_Kinds = dict[str, tuple[pa.DataType, np.dtype[Any]]]
"""Of each value column, what it is to Arrow and to numpy."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Encoded rows of one symbol."""

    symbol: str
    rows: int
    arrays: dict[str, NDArray[Any]]


def write_part(
    storage: Storage, path: str, pieces: Sequence[Piece], options: dict[str, Any], note: dict[str, str] | None = None
) -> tuple[int, tuple[int, ...]]:
    """Write `pieces` durably. Returns (bytes, rows of each row group); raises OSError. note: text kept in the file's footer."""
    types = {name: array.dtype for name, array in pieces[0].arrays.items()}
    row_groups = list(_groups(pieces))
    # Of a symbol within its row group, which has at most GROUP_ROWS of them. One byte where it does: what is written is the
    # same, but the statistics are found by a table look-up.
    index_type = np.dtype(np.int8 if max(map(len, row_groups), default=0) <= 128 else np.int16)
    # Not nullable: no definition levels, which cost as much to write as the values.
    fields = [pa.field("symbol", pa.dictionary(pa.from_numpy_dtype(index_type), pa.string()), nullable=False)]
    kinds = {name: (pa.from_numpy_dtype(dtype), dtype) for name, dtype in types.items()}
    fields += [pa.field(name, kind, nullable=False) for name, (kind, _) in kinds.items()]
    schema = pa.schema(fields)
    # All made before the first is written: between two of them the processor's cache has forgotten how. Those of one length
    # (a month of full sessions) are handed over in one call, during which other threads have the interpreter.
    tables = [_table(group, schema, kinds, index_type) for group in row_groups]
    with storage.create(path) as file:
        with pq.ParquetWriter(
            file, schema, use_dictionary=["symbol"], write_statistics=STATISTICS, write_page_checksum=True, store_schema=False,
            write_batch_size=WIDEST_GROUP_ROWS, **options,
        ) as writer:  # fmt: skip
            for rows, alike in groupby(tables, len):
                writer.write_table(pa.concat_tables(alike), row_group_size=rows)
            if note:
                writer.add_key_value_metadata(note)
        size = file.tell()
    return size, tuple(len(table) for table in tables)


def _table(group: Sequence[Piece], schema: pa.Schema, kinds: _Kinds, index_type: np.dtype[Any]) -> pa.Table:
    """The rows of one row group."""
    # A dictionary of their own: statistics over one shared dictionary cost more than all other columns.
    if len(group) == 1:
        index = _zeros(index_type).slice(0, group[0].rows)
    else:
        index = pa.array(np.repeat(np.arange(len(group), dtype=index_type), [p.rows for p in group]))
    known = pa.array([p.symbol for p in group], pa.string())
    names = pa.DictionaryArray.from_arrays(index, known, safe=False)
    columns = [names, *(_joined([p.arrays[name] for p in group], *kind) for name, kind in kinds.items())]
    return pa.Table.from_arrays(columns, schema=schema)


@lru_cache(maxsize=2)
def _zeros(kind: np.dtype[Any]) -> pa.Array:
    """What the index of a row group of one symbol is a piece of."""
    return pa.array(np.zeros(WIDEST_GROUP_ROWS, kind))


def _joined(arrays: list[NDArray[Any]], kind: pa.DataType, dtype: np.dtype[Any]) -> pa.Array:
    """The values one behind the other; nothing is copied where there is one array of them."""
    values = np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)
    if values.dtype != dtype:
        raise AssertionError(f"values of {values.dtype} in a column of {kind}")
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)], 0)


def _groups(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces by row group."""
    group: list[Piece] = []
    pending = 0
    for piece in pieces:
        if piece.rows > WIDEST_GROUP_ROWS:
            if group:
                yield group
                group, pending = [], 0
            cuts = -(-piece.rows // WIDEST_GROUP_ROWS)
            bounds = [piece.rows * i // cuts for i in range(cuts + 1)]
            for a, b in pairwise(bounds):
                yield [Piece(piece.symbol, b - a, {name: array[a:b] for name, array in piece.arrays.items()})]
            continue
        group.append(piece)
        pending += piece.rows
        if pending >= GROUP_ROWS:
            yield group
            group, pending = [], 0
    if pending:
        yield group


class PartReader:
    """Reads rows of part files; footers are kept, because a named part never changes."""

    def __init__(self, storage: Storage, limit: int = 512) -> None:
        self._storage = storage
        self._limit = limit
        self._lock = Lock()
        self._footers: OrderedDict[tuple[Any, ...], pq.FileMetaData] = OrderedDict()
        self._remote = not storage.durable_delete

    def read(self, path: str, part: Part, start: int, stop: int) -> Rows:
        """Rows [start, stop) of `part`, every column but the symbol, maybe read-only.

        Raises FileNotFoundError, CorruptPartition.
        """
        first, last, skip = _cover(part.groups, start, stop)
        try:
            opened, size, token = self._storage.open(path)
            with opened as file:
                if size != part.size:
                    raise CorruptPartition(
                        f"{self._storage.where(path)}: {size} bytes, its manifest says {part.size}: torn write; {REPAIR}"
                    )
                key = (path, *token)
                footer = self._footers.get(key)
                reader = pq.ParquetFile(file, metadata=footer, page_checksum_verification=True, pre_buffer=self._remote)
                if footer is None:
                    footer = reader.metadata
                    self._remember(key, footer, path, part)
                # Column 0 is the symbol, which the manifest knows.
                wanted = range(1, footer.num_columns)
                table = reader.reader.read_row_groups(range(first, last), column_indices=wanted, use_threads=False)
        except (FileNotFoundError, StorageFailed):
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            self._if_unreachable(path, error)
            raise CorruptPartition(f"{self._storage.where(path)}: not readable as Parquet ({error}); {REPAIR}") from error
        cut = slice(start - skip, stop - skip)
        return {name: column.to_numpy()[cut] for name, column in zip(table.column_names, table.itercolumns(), strict=True)}

    def note(self, path: str, name: str) -> tuple[str, int, tuple[int, ...]]:
        """(text `name` of the file's footer, its size, rows of each row group). Raises FileNotFoundError, CorruptPartition."""
        try:
            opened, size, token = self._storage.open(path)
            with opened as file:
                key = (path, *token)
                footer = self._footers.get(key)
                if footer is None:
                    footer = pq.read_metadata(file)
                    with self._lock:
                        self._footers[key] = footer
                text = (footer.metadata or {})[name.encode()].decode()
                return text, size, tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        except (FileNotFoundError, StorageFailed):
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            self._if_unreachable(path, error)
            raise CorruptPartition(f"{self._storage.where(path)}: not readable as Parquet ({error}); delete it") from error

    def _if_unreachable(self, path: str, error: Exception) -> None:
        """Raise StorageFailed when it was the way there that failed, not the file."""
        if self._remote and "AWS Error" in str(error):
            raise StorageFailed(f"{self._storage.where(path)}: cannot be read now ({type(error).__name__})") from None

    def _remember(self, key: tuple[Any, ...], footer: pq.FileMetaData, path: str, part: Part) -> None:
        if footer.num_rows != part.rows or footer.num_row_groups != len(part.groups):
            raise CorruptPartition(
                f"{self._storage.where(path)}: {footer.num_rows} rows, its manifest says {part.rows}; {REPAIR}"
            )
        with self._lock:
            self._footers[key] = footer
            while len(self._footers) > self._limit:
                self._footers.popitem(last=False)


def row_groups_of(part: Part, start: int, stop: int) -> tuple[int, int]:
    """[first, after) row groups that hold rows [start, stop) of `part`."""
    return _cover(part.groups, start, stop)[:2]


def _cover(groups: tuple[int, ...], start: int, stop: int) -> tuple[int, int, int]:
    """(first, last + 1) row group that cover rows [start, stop), and the rows before the first."""
    row, first, skip = 0, 0, 0
    for i, rows in enumerate(groups):
        if row + rows <= start:
            first, skip = i + 1, row + rows
        if row + rows >= stop:
            return first, i + 1, skip
        row += rows
    return first, len(groups), skip
