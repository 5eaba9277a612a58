"""What the lake hands out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class Partition:
    """What the lake holds, or held, of one symbol in one session. Times UTC us; source: feed name or features version.

    superseded_wall: when another version took its place, 0: it is what counts now.
    """

    dataset: str
    session: date
    symbol: str
    rows: int
    content_hash: str
    first_close_time: int
    last_close_time: int
    source: str
    written_wall: int
    superseded_wall: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class FeatureFrame:
    """Features of T bars of `symbol`: close_time int64 (T,), session int32 (T,), values float64 (T, F) by `names`."""

    symbol: str
    names: tuple[str, ...]
    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    values: NDArray[np.float64]
    version: str

    def __len__(self) -> int:
        return len(self.close_time)

    def column(self, name: str) -> NDArray[np.float64]:
        """Values of one feature. Raises KeyError naming it."""
        try:
            return self.values[:, self.names.index(name)]
        except ValueError:
            raise KeyError(f"{self.symbol}: no feature {name!r}") from None


@dataclass(frozen=True, slots=True)
class Root:
    """The root of a lake in an object store, where code joins paths to it for display."""

    url: str

    def __truediv__(self, name: str) -> Root:
        return Root(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    def as_uri(self) -> str:
        return self.url


def dataset_name(timeframe: Timeframe, content: str = "bars") -> str:
    """``bars_1h`` or ``features_1h``."""
    return f"{content}_{timeframe}"
