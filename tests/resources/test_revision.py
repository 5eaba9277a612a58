"""The code revision names exactly what runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources import revision


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "trading").mkdir()
    (tmp_path / "trading" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    revision.code_revision.cache_clear()
    yield tmp_path
    revision.code_revision.cache_clear()


def git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True, text=True).stdout.strip()


def test_without_git_it_is_the_hash_of_the_sources(project: Path) -> None:
    first = revision.code_revision()
    assert first.startswith("src-")
    (project / "trading" / "a.py").write_text("x = 2\n")
    assert revision.code_revision() == first, "what a process runs does not change while it runs"
    revision.code_revision.cache_clear()
    assert revision.code_revision() != first


def test_with_git_it_is_the_commit_and_says_when_sources_differ(project: Path) -> None:
    git(project, "init", "-q")
    assert revision.code_revision().startswith("src-"), "no commit yet"
    git(project, "add", "-A")
    git(project, "commit", "-qm", "first")
    revision.code_revision.cache_clear()
    assert revision.code_revision() == git(project, "rev-parse", "--short=12", "HEAD")
    (project / "notes.txt").write_text("not code")
    revision.code_revision.cache_clear()
    assert not revision.code_revision().endswith("+dirty")
    (project / "trading" / "a.py").write_text("x = 3\n")
    revision.code_revision.cache_clear()
    assert revision.code_revision().endswith("+dirty")
