"""Trade plans: one idea that enters once, inside its sessions; impossible levels never get as far as the market."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from tests.trading.plan_files import parsed, problems_of
from tests.trading.samples import CONFIG, eurusd, spx, universe
from trading.calendars import calendar
from trading.execution_functions import get, levels, triggers
from trading.plans import json_schema, parse_plan
from trading.resample import resample
from trading.signals import Action
from trading.strategy import Evaluable, evaluate_anchored, live_window, signal_at
from trading.timeframes import Timeframe, iso

LONG = """\
name: idea
status: active
mode: paper
symbol: EURUSD
direction: long
timeframe: 1h
valid: {from: 2017-12-27, to: 2017-12-29}
entry: {kind: close_above, level: 1.1950}
stop: 1.1915
target: 1.2030
sizing: {kind: fixed, quantity: 10000}
"""


def entries(text: str) -> list[str]:
    evaluation = parsed(text).evaluate({Timeframe.H1: eurusd()}, universe().instruments["EURUSD"])
    return [iso(t)[:16] for t in evaluation.close_time[evaluation.enter_long | evaluation.enter_short]]


def test_the_sample_plan_triggers_in_the_last_two_sessions() -> None:
    path = CONFIG / "plans" / "eurusd_year_end_breakout.yaml"
    plan, problems = parse_plan(path.read_text(), path.name, universe())
    assert plan is not None, problems
    assert isinstance(plan, Evaluable)
    assert (plan.kind, plan.once, plan.symbols, plan.direction) == ("plan", True, ("EURUSD",), "long")
    assert plan.valid_sessions == (date(2017, 12, 27), date(2017, 12, 29))
    evaluation = plan.evaluate({Timeframe.H1: eurusd()}, universe().instruments["EURUSD"])
    row = int(np.flatnonzero(evaluation.enter_long)[0])
    made = signal_at(
        plan, evaluation, row, eurusd(), universe().instruments["EURUSD"], features_version="", partitions=(), mode="paper"
    )
    assert made is not None
    assert (iso(made.close_time), made.action, made.reference_price) == ("2017-12-28T17:00:00Z", Action.ENTER_LONG, 1.19516)
    assert (made.stop_price, made.target_price, made.reason) == (1.1915, 1.203, "close_above(1.195)")


def test_the_entry_fires_where_the_trigger_begins_to_hold_and_not_again_while_it_holds() -> None:
    assert entries(LONG) == ["2017-12-28T17:00", "2017-12-29T07:00"]


def test_a_trigger_that_already_holds_fires_at_the_first_bar_of_the_plans_sessions() -> None:
    assert entries(LONG.replace("1.1950}", "1.1800}").replace("1.1915", "1.1700"))[0] == "2017-12-26T23:00"


def test_outside_its_sessions_a_plan_wants_nothing() -> None:
    assert entries(LONG.replace("2017-12-27, to: 2017-12-29", "2017-12-27, to: 2017-12-27")) == []


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ("{kind: closes_beyond, direction: above, level: 1.1950, count: 3}", ["2017-12-28T19:00", "2017-12-29T09:00"]),
        ("{kind: close_above, level: 1.1950, timeframe: 4h}", None),
        ("1.1950", ["2017-12-28T15:00", "2017-12-28T20:00", "2017-12-29T07:00"]),
        ("{kind: indicator_condition, condition: {cross_above: [close, 1.1950]}}", ["2017-12-28T17:00", "2017-12-29T07:00"]),
    ],
)
def test_every_trigger_says_when(trigger: str, expected: list[str] | None) -> None:
    text = LONG.replace("{kind: close_above, level: 1.1950}", trigger)
    if expected is None:
        (problem,) = problems_of(text)
        assert (problem.line, problem.key, problem.message) == (8, "entry.timeframe", "timeframe 4h is not declared")
        return
    assert entries(text) == expected


def test_a_short_plan_is_the_mirror() -> None:
    text = LONG.replace("long", "short").replace("close_above, level: 1.1950", "close_below, level: 1.1890")
    text = text.replace("1.1915", "{kind: points, points: 0.0035}").replace("1.2030", "{kind: reward, ratio: 2}")
    evaluation = parsed(text).evaluate({Timeframe.H1: eurusd()}, universe().instruments["EURUSD"])
    row = int(np.flatnonzero(evaluation.enter_short)[0])
    assert not evaluation.enter_long.any()
    close = eurusd().close[row]
    assert close < 1.1890
    assert evaluation.stop_short[row] == pytest.approx(close + 0.0035)
    assert evaluation.target_short[row] == pytest.approx(close - 0.0070, abs=1e-5)


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [("invalidation: {kind: close_above, level: 1.1950}", "invalidation.level", "the plan could never enter"),
     ("invalidation: {kind: close_above, level: 1.1880}", "invalidation.level", "the plan could never enter"),
     ("exit: {kind: close_above, level: 1.1950}", "exit.level", "closed at the next bar"),
     ('windows: [{from: "08:00", to: "12:00", days: [sat]}]', "windows[0]", "no 1h bar of EURUSD (FX) ever closes in it")],
    ids=["invalid where it enters", "invalid before it enters", "left where it enters", "a window without a bar"],
)  # fmt: skip
def test_a_plan_that_could_never_enter_or_stay_is_refused(line: str, key: str, words: str) -> None:
    (problem,) = problems_of(LONG + line + "\n")
    assert (problem.line, problem.key) == (12, key)
    assert words in problem.message


@pytest.mark.parametrize(
    "line",
    ["invalidation: {kind: close_above, level: 1.1951}", "invalidation: {kind: close_below, level: 1.1950}",
     "invalidation: {kind: close_above, level: 1.1880, timeframe: 4h}\nconfirm: [4h]",
     "exit: {kind: close_above, level: 1.2100}"],
    ids=["a close above may be lower", "the other side", "another timeframe's close", "an exit farther away"],
)  # fmt: skip
def test_what_may_enter_is_left_alone(line: str) -> None:
    assert parsed(LONG + line + "\n")


def test_a_timeframe_that_a_plan_never_reads_is_a_warning() -> None:
    plan, (warning,) = parse_plan(LONG + "confirm: [4h]\n", "idea.yaml", universe())
    assert plan is not None
    assert (warning.severity, warning.line) == ("warning", 12)


def test_an_exit_trigger_closes_the_plans_own_side() -> None:
    text = LONG + "exit: {kind: close_below, level: 1.1930}\nmax_bars: 5\n"
    evaluation = parsed(text).evaluate({Timeframe.H1: eurusd()}, universe().instruments["EURUSD"])
    np.testing.assert_array_equal(evaluation.exit_long[2:], eurusd().close[2:] < 1.1930)
    assert not evaluation.exit_short.any()
    assert evaluation.max_bars == 5


def test_the_anchored_history_equals_a_live_evaluation_bit_for_bit() -> None:
    plan = parsed(LONG.replace("stop: 1.1915", "stop: {kind: atr, period: 14, multiple: 2}"))
    bars, venue, instrument = {Timeframe.H1: eurusd()}, calendar("FX"), universe().instruments["EURUSD"]
    history = evaluate_anchored(plan, bars, instrument, venue)
    assert history.enter_long.any()
    for row in [*range(0, len(eurusd()), 401), *range(len(eurusd()) - 60, len(eurusd()))]:
        window = live_window(plan, bars, int(eurusd().close_time[row]), int(eurusd().session[row]), venue)
        live = plan.evaluate(window, instrument)
        assert live.enter_long[-1] == history.enter_long[row]
        assert live.stop_long[-1].tobytes() == history.stop_long[row].tobytes()


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ("stop: 1.1915", "stop: 1.1960", 9, "stop", "stop 1.196 is not below the entry 1.195 of a long plan"),
        ("stop: 1.1915", "stop: {kind: level, price: 1.1960}", 9, "stop.price", "stop 1.196 is not below the entry"),
        ("target: 1.2030", "target: 1.1940", 10, "target", "target 1.194 is not above the entry 1.195 of a long plan"),
        ("direction: long", "direction: short", 9, "stop", "stop 1.1915 is not above the entry 1.195 of a short plan"),
        ("stop: 1.1915", "stop: 1.19155555", 9, "stop", "1.19155555 is not on the price grid of EURUSD"),
        ("level: 1.1950", "level: 1.19500001", 8, "entry.level", "is not on the price grid of EURUSD"),
        ("level: 1.1950", "level: -1", 8, "entry.level", "is -1 (a whole number)"),
        ("stop: 1.1915", "stop: {kind: reward, ratio: 1}", 9, "stop.kind", "a stop has no risk"),
        ("symbol: EURUSD", "symbol: EURUSDX", 4, "symbol", "no instrument 'EURUSDX' in universe sample"),
        ("direction: long", "direction: up", 5, "direction", "unknown value 'up'"),
        ("from: 2017-12-27", "from: 2017-12-30", 7, "valid", "to 2017-12-29 lies before from 2017-12-30"),
        ("from: 2017-12-27", "from: 2017-13-01", 7, "valid.from", "is '2017-13-01'"),
        ("kind: close_above", "kind: closes_above", 8, "entry.kind", "unknown value 'closes_above'"),
        ("level: 1.1950", "levle: 1.1950", 8, "entry.levle", "unknown key"),
        ("entry: {kind", "entry: {knd", 8, "entry.kind", "missing"),
        (
            "sizing: {kind: fixed, quantity: 10000}",
            "sizing: {kind: fixed, quantity: 999}",
            11,
            "sizing.quantity",
            "less than one lot",
        ),
    ],
)
def test_each_mistake_is_named_at_its_line(old: str, new: str, line: int, key: str, message: str) -> None:
    assert old in LONG
    problems = problems_of(LONG.replace(old, new, 1))
    match = [p for p in problems if p.key == key]
    assert match, [str(p) for p in problems]
    assert match[0].line == line
    assert message in match[0].message


def test_a_plan_never_worth_its_risk_is_refused_at_its_levels() -> None:
    (problem,) = problems_of(LONG + "gates: {min_reward_to_risk: 3}\n")
    assert (problem.line, problem.key) == (10, "target")
    assert "2.29" in problem.message
    assert problem.expected == "a price at least 1.2055"
    (problem,) = problems_of(LONG.replace("target: 1.2030\n", "") + "gates: {min_reward_to_risk: 3}\n")
    assert "no target" in problem.message


def test_all_problems_of_a_plan_come_at_once() -> None:
    text = LONG.replace("mode:", "mood:").replace("stop: 1.1915", "stop: 1.3").replace("symbol: EURUSD", "symbol: EURUS")
    assert {p.key for p in problems_of(text)} == {"mood", "symbol", "stop"}


def test_triggers_and_levels_are_found_by_name_and_published() -> None:
    assert set(triggers()) == {
        "level", "close_above", "close_back_inside", "close_below", "closes_beyond", "indicator_condition", "multi_timeframe",
    }  # fmt: skip
    assert set(levels()) == {"level", "atr", "percent", "points", "reward"}
    with pytest.raises(KeyError, match="expected one of atr"):
        get("nothing")
    definitions = json_schema()["$defs"]
    assert {"CloseAbove", "AtrLevel", "IndicatorCondition"} <= set(definitions)


class TestOtherInstruments:
    """A plan may ask another instrument of the universe, whatever function asks."""

    HIGH = "{'>': [close, 1.19]}"
    CALM = "{'<': [{price: close, symbol: SPX, timeframe: 1d}, 2680]}"
    PLAIN = f"{{kind: indicator_condition, condition: {{all: [{HIGH}, {CALM}]}}}}"
    SEEN = f"{{kind: multi_timeframe, of: [{{timeframe: 1h, condition: {HIGH}}}, {{timeframe: 1d, condition: {CALM}}}]}}"

    def text(self, entry: str) -> str:
        text = LONG.replace("{kind: close_above, level: 1.1950}", entry)
        return text.replace("timeframe: 1h\n", "timeframe: 1h\nconfirm: [1d]\n", 1).replace("2017-12-27, to", "2017-10-02, to")

    @pytest.mark.parametrize("entry", [PLAIN, SEEN])
    def test_its_series_is_among_those_the_plan_reads(self, entry: str) -> None:
        plan = parsed(self.text(entry))
        assert plan.context == {("SPX", Timeframe.D1): 1}
        instrument = universe().instruments["EURUSD"]
        daily = resample(eurusd(), Timeframe.D1, calendar("FX"))
        bars = {Timeframe.H1: eurusd(), Timeframe.D1: daily, ("SPX", Timeframe.D1): spx()}
        with pytest.raises(ValueError, match="needs 1d bars of SPX"):
            plan.evaluate({Timeframe.H1: eurusd(), Timeframe.D1: daily}, instrument)
        whole = evaluate_anchored(plan, bars, instrument, calendar("FX"))
        (wanted,) = np.flatnonzero(whole.enter_long)[:1]
        at = int(whole.close_time[wanted])
        known = spx().known_at(at)
        assert known.close[-1] < 2680
        window = live_window(plan, bars, at, int(eurusd().session[wanted]), calendar("FX"))
        live = plan.evaluate(window, instrument)
        assert bool(live.enter_long[-1])
        assert live.stop_long[-1] == whole.stop_long[wanted]

    def test_a_misspelt_one_is_named_with_the_nearest(self) -> None:
        (problem,) = [p for p in problems_of(self.text(self.PLAIN.replace("SPX", "SPXX"))) if "SPXX" in p.message]
        assert problem.nearest == "SPX"
