# ruff: noqa: F811, F401 - fixtures are imported by name
"""Writing replaces what it names and nothing else; live bars add up, and final ones take their place."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from resources.lake import HotConflict, Lake, LakeError
from tests.resources.lake_kit import (
    D1,
    D2,
    D3,
    INSTRUMENTS,
    counted_parts,
    daily,
    files,
    folder_lake,
    lake,
    minutes,
    object_store,
    reopened,
    write,
)
from trading.bars import Bars
from trading.timeframes import Timeframe, session_number


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
    before = files(lake)
    written = lake.partitions("bars_1m")
    write(lake, bars, source="another run")
    write(lake, bars.rows(bars.session == session_number(D2)), D2, D2)
    assert files(lake) == before
    assert lake.partitions("bars_1m") == written


def test_a_version_written_within_a_clock_tick_into_the_same_inode_is_seen(folder_lake: Lake) -> None:
    write(folder_lake, minutes("AAPL", D1), D1, D1)
    assert folder_lake.partition("bars_1m", D1, "AAPL").source == "test"
    manifest = next(Path(folder_lake.storage.url).rglob("manifest.json"))
    before, text = manifest.stat(), manifest.read_bytes()
    inner = text[len(b'{"crc32":"00000000","manifest":') : -2].replace(b'"test"', b'"next"')
    manifest.write_bytes(b'{"crc32":"%08x","manifest":' % zlib.crc32(inner) + inner + b"}\n")
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder_lake.partition("bars_1m", D1, "AAPL").source == "next"


def test_only_two_versions_of_files_stay(lake: Lake) -> None:
    for seed in range(5):
        write(lake, minutes("AAPL", D1, seed=seed), D1, D1)
    assert len(counted_parts(lake)) == 2
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
    assert counted_parts(lake) == []


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
    elsewhere = reopened(lake)  # another process
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
    assert lake.hot_sessions("bars_1m") == []
    assert lake.read_bars("bars_1m", "MSFT").content_hash() == other.content_hash()


@pytest.mark.parametrize("timeframe", [Timeframe.H1, Timeframe.D1])
def test_hot_bars_of_longer_timeframes_join_their_month_or_year(lake: Lake, timeframe: Timeframe) -> None:
    name = f"bars_{timeframe}"
    bars = replace(daily("AAPL", D1, D3), timeframe=timeframe)
    lake.write_bars(name, {"AAPL": bars.rows(slice(0, 2))}, start=D1, end=D2, source="t", instruments=INSTRUMENTS)
    lake.append_hot(name, D3, [bars.rows(slice(2, 3))], source="live", instruments=INSTRUMENTS)
    lake.append_hot(name, D3, [bars.rows(slice(2, 3))], source="live", instruments=INSTRUMENTS)
    assert lake.read_bars(name, "AAPL").content_hash() == bars.content_hash()
    assert len(counted_parts(lake)) == 2
