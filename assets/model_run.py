"""Training without Dagster: from the lake to a training set, and from a training to what MLflow and people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from assets.common import markdown_table
from ml import evaluation, promotion, training_files
from ml.baseline import TrainingConfig, TrainingResult
from ml.dataset import SourceSpan, TrainingSet, label_matrix
from ml.labels import BarrierRule
from ml.matrix import FeatureMatrix, FeaturePart, assemble
from ml.relative import relative_features, relative_version
from ml.rule import RuleResult
from ml.splits import holdout, walk_forward
from resources.lake import Lake, LakeError
from resources.price_view import outcome_bars
from resources.settings import Settings, settings
from resources.tracking import DatasetInput, ModelRecord
from trading import features
from trading.bars import Bars
from trading.corporate_actions import UnknownFactor
from trading.instruments import Instrument, Mode
from trading.promotion import Criterion
from trading.timeframes import Timeframe, iso
from trading.universe import Universe

TIMEFRAME: Final = Timeframe.D1
LOCKED: Final = 0.15
"""Share of the times that stays locked until a model is finished: what a step needs is counted before it."""
HORIZON: Final = 5
"""Bars a forecast looks ahead: one trading week."""
BARRIER: Final = BarrierRule(upper=1.5, lower=1.5, window=20, max_bars=10)
"""The triple barrier of the training sets."""


class NoFeatures(Exception):
    """The lake holds no usable features to train on. The message says what to materialise."""


class TooYoung(NoFeatures):
    """There is nothing wrong with the lake: its history is too short yet. The message says what it waits for."""


def _some(names: list[str], shown: int = 3) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Every feature row of the universe in the lake, labelled or not, the bars behind them on one price level, the partitions
    they were read from, and the instruments that could not join, with the reason."""

    matrix: FeatureMatrix
    bars: dict[str, Bars]
    sources: list[SourceSpan]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A training set, the bars behind it, and the instruments that could not join, with the reason."""

    training_set: TrainingSet
    bars: dict[str, Bars]
    left_out: dict[str, str]


def model_name(universe: str) -> str:
    return f"tapeline-baseline-{universe}"


def training_set_path(settings: Settings, universe: str) -> Path:
    return settings.path("training", f"{universe}_{TIMEFRAME}.parquet")


def gather(lake: Lake, universe: Universe, timeframe: Timeframe = TIMEFRAME, horizon: int = HORIZON) -> Gathered:
    """Training set of the universe's instruments that may be backtested, from the features and bars in the lake.

    Raises NoFeatures when none of them has features of the current definition, TooYoung when they are all too young or make
    too few rows for a single walk-forward step.
    """
    rows = feature_rows(lake, universe, timeframe)
    labelled = label_matrix(
        rows.matrix, rows.bars, horizon, universe.name, rows.sources, horizons=training_files.HORIZONS, barrier=BARRIER
    )
    _one_step(labelled, universe)
    return Gathered(labelled, rows.bars, rows.left_out)


def _one_step(data: TrainingSet, universe: Universe) -> None:
    """Raise TooYoung when not even the last walk-forward step before the locked slice would have rows enough to learn from."""
    own = TrainingConfig()
    try:
        rows, _ = holdout(data.event_start, data.event_end, fraction=LOCKED, embargo=own.embargo)
        steps = walk_forward(
            data.event_start[rows], data.event_end[rows], folds=own.folds, embargo=own.embargo, first_train=own.first_train,
            min_train=own.min_train,
        )  # fmt: skip
    except ValueError:
        steps = []
    if not steps:
        raise TooYoung(
            f"training waits for history in universe {universe.name}: {len(data)} rows ({data.span()}) give no walk-forward step "
            f"with {own.min_train} rows to learn from"
        )


def feature_rows(lake: Lake, universe: Universe, timeframe: Timeframe = TIMEFRAME) -> FeatureRows:
    """Features of the universe's instruments that may be backtested, the newest bar's included.

    Raises NoFeatures when none of them has features of the current definition.
    """
    units = {f.name: f.unit for f in features.FEATURES}
    parts: dict[str, FeaturePart] = {}
    bars: dict[str, Bars] = {}
    left_out: dict[str, str] = {}
    sources: list[SourceSpan] = []
    names: tuple[str, ...] = ()
    young: list[str] = []
    for symbol, instrument in sorted(universe.instruments.items()):
        try:
            frame = lake.read_features(f"features_{timeframe}", symbol)
            own = lake.read_bars(f"bars_{timeframe}", symbol)
            outcomes = outcome_bars(lake, own, settings().price_view)
        except (LakeError, UnknownFactor) as error:
            left_out[symbol] = str(error)
            continue
        reason = _unusable(instrument, timeframe, len(frame), frame.version)
        if reason:
            left_out[symbol] = reason
            continue
        at = np.searchsorted(own.close_time, frame.close_time)
        if at[-1] >= len(own) or not np.array_equal(own.close_time[at], frame.close_time):
            left_out[symbol] = f"features_{timeframe} and bars_{timeframe} are of different states: materialise features again"
            continue
        names, values = relative_features(frame.names, units, frame.values, own.close[at])
        if not np.isfinite(values).all(axis=1).any():
            empty = [n for n, column in zip(names, values.T, strict=True) if not np.isfinite(column).any()]
            left_out[symbol] = "no complete row: " + (f"{_some(empty)} never known" if empty else "too short a history")
            if len(own) <= features.WARM_UP:
                left_out[symbol] = f"{len(own)} {timeframe} bars, its first complete row needs {features.WARM_UP + 1}"
                young.append(symbol)
            continue
        parts[symbol], bars[symbol] = FeaturePart(frame.close_time, frame.session, values), outcomes
        for dataset in (f"bars_{timeframe}", f"features_{timeframe}"):
            held = [(p.session.isoformat(), p.content_hash) for p in lake.partitions(dataset, symbols=[symbol])]
            sources.append(SourceSpan.of(dataset, symbol, held))
    if not parts:
        why = "; ".join(f"{s}: {r}" for s, r in left_out.items())
        if young and not set(tradable(universe)) - set(young):
            raise TooYoung(f"training waits for history in universe {universe.name}: {why}")
        raise NoFeatures(f"nothing to train on in universe {universe.name}: {why}")
    version = relative_version(features.FEATURES_VERSION)
    matrix = assemble(parts, names, timeframe, version, features.WARM_UP)
    return FeatureRows(matrix, bars, sources, left_out)


def _unusable(instrument: Instrument, timeframe: Timeframe, rows: int, version: str) -> str:
    if Mode.BACKTEST not in instrument.tradable_in:
        return "observed only"
    if not rows:
        return f"no features_{timeframe} in the lake: materialise them"
    if version != features.FEATURES_VERSION:
        return f"features of version {version}, the code defines {features.FEATURES_VERSION}: materialise them again"
    return ""


def tradable(universe: Universe) -> dict[str, Instrument]:
    """Instruments a backtest may trade."""
    return {s: i for s, i in universe.instruments.items() if Mode.BACKTEST in i.tradable_in}


# -- what people and MLflow read ------------------------------------------------------------------------------------------


def sources_table(data: TrainingSet) -> str:
    """The partitions the set was computed from, as markdown."""
    return markdown_table(
        ["dataset", "symbol", "from", "to", "partitions", "hash over their content hashes"],
        [[s.dataset, s.symbol, s.first_session, s.last_session, s.partitions, s.content_hash] for s in data.sources],
    )


def symbols_table(data: TrainingSet) -> str:
    """Rows, span and share of rises per instrument, as markdown."""
    rows: list[list[Any]] = []
    for code, symbol in enumerate(data.matrix.symbols):
        own = data.matrix.symbol == code
        if own.any():
            times = data.event_start[own]
            share = f"{data.direction[own].mean():.3f}"
            rows.append([symbol, int(own.sum()), iso(int(times[0]))[:10], iso(int(times[-1]))[:10], share])
    return markdown_table(["instrument", "rows", "from", "to", "share of rises"], rows)


def folds_table(result: TrainingResult) -> str:
    """One row per walk-forward test window, model against prior, as markdown."""
    header = ["fold", "test from", "to", "trained on", "purged", "chosen", "AUC", "log loss", "prior", "skill %", "Brier",
              "prior", "accuracy", "prior"]  # fmt: skip
    rows: list[list[Any]] = []
    for f in result.folds:
        s = f.scores
        rows.append(
            [f.fold, iso(f.test_start)[:10], iso(f.test_end)[:10], f.train_rows, f.purged, f.kind, f"{s.auc:.3f}",
             f"{s.log_loss:.4f}", f"{s.prior_log_loss:.4f}", f"{100 * s.skill:+.2f}", f"{s.brier:.4f}", f"{s.prior_brier:.4f}",
             f"{s.accuracy:.3f}", f"{s.prior_accuracy:.3f}"]
        )  # fmt: skip
    o = result.overall
    rows.append(
        ["all", "", "", "", "", "", f"{o.auc:.3f} (low {result.auc_low:.3f})", f"{o.log_loss:.4f}", f"{o.prior_log_loss:.4f}",
         f"{100 * o.skill:+.2f}", f"{o.brier:.4f}", f"{o.prior_brier:.4f}", f"{o.accuracy:.3f}", f"{o.prior_accuracy:.3f}"]
    )  # fmt: skip
    return markdown_table(header, rows)


def rule_table(rule: RuleResult) -> str:
    rows: list[list[Any]] = [
        ["threshold rule", f"{100 * rule.net_return:+.2f} %", rule.trades, f"{100 * rule.max_drawdown:.1f} %"],
        ["buy and hold", f"{100 * rule.holding_return:+.2f} %", "", ""],
    ]
    return markdown_table(["on the test windows, after costs", "return", "trades", "max drawdown"], rows)


def criteria_table(criteria: Sequence[Criterion]) -> str:
    """The criteria with their figures; failed ones are marked."""
    rows = [["✅" if c.passed else "❌ **failed**", *row] for c, row in zip(criteria, promotion.rows(criteria), strict=True)]
    return markdown_table(["", *promotion.HEADER], rows)


def forecast_picture(data: TrainingSet, result: TrainingResult) -> bytes:
    """PNG with ROC per fold, calibration and feature importance, out of sample only."""
    from resources.plots import forecast_quality

    oos = result.out_of_sample
    y = data.direction[oos.row]
    roc = []
    for f in result.folds:
        rows = oos.fold == f.fold
        fpr, tpr = evaluation.roc_curve(y[rows], oos.probability[rows])
        roc.append((f"{iso(f.test_start)[:4]}–{iso(f.test_end)[:4]}  {f.scores.auc:.3f}", fpr, tpr))
    bins = [(b.forecast, b.observed, b.rows) for b in evaluation.calibration(y, oos.probability)]
    return forecast_quality(roc, bins, float(oos.prior.mean()), result.importance)


def rule_picture(rule: RuleResult, currency: str) -> bytes:
    """PNG with the equity of the threshold rule and of holding, over the test windows."""
    from resources.plots import Curve, equity_and_drawdown

    curves = [Curve("threshold rule", rule.close_time, rule.equity), Curve("buy and hold", rule.close_time, rule.holding_equity)]
    return equity_and_drawdown(curves, currency, "Threshold rule on out-of-sample forecasts, after costs")


def model_card(data: TrainingSet, result: TrainingResult, rule: RuleResult, criteria: list[Criterion]) -> str:
    """The model card: what it is, what from, how good, what it must not be used for."""
    verdict = "shows skill of its own" if all(c.passed for c in criteria) else "shows no skill worth the name"
    return "\n".join(
        [
            f"# Baseline forecaster, universe {data.universe}", "",
            f"Probability that an instrument, bought at the next open, is higher {data.horizon} {data.matrix.timeframe} bars "
            f"later. {result.model.kind.capitalize()} model on {len(data.matrix.names)} point-in-time features, chosen on the "
            "later part of the training rows, judged walk-forward with purging and embargo.", "",
            f"**It {verdict}.** It is what larger models are held against and is never promoted.", "",
            criteria_table(criteria), "", "## Walk-forward figures", "",
            folds_table(result), "", "## In money", "", rule_table(rule), "", "## Data", "", symbols_table(data), "",
            f"{len(data)} rows, {data.span()}. Data `{data.content_hash()}`, partitions `{data.sources_hash()}`, features "
            f"`{data.matrix.features_version}`, model `{result.model.content_hash()}`, seed {result.config.seed}.", "",
            "## Limits of use", "",
            "A baseline to beat, not advice. Index levels are traded as if they could be; no dividends, no borrowing cost. "
            "The universe was chosen by what data is free, so its survivors flatter every long position.",
        ]
    )  # fmt: skip


def record(
    data: TrainingSet,
    result: TrainingResult,
    rule: RuleResult,
    criteria: list[Criterion],
    *,
    path: Path,
    tags: Mapping[str, str],
    figures: Mapping[str, bytes],
) -> ModelRecord:
    """The training as MLflow keeps it. path: the training set's file; tags: what made it, added to the model's own."""
    data_hash, model_hash = data.content_hash(), result.model.content_hash()
    own = {
        "data_hash": data_hash, "sources_hash": data.sources_hash(), "features_version": data.matrix.features_version,
        "schema_hash": data.matrix.schema_hash, "model_hash": model_hash, "kind": result.model.kind,
        "seed": str(result.config.seed), "universe": data.universe, "horizon": str(data.horizon),
    }  # fmt: skip
    return ModelRecord(
        name=model_name(data.universe),
        experiment=f"tapeline/baseline/{data.universe}",
        run_name=f"{result.model.kind} {data_hash[:8]}",
        model=result.model.to_bytes(),
        features=data.matrix.names,
        sample=data.matrix.values[-5:].astype(np.float64),
        tags={**tags, **own},
        params={**result.config.params(), "horizon": str(data.horizon), "timeframe": str(data.matrix.timeframe),
                "training_config": result.config.revision},
        metrics={**result.metrics(), **rule.metrics()},
        dataset=DatasetInput(
            f"training-{data.universe}-{data.matrix.timeframe}", path, data_hash, data.matrix.names, data.matrix.values,
            data.direction, {"data_hash": data_hash, "sources_hash": data.sources_hash(), "span": data.span()},
        ),
        card=model_card(data, result, rule, criteria),
        steps={f"fold_{name}": [getattr(f.scores, name) for f in result.folds] for name in ("auc", "log_loss", "brier", "skill")},
        figures=figures,
        texts={"sources.md": sources_table(data)},
    )  # fmt: skip
