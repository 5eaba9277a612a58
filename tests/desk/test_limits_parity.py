"""Limits that look at the past or the whole portfolio: the desk and the backtest refuse the same wishes with the same codes,
trip the same breakers at the same closes, and make the same trades.

The desk is its own: router, breakers, rules over ledger and daily bars, paper broker. Its operator lifts at the first close of a
session what was latched in an earlier one, as the backtest's does.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from desk.risk_inputs import MarketView
from resources.feeds.protocol import BarClose
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, Desk, bar, good_verdicts, hour
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.limits import CircuitBreaker, Correlation, DailyLoss, Drawdown, Limits, OrderRate, ValueAtRisk
from trading.risk_history import RiskHistory
from trading.signals import Action
from trading.timeframes import Timeframe, session_date

HOURS = 36
COSTS = Costs("per_value", 0.00002, 0.1, "fixed", 1)
SIZING = {"kind": "risk_percent", "percent": 0.06}
SLOTS = (("trend", "EURUSD"), ("revert", "GBPUSD"), ("revert", "EURUSD"))
WIDE = LIMITS.model_copy(
    update={
        "max_order_quantity": 1e9, "max_notional": 1e9, "max_position_notional": 1e9, "daily_loss": DailyLoss(amount=1e9),
        "max_gross_leverage": 50.0,
    }
)  # fmt: skip
MEASURED = WIDE.model_copy(
    update={
        "value_at_risk": ValueAtRisk(percent=1.0, shortfall_percent=1.2, confidence=0.95, sessions=60),
        "correlation": Correlation(above=0.4, percent=110, sessions=80), "order_rate": OrderRate(orders=3, seconds=3 * 3600),
    }
)  # fmt: skip
BREAKING = WIDE.model_copy(
    update={
        "circuit_breaker": CircuitBreaker(percent=0.7, minutes=120, pause_minutes=900, then="flatten"),
        "daily_loss": DailyLoss(amount=120.0), "drawdown": Drawdown(percent=0.3, then="flatten"),
    }
)  # fmt: skip


def walk(symbol: str) -> list[BarClose]:
    """Bars of a jumpy random walk, the jumps in both symbols at once."""
    dice, jumps, price, made = random.Random(f"limits {symbol}"), random.Random("jumps"), 12_000, []
    for n in range(HOURS + 1):
        jump = jumps.choice((-70, 70)) if jumps.random() < 0.08 else 0
        opened = price + dice.randint(-8, 8)
        price = opened + jump + dice.randint(-15, 15)
        high, low = max(opened, price) + dice.randint(0, 15), min(opened, price) - dice.randint(0, 15)
        made.append(bar(symbol, n, opened / 10_000, high / 10_000, low / 10_000, price / 10_000))
    return made


def as_arrays(bars: list[BarClose], timeframe: Timeframe = Timeframe.H1) -> Bars:
    prices = (np.array([getattr(b, c) for b in bars], np.float64) for c in ("open", "high", "low", "close", "volume"))
    times, sessions = np.array([b.close_time for b in bars], np.int64), np.array([b.session for b in bars], np.int32)
    return Bars(bars[0].symbol, timeframe, times, sessions, *prices)


def days(symbol: str) -> Bars:
    """Daily bars until after the hours, moving with each other; each symbol lacks some sessions."""
    venue, own = calendar("FX"), np.random.default_rng([3, *map(ord, symbol)])
    end = int(np.searchsorted(venue.close_time, hour(HOURS))) + 1
    rows = np.arange(end - 140, end)
    common, alone = np.random.default_rng(3).normal(0, 0.006, len(rows)), own.normal(0, 0.005, len(rows))
    close = 1.2 * np.exp(np.cumsum(common + alone))
    kept = own.random(len(rows)) > 0.05
    kept[-6:] = True
    close, rows = close[kept], rows[kept]
    nothing = np.zeros(len(rows))
    return Bars(
        symbol, Timeframe.D1, venue.close_time[rows], venue.number[rows].astype(np.int32), close, close, close, close, nothing
    )


@dataclass
class Reader:
    """The lake as the risk rules read it."""

    history: RiskHistory
    asked: list[str] = field(default_factory=list)

    def read_bars(self, dataset: str, symbol: str, start: Any = None, end: Any = None) -> Bars:
        self.asked.append(dataset)
        bars = (self.history.daily if dataset == "bars_1d" else self.history.native)[symbol]
        first = 0 if start is None else int(np.searchsorted(bars.session, (start - session_date(0)).days))
        return bars.rows(slice(first, None))


def wishes(slot: tuple[str, str], bars: Bars) -> Evaluation:
    """Random entries with stop and target around the close."""
    dice, size = np.random.default_rng([11, *map(ord, slot[0] + slot[1])]), len(bars)
    side = dice.integers(0, 4, size)  # long, short, nothing, nothing
    away, never = np.round(dice.integers(10, 26, size) / 10_000, 4), np.zeros(size, bool)
    return Evaluation(
        slot[1], Timeframe.H1, bars.close_time, np.ones(size, bool), side == 0, side == 1, never, never,
        np.round(bars.close - away, 4), np.round(bars.close + away, 4), np.round(bars.close + 2 * away, 4),
        np.round(bars.close - 2 * away, 4), np.ones(size),
    )  # fmt: skip


def live(
    desk: Desk, bars: dict[str, list[BarClose]], evaluations: list[Evaluation], slots: tuple[tuple[str, str], ...]
) -> tuple[Counter[tuple[int, str]], list[tuple[int, str, str]]]:
    """Every close through the desk: (refusals by slot and code, (close, scope, level) of every halt and its lifting)."""
    refused: Counter[tuple[int, str]] = Counter()
    halts: list[tuple[int, str, str]] = []
    opened = -1
    for n in range(HOURS + 1):
        made = [bars[symbol][n] for symbol in dict.fromkeys(s for _, s in slots)]
        began = made[0].session != opened
        if began:
            opened = made[0].session
            name = session_date(opened).isoformat()
            desk.ledger.open_session(name, opened_time=hour(n) - 1, start_equity=desk.broker.account().equity)
            for symbol in INSTRUMENTS:
                desk.ledger.put_verdicts(good_verdicts(symbol))
        desk.close(n, *made)
        if began:  # the operator's morning
            with desk.engine.connect() as connection:
                state = connection.execute(text("SELECT value FROM desk_state WHERE key = 'halt'")).scalar() or {}
            for scope in ["desk"] * bool(state.get("global")) + sorted(state.get("strategies", {})):
                assert desk.router.resume(scope, "a new session", "ana")
                halts.append((n, scope.removeprefix("instrument:"), "resumed"))
        desk.router.check_daily_loss()
        with desk.engine.connect() as connection:
            state = connection.execute(text("SELECT value FROM desk_state WHERE key = 'halt'")).scalar() or {}
        in_force = {"desk": state["global"].lower()} if state.get("global") else {}
        in_force |= {k.removeprefix("instrument:"): v["level"].lower() for k, v in state.get("strategies", {}).items()}
        known = {scope: level for _, scope, level in halts}
        halts += [(n, scope, level) for scope, level in in_force.items() if known.get(scope) != level]
        account = desk.broker.account()
        desk.store.snapshot_account(hour(n), name, account)
        desk.router.continue_exits()
        for s, ((strategy, symbol), wish) in enumerate(zip(slots, evaluations, strict=True)):
            if wish.enter_long[n] == wish.enter_short[n]:
                continue
            long = bool(wish.enter_long[n])
            working = [o for o in desk.store.working_orders() if o.strategy == strategy and o.symbol == symbol]
            busy = bool(desk.position(strategy, symbol)) or any(o.leg.startswith("entry") for o in working)
            result = desk.submit(
                n, strategy, symbol, Action.ENTER_LONG if long else Action.ENTER_SHORT,
                reference=float(bars[symbol][n].close), stop=float((wish.stop_long if long else wish.stop_short)[n]),
                target=float((wish.target_long if long else wish.target_short)[n]), sizing=SIZING,
            )  # fmt: skip
            if not result.accepted:
                refused[s, "POSITION_OPEN" if busy else result.refusal.split(":")[0]] += 1
    return refused, halts


@pytest.mark.parametrize(
    ("limits", "codes", "levels"),
    [
        (MEASURED, {"VALUE_AT_RISK", "CORRELATION", "ORDER_RATE"}, set()),
        (BREAKING, {"HALTED", "CIRCUIT_BREAKER"}, {"reduce_only", "flatten", "resumed"}),
    ],
    ids=["measured", "breaking"],
)  # fmt: skip
def test_the_desk_and_the_backtest_refuse_halt_and_trade_the_same(
    ledger_engine: Engine, limits: Limits, codes: set[str], levels: set[str]
) -> None:
    bars = {symbol: walk(symbol) for symbol in ("EURUSD", "GBPUSD")}
    arrays = {symbol: as_arrays(made) for symbol, made in bars.items()}
    evaluations = [wishes(slot, arrays[slot[1]]) for slot in SLOTS]
    history = RiskHistory({s: days(s) for s in bars}, arrays)
    expected: BacktestResult = backtest(
        evaluations, [arrays[s] for _, s in SLOTS], [INSTRUMENTS[s] for _, s in SLOTS], cash=CASH, sizing=SIZING, costs=COSTS,
        limits=limits, strategy=[name for name, _ in SLOTS], require_stop=True, history=history,
    )  # fmt: skip
    desk = Desk(ledger_engine, costs=COSTS).open()
    desk.config.limits = limits
    desk.router._market = MarketView(Reader(history), lambda symbol: ())
    refused, halts = live(desk, bars, evaluations, SLOTS)

    told = {(s, code): n for s, counts in enumerate(expected.slot_refusals) for code, n in counts.items()}
    assert dict(refused) == told
    with ledger_engine.connect() as connection:
        fills = [
            (r.strategy, r.symbol, r.side, r.quantity, round(r.price, 6))
            for r in connection.execute(text("SELECT strategy, symbol, side, quantity, price FROM fills"))
        ]
    rows = [(r["strategy"], r["symbol"], r["side"], r["quantity"], round(r["price"], 6)) for r in expected.fill_rows()]
    assert sorted(fills) == sorted(rows)
    assert len(fills) > 10
    assert expected.halts_made is not None
    made = [
        (int(np.searchsorted(expected.close_time, h["time"])), expected.trades.symbols[h["slot"]] if h["slot"] >= 0 else "desk",
         ("resumed", "reduce_only", "flatten")[h["level"]])
        for h in expected.halts_made
    ]  # fmt: skip
    assert sorted(made) == sorted(halts)
    assert codes <= set(expected.refusals)
    assert levels <= {level for _, _, level in halts}
