"""What research remembers on disk: every revision of a strategy file ever seen, results, pictures, and which trials were made.

    data/research/revisions/NAME/REVISION.json     the file's text, where it stood, when it was first seen
    data/research/results/NAME/REVISION/KIND.json  figures of one asset; .npz arrays, .png pictures, report.html beside them
    data/research/trials/NAME.json                 content hashes of every variant tried, for the count in MLflow

Files are written whole or not at all. Removing the folder loses research, never trading.
"""

from __future__ import annotations

import difflib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading.ids import file_revision


@dataclass(frozen=True, slots=True)
class Revision:
    """One text of a strategy or plan file. path: below the config folder. seen_wall: first, UTC us. resolved: a plan with its
    template filled in, as JSON."""

    name: str
    revision: str
    path: str
    seen_wall: int
    text: str
    resolved: str = ""


def difference(before: Revision, after: Revision) -> str:
    """The lines that were changed between two revisions, as a unified diff; empty where the texts are the same."""
    old, new = (f"{r.path} {r.revision}" for r in (before, after))
    lines = difflib.unified_diff(before.text.splitlines(), after.text.splitlines(), old, new, lineterm="", n=2)
    return "\n".join(lines)


class UnknownRevision(LookupError):
    """No such revision, or more than one. The message names what there is."""


class ResearchStore:
    """The folder `root`, made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- revisions -----------------------------------------------------------------------------------------------------

    def keep(self, name: str, path: str, text: str, revision: str = "", resolved: str = "") -> str:
        """Remember a file's text; returns its revision: `revision`, or the hash of the text. What is there already stays."""
        revision = revision or file_revision(text)
        place = self.root / "revisions" / name / f"{revision}.json"
        if not place.exists():
            seen = {"name": name, "revision": revision, "path": path, "seen_wall": time.time_ns() // 1000, "text": text,
                    "resolved": resolved}  # fmt: skip
            _write(place, json.dumps(seen, ensure_ascii=False, indent=1).encode())
        return revision

    def keep_files(self, folder: Path, files: Iterable[Any], evaluables: Mapping[str, Any]) -> int:
        """Remember every usable strategy, plan and plug-in among `files` (resources.config.ConfigFile); how many there are.

        evaluables: by name; their revisions are what signals carry (an ensemble's covers its members' files, too).
        """
        count = 0
        for file in files:
            if file.kind not in ("strategies", "plans", "plugins") or not file.name or file.problems:
                continue
            try:
                text = (folder / file.path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):  # gone or changed since it was read: the next load says so
                continue
            if file_revision(text) == file.revision:
                used = evaluables.get(file.name)
                revision = used.revision if used is not None else ""
                self.keep(file.name, file.path, text, revision, getattr(used, "resolved", ""))
                count += 1
        return count

    def revisions(self, name: str) -> list[Revision]:
        """Every revision seen of a strategy or plan, the oldest first."""
        found = []
        for place in (self.root / "revisions" / name).glob("*.json"):
            said = json.loads(place.read_text(encoding="utf-8"))
            found.append(Revision(**said))
        return sorted(found, key=lambda r: (r.seen_wall, r.revision))

    def names(self) -> list[str]:
        """Strategies and plans of which a revision is kept."""
        folder = self.root / "revisions"
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def revision(self, name: str, beginning: str) -> Revision:
        """The revision of `name` that begins with `beginning`. Raises UnknownRevision."""
        known = self.revisions(name)
        found = [r for r in known if r.revision.startswith(beginning)] if beginning else []
        if len(found) != 1:
            there = ", ".join(r.revision for r in known) or "none"
            which = "no" if not found else f"{len(found)}"
            hint = f"; strategies known: {', '.join(self.names()) or 'none'}" if not known else ""
            raise UnknownRevision(f"{which} revision of {name} begins with {beginning!r}; kept are {there}{hint}")
        return found[0]

    # -- results -------------------------------------------------------------------------------------------------------

    def folder(self, name: str, revision: str) -> Path:
        return self.root / "results" / name / revision

    def put(self, name: str, revision: str, kind: str, figures: Mapping[str, Any]) -> Path:
        """Keep figures as JSON; numbers that are none become null."""
        place = self.folder(name, revision) / f"{kind}.json"
        _write(place, json.dumps(_plain(figures), ensure_ascii=False, indent=1).encode())
        return place

    def get(self, name: str, revision: str, kind: str) -> dict[str, Any] | None:
        """Figures kept, None when that was never computed for this revision."""
        place = self.folder(name, revision) / f"{kind}.json"
        try:
            return dict(json.loads(place.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def put_arrays(self, name: str, revision: str, kind: str, **arrays: NDArray[Any]) -> Path:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        place = self.folder(name, revision) / f"{kind}.npz"
        _write(place, buffer.getvalue())
        return place

    def arrays(self, name: str, revision: str, kind: str) -> dict[str, NDArray[Any]] | None:
        place = self.folder(name, revision) / f"{kind}.npz"
        if not place.exists():
            return None
        with np.load(place, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}

    def put_file(self, name: str, revision: str, file: str, content: bytes) -> Path:
        place = self.folder(name, revision) / file
        _write(place, content)
        return place

    def pictures(self, name: str, revision: str) -> list[tuple[str, bytes]]:
        """(name, PNG) of every picture kept."""
        return [(p.stem, p.read_bytes()) for p in sorted(self.folder(name, revision).glob("*.png"))]

    # -- trials --------------------------------------------------------------------------------------------------------

    def tried(self, name: str) -> dict[str, int]:
        """Content hash of every variant of `name` tried on this machine -> when first, UTC us."""
        try:
            return dict(json.loads((self.root / "trials" / f"{name}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def add_trials(self, name: str, contents: Iterable[str]) -> dict[str, int]:
        """Note variants as tried; all that ever were."""
        known = self.tried(name)
        now = time.time_ns() // 1000
        new = {content: now for content in contents if content not in known}
        if new:
            known |= new
            _write(self.root / "trials" / f"{name}.json", json.dumps(known, indent=0).encode())
        return known


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def number(figures: Mapping[str, Any] | None, key: str) -> float:
    """A figure of stored results; NaN where it is missing or null."""
    value = (figures or {}).get(key)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _write(place: Path, content: bytes) -> None:
    """Whole or not at all: a reader sees the old file or the new one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
