"""The inbox: files people drop become sources of the feed `files`, or are refused with a report that names the lines.

    inbox/NAME, inbox/<profile>/NAME    waiting
    inbox/done/<day>/<hash12>-NAME      accepted, `.report.md` beside it, in the index
    inbox/rejected/<day>/<hash12>-NAME  refused, `.report.md` beside it

One file is taken in steps, each of which leaves everything whole: the file gets its second name (a hard link) below done or
rejected, the report is written, the index is replaced, and only then does the first name go. Whoever takes the file again
after a crash goes on where it stopped. A file is known by its content: the same bytes read the same way are not taken twice.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from resources import inbox_report
from resources.feeds._file_bars import MAX_BAD, judge
from resources.feeds._file_index import (
    Accepted,
    Held,
    Index,
    held_of,
    overlaps,
    read_index,
    sync_folder,
    write_atomically,
    write_index,
)  # fmt: skip
from resources.feeds._file_text import open_file, sha256_of
from resources.feeds._layout_detect import detect, header_of
from resources.feeds._profiles import RESERVED, LoadedProfile, choose_profile, load_profiles
from resources.feeds.files import UniverseOfFiles
from resources.feeds.protocol import FeedError, MalformedData
from resources.inbox_report import Check
from resources.settings import Settings
from trading.calendars import calendar
from trading.timeframes import from_us

UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart", ".swp", "~")
"""Endings of names that downloads and editors use until a file is whole."""
LOCK = ".lock"


class InboxError(Exception):
    """Something the inbox was asked that cannot be done; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file in the inbox. name: relative to it, with the profile's folder when it is in one; finished: by its name."""

    name: str
    size: int
    mtime_ns: int

    @property
    def finished(self) -> bool:
        return not self.name.lower().endswith(UNFINISHED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: accepted, duplicate, rejected, growing (still written: nothing was done) or gone.

    path, report: relative to the inbox, "" when there is none. symbols: instruments accepted.
    """

    name: str
    state: str
    why: str = ""
    path: str = ""
    report: str = ""
    symbols: tuple[str, ...] = ()
    rows: int = 0
    span: tuple[date, date] | None = None
    order: int = 0


@dataclass
class Inbox:
    """One installation's inbox.

    step: called with the name of each step after it is done; a hook for tests of crashes. now_wall: real clock, UTC us.
    """

    settings: Settings
    step: Callable[[str], None] = field(default=lambda _: None)
    now_wall: Callable[[], int] = field(default=lambda: time.time_ns() // 1000)

    def __post_init__(self) -> None:
        self.folder = self.settings.path("inbox")
        self._universe = UniverseOfFiles(self.settings)

    # -- looking ---------------------------------------------------------------------------------------------------------

    def waiting(self) -> list[Waiting]:
        """Files in the inbox and its profiles' folders, by name. Makes the folders when they are not there."""
        (self.folder / "done").mkdir(parents=True, exist_ok=True)
        (self.folder / "rejected").mkdir(exist_ok=True)
        found: list[Waiting] = []
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or path.name in RESERVED:
                continue
            for one in sorted(path.iterdir()) if path.is_dir() else [path]:
                if one.is_file() and not one.name.startswith("."):
                    try:
                        stat = one.stat()
                    except FileNotFoundError:  # taken in this moment
                        continue
                    found.append(Waiting(one.relative_to(self.folder).as_posix(), stat.st_size, stat.st_mtime_ns))
        return found

    def index(self) -> Index:
        """Accepted files. Raises MalformedData."""
        return read_index(self.folder)

    def rejected(self) -> list[str]:
        """Refused files, relative to the inbox, oldest first."""
        return [
            p.relative_to(self.folder).as_posix()
            for p in sorted((self.folder / "rejected").glob("*/*"))
            if p.is_file() and not p.name.endswith(inbox_report.SUFFIX) and not p.name.startswith(".")
        ]

    def check(self, path: Path, profile: str = "") -> Check:
        """Read, detect and judge a file, without doing anything with it. Never raises for what is in the file."""
        profiles, problems = load_profiles(self.settings.config)
        given = _given_name(path.name) if path.resolve().is_relative_to(self.folder.resolve()) else path.name
        check = Check(given, profile)
        try:
            instruments = self._universe()
            opened = open_file(path, given)
            check.sha256, check.size, check.kind = opened.sha256, path.stat().st_size, opened.kind
            loaded = choose_profile(profiles, problems, given, header_of(opened), opened.kind, profile)
            check.profile = loaded
            reading = detect(opened, loaded, instruments)
            check.layout, check.findings = reading.layout, reading.findings
            check.judged = judge(reading.grid, reading.layout, instruments)
            check.refusal = _refusal(check, loaded)
        except FeedError as error:
            check.refusal = str(error)
            check.add = getattr(error, "add", "")
        if check.refusal and isinstance(check.profile, str):
            check.problems = [str(p) for p in problems]
        return check

    # -- taking ----------------------------------------------------------------------------------------------------------

    def take(self, name: str) -> Outcome:
        """Accept or reject one waiting file; `name` as `waiting` gives it. Raises OSError when the disk refuses."""
        path = self._waiting_path(name)
        with self._lock():
            try:
                before = path.stat()
                digest = sha256_of(path)
            except FileNotFoundError:
                return Outcome(name, "gone", "another run took it")
            self.step("hashed")
            folder = path.parent.name if path.parent != self.folder else ""
            check = self.check(path, folder)
            self.step("judged")
            try:
                after = path.stat()
            except FileNotFoundError:
                return Outcome(name, "gone", "it was taken away while it was read")
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or check.sha256 not in ("", digest):
                return Outcome(name, "growing", "it changed while it was read; it is read again when it rests")
            check.sha256, check.size = digest, after.st_size
            return self._reject(name, path, check) if check.refusal else self._accept(name, path, check)

    def retry(self, name: str, profile: str = "") -> str:
        """Put a refused or accepted file back into the inbox, to be read again; its name there.

        name: the whole path relative to the inbox, the name it lies under, or the name it came with. An accepted file stays
        a source until it is accepted again. Raises InboxError.
        """
        accepted = [f.path for f in self.index().files]
        every = [*self.rejected(), *accepted]
        found = [p for p in every if name in (p, p.rpartition("/")[2], _given_name(p))]
        exact = [p for p in found if p == name]
        found = exact or found
        if not found:
            shown = ", ".join(self.rejected()[-5:]) or "none"
            raise InboxError(f"no refused or accepted file {name!r}; refused: {shown} (see `tapeline inbox list`)")
        if len(set(found)) > 1:
            raise InboxError(f"{name!r} could be {' or '.join(dict.fromkeys(found))}: give the whole path")
        source = self.folder / found[0]
        if not source.is_file():
            raise InboxError(f"{source} is gone")
        target = self.folder / profile / _given_name(found[0]) if profile else self.folder / _given_name(found[0])
        if profile and profile not in load_profiles(self.settings.config)[0]:
            raise InboxError(f"there is no profile {profile!r}")
        with self._lock():
            if target.exists():
                raise InboxError(f"{target} is already waiting")
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(f".{target.name}.{os.getpid()}.new")
            shutil.copy2(source, new)
            os.utime(new)
            new.replace(target)
            sync_folder(target.parent)
            if found[0] not in accepted:
                source.unlink()
                source.with_name(source.name + inbox_report.SUFFIX).unlink(missing_ok=True)
        return target.relative_to(self.folder).as_posix()

    # -- steps -----------------------------------------------------------------------------------------------------------

    def _accept(self, name: str, path: Path, check: Check) -> Outcome:
        assert check.layout is not None
        assert check.judged is not None
        index = self.index()
        known = [f for f in index.files if f.sha256 == check.sha256]
        same = next((f for f in reversed(known) if f.layout == check.layout), None)
        held = self._held(check)
        if same is not None and same.on_bad_rows == _policy(check) and all(s in same.symbols for s in held):
            return self._known(name, path, check, same)
        target = self._place("done", path, check.sha256)
        entry = Accepted(
            order=index.last_order + 1, sha256=check.sha256, name=path.name, path=target.relative_to(self.folder).as_posix(),
            size=check.size, accepted_wall=self.now_wall(), profile=check.profile_name, profile_revision=check.profile_revision,
            on_bad_rows=_policy(check), layout=check.layout, symbols=held, bad_rows=check.judged.bad_count,
        )  # fmt: skip
        check.replaces = [
            f"{symbol}: {lo} to {hi}, before from {file.path}"
            for symbol, one in held.items()
            for file, lo, hi in overlaps(index.files, symbol, one, check.layout.timeframe)
        ]
        check.beyond = self._beyond(entry)
        self._link(path, target)
        self.step("linked")
        write_atomically(self._report_path(target), inbox_report.accepted(check, entry).encode())
        self.step("reported")
        write_index(self.folder, index.model_copy(update={"files": [*index.files, entry]}))
        self.step("indexed")
        self._remove(path)
        self.step("removed")
        return self._outcome(name, "accepted", "", entry)

    def _beyond(self, entry: Accepted) -> str:
        """What is said about sessions the universe does not keep; "" when it keeps them all."""
        first, last = self._universe.history()
        lo, hi = entry.span
        if lo >= first and (last is None or hi <= last):
            return ""
        return f"The universe keeps sessions from {first} to {last or 'today'}; the file's others are held, not ingested."

    def _held(self, check: Check) -> dict[str, Held]:
        assert check.layout is not None
        assert check.judged is not None
        held: dict[str, Held] = {}
        universe = self._universe()
        for symbol, bars in check.judged.symbols.items():
            instrument = universe[symbol][0]
            times, sessions = inbox_report.held_rows(bars, check.quarantines)
            if len(times):
                venue = calendar(instrument.calendar)
                held[symbol] = held_of(instrument.symbol, times, sessions, check.layout.timeframe, venue)
        return held

    def _known(self, name: str, path: Path, check: Check, entry: Accepted) -> Outcome:
        """A file whose content is in the index: this acceptance was interrupted, or it was dropped twice."""
        target = self.folder / entry.path
        interrupted = target.exists() and target.samefile(path)
        if not target.exists() or (not interrupted and sha256_of(target) != entry.sha256):
            # The accepted copy was lost or spoilt: this one has its content.
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            self._link(path, target)
        report = self._report_path(target)
        if not report.exists():
            write_atomically(report, inbox_report.accepted(check, entry).encode())
        self._remove(path)
        self.step("removed")
        if interrupted:
            return self._outcome(name, "accepted", "", entry)
        when = from_us(entry.accepted_wall).strftime("%Y-%m-%d %H:%M UTC")
        return self._outcome(
            name, "duplicate", f"the same content was accepted on {when} as {entry.path}; nothing changed", entry
        )

    def _outcome(self, name: str, state: str, why: str, entry: Accepted) -> Outcome:
        symbols = tuple(h.instrument for h in entry.symbols.values())
        rows = sum(h.rows for h in entry.symbols.values())
        return Outcome(name, state, why, entry.path, entry.path + inbox_report.SUFFIX, symbols, rows, entry.span, entry.order)

    def _reject(self, name: str, path: Path, check: Check) -> Outcome:
        target = self._place("rejected", path, check.sha256)
        self._link(path, target)
        self.step("linked")
        report = self._report_path(target)
        write_atomically(report, inbox_report.rejected(check, self.now_wall()).encode())
        self.step("reported")
        self._remove(path)
        self.step("removed")
        shown = target.relative_to(self.folder).as_posix()
        return Outcome(name, "rejected", check.refusal, shown, shown + inbox_report.SUFFIX)

    # -- files -----------------------------------------------------------------------------------------------------------

    def _waiting_path(self, name: str) -> Path:
        parts = Path(name).parts
        if not 1 <= len(parts) <= 2 or ".." in parts or Path(name).is_absolute() or parts[0] in RESERVED:
            raise InboxError(f"{name!r} is no file of the inbox: expected NAME or PROFILE/NAME")
        return self.folder / name

    def _place(self, kind: str, path: Path, digest: str) -> Path:
        """Where the file goes; where it went already when an earlier attempt was interrupted after its link."""
        shown = f"{digest[:12]}-{path.name}"
        for before in (self.folder / kind).glob(f"*/{_escaped(shown)}"):
            if before.samefile(path):
                return before
        folder = self.folder / kind / from_us(self.now_wall()).strftime("%Y-%m-%d")
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        return folder / shown

    def _link(self, path: Path, target: Path) -> None:
        """Give the file its second name; on a file system without links, copy it whole before it gets that name."""
        if target.exists() and (target.samefile(path) or sha256_of(target) == sha256_of(path)):
            return
        try:
            os.link(path, target)
        except OSError:
            new = target.with_name(f".{target.name}.{os.getpid()}.new")
            shutil.copy2(path, new)
            with new.open("rb+") as stream:
                os.fsync(stream.fileno())
            new.replace(target)
        sync_folder(target.parent)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def _report_path(self, target: Path) -> Path:
        return target.with_name(target.name + inbox_report.SUFFIX)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time takes files; the lock goes with the process that holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _policy(check: Check) -> str:
    return check.profile.profile.on_bad_rows if isinstance(check.profile, LoadedProfile) else "reject_file"


def _refusal(check: Check, loaded: LoadedProfile) -> str:
    """Why the file is not taken although it could be read; "" when it is."""
    assert check.judged is not None
    judged = check.judged
    rows = sum(len(b.columns.close_time) for b in judged.symbols.values())
    if judged.bad_count > MAX_BAD:
        return f"{judged.bad_count} rows are bad: more than {MAX_BAD}; is the profile right?"
    if judged.bad_count and loaded.profile.on_bad_rows == "reject_file":
        first = judged.bad[0]
        return (
            f"{judged.bad_count} of {judged.rows} rows are bad, the first on line {first.line}: {first.reason}; "
            "mend them, or let the profile say `on_bad_rows: quarantine`"
        )
    if judged.bad_count and not check.quarantines_all:
        lost = judged.bad_count - check.placed
        return (
            f"{lost} of {judged.rows} rows are bad and have no time or place at which they could be kept in quarantine; "
            "mend these lines"
        )
    if not rows:
        return "no row is a bar: every row lies outside the sessions or has no price"
    return ""


def _given_name(path: str) -> str:
    """The name a file came with."""
    return re.sub(r"^[0-9a-f]{12}-", "", path.rpartition("/")[2])


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)


__all__ = ["Inbox", "InboxError", "MalformedData", "Outcome", "Waiting"]
