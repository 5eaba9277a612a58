"""Open trades of plans: never without a stop, never more closed than is open, wherever the desk is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from desk import events, exit_orders, managing, submission
from desk.by_hand import Asked
from desk.managing import TradeManager
from desk.plan_book import PlanBook
from resources.feeds.protocol import BarClose
from resources.ledger.plans import PlanState, keep_revision
from tests.desk.kit import CASH, INSTRUMENTS, Desk, Rule, bar, config, decision, hour
from trading.backtest import backtest
from trading.bars import Bars
from trading.evaluation import Evaluation
from trading.plans import Plan, parse_plan
from trading.timeframes import Timeframe
from trading.universe import parse_universe

PLAN = """\
name: idea
status: active
mode: paper
symbol: EURUSD
direction: long
timeframe: 1h
valid: {from: 2017-12-20, to: 2017-12-29}
entry: 1.2000
stop: 1.1900
targets:
  - {share: 0.5, at: 1.2100}
  - {share: 0.25, at: 1.2300}
manage:
  - {kind: break_even, after_r: 0.5}
  - {kind: trailing_points, points: 0.0150}
  - {kind: scale_out, share: 0.25, when: {kind: close_above, level: 1.2200}}
sizing: {kind: fixed, quantity: 1000}
"""
PARTS = ((0.5, 1.21), (0.25, 1.23), (0.25, None))
HELD = "SELECT client_id, side, oco_group, order_type, quantity - filled_quantity AS rest FROM paper.orders WHERE reduce_only"


def plan(text_: str = PLAN) -> Plan:
    made, problems = parse_plan(text_, "idea.yaml", config().universe)
    assert made is not None, [str(p) for p in problems]
    return made


def arrays(bars: list[BarClose]) -> Bars:
    columns = [np.array([getattr(b, c) for b in bars], np.float64) for c in ("open", "high", "low", "close", "volume")]
    times = np.array([b.close_time for b in bars], np.int64)
    return Bars("EURUSD", Timeframe.H1, times, np.array([b.session for b in bars], np.int32), *columns)


class Cache:
    """Bars of the hours so far."""

    def __init__(self) -> None:
        self.bars_: list[BarClose] = []

    def bars(self, symbol: str, timeframe: Timeframe, start: int, until: int) -> Bars:
        return arrays([b for b in self.bars_ if b.close_time <= until])


class Life:
    """A desk that has entered the plan at hour 1 and looks after it at every close."""

    def __init__(self, engine: Engine, rules: Plan, parts: Any = PARTS, first: bool = True, stop: float = 1.19) -> None:
        self.desk, self.plan, self.cache = Desk(engine), rules, Cache()
        self.desk.config.plans["idea"] = Rule("idea", once=True)
        self.manager = TradeManager(engine, self.desk.broker, self.desk.clock)
        if first:
            self.desk.open()
            values = {"strategy_revision": rules.revision, "targets": parts, "quantity": 1000.0}
            self.result = self.desk.router.submit_decision(decision(0, "idea", stop=stop, target=1.2166, **values))
            assert self.result.accepted, self.result.refusal

    def close(self, n: int, made: BarClose) -> list[Any]:
        if made not in self.cache.bars_:
            self.cache.bars_.append(made)
        self.desk.close(n, made)
        return self.look(n, made)

    def look(self, n: int, made: BarClose) -> list[Any]:
        self.desk.router.continue_exits()
        closed = {"EURUSD": {Timeframe.H1: arrays([made])}}
        return self.manager.at_close(
            self.desk.store.open_positions("idea"),
            {"idea": self.plan},
            INSTRUMENTS,
            self.cache,
            closed,
            hour(n),  # type: ignore[arg-type]
        )

    def legs(self) -> dict[str, tuple[str, float, float | None]]:
        """Working legs: state, quantity left, level."""
        found = self.desk.store.orders_of_trade(self.result.intent_ids[0])
        return {o.leg: (o.state.value, o.quantity - o.filled_quantity, o.stop_price or o.limit_price) for o in found if o.working}


def guarded(engine: Engine) -> tuple[float, float, float]:
    """(open position at the broker, what its stops would close, what all its exits could close at most).

    Of a group only one order can fill: the largest counts.
    """
    working = " AND state NOT IN ('filled', 'canceled', 'expired', 'rejected')"
    with engine.connect() as connection:
        held = sum(abs(r.quantity) for r in connection.execute(text("SELECT quantity FROM paper.positions")))
        stops: dict[str, float] = {}
        most: dict[str, float] = {}
        for row in connection.execute(text(HELD + working)):
            most[row.oco_group] = max(most.get(row.oco_group, 0.0), row.rest)
            if row.order_type in ("stop", "market"):  # a market exit in the group closes at the next open
                stops[row.oco_group] = max(stops.get(row.oco_group, 0.0), row.rest)
    return held, sum(stops.values()), sum(most.values())


def up(n: int, price: float, spread: float = 0.0005) -> BarClose:
    return bar("EURUSD", n, price, round(price + spread, 4), round(price - spread, 4), price)


def test_every_part_has_its_own_stop_and_target(ledger_engine: Engine) -> None:
    life = Life(ledger_engine, plan())
    life.close(1, up(1, 1.2))
    assert {k: v[1:] for k, v in life.legs().items()} == {
        "stop.1": (500.0, 1.19), "target.1": (500.0, 1.21), "stop.2": (250.0, 1.19), "target.2": (250.0, 1.23),
        "stop.3": (250.0, 1.19),
    }  # fmt: skip
    assert guarded(ledger_engine) == (1000.0, 1000.0, 1000.0)


def test_a_target_takes_its_own_stop_away_and_leaves_the_others(ledger_engine: Engine) -> None:
    life = Life(ledger_engine, plan())
    life.close(1, up(1, 1.2))
    life.close(2, bar("EURUSD", 2, 1.2, 1.2105, 1.1995, 1.2))
    assert sorted(life.legs()) == ["stop.2", "stop.3", "target.2"]
    assert guarded(ledger_engine) == (500.0, 500.0, 500.0)


def test_a_wick_moves_no_stop_and_a_close_does(ledger_engine: Engine) -> None:
    life = Life(ledger_engine, plan())
    life.close(1, up(1, 1.2))
    life.close(2, bar("EURUSD", 2, 1.2, 1.2099, 1.1995, 1.2))
    assert {v[2] for k, v in life.legs().items() if k.startswith("stop")} == {1.19}
    life.close(3, up(3, 1.206))
    moved = {k: v for k, v in life.legs().items() if k.startswith("stop")}
    assert {v[2] for v in moved.values()} == {1.2}
    assert sorted(moved) == [f"stop.{part}:{hour(3)}" for part in (1, 2, 3)]
    assert guarded(ledger_engine) == (1000.0, 1000.0, 1000.0)
    life.close(4, up(4, 1.203))
    assert {v[2] for k, v in life.legs().items() if k.startswith("stop")} == {1.2}, "a stop is never loosened"


def test_a_part_is_scaled_out_at_the_next_open_and_its_stop_goes_with_it(ledger_engine: Engine) -> None:
    life = Life(ledger_engine, plan())
    for n, price in ((1, 1.2), (2, 1.207), (3, 1.2205)):
        life.close(n, up(n, price))
    assert any(leg.startswith("scale.3:") for leg in life.legs())
    assert guarded(ledger_engine) == (500.0, 500.0, 500.0)
    life.close(4, up(4, 1.221))
    assert life.desk.position("idea") == 250.0
    assert sorted(k.split(":")[0] for k in life.legs()) == ["stop.2", "target.2"]
    assert life.close(5, up(5, 1.2212))[0].trouble == ""
    assert life.desk.position("idea") == 250.0, "once"


def test_an_exit_of_the_trade_is_told(ledger_engine: Engine) -> None:
    rules = plan(PLAN + "").rules  # the same plan with a time stop
    assert rules.manage
    timed = plan(PLAN.replace("manage:\n", "manage:\n  - {kind: time_stop, bars: 3}\n"))
    life = Life(ledger_engine, timed)
    leaves = [life.close(n, up(n, 1.2))[0].leave for n in (1, 2, 3)]
    assert leaves == ["", "", "time_stop"]


def test_an_edited_file_moves_stop_and_targets_and_never_loosens(ledger_engine: Engine) -> None:
    life = Life(ledger_engine, plan())
    life.close(1, up(1, 1.2))
    life.plan = plan(PLAN.replace("stop: 1.1900", "stop: 1.1950").replace("at: 1.2300", "at: 1.2250"))
    life.close(2, up(2, 1.2))
    levels = {k.split(":")[0]: v[2] for k, v in life.legs().items()}
    assert levels == {"stop.1": 1.195, "stop.2": 1.195, "stop.3": 1.195, "target.1": 1.21, "target.2": 1.225}
    life.plan = plan(PLAN.replace("stop: 1.1900", "stop: 1.1800"))
    (looked,) = life.close(3, up(3, 1.2))
    assert "looser" in looked.trouble
    assert {v[2] for k, v in life.legs().items() if k.startswith("stop")} == {1.195}
    assert guarded(ledger_engine) == (1000.0, 1000.0, 1000.0)
    with ledger_engine.connect() as connection:
        told = connection.execute(text("SELECT count(*) FROM audit WHERE action = 'leg_moved'")).scalar()
    assert told == 5


class Killed(BaseException):
    """The process is gone."""


PATH = (1.2, 1.2045, 1.206, 1.2095, 1.2155, 1.2205, 1.221, 1.2195, 1.205)


def kills() -> Iterator[int]:
    yield from (1, 4, 6, 9, 12, 14, 17, 19, 22, 25, 28)


@pytest.mark.parametrize("kill", list(kills()))
def test_wherever_the_desk_is_killed_stops_cover_what_is_open(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    passed, active = [0], [False]

    def crash_point(name: str) -> None:
        if active[0]:
            passed[0] += 1
            if passed[0] == kill:
                raise Killed(name)

    for module in (managing, submission, exit_orders, events):
        monkeypatch.setattr(module, "crash_point", crash_point)
    life = Life(ledger_engine, plan())
    active[0] = True
    killed = False
    n = 1
    while n <= len(PATH):
        made = up(n, PATH[n - 1])
        try:
            life.close(n, made)
        except Killed:
            killed = True
            if n > 1:
                held, stops, most = guarded(ledger_engine)
                assert stops == pytest.approx(held)
                assert most <= held + 1e-9
            again = Life(ledger_engine, life.plan, first=False)
            again.cache, again.result = life.cache, life.result
            again.desk.clock.advance(hour(n))
            submission.recover(ledger_engine, again.desk.broker, again.desk.clock)
            life = again
            continue
        held, stops, most = guarded(ledger_engine)
        assert stops == pytest.approx(held)
        assert most <= held + 1e-9
        n += 1
    assert killed or passed[0] < kill
    assert life.desk.position("idea") == 0.0
    with ledger_engine.connect() as connection:
        filled = "SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) FROM fills"
        assert connection.execute(text(filled)).scalar() == pytest.approx(0.0)
        orders = connection.execute(text("SELECT count(*) FROM intents")).scalar()
        sent = connection.execute(text("SELECT count(*) FROM paper.orders")).scalar()
        unknown = connection.execute(text("SELECT count(*) FROM orders WHERE state IN ('unknown', 'sending')")).scalar()
    assert unknown == 0
    assert sent is not None
    assert orders is not None
    assert sent <= orders


@pytest.mark.parametrize(("drift", "later", "levels_met"), [(60, 60, 3), (48, -10, 3), (10, 10, 2)])
def test_the_backtest_makes_the_same_fills_of_several_targets(
    ledger_engine: Engine, drift: int, later: int, levels_met: int
) -> None:
    dice, price, made = random.Random("parts"), 12_000, []
    for n in range(1, 34):
        opened = price + dice.randint(-10, 12)
        price = opened + (dice.randint(-25, drift) if n < 14 else dice.randint(later - 60, later))
        made.append(bar("EURUSD", n, opened / 1e4, (max(opened, price) + 9) / 1e4, (min(opened, price) - 9) / 1e4, price / 1e4))
    first = up(0, 1.2)
    bars = arrays([first, *made])
    size, no = len(bars), np.zeros(len(bars), bool)
    enter, levels = no.copy(), np.full(size, np.nan)
    enter[0] = True
    stop = np.full(size, 1.19)
    parts = tuple((share, np.full(size, np.nan if at is None else at)) for share, at in PARTS)
    evaluation = Evaluation(
        "EURUSD", Timeframe.H1, bars.close_time, ~no, enter, no, no, no, stop, levels, np.full(size, 1.2166), levels,
        np.ones(size), targets=parts,
    )  # fmt: skip
    told = backtest(evaluation, bars, INSTRUMENTS["EURUSD"], cash=CASH, sizing={"kind": "fixed", "quantity": 1000.0}, detail=True)
    life = Life(ledger_engine, plan(PLAN.split("manage:")[0] + "sizing: {kind: fixed, quantity: 1000}\n"))
    for n, one in enumerate(made, 1):
        life.close(n, one)
    with ledger_engine.connect() as connection:
        rows = connection.execute(text("SELECT side, quantity, price FROM fills ORDER BY fill_time, price, quantity")).all()
    ours: dict[tuple[str, float], float] = {}
    for r in rows:
        ours[r.side, round(r.price, 6)] = ours.get((r.side, round(r.price, 6)), 0.0) + r.quantity
    trades, theirs = told.trades, {}
    for i in range(len(trades)):
        for side, level in (("buy", trades.entry_price[i]), ("sell", trades.exit_price[i])):
            if side == "buy" or trades.closed[i]:
                key = (side, round(float(level), 6))
                theirs[key] = theirs.get(key, 0.0) + float(trades.quantity[i])
    assert ours == theirs
    assert len(ours) >= levels_met


DISASTER = """\
name: idea
status: active
mode: paper
symbol: EURUSD
direction: long
timeframe: 1h
valid: {from: 2017-12-20, to: 2017-12-29}
entry: 1.2000
stop: 1.1950
disaster_stop: {kind: percent, percent: 2}
targets: [{share: 0.5, at: 1.2300}]
sizing: {kind: fixed, quantity: 1000}
"""


class TestDisasterStop:
    """The plan's stop is judged at the closes; a wider one rests at the broker for a desk that is dead."""

    def entered(self, engine: Engine) -> Life:
        life = Life(engine, plan(DISASTER), parts=((0.5, 1.23),), stop=1.176)
        life.close(1, up(1, 1.2))
        return life

    def stops(self, life: Life) -> set[float | None]:
        return {v[2] for k, v in life.legs().items() if k.startswith("stop")}

    def test_what_rests_is_the_wider_one(self) -> None:
        made, bars = plan(DISASTER), arrays([up(n, 1.2) for n in range(4)])
        evaluation = made.evaluate({Timeframe.H1: bars}, INSTRUMENTS["EURUSD"])
        assert set(evaluation.stop_long.tolist()) == {1.176}
        near = plan(DISASTER.replace("percent: 2", "percent: 0.1"))
        assert set(near.evaluate({Timeframe.H1: bars}, INSTRUMENTS["EURUSD"]).stop_long.tolist()) == {1.195}, "never the nearer"

    def test_a_wick_beyond_the_stop_closes_nothing_and_a_close_does(self, ledger_engine: Engine) -> None:
        life = self.entered(ledger_engine)
        assert self.stops(life) == {1.176}
        (looked,) = life.close(2, bar("EURUSD", 2, 1.2, 1.2, 1.1800, 1.1960))
        assert (looked.leave, life.desk.position("idea")) == ("", 1000.0)
        (looked,) = life.close(3, up(3, 1.1949))
        assert (looked.leave, looked.trouble) == ("stop_on_close", "")
        assert self.stops(life) == {1.176}, "the resting one stays where it is"

    def test_it_closes_the_trade_of_a_dead_desk(self, ledger_engine: Engine) -> None:
        life = self.entered(ledger_engine)
        life.desk.paper.on_bars(hour(2), [bar("EURUSD", 2, 1.19, 1.19, 1.16, 1.165)])  # nobody looks
        assert life.desk.paper.positions() == []

    def test_it_shrinks_with_the_position(self, ledger_engine: Engine) -> None:
        life = self.entered(ledger_engine)
        life.desk.router.by_hand.reduce(Asked("idea", "EURUSD", "half-of-it", "too much", "ann"), share=0.5)
        life.close(2, up(2, 1.2))
        assert guarded(ledger_engine) == (500.0, 500.0, 500.0)
        assert self.stops(life) == {1.176}

    def test_an_edit_of_the_own_stop_leaves_the_resting_one(self, ledger_engine: Engine) -> None:
        life = self.entered(ledger_engine)
        life.plan = plan(DISASTER.replace("stop: 1.1950", "stop: 1.1990"))
        (looked,) = life.close(2, up(2, 1.1995))
        assert (looked.leave, looked.trouble) == ("", "")
        assert self.stops(life) == {1.176}
        (looked,) = life.close(3, up(3, 1.1985))
        assert looked.leave == "stop_on_close"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"stop: 1.1950": "stop: {kind: atr, period: 14, multiple: 2}"}, "a stop of kind level, points or percent"),
            ({"{kind: percent, percent: 2}": "1.1960"}, "disaster_stop 1.196 is not beyond the stop 1.195"),
            ({"sizing:": "manage: [{kind: break_even, after_r: 1}]\nsizing:"}, "disaster_stop stays where it is"),
        ],
    )
    def test_what_cannot_work_is_a_mistake_of_the_file(self, change: dict[str, str], said: str) -> None:
        written = DISASTER
        for old, new in change.items():
            written = written.replace(old, new)
        made, problems = parse_plan(written, "idea.yaml", config().universe)
        assert made is None
        assert any(said in str(p) for p in problems), [str(p) for p in problems]


class TestTheUniversesDisasterStop:
    """A default for plans that state none, taken where their own stop can be judged at closes."""

    BARE = DISASTER.replace("disaster_stop: {kind: percent, percent: 2}\n", "")

    def parsed(self, text_: str, default: dict[str, Any] | None = None) -> Plan:
        made, problems = parse_plan(
            text_, "idea.yaml", replace(config().universe, disaster_stop=default or {"kind": "percent", "percent": 3.0})
        )
        assert made is not None, [str(p) for p in problems]
        return made

    def test_it_is_as_if_the_plan_had_it(self) -> None:
        made, said = self.parsed(self.BARE), plan(self.BARE + "disaster_stop: {kind: percent, percent: 3.0}\n")
        assert (made.rules.disaster_stop, made.rules.manage) == (said.rules.disaster_stop, said.rules.manage)
        assert self.parsed(self.BARE, {"kind": "atr", "period": 14, "multiple": 6.0}).rules.disaster_stop.multiple == 6.0

    def test_it_is_part_of_the_plans_revision(self) -> None:
        wider = self.parsed(self.BARE, {"kind": "percent", "percent": 4.0})
        assert len({plan(self.BARE).revision, self.parsed(self.BARE).revision, wider.revision}) == 3

    @pytest.mark.parametrize(
        "written",
        [
            DISASTER,
            BARE + "disaster_stop: null\n",
            BARE.replace("stop: 1.1950", "stop: {kind: atr, period: 14, multiple: 2}"),
            BARE + "manage: [{kind: break_even, after_r: 1}]\n",
        ],
        ids=["states its own", "refuses it", "a stop that is another at later closes", "moves its stop"],
    )
    def test_other_plans_are_as_they_are(self, written: str) -> None:
        made, alone = self.parsed(written), plan(written)
        assert (made.revision, made.rules.disaster_stop, made.rules.manage) == (
            alone.revision, alone.rules.disaster_stop, alone.rules.manage,
        )  # fmt: skip

    def test_what_an_open_trade_was_opened_with_stays(self, ledger_engine: Engine) -> None:
        """The desk keeps the text in force with the default of its time in it."""
        universe = config().universe
        for default, percent in ((None, None), ({"kind": "percent", "percent": 3.0}, 3.0)):
            made, _ = parse_plan(self.BARE, "idea.yaml", replace(universe, disaster_stop=default))
            assert made is not None
            state = PlanState("idea", made.revision, "EURUSD", "long", "managing")
            with ledger_engine.begin() as connection:
                keep_revision(connection, "idea", made.revision, made.resolved, hour(0))
                changed = replace(universe, disaster_stop={"kind": "percent", "percent": 9.0})
                kept = PlanBook._of_revision(connection, state, changed)
            assert kept is not None
            assert (kept.revision, getattr(kept.rules.disaster_stop, "percent", None)) == (made.revision, percent)

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("{kind: percent, percent: 3}", ""),
            ("{kind: points, points: 0.01}", "disaster_stop"),
            ("{kind: percent, percent: 120}", "percent"),
        ],
    )
    def test_the_universe_file_says_it(self, written: str, said: str) -> None:
        file = Path("data/config/universe/sample.yaml")
        text_ = (Path(__file__).parents[2] / file).read_text() + f"\ndisaster_stop: {written}\n"
        made, problems = parse_universe(text_, "sample.yaml")
        if said:
            assert made is None
            assert any(said in str(p) for p in problems), [str(p) for p in problems]
        else:
            assert made is not None, [str(p) for p in problems]
            assert made.disaster_stop == {"kind": "percent", "percent": 3.0}
