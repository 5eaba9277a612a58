"""Auto-trade: does the desk take decisions by itself? A latch of its own beside the halts: it never lifts one.

running: decisions are taken. paused: none is; what works goes on. stopped: none is, and working entries are cancelled.
Exits always go on, and orders a person gives are not asked about it. Kept in the ledger (desk_state ``auto_trade``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection

from desk import store
from resources.ledger import audit
from trading.refusals import RefusalCode, refuse

KEY: Final = "auto_trade"
RUNNING, PAUSED, STOPPED = "running", "paused", "stopped"
STATES: Final = (RUNNING, PAUSED, STOPPED)


def read(connection: Connection) -> dict[str, Any]:
    """{state, reason, who, since_time}. Running until somebody says otherwise; a state nobody knows counts as stopped."""
    value = store.get_state(connection, KEY)
    if not value:
        return {"state": RUNNING, "reason": "", "who": "", "since_time": 0}
    if value.get("state") not in STATES:
        return {**value, "state": STOPPED, "reason": f"unreadable state {value.get('state')!r}"}
    return value


def put(connection: Connection, state: str, reason: str, who: str, now_time: int) -> dict[str, Any]:
    """Change it; audited. The caller holds the ledger's write lock. Raises ValueError on an unknown state."""
    if state not in STATES:
        raise ValueError(f"auto-trade {state!r}: expected one of {', '.join(STATES)}")
    value = {"state": state, "reason": reason, "who": who, "since_time": now_time}
    before = read(connection)["state"]
    store.put_state(connection, KEY, value)
    audit.append(connection, who, "auto_trade", {"state": state, "was": before, "reason": reason})
    return value


def refusal(connection: Connection) -> str:
    """Why no decision is taken, as a refusal's text; "" while it runs."""
    now: Mapping[str, Any] = read(connection)
    if now["state"] == RUNNING:
        return ""
    return str(refuse(RefusalCode.HALTED, scope="auto_trade", state=now["state"], reason=now["reason"]))
