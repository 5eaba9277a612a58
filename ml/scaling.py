"""Scaling of features, fitted on training rows only, with the span it was fitted on kept beside the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Scaler:
    """Standardise and clip F features. mean, scale: float32 (F,). clip: deviations kept on either side.

    first_time, last_time: UTC us of the first and last row it was fitted on; rows: how many they were.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    clip: float
    first_time: int
    last_time: int
    rows: int

    def __call__(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 (..., F) of values (..., F). What is missing stays missing."""
        z = (np.asarray(values, np.float32) - self.mean) / self.scale
        return np.clip(z, np.float32(-self.clip), np.float32(self.clip))


def fit_scaler(values: NDArray[np.floating], times: NDArray[np.int64], clip: float = 5.0) -> Scaler:
    """Mean and deviation of values (N, F) of rows known at `times` (N,). A constant feature is scaled by 1.

    Raises ValueError without rows or on missing values.
    """
    x = np.asarray(values, np.float64)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"{len(x)} rows to fit a scaler on, expected at least one, all of them numbers")
    deviation = x.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)
    return Scaler(
        x.mean(axis=0).astype(np.float32), scale.astype(np.float32), clip, int(times.min()), int(times.max()), len(x)
    )  # fmt: skip
