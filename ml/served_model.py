"""What MLflow runs to serve a logged model: code and numbers, no pickle.

MLflow executes this file both when a model is logged and when it is loaded, perhaps on a machine without Tapeline;
so it imports nothing of ours and takes the arithmetic from scoring.py, which is stored beside the model's numbers.
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


class BaselineModel(PythonModel):
    """Probability of a positive forward return for rows of named features."""

    def load_context(self, context: Any) -> None:
        """Read the stored arithmetic and the numbers. Raises ValueError when the numbers are not a model."""
        spec = importlib.util.spec_from_file_location("tapeline_scoring", context.artifacts["scoring"])
        if spec is None or spec.loader is None:
            raise ValueError(f"cannot load {context.artifacts['scoring']}")
        scoring = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = scoring
        spec.loader.exec_module(scoring)
        self._model = scoring.ScoringModel.from_bytes(Path(context.artifacts["model"]).read_bytes())

    # No type hints: MLflow would take them for a schema and refuse the signature that is logged.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Column ``probability``, one row per input row; columns are taken by name, a row with a missing value gives NaN."""
        values = model_input[list(self._model.features)].to_numpy(np.float64)
        return pd.DataFrame({"probability": self._model.predict(values)})


mlflow.models.set_model(BaselineModel())
