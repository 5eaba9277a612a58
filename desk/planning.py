"""From an approved decision to the orders it would become: sized, checked, or refused with a code.

Pure but for what it is given: the same decision, configuration, account and risk state give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from desk.events import session_at
from desk.exit_orders import oco_group
from desk.legs import legs_of
from resources.ledger.store import VerdictRow
from trading import risk
from trading.freshness import freshness_of
from trading.gates.base import Missing
from trading.gates.data_quality import DataQuality
from trading.instruments import Instrument, Mode
from trading.limits import Limits
from trading.orders import OrderType, TimeInForce
from trading.refusals import RefusalCode, refuse
from trading.risk import RiskState
from trading.signals import Decision, Intent, PartitionRef, Signal
from trading.sizing import floor_to_lot, size
from trading.sizing_inputs import decided_rule
from trading.strategy import Evaluable
from trading.timeframes import from_us, iso
from trading.universe import Universe


class ConfigView(Protocol):
    """What the desk reads of the configuration (resources.config.Config)."""

    @property
    def universe(self) -> Universe: ...
    @property
    def strategies(self) -> Mapping[str, Evaluable]: ...
    @property
    def plans(self) -> Mapping[str, Evaluable]: ...
    @property
    def limits(self) -> Limits | None: ...


@dataclass(frozen=True, slots=True)
class Planned:
    """One intent with every rule's verdict on it."""

    intent: Intent
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class EntryPlan:
    """What a decision becomes. orders: the entry first, then its stop and target; only the entry when refused.
    refusal: first refusal's text, "" when it may be sent. session: ISO date of the signal's bar."""

    orders: tuple[Planned, ...]
    refusal: str
    session: str
    sizing: Mapping[str, Any]


def evaluable_of(config: ConfigView, name: str) -> Evaluable | None:
    """The strategy or plan `name`, None when its file does not validate or is gone."""
    return config.strategies.get(name) or config.plans.get(name)


def plan_entry(
    decision: Decision,
    *,
    config: ConfigView,
    mode: Mode,
    state_of: Callable[[str], RiskState],
    verdicts: Sequence[VerdictRow],
    entered_before: bool,
    equity: float,
    currency: str,
    now_time: int,
    now_wall: int,
) -> EntryPlan:
    """Plan an approved decision.

    state_of(quality): the risk state, given the data-quality refusal or "". verdicts: the ledger's quality verdicts on
    the signal's partitions. entered_before: has this plan traded already? equity in `currency`, the account's.
    now_time, now_wall: market and real clock (UTC us), by which verdicts may have expired.
    """
    signal = decision.signal
    instrument = config.universe.instruments.get(signal.symbol)
    evaluable = evaluable_of(config, signal.strategy)
    refusal = refused_before_risk(signal, instrument, evaluable, entered_before, currency, now_time)
    quantity, sizing, problem = _size(decision, instrument, equity, currency)
    refusal = refusal or problem
    entry = _entry(decision, instrument, quantity, mode)
    state = state_of(quality_now(signal, verdicts, config.universe, now_time, now_wall))
    planned: list[Planned] = []
    if instrument is None:
        planned.append(Planned(entry, ()))
    else:
        wanted = [entry] if refusal or quantity <= 0 else [entry, *legs_of(entry, signal, instrument)]
        for intent in wanted:
            found = risk.check(config.limits, state, intent, instrument)
            planned.append(Planned(intent, tuple(v.to_dict() for v in found)))
            refusal = refusal or risk.refusal(found)
    session = _session(signal, instrument)
    return EntryPlan(tuple(planned[:1] if refusal else planned), refusal, session, sizing)


def refused_before_risk(
    signal: Signal,
    instrument: Instrument | None,
    evaluable: Evaluable | None,
    entered_before: bool,
    currency: str,
    now_time: int,
) -> str:
    """What refuses a decision whatever its size: text of the first refusal, "" when nothing does."""
    if now_time > signal.valid_until:
        return str(refuse(RefusalCode.EXPIRED, valid_until=iso(signal.valid_until), now=iso(now_time)))
    if evaluable is None:
        return str(refuse(RefusalCode.CONFIG_INVALID, strategy=signal.strategy, reason="no valid file"))
    if instrument is None or signal.symbol not in evaluable.symbols:
        values = {"strategy": signal.strategy, "symbol": signal.symbol, "reason": "not its instrument"}
        return str(refuse(RefusalCode.CONFIG_INVALID, **values))
    if evaluable.status != "active":
        return str(refuse(RefusalCode.HALTED, scope="strategy", strategy=signal.strategy, status=evaluable.status))
    if evaluable.once and entered_before:
        return str(refuse(RefusalCode.PLAN_DONE, plan=signal.strategy))
    if instrument.currency != currency:
        # No rate is guessed: an instrument of another currency needs one that is known, and none is kept yet.
        return str(refuse(RefusalCode.PRICE_MISSING, fx=f"{instrument.currency}/{currency}"))
    if signal.reference_price <= 0:  # sizes, stops and limits in percent mean nothing there
        return str(refuse(RefusalCode.NOT_TRADABLE, symbol=signal.symbol, price=signal.reference_price, reason="not above 0"))
    return _stop_refusal(signal)


def _stop_refusal(signal: Signal) -> str:
    side = signal.action.side.sign
    levels = {"reference": signal.reference_price, "stop": signal.stop_price}
    if any(not math.isfinite(p) for p in levels.values()) or (signal.reference_price - signal.stop_price) * side <= 0:
        return str(refuse(RefusalCode.STOP_REQUIRED, **levels))
    target = signal.target_price
    for level in (target, *(price for _, price in signal.targets)):
        if level is not None and not (math.isfinite(level) and (level - signal.reference_price) * side > 0):
            return str(refuse(RefusalCode.STOP_REQUIRED, reference=signal.reference_price, target=level))
    if any(not 0 < share <= 1 for share, _ in signal.targets) or sum(s for s, _ in signal.targets) > 1 + 1e-9:
        return str(refuse(RefusalCode.CONFIG_INVALID, strategy=signal.strategy, shares=[s for s, _ in signal.targets]))
    return ""


def _size(decision: Decision, instrument: Instrument | None, equity: float, currency: str) -> tuple[float, dict[str, Any], str]:
    """(quantity, record of how, refusal). By the rule the decision was taken with, and never more than it was taken with."""
    signal, decided = decision.signal, decision.size or {}
    record: dict[str, Any] = {"rule": dict(signal.sizing), "equity": equity, "currency": currency, "quantity": 0.0}
    if instrument is None or instrument.currency != currency:
        return 0.0, record, ""
    try:
        rule = decided_rule(signal.sizing, decided.get("rule"))
        if rule != dict(signal.sizing):
            record |= {"rule": rule, "stated": dict(signal.sizing)}
        quantity = size(
            rule, equity=equity, reference_price=signal.reference_price, stop_price=signal.stop_price, instrument=instrument,
        )  # fmt: skip
        factor = float(decided.get("factor", 1.0))
        if not 0.0 < factor <= 1.0:
            raise ValueError(f"the decision takes {factor:g} of the size")
        if factor != 1.0:
            record["factor"] = factor
            quantity = float(floor_to_lot(quantity * factor, float(instrument.lot_size)))
        most = decided.get("quantity")
        if most is not None and not math.isfinite(float(most)):
            raise ValueError(f"the decision's quantity is {most}")
    except (ValueError, TypeError, KeyError) as error:
        return 0.0, record, str(refuse(RefusalCode.CONFIG_INVALID, strategy=signal.strategy, sizing=str(error)))
    if most is not None and quantity > float(most):
        record["by_equity"] = quantity
        quantity = float(floor_to_lot(max(float(most), 0.0), float(instrument.lot_size)))
    return quantity, {**record, "quantity": quantity}, ""


def _entry(decision: Decision, instrument: Instrument | None, quantity: float, mode: Mode) -> Intent:
    signal = decision.signal
    meta = {
        "multiplier": float(instrument.multiplier) if instrument else 1.0,
        "currency": instrument.currency if instrument else "",
        "calendar": instrument.calendar if instrument else "",
        "oco_group": oco_group(decision.id),
        "signal": signal.id,
        "strategy_revision": signal.strategy_revision,
        "timeframe": str(signal.timeframe),
        "close_time": signal.close_time,
        "stop_price": _finite(signal.stop_price),
        "target_price": _finite(signal.target_price),
        **({"targets": [[share, price] for share, price in signal.targets]} if signal.targets else {}),
        "mode": str(mode),
    }
    return Intent(
        decision.id, "entry", signal.strategy, signal.symbol, signal.action.side, quantity, OrderType.MARKET, TimeInForce.DAY,
        reference_price=_finite(signal.reference_price), valid_until=signal.valid_until, meta=meta,
    )  # fmt: skip


def quality_now(signal: Signal, verdicts: Sequence[VerdictRow], universe: Universe, now_time: int, now_wall: int) -> str:
    """The data-quality gate on the ledger's verdicts of this moment: its refusal's text, "" when all are good.

    Partitions of finished sessions must hold the very bars the signal was computed from. The newest session's one may
    have grown since: there the newest verdicts count, whatever bars they judged. Verdicts that were young enough for the
    decision may have expired since: the gate's own rule is applied again, at `now_time` and `now_wall`.
    """
    from trading.quality import ERROR_CHECKS

    required = [_as_judged(ref, signal, verdicts) for ref in signal.partitions]
    try:
        limits = freshness_of(required, universe)
    except (KeyError, ValueError) as error:  # nobody can say how old a verdict may be
        return str(refuse(RefusalCode.DATA_QUALITY, reason="missing", field=f"freshness ({error})"))
    snapshot = {
        "required": [_plain(ref) for ref in required],
        "required_checks": list(ERROR_CHECKS),
        "verdicts": [v.snapshot() for v in verdicts],
        "signal": {"partitions": [_plain(ref) for ref in required]},
        "freshness": [limit.plain() for limit in limits],
        "now_time": now_time,
        "now_wall": now_wall,
    }
    try:
        verdict = DataQuality().judge(snapshot)
    except Missing as error:
        return str(refuse(RefusalCode.DATA_QUALITY, reason="missing", field=error.path))
    return "" if verdict.passed is True else verdict.refusal


def _as_judged(ref: PartitionRef, signal: Signal, verdicts: Sequence[VerdictRow]) -> PartitionRef:
    newest = max(p.session for p in signal.partitions if p.dataset == ref.dataset)
    if ref.session != newest:
        return ref
    judged = [v for v in verdicts if (v.dataset, v.session, v.symbol) == (ref.dataset, ref.session, ref.symbol)]
    latest = max(judged, key=lambda v: v.evaluated_wall, default=None)
    return replace(ref, content_hash=latest.content_hash) if latest is not None else ref


def _plain(ref: PartitionRef) -> dict[str, str]:
    return {"dataset": ref.dataset, "session": ref.session, "symbol": ref.symbol, "content_hash": ref.content_hash}


def _session(signal: Signal, instrument: Instrument | None) -> str:
    if instrument is None:
        return from_us(signal.close_time).date().isoformat()
    return session_at(instrument.calendar, signal.close_time)


def _finite(price: float | None) -> float | None:
    return price if price is not None and math.isfinite(price) else None
