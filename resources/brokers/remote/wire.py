"""What adapter and simulated broker say to each other: one JSON object a line.

Asked: ``{"id": 7, "op": "submit", "now": 1514361600000000, "args": {...}}``. Answered: ``{"id": 7, "ok": ...}`` or
``{"id": 7, "error": "...", "code": 502}``. An answer may be late, missing, twice, or behind a later one: the id tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any, Final

from resources.brokers.protocol import (
    Account,
    BrokerEvent,
    BrokerPosition,
    Execution,
    Modification,
    OrderReport,
    OrderRequest,
)  # fmt: skip
from resources.feeds.protocol import BarClose
from trading.orders import OrderEvent, OrderState, OrderType, Side, TimeInForce
from trading.timeframes import Timeframe

MAX_LINE: Final = 64 * 1024 * 1024


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, default=_plain, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The object of one line. Raises ValueError when it is none."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"a line is no object: {line[:80]!r}")
    return message


def plain(value: Any) -> Any:
    """A dataclass of the protocol as JSON values."""
    return asdict(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} cannot be sent")


def request_of(values: Mapping[str, Any]) -> OrderRequest:
    return OrderRequest(
        **{
            **values,
            "side": Side(values["side"]),
            "order_type": OrderType(values["order_type"]),
            "time_in_force": TimeInForce(values["time_in_force"]),
        }
    )


def modification_of(values: Mapping[str, Any]) -> Modification:
    return Modification(**values)


def report_of(values: Mapping[str, Any]) -> OrderReport:
    kind = values.get("order_type")
    return OrderReport(
        **{
            **values,
            "side": Side(values["side"]),
            "state": OrderState(values["state"]),
            "order_type": OrderType(kind) if kind else None,
        }
    )


def execution_of(values: Mapping[str, Any]) -> Execution:
    return Execution(**{**values, "side": Side(values["side"])})


def event_of(values: Mapping[str, Any]) -> BrokerEvent:
    said = values.get("execution")
    return BrokerEvent(
        **{**values, "event": OrderEvent(values["event"]), "execution": execution_of(said) if said is not None else None}
    )


def position_of(values: Mapping[str, Any]) -> BrokerPosition:
    return BrokerPosition(**values)


def account_of(values: Mapping[str, Any]) -> Account:
    return Account(**values)


def bar_values(bar: BarClose) -> dict[str, Any]:
    return {
        "symbol": bar.symbol, "timeframe": str(bar.timeframe), "close_time": bar.close_time, "session": bar.session,
        "open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close, "volume": bar.volume,
    }  # fmt: skip


def bar_of(values: Mapping[str, Any]) -> BarClose:
    return BarClose(**{**values, "timeframe": Timeframe(values["timeframe"])})
