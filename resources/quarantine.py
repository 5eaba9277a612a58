"""Quarantine: rows of a source that fail validity, kept aside with the reason until an operator says what they are.

A row is known by its content (feed, dataset, symbol, session, close_time, values): the same row on a later ingest is the
same row, and what an operator decided about it is applied again. A row the source tells otherwise, or no more, is void with
whatever was decided about it, and says so; if it comes back as it was, the decision counts again.

    open       waits for an operator; everything made of the partition refuses trading
    accepted   enters as it came            repaired   enters with the values given
    discarded  stays out                    void       the source does not tell it any more
    info       a record the feed made no bar of, inside a session: for information, stops nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import isfinite
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import audit
from resources.ledger.base import Row, now_us
from resources.ledger.put_aside import OPEN
from resources.ledger.quality_tables import quarantine_resolutions, quarantined_rows
from trading import ids
from trading.bars import PRICE_COLUMNS, Bars
from trading.instruments import PriceFloor
from trading.timeframes import iso, session_date
from trading.validity import ACCEPTABLE, InvalidRow, merged

ACCEPTED: Final = "accepted"
REPAIRED: Final = "repaired"
DISCARDED: Final = "discarded"
VOID: Final = "void"
INFO: Final = "info"
STATES: Final = (OPEN, ACCEPTED, REPAIRED, DISCARDED, VOID, INFO)
_ALLOWED: Final = {PriceFloor.POSITIVE: "above 0", PriceFloor.ZERO: "0 or more", PriceFloor.ANY: "numbers"}
_STATE_OF: Final = {"accept": ACCEPTED, "repair": REPAIRED, "discard": DISCARDED}
_EXAMPLES: Final = 3


class QuarantineError(Exception):
    """A resolution that cannot be: the message names the row, what is wrong and what to do."""


@dataclass
class Screened:
    """What became of one symbol's rows of one ingest. bars: the valid rows and those whose resolution lets them in.

    put_aside: rows that stay out unresolved. entered: ids accepted or repaired. left: ids discarded. voided: what says so.
    """

    bars: Bars
    put_aside: list[InvalidRow] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    voided: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LeftOutRecord:
    """A record inside a session that became no bar. place: file and line."""

    symbol: str
    session: int
    close_time: int
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """An operator's decision about a row. wall: when, UTC us; words: what, by whom, why, of which row."""

    symbol: str
    session: date
    wall: int
    words: str


class Quarantine:
    """The quarantine in the ledger at `engine`. Raises sqlalchemy's OperationalError while the server is away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # -- ingest ------------------------------------------------------------------------------------------------------

    def ingest(
        self,
        feed: str,
        dataset: str,
        bars: Bars,
        rows: Sequence[InvalidRow],
        start: date,
        end: date,
        *,
        run_id: str,
        places: Mapping[int, str] | None = None,
    ) -> Screened:
        """Keep `rows` aside and apply what operators decided about them; `bars` are the valid rows of sessions [start, end].

        places: row -> file and line, where the feed knows. One transaction: whoever writes the returned bars afterwards
        writes what the quarantine says.
        """
        symbol = bars.symbol
        by_id: dict[str, InvalidRow] = {}
        seen: Counter[str] = Counter()
        for row in rows:
            row_id = row.id_of(feed, dataset, symbol)
            by_id.setdefault(row_id, row)
            seen[row_id] += 1
        out = Screened(bars)
        with self.engine.begin() as c:
            held = self._held(c, feed, dataset, symbol, start, end)
            if not by_id and not held:
                return out
            decided = _decided(c, [*by_id, *held])
            entering: dict[int, tuple[int, Mapping[str, float]]] = {}
            taken = {int(t) for t in bars.close_time}
            for row_id, row in by_id.items():
                state, given = decided.get(row_id, (OPEN, {}))
                note = ""
                if state in (ACCEPTED, REPAIRED) and row.close_time in taken:
                    there = f"{state}, but another bar closes at {iso(row.close_time)}"
                    state, note = OPEN, f"{there} and only one can: discard this row, or mend the source"
                self._put(
                    c, row_id, feed, dataset, symbol, row, seen[row_id], state, note, run_id, (places or {}).get(row.row, "")
                )
                if state in (ACCEPTED, REPAIRED):
                    taken.add(row.close_time)
                    entering[row.close_time] = (row.session, {**row.floats(), **given})
                    out.entered.append(row_id)
                elif state == DISCARDED:
                    out.left.append(row_id)
                else:
                    out.put_aside.append(row)
            for row_id in [r for r in held if r not in by_id and held[r]["state"] != VOID]:
                out.voided.append(self._void(c, held[row_id], run_id))
        out.bars = merged(bars, entering)
        return out

    def note_left_out(self, feed: str, dataset: str, records: Iterable[LeftOutRecord], *, run_id: str) -> int:
        """Write down records a feed made no bar of, for information; returns how many were new."""
        new = 0
        wall = now_us()
        with self.engine.begin() as c:
            for r in records:
                values = {
                    "id": ids.make_id("qr", feed, dataset, r.symbol, r.close_time, r.place, r.reason), "kind": "left_out",
                    "feed": feed, "dataset": dataset, "symbol": r.symbol, "session": session_date(r.session).isoformat(),
                    "close_time": r.close_time, "received": {}, "reasons": [r.reason], "place": r.place, "occurrences": 1,
                    "state": INFO, "note": "", "run_id": run_id, "first_wall": wall, "seen_wall": wall,
                }  # fmt: skip
                statement = insert(quarantined_rows).values(values)
                statement = statement.on_conflict_do_update(index_elements=["id"], set_={"seen_wall": wall})
                new += int(c.execute(statement.returning(quarantined_rows.c.first_wall)).scalar_one() == wall)
        return new

    @staticmethod
    def _held(c: Connection, feed: str, dataset: str, symbol: str, start: date, end: date) -> dict[str, Row]:
        q = quarantined_rows.c
        chosen = (
            select(quarantined_rows)
            .where(
                q.kind == "row", q.feed == feed, q.dataset == dataset, q.symbol == symbol,
                q.session >= start.isoformat(), q.session <= end.isoformat(),
            )
            .order_by(q.id)
            .with_for_update()
        )  # fmt: skip
        return {row["id"]: dict(row) for row in c.execute(chosen).mappings()}

    @staticmethod
    def _put(
        c: Connection, row_id: str, feed: str, dataset: str, symbol: str, row: InvalidRow, occurrences: int, state: str,
        note: str, run_id: str, place: str,
    ) -> None:  # fmt: skip
        wall = now_us()
        statement = insert(quarantined_rows).values(
            id=row_id, kind="row", feed=feed, dataset=dataset, symbol=symbol, session=session_date(row.session).isoformat(),
            close_time=row.close_time, received=dict(row.values), reasons=list(row.reasons), place=place,
            occurrences=occurrences, state=state, note=note, run_id=run_id, first_wall=wall, seen_wall=wall,
        )  # fmt: skip
        changed = {n: statement.excluded[n] for n in ("reasons", "occurrences", "state", "note", "seen_wall")}
        c.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))

    @staticmethod
    def _void(c: Connection, held: Row, run_id: str) -> str:
        was = held["state"]
        said = f"the source does not tell this row any more (run {run_id})"
        if was != OPEN:
            said += f"; that it was {was} is void"
        c.execute(update(quarantined_rows).where(quarantined_rows.c.id == held["id"]).values(state=VOID, note=said))
        return f"{held['dataset']}/{held['session']}/{held['symbol']} {iso(held['close_time'])} {held['id']}: {said}"

    # -- asking ------------------------------------------------------------------------------------------------------

    def rows(
        self, *, state: str | None = None, symbol: str | None = None, dataset: str | None = None, session: str | None = None
    ) -> list[Row]:
        """Rows by symbol and time, each with its newest resolution (``resolution``, None without)."""
        q = quarantined_rows.c
        chosen = select(quarantined_rows).order_by(q.symbol, q.session, q.close_time, q.id)
        for column, value in ((q.state, state), (q.symbol, symbol), (q.dataset, dataset), (q.session, session)):
            if value is not None:
                chosen = chosen.where(column == value)
        with self.engine.connect() as c:
            found = [dict(row) for row in c.execute(chosen).mappings()]
            newest = _resolutions(c, [row["id"] for row in found])
        return [{**row, "resolution": newest.get(row["id"])} for row in found]

    def row(self, row_id: str) -> Row:
        """One row by its id or the unique beginning of it. Raises QuarantineError."""
        q = quarantined_rows.c
        with self.engine.connect() as c:
            found = list(c.execute(select(q.id).where(q.id.startswith(row_id, autoescape=True)).limit(2)).scalars())
        if len(found) != 1:
            what = "no row" if not found else "more than one row"
            raise QuarantineError(f"{what} in quarantine begins with {row_id!r}: see `tapeline quality quarantine list`")
        return next(r for r in self.rows() if r["id"] == found[0])

    def accepted(self, symbol: str, dataset: str) -> dict[int, tuple[int, str]]:
        """Rows of the lake's bars that an operator accepted as they came: close_time -> (session number, who and why)."""
        from trading.timeframes import session_number

        found = {}
        for row in self.rows(state=ACCEPTED, symbol=symbol, dataset=dataset):
            said = row["resolution"] or {}
            session = session_number(date.fromisoformat(row["session"]))
            found[int(row["close_time"])] = (session, f"accepted by {said.get('who', '?')}: {said.get('why', '')}")
        return found

    def decisions(self, dataset: str, symbols: Iterable[str], start: date, end: date) -> list[Decided]:
        """What operators decided about rows of `symbols` in sessions [start, end] and still counts, by time of the row."""
        q = quarantined_rows.c
        chosen = (
            select(q.id, q.symbol, q.session, q.close_time, q.state)
            .where(q.kind == "row", q.dataset == dataset, q.symbol.in_(sorted(set(symbols))))
            .where(q.session >= start.isoformat(), q.session <= end.isoformat(), q.state.in_(tuple(_STATE_OF.values())))
            .order_by(q.close_time, q.id)
        )
        with self.engine.connect() as c:
            rows = [dict(row) for row in c.execute(chosen).mappings()]
            said = _resolutions(c, [row["id"] for row in rows])
        return [
            Decided(
                row["symbol"], date.fromisoformat(row["session"]), int(said[row["id"]]["resolved_wall"]),
                f"{row['state']} by {said[row['id']]['who']}: {said[row['id']]['why']} (row of {iso(row['close_time'])})",
            )
            for row in rows if row["id"] in said
        ]  # fmt: skip

    # -- resolving ---------------------------------------------------------------------------------------------------

    def resolve(
        self,
        action: str,
        row_ids: Sequence[str],
        *,
        who: str,
        why: str,
        given: Mapping[str, float] | None = None,
        floor: PriceFloor = PriceFloor.POSITIVE,
    ) -> list[Row]:
        """accept, repair or discard rows, audited in the same transaction; returns them. All or none.

        given: new values of a repair (open, high, low, close, volume; the others stay as received). floor: how low
        the instrument's prices may be. The lake follows when
        the sessions are ingested again. Raises QuarantineError.
        """
        if action not in _STATE_OF:
            raise QuarantineError(f"no action {action!r}: expected one of {', '.join(_STATE_OF)}")
        if not who.strip() or not why.strip():
            raise QuarantineError("say who decides (--who) and why (--why): both are kept in the audit")
        if action == "repair" and (len(row_ids) != 1 or not given):
            raise QuarantineError("repair takes one row and the new values, e.g. --low 1.2001")
        rows = [self.row(row_id) for row_id in dict.fromkeys(row_ids)]
        if not rows:
            raise QuarantineError("no row named: see `tapeline quality quarantine list`")
        wall = now_us()
        with self.engine.begin() as c:
            for row in rows:
                state = c.execute(
                    select(quarantined_rows.c.state).where(quarantined_rows.c.id == row["id"]).with_for_update()
                ).scalar_one()
                new = self._check(c, action, row, state, given or {}, floor)
                c.execute(
                    quarantine_resolutions.insert().values(
                        row_id=row["id"], action=action, given={k: repr(v) for k, v in new.items()}, who=who, why=why,
                        resolved_wall=wall,
                    )
                )  # fmt: skip
                c.execute(
                    update(quarantined_rows).where(quarantined_rows.c.id == row["id"]).values(state=_STATE_OF[action], note="")
                )
            for row in rows:
                content = {
                    "row": row["id"], "partition": f"{row['dataset']}/{row['session']}/{row['symbol']}", "feed": row["feed"],
                    "close_time": row["close_time"], "received": row["received"], "reasons": row["reasons"], "why": why,
                    "given": {k: repr(v) for k, v in (given or {}).items()},
                }  # fmt: skip
                audit.append(c, who, f"quarantine_{action}", content)
        return [self.row(row["id"]) for row in rows]

    def _check(
        self, c: Connection, action: str, row: Row, state: str, given: Mapping[str, float], floor: PriceFloor
    ) -> dict[str, float]:
        """The new values of a repair. Raises QuarantineError when the action cannot be."""
        name = f"{row['id']} ({row['symbol']} {iso(row['close_time'])})"
        if state in (VOID, INFO):
            why = "the source does not tell it any more" if state == VOID else "it is there for information only"
            raise QuarantineError(f"{name} cannot be resolved: {why}")
        if action == "discard":
            return {}
        q = quarantined_rows.c
        same = [q.dataset == row["dataset"], q.symbol == row["symbol"], q.close_time == row["close_time"], q.id != row["id"]]
        other = c.execute(select(q.id).where(*same, q.state.in_((ACCEPTED, REPAIRED)))).scalar()
        if other is not None:
            raise QuarantineError(f"{name}: {other} enters at the same close already; discard it first")
        if action == "accept":
            hard = sorted(set(row["reasons"]) - ACCEPTABLE)
            if hard:
                raise QuarantineError(f"{name} cannot enter as it came ({', '.join(hard)}): repair or discard it")
            return {}
        return self._repaired(name, row, given, floor)

    @staticmethod
    def _repaired(name: str, row: Row, given: Mapping[str, float], floor: PriceFloor) -> dict[str, float]:
        unknown = sorted(set(given) - {*PRICE_COLUMNS, "volume"})
        if unknown:
            raise QuarantineError(f"{name}: {', '.join(unknown)} is no value of a bar")
        if "within_session" in row["reasons"]:
            raise QuarantineError(f"{name} is no bar end inside its session: no price mends that; discard it")
        v = {**{k: float(t) for k, t in row["received"].items()}, **{k: float(x) for k, x in given.items()}}
        if not all(isfinite(x) for x in v.values()):
            raise QuarantineError(f"{name}: every value must be a finite number, got {_shown(v)}")
        if not floor.allows(np.array([min(v[p] for p in PRICE_COLUMNS)])).all() or v["volume"] < 0:
            raise QuarantineError(f"{name}: prices must be {_ALLOWED[floor]} and the volume not below 0, got {_shown(v)}")
        if not (v["low"] <= min(v["open"], v["close"]) and max(v["open"], v["close"]) <= v["high"]):
            raise QuarantineError(f"{name}: expected low <= open, close <= high, got {_shown(v)}")
        return {k: float(x) for k, x in given.items()}


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in values.items())


def _resolutions(c: Connection, row_ids: Sequence[str]) -> dict[str, Row]:
    """Newest resolution of each row."""
    q = quarantine_resolutions.c
    found: dict[str, Row] = {}
    for start in range(0, len(row_ids), 2000):
        chosen = select(quarantine_resolutions).where(q.row_id.in_(row_ids[start : start + 2000])).order_by(q.seq)
        found |= {row["row_id"]: dict(row) for row in c.execute(chosen).mappings()}
    return found


def _decided(c: Connection, row_ids: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Row id -> (state its newest resolution gives it, new values)."""
    return {
        row_id: (_STATE_OF[row["action"]], {k: float(v) for k, v in row["given"].items()})
        for row_id, row in _resolutions(c, sorted(set(row_ids))).items()
    }


def summary(rows: Sequence[InvalidRow]) -> str:
    """The first rows in words."""
    said = [f"{iso(r.close_time)} {', '.join(r.reasons)}" for r in rows[:_EXAMPLES]]
    return "; ".join(said) + (f"; {len(rows) - _EXAMPLES} more" if len(rows) > _EXAMPLES else "")
