"""A model from its file to the champion alias: promoted where an edge is planted, rejected where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets import model_assets, model_data, model_run, model_train
from ml import planted, promotion
from ml.canaries import Canary
from ml.forecasters import ForecastModel
from resources.dagster_resources import resource_definitions
from resources.model_files import read_model_files
from resources.model_store import ModelRefused, ModelStore, named_by
from resources.settings import Settings
from resources.tracking import CHALLENGER, CHAMPION, PREVIOUS, Tracking
from tests.assets.sample_lake import installation
from tests.mlflow_server import mlflow_url

pytestmark = pytest.mark.e2e

NAME = "tapeline-small-synthetic"
FILE = """\
name: small
description: A small one.
kind: forecaster
data: planted
horizon: 1
members: [lstm]
folds: 2
combinatorial: {groups: 3, tested: 1, members: [linear]}
settings: {window: 12, epochs: 8, batch: 128, trees: 8, min_leaf: 50}
"""
PLANTED_SET = model_data.planted_set
EDGE = planted.PlantedMarket(edge=0.5, noise=1.5, rows=1100, symbols=4)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation with one small model file, whose canaries have passed."""
    folder = tmp_path_factory.mktemp("model_assets")
    with installation(folder, TAPELINE_MLFLOW_PORT=mlflow_url().rsplit(":", 1)[1]) as settings:
        for path in (settings.config / "models").glob("*.yaml"):
            path.unlink()
        (settings.config / "models" / "small.yaml").write_text(FILE)
        sing(settings)
        yield settings


def sing(settings: Settings, *, well: bool = True) -> None:
    canary = Canary("agent_edge", "share", 0.95 if well else 0.5, 0.9, True, 1.0)
    model_data.save_canaries(model_data.canaries_path(settings), [canary], model_data.learning_revision(), "run-0")


def train(monkeypatch: pytest.MonkeyPatch, settings: Settings, market: planted.PlantedMarket) -> dg.ExecuteInProcessResult:
    made = PLANTED_SET(market)
    monkeypatch.setattr(model_data, "planted_set", lambda: made)
    assets, checks = model_assets.build(read_model_files(settings.config / "models"))
    # Its inputs stand for themselves: the canaries take a quarter of a minute and have tests of their own.
    return dg.materialize(
        [model_assets.planted_training_set, *assets, *checks, model_assets.planted_leakage_audit],
        resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral(), raise_on_error=False,
    )  # fmt: skip


def gate_of(result: dg.ExecuteInProcessResult) -> Any:
    return next(e for e in result.get_asset_check_evaluations() if e.check_name == model_assets.GATE)


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node(asset)
    return {k: v.value for k, v in made.metadata.items()}


class TestAPromotedModel:
    @pytest.fixture(scope="class")
    def first(self, desk: Settings) -> Iterator[dg.ExecuteInProcessResult]:
        with pytest.MonkeyPatch.context() as patch:
            yield train(patch, desk, EDGE)

    def test_meets_every_criterion_and_becomes_champion(self, desk: Settings, first: dg.ExecuteInProcessResult) -> None:
        assert first.success
        gate = gate_of(first)
        assert gate.blocking
        assert gate.passed, gate.metadata["criteria"].value
        assert "synthetic" in gate.description
        tracking = Tracking(desk.mlflow_url)
        assert tracking.version_of(NAME, CHAMPION) == shown(first, "model_small")["model_version"]

    def test_says_what_it_was_made_of_and_links_both_ways(self, desk: Settings, first: dg.ExecuteInProcessResult) -> None:
        import mlflow

        told = shown(first, "model_small")
        assert told["mlflow_run"].endswith(f"/runs/{told['mlflow_run_id']}")
        run = mlflow.get_run(told["mlflow_run_id"])
        wanted = {"dagster_run_id", "asset_key", "partition", "code_revision", "data_hash", "seed", "trials"}
        assert wanted <= set(run.data.tags)
        assert run.data.tags["dagster_run_url"] == f"{desk.webserver_url}/runs/{first.run_id}"
        assert run.data.tags["data_kind"] == "synthetic"
        assert run.data.metrics["cpcv_paths"] == 1.0
        assert "3 trainings of linear" in told["combinatorial_paths"]
        (given,) = run.inputs.dataset_inputs
        assert Path(mlflow.data.get_source(given.dataset).load()) == model_data.planted_path(desk)
        assert "Synthetic data" in run.data.tags["mlflow.note.content"]

    def test_is_stored_without_pickle_and_serves_what_it_forecast(self, desk: Settings, first: dg.ExecuteInProcessResult) -> None:
        tracking = Tracking(desk.mlflow_url)
        model = ForecastModel.from_bytes(tracking.model_bytes(NAME, CHAMPION, model_train.FORECAST_FILE))
        assert model.meta["synthetic"]
        rows = np.random.default_rng(0).standard_normal((model.window + 3, len(model.features))).astype(np.float32)
        served = tracking.load(NAME, CHAMPION).predict(pd.DataFrame(rows, columns=list(model.features)))
        windows = np.lib.stride_tricks.sliding_window_view(rows, model.window, axis=0).transpose(0, 2, 1)
        assert np.array_equal(served["probability"].to_numpy()[model.window - 1 :], model.forecast(windows).probability)

    def test_is_fetched_with_all_that_serving_needs_and_refused_on_bars_that_have_not_its_features(
        self, desk: Settings, first: dg.ExecuteInProcessResult, tmp_path: Path
    ) -> None:
        store, tracking = ModelStore(tmp_path), Tracking(desk.mlflow_url)
        aliases = store.fetch(tracking, NAME)
        assert aliases.champion == tracking.version_of(NAME, CHAMPION)
        assert named_by(desk.mlflow_url, NAME)["champion"] == aliases.champion
        assert named_by(desk.mlflow_url, "tapeline-none-such") == {}
        kept = store.kept(NAME, aliases.champion)
        assert kept is not None
        assert kept.run_id == shown(first, "model_small")["mlflow_run_id"]
        said = json.loads((kept.folder / "serving.json").read_text())
        assert said["symbols"] == ["PLANTED1", "PLANTED2", "PLANTED3", "PLANTED4"]
        assert said["data_hash"] == shown(first, "model_small")["data_hash"]
        with pytest.raises(ModelRefused, match=r"MODEL_SCHEMA.*reason=features"):
            store.load(NAME, aliases.champion)

    def test_is_in_the_report_with_its_verdicts_and_plots(self, desk: Settings, first: dg.ExecuteInProcessResult) -> None:
        report = shown(first, "model_report")
        assert "✅ promoted" in report["models"]
        assert "| Sharpe ratio a year | > 2.00 |" in report["model_small"]
        page = Path(report["page"]).read_text()
        assert page.count("<img") >= 3
        assert "met, with its whole interval" in page


class TestARejectedModel:
    def test_without_an_edge_it_is_shown_with_red_figures_and_champion_stays(
        self, desk: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tracking = Tracking(desk.mlflow_url)
        before = tracking.version_of(NAME, CHAMPION)
        result = train(monkeypatch, desk, planted.PlantedMarket(edge=0.0, rows=900, symbols=2))
        gate = gate_of(result)
        assert result.success  # a model that is not good enough is a finding, not a breakdown
        assert not gate.passed
        assert gate.severity is dg.AssetCheckSeverity.WARN
        assert "❌ **failed**" in gate.metadata["criteria"].value
        assert "❌ **rejected**" in shown(result, "model_report")["models"]
        newest = shown(result, "model_small")["model_version"]
        assert tracking.version_of(NAME, CHALLENGER) == newest != before
        assert tracking.version_of(NAME, CHAMPION) == before
        assert "sharpe_low" in tracking.version_tags(NAME, newest)["promotion"]


class Registry:
    """The registry as the gate sees it: one challenger with figures, and a champion."""

    url = "http://mlflow"

    def __init__(self, figures: dict[str, float]) -> None:
        self.figures, self.aliases, self.content = figures, {CHALLENGER: "2", CHAMPION: "1"}, b"numbers"

    def version_of(self, name: str, alias: str) -> str | None:
        return self.aliases.get(alias)

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        import hashlib

        return {"files": "m", "files_hash": hashlib.sha256(b"m\0numbers").hexdigest(), "data_kind": "market"}

    def model_bytes(self, name: str, version: str, file: str) -> bytes:
        return self.content

    def run_file(self, name: str, version: str, file: str) -> bytes:
        return json.dumps({"notes": {}}).encode()

    def metrics(self, name: str, version: str) -> dict[str, float]:
        return self.figures

    def promote(self, name: str, version: str, evidence: dict[str, str]) -> None:
        self.aliases |= {PREVIOUS: self.aliases[CHAMPION], CHAMPION: version}

    def note(self, name: str, version: str, tags: dict[str, str]) -> None:
        pass


GOOD = {
    "audit_passed": 1.0, "canaries_passed": 1.0, "trades": 30.0, "dsr": 0.95, "pbo": 0.2, "spa_worst": 0.05, "sharpe_low": 0.01,
    "mean_at_2x": 1e-6, "drawdown_30d": 0.1, "final_openings": 1.0, "final_return": 0.001, "champion_difference": 0.0,
}  # fmt: skip
BAD = {
    "audit_passed": 0.0, "canaries_passed": 0.0, "trades": 29.0, "dsr": 0.949, "pbo": 0.201, "spa_worst": 0.051,
    "sharpe_low": 0.0,
    "mean_at_2x": 0.0, "drawdown_30d": 0.101, "final_openings": 2.0, "final_return": 0.0, "champion_difference": -0.01,
}  # fmt: skip


class TestTheGate:
    def judge(self, registry: Registry, desk: Settings) -> dg.AssetCheckResult:
        class Resource:
            def tracking(self) -> Registry:
                return registry

        return model_assets._gate("small", None, Resource())  # type: ignore[arg-type]

    def test_every_criterion_is_one_that_can_fail(self) -> None:
        assert set(GOOD) == set(BAD) == set(promotion.METRICS)

    def test_with_all_of_them_met_at_their_very_thresholds_the_champion_moves(self, desk: Settings) -> None:
        registry = Registry(dict(GOOD))
        assert self.judge(registry, desk).passed
        assert registry.aliases == {CHALLENGER: "2", CHAMPION: "2", PREVIOUS: "1"}

    @pytest.mark.parametrize("metric", sorted(promotion.METRICS))
    @pytest.mark.parametrize("missing", [False, True])
    def test_with_any_one_of_them_failed_or_unknown_the_champion_stays(self, desk: Settings, metric: str, missing: bool) -> None:
        figures = {k: v for k, v in GOOD.items() if k != metric} | ({} if missing else {metric: BAD[metric]})
        registry = Registry(figures)
        result = self.judge(registry, desk)
        assert not result.passed
        assert metric in (result.description or "")
        assert registry.aliases == {CHALLENGER: "2", CHAMPION: "1"}

    def test_a_stored_model_that_was_changed_is_an_error(self, desk: Settings) -> None:
        registry = Registry(dict(GOOD))
        registry.content = b"other numbers"
        result = self.judge(registry, desk)
        assert result.severity is dg.AssetCheckSeverity.ERROR
        assert "is not the one that was trained" in str(result.metadata["reason"].value)
        assert registry.aliases[CHAMPION] == "1"


class TestCanaries:
    def test_they_speak_for_the_code_they_ran_with_only(self, tmp_path: Path) -> None:
        path = tmp_path / "canaries.json"
        assert model_data.canaries_passed(path, "abc") == (False, "no canaries were run: materialise model_canaries")
        well = Canary("leaks", "q", 4.0, 4.0, True, 0.1)
        model_data.save_canaries(path, [well], "abc", "run-1")
        assert model_data.canaries_passed(path, "abc")[0]
        assert not model_data.canaries_passed(path, "other")[0]
        model_data.save_canaries(path, [well, Canary("noise", "q", 3.0, 2.0, False, 0.1)], "abc", "run-1")
        assert model_data.canaries_passed(path, "abc") == (False, "failed: noise")


def test_a_bad_model_file_is_named_and_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FILE)
    (tmp_path / "b.yaml").write_text(FILE)
    (tmp_path / "c.yaml").write_text(FILE.replace("small", "c").replace("lstm", "lstn"))
    (tmp_path / "d.yaml").write_text("name: d\nkind: agnet\n")
    found = read_model_files(tmp_path)
    assert list(found.trainings) == ["small"]
    told = "\n".join(map(str, found.problems))
    assert "models/b.yaml:1: name: 'small' is the model of models/a.yaml already" in told
    assert "did you mean 'lstm'" in told
    assert "did you mean 'agent'" in told


def test_the_committed_model_files_are_sound() -> None:
    from resources.settings import ROOT

    found = read_model_files(ROOT / "data" / "config" / "models")
    assert not found.problems
    assert {"forecaster", "planted", "trader"} <= set(found.trainings)
    assert model_run.HORIZON in {f.horizon for f in found.trainings.values()}
