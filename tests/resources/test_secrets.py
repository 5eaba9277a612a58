"""Secrets in files: made once, their owner's alone, compared in constant time, in no message."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from resources.secrets import SecretError, ensure_secret, read_secret, same
from resources.settings import ROOT


def test_a_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "token"
    made = ensure_secret(path)
    assert len(made) >= 40
    assert ensure_secret(path) == read_secret(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["token"]


def test_processes_that_make_it_together_agree(tmp_path: Path) -> None:
    code = "import sys, pathlib, resources.secrets as s; print(s.ensure_secret(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "s" / "token")]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({process.communicate()[0] for process in running}) == 1


def test_what_cannot_be_a_secret_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(SecretError, match=f"{path}: no such file"):
        read_secret(path)
    path.write_text("s3cret\n")
    path.chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600") as error:
        ensure_secret(path)
    assert "s3cret" not in str(error.value)
    path.chmod(0o600)
    assert read_secret(path) == "s3cret"
    path.write_text("\n")
    with pytest.raises(SecretError, match="empty"):
        read_secret(path)


def test_only_the_same_secret_is_the_same() -> None:
    assert same("abc", "abc")
    assert not same("abc", "abd")
    assert not same("", "")
    assert not same("é", "e")
