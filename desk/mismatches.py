"""Instruments on which ledger and broker disagree: kept in the ledger, blocking new risk until resolved.

desk_state key ``mismatches``: symbol (or ``*`` for the account) -> {kind, text, since_time, sticky}. Sticky ones do not
go away because a later comparison agrees: a person looks at them and clears them (audited).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from desk import store
from resources.ledger import audit

KEY = "mismatches"
ACCOUNT = "*"


def known(connection: Connection) -> dict[str, dict[str, Any]]:
    """Symbol -> what is wrong."""
    return store.get_state(connection, KEY)


def put(connection: Connection, symbol: str, kind: str, text: str, now_time: int, *, sticky: bool = False) -> None:
    """Note one mismatch; an older one of the symbol stays when it is sticky."""
    found = known(connection)
    if not found.get(symbol, {}).get("sticky"):
        found[symbol] = {"kind": kind, "text": text, "since_time": now_time, "sticky": sticky}
        store.put_state(connection, KEY, found)


def replace(connection: Connection, compared: Mapping[str, tuple[str, str]], now_time: int) -> dict[str, dict[str, Any]]:
    """Set the mismatches to those a full comparison found (symbol -> (kind, text)); sticky ones stay.

    Audits what appeared and what went away. Returns all that stand.
    """
    before = known(connection)
    after: dict[str, dict[str, Any]] = {s: m for s, m in before.items() if m["sticky"]}
    for symbol, (kind, text) in compared.items():
        old = before.get(symbol)
        if symbol in after:
            continue
        since = old["since_time"] if old and old["kind"] == kind else now_time
        after[symbol] = {"kind": kind, "text": text, "since_time": since, "sticky": False}
    if after == before:
        return after
    store.put_state(connection, KEY, after)
    for symbol in sorted(after.keys() - before.keys()):
        audit.append(connection, "desk", "mismatch_found", {"symbol": symbol, **after[symbol]})
    for symbol in sorted(before.keys() - after.keys()):
        audit.append(connection, "desk", "mismatch_resolved", {"symbol": symbol, **before[symbol]})
    return after


def clear(connection: Connection, symbol: str, who: str, reason: str) -> bool:
    """A person resolves a mismatch. False when there is none. The next reconciliation finds it again if it still stands."""
    found = known(connection)
    gone = found.pop(symbol, None)
    if gone is None:
        return False
    store.put_state(connection, KEY, found)
    audit.append(connection, who, "mismatch_cleared", {"symbol": symbol, "reason": reason, **gone})
    return True
