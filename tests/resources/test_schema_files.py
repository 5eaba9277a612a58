"""The published schemas are the parsers', and they accept what the parsers accept."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from resources.schema_files import CONFIG, SCHEMAS, Published
from trading.config_text import load_yaml

FILES = [(schema, path) for schema in SCHEMAS for path in sorted((CONFIG / schema.folder).glob("*.yaml"))]
BY_NAME = {schema.name: schema for schema in SCHEMAS}


@cache
def validator(schema: Published) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema.content()))
    return jsonschema.Draft202012Validator(json.loads(schema.content()))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_the_file_is_current(schema: Published) -> None:
    assert schema.file.read_text(encoding="utf-8") == schema.content(), "run: python -m resources.schema_files"


@pytest.mark.parametrize(("schema", "path"), FILES, ids=lambda v: getattr(v, "stem", getattr(v, "name", "")))
def test_every_sample_names_it_and_satisfies_it(schema: Published, path: Path) -> None:
    text = path.read_text()
    assert text.splitlines()[0] == schema.comment
    assert (path.parent / schema.comment.split("=")[1]).resolve() == schema.file
    assert not [e.message for e in validator(schema).iter_errors(load_yaml(text, path.name).data)]


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("strategy", "ema_trend", "indicator: ema", "indicator: emaa"),
        ("strategy", "ema_trend", "params: {period: 8}", "params: {perod: 8}"),
        ("strategy", "ema_trend", "timeframe: 1h", "timeframe: 2h"),
        ("strategy", "ema_trend", "status: active", "status: activ"),
        ("strategy", "ema_trend", "cross_above:", "crosses_above:"),
        ("plan", "eurusd_year_end_breakout", "kind: close_above", "kind: close_abov"),
        ("plan", "eurusd_year_end_breakout", "direction: long", "direction: up"),
        ("plan", "eurusd_year_end_breakout", "stop: 1.1915", "stop: {kind: percent, percnt: 1}"),
        ("plan", "eurusd_year_end_breakout", "target: 1.2030", "tarket: 1.2030"),
        ("plan", "eurusd_autumn_breakdown", "template: breakout", "templat: breakout"),
        ("plan_template", "breakout", "manage:", "manag:"),
        ("plan_template", "breakout", "parameters:", "parameter:"),
        ("research", "ema_trend", "values:", "valus:"),
        ("research", "ema_trend", "strategy: ema_trend", "strategi: ema_trend"),
    ],
)
def test_an_editor_marks_a_slip(name: str, file: str, old: str, new: str) -> None:
    schema = BY_NAME[name]
    text = (CONFIG / schema.folder / f"{file}.yaml").read_text()
    assert old in text
    assert list(validator(schema).iter_errors(load_yaml(text.replace(old, new, 1), "x.yaml").data))


def test_a_scale_out_completes_with_every_trigger() -> None:
    plan = load_yaml((CONFIG / "plans" / "eurusd_year_end_breakout.yaml").read_text(), "x").data
    good = {"kind": "scale_out", "share": 0.5, "when": {"kind": "close_above", "level": 1.2}}
    assert not list(validator(BY_NAME["plan"]).iter_errors({**plan, "manage": [good]}))
    bad = {**good, "when": {"kind": "close_above", "levle": 1.2}}
    assert list(validator(BY_NAME["plan"]).iter_errors({**plan, "manage": [bad]}))
