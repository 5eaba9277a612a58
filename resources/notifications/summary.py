"""The daily summary: a session in one message, and the head of the audit, which whoever gets it then holds outside."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, func, select

from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.notification_tables import notifications
from trading.orders import OrderState


def daily_summary(connection: Connection, session: str) -> str:
    """The text for `session` (ISO date), from the ledger as it is now."""
    lines: list[str] = []
    s = connection.execute(select(t.sessions).where(t.sessions.c.session == session)).mappings().first()
    account = connection.execute(
        select(t.account_snapshots).where(t.account_snapshots.c.session == session)
        .order_by(t.account_snapshots.c.close_time.desc()).limit(1)
    ).mappings().first()  # fmt: skip
    currency = account["currency"] if account else ""
    if s is not None and s["start_equity"] is not None and s["end_equity"] is not None:
        change = s["end_equity"] - s["start_equity"]
        share = f" ({change / s['start_equity']:+.2%})" if s["start_equity"] else ""
        lines.append(f"equity {s['end_equity']:,.2f} {currency}, {change:+,.2f}{share}".replace("  ", " "))
    if account is not None:
        lines.append(f"cash {account['cash']:,.2f}, gross exposure {account['gross_exposure']:,.2f}")
    f = t.fills.c
    by_strategy = connection.execute(
        select(f.strategy, func.count(), func.sum(f.commission))
        .where(f.session == session)
        .group_by(f.strategy)
        .order_by(f.strategy)
    ).all()
    fills = sum(row[1] for row in by_strategy)
    commission = sum(float(row[2] or 0.0) for row in by_strategy)
    lines.append(f"{fills} fill(s), commission {commission:,.2f}" + "".join(f"; {row[0]} {row[1]}" for row in by_strategy))
    signals = connection.execute(select(func.count()).select_from(t.signals).where(t.signals.c.session == session)).scalar_one()
    decided = connection.execute(
        select(t.decisions.c.approved, t.decisions.c.refusal).where(t.decisions.c.session == session)
    ).all()
    approved = sum(1 for row in decided if row.approved)
    lines.append(f"{signals} signal(s), {len(decided)} decided, {approved} approved")
    refused = Counter(row.refusal.partition(":")[0] for row in decided if not row.approved)
    i = t.intents.c
    denied = connection.execute(select(i.refusal).where(i.session == session, i.refusal != "", i.leg == "entry")).scalars()
    refused.update(refusal.partition(":")[0] for refusal in denied)
    if refused:
        lines.append("refused: " + ", ".join(f"{code} {count}" for code, count in refused.most_common()))
    p = t.positions.c
    held = connection.execute(
        select(p.strategy, p.symbol, p.quantity).where(p.quantity != 0.0).order_by(p.strategy, p.symbol)
    ).all()
    lines.append("open: " + ("; ".join(f"{r.symbol} {r.quantity:g} ({r.strategy})" for r in held) or "nothing"))
    lines += _warnings(connection)
    head = audit.head(connection)
    if head is not None:
        lines.append(f"audit head {head}")
    return "\n".join(lines)


def _warnings(connection: Connection) -> list[str]:
    lines: list[str] = []
    unknown = connection.execute(
        select(func.count()).select_from(t.orders).where(t.orders.c.state == OrderState.UNKNOWN.value)
    ).scalar_one()
    if unknown:
        lines.append(f"{unknown} order(s) UNKNOWN")
    halt = connection.execute(select(t.desk_state.c.value).where(t.desk_state.c.key == "halt")).scalar() or {}
    if halt.get("global"):
        lines.append(f"desk halted at {halt['global']}: {halt.get('reason', '')}")
    for name, own in (halt.get("strategies") or {}).items():
        lines.append(f"{name} halted at {own.get('level')}: {own.get('reason', '')}")
    wrong = connection.execute(select(t.desk_state.c.value).where(t.desk_state.c.key == "mismatches")).scalar() or {}
    if wrong:
        lines.append(f"ledger and broker differ on {', '.join(sorted(wrong))}")
    n = notifications.c
    failed = connection.execute(select(func.count()).select_from(notifications).where(n.state == "failed")).scalar_one()
    if failed:
        lines.append(f"{failed} notification(s) a channel refused: tapeline notify queue")
    return lines
