"""The environment as gymnasium knows it: one lane, for agents written against that interface."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ml.environment.market import ACTIONS, EnvironmentConfig, MarketData, VectorMarket


class MarketEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One trading lane. Observation float32 (F + 4,), five actions, the allowed ones in ``info["action_mask"]``.

    An action the mask forbids is a HOLD, as gymnasium has no way to refuse one; ``info["illegal"]`` says so.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, data: MarketData, config: EnvironmentConfig | None = None) -> None:
        self._data, self._config = data, config or EnvironmentConfig()
        self._market: VectorMarket | None = None
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (data.width,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new episode. options: ``{"segment": s, "row": r}`` starts there instead of at random."""
        super().reset(seed=seed)
        if self._market is None or seed is not None:
            start = int(self.np_random.integers(2**63)) if seed is None else seed
            self._market = VectorMarket(self._data, self._config, 1, start)
        else:
            self._market.reset()
        if options:
            self._market.place(0, int(options.get("segment", 0)), int(options.get("row", 0)))
        return self._market.observation[0].copy(), self._info(False)

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One bar. The observation of an ended episode is its last one, not the first of the next."""
        if self._market is None:
            raise RuntimeError("reset the environment before the first step")
        legal = bool(self._market.mask[0, int(action)])
        step = self._market.step(np.array([int(action) if legal else 0], np.int64))
        ended = bool(step.terminated[0] or step.truncated[0])
        seen = step.final[0] if ended else step.observation[0]
        return seen.copy(), float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), self._info(not legal)

    def _info(self, illegal: bool) -> dict[str, Any]:
        assert self._market is not None
        return {"action_mask": self._market.mask[0].copy(), "equity": float(self._market.equity[0]), "illegal": illegal}
