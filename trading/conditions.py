"""Conditions over bars: comparisons of prices, indicators and numbers, nested by all, any and not.

The models are the grammar people write; `compile_condition` turns a condition into an expression over arrays: no Python per
bar. A value of a higher timeframe at a primary bar is that of the last higher bar with close_time <= the primary close,
never of a forming one. A condition any of whose values is not a number is False, under `not` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator

from trading import indicators
from trading.bars import Bars
from trading.config_text import ConfigModel, Count, Number, Text, custom_error, nearest
from trading.timeframes import Timeframe

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_LOOKBACK = 5000


class Operand(ConfigModel):
    """One value per bar: a number, a price, or an indicator's output.

    Written as ``70``, ``close``, or a mapping with one of number, price, indicator.
    """

    number: Number | None = None
    price: Literal["open", "high", "low", "close", "volume", "hl2", "hlc3", "ohlc4"] | None = None
    indicator: Text | None = None
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the indicator by name")
    source: Literal["open", "high", "low", "close", "volume", "hl2", "hlc3", "ohlc4"] | None = Field(
        None, description="what a one-price indicator is computed on; default close"
    )
    output: Text | None = Field(None, description="which output of the indicator; default its first")
    timeframe: Timeframe | None = Field(None, description="a confirm timeframe; default the primary one")
    lookback: Count = Field(0, le=MAX_LOOKBACK, description="this many bars of its own timeframe before")

    @model_validator(mode="after")
    def _one_kind(self) -> Operand:
        given = [k for k in ("number", "price", "indicator") if getattr(self, k) is not None]
        if len(given) != 1:
            raise custom_error(f"gives {' and '.join(given) or 'none'} of them", "exactly one of number, price, indicator")
        if self.indicator is None and (self.params or self.source or self.output):
            raise custom_error("params, source and output belong to an indicator", "indicator: NAME beside them")
        if self.number is not None and (self.timeframe or self.lookback):
            raise custom_error("a number has no timeframe and no lookback", "only the number")
        return self

    @property
    def label(self) -> str:
        """Short text for reasons and reports, such as ``ema(12)@4h``."""
        if self.number is not None:
            return f"{self.number:g}"
        text: str = self.price or ""
        if self.indicator is not None:
            known = indicators.INDICATORS.get(self.indicator)
            values = known.complete(self.params).values() if known else self.params.values()
            text = f"{self.indicator}({','.join(f'{v:g}' for v in values)})"
            text += f".{self.output}" if self.output else ""
            text += f" of {self.source}" if self.source and self.source != "close" else ""
        text += f"@{self.timeframe}" if self.timeframe else ""
        return text + (f"[-{self.lookback}]" if self.lookback else "")


def _operand_shape(value: Any) -> Any:
    """The short forms: ``70`` and ``close``."""
    if isinstance(value, bool) or value is None or isinstance(value, list):
        raise custom_error(f"is {value!r}", "a number, a price such as close, or a mapping with indicator")
    if isinstance(value, (int, float)):
        return {"number": value}
    if isinstance(value, str):
        if value not in indicators.SOURCES:
            valid = (*indicators.SOURCES, *indicators.INDICATORS)
            hint = "a price (" + ", ".join(indicators.SOURCES) + ") or a mapping such as {indicator: ema, params: {period: 12}}"
            raise custom_error(f"unknown price {value!r}", hint, nearest(value, valid))
        return {"price": value}
    return value


class _ShortOperand:
    """Adds the short forms to the JSON schema."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"enum": list(indicators.SOURCES)}, handler(core_schema)]}


OperandSpec = Annotated[Operand, BeforeValidator(_operand_shape), _ShortOperand]
Pair = Annotated[list[OperandSpec], Field(min_length=2, max_length=2)]

OPERATORS = ("cross_above", "cross_below", ">", "<", ">=", "<=", "==")
KEYS = ("all", "any", "not", *OPERATORS)


class Condition(ConfigModel):
    """One of all, any, not, or a comparison of two operands: ``{">": [close, 1.2]}``.

    cross_above: the left was at or below the right one bar before and is above it now; cross_below the other way.
    """

    all: list[Condition] | None = Field(None, min_length=1)
    any: list[Condition] | None = Field(None, min_length=1)
    not_: Condition | None = Field(None, alias="not")
    cross_above: Pair | None = None
    cross_below: Pair | None = None
    gt: Pair | None = Field(None, alias=">")
    lt: Pair | None = Field(None, alias="<")
    ge: Pair | None = Field(None, alias=">=")
    le: Pair | None = Field(None, alias="<=")
    eq: Pair | None = Field(None, alias="==")

    FIELD: ClassVar[dict[str, str]] = {"not": "not_", ">": "gt", "<": "lt", ">=": "ge", "<=": "le", "==": "eq"}

    @model_validator(mode="after")
    def _one_key(self) -> Condition:
        given = [k for k in KEYS if getattr(self, self.FIELD.get(k, k)) is not None]
        if len(given) != 1:
            what = f"gives {' and '.join(given) or 'none'} of them (several go under all: or any:)"
            raise custom_error(what, "exactly one of " + ", ".join(KEYS))
        return self

    @property
    def label(self) -> str:
        """The condition as text, for a signal's reason."""
        if self.all is not None:
            return " and ".join(c.label if c.any is None else f"({c.label})" for c in self.all)
        if self.any is not None:
            return " or ".join(c.label if c.all is None else f"({c.label})" for c in self.any)
        if self.not_ is not None:
            return f"not ({self.not_.label})"
        operator, (left, right) = self.comparison()
        return f"{left.label} {operator.replace('cross_', 'crosses ')} {right.label}"

    def comparison(self) -> tuple[str, tuple[Operand, Operand]]:
        """(operator, (left, right)) of a comparison."""
        for operator in OPERATORS:
            pair = getattr(self, self.FIELD.get(operator, operator))
            if pair is not None:
                return operator, (pair[0], pair[1])
        raise ValueError("not a comparison")

    def operands(self) -> Iterator[tuple[Operand, bool]]:
        """Every operand below, and whether a cross needs its value of the bar before, too."""
        for child in (*(self.all or ()), *(self.any or ()), *((self.not_,) if self.not_ else ())):
            yield from child.operands()
        if self.all is None and self.any is None and self.not_ is None:
            operator, pair = self.comparison()
            for operand in pair:
                yield operand, operator.startswith("cross")


@dataclass(slots=True)
class Frame:
    """Bars of several timeframes seen from the primary one, with what was computed on them kept for reuse."""

    bars: Mapping[Timeframe, Bars]
    primary: Timeframe
    _aligned: dict[Timeframe, NDArray[np.int64]] = field(default_factory=dict)
    _outputs: dict[tuple[Any, ...], tuple[Floats, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.bars[self.primary])

    def align(self, timeframe: Timeframe) -> NDArray[np.int64]:
        """int64 (T,): position of the last bar of `timeframe` closed at or before each primary close; -1 = none yet."""
        if timeframe not in self._aligned:
            at = np.searchsorted(self.bars[timeframe].close_time, self.bars[self.primary].close_time, side="right") - 1
            self._aligned[timeframe] = at.astype(np.int64)
        return self._aligned[timeframe]

    def on_primary(self, values: Floats, timeframe: Timeframe, lookback: int = 0) -> Floats:
        """`values` of `timeframe`, `lookback` of its bars before, as float64 (T,) over primary bars; NaN where none."""
        at = self.align(timeframe) - lookback
        result = np.full(len(self), np.nan)
        known = at >= 0
        result[known] = values[at[known]]
        return result

    def indicator(
        self, name: str, params: Mapping[str, Any], output: str | None = None, source: str | None = None,
        timeframe: Timeframe | None = None, lookback: int = 0,
    ) -> Floats:  # fmt: skip
        """One output of an indicator over primary bars."""
        timeframe = timeframe or self.primary
        definition = indicators.get(name)
        complete = definition.complete(params)
        key = (name, tuple(complete.items()), source or "close", timeframe)
        if key not in self._outputs:
            self._outputs[key] = definition.compute(self.bars[timeframe], complete, source or "close")
        outputs = self._outputs[key]
        return self.on_primary(outputs[definition.outputs.index(output) if output else 0], timeframe, lookback)

    def price(self, name: str, timeframe: Timeframe | None = None, lookback: int = 0) -> Floats:
        """A price column over primary bars."""
        timeframe = timeframe or self.primary
        return self.on_primary(indicators.column(self.bars[timeframe], name), timeframe, lookback)

    def operand(self, operand: Operand) -> Floats:
        """Values of `operand` over primary bars, float64 (T,)."""
        if operand.number is not None:
            return np.full(len(self), operand.number)
        if operand.price is not None:
            return self.price(operand.price, operand.timeframe, operand.lookback)
        assert operand.indicator is not None
        return self.indicator(
            operand.indicator, operand.params, operand.output, operand.source, operand.timeframe, operand.lookback
        )


_COMPARE: dict[str, Callable[[Floats, Floats], Bools]] = {
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
    "==": np.equal,
}


def evaluate(condition: Condition | None, frame: Frame) -> Bools:
    """bool (T,): where `condition` holds and every value it looks at is a number. None: nowhere."""
    if condition is None:
        return np.zeros(len(frame), bool)
    value, valid = _evaluate(condition, frame)
    return value & valid


def _evaluate(condition: Condition, frame: Frame) -> tuple[Bools, Bools]:
    if condition.all is not None or condition.any is not None:
        joined, good = _evaluate((condition.all or condition.any or [])[0], frame)
        for child in (condition.all or condition.any or [])[1:]:
            value, valid = _evaluate(child, frame)
            joined = joined & value if condition.all is not None else joined | value
            good = good & valid
        return joined, good
    if condition.not_ is not None:
        value, valid = _evaluate(condition.not_, frame)
        return ~value, valid
    operator, (left_operand, right_operand) = condition.comparison()
    left, right = frame.operand(left_operand), frame.operand(right_operand)
    valid = np.isfinite(left) & np.isfinite(right)
    with np.errstate(invalid="ignore"):
        if not operator.startswith("cross"):
            return _COMPARE[operator](left, right), valid
        above = operator == "cross_above"
        value = left > right if above else left < right
        before = left <= right if above else left >= right
    value[1:] &= before[:-1]
    value[:1] = False
    crossing_valid = valid.copy()
    crossing_valid[1:] &= valid[:-1]
    crossing_valid[:1] = False
    return value, crossing_valid


def merge_warm_up(into: dict[Timeframe, int], *others: Mapping[Timeframe, int]) -> dict[Timeframe, int]:
    """`into` with the larger need of each timeframe."""
    for other in others:
        for timeframe, bars in other.items():
            into[timeframe] = max(into.get(timeframe, 0), bars)
    return into


def warm_up(condition: Condition | None, primary: Timeframe) -> dict[Timeframe, int]:
    """Bars per timeframe, the current one included, before `condition` counts."""
    needs: dict[Timeframe, int] = {}
    for operand, crossing in condition.operands() if condition is not None else ():
        if operand.number is not None:
            continue
        timeframe = operand.timeframe or primary
        bars = 1
        if operand.indicator is not None:
            bars = indicators.get(operand.indicator).warm_up(operand.params)
        merge_warm_up(needs, {timeframe: bars + operand.lookback + (1 if crossing else 0)}, {primary: 2 if crossing else 1})
    return needs
