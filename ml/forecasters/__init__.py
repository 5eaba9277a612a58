"""Forecasters of direction and return: linear, gradient boosting, LSTM, Transformer, and their ensemble."""

from __future__ import annotations

from ml.forecasters.arithmetic import KINDS, Forecast, ForecastFormatError, ForecastModel, Member
from ml.forecasters.base import Fitting, Settings, history_of, net_of_costs, windows_of

BASELINES = ("linear", "boosting")
"""Always trained beside the others: what a larger model must beat."""


def fit(kind: str, fitting: Fitting) -> Member:
    """A calibrated member of `kind`. Imports torch or scikit-learn. Raises ValueError on an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"no forecaster {kind!r} (forecasters: {', '.join(KINDS)})")
    if kind == "boosting":
        from ml.forecasters.boosting import fit_boosting

        return fit_boosting(fitting)
    from ml.forecasters.networks import fit_network

    return fit_network(kind, fitting)


__all__ = [
    "BASELINES", "KINDS", "Fitting", "Forecast", "ForecastFormatError", "ForecastModel", "Member", "Settings", "fit",
    "history_of", "net_of_costs", "windows_of",
]  # fmt: skip
