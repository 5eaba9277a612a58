"""When a trained model is trusted: criteria with numbers, each of them shown whether it is met or not.

Judged on figures kept with the model in MLflow, so that the verdict can be given again at any time. A figure that is
missing is a criterion not met.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from trading.promotion import (
    CONFIDENCE,
    HEADER,
    LARGEST_P,
    LARGEST_PBO,
    MINIMUM_TRADES,
    Criterion,
    Wanted,
    promoted,
    rows,
)

__all__ = ["DRAWDOWN_LIMIT", "HEADER", "METRICS", "MINIMUM_TRADES", "Criterion", "judge", "promoted", "rows", "skill"]

DRAWDOWN_LIMIT: Final = 0.10
"""Deepest drawdown in any 30 days."""

METRICS: Final[dict[str, tuple[str, Wanted, float]]] = {
    "audit_passed": ("leakage audit: nothing found", ">=", 1.0),
    "canaries_passed": ("canaries of this code: all passed", ">=", 1.0),
    "trades": ("closed trades out of sample", ">=", MINIMUM_TRADES),
    "dsr": ("deflated Sharpe: P(true > best of N by luck)", ">=", CONFIDENCE),
    "pbo": ("probability of backtest overfitting", "<=", LARGEST_PBO),
    "spa_worst": ("superior ability, p against the hardest baseline", "<=", LARGEST_P),
    "sharpe_low": ("lower bound of the Sharpe ratio at its own costs", ">", 0.0),
    "mean_at_2x": ("mean session return at twice the costs", ">", 0.0),
    "drawdown_30d": ("deepest drawdown in any 30 days", "<=", DRAWDOWN_LIMIT),
    "final_openings": ("locked final slice opened exactly once for this version", ">=", 1.0),
    "final_return": ("net return on the locked final slice", ">", 0.0),
    "champion_difference": ("Sharpe ratio a year less the champion's, same sessions", ">=", 0.0),
}
"""Figure -> what it is called, and what it must be."""


def judge(metrics: Mapping[str, float], notes: Mapping[str, str] | None = None) -> list[Criterion]:
    """Every criterion for a champion, on the figures of ml.protocol and what the training adds to them."""
    told = notes or {}
    out = []
    for metric, (name, wanted, threshold) in METRICS.items():
        value = metrics.get(metric, math.nan)
        if metric == "final_openings" and value > 1.0:
            value = math.nan  # opened twice: what it says is no longer out of sample
        of = "sharpe" if metric == "sharpe_low" else metric
        low, high = metrics.get(f"{of}_low", math.nan), metrics.get(f"{of}_high", math.nan)
        out.append(Criterion(name, value, wanted, threshold, low, high, told.get(metric, "")))
    return out


def failed(metrics: Mapping[str, float]) -> list[str]:
    """Names of the figures whose criterion is not met."""
    return [metric for metric, c in zip(METRICS, judge(metrics), strict=True) if not c.passed]


def skill(metrics: Mapping[str, float]) -> list[Criterion]:
    """Whether the baseline of ml.baseline and ml.rule has any skill of its own."""
    asked: tuple[tuple[str, str, Wanted, float], ...] = (
        ("walk-forward AUC against the class prior's 0.5", "test_auc", ">", 0.5),
        ("its lower confidence bound (block bootstrap)", "test_auc_low", ">", 0.5),
        ("net return of the threshold rule after costs", "rule_net_return", ">", 0.0),
        ("trades behind that return", "rule_trades", ">=", MINIMUM_TRADES),
    )
    return [Criterion(name, metrics.get(metric, math.nan), wanted, threshold) for name, metric, wanted, threshold in asked]
