# ruff: noqa: F811, F401 - fixtures are imported by name
"""Torn files, killed writers, full disks: named, never silently wrong, and good again with the next write."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from resources.lake import CorruptPartition, Lake, LakeWriteFailed
from resources.lake.steps import STEPS, on_step
from tests.resources.lake_kit import (
    D1,
    D2,
    D3,
    INSTRUMENTS,
    append,
    counted_parts,
    files,
    folder_lake,
    minutes,
    part_files,
    reopened,
    session,
    write,
)


@pytest.fixture
def lake(folder_lake: Lake) -> Lake:
    return folder_lake


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
        reopened(lake).read_bars("bars_1m", "AAPL")


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
        process = context.Process(target=_write_for_ever, args=(lake.storage.url,))
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


def _write_in_a_child(root: str, step: str, what: str) -> None:
    """Replace D1 and D2 (or fold a hot session) and die by SIGKILL when the commit has come to `step`."""
    on_step(lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None)
    own = Lake(Path(root))
    if what == "replace":
        bars = {s: minutes(s, D1, D2, seed=7) for s in ("AAPL", "MSFT")}
        own.write_bars("bars_1m", bars, start=D1, end=D2, source="new", instruments=INSTRUMENTS)
    else:
        own.compact("bars_1m", before=date(2014, 7, 1))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", ["replace", "fold"])
def test_killed_at_any_step_of_a_commit_the_lake_is_whole_and_the_next_write_cleans_up(lake: Lake, step: str, what: str) -> None:
    old = {s: minutes(s, D1, D2) for s in ("AAPL", "MSFT")}
    new = {s: minutes(s, D1, D2, seed=7) for s in ("AAPL", "MSFT")}
    live = minutes("AAPL", D3)
    lake.write_bars("bars_1m", old, start=D1, end=D2, source="old", instruments=INSTRUMENTS)
    if what == "fold":
        lake.append_hot("bars_1m", D3, [live], source="live", instruments=INSTRUMENTS)
    process = multiprocessing.get_context("fork").Process(target=_write_in_a_child, args=(lake.storage.url, step, what))
    process.start()
    process.join()
    passed = not (what == "replace" and step == "hot_dropped") and not (what == "fold" and step == "superseded_written")
    assert process.exitcode == (-signal.SIGKILL if passed else 0)
    assert lake.verify("bars_1m") == []
    held = {s: lake.read_bars("bars_1m", s, D1, D2).content_hash() for s in old}
    whole = [{s: b.content_hash() for s, b in bars.items()} for bars in (old, new)]
    assert held in whole  # both symbols of one commit, or neither
    if what == "fold":
        assert lake.read_bars("bars_1m", "AAPL", D3, D3).content_hash() == live.content_hash()
        lake.compact("bars_1m", before=date(2014, 7, 1))
        assert lake.hot_sessions("bars_1m") == []
        assert lake.partition("bars_1m", D3, "AAPL").source == "live"
    for source in ("new", "newer"):
        bars = {s: minutes(s, D1, D2, seed=7 + len(source)) for s in ("AAPL", "MSFT")}
        lake.write_bars("bars_1m", bars, start=D1, end=D2, source=source, instruments=INSTRUMENTS)
    lake.compact("bars_1m")
    for s, bars in old.items():  # what was replaced can still be read
        version = lake.read_version("bars_1m", s, D1, session(bars, D1).content_hash())
        assert version.content_hash() == session(bars, D1).content_hash()
    named = {f for f in files(lake) if not f.endswith((".parquet", "manifest.json"))}
    assert named == set()
    assert len(counted_parts(lake)) == 2


@pytest.mark.parametrize("step", [s for s in STEPS if s not in ("manifest_swapped", "garbage_collected", "hot_dropped")])
def test_a_disk_that_refuses_at_any_step_leaves_the_old_version(lake: Lake, step: str) -> None:
    bars, other = minutes("AAPL", D1, D2), minutes("AAPL", D1, D2, seed=1)
    write(lake, bars, D1, D2)

    def full(name: str) -> None:
        if name == step:
            raise OSError(errno.ENOSPC, "No space left on device")

    on_step(full)
    try:
        with pytest.raises(LakeWriteFailed, match="No space left"):
            write(lake, other, D1, D2)
    finally:
        on_step(None)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == bars.content_hash()
    assert lake.verify("bars_1m") == []
    write(lake, other, D1, D2)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == other.content_hash()
    assert [p.content_hash for p in lake.versions("bars_1m", "AAPL", D1)] == [
        session(b, D1).content_hash() for b in (other, bars)
    ]


def test_a_swap_of_unclear_outcome_never_loses_the_rows_it_may_have_committed(lake: Lake) -> None:
    """The manifest is in its place, then the disk fails: its files must not be taken for leftovers."""
    write(lake, minutes("AAPL", D1, D2), D1, D2)
    new = minutes("AAPL", D1, D2, seed=1)

    def fails(name: str) -> None:
        if name == "manifest_swapped":
            raise OSError(errno.EIO, "Input/output error")

    on_step(fails)
    try:
        with pytest.raises(LakeWriteFailed):
            write(lake, new, D1, D2)
    finally:
        on_step(None)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == new.content_hash()
    assert lake.verify("bars_1m") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_is_a_named_error_and_room_makes_the_next_write_good(small_disk: Path) -> None:
    lake = Lake(small_disk / "lake")
    bars = minutes("AAPL", D1, D2)
    write(lake, bars, D1, D2)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)
    for attempt in range(3):
        with pytest.raises(LakeWriteFailed, match="No space left"):
            write(lake, minutes("AAPL", D1, D2, seed=1 + attempt), D1, D2)
        with pytest.raises(LakeWriteFailed, match="No space left"):
            append(lake, D3, minutes("AAPL", D3).rows(slice(0, 300)))
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == bars.content_hash()
    assert lake.verify("bars_1m") == []
    filler.unlink()
    write(lake, minutes("AAPL", D1, D2, seed=1), D1, D2)
    append(lake, D3, minutes("AAPL", D3))
    assert lake.read_bars("bars_1m", "AAPL", D1, D2).content_hash() == minutes("AAPL", D1, D2, seed=1).content_hash()
    assert len(lake.versions("bars_1m", "AAPL", D1)) == 2
