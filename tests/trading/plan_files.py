"""Plan files for tests, and the template they may name."""

from __future__ import annotations

from tests.trading.samples import universe
from trading.config_text import Problem
from trading.plans import Plan, parse_plan

TEMPLATE = """\
name: breakout
parameters:
  level: {description: must break}
  stop: {description: wrong}
  target: {description: first, default: 1.2030}
plan:
  direction: long
  timeframe: 1h
  entry: {kind: close_above, level: $level}
  stop: $stop
  target: $target
"""


def parsed(text: str, template: str = TEMPLATE) -> Plan:
    plan, problems = _read(text, template)
    assert plan is not None, [str(p) for p in problems]
    return plan


def problems_of(text: str, template: str = TEMPLATE) -> list[Problem]:
    plan, problems = _read(text, template)
    assert plan is None
    return problems


def _read(text: str, template: str) -> tuple[Plan | None, list[Problem]]:
    return parse_plan(text, "idea.yaml", universe(), {"breakout": ("plans/templates/breakout.yaml", template)})
