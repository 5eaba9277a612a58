"""Plans that manage their trade: desk and paper broker make the backtest's fills, stop for stop and part for part.

The desk's side is its own: window, exit check, trade manager, router, paper broker, ledger. Bars run over a year's end, where
the anchored windows of hourly bars move.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from sqlalchemy import Engine, text

from desk.exits import check_exits
from desk.managing import TradeManager
from resources.feeds.protocol import BarClose
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, Desk, bar, config, hour
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.evaluable import live_window, signal_at
from trading.execution_functions import managers
from trading.plans import Plan, parse_plan
from trading.resample import resample
from trading.signals import Decision, PartitionRef
from trading.timeframes import US_PER_HOUR, Timeframe, iso

FILLS = text("SELECT side, quantity, price, fill_time FROM fills WHERE strategy = :plan ORDER BY fill_time, price")
WIDE = LIMITS.model_copy(update={"max_position_notional": 1e9, "max_concurrent_positions": 99})
COSTS = Costs("per_value", 0.00002, 0.1, "fixed", 1)
_SESSIONS = calendar("FX")
_AT = np.searchsorted(_SESSIONS.close_time, [hour(n) for n in range(-200, 140)])
HOURS = [n for n, at in zip(range(-200, 140), _AT, strict=True) if _SESSIONS.open_time[at] < hour(n)]
"""Hours of trading before the desk opens, at 0, and after: over 2018-01-01."""
BEFORE = HOURS.index(0)

HEAD = """\
name: {name}
status: active
mode: paper
symbol: EURUSD
direction: {direction}
timeframe: 1h
confirm: [4h]
valid: {{from: 2017-12-20, to: 2018-01-29}}
entry: {{kind: indicator_condition, condition: {{"{sign}": [{{indicator: roc, params: {{period: 3}}}}, {roc}]}}}}
stop: {{kind: points, points: 0.0080}}
sizing: {{kind: fixed, quantity: 1000}}
"""
MANAGE: tuple[str, ...] = (
    "manage: [{kind: break_even, after_r: 0.6, offset: 0.0003}]",
    "targets: [{share: 0.5, at: {kind: reward, ratio: 0.8}}, {share: 0.5, at: {kind: reward, ratio: 3}}]\n"
    "manage: [{kind: break_even, after_target: 1}]",
    "manage: [{kind: trailing_points, points: 0.0060}]",
    "manage: [{kind: trailing_percent, percent: 0.6, timeframe: 4h}]",
    "manage: [{kind: trailing_atr, period: 6, multiple: 2.5}]",
    "manage: [{kind: trailing_structure, left: 2, right: 2, buffer: 0.0002}]",
    "manage: [{kind: chandelier, period: 8, multiple: 2.0}]",
    "manage: [{kind: time_stop, bars: 9, unless_r: 0.5}, {kind: trailing_points, points: 0.0090}]",
    "manage: [{kind: session_end, minutes: 120}]",
    "manage: [{kind: stop_on_close, percent: 0.15, timeframe: 4h}]",
    "disaster_stop: {kind: atr, period: 6, multiple: 9}\ntarget: {kind: points, points: 0.0090}",
    "target: {kind: reward, ratio: 2.5}\n"
    "manage: [{kind: scale_out, share: 0.3, when: {kind: indicator_condition, condition: {'>': "
    "[{indicator: rsi, params: {period: 5}}, 60]}}}, {kind: break_even, after_r: 0.7}]",
    "manage: [{kind: scale_out, share: 0.25, when: {kind: closes_beyond, direction: above, "
    "level: 1.2, count: 2}}, {kind: scale_out, share: 0.25, when: {kind: indicator_condition, condition: {'<': "
    "[{indicator: rsi, params: {period: 5}}, 40]}}}, {kind: time_stop, bars: 30}]",
    "targets: [{share: 0.4, at: {kind: reward, ratio: 1.0}}, {share: 0.3, at: {kind: reward, ratio: 2.0}}]\n"
    "manage: [{kind: scale_out, share: 0.2, when: {kind: indicator_condition, condition: {'>': [{indicator: rsi, "
    "params: {period: 5}}, 70]}}}, {kind: break_even, after_r: 0.5}, {kind: chandelier, period: 8, multiple: 2.5}, "
    "{kind: time_stop, bars: 40}]\nmax_bars: 60",
)


def plan_of(name: str, manage: str, direction: str) -> Plan:
    sign, roc = (">", "0.15") if direction == "long" else ("<", "-0.15")
    made, problems = parse_plan(
        HEAD.format(name=name, direction=direction, sign=sign, roc=roc) + manage, "idea.yaml", config().universe
    )
    assert made is not None, [str(p) for p in problems]
    return made


def jumpy() -> list[BarClose]:
    """A jumpy walk: gaps through stops, wicks, bars that hold stop and target."""
    dice, price, made = random.Random("managed plans"), 12_000, []
    for n in HOURS:
        opened = price + dice.randint(-8, 8) + (dice.choice((-40, 40)) if dice.random() < 0.04 else 0)
        price = opened + dice.randint(-22, 22)
        high, low = max(opened, price) + dice.randint(0, 25), min(opened, price) - dice.randint(0, 25)
        made.append(bar("EURUSD", n, opened / 1e4, high / 1e4, low / 1e4, price / 1e4))
    return made


def arrays(bars: list[BarClose]) -> Bars:
    columns = [np.array([getattr(b, c) for b in bars], np.float64) for c in ("open", "high", "low", "close", "volume")]
    times = np.array([b.close_time for b in bars], np.int64)
    return Bars("EURUSD", Timeframe.H1, times, np.array([b.session for b in bars], np.int32), *columns)


class Cache:
    """The desk's bars: those known, from a session on."""

    def __init__(self, series: dict[Timeframe, Bars]) -> None:
        self.series = series

    def bars(self, symbol: str, timeframe: Timeframe, start: int, until: int) -> Bars:
        known = self.series[timeframe].known_at(until)
        return known.rows(slice(int(np.searchsorted(known.session, start)), len(known)))


def live(engine: Engine, plans: dict[str, Plan], made: list[BarClose], series: dict[Timeframe, Bars]) -> None:
    """The plans' life on the desk, close by close, in the order of desk.engine: fills, exits, managing, then entries."""
    desk, cache, entered = Desk(engine, costs=COSTS).open(), Cache(series), set[str]()
    desk.config.plans, desk.config.limits = dict(plans), WIDE
    manager = TradeManager(engine, desk.broker, desk.clock)
    venue, instrument = calendar("FX"), INSTRUMENTS["EURUSD"]
    known: Any = plans
    for n, one in zip(HOURS[BEFORE:], made[BEFORE:], strict=True):
        desk.close(n, one)
        desk.router.continue_exits()
        positions = desk.store.open_positions()
        closed = {"EURUSD": {Timeframe.H1: arrays([one])}}
        checks = check_exits(positions, known, INSTRUMENTS, cache, closed, hour(n))  # type: ignore[arg-type]
        assert [c.trouble for c in checks if c.trouble] == []
        leaving = {c.strategy: c.reason for c in checks if c.reason}
        rest = [p for p in positions if p.strategy not in leaving]
        for looked in manager.at_close(rest, known, INSTRUMENTS, cache, closed, hour(n)):  # type: ignore[arg-type]
            assert looked.trouble == ""
            if looked.leave:
                leaving[looked.strategy] = looked.leave
        for name, reason in leaving.items():
            desk.router.exit_position(name, "EURUSD", reason, hour(n))
        for name, plan in plans.items():
            if name in entered:
                continue
            window = live_window(plan, series, hour(n), one.session, venue)
            signal = signal_at(
                plan, plan.evaluate(window, instrument), -1, window[Timeframe.H1], instrument, features_version="f1",
                partitions=(PartitionRef("bars_1h", "2017-12-27", "EURUSD", "hash1"),), mode="paper",
            )  # fmt: skip
            if signal is not None:
                result = desk.router.submit_decision(Decision(signal, True, (), ""))
                assert result.accepted, result.refusal
                entered.add(name)


def joined(rows: Any) -> list[tuple[str, float, float]]:
    """(side, quantity, price) in the order of time: parts that fill alike are one."""
    together: dict[tuple[str, float], float] = {}
    for side, quantity, price in rows:
        together[side, round(price, 6)] = together.get((side, round(price, 6)), 0.0) + quantity
    return [(side, quantity, price) for (side, price), quantity in together.items()]


def test_every_function_that_manages_is_compared() -> None:
    compared = " ".join(MANAGE)
    assert [name for name in managers() if f"kind: {name}" not in compared] == []


def test_desk_and_backtest_fill_alike(ledger_engine: Engine) -> None:
    plans = {f"idea_{i}": plan_of(f"idea_{i}", m, ("long", "short")[i % 2]) for i, m in enumerate(MANAGE)}
    made = jumpy()
    hours = arrays(made)
    series = {Timeframe.H1: hours, Timeframe.H4: resample(hours, Timeframe.H4, calendar("FX"))}
    live(ledger_engine, plans, made, series)
    legs: set[str] = set()
    with ledger_engine.connect() as connection:
        for name, plan in plans.items():
            # The desk opens at hour 0: what the plan wanted before is history to it.
            result: BacktestResult = backtest(
                plan, {"EURUSD": series}, INSTRUMENTS, cash=CASH, costs=COSTS, require_stop=True,
                gates={"open": hours.close_time >= hour(0)},
            )  # fmt: skip
            rows = connection.execute(FILLS, {"plan": name}).all()
            told = result.fill_rows()
            what = plan.rules.model_dump_json(include={"manage"})
            assert joined((r.side, r.quantity, r.price) for r in rows) == joined(
                (r["side"], r["quantity"], r["price"]) for r in told
            ), what
            # The broker tells a fill at an open by that moment, the backtest by the end of its bar.
            ends = {iso(int(r.fill_time)) for r in rows} | {iso(int(r.fill_time) + US_PER_HOUR) for r in rows}
            assert {r["time"] for r in told} <= ends, what
            legs |= {r["leg"] for r in told}
    wanted = {"entry", "stop", "target", "scale_out", "time_stop", "session_end", "managed"}
    assert wanted <= legs, "the comparison misses what it is about"
