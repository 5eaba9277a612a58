"""Python strategies: the same checks and the same life cycle, and none that looks ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.trading.samples import spx, universe
from trading.bars import Bars
from trading.conditions import Frame
from trading.config_text import Problem
from trading.plugins import PluginError, PluginStrategy, PythonStrategy, Wishes, audit, build
from trading.signals import Action
from trading.strategy import Evaluable
from trading.timeframes import Timeframe

SETTINGS: dict[str, Any] = {
    "name": "probe", "status": "active", "mode": "paper", "symbols": ["SPX"], "timeframe": "1d",
    "exits": {"stop": {"kind": "percent", "percent": 3}}, "sizing": {"kind": "fixed", "quantity": 10},
}  # fmt: skip
SPX = universe().instruments["SPX"]


class Rising(PythonStrategy):
    settings = SETTINGS
    warm_up = 5

    def wishes(self, frame: Frame) -> Wishes:
        close = frame.price("close")
        return Wishes(long=close > frame.price("close", None, 1), exit_long=close < frame.price("close", None, 1))


class Leaking(Rising):
    """The mean of all bars, later ones included."""

    def wishes(self, frame: Frame) -> Wishes:
        close = frame.price("close")
        return Wishes(long=close > close.mean())


class Peeking(Rising):
    """Tomorrow's close."""

    def wishes(self, frame: Frame) -> Wishes:
        close = frame.series().close
        return Wishes(long=np.append(close[1:] > close[:-1], False))


class Breaking(Rising):
    def wishes(self, frame: Frame) -> Wishes:
        raise KeyError("lost")


class Meddling(Rising):
    def wishes(self, frame: Frame) -> Wishes:
        frame.series().close[:] = 1.0
        return Wishes(long=np.ones(len(frame), bool))


class Odd(Rising):
    def wishes(self, frame: Frame) -> Any:
        return Wishes(long=np.ones(3, bool))


class Loose(Rising):
    def wishes(self, frame: Frame) -> Any:
        return [True]


def made(code: type[PythonStrategy], text: str = "") -> tuple[PluginStrategy | None, list[Problem]]:
    return build(code, text or f"class {code.__name__}: pass\n", "plugins/probe.py", universe())


def good() -> PluginStrategy:
    strategy, problems = made(Rising)
    assert strategy is not None, [str(p) for p in problems]
    return strategy


def test_it_is_an_evaluable_like_every_other() -> None:
    strategy = good()
    assert isinstance(strategy, Evaluable)
    assert (strategy.name, strategy.kind, strategy.timeframes, strategy.warm_up) == (
        "probe", "strategy", (Timeframe.D1,), {Timeframe.D1: 5},
    )  # fmt: skip
    found = strategy.evaluate({Timeframe.D1: spx()}, SPX)
    close = spx().close
    np.testing.assert_array_equal(found.enter_long[5:], close[5:] > close[4:-1])
    assert not found.enter_long[:4].any()
    np.testing.assert_array_equal(found.stop_long[10], SPX.round_price(close[10] * 0.97))
    assert strategy.reason(Action.ENTER_LONG) == "Rising long"


@pytest.mark.parametrize(("code", "row"), [(Leaking, "row "), (Peeking, "row ")])
def test_a_strategy_that_looks_ahead_is_refused_with_the_row(code: type[PythonStrategy], row: str) -> None:
    strategy, problems = made(code)
    assert strategy is None
    assert "looks ahead: enter_long at " + row in problems[-1].message


def test_the_audit_passes_what_does_not_look_ahead() -> None:
    assert audit(good(), {Timeframe.D1: spx().rows(slice(0, 800))}, SPX) == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [(Breaking, "KeyError: 'lost'"), (Odd, "long is bool (3,), expected bool ("), (Loose, "gave list, expected Wishes"),
     (Meddling, "read-only")],
)  # fmt: skip
def test_one_that_raises_or_answers_nonsense_is_refused_and_says_why(code: type[PythonStrategy], words: str) -> None:
    strategy, problems = made(code)
    assert strategy is None
    assert words in problems[-1].message


def test_at_run_time_it_raises_an_error_of_its_own_and_cannot_change_the_bars_of_others() -> None:
    class Later(Rising):
        """Well-behaved on the made-up bars, which end in 2024, and not before 2010."""

        def wishes(self, frame: Frame) -> Wishes:
            if frame.series().close_time[-1] < 1_262_304_000_000_000:
                frame.series().close[0] = 0.0
            return super().wishes(frame)

    strategy, _ = made(Later)
    assert strategy is not None
    old = spx().rows(slice(0, 500))
    before = old.close.copy()
    with pytest.raises(PluginError, match="read-only"):
        strategy.evaluate({Timeframe.D1: old}, SPX)
    np.testing.assert_array_equal(old.close, before)


TEXT = '''"""A probe."""

class Wrong(Base):
    settings = {
        "name": "probe",
        "symbols": ["SPXX"],
        "timeframe": "1d",
        "exits": {
            "stop": {"kind": "percent", "percnt": 3},
        },
        "sizing": {"kind": "fixed", "quantity": 10},
    }
'''


def test_a_slip_in_the_settings_is_named_with_its_line_in_the_python_file() -> None:
    class Wrong(Rising):
        settings = {**SETTINGS, "symbols": ["SPXX"], "exits": {"stop": {"kind": "percent", "percnt": 3}}}  # noqa: RUF012

    strategy, problems = made(Wrong, TEXT)
    assert strategy is None
    places = {p.key: p.line for p in problems}
    assert places["symbols[0]"] == 6
    assert places["exits.stop.percnt"] == 9
    assert any(p.nearest == "SPX" for p in problems)


def test_one_for_another_universe_is_neither_loaded_nor_wrong() -> None:
    class Elsewhere(Rising):
        settings = {**SETTINGS, "universe": "lean_us"}  # noqa: RUF012

    assert made(Elsewhere) == (None, [])


def test_it_may_read_other_instruments_and_its_bars_are_checked() -> None:
    class Calm(Rising):
        context = (("VIX", "1d"),)

        def wishes(self, frame: Frame) -> Wishes:
            return Wishes(long=frame.price("close", Timeframe.D1, 0, "VIX") < 20)

    strategy, problems = made(Calm)
    assert strategy is not None, problems
    with pytest.raises(ValueError, match="needs 1d bars of VIX"):
        strategy.evaluate({Timeframe.D1: spx()}, SPX)
    assert isinstance(spx(), Bars)
