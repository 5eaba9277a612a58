"""A model strategy wants what its model says, under the rules of every strategy, and nothing where the model may not be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.trading.samples import spx, universe
from tests.trading.strategies import parsed, problems_of
from trading import models
from trading.bars import Bars
from trading.evaluable import signal_at
from trading.frame import BarWindow
from trading.instruments import Instrument, Mode
from trading.models import ModelStrategy, Wanted
from trading.signals import Signal
from trading.strategy_schema import Filed
from trading.timeframes import Timeframe

FILE = """\
name: follows
kind: model
status: active
mode: paper
symbols: [SPX]
timeframe: 1d
model: {name: drawn}
exits:
  stop: {kind: percent, percent: 2}
sizing: {kind: fixed, quantity: 1}
"""
BARS = spx().rows(slice(0, 300))
SPX = universe().instruments["SPX"]


@dataclass
class Model:
    """Answers by the parity of the day, from row 40 on; remembers what it was asked."""

    version: str = "1"
    timeframe: Timeframe = Timeframe.D1
    symbols: tuple[str, ...] = ("SPX",)
    warm_up: int = 41
    trained_until: int = 0
    margin: float = 0.02
    registered: str = "tapeline-drawn-sample"
    model_hash: str = "m"
    schema_hash: str = "s"
    data_hash: str = "d"
    run_id: str = "r"
    asked: list[tuple[int, int]] = field(default_factory=list)

    def wanted(self, windows: Sequence[tuple[Bars, Instrument, int]], margin: float) -> list[Wanted]:
        out = []
        for bars, _, first in windows:
            self.asked.append((first, len(bars)))
            day = bars.session[first:].astype(np.int64)
            even = day % 2 == 0
            sure = np.where(day % 3 == 0, 0.9, 0.3)
            out.append(Wanted(np.ones(len(day), bool), even, ~even, even, ~even, sure))
        return out


def strategy(text: str = FILE, model: Model | None = None) -> ModelStrategy:
    made = parsed(text)
    assert isinstance(made, ModelStrategy)
    return models.bound(made, model or Model())


def evaluated(s: ModelStrategy, bars: Bars = BARS) -> Any:
    return s.evaluate({Timeframe.D1: bars}, SPX)


class TestWhatItWants:
    def test_is_what_the_model_says_with_a_stop(self) -> None:
        said = evaluated(strategy())
        even = BARS.session.astype(np.int64) % 2 == 0
        assert not said.ready[:40].any()
        assert said.ready[40:].all()
        assert np.array_equal(said.enter_long, said.ready & even)
        assert np.array_equal(said.exit_long, said.ready & ~even)
        assert np.array_equal(said.enter_short, said.ready & ~even)
        assert np.isfinite(said.stop_long[40:]).all()

    def test_one_side_can_be_left_alone_and_exits_to_stop_and_target(self) -> None:
        one = evaluated(strategy(FILE.replace("{name: drawn}", "{name: drawn, fall: none, leave: never}")))
        assert one.enter_long.any()
        assert not one.enter_short.any()
        assert not one.exit_long.any()

    def test_what_it_is_less_sure_of_than_the_file_asks_for_is_not_entered(self) -> None:
        said = evaluated(strategy(FILE.replace("{name: drawn}", "{name: drawn, min_strength: 0.5}")))
        entries = said.enter_long | said.enter_short
        assert entries.any()
        assert (said.strength[entries] == 0.9).all()
        assert said.exit_long.any()  # leaving asks for no strength

    def test_a_bar_it_was_trained_on_is_never_asked_about(self) -> None:
        model = Model(trained_until=int(BARS.close_time[199]))
        said = evaluated(strategy(model=model))
        assert not said.ready[:200].any()
        assert said.ready[200:].all()
        assert model.asked == [(200, 300)]

    def test_only_the_rows_asked_for_are_computed(self) -> None:
        model = Model()
        window = BarWindow({Timeframe.D1: BARS})
        window.tail = 1
        said = strategy(model=model).evaluate(window, SPX)
        assert model.asked == [(299, 300)]
        assert np.array_equal(np.flatnonzero(said.ready), [299])

    def test_instruments_asked_together_are_not_asked_again(self) -> None:
        model = Model()
        s, window = strategy(model=model), BarWindow({Timeframe.D1: BARS})
        window.tail = 1
        s.ask_together([(window, SPX)])
        s.evaluate(window, SPX)
        assert len(model.asked) == 1


class TestWithoutAModel:
    def test_nothing_is_wanted_and_it_says_why(self) -> None:
        s = parsed(FILE)
        assert isinstance(s, ModelStrategy)
        assert s.refused("SPX") == "MODEL_MISSING: model=drawn reason=no champion"
        said = evaluated(s)
        assert not (said.ready | said.enter_long | said.enter_short | said.exit_long).any()

    @pytest.mark.parametrize(
        ("model", "refusal"),
        [(Model(timeframe=Timeframe.H1), "MODEL_SCHEMA: model=drawn version=1 reason=timeframe"),
         (Model(symbols=("COMP",)), "MODEL_SCHEMA: model=drawn reason=not trained on symbol=SPX")],
    )  # fmt: skip
    def test_one_that_does_not_fit_is_refused(self, model: Model, refusal: str) -> None:
        s = strategy(model=model)
        assert s.refused("SPX").startswith(refusal)
        assert not evaluated(s).ready.any()
        assert model.asked == []


class TestItsName:
    def test_another_model_is_another_revision_and_rebinding_leaves_no_trace(self) -> None:
        one, two = strategy(), strategy(model=Model(version="2", model_hash="n", warm_up=90))
        assert one.revision != two.revision
        again = models.bound(two, Model())
        assert (again.revision, again.warm_up) == (one.revision, one.warm_up)
        assert models.unbound(two, "why").revision == parsed(FILE).revision

    def test_a_signal_names_the_model_its_run_and_its_data_and_reads_back(self) -> None:
        s = strategy()
        signal = signal_at(s, evaluated(s), -1, BARS, SPX, features_version="f", partitions=(), mode="paper")
        assert signal is not None
        assert signal.model == {
            "name": "tapeline-drawn-sample", "version": "1", "role": "champion", "hash": "m", "schema": "s", "data": "d",
            "run": "r",
        }  # fmt: skip
        assert Signal.from_dict(signal.to_dict()) == signal
        assert not models.in_shadow_only(signal)

    def test_a_challenger_stands_beside_it_in_shadow_whatever_the_file_says(self) -> None:
        s = models.as_challenger(strategy(), Model(version="2", model_hash="n"))
        assert (s.name, s.mode) == ("follows_challenger", Mode.SHADOW)
        signal = signal_at(s, evaluated(s), -1, BARS, SPX, features_version="", partitions=(), mode="paper")
        assert signal is not None
        assert models.in_shadow_only(signal)
        assert models.champion_of(signal) == "follows"


class TestItsFile:
    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [("{name: drawn}", "{name: drawn, rise: none, fall: none}", "does nothing on either answer"),
         ("{name: drawn}", "{name: drawn, swap: soon}", "when_flat"),
         ("{name: drawn}", "{name: drawn, margin: 0.6}", "0.5"),
         ("model: {name: drawn}\n", "", "model")],
    )  # fmt: skip
    def test_a_mistake_is_named(self, old: str, new: str, said: str) -> None:
        problems = problems_of(FILE.replace(old, new))
        assert any(said in str(p) for p in problems), problems

    def test_a_model_is_no_member_of_an_ensemble(self) -> None:
        from trading.config_text import load_yaml
        from trading.ensembles import bind

        text = FILE.replace("kind: model", "kind: ensemble").replace(
            "model: {name: drawn}", "members: [{strategy: follows}, {strategy: other}]"
        )
        ensemble = parsed(text.replace("name: follows", "name: both", 1))
        assert isinstance(ensemble.rules, Filed)
        bound, problems = bind(ensemble, {"follows": strategy()}, load_yaml(text, "x"))  # type: ignore[arg-type]
        assert bound is None
        assert "models cannot" in str(problems[0])
