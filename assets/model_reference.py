"""What a version keeps of its training part, and what it says on rows: the two sides of the drift report.

The version's own outputs are computed here, by the files that were trained and nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assets.model_data import Traded
from ml import agent_training, decisions, drift_reference, forecasting
from ml.dataset import TrainingSet
from ml.decisions import Decisions
from ml.environment.kernel import BUY_LONG, CLOSE_LONG, CLOSE_SHORT, SELL_SHORT
from ml.forecasters import ForecastModel, history_of, windows_of
from ml.matrix import FeatureMatrix
from ml.protocol import Judgement
from ml.scaling import Scaler
from ml.splits import holdout
from ml.training_files import AgentFile, ForecasterFile, TrainingFile
from resources.tracking import Tracking
from trading.experiment import session_returns

DRIFT_FILE: Final = "evidence/drift_reference.json"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a model says on rows. outputs: values (n,) by name at `times` int64 (n,); decisions: by symbol."""

    times: NDArray[np.int64]
    outputs: dict[str, Floats]
    decisions: dict[str, Decisions]


# -- kept with the version -------------------------------------------------------------------------------------------------


def forecaster_reference(
    file: ForecasterFile, data: TrainingSet, run: forecasting.ForecastRun, judged: Judgement
) -> bytes:  # fmt: skip
    """Features of the rows before the locked slice, forecasts of the later of them: those that no weight was fitted on."""
    config, dev = run.config, run.development
    late = dev[
        holdout(data.event_start[dev], data.event_end[dev], fraction=config.validation, embargo=config.embargo)[1]
    ]  # fmt: skip
    said = _forecast(run.model, data.matrix, late)
    return _reference(file, data, dev, said, data.event_start[late], judged)


def agent_reference(
    file: AgentFile, data: TrainingSet, run: agent_training.AgentRun, agent: Any, traded: Traded, judged: Judgement
) -> bytes:
    """The same of an agent: what it did on the rows before the locked slice."""
    scaler = agent_training.read_scaler(run.folder)
    said = _played(agent, scaler, run.config, data.matrix, run.development, traded)
    return _reference(file, data, run.development, said.outputs, said.times, judged)


def _reference(
    file: TrainingFile, data: TrainingSet, rows: NDArray[np.int64], outputs: Mapping[str, Floats], times: NDArray[np.int64],
    judged: Judgement,
) -> bytes:  # fmt: skip
    columns = dict(zip(data.matrix.names, data.matrix.values[rows].T.astype(np.float64), strict=True))
    return drift_reference.reference_of(
        columns, data.event_start[rows], outputs, times, judged.returns, window=file.drift.window
    ).to_bytes()  # fmt: skip


# -- a stored version, asked again -----------------------------------------------------------------------------------------


def what_it_says(
    tracking: Tracking,
    name: str,
    version: str,
    file: TrainingFile,
    matrix: FeatureMatrix,
    rows: NDArray[np.int64],
    traded: Traded,
) -> Said:
    """What the stored version says on `rows` (positions in `matrix`), and decides from the first of them on.

    Rows before them are its memory's warm-up. Raises TrackingError, ForecastFormatError, ValueError.
    """
    if isinstance(file, ForecasterFile):
        return _of_forecaster(stored_forecaster(tracking, name, version), file, matrix, rows, traded)
    agent, scaler = stored_agent(tracking, name, version, file)
    return _played(agent, scaler, file.config(), matrix, rows, traded)


def stored_forecaster(tracking: Tracking, name: str, version: str) -> ForecastModel:
    """Raises TrackingError, ForecastFormatError."""
    return ForecastModel.from_bytes(tracking.model_bytes(name, version, tracking.version_tags(name, version)["model_file"]))


def stored_agent(tracking: Tracking, name: str, version: str, file: AgentFile) -> tuple[Any, Scaler]:
    """(agent, scaler of its observations). Raises TrackingError, UnknownAgent, ValueError."""
    from ml.agents import agent_class

    with tempfile.TemporaryDirectory() as place:
        for kept in tracking.version_tags(name, version).get("files", "").split():
            Path(place, kept).write_bytes(tracking.model_bytes(name, version, kept))
        return agent_class(file.agent).load(Path(place)), agent_training.read_scaler(Path(place))


def _forecast(model: ForecastModel, matrix: FeatureMatrix, rows: NDArray[np.int64]) -> dict[str, Floats]:
    made = model.forecast(windows_of(matrix.values, history_of(matrix.symbol, model.window), rows))
    return {"probability": made.probability, "spread": made.quantiles[:, -1] - made.quantiles[:, 0]}


def _of_forecaster(
    model: ForecastModel, file: ForecasterFile, matrix: FeatureMatrix, rows: NDArray[np.int64], traded: Traded
) -> Said:
    outputs = _forecast(model, matrix, rows)
    known = np.isfinite(outputs["probability"])
    its, times = rows[known], matrix.close_time[rows]
    made = decisions.of_forecasts(
        traded.bars, matrix.symbols, matrix.symbol[its], matrix.close_time[its], outputs["probability"][known],
        np.full(int(known.sum()), model.prior), file.margin, (int(times.min()), int(times.max())),
    )  # fmt: skip
    return Said(times, outputs, made)


def _played(
    agent: Any, scaler: Scaler, config: agent_training.AgentConfig, matrix: FeatureMatrix, rows: NDArray[np.int64], traded: Traded
) -> Said:
    segments = agent_training.matrix_segments(matrix, traded.bars, traded.instruments, rows, scaler, config)
    actions, _ = agent_training.play(agent, segments, config)
    made: dict[str, list[Decisions]] = {}
    for segment, own in zip(segments, actions, strict=True):
        made.setdefault(segment.bars.symbol, []).append(decisions.of_actions(segment.bars, own))
    outputs = {
        "action": np.concatenate([a.astype(np.float64) for a in actions]),
        "position": np.concatenate([held(a) for a in actions]),
    }
    times = np.concatenate([s.bars.close_time for s in segments])
    return Said(times, outputs, {symbol: agent_training.joined(parts) for symbol, parts in made.items()})


def held(actions: NDArray[np.int64]) -> Floats:
    """Position wanted after each of an agent's actions (T,), from none: 1 long, -1 short, 0 none."""
    word = np.full(len(actions), np.nan)
    word[actions == BUY_LONG], word[actions == SELL_SHORT] = 1.0, -1.0
    word[(actions == CLOSE_LONG) | (actions == CLOSE_SHORT)] = 0.0
    known = np.concatenate([[True], np.isfinite(word)])
    return np.concatenate([[0.0], word])[np.maximum.accumulate(np.where(known, np.arange(len(known)), 0))][1:]


def results(said: Said, file: TrainingFile, traded: Traded, cash: float) -> tuple[NDArray[np.int64], Floats]:
    """(session ends, session returns net of costs) of the decisions, traded as the model was judged."""
    run = decisions.experiment("drift", said.decisions, traded.instruments, file.terms(cash))
    return run.session_ends, session_returns(run.run(), run.session_ends)


__all__ = [
    "DRIFT_FILE", "Said", "agent_reference", "forecaster_reference", "held", "results", "stored_agent",
    "stored_forecaster", "what_it_says",
]  # fmt: skip
