"""The universe: which instruments are observed and traded, since when, and how their data is judged.

A universe is a file in data/config/universe edited by people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from pydantic import Field, field_validator, model_validator

from trading.calendars import FIRST_DAY, LAST_DAY, Calendar, UnknownCalendar, calendar
from trading.config_text import (
    ConfigModel,
    Count,
    IsoDate,
    Name,
    Positive,
    Problem,
    Text,
    Whole,
    custom_error,
    load_yaml,
    nearest,
    validate,
)  # fmt: skip
from trading.ids import file_revision
from trading.instruments import AssetClass, Instrument, Mode
from trading.timeframes import Timeframe

KNOWN_CALENDARS = ("FX", "CRYPTO", "XNYS", "XNAS", "CMES", "XBOM", "XEUR", "XLON", "XTKS", "XHKG", "XETR", "XPAR", "XTSE", "XASX")
"""Names offered when a calendar is misspelt; every exchange-calendars code is valid."""


class _Thresholds(ConfigModel):
    jump_sigmas: Positive | None = Field(None, description="a log return of the close beyond this many trailing sigmas is a jump")
    jump_window: Whole | None = Field(None, ge=10, description="bars of trailing returns that estimate sigma")
    jump_minimum: Positive | None = Field(None, description="smaller log returns are never a jump, however calm it was")
    stale_repeats: Whole | None = Field(None, ge=2, description="this many identical OHLC bars in a row are stale")
    volume_ratio: Positive | None = Field(None, description="volume above this multiple of the trailing median is not sane")
    volume_window: Whole | None = Field(None, ge=5, description="bars of the trailing volume median")
    max_gap_share: float | None = Field(None, ge=0, lt=1, description="share of a session's expected bars that may be missing")
    max_gap_bars: Count | None = Field(None, description="longest run of missing bars inside a session")


class QualityThresholds(ConfigModel):
    """Numbers of the quality rules. `of(asset_class)` gives them with that class's overrides applied."""

    jump_sigmas: Positive = Field(12.0, description="a log return of the close beyond this many trailing sigmas is a jump")
    jump_window: Whole = Field(100, ge=10, description="bars of trailing returns that estimate sigma")
    jump_minimum: Positive = Field(0.01, description="smaller log returns are never a jump, however calm it was")
    stale_repeats: Whole = Field(10, ge=2, description="this many identical OHLC bars in a row are stale")
    volume_ratio: Positive = Field(50.0, description="volume above this multiple of the trailing median is not sane")
    volume_window: Whole = Field(50, ge=5, description="bars of the trailing volume median")
    max_gap_share: float = Field(0.0, ge=0, lt=1, description="share of a session's expected bars that may be missing")
    max_gap_bars: Count = Field(0, description="longest run of missing bars inside a session")
    by_asset_class: dict[AssetClass, _Thresholds] = Field(default_factory=dict, description="the same keys, per asset class")

    def of(self, asset_class: AssetClass) -> QualityThresholds:
        """Thresholds of one asset class."""
        override = self.by_asset_class.get(asset_class)
        if override is None:
            return self
        return self.model_copy(update=override.model_dump(exclude_none=True))


@dataclass(frozen=True, slots=True)
class Universe:
    """Instruments by symbol, and the span of sessions that is kept. history_end None: up to today.

    simulated: the data is not from a market (a simulated exchange, a planted edge).
    """

    name: str
    description: str
    revision: str
    instruments: dict[str, Instrument]
    history_start: date
    history_end: date | None
    quality: QualityThresholds
    simulated: bool

    def calendars(self) -> dict[str, Calendar]:
        """Calendars of its venues by name."""
        return {name: calendar(name) for name in sorted({i.calendar for i in self.instruments.values()})}

    def sessions(self, start: date, end: date) -> list[date]:
        """Union of the venues' session dates in [start, end], ascending."""
        return sorted({day for venue in self.calendars().values() for day in venue.sessions(start, end)})

    def symbols(self, *, feed: str | None = None, mode: Mode | None = None) -> list[str]:
        """Symbols, of one feed or tradable in one mode when given."""
        return [
            s for s, i in self.instruments.items() if (feed is None or i.feed == feed) and (mode is None or mode in i.tradable_in)
        ]


class InstrumentFile(ConfigModel):
    """One instrument as people write it."""

    description: Text = ""
    asset_class: AssetClass
    calendar: Text = Field(description="FX, CRYPTO or an exchange-calendars code such as XNYS")
    tick_size: Decimal = Field(gt=0, description="price grid in the quote currency")
    lot_size: Decimal = Field(Decimal(1), gt=0, description="smallest quantity step")
    multiplier: Decimal = Field(Decimal(1), gt=0, description="currency per price point and unit")
    currency: Text = Field(pattern=r"^[A-Z]{3}$", description="ISO code of the quote currency")
    feed: Name
    feed_symbol: Text = Field("", description="the feed's name of it; default: the symbol")
    native_timeframe: Timeframe = Field(description="the timeframe the feed delivers; higher ones are derived")
    tradable_in: list[Mode] = Field(default_factory=list, description="modes in which orders are allowed; empty: observed only")
    has_volume: bool = True
    broker_ids: dict[Text, Text] = Field(default_factory=dict)

    @field_validator("tick_size", "lot_size", "multiplier", mode="before")
    @classmethod
    def _is_number(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            raise custom_error(f"is {value!r}", "a number")
        return value

    @field_validator("calendar")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            calendar(value)
        except UnknownCalendar:
            near = nearest(value, KNOWN_CALENDARS)
            raise custom_error(f"unknown calendar {value!r}", "FX, CRYPTO or an exchange-calendars code", near) from None
        return value


class UniverseFile(ConfigModel):
    """A universe as people write it."""

    name: Name
    description: Text = ""
    history_start: IsoDate
    history_end: IsoDate | None = Field(None, description="last session kept; empty: today")
    simulated: bool = False
    quality: QualityThresholds = Field(default_factory=QualityThresholds)
    instruments: dict[str, InstrumentFile] = Field(min_length=1)

    @field_validator("instruments", mode="before")
    @classmethod
    def _symbols(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for symbol in value:
                if not isinstance(symbol, str) or not symbol or not all(c.isalnum() or c in "._-^" for c in symbol):
                    raise custom_error(f"symbol {symbol!r} cannot be used", "letters, digits, and . _ - ^")
        return value

    @model_validator(mode="after")
    def _span(self) -> UniverseFile:
        if not FIRST_DAY <= self.history_start <= LAST_DAY:
            raise custom_error(f"history_start {self.history_start} is outside the calendars", f"{FIRST_DAY} to {LAST_DAY}")
        if self.history_end is not None and self.history_end < self.history_start:
            raise custom_error(
                f"history_end {self.history_end} lies before history_start", f"a date from {self.history_start} on"
            )
        return self


def parse_universe(text: str, file: str) -> tuple[Universe | None, list[Problem]]:
    """Universe of the file's text, or None and every problem it has."""
    document = load_yaml(text, file)
    parsed, problems = validate(UniverseFile, document)
    if parsed is None:
        return None, problems
    instruments = {
        symbol: Instrument(
            symbol=symbol,
            asset_class=spec.asset_class,
            calendar=spec.calendar,
            tick_size=spec.tick_size,
            currency=spec.currency,
            feed=spec.feed,
            feed_symbol=spec.feed_symbol or symbol,
            native_timeframe=spec.native_timeframe,
            lot_size=spec.lot_size,
            multiplier=spec.multiplier,
            description=spec.description,
            tradable_in=frozenset(spec.tradable_in),
            has_volume=spec.has_volume,
            broker_ids=tuple(sorted(spec.broker_ids.items())),
        )
        for symbol, spec in parsed.instruments.items()
    }
    return (
        Universe(
            parsed.name, parsed.description, file_revision(text), instruments, parsed.history_start, parsed.history_end,
            parsed.quality, parsed.simulated,
        ),
        [],
    )  # fmt: skip
