# ruff: noqa: F811, F401 - the fixture is imported by name
"""A split across plans: their levels follow it once, and its own stop stays where it was, the disaster stop behind it."""

from __future__ import annotations

from datetime import date

import numpy as np
from sqlalchemy import select

from desk import reconcile
from desk.by_hand import Asked
from desk.managing import TradeManager
from resources.corporate_actions import write_actions
from resources.feeds.protocol import BarClose
from resources.ledger import action_tables as a
from resources.ledger.actions import applied_splits, in_todays_units
from tests.desk.test_corporate_actions import FRI, THU, WED, StockDesk, at, desk, split, stock_bar
from trading.bars import Bars
from trading.plans import Plan, parse_plan
from trading.timeframes import Timeframe


class TestPlans:
    def test_a_plan_written_before_the_split_is_recorded_with_its_revision(self, desk: StockDesk) -> None:
        class Idea:
            name, revision, symbols, valid_sessions = "idea", "r1", ("AAPL",), (WED, FRI)

        class Later(Idea):
            name, valid_sessions = "later", (THU, FRI)

        desk.config.plans = {"idea": Idea(), "later": Later()}
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0))
        with desk.engine.connect() as connection:
            rows = connection.execute(select(a.plan_levels.c.plan, a.plan_levels.c.factor)).all()
            assert [tuple(r) for r in rows] == [("idea", 7.0)]
            assert [s.factor for s in applied_splits(connection)["AAPL"]] == [7.0]
            assert set(in_todays_units(desk.config.plans, connection)) == {"idea", "later"}


DISASTER = """\
name: idea
status: active
mode: paper
symbol: AAPL
direction: long
timeframe: 1h
valid: {from: 2017-12-20, to: 2017-12-29}
entry: 699.00
stop: 665.00
disaster_stop: {kind: percent, percent: 10}
sizing: {kind: fixed, quantity: 100}
"""


class TestADisasterStop:
    """A plan's own stop is judged at closes and a wider one rests at the broker: across a split, both are where they were."""

    def left(self, desk: StockDesk, plan: Plan, bars: list[BarClose]) -> str:
        """Why the trade is left at the last bar's close, "" when it is not."""
        manager = TradeManager(desk.engine, desk.broker, desk.clock)

        class Cache:
            def bars(self, symbol: str, timeframe: Timeframe, start: int, until: int) -> Bars:
                return hourly([b for b in bars if b.close_time <= until])

        known = desk.actions.evaluables({"idea": plan})
        (looked,) = manager.at_close(
            desk.store.open_positions("idea"), known, desk.config.universe.instruments, Cache(),  # type: ignore[arg-type]
            {"AAPL": {Timeframe.H1: hourly(bars[-1:])}}, bars[-1].close_time,
        )  # fmt: skip
        assert looked.trouble == ""
        return looked.leave

    def test_of_a_plan_with_a_level(self, desk: StockDesk) -> None:
        plan, problems = parse_plan(DISASTER, "idea.yaml", desk.config.universe)
        assert plan is not None, problems
        desk.config.plans = {"idea": plan}
        made = desk.submit(
            0, "idea", "AAPL", reference=700.0, stop=630.0, target=None, quantity=100, close_time=at(WED, 1),
            valid_until=at(WED, 2), strategy_revision=plan.revision,
        )  # fmt: skip
        assert made.accepted, made.refusal
        seen = [stock_bar(WED, 1, 700.0), stock_bar(WED, 2, 700.0)]
        desk.bar(seen[-1])
        assert desk.legs(made.intent_ids[0])["stop"] == ("accepted", 100, 630.0)
        write_actions(desk.room, "AAPL", [split(7.0)])
        assert desk.bar(touched := stock_bar(THU, 1, 96.0, low=93.0)) == {}
        assert desk.legs(made.intent_ids[0])["stop"] == ("accepted", 700, 90.0), "a tenth below 100, for every new share"
        assert self.left(desk, plan, [*seen, touched]) == "", "95 was touched, and no hour closed there"
        desk.bar(between := stock_bar(THU, 2, 96.0))
        desk.router.by_hand.reduce(Asked("idea", "AAPL", "half", "too much", "ann"), share=0.5)
        desk.bar(closed := stock_bar(THU, 3, 94.5))
        assert desk.legs(made.intent_ids[0])["stop"] == ("accepted", 350, 90.0)
        assert self.left(desk, plan, [*seen, touched, between, closed]) == "stop_on_close"
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}


def hourly(bars: list[BarClose]) -> Bars:
    columns = [np.array([getattr(b, c) for b in bars], np.float64) for c in ("open", "high", "low", "close", "volume")]
    times, sessions = [b.close_time for b in bars], [b.session for b in bars]
    return Bars("AAPL", Timeframe.H1, np.array(times, np.int64), np.array(sessions, np.int32), *columns)
