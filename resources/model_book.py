"""What is remembered of trainings beside the models: variants ever tried, and who opened the locked final slice.

A slice that is looked at twice is no longer out of sample. It is therefore opened once for each model version, and the
opening is an MLflow run of experiment ``tapeline/final-slices/NAME``, written before anything is computed: a crash in
between leaves it opened, without figures, and the gate refuses. Trials are counted by the trial book of research.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from resources.research_store import ResearchStore
from resources.research_trials import TrialBook, Trials
from resources.settings import settings
from resources.tracking import Tracking, TrackingError

EXPERIMENT: Final = "tapeline/final-slices"


@dataclass(frozen=True, slots=True)
class Opening:
    """A look into the locked slice. figures: what it showed; empty when the first look never ended. before: it had been
    opened for this version earlier, and these are the figures of then. others: versions that looked into the same slice."""

    figures: Mapping[str, float]
    before: bool
    others: int
    run_id: str


class ModelBook(Tracking):
    """The book of one installation at the MLflow server of `url`."""

    def count_trials(self, name: str, contents: Iterable[str], tags: Mapping[str, str] | None = None) -> Trials:
        """Note the variants of model `name` as tried and say how many there are now (see resources.research_trials)."""
        return TrialBook(self.url, ResearchStore(settings().path("research"))).count(name, contents, what="training", tags=tags)

    def open_slice(
        self, name: str, model_hash: str, slice_hash: str, look: Callable[[], Mapping[str, float]], tags: Mapping[str, str]
    ) -> Opening:
        """Open the slice for the version of `model_hash`, once. look: computes the figures; called only the first time.

        Raises TrackingError when the opening cannot be written: then nothing is opened.
        """
        with self._mlflow() as mlflow:
            client = mlflow.MlflowClient()
            place = f"{EXPERIMENT}/{name}"
            with self._aliases(f"{name}.slice"):
                found = client.get_experiment_by_name(place)
                experiment = found.experiment_id if found is not None else client.create_experiment(place)
                runs = client.search_runs([experiment], max_results=1000)
                mine = [r for r in runs if r.data.tags.get("model_hash") == model_hash]
                others = len(
                    {r.data.tags.get("model_hash") for r in runs if r.data.tags.get("slice_hash") == slice_hash} - {model_hash}
                )
                if mine:
                    return Opening(dict(mine[-1].data.metrics), True, others, mine[-1].info.run_id)
                opened = {
                    **tags, "model_hash": model_hash, "slice_hash": slice_hash, "opened_wall": str(time.time_ns() // 1000)
                }  # fmt: skip
                run = client.create_run(experiment, run_name=f"opened for {model_hash[:8]}", tags=opened)
            try:
                figures = dict(look())
            except BaseException:
                client.set_terminated(run.info.run_id, "FAILED")
                raise
            for key, value in figures.items():
                client.log_metric(run.info.run_id, key, float(value))
            client.set_terminated(run.info.run_id)
            return Opening(figures, False, others, run.info.run_id)


__all__ = ["EXPERIMENT", "ModelBook", "Opening", "TrackingError", "Trials"]
