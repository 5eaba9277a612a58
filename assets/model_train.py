"""One training from its file to MLflow: train, audit, judge, open the locked slice once, log. Without Dagster."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from assets import model_data, model_outcome, model_reference, model_run
from assets.common import markdown_table
from assets.model_data import Traded
from assets.model_outcome import Judged
from ml import agent_training, combinatorial, evaluation, forecasting, leakage, promotion, serving
from ml.baseline import TrainingError
from ml.dataset import TrainingSet
from ml.promotion import Criterion
from ml.training_files import AgentFile, ForecasterFile, TrainingFile, revision
from resources import model_store
from resources.model_book import ModelBook, Opening, Trials
from resources.settings import Settings
from resources.tracking import CHAMPION, DatasetInput, ModelRecord, TrackedModel, TrackingError

FORECAST_FILE: Final = "model.safetensors"
AGENT_FILE: Final = "weights.safetensors"
Say = Callable[[str], None]


def registered_name(file: TrainingFile, universe: str) -> str:
    """Name in the model registry: each model and each universe has versions of its own."""
    return model_store.registered_name(file.name, universe)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A training that was logged."""

    tracked: TrackedModel
    judged: Judged
    criteria: list[Criterion]
    metrics: dict[str, float]
    model_hash: str
    data: TrainingSet
    figures: dict[str, bytes]
    tables: dict[str, str]
    opening: Opening
    trials: Trials


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What the two kinds of training have in common once they are trained and judged."""

    judged: Judged
    audit: leakage.Audit
    model: bytes
    model_file: str
    model_hash: str
    served: Path
    attached: dict[str, bytes]
    features: tuple[str, ...]
    sample: Any
    outputs: tuple[str, ...]
    params: dict[str, str]
    slice_start: int
    look: Callable[[], Mapping[str, float]]
    figures: dict[str, bytes]
    tables: dict[str, str]
    steps: dict[str, list[float]]
    seconds: float
    work: Path | None
    reference: bytes
    more: Mapping[str, float] = field(default_factory=dict)


def run(
    file: TrainingFile,
    data: TrainingSet,
    traded: Traded,
    data_audit: leakage.Audit,
    *,
    data_path: Path,
    settings: Settings,
    tags: Mapping[str, str],
    say: Say,
) -> Finished:
    """Train `file` on `data` and log it. data_audit: of the training set; findings block the training.

    Raises LeakageFound, TrainingError, TrackingError. After a kill, calling it again goes on where it was.
    """
    data_audit.raise_if_found()
    book = ModelBook(settings.mlflow_url)
    book.check()  # an hour of training with nowhere to put it helps nobody
    name = registered_name(file, data.universe)
    shaped = model_data.at_horizon(data, file.horizon)
    trials = book.count_trials(name, model_outcome.variant_hashes(file), {"asset_key": tags["asset_key"]})
    count = float(trials.total) if trials.tracked else math.nan
    train = _forecaster if isinstance(file, ForecasterFile) else _agent
    made = train(file, shaped, traded, settings, count, say)  # type: ignore[arg-type]
    made.audit.raise_if_found()
    say(f"trained and judged in {made.seconds:.0f} s; opening the locked slice for model {made.model_hash[:12]}")
    opening = book.open_slice(
        name, made.model_hash, model_outcome.slice_hash(shaped, made.slice_start), made.look,
        {"dagster_run_id": tags["dagster_run_id"], "slice_start": str(made.slice_start)},
    )  # fmt: skip
    canaries, why = model_data.canaries_passed(model_data.canaries_path(settings), model_data.learning_revision())
    gap, versus = _champion(book, name, made.judged)
    audit = leakage.merge(data_audit, made.audit)
    metrics = {
        **made.judged.judgement.figures(), **model_outcome.seed_figures(made.judged), **made.more, **opening.figures,
        "audit_passed": float(audit.passed), "canaries_passed": float(canaries), "champion_difference": gap,
        "final_openings": 1.0 if opening.figures else 0.0, "final_seen_by_others": float(opening.others),
    }  # fmt: skip
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
    notes = {
        "canaries_passed": why, "champion_difference": versus,
        "audit_passed": ", ".join(f"{k} {n}" for k, n in audit.checked.items()) + " looked at",
        "final_openings": f"{opening.others} other versions looked into the same slice"
        + (", opened before" if opening.before else ""),
        "dsr": f"N = {trials.total}" if trials.tracked else f"trials unknown: {trials.why}",
    }  # fmt: skip
    criteria = promotion.judge(metrics, notes)
    figures = {**made.figures, **_figures(file, made.judged, settings.account_currency)}
    tables = {
        **made.tables, "The locked slice": _slice_table(opening, made.slice_start), "Leakage audit": model_data.audit_table(audit)
    }  # fmt: skip
    card = model_outcome.model_card(file, shaped, made.judged, criteria, tables, made.model_hash)
    tracked = book.log_model(
        _record(
            file, name, shaped, made, metrics, notes, card, figures, trials, data_path=data_path, tags=tags, settings=settings
        )
    )
    if made.work is not None:
        shutil.rmtree(made.work, ignore_errors=True)
    return Finished(
        tracked, made.judged, criteria, metrics, made.model_hash, shaped, figures, tables, opening, trials
    )  # fmt: skip


def _forecaster(file: ForecasterFile, data: TrainingSet, traded: Traded, settings: Settings, trials: float, say: Say) -> _Made:
    from ml import served_forecaster_path
    from ml.forecasters import arithmetic

    run_ = forecasting.train(data, file.config(), say)
    judged = model_outcome.judge_forecaster(file, data, run_, traded, settings.paper_cash, trials)
    model = run_.model.to_bytes()
    window = run_.model.window
    outputs = ("probability", *(f"q{round(100 * level):02d}" for level in run_.model.levels))
    audit, more = run_.audit, dict[str, float]()
    tables = {"Forecasters": model_outcome.members_table(data, run_)}
    if file.combinatorial is not None:
        part = file.combinatorial
        try:
            found = combinatorial.paths(
                data, file.config(), groups=part.groups, tested=part.tested, members=part.members, progress=say
            )  # fmt: skip
            audit = leakage.merge(audit, found.audit)
            more, tables["Combinatorial paths"] = model_outcome.paths_figures(file, data, found, traded, settings.paper_cash)
        except TrainingError as error:  # it decides nothing: a model is not refused for a history too short for this
            tables["Combinatorial paths"] = f"Not computed: {error}"
    return _Made(
        judged, audit, model, FORECAST_FILE, run_.model.content_hash(), served_forecaster_path(),
        {"arithmetic.py": Path(str(arithmetic.__file__)).read_bytes()}, data.matrix.names,
        data.matrix.values[data.matrix.symbol == 0][-max(5, window):].astype(np.float64), outputs, run_.config.params(),
        run_.slice_start, model_outcome.forecaster_slice(file, data, run_, traded, settings.paper_cash),
        {"forecast.png": _members_picture(data, run_)}, tables,
        {f"fold_skill_{k}": [f.skill[k] for f in run_.folds] for k in run_.config.trained}, run_.seconds, None,
        model_reference.forecaster_reference(file, data, run_, judged.judgement), more,
    )  # fmt: skip


def _agent(file: AgentFile, data: TrainingSet, traded: Traded, settings: Settings, trials: float, say: Say) -> _Made:
    from ml import served_agent_path, served_plugin_agent_path
    from ml.agents import agent_class
    from ml.environment import OWN_FEATURES
    from ml.forecasters import Settings as Members
    from resources.model_plots import seeds

    work = settings.path("training", "agents", registered_name(file, data.universe))
    run_ = agent_training.train(data, traded.bars, traded.instruments, file.config(), work, say)
    simple = forecasting.train(
        data, forecasting.ForecastConfig(
            forecasting.BASELINES, file.folds, file.first_train, final_fraction=file.final_fraction, embargo=file.embargo,
            seed=file.seed, settings=Members(window=1),  # both look at the newest bar only
        ), say,
    )  # fmt: skip
    judged = model_outcome.judge_agent(file, data, run_, simple, traded, settings.paper_cash, trials)
    kind = agent_class(file.agent)
    agent = kind.load(run_.folder)
    skipped = {"training.safetensors", "done.json", "training.json"}
    files = {p.name: p.read_bytes() for p in sorted(run_.folder.iterdir()) if p.is_file() and p.name not in skipped}
    digest = hashlib.sha256()
    for file_name, content in files.items():
        digest.update(file_name.encode() + b"\0" + content)
    model_hash = digest.hexdigest()
    scaler = agent_training.read_scaler(run_.folder)
    served, model_file = served_agent_path(), AGENT_FILE
    if file.agent != "recurrent_ppo":
        served, model_file = served_plugin_agent_path(), "plugin.json"
        about = {"class": kind.__name__, "files": {Path(n).stem: n for n in files}}
        files["plugin.json"] = json.dumps(about, sort_keys=True).encode()
        source = inspect.getsourcefile(sys.modules[kind.__module__]) or str(getattr(sys.modules[kind.__module__], "__file__", ""))
        files["agent_source.py"] = Path(source).read_bytes()
    sample = np.concatenate([data.matrix.values[data.matrix.symbol == 0][-5:], np.zeros((5, 4), np.float32)], axis=1)
    assert judged.scores is not None
    assert judged.seeds is not None
    picture = seeds(
        judged.scores, (judged.seeds.estimate, judged.seeds.low, judged.seeds.high), run_.curve,
        f"{file.name}: every seed and fold",
    )  # fmt: skip
    return _Made(
        judged, leakage.merge(run_.audit, simple.audit), files.pop(model_file), model_file, model_hash, served, files,
        (*data.matrix.names, *OWN_FEATURES), sample.astype(np.float64), ("action", "probability"),
        {**run_.config.params(), "typical_seed": str(run_.typical), "scaler_rows": str(scaler.rows)}, run_.slice_start,
        model_outcome.agent_slice(file, data, run_, agent, traded, settings.paper_cash), {"seeds.png": picture},
        {"Seeds": model_outcome.seeds_table(judged), "Simple forecasters beside it": model_outcome.members_table(data, simple)},
        {"final_reward": list(run_.curve)}, run_.seconds + simple.seconds, work,
        model_reference.agent_reference(file, data, run_, agent, traded, judged.judgement),
    )  # fmt: skip


def _champion(book: ModelBook, name: str, judged: Judged) -> tuple[float, str]:
    version = book.version_of(name, CHAMPION)
    if version is None:
        return model_outcome.against_champion(judged.judgement, None)
    try:
        return model_outcome.against_champion(judged.judgement, book.run_file(name, version, model_outcome.RETURNS_FILE))
    except (TrackingError, ValueError, KeyError) as error:
        return math.nan, f"the returns of champion version {version} cannot be read ({type(error).__name__})"


def _slice_table(opening: Opening, start: int) -> str:
    from trading.timeframes import iso

    f = opening.figures
    if not f:
        return "Opened before without a result: nothing is known of it, and it is not opened twice. Train again on newer data."
    sharpe = f"{f['final_sharpe']:.2f}" if "final_sharpe" in f else "–"
    told = markdown_table(
        ["from", "sessions", "return", "Sharpe ratio a year", "deepest drawdown", "trades"],
        [[iso(start)[:10], f"{f.get('final_sessions', 0):.0f}", f"{100 * f.get('final_return', 0):+.1f} %", sharpe,
          f"{100 * f.get('final_max_drawdown', 0):.1f} %", f"{f.get('final_trades', 0):.0f}"]],
    )  # fmt: skip
    when = "It had been opened for this very model before; these are the figures of then." if opening.before else (
        "Opened once, after everything above was decided.")  # fmt: skip
    return f"{told}\n\n{when} Versions that looked into the same slice before: {opening.others}."


def _figures(file: TrainingFile, judged: Judged, currency: str) -> dict[str, bytes]:
    from resources.model_plots import targets
    from resources.research_plots import against_baselines

    j = judged.judgement
    shown = [(n, r) for n, r in j.against.items() if not n.startswith(("flat", "random"))]
    totals = np.prod(1 + j.random_returns, axis=0) - 1 if j.random_returns.size else np.empty(0)
    rows = [
        (k.name, k.interval.estimate, k.interval.low, k.interval.high, k.target, bool(k.met)) for k in j.kpis if k.met is not None
    ]
    label = " (synthetic data)" if file.data == "planted" else ""
    return {
        "targets.png": targets(rows, f"{file.name}{label}: measured against its targets"),
        "equity.png": against_baselines(
            j.ends, j.returns, shown, j.random_returns, np.asarray(totals), [(f, total) for f, total, _ in j.ladder],
            f"{file.name}{label}: walk-forward, after costs",
        ),
    }  # fmt: skip


def _members_picture(data: TrainingSet, run_: forecasting.ForecastRun) -> bytes:
    from resources.model_plots import members

    curves, coverage = [], {}
    for name, s in forecasting.scores(data, run_).items():
        oos = run_.out_of_sample(name)
        curves.append((name, float(s["auc"]), *evaluation.roc_curve(data.direction[oos.row], oos.probability)))
        coverage[name] = s["coverage"]
    oos = run_.out_of_sample(forecasting.ENSEMBLE)
    bins = [(b.forecast, b.observed, b.rows) for b in evaluation.calibration(data.direction[oos.row], oos.probability)]
    return members(curves, bins, float(oos.prior.mean()), coverage, run_.config.settings.levels)


def _serving(file: TrainingFile, data: TrainingSet, made: _Made) -> bytes:
    """How the model is asked at a bar close (ml.serving). What the locked slice holds it was not trained on."""
    agent = isinstance(file, AgentFile)
    memory = min(file.max_steps, serving.REPLAYED) if isinstance(file, AgentFile) else file.config().settings.window
    return serving.about(
        kind=file.kind, model_hash=made.model_hash, data_hash=data.content_hash(), schema_hash=data.matrix.schema_hash,
        features_version=data.matrix.features_version, names=data.matrix.names, timeframe=data.matrix.timeframe,
        symbols=data.matrix.symbols, warm_up=data.matrix.warm_up, memory=memory, trained_until=made.slice_start - 1,
        margin=file.margin, synthetic=data.synthetic or "", agent=file.agent if isinstance(file, AgentFile) else "",
        size=file.size if isinstance(file, AgentFile) else 0.0, costs=file.costs.costs() if agent else None,
    )  # fmt: skip


def _record(
    file: TrainingFile, name: str, data: TrainingSet, made: _Made, metrics: Mapping[str, float], notes: Mapping[str, str],
    card: str, figures: Mapping[str, bytes], trials: Trials, *, data_path: Path, tags: Mapping[str, str], settings: Settings,
) -> ModelRecord:  # fmt: skip
    data_hash = data.content_hash()
    own = {
        "data_hash": data_hash, "sources_hash": data.sources_hash(), "features_version": data.matrix.features_version,
        "schema_hash": data.matrix.schema_hash, "model_hash": made.model_hash, "kind": file.kind, "model_file": made.model_file,
        "seed": str(file.seed), "universe": data.universe, "horizon": str(data.horizon), "trials": str(trials.total),
        "partition": data.span(), "config": revision(file), "data_kind": "synthetic" if data.synthetic else "market",
        "learning_revision": model_data.learning_revision(), "margin": f"{file.margin:g}",
    }  # fmt: skip
    if isinstance(file, AgentFile):
        own["agent"] = file.agent
    attached = {**made.attached, serving.FILE: _serving(file, data, made)}
    stored = {made.model_file: made.model, **attached}
    digest = hashlib.sha256()
    for stored_name, content in stored.items():
        digest.update(stored_name.encode() + b"\0" + content)
    own |= {"files": " ".join(stored), "files_hash": digest.hexdigest()}
    links = f"\n\nDagster: [run]({tags.get('dagster_run_url', '')}), [asset]({tags.get('dagster_asset_url', '')})."
    j = made.judged.judgement
    report = {
        "name": file.name, "kind": file.kind, "synthetic": data.synthetic, "notes": dict(notes),
        "kpis": [model_outcome.kpi_row(k) for k in j.kpis], "description": file.description,
        "against": model_outcome.against_table(j), "luck": model_outcome.luck_table(j), "ladder": model_outcome.ladder_table(j),
        "regimes": model_outcome.regime_table(j), "tables": dict(made.tables),
    }  # fmt: skip
    return ModelRecord(
        name=name, experiment=f"tapeline/{file.name}/{data.universe}", run_name=f"{file.name} {made.model_hash[:8]}",
        model=made.model, features=made.features, sample=made.sample, tags={**tags, **own},
        params={**made.params, "horizon": str(data.horizon), "timeframe": str(data.matrix.timeframe), "margin": str(file.margin),
                "training_file": revision(file)},
        metrics=dict(metrics),
        dataset=DatasetInput(
            f"training-{data.universe}-{data.matrix.timeframe}", data_path, data_hash, data.matrix.names, data.matrix.values,
            data.direction, {"data_hash": data_hash, "sources_hash": data.sources_hash(), "span": data.span()},
        ),
        card=card + links, steps=made.steps, figures=figures,
        texts={
            "sources.md": model_run.sources_table(data),
            model_outcome.RETURNS_FILE: model_outcome.returns_file(j, own["data_kind"]).decode(),
            model_outcome.REPORT_FILE: json.dumps(report),
            model_reference.DRIFT_FILE: made.reference.decode(),
        },
        model_file=made.model_file, served=made.served, attached=attached, outputs=made.outputs,
    )  # fmt: skip
