"""A partition got other content: who used the old one, and what is out of date now.

`replace_bars` writes bars into the lake and does all of the following around it. `note_changes` is told by whoever replaced
partitions in the lake (a run that brings the vendor's final bars, an accepted correction, a repair by the operator). It
writes the change as a fact, marks every partition that was made of the old content as stale, and names the decisions that
were taken on it. Stale partitions refuse decisions (check ``upstream_current``) until they are recomputed: by the run that
goes on to derive them, or by the job ``recompute_stale``.

A writer that can die between its write and this note says before the write what it is about to replace
(`announce_changes`): nothing then depends on its coming back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from resources.ledger import changes as book
from resources.ledger.base import LedgerBase
from resources.ledger.books import each_book
from resources.ledger.changes import AffectedDecision, Change, Key, StaleMark
from trading.bars import Bars
from trading.calendars import calendar
from trading.dependents import dependents
from trading.timeframes import Timeframe, session_date, session_number

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resources.lake import Lake, Partition
    from trading.calendars import Calendar
    from trading.corporate_actions import CorporateAction
    from trading.universe import Universe

Changed = Mapping[tuple[str, date], tuple[str, str]]
"""(symbol, session) -> (old content hash, new content hash); empty: there was, or is, no such partition."""


@dataclass
class Noted:
    """What a change led to. changes: those that were news. stale: partitions marked. decisions: taken on the old content."""

    changes: list[Change] = field(default_factory=list)
    stale: list[StaleMark] = field(default_factory=list)
    decisions: list[AffectedDecision] = field(default_factory=list)

    def add(self, other: Noted) -> None:
        """What another change of the same write led to."""
        self.changes += other.changes
        self.stale += other.stale
        self.decisions += other.decisions


def note_changes(
    ledger: LedgerBase,
    dataset: str,
    changed: Changed,
    *,
    run_id: str,
    reason: str,
    universe: Universe | None = None,
    lake: Lake | None = None,
) -> Noted:
    """Partitions of `dataset` were replaced in the lake: write the facts, mark what is stale now, in one transaction.

    Called after the write. changed: partitions whose content is another one now; those that did not exist before belong
    to it where later ones do (a hole was filled), with an empty old hash. Telling the same twice writes the change once and
    marks again. universe and lake: the configured ones. Raises sqlalchemy's OperationalError while the ledger is away: the
    caller fails, is repeated, and tells again.
    """
    told = {key: hashes for key, hashes in changed.items() if hashes[0] != hashes[1]}
    if not told:
        return Noted()
    universe, lake = universe or _universe(), lake or _lake()
    marks = stale_marks(dataset, told, reason, universe, lake)
    told_changes = [
        Change(dataset, session.isoformat(), symbol, old, new, reason, run_id) for (symbol, session), (old, new) in told.items()
    ]
    noted = Noted(stale=marks)
    with ledger.transaction() as c:
        noted.changes = book.record_changes(c, told_changes)
        book.mark_stale(c, marks)
        noted.decisions = _decisions(c, noted.changes, lake)
        book.put_affected(c, noted.decisions)
        book.settle_announced(c, (change.key for change in told_changes))
    return noted


def announce_changes(
    ledger: LedgerBase,
    dataset: str,
    changed: Changed,
    *,
    run_id: str,
    reason: str,
    universe: Universe | None = None,
    lake: Lake | None = None,
) -> None:
    """The partitions are about to be replaced: from now on what was made of them counts as stale.

    Called before the write with the hashes before and after it. `note_changes` ends it; when the writer dies in between,
    the next `recompute_stale` looks at what the lake then holds.
    """
    told = {key: hashes for key, hashes in changed.items() if hashes[0] != hashes[1]}
    if not told:
        return
    marks = stale_marks(dataset, told, reason, universe or _universe(), lake or _lake())
    held: dict[Key, str] = {(dataset, session.isoformat(), symbol): old for (symbol, session), (old, _) in told.items()}
    with ledger.transaction() as c:
        book.announce(c, held, reason=reason, run_id=run_id)
        book.mark_stale(c, marks)


def replace_bars(
    ledger: LedgerBase,
    lake: Lake,
    universe: Universe,
    dataset: str,
    bars: Mapping[str, Bars],
    *,
    start: date,
    end: date,
    source: str,
    run_id: str,
    reason: str,
    before: int,
    reasons: Mapping[tuple[str, date], str] | None = None,
) -> tuple[list[Partition], Noted]:
    """Make `bars` the content of their symbols' sessions [start, end], with everything that follows from it.

    reason: why, of all; reasons: of (symbol, session) where it is another one. Announces what will change, writes, notes what
    changed, and takes away the marks of what was written: it is as new as the inputs read after `before` (database_now). Raises
    LakeError and sqlalchemy's OperationalError; repeat it then.
    """
    changed = changed_by(lake, dataset, bars, start, end)
    by_reason: dict[str, dict[tuple[str, date], tuple[str, str]]] = {}
    for key, hashes in changed.items():
        by_reason.setdefault((reasons or {}).get(key, reason), {})[key] = hashes
    for why, told in by_reason.items():
        announce_changes(ledger, dataset, told, run_id=run_id, reason=why, universe=universe, lake=lake)
    partitions = lake.write_bars(dataset, bars, start=start, end=end, source=source, instruments=universe.instruments)
    noted = Noted()
    for why, told in by_reason.items():
        noted.add(note_changes(ledger, dataset, told, run_id=run_id, reason=why, universe=universe, lake=lake))
    settle_range(ledger, dataset, bars, start, end, before=before)
    return partitions, noted


def changed_by(
    lake: Lake, dataset: str, bars: Mapping[str, Bars], start: date, end: date
) -> dict[tuple[str, date], tuple[str, str]]:
    """What writing `bars` into sessions [start, end] would change: (symbol, session) -> (hash now, hash then).

    Sessions after the last one held are no change, they are what was to come; sessions before it fill a hole.
    """
    held: dict[str, dict[date, str]] = {}
    for part in lake.partitions(dataset, start, end, bars):
        held.setdefault(part.symbol, {})[part.session] = part.content_hash
    found: dict[tuple[str, date], tuple[str, str]] = {}
    for symbol, new in bars.items():
        old = dict(held.get(symbol, {}))
        numbers = np.unique(new.session)
        first = np.searchsorted(new.session, numbers, side="left")
        after = np.searchsorted(new.session, numbers, side="right")
        newest = _newest_held(lake, dataset, symbol, end, old) if len(numbers) else None
        for number, a, b in zip(numbers.tolist(), first.tolist(), after.tolist(), strict=True):
            day = session_date(number)
            before = old.pop(day, "")
            if newest is None or (not before and day > newest):
                continue
            now = new.rows(slice(a, b)).content_hash()
            if now != before:
                found[symbol, day] = (before, now)
        found.update({(symbol, day): (before, "") for day, before in old.items()})
    return found


def _newest_held(lake: Lake, dataset: str, symbol: str, end: date, inside: Mapping[date, str]) -> date | None:
    later = lake.partitions(dataset, end, None, [symbol])
    return max([*inside, *(p.session for p in later)], default=None)


def settle_announced(
    ledger: LedgerBase, *, before_wall: int | None = None, universe: Universe | None = None, lake: Lake | None = None
) -> int:
    """Look at what became of announced writes nobody told about again (announced before `before_wall`, real clock, UTC us):
    those that happened are noted, the others forgotten. Returns how many there were."""
    lake = lake or _lake()
    rows = book.announced(ledger.engine, before_wall=before_wall)
    groups: dict[tuple[str, str, str], dict[tuple[str, date], tuple[str, str]]] = {}
    for row in rows:
        session = date.fromisoformat(row["session"])
        held = lake.partitions(row["dataset"], session, session, [row["symbol"]])
        now = held[0].content_hash if held else ""
        groups.setdefault((row["dataset"], row["reason"], row["run_id"]), {})[row["symbol"], session] = (row["old_hash"], now)
    for (dataset, reason, run_id), changed in groups.items():
        note_changes(ledger, dataset, changed, run_id=run_id, reason=reason, universe=universe, lake=lake)
    with ledger.transaction() as c:
        book.settle_announced(c, ((r["dataset"], r["session"], r["symbol"]) for r in rows))
    return len(rows)


def settle_range(ledger: LedgerBase, dataset: str, symbols: Iterable[str], start: date, end: date, *, before: int) -> int:
    """The sessions [start, end] of `symbols` were computed anew from inputs read after `before` (changes.database_now):
    takes away their marks; returns how many."""
    with ledger.transaction() as c:
        return book.clear_stale_range(c, dataset, symbols, start.isoformat(), end.isoformat(), before=before)


def stale_marks(dataset: str, changed: Changed, reason: str, universe: Universe, lake: Lake) -> list[StaleMark]:
    """The partitions the lake holds that were made of the changed ones. Symbols the universe no longer has have none."""
    by_symbol: dict[str, list[int]] = {}
    for symbol, session in changed:
        by_symbol.setdefault(symbol, []).append(session_number(session))
    return _marks(dataset, by_symbol, reason, universe, lake)


def note_actions(
    ledger: LedgerBase,
    symbol: str,
    before: Iterable[CorporateAction],
    after: Iterable[CorporateAction],
    *,
    universe: Universe,
    lake: Lake,
) -> list[StaleMark]:
    """The corporate actions of `symbol` are others now: features whose windows cross a split or spin-off that was added, taken
    away or told otherwise are marked stale. Bars are raw and stay what they are."""
    from trading.price_view import SEEN

    def told(actions: Iterable[CorporateAction]) -> dict[str, int]:
        return {repr((a.id, a.factor, a.amount, a.known_time)): a.ex_session for a in actions if a.kind in SEEN}

    was, now = told(before), told(after)
    sessions = sorted({(was | now)[key] for key in was.keys() ^ now.keys()})
    instrument = universe.instruments.get(symbol)
    if not sessions or instrument is None:
        return []
    native = f"bars_{instrument.native_timeframe}"
    marks = [
        mark
        for mark in _marks(native, {symbol: sessions}, "its corporate actions are told otherwise", universe, lake)
        if mark.dataset.startswith("features_")
    ]
    with ledger.transaction() as c:
        book.mark_stale(c, marks)
    return marks


def _marks(dataset: str, by_symbol: Mapping[str, Sequence[int]], reason: str, universe: Universe, lake: Lake) -> list[StaleMark]:
    """Marks of what depends on the given sessions (numbers) of `dataset`."""
    wanted: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for symbol, sessions in by_symbol.items():
        if symbol in universe.instruments:
            for target, ranges in dependents_of(dataset, symbol, sessions, universe).items():
                wanted.setdefault(target, {})[symbol] = ranges
    marks: list[StaleMark] = []
    for target, ranges_of in wanted.items():
        lo = session_date(min(r[0][0] for r in ranges_of.values()))
        hi = session_date(max(r[-1][1] for r in ranges_of.values()))
        for part in lake.partitions(target, lo, hi, list(ranges_of)):
            number = session_number(part.session)
            ranges = ranges_of[part.symbol]
            at = bisect_right(ranges, (number, 2**31)) - 1
            if at < 0 or number > ranges[at][1]:
                continue
            sources = sorted(by_symbol[part.symbol])
            source = session_date(sources[max(0, bisect_right(sources, number) - 1)])
            because = f"{dataset}/{source}/{part.symbol} changed: {reason}"
            marks.append(StaleMark(target, part.session.isoformat(), part.symbol, part.content_hash, because))
    return marks


def dependents_of(dataset: str, symbol: str, sessions: Iterable[int], universe: Universe) -> dict[str, list[tuple[int, int]]]:
    """trading.dependents for one symbol of the universe: dataset -> ranges of session numbers."""
    from trading.features import TIMEFRAMES, WARM_UP

    instrument = universe.instruments[symbol]
    venue = calendar(instrument.calendar)
    known = [n for n in sessions if _has(venue, n)]
    return dependents(
        dataset, known, native=instrument.native_timeframe, calendar=venue, timeframes=tuple(Timeframe),
        feature_timeframes=TIMEFRAMES, warm_up_bars=WARM_UP,
    )  # fmt: skip


def _has(venue: Calendar, session: int) -> bool:
    try:
        venue.position(session)
    except KeyError:
        return False
    return True


def _decisions(c: Connection, changes: list[Change], lake: Lake) -> list[AffectedDecision]:
    """Signals that were computed from rows of the changed partitions that are other rows now."""
    by_key = {change.key: change for change in changes}
    found: list[AffectedDecision] = []
    for row in [row for _ in each_book(c) for row in book.signals_of(c, by_key)]:
        key = row["dataset"], row["session"], row["symbol"]
        now = hash_known_at(lake, key, int(row["close_time"]))
        if now != row["content_hash"]:
            found.append(AffectedDecision(by_key[key].seq, row["id"], row["decision_id"] or "", row["content_hash"], now))
    return found


def hash_known_at(lake: Lake, key: Key, close_time: int) -> str:
    """Content hash of the partition's rows known at `close_time`; empty when there are none or they cannot be read."""
    from resources.lake import LakeError

    dataset, session, symbol = key
    day = date.fromisoformat(session)
    try:
        bars = lake.read_bars(dataset, symbol, day, day).known_at(close_time)
    except LakeError:
        return ""
    return bars.content_hash() if len(bars) else ""


def _universe() -> Universe:
    from resources.config import load_config
    from resources.settings import settings

    return load_config(settings()).universe


def _lake() -> Lake:
    from resources.lake import open_lake
    from resources.settings import settings

    return open_lake(settings())
