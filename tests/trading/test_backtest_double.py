"""The backtest against a plain-Python double made of the desk's own parts, and against itself, on random markets."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.paths import ROOT
from tests.trading.backtest_kit import make
from trading import engine_host
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import Instrument, Mode
from trading.limits import CircuitBreaker, Correlation, DailyLoss, Drawdown, Limits, OrderRate, ValueAtRisk
from trading.orders import OrderType, Side
from trading.portfolio import Position as Held
from trading.portfolio import apply_fill
from trading.risk import DailyReturns, RiskState, check, refusal
from trading.risk_history import RiskHistory
from trading.signals import Intent
from trading.sizing import size
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe

FIXED = {"kind": "fixed", "quantity": 10}
RISK = {"kind": "risk_percent", "percent": 1}


def plain(
    evaluations: list[Evaluation], bars: list[Bars], instruments: list[Instrument], cash: float, sizing: dict[str, Any],
    costs: Costs, limits: Limits | None, minimum: float, history: RiskHistory, codes: dict[str, int],
) -> tuple[list[tuple[Any, ...]], dict[int, float]]:  # fmt: skip
    """The stated order of events once more, in plain Python with the desk's own parts: portfolio.apply_fill, sizing.size,
    risk.check. Returns fills (slot, time, signed quantity, price) and equity by close time; the rules' refusals into `codes`."""
    held = [Held() for _ in bars]
    entry: list[dict[str, Any] | None] = [None] * len(bars)
    leaving = [False] * len(bars)
    levels: list[tuple[float, float]] = [(math.nan, math.nan)] * len(bars)
    marks: list[float] = [math.nan] * len(bars)
    closes = [0] * len(bars)
    done: list[tuple[Any, ...]] = []
    equity_at: dict[int, float] = {}
    equity, day, day_start = cash, None, cash
    desk = Halts(limits)

    def fill(s: int, now: int, side: int, quantity: float, price: float, slips: bool, volume: float) -> None:
        tick, multiplier = float(instruments[s].tick_size), float(instruments[s].multiplier)
        if slips:
            price = costs.slipped(price, side, tick, quantity, volume)
        word = Side.BUY if side > 0 else Side.SELL
        held[s] = apply_fill(held[s], word, quantity, price, costs.commission(quantity, price, multiplier), multiplier)
        done.append((s, now, side * quantity, price))

    for now in sorted({int(t) for b in bars for t in b.close_time}):
        due = [(s, int(np.searchsorted(b.close_time, now))) for s, b in enumerate(bars) if now in b.close_time]
        today = max(int(bars[s].session[i]) for s, i in due)
        if day is None or today > day:
            day, day_start = today, equity
        for s, i in due:
            b = bars[s]
            o, h, l, c, v = (float(getattr(b, n)[i]) for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
            waiting = entry[s]
            if leaving[s]:
                fill(s, now, -1 if held[s].quantity > 0 else 1, abs(held[s].quantity), o, True, v)
                leaving[s] = False
            elif waiting is not None:
                fill(s, now, waiting["side"], waiting["quantity"], o, True, v)
                levels[s], entry[s], closes[s] = waiting["levels"], None, 0
            if not held[s].flat:
                side, (stop, target) = (1 if held[s].quantity > 0 else -1), levels[s]
                worst, best = (l, h) if side > 0 else (h, l)
                if (worst - stop) * side <= 0:
                    fill(s, now, -side, abs(held[s].quantity), o if (o - stop) * side <= 0 else stop, True, v)
                elif (best - target) * side >= 0:
                    fill(s, now, -side, abs(held[s].quantity), o if (o - target) * side >= 0 else target, False, v)
            marks[s] = c
        multipliers = [float(i.multiplier) for i in instruments]
        equity = cash + sum(
            p.realized_pnl + (p.unrealized_pnl(marks[s], multipliers[s]) if not p.flat else 0.0) for s, p in enumerate(held)
        )
        equity_at[now] = equity
        closed = {instruments[s].symbol: marks[s] for s, _ in due}
        for scope, flat in desk.at_close(now, int(day), equity, day_start, closed):
            for s, instrument in enumerate(instruments):
                if scope in ("desk", instrument.symbol):
                    entry[s] = None
                    leaving[s] = leaving[s] or (flat and not held[s].flat)
        for s, i in due:
            e, instrument = evaluations[s], instruments[s]
            if not held[s].flat:
                closes[s] += 1
                exits = e.exit_long if held[s].quantity > 0 else e.exit_short
                if exits[i] or (e.max_bars and closes[s] >= e.max_bars):
                    leaving[s] = True
            if e.enter_long[i] == e.enter_short[i] or not held[s].flat or entry[s] is not None:
                continue
            side = 1 if e.enter_long[i] else -1
            reference = instrument.round_price(float(bars[s].close[i]))
            stop = instrument.round_price(float((e.stop_long if side > 0 else e.stop_short)[i]))
            target = instrument.round_price(float((e.target_long if side > 0 else e.target_short)[i]))
            risk, reward = (reference - stop) * side, (target - reference) * side
            if risk <= 0 or reward <= 0 or reward / risk < minimum * (1 - 1e-9):
                continue
            quantity = size(sizing, equity=equity, reference_price=reference, stop_price=stop, instrument=instrument)
            intent = Intent(
                "d", "entry", "s", instrument.symbol, Side.BUY if side > 0 else Side.SELL, quantity, OrderType.MARKET,
                reference_price=reference,
            )  # fmt: skip
            if quantity <= 0:
                continue
            if limits is not None:
                state = replace(
                    _state(held, entry, marks, instruments, equity, day_start),
                    **desk.measures(now, history, {*(i.symbol for k, i in enumerate(instruments) if not held[k].flat or entry[k]),
                                                   instrument.symbol}),
                )  # fmt: skip
                refused = refusal(check(limits, state, intent, instrument))
                if refused:
                    code = refused.split(":")[0]
                    codes[code] = codes.get(code, 0) + 1
                    continue
            desk.orders.append(now)
            entry[s] = {
                "side": side,
                "quantity": quantity,
                "levels": (stop, target),
                "value": quantity * reference * float(instrument.multiplier),
            }
    return done, equity_at


class Halts:
    """What the desk latches and what its operator lifts at the next session, looked at pair by pair and price by price."""

    def __init__(self, limits: Limits | None) -> None:
        self.limits = limits
        self.peak, self.lost, self.fallen, self.orders = 0.0, -1, 0.0, list[int]()
        self.since: dict[str, int] = {}
        """Scope -> the session its halt was latched in."""
        self.seen: dict[str, list[tuple[int, float]]] = {}

    def at_close(self, now: int, day: int, equity: float, start: float, closed: dict[str, float]) -> list[tuple[str, bool]]:
        """(scope, are positions closed) of what trips at this close."""
        limits, found = self.limits, list[tuple[str, bool]]()
        self.peak = max(self.peak, equity, 10_000.0)
        if limits is None:
            return []
        self.since = {scope: since for scope, since in self.since.items() if since == day}
        loss, fall, breaker = limits.daily_loss, limits.drawdown, limits.circuit_breaker
        if loss is not None and loss.amount is not None and start - equity >= loss.amount:
            if self.lost != day:
                self.lost = day
                found.append(("desk", loss.then == "flatten"))
        elif fall is not None and equity <= self.peak * (1 - fall.percent / 100) and self.peak > self.fallen:
            self.fallen = self.peak
            found.append(("desk", fall.then == "flatten"))
        for symbol, price in closed.items():
            if breaker is None:
                break
            window = [(t, p) for t, p in self.seen.get(symbol, []) if t >= now - breaker.minutes * US_PER_MINUTE]
            self.seen[symbol] = [*window, (now, price)]
            if any(abs(price / p - 1) * 100 >= breaker.percent for _, p in window):
                self.seen[symbol] = []
                if symbol not in self.since:
                    found.append((symbol, breaker.then == "flatten"))
        self.since |= {scope: day for scope, _ in found}
        return found

    def measures(self, now: int, history: RiskHistory, symbols: set[str]) -> dict[str, Any]:
        """Fields of the state, read from the bars with numpy's own functions."""
        first = now // US_PER_DAY - (2 * 60 + 30)
        daily = {s: history.daily[s].known_at(now) for s in sorted(symbols)}
        daily = {s: b.rows(b.session >= first) for s, b in daily.items()}
        common = sorted(set.intersection(*(set(b.session.tolist()) for b in daily.values())))
        closes = np.stack([b.close[np.searchsorted(b.session, common)] for b in daily.values()], axis=1)
        native = {s: history.native[s].known_at(now) for s in symbols}
        return {
            "now_time": now, "peak_equity": self.peak, "order_times": tuple(self.orders),
            "halt_level": "REDUCE_ONLY" if "desk" in self.since else "",
            "strategy_halted": frozenset(f"instrument:{s}" for s in self.since),
            "recent_prices": {s: (b.close_time, b.close) for s, b in native.items()},
            "returns": DailyReturns(tuple(daily), (closes[1:] / closes[:-1] - 1)[-60:]),
        }  # fmt: skip


def days_of(seed: int, instruments: list[Instrument]) -> dict[str, Bars]:
    """Daily closes of the instruments, moving with each other, some sessions missing."""
    rng, found = np.random.default_rng([seed, 1]), {}
    number = np.arange(-150, 46)
    common = rng.normal(0, 0.015, len(number))
    for i in instruments:
        close = 50 * np.exp(np.cumsum(common * rng.choice([-1, 1]) + rng.normal(0, 0.015, len(number))))
        kept = rng.random(len(number)) > 0.02
        its = number[kept]
        time = (3 * its + 2).astype(np.int64) * US_PER_DAY
        p = close[kept]
        found[i.symbol] = Bars(i.symbol, Timeframe.D1, time, its.astype(np.int32), p, p, p, p, np.zeros(len(its)))
    return found


def _state(
    held: list[Held],
    entry: list[dict[str, Any] | None],
    marks: list[float],
    instruments: list[Instrument],
    equity: float,
    start: float,
) -> RiskState:
    symbols = [i.symbol for i in instruments]
    return RiskState(
        mode=Mode.BACKTEST, equity=equity, day_start_equity=start, cash=equity, quality_ok="",
        last_price={s: m for s, m in zip(symbols, marks, strict=True) if not math.isnan(m)},
        positions={("s", s): p.quantity for s, p in zip(symbols, held, strict=True) if not p.flat},
        pending_entries=frozenset(("s", s) for s, e in zip(symbols, entry, strict=True) if e),
        working_notional={s: e["value"] for s, e in zip(symbols, entry, strict=True) if e},
        working_net={s: e["value"] * e["side"] for s, e in zip(symbols, entry, strict=True) if e},
        multipliers={i.symbol: float(i.multiplier) for i in instruments},
    )  # fmt: skip


def random_market(seed: int, slots: int) -> tuple[list[Evaluation], list[Bars], list[Instrument]]:
    """Random walks with random wishes and levels; bars of different starts and lengths, some without wishes."""
    rng = np.random.default_rng(seed)
    evaluations, markets, instruments = [], [], []
    for s in range(slots):
        n = int(rng.integers(5, 60))
        close = np.round(50 * np.exp(np.cumsum(rng.normal(0, 0.02, n))), 2)
        open_ = np.round(close * np.exp(rng.normal(0, 0.01, n)), 2)
        high = np.round(np.maximum(open_, close) * (1 + np.abs(rng.normal(0, 0.01, n))), 2)
        low = np.round(np.minimum(open_, close) * (1 - np.abs(rng.normal(0, 0.01, n))), 2)
        at = (int(rng.integers(0, 10)) + np.cumsum(rng.integers(1, 3, n))).astype(np.int64)
        symbol = f"S{s}"
        bars = Bars(
            symbol, Timeframe.D1, at * US_PER_DAY, (at // 3).astype(np.int32), open_, high, low, close,
            rng.integers(0, 500, n).astype(np.float64),
        )  # fmt: skip
        distance = close * rng.uniform(0.005, 0.05, n)
        evaluations.append(
            Evaluation(
                symbol,
                Timeframe.D1,
                bars.close_time,
                np.ones(n, np.bool_),
                rng.random(n) < 0.3,
                rng.random(n) < 0.2,
                rng.random(n) < 0.1,
                rng.random(n) < 0.1,
                close - distance,
                close + distance,
                close + 1.7 * distance,
                close - 1.7 * distance,
                np.ones(n),
                int(rng.choice([0, 0, 1, 4])),
            )
        )
        markets.append(bars)
        instruments.append(make(symbol, multiplier=str(rng.choice(["1", "5"]))))
    return evaluations, markets, instruments


def fills_of(result: BacktestResult) -> list[tuple[Any, ...]]:
    t = result.trades
    entries = [(int(t.slot[i]), int(t.entry_time[i]), float(t.quantity[i]), float(t.entry_price[i])) for i in range(len(t))]
    exits = [
        (int(t.slot[i]), int(t.exit_time[i]), -float(t.quantity[i]), float(t.exit_price[i])) for i in range(len(t)) if t.closed[i]
    ]
    return sorted(entries + exits)


TIGHT = Limits(
    max_order_quantity=60, max_notional=4000, max_position_notional=4000, max_concurrent_positions=2,
    daily_loss=DailyLoss(amount=150), price_collar_percent=5, max_gross_leverage=0.9,
)  # fmt: skip


DECIDED = ("POSITION_OPEN", "STOP_REQUIRED", "REWARD_TO_RISK", "SIZE_ZERO")
"""Refused before the rules are asked."""
WIDE = {"max_order_quantity": 1e9, "max_notional": 1e9, "max_position_notional": 1e9, "max_gross_leverage": 1e3}
MEASURED = TIGHT.model_copy(
    update={
        **WIDE, "max_concurrent_positions": 9, "daily_loss": DailyLoss(amount=1e9),
        "value_at_risk": ValueAtRisk(percent=0.8, shortfall_percent=1.1, confidence=0.95, sessions=60),
        "correlation": Correlation(above=0.3, percent=25, sessions=60), "order_rate": OrderRate(orders=2, seconds=3 * 86_400),
    }
)  # fmt: skip
BREAKING = TIGHT.model_copy(
    update={
        **WIDE, "drawdown": Drawdown(percent=2.5, then="flatten"),
        "circuit_breaker": CircuitBreaker(percent=4, minutes=3 * 1440, pause_minutes=2 * 1440, then="flatten"),
    }
)  # fmt: skip


@settings(max_examples=90)
@given(
    st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([None, TIGHT, MEASURED, BREAKING]),
    st.sampled_from([FIXED, {"kind": "percent_equity", "percent": 20}, {"kind": "risk_percent", "percent": 0.5}]),
    st.sampled_from([Costs(), Costs("per_share", 0.01, 1.0, "fixed", 1.0), Costs("per_value", 0.0001, 0.0, "volume", 0.01)]),
    st.sampled_from([0.0, 1.65, 1.75]),
)  # fmt: skip
def test_every_fill_is_what_the_desks_own_parts_give_in_the_stated_order(
    seed: int, slots: int, limits: Limits | None, sizing: dict[str, Any], costs: Costs, minimum: float
) -> None:
    evaluations, bars, instruments = random_market(seed, slots)
    history, codes = RiskHistory(days_of(seed, instruments), {b.symbol: b for b in bars}), dict[str, int]()
    result = backtest(
        evaluations, bars, instruments, cash=10_000.0, sizing=sizing, costs=costs, limits=limits, require_stop=True,
        min_reward_to_risk=minimum, history=history,
    )  # fmt: skip
    expected, equity = plain(evaluations, bars, instruments, 10_000.0, sizing, costs, limits, minimum, history, codes)
    assert {code: n for code, n in result.refusals.items() if code not in DECIDED} == codes
    assert fills_of(result) == sorted(expected)
    np.testing.assert_array_equal(result.close_time, sorted(equity))
    np.testing.assert_allclose(result.equity, [equity[t] for t in sorted(equity)], rtol=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_slots_run_apart_and_together_give_the_same(seed: int, slots: int) -> None:
    evaluations, bars, instruments = random_market(seed, slots)
    costs = Costs("per_share", 0.01, 1.0, "volume", 0.01)

    def both(detail: bool) -> BacktestResult:
        return backtest(evaluations, bars, instruments, cash=10_000.0, sizing=FIXED, costs=costs, detail=detail)

    apart, together = both(detail=False), both(detail=True)
    assert apart.fills_made is None
    assert together.fills_made is not None
    assert trade_rows(apart) == trade_rows(together)
    np.testing.assert_array_equal(apart.close_time, together.close_time)
    np.testing.assert_allclose(apart.equity, together.equity, rtol=1e-12)
    assert (apart.refusals, apart.orders, apart.ambiguous_bars) == (together.refusals, together.orders, together.ambiguous_bars)
    assert apart.traded_value == pytest.approx(together.traded_value)
    for name, values in apart.exposures().items():
        np.testing.assert_allclose(values, together.exposures()[name], atol=1e-6)


def trade_rows(result: BacktestResult) -> list[str]:
    """Every value of every trade; the numbers of the entries, which only group them, left out."""
    return sorted(str(row) for row in result.trades.rows())


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_staging_in_small_pieces_changes_nothing(seed: int) -> None:
    evaluations, bars, instruments = random_market(seed, 3)
    sizing = {"kind": "percent_equity", "percent": 20}

    def result() -> BacktestResult:
        return backtest(evaluations, bars, instruments, cash=10_000.0, sizing=sizing)

    whole = result()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_host, "_STAGED_ROWS", 12)
        patch.setattr(engine_host, "_LEAST_STAGED", 4)
        pieces = result()
    assert fills_of(pieces) == fills_of(whole)
    np.testing.assert_array_equal(pieces.equity, whole.equity)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_profit_and_equity_agree_and_one_slot_never_holds_two_positions(seed: int, slots: int) -> None:
    evaluations, bars, instruments = random_market(seed, slots)
    result = backtest(evaluations, bars, instruments, cash=10_000.0, sizing=RISK, costs=Costs(rate=0.01))
    assert result.equity[-1] == pytest.approx(10_000 + result.trades.pnl.sum())
    for slot in range(slots):
        mine = result.trades.slot == slot
        entries, exits = result.trades.entry_time[mine], result.trades.exit_time[mine]
        assert (result.trades.signal_time[mine] < entries).all()
        assert (entries <= exits).all()
        # A new entry is decided at or after the close at which the last one ended.
        assert (result.trades.signal_time[mine][1:] >= exits[:-1]).all()


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_what_happens_later_never_changes_what_happened(seed: int, cut: int) -> None:
    evaluations, bars, instruments = random_market(seed, 1)
    cut = min(cut, len(bars[0]) - 1)

    def until(n: int) -> BacktestResult:
        e = evaluations[0]
        names = ("close_time", "ready", "enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short",
                 "target_long", "target_short", "strength")  # fmt: skip
        part = replace(e, **{name: getattr(e, name)[:n] for name in names})
        return backtest(part, bars[0].rows(slice(0, n)), instruments[0], cash=10_000.0, sizing=FIXED)

    part, whole = until(cut), until(len(bars[0]))
    np.testing.assert_array_equal(part.equity, whole.equity[:cut])
    before = [f for f in fills_of(whole) if f[1] <= bars[0].close_time[cut - 1]] if cut else []
    assert fills_of(part) == before


def told() -> str:
    """Backtests of a few random markets, a line each."""
    lines = []
    for seed in range(4):
        e, b, i = random_market(seed, 3)
        together = backtest(e, b, i, cash=1e4, sizing=RISK, costs=Costs(rate=0.01), limits=TIGHT)
        alone = backtest(e[0], b[0], i[0], cash=1e4, sizing=FIXED, costs=Costs(slippage_kind="volume", value=0.01))
        lines += [f"{fills_of(r)!r} {r.equity.tolist()} {r.refusals} {r.orders}\n" for r in (together, alone)]
    return "".join(lines)


def test_plain_python_gives_what_the_compiled_loop_gives() -> None:
    program = "from tests.trading.test_backtest_double import told; print(told(), end='')"
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said == told()
    assert said.count("\n") == 8
