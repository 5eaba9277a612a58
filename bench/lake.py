"""The lake: two years of minutes of 100 symbols (19.6M rows) written and read, against one plain Parquet file of them.

write, read: rows a second; the reference is pyarrow's own writer with its defaults, which neither hashes nor syncs.
symbol_day_ms and symbol_year_ms: one read with the manifests known; *_cold_ms: the first read of a process.
bytes_per_row: all part files; bytes_per_row_us_equities: real minutes, where the market data is there.
append_hot_*_ms: one bar of each symbol added to the session being traded. features_write, features_read: rows a second of
the whole feature set. *_cpu: rows a second of processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np

from bench.core import Row, best_of, best_of_pair
from bench.reference_data import read_plain_parquet, stock, walk, write_plain_parquet
from resources.lake import FeatureFrame, Lake
from trading.bars import Bars
from trading.calendars import calendar
from trading.features import NAMES, compute_anchored
from trading.timeframes import Timeframe, session_number


def run(quick: bool) -> Iterator[Row]:
    symbols = [f"S{i:03d}" for i in range(10 if quick else 100)]
    start, end = date(2017, 1, 1), date(2017, 2, 28) if quick else date(2018, 12, 31)
    year = date(2017, 12, 31)
    bars = {s: walk(s, start, end, i) for i, s in enumerate(symbols)}
    instruments = {s: stock(s) for s in symbols}
    rows = sum(len(b) for b in bars.values())
    room = Path(tempfile.mkdtemp(prefix="tapeline-bench-"))
    plain = room / "plain.parquet"
    numbers = iter(range(1000))

    def write() -> Lake:
        lake = Lake(room / f"lake-{next(numbers)}")
        lake.write_bars("bars_1m", bars, start=start, end=end, source="bench", instruments=instruments)
        return lake

    try:
        write()  # compiled and warm
        seconds, theirs = best_of_pair(write, lambda: write_plain_parquet(plain, bars), 3)
        yield Row("write", rows / seconds, "rows/s", rows / theirs, theirs / seconds)
        ours, theirs = _processor_seconds(write), _processor_seconds(lambda: write_plain_parquet(plain, bars))
        yield Row("write_cpu", rows / ours, "rows/s", rows / theirs, theirs / ours)
        lake = write()

        def read_all() -> int:
            return sum(len(lake.read_bars("bars_1m", s)) for s in symbols)

        def read_plain() -> None:
            read_plain_parquet(plain, symbols[0], None)

        seconds, got = best_of(read_all, 3)
        if got != rows:
            raise AssertionError(f"read {got} rows of {rows}")
        yield Row("read", rows / seconds, "rows/s")
        size = sum(f.stat().st_size for f in Path(lake.storage.url).rglob("*.parquet")) / rows
        manifests = sum(f.stat().st_size for f in Path(lake.storage.url).rglob("*.json")) / rows
        standard = plain.stat().st_size / rows
        yield Row("bytes_per_row", size, "B", standard, size / standard)
        yield Row("manifest_bytes_per_row", manifests, "B")

        day, symbol = date(2017, 2, 16), symbols[len(symbols) // 2]
        seconds, theirs = best_of_pair(
            lambda: lake.read_bars("bars_1m", symbol, day, day),
            lambda: read_plain_parquet(plain, symbol, session_number(day)),
            9,
        )
        yield Row("symbol_day_ms", seconds * 1e3, "ms", theirs * 1e3, seconds / theirs)
        seconds, theirs = best_of_pair(
            lambda: lake.read_bars("bars_1m", symbol, start, year),
            lambda: read_plain_parquet(plain, symbol, None, session_number(year)),
            9,
        )
        yield Row("symbol_year_ms", seconds * 1e3, "ms", theirs * 1e3, seconds / theirs)

        def cold(first: date, last: date) -> None:
            lake.clear_cache()
            lake.read_bars("bars_1m", symbol, first, last)

        yield Row("symbol_day_cold_ms", best_of(lambda: cold(day, day), 5)[0] * 1e3, "ms")
        yield Row("symbol_year_cold_ms", best_of(lambda: cold(start, year), 5)[0] * 1e3, "ms")
        for count in (9, len(symbols)):
            yield Row(f"append_hot_{count}_symbols_ms", _append(Lake(room / f"hot-{count}"), symbols[:count]), "ms")
    finally:
        shutil.rmtree(room, ignore_errors=True)
    bars.clear()
    yield from _features(quick)
    yield from _real()


def _processor_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _features(quick: bool) -> Iterator[Row]:
    """The feature set of many minutes, as rows of one column per feature."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start, end = date(2017, 1, 1), date(2017, 1, 31) if quick else date(2017, 6, 30)
    frames = []
    for i in range(2 if quick else 10):
        bars = walk(f"S{i:03d}", start, end, i)
        _, values = compute_anchored(bars, calendar("XNYS"))
        frames.append(FeatureFrame(bars.symbol, NAMES, bars.close_time, bars.session, values, "bench"))
    rows = sum(len(f) for f in frames)
    columns = {name: np.concatenate([f.column(name) for f in frames]) for name in NAMES}
    columns["symbol"] = np.repeat([f.symbol for f in frames], [len(f) for f in frames])
    table = pa.table({**columns, "close_time": np.concatenate([f.close_time for f in frames])})
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder:
        room, numbers = Path(folder), iter(range(1000))
        plain = room / "plain.parquet"

        def write() -> Lake:
            lake = Lake(room / f"lake-{next(numbers)}")
            lake.write_feature_frames("features_1m", frames, start=start, end=end)
            return lake

        lake = write()
        seconds, theirs = best_of_pair(write, lambda: pq.write_table(table, plain, row_group_size=131_072), 3)
        yield Row("features_write", rows / seconds, "rows/s", rows / theirs, theirs / seconds)
        ours, theirs = _processor_seconds(write), _processor_seconds(lambda: pq.write_table(table, plain, row_group_size=131_072))
        yield Row("features_write_cpu", rows / ours, "rows/s", rows / theirs, theirs / ours)
        seconds, theirs = best_of_pair(
            lambda: [lake.read_features("features_1m", f.symbol) for f in frames], lambda: pq.read_table(plain), 3
        )
        yield Row("features_read", rows / seconds, "rows/s", rows / theirs, theirs / seconds)
        size = sum(f.stat().st_size for f in Path(lake.storage.url).rglob("*.parquet")) / rows
        yield Row("features_bytes_per_row", size, "B", plain.stat().st_size / rows, size / (plain.stat().st_size / rows))


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
    yield Row("bytes_per_row_us_equities", size / sum(len(b) for b in bars.values()), "B")
