"""Ensembles: members vote with the weight their regime gives them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trading.samples import eurusd, eurusd_4h, universe
from tests.trading.strategies import parsed, problems_of, sample_text
from trading.calendars import calendar
from trading.config_text import Problem, load_yaml
from trading.ensembles import REGIME_MODELS, Ensemble, bind
from trading.evaluation import Evaluation
from trading.regime import Regime, rule_regimes
from trading.strategy import Strategy, evaluate_anchored, live_window
from trading.timeframes import Timeframe

BARS = {Timeframe.H1: eurusd(), Timeframe.H4: eurusd_4h()}
EURUSD = universe().instruments["EURUSD"]


def members() -> dict[str, Strategy]:
    return {name: parsed(sample_text(name)) for name in ("ema_trend", "rsi_reversion_fx", "rsi_reversion")}


def bound(text: str, known: dict[str, Strategy] | None = None) -> tuple[Ensemble | None, list[Problem]]:
    ensemble = parsed(text)
    assert isinstance(ensemble, Ensemble)
    return bind(ensemble, known if known is not None else members(), load_yaml(text, "probe.yaml"))


def sample(old: str = "", new: str = "") -> Ensemble:
    ensemble, problems = bound(sample_text("fx_ensemble").replace(old, new) if old else sample_text("fx_ensemble"))
    assert ensemble is not None, problems
    return ensemble


def run(ensemble: Strategy) -> Evaluation:
    return ensemble.evaluate(BARS, EURUSD)


def test_the_vote_is_the_weight_of_those_who_want_it_over_the_weight_of_all() -> None:
    ensemble = sample("memory: 3", "memory: 1")
    found = run(ensemble)
    regime = rule_regimes(BARS[Timeframe.H1])
    trend, reversion = (members()[n].evaluate(BARS, EURUSD) for n in ("ema_trend", "rsi_reversion_fx"))
    rows = np.flatnonzero(found.enter_long)
    assert len(rows) > 5
    for row in rows:
        weights = {Regime.TRENDING: (1.0, 0.2), Regime.RANGING: (0.2, 1.0)}[Regime(int(regime[row]))]
        vote = weights[0] * (int(trend.enter_long[row]) - int(trend.enter_short[row]))
        vote += weights[1] * (int(reversion.enter_long[row]) - int(reversion.enter_short[row]))
        assert vote / 1.2 >= 0.6
        assert found.strength[row] == pytest.approx(vote / 1.2)
        assert found.parts["long/ema_trend"][row] + found.parts["long/rsi_reversion_fx"][row] == pytest.approx(vote / 1.2)


def test_in_a_regime_where_nobody_has_a_weight_nobody_enters() -> None:
    found = run(sample())
    quiet = np.isin(rule_regimes(BARS[Timeframe.H1]), (Regime.VOLATILE, Regime.UNKNOWN))
    assert quiet.any()
    assert not (found.enter_long | found.enter_short)[quiet].any()


def test_a_member_that_is_out_of_favour_does_not_enter_alone() -> None:
    found = run(sample("memory: 3", "memory: 1"))
    trend = members()["ema_trend"].evaluate(BARS, EURUSD)
    reversion = members()["rsi_reversion_fx"].evaluate(BARS, EURUSD)
    alone = trend.enter_long & ~reversion.enter_long & (rule_regimes(BARS[Timeframe.H1]) == Regime.RANGING)
    assert alone.any()
    assert not found.enter_long[alone].any()


def test_its_revision_covers_those_of_its_members() -> None:
    changed = members()
    changed["ema_trend"] = parsed(sample_text("ema_trend") + "# looked at again\n")
    other, _ = bound(sample_text("fx_ensemble"), changed)
    assert other is not None
    assert other.revision != sample().revision
    assert sample().timeframes == (Timeframe.H1, Timeframe.H4)


def test_research_is_the_live_answer_bit_for_bit() -> None:
    ensemble, venue = sample(), calendar("FX")
    whole = evaluate_anchored(ensemble, BARS, EURUSD, venue)
    for row in [*np.flatnonzero(whole.enter_long)[-3:], 5000]:
        live = live_window(ensemble, BARS, int(whole.close_time[row]), int(BARS[Timeframe.H1].session[row]), venue)
        last = ensemble.evaluate(live, EURUSD)
        for name in ("ready", "enter_long", "enter_short", "strength", "stop_long"):
            assert getattr(last, name)[-1].tobytes() == getattr(whole, name)[row].tobytes(), name


@pytest.mark.parametrize("model", REGIME_MODELS.values(), ids=REGIME_MODELS)
def test_a_regime_model_says_unknown_before_its_warm_up_and_does_not_look_ahead(model: type) -> None:
    made = model()
    bars = eurusd().rows(slice(0, 2500))
    labels = made.labels(bars)
    assert labels.dtype == np.int8
    assert (labels[: made.warm_up - 2] == Regime.UNKNOWN).all()
    assert set(np.unique(labels)) <= set(Regime)
    assert (made.labels(bars.rows(slice(0, 1800))) == labels[:1800]).all()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("strategy: ema_trend", "strategy: ema_trent", "did you mean 'ema_trend'"),
        ("strategy: ema_trend", "strategy: rsi_reversion", "does not trade EURUSD"),
    ],
)
def test_a_member_that_does_not_fit_is_named(old: str, new: str, words: str) -> None:
    ensemble, problems = bound(sample_text("fx_ensemble").replace(old, new))
    assert ensemble is None
    assert words in str(problems[0])
    lines = sample_text("fx_ensemble").splitlines()
    assert problems[0].line == 1 + next(i for i, line in enumerate(lines) if "strategy: ema_trend" in line)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("strategy: rsi_reversion_fx", "strategy: ema_trend", "a member twice"),
        ("regime: rules", "regime: rule", "did you mean 'rules'"),
    ],
)
def test_a_slip_is_named(old: str, new: str, words: str) -> None:
    assert any(words in str(p) for p in problems_of(sample_text("fx_ensemble").replace(old, new)))


def test_an_ensemble_without_its_members_says_so() -> None:
    with pytest.raises(ValueError, match="has not been given its members"):
        run(parsed(sample_text("fx_ensemble")))
