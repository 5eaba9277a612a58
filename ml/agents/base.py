"""What an agent is: something that learns to act in a VectorMarket and can then be asked, bar by bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ml.environment.market import EnvironmentConfig, MarketData


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands: steps done of all, and figures of the last update by name."""

    steps: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


class Agent(Protocol):
    """A trainable policy. Made by its class with keyword settings; `name` is what it is registered as."""

    name: str

    def train(
        self,
        data: MarketData,
        config: EnvironmentConfig,
        *,
        steps: int,
        seed: int,
        checkpoint: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Learn for `steps` environment steps. Equal arguments give equal weights. checkpoint: a folder that is written
        now and then; a training killed and begun again with it ends where the uninterrupted one would have."""
        ...

    def start(self, lanes: int) -> Any:
        """Memory of `lanes` lanes that have seen nothing."""
        ...

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], memory: Any, begins: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], Any]:
        """The best allowed action per lane, int64 (N,), and the memory after it. begins: lanes whose episode begins."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights and settings: no pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Any:
        """The agent `save` wrote."""
        ...
