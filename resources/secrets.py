"""Secrets kept in files: made once, readable by their owner only, compared in constant time, never printed."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets as _random
import stat
from pathlib import Path


class SecretError(Exception):
    """A secret file is missing, empty or readable by others. The message names the file, never its content."""


def ensure_secret(path: Path) -> str:
    """The secret in `path`; made with 256 random bits and mode 600 when the file does not exist yet.

    Two processes that make it at once agree: the file appears complete or not at all, and the first one wins.
    Raises SecretError when the file is empty or others may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{_random.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(_random.token_urlsafe(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first: its secret counts
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return read_secret(path)


def read_secret(path: Path) -> str:
    """The secret in `path`. Raises SecretError when it is missing, empty or readable by others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        secret = path.read_text().strip()
    except FileNotFoundError:
        raise SecretError(f"{path}: no such file; it is made when the desk first starts (tapeline up)") from None
    except OSError as error:
        raise SecretError(f"{path}: cannot be read ({error.strerror}); run as the user who started the desk") from None
    if mode & 0o077:
        raise SecretError(f"{path}: mode {mode:03o} lets others read it; expected 600: chmod 600 {path}")
    if not secret:
        raise SecretError(f"{path}: empty; remove it and start the desk again to make a new one")
    return secret


def read_named_secret(folder: Path, name: str) -> str:
    """The secret a person put into ``folder/name``. Raises SecretError that says how to put it there."""
    path = folder / name
    if not path.exists():
        raise SecretError(f"{path}: no such file; put the secret there with `tapeline notify secret {name}`")
    return read_secret(path)


def write_secret(path: Path, secret: str) -> None:
    """Put `secret` into `path`, mode 600, replacing what was there; the file is complete or as it was."""
    if not secret.strip():
        raise SecretError(f"{path}: an empty secret is none")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{_random.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret.strip() + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def same(given: str, expected: str) -> bool:
    """Are both equal? Takes the same time wherever they differ; an empty secret equals nothing."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())
