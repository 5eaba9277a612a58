"""What the desk and the account did, its state, and what Dagster is still to be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, Table, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import tables as t
from resources.ledger.base import LedgerBase, LedgerConflict, Row, insert_once, now_us


class ProblemLike(Protocol):
    """A configuration problem, see trading.config_text.Problem."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def message(self) -> str: ...


class DeskRecords(LedgerBase):
    """Sessions, account, orders and fills, the desk's state, configuration problems, the outbox."""

    # -- sessions and account -----------------------------------------------------------------------------------------

    def open_session(
        self, session: str, *, opened_time: int, start_equity: float | None, connection: Connection | None = None
    ) -> bool:
        """A trading session begins. False when it was open already; its first start equity stands."""
        row = {"session": session, "state": "open", "opened_time": opened_time, "start_equity": start_equity}
        with self.transaction(connection) as c:
            return bool(insert_once(c, t.sessions, [row], same=()))

    def end_session(
        self, session: str, *, ended_time: int, end_equity: float | None, connection: Connection | None = None
    ) -> bool:
        """A trading session is over. False when it was not open: it ends once."""
        ended = update(t.sessions).where(t.sessions.c.session == session, t.sessions.c.state == "open")
        with self.transaction(connection) as c:
            return c.execute(ended.values(state="ended", ended_time=ended_time, end_equity=end_equity)).rowcount == 1

    def mark_reported(self, session: str, *, connection: Connection | None = None) -> bool:
        """The session's report is made. False when the session has not ended."""
        done = update(t.sessions).where(t.sessions.c.session == session, t.sessions.c.state != "open")
        with self.transaction(connection) as c:
            return c.execute(done.values(state="reported")).rowcount == 1

    def sessions(self, *, state: str | None = None) -> list[Row]:
        return self.rows(t.sessions, [t.sessions.c.session], state=state)

    def account(self, session: str | None = None) -> list[Row]:
        """Account snapshots by close time, of one session or all."""
        return self.rows(t.account_snapshots, [t.account_snapshots.c.close_time], session=session)

    def latest_account(self) -> Row | None:
        return self.first(select(t.account_snapshots).order_by(t.account_snapshots.c.close_time.desc()).limit(1))

    # -- what the desk did (written by the desk, in its own transactions) ----------------------------------------------

    def intents(self, session: str | None = None) -> list[Row]:
        return self.rows(t.intents, [t.intents.c.created_time, t.intents.c.created_wall, t.intents.c.id], session=session)

    def orders(self, session: str | None = None) -> list[Row]:
        """Orders by creation, with the strategy, leg, trade_id, parent and session of their intents."""
        i = t.intents.c
        chosen = select(t.orders, i.strategy, i.leg, i.trade_id, i.parent, i.session).join(t.intents, i.id == t.orders.c.id)
        if session is not None:
            chosen = chosen.where(i.session == session)
        order = (t.orders.c.created_time, t.orders.c.created_wall, t.orders.c.id)
        with self.engine.connect() as c:
            return [dict(row) for row in c.execute(chosen.order_by(*order)).mappings()]

    def order_events(self, order_id: str) -> list[Row]:
        return self.rows(t.order_events, [t.order_events.c.seq], order_id=order_id)

    def fills(self, session: str | None = None) -> list[Row]:
        return self.rows(t.fills, [t.fills.c.fill_time, t.fills.c.recorded_wall, t.fills.c.id], session=session)

    def positions(self, *, open_only: bool = False) -> list[Row]:
        rows = self.rows(t.positions, list(t.positions.primary_key))
        return [row for row in rows if row["quantity"] != 0] if open_only else rows

    def counts(self) -> dict[str, int]:
        """How many signals, orders and fills there are."""
        with self.engine.connect() as c:
            return {
                table.name: int(c.execute(select(func.count()).select_from(table)).scalar_one())
                for table in (t.signals, t.orders, t.fills)
            }

    def trace(self, order: str) -> Row | None:
        """The whole chain behind an order, named by our id, any part of the id, or the broker's id; None when unknown.

        Keys: order, intent, entry_intent (the trade's entry; the intent itself for entries), decision, signal (rows or
        None), events, fills, trade_fills (of the whole trade). Raises LedgerConflict when `order` fits several.
        """
        o = t.orders.c
        with self.engine.connect() as c:
            exact = select(t.orders).where(or_(o.id == order, o.broker_order_id == order))
            found = list(c.execute(exact).mappings())
            if not found and order:
                found = list(c.execute(select(t.orders).where(o.id.contains(order, autoescape=True)).limit(2)).mappings())
            if not found:
                return None
            if len(found) > 1:
                raise LedgerConflict(f"{order!r} fits several orders: {', '.join(row['id'] for row in found)}")
            one = dict(found[0])
            intent = _row_of(c, t.intents, one["id"])
            entry = _row_of(c, t.intents, intent["trade_id"]) if intent else None
            decision = next((d for i in (intent, entry) if i and (d := _row_of(c, t.decisions, i["parent"]))), None)
            signal = _row_of(c, t.signals, decision["signal_id"]) if decision else None
            trade = select(t.fills).where(t.fills.c.trade_id == (intent or {}).get("trade_id", ""))
            trade_fills = [dict(row) for row in c.execute(trade.order_by(t.fills.c.fill_time)).mappings()]
        return {
            "order": one, "intent": intent, "entry_intent": entry, "decision": decision, "signal": signal,
            "events": self.order_events(one["id"]), "fills": [f for f in trade_fills if f["order_id"] == one["id"]],
            "trade_fills": trade_fills,
        }  # fmt: skip

    # -- state, configuration problems, outbox ------------------------------------------------------------------------

    def get_state(self, key: str, *, connection: Connection | None = None) -> Any:
        """The JSON value kept under `key`; None when there is none."""
        chosen = select(t.desk_state.c.value).where(t.desk_state.c.key == key)
        with self.transaction(connection) as c:
            return c.execute(chosen).scalar()

    def put_state(self, key: str, value: Any, *, shared: bool = False, connection: Connection | None = None) -> None:
        """shared: for all books of the installation, not this one's own."""
        statement = insert(t.shared_state if shared else t.desk_state).values(key=key, value=value, updated_wall=now_us())
        newer = {"value": statement.excluded.value, "updated_wall": statement.excluded.updated_wall}
        with self.transaction(connection) as c:
            c.execute(statement.on_conflict_do_update(index_elements=["key"], set_=newer))

    def replace_config_problems(self, problems: Iterable[ProblemLike], *, connection: Connection | None = None) -> None:
        """These are all the problems the configuration files have now."""
        made = now_us()
        rows = {
            (p.file, p.line, p.key): {"file": p.file, "line": p.line, "key": p.key, "message": str(p), "found_wall": made}
            for p in problems
        }
        with self.transaction(connection) as c:
            c.execute(t.config_problems.delete())
            if rows:
                c.execute(t.config_problems.insert(), list(rows.values()))

    def config_problems(self) -> list[Row]:
        return self.rows(t.config_problems, list(t.config_problems.primary_key))

    def enqueue(
        self, asset_key: str, content: Mapping[str, Any], *, partition: str | None = None, connection: Connection | None = None
    ) -> int:
        """Tell Dagster of a materialisation, in the transaction of what happened; return its number in the outbox."""
        row = {"asset_key": asset_key, "partition": partition, "content": dict(content), "created_wall": now_us()}
        with self.transaction(connection) as c:
            return int(c.execute(t.dagster_outbox.insert().values(row).returning(t.dagster_outbox.c.seq)).scalar_one())

    def unsent(self, limit: int = 100) -> list[Row]:
        """Outbox rows not yet delivered, oldest first."""
        o = t.dagster_outbox
        with self.engine.connect() as c:
            chosen = select(o).where(o.c.sent_wall.is_(None)).order_by(o.c.seq).limit(limit)
            return [dict(row) for row in c.execute(chosen).mappings()]

    def mark_sent(self, seqs: Sequence[int]) -> None:
        with self.engine.begin() as c:
            c.execute(update(t.dagster_outbox).where(t.dagster_outbox.c.seq.in_(seqs)).values(sent_wall=now_us()))


def _row_of(connection: Connection, table: Table, row_id: str) -> Row | None:
    row = connection.execute(select(table).where(table.c.id == row_id)).mappings().first()
    return dict(row) if row is not None else None
