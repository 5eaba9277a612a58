"""What the risk rules know, rebuilt from the ledger for every intent; and the halts, which live in the ledger.

desk_state key ``halt``: {global, reason, who, since_time, daily_loss_session, strategies: {name: {level, reason, who,
since_time}}}. A halt stands until a person resumes; nothing else removes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Engine, select

from desk import mismatches, risk_inputs, store
from desk.algo_ledger import is_slice, unsent
from desk.risk_inputs import MarketView
from resources.brokers.protocol import Account
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from trading.instruments import Instrument, Mode
from trading.limit_math import daily_loss_reached
from trading.limits import Limits
from trading.orders import MAY_BE_AT_BROKER, OrderState
from trading.risk import RiskState
from trading.timeframes import from_us

HALT_KEY = "halt"
DESK = "desk"
"""Scope of a halt of everything; any other scope is a strategy's name."""
DAILY_LOSS = "DAILY_LOSS"


class HaltLevel(str, Enum):
    """How much is stopped. Exits always go on."""

    REDUCE_ONLY = "REDUCE_ONLY"  # no new risk; working entries are cancelled
    HALTED = "HALTED"  # the same, set by a person or a failure
    FLATTEN = "FLATTEN"  # the same, and open positions are closed

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class HaltState:
    """The halts in force. level: of the desk, None when it is not halted."""

    level: HaltLevel | None = None
    reason: str = ""
    who: str = ""
    since_time: int = 0
    daily_loss_session: str = ""
    strategies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def level_of(self, strategy: str) -> HaltLevel | None:
        """The strictest level over `strategy`."""
        own = self.strategies.get(strategy)
        levels = [self.level, HaltLevel(own["level"]) if own else None]
        return max((x for x in levels if x is not None), key=list(HaltLevel).index, default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "global": self.level.value if self.level else "", "reason": self.reason, "who": self.who,
            "since_time": self.since_time, "daily_loss_session": self.daily_loss_session,
            "strategies": {name: dict(halt) for name, halt in self.strategies.items()},
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> HaltState:
        level = data.get("global") or ""
        return HaltState(
            HaltLevel(level) if level else None, data.get("reason", ""), data.get("who", ""), data.get("since_time", 0),
            data.get("daily_loss_session", ""), data.get("strategies", {}),
        )  # fmt: skip


def read_halt(connection: Connection) -> HaltState:
    """The halts in force. Raises ValueError on a level nobody knows: then nothing may be sent."""
    return HaltState.from_dict(store.get_state(connection, HALT_KEY))


def set_halt(connection: Connection, level: HaltLevel | str, scope: str, reason: str, who: str, now_time: int) -> HaltState:
    """Halt the desk (scope ``desk``) or a strategy; audited. A weaker level never replaces a stricter one."""
    wanted = HaltLevel(str(level).upper())
    halt = read_halt(connection)
    order = list(HaltLevel)
    values = halt.to_dict()
    mark = {"level": wanted.value, "reason": reason, "who": who, "since_time": now_time}
    if scope == DESK:
        if halt.level is None or order.index(wanted) >= order.index(halt.level):
            values |= {"global": wanted.value, "reason": reason, "who": who, "since_time": now_time}
    else:
        own = halt.strategies.get(scope)
        if own is None or order.index(wanted) >= order.index(HaltLevel(own["level"])):
            values["strategies"][scope] = mark
    store.put_state(connection, HALT_KEY, values)
    audit.append(connection, who, "halt", {"scope": scope, **mark})
    return HaltState.from_dict(values)


def clear_halt(connection: Connection, scope: str, reason: str, who: str, now_time: int) -> bool:
    """Resume the desk or a strategy; audited. False when it was not halted. Resuming the desk leaves strategies halted."""
    values = read_halt(connection).to_dict()
    if scope == DESK:
        was = values["global"]
        values |= {"global": "", "reason": "", "who": "", "since_time": 0}
    else:
        was = values["strategies"].pop(scope, {}).get("level", "")
    if not was:
        return False
    store.put_state(connection, HALT_KEY, values)
    audit.append(connection, who, "resume", {"scope": scope, "was": was, "reason": reason, "time": now_time})
    return True


def current_session(connection: Connection, now_time: int) -> tuple[str, float | None]:
    """(ISO date, start equity) of the newest session the desk opened; the UTC date and None before the first."""
    s = t.sessions.c
    row = connection.execute(select(s.session, s.start_equity).order_by(s.opened_time.desc(), s.session.desc()).limit(1)).first()
    return (row.session, row.start_equity) if row else (from_us(now_time).date().isoformat(), None)


def day_start_equity(connection: Connection, session: str, start_equity: float | None) -> float:
    """Equity the session began with: its row's, else the last snapshot before it. NaN when neither is known."""
    if start_equity is not None:
        return float(start_equity)
    a = t.account_snapshots.c
    before = connection.execute(select(a.equity).where(a.session < session).order_by(a.close_time.desc()).limit(1)).scalar()
    return math.nan if before is None else float(before)


def strategy_day_pnl(
    connection: Connection, marks: Mapping[str, Any], session: str, prices: Mapping[str, float]
) -> dict[str, float]:
    """P&L since the session's start by strategy, at `prices`; marks: desk_state ``strategy_pnl``. Empty (unknown) when no
    close has been marked."""
    if not marks:
        return {}
    start = marks.get("start", {}) if marks.get("session") == session else marks.get("last", {})
    now = store.strategy_totals(connection, prices)
    return {strategy: now.get(strategy, 0.0) - float(start.get(strategy, 0.0)) for strategy in now.keys() | start.keys()}


def build(
    connection: Connection,
    *,
    mode: Mode,
    account: Account,
    instruments: Mapping[str, Instrument],
    strategy: str,
    quality_ok: str,
    now_time: int,
    limits: Limits | None = None,
    symbol: str = "",
    market: MarketView | None = None,
    slice_of: str = "",
) -> RiskState:
    """The risk state of this moment, from the ledger in the caller's transaction and the broker's account.

    strategy: whose intent it is (a strategy that has not traded yet has made 0). quality_ok: "" or the refusal's text.
    limits, symbol, market: what the portfolio limits of an intent on `symbol` are measured on is read as `limits` ask.
    slice_of: the parent whose slice is judged; what other parents have not sent yet counts as entries under way.
    What is not known is absent or NaN, which the rules refuse.
    """
    halted, marked, wrong, marks = store.get_states(connection, HALT_KEY, "prices", mismatches.KEY, "strategy_pnl")
    halt = HaltState.from_dict(halted)
    prices = {s: float(p) for s, (p, _) in marked.items()}
    doubtful = store.in_states(OrderState.UNKNOWN, OrderState.SENDING)
    adds_risk = is_entry(t.intents.c.leg) | (t.intents.c.leg == "external")  # what rests to protect is not read: it adds none
    working = store.find_orders(connection, store.in_states(*MAY_BE_AT_BROKER), adds_risk | doubtful)
    entries = [o for o in working if is_slice(o) or o.leg == "external"]  # a person's order at the broker adds risk, too
    entries += unsent(connection, slice_of)
    session, start_equity = current_session(connection, now_time)
    notional: dict[str, float] = {}
    for order in entries:
        price = prices.get(order.symbol) or float(order.content.get("reference_price") or math.nan)
        left = (order.quantity - order.filled_quantity) * abs(price) * order.multiplier
        notional[order.symbol] = notional.get(order.symbol, 0.0) + left
    return RiskState(
        mode=mode,
        equity=account.equity,
        day_start_equity=day_start_equity(connection, session, start_equity),
        cash=account.cash,
        quality_ok=quality_ok,
        halt_level=halt.level.value if halt.level else "",
        strategy_halted=frozenset(halt.strategies),
        # Under the routing lock no order is on its way: one still SENDING never got its answer.
        unknown_symbols=frozenset(o.symbol for o in working if o.state in (OrderState.UNKNOWN, OrderState.SENDING)),
        mismatch_symbols=frozenset(instruments) if mismatches.ACCOUNT in wrong else frozenset(wrong),
        last_price=prices,
        positions={(p.strategy, p.symbol): p.quantity for p in store.find_positions(connection)},
        pending_entries=frozenset((o.strategy, o.symbol) for o in entries),
        working_notional=notional,
        multipliers={s: float(i.multiplier) for s, i in instruments.items() if i.currency == account.currency},
        strategy_pnl={strategy: 0.0, **strategy_day_pnl(connection, marks, session, prices)},
        **risk_inputs.read(
            connection, limits, market, instruments=instruments, symbol=symbol, strategy=strategy, equity=account.equity,
            entries=entries, prices=prices, now_time=now_time,
        ),
    )  # fmt: skip


def latch_daily_loss(connection: Connection, limits: Limits | None, account: Account, now_time: int) -> bool:
    """Halt the desk, as the limit says, when the session has lost it: at most once a session, until resumed by command.

    True when it was latched now. Without limits or a start equity nothing is latched: the rules refuse anyway.
    """
    if limits is None or limits.daily_loss is None:
        return False
    session, start_equity = current_session(connection, now_time)
    start = day_start_equity(connection, session, start_equity)
    pnl = account.equity - start
    if not math.isfinite(pnl) or not daily_loss_reached(pnl, start, *limits.daily_loss.codes):
        return False
    halt = read_halt(connection)
    if halt.daily_loss_session == session:
        return False
    set_halt(connection, limits.daily_loss.then.upper(), DESK, f"{DAILY_LOSS}: pnl={pnl:.2f} session={session}", "desk", now_time)
    values = read_halt(connection).to_dict()
    store.put_state(connection, HALT_KEY, {**values, "daily_loss_session": session})
    return True


def check_daily_loss(engine: Engine, limits: Limits | None, account: Account, clock: Callable[[], int]) -> bool:
    """latch_daily_loss in a transaction of its own: for the desk after each bar close."""
    with engine.begin() as connection:
        store.lock(connection)
        return latch_daily_loss(connection, limits, account, clock())
