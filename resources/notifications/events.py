"""What is told: every audit record as an event with a kind, a severity and a text a person reads on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from trading.timeframes import iso

Content = Mapping[str, Any]


class Severity(IntEnum):
    """How loudly it is said."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to tell. kind: one of KINDS, or ``audit.<action>``; seq: its audit record; time_us: real clock, UTC us.

    strategy, symbol, mode: what it is about, "" when it is about none.
    """

    kind: str
    severity: Severity
    title: str
    body: str
    seq: int
    time_us: int
    strategy: str = ""
    symbol: str = ""
    mode: str = ""

    @property
    def dedupe_id(self) -> str:
        """The same on every attempt and every machine."""
        return f"audit-{self.seq}"


@dataclass(frozen=True, slots=True)
class Record:
    """One audit record, its content decoded."""

    seq: int
    time_us: int
    actor: str
    action: str
    content: Content


@dataclass(frozen=True, slots=True)
class Context:
    """What a record alone does not say. orders: by id, the order's row with strategy and leg; mode: of the installation;
    summary: makes the text of a session's summary; strategy_modes: mode a strategy's newest order had."""

    mode: str = ""
    orders: Mapping[str, Content] = field(default_factory=dict)
    summary: Callable[[str], str] = lambda session: ""


KINDS: Final[Mapping[str, tuple[Severity, str]]] = {
    "signal": (Severity.INFO, "a strategy wants something"),
    "decision.approved": (Severity.INFO, "the gates let a signal pass"),
    "decision.refused": (Severity.INFO, "a gate refused a signal; the refusal says which and why"),
    "alert.entry": (Severity.WARNING, "a strategy in mode alert would enter now; nothing was sent"),
    "order.shadow": (Severity.INFO, "a strategy in mode shadow would enter now; nothing was sent"),
    "order.denied": (Severity.WARNING, "risk refused an order before it was sent"),
    "order.sent": (Severity.INFO, "an order goes to the broker"),
    "order.accepted": (Severity.INFO, "the broker has the order"),
    "order.triggered": (Severity.INFO, "a stop was touched"),
    "order.filled": (Severity.INFO, "a fill, whole or partial, with its price"),
    "order.canceled": (Severity.INFO, "an order was cancelled"),
    "order.expired": (Severity.INFO, "an order expired"),
    "order.rejected": (Severity.WARNING, "the broker rejected an order, or refused to change or cancel it"),
    "order.changed": (Severity.INFO, "a change or cancel was asked for, or done"),
    "order.unknown": (Severity.CRITICAL, "an order's fate is not known: new risk on its instrument is blocked"),
    "order.resolved": (Severity.WARNING, "evidence ended an unknown order"),
    "order.anomalous": (Severity.WARNING, "an order event that cannot be true for the order's state"),
    "exit": (Severity.INFO, "the desk wants to close a position, and why"),
    "position.opened": (Severity.INFO, "a position was opened"),
    "position.changed": (Severity.INFO, "a position changed its size"),
    "position.closed": (Severity.INFO, "a position is flat"),
    "plan": (Severity.INFO, "a trade plan was armed, entered, closed, edited, cancelled ..."),
    "halt": (Severity.CRITICAL, "new risk was halted, by a person or a limit"),
    "resume": (Severity.WARNING, "a halt was lifted"),
    "command": (Severity.WARNING, "a person did something: flatten, cancel, auto-trade, settings ..."),
    "mismatch": (Severity.CRITICAL, "ledger and broker differ; or a difference is settled"),
    "failure.run": (Severity.CRITICAL, "a Dagster run failed"),
    "failure.check": (Severity.WARNING, "an asset check failed; critical when it blocks"),
    "execution": (Severity.INFO, "an entry that is worked in slices started or ended"),
    "failure.broker": (Severity.CRITICAL, "the broker said something that cannot be true"),
    "failure.notification": (Severity.WARNING, "a channel does not take messages; told on the other channels"),
    "failure.desk": (Severity.CRITICAL, "the desk gives no sign of life, or is back"),
    "quality": (Severity.WARNING, "bars stopped or resumed being good enough to trade on"),
    "desk": (Severity.INFO, "the desk started, or its settings or configuration changed"),
    "session": (Severity.INFO, "a trading session opened"),
    "summary.daily": (Severity.INFO, "a session ended: account, trades, refusals, halts, head of the audit"),
    "corporate_action": (Severity.WARNING, "a split, dividend or symbol change was applied to positions or orders"),
    "test": (Severity.INFO, "`tapeline notify test`"),
}
"""Kind -> (severity, when). Anything else in the audit is told as ``audit.<action>``."""

_SILENT: Final = frozenset({
    "intent", "order_sending", "order_denied", "exit_sent", "slice_sending", "slice_denied", "algo_ending",
    "notification_test", "notification_retry",
    "notification_discard", "cash_baseline", "replay_started", "api_call",
})  # fmt: skip
"""Records that tell nothing a person is not told by another record of the same act."""

_ALARMING = re.compile(r"fail|refus|halt|kill|trip|lost|breach|breaker|unmanaged|drawdown|silent", re.IGNORECASE)


def event_of(record: Record, context: Context) -> Event | None:
    """The event `record` is, None when it is not told."""
    if record.action in _SILENT:
        return None
    maker = _MAKERS.get(record.action)
    if maker is not None:
        return maker(record, context)
    for start, kind in (("plan_", "plan"), ("mismatch_", "mismatch"), ("corporate_action", "corporate_action")):
        if record.action.startswith(start):
            title = f"{record.action.replace('_', ' ')} {_first(record.content, 'plan', 'symbol', 'action')}".rstrip()
            severity = Severity.INFO if record.action in ("mismatch_resolved", "mismatch_cleared") else None
            return _event(record, context, kind, title, _facts(record), severity)
    alarming = bool(_ALARMING.search(record.action))
    title = record.action.replace("_", " ")
    if record.actor.startswith(("tapeline:", "api:")):
        return _event(record, context, "command", f"{title} by {record.actor}", _facts(record))
    severity = Severity.WARNING if alarming else Severity.INFO
    return _event(record, context, f"audit.{record.action}", title, _facts(record), severity)


def _event(
    record: Record, context: Context, kind: str, title: str, body: str, severity: Severity | None = None, *,
    strategy: str = "", symbol: str = "", mode: str = "",
) -> Event:  # fmt: skip
    said = severity if severity is not None else KINDS[kind][0] if kind in KINDS else Severity.INFO
    strategy = strategy or str(record.content.get("strategy") or "")
    symbol = symbol or str(record.content.get("symbol") or "")
    label = (mode or context.mode).upper()
    return Event(
        kind, said, f"{label} {title}".strip(), body, record.seq, record.time_us, strategy, symbol, (mode or context.mode).lower()
    )


def _row(record: Record) -> Content:
    row = record.content.get("row", {})
    return row if isinstance(row, Mapping) else {}


def _number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, (int, float)) else "" if value is None else str(value)


def _first(content: Content, *names: str) -> str:
    return next((str(content[name]) for name in names if content.get(name)), "")


def _facts(record: Record) -> str:
    """The record's own values, one a line, and who."""
    lines = [f"{key}: {_shown(value)}" for key, value in record.content.items() if value not in ("", None, [], {})]
    return "\n".join([*lines, f"who: {record.actor}"])


def _shown(value: Any) -> str:
    text = _number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _signal(record: Record, context: Context) -> Event:
    row = _row(record)
    content = row.get("content", {})
    title = f"signal {row.get('action')} {row.get('symbol')} by {row.get('strategy')}"
    body = (
        f"reference {_number(content.get('reference_price'))}, stop {_number(content.get('stop_price'))}, "
        f"target {_number(content.get('target_price')) or 'none'}; "
        f"bar {row.get('timeframe')} {iso(int(row.get('close_time', 0)))}"
    )
    return _event(
        record, context, "signal", title, body, strategy=str(row.get("strategy")), symbol=str(row.get("symbol")),
        mode=str(content.get("mode") or ""),
    )  # fmt: skip


def _decision(record: Record, context: Context) -> Event:
    row = _row(record)
    if row.get("approved"):
        return _event(
            record, context, "decision.approved", f"decision {row.get('id')} approved", f"signal {row.get('signal_id')}"
        )
    return _event(
        record, context, "decision.refused", f"decision refused: {row.get('refusal')}",
        f"decision {row.get('id')}, signal {row.get('signal_id')}",
    )  # fmt: skip


_ORDER_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "deny": ("order.denied", "denied"),
    "send": ("order.sent", "sent"),
    "ack": ("order.accepted", "acknowledged"),
    "accept": ("order.accepted", "accepted"),
    "trigger": ("order.triggered", "triggered"),
    "canceled": ("order.canceled", "cancelled"),
    "expired": ("order.expired", "expired"),
    "reject": ("order.rejected", "rejected"),
    "not_found": ("order.rejected", "never reached the broker"),
    "cancel_rejected": ("order.rejected", "could not be cancelled"),
    "update_rejected": ("order.rejected", "could not be changed"),
    "request_cancel": ("order.changed", "cancel asked for"),
    "request_update": ("order.changed", "change asked for"),
    "updated": ("order.changed", "changed"),
    "lost": ("order.unknown", "UNKNOWN"),
}
"""Order event -> (kind, word). Fills are told by the fill itself, with its price."""


def _order_event(record: Record, context: Context) -> Event | None:
    row = _row(record)
    order = context.orders.get(str(row.get("order_id")), {})
    text, name = str(row.get("text") or ""), str(row.get("event"))
    about = _about(order, str(row.get("order_id")))
    known = {
        "strategy": str(order.get("strategy", "")),
        "symbol": str(order.get("symbol", "")),
        "mode": str(order.get("mode", "")),
    }
    if row.get("anomalous"):
        return _event(record, context, "order.anomalous", f"order event that cannot be: {name} {about}", text, None, **known)
    found = _ORDER_KINDS.get(name)
    unchanged = row.get("state_before") == row.get("state_after")
    if found is None or (unchanged and name in ("ack", "accept", "trigger", "lost")):
        return None
    if order.get("algo") and name in _OF_SLICES and not str(order.get("leg")).startswith("exit"):
        return None  # the start and the end of the whole are told
    kind, word = found
    if kind == "order.denied" and text.startswith("MODE:"):
        if known["mode"] == "alert":
            return _event(record, context, "alert.entry", f"it would enter now: {about}", _alert(order, row), None, **known)
        kind, word = "order.shadow", "shadow"
    body = "\n".join(x for x in (text, f"order {row.get('order_id')} {order.get('leg', '')}".rstrip()) if x)
    return _event(record, context, kind, f"order {word}: {about}", body, None, **known)


def _alert(order: Content, row: Content) -> str:
    """What a person needs who trades it by hand: nothing was sent, the price it was decided at, stop and target."""
    meta = order.get("meta") or {}
    levels = (("reference", order.get("reference_price")), ("stop", meta.get("stop_price")), ("target", meta.get("target_price")))
    said = ", ".join(f"{name} {_number(value)}" for name, value in levels if value is not None)
    return "\n".join(x for x in ("nothing was sent: the strategy is in mode alert", said, f"order {row.get('order_id')}") if x)


_OF_SLICES: Final = frozenset({"send", "ack", "accept", "partial_fill", "fill", "request_cancel", "canceled"})
"""Order events that come with every slice of an entry and with its legs."""


def _about(order: Content, order_id: str) -> str:
    if not order:
        return order_id
    price = next((_number(order[p]) for p in ("limit_price", "stop_price") if order.get(p) is not None), "")
    at = f" {price}" if price else ""
    said = f"{str(order.get('side', '')).upper()} {_number(order.get('quantity'))} {order.get('symbol')}"
    return f"{said} {order.get('order_type')}{at} ({order.get('strategy')})"


def _fill(record: Record, context: Context) -> Event | None:
    row = _row(record)
    order = context.orders.get(str(row.get("order_id")), {})
    if order.get("algo") and str(order.get("leg")).startswith("entry"):
        return None  # a slice: the end of the whole says what was bought
    whole = order.get("filled_quantity") is not None and order.get("filled_quantity") == order.get("quantity")
    title = (
        f"{'filled' if whole else 'fill'}: {str(row.get('side')).upper()} {_number(row.get('quantity'))} {row.get('symbol')} "
        f"at {_number(row.get('price'))} ({row.get('strategy')})"
    )
    cost = f"commission {_number(row.get('commission'))} {row.get('currency')}"
    body = f"{cost}; order {row.get('order_id')}, trade {row.get('trade_id')}"
    return _event(
        record, context, "order.filled", title, body, strategy=str(row.get("strategy")), symbol=str(row.get("symbol")),
        mode=str(order.get("mode", "")),
    )  # fmt: skip


def _position(record: Record, context: Context) -> Event | None:
    row = _row(record)
    quantity = row.get("quantity") or 0.0
    if quantity == 0.0:
        kind, word = "position.closed", "closed"
    elif record.content.get("op") != "update" or row.get("opened_time") == row.get("updated_time"):
        kind, word = "position.opened", "opened"
    elif context.orders.get(str(row.get("trade_id")), {}).get("algo"):
        return None  # it grows slice by slice; what closes it is told by its fills
    else:
        kind, word = "position.changed", "now"
    held = f" {_number(quantity)} at {_number(row.get('average_price'))}" if quantity else ""
    title = f"position {word}: {row.get('symbol')}{held} ({row.get('strategy')})"
    body = f"realized since ever {_number(row.get('realized_pnl'))}, commission {_number(row.get('commission'))}"
    return _event(record, context, kind, title, body, strategy=str(row.get("strategy")), symbol=str(row.get("symbol")))


def _halt(record: Record, context: Context) -> Event:
    c = record.content
    severity = Severity.WARNING if c.get("level") == "REDUCE_ONLY" and record.actor != "desk" else Severity.CRITICAL
    scope = str(c.get("scope"))
    title = f"HALT {c.get('level')} of {scope}"
    strategy = "" if scope == "desk" else scope
    return _event(record, context, "halt", title, f"{c.get('reason')}\nwho: {record.actor}", severity, strategy=strategy)


def _resume(record: Record, context: Context) -> Event:
    c = record.content
    return _event(
        record, context, "resume", f"resumed {c.get('scope')} (was {c.get('was')})", f"{c.get('reason')}\nwho: {record.actor}"
    )


def _run_failed(record: Record, context: Context) -> Event:
    c = record.content
    return _event(
        record, context, "failure.run", f"run of {c.get('job')} failed", f"{_shown(c.get('error', ''))}\nrun {c.get('run_id')}"
    )


def _check(record: Record, context: Context) -> Event:
    c = record.content
    passed = record.action == "check_passed"
    severity = Severity.INFO if passed else Severity.CRITICAL if c.get("severity") == "ERROR" else Severity.WARNING
    title = f"check {c.get('check')} of {c.get('asset')} {'passes again' if passed else 'failed'}"
    return _event(
        record, context, "failure.check", title, f"{_shown(c.get('text', ''))}\nrun {c.get('run_id', '')}".strip(), severity
    )


def _session(record: Record, context: Context) -> Event | None:
    row = _row(record)
    session = str(row.get("session"))
    if row.get("state") == "ended":
        return _event(record, context, "summary.daily", f"summary of {session}", context.summary(session))
    if row.get("state") == "open":
        return _event(record, context, "session", f"session {session} open", f"equity {_number(row.get('start_equity'))}")
    return None


def _quality(record: Record, context: Context) -> Event:
    row = _row(record)
    failed = not row.get("passed")
    where = f"{row.get('dataset')} {row.get('symbol')} {row.get('session')}"
    title = f"{row.get('check_name')} {'fails' if failed else 'passes again'}: {where}"
    body = f"{row.get('failed_count')} row(s) failed: no new risk on it" if failed else ""
    return _event(record, context, "quality", title, body, None if failed else Severity.INFO, symbol=str(row.get("symbol")))


def _as(kind: str, title: str, severity: Severity | None = None) -> Callable[[Record, Context], Event]:
    """A record told with its own values. title: may name values of the record."""

    def make(record: Record, context: Context) -> Event:
        named = {k: _shown(v) for k, v in record.content.items()} | {"actor": record.actor}
        said = re.sub(r"\{(\w+)\}", lambda m: named.get(m[1], ""), title)
        return _event(record, context, kind, " ".join(said.split()), _facts(record), severity)

    return make


_MAKERS: Final[Mapping[str, Callable[[Record, Context], Event | None]]] = {
    "signal": _signal,
    "decision": _decision,
    "order_event": _order_event,
    "fill": _fill,
    "position": _position,
    "session": _session,
    "quality": _quality,
    "halt": _halt,
    "resume": _resume,
    "run_failed": _run_failed,
    "check_failed": _check,
    "check_passed": _check,
    "algo_started": _as("execution", "{algo} started: {side} {quantity} {symbol} ({strategy})"),
    "algo_ended": _as("execution", "{algo} ended: {filled} of {quantity} {symbol} at {average_price} ({strategy}): {reason}"),
    "exit_wanted": _as("exit", "exit {leg} of {symbol} ({strategy})"),
    "unknown_resolved": _as("order.resolved", "unknown order resolved"),
    "broker_event_refused": _as("failure.broker", "{kind} on {symbol}"),
    "desk_started": _as("desk", "desk started"),
    "settings_changed": _as("desk", "settings changed", Severity.WARNING),
    "config_changed": _as("desk", "configuration changed", Severity.WARNING),
    "desk_silent": _as("failure.desk", "the desk gives no sign of life"),
    "desk_back": _as("failure.desk", "the desk is back", Severity.INFO),
    "mode_changed": _as("command", "{strategy} runs in mode {mode}, was {before}"),
    "promotion_not_taken": _as("command", "the file of {strategy} states {stated}: it stays in {mode}, promotions are commands"),
    "dagster_upkeep_shown": _as("desk", "upkeep: {runs} old runs of Dagster and their events are deleted from the next night on"),
    "ledger_back": _as("failure.desk", "the ledger is back", Severity.WARNING),
    "flatten": _as("command", "flatten by {actor}", Severity.CRITICAL),
    "cancel": _as("command", "cancel of {order} by {actor}"),
    "auto_trade": _as("command", "auto-trade {state} by {actor}"),
    "command": _as("command", "{command} by {actor}"),
    "notification_failed": _as("failure.notification", "a message to {channel} was refused"),
    "notification_channel_down": _as("failure.notification", "channel {channel} takes no messages", Severity.CRITICAL),
    "notification_channel_up": _as("failure.notification", "channel {channel} takes messages again", Severity.INFO),
}
