"""Signals, decisions and intents: the links of the chain between bars and orders.

All three are frozen, built from plain values, and carry the ids and revisions of what made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from trading import ids
from trading.orders import OrderType, Side, TimeInForce
from trading.timeframes import Timeframe


class Action(str, Enum):
    """What a signal wants. Exits of open positions are the desk's own and never come as signals."""

    ENTER_LONG = "enter_long"
    ENTER_SHORT = "enter_short"

    @property
    def side(self) -> Side:
        return Side.BUY if self is Action.ENTER_LONG else Side.SELL

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class PartitionRef:
    """One bars partition a signal was computed from: dataset (``bars_1h``), session (ISO date), symbol, content hash."""

    dataset: str
    session: str
    symbol: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Signal:
    """ "This strategy, on this instrument, at this bar close, wants this."

    Prices in the instrument's currency, on its tick grid; times UTC us; strength in [0, 1].
    sizing: the strategy file's sizing rule in plain values (see trading.sizing); costs nothing to carry, fixes the id's
    meaning together with strategy_revision. partitions: the needed bars partitions, newest first. targets: (share of the
    quantity, price or None) of the parts a position is closed in; empty: target_price for all of it. model: of a model strategy,
    which version of which model made it, its hash, MLflow run and training data (trading.models). execution:
    how the entry is worked (trading.execution.spec), empty: in one order.
    """

    strategy: str
    strategy_revision: str
    symbol: str
    timeframe: Timeframe
    close_time: int
    action: Action
    strength: float
    reference_price: float
    stop_price: float
    target_price: float | None
    valid_until: int
    sizing: dict[str, Any]
    features_version: str
    partitions: tuple[PartitionRef, ...]
    reason: str = ""
    mode: str = "paper"
    targets: tuple[tuple[float, float | None], ...] = ()
    model: Mapping[str, str] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return ids.signal_id(
            self.strategy, self.strategy_revision, self.symbol, str(self.timeframe), self.close_time, str(self.action)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; enums as their strings, plus the id."""
        values = {**_plain(asdict(self)), "id": self.id}
        if not self.targets:
            del values["targets"]  # signals of before there were several read and compare as they did
        if not self.model:
            del values["model"]
        if not self.execution:
            del values["execution"]
        return values

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Signal:
        """Inverse of to_dict. Raises ValueError when the carried id is not the id of the content."""
        values = dict(data)
        claimed = values.pop("id", None)
        signal = Signal(
            **{
                **values,
                "timeframe": Timeframe(values["timeframe"]),
                "action": Action(values["action"]),
                "partitions": tuple(PartitionRef(**p) for p in values["partitions"]),
                "targets": tuple((s, p) for s, p in values.get("targets", ())),
            }
        )
        if claimed is not None and claimed != signal.id:
            raise ValueError(f"signal id {claimed} does not match its content (expected {signal.id})")
        return signal


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """One gate's answer: passed?, the measured value against its threshold, and the refusal text when it refused.

    refusal: ``CODE: key=value key=value``, empty when passed.
    """

    gate: str
    passed: bool
    value: str
    threshold: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A signal after the gates. refusal is the first refusing gate's text, empty when approved. size: the plain sizing rule of
    the bar (``rule``) and, where the account was known, ``quantity``, ``risk`` and ``equity``; the desk orders no more."""

    signal: Signal
    approved: bool
    verdicts: tuple[GateVerdict, ...]
    refusal: str = ""
    size: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        return ids.decision_id(self.signal.id)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "signal": self.signal.to_dict(),
            "approved": self.approved,
            "verdicts": [asdict(v) for v in self.verdicts],
            "refusal": self.refusal,
            **({} if self.size is None else {"size": dict(self.size)}),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Decision:
        decision = Decision(
            Signal.from_dict(data["signal"]),
            bool(data["approved"]),
            tuple(GateVerdict(**v) for v in data["verdicts"]),
            data.get("refusal", ""),
            data.get("size"),
        )
        if data.get("id") not in (None, decision.id):
            raise ValueError(f"decision id {data['id']} does not match its content (expected {decision.id})")
        return decision


@dataclass(frozen=True, slots=True)
class Intent:
    """What the desk will ask of a broker: one order. Its id is the idempotent client order id.

    parent: decision id (entries and their bracket legs), or trade id (exits). leg names the part, so the id is
    hash(parent, leg). oco_group: orders of one group cancel each other on a full fill (bracket stop and target).
    parent_intent: the entry whose fill activates this leg; empty for independent orders.
    """

    parent: str
    leg: str
    strategy: str
    symbol: str
    side: Side
    quantity: float
    order_type: OrderType
    time_in_force: TimeInForce = TimeInForce.GTC
    limit_price: float | None = None
    stop_price: float | None = None
    reference_price: float | None = None
    valid_until: int | None = None
    oco_group: str = ""
    parent_intent: str = ""
    reduce_only: bool = False
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return ids.intent_id(self.parent, self.leg)

    def to_dict(self) -> dict[str, Any]:
        return {**_plain(asdict(self)), "id": self.id}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
