"""Risk limits as people write them in data/config/risk/*.yaml.

Every limit may be absent from the file, and an absent one refuses every order with LIMIT_MISSING: there is no default
that lets an order through. Limits of a strategy apply on top of the account's; the tighter of the two counts.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from pydantic import Field

from trading.config_text import ConfigModel, Positive, Problem, Text, Whole, load_yaml, validate
from trading.ids import file_revision

BreakerLevel = Literal["reduce_only", "flatten"]
"""reduce_only: no new risk; flatten: open positions are closed, too."""


class DailyLoss(ConfigModel):
    """Loss since the session's start at which new risk ends: an amount, a percent of the starting equity, or both."""

    amount: Positive | None = Field(None, description="Account currency")
    percent: Positive | None = Field(None, le=100, description="Percent of the equity at the session's start")
    then: BreakerLevel = Field("reduce_only", description="The account's: what the desk does when it is reached, until resumed")

    @property
    def codes(self) -> tuple[float, float]:
        """(amount, percent) with NaN for what is not set: the form of the compiled functions."""
        return (_nan(self.amount), _nan(self.percent))


class Drawdown(ConfigModel):
    """Fall from the account's highest equity at which new risk ends."""

    percent: Positive = Field(le=100, description="Percent of the highest equity so far")
    then: BreakerLevel = Field("reduce_only", description="What the desk does when it is reached, until resumed")


class ValueAtRisk(ConfigModel):
    """Loss of one session the portfolio, the new order included, may be expected to stay within."""

    percent: Positive = Field(le=100, description="Largest value at risk, percent of equity")
    shortfall_percent: Positive | None = Field(None, le=100, description="Largest expected shortfall, percent of equity")
    confidence: float = Field(0.99, gt=0.5, lt=1, description="0.99: a loss that is exceeded on one session of a hundred")
    sessions: Whole = Field(250, ge=60, description="Newest sessions of returns it is measured on")


class Correlation(ConfigModel):
    """Value in instruments whose returns move with the order's."""

    above: float = Field(0.7, gt=0, lt=1, description="Instruments correlated at least this much count together")
    percent: Positive = Field(description="Largest value of them, the new order included, percent of equity")
    sessions: Whole = Field(120, ge=60, description="Newest sessions of returns it is measured on")


class OrderRate(ConfigModel):
    """Orders within a time: a runaway strategy ends here."""

    orders: Whole = Field(ge=1, description="Most orders that add risk")
    seconds: Positive = Field(description="within so many seconds of market time")


class CircuitBreaker(ConfigModel):
    """A pause after an abnormal move of an instrument."""

    percent: Positive = Field(le=100, description="Move from high to low, or back, percent")
    minutes: Positive = Field(description="within so many minutes")
    pause_minutes: Positive = Field(description="No new risk on the instrument for so long after it")
    then: BreakerLevel = Field(
        "reduce_only", description="What the desk does on the instrument when a price it hears moved so far, until resumed"
    )


class LosingStreak(ConfigModel):
    """A pause after losing trades in a row."""

    trades: Whole = Field(ge=2, description="Losing trades in a row")
    pause_minutes: Positive = Field(description="No new risk by the strategy for so long after the last of them")


class StrategyLimits(ConfigModel):
    """Limits of one strategy, on top of the account's. Absent ones add nothing."""

    max_order_quantity: Positive | None = Field(None, description="Units of one order")
    max_notional: Positive | None = Field(None, description="Value of one order, account currency")
    max_position_notional: Positive | None = Field(None, description="Value of one instrument's position, account currency")
    max_concurrent_positions: Whole | None = Field(None, ge=1, description="Open positions and entries under way")
    daily_loss: DailyLoss | None = Field(None, description="Loss of the session")
    losing_streak: LosingStreak | None = Field(None, description="Losing trades in a row; absent: not limited")
    cooldown_minutes: Positive | None = Field(
        None, description="No entry into an instrument for so long after a stop of the same strategy there; absent: none"
    )


class Limits(StrategyLimits):
    """Limits of the account."""

    name: Text = Field("default", description="Name of the risk file")
    description: Text = Field("", description="What these limits are for")
    revision: Text = Field("", description="Set from the file's content, not written in it")
    price_collar_percent: Positive | None = Field(
        None, description="Largest distance of an order's price from the last price, percent"
    )
    max_gross_leverage: Positive | None = Field(None, description="Gross exposure over equity, the new order included")
    max_net_leverage: Positive | None = Field(
        None, description="|Longs less shorts| over equity, the new order included; absent: not limited"
    )
    max_sector_percent: Positive | None = Field(
        None, description="Gross value of one sector's instruments, percent of equity; absent: not limited"
    )
    drawdown: Drawdown | None = Field(None, description="Fall from the highest equity; absent: not limited")
    value_at_risk: ValueAtRisk | None = Field(None, description="Expected loss of a session; absent: not limited")
    correlation: Correlation | None = Field(None, description="Instruments that move together; absent: not limited")
    order_rate: OrderRate | None = Field(None, description="Orders within a time; absent: not limited")
    circuit_breaker: CircuitBreaker | None = Field(None, description="Pause after an abnormal move; absent: none")
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
    max_order_quantity=None, max_notional=None, max_position_notional=None, max_concurrent_positions=None, daily_loss=None,
    losing_streak=None, cooldown_minutes=None,
)  # fmt: skip


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
