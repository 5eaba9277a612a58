"""Operands: what stands on either side of a comparison in a strategy file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator

from trading import indicators, patterns
from trading.config_text import ConfigModel, Count, Number, Text, Whole, custom_error, nearest
from trading.timeframes import Timeframe

MAX_LOOKBACK = 5000

Price = Literal["open", "high", "low", "close", "volume", "hl2", "hlc3", "ohlc4"]
Over = Annotated[Whole, Field(ge=2, le=MAX_LOOKBACK)]


class Operand(ConfigModel):
    """One value per bar: a number, a price, an indicator's output, or a pattern's.

    Written as ``70``, ``close``, or a mapping with one of number, price, indicator, pattern. `highest`, `lowest`, `mean`
    are taken over the values of its own timeframe, `lookback` bars ago; then it is multiplied by `times`, then `plus` is
    added.
    """

    number: Number | None = None
    price: Price | None = None
    indicator: Text | None = None
    pattern: Text | None = Field(None, description="a price-action pattern; its levels are outputs")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the indicator or pattern by name")
    source: Price | None = Field(None, description="what a one-price indicator is computed on; default close")
    output: Text | None = Field(None, description="which output; default the first (of a pattern: its signal)")
    timeframe: Timeframe | None = Field(None, description="a confirm timeframe; default the primary one")
    symbol: Text | None = Field(None, description="another instrument of the universe, read only; default the traded one")
    lookback: Count = Field(0, le=MAX_LOOKBACK, description="this many bars of its own timeframe before")
    highest: Over | None = Field(None, description="highest of this many values")
    lowest: Over | None = Field(None, description="lowest of this many values")
    mean: Over | None = Field(None, description="mean of this many values")
    times: Number | None = Field(None, description="multiplied by this number")
    plus: OperandSpec | None = Field(None, description="this value added (times: -1 in it subtracts)")

    @model_validator(mode="after")
    def _one_kind(self) -> Operand:
        given = [k for k in ("number", "price", "indicator", "pattern") if getattr(self, k) is not None]
        if len(given) != 1:
            what = f"gives {' and '.join(given) or 'none'} of them"
            raise custom_error(what, "exactly one of number, price, indicator, pattern")
        if self.indicator is None and self.source:
            raise custom_error("source belongs to an indicator", "indicator: NAME beside it")
        if self.indicator is None and self.pattern is None and (self.params or self.output):
            raise custom_error("params and output belong to an indicator or a pattern", "indicator: NAME beside them")
        if self.number is not None and (self.timeframe or self.lookback or self.symbol or self.times or self.plus or self.over):
            raise custom_error("a number has no timeframe, symbol, lookback or arithmetic", "only the number")
        if sum(v is not None for v in (self.highest, self.lowest, self.mean)) > 1:
            raise custom_error("gives more than one of highest, lowest, mean", "one of them")
        return self

    @property
    def over(self) -> int | None:
        """How many values highest, lowest or mean take, None without one."""
        return self.highest or self.lowest or self.mean

    def with_parts(self) -> Iterator[Operand]:
        """This operand and those it adds."""
        yield self
        if self.plus is not None:
            yield from self.plus.with_parts()

    @property
    def label(self) -> str:
        """Short text for reasons and reports, such as ``ema(12)@4h``."""
        if self.number is not None:
            return f"{self.number:g}"
        text: str = self.price or ""
        if self.indicator is not None or self.pattern is not None:
            name = self.indicator or self.pattern or ""
            known = indicators.INDICATORS.get(name) if self.indicator else patterns.patterns().get(name)
            values = known.complete(self.params).values() if known else self.params.values()
            text = f"{name}({','.join(f'{v:g}' for v in values)})" if self.indicator or self.params else name
            text += f".{self.output}" if self.output else ""
            text += f" of {self.source}" if self.source and self.source != "close" else ""
        text = f"{self.symbol} {text}" if self.symbol else text
        text += f"@{self.timeframe}" if self.timeframe else ""
        for word in ("highest", "lowest", "mean"):
            if getattr(self, word) is not None:
                text = f"{word} of {getattr(self, word)} {text}"
        text += f"[-{self.lookback}]" if self.lookback else ""
        text += f" x {self.times:g}" if self.times is not None else ""
        return text + (f" + {self.plus.label}" if self.plus is not None else "")


def _operand_shape(value: Any) -> Any:
    """The short forms: ``70`` and ``close``."""
    if isinstance(value, bool) or value is None or isinstance(value, list):
        raise custom_error(f"is {value!r}", "a number, a price such as close, or a mapping with indicator")
    if isinstance(value, (int, float)):
        return {"number": value}
    if isinstance(value, str):
        if value not in indicators.SOURCES:
            valid = (*indicators.SOURCES, *indicators.INDICATORS, *patterns.patterns())
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

Operand.model_rebuild()
