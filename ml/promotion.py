"""When a trained model is trusted: criteria with numbers, each of them shown whether it is met or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MINIMUM_TRADES: Final = 30


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion: what is measured, its value, what it must exceed (or reach, when at_least), and whether it does."""

    name: str
    metric: str
    value: float
    threshold: float
    at_least: bool
    passed: bool

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '>'} {self.threshold:g}"


def _criterion(metrics: Mapping[str, float], name: str, metric: str, threshold: float, at_least: bool = False) -> Criterion:
    value = metrics.get(metric, math.nan)
    # Compared this way a value that is missing fails.
    passed = value >= threshold if at_least else value > threshold
    return Criterion(name, metric, value, threshold, at_least, passed)


def judge(metrics: Mapping[str, float]) -> list[Criterion]:
    """Every criterion for a champion, on the figures of ml.baseline and ml.rule. A missing figure is a failed one."""
    return [
        _criterion(metrics, "walk-forward AUC against the class prior's 0.5", "test_auc", 0.5),
        _criterion(metrics, "its lower confidence bound (block bootstrap)", "test_auc_low", 0.5),
        _criterion(metrics, "net return of the threshold rule after costs", "rule_net_return", 0.0),
        _criterion(metrics, "trades behind that return", "rule_trades", MINIMUM_TRADES, at_least=True),
    ]


def promoted(criteria: list[Criterion]) -> bool:
    """All of them, and at least one."""
    return bool(criteria) and all(c.passed for c in criteria)
