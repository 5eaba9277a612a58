"""One model's drift without Dagster: the trusted version held against the newest bars, its results and its trades."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from assets import model_data, model_reference, model_run
from assets.common import markdown_table
from assets.model_data import Traded
from assets.model_reference import Floats
from assets.model_train import registered_name
from ml import drift, drift_reference, planted
from ml.drift_reference import BadReference, Reference, Shift, Verdict
from ml.matrix import FeatureMatrix
from ml.training_files import TrainingFile
from resources import drift_plots
from resources.lake import Lake
from resources.ledger.model_verdicts import DriftVerdict
from resources.ledger.risk_records import multiples_of
from resources.ledger.store import Ledger
from resources.settings import Settings
from resources.tracking import CHALLENGER, CHAMPION, Tracking, TrackingError
from trading.timeframes import iso
from trading.universe import Universe

FIRST_TRADES: Final = 30
"""Trades of a strategy that later ones are held against."""
LEAST_TRADES: Final = 40


class CannotJudge(Exception):
    """The model cannot be held against anything. The message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Feature rows, labelled or not, and what is traded on them."""

    matrix: FeatureMatrix
    traded: Traded


@dataclass(frozen=True, slots=True)
class Watched:
    """The version that is looked at: the champion, else the newest one. trusted: it is the champion."""

    registered: str
    version: str
    trusted: bool
    run_url: str


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A version held against the newest bars. ends, returns: of the sessions since its training part."""

    watched: Watched
    reference: Reference
    verdict: Verdict
    ends: Any
    returns: Floats
    said: dict[str, Floats]
    trades: dict[str, list[float]]


def rows_of(file: TrainingFile, lake: Lake, universe: Universe) -> Rows:
    """The rows the model could be asked about today. Raises NoFeatures, LakeError."""
    if file.data == "planted":
        made, data = model_data.planted_set()
        return Rows(data.matrix, Traded(made.bars, made.instruments))
    found = model_run.feature_rows(lake, universe)
    return Rows(found.matrix, Traded(found.bars, model_run.tradable(universe)))


def watched(file: TrainingFile, universe: str, tracking: Tracking) -> Watched | None:
    """The version to look at, None when the model was never trained. Raises TrackingError."""
    registered = registered_name(file, planted.UNIVERSE if file.data == "planted" else universe)
    champion = tracking.version_of(registered, CHAMPION)
    version = champion or tracking.version_of(registered, CHALLENGER)
    if version is None:
        return None
    return Watched(registered, version, champion is not None, f"{tracking.url}/#/models/{registered}/versions/{version}")


def judge(
    file: TrainingFile, found: Watched, tracking: Tracking, rows: Rows, settings: Settings, trades: dict[str, list[float]]
) -> Judged:
    """Hold the version against `rows`. trades: results of its strategies' closed trades, in multiples of their risk.

    Raises CannotJudge, TrackingError.
    """
    try:
        reference = Reference.from_bytes(tracking.run_file(found.registered, found.version, model_reference.DRIFT_FILE))
    except BadReference as error:
        raise CannotJudge(str(error)) from error
    except TrackingError as error:
        raise CannotJudge(f"{found.registered} version {found.version} has no reference: train it again ({error})") from error
    matrix = rows.matrix
    schema = tracking.version_tags(found.registered, found.version).get("schema_hash")
    if schema != matrix.schema_hash:
        raise CannotJudge(
            f"{found.registered} version {found.version} knows features {schema}, the code defines {matrix.schema_hash}: "
            "train it again"
        )
    since = np.flatnonzero((matrix.close_time > reference.last_time) & matrix.complete)
    if len(since) < 2:
        raise CannotJudge(f"no complete feature row after {iso(reference.last_time)}, where the training part ended")
    try:
        said = model_reference.what_it_says(tracking, found.registered, found.version, file, matrix, since, rows.traded)
        ends, returns = model_reference.results(said, file, rows.traded, settings.paper_cash)
        newest = since[drift_reference.newest(matrix.close_time[since], reference.window)]
        first = int(matrix.close_time[newest].min())
        features = dict(zip(matrix.names, matrix.values[newest].T.astype(np.float64), strict=True))
        outputs = {name: values[said.times >= first] for name, values in said.outputs.items()}
        verdict = drift_reference.judge(
            reference, features, outputs, matrix.close_time[newest], returns, file.drift.limits()
        )  # fmt: skip
    except (BadReference, ValueError) as error:
        raise CannotJudge(f"{found.registered} version {found.version}: {error}") from error
    verdict = replace(verdict, reasons=(*verdict.reasons, *_of_trades(trades, file)))
    return Judged(found, reference, verdict, ends, returns, outputs, trades)


def _of_trades(trades: dict[str, list[float]], file: TrainingFile) -> list[str]:
    """Strategies whose newest trades are worse than their first ones, by the same tests."""
    found = []
    limits = file.drift.limits()
    for name, results in sorted(trades.items()):
        early, late = np.array(results[:FIRST_TRADES]), np.array(results[FIRST_TRADES:])
        if len(results) < LEAST_TRADES or not float(early.std()) > 0:
            continue
        changes = drift.watch(
            early, late, delta=limits.delta, slack=limits.slack, level=limits.performance_level, block=1
        )  # fmt: skip
        ago = [len(late) - 1 - i for i in (*changes.alarms, *changes.falls) if len(late) - i <= FIRST_TRADES]
        if ago:
            found.append(f"trades of {name}: worse than its first {FIRST_TRADES}, seen {min(ago)} trades ago")
    return found


def trades_of(ledger: Ledger, strategies: Sequence[str]) -> dict[str, list[float]]:
    """Results of every closed trade of the strategies, net of commissions, in multiples of what each risked."""
    with ledger.engine.connect() as connection:
        return {name: multiples_of(connection, name, 2**62) for name in strategies}


def strategies_with(config: Any, model: str) -> list[str]:
    """Strategies that trade what the model of that file says, by name."""
    return sorted(
        name for name, s in config.strategies.items()
        if getattr(getattr(getattr(s, "rules", None), "model", None), "name", None) == model
    )  # fmt: skip


def as_verdict(file: TrainingFile, judged: Judged, run_id: str) -> DriftVerdict:
    """What the ledger keeps."""
    v, w = judged.verdict, judged.watched
    return DriftVerdict(
        file.name, w.registered, w.version, v.drifted, v.last_time, time.time_ns() // 1000, v.reasons, file.drift.then, run_id
    )  # fmt: skip


# -- what people read ------------------------------------------------------------------------------------------------------


def shifts_table(shifts: Sequence[Shift]) -> str:
    rows = [
        ["❌ **moved**" if s.moved else "", s.name, _number(s.psi), _number(s.psi_p), _number(s.ks), _number(s.ks_p),
         _number(s.ks_iid_p)]
        for s in sorted(shifts, key=lambda s: (not s.moved, -np.nan_to_num(s.psi, nan=np.inf)))
    ]  # fmt: skip
    header = ["", "column", "PSI", "rank among stretches", "KS", "rank among stretches", "p if rows were independent"]
    return markdown_table(header, rows)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not known"


def summary(file: TrainingFile, judged: Judged) -> str:
    v, r = judged.verdict, judged.reference
    lines = [
        f"{'❌ **drifted**' if v.drifted else '✅ not drifted'}; then: `{file.drift.then}`",
        *(f"- {reason}" for reason in v.reasons),
        f"\nTraining part {iso(r.first_time)[:10]} to {iso(r.last_time)[:10]}, {r.rows} rows; window {iso(v.first_time)[:10]} to "
        f"{iso(v.last_time)[:10]}, {v.rows} rows, {r.window} closes; {100 * v.share:.0f} % of the features have moved "
        f"(as many as in {100 * v.share_p:.0f} % of the stretches of the training part).",
    ]
    return "\n".join(lines)


def results_table(judged: Judged) -> str:
    rows: list[list[Any]] = []
    if len(judged.returns):
        expected = float(judged.reference.returns.mean()) if len(judged.reference.returns) else math.nan
        rows.append(["decisions since the training part, traded on the stored bars", f"{len(judged.returns)} sessions",
                     f"{1e4 * float(judged.returns.mean()):+.2f} bp", f"{1e4 * expected:+.2f} bp"])  # fmt: skip
    for name, results in sorted(judged.trades.items()):
        mean = f"{float(np.mean(results)):+.3f} R" if results else "–"
        first = f"{float(np.mean(results[:FIRST_TRADES])):+.3f} R (first {FIRST_TRADES})" if len(results) > FIRST_TRADES else "–"
        rows.append([f"trades of {name} in the ledger", f"{len(results)} trades", mean, first])
    return markdown_table(["results, net of costs", "how many", "mean", "held against"], rows)


def pictures(file: TrainingFile, judged: Judged) -> dict[str, bytes]:
    """PNG by name: features, outputs, performance."""
    v, r = judged.verdict, judged.reference
    named = f"{file.name} version {judged.watched.version}" + (" (synthetic data)" if file.data == "planted" else "")
    bars = [(s.name, s.psi, _usual(c.null_psi), s.moved) for s, c in zip(v.features, r.features, strict=True)]
    heading = f"{named}: {sum(s.moved for s in v.features)} of {len(bars)} features have moved"
    changes = v.changes
    empty = np.zeros(len(judged.returns))
    return {
        "features": drift_plots.moved(bars, file.drift.psi, heading),
        "outputs": drift_plots.outputs([(c.name, c.sample, judged.said[c.name]) for c in r.outputs], f"{named}: what it says"),
        "performance": drift_plots.performance(
            judged.ends, judged.returns, changes.height if changes else empty, changes.limit if changes else math.nan,
            changes.alarms if changes else (), changes.falls if changes else (),
            float(r.returns.mean()) if len(r.returns) else 0.0, f"{named}: results since its training part",
        ),
    }  # fmt: skip


def _usual(null: Floats) -> float:
    known = null[np.isfinite(null)]
    return float(np.quantile(known, 0.95)) if len(known) else math.nan
