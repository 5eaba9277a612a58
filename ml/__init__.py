"""Learning: features to matrices, labels, splits, the baseline forecaster and its evaluation."""

from pathlib import Path


def served_model_path() -> Path:
    """The file MLflow runs to serve a model. It may not be imported: it would start MLflow and register itself."""
    return Path(__file__).with_name("served_model.py")
