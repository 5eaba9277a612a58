# ruff: noqa: F811, F401 - fixtures are imported by name
"""A lake in an object store: found by its URL, never two truths under two writers, no credential in any message."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from resources.lake import CorruptPartition, Lake, LakeError, LakeWriteFailed, StorageFailed, WriteRaced, open_lake
from resources.lake import object_store as store_module
from resources.lake.object_store import Credentials, ObjectStorage
from resources.lake.steps import on_step
from resources.settings import Settings
from tests.resources.lake_kit import (
    BUCKET,
    D1,
    D2,
    D3,
    append,
    folder_lake,
    minutes,
    object_lake,
    object_store,
    reopened,
    write,
)


@pytest.fixture
def remote(object_store: str) -> Lake:
    return object_lake(object_store)


def test_the_url_alone_says_where_the_lake_is(object_store: str) -> None:
    own = Settings(lake_url=f"s3://{BUCKET}/by-settings?endpoint_override={object_store}&scheme=http")
    bars = minutes("AAPL", D1)
    write(open_lake(own), bars, D1, D1)
    again = Lake(f"s3://{BUCKET}/by-settings?endpoint_override=http://{object_store}")
    assert again.read_bars("bars_1m", "AAPL").content_hash() == bars.content_hash()
    assert str(again.root) == f"s3://{BUCKET}/by-settings"
    assert (again.root / "bars_1m").as_uri() == f"s3://{BUCKET}/by-settings/bars_1m"


def test_without_a_url_the_lake_is_a_folder(tmp_path: Path) -> None:
    lake = open_lake(Settings(data_dir=tmp_path))
    assert lake.root == tmp_path / "lake"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://key:hush@bucket/lake", "credentials"),
        ("s3:///lake", "no bucket"),
        ("s3://bucket/lake?endpoint=x", "options endpoint"),
        ("gs://bucket/lake", "no storage for gs://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_a_secret(url: str, why: str) -> None:
    with pytest.raises(LakeError, match=why) as error:
        Lake(url)
    assert "hush" not in str(error.value)


def test_half_a_credential_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="LAKE_SECRET_KEY"):
        open_lake(Settings(lake_url="s3://bucket/lake", lake_access_key=SecretStr("k"), data_dir=tmp_path))


def test_credentials_are_in_no_message_log_or_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    keys = Credentials("AKIDOPEN", "hush-hush")
    lake = Lake("s3://bucket/lake?endpoint_override=127.0.0.1:9&scheme=http", keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStorage, "_connect", _impatient(ObjectStorage._connect))
        with pytest.raises(LakeWriteFailed, match="cannot be reached") as error:
            write(lake, minutes("AAPL", D1), D1, D1)
    said = "".join([str(error.value), repr(error.value.__cause__), repr(keys), repr(lake.storage.__dict__), caplog.text])
    assert "hush" not in said
    assert "AKIDOPEN" not in said


def _impatient(connect: object) -> object:
    def quick(self: ObjectStorage) -> object:
        from botocore.config import Config

        original = Config.__init__

        def once(own: Config, **options: object) -> None:
            original(own, **{**options, "connect_timeout": 0.2, "retries": {"mode": "standard", "max_attempts": 1}})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Config, "__init__", once)
            return connect(self)  # type: ignore[operator]

    return quick


def test_a_bucket_that_is_not_there_is_named(object_store: str) -> None:
    lake = Lake(f"s3://no-such-bucket/lake?endpoint_override={object_store}&scheme=http")
    with pytest.raises(LakeWriteFailed, match=r"s3://no-such-bucket/lake.*NoSuchBucket"):
        write(lake, minutes("AAPL", D1), D1, D1)
    with pytest.raises(StorageFailed, match="NoSuchBucket"):
        lake.read_bars("bars_1m", "AAPL")


def test_a_part_that_is_gone_is_named(remote: Lake) -> None:
    write(remote, minutes("AAPL", D1), D1, D1)
    (part,) = [f.name for f in remote.storage.files("bars_1m/2014-06") if f.name.endswith(".parquet")]
    remote.storage.delete(f"bars_1m/2014-06/{part}")
    with pytest.raises(CorruptPartition, match=part):
        remote.read_bars("bars_1m", "AAPL")


# ---- two writers -------------------------------------------------------------------------------------------------


def test_a_manifest_is_swapped_only_when_it_still_is_the_one_that_was_read(remote: Lake) -> None:
    storage = remote.storage
    storage.swap("bars_1m/2014-06", b"first", None)
    with pytest.raises(WriteRaced):
        storage.swap("bars_1m/2014-06", b"another first", None)
    found = storage.load("bars_1m/2014-06", None)
    assert found is not None
    storage.swap("bars_1m/2014-06", b"second", found[0])
    with pytest.raises(WriteRaced, match="another writer was first"):
        storage.swap("bars_1m/2014-06", b"late", found[0])
    now = storage.load("bars_1m/2014-06", None)
    assert now is not None
    assert now[1] == b"second"
    assert storage.load("bars_1m/2014-06", now[0]) == (now[0], None)
    storage.swap("bars_1m/2014-06", b"second", found[0])  # an answer that was lost: the put is repeated and meets itself


def test_a_writer_that_stalls_past_its_lease_loses_nothing_of_the_other(remote: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read the same manifest; the stalled one comes second, is told, and writes on top of the other's."""
    write(remote, minutes("IBM", D1), D1, D1)
    monkeypatch.setattr(store_module, "LEASE_SECONDS", 0.0)
    other, stalled = reopened(remote), threading.Event()

    def stall(step: str) -> None:
        if step == "parts_synced" and threading.current_thread().name == "slow" and not stalled.is_set():
            stalled.set()
            write(other, minutes("MSFT", D1, seed=1), D1, D1)

    on_step(stall)
    slow = threading.Thread(target=lambda: write(remote, minutes("AAPL", D1, seed=2), D1, D1), name="slow")
    slow.start()
    slow.join(60)
    on_step(None)
    assert stalled.is_set()
    for symbol, seed in (("IBM", 0), ("MSFT", 1), ("AAPL", 2)):
        assert remote.read_bars("bars_1m", symbol).content_hash() == minutes(symbol, D1, seed=seed).content_hash()
    assert remote.verify("bars_1m") == []


def test_folding_past_its_lease_loses_no_live_bar(remote: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    day = minutes("AAPL", D3)
    append(remote, D3, day.rows(slice(0, 2)))
    monkeypatch.setattr(store_module, "LEASE_SECONDS", 0.0)
    other, done = reopened(remote), threading.Event()

    def interfere(step: str) -> None:
        if step == "garbage_collected" and not done.is_set():  # the month has it, the hot session is about to go
            done.set()
            append(other, D3, day.rows(slice(2, 3)))

    on_step(interfere)
    try:
        remote.compact("bars_1m", before=D3.replace(month=7))
    finally:
        on_step(None)
    assert done.is_set()
    assert reopened(remote).read_bars("bars_1m", "AAPL").content_hash() == day.rows(slice(0, 3)).content_hash()


def test_the_writer_s_place_is_held_by_one_at_a_time_and_free_again(remote: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.2)
    with remote.storage.lock("bars_1m/.locks/2014-06"):
        with pytest.raises(LakeWriteFailed, match="held by another writer"):
            write(reopened(remote), minutes("AAPL", D1), D1, D1)
        write(reopened(remote), minutes("AAPL", D1.replace(month=5)), D1.replace(month=5), D1.replace(month=5))
    write(reopened(remote), minutes("AAPL", D1), D1, D1)


def test_a_lease_nobody_gave_back_runs_out(remote: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LEASE_SECONDS", 0.2)
    assert remote.storage._lease("bars_1m/.locks/2014-06", "a dead writer") is not None  # type: ignore[attr-defined]
    write(remote, minutes("AAPL", D1, D2), D1, D2)
    assert len(remote.read_bars("bars_1m", "AAPL")) == 780
