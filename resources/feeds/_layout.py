"""How one file is read, every question answered: what a profile left open has been detected.

A layout is kept with each accepted file, so that reading the file again gives the same bars whatever becomes of the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from resources.feeds._csv_detect import split
from resources.feeds._file_text import Opened, decode
from resources.feeds.protocol import MalformedData
from trading.config_text import ConfigModel
from trading.timeframes import Timeframe

MAX_BROKEN = 10_000
"""More lines than this without the right number of columns mean the separator is wrong."""
EXCERPT = 120


class Block(ConfigModel):
    """Columns of one symbol: a long table has one block, a wide one (a pair of columns levels) one per symbol."""

    symbol: str = ""
    columns: dict[str, list[int]]


class Layout(ConfigModel):
    """Everything needed to read a file. Column positions count from 0. zone "" and stamp date: days, without a clock."""

    kind: Literal["csv", "parquet"]
    encoding: str = "utf-8"
    separator: str = ","
    quote: str = '"'
    decimal: str = "."
    thousands: str = "none"
    header_lines: int = 0
    skip_lines: int = 0
    comment: str | None = None
    width: int = 0
    missing: list[str] = Field(default_factory=list)
    time_columns: list[int] = Field(default_factory=list)
    time_format: str = ""
    epoch: str = ""
    since_midnight: str = ""
    day: str = ""
    zone: str = ""
    ambiguous: str = "refuse"
    nonexistent: str = "refuse"
    stamp: Literal["start", "end", "date"] = "date"
    blocks: list[Block] = Field(default_factory=list)
    symbol: str = ""
    symbol_column: int | None = None
    rename: dict[str, str] = Field(default_factory=dict)
    timeframe: Timeframe = Timeframe.D1
    price_scale: float = 1.0
    volume_unit: float = 1.0
    adjustment: str = "none"
    extended_hours: bool | None = None
    no_volume: bool = False


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no bar. line: 1-based line of the text (row of a Parquet file)."""

    line: int
    symbol: str
    text: str
    reason: str
    advice: str


@dataclass(slots=True, eq=False)
class Grid:
    """A file's cells. columns: Arrow arrays of one length, text for CSV; header: lines of names; broken: lines that are no rows.

    parsed: what was made of the cells so far.
    """

    where: str
    kind: str
    encoding: str
    header: list[list[str]]
    columns: list[Any]
    broken: list[BadRow] = field(default_factory=list)
    parsed: dict[Any, Any] = field(default_factory=dict)
    _data: bytes = b""
    _first_line: int = 1
    _kept: NDArray[np.int64] | None = None
    _broken_at: list[int] = field(default_factory=list)
    _lines: list[bytes] | None = None

    @property
    def rows(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    @property
    def names(self) -> list[str]:
        """One name per column, "" where the header has none."""
        names = self.header[0] if self.header else []
        return [names[i] if i < len(names) else "" for i in range(len(self.columns))]

    def lines(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Line of the file (1-based) of each row."""
        if self.kind == "parquet":
            return rows + 1
        body = rows
        if self._broken_at:
            every = np.ones(self.rows + len(self._broken_at), bool)
            every[self._broken_at] = False
            body = np.flatnonzero(every)[rows]
        return self._kept[body] if self._kept is not None else body + self._first_line

    def excerpt(self, row: int) -> str:
        """The row as it stands in the file, cut after EXCERPT characters."""
        if self.kind == "parquet":
            text = ", ".join(f"{n or i}={c[row].as_py()}" for i, (n, c) in enumerate(zip(self.names, self.columns, strict=True)))
            return _cut(text)
        if self._lines is None:
            self._lines = self._data.split(b"\n")
        return _cut(self._lines[int(self.lines(np.array([row]))[0]) - 1].decode(errors="replace"))

    def bad(self, rows: NDArray[np.int64], symbol: str, reason: str, advice: str) -> list[BadRow]:
        """A BadRow for each of `rows`."""
        return [
            BadRow(int(line), symbol, self.excerpt(int(row)), reason, advice)
            for row, line in zip(rows, self.lines(rows), strict=True)
        ]


def _cut(text: str) -> str:
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def clean_lines(data: bytes, skip: int, comment: str | None) -> tuple[list[bytes] | None, NDArray[np.int64] | None]:
    """Lines that are rows or header, and their 1-based numbers; (None, None) when nothing has to be taken out."""
    mark = comment.encode() if comment else None
    dirty = b"\n\n" in data or data.startswith(b"\n") or b"\n " in data or b"\n\t" in data
    if not dirty and not (mark and (data.startswith(mark) or b"\n" + mark in data)):
        return None, None
    lines = data.split(b"\n")
    keep = [i for i in range(skip, len(lines)) if lines[i].strip() and not (mark and lines[i].startswith(mark))]
    return [lines[i] for i in keep], np.array(keep, np.int64) + 1


def read_csv_grid(opened: Opened, data: bytes, encoding: str, layout: Layout) -> Grid:
    """The cells of a CSV text by the layout's dialect (separator, quote, header_lines, skip_lines, comment, width).

    data: UTF-8 with \\n line ends. Lines with another number of fields become `broken`. Raises MalformedData.
    """
    import pyarrow as pa
    from pyarrow import csv

    lines, kept = clean_lines(data, layout.skip_lines, layout.comment)
    head = layout.header_lines
    if lines is None:
        at = 0
        for _ in range(layout.skip_lines + head):
            at = data.find(b"\n", at) + 1
            if at == 0:
                at = len(data)
                break
        body, first = data[at:], layout.skip_lines + head + 1
        header_text = data[:at].split(b"\n")[layout.skip_lines : layout.skip_lines + head]
    else:
        header_text, body, first = lines[:head], b"\n".join(lines[head:]), 1
        kept = kept[head:] if kept is not None else None
    header = [split(x.decode(), layout.separator, layout.quote) for x in header_text]
    if not body.strip():
        raise MalformedData(f"{opened.where}: a header and no row")
    broken_at: list[int] = []
    texts: list[tuple[int, str]] = []

    def broken(row: Any) -> str:
        if len(broken_at) >= MAX_BROKEN:
            return "error"
        broken_at.append(int(row.number) - 1)
        texts.append((int(row.actual_columns), str(row.text)))
        return "skip"

    names = [str(i) for i in range(layout.width)]
    try:
        table = csv.read_csv(
            pa.BufferReader(body),
            read_options=csv.ReadOptions(column_names=names, use_threads=False, block_size=1 << 22),
            parse_options=csv.ParseOptions(
                delimiter=layout.separator, quote_char=layout.quote, invalid_row_handler=broken, ignore_empty_lines=True
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[], strings_can_be_null=False
            ),
        ).combine_chunks()
    except (pa.ArrowException, ValueError) as error:
        raise MalformedData(
            f"{opened.where}: no table of {layout.width} columns ({str(error)[:200]}); is the separator right?"
        ) from None
    columns = [_flat(table.column(i)) for i in range(layout.width)]
    grid = Grid(opened.where, "csv", encoding, header, columns, [], {}, data, first, kept, broken_at)
    for at, (count, text) in zip(broken_at, texts, strict=True):
        line = int(kept[at]) if kept is not None else at + first
        reason = f"{count} columns, expected {layout.width}"
        grid.broken.append(BadRow(line, "", _cut(text), reason, "mend or remove the line"))
    return grid


def read_parquet_grid(opened: Opened) -> Grid:
    """The columns of a Parquet file; a data frame's column levels become header lines. Raises MalformedData."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(pa.BufferReader(opened.data))
    except (pa.ArrowException, OSError) as error:
        raise MalformedData(f"{opened.where}: not a whole Parquet file ({str(error)[:200]}); fetch it again") from None
    if not table.num_rows:
        raise MalformedData(f"{opened.where}: no row")
    flat = table.flatten().combine_chunks()
    return Grid(opened.where, "parquet", "", _levels(flat.column_names), [_flat(flat.column(i)) for i in range(flat.num_columns)])


def _levels(names: Sequence[str]) -> list[list[str]]:
    """Header lines of column names; pandas writes the levels of a name as the text of a tuple."""
    import ast

    split_names: list[tuple[str, ...]] = []
    for name in names:
        parts: tuple[str, ...] = (name,)
        if name.startswith("(") and name.endswith(")"):
            try:
                value = ast.literal_eval(name)
                parts = tuple(str(p) for p in value) if isinstance(value, tuple) else parts
            except (ValueError, SyntaxError):
                pass
        split_names.append(parts)
    depth = max(len(p) for p in split_names)
    return [[p[level] if level < len(p) else "" for p in split_names] for level in range(depth)]


def _flat(column: Any) -> Any:
    """A chunked Arrow column as one array, dictionaries decoded, large strings made plain."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def grid_of(opened: Opened, layout: Layout) -> Grid:
    """The cells of a file by a layout that is complete."""
    if layout.kind == "parquet":
        return read_parquet_grid(opened)
    data, encoding = decode(opened, layout.encoding)
    return read_csv_grid(opened, data, encoding, layout)


def numbers(column: Any, layout: Layout) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(values, bad) of a column: NaN where missing; bad where the text is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(column.type):
        try:
            values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            return np.full(len(column), np.nan), np.ones(len(column), bool)
        return values, np.zeros(len(values), bool)
    words = pa.array(layout.missing or [""], pa.string())
    text = pc.if_else(pc.is_in(column, value_set=words), pa.scalar(None, pa.string()), column)
    if layout.thousands == "none" and layout.decimal == ".":
        try:
            return pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False), np.zeros(len(column), bool)
        except pa.ArrowException:
            pass
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, value_set=words), pa.scalar(None, pa.string()), text)
    if layout.thousands != "none":
        # Only where it stands between groups of three: 1,23 is no number with thousands.
        sign = {".": r"\.", " ": " "}.get(layout.thousands, layout.thousands)
        grouped = pc.match_substring_regex(text, rf"^[-+]?\d{{1,3}}({sign}\d{{3}})+([^\d].*)?$")
        text = pc.if_else(grouped, pc.replace_substring(text, layout.thousands, ""), text)
    if layout.decimal == ",":
        # A point that stands for nothing must not become a decimal sign.
        text = pc.if_else(pc.match_substring(text, "."), "?", text)
        text = pc.replace_substring(text, ",", ".", max_replacements=1)
    fine = pc.match_substring_regex(text, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    bad = pc.invert(fine).fill_null(False).to_numpy(zero_copy_only=False)
    values = pc.cast(pc.if_else(fine, text, pa.scalar(None, pa.string())), pa.float64()).to_numpy(zero_copy_only=False)
    return values, bad
