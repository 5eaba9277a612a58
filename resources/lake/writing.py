"""Changing what a period holds: replace, append, fold hot minutes, remove. One writer a period."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from typing import TypeVar

from resources.lake import periods, superseded
from resources.lake.codec import Rows
from resources.lake.commit import NOTHING, Place, SymbolRows, commit
from resources.lake.errors import LakeWriteFailed, WriteRaced
from resources.lake.manifest import Manifest
from resources.lake.model import Partition
from resources.lake.periods import DatasetName
from resources.lake.reading import LakeReader
from resources.lake.rows import Sessions, mask_of, merge_closes, replaced_by, replaced_rows, stored, until, without_sessions
from resources.lake.select import of_manifest
from resources.lake.steps import step
from resources.lake.superseded import Replaced
from trading.instruments import Instrument
from trading.timeframes import session_date, session_number

T = TypeVar("T")
_WRITERS = min(4, (os.cpu_count() or 1) + 1)
"""Periods written at a time: one more than there are processors, because one of them is waiting for the disk."""


class LakeWriter:
    """Changes what a storage holds. Every method is atomic per period."""

    def __init__(self, reader: LakeReader) -> None:
        self._reader = reader
        self._storage = reader.storage
        self._hot: dict[tuple[str, int], tuple[Manifest, dict[str, Rows]]] = {}

    def exclusively(self, name: DatasetName, period: str, work: Callable[[], T]) -> T:
        """Do `work` as the only writer of `period`; again when another writer's commit came in between.

        What the system refuses becomes LakeWriteFailed.
        """
        for attempt in range(self._storage.attempts):
            try:
                with self._storage.lock(f"{name.name}/.locks/{period}"):
                    return work()
            except WriteRaced:
                self._hot.clear()
                if attempt == self._storage.attempts - 1:
                    raise
                time.sleep(0.02 * (attempt + 1))
            except OSError as error:
                where = self._storage.where(name.name)
                raise LakeWriteFailed(f"{where}: period {period} cannot be written ({error})") from error
        raise AssertionError("unreachable")

    # ---- replacing ---------------------------------------------------------------------------------------------------

    def write(
        self,
        name: DatasetName,
        data: Mapping[str, Rows],
        start: date,
        end: date,
        source: str,
        instruments: Mapping[str, Instrument],
        tag: str = "",
    ) -> list[Partition]:
        """Make `data` the rows of its symbols in [start, end]; what is held of them there then, by session and symbol."""
        lo, hi, wall = session_number(start), session_number(end), now_wall()
        by_period: dict[str, dict[str, Rows]] = {}
        for symbol, rows in data.items():
            for period, piece in periods.split(rows, name.yearly).items() if len(rows["close_time"]) else ():
                by_period.setdefault(period, {})[symbol] = piece
        try:
            held = set(self._reader.periods(name))
            if name.hot:
                held |= {p[:7] for p in self._reader.periods(name, hot=True)}
        except OSError as error:
            raise LakeWriteFailed(f"{self._storage.where(name.name)}: cannot be written ({error})") from error
        for period in held:
            if periods.in_range(period, start, end):
                by_period.setdefault(period, {})
        empty = {symbol: {c: v[:0] for c, v in rows.items()} for symbol, rows in data.items()}
        place = self._reader.place(name, instruments)
        writes = dict.fromkeys(data, (source, wall))

        def one(period: str) -> list[Partition]:
            # Hashed before the lock is taken: nobody waits for arithmetic.
            new = {s: Sessions.of(place.codec, s, r, tag) for s, r in {**empty, **by_period[period]}.items()}
            held = self.exclusively(name, period, lambda: self._replace(place, name, period, new, lo, hi, writes))
            # Told here, while others hash and write: in one go at the end nobody else would have anything to do.
            return of_manifest(held, data, start, end) if held is not None else []

        return [p for found in _run_all(one, sorted(by_period)) for p in found]

    def _replace(
        self,
        place: Place,
        name: DatasetName,
        period: str,
        data: Mapping[str, Sessions],
        lo: int,
        hi: int,
        writes: Mapping[str, tuple[str, int]],
    ) -> Manifest | None:
        """Make `data` the rows of its symbols in sessions [lo, hi] of `period`; what the period is then. The caller holds
        the lock."""
        folder = self._reader.folder(name, period)
        old = self._reader.manifests.load(folder)
        changed: dict[str, SymbolRows] = {}
        aside: list[Replaced] = []
        hot = self._hot_manifests(name, period, lo, hi, data) if name.hot else []
        for symbol, rows in data.items():
            new, lost = replaced_rows(place, folder, old, symbol, rows, lo, hi, writes[symbol], name.history)
            aside += lost
            if new is not None:
                changed[symbol] = new
        for manifest in hot:
            aside += self._replaced_hot(place, name, manifest, data, writes)
        if aside:
            superseded.keep(place, period, aside)
        now = commit(place, folder, period, old, changed) if changed else old
        for manifest in hot:
            self._drop_hot(place, name, manifest, data)
        return now

    # ---- hot minutes -------------------------------------------------------------------------------------------------

    def append(
        self, name: DatasetName, session: int, new: Mapping[str, Rows], source: str, instruments: Mapping[str, Instrument]
    ) -> None:
        """Add closes of `session` to what is held of it. Raises HotConflict (nothing is written then)."""
        period = periods.period_of(session, name.yearly)
        place = self._reader.place(name, instruments)

        def work() -> None:
            held = self._held(name, session, set(new))
            merged: dict[str, Rows] = {}
            reordered: set[str] = set()
            for symbol, rows in new.items():
                known = held.get(symbol)
                if known is None:
                    joined = rows
                else:
                    got = merge_closes(name, symbol, known, rows)
                    if got is None:
                        continue
                    joined, only_behind = got
                    if not only_behind:
                        reordered.add(symbol)
                if len(joined["close_time"]):
                    merged[symbol] = joined
            if not merged:
                return
            wall = now_wall()
            if name.hot:
                self._commit_hot(place, name, session, merged, held, reordered, (source, wall))
            else:
                cut = {symbol: Sessions.of(place.codec, symbol, rows, "") for symbol, rows in merged.items()}
                self._replace(place, name, period, cut, session, session, dict.fromkeys(merged, (source, wall)))

        self.exclusively(name, period, work)

    def _held(self, name: DatasetName, session: int, symbols: set[str]) -> dict[str, Rows]:
        """Rows of `symbols` in `session`. What this process wrote last is remembered as long as it is what counts."""
        day = session_date(session)
        folder = self._reader.folder(name, periods.hot_period(session), hot=True)
        manifest = self._reader.manifests.load(folder) if name.hot else None
        remembered = self._hot.get((name.name, session))
        out = dict(remembered[1]) if remembered is not None and remembered[0] is manifest else {}
        for symbol in symbols - set(out):
            got = self._reader.read(name, symbol, day, day)
            if got is not None:
                out[symbol] = got[0]
        return out

    def _commit_hot(
        self,
        place: Place,
        name: DatasetName,
        session: int,
        data: Mapping[str, Rows],
        held: dict[str, Rows],
        reordered: Collection[str],
        write: tuple[str, int],
    ) -> None:
        period = periods.hot_period(session)
        folder = self._reader.folder(name, period, hot=True)
        day = session_date(session)
        if reordered:  # the bars before are not how the bars after begin: keep them aside
            before = self._reader.partitions(name, day, day, reordered)
            aside = [Replaced(until(p, write[1]), held[p.symbol]) for p in before]
            superseded.keep(place, periods.period_of(session, name.yearly), aside)
        changed = {}
        for symbol, rows in data.items():
            count = len(rows["close_time"])
            hashes = place.codec.hashes(symbol, rows, [0, count], "")
            changed[symbol] = SymbolRows(rows, [session], [count], hashes, [write], [mask_of(place.codec.optional, rows)])
        old = self._reader.manifests.load(folder)
        self._hot.pop((name.name, session), None)
        commit(place, folder, period, old, changed)
        written = self._reader.manifests.load(folder)
        if written is not None:
            for other in [key for key in self._hot if key[0] == name.name and key[1] < session]:
                del self._hot[other]
            now = {**held, **data}
            self._hot[(name.name, session)] = (written, {s: rows for s, rows in now.items() if s in written.symbols})

    def _hot_manifests(self, name: DatasetName, period: str, lo: int, hi: int, symbols: Collection[str]) -> list[Manifest]:
        """Hot manifests of `period` within sessions [lo, hi] that hold one of `symbols`."""
        found = []
        for hot in self._reader.periods(name, hot=True):
            if hot[:7] == period and lo <= session_number(date.fromisoformat(hot)) <= hi:
                manifest = self._reader.manifests.load(self._reader.folder(name, hot, hot=True))
                if manifest is not None and not manifest.symbols.keys().isdisjoint(symbols):
                    found.append(manifest)
        return found

    def _replaced_hot(
        self,
        place: Place,
        name: DatasetName,
        manifest: Manifest,
        data: Mapping[str, Sessions],
        writes: Mapping[str, tuple[str, int]],
    ) -> list[Replaced]:
        """What of a hot session is lost when `data` takes its place."""
        aside = []
        folder = self._reader.folder(name, manifest.period, hot=True)
        for symbol, entry in manifest.symbols.items():
            if symbol in data and replaced_by(
                place.codec, symbol, data[symbol], entry.sessions[0], entry.hashes[0], entry.rows[0]
            ):
                held = stored(place, folder, manifest, symbol)
                aside.append(Replaced(until(held.partition(place.dataset, symbol, 0), writes[symbol][1]), held.session(0)))
        return aside

    def _drop_hot(self, place: Place, name: DatasetName, manifest: Manifest, symbols: Collection[str]) -> None:
        """Remove the hot entries the month now holds for good. The caller holds the month's lock."""
        folder = self._reader.folder(name, manifest.period, hot=True)
        gone = set(symbols) & set(manifest.symbols)
        if not gone:
            return
        if gone == set(manifest.symbols) and manifest.token is not None:
            # The manifest goes first: from then on the month counts; files without one are nobody's.
            self._storage.drop(folder, manifest.token)
            with suppress(OSError):
                self._storage.remove_folder(folder)
        else:
            commit(place, folder, manifest.period, manifest, dict.fromkeys(gone, NOTHING))
        step("hot_dropped")

    def fold(self, name: DatasetName, hot: str) -> tuple[int, int]:
        """Move a hot session into its month, content and origin unchanged; (symbols, rows) moved."""
        place = self._reader.place(name)
        number = session_number(date.fromisoformat(hot))
        period = periods.period_of(number, name.yearly)

        def work() -> tuple[int, int]:
            folder = self._reader.folder(name, hot, hot=True)
            manifest = self._reader.manifests.load(folder)
            if manifest is None or not manifest.symbols:
                return 0, 0
            data, writes, rows = {}, {}, 0
            for symbol, entry in manifest.symbols.items():
                held = stored(place, folder, manifest, symbol)
                data[symbol] = Sessions.of(place.codec, symbol, held.session(0), "")
                writes[symbol] = manifest.writes[entry.write[0]]
                rows += entry.rows[0]
            self._replace(place, name, period, data, number, number, writes)
            return len(data), rows

        return self.exclusively(name, period, work)

    # ---- removing ----------------------------------------------------------------------------------------------------

    def remove(self, name: DatasetName, doomed: Mapping[str, Collection[int]]) -> None:
        """Take sessions away for good: nothing of them is kept aside."""
        place = self._reader.place(name)
        by_period: dict[str, dict[str, set[int]]] = {}
        for symbol, sessions in doomed.items():
            for session in sessions:
                by_period.setdefault(periods.period_of(session, name.yearly), {}).setdefault(symbol, set()).add(session)

        def one(period: str) -> None:
            def work() -> None:
                folder = self._reader.folder(name, period)
                old = self._reader.manifests.load(folder)
                gone = by_period[period]
                if old is not None:
                    here = {s: n for s, n in gone.items() if s in old.symbols and not n.isdisjoint(old.symbols[s].sessions)}
                    changed = {s: without_sessions(place, folder, old, s, n) for s, n in here.items()}
                    if changed:
                        commit(place, folder, period, old, changed)
                everything = set().union(*gone.values())
                hot = self._hot_manifests(name, period, min(everything), max(everything), gone) if name.hot else []
                for manifest in hot:
                    number = session_number(date.fromisoformat(manifest.period))
                    self._drop_hot(place, name, manifest, [s for s, n in gone.items() if number in n])

            self.exclusively(name, period, work)

        _run_all(one, sorted(by_period))

    def rewrite_superseded(self, name: DatasetName, period: str, stay: Callable[[superseded.Kept], bool]) -> tuple[int, int]:
        """Keep of a period's replaced versions those `stay` says yes to, in one file a layout; (kept, removed)."""
        place = self._reader.place(name)
        return self.exclusively(name, period, lambda: superseded.rewrite(place, period, stay))


def _run_all(work: Callable[[str], T], items: Sequence[str]) -> list[T]:
    """`work` of every item, in order, a few at a time; the first error is raised after all have ended."""
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(_WRITERS) as pool:
        futures = [pool.submit(work, item) for item in items]
    return [future.result() for future in futures]


def now_wall() -> int:
    return time.time_ns() // 1000
