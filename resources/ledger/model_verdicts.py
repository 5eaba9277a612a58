"""Whether a model version has drifted, as the decision gate reads it: the verdicts on each version, kept in the ledger.

The newest of each version says what is so now. Those before are kept, too: a signal is judged by the last verdict on bars up to
its own close, so that the past is never judged by what was seen only later.

A change is audited in the transaction that writes it. `event` names one drift from when it was first seen until it is over, so
that what is done about it is done once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, text

from resources.ledger import audit
from resources.ledger.store import Ledger
from trading import ids

ACTOR: Final = "model_drift"
KEPT: Final = 8
HISTORY_KEPT: Final = 800
"""Verdicts kept of each version: about three years of daily ones."""
_KEY: Final = "model_drift/"
_HISTORY: Final = "model_drift_history/"
_REMEMBERED: Final = ("drifted", "judged_time", "judged_wall", "event", "since_time")
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


def verdict_at(ledger: Ledger, registered: str, version: str, close_time: int) -> DriftVerdict | None:
    """The last verdict on `version` that saw no bar after `close_time` (UTC us, market clock). When there are only later ones,
    the newest of them, which the gate refuses; None when nobody has judged it."""
    newest = verdicts_of(ledger, registered).get(version)
    if newest is None or newest.judged_time <= close_time:
        return newest
    told: Mapping[str, Any] = ledger.get_state(_HISTORY + registered) or {}
    before = [row for row in told.get(version, ()) if row["judged_time"] <= close_time]
    if not before:
        return newest
    return replace(newest, reasons=(), **max(before, key=lambda row: (row["judged_time"], row["judged_wall"])))


def _remember(ledger: Ledger, verdict: DriftVerdict, versions: Collection[str], connection: Connection) -> None:
    """Add `verdict` to those kept of its version; versions no longer kept are forgotten."""
    key = _HISTORY + verdict.registered
    told: Mapping[str, Any] = ledger.get_state(key, connection=connection) or {}
    row = {name: getattr(verdict, name) for name in _REMEMBERED}
    kept = {version: list(rows) for version, rows in told.items() if version in versions}
    kept[verdict.version] = [*kept.get(verdict.version, []), row][-HISTORY_KEPT:]
    ledger.put_state(key, kept, connection=connection)


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
        _remember(ledger, verdict, {v.version for v in newest}, c)
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
