"""Tells Dagster what the desk did: runless materialisations, through a durable outbox.

Rows are written in the transaction of the act they report, and posted to the webserver's REST endpoint by a task of
their own. A dead webserver costs trading nothing: rows wait, in order, until it answers. A crash between the answer and
its mark posts an event twice, which repeats a line in the asset's history and changes nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final
from urllib.parse import quote

import httpx
import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import SQLAlchemyError

from resources.brokers.protocol import Account
from resources.lake import Lake, Partition
from resources.ledger import tables as t
from resources.ledger.store import Ledger
from resources.ledger.tables import dagster_outbox
from trading.timeframes import Timeframe, iso
from trading.universe import Universe

log = structlog.get_logger("desk.dagster")

ENDPOINT: Final = "/report_asset_materialization/"
BATCH: Final = 50
MAX_PAUSE_SECONDS: Final = 30.0
_NEVER_ACCEPTED: Final = frozenset({400, 404, 405, 413, 422})


def enqueue(
    ledger: Ledger,
    connection: Connection,
    asset_key: str,
    partition: str | None,
    metadata: Mapping[str, Any],
    description: str = "",
) -> None:
    """Add one materialisation to the outbox in the caller's transaction.

    asset_key: parts joined by ``/``. metadata: JSON values (str, int, float, list, dict). Raises ValueError on NaN.
    """
    content = {"metadata": json.loads(json.dumps(dict(metadata), allow_nan=False)), "description": description}
    ledger.enqueue(asset_key, content, partition=partition, connection=connection)


class CloseReport:
    """What one bar close tells Dagster, in the close's own transaction. label: PAPER or the broker's name."""

    def __init__(self, ledger: Ledger, connection: Connection, universe: Universe, label: str) -> None:
        self._ledger = ledger
        self._connection = connection
        self._universe = universe
        self._label = label

    def bars(self, close_time: int, partitions: Sequence[Partition]) -> None:
        """One event per native dataset and session."""
        native: dict[tuple[str, str], list[Partition]] = {}
        for p in partitions:
            if p.dataset == f"bars_{self._universe.instruments[p.symbol].native_timeframe}":
                native.setdefault((p.dataset, p.session.isoformat()), []).append(p)
        for (dataset, session), found in sorted(native.items()):
            metadata = {"close_time": iso(close_time), "close_time_us": close_time, **_contents(found), "source": "hot bars"}
            self._tell(dataset, session, metadata, f"hot bars of {session} up to {iso(close_time)}")

    def derived(self, lake: Lake, session: date) -> None:
        """The derived timeframes of a session that is over: one event each."""
        natives = {i.native_timeframe for i in self._universe.instruments.values()}
        for timeframe in Timeframe:
            if timeframe not in natives and timeframe.minutes > min(n.minutes for n in natives):
                found = lake.partitions(f"bars_{timeframe}", session, session)
                if found:
                    metadata = {**_contents(found), "source": "derived from hot bars"}
                    self._tell(f"bars_{timeframe}", session.isoformat(), metadata, f"derived bars of {session}")

    def fills(self, since_wall: int, session: str) -> None:
        """Fills recorded after `since_wall` (UTC us), by session, and the positions they left."""
        chosen = select(t.fills).where(t.fills.c.recorded_wall > since_wall).order_by(t.fills.c.fill_time)
        by_session: dict[str, list[Any]] = {}
        for row in self._connection.execute(chosen).mappings():
            by_session.setdefault(row["session"], []).append(row)
        for day, fills in sorted(by_session.items()):
            metadata = {
                "mode": self._label,
                "fills": len(fills),
                "quantity": sum(f["quantity"] for f in fills),
                "commission": sum(f["commission"] for f in fills),
                "symbols": sorted({f["symbol"] for f in fills}),
                "orders": [f["order_id"] for f in fills],
                "ids": [f["id"] for f in fills],
            }
            self._tell("fills", day, metadata, f"{self._label}: {len(fills)} fills")
        if by_session:
            self.positions(session)

    def positions(self, session: str, account: Account | None = None) -> None:
        """The open positions, with the account where given."""
        p = t.positions.c
        columns = (p.strategy, p.symbol, p.quantity, p.average_price, p.trade_id)
        held = [dict(row) for row in self._connection.execute(select(*columns).where(p.quantity != 0.0)).mappings()]
        metadata: dict[str, Any] = {"mode": self._label, "open_positions": len(held), "positions": held}
        if account is not None:
            metadata |= {"equity": account.equity, "cash": account.cash, "currency": account.currency}
        self._tell("positions", session, metadata, f"{self._label}: {len(held)} open positions")

    def _tell(self, asset_key: str, session: str, metadata: Mapping[str, Any], description: str) -> None:
        said = {**metadata, "simulated": self._universe.simulated}
        enqueue(self._ledger, self._connection, asset_key, session, said, description)


def _contents(partitions: Sequence[Partition]) -> dict[str, Any]:
    return {
        "symbols": sorted(p.symbol for p in partitions),
        "rows": sum(p.rows for p in partitions),
        "content_hash": {p.symbol: p.content_hash for p in partitions},
    }


class DagsterReporter:
    """Posts the outbox, oldest first, until it is stopped. Failures are retried for ever, with longer pauses."""

    def __init__(
        self, ledger: Ledger, webserver_url: str, *, idle_seconds: float = 0.5, first_pause_seconds: float = 0.5
    ) -> None:
        self._ledger = ledger
        self._url = webserver_url.rstrip("/")
        self._idle_seconds = idle_seconds
        self._first_pause_seconds = first_pause_seconds
        self.trouble = ""
        """Why nothing gets through right now; empty when it does."""

    async def run(self, stop: asyncio.Event) -> None:
        """Post until `stop` is set."""
        pause = self._first_pause_seconds
        # The authorities of certificates take longer to read than the desk to start; plain HTTP asks for none.
        secured = not self._url.startswith("http://")
        async with httpx.AsyncClient(base_url=self._url, timeout=15.0, trust_env=False, verify=secured) as http:
            while not stop.is_set():
                try:
                    sent = await self.post_batch(http)
                except (httpx.HTTPError, SQLAlchemyError) as error:
                    self._troubled(f"{type(error).__name__}")
                    await _sleep(stop, pause)
                    pause = min(pause * 2, MAX_PAUSE_SECONDS)
                    continue
                if self.trouble:
                    log.info("dagster_reached_again", url=self._url)
                    self.trouble = ""
                pause = self._first_pause_seconds
                if sent < BATCH:
                    await _sleep(stop, self._idle_seconds)

    async def post_batch(self, http: httpx.AsyncClient) -> int:
        """Post the oldest rows; returns how many are done. Raises httpx.HTTPError when Dagster did not take one."""
        rows = await asyncio.to_thread(self._ledger.unsent, BATCH)
        done: list[int] = []
        try:
            for row in rows:
                await self._post(http, row)
                done.append(row["seq"])
        finally:
            if done:
                await asyncio.to_thread(self._ledger.mark_sent, done)
        return len(done)

    async def _post(self, http: httpx.AsyncClient, row: dict[str, Any]) -> None:
        body = {key: value for key, value in row["content"].items() if key in ("metadata", "description") and value}
        if row["partition"] is not None:
            body["partition"] = row["partition"]
        response = await http.post(ENDPOINT + quote(row["asset_key"], safe="/"), json=body)
        if response.status_code in _NEVER_ACCEPTED and "application/json" in response.headers.get("content-type", ""):
            # The webserver understood and refuses this very event: asking again would block all later ones for ever.
            reason = f"HTTP {response.status_code}: {response.text[:300]}"
            await asyncio.to_thread(self._refused, row["seq"], {**row["content"], "refused": reason})
            log.error("dagster_refused_event", asset=row["asset_key"], partition=row["partition"], reason=reason)
            return
        response.raise_for_status()

    def _refused(self, seq: int, content: dict[str, Any]) -> None:
        with self._ledger.transaction() as connection:
            connection.execute(update(dagster_outbox).where(dagster_outbox.c.seq == seq).values(content=content))

    def _troubled(self, reason: str) -> None:
        if not self.trouble:
            log.warning("dagster_unreachable", url=self._url, reason=reason, consequence="events wait in the outbox")
        self.trouble = reason


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
