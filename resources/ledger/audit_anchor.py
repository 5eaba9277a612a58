"""Heads of the audit chain kept outside the database: who cuts off the chain's end cannot make them fit.

``data/audit/anchors.jsonl`` has one line per head, written about once a minute while something happens: number, hash and
real time (UTC us) of the newest record. The daily summary carries the head to whoever gets it, outside this machine.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "anchors.jsonl"
_TEXT = re.compile(r"^\s*(\d+):([0-9a-f]{64})\s*$")


class AnchorsUnreadable(Exception):
    """The file of anchors holds a line that is none. The message names file and line."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One head: the newest record's number and hash. wall: when it was noted, UTC us (0: not known)."""

    seq: int
    hash: str
    wall: int = 0

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


def parse(text: str) -> Anchor:
    """An anchor from its ``seq:hash`` text. Raises ValueError."""
    found = _TEXT.match(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no audit head: expected NUMBER:HASH with 64 hex digits, as `tapeline audit head` prints it"
        )
    return Anchor(int(found[1]), found[2])


def note(folder: Path, anchor: Anchor) -> bool:
    """Add `anchor` to the file in `folder`, synced to disk. False when the newest line is it already.

    Raises OSError when it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / FILE_NAME
    if _last_line(path) == (anchor.seq, anchor.hash):
        return False
    line = json.dumps({"seq": anchor.seq, "hash": anchor.hash, "wall": anchor.wall}, separators=(",", ":")) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        torn = path.stat().st_size > 0 and not _ends_whole(path)
        os.write(descriptor, (("\n" if torn else "") + line).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def read(folder: Path) -> list[Anchor]:
    """Every anchor of the file in `folder`, oldest first; none when there is no file.

    A last line without its end was being written when the power went: it is left out. Raises AnchorsUnreadable.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return []
    anchors: list[Anchor] = []
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            anchors.append(Anchor(int(row["seq"]), str(row["hash"]), int(row["wall"])))
        except (ValueError, KeyError, TypeError):
            # A write that was cut off ends where the file did then: the next one began a new line.
            if not line.endswith("}"):
                continue
            raise AnchorsUnreadable(f"{path}:{number}: not an anchor: expected seq, hash and wall") from None
    return anchors


def _last_line(path: Path) -> tuple[int, str] | None:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 512))
            row = json.loads(file.read().splitlines()[-1])
            return int(row["seq"]), str(row["hash"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
