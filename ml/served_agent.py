"""What MLflow runs to serve a logged recurrent agent: code and numbers, no pickle, no torch, nothing of ours.

The policy is an encoder, an LSTM and an action layer (ml.agents.recurrent_ppo); its forward pass is written out here in
numpy. Rows are consecutive bars of one instrument, oldest first, with the account's own state as the agent saw it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

OWN = ("position", "unrealised_pnl", "bars_held", "drawdown")
ACTIONS = ("HOLD", "BUY_LONG", "SELL_SHORT", "CLOSE_LONG", "CLOSE_SHORT")


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))


class AgentModel(PythonModel):
    """The most probable allowed action at each bar of one episode, from an empty memory."""

    def load_context(self, context: Any) -> None:
        """Read the weights, what they are, and the scaler of the observations."""
        from safetensors.numpy import load_file

        about = json.loads(Path(context.artifacts["agent"]).read_text())
        if about.get("agent") != "recurrent_ppo":
            raise ValueError(f"agent {about.get('agent')!r}: this file serves recurrent_ppo only")
        self._weights = {k: v.astype(np.float64) for k, v in load_file(context.artifacts["weights"]).items()}
        scaler = json.loads(Path(context.artifacts["scaler"]).read_text())
        self._mean, self._scale = np.array(scaler["mean"], np.float32), np.array(scaler["scale"], np.float32)
        self._clip = float(scaler["clip"])
        self._features = tuple(scaler["features"])

    # No type hints: MLflow would take them for a schema and refuse the signature that is logged.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Columns ``action`` (0 HOLD, 1 BUY_LONG, 2 SELL_SHORT, 3 CLOSE_LONG, 4 CLOSE_SHORT) and ``probability`` of it."""
        p = self._weights
        z = (model_input[list(self._features)].to_numpy(np.float32) - self._mean) / self._scale
        own = model_input[list(OWN)].to_numpy(np.float32)
        seen = np.concatenate([np.clip(z, -self._clip, self._clip), own], axis=1).astype(np.float64)
        size = p["memory.recurrent"].shape[1]
        h, c = np.zeros(size), np.zeros(size)
        actions, chances = [], []
        for row, position in zip(seen, own[:, 0], strict=True):
            x = np.tanh(p["encoder.weight"] @ row + p["encoder.bias"])
            gates = p["memory.input.weight"] @ x + p["memory.input.bias"] + p["memory.recurrent"] @ h
            i, f, o = (_sigmoid(gates[k * size : (k + 1) * size]) for k in range(3))
            c = f * c + i * np.tanh(gates[3 * size :])
            h = o * np.tanh(c)
            logits = p["action.weight"] @ h + p["action.bias"]
            allowed = np.array([True, position == 0, position == 0, position > 0, position < 0])
            logits = np.where(allowed, logits, -np.inf)
            chance = np.exp(logits - logits.max())
            best = int(np.argmax(logits))
            actions.append(float(best))
            chances.append(float(chance[best] / chance.sum()))
        return pd.DataFrame({"action": actions, "probability": chances})


mlflow.models.set_model(AgentModel())
