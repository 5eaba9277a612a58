"""The look-ahead audit: what is honest passes, what looks ahead is named with the first row that differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.trading.samples import eurusd, eurusd_4h, universe
from tests.trading.strategies import parsed, sample_text
from trading import audit
from trading.calendars import calendar
from trading.evaluable import evaluate_anchored
from trading.execution_functions import REGISTRY, load
from trading.gated import gated
from trading.strategy import RuleStrategy
from trading.timeframes import Timeframe

H1, H4 = Timeframe.H1, Timeframe.H4
BARS = eurusd().rows(slice(-700, None))
FX = universe().instruments["EURUSD"]


class TestWhatIsHonest:
    def test_every_feature_indicator_pattern_and_function_passes_on_real_bars(self) -> None:
        verdicts = audit.audit_catalogue(BARS, FX, cuts=4)
        assert [(a.kind, a.name, str(a.leak or a.error)) for a in verdicts if not a.passed] == []
        assert {a.kind for a in verdicts} == {"feature", "indicator", "pattern", "function"}

    def test_every_registered_function_has_an_example(self) -> None:
        load()
        for function in REGISTRY.values():
            assert audit.example_of(function, BARS).kind == function.NAME

    @pytest.mark.parametrize("name", ["ema_trend", "rsi_reversion_fx", "fx_structure"])
    def test_the_sample_strategies_pass(self, name: str) -> None:
        first = int(BARS.session[0])
        windows = {H1: BARS, H4: eurusd_4h().rows(eurusd_4h().session >= first)}
        strategy = parsed(sample_text(name))
        verdict = audit.audit_evaluable(strategy, {t: windows[t] for t in strategy.timeframes}, FX, cuts=6)
        assert verdict.passed, verdict


class TestWhatLooksAhead:
    @pytest.mark.parametrize("ahead", [1, 3, 20])
    def test_a_column_that_knows_a_later_close_is_named(self, ahead: int) -> None:
        def compute(bars: Any) -> dict[str, np.ndarray]:
            close = bars[H1].close
            return {"honest": close, "leak": np.concatenate([close[ahead:], np.full(min(ahead, len(close)), np.nan)])}

        verdict = audit.audit("feature", "leak", compute, {H1: BARS})
        assert verdict.leak is not None
        assert verdict.leak.column == "leak"
        cut_row = int(np.searchsorted(BARS.close_time, verdict.leak.cut))
        assert verdict.leak.row == max(0, cut_row - ahead + 1)

    def test_a_normalisation_over_the_whole_history_is_caught(self) -> None:
        """The commonest leak: mean and deviation of everything, the bars to come included."""

        def compute(bars: Any) -> dict[str, np.ndarray]:
            close = bars[H1].close
            return {"z": (close - close.mean()) / close.std()}

        verdict = audit.audit("feature", "z", compute, {H1: BARS}, cuts=4)
        assert verdict.leak is not None
        assert verdict.leak.row == 0

    def test_a_rare_wish_that_looks_ahead_is_found_because_the_audit_cuts_where_it_speaks(self) -> None:
        class Peeks(RuleStrategy):
            def evaluate(self, bars: Any, instrument: Any) -> Any:
                e = RuleStrategy.evaluate(self, bars, instrument)
                close = bars[self.timeframe].close
                rises = np.append(close[1:] > close[:-1], False)
                return replace(e, enter_long=e.enter_long & rises)

        honest = parsed(sample_text("rsi_reversion_fx"))
        peeks = Peeks(**{name: getattr(honest, name) for name in honest.__dataclass_fields__})
        verdict = audit.audit_evaluable(peeks, {H1: eurusd()}, FX, cuts=40)
        assert verdict.leak is not None
        assert verdict.leak.column == "enter_long"

    def test_a_wish_that_a_gate_refuses_in_the_history_is_no_look_ahead(self) -> None:
        guarded = gated(parsed(sample_text("eurusd_guarded")))  # without its news every wish is refused
        windows = {H1: BARS, H4: eurusd_4h().rows(eurusd_4h().session >= int(BARS.session[0]))}
        assert not evaluate_anchored(guarded, windows, FX, calendar("FX")).enter_long.any()
        verdict = audit.audit_evaluable(guarded, windows, FX, cuts=60, whole_cuts=0)
        assert (verdict.leak, verdict.error) == (None, "")

    @pytest.mark.parametrize("column", ["target of part 1", "part long/4h trend"])
    def test_a_part_of_a_target_or_of_a_score_that_looks_ahead_is_named(self, column: str) -> None:
        honest = parsed(sample_text("fx_structure"))

        class Peeks(RuleStrategy):
            def evaluate(self, bars: Any, instrument: Any) -> Any:
                e = RuleStrategy.evaluate(self, bars, instrument)
                tomorrow = np.append(bars[self.timeframe].close[1:], np.nan)
                if column.startswith("part"):
                    return replace(e, parts={**e.parts, "long/4h trend": tomorrow})
                return replace(e, targets=((0.5, tomorrow),))

        peeks = Peeks(**{name: getattr(honest, name) for name in honest.__dataclass_fields__})
        first = int(BARS.session[0])
        windows = {H1: BARS, H4: eurusd_4h().rows(eurusd_4h().session >= first)}
        verdict = audit.audit_evaluable(peeks, windows, FX, cuts=6)
        assert verdict.leak is not None
        assert verdict.leak.column == column

    def test_a_higher_timeframe_seen_before_its_close_is_caught(self) -> None:
        def compute(bars: Any) -> dict[str, np.ndarray]:
            at = np.searchsorted(bars[H4].close_time, bars[H1].close_time, side="left")
            return {"forming": bars[H4].close[np.minimum(at, len(bars[H4]) - 1)]}

        known = eurusd_4h().rows(eurusd_4h().session >= BARS.session[0])
        assert audit.audit("feature", "forming", compute, {H1: BARS, H4: known}).leak is not None

    def test_what_breaks_is_no_pass(self) -> None:
        def compute(bars: Any) -> dict[str, np.ndarray]:
            raise RuntimeError("no")

        verdict = audit.audit("feature", "broken", compute, {H1: BARS})
        assert (verdict.passed, verdict.error) == (False, "RuntimeError: no")

    def test_nothing_to_cut_is_no_pass(self) -> None:
        assert not audit.audit("feature", "short", lambda b: {"c": b[H1].close}, {H1: BARS.rows(slice(0, 1))}).passed
