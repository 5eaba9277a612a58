"""The baseline forecaster: logistic regression or gradient boosting, chosen on past data only, judged walk-forward.

In each fold both candidates are fitted on the earlier part of the training rows, the better one by skill on the later
part is fitted again on all of them, and only then is the test window looked at. The figures therefore describe the whole
procedure, choice included. Every random step has a fixed seed and one thread: equal inputs give equal bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml import evaluation
from ml.dataset import TrainingSet
from ml.scoring import ScoringModel, Tree
from ml.splits import Fold, holdout, walk_forward
from trading import ids

LOGISTIC: Final = "logistic"
BOOSTING: Final = "boosting"
KINDS: Final = (LOGISTIC, BOOSTING)


class TrainingError(ValueError):
    """A training set no model can be trained on. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How the baseline is trained. embargo: distinct bar closes between training and test; block: bootstrap block."""

    folds: int = 5
    first_train: float = 0.4
    validation: float = 0.25
    embargo: int = 10
    min_train: int = 250
    seed: int = 20170103
    block: int = 20
    replicates: int = 1000
    confidence: float = 0.95
    clip: float = 5.0
    regularisation: float = 0.01
    trees: int = 60
    leaves: int = 8
    learning_rate: float = 0.05
    min_leaf: int = 100
    l2: float = 10.0

    @property
    def revision(self) -> str:
        """Hash of the values: names the way of training."""
        return ids.content_hash(asdict(self))[:12]

    def params(self) -> dict[str, str]:
        return {k: str(v) for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Scores:
    """Forecast figures on one window; prior_*: the same for the training rows' share of positives."""

    rows: int
    log_loss: float
    auc: float
    accuracy: float
    brier: float
    prior_log_loss: float
    prior_accuracy: float
    prior_brier: float

    @property
    def skill(self) -> float:
        """Log loss saved against the prior, as a fraction of the prior's. 0 is no skill."""
        return 1.0 - self.log_loss / self.prior_log_loss


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One walk-forward step: the chosen kind, its scores, and what every candidate scored on the same window."""

    fold: int
    kind: str
    train_rows: int
    purged: int
    test_start: int
    test_end: int
    validation_skill: dict[str, float]
    scores: Scores
    candidates: dict[str, Scores]


@dataclass(frozen=True, slots=True, eq=False)
class OutOfSample:
    """Every test row's forecast: row positions (N,) in the training set, probability, fold number, the fold's prior."""

    row: NDArray[np.int64]
    probability: NDArray[np.float64]
    fold: NDArray[np.int64]
    prior: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """The final model (fitted on every row) and the walk-forward evidence about how it was made."""

    model: ScoringModel
    config: TrainingConfig
    folds: tuple[FoldResult, ...]
    out_of_sample: OutOfSample
    overall: Scores
    auc_low: float
    importance: tuple[tuple[str, float], ...]

    def metrics(self) -> dict[str, float]:
        """Flat figures by name, finite values only."""
        o = self.overall
        out = {
            "test_log_loss": o.log_loss, "test_auc": o.auc, "test_auc_low": self.auc_low, "test_accuracy": o.accuracy,
            "test_brier": o.brier, "test_skill": o.skill, "prior_log_loss": o.prior_log_loss,
            "prior_accuracy": o.prior_accuracy, "prior_brier": o.prior_brier, "test_rows": float(o.rows),
        }  # fmt: skip
        return {k: float(v) for k, v in out.items() if np.isfinite(v)}


def _fit(kind: str, x: NDArray[np.float64], y: NDArray[np.int8], names: tuple[str, ...], config: TrainingConfig,
         meta: dict[str, Any]) -> ScoringModel:  # fmt: skip
    """One model on x (N, F), y (N,). The scaler sees these rows only."""
    from threadpoolctl import threadpool_limits

    prior = float(y.mean())
    none = np.empty(0)
    with threadpool_limits(1):  # sums in parallel depend on the number of threads
        if kind == LOGISTIC:
            from sklearn.linear_model import LogisticRegression

            mean, scale = x.mean(axis=0), x.std(axis=0)
            scale = np.where(scale > 1e-12, scale, 1.0)
            z = np.clip((x - mean) / scale, -config.clip, config.clip)
            fitted = LogisticRegression(C=config.regularisation, max_iter=500, tol=1e-8).fit(z, y)
            return ScoringModel(
                kind, names, mean, scale, fitted.coef_[0].astype(np.float64), config.clip, float(fitted.intercept_[0]), (),
                prior, meta,
            )  # fmt: skip
        from sklearn.ensemble import HistGradientBoostingClassifier

        boosted = HistGradientBoostingClassifier(
            max_iter=config.trees, max_leaf_nodes=config.leaves, learning_rate=config.learning_rate,
            min_samples_leaf=config.min_leaf, l2_regularization=config.l2, early_stopping=False, random_state=config.seed,
        ).fit(x, y)  # fmt: skip
    trees = tuple(_tree(stage[0].nodes) for stage in boosted._predictors)
    intercept = float(np.ravel(boosted._baseline_prediction)[0])
    return ScoringModel(kind, names, none, none, none, config.clip, intercept, trees, prior, meta)


def _tree(nodes: Any) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        np.where(leaf, 0.0, nodes["num_threshold"]).astype(np.float64),
        np.where(leaf, -1, nodes["left"].astype(np.int64)).astype(np.int32),
        np.where(leaf, -1, nodes["right"].astype(np.int64)).astype(np.int32),
        nodes["value"].astype(np.float64),
    )


def _scores(y: NDArray[np.int8], p: NDArray[np.float64], prior: NDArray[np.float64] | float,
            groups: NDArray[np.int64] | None = None) -> Scores:  # fmt: skip
    base = np.broadcast_to(np.asarray(prior, np.float64), p.shape)
    return Scores(
        len(y), evaluation.log_loss(y, p), evaluation.auc(y, p, groups), evaluation.accuracy(y, p), evaluation.brier(y, p),
        evaluation.log_loss(y, base), evaluation.accuracy(y, base), evaluation.brier(y, base),
    )  # fmt: skip


def _choose(x: NDArray[np.float64], data: TrainingSet, train: NDArray[np.int64], config: TrainingConfig
            ) -> tuple[str, dict[str, float]]:  # fmt: skip
    """The kind with the better skill on the later part of `train`, and both skills. Ties go to the simpler one."""
    early, late = holdout(data.event_start[train], data.event_end[train], fraction=config.validation, embargo=config.embargo)
    early, late = train[early], train[late]
    y = data.direction
    if len(early) < 50 or len(np.unique(y[early])) < 2:
        return LOGISTIC, {}
    skill = {}
    for kind in KINDS:
        model = _fit(kind, x[early], y[early], data.matrix.names, config, {})
        skill[kind] = _scores(y[late], model.predict(x[late]), model.prior).skill
    return max(KINDS, key=lambda k: skill[k]), skill


def _fold(x: NDArray[np.float64], data: TrainingSet, fold: Fold, config: TrainingConfig
          ) -> tuple[FoldResult, NDArray[np.float64], ScoringModel]:  # fmt: skip
    y = data.direction
    kind, skill = _choose(x, data, fold.train, config)
    fitted = {k: _fit(k, x[fold.train], y[fold.train], data.matrix.names, config, {}) for k in KINDS}
    forecasts = {k: m.predict(x[fold.test]) for k, m in fitted.items()}
    scores = {k: _scores(y[fold.test], p, fitted[k].prior) for k, p in forecasts.items()}
    result = FoldResult(
        fold.number, kind, len(fold.train), fold.purged, fold.test_start, fold.test_end, skill, scores[kind], scores
    )
    return result, forecasts[kind], fitted[kind]


def _importance(model: ScoringModel, x: NDArray[np.float64], y: NDArray[np.int8], seed: int) -> list[tuple[str, float]]:
    """Log loss added when one feature's values are shuffled over the window, per feature, largest first."""
    rng = np.random.default_rng(seed)
    base = evaluation.log_loss(y, model.predict(x))
    out = []
    for i, name in enumerate(model.features):
        shuffled = x.copy()
        shuffled[:, i] = x[rng.permutation(len(x)), i]
        out.append((name, evaluation.log_loss(y, model.predict(shuffled)) - base))
    return sorted(out, key=lambda item: (-item[1], item[0]))


def train(data: TrainingSet, config: TrainingConfig | None = None) -> TrainingResult:
    """Train and judge the baseline on `data`.

    Raises TrainingError when there are too few rows for one fold, or only one direction.
    """
    config = config or TrainingConfig()
    if not data.matrix.complete.all():
        raise TrainingError("the training set has rows with missing values: only complete rows are trained on")
    folds = walk_forward(
        data.event_start, data.event_end, folds=config.folds, embargo=config.embargo, first_train=config.first_train,
        min_train=config.min_train,
    )  # fmt: skip
    y = data.direction
    folds = [f for f in folds if len(np.unique(y[f.train])) == 2]
    if not folds:
        raise TrainingError(
            f"{len(data)} rows ({data.span()}) give no fold with {config.min_train} training rows of both directions: "
            "load more history"
        )
    x = data.matrix.values.astype(np.float64)
    results, parts, last = [], [], None
    for fold in folds:
        result, p, last = _fold(x, data, fold, config)
        results.append(result)
        parts.append((fold, p, last.prior))
    oos = OutOfSample(
        np.concatenate([f.test for f, _, _ in parts]),
        np.concatenate([p for _, p, _ in parts]),
        np.concatenate([np.full(len(f.test), f.number, np.int64) for f, _, _ in parts]),
        np.concatenate([np.full(len(f.test), prior) for f, _, prior in parts]),
    )
    assert last is not None
    overall = _scores(y[oos.row], oos.probability, oos.prior, oos.fold)
    low = evaluation.auc_lower_bound(
        y[oos.row], oos.probability, data.event_start[oos.row], groups=oos.fold, block=max(config.block, 2 * data.horizon),
        confidence=config.confidence, replicates=config.replicates, seed=config.seed,
    )  # fmt: skip
    importance = _importance(last, x[folds[-1].test], y[folds[-1].test], config.seed)
    every = np.arange(len(data), dtype=np.int64)
    kind, _ = _choose(x, data, every, config)
    meta = {
        "horizon": data.horizon, "timeframe": str(data.matrix.timeframe), "schema_hash": data.matrix.schema_hash,
        "features_version": data.matrix.features_version, "data_hash": data.content_hash(), "config": config.revision,
        "seed": config.seed, "universe": data.universe, "symbols": list(data.matrix.symbols),
    }  # fmt: skip
    model = _fit(kind, x, y, data.matrix.names, config, meta)
    return TrainingResult(model, config, tuple(results), oos, overall, low, tuple(importance))
