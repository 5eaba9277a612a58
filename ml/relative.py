"""Features without a price scale: what a model can carry from one decade and one instrument to another.

A moving average of 300 says nothing by itself; three percent above the close does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_RELATIVE_VERSION = "relative1"

_SCALE_FREE_UNITS = frozenset({"ratio", "0..100", "-100..100", "per bar"})


def relative_version(features_version: str) -> str:
    """Version of the relative features made from `features_version`."""
    return f"{features_version}+{_RELATIVE_VERSION}"


def relative_features(
    names: Sequence[str], units: Mapping[str, str], values: NDArray[np.float64], close: NDArray[np.float64]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """(names, values (T, F')) of features (T, F) against the close (T,) of their bars.

    units: name -> unit, see trading.features.FEATURES. Prices become their ratio to the close (``sma_10_to_close``),
    scale-free units stay, totals such as on-balance volume are left out: their level depends on where the window starts.
    Raises ValueError on a feature whose unit is not known.
    """
    if values.shape != (len(close), len(names)):
        raise ValueError(f"features have shape {values.shape}, expected ({len(close)}, {len(names)})")
    kept_names: list[str] = []
    columns: list[NDArray[np.float64]] = []
    for i, name in enumerate(names):
        unit = units.get(name)
        if unit == "price":
            kept_names.append(f"{name}_to_close")
            columns.append(values[:, i] / close)
        elif unit in _SCALE_FREE_UNITS:
            kept_names.append(name)
            columns.append(values[:, i])
        elif unit != "volume":
            raise ValueError(f"feature {name} has unit {unit!r}, expected price, volume or one of {sorted(_SCALE_FREE_UNITS)}")
    return tuple(kept_names), np.column_stack(columns) if columns else np.empty((len(close), 0))
