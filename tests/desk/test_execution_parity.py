"""Entries worked in slices: desk and paper broker make the backtest's fills, slice for slice, stop for stop."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from desk.exits import check_exits
from desk.managing import TradeManager
from resources.feeds.protocol import BarClose
from tests.desk.kit import CASH, INSTRUMENTS, Desk, config, hour
from tests.desk.test_managed_parity import BEFORE, COSTS, FILLS, HOURS, WIDE, Cache, arrays, joined, jumpy
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.evaluable import live_window, signal_at
from trading.plans import Plan, parse_plan
from trading.signals import Decision, PartitionRef
from trading.timeframes import US_PER_HOUR, Timeframe, iso

LAST = BEFORE + 50

HEAD = """\
name: {name}
status: active
mode: paper
symbol: EURUSD
direction: {direction}
timeframe: 1h
valid: {{from: 2017-12-20, to: 2018-01-29}}
entry: {{kind: indicator_condition, condition: {{"{sign}": [{{indicator: roc, params: {{period: {period}}}}}, {roc}]}}}}
stop: {{kind: points, points: {stop}}}
sizing: {{kind: fixed, quantity: {quantity}}}
gates: {{valid_bars: 12}}
execution: {{{execution}}}
"""
WORKED: tuple[tuple[str, str, int, float], ...] = (
    ("algo: twap, minutes: 240, slices: 4", "target: {kind: reward, ratio: 3}", 1003, 0.0120),
    ("algo: twap, minutes: 240, slices: 4", "target: {kind: reward, ratio: 0.7}", 1000, 0.0030),
    ("algo: twap, minutes: 300, slices: 3", "max_bars: 4", 1000, 0.0200),
    ("algo: twap, minutes: 480, slices: 4, jitter: 0.5, rest: market", "target: {kind: reward, ratio: 1}", 900, 0.0100),
    ("algo: twap, minutes: 360, slices: 6, min_lots: 300", "manage: [{kind: trailing_points, points: 0.0040}]", 1000, 0.0060),
    ("algo: twap, minutes: 360, slices: 6", "manage: [{kind: break_even, after_r: 0.4, offset: 0.0003}]", 1200, 0.0050),
    ("algo: iceberg, minutes: 420, visible: 300", "target: {kind: reward, ratio: 2}", 1000, 0.0080),
    ("algo: iceberg, minutes: 300, visible: 250, limit_ticks: -12", "target: {kind: reward, ratio: 0.6}", 1000, 0.0040),
    ("algo: iceberg, minutes: 240, visible: 200, limit_ticks: -6, rest: market", "max_bars: 9", 1000, 0.0150),
    ("algo: iceberg, minutes: 300, visible: 250, limit_ticks: 9", "manage: [{kind: trailing_points, points: 0.005}]", 900, 0.007),
)  # fmt: skip


def plan_of(name: str, number: int, worked: tuple[str, str, int, float]) -> Plan:
    long = number % 2 == 0
    text = HEAD.format(
        name=name, direction="long" if long else "short", sign=">" if long else "<", roc="0.15" if long else "-0.15",
        execution=worked[0], quantity=worked[2], stop=worked[3], period=2 + number % 5,
    )  # fmt: skip
    made, problems = parse_plan(text + worked[1], "idea.yaml", config().universe)
    assert made is not None, [str(p) for p in problems]
    return made


def live(engine: Engine, plans: dict[str, Plan], made: list[BarClose], series: dict[Timeframe, Bars]) -> Desk:
    """The plans' life on the desk, close by close, in the order of desk.engine: fills, exits, managing, slices, then entries."""
    desk, cache, entered = Desk(engine, costs=COSTS).open(), Cache(series), set[str]()
    desk.config.plans, desk.config.limits = dict(plans), WIDE
    manager = TradeManager(engine, desk.broker, desk.clock)
    known: Any = plans
    for n, one in zip(HOURS[BEFORE:LAST], made[BEFORE:], strict=True):
        desk.close(n, one)
        desk.router.continue_exits()
        positions = desk.store.open_positions()
        closed = {"EURUSD": {Timeframe.H1: arrays([one])}}
        checks = check_exits(positions, known, INSTRUMENTS, cache, closed, hour(n))  # type: ignore[arg-type]
        leaving = {c.strategy: c.reason for c in checks if c.reason}
        rest = [p for p in positions if p.strategy not in leaving]
        for looked in manager.at_close(rest, known, INSTRUMENTS, cache, closed, hour(n)):  # type: ignore[arg-type]
            assert looked.trouble == ""
            if looked.leave:
                leaving[looked.strategy] = looked.leave
        for name, reason in leaving.items():
            desk.router.exit_position(name, "EURUSD", reason, hour(n))
        desk.router.algos.work()
        for name, plan in plans.items():
            if name in entered:
                continue
            window = live_window(plan, series, hour(n), one.session, calendar("FX"))
            signal = signal_at(
                plan, plan.evaluate(window, INSTRUMENTS["EURUSD"]), -1, window[Timeframe.H1], INSTRUMENTS["EURUSD"],
                features_version="f1", partitions=(PartitionRef("bars_1h", "2017-12-27", "EURUSD", "hash1"),), mode="paper",
            )  # fmt: skip
            if signal is not None:
                result = desk.router.submit_decision(Decision(signal, True, (), ""))
                if result.accepted:
                    entered.add(name)
                else:
                    assert result.refusal.startswith("EXECUTION"), result.refusal
    return desk


def test_desk_and_backtest_fill_alike(ledger_engine: Engine) -> None:
    plans = {f"idea_{i}": plan_of(f"idea_{i}", i, worked) for i, worked in enumerate(WORKED)}
    made = jumpy()[:LAST]
    hours = arrays(made)
    series = {Timeframe.H1: hours}
    live(ledger_engine, plans, made, series)
    legs: set[str] = set()
    most = 0
    with ledger_engine.connect() as connection:
        for name, plan in plans.items():
            result = backtest(
                plan, {"EURUSD": series}, INSTRUMENTS, cash=CASH, costs=COSTS, require_stop=True,
                gates={"open": hours.close_time >= hour(0)},
            )  # fmt: skip
            rows = connection.execute(FILLS, {"plan": name}).all()
            told = result.fill_rows()
            what = plan.execution
            assert joined((r.side, r.quantity, r.price) for r in rows) == joined(
                (r["side"], r["quantity"], r["price"]) for r in told
            ), what
            ends = {iso(int(r.fill_time)) for r in rows} | {iso(int(r.fill_time) + US_PER_HOUR) for r in rows}
            assert {r["time"] for r in told} <= ends, what
            legs |= {r["leg"] for r in told}
            most = max(most, sum(r["leg"] == "entry" for r in told))
    assert {"entry", "stop", "target", "max_bars"} <= legs, "the comparison misses what it is about"
    assert most >= 4


@pytest.mark.parametrize(
    ("execution", "says"),
    [
        ("algo: twap, minutes: 240, slices: 4", "steps in bars of 4h"),
        ("algo: iceberg, minutes: 120, visible: 100", "steps in bars of 4h"),
        ("algo: vwap, minutes: 960, slices: 4", "needs volume"),
    ],
)
def test_what_its_bars_cannot_show_a_backtest_refuses(execution: str, says: str) -> None:
    from dataclasses import replace

    from trading.execution.spec import parse
    from trading.order_rules import OrderRules
    from trading.resample import resample

    plan = plan_of("idea", 0, WORKED[0])
    fours = resample(arrays(jumpy()), Timeframe.H4, calendar("FX"))
    evaluation = replace(plan.evaluate({Timeframe.H1: arrays(jumpy())}, INSTRUMENTS["EURUSD"]))
    rows = slice(0, len(fours))
    values = {
        name: getattr(evaluation, name)[rows]
        for name in ("ready", "enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short",
                     "target_long", "target_short", "strength")
    }  # fmt: skip
    coarse = replace(evaluation, timeframe=Timeframe.H4, close_time=fours.close_time, **values)
    import yaml

    rules = OrderRules(execution=parse(yaml.safe_load("{" + execution + "}")))
    with pytest.raises(ValueError, match=says):
        backtest(coarse, fours, INSTRUMENTS["EURUSD"], cash=CASH, sizing={"kind": "fixed", "quantity": 100}, orders=rules)
