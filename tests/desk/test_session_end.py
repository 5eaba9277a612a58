"""Flat before the venue closes: strategies and plans in the desk and in the backtest, on a full day, a half day, a holiday."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from desk.exits import check_exits
from desk.managing import TradeManager
from desk.store import PositionRecord
from tests.desk.kit import Desk, config
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.instruments import AssetClass, Instrument, Mode
from trading.plans import parse_plan
from trading.strategy import parse_strategy
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_number

M15 = Timeframe.M15
SPY = Instrument(
    "SPY", AssetClass.EQUITY, "XNYS", Decimal("0.01"), currency="USD", feed="test", feed_symbol="SPY", native_timeframe=M15,
    tradable_in=frozenset({Mode.BACKTEST, Mode.PAPER}), has_volume=False,
)  # fmt: skip
UNIVERSE = replace(config().universe, instruments={"SPY": SPY})
DAYS = (date(2015, 12, 23), date(2015, 12, 24), date(2015, 12, 28))
"""A full day, a half day (closes at 13:00 New York, 18:00Z), and the next session: Christmas and the weekend lie between."""

STRATEGY = """\
name: dayonly
status: active
mode: paper
symbols: [SPY]
timeframe: 15m
entry: {long: {">": [close, 0]}}
exits: {stop: {kind: points, points: 50}, session_end: 30}
sizing: {kind: fixed, quantity: 10}
gates: {min_reward_to_risk: 0}
"""
PLAN = """\
name: dayonly
status: active
mode: paper
symbol: SPY
direction: long
timeframe: 15m
valid: {from: 2015-12-24, to: 2015-12-24}
entry: {kind: close_above, level: 99}
stop: 50
manage: [{kind: session_end, minutes: 30}]
sizing: {kind: fixed, quantity: 10}
gates: {min_reward_to_risk: 0}
"""


def bars() -> Bars:
    venue, times, sessions = calendar("XNYS"), [], []
    for day in DAYS:
        opened, closed = venue.bounds(session_number(day))
        own = np.arange(opened + 15 * US_PER_MINUTE, closed + 1, 15 * US_PER_MINUTE, dtype=np.int64)
        times.append(own)
        sessions.append(np.full(len(own), session_number(day), np.int32))
    close_time, session = np.concatenate(times), np.concatenate(sessions)
    price = np.full(len(close_time), 100.0)
    return Bars("SPY", M15, close_time, session, price, price, price, price, np.zeros(len(price)))


@dataclass
class Cache:
    """What the desk knows of the bars."""

    series: Bars = field(default_factory=bars)

    def bars(self, symbol: str, timeframe: Timeframe, start: int, until: int) -> Bars:
        known = self.series.known_at(until)
        return known.rows(slice(int(np.searchsorted(known.session, start)), len(known)))


def held(opened_time: int) -> PositionRecord:
    return PositionRecord("dayonly", "SPY", "int-1", 10.0, 100.0, 0.0, 0.0, opened_time, 0, {})


def made(text: str) -> Any:
    parse = parse_plan if "direction" in text else parse_strategy
    found, problems = parse(text, "dayonly.yaml", UNIVERSE)
    assert found is not None, [str(p) for p in problems]
    return found


def leaves_at(evaluable: Any, day: date) -> list[str]:
    """Bar closes of `day` (UTC) at which the desk decides to leave, the position being held from its first bar on."""
    whole = bars()
    own = whole.rows(whole.session == session_number(day))
    found = []
    for row in range(1, len(own)):
        now = int(own.close_time[row])
        closed = {"SPY": {M15: own.rows(slice(row, row + 1))}}
        position = held(int(own.close_time[0]))
        (check,) = check_exits([position], {"dayonly": evaluable}, {"SPY": SPY}, Cache(), closed, now)  # type: ignore[arg-type]
        assert check.trouble == ""
        if check.reason:
            found.append(iso(now)[11:16])
    return found


def test_a_strategy_leaves_before_the_close_of_a_full_and_a_half_day() -> None:
    strategy = made(STRATEGY)
    assert leaves_at(strategy, DAYS[0])[0] == "20:30"
    assert leaves_at(strategy, DAYS[1])[0] == "17:30", "the venue closes three hours early"


def test_the_backtest_does_the_same_and_is_flat_over_the_holiday() -> None:
    whole = bars()
    result = backtest(made(STRATEGY), {"SPY": {M15: whole}}, {"SPY": SPY}, cash=10_000, costs=Costs())
    # The fill at an open is told at the end of its bar.
    fills = [(r["time"][:16], r["side"]) for r in result.fill_rows()]
    assert ("2015-12-23T20:45", "sell") in fills
    assert ("2015-12-24T17:45", "sell") in fills
    assert ("2015-12-28T20:45", "sell") in fills
    assert len(fills) == 6, "in once a day, out before each close, and no entry in the last half hour"


def test_a_plan_leaves_before_the_early_close(ledger_engine: Engine) -> None:
    plan = made(PLAN)
    manager = TradeManager(ledger_engine, Desk(ledger_engine).broker, lambda: 0)
    whole = bars()
    own = whole.rows(whole.session == session_number(DAYS[1]))
    from tests.desk.test_managing import Life  # the order rows a trade has are those of a decision

    life = Life(ledger_engine, plan, parts=())
    entry = life.desk.store.orders_of_trade(life.result.intent_ids[0])
    found = []
    for row in range(1, len(own)):
        now = int(own.close_time[row])
        windows = {M15: own.rows(slice(0, row + 1))}
        position = held(int(own.close_time[0]))
        asked, _ = manager._wanted(position, plan, SPY, entry[0], windows, False)
        if asked.leave:
            found.append(iso(now)[11:16])
    assert found[0] == "17:30"


def test_daily_bars_end_with_the_session_and_cannot_leave_before() -> None:
    found, problems = parse_strategy(STRATEGY.replace("15m", "1d"), "dayonly.yaml", UNIVERSE)
    assert found is None
    assert any("session_end on 1d bars" in str(p) for p in problems)


@pytest.mark.parametrize("minutes", [0, 10, 15])
def test_fewer_minutes_than_a_bar_mean_the_last_bar(minutes: int) -> None:
    strategy = made(STRATEGY.replace("session_end: 30", f"session_end: {minutes}"))
    assert leaves_at(strategy, DAYS[1])[0] == "17:45"
