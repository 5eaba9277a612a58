"""A signal becomes a decision: ``decide`` runs the gates over a snapshot, bytes in, bytes out.

The snapshot holds everything the gates may look at, as canonical JSON; nothing else is read, not even a clock. The
same snapshot therefore gives the same outcome, byte for byte, on any machine, and yesterday's decisions can be
recomputed. All gates answer, so that every verdict is on record; the first refusal in their order is the decision's.

Fail closed: a field that is missing or of the wrong kind is a refusal of the gate that needs it, a gate that breaks
refuses, a snapshot that cannot be read refuses at every gate.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from trading import ids
from trading.freshness import Freshness
from trading.gates.base import GATES, Gate, Missing, Snapshot, look, since
from trading.gates.size import size_of
from trading.instruments import Instrument, Mode
from trading.refusals import refuse
from trading.signals import Decision, GateVerdict, PartitionRef, Signal

SCHEMA: Final = 4
"""Of the snapshots made now. Older ones are decided by the gates there were, so that they replay to the same bytes:
1 without optional gates and sizes; 2 with ``gates``, ``measured`` and ``sizing``; 3 with models; 4 judges no model by what was
seen after the close."""
SCHEMAS: Final = (1, 2, 3, SCHEMA)


def build_snapshot(
    signal: Signal,
    *,
    instrument: Instrument,
    mode: Mode | str,
    verdicts: Sequence[Mapping[str, Any]],
    required: Sequence[PartitionRef],
    warm: bool,
    now_time: int,
    session_open: bool,
    min_reward_to_risk: float,
    required_checks: Sequence[str] | None = None,
    freshness: Sequence[Freshness] | None = None,
    now_wall: int | None = None,
    conflict: Mapping[str, Any] | None = None,
    legs: Mapping[str, str] | None = None,
    gates: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    sizing: Mapping[str, Any] | None = None,
) -> bytes:
    """Canonical bytes of everything the gates may look at.

    verdicts: quality verdicts as mappings with dataset, session, symbol, check, passed, severity, content_hash; others
    than those of `required` are left out. required: the partitions the strategy needs, with the content hash they have
    in the lake now. warm: is every indicator past its warm-up? now_time: UTC us. session_open: is the venue in session,
    or will the next bar's open be in one? required_checks: default trading.quality.ERROR_CHECKS. freshness: how old the
    verdicts on each required partition may be (trading.freshness), None: verdicts do not expire; with it, verdicts carry
    judged_time, and evaluated_wall where a limit is in real time: then now_wall (UTC us, real clock) is needed. conflict:
    what became of opposite signals of the close (trading.conflicts.Verdict.plain). legs: of a pair, ``approved`` or why not,
    by symbol of the other legs. gates: the optional gates that are on with their settings (OptionalGates.switched_on), {} for
    none; None says nothing, and every optional gate refuses. measured: what they are judged by (trading.gate_inputs), by
    gate. sizing: equity, currency and evidence (trading.sizing_inputs). Raises ValueError without now_wall where it is needed.
    """
    # The real clock is in a snapshot only where a limit depends on it: else the same close gives the same bytes.
    real_limit = any(f.max_wall_age is not None for f in freshness or ())
    if real_limit and now_wall is None:
        raise ValueError("a limit in real time needs now_wall: how old a verdict is depends on it")
    if required_checks is None:
        from trading.quality import ERROR_CHECKS

        required_checks = ERROR_CHECKS
    needed = {(ref.dataset, ref.session, ref.symbol) for ref in required}
    carried: tuple[str, ...] = ("dataset", "session", "symbol", "check", "passed", "severity", "content_hash")
    if freshness is not None:
        carried += ("judged_time", "evaluated_wall") if real_limit else ("judged_time",)
    chosen = [
        {key: verdict.get(key) for key in carried}
        for verdict in verdicts
        if (verdict.get("dataset"), verdict.get("session"), verdict.get("symbol")) in needed
    ]
    chosen.sort(key=lambda v: (str(v["dataset"]), str(v["session"]), str(v["symbol"]), str(v["check"]), str(v["content_hash"])))
    return ids.canonical(
        _finite(
            {
                "schema": SCHEMA,
                "signal": signal.to_dict(),
                "instrument": {
                    "symbol": instrument.symbol,
                    "asset_class": instrument.asset_class.value,
                    "calendar": instrument.calendar,
                    "tick_size": str(instrument.tick_size),
                    "lot_size": str(instrument.lot_size),
                    "multiplier": str(instrument.multiplier),
                    "currency": instrument.currency,
                    "tradable_in": sorted(m.value for m in instrument.tradable_in),
                },
                "mode": str(mode),
                "verdicts": chosen,
                "required": [asdict(ref) for ref in required],
                "required_checks": sorted(required_checks),
                "warm": bool(warm),
                "now_time": int(now_time),
                "session_open": bool(session_open),
                "min_reward_to_risk": float(min_reward_to_risk),
                **({} if freshness is None else {"freshness": [f.plain() for f in freshness]}),
                **({"now_wall": now_wall} if real_limit else {}),
                **({} if conflict is None else {"conflict": dict(conflict)}),
                **({} if legs is None else {"legs": dict(legs)}),
                **({} if gates is None else {"gates": dict(gates)}),
                **({} if not measured else {"measured": dict(measured)}),
                **({} if sizing is None else {"sizing": dict(sizing)}),
            }
        )
    )


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities as None: canonical JSON has no word for them, and the gates refuse None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def decide(snapshot: bytes) -> bytes:
    """The outcome of `snapshot`: canonical JSON with schema, snapshot_hash, signal_id, approved, refusal, verdicts, and from
    schema 2 on size: the plain sizing rule of this bar and, where the account is known, quantity, risk and equity.

    Pure and total: it reads nothing else and raises nothing, whatever the bytes are.
    """
    content = _read(snapshot)
    schema = int(content.get("schema", SCHEMA))
    verdicts = [verdict_of(name, gate, content) for name, gate in GATES.ordered() if since(gate) <= schema]
    refusal = next((v.refusal for v in verdicts if not v.passed), "")
    try:
        signal_id = str(look(content, "signal.id", str))
    except Missing:
        signal_id = ""
    return ids.canonical(
        {
            "schema": schema,
            "snapshot_hash": hashlib.sha256(snapshot).hexdigest(),
            "signal_id": signal_id,
            "approved": bool(verdicts) and all(v.passed for v in verdicts),
            "refusal": refusal,
            "verdicts": [asdict(v) for v in verdicts],
            **({"size": _size(content)} if schema > 1 else {}),
        }
    )


def _size(content: Snapshot) -> dict[str, Any] | None:
    """The size as the outcome states it; None where there is none, which the gate ``size`` has refused."""
    try:
        found = _finite(size_of(content))
    except Exception:  # noqa: BLE001 whatever it is, the gate says so
        return None
    return dict(found)


def decision_of(snapshot: bytes, outcome: bytes) -> Decision:
    """The Decision that `outcome` states about the signal in `snapshot`.

    Raises ValueError when the outcome is not of this snapshot, or the snapshot has no readable signal.
    """
    result = json.loads(outcome)
    if result["snapshot_hash"] != hashlib.sha256(snapshot).hexdigest():
        raise ValueError("the outcome belongs to another snapshot")
    try:
        signal = Signal.from_dict(json.loads(snapshot)["signal"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the snapshot has no readable signal: {error!r}") from error
    verdicts = tuple(GateVerdict(**v) for v in result["verdicts"])
    return Decision(signal, result["approved"], verdicts, result["refusal"], result.get("size"))


def _read(snapshot: bytes) -> Snapshot:
    def no_constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    try:
        content = json.loads(snapshot, parse_constant=no_constant)
        json.dumps(content, ensure_ascii=False).encode()  # text that no outcome could repeat (lone surrogates) is unreadable
    except (ValueError, RecursionError, TypeError):
        return {}
    known = isinstance(content, dict) and type(content.get("schema")) is int and content["schema"] in SCHEMAS
    return content if known else {}


def verdict_of(name: str, gate: Gate, content: Snapshot) -> GateVerdict:
    """What `gate` says of `content`; raises nothing: a field that is missing refuses, and so does a gate that breaks."""
    try:
        verdict = gate.judge(content)
    except Missing as error:
        return GateVerdict(name, False, "", "", str(refuse(gate.code, reason="missing", field=error.path)))
    except Exception as error:  # noqa: BLE001 a gate that breaks must refuse, not let the signal through
        return GateVerdict(name, False, "", "", str(refuse(gate.code, reason="error", error=type(error).__name__)))
    return GateVerdict(name, verdict.passed is True, verdict.value, verdict.threshold, verdict.refusal)
