"""Risk limits as people write them in data/config/risk/*.yaml.

Every limit may be absent from the file, and an absent one refuses every order with LIMIT_MISSING: there is no default
that lets an order through. Limits of a strategy apply on top of the account's; the tighter of the two counts.
"""

from __future__ import annotations

import math
from typing import Final

from pydantic import Field

from trading.config_text import ConfigModel, Positive, Problem, Text, Whole, load_yaml, validate
from trading.ids import file_revision


class DailyLoss(ConfigModel):
    """Loss since the session's start at which new risk ends: an amount, a percent of the starting equity, or both."""

    amount: Positive | None = Field(None, description="Account currency")
    percent: Positive | None = Field(None, le=100, description="Percent of the equity at the session's start")

    @property
    def codes(self) -> tuple[float, float]:
        """(amount, percent) with NaN for what is not set: the form of the compiled functions."""
        return (_nan(self.amount), _nan(self.percent))


class StrategyLimits(ConfigModel):
    """Limits of one strategy, on top of the account's. Absent ones add nothing."""

    max_order_quantity: Positive | None = Field(None, description="Units of one order")
    max_notional: Positive | None = Field(None, description="Value of one order, account currency")
    max_position_notional: Positive | None = Field(None, description="Value of one instrument's position, account currency")
    max_concurrent_positions: Whole | None = Field(None, ge=1, description="Open positions and entries under way")
    daily_loss: DailyLoss | None = Field(None, description="Loss of the session")


class Limits(StrategyLimits):
    """Limits of the account."""

    name: Text = Field("default", description="Name of the risk file")
    description: Text = Field("", description="What these limits are for")
    revision: Text = Field("", description="Set from the file's content, not written in it")
    price_collar_percent: Positive | None = Field(
        None, description="Largest distance of an order's price from the last price, percent"
    )
    max_gross_leverage: Positive | None = Field(None, description="Gross exposure over equity, the new order included")
    strategies: dict[str, StrategyLimits] = Field(default_factory=dict, description="Tighter limits by strategy name")

    def of(self, strategy: str) -> StrategyLimits:
        """Limits of `strategy`; empty ones when it has none of its own."""
        return self.strategies.get(strategy, _NONE)

    def missing(self) -> list[str]:
        """Names of required limits that are not set; each of them refuses every order."""
        names = [name for name in REQUIRED if getattr(self, name) is None]
        if self.daily_loss is not None and self.daily_loss.amount is None and self.daily_loss.percent is None:
            names.append("daily_loss")
        return names


REQUIRED: Final = (
    "max_order_quantity", "max_notional", "max_position_notional", "max_concurrent_positions", "daily_loss",
    "price_collar_percent", "max_gross_leverage",
)  # fmt: skip
_SHARED: Final = ("max_order_quantity", "max_notional", "max_position_notional", "max_concurrent_positions")
_NONE: Final = StrategyLimits.model_construct(
    max_order_quantity=None, max_notional=None, max_position_notional=None, max_concurrent_positions=None, daily_loss=None
)


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def parse_limits(text: str, file: str) -> tuple[Limits | None, list[Problem]]:
    """Limits of a risk file, or None and what is wrong with it.

    A required limit that is absent is reported as a problem, but the limits are still returned: they refuse with
    LIMIT_MISSING, and the ones that are there keep guarding. A strategy limit looser than the account's is a problem,
    too: it would have no effect.
    """
    document = load_yaml(text, file)
    limits, problems = validate(Limits, document)
    if limits is None:
        return None, problems
    if limits.revision:
        problems.append(
            Problem(file, document.line_of(("revision",)), "revision", "is made from the file's content", "no such key")
        )
    for name in limits.missing():
        line = document.line_of((name,)) if getattr(limits, name) is not None else 1
        problems.append(Problem(file, line, name, "required limit is missing: every order is refused", "a positive number"))
    for strategy, own in limits.strategies.items():
        for name in _SHARED:
            mine, account = getattr(own, name), getattr(limits, name)
            if mine is not None and account is not None and mine > account:
                problems.append(
                    Problem(
                        file,
                        document.line_of(("strategies", strategy, name)),
                        f"strategies.{strategy}.{name}",
                        f"{mine:g} is looser than the account's {account:g} and has no effect",
                        f"at most {account:g}",
                    )
                )
    return limits.model_copy(update={"revision": file_revision(text)}), problems
