"""Learning: features to matrices, labels, splits, forecasters, agents, and how they are judged."""

from pathlib import Path

_HERE = Path(__file__).parent


def served_model_path() -> Path:
    """The file MLflow runs to serve a baseline. It may not be imported: it would start MLflow and register itself."""
    return _HERE / "served_model.py"


def served_forecaster_path() -> Path:
    """The same for a forecaster; it reads ``arithmetic.py`` and ``model.safetensors``."""
    return _HERE / "served_forecaster.py"


def served_agent_path() -> Path:
    """The same for a recurrent agent; it reads ``weights.safetensors``, ``agent.json`` and ``scaler.json``."""
    return _HERE / "served_agent.py"


def served_plugin_agent_path() -> Path:
    """The same for an agent of a plug-in; it reads the plug-in's source and files and needs Tapeline."""
    return _HERE / "served_plugin_agent.py"
