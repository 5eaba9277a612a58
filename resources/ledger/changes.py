"""The ledger's word on changed and outdated partitions: facts in, marks set and taken away.

A partition is out of date exactly as long as its mark stands. Marks carry the database's clock: who recomputes asks for
`database_now` before reading its inputs, and takes away only marks that are older than that. A change that comes in
between marks anew, and the mark stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Engine, bindparam, cast, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import tables as t
from resources.ledger.base import Row, now_us
from resources.ledger.change_tables import affected_decisions, announced_changes, partition_changes, stale_partitions

UPSTREAM_CURRENT: Final = "upstream_current"
"""Name of the verdict a stale partition gets: failed, severity error."""

Key = tuple[str, str, str]
"""dataset, session (ISO date), symbol."""

_BATCH: Final = 2000


@dataclass(frozen=True, slots=True)
class Change:
    """One partition got other content. Empty hashes: there was, or is, none. seq and recorded_wall: as stored."""

    dataset: str
    session: str
    symbol: str
    old_hash: str
    new_hash: str
    reason: str
    run_id: str
    seq: int = 0
    recorded_wall: int = 0

    @property
    def key(self) -> Key:
        return self.dataset, self.session, self.symbol

    @property
    def name(self) -> str:
        return "/".join(self.key)


@dataclass(frozen=True, slots=True)
class StaleMark:
    """A partition that was computed from content which has changed since. content_hash: of what is out of date.

    because: the partition that changed, and why. since_wall: first mark, marked_wall: newest (UTC us).
    """

    dataset: str
    session: str
    symbol: str
    content_hash: str
    because: str
    since_wall: int = 0
    marked_wall: int = 0

    @property
    def key(self) -> Key:
        return self.dataset, self.session, self.symbol

    @property
    def name(self) -> str:
        return "/".join(self.key)


@dataclass(frozen=True, slots=True)
class AffectedDecision:
    """A signal that was computed from the changed partition's former rows, and the decision on it (empty: none)."""

    change_seq: int
    signal_id: str
    decision_id: str
    hash_then: str
    hash_now: str


def database_now(engine: Engine) -> int:
    """The database's clock, UTC us."""
    with engine.connect() as c:
        return int(c.execute(select(_clock())).scalar_one())


def _clock() -> Any:
    return cast(func.floor(func.extract("epoch", func.clock_timestamp()) * 1_000_000), BigInteger)


# -- facts ---------------------------------------------------------------------------------------------------------------


def record_changes(c: Connection, changes: Sequence[Change]) -> list[Change]:
    """Store the changes that are news; those whose partition is already known to have become that content are left out.

    Gives the stored ones with their numbers, in the order of their keys.
    """
    by_key = {change.key: change for change in changes}
    known = newest_hashes(c, by_key)
    made = now_us()
    rows = [
        {
            "dataset": x.dataset, "session": x.session, "symbol": x.symbol, "old_hash": x.old_hash, "new_hash": x.new_hash,
            "reason": x.reason, "run_id": x.run_id, "recorded_wall": made,
        }
        for key, x in sorted(by_key.items())
        if x.old_hash != x.new_hash and known.get(key) != x.new_hash
    ]  # fmt: skip
    stored: list[Change] = []
    for start in range(0, len(rows), _BATCH):
        statement = insert(partition_changes).values(rows[start : start + _BATCH]).returning(partition_changes)
        stored += [Change(**row) for row in c.execute(statement).mappings()]
    return sorted(stored, key=lambda x: x.key)


def newest_hashes(c: Connection, keys: Iterable[Key]) -> dict[Key, str]:
    """What the newest change of each partition made it; only of partitions that ever changed."""
    p = partition_changes.c
    wanted, found = sorted(set(keys)), {}
    for start in range(0, len(wanted), _BATCH):
        chosen = (
            select(p.dataset, p.session, p.symbol, p.new_hash)
            .distinct(p.dataset, p.session, p.symbol)
            .where(tuple_(p.dataset, p.session, p.symbol).in_(wanted[start : start + _BATCH]))
            .order_by(p.dataset, p.session, p.symbol, p.seq.desc())
        )
        found.update({(d, s, y): h for d, s, y, h in c.execute(chosen)})
    return found


def changes(
    engine: Engine, *, session: str | None = None, dataset: str | None = None, symbol: str | None = None, limit: int | None = None
) -> list[Change]:
    """Changes of a session, dataset, symbol, or all; newest first."""
    p = partition_changes.c
    chosen = select(partition_changes).order_by(p.seq.desc()).limit(limit)
    for column, wanted in ((p.session, session), (p.dataset, dataset), (p.symbol, symbol)):
        if wanted is not None:
            chosen = chosen.where(column == wanted)
    with engine.connect() as c:
        return [Change(**row) for row in c.execute(chosen).mappings()]


def put_affected(c: Connection, found: Sequence[AffectedDecision]) -> None:
    """Store which decisions a change touches; what is stored stands."""
    rows = [
        {
            "change_seq": a.change_seq, "signal_id": a.signal_id, "decision_id": a.decision_id, "hash_then": a.hash_then,
            "hash_now": a.hash_now,
        }
        for a in sorted(found, key=lambda a: (a.change_seq, a.signal_id))
    ]  # fmt: skip
    for start in range(0, len(rows), _BATCH):
        c.execute(insert(affected_decisions).values(rows[start : start + _BATCH]).on_conflict_do_nothing())


def affected(engine: Engine, change_seqs: Sequence[int] | None = None) -> list[AffectedDecision]:
    """Decisions touched by the given changes, or by any."""
    chosen = select(affected_decisions).order_by(affected_decisions.c.change_seq, affected_decisions.c.signal_id)
    if change_seqs is not None:
        chosen = chosen.where(affected_decisions.c.change_seq.in_(list(change_seqs)))
    with engine.connect() as c:
        return [AffectedDecision(**row) for row in c.execute(chosen).mappings()]


def signals_of(c: Connection, keys: Iterable[Key]) -> list[Row]:
    """Signals that name one of the partitions: id, close_time, decision_id (or None), and the partition's dataset, session,
    symbol and content_hash as the signal saw it."""
    wanted = sorted(set(keys))
    found: list[Row] = []
    for start in range(0, len(wanted), _BATCH):
        part = wanted[start : start + _BATCH]
        ref = func.jsonb_array_elements(t.signals.c.content["partitions"]).table_valued("value").alias("ref")
        value = ref.c.value
        text = [func.jsonb_extract_path_text(value, name) for name in ("dataset", "session", "symbol", "content_hash")]
        chosen = (
            select(
                t.signals.c.id, t.signals.c.close_time, t.decisions.c.id.label("decision_id"),
                text[0].label("dataset"), text[1].label("session"), text[2].label("symbol"), text[3].label("content_hash"),
            )
            .select_from(t.signals.join(ref, literal(True)).outerjoin(t.decisions, t.decisions.c.signal_id == t.signals.c.id))
            # A signal is never computed from a later session: this much of the table need not be looked at.
            .where(t.signals.c.session >= min(session for _, session, _ in part))
            .where(tuple_(text[0], text[1], text[2]).in_(part))
            .order_by(t.signals.c.close_time, t.signals.c.id)
        )  # fmt: skip
        found += [dict(row) for row in c.execute(chosen).mappings()]
    return found


# -- announced writes ----------------------------------------------------------------------------------------------------


def announce(c: Connection, held: Mapping[Key, str], *, reason: str, run_id: str) -> None:
    """Note what the lake holds of partitions that are about to get other content. The first word stands until it is settled:
    a writer that died and is repeated must not forget what there was before."""
    made = now_us()
    rows = [
        {"dataset": d, "session": s, "symbol": y, "old_hash": h, "reason": reason, "run_id": run_id, "announced_wall": made}
        for (d, s, y), h in sorted(held.items())
    ]
    for start in range(0, len(rows), _BATCH):
        c.execute(insert(announced_changes).values(rows[start : start + _BATCH]).on_conflict_do_nothing())


def announced(engine: Engine, *, before_wall: int | None = None) -> list[Row]:
    """Announced writes nobody has settled, oldest first."""
    a = announced_changes.c
    chosen = select(announced_changes).order_by(a.announced_wall, a.dataset, a.session, a.symbol)
    if before_wall is not None:
        chosen = chosen.where(a.announced_wall < before_wall)
    with engine.connect() as c:
        return [dict(row) for row in c.execute(chosen).mappings()]


def settle_announced(c: Connection, keys: Iterable[Key]) -> None:
    """These writes have ended and their changes are recorded."""
    a = announced_changes.c
    wanted = sorted(set(keys))
    for start in range(0, len(wanted), _BATCH):
        c.execute(delete(announced_changes).where(tuple_(a.dataset, a.session, a.symbol).in_(wanted[start : start + _BATCH])))


# -- marks ---------------------------------------------------------------------------------------------------------------


def mark_stale(c: Connection, marks: Iterable[StaleMark]) -> int:
    """Mark partitions as out of date. Marked ones keep their first wall and get the newest reason. Returns how many."""
    by_key = {mark.key: mark for mark in marks}
    rows = [
        {"dataset": m.dataset, "session": m.session, "symbol": m.symbol, "content_hash": m.content_hash, "because": m.because}
        for _, m in sorted(by_key.items())
    ]
    if not rows:
        return 0
    now = int(c.execute(select(_clock())).scalar_one())
    statement = insert(stale_partitions).values(
        {name: bindparam(name) for name in rows[0]} | {"since_wall": now, "marked_wall": now}
    )
    new = statement.excluded
    # Never earlier than it was: a clock set back must not make a mark look settled.
    statement = statement.on_conflict_do_update(
        index_elements=list(stale_partitions.primary_key),
        set_={
            "content_hash": new.content_hash, "because": new.because,
            "marked_wall": func.greatest(new.marked_wall, stale_partitions.c.marked_wall + 1),
        },
    )  # fmt: skip
    for start in range(0, len(rows), _BATCH):
        c.execute(statement, rows[start : start + _BATCH])
    return len(rows)


def stale(
    engine: Engine,
    *,
    dataset: str | None = None,
    session: str | None = None,
    keys: Iterable[Key] | None = None,
    limit: int | None = None,
) -> list[StaleMark]:
    """What is out of date: of a dataset, a session, among given partitions, or all; by dataset, session and symbol."""
    p = stale_partitions.c
    chosen = select(stale_partitions).order_by(p.dataset, p.session, p.symbol).limit(limit)
    if dataset is not None:
        chosen = chosen.where(p.dataset == dataset)
    if session is not None:
        chosen = chosen.where(p.session == session)
    with engine.connect() as c:
        if keys is None:
            return [StaleMark(**row) for row in c.execute(chosen).mappings()]
        wanted, found = sorted(set(keys)), []
        for start in range(0, len(wanted), _BATCH):
            part = chosen.where(tuple_(p.dataset, p.session, p.symbol).in_(wanted[start : start + _BATCH]))
            found += [StaleMark(**row) for row in c.execute(part).mappings()]
    return found


def clear_stale(c: Connection, keys: Iterable[Key], *, before: int) -> int:
    """Take away the marks of recomputed partitions that were set before `before` (database clock); returns how many."""
    p = stale_partitions.c
    wanted, gone = sorted(set(keys)), 0
    for start in range(0, len(wanted), _BATCH):
        chosen = delete(stale_partitions).where(
            tuple_(p.dataset, p.session, p.symbol).in_(wanted[start : start + _BATCH]), p.marked_wall < before
        )
        gone += c.execute(chosen).rowcount
    return gone


def clear_stale_range(c: Connection, dataset: str, symbols: Iterable[str], first: str, last: str, *, before: int) -> int:
    """As clear_stale, for all sessions [first, last] of `symbols`: what a run over that range has made anew."""
    p = stale_partitions.c
    chosen = delete(stale_partitions).where(
        p.dataset == dataset, p.symbol.in_(sorted(set(symbols))), p.session >= first, p.session <= last, p.marked_wall < before
    )
    return c.execute(chosen).rowcount


def stale_counts(engine: Engine) -> dict[str, int]:
    """How many partitions of each dataset are out of date."""
    p = stale_partitions.c
    with engine.connect() as c:
        chosen = select(p.dataset, func.count()).group_by(p.dataset).order_by(p.dataset)
        return {dataset: int(count) for dataset, count in c.execute(chosen)}
