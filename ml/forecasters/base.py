"""What every forecaster is given and what is made of its raw output: calibration on the validation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.forecasters.arithmetic import Floats, Member, logit
from ml.forecasters.evidence import luck, positions_of


@dataclass(frozen=True, slots=True)
class Settings:
    """How members are trained. window: bars a network looks at. epochs, patience: at most, and without a better validation
    result. costs: of one side of a trade, as a fraction of its value. levels: of the quantiles. significance: chance that an
    ensemble trades at all where there is nothing to be forecast; 1 asks for no evidence."""

    window: int = 16
    hidden: int = 16
    heads: int = 2
    epochs: int = 8
    patience: int = 3
    batch: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    clip: float = 5.0
    costs: float = 0.0004
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    trees: int = 40
    leaves: int = 8
    tree_rate: float = 0.06
    min_leaf: int = 100
    l2: float = 10.0
    significance: float = 0.01
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.window < 1 or self.hidden % self.heads or not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"window {self.window}, hidden {self.hidden} of {self.heads} heads, levels {self.levels}: expected "
                             "at least 1, a multiple of the heads, ascending levels")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Fitting:
    """Rows to learn from. values: float32 (N, F), all rows of the set. history: int64 (N, W), positions of each row's last W
    bars of the same instrument, -1 before its first. direction: int8 (N,). returns: float64 (N,). times: int64 (N,).
    train, validation: positions; validation rows come later, and no training event reaches into them. symbol: int32 (N,), of
    each row; empty: all of one. horizon: bars a return looks ahead. members: of the ensemble this one is for. prior: share of
    rises where there is nothing to say; NaN: that of the rows."""

    values: NDArray[np.float32]
    history: NDArray[np.int64]
    direction: NDArray[np.int8]
    returns: NDArray[np.float64]
    times: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    symbol: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    horizon: int = 1
    members: int = 1
    prior: float = float("nan")
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    def late(self) -> NDArray[np.float32]:
        """(n, W, F) of the validation rows."""
        if "windows" not in self._known:
            self._known["windows"] = self.windows(self.validation)
        return self._known["windows"]  # type: ignore[no-any-return]

    def raw(self, member: Member) -> tuple[Floats, Floats]:
        """What `member` says of the validation rows before calibration; computed once, whatever becomes of its calibration."""
        kept = self._known.get(member.kind)
        if kept is None or kept[0] is not member.tensors:
            kept = self._known[member.kind] = (member.tensors, *member.raw(self.late()))
        return kept[1], kept[2]

    def windows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, W, F) of `rows`; NaN before an instrument's first bar."""
        return windows_of(self.values, self.history, rows)

    def luck(self, probability: Floats) -> float:
        """p-value of the best of the forecasts (E, n) of the validation rows having earned by luck what it earned."""
        rows = self.validation
        symbol = self.symbol[rows] if len(self.symbol) else np.zeros(len(rows), np.int32)
        neutral = float(self.direction[self.train].mean())
        return luck(
            positions_of(probability, neutral), self.returns[rows], self.times[rows], symbol, self.settings.costs,
            max(10, 2 * self.horizon), self.seed,
        )  # fmt: skip


def history_of(symbol: NDArray[np.int32], window: int) -> NDArray[np.int64]:
    """int64 (N, W): positions of the last `window` rows of each row's instrument, itself last; -1 where there is none."""
    out = np.full((len(symbol), window), -1, np.int64)
    for code in np.unique(symbol):
        rows = np.flatnonzero(symbol == code)
        padded = np.concatenate([np.full(window - 1, -1, np.int64), rows])
        out[rows] = np.lib.stride_tricks.sliding_window_view(padded, window)
    return out


def windows_of(values: NDArray[np.float32], history: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, W, F) of `rows` from all values (N, F); NaN where history is -1."""
    at = history[rows]
    out = values[at]
    out[at < 0] = np.nan
    return out


def net_of_costs(probability: Floats, returns: Floats, costs: float, neutral: float = 0.5) -> float:
    """Mean result per row of holding a position as large as the forecast is sure, less what getting in and out costs.

    The position is (p - neutral) * 10, between -1 and 1: smooth, so that a few rows do not decide.
    """
    position = positions_of(probability, neutral)
    return float(np.mean(position * returns - 2.0 * costs * np.abs(position)))


def calibrated(member: Member, fitting: Fitting) -> Member:
    """`member` with Platt scaling and conformal quantile shifts fitted on the validation rows; ``luck`` in its `about` is the
    p-value of what it earned there (ml.forecasters.evidence). Without evidence it says the prior, whatever it is asked.

    Platt 1999: log odds are scaled by a slope and moved by an intercept. The slope is never negative (a forecast that is
    wrong more often than right is worth nothing, not turned round), and the intercept is such that the mean forecast of the
    validation rows is the prior: whether recent months happened to rise is no skill, and no reason to trade. Quantiles are
    moved so that each covers its level on the validation rows (Romano, Patterson and Candes 2019).
    """
    rows = fitting.validation
    odds, standard = fitting.raw(member)
    y = fitting.direction[rows].astype(np.float64)
    prior = fitting.prior
    if math.isnan(prior):
        prior = float(fitting.direction[np.concatenate([fitting.train, rows])].mean())
    if float(member.about["luck"]) <= fitting.settings.significance / fitting.members:
        slope, _ = platt(odds, y)
        intercept = centred(slope * odds, prior) if slope > 0 else float(logit(np.array([prior]))[0])
    else:
        slope, intercept = 0.0, float(logit(np.array([prior]))[0])
    outcome = fitting.returns[rows] / float(member.about["return_scale"])
    shift = [float(np.quantile(outcome - standard[:, k], level)) for k, level in enumerate(fitting.settings.levels)]
    about = {**member.about, "calibration": [slope, intercept], "quantile_shift": shift}
    return replace(member, about=about)


def platt(odds: Floats, y: Floats, steps: int = 30) -> tuple[float, float]:
    """(slope >= 0, intercept) of the logistic regression of y (N,) on odds (N,), by Newton's method, slightly ridged."""
    design = np.column_stack([odds, np.ones(len(odds))])
    weights = np.array([1.0, 0.0])
    # A ridge of one row's worth keeps a validation part that separates perfectly from giving infinite odds.
    ridge = np.diag([1.0, 1e-6])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - y) + ridge @ (weights - [1.0, 0.0])
        hessian = (design * (p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = weights - np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] <= 0.0:
        return 0.0, float(logit(np.array([y.mean()]))[0])
    return float(weights[0]), float(weights[1])


def centred(odds: Floats, prior: float) -> float:
    """What to add to log odds (N,) so that the mean probability is `prior`; by bisection."""
    low, high = -30.0, 30.0
    for _ in range(80):
        middle = (low + high) / 2
        if float(np.mean(1.0 / (1.0 + np.exp(-np.clip(odds + middle, -60, 60))))) < prior:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def about_of(fitting: Fitting, **more: Any) -> dict[str, Any]:
    """What every member's `about` holds before calibration. return_scale: deviation of the training rows' returns."""
    scale = float(np.std(fitting.returns[fitting.train])) or 1.0
    return {
        "window": fitting.settings.window, "clip": fitting.settings.clip, "return_scale": scale, "calibration": [1.0, 0.0],
        "quantile_shift": [0.0] * len(fitting.settings.levels), "rows": len(fitting.train), **more,
    }  # fmt: skip
