# ruff: noqa: F811, F401 - fixtures are imported by name
"""Time travel: what a decision was taken on can be read back by its hash, whatever came later."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.lake import Lake, PartitionMissing, superseded
from tests.resources.lake_kit import (
    D1,
    D2,
    D3,
    INSTRUMENTS,
    append,
    counted_parts,
    daily,
    folder_lake,
    lake,
    minutes,
    object_store,
    reopened,
    session,
    with_extras,
    write,
)
from trading.bars import Bars
from trading.timeframes import Timeframe


def test_a_replaced_version_is_listed_and_read_by_its_hash(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    final = replace(session(bars, D2), volume=session(bars, D2).volume + 1)
    write(lake, final, D2, D2, source="vendor")
    now, before = reopened(lake).versions("bars_1m", "AAPL", D2)
    assert (now.content_hash, now.source, now.superseded_wall) == (final.content_hash(), "vendor", 0)
    assert (before.content_hash, before.source, before.rows) == (session(bars, D2).content_hash(), "test", 390)
    assert before.superseded_wall >= before.written_wall > 0
    assert before.superseded_wall == now.written_wall
    then = lake.read_version("bars_1m", "AAPL", D2, before.content_hash)
    assert then.content_hash() == before.content_hash
    assert lake.read_version("bars_1m", "AAPL", D2, now.content_hash).content_hash() == final.content_hash()
    assert [p.superseded_wall for p in lake.versions("bars_1m", "AAPL", D1)] == [0]  # untouched
    assert lake.verify("bars_1m") == []


def test_what_was_known_at_a_minute_s_close_is_read_by_its_hash_although_bars_were_added_and_replaced(lake: Lake) -> None:
    """A decision refers to the bars known at its close: the first rows of what the session later held."""
    day = minutes("AAPL", D3)
    known = []
    for i in range(4):
        append(lake, D3, day.rows(slice(i, i + 1)))
        known.append(lake.read_bars("bars_1m", "AAPL").content_hash())
    assert len(lake.versions("bars_1m", "AAPL", D3)) == 1  # one grew out of the other: nothing is copied
    final = replace(day, close=day.high)
    write(lake, final, D3, D3, source="vendor")
    for i, digest in enumerate(known):
        then = lake.read_version("bars_1m", "AAPL", D3, digest)
        assert then.content_hash() == digest == day.rows(slice(0, i + 1)).content_hash()
    assert [p.rows for p in lake.versions("bars_1m", "AAPL", D3)] == [390, 4]


def test_a_late_bar_leaves_the_version_without_it_readable(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    append(lake, D3, day.rows(slice(0, 2)))
    append(lake, D3, day.rows(slice(3, 5)))
    without = lake.read_bars("bars_1m", "AAPL").content_hash()
    append(lake, D3, day.rows(slice(2, 3)))
    assert lake.read_version("bars_1m", "AAPL", D3, without).content_hash() == without
    assert [p.rows for p in lake.versions("bars_1m", "AAPL", D3)] == [5, 4]


def test_final_bars_that_begin_with_the_live_ones_copy_nothing(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    append(lake, D3, day.rows(slice(0, 389)))
    write(lake, day, D3, D3, source="vendor")
    assert len(lake.versions("bars_1m", "AAPL", D3)) == 1
    live = day.rows(slice(0, 389)).content_hash()
    assert lake.read_version("bars_1m", "AAPL", D3, live).content_hash() == live


def test_a_session_that_was_taken_away_can_still_be_read(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2)
    write(lake, bars, D1, D2)
    write(lake, session(bars, D1), D1, D2)
    (gone,) = lake.versions("bars_1m", "AAPL", D2)
    assert gone.superseded_wall > 0
    assert lake.read_version("bars_1m", "AAPL", D2, gone.content_hash).content_hash() == session(bars, D2).content_hash()


def test_a_version_that_was_never_there_is_missing(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1), D1, D1)
    with pytest.raises(PartitionMissing, match="bars_1m/2014-06-05/AAPL: no version 0000000000000000"):
        lake.read_version("bars_1m", "AAPL", D1, "0" * 64)
    assert lake.versions("bars_1m", "NONE", D1) == []


def test_a_version_that_comes_back_is_there_twice(folder_lake: Lake) -> None:
    first, second = minutes("AAPL", D1), minutes("AAPL", D1, seed=1)
    for bars in (first, second, first):
        write(folder_lake, bars, D1, D1)
    hashes = [p.content_hash for p in folder_lake.versions("bars_1m", "AAPL", D1)]
    assert hashes == [b.content_hash() for b in (first, second, first)]


def test_daily_sessions_of_a_year_keep_each_its_own_versions(folder_lake: Lake) -> None:
    bars = daily("AAPL", date(2014, 1, 1), date(2014, 12, 31))
    write(folder_lake, bars, date(2014, 1, 1), date(2014, 12, 31))
    close = bars.close.copy()
    close[100:103] += 1
    write(folder_lake, replace(bars, close=close), date(2014, 1, 1), date(2014, 12, 31), source="vendor")
    assert len(folder_lake.superseded("bars_1d")) == 3
    for p in folder_lake.superseded("bars_1d"):
        assert folder_lake.read_version("bars_1d", "AAPL", p.session, p.content_hash).content_hash() == p.content_hash


def test_features_are_not_kept_because_they_can_be_computed_again(folder_lake: Lake) -> None:
    bars = daily("AAPL", D1, D3)
    for version in ("v1", "v2"):
        values = np.full((3, 1), float(len(version)))
        folder_lake.write_features(
            "features_1d",
            "AAPL",
            ["a"],
            bars.close_time,
            bars.session,
            values + (version == "v2"),
            start=D1,
            end=D3,
            version=version,
        )
    assert [p.source for p in folder_lake.versions("features_1d", "AAPL", D1)] == ["v2"]


# ---- as the lake was ---------------------------------------------------------------------------------------------


def _now() -> int:
    time.sleep(0.001)
    return time.time_ns() // 1000


def test_the_lake_as_it_was_at_a_time(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2)
    before = _now()
    write(lake, bars, D1, D2)
    first = _now()
    corrected = replace(session(bars, D1), volume=session(bars, D1).volume + 1)
    write(lake, corrected, D1, D1, source="vendor")
    second = _now()
    write(lake, minutes("AAPL", D3), D3, D3)
    at = {t: lake.read_bars("bars_1m", "AAPL", known=t) for t in (before, first, second, _now())}
    assert len(at[before]) == 0
    assert at[first].content_hash() == bars.content_hash()
    assert session(at[second], D1).content_hash() == corrected.content_hash()
    assert sorted({int(n) for n in at[second].session}) == sorted({int(n) for n in bars.session})
    assert lake.read_bars("bars_1m", "AAPL", known=_now()).content_hash() == lake.read_bars("bars_1m", "AAPL").content_hash()
    hashes = [p.content_hash for p in lake.partitions("bars_1m", known=first)]
    assert hashes == [session(bars, d).content_hash() for d in (D1, D2)]


steps = st.tuples(st.sampled_from([D1, D2, D3]), st.integers(0, 3), st.integers(1, 8), st.booleans())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(
        st.tuples(st.sampled_from([D1, D2, D3]), st.integers(0, 3), st.integers(1, 8), st.booleans()), min_size=1, max_size=8
    )
)
def test_every_content_a_session_ever_had_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[date, int, int, bool]]
) -> None:
    """Any order of writes and live appends of a few sessions, with and without optional columns."""
    lake, ever = Lake(tmp_path_factory.mktemp("lake")), set()
    for day, seed, rows, extras in plan:
        bars = minutes("AAPL", day, seed=seed, rows=rows)
        write(lake, with_extras(bars) if extras else bars, day, day)
        for p in lake.partitions("bars_1m"):
            ever.add((p.session, p.content_hash))
    for day, digest in ever:
        assert lake.read_version("bars_1m", "AAPL", day, digest).content_hash() == digest
    assert lake.verify("bars_1m") == []


# ---- compaction --------------------------------------------------------------------------------------------------


def test_past_hot_minutes_are_folded_into_their_month_with_their_origin_and_hash(lake: Lake) -> None:
    first, second = minutes("AAPL", D2), minutes("AAPL", D3)
    other = minutes("MSFT", D2, seed=3)
    append(lake, D2, first, other)
    append(lake, D3, second.rows(slice(0, 5)))
    before = lake.partitions("bars_1m")
    (done,) = lake.compact("bars_1m", before=D3)
    assert (done.what, done.period, done.symbols, done.rows) == ("folded", "2014-06-06", 2, 780)
    assert lake.hot_sessions("bars_1m") == [D3]
    assert lake.partitions("bars_1m") == before
    assert lake.compact("bars_1m", before=D3) == []
    append(lake, D3, second.rows(slice(5, 6)))
    assert lake.read_bars("bars_1m", "AAPL", D3, D3).content_hash() == second.rows(slice(0, 6)).content_hash()
    assert lake.superseded("bars_1m") == []


def test_a_bar_that_comes_after_its_session_was_folded_joins_it(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    append(lake, D3, day.rows(slice(0, 3)))
    lake.compact("bars_1m", before=date(2014, 7, 1))
    append(lake, D3, day.rows(slice(3, 4)))
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == day.rows(slice(0, 4)).content_hash()
    lake.compact("bars_1m", before=date(2014, 7, 1))
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == day.rows(slice(0, 4)).content_hash()
    assert lake.verify("bars_1m") == []


def test_replaced_versions_in_many_files_are_merged_and_all_stay_readable(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superseded, "MERGE_FILES", 2)
    versions = [minutes("AAPL", D1, seed=n, rows=20) for n in range(4)]
    for bars in versions:
        write(lake, bars, D1, D1)
    before = lake.versions("bars_1m", "AAPL", D1)
    (done,) = lake.compact("bars_1m")
    assert (done.what, done.files_before, done.files_after) == ("merged", 3, 1)
    assert lake.versions("bars_1m", "AAPL", D1) == before
    for bars in versions:
        assert lake.read_version("bars_1m", "AAPL", D1, bars.content_hash()).content_hash() == bars.content_hash()


def test_sizes_say_what_everything_takes(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2), D1, D2)
    write(lake, minutes("AAPL", D1, seed=2), D1, D1)
    append(lake, D3, minutes("MSFT", D3))
    size = lake.size("bars_1m")
    assert (size.symbols, size.partitions, size.rows, size.hot_sessions, size.superseded) == (2, 3, 1170, 1, 1)
    assert (size.first_session, size.last_session) == ("2014-06-05", "2014-06-09")
    assert min(size.bytes, size.hot_bytes, size.previous_bytes, size.manifest_bytes, size.superseded_bytes) > 500
    assert len(counted_parts(lake)) == 3
    assert Bars.empty("AAPL", Timeframe.M1).content_hash() not in {p.content_hash for p in lake.partitions("bars_1m")}
