"""The trial book: how many variants of a strategy were ever tried, kept in MLflow, so that statistics of luck know N.

A variant is the content hash of what its rules are (trading.research_grid.rules_hash): trying it again, under another name
or from another machine, counts once. One MLflow run of experiment ``tapeline/trials/NAME`` for each batch of new variants,
their hashes in its tags; N is how many different ones all runs name. What MLflow could not be told is kept on disk and told
at the next count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from resources.research_store import ResearchStore
from resources.tracking import Tracking, TrackingError

EXPERIMENT: Final = "tapeline/trials"
_TAG: Final = "trials."
_PER_TAG: Final = 250
_DIGITS: Final = 16
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Trials:
    """total: variants ever tried. new: of them first tried now. tracked: does MLflow know all of them? why: it does not."""

    total: int
    new: int
    tracked: bool
    why: str = ""


class TrialBook(Tracking):
    """Trial counts at the MLflow server of `url`, with the local list of `store`."""

    def __init__(self, url: str, store: ResearchStore) -> None:
        super().__init__(url)
        self._store = store

    def count(
        self, name: str, contents: Iterable[str], *, what: str = "backtest", tags: Mapping[str, str] | None = None
    ) -> Trials:
        """Note the variants `contents` of strategy `name` as tried and say how many there are now.

        contents: content hashes. what: sweep, backtest ..., for the run's name. tags: of the run. A server that is away
        does not stop research: `tracked` is then False.
        """
        asked = {content[:_DIGITS] for content in contents}
        before = set(self._store.tried(name))
        local = set(self._store.add_trials(name, asked))
        try:
            known = self._known(name, local, what, tags or {})
        except TrackingError as error:
            return Trials(len(local), len(asked - before), False, str(error))
        if known - local:
            self._store.add_trials(name, known)
        return Trials(len(known | local), len(asked - before), True)

    def _known(self, name: str, local: set[str], what: str, tags: Mapping[str, str]) -> set[str]:
        """What MLflow knows after it was told of `local`."""
        with self._mlflow() as mlflow:
            client = mlflow.MlflowClient()
            experiment = client.get_experiment_by_name(f"{EXPERIMENT}/{name}")
            known: set[str] = set()
            if experiment is not None:
                token = None
                while True:
                    page = client.search_runs([experiment.experiment_id], max_results=_PAGE, page_token=token)
                    for run in page:
                        for key, value in run.data.tags.items():
                            if key.startswith(_TAG):
                                known.update(value.split())
                    token = page.token
                    if not token:
                        break
            new = sorted(local - known)
            if new:
                made = experiment.experiment_id if experiment is not None else client.create_experiment(f"{EXPERIMENT}/{name}")
                parts = {f"{_TAG}{i}": " ".join(new[i * _PER_TAG : (i + 1) * _PER_TAG]) for i in range(-(-len(new) // _PER_TAG))}
                run = client.create_run(made, run_name=f"{what} {name}", tags={**tags, **parts, "strategy": name})
                client.log_metric(run.info.run_id, "trials_new", len(new))
                client.log_metric(run.info.run_id, "trials_total", len(known) + len(new))
                client.set_terminated(run.info.run_id)
            return known | set(new)
