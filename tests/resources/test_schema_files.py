"""The published schema is the parser's, and it accepts what the parser accepts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from resources.schema_files import COMMENT, FILE, content
from tests.paths import ROOT
from trading.config_text import load_yaml

FILES = sorted((ROOT / "data" / "config" / "strategies").glob("*.yaml"))


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(content()))


def test_the_file_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == content(), "run: python -m resources.schema_files"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_sample_names_it_and_satisfies_it(path: Path) -> None:
    text = path.read_text()
    assert text.splitlines()[0] == COMMENT
    assert (path.parent / COMMENT.split("=")[1]).resolve() == FILE
    assert not [e.message for e in validator().iter_errors(load_yaml(text, path.name).data)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("indicator: ema", "indicator: emaa"),
        ("params: {period: 8}", "params: {perod: 8}"),
        ("timeframe: 1h", "timeframe: 2h"),
        ("status: active", "status: activ"),
        ("cross_above:", "crosses_above:"),
    ],
)
def test_an_editor_marks_a_slip(old: str, new: str) -> None:
    text = next(p for p in FILES if p.stem == "ema_trend").read_text()
    assert old in text
    assert list(validator().iter_errors(load_yaml(text.replace(old, new, 1), "x.yaml").data))
