"""MLflow: which model was trained from what, how it scored, and which version is trusted.

One run per materialisation. A model is code plus numbers (JSON, safetensors), never a pickle. `challenger` names the newest
version, `champion` the newest that passed the promotion gate, `previous` the champion before it. Aliases are moved under a
lock of the installation, and `challenger` only forwards, so that trainings that end together do not overwrite each other.
mlflow is imported on first use: it takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
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

from resources.settings import settings

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"

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
    model: the model's bytes, kept as `model_file`. served: the models-from-code file, None: that of the baseline.
    attached: further files the served code reads, by name. outputs: columns it answers with. tags: what made it (Dagster run,
    asset, partitions, code and data revisions).
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
    model_file: str = "model.json"
    served: Path | None = None
    attached: Mapping[str, bytes] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("probability",)

    def files(self) -> dict[str, bytes]:
        """Everything the served code reads, by file name."""
        from ml import scoring

        extra = dict(self.attached) if self.served is not None else {"scoring.py": Path(str(scoring.__file__)).read_bytes()}
        return {self.model_file: self.model, **extra}


class Tracking:
    """Client of the MLflow server at `url`. Every method raises TrackingError when the server cannot answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._places: dict[tuple[str, str], str] = {}

    def check(self) -> None:
        """Ask the server whether it is there. Raises TrackingError with what to do."""
        import httpx

        try:
            # Certificates are read from disk each time, and mean nothing where nothing is encrypted.
            answer = httpx.get(f"{self.url}/health", timeout=10, verify=self.url.startswith("https:"))
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

        from ml import served_model_path

        with self._mlflow() as mlflow:
            from mlflow.models import infer_signature

            mlflow.set_experiment(record.experiment)
            with mlflow.start_run(
                run_name=record.run_name, tags={**record.tags, "mlflow.note.content": _short(record.card, 7_500)}
            ) as run:
                mlflow.log_params(dict(record.params))
                dataset = self._dataset(mlflow, record.dataset)
                mlflow.log_input(dataset, context="training", tags={k: v[:500] for k, v in record.dataset.tags.items()})
                sample = pd.DataFrame(np.asarray(record.sample, np.float64), columns=list(record.features))
                forecast = pd.DataFrame({name: np.zeros(len(sample)) for name in record.outputs})
                with tempfile.TemporaryDirectory() as folder:
                    paths: dict[str, str] = {}
                    for file, content in record.files().items():
                        path = Path(folder, file)
                        path.write_bytes(content)
                        paths[path.stem] = str(path)
                    logged = mlflow.pyfunc.log_model(
                        name=record.name, python_model=str(record.served or served_model_path()), artifacts=paths,
                        signature=infer_signature(sample, forecast), input_example=sample.head(5),
                        pip_requirements=_requirements(), tags=dict(record.tags), params=dict(record.params),
                    )  # fmt: skip
                model_id = str(logged.model_id)
                mlflow.log_metrics(dict(record.metrics), model_id=model_id, dataset=dataset)
                for step in range(1, 1 + max(map(len, record.steps.values()), default=0)):
                    told = {n: float(v[step - 1]) for n, v in record.steps.items() if len(v) >= step and np.isfinite(v[step - 1])}
                    if told:
                        mlflow.log_metrics(told, step=step, model_id=model_id)
                self._log_files(
                    mlflow,
                    {f"figures/{file}": png for file, png in record.figures.items()}
                    | {file: text.encode() for file, text in {**record.texts, "model_card.md": record.card}.items()},
                )
                client = mlflow.MlflowClient()
                tags = {**record.tags, "model_id": model_id}
                version = str(mlflow.register_model(f"models:/{model_id}", record.name, tags=tags).version)
                client.update_model_version(record.name, version, description=_short(record.card, 4_500))
                with self._aliases(record.name):
                    newest = _alias(client, record.name, CHALLENGER)
                    if newest is None or int(version) > int(newest):
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
        from mlflow.types import ColSpec, Schema

        frame = pd.DataFrame(data.features, columns=list(data.names))
        frame["direction"] = np.asarray(data.targets, np.float64)
        with warnings.catch_warnings():  # MLflow knows two names for the one local source and says so each time
            warnings.simplefilter("ignore", UserWarning)
            source = resolve_dataset_source(data.path.resolve().as_uri())
        # MLflow allows 36 characters; the full hash is in the run's tags.
        made = mlflow.data.from_pandas(frame, source=source, name=data.name, digest=data.digest[:36], targets="direction")
        # What MLflow would find out by asking every value one by one, which takes seconds.
        made.schema = Schema(
            [
                ColSpec({"float32": "float"}.get(str(c.dtype), "double"), str(n), required=not c.isna().any())
                for n, c in frame.items()
            ]
        )
        return made

    @staticmethod
    def _log_files(mlflow: Any, files: Mapping[str, bytes]) -> None:
        """Content by path below the run's artifacts, in one go."""
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                path = Path(folder, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            mlflow.log_artifacts(folder)

    @contextlib.contextmanager
    def _aliases(self, name: str) -> Iterator[None]:
        """Only one process of this installation at a time moves the aliases of a model. Not to be nested."""
        folder = settings().path("mlflow", "locks")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def version_of(self, name: str, alias: str) -> str | None:
        """Version `alias` names, or None when the model or the alias does not exist."""
        with self._mlflow() as mlflow:
            return _alias(mlflow.MlflowClient(), name, alias)

    def promote(self, name: str, version: str, evidence: Mapping[str, str]) -> str:
        """Make `version` the champion and the champion so far `previous`; "" when it is champion now, else why it is not.

        Called by the promotion gate only; `evidence` is kept as the version's tags. A version that was rolled back is not
        promoted again, and one whose gate was overtaken by a newer version's does not take the alias back.
        """
        with self._mlflow() as mlflow, self._aliases(name):
            client = mlflow.MlflowClient()
            for key, value in evidence.items():
                client.set_model_version_tag(name, version, key, value)
            before = _alias(client, name, CHAMPION)
            if before == version:
                return ""
            undone = client.get_model_version(name, version).tags.get("rolled_back")
            if undone is not None:
                return f"version {version} was rolled back ({undone}): train again"
            if before is not None and int(before) > int(version):
                return f"version {before} was promoted meanwhile"
            # In this order a crash in between leaves the old champion in place.
            if before is not None:
                client.set_registered_model_alias(name, PREVIOUS, before)
            client.set_registered_model_alias(name, CHAMPION, version)
            return ""

    def roll_back(self, name: str, why: str) -> tuple[str, str]:
        """Make `previous` the champion again and the champion `previous`: (version before, version now).

        Raises TrackingError when there is nothing to go back to.
        """
        with self._mlflow() as mlflow, self._aliases(name):
            client = mlflow.MlflowClient()
            champion, previous = _alias(client, name, CHAMPION), _alias(client, name, PREVIOUS)
            if champion is None or previous is None:
                raise TrackingError(
                    f"{name} has no {'champion' if champion is None else 'previous'} version to go back from or to"
                )
            client.set_model_version_tag(name, champion, "rolled_back", why[:500])
            client.set_registered_model_alias(name, CHAMPION, previous)
            client.set_registered_model_alias(name, PREVIOUS, champion)
            return champion, previous

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

    def run_of(self, name: str, version: str) -> str:
        """Id of the run that made a version."""
        with self._mlflow() as mlflow:
            return str(mlflow.MlflowClient().get_model_version(name, version).run_id)

    def run_page(self, name: str, version: str) -> str:
        """Address of the page of the run that made a version."""
        with self._mlflow() as mlflow:
            client = mlflow.MlflowClient()
            info = client.get_run(client.get_model_version(name, version).run_id).info
            return f"{self.url}/#/experiments/{info.experiment_id}/runs/{info.run_id}"

    def model_bytes(self, name: str, version_or_alias: str, file: str = "model.json") -> bytes:
        """A stored file of a version (``"3"``) or alias (``"champion"``): the numbers, for ml.scoring.ScoringModel.from_bytes
        (model.json) or ml.forecasters.ForecastModel.from_bytes (model.safetensors)."""
        with self._mlflow() as mlflow, tempfile.TemporaryDirectory() as folder:
            uri = _uri(name, version_or_alias)
            path = mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/artifacts/{file}", dst_path=folder)
            return Path(path).read_bytes()

    def run_file(self, name: str, version: str, file: str) -> bytes:
        """A file kept with the run that made a version, such as ``evidence/returns.json``."""
        with self._mlflow() as mlflow, tempfile.TemporaryDirectory() as folder:
            uri = f"{self._place(mlflow, name, version)}/{file}"
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)).read_bytes()

    def run_files(self, name: str, version: str, folder: str) -> dict[str, bytes]:
        """Every file of one folder kept with the run that made a version, by its name; {} when it kept none there."""
        with self._mlflow() as mlflow, tempfile.TemporaryDirectory() as draft:
            uri = f"{self._place(mlflow, name, version)}/{folder}"
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=draft))
            return {p.name: p.read_bytes() for p in sorted(path.iterdir())} if path.is_dir() else {}

    def _place(self, mlflow: Any, name: str, version: str) -> str:
        """Where the run that made a version keeps its files; never changes, so it is asked once."""
        if (name, version) not in self._places:
            client = mlflow.MlflowClient()
            self._places[name, version] = str(client.get_run(client.get_model_version(name, version).run_id).info.artifact_uri)
        return self._places[name, version]

    def load(self, name: str, version_or_alias: str) -> Any:
        """The model as an MLflow pyfunc: predict(DataFrame) -> DataFrame with column probability."""
        with self._mlflow() as mlflow:
            return mlflow.pyfunc.load_model(_uri(name, version_or_alias))


def _alias(client: Any, name: str, alias: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _short(card: str, limit: int) -> str:
    """As much of a card as MLflow's columns hold, whole lines; the whole one is model_card.md."""
    if len(card) <= limit:
        return card
    return card[: card.rfind("\n", 0, limit)] + "\n\nThe rest is in `model_card.md` among the run's artifacts."


def _uri(name: str, version_or_alias: str) -> str:
    return f"models:/{name}/{version_or_alias}" if version_or_alias.isdigit() else f"models:/{name}@{version_or_alias}"


def _requirements() -> list[str]:
    """What serving needs, pinned to what is installed; given explicitly because inferring it takes a minute."""
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("mlflow", "numpy", "pandas", "safetensors")]
