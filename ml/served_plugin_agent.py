"""What MLflow runs to serve a plug-in's agent: its own source, kept beside its files. Needs Tapeline to be importable.

Rows are consecutive bars of one instrument, oldest first, with the account's own state as the agent saw it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

OWN = ("position", "unrealised_pnl", "bars_held", "drawdown")


class PluginAgentModel(PythonModel):
    """The allowed action the agent takes at each bar of one episode, from an empty memory."""

    def load_context(self, context: Any) -> None:
        """Run the kept source, give its class the kept files."""
        kept = json.loads(Path(context.artifacts["plugin"]).read_text())
        module = ModuleType("tapeline_plugin_agent")
        sys.modules[module.__name__] = module
        source = Path(context.artifacts["agent_source"]).read_text()
        exec(compile(source, "agent_source.py", "exec"), module.__dict__)  # noqa: S102 - the operator's own plug-in
        folder = Path(tempfile.mkdtemp())
        try:
            for key, name in kept["files"].items():
                shutil.copy(context.artifacts[key], folder / name)
            self._agent = getattr(module, kept["class"]).load(folder)
        finally:
            shutil.rmtree(folder)
        scaler = json.loads(Path(context.artifacts["scaler"]).read_text())
        self._mean, self._scale = np.array(scaler["mean"], np.float32), np.array(scaler["scale"], np.float32)
        self._clip, self._features = float(scaler["clip"]), tuple(scaler["features"])

    # No type hints: MLflow would take them for a schema and refuse the signature that is logged.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Columns ``action`` (0 HOLD, 1 BUY_LONG, 2 SELL_SHORT, 3 CLOSE_LONG, 4 CLOSE_SHORT) and ``probability``, which is 1."""
        z = (model_input[list(self._features)].to_numpy(np.float32) - self._mean) / self._scale
        own = model_input[list(OWN)].to_numpy(np.float32)
        seen = np.concatenate([np.clip(z, -self._clip, self._clip), own], axis=1).astype(np.float32)
        memory, begins, actions = self._agent.start(1), np.array([True]), []
        for row, position in zip(seen, own[:, 0], strict=True):
            mask = np.array([[True, position == 0, position == 0, position > 0, position < 0]])
            action, memory = self._agent.act(row[None], mask, memory, begins)
            begins = np.array([False])
            actions.append(float(action[0]))
        return pd.DataFrame({"action": actions, "probability": np.ones(len(actions))})


mlflow.models.set_model(PluginAgentModel())
