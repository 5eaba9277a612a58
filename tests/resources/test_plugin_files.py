"""Plug-in files: what they add is there while they are, a broken one leaves nothing behind and stops nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resources.config import Config, load_config
from resources.plugin_files import load_plugins
from resources.settings import Settings
from tests.paths import ROOT
from tests.trading.samples import eurusd
from trading import execution_functions, patterns
from trading.backtest import backtest
from trading.gates.base import GATES
from trading.ids import file_revision

STRATEGY = """
from trading.plugins import PythonStrategy, Wishes


class Probe(PythonStrategy):
    settings = {
        "name": "probe", "universe": "sample", "status": "active", "mode": "shadow", "symbols": ["SPX"], "timeframe": "1d",
        "exits": {"stop": {"kind": "percent", "percent": 3}}, "sizing": {"kind": "fixed", "quantity": 10},
    }

    def wishes(self, frame):
        return Wishes(long=frame.price("close") > frame.price("open"))
"""

REGISTERING = """
from typing import ClassVar, Literal

import numpy as np

from trading.execution_functions.base import Level, register
from trading.gates.base import GATES, passed
from trading.patterns.base import pattern
from trading.refusals import RefusalCode


@GATES.register("house_rule", 95)
class HouseRule:
    code = RefusalCode.CONFIG_INVALID

    def judge(self, snapshot):
        return passed("house_rule", "", "")


@register
class HalfLevel(Level):
    NAME: ClassVar[str] = "half"
    kind: Literal["half"] = "half"

    def at(self, frame, direction, reference, risk):
        return reference * (1 + direction * 0.5)


@pattern("higher_close", ("close",), before=lambda p: 1, what="a higher close", definition="close > close[1]", reference="-")
def _higher(bars, columns, p):
    signal = np.zeros(len(columns[0]))
    signal[1:] = columns[0][1:] > columns[0][:-1]
    return (signal,)
"""

USING = """\
name: using
universe: sample
symbols: [SPX]
timeframe: 1d
entry:
  long: {pattern: higher_close, direction: up}
exits:
  stop: {kind: half}
sizing: {kind: fixed, quantity: 10}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project's config without its plug-ins; what the test adds is taken back."""
    copy = Path(shutil.copytree(ROOT / "data" / "config", tmp_path / "config"))
    shutil.rmtree(copy / "plugins", ignore_errors=True)
    (copy / "plugins").mkdir()
    yield copy
    shutil.rmtree(copy / "plugins")
    load(copy)


def load(folder: Path) -> Config:
    return load_config(Settings(config_dir=folder, universe="sample"))  # type: ignore[call-arg]


def problems(folder: Path) -> list[str]:
    return [str(p) for p in load(folder).problems]


def test_a_strategy_file_is_loaded_with_the_revision_of_its_content(folder: Path) -> None:
    (folder / "plugins" / "probe.py").write_text(STRATEGY)
    config = load(folder)
    assert config.problems == []
    strategy = config.strategies["probe"]
    assert (strategy.status, strategy.revision) == ("active", file_revision(STRATEGY))
    (folder / "plugins" / "probe.py").write_text(STRATEGY.replace('"active"', '"paused"'))
    assert load(folder).strategies["probe"].status == "paused"
    assert load(folder).strategies["probe"].revision != strategy.revision


def test_the_projects_own_sample_loads_and_sends_nothing() -> None:
    config = load(ROOT / "data" / "config")
    sample = config.strategies["squeeze_release"]
    assert (sample.status, str(sample.mode)) == ("paused", "shadow")
    assert not [f for f in config.files if f.kind == "plugins" and f.problems]


def test_what_a_plugin_registers_can_be_used_by_files_and_goes_with_it(folder: Path) -> None:
    (folder / "strategies" / "using.yaml").write_text(USING)
    assert any("no pattern 'higher_close'" in p for p in problems(folder))
    (folder / "plugins" / "house.py").write_text(REGISTERING)
    config = load(folder)
    assert config.problems == []
    assert "using" in config.strategies
    assert "house_rule" in GATES.names()
    (folder / "plugins" / "house.py").unlink()
    assert any("no pattern 'higher_close'" in p for p in problems(folder))
    assert "house_rule" not in GATES.names()
    assert "half" not in execution_functions.REGISTRY


FUNCTIONS = """
from typing import ClassVar, Literal

from trading.execution_functions import Trigger, register
from trading.execution_functions.managing import Trade, TradeExit


@register
class InsideClose(Trigger):
    NAME: ClassVar[str] = "inside_close"
    kind: Literal["inside_close"] = "inside_close"

    def holds(self, frame):
        close = frame.price("close")
        return (close < frame.price("high", None, 1)) & (close > frame.price("low", None, 1))


@register
class FirstClose(TradeExit):
    NAME: ClassVar[str] = "first_close"
    kind: Literal["first_close"] = "first_close"

    def leaves(self, frame, trade: Trade, instrument):
        return trade.held(frame)
"""

PLAN = """\
name: own_functions
universe: sample
status: active
mode: paper
symbol: EURUSD
direction: long
timeframe: 1h
valid: {from: 2017-12-27, to: 2017-12-29}
entry: {kind: inside_close}
stop: {kind: percent, percent: 2}
manage: [{kind: first_close}]
sizing: {kind: fixed, quantity: 1000}
"""


def test_a_plan_is_entered_and_left_by_functions_of_a_small_python_file(folder: Path) -> None:
    (folder / "plans" / "own_functions.yaml").write_text(PLAN)
    assert any("inside_close" in p for p in problems(folder))
    (folder / "plugins" / "functions.py").write_text(FUNCTIONS)
    config = load(folder)
    assert config.problems == []
    instruments = {"EURUSD": config.universe.instruments["EURUSD"]}
    bars = eurusd()
    result = backtest(config.plans["own_functions"], {"EURUSD": bars}, instruments, cash=1e5)
    (trade,) = result.trades.rows()
    decided = int(np.searchsorted(bars.close_time, result.trades.signal_time[0]))
    assert bars.low[decided - 1] < bars.close[decided] < bars.high[decided - 1]
    assert (trade["reason"], int(result.trades.bars_held[0])) == ("managed", 1), "at the first close it asks to leave"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ndef broken(:\n", "plugins/bad.py:2: not Python"),
        ("import math\n\n\nmath.sqrt(-1)\n", "plugins/bad.py:4: ValueError"),
        (REGISTERING + "\nraise SystemExit(1)\n", "SystemExit"),
        (STRATEGY + STRATEGY.replace("Probe", "Other"), "holds 2 strategies"),
        (STRATEGY.replace('"percent": 3', '"percnt": 3'), "plugins/bad.py:8: exits.stop.percnt: unknown key"),
        (STRATEGY.replace('"sample"', '"smaple"'), "no universe 'smaple'"),
        (
            STRATEGY.replace("return Wishes(", "c = frame.series().close; return Wishes(long=c > c.mean()) or Wishes("),
            "looks ahead",
        ),
        (REGISTERING.replace("house_rule", "session").replace("HouseRule", "Session"), "exists already"),
    ],
    ids=["syntax", "raises", "exits", "two", "slip", "universe", "leak", "replaces"],
)
def test_a_bad_one_is_named_by_file_and_line_and_the_others_go_on(folder: Path, text: str, words: str) -> None:
    gates, known = GATES.names(), dict(patterns.patterns())
    session = dict(GATES.ordered())["session"]
    (folder / "plugins" / "bad.py").write_text(text)
    (folder / "plugins" / "probe.py").write_text(STRATEGY.replace('"probe"', '"well"'))
    found = problems(folder)
    assert any(words in p for p in found), found
    assert {"well", "ema_trend"} <= set(load(folder).strategies)
    assert GATES.names() == gates
    assert dict(GATES.ordered())["session"] is session, "nothing of ours is replaced"
    assert patterns.patterns() == known


def test_a_file_is_run_once_for_its_content(folder: Path) -> None:
    counter = folder / "count"
    (folder / "plugins" / "counting.py").write_text(f"with open({str(counter)!r}, 'a') as f:\n    f.write('x')\n")
    for _ in range(3):
        load(folder)
    assert counter.read_text() == "x"


def test_without_a_folder_there_are_none(folder: Path) -> None:
    assert load_plugins(folder / "nowhere", load(folder).universe) == []


def test_two_strategies_of_one_name_are_nobodys(folder: Path) -> None:
    (folder / "plugins" / "probe.py").write_text(STRATEGY.replace('"probe"', '"ema_trend"'))
    config = load(folder)
    assert "ema_trend" not in config.strategies
    assert any("is also that of plugins/probe.py" in str(p) for p in config.problems)
