"""The lake: a year of minutes of many symbols written and read, against one plain Parquet file of the same rows.

write, read: rows a second. symbol_day_ms and symbol_year_ms: one read with the manifests known; *_cold_ms: the first
read of a process. bytes_per_row: all part files; bytes_per_row_us_equities: real minutes, where the market data is
there. append_hot_ms: one bar of each symbol added to the session being traded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median

from bench.core import Row, best_of, best_of_pair
from bench.reference_data import read_plain_parquet, stock, walk, write_plain_parquet
from resources.lake import Lake
from trading.bars import Bars
from trading.timeframes import Timeframe, session_number


def run(quick: bool) -> Iterator[Row]:
    symbols = [f"S{i:03d}" for i in range(10 if quick else 100)]
    start, end = date(2017, 1, 1), date(2017, 2, 28) if quick else date(2017, 12, 31)
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
        lake = write()

        def read_all() -> int:
            return sum(len(lake.read_bars("bars_1m", s)) for s in symbols)

        def read_plain() -> None:
            read_plain_parquet(plain, symbols[0], None)

        seconds, got = best_of(read_all, 3)
        if got != rows:
            raise AssertionError(f"read {got} rows of {rows}")
        yield Row("read", rows / seconds, "rows/s")
        size = sum(f.stat().st_size for f in lake.root.rglob("*.parquet")) / rows
        manifests = sum(f.stat().st_size for f in lake.root.rglob("*.json")) / rows
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
            lambda: lake.read_bars("bars_1m", symbol), lambda: read_plain_parquet(plain, symbol, None), 9
        )
        yield Row("symbol_year_ms", seconds * 1e3, "ms", theirs * 1e3, seconds / theirs)

        def cold(first: date | None) -> None:
            lake.clear_cache()
            lake.read_bars("bars_1m", symbol, first, first)

        yield Row("symbol_day_cold_ms", best_of(lambda: cold(day), 5)[0] * 1e3, "ms")
        yield Row("symbol_year_cold_ms", best_of(lambda: cold(None), 5)[0] * 1e3, "ms")
        for count in (9, len(symbols)):
            yield Row(f"append_hot_{count}_symbols_ms", _append(Lake(room / f"hot-{count}"), symbols[:count]), "ms")
    finally:
        shutil.rmtree(room, ignore_errors=True)
    yield from _real()


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
        size = sum(f.stat().st_size for f in lake.root.rglob("*.parquet"))
    yield Row("bytes_per_row_us_equities", size / sum(len(b) for b in bars.values()), "B")
