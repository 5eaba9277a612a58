"""The lake: 20 million minutes of 100 symbols written and read, against one plain Parquet file of them.

write, read: rows a second; write's reference is pyarrow's own writer with its defaults, which neither hashes nor syncs.
write_floor: what of a write no layout avoids, one thread: pyarrow alone writing the very columns the lake writes, and
SHA-256 alone over the same bytes (floor_pyarrow, floor_sha256); its ratio is the processor time of a whole write, with its
checks, manifests, syncs and renames, over that.
symbol_day_ms and symbol_year_ms: one read with the manifests known; *_cold_ms: the first read of a process.
bytes_per_row: all part files; bytes_per_row_us_equities: real minutes, where the market data is there.
append_hot_*_ms: one bar of each symbol added to the session being traded. peak_memory: of a write, reference: its input.
features_*: rows of the whole feature set; features_from_bars: read from the lake, computed and written back to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np

from bench.core import (
    Row,
    Timing,
    at_least,
    at_most,
    best_of,
    best_of_pair,
    forget_peak_memory,
    peak_memory_mb,
    rate,
    timed,
    timed_pair,
)
from bench.reference_data import megabytes, read_plain_parquet, stock, walk, write_plain_parquet
from resources.lake import FeatureFrame, Lake
from trading.bars import Bars
from trading.calendars import calendar
from trading.features import NAMES, compute_anchored
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_number

_FLOOR_SYMBOLS = 20


def run(quick: bool) -> Iterator[Row]:
    symbols = [f"S{i:03d}" for i in range(10 if quick else 100)]
    start, end = date(2017, 1, 1), date(2017, 2, 28) if quick else date(2019, 1, 31)
    year = date(2017, 12, 31)
    bars = {s: walk(s, start, end, i) for i, s in enumerate(symbols)}
    instruments = {s: stock(s) for s in symbols}
    rows = sum(len(b) for b in bars.values())
    room = Path(tempfile.mkdtemp(prefix="tapeline-bench-"))
    plain, numbers = room / "plain.parquet", count()

    def write() -> Lake:
        lake = Lake(room / f"lake-{next(numbers)}")
        lake.write_bars("bars_1m", bars, start=start, end=end, source="bench", instruments=instruments)
        return lake

    try:
        some = symbols[0]
        Lake(room / "warm").write_bars(
            "bars_1m", {some: bars[some]}, start=start, end=end, source="bench", instruments=instruments
        )
        ours, theirs = timed_pair(write, lambda: write_plain_parquet(plain, bars), 2 if quick else 3)
        yield rate("write", rows, "rows/s", ours, theirs, at_least(10e6))
        yield from _floor(bars, instruments, ours.cpu / rows, start)
        forget_peak_memory()
        lake = write()
        yield Row("peak_memory", peak_memory_mb(), "MB", megabytes(bars.values()))

        def read_all() -> int:
            return sum(len(lake.read_bars("bars_1m", s)) for s in symbols)

        took, got = timed(read_all, 3)
        if got != rows:
            raise AssertionError(f"read {got} rows of {rows}")
        yield rate("read", rows, "rows/s", took)
        root = Path(lake.storage.url)
        size = sum(f.stat().st_size for f in root.rglob("*.parquet")) / rows
        manifests = sum(f.stat().st_size for f in root.rglob("*.json")) / rows
        standard = plain.stat().st_size / rows
        yield Row("bytes_per_row", size, "B", standard, size / standard, goal=at_most(5))
        yield Row("manifest_bytes_per_row", manifests, "B")

        day, symbol = date(2017, 2, 16), symbols[len(symbols) // 2]
        seconds, other = best_of_pair(
            lambda: lake.read_bars("bars_1m", symbol, day, day),
            lambda: read_plain_parquet(plain, symbol, session_number(day)),
            9,
        )
        yield Row("symbol_day_ms", seconds * 1e3, "ms", other * 1e3, seconds / other, goal=at_most(3))
        seconds, other = best_of_pair(
            lambda: lake.read_bars("bars_1m", symbol, start, year),
            lambda: read_plain_parquet(plain, symbol, None, session_number(year)),
            9,
        )
        yield Row("symbol_year_ms", seconds * 1e3, "ms", other * 1e3, seconds / other, goal=at_most(10))

        def cold(first: date, last: date) -> None:
            lake.clear_cache()
            lake.read_bars("bars_1m", symbol, first, last)

        yield Row("symbol_day_cold_ms", best_of(lambda: cold(day, day), 5)[0] * 1e3, "ms")
        yield Row("symbol_year_cold_ms", best_of(lambda: cold(start, year), 5)[0] * 1e3, "ms")
        for many in (9, len(symbols)):
            yield Row(f"append_hot_{many}_symbols_ms", _append(Lake(room / f"hot-{many}"), symbols[:many]), "ms")
    finally:
        shutil.rmtree(room, ignore_errors=True)
    bars.clear()
    yield from _features(quick)
    yield from _real()


def _floor(bars: dict[str, Bars], instruments: dict[str, Instrument], cost: float, start: date) -> Iterator[Row]:
    """Rows a second of pyarrow and of SHA-256 alone on the first month; cost: processor seconds a row of a whole write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from resources.lake.bar_codec import BarCodec
    from resources.lake.parts import STATISTICS

    codec = BarCodec(Timeframe.M1, instruments)
    last = session_number(date(start.year, start.month, 28))
    tables, raw, kind = [], [], ""
    for symbol, b in list(bars.items())[:_FLOOR_SYMBOLS]:
        month = b.rows(slice(0, int(np.searchsorted(b.session, last, side="right"))))
        columns = {n: getattr(month, n) for n in ("close_time", "session", "open", "high", "low", "close", "volume")}
        encoded = codec.encode(symbol, columns)
        kind = encoded.kind
        index = pa.array(np.zeros(len(month), np.int8))
        names = pa.DictionaryArray.from_arrays(index, pa.array([symbol], pa.string()))
        stored = {"symbol": names} | {name: pa.array(array) for name, array in encoded.arrays.items()}
        schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in stored.items()])
        tables.append(pa.Table.from_arrays(list(stored.values()), schema=schema))
        raw.append(b"".join(np.ascontiguousarray(c).tobytes() for c in columns.values()))
    rows = sum(len(t) for t in tables)
    options = codec.writer_options(kind, ())

    def write() -> None:
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink, tables[0].schema, use_dictionary=["symbol"], write_statistics=STATISTICS, write_page_checksum=True,
            store_schema=False, **options,
        ) as writer:  # fmt: skip
            for table in tables:
                writer.write_table(table, row_group_size=len(table))

    def digest() -> None:
        for b in raw:
            hashlib.sha256(b).digest()

    writing, hashing = timed_pair(write, digest, 9)
    both = Timing(writing.wall + hashing.wall, writing.cpu + hashing.cpu)
    yield rate("floor_pyarrow", rows, "rows/s", writing)
    yield rate("floor_sha256", rows, "rows/s", hashing)
    yield Row("write_floor", rows / both.wall, "rows/s", ratio=cost * rows / both.cpu, per_cpu=rows / both.cpu)


def _features(quick: bool) -> Iterator[Row]:
    """The feature set of many minutes, as rows of one column per feature."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start, end = date(2017, 1, 1), date(2017, 1, 31) if quick else date(2017, 6, 30)
    cal = calendar("XNYS")
    bars = {s: walk(s, start, end, i) for i, s in enumerate(f"S{i:03d}" for i in range(2 if quick else 10))}

    def frame_of(b: Bars) -> FeatureFrame:
        return FeatureFrame(b.symbol, NAMES, b.close_time, b.session, compute_anchored(b, cal)[1], "bench")

    frames = [frame_of(b) for b in bars.values()]
    rows = sum(len(f) for f in frames)
    columns = {name: np.concatenate([f.column(name) for f in frames]) for name in NAMES}
    columns["symbol"] = np.repeat([f.symbol for f in frames], [len(f) for f in frames])
    table = pa.table({**columns, "close_time": np.concatenate([f.close_time for f in frames])})
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder:
        plain, numbers = Path(folder) / "plain.parquet", count()
        source = Lake(Path(folder) / "bars")
        instruments = {s: stock(s) for s in bars}
        source.write_bars("bars_1m", bars, start=start, end=end, source="bench", instruments=instruments)

        def write(made: list[FeatureFrame]) -> Lake:
            lake = Lake(Path(folder) / f"lake-{next(numbers)}")
            lake.write_feature_frames("features_1m", made, start=start, end=end)
            return lake

        lake = write(frames)
        ours, theirs = timed_pair(lambda: write(frames), lambda: pq.write_table(table, plain, row_group_size=131_072), 3)
        yield rate("features_write", rows, "rows/s", ours, theirs, at_least(1e6))
        took, _ = timed(lambda: write([frame_of(source.read_bars("bars_1m", s)) for s in bars]), 3)
        yield rate("features_from_bars", rows, "rows/s", took, goal=at_least(1e6))
        ours, theirs = timed_pair(
            lambda: [lake.read_features("features_1m", f.symbol) for f in frames], lambda: pq.read_table(plain), 3
        )
        yield rate("features_read", rows, "rows/s", ours, theirs)
        size = sum(f.stat().st_size for f in Path(lake.storage.url).rglob("*.parquet")) / rows
        standard = plain.stat().st_size / rows
        yield Row("features_bytes_per_row", size, "B", standard, size / standard)


def _append(lake: Lake, symbols: list[str]) -> float:
    day = date(2018, 1, 2)
    bars = [walk(s, day, day, i) for i, s in enumerate(symbols)]
    instruments = {s: stock(s) for s in symbols}
    taken = []
    for i in range(100):
        start = time.perf_counter()
        lake.append_hot("bars_1m", day, [b.rows(slice(i, i + 1)) for b in bars], source="bench", instruments=instruments)
        taken.append(time.perf_counter() - start)
    return median(taken) * 1e3


def _real() -> Iterator[Row]:
    """Bytes a row of real US minutes, from the LEAN sample when it is there."""
    from resources.feeds.lean import LeanFeed

    folder = Path(os.environ.get("TAPELINE_TEST_MARKET_DATA", "../shared/market-data")) / "lean" / "Data"
    if not folder.is_dir():
        return
    feed = LeanFeed(folder)
    start, end = date(2013, 10, 4), date(2013, 10, 11)
    bars: dict[str, Bars] = {s: feed.history(stock(s), Timeframe.M1, start, end) for s in ("AIG", "BAC", "IBM")}
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as room:
        lake = Lake(Path(room))
        lake.write_bars("bars_1m", bars, start=start, end=end, source="lean", instruments={s: stock(s) for s in bars})
        size = sum(f.stat().st_size for f in Path(lake.storage.url).rglob("*.parquet"))
    yield Row("bytes_per_row_us_equities", size / sum(len(b) for b in bars.values()), "B", goal=at_most(5))
