"""``execution:`` of a strategy or plan file: how its entry is worked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from trading.config_text import ConfigModel, Positive, Whole

Rest = Literal["cancel", "market"]
_REST = "what is left at the window's end: given up, or bought at the market at once"


class Timed(ConfigModel):
    minutes: Whole = Field(ge=1, le=1440, description="length of the window that begins with the signal's bar close")
    rest: Rest = Field("cancel", description=_REST)


class Sliced(Timed):
    slices: Whole = Field(ge=2, le=500, description="slots of equal length, each with at most one order")
    min_lots: Whole = Field(1, ge=1, le=1_000_000, description="least lots of one order")
    participation: float = Field(0.0, ge=0, le=1, description="most of the newest closed bar's volume one order takes; 0: no cap")


class Twap(Sliced):
    """Equal shares of the quantity over the window."""

    algo: Literal["twap"]
    jitter: float = Field(0.0, ge=0, le=0.9, description="share of a slot by which orders come later, fixed by the parent's id")


class Vwap(Sliced):
    """Shares by the volume that past sessions had at these times of the session."""

    algo: Literal["vwap"]
    sessions: Whole = Field(10, ge=1, le=60, description="past sessions the volume profile is the mean of; all must be there")


class Iceberg(Timed):
    """A limit order of which only a part is shown; the next part follows when the last is filled."""

    algo: Literal["iceberg"]
    visible: Positive = Field(description="units shown at once")
    limit_ticks: Whole = Field(0, ge=-10_000, le=10_000, description="how far beyond the signal's price the limit lies, ticks")


Execution = Annotated[Twap | Vwap | Iceberg, Field(discriminator="algo")]
_ADAPTER: TypeAdapter[Twap | Vwap | Iceberg] = TypeAdapter(Execution)


def parse(values: Any) -> Twap | Vwap | Iceberg:
    """The rule of plain values as a signal carries them. Raises ValueError naming what is wrong."""
    return _ADAPTER.validate_python(values)
