"""Plans of several parts, plans filled in from templates, and plans that cannot work."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from tests.trading.plan_files import TEMPLATE, parsed, problems_of
from tests.trading.samples import CONFIG, eurusd, universe
from trading.calendars import calendar
from trading.config_text import errors
from trading.plans import Plan, parse_plan
from trading.signals import Signal
from trading.strategy import evaluate_anchored, signal_at
from trading.timeframes import Timeframe

PARTS = """\
name: idea
status: active
mode: paper
symbol: EURUSD
direction: long
timeframe: 1h
valid: {from: 2017-12-27, to: 2017-12-29}
entry: {kind: close_above, level: 1.1950}
stop: 1.1915
targets:
  - {share: 0.5, at: 1.2000}
  - {share: 0.25, at: {kind: reward, ratio: 3}}
manage:
  - {kind: break_even, after_target: 1}
  - {kind: scale_out, share: 0.25, when: {kind: close_below, level: 1.1950}}
sizing: {kind: fixed, quantity: 10000}
"""
FILLED = """\
name: idea
status: active
mode: paper
symbol: EURUSD
valid: {from: 2017-12-27, to: 2017-12-29}
template: breakout
parameters: {level: 1.1950, stop: 1.1915}
sizing: {kind: fixed, quantity: 10000}
"""
TEMPLATES = {"breakout": ("plans/templates/breakout.yaml", TEMPLATE)}


def signal(of: Plan) -> Signal:
    instrument, bars = universe().instruments["EURUSD"], {t: eurusd() for t in of.timeframes}
    evaluation = evaluate_anchored(of, bars, instrument, calendar("FX"))
    row = int(np.flatnonzero(evaluation.enter_long)[0])
    made = signal_at(of, evaluation, row, eurusd(), instrument, features_version="", partitions=(), mode="paper")
    assert made is not None
    return made


def test_a_signal_carries_the_parts_the_position_is_closed_in() -> None:
    made = signal(parsed(PARTS))
    risk = made.reference_price - made.stop_price
    third = round(made.reference_price + 3 * risk, 5)
    assert made.targets == ((0.5, 1.2), (0.25, pytest.approx(third, abs=1.1e-5)), (0.25, None))
    assert made.target_price == pytest.approx((0.5 * 1.2 + 0.25 * third) / 0.75, abs=1.1e-5)
    assert Signal.from_dict(made.to_dict()) == made
    assert "targets" not in signal(parsed(FILLED)).to_dict(), "signals of one target read as they always did"


def test_a_target_and_a_scale_out_share_the_position() -> None:
    text = PARTS.split("targets:")[0] + "target: 1.2100\n" + "manage:" + PARTS.split("manage:")[1]
    assert signal(parsed(text)).targets == ((0.75, 1.21), (0.25, 1.21))


def test_after_its_invalidation_a_plan_wants_nothing() -> None:
    bars, instrument = {Timeframe.H1: eurusd()}, universe().instruments["EURUSD"]
    text = PARTS.replace("1.1950}\nstop", "1.1950}\ninvalidation: {kind: close_above, level: 1.1958}\nstop")
    before = parsed(PARTS).evaluate(bars, instrument)
    after = parsed(text).evaluate(bars, instrument)
    first = int(np.flatnonzero((eurusd().close > 1.1958) & (eurusd().session >= np.datetime64("2017-12-27").astype(int)))[0])
    np.testing.assert_array_equal(after.enter_long[:first], before.enter_long[:first])
    assert before.enter_long[first:].any()
    assert not after.enter_long[first:].any()


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ("share: 0.25, at", "share: 0.5, at", 15, "manage[1].share", "the shares add up to 1.25"),
        ("share: 0.5, at: 1.2000", "share: 0.5, at: 1.1940", 11, "targets[0].at", "target 1.194 is not above the entry 1.195"),
        ("at: 1.2000", "at: 1.20000001", 11, "targets[0].at", "is not on the price grid"),
        ("after_target: 1", "after_target: 3", 14, "manage[0].after_target", "after_target 3, and the plan has 2 target(s)"),
        ("after_target: 1", "after_r: 1, after_target: 1", 14, "manage[0]", "needs one of after_r and after_target"),
        ("kind: break_even", "kind: break_evn", 14, "manage[0].kind", "unknown value 'break_evn'"),
        ("kind: close_below", "kind: close_belw", 15, "manage[1].when", "no trigger 'close_belw'"),
        ("targets:", "target: 1.2\ntargets:", 1, "", "has both target and targets"),
        ("from: 2017-12-27, to: 2017-12-29", "from: 2017-12-23, to: 2017-12-24", 7, "valid", "has no session from"),
    ],
)
def test_a_plan_that_cannot_work_is_found_with_its_line(old: str, new: str, line: int, key: str, message: str) -> None:
    found = problems_of(PARTS.replace(old, new))
    assert any((p.line, p.key) == (line, key) and message in p.message for p in found), [str(p) for p in found]


def test_a_plan_whose_sessions_are_over_is_warned_of() -> None:
    made, problems = parse_plan(PARTS, "idea.yaml", universe(), today=date(2018, 1, 2))
    assert made is not None
    assert not errors(problems)
    assert [(p.line, p.key, p.severity) for p in problems] == [(7, "valid.to", "warning")]


def test_a_template_is_filled_in_and_the_plans_own_keys_count_first() -> None:
    made = parsed(FILLED)
    assert (made.rules.entry.level, made.rules.stop.price, made.rules.target.price) == (1.195, 1.1915, 1.203)
    assert parsed(FILLED + "target: 1.2100\n").rules.target.price == 1.21
    assert parsed(FILLED, TEMPLATE + "  max_bars: 5\n").max_bars == 5
    assert made.revision != parsed(FILLED, TEMPLATE + "  max_bars: 5\n").revision, "the template is part of the revision"
    again, _ = parse_plan(made.resolved, "stored", universe())
    assert again is not None
    assert again.rules == made.rules


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("template: breakout", "template: brakeout", 6, "template", "no template 'brakeout'"),
        ("level: 1.1950, ", "", 7, "parameters", "parameter level is missing (plans/templates/breakout.yaml:3)"),
        ("level: 1.1950", "levl: 1.1950, level: 1.1950", 7, "parameters.levl", "has no parameter 'levl'"),
        ("stop: 1.1915", "stop: 1.1960", 7, "parameters.stop", "(plans/templates/breakout.yaml:10: stop)"),
        ("level: 1.1950", "level: high", 7, "parameters.level", "(plans/templates/breakout.yaml:9: entry.level)"),
        ("template: breakout\n", "", 6, "parameters", "belongs to a template"),
    ],
)
def test_a_mistake_names_the_plans_line_and_the_templates(old: str, new: str, line: int, key: str, words: str) -> None:
    found = problems_of(FILLED.replace(old, new))
    assert any((p.line, p.key) == (line, key) and words in p.message for p in found), [str(p) for p in found]


def test_a_mistake_in_the_template_names_its_own_line() -> None:
    found = problems_of(FILLED, TEMPLATE.replace("timeframe: 1h", "timeframe: 1x"))
    assert [p.line for p in found] == [6]
    assert "(plans/templates/breakout.yaml:8: timeframe)" in found[0].message
    (stray,) = problems_of(FILLED, TEMPLATE.replace("level: $level", "level: $levl"))
    assert "names parameter 'levl', which the template does not state" in stray.message
    assert stray.nearest == "level"


def test_the_sample_plan_of_the_template_is_good() -> None:
    path, template = CONFIG / "plans" / "eurusd_autumn_breakdown.yaml", CONFIG / "plans" / "templates" / "breakout.yaml"
    made, problems = parse_plan(path.read_text(), path.name, universe(), {"breakout": (template.name, template.read_text())})
    assert made is not None, [str(p) for p in problems]
    evaluation = made.evaluate({Timeframe.H1: eurusd()}, universe().instruments["EURUSD"])
    assert evaluation.enter_short.sum() == 2  # of which the desk takes the first
