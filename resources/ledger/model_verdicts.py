"""Whether a model version has drifted, as the decision gate reads it: the newest verdict on each version, kept in the ledger.

A change is audited in the transaction that writes it. `event` names one drift from when it was first seen until it is over, so
that what is done about it is done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, text

from resources.ledger import audit
from resources.ledger.store import Ledger
from trading import ids

ACTOR: Final = "model_drift"
KEPT: Final = 8
_KEY: Final = "model_drift/"
_DONE: Final = "model_drift_answered"
_LOCK: Final = 0x7461_7065_6D64  # one writer at a time: what is there is read first, then replaced


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """model: name of its file; registered: in the model registry. judged_time: close of the newest bar that was judged (UTC
    us). since_time: the same of the first verdict of this event; event: "" while nothing has drifted."""

    model: str
    registered: str
    version: str
    drifted: bool
    judged_time: int
    judged_wall: int
    reasons: tuple[str, ...]
    then: str
    run_id: str
    event: str = ""
    since_time: int = 0

    def measured(self) -> dict[str, Any]:
        """What a decision's snapshot carries."""
        return {"version": self.version, "drifted": self.drifted, "judged_time": self.judged_time, "event": self.event}


def verdicts_of(ledger: Ledger, registered: str, connection: Connection | None = None) -> dict[str, DriftVerdict]:
    """The newest verdict on each version, by version."""
    kept = ledger.get_state(_KEY + registered, connection=connection) or {}
    return {v: _read(row) for v, row in kept.items()}


def record(ledger: Ledger, verdict: DriftVerdict) -> DriftVerdict:
    """Keep `verdict` as the newest on its version, with its event; older bars never overrule newer ones. Returns what is kept."""
    with ledger.transaction() as c:
        c.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        kept = verdicts_of(ledger, verdict.registered, c)
        before = kept.get(verdict.version)
        if before is not None and before.judged_time > verdict.judged_time:
            return before
        if verdict.drifted:
            going_on = before is not None and before.drifted
            since = before.since_time if going_on and before is not None else verdict.judged_time
            event = ids.content_hash([verdict.registered, verdict.version, since])[:12]
            verdict = replace(verdict, event=event, since_time=since)
        kept[verdict.version] = verdict
        newest = sorted(kept.values(), key=lambda v: v.judged_wall)[-KEPT:]
        ledger.put_state(_KEY + verdict.registered, {v.version: asdict(v) for v in newest}, connection=c)
        if verdict.drifted != (before is not None and before.drifted):
            told = {k: v for k, v in asdict(verdict).items() if k not in ("reasons", "judged_wall")}
            action = "model_drifted" if verdict.drifted else "model_drift_over"
            audit.append(c, ACTOR, action, {**told, "reasons": list(verdict.reasons)})
    return verdict


# -- what was done because of it -------------------------------------------------------------------------------------------


def done(ledger: Ledger, what: str, event: str) -> bool:
    """Was `what` (``halt NAME``, ``retrain NAME``) done because of `event`?"""
    found: Mapping[str, Any] = ledger.get_state(_DONE) or {}
    return bool(found.get(what) == event)


def note_done(ledger: Ledger, what: str, event: str, content: Mapping[str, Any]) -> bool:
    """Remember it, and audit it as ``drift_answered``. False when it was noted before."""
    with ledger.transaction() as c:
        c.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        known: dict[str, Any] = dict(ledger.get_state(_DONE, connection=c) or {})
        if known.get(what) == event:
            return False
        ledger.put_state(_DONE, {**known, what: event}, connection=c)
        audit.append(c, ACTOR, "drift_answered", {**content, "what": what, "event": event})
    return True


def _read(row: Mapping[str, Any]) -> DriftVerdict:
    return DriftVerdict(**{**row, "reasons": tuple(row["reasons"])})
