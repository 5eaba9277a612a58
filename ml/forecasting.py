"""Forecasters trained and judged walk-forward: every member beside its baselines, the ensemble weighted by validation skill.

In each step the scaler, the networks, the stopping epoch, the calibration and the weights are found on the training rows
(the later part of them validates); only then is the test window forecast. The final model comes of the same procedure on
all rows before the locked slice. Equal inputs and seed give equal bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml import evaluation, leakage
from ml.baseline import OutOfSample, TrainingError
from ml.dataset import TrainingSet
from ml.forecasters import BASELINES, Fitting, Forecast, ForecastModel, Member, Settings, fit, history_of, windows_of
from ml.forecasters.arithmetic import DIGITS, Floats, logit
from ml.scaling import Scaler
from ml.splits import Fold, holdout, walk_forward
from trading import ids

ENSEMBLE = "ensemble"


@dataclass(frozen=True, slots=True)
class ForecastConfig:
    """How a forecaster is trained. members: kinds in the ensemble. final_fraction: share of the distinct times, the newest,
    that stays locked until the model is finished. embargo: distinct closes left out between training and test."""

    members: tuple[str, ...] = ("linear", "boosting", "lstm", "transformer")
    folds: int = 4
    first_train: float = 0.4
    validation: float = 0.25
    final_fraction: float = 0.15
    embargo: int = 10
    min_train: int = 250
    seed: int = 20170103
    settings: Settings = field(default_factory=Settings)

    @property
    def revision(self) -> str:
        """Hash of the values: names the way of training."""
        return ids.content_hash(asdict(self))[:12]

    @property
    def trained(self) -> tuple[str, ...]:
        """Members and baselines, each once."""
        return tuple(dict.fromkeys((*self.members, *BASELINES)))

    def params(self) -> dict[str, str]:
        flat = {k: v for k, v in asdict(self).items() if k != "settings"}
        return {k: str(v) for k, v in {**flat, **asdict(self.settings)}.items()}


@dataclass(frozen=True, slots=True, eq=False)
class FoldForecast:
    """One walk-forward step. skill: log loss saved on the validation rows by each member, as a fraction of the prior's;
    weights: of the ensemble. test: forecasts of the test rows by name, the ensemble among them."""

    fold: Fold
    prior: float
    skill: Mapping[str, float]
    weights: Mapping[str, float]
    test: Mapping[str, Forecast]


@dataclass(frozen=True, slots=True, eq=False)
class ForecastRun:
    """What a training gives. development, final: row positions before and inside the locked slice. audit: of overlaps and
    scalers. seconds: by part."""

    model: ForecastModel
    baselines: Mapping[str, ForecastModel]
    config: ForecastConfig
    folds: tuple[FoldForecast, ...]
    development: NDArray[np.int64]
    final: NDArray[np.int64]
    slice_start: int
    audit: leakage.Audit
    seconds: float

    @property
    def names(self) -> tuple[str, ...]:
        return (ENSEMBLE, *self.config.trained)

    def out_of_sample(self, name: str) -> OutOfSample:
        """Every test row's probability by `name`, a member or the ensemble."""
        return OutOfSample(
            np.concatenate([f.fold.test for f in self.folds]),
            np.concatenate([f.test[name].probability for f in self.folds]),
            np.concatenate([np.full(len(f.fold.test), f.fold.number, np.int64) for f in self.folds]),
            np.concatenate([np.full(len(f.fold.test), f.prior) for f in self.folds]),
        )

    def quantiles(self, name: str) -> Floats:
        """Every test row's quantiles by `name`, (N, Q), in the order of `out_of_sample`."""
        return np.concatenate([f.test[name].quantiles for f in self.folds])


def locked(data: TrainingSet, fraction: float, embargo: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(development, final, start of the slice): the newest `fraction` of the distinct times is final; development rows are
    over before it begins, less the embargo."""
    development, final = holdout(data.event_start, data.event_end, fraction=fraction, embargo=embargo)
    return development, final, int(data.event_start[final[0]])


def fold_of(
    data: TrainingSet, config: ForecastConfig, train: NDArray[np.int64], kinds: Sequence[str], history: NDArray[np.int64]
) -> tuple[dict[str, Member], dict[str, float], dict[str, float], Fitting, float]:
    """(members, validation skill, weights, what they were fitted on, prior) of training rows (positions)."""
    early, late = holdout(data.event_start[train], data.event_end[train], fraction=config.validation, embargo=config.embargo)
    early, late = train[early], train[late]
    if len(early) < 50 or len(np.unique(data.direction[early])) < 2 or len(np.unique(data.direction[late])) < 2:
        raise TrainingError(f"{len(train)} training rows leave {len(early)} to learn from: load more history")
    # Rounded as forecasts are: a member that has nothing to say then says exactly this, and no margin is so small that it trades.
    prior = round(float(data.direction[train].mean()), DIGITS)
    fitting = Fitting(
        data.matrix.values, history, data.direction, data.forward_return, data.event_start, early, late, config.settings,
        config.seed % 2**31, data.matrix.symbol, data.horizon, len(config.members), prior,
    )  # fmt: skip
    y = data.direction[late]
    base = evaluation.log_loss(y, np.full(len(late), prior))
    members = {kind: fit(kind, fitting) for kind in kinds}
    said = {k: m.calibrated(fitting.late(), *fitting.raw(m)).probability for k, m in members.items()}
    skill = {k: 1.0 - evaluation.log_loss(y, p) / base for k, p in said.items()}
    return members, skill, weights_of({k: skill[k] for k in config.members}), fitting, prior


def weights_of(skill: Mapping[str, float]) -> dict[str, float]:
    """Weights in proportion to the skill above nothing; equal where none has any: those all say the prior."""
    above = {k: max(0.0, s) for k, s in skill.items()}
    total = sum(above.values())
    return {k: (s / total if total > 0 else 1.0 / len(above)) for k, s in above.items()}


def bundle(
    data: TrainingSet, config: ForecastConfig, members: Mapping[str, Member], weights: Mapping[str, float], prior: float
) -> ForecastModel:
    """The members of `weights` as one model."""
    meta = {
        "horizon": data.horizon, "timeframe": str(data.matrix.timeframe), "schema_hash": data.matrix.schema_hash,
        "features_version": data.matrix.features_version, "warm_up": data.matrix.warm_up, "data_hash": data.content_hash(),
        "config": config.revision, "seed": config.seed, "universe": data.universe, "symbols": list(data.matrix.symbols),
        "synthetic": data.synthetic,
    }  # fmt: skip
    names = list(weights)
    return ForecastModel(
        data.matrix.names, config.settings.window, config.settings.levels, tuple(members[n] for n in names),
        tuple(weights[n] for n in names), prior, meta,
    )  # fmt: skip


def train(data: TrainingSet, config: ForecastConfig | None = None, progress: Callable[[str], None] | None = None) -> ForecastRun:
    """Train, forecast walk-forward, and audit. Raises TrainingError when there are too few rows."""
    config = config or ForecastConfig()
    say = progress or (lambda _: None)
    began = time.perf_counter()
    if not data.matrix.complete.all():
        raise TrainingError("the training set has rows with missing values: only complete rows are trained on")
    development, final, slice_start = locked(data, config.final_fraction, config.embargo)
    starts, ends = data.event_start[development], data.event_end[development]
    folds = [
        Fold(f.number, development[f.train], development[f.test], f.test_start, f.test_end, f.purged)
        for f in walk_forward(
            starts, ends, folds=config.folds, embargo=config.embargo, first_train=config.first_train, min_train=config.min_train
        )
    ]
    if not folds:
        raise TrainingError(
            f"{len(data)} rows ({data.span()}) give no fold with {config.min_train} training rows: load more history"
        )
    history = history_of(data.matrix.symbol, config.settings.window)
    made: list[FoldForecast] = []
    fitted: list[tuple[Fold, Scaler, NDArray[np.int64]]] = []
    for fold in folds:
        members, skill, weights, fitting, prior = fold_of(data, config, fold.train, config.trained, history)
        windows = windows_of(data.matrix.values, history, fold.test)
        test = {name: member.forecast(windows) for name, member in members.items()}
        test[ENSEMBLE] = mixed(test, weights)
        made.append(FoldForecast(fold, prior, skill, weights, test))
        fitted += [(fold, _scaler(m, fitting), fitting.train) for m in members.values() if "scaler.mean" in m.tensors]
        told = ", ".join(f"{k} {100 * s:+.2f} %" for k, s in skill.items())
        say(f"fold {fold.number} of {len(folds)}: validation skill {told}")
    members, _, weights, _, prior = fold_of(data, config, development, config.trained, history)
    model = bundle(data, config, members, weights, prior)
    alone = {name: bundle(data, config, members, {name: 1.0}, prior) for name in BASELINES}
    slice_fold = Fold(0, development, final, slice_start, int(data.event_start[final[-1]]), 0)
    audit = leakage.merge(
        leakage.label_overlap(data.events, [*folds, slice_fold]),
        leakage.scaler_range(data.matrix.values, data.event_start, fitted),
    )
    return ForecastRun(
        model, alone, config, tuple(made), development, final, slice_start, audit, time.perf_counter() - began
    )  # fmt: skip


def forecast_rows(model: ForecastModel, data: TrainingSet, rows: NDArray[np.int64]) -> Forecast:
    """The model's forecast of `rows` (positions) of a set of its own schema."""
    return model.forecast(windows_of(data.matrix.values, history_of(data.matrix.symbol, model.window), rows))


def mixed(test: Mapping[str, Forecast], weights: Mapping[str, float]) -> Forecast:
    """The ensemble's forecast of its members' ones."""
    odds = sum(w * logit(test[k].probability) for k, w in weights.items())
    quantiles = sum(w * test[k].quantiles for k, w in weights.items())
    return Forecast(np.round(1.0 / (1.0 + np.exp(-np.asarray(odds))), 9), np.asarray(quantiles, np.float64))


def _scaler(member: Member, fitting: Fitting) -> Scaler:
    first, last = member.about["scaler_span"]
    mean, scale = member.tensors["scaler.mean"], member.tensors["scaler.scale"]
    return Scaler(mean, scale, float(member.about["clip"]), int(first), int(last), int(member.about["rows"]))


def scores(data: TrainingSet, run: ForecastRun) -> dict[str, dict[str, Any]]:
    """By name: AUC within the windows, log loss, skill against the prior, Brier score, and the coverage of each quantile."""
    out: dict[str, dict[str, Any]] = {}
    for name in run.names:
        oos = run.out_of_sample(name)
        y = data.direction[oos.row]
        loss, base = evaluation.log_loss(y, oos.probability), evaluation.log_loss(y, oos.prior)
        below = (data.forward_return[oos.row][:, None] <= run.quantiles(name)).mean(axis=0)
        out[name] = {
            "auc": evaluation.auc(y, oos.probability, oos.fold), "log_loss": loss, "skill": 1.0 - loss / base,
            "brier": evaluation.brier(y, oos.probability), "prior_brier": evaluation.brier(y, oos.prior),
            "coverage": [float(b) for b in below],
        }  # fmt: skip
    return out
