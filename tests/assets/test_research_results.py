"""Research on the sample: every question answered for every strategy, kept by revision, and two revisions compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from assets import research, research_checks, research_results, research_run, trade_lane
from assets.replay_check import newest_session, replay
from assets.research_compare import compare_revisions
from assets.research_figures import percent
from resources.config import load_config
from resources.dagster_resources import resource_definitions
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.settings import Settings
from tests.assets.sample_lake import fill, installation
from trading.ids import file_revision
from trading.signals import Signal
from trading.strategy import RuleStrategy

pytestmark = pytest.mark.e2e
NAME, OTHER = "ema_trend", "eurusd_year_end_breakout"
SESSION = "2017-12-28"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    with installation(tmp_path_factory.mktemp("results"), TAPELINE_MLFLOW_PORT="1") as settings:
        yield settings, fill(settings)


def materialise(assets: list[Any], fine: bool = True, **config: Any) -> dg.ExecuteInProcessResult:
    ops = {a.key.path[-1]: {"config": config} for a in assets if config and isinstance(a, dg.AssetsDefinition)}
    made = dg.materialize(
        assets, resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral(), run_config={"ops": ops},
        raise_on_error=fine,
    )  # fmt: skip
    assert made.success or not fine
    return made


@pytest.fixture(scope="module")
def deep(sample: tuple[Settings, Lake]) -> dg.ExecuteInProcessResult:
    """Everything of research for two strategies, once."""
    chosen = [research.strategies, research_checks.no_look_ahead]
    assert materialise(chosen).success
    assert materialise([*research_results.DEEP], strategies=[NAME, OTHER], runs=5).success
    result = materialise([*research_results.LIGHT], strategies=[NAME, OTHER], paths=200, random_seeds=4)
    assert result.success
    return result


def test_a_figure_that_is_nothing_has_no_sign() -> None:
    assert [percent(x) for x in (0.0, -0.0, -1e-6, 1e-6, 0.01, -0.01, float("nan"))] == [
        "0.00 %", "0.00 %", "0.00 %", "0.00 %", "+1.00 %", "-1.00 %", "–",
    ]  # fmt: skip


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node(asset)
    return {k: v.value for k, v in made.metadata.items()}


def test_the_promotion_table_has_a_verdict_for_every_criterion(deep: dg.ExecuteInProcessResult) -> None:
    table = shown(deep, "strategy_promotion")
    assert sum(table[NAME].count(f"| {verdict} |") for verdict in ("met", "not met", "unknown: fails")) == 14
    assert "| probability of backtest overfitting | not known" not in table[NAME]
    assert "| probability of backtest overfitting | not known" in table[OTHER], "it has no grid"
    (check,) = deep.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("research_promotion", False)
    assert table["believed"].startswith("![every strategy"), "one picture of all of them beside each other"
    deflated = next(line for line in table[NAME].splitlines() if "deflated" in line)
    assert "| not known |" in deflated
    assert "| unknown: fails | N is not known: MLflow does not answer" in deflated


def test_figures_are_kept_by_revision_and_the_page_shows_the_pictures(
    sample: tuple[Settings, Lake], deep: dg.ExecuteInProcessResult
) -> None:
    config, store = load_config(sample[0]), research_results.research_store()
    revision = config.strategies[NAME].revision
    grid = store.get(NAME, revision, "grid")
    assert grid is not None
    assert (grid["variants"], grid["failed"], grid["trials_total"]) == (27, {}, 27)
    arrays = store.arrays(NAME, revision, "grid") or {}
    assert arrays["returns"].shape == (len(arrays["times"]), 27)
    page = (store.folder(NAME, revision) / "report.html").read_text()
    assert page.count("<img") == 6
    assert "job research_deep" not in page


def test_an_active_strategy_that_could_not_be_judged_is_not_promoted(
    sample: tuple[Settings, Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("assets.research_verdicts.promotion_of", broken)
    made = materialise([research_results.strategy_promotion], strategies=[NAME])
    (check,) = made.get_asset_check_evaluations()
    assert (check.passed, check.description) == (False, "0 of 1 active strategies meet every criterion")
    assert "could not be judged" in shown(made, "strategy_promotion")["verdicts"]


class TestAnswersAreKept:
    """Of the same bars, files and code nothing is worked out twice."""

    def again(self, **config: Any) -> dg.ExecuteInProcessResult:
        chosen = {"strategies": [NAME], "paths": 200, "random_seeds": 4, **config}
        return materialise([research_results.strategy_baselines], fine=False, **chosen)

    def test_a_question_answered_before_is_shown_as_it_was(
        self, deep: dg.ExecuteInProcessResult, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def worked(*_: Any, **__: Any) -> None:
            raise AssertionError("worked out again")

        monkeypatch.setattr("trading.baselines.random_entries", worked)
        before, now = shown(deep, "strategy_baselines"), shown(self.again(), "strategy_baselines")
        assert {k: v for k, v in now.items() if NAME in k} == {k: v for k, v in before.items() if NAME in k}
        assert now["splits"].splitlines()[-1] in before["splits"]
        assert not self.again(random_seeds=3).success, "another question"
        assert not self.again(fresh=True).success

    def test_other_code_or_limits_or_plugins_are_another_basis(
        self, sample: tuple[Settings, Lake], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = load_config(sample[0])
        basis = research_results._basis(config, "baselines", {"seeds": 4})
        assert basis == research_results._basis(config, "baselines", {"seeds": 4})
        tighter = replace(config, limits=config.limits.model_copy(update={"max_notional": 1.0}))
        other = replace(config, files=[replace(f, revision="x") if f.kind == "plugins" else f for f in config.files])
        kinds = [("monte_carlo", config, 4), ("baselines", config, 5), ("baselines", tighter, 4), ("baselines", other, 4)]
        assert basis not in {research_results._basis(c, kind, {"seeds": n}) for kind, c, n in kinds}
        monkeypatch.setattr(research_results, "_sources", lambda: "other code")
        assert basis != research_results._basis(config, "baselines", {"seeds": 4})

    def test_a_strategy_file_that_asks_for_more_gets_it(self, sample: tuple[Settings, Lake]) -> None:
        path = sample[0].config / "strategies" / "rsi_reversion_fx.yaml"
        text = path.read_text()
        asking = "\nresearch: {monte_carlo: {paths: 150}, random_entries: {seeds: 3}, cost_factors: [10]}\n"
        try:
            path.write_text(text + asking)
            asked = [research_results.strategy_baselines, research_results.strategy_monte_carlo]
            made = materialise(asked, strategies=["rsi_reversion_fx"])
        finally:
            path.write_text(text)
        table = shown(made, "strategy_baselines")["rsi_reversion_fx"]
        assert "median of 3" in table
        assert all(f"| costs × {n} |" in table for n in (0, 1, 2, 5, 10))
        kept = research_results.research_store().get("rsi_reversion_fx", file_revision(text + asking), "monte_carlo")
        assert (kept or {})["paths"] == 150


def test_the_files_own_column_of_the_grid_is_its_backtest(sample: tuple[Settings, Lake], deep: dg.ExecuteInProcessResult) -> None:
    settings, lake = sample
    config = load_config(settings)
    arrays = research_results.research_store().arrays(NAME, config.strategies[NAME].revision, "grid") or {}
    run = research_run.run_one(config.strategies[NAME], config, lake, settings.paper_cash)
    assert isinstance(run, research_run.StrategyRun)
    own = arrays["returns"][:, int(arrays["own"][0])]
    assert float(np.prod(1 + own)) == pytest.approx(float(run.result.equity[-1] / settings.paper_cash))


def test_a_strategy_that_looks_ahead_ends_the_run_and_is_named(
    sample: tuple[Settings, Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [research.strategies, research_checks.no_look_ahead]
    honest = RuleStrategy.evaluate

    def peek(self: Any, bars: Any, instrument: Any) -> Any:
        e = honest(self, bars, instrument)
        return replace(e, stop_long=np.append(e.stop_long[1:], np.nan))

    monkeypatch.setattr(RuleStrategy, "evaluate", peek)
    (check,) = materialise(chosen, fine=False).get_asset_check_evaluations()
    assert not check.passed
    leaks = str(check.metadata["leaks"].value)
    assert f"| strategy | {NAME} | EURUSD |" in leaks
    assert "stop_long at 2017" in leaks
    assert check.blocking


class TestTwoRevisions:
    def test_a_worse_one_is_told_from_a_better_one_and_the_change_is_shown(self, sample: tuple[Settings, Lake]) -> None:
        settings, lake = sample
        config, store = load_config(settings), research_results.research_store()
        path = "strategies/rsi_reversion.yaml"
        text = (settings.config / path).read_text()
        a = store.keep("rsi_reversion", path, text)
        b = store.keep("rsi_reversion", path, text.replace("rate: 0.0001", "rate: 0.01"))
        done = compare_revisions("rsi_reversion", a, b, config, lake, 1e5, store)
        assert done.shown.figures["verdict"] == "a is better"
        assert "-costs: {commission_kind: per_value, rate: 0.0001" in done.diff
        same = compare_revisions("rsi_reversion", a, a, config, lake, 1e5, store)
        assert same.shown.figures["verdict"] == "no difference can be told"
        assert same.diff == ""

    def test_the_asset_is_launched_with_two_revisions_and_shows_verdict_curves_and_changes(
        self, sample: tuple[Settings, Lake]
    ) -> None:
        store, path = research_results.research_store(), "strategies/rsi_reversion.yaml"
        text = (sample[0].config / path).read_text()
        a = store.keep("rsi_reversion", path, text)
        b = store.keep("rsi_reversion", path, text.replace("max_bars: 20", "max_bars: 10"))
        asset = [research_checks.revision_comparison]
        table = shown(materialise(asset, name="rsi_reversion", revision_a=a, revision_b=b), "revision_comparison")
        assert "-  max_bars: 20\n+  max_bars: 10" in table["changes"]
        assert table["curves"].startswith("![results of both revisions](data:image/png")
        assert {"sharpe_difference", "sharpe_low", "sharpe_high", "sharpe_p"} <= set(table)
        assert table["verdict"] in ("a is better", "b is better", "no difference can be told")
        assert not materialise(asset, fine=False, name="rsi_reversion", revision_a=a, revision_b="zz").success

    def test_a_revision_that_no_longer_validates_says_why(self, sample: tuple[Settings, Lake]) -> None:
        config, store = load_config(sample[0]), research_results.research_store()
        path = "strategies/rsi_reversion.yaml"
        text = (sample[0].config / path).read_text()
        a = store.keep("rsi_reversion", path, text)
        b = store.keep("rsi_reversion", path, text.replace("rsi", "rsii"))
        with pytest.raises(ValueError, match=r"cannot be used now.*rsii"):
            compare_revisions("rsi_reversion", a, b, config, sample[1], 1e5, store)


class TestReplay:
    def _decided(self, sample: tuple[Settings, Lake], ledger: Ledger) -> list[Signal]:
        config, lake = load_config(sample[0]), sample[1]
        made: list[Signal] = []
        for close in trade_lane.close_times_of(SESSION, ledger, lake, config):
            signals = trade_lane.evaluate_close(close, SESSION, config, lake, ledger, "paper").signals
            ledger.insert_signals(signals, session=SESSION, code_revision="c", run_id="r")
            ledger.insert_decisions(
                trade_lane.decide(signals, config, ledger, close), session=SESSION, code_revision="c", run_id="r"
            )
            made += signals
        assert made, "no signal on the day: the sample strategies changed?"
        return made

    def test_a_days_decisions_and_signals_replay_without_a_differing_byte(
        self, sample: tuple[Settings, Lake], ledger: Ledger
    ) -> None:
        made = self._decided(sample, ledger)
        assert newest_session(ledger) == SESSION
        done = replay(SESSION, load_config(sample[0]), sample[1], ledger, research_results.research_store())
        assert (done.decisions, done.signals, done.differences, done.not_computed) == (len(made), len(made), [], {})

    def test_other_rules_and_other_gates_are_named(
        self, sample: tuple[Settings, Lake], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trading import decisions as kernel

        self._decided(sample, ledger)
        honest, kept = RuleStrategy.evaluate, kernel.decide

        def moved(self: Any, bars: Any, instrument: Any) -> Any:
            e = honest(self, bars, instrument)
            return replace(e, stop_long=e.stop_long * 0.99, stop_short=e.stop_short * 1.01)

        def other(snapshot: bytes) -> bytes:
            outcome = json.loads(kept(snapshot))
            outcome["verdicts"][0]["value"] = "other"
            return json.dumps(outcome, sort_keys=True, separators=(",", ":")).encode()

        monkeypatch.setattr(RuleStrategy, "evaluate", moved)
        monkeypatch.setattr(kernel, "decide", other)
        done = replay(SESSION, load_config(sample[0]), sample[1], ledger, research_results.research_store())
        assert {(d.what, d.where.split()[0]) for d in done.differences} >= {("signal", "stop_price"), ("decision", "gate")}

    def test_bars_that_changed_and_revisions_nobody_kept_are_counted_not_guessed(
        self, sample: tuple[Settings, Lake], ledger: Ledger, tmp_path: Path
    ) -> None:
        made = self._decided(sample, ledger)
        config = load_config(sample[0])
        unknown = replace(config, strategies={}, plans={})
        from resources.research_store import ResearchStore

        done = replay(SESSION, unknown, sample[1], ledger, ResearchStore(tmp_path / "nothing"))
        assert done.not_computed == {"its strategy's revision is not kept": len(made)}
        empty = replay(SESSION, config, Lake(tmp_path / "lake"), ledger, ResearchStore(tmp_path / "nothing"))
        assert empty.not_computed == {"its bars have changed since": len(made)}
