"""Which signals an id leads to: of a signal, decision, order or fill, a bars partition, a position, a run, a strategy or an
audit record; so that a chain is found from either end."""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import Connection, Table, or_, select

from resources.ledger import tables as t

Row = dict[str, Any]
MOST_SIGNALS: Final = 2000
"""A strategy or a run may have more; then the newest ones are meant."""


class TraceError(Exception):
    """The id leads nowhere, or to several things. The message says what was looked for, and what fits."""


def resolve(c: Connection, wanted: str) -> tuple[str, str, list[str], list[Row]]:
    """(kind, what was found, ids of the signals, rows without a signal). Raises TraceError."""
    if not wanted:
        raise TraceError("no id given: expected a signal, decision, order or fill id, or bars_<timeframe>/<session>/<symbol>")
    if wanted.startswith("bars_") and wanted.count("/") == 2:
        return _from_partition(c, wanted)
    if wanted.startswith("audit-") and wanted[6:].isdecimal():
        return _from_audit(c, int(wanted[6:]))
    for exact in (True, False):
        hits = _hits(c, wanted, exact)
        if len(hits) > 1:
            raise TraceError(f"{wanted!r} fits several ids: {', '.join(name for _, name in hits[:8])}; give more of it")
        if hits:
            kind, name = hits[0]
            signal_id, loose = _signal_of(c, kind, name)
            return kind, name, [signal_id] if signal_id else [], loose
    for other in (_from_position, _from_run, _from_strategy):
        found = other(c, wanted)
        if found is not None:
            return found
    raise TraceError(
        f"nothing in the ledger has an id with {wanted!r}; expected a signal (sig-...), decision (dec-...), order (int-... or "
        "the broker's), fill, bars_<timeframe>/<session>/<symbol>, strategy/symbol, run, strategy or audit-<number>"
    )


_SOURCES: Final[tuple[tuple[str, tuple[tuple[Table, str], ...]], ...]] = (
    ("signal", ((t.signals, "id"),)),
    ("decision", ((t.decisions, "id"),)),
    ("order", ((t.intents, "id"), (t.orders, "broker_order_id"))),
    ("fill", ((t.fills, "id"),)),
)


def _hits(c: Connection, wanted: str, exact: bool) -> list[tuple[str, str]]:
    """(kind, id) of what has `wanted` as its id, or in it. A fill's id contains its order's: the earlier link is meant."""
    for kind, places in _SOURCES:
        found: dict[tuple[str, str], None] = {}
        for table, name in places:
            fits = table.c[name] == wanted if exact else table.c[name].contains(wanted, autoescape=True)
            for row in c.execute(select(table.c.id).where(fits).order_by(table.c.id).limit(9)):
                found[kind, row.id] = None
        if found:
            return list(found)
    return []


def _signal_of(c: Connection, kind: str, name: str) -> tuple[str, list[Row]]:
    """The signal a thing comes from; the thing itself when no signal leads to it."""
    if kind == "signal":
        return name, []
    if kind == "decision":
        return str(c.execute(select(t.decisions.c.signal_id).where(t.decisions.c.id == name)).scalar_one()), []
    fill = row_of(c, t.fills, name) if kind == "fill" else None
    intent = row_of(c, t.intents, fill["order_id"] if fill else name)
    if intent is not None:
        parents = [intent["parent"]]
        entry = row_of(c, t.intents, intent["trade_id"])
        parents += [entry["parent"]] if entry else []
        d = t.decisions.c
        signal = c.execute(select(d.signal_id).where(d.id.in_(parents))).scalars().first()
        if signal is not None and row_of(c, t.signals, signal) is not None:
            return str(signal), []
    return "", [row for row in (intent, fill) if row is not None]


def _from_partition(c: Connection, wanted: str) -> tuple[str, str, list[str], list[Row]]:
    dataset, session, symbol = wanted.split("/")
    part = [{"dataset": dataset, "session": session} | ({} if symbol == "*" else {"symbol": symbol})]
    s = t.signals.c
    chosen = select(s.id).where(s.content["partitions"].contains(part)).order_by(s.close_time, s.id)
    ids = [str(name) for name in c.execute(chosen).scalars()]
    if not ids:
        raise TraceError(f"no signal was computed from {wanted}")
    return "partition", wanted, ids, []


Found = tuple[str, str, list[str], list[Row]]


def _from_audit(c: Connection, seq: int) -> Found:
    """What the record is about, by its row's or its act's ids."""
    content = c.execute(select(t.audit.c.content).where(t.audit.c.seq == seq)).scalar()
    if content is None:
        raise TraceError(f"there is no audit record {seq}")
    told = json.loads(bytes(content))
    row = told.get("row") if isinstance(told.get("row"), dict) else told
    names = ("order_id", "id", "intent", "order", "decision", "trade", "trade_id", "parent", "run_id")
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value:
            try:
                return resolve(c, value)
            except TraceError:
                continue
    raise TraceError(f"audit record {seq} tells of no signal, order or run: see `tapeline audit list`")


def _from_position(c: Connection, wanted: str) -> Found | None:
    strategy, slash, symbol = wanted.partition("/")
    if not slash:
        return None
    s = t.signals.c
    ids = _newest(c, s.strategy == strategy, s.symbol == symbol)
    return ("position", wanted, ids, []) if ids else None


def _from_run(c: Connection, wanted: str) -> Found | None:
    d, s = t.decisions.c, t.signals.c
    decided = select(d.signal_id).where(d.run_id == wanted)
    ids = _newest(c, or_(s.run_id == wanted, s.id.in_(decided)))
    return ("run", wanted, ids, []) if ids else None


def _from_strategy(c: Connection, wanted: str) -> Found | None:
    name, at, revision = wanted.partition("@")
    s = t.signals.c
    ids = _newest(c, s.strategy == name, *([s.strategy_revision == revision] if at else []))
    return ("strategy", wanted, ids, []) if ids else None


def _newest(c: Connection, *conditions: Any) -> list[str]:
    """Ids of signals, by close time."""
    s = t.signals.c
    chosen = select(s.id).where(*conditions).order_by(s.close_time.desc(), s.id.desc()).limit(MOST_SIGNALS)
    return [str(name) for name in c.execute(chosen).scalars()][::-1]


def row_of(c: Connection, table: Table, name: str) -> Row | None:
    """The row with that id."""
    row = c.execute(select(table).where(table.c.id == name)).mappings().first()
    return dict(row) if row is not None else None
