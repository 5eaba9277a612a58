"""Part files: one Parquet file of encoded rows, symbol after symbol, never changed once a manifest names it.

Any Parquet reader can open one: the columns are ``symbol`` (string), ``close_time`` (UTC us), ``session`` (days since
1970-01-01) and the codec's value columns. Pages carry checksums, which every read here verifies.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resources.lake.errors import CorruptPartition
from resources.lake.manifest import REPAIR, Part

GROUP_ROWS = 4096
"""Rows a row group holds at least, where there are that many: small enough to prune to a symbol, large enough to pack."""


def write_part(
    path: Path, symbols: list[tuple[str, int]], columns: dict[str, list[NDArray[Any]]], options: dict[str, Any]
) -> tuple[int, ...]:
    """Write rows of `symbols` (name, rows) and fsync. Returns the rows of each row group; raises OSError."""
    index = np.repeat(np.arange(len(symbols), dtype=np.int32), [rows for _, rows in symbols])
    names = pa.DictionaryArray.from_arrays(pa.array(index), pa.array([s for s, _ in symbols], pa.string()))
    arrays = {"symbol": names, **{name: pa.chunked_array(parts) for name, parts in columns.items()}}
    table = pa.table(arrays)
    groups: list[int] = []
    pending = 0
    for _, rows in symbols:
        pending += rows
        if pending >= GROUP_ROWS:
            groups.append(pending)
            pending = 0
    if pending:
        groups.append(pending)
    with (
        pa.OSFile(str(path), "wb") as file,
        pq.ParquetWriter(
            file,
            table.schema,
            use_dictionary=["symbol"],
            write_statistics=["symbol", "close_time", "session"],
            write_page_checksum=True,
            store_schema=False,
            **options,
        ) as writer,
    ):
        row = 0
        for rows in groups:
            writer.write_table(table.slice(row, rows), row_group_size=rows)
            row += rows
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return tuple(groups)


class PartReader:
    """Reads rows of part files; footers are kept, because a named part never changes."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._lock = Lock()
        self._footers: OrderedDict[tuple[str, int, int], pq.FileMetaData] = OrderedDict()

    def read(self, path: Path, part: Part, start: int, stop: int) -> pa.Table:
        """Rows [start, stop) of `part`, every column but the symbol. Raises FileNotFoundError, CorruptPartition."""
        first, last, skip = _cover(part.groups, start, stop)
        try:
            stat = os.stat(path)
            with pa.OSFile(str(path), "rb") as file:  # Arrow's own file: no Python call per column read
                if stat.st_size != part.size:
                    raise CorruptPartition(f"{path}: {stat.st_size} bytes, its manifest says {part.size}: torn write; {REPAIR}")
                key = (str(path), stat.st_ino, stat.st_mtime_ns)
                footer = self._footers.get(key)
                reader = pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)
                if footer is None:
                    self._remember(key, reader.metadata, path, part)
                wanted = [name for name in reader.metadata.schema.names if name != "symbol"]
                table = reader.read_row_groups(range(first, last), columns=wanted, use_threads=False)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CorruptPartition(f"{path}: not readable as Parquet ({error}); {REPAIR}") from error
        return table.slice(start - skip, stop - start)

    def _remember(self, key: tuple[str, int, int], footer: pq.FileMetaData, path: Path, part: Part) -> None:
        if footer.num_rows != part.rows or footer.num_row_groups != len(part.groups):
            raise CorruptPartition(f"{path}: {footer.num_rows} rows, its manifest says {part.rows}; {REPAIR}")
        with self._lock:
            self._footers[key] = footer
            while len(self._footers) > self._limit:
                self._footers.popitem(last=False)


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
