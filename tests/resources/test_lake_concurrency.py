# ruff: noqa: F811, F401 - fixtures are imported by name
"""Readers beside writers, writers beside writers: one version or another, never a mixture, and nothing lost."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from resources.lake import Lake
from tests.resources.lake_kit import (
    D1,
    D2,
    D3,
    INSTRUMENTS,
    append,
    folder_lake,
    minutes,
    part_files,
    reopened,
    write,
)
from trading.bars import Bars
from trading.timeframes import Timeframe


@pytest.fixture
def lake(folder_lake: Lake) -> Lake:
    return folder_lake


def test_a_reader_beside_a_writer_sees_one_version_or_another_never_a_mixture(lake: Lake) -> None:
    versions = {minutes("AAPL", D1, D2, seed=n).content_hash() for n in range(25)}
    write(lake, minutes("AAPL", D1, D2, seed=0), D1, D2)
    done = threading.Event()

    def rewrite() -> None:
        for n in range(1, 25):
            write(reopened(lake), minutes("AAPL", D1, D2, seed=n), D1, D2)
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
            write(reopened(lake), final.rows(slice(0, 389)), D3, D3, source="vendor")
            reopened(lake).append_hot("bars_1m", D3, [final.rows(slice(389, 390))], source="live", instruments=INSTRUMENTS)
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
    processes = [context.Process(target=_append_every_other, args=(lake.storage.url, k)) for k in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == minutes("AAPL", D3).rows(slice(0, 40)).content_hash()


def _rewrite_for_a_while(root: str, number: int, rounds: int) -> None:
    own, symbol = Lake(Path(root)), ("AAPL", "MSFT", "IBM")[number]
    for n in range(rounds):
        write(own, minutes(symbol, D1, D2, seed=n), D1, D2, source=str(n))


def _read_for_a_while(root: str, allowed: dict[str, set[str]], ended: Any, wrong: Any) -> None:
    own, reads = Lake(Path(root)), 0
    while not ended.is_set() or not reads:
        for symbol, hashes in allowed.items():
            got = own.read_bars("bars_1m", symbol)
            if got.content_hash() not in hashes or any(p.content_hash not in hashes for p in own.versions("bars_1m", symbol, D3)):
                wrong.put(f"{symbol}: {len(got)} rows of no version")
        reads += 1
    wrong.put(reads)


def test_processes_that_read_beside_processes_that_write_see_whole_versions_only(lake: Lake) -> None:
    """Three writers of one month, each of its own symbol, two readers of all of them."""
    rounds, context = 12, multiprocessing.get_context("fork")
    allowed = {s: {minutes(s, D1, D2, seed=n).content_hash() for n in range(rounds)} for s in ("AAPL", "MSFT", "IBM")}
    for symbol in allowed:
        write(lake, minutes(symbol, D1, D2), D1, D2)
    ended, wrong = context.Event(), context.Queue()
    readers = [context.Process(target=_read_for_a_while, args=(lake.storage.url, allowed, ended, wrong)) for _ in range(2)]
    writers = [context.Process(target=_rewrite_for_a_while, args=(lake.storage.url, n, rounds)) for n in range(3)]
    for process in (*readers, *writers):
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    ended.set()
    said = [wrong.get(timeout=120) for _ in readers]
    for process in readers:
        process.join(30)
    assert all(isinstance(s, int) and s > 0 for s in said), said
    for symbol in allowed:
        assert lake.read_bars("bars_1m", symbol).content_hash() == minutes(symbol, D1, D2, seed=rounds - 1).content_hash()
        assert len(lake.versions("bars_1m", symbol, D1)) == rounds
    assert lake.verify("bars_1m") == []


def _compact_for_a_while(root: str, ended: Any) -> None:
    own = Lake(Path(root))
    while not ended.is_set():
        own.compact("bars_1m", before=date(2014, 7, 1))


def test_folding_beside_live_appends_loses_no_bar(lake: Lake) -> None:
    context, day = multiprocessing.get_context("fork"), minutes("AAPL", D3)
    ended = context.Event()
    append(lake, D3, day.rows(slice(0, 1)))
    process = context.Process(target=_compact_for_a_while, args=(lake.storage.url, ended))
    process.start()
    for i in range(1, 60):
        append(lake, D3, day.rows(slice(i, i + 1)))
        assert lake.read_bars("bars_1m", "AAPL").content_hash() == day.rows(slice(0, i + 1)).content_hash()
    ended.set()
    process.join(30)
    assert process.exitcode == 0
    assert lake.versions("bars_1m", "AAPL", D3)[0].rows == 60
    assert len(lake.versions("bars_1m", "AAPL", D3)) == 1
