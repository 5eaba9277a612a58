"""Reading and writing the ledger: the one place outside the desk that knows its tables.

Writing is idempotent: the same content under the same id is a no-op, other content under a known id raises
LedgerConflict and changes nothing. Every writing method takes an optional `connection` to join the caller's transaction;
without one it commits by itself. Rows come out as plain dicts named like the columns of resources.ledger.tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, select, tuple_, update

from resources.ledger import changes, close_watch, put_aside
from resources.ledger import tables as t
from resources.ledger.base import LedgerConflict, Row, connect, insert_many, insert_once, now_us
from resources.ledger.desk_records import DeskRecords
from trading.signals import Decision, GateVerdict, PartitionRef, Signal

__all__ = ["CLOSE_WALLS", "DecisionRow", "Ledger", "LedgerConflict", "Row", "VerdictRow", "connect", "now_us"]

CLOSE_WALLS = ("sensed_wall", "run_started_wall", "signals_wall", "decisions_wall", "done_wall")


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One quality check's verdict on one symbol's bars of one session. severity: ``error`` stops trading, ``warn`` not.

    content_hash: of the bars judged. examples: failing rows as plain values. evaluated_wall: UTC us. judged_time: market
    time up to which the session was judged (UTC us; None: not known).
    """

    dataset: str
    session: str
    symbol: str
    check: str
    passed: bool
    severity: str
    content_hash: str
    failed_count: int = 0
    examples: tuple[Mapping[str, Any], ...] = ()
    run_id: str = ""
    evaluated_wall: int = 0
    judged_time: int | None = None

    def snapshot(self) -> Row:
        """The part a decision snapshot carries."""
        names = ("dataset", "session", "symbol", "check", "passed", "severity", "content_hash", "judged_time", "evaluated_wall")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision with the canonical bytes it was made from and into: ``decide(snapshot) == outcome``."""

    decision: Decision
    snapshot: bytes
    outcome: bytes


class Ledger(DeskRecords):
    """The ledger at `engine`. Raises sqlalchemy's OperationalError while the server is away."""

    @staticmethod
    def at(url: str) -> Ledger:
        return Ledger(connect(url))

    # -- signals and decisions ----------------------------------------------------------------------------------------

    def insert_signals(
        self, signals: Iterable[Signal], *, session: str, code_revision: str, run_id: str, connection: Connection | None = None
    ) -> list[str]:
        """Store signals; return the ids that are new. session: ISO date. Raises LedgerConflict."""
        made = now_us()
        rows = [
            {
                "id": s.id, "strategy": s.strategy, "strategy_revision": s.strategy_revision, "symbol": s.symbol,
                "timeframe": str(s.timeframe), "close_time": s.close_time, "session": session, "action": str(s.action),
                "features_version": s.features_version, "content": s.to_dict(), "code_revision": code_revision,
                "run_id": run_id, "created_wall": made,
            }
            for s in signals
        ]  # fmt: skip
        with self.transaction(connection) as c:
            return insert_once(c, t.signals, rows, same=("content",))

    def insert_decisions(
        self,
        decisions: Iterable[DecisionRow],
        *,
        session: str,
        code_revision: str,
        run_id: str,
        connection: Connection | None = None,
    ) -> list[str]:
        """Store decisions; return the ids that are new. Raises LedgerConflict when one was decided otherwise before.

        The first decision on a signal stands: whoever repeats a run asks `decisions(signal_ids=...)` first and decides
        only what has not been decided.
        """
        made = now_us()
        rows = [
            {
                "id": row.decision.id, "signal_id": row.decision.signal.id, "approved": row.decision.approved,
                "refusal": row.decision.refusal, "verdicts": [asdict(v) for v in row.decision.verdicts],
                "snapshot": row.snapshot, "outcome": row.outcome, "close_time": row.decision.signal.close_time,
                "session": session, "code_revision": code_revision, "run_id": run_id, "created_wall": made,
            }
            for row in decisions
        ]  # fmt: skip
        with self.transaction(connection) as c:
            return insert_once(c, t.decisions, rows, same=("outcome",))

    def signals(self, *, close_time: int | None = None, session: str | None = None) -> list[Row]:
        """Signals of a bar close, of a session, or all; by close time. ``Signal.from_dict(row["content"])`` rebuilds one."""
        return self.rows(t.signals, [t.signals.c.close_time, t.signals.c.id], close_time=close_time, session=session)

    def decisions(
        self, *, close_time: int | None = None, session: str | None = None, signal_ids: Sequence[str] | None = None
    ) -> list[Row]:
        """Decisions of a bar close, of a session, on given signals, or all; by close time."""
        return self.rows(
            t.decisions,
            [t.decisions.c.close_time, t.decisions.c.id],
            close_time=close_time,
            session=session,
            signal_id=signal_ids,
        )

    def newest_signals(self, session: str, limit: int) -> tuple[list[Row], int]:
        """(the newest `limit` signals of a session by close time, how many it has)."""
        return self._newest(t.signals, session, limit)

    def newest_decisions(self, session: str, limit: int) -> tuple[list[Row], int]:
        """(the newest `limit` decisions of a session by close time, how many it has)."""
        return self._newest(t.decisions, session, limit)

    def _newest(self, table: Table, session: str, limit: int) -> tuple[list[Row], int]:
        whole = select(func.count()).where(table.c.session == session).select_from(table).scalar_subquery().label("whole_count")
        newest = select(table, whole).where(table.c.session == session).order_by(table.c.close_time.desc(), table.c.id.desc())
        with self.engine.connect() as c:
            rows = [dict(row) for row in c.execute(newest.limit(limit)).mappings()]
        count = int(rows[0]["whole_count"]) if rows else 0
        return rows[::-1], count

    def decision(self, decision_id: str) -> Decision | None:
        """One decision as it was made, with its signal."""
        joined = select(t.decisions, t.signals.c.content).join(t.signals, t.signals.c.id == t.decisions.c.signal_id)
        with self.engine.connect() as c:
            row = c.execute(joined.where(t.decisions.c.id == decision_id)).mappings().first()
        if row is None:
            return None
        verdicts = tuple(GateVerdict(**v) for v in row["verdicts"])
        size = json.loads(bytes(row["outcome"])).get("size")
        return Decision(Signal.from_dict(row["content"]), row["approved"], verdicts, row["refusal"], size)

    # -- quality ------------------------------------------------------------------------------------------------------

    def put_verdicts(self, verdicts: Iterable[VerdictRow], *, connection: Connection | None = None) -> None:
        """Store verdicts. The newest of a check on a partition stands; one evaluated earlier never replaces a later one."""
        made = now_us()
        newest: dict[tuple[str, ...], Row] = {}
        for verdict in verdicts:
            row = asdict(verdict)
            row["check_name"] = row.pop("check")
            row["examples"] = list(row["examples"])
            row["evaluated_wall"] = row["evaluated_wall"] or made
            newest[verdict.dataset, verdict.session, verdict.symbol, verdict.check] = row
        # In key order, so that two writers of the same partitions cannot wait for each other.
        rows = [newest[key] for key in sorted(newest)]
        if not rows:
            return
        keys = [column.name for column in t.quality_verdicts.primary_key]
        replaced = [name for name in rows[0] if name not in keys]
        newer = "quality_verdicts.evaluated_wall <= excluded.evaluated_wall"
        with self.transaction(connection) as c:
            for start in range(0, len(rows), 2000):
                insert_many(c, t.quality_verdicts, rows[start : start + 2000], replacing=replaced, where=newer)

    def verdicts(self, required: Iterable[PartitionRef]) -> list[VerdictRow]:
        """Every verdict on the partitions `required` names, whatever content it judged: the gate compares the hashes."""
        required = list(required)
        keys = sorted({(r.dataset, r.session, r.symbol) for r in required})
        q = t.quality_verdicts.c
        found: list[VerdictRow] = []
        with self.engine.connect() as c:
            for start in range(0, len(keys), 2000):
                chosen = select(t.quality_verdicts).where(tuple_(q.dataset, q.session, q.symbol).in_(keys[start : start + 2000]))
                found += [_verdict(row) for row in c.execute(chosen.order_by(*t.quality_verdicts.primary_key)).mappings()]
        return found + self._outdated(required) + self._put_aside(required)

    def _put_aside(self, required: Sequence[PartitionRef]) -> list[VerdictRow]:
        """A failed verdict on each required partition that lacks rows in quarantine, whatever it holds now."""
        refs = {(r.dataset, r.session, r.symbol): r.content_hash for r in required}
        return [
            VerdictRow(
                *key, put_aside.QUARANTINE, False, "error", refs[key], len(rows), tuple({"message": text} for text in rows[:5])
            )
            for key, rows in put_aside.failing(self.engine, refs).items()
        ]

    def _outdated(self, required: Sequence[PartitionRef]) -> list[VerdictRow]:
        """A failed verdict on each required partition that was made of bars which changed since, whatever it holds now."""
        refs = {(r.dataset, r.session, r.symbol): r.content_hash for r in required}
        return [
            VerdictRow(
                *mark.key, changes.UPSTREAM_CURRENT, False, "error", refs[mark.key], 1, ({"message": mark.because},),
                "", mark.marked_wall,
            )
            for mark in changes.stale(self.engine, keys=refs)
        ]  # fmt: skip

    def session_verdicts(self, session: str, *, failed_only: bool = False) -> list[VerdictRow]:
        """Every verdict on bars of a session."""
        rows = self.rows(t.quality_verdicts, list(t.quality_verdicts.primary_key), session=session)
        return [_verdict(row) for row in rows if not (failed_only and row["passed"])]

    # -- bar closes ---------------------------------------------------------------------------------------------------

    def record_close(
        self,
        close_time: int,
        session: str,
        bars: Mapping[str, Sequence[str]],
        *,
        emitted_wall: int,
        stored_wall: int,
        connection: Connection | None = None,
    ) -> bool:
        """A bar close is stored: bars is ``{"1h": ["EURUSD"], ...}``. False when it was known. Who waits for one (close_watch) is
        woken. Raises LedgerConflict."""
        row = {
            "close_time": close_time, "session": session, "emitted_wall": emitted_wall, "stored_wall": stored_wall,
            "bars": {timeframe: sorted(symbols) for timeframe, symbols in bars.items()},
        }  # fmt: skip
        with self.transaction(connection) as c:
            new = bool(insert_once(c, t.closes, [row], same=("session", "bars")))
            if new:
                close_watch.tell(c, close_time)
            return new

    def stamp_close(
        self,
        close_time: int,
        *,
        run_id: str | None = None,
        outcome: str | None = None,
        connection: Connection | None = None,
        **walls: int,
    ) -> bool:
        """Note how far a close has come: walls are CLOSE_WALLS (UTC us), of which the first stamp stands.

        run_id and outcome are what was said last. False when the close is not known.
        """
        unknown = set(walls) - set(CLOSE_WALLS)
        if unknown:
            raise ValueError(f"no such stamp of a close: {', '.join(sorted(unknown))}; there are {', '.join(CLOSE_WALLS)}")
        values: Row = {name: func.coalesce(t.closes.c[name], wall) for name, wall in walls.items()}
        values |= {name: value for name, value in (("run_id", run_id), ("outcome", outcome)) if value is not None}
        if not values:
            raise ValueError("nothing to stamp")
        with self.transaction(connection) as c:
            return c.execute(update(t.closes).where(t.closes.c.close_time == close_time).values(values)).rowcount == 1

    def closes(
        self, *, after: int | None = None, session: str | None = None, pending: bool = False, limit: int | None = None
    ) -> list[Row]:
        """Bar closes by time: those after a close time, of a session; pending: only those no run has finished yet."""
        chosen = select(t.closes).order_by(t.closes.c.close_time)
        if after is not None:
            chosen = chosen.where(t.closes.c.close_time > after)
        if session is not None:
            chosen = chosen.where(t.closes.c.session == session)
        if pending:
            chosen = chosen.where(t.closes.c.done_wall.is_(None), t.closes.c.outcome.is_(None))
        with self.engine.connect() as c:
            return [dict(row) for row in c.execute(chosen.limit(limit)).mappings()]

    def close(self, close_time: int) -> Row | None:
        return self.first(select(t.closes).where(t.closes.c.close_time == close_time))

    def latest_close(self) -> Row | None:
        return self.first(select(t.closes).order_by(t.closes.c.close_time.desc()).limit(1))


def _verdict(row: Any) -> VerdictRow:
    values = dict(row)
    return VerdictRow(check=values.pop("check_name"), examples=tuple(values.pop("examples")), **values)
