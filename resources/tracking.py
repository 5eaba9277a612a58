"""MLflow: which model was trained from what, how it scored, and which version is trusted.

One run per materialisation. A model is code plus numbers (JSON), never a pickle. `challenger` names the newest version,
`champion` the newest that passed the promotion gate. mlflow is imported on first use: it takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"

_QUIET: Final = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    # A tracking server that is away must not hold a run for the default fifteen minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


class TrackingError(Exception):
    """MLflow could not answer. The message names the server and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class DatasetInput:
    """The data a run was trained on. path: where it can be read again. features: (N, F) with names, targets: (N,)."""

    name: str
    path: Path
    digest: str
    names: tuple[str, ...]
    features: NDArray[np.floating]
    targets: NDArray[np.integer]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrackedModel:
    """Where a logged model is found again."""

    run_id: str
    experiment_id: str
    model_id: str
    name: str
    version: str
    run_url: str
    model_url: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True, eq=False)
class ModelRecord:
    """One training as it is written to MLflow.

    metrics: name -> value, logged on the model and the dataset. steps: name -> one value per fold. card: markdown.
    figures: file name -> PNG bytes. texts: file name -> text. sample: (n, F) rows shown as the input example.
    model: the model's bytes (ml.scoring). tags: what made it (Dagster run, asset, partitions, code and data revisions).
    """

    name: str
    experiment: str
    run_name: str
    model: bytes
    features: tuple[str, ...]
    sample: NDArray[np.floating]
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    dataset: DatasetInput
    card: str
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


class Tracking:
    """Client of the MLflow server at `url`. Every method raises TrackingError when the server cannot answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def check(self) -> None:
        """Ask the server whether it is there. Raises TrackingError with what to do."""
        import httpx

        try:
            answer = httpx.get(f"{self.url}/health", timeout=10)
        except httpx.HTTPError as error:
            raise TrackingError(
                f"MLflow does not answer at {self.url} ({type(error).__name__}): is it running? `make run` starts it"
            ) from error
        if answer.status_code != 200:
            raise TrackingError(f"MLflow at {self.url} answered {answer.status_code} to /health, expected 200")

    @contextlib.contextmanager
    def _mlflow(self) -> Iterator[Any]:
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        self.check()
        import mlflow
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(self.url)
        mlflow.set_registry_uri(self.url)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
                yield mlflow
        except MlflowException as error:
            raise TrackingError(f"MLflow at {self.url}: {error.message}") from error

    def log_model(self, record: ModelRecord) -> TrackedModel:
        """Write one run with its dataset, figures, model and metrics, register the model, move `challenger` to it.

        When anything fails the run ends as FAILED and the aliases stay where they were.
        """
        import pandas as pd

        from ml import scoring, served_model_path

        with self._mlflow() as mlflow:
            from mlflow.models import infer_signature

            mlflow.set_experiment(record.experiment)
            with mlflow.start_run(run_name=record.run_name, tags={**record.tags, "mlflow.note.content": record.card}) as run:
                mlflow.log_params(dict(record.params))
                dataset = self._dataset(mlflow, record.dataset)
                mlflow.log_input(dataset, context="training", tags={k: v[:500] for k, v in record.dataset.tags.items()})
                sample = pd.DataFrame(np.asarray(record.sample, np.float64), columns=list(record.features))
                forecast = pd.DataFrame({"probability": np.zeros(len(sample))})
                with tempfile.TemporaryDirectory() as folder:
                    numbers = Path(folder, "model.json")
                    numbers.write_bytes(record.model)
                    logged = mlflow.pyfunc.log_model(
                        name=record.name, python_model=str(served_model_path()),
                        artifacts={"model": str(numbers), "scoring": str(scoring.__file__)},
                        signature=infer_signature(sample, forecast), input_example=sample.head(5),
                        pip_requirements=_requirements(), tags=dict(record.tags), params=dict(record.params),
                    )  # fmt: skip
                model_id = str(logged.model_id)
                mlflow.log_metrics(dict(record.metrics), model_id=model_id, dataset=dataset)
                for name, values in record.steps.items():
                    for step, value in enumerate(values, 1):
                        if np.isfinite(value):
                            mlflow.log_metric(name, float(value), step=step, model_id=model_id)
                for file, png in record.figures.items():
                    self._log_bytes(mlflow, png, f"figures/{file}")
                for file, text in {**record.texts, "model_card.md": record.card}.items():
                    mlflow.log_text(text, file)
                client = mlflow.MlflowClient()
                tags = {**record.tags, "model_id": model_id}
                version = str(mlflow.register_model(f"models:/{model_id}", record.name, tags=tags).version)
                client.update_model_version(record.name, version, description=record.card)
                client.set_registered_model_alias(record.name, CHALLENGER, version)
            experiment_id = str(run.info.experiment_id)
            return TrackedModel(
                run.info.run_id, experiment_id, model_id, record.name, version,
                f"{self.url}/#/experiments/{experiment_id}/runs/{run.info.run_id}",
                f"{self.url}/#/models/{record.name}/versions/{version}",
            )  # fmt: skip

    def _dataset(self, mlflow: Any, data: DatasetInput) -> Any:
        import pandas as pd
        from mlflow.data.dataset_source_registry import resolve_dataset_source

        frame = pd.DataFrame(data.features, columns=list(data.names))
        frame["direction"] = np.asarray(data.targets, np.float64)
        with warnings.catch_warnings():  # MLflow knows two names for the one local source and says so each time
            warnings.simplefilter("ignore", UserWarning)
            source = resolve_dataset_source(data.path.resolve().as_uri())
        # MLflow allows 36 characters; the full hash is in the run's tags.
        return mlflow.data.from_pandas(frame, source=source, name=data.name, digest=data.digest[:36], targets="direction")

    @staticmethod
    def _log_bytes(mlflow: Any, content: bytes, file: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(file).name)
            path.write_bytes(content)
            mlflow.log_artifact(str(path), str(Path(file).parent))

    def version_of(self, name: str, alias: str) -> str | None:
        """Version `alias` names, or None when the model or the alias does not exist."""
        with self._mlflow() as mlflow:
            from mlflow.exceptions import MlflowException

            try:
                return str(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def promote(self, name: str, version: str, evidence: Mapping[str, str]) -> None:
        """Make `version` the champion. Called by the promotion gate only; `evidence` is kept as the version's tags."""
        with self._mlflow() as mlflow:
            client = mlflow.MlflowClient()
            for key, value in evidence.items():
                client.set_model_version_tag(name, version, key, value)
            client.set_registered_model_alias(name, CHAMPION, version)

    def note(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Tags on a model version."""
        with self._mlflow() as mlflow:
            client = mlflow.MlflowClient()
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)

    def metrics(self, name: str, version: str) -> dict[str, float]:
        """Metrics of the logged model behind a version. Raises TrackingError when the version has none."""
        with self._mlflow() as mlflow:
            model_id = mlflow.MlflowClient().get_model_version(name, version).tags.get("model_id")
            if not model_id:
                raise TrackingError(f"{name} version {version} has no logged model behind it: train it again")
            return {m.key: float(m.value) for m in mlflow.get_logged_model(model_id).metrics or [] if m.step == 0}

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        """Tags of a model version."""
        with self._mlflow() as mlflow:
            return dict(mlflow.MlflowClient().get_model_version(name, version).tags)

    def model_bytes(self, name: str, version_or_alias: str) -> bytes:
        """The stored numbers of a version (``"3"``) or alias (``"champion"``), for ml.scoring.ScoringModel.from_bytes."""
        with self._mlflow() as mlflow, tempfile.TemporaryDirectory() as folder:
            uri = _uri(name, version_or_alias)
            path = mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/artifacts/model.json", dst_path=folder)
            return Path(path).read_bytes()

    def load(self, name: str, version_or_alias: str) -> Any:
        """The model as an MLflow pyfunc: predict(DataFrame) -> DataFrame with column probability."""
        with self._mlflow() as mlflow:
            return mlflow.pyfunc.load_model(_uri(name, version_or_alias))


def _uri(name: str, version_or_alias: str) -> str:
    return f"models:/{name}/{version_or_alias}" if version_or_alias.isdigit() else f"models:/{name}@{version_or_alias}"


def _requirements() -> list[str]:
    """What serving needs, pinned to what is installed; given explicitly because inferring it takes a minute."""
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("mlflow", "numpy", "pandas")]
