"""What `tapeline status` shows: one screen that a person reads at a glance. `--json` has all of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from trading.timeframes import iso


def halts_text(halt: Mapping[str, Any]) -> str:
    """The halts in force: level, reason, who, since when; the desk's first."""
    found = [("desk", {**halt, "level": halt["global"]})] if halt.get("global") else []
    found += sorted((halt.get("strategies") or {}).items())
    said = [f"{scope} {own['level']} ({own.get('reason')}, {own.get('who')}, {iso(own['since_time'])})" for scope, own in found]
    return "; ".join(said) or "none"


def status_rows(state: Mapping[str, Any]) -> list[list[str]]:
    """(what, value) of the desk's status, or of what the ledger says when there is no desk. What is not known is left out."""
    live = "market_time" in state
    rows: list[tuple[str, Any]] = [("state", state.get("state")), ("mode", state.get("mode"))]
    halted = str((state.get("halt") or {}).get("global") or "")
    if "no_new_risk" in state:
        why = state["no_new_risk"] or (f"the desk is halted at {halted}" if halted else "")
        rows.append(("new risk", f"NONE: {why}" if why else "taken, as modes and limits allow"))
    if "halt" in state:
        rows.append(("halts", halts_text(state["halt"])))
    rows += [
        ("auto-trade", state.get("auto_trade")),
        ("heartbeat", _heartbeat(state)),
        ("market time", state.get("market_time_text")),
    ]
    rows += [("last bar close", _close(state.get("last_close"))), ("open positions", state.get("open_positions"))]
    if live:
        unknown, doubts = state.get("unknown_orders"), len(state.get("in_doubt") or ())
        rows += [("orders at the broker", state.get("working_orders")), ("orders unknown", unknown)]
        rows.append(("in doubt", f"{doubts}: see `tapeline doubts`" if doubts else "nothing"))
        rows.append(("ledger against broker", _listed(state.get("mismatches") or {}, "differ: ") or "agree"))
        rows.append(("exits not managed", _listed(state.get("unmanaged_exits") or {})))
    rows += [
        ("account", _account(state.get("account"))),
        ("feeds", _feeds(state.get("live_feed"))),
        ("replay", _replay(state.get("replay"))),
    ]
    if state.get("universe"):
        own = state["universe"]
        rows.append(("universe", f"{own['name']}@{own['revision']}" + (" SIMULATED PRICES" if own.get("simulated") else "")))
    rows.append(("strategies, plans", _strategies(state.get("strategies") or {})))
    rows.append(("config problems", "\n".join(state.get("config_problems") or ()) or "none"))
    dagster = state.get("dagster") or {}
    if dagster:
        waiting = f"{dagster.get('unsent', 0)} event(s) wait for it"
        rows.append(("Dagster", f"{waiting}; {dagster['trouble']}" if dagster.get("trouble") else waiting))
    if "pid" in state:
        rows.append(("desk", f"process {state['pid']} since {iso(state['started_wall'])}, code {state['code_revision']}"))
    return [[what, str(value)] for what, value in rows if value not in (None, "")]


def _heartbeat(state: Mapping[str, Any]) -> str:
    if (age := state.get("heartbeat_age_seconds")) is not None:
        return f"{age:g} s ago"
    return str(state.get("last_heartbeat") or "")


def _close(close: Any) -> str:
    if not isinstance(close, Mapping):
        return str(close or "none")
    ago = time.time() - close["stored_wall"] / 1e6 if close.get("stored_wall") else None
    run = {None: "its trade run is not over", "done": "trade run done"}.get(
        close.get("outcome"), f"trade run {close.get('outcome')}"
    )
    return f"{close.get('close_time_text') or iso(close['close_time'])}, {run}" + (f", stored {ago:.0f} s ago" if ago else "")


def _account(account: Mapping[str, Any] | None) -> str:
    if not account:
        return ""
    named = " ".join(f"{k.replace('_', ' ')} {account[k]:,.2f}," for k in ("equity", "cash", "gross_exposure") if k in account)
    return f"{named.rstrip(',')} {account.get('currency', '')} at {iso(account['close_time'])}"


def _feeds(live_feed: Mapping[str, Any] | None) -> str:
    if not live_feed:
        return ""
    said = []
    for feed in live_feed.get("feeds", ()):
        how = "connected" if feed.get("connected") else f"NOT CONNECTED {feed.get('last_error', '')}".rstrip()
        said.append(f"{feed['feed']} {feed['timeframe']}: {how}, {len(feed.get('symbols', ()))} symbol(s)")
    trouble = _listed(live_feed.get("trouble") or {})
    return "\n".join([*said, *([f"TROUBLE {trouble}"] if trouble else [])])


def _replay(replay: Mapping[str, Any] | None) -> str:
    if not replay:
        return ""
    return f"{replay.get('state')}, {replay.get('closes', 0)} of {replay.get('total', 0)} closes"


def _strategies(strategies: Mapping[str, Mapping[str, Any]]) -> str:
    by_mode: dict[str, list[str]] = {}
    for name, own in strategies.items():
        paused = "" if own.get("status") == "active" else f" ({own.get('status')})"
        by_mode.setdefault(str(own.get("mode", "")).upper(), []).append(name + paused)
    return "\n".join(f"{mode}: {', '.join(names)}" for mode, names in sorted(by_mode.items()))


def _listed(values: Mapping[str, Any], before: str = "") -> str:
    def said(value: Any) -> str:
        many = isinstance(value, Sequence) and not isinstance(value, str)
        return ", ".join(str(v.get("what", v) if isinstance(v, Mapping) else v) for v in value) if many else str(value)

    return before + "; ".join(f"{name}: {said(value)}" for name, value in sorted(values.items())) if values else ""
