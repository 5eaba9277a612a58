"""What MLflow runs to serve a logged forecaster: code and numbers, no pickle.

MLflow executes this file both when a model is logged and when it is loaded, perhaps on a machine without Tapeline; so it
imports nothing of ours and takes the arithmetic from arithmetic.py, which is stored beside the model's numbers.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel


class ForecasterModel(PythonModel):
    """Probability of a positive forward return, and quantiles of it, for consecutive bars of one instrument."""

    def load_context(self, context: Any) -> None:
        """Read the stored arithmetic and the numbers. Raises ValueError when the numbers are not a model."""
        spec = importlib.util.spec_from_file_location("tapeline_forecaster", context.artifacts["arithmetic"])
        if spec is None or spec.loader is None:
            raise ValueError(f"cannot load {context.artifacts['arithmetic']}")
        arithmetic = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = arithmetic
        spec.loader.exec_module(arithmetic)
        self._model = arithmetic.ForecastModel.from_bytes(Path(context.artifacts["model"]).read_bytes())

    # No type hints: MLflow would take them for a schema and refuse the signature that is logged.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Columns ``probability`` and ``q10`` ..., one row per input row. Rows are consecutive bars of one instrument, oldest
        first; columns are taken by name; a row with a missing value gives NaN."""
        model = self._model
        values = model_input[list(model.features)].to_numpy(np.float32)
        padded = np.vstack([np.full((model.window - 1, values.shape[1]), np.nan, np.float32), values])
        windows = np.lib.stride_tricks.sliding_window_view(padded, model.window, axis=0).transpose(0, 2, 1)
        forecast = model.forecast(windows)
        out = {"probability": forecast.probability}
        for k, level in enumerate(model.levels):
            out[f"q{round(100 * level):02d}"] = forecast.quantiles[:, k]
        return pd.DataFrame(out)


mlflow.models.set_model(ForecasterModel())
