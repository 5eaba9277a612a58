"""Settings, files and modes that change are in the audit, from what to what, and no secret is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine

from resources.ledger import audit, audit_read, modes
from resources.ledger.settings_audit import note_config, note_settings
from resources.settings import Settings
from trading.instruments import Mode


def records(engine: Engine, action: str) -> list[dict[str, Any]]:
    return audit_read.read(engine, action=action)


def test_a_setting_that_changed_between_two_starts_is_told_once(ledger_engine: Engine) -> None:
    one = Settings(paper_cash=1000.0, postgres_url="postgresql+psycopg2://u:hush-hush@h", lake_url="s3://a:pass@b")  # type: ignore[arg-type]
    assert note_settings(ledger_engine, one) == {}
    assert note_settings(ledger_engine, one) == {}
    other = one.model_copy(update={"paper_cash": 5.0, "mode": "shadow"})
    assert note_settings(ledger_engine, other) == {"mode": ["paper", "shadow"], "paper_cash": [1000.0, 5.0]}
    first, second = records(ledger_engine, "settings_changed")
    assert first["content"]["settings"]["postgres_url"] == "set"
    assert "hush" not in str(first)
    assert ":pass@" not in str(first)
    assert second["actor"].startswith("desk:")
    assert audit.verify(ledger_engine) == []


def test_files_and_modes_that_changed_are_told_with_the_files_owner(ledger_engine: Engine, tmp_path: Path) -> None:
    def files(**revisions: str) -> list[Any]:
        for name in revisions:
            (tmp_path / name).write_text("x")
        return [SimpleNamespace(path=name, revision=revision) for name, revision in revisions.items()]

    note_config(ledger_engine, tmp_path, files(a="1", b="1"), {"trend": "paper"})
    note_config(ledger_engine, tmp_path, files(a="1", b="1"), {"trend": "paper"})
    note_config(ledger_engine, tmp_path, files(a="2", c="1"), {"trend": "live"})
    told = records(ledger_engine, "config_changed")
    assert len(told) == 2
    assert told[1]["content"]["changed"] == {"a": ["1", "2"], "b": ["1", None], "c": [None, "1"]}
    assert told[1]["actor"] == f"file:{(tmp_path / 'a').owner()}"
    (mode,) = records(ledger_engine, "mode_changed")
    assert mode["content"] == {"strategy": "trend", "before": "paper", "mode": "live"}


def test_a_promotion_that_a_file_asks_for_and_does_not_get_is_told_as_that(ledger_engine: Engine, tmp_path: Path) -> None:
    before, now = {"trend": "paper", "revert": "paper"}, {"trend": "live", "revert": "shadow"}
    for stated in (before, now):
        with ledger_engine.begin() as connection:
            modes.note_files(connection, {name: Mode(mode) for name, mode in stated.items()})
        note_config(ledger_engine, tmp_path, [], stated)
    (not_taken,) = records(ledger_engine, "promotion_not_taken")
    assert not_taken["content"] == {"strategy": "trend", "before": "paper", "stated": "live", "mode": "paper"}
    (taken,) = records(ledger_engine, "mode_changed")
    assert taken["content"] == {"strategy": "revert", "before": "paper", "mode": "shadow"}
