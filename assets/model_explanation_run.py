"""Decisions of a stored version explained, without Dagster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assets import model_reference
from assets.model_drift_run import CannotJudge, Rows, Watched
from ml import agent_training, drift_reference, explanation
from ml.drift_reference import Reference
from ml.explanation import Explanation
from ml.forecasters import ForecastModel, history_of, windows_of
from ml.training_files import ForecasterFile, TrainingFile
from resources.tracking import Tracking


def explain(
    file: TrainingFile, found: Watched, tracking: Tracking, rows: Rows, samples: int, symbol: str, newest: int
) -> tuple[list[Explanation], str]:
    """(explanations of the newest `samples` entries among the `newest` closes, what to say of them). Where a forecaster entered
    nothing, the rows it is surest about. Raises CannotJudge, TrackingError, ValueError."""
    matrix = rows.matrix
    if samples < 1 or (symbol and symbol not in matrix.symbols):
        raise CannotJudge(f"samples {samples}, symbol {symbol!r}: expected at least one, of {', '.join(matrix.symbols)}")
    tags = tracking.version_tags(found.registered, found.version)
    if tags.get("schema_hash") != matrix.schema_hash:
        raise CannotJudge(
            f"{found.registered} version {found.version} knows other features than the code defines: train it again"
        )
    wanted = matrix.complete
    if symbol:
        wanted = wanted & (matrix.symbol == matrix.symbols.index(symbol))
    complete = np.flatnonzero(wanted)
    its = complete[drift_reference.newest(matrix.close_time[complete], newest)]
    if not len(its):
        raise CannotJudge("no complete feature row to decide on")
    if not isinstance(file, ForecasterFile):
        agent, scaler = model_reference.stored_agent(tracking, found.registered, found.version, file)
        config = file.config()
        segments = agent_training.matrix_segments(
            matrix, rows.traded.bars, rows.traded.instruments, its, scaler, config
        )  # fmt: skip
        made = explanation.of_agent(agent, segments, config, matrix.names, samples)
        return made, "" if made else f"It entered nothing in the newest {newest} closes."
    reference = Reference.from_bytes(tracking.run_file(found.registered, found.version, model_reference.DRIFT_FILE))
    model = model_reference.stored_forecaster(tracking, found.registered, found.version)
    windows = windows_of(matrix.values, history_of(matrix.symbol, model.window), its)
    probability = model.forecast(windows).probability
    side = _sides(model, probability, file.margin)
    chosen, why = np.flatnonzero(side)[-samples:], ""
    if not len(chosen):
        why = f"It entered nothing in the newest {newest} closes; these are the rows it is surest about."
        chosen = np.sort(np.argsort(-np.abs(probability - model.prior), kind="stable")[:samples])
    background = reference.background.astype(np.float64)
    words = {1: "wants long", -1: "wants short", 0: "wants nothing"}
    return [
        explanation.of_forecast(
            model, windows[i], background, matrix.symbols[matrix.symbol[its[i]]], int(matrix.close_time[its[i]]),
            f"{words[int(side[i])]}, probability {probability[i]:.3f}",
        )
        for i in chosen
    ], why  # fmt: skip


def _sides(model: ForecastModel, probability: NDArray[np.float64], margin: float) -> NDArray[np.int8]:
    """1 where the threshold rule (ml.decisions) wants to be long, -1 short, 0 neither."""
    high, low = max(model.prior, 0.5) + margin, min(model.prior, 0.5) - margin
    return np.where(probability > high, 1, np.where(probability < low, -1, 0)).astype(np.int8)
