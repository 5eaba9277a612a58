"""What is written to a real MLflow server can be found, loaded without pickles, and is never half there."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml.baseline import TrainingConfig, train
from ml.dataset import save
from ml.scoring import ScoringModel
from resources.model_book import ModelBook
from resources.settings import ROOT
from resources.tracking import CHALLENGER, CHAMPION, PREVIOUS, DatasetInput, ModelRecord, TrackedModel, Tracking, TrackingError
from tests.ml.synthetic import training_set
from tests.mlflow_server import mlflow_url

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def tracking() -> Tracking:
    return Tracking(mlflow_url())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> ModelRecord:
    data = training_set(strength=0.4, rows=700)
    result = train(data, TrainingConfig(trees=5, replicates=20))
    path = tmp_path_factory.mktemp("training") / "set.parquet"
    save(data, path)
    return ModelRecord(
        name="tapeline-baseline-tracking", experiment="tapeline/tracking", run_name="first", model=result.model.to_bytes(),
        features=data.matrix.names, sample=data.matrix.values[-5:],
        tags={"dagster_run_id": "run-1", "asset_key": "baseline_model", "data_hash": data.content_hash(),
              "model_hash": result.model.content_hash()},
        params=result.config.params(), metrics=result.metrics(), card="# Baseline\n\nWhat it is for.",
        dataset=DatasetInput("training-tracking", path, data.content_hash(), data.matrix.names, data.matrix.values,
                             data.direction, {"span": data.span()}),
        steps={"fold_auc": [0.51, float("nan"), 0.53]}, figures={"forecast.png": b"\x89PNG not really"},
        texts={"sources.md": "bars"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tracking: Tracking, record: ModelRecord) -> TrackedModel:
    return tracking.log_model(record)


def test_a_training_is_one_run_with_its_data_its_model_and_its_figures(
    tracking: Tracking, record: ModelRecord, made: TrackedModel
) -> None:
    import mlflow

    run = mlflow.get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["dagster_run_id"] == "run-1"
    assert run.data.tags["mlflow.note.content"] == record.card
    assert run.data.params["seed"] == record.params["seed"]
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.digest == record.dataset.digest[:36]
    assert mlflow.data.get_source(given.dataset).load() == str(record.dataset.path)
    logged = mlflow.get_logged_model(made.model_id)
    assert {m.key for m in logged.metrics} >= set(record.metrics) | {"fold_auc"}
    assert tracking.metrics(made.name, made.version) == pytest.approx(dict(record.metrics))
    files = {f.path for f in mlflow.MlflowClient().list_artifacts(made.run_id)}
    assert {"figures", "model_card.md", "sources.md"} <= files
    assert tracking.version_tags(made.name, made.version)["model_hash"] == record.tags["model_hash"]
    assert made.run_url.endswith(f"/runs/{made.run_id}")


def test_a_model_loads_and_scores_alike_everywhere(tracking: Tracking, record: ModelRecord, made: TrackedModel) -> None:
    ours = ScoringModel.from_bytes(tracking.model_bytes(made.name, CHALLENGER))
    assert ours.to_bytes() == record.model
    rows = pd.DataFrame(np.asarray(record.sample, np.float64), columns=list(record.features))
    shuffled = rows[list(reversed(record.features))]  # columns are taken by name
    served = tracking.load(made.name, made.version).predict(shuffled)["probability"].to_numpy()
    assert np.array_equal(served, ours.predict(record.sample))


def test_no_pickle_is_stored_and_none_is_needed(record: ModelRecord, made: TrackedModel, tmp_path: Path) -> None:
    """Loaded by another process that refuses pickles and cannot import Tapeline."""
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(made.uri, dst_path=str(tmp_path / "model")))
    names = {p.name for p in folder.rglob("*") if p.is_file()}
    assert {"model.json", "scoring.py", "served_model.py"} <= names
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".joblib", ".bin"))]
    columns = list(record.features)
    code = (
        f"import sys; assert {str(ROOT)!r} not in sys.path; import mlflow, pandas as pd\n"
        f"m = mlflow.pyfunc.load_model({str(folder)!r})\n"
        f"print(m.predict(pd.DataFrame([[0.0] * {len(columns)}], columns={columns!r}))['probability'][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"PATH": "/usr/bin:/bin", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = ScoringModel.from_bytes(record.model).predict(np.zeros((1, len(record.features))))[0]
    assert float(done.stdout) == expected


def test_challenger_moves_with_every_training_and_champion_only_when_told(tracking: Tracking, record: ModelRecord) -> None:
    own = replace(record, name="tapeline-baseline-aliases")
    assert tracking.version_of(own.name, CHALLENGER) is None
    first = tracking.log_model(own)
    assert (tracking.version_of(own.name, CHALLENGER), tracking.version_of(own.name, CHAMPION)) == (first.version, None)
    tracking.promote(own.name, first.version, {"promotion": "passed"})
    second = tracking.log_model(own)
    assert (tracking.version_of(own.name, CHALLENGER), tracking.version_of(own.name, CHAMPION)) == (second.version, first.version)
    assert tracking.version_tags(own.name, first.version)["promotion"] == "passed"


def test_the_champion_before_is_kept_and_one_command_goes_back_to_it(tracking: Tracking, record: ModelRecord) -> None:
    own = replace(record, name="tapeline-baseline-back")
    first, second = tracking.log_model(own), tracking.log_model(own)
    with pytest.raises(TrackingError, match="has no champion version"):
        tracking.roll_back(own.name, "nothing there")
    tracking.promote(own.name, first.version, {})
    with pytest.raises(TrackingError, match="has no previous version"):
        tracking.roll_back(own.name, "nothing before")
    tracking.promote(own.name, second.version, {})
    tracking.promote(own.name, second.version, {})  # once more changes nothing
    assert (tracking.version_of(own.name, CHAMPION), tracking.version_of(own.name, PREVIOUS)) == (second.version, first.version)
    assert tracking.roll_back(own.name, "worse live") == (second.version, first.version)
    assert (tracking.version_of(own.name, CHAMPION), tracking.version_of(own.name, PREVIOUS)) == (first.version, second.version)
    assert tracking.version_tags(own.name, second.version)["rolled_back"] == "worse live"
    assert "was rolled back (worse live)" in tracking.promote(own.name, second.version, {"promotion": "passed"})
    assert tracking.version_of(own.name, CHAMPION) == first.version, "a gate that is asked again undoes no rollback"


def test_trainings_and_gates_that_end_together_leave_the_aliases_at_the_newest(tracking: Tracking, record: ModelRecord) -> None:
    """Registered first and finished last: an older version does not take the alias back."""
    import mlflow

    own = replace(record, name="tapeline-baseline-race")
    first = tracking.log_model(own)
    real = mlflow.MlflowClient.update_model_version
    between: list[str] = []

    def slow(self: mlflow.MlflowClient, name: str, version: str, **more: object) -> object:
        if not between:
            between.append("started")
            with ThreadPoolExecutor(1) as other:  # another partition's training overtakes this one
                between.append(other.submit(tracking.log_model, own).result().version)
        return real(self, name, version, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "update_model_version", slow)
        overtaken = tracking.log_model(own)
    assert int(first.version) < int(overtaken.version) < int(between[1])
    assert tracking.version_of(own.name, CHALLENGER) == between[1]
    # Their gates end in the other order, too: champion stays with the newest that passed.
    assert tracking.promote(own.name, between[1], {"promotion": "passed"}) == ""
    assert "was promoted meanwhile" in tracking.promote(own.name, overtaken.version, {"promotion": "passed"})
    assert (tracking.version_of(own.name, CHAMPION), tracking.version_of(own.name, PREVIOUS)) == (between[1], None)
    assert tracking.version_tags(own.name, overtaken.version)["promotion"] == "passed"


class TestTheLockedSlice:
    def test_is_opened_once_for_a_model_and_the_first_look_is_what_is_told(self, tracking: Tracking) -> None:
        book = ModelBook(tracking.url)
        first = book.open_slice("tapeline-slice", "model-1", "slice", lambda: {"final_return": 0.1}, {"dagster_run_id": "r"})
        again = book.open_slice("tapeline-slice", "model-1", "slice", lambda: pytest.fail("opened twice"), {})
        assert (first.figures, first.before, first.others) == ({"final_return": 0.1}, False, 0)
        assert (again.figures, again.before) == ({"final_return": 0.1}, True)
        other = book.open_slice("tapeline-slice", "model-2", "slice", lambda: {"final_return": 0.2}, {})
        assert (other.before, other.others) == (False, 1)

    def test_a_look_that_never_ended_counts_as_a_look_and_shows_nothing(self, tracking: Tracking) -> None:
        book = ModelBook(tracking.url)

        def dies() -> dict[str, float]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            book.open_slice("tapeline-slice-cut", "model-1", "slice", dies, {})
        again = book.open_slice("tapeline-slice-cut", "model-1", "slice", lambda: pytest.fail("opened twice"), {})
        assert (dict(again.figures), again.before) == ({}, True)


def test_a_training_that_fails_half_way_ends_as_failed_and_moves_nothing(tracking: Tracking, record: ModelRecord) -> None:
    import mlflow

    own = replace(record, name="tapeline-baseline-half", experiment="tapeline/half")
    first = tracking.log_model(own)
    broken = replace(own, figures={"a.png": None})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        tracking.log_model(broken)
    assert tracking.version_of(own.name, CHALLENGER) == first.version
    runs = mlflow.search_runs(experiment_names=["tapeline/half"], output_format="list")
    assert sorted(r.info.status for r in runs) == ["FAILED", "FINISHED"]
    assert mlflow.active_run() is None


def test_a_server_that_is_not_there_is_one_clear_error() -> None:
    away = Tracking("http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"MLflow does not answer at http://127\.0\.0\.1:9 .*make run"):
        away.version_of("m", CHAMPION)


def test_an_unknown_version_is_an_error_not_a_none(tracking: Tracking) -> None:
    with pytest.raises(TrackingError):
        tracking.model_bytes("tapeline-baseline-nowhere", "1")
