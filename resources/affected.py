"""What came of a bars partition: signals, decisions, orders and reports, and whether its content is still what they saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from resources.changes import hash_known_at, stale_marks
from resources.ledger import changes as book
from resources.ledger import tables as t
from resources.ledger.base import LedgerBase
from resources.ledger.books import each_book
from resources.ledger.changes import Change, Key

if TYPE_CHECKING:
    from pathlib import Path

    from resources.lake import Lake
    from trading.universe import Universe

SAME, DIFFERS, MISSING = "same", "differs", "missing"


@dataclass(frozen=True, slots=True)
class AffectedSignal:
    """A signal computed from the partition. state: are the rows it saw still the same?

    decision_id: empty when none was taken; approved: its outcome. orders: ``id state`` of every order of its trade.
    """

    signal_id: str
    strategy: str
    symbol: str
    session: str
    close_time: int
    hash_then: str
    hash_now: str
    decision_id: str
    approved: bool
    orders: tuple[str, ...]

    @property
    def state(self) -> str:
        return MISSING if not self.hash_now else SAME if self.hash_now == self.hash_then else DIFFERS


@dataclass(frozen=True, slots=True)
class Affected:
    """Everything made of one partition. datasets: dataset -> sessions of the lake computed from it.

    reports: sessions whose report shows such a decision. training_sets: files made of the partition, and
    whether all their sources are still the same (``same``, ``differs``, ``missing``: unreadable).
    """

    key: Key
    changes: tuple[Change, ...]
    signals: tuple[AffectedSignal, ...]
    datasets: dict[str, list[str]]
    reports: tuple[str, ...]
    training_sets: dict[str, str]


def affected_by(ledger: LedgerBase, lake: Lake, universe: Universe, key: Key, training_sets: Sequence[Path] = ()) -> Affected:
    """What was made of partition `key` (dataset, session, symbol). training_sets: files to look into.

    Raises KeyError when the universe does not know the symbol.
    """
    dataset, session, symbol = key
    if symbol not in universe.instruments:
        raise KeyError(f"{symbol} is not in the universe {universe.name}")
    signals = affected_signals(ledger, lake, [key])
    day = date.fromisoformat(session)
    datasets: dict[str, list[str]] = {}
    for mark in stale_marks(dataset, {(symbol, day): ("", "?")}, "", universe, lake):
        datasets.setdefault(mark.dataset, []).append(mark.session)
    days = sorted({s.session for s in signals if s.decision_id})
    reported = {str(row["session"]) for row in ledger.rows(t.sessions, [t.sessions.c.session], state="reported")}
    return Affected(
        key,
        tuple(book.changes(ledger.engine, dataset=dataset, session=session, symbol=symbol)),
        tuple(signals),
        datasets,
        tuple(d for d in days if d in reported),
        {str(p): state for p in training_sets if (state := _training_set_state(p, key, lake)) is not None},
    )


def affected_signals(ledger: LedgerBase, lake: Lake, keys: Iterable[Key]) -> list[AffectedSignal]:
    """Every signal computed from one of the partitions, with what became of it, by close time."""
    wanted = list(keys)
    with ledger.engine.connect() as c:
        found = [signal for _ in each_book(c) for signal in _of_book(c, lake, wanted)]
    return sorted(found, key=lambda signal: (signal.close_time, signal.signal_id))


def _of_book(c: Connection, lake: Lake, keys: Iterable[Key]) -> list[AffectedSignal]:
    """Those of the book the connection looks into."""
    found: list[AffectedSignal] = []
    for row in book.signals_of(c, keys):
        key = row["dataset"], row["session"], row["symbol"]
        s = t.signals.c
        signal = c.execute(select(s.strategy, s.symbol, s.session).where(s.id == row["id"])).one()
        decision = c.execute(select(t.decisions.c.approved).where(t.decisions.c.signal_id == row["id"])).scalar()
        trades = select(t.intents.c.trade_id).where(t.intents.c.parent == row["decision_id"])
        orders = c.execute(
            select(t.orders.c.id, t.orders.c.state)
            .join(t.intents, t.intents.c.id == t.orders.c.id)
            .where(t.intents.c.trade_id.in_(trades))
            .order_by(t.orders.c.created_time, t.orders.c.id)
        ).all()
        found.append(
            AffectedSignal(
                row["id"], signal.strategy, signal.symbol, signal.session, int(row["close_time"]), row["content_hash"],
                hash_known_at(lake, key, int(row["close_time"])), row["decision_id"] or "", bool(decision),
                tuple(f"{o.id} {o.state}" for o in orders),
            )
        )  # fmt: skip
    return found


def _training_set_state(path: Path, key: Key, lake: Lake) -> str | None:
    """Are the partitions this training set was made of still the same? None when `key` is not among them."""
    from ml.dataset import DatasetError, SourceSpan, load

    if not path.exists():
        return None
    dataset, session, symbol = key
    try:
        sources = load(path).sources
    except (DatasetError, OSError):
        return MISSING  # shown rather than forgotten
    state = None
    for source in sources:
        wanted = source.dataset in (dataset, dataset.replace("bars_", "features_")) and source.symbol == symbol
        if not wanted or not source.first_session <= session <= source.last_session:
            continue
        first, last = date.fromisoformat(source.first_session), date.fromisoformat(source.last_session)
        held = [(p.session.isoformat(), p.content_hash) for p in lake.partitions(source.dataset, first, last, [symbol])]
        same = bool(held) and SourceSpan.of(source.dataset, symbol, held).content_hash == source.content_hash
        state = SAME if same and state in (None, SAME) else DIFFERS
    return state
