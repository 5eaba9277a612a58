"""The lake keeps bars and features: bit for bit, replaced atomically, readable while written, never silently wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import threading
import zlib
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resources.lake import CorruptPartition, HotConflict, Lake, LakeError, LakeWriteFailed, PartitionMissing
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE, Timeframe, session_number

XNYS = calendar("XNYS")
D1, D2, D3 = date(2014, 6, 5), date(2014, 6, 6), date(2014, 6, 9)


def instrument(symbol: str, tick: str = "0.01", timeframe: Timeframe = Timeframe.M1) -> Instrument:
    return Instrument(symbol, AssetClass.EQUITY, "XNYS", Decimal(tick), "USD", "test", symbol, timeframe)


INSTRUMENTS = {s: instrument(s) for s in ("AAPL", "MSFT", "IBM", "ODD")}


def minutes(symbol: str, *days: date, seed: int = 0, rows: int = 390) -> Bars:
    rng = np.random.default_rng(seed)
    opens = [XNYS.bounds(day)[0] for day in days]
    times = np.concatenate([o + US_PER_MINUTE * np.arange(1, rows + 1) for o in opens])
    session = np.repeat([session_number(d) for d in days], rows).astype(np.int32)
    c = 10_000 + np.cumsum(rng.integers(-3, 4, len(times)))
    o = np.concatenate([[10_000], c[:-1]])
    h = np.maximum(o, c) + rng.integers(0, 4, len(times))
    low = np.minimum(o, c) - rng.integers(0, 4, len(times))
    prices: list[NDArray[np.float64]] = [np.asarray(ticks / 100, np.float64) for ticks in (o, h, low, c)]
    volume = rng.integers(0, 5000, len(times)).astype(np.float64) * 100
    return Bars(symbol, Timeframe.M1, times, session, prices[0], prices[1], prices[2], prices[3], volume)


def daily(symbol: str, start: date, end: date, price: float = 50.0) -> Bars:
    days = [session_number(d) for d in XNYS.sessions(start, end)]
    times = np.array([XNYS.bounds(n)[1] for n in days], np.int64)
    steps = (0.0, 1.0, -1.0, 0.5)
    prices: list[NDArray[np.float64]] = [np.asarray(price + s + np.arange(len(days)) * 0.25, np.float64) for s in steps]
    o, h, low, c = prices
    return Bars(symbol, Timeframe.D1, times, np.array(days, np.int32), o, h, low, c, np.full(len(days), 1e6))


def write(lake: Lake, bars: Bars, start: date = D1, end: date = D3, source: str = "test") -> None:
    lake.write_bars(f"bars_{bars.timeframe}", {bars.symbol: bars}, start=start, end=end, source=source, instruments=INSTRUMENTS)


def part_files(lake: Lake) -> list[Path]:
    return sorted(lake.root.rglob("*.parquet"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


# ---- what goes in comes out --------------------------------------------------------------------------------------


def test_bars_come_back_bit_for_bit_with_the_hash_they_had(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    again = Lake(lake.root).read_bars("bars_1m", "AAPL")
    assert again.content_hash() == bars.content_hash()
    one = lake.read_bars("bars_1m", "AAPL", D2, D2)
    assert len(one) == 390
    assert lake.partition("bars_1m", D2, "AAPL").content_hash == one.content_hash()


prices = st.one_of(
    st.integers(1, 10**7).map(lambda n: n / 100),
    st.integers(1, 10**9).map(lambda n: n / 10**6),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, float("nan"), 1e300, 5e-324, 0.1 + 0.2, 2.0**53, -12.34]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(prices, prices, prices, prices, prices), min_size=1, max_size=20),
    tick=st.sampled_from(["0.01", "0.00001", "0.25", "1", "5", "0.005"]),
)
@example(values=[(1.0, 2.0, -0.0, 1.0, 5.0)], tick="0.01")
@example(values=[(1.0, 2.0, 1.0, 1.0, -0.0)], tick="0.01")
@example(values=[(0.1 + 0.2, 2.0, 0.1, 1.0, 2.0**40)], tick="0.1")
def test_any_float_survives_on_any_grid(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, ...]], tick: str
) -> None:
    n = len(values)
    columns = [np.array(c, np.float64) for c in zip(*values, strict=True)]
    opens, _ = XNYS.bounds(D1)
    times = opens + US_PER_MINUTE * np.arange(1, n + 1)
    bars = Bars("X", Timeframe.M1, times, np.full(n, session_number(D1), np.int32), *columns)
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.write_bars("bars_1m", {"X": bars}, start=D1, end=D1, source="t", instruments={"X": instrument("X", tick)})
    assert lake.read_bars("bars_1m", "X").content_hash() == bars.content_hash()
    assert lake.verify("bars_1m") == []


@pytest.mark.parametrize(("tick", "price"), [("0.01", 123.45), ("0.00001", 1.05236), ("0.25", 2001.75), ("5", 1235.0)])
def test_prices_on_the_grid_are_stored_as_whole_ticks(lake: Lake, tick: str, price: float) -> None:
    bars = replace_prices(minutes("AAPL", D1, rows=5), price)
    lake.write_bars("bars_1m", {"AAPL": bars}, start=D1, end=D1, source="t", instruments={"AAPL": instrument("AAPL", tick)})
    stored = pq.read_table(part_files(lake)[0])
    assert stored.column("open").to_pylist() == [round(price / float(tick))] * 5
    assert stored.column("symbol").to_pylist() == ["AAPL"] * 5


def replace_prices(bars: Bars, price: float) -> Bars:
    p = np.full(len(bars), price)
    return replace(bars, open=p, high=p, low=p, close=p)


def test_a_price_off_the_grid_makes_only_its_symbol_float(lake: Lake) -> None:
    odd = replace_prices(minutes("ODD", D1), np.pi)
    lake.write_bars("bars_1m", {"ODD": odd, "AAPL": minutes("AAPL", D1)}, start=D1, end=D1, source="t", instruments=INSTRUMENTS)
    types = sorted(str(pq.read_schema(f).field("open").type) for f in part_files(lake))
    assert types == ["double", "int32"]
    assert lake.read_bars("bars_1m", "ODD").content_hash() == odd.content_hash()


def test_datasets_partitions_and_ranges(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2, D3))
    write(lake, minutes("MSFT", D2, seed=1), D2, D2)
    assert lake.datasets() == ["bars_1m"]
    held = [(p.session, p.symbol, p.rows, p.source) for p in lake.partitions("bars_1m", D2, D3)]
    assert held == [(D2, "AAPL", 390, "test"), (D2, "MSFT", 390, "test"), (D3, "AAPL", 390, "test")]
    first = lake.partition("bars_1m", D2, "AAPL")
    assert (first.first_close_time, first.last_close_time) == (XNYS.bounds(D2)[0] + US_PER_MINUTE, XNYS.bounds(D2)[1])
    assert len(lake.read_bars("bars_1m", "AAPL", D2)) == 780
    assert len(lake.read_bars("bars_1m", "AAPL", end=D1)) == 390
    assert len(lake.read_bars("bars_1m", "NONE")) == 0
    with pytest.raises(PartitionMissing, match="bars_1m/2014-06-06/NONE"):
        lake.partition("bars_1m", D2, "NONE")
    with pytest.raises(LakeError, match="bars_7m"):
        lake.read_bars("bars_7m", "AAPL")


def test_daily_bars_of_twenty_years_are_twenty_files(lake: Lake) -> None:
    bars = daily("AAPL", date(1995, 1, 1), date(2014, 12, 31))
    write(lake, bars, date(1995, 1, 1), date(2014, 12, 31))
    assert len(part_files(lake)) == 20
    assert lake.read_bars("bars_1d", "AAPL").content_hash() == bars.content_hash()
    assert lake.read_bars("bars_1d", "AAPL", D1, D1).content_hash() == lake.partition("bars_1d", D1, "AAPL").content_hash


# ---- replacing ---------------------------------------------------------------------------------------------------


def test_a_write_replaces_its_symbols_and_sessions_and_nothing_else(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2, D3))
    write(lake, minutes("MSFT", D1, D2, D3, seed=1))
    final = minutes("AAPL", D2, seed=9)
    write(lake, final, D2, D2, source="vendor")
    assert lake.read_bars("bars_1m", "AAPL", D2, D2).content_hash() == final.content_hash()
    assert lake.read_bars("bars_1m", "AAPL", D1, D1).close[0] == minutes("AAPL", D1, D2, D3).close[0]
    assert lake.read_bars("bars_1m", "MSFT").content_hash() == minutes("MSFT", D1, D2, D3, seed=1).content_hash()
    assert [p.source for p in lake.partitions("bars_1m", symbols=["AAPL"])] == ["test", "vendor", "test"]
    assert lake.verify("bars_1m") == []


def test_a_session_without_bars_in_the_written_range_goes(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2, D3))
    write(lake, minutes("AAPL", D1), D1, D2)
    assert [p.session for p in lake.partitions("bars_1m")] == [D1, D3]
    write(lake, Bars.empty("AAPL", Timeframe.M1), D1, D3)
    assert lake.partitions("bars_1m") == []
    assert len(lake.read_bars("bars_1m", "AAPL")) == 0


def test_the_same_bytes_again_make_no_new_version(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    before = {f: f.stat().st_mtime_ns for f in lake.root.rglob("*.*")}
    written = lake.partitions("bars_1m")
    write(lake, bars, source="another run")
    write(lake, bars.rows(bars.session == session_number(D2)), D2, D2)
    assert {f: f.stat().st_mtime_ns for f in lake.root.rglob("*.*")} == before
    assert lake.partitions("bars_1m") == written


def test_a_version_written_within_a_clock_tick_into_the_same_inode_is_seen(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1), D1, D1)
    assert lake.partition("bars_1m", D1, "AAPL").source == "test"
    manifest = next(lake.root.rglob("manifest.json"))
    before, text = manifest.stat(), manifest.read_bytes()
    inner = text[len(b'{"crc32":"00000000","manifest":') : -2].replace(b'"test"', b'"next"')
    manifest.write_bytes(b'{"crc32":"%08x","manifest":' % zlib.crc32(inner) + inner + b"}\n")
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lake.partition("bars_1m", D1, "AAPL").source == "next"


def test_only_two_versions_of_files_stay(lake: Lake) -> None:
    for seed in range(5):
        write(lake, minutes("AAPL", D1, seed=seed), D1, D1)
    assert len(part_files(lake)) == 2
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == minutes("AAPL", D1, seed=4).content_hash()


@pytest.mark.parametrize("fault", ["order", "range", "symbol", "timeframe", "session order"])
def test_bars_that_do_not_fit_are_refused_and_nothing_is_written(lake: Lake, fault: str) -> None:
    bars = minutes("AAPL", D1, D2)
    offered = {
        "order": bars.rows(np.arange(len(bars))[::-1]),
        "range": minutes("AAPL", D3),
        "symbol": minutes("MSFT", D1),
        "timeframe": daily("AAPL", D1, D1),
        "session order": replace(bars, session=bars.session[::-1].copy()),
    }[fault]
    with pytest.raises(LakeError, match="bars_1m AAPL"):
        lake.write_bars("bars_1m", {"AAPL": offered}, start=D1, end=D2, source="t", instruments=INSTRUMENTS)
    assert part_files(lake) == []


# ---- hot bars ----------------------------------------------------------------------------------------------------


def test_hot_bars_add_up_and_the_same_close_twice_is_no_change(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2), D1, D2)
    day = minutes("AAPL", D3, seed=3)
    other = minutes("MSFT", D3, seed=4)
    for i in range(5):
        got = lake.append_hot(
            "bars_1m", D3, [day.rows(slice(i, i + 1)), other.rows(slice(i, i + 1))], source="live", instruments=INSTRUMENTS
        )
        assert [(p.symbol, p.rows) for p in got] == [("AAPL", i + 1), ("MSFT", i + 1)]
    before = lake.partitions("bars_1m", D3, D3)
    lake.append_hot("bars_1m", D3, [day.rows(slice(2, 4))], source="live", instruments=INSTRUMENTS)
    assert lake.partitions("bars_1m", D3, D3) == before
    elsewhere = Lake(lake.root)  # another process
    elsewhere.append_hot("bars_1m", D3, [day.rows(slice(4, 8))], source="live", instruments=INSTRUMENTS)
    assert lake.read_bars("bars_1m", "AAPL", D3, D3).content_hash() == day.rows(slice(0, 8)).content_hash()
    assert len(lake.read_bars("bars_1m", "AAPL")) == 788
    lake.append_hot("bars_1m", D3, [day.rows(slice(8, 9))], source="live", instruments=INSTRUMENTS)
    assert len(elsewhere.read_bars("bars_1m", "AAPL", D3, D3)) == 9


def test_a_live_bar_of_a_session_already_written_joins_it(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    write(lake, day.rows(slice(0, 3)), D3, D3)
    write(lake, minutes("MSFT", D3), D3, D3)
    lake.append_hot("bars_1m", D3, [day.rows(slice(2, 5))], source="live", instruments=INSTRUMENTS)
    assert lake.read_bars("bars_1m", "AAPL", D3, D3).content_hash() == day.rows(slice(0, 5)).content_hash()
    assert [(p.symbol, p.rows) for p in lake.partitions("bars_1m", D3, D3)] == [("AAPL", 5), ("MSFT", 390)]


def test_a_late_bar_is_put_in_its_place(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    for part in (slice(0, 1), slice(2, 3), slice(1, 2)):
        lake.append_hot("bars_1m", D3, [day.rows(part)], source="live", instruments=INSTRUMENTS)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == day.rows(slice(0, 3)).content_hash()


def test_another_value_for_a_known_close_is_a_conflict_and_nothing_changes(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    lake.append_hot("bars_1m", D3, [day.rows(slice(0, 3))], source="live", instruments=INSTRUMENTS)
    changed = replace(day, close=day.close + 0.01)
    fresh = minutes("MSFT", D3)
    with pytest.raises(HotConflict, match=r"bars_1m AAPL 2014-06-09T13:33:00Z: close"):
        lake.append_hot(
            "bars_1m", D3, [fresh.rows(slice(0, 4)), changed.rows(slice(2, 4))], source="live", instruments=INSTRUMENTS
        )
    assert [(p.symbol, p.rows) for p in lake.partitions("bars_1m")] == [("AAPL", 3)]


def test_final_bars_replace_the_hot_session(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    other = minutes("MSFT", D3, seed=1)
    lake.append_hot("bars_1m", D3, [day, other], source="live", instruments=INSTRUMENTS)
    final = replace(day, volume=day.volume + 100)
    write(lake, final, D3, D3, source="vendor")
    assert lake.partition("bars_1m", D3, "AAPL").source == "vendor"
    assert lake.partition("bars_1m", D3, "MSFT").source == "live"
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == final.content_hash()
    write(lake, other, D3, D3, source="vendor")
    assert not list((lake.root / "bars_1m" / "hot").iterdir())
    assert lake.read_bars("bars_1m", "MSFT").content_hash() == other.content_hash()


@pytest.mark.parametrize("timeframe", [Timeframe.H1, Timeframe.D1])
def test_hot_bars_of_longer_timeframes_join_their_month_or_year(lake: Lake, timeframe: Timeframe) -> None:
    name = f"bars_{timeframe}"
    bars = replace(daily("AAPL", D1, D3), timeframe=timeframe)
    lake.write_bars(name, {"AAPL": bars.rows(slice(0, 2))}, start=D1, end=D2, source="t", instruments=INSTRUMENTS)
    lake.append_hot(name, D3, [bars.rows(slice(2, 3))], source="live", instruments=INSTRUMENTS)
    lake.append_hot(name, D3, [bars.rows(slice(2, 3))], source="live", instruments=INSTRUMENTS)
    assert lake.read_bars(name, "AAPL").content_hash() == bars.content_hash()
    assert len(part_files(lake)) == 2


# ---- features ----------------------------------------------------------------------------------------------------


def test_features_come_back_with_names_and_version(lake: Lake) -> None:
    bars = daily("AAPL", D1, D3)
    values = np.array([[np.nan, 1.0], [0.1, -0.0], [np.pi, 3.0]])
    lake.write_features(
        "features_1d", "AAPL", ["rsi", "ema"], bars.close_time, bars.session, values, start=D1, end=D3, version="v1"
    )
    got = lake.read_features("features_1d", "AAPL")
    assert (got.names, got.version, got.symbol) == (("rsi", "ema"), "v1", "AAPL")
    assert got.values.tobytes() == values.tobytes()
    assert got.column("ema").tolist() == [1.0, -0.0, 3.0]
    assert lake.verify("features_1d") == []
    assert len(lake.read_features("features_1d", "MSFT")) == 0


def test_versions_of_features_are_never_mixed(lake: Lake) -> None:
    bars = daily("AAPL", D1, D3)

    def put(rows: slice, day: date, end: date, names: list[str], version: str) -> None:
        b = bars.rows(rows)
        lake.write_features(
            "features_1d",
            "AAPL",
            names,
            b.close_time,
            b.session,
            np.ones((len(b), len(names))),
            start=day,
            end=end,
            version=version,
        )

    put(slice(0, 2), D1, D2, ["a"], "v1")
    put(slice(2, 3), D3, D3, ["a"], "v2")
    with pytest.raises(LakeError, match="versions"):
        lake.read_features("features_1d", "AAPL")
    assert lake.read_features("features_1d", "AAPL", D3, D3).version == "v2"
    with pytest.raises(LakeError, match="columns"):
        put(slice(2, 3), D3, D3, ["a", "b"], "v3")
    put(slice(0, 3), D1, D3, ["a", "b"], "v3")
    assert lake.read_features("features_1d", "AAPL").names == ("a", "b")


# ---- faults ------------------------------------------------------------------------------------------------------


def test_a_torn_part_file_is_named_and_other_partitions_stay_readable(lake: Lake) -> None:
    january, june = date(2014, 1, 6), D1
    write(lake, minutes("AAPL", january), january, january)
    write(lake, minutes("AAPL", june), june, june)
    torn = next(f for f in part_files(lake) if "2014-06" in str(f))
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(CorruptPartition, match=rf"{torn}.*torn write"):
        lake.read_bars("bars_1m", "AAPL")
    assert len(lake.read_bars("bars_1m", "AAPL", january, january)) == 390
    assert len(lake.verify("bars_1m")) == 1


def test_a_flipped_byte_is_noticed(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2, D3))
    file = part_files(lake)[0]
    data = bytearray(file.read_bytes())
    metadata = pq.read_metadata(file).row_group(0)
    close = next(metadata.column(i) for i in range(metadata.num_columns) if metadata.column(i).path_in_schema == "close")
    data[close.data_page_offset + close.total_compressed_size - 40] ^= 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptPartition, match=file.name):
        Lake(lake.root).read_bars("bars_1m", "AAPL")


def test_a_missing_part_and_a_torn_manifest_are_named(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1), D1, D1)
    file = part_files(lake)[0]
    held = file.read_bytes()
    file.unlink()
    with pytest.raises(CorruptPartition, match=file.name):
        lake.read_bars("bars_1m", "AAPL")
    with pytest.raises(CorruptPartition, match=file.name):
        write(lake, minutes("MSFT", D1), D1, D1)
    file.write_bytes(held)
    manifest = file.with_name("manifest.json")
    text = manifest.read_bytes()
    assert json.loads(text)["manifest"]["version"] == 1
    manifest.write_bytes(text.replace(b'"rows"', b'"r0ws"').replace(b"AAPL", b"AAPM"))
    with pytest.raises(CorruptPartition, match=r"manifest\.json"):
        lake.read_bars("bars_1m", "AAPL")


def test_a_corrupt_period_is_repaired_by_writing_all_of_it_again(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2)
    write(lake, bars, D1, D2)
    part_files(lake)[0].write_bytes(b"")
    changed = minutes("AAPL", D1, D2, seed=5)
    write(lake, changed, D1, D2)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == changed.content_hash()


def test_a_full_disk_is_a_clean_error_and_the_old_version_stays(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2)
    write(lake, bars, D1, D2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(LakeWriteFailed, match="2014-06"):
            write(lake, minutes("AAPL", D1, D2, seed=1), D1, D2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == bars.content_hash()
    assert len(part_files(lake)) == 1
    write(lake, minutes("AAPL", D1, D2, seed=1), D1, D2)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == minutes("AAPL", D1, D2, seed=1).content_hash()


def test_leftovers_of_a_crashed_writer_are_ignored_and_removed(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1), D1, D1)
    folder = part_files(lake)[0].parent
    (folder / "part-000002-0.parquet").write_bytes(b"half a file")
    (folder / "manifest.json.tmp").write_bytes(b"{")
    assert len(lake.read_bars("bars_1m", "AAPL")) == 390
    write(lake, minutes("AAPL", D1, seed=2), D1, D1)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == minutes("AAPL", D1, seed=2).content_hash()
    write(lake, minutes("AAPL", D1, seed=3), D1, D1)
    assert not (folder / "manifest.json.tmp").exists()


def _write_for_ever(root: str) -> None:
    own, n = Lake(Path(root)), 0
    while True:
        n += 1
        bars = {s: minutes(s, D1, seed=n) for s in ("AAPL", "MSFT")}
        own.write_bars("bars_1m", bars, start=D1, end=D1, source=str(n), instruments=INSTRUMENTS)


def test_a_writer_killed_at_any_moment_leaves_a_whole_version(lake: Lake) -> None:
    context = multiprocessing.get_context("fork")
    write(lake, minutes("AAPL", D2), D2, D2)  # compiles what the children then need not
    for attempt in range(8):
        process = context.Process(target=_write_for_ever, args=(str(lake.root),))
        process.start()
        while not lake.partitions("bars_1m", D1, D1):
            pass
        threading.Event().wait(0.02 + 0.0037 * attempt)
        process.kill()
        process.join()
    assert lake.verify("bars_1m") == []
    aapl, msft = (lake.partition("bars_1m", D1, s) for s in ("AAPL", "MSFT"))
    assert aapl.source == msft.source
    assert lake.read_bars("bars_1m", "AAPL", D1, D1).content_hash() == minutes("AAPL", D1, seed=int(aapl.source)).content_hash()
    write(lake, minutes("AAPL", D3), D3, D3)  # the dead writer's lock is free


# ---- several at once ---------------------------------------------------------------------------------------------


def test_a_reader_beside_a_writer_sees_one_version_or_another_never_a_mixture(lake: Lake) -> None:
    versions = {minutes("AAPL", D1, D2, seed=n).content_hash() for n in range(25)}
    write(lake, minutes("AAPL", D1, D2, seed=0), D1, D2)
    done = threading.Event()

    def rewrite() -> None:
        for n in range(1, 25):
            write(Lake(lake.root), minutes("AAPL", D1, D2, seed=n), D1, D2)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(lake.read_bars("bars_1m", "AAPL").content_hash())
    writer.join()
    assert seen <= versions
    assert len(seen) > 1


def test_folding_a_hot_session_is_invisible_to_a_reader(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    lake.append_hot("bars_1m", D3, [day], source="live", instruments=INSTRUMENTS)
    done = threading.Event()

    def fold() -> None:
        for n in range(12):
            final = replace(day, volume=day.volume + n)
            write(Lake(lake.root), final.rows(slice(0, 389)), D3, D3, source="vendor")
            Lake(lake.root).append_hot("bars_1m", D3, [final.rows(slice(389, 390))], source="live", instruments=INSTRUMENTS)
        done.set()

    writer = threading.Thread(target=fold)
    writer.start()
    counts = set()
    while not done.is_set():
        counts.add(len(lake.read_bars("bars_1m", "AAPL", D3, D3)))
    writer.join()
    assert counts <= {389, 390}
    assert len(lake.read_bars("bars_1m", "AAPL", D3, D3)) == 390


def _append_every_other(root: str, start: int) -> None:
    own, day = Lake(Path(root)), minutes("AAPL", D3)
    for i in range(start, 40, 2):
        own.append_hot("bars_1m", D3, [day.rows(slice(i, i + 1))], source="live", instruments=INSTRUMENTS)


def test_a_file_name_is_never_used_twice(lake: Lake) -> None:
    """A reader that holds the manifest of a hot session since folded and begun again must not find other bars under it."""
    seen: set[str] = set()
    for n in range(3):
        day = minutes("AAPL", D3, seed=n)
        lake.append_hot("bars_1m", D3, [day], source="live", instruments=INSTRUMENTS)
        names = {f.name for f in part_files(lake)}
        assert len(names - seen) == 1
        seen |= names
        write(lake, Bars.empty("AAPL", Timeframe.M1), D3, D3)


def test_two_writers_of_one_session_lose_nothing(lake: Lake) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_every_other, args=(str(lake.root), k)) for k in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == minutes("AAPL", D3).rows(slice(0, 40)).content_hash()
