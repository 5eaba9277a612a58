"""The universe: which instruments are observed and traded, since when, and how their data is judged.

A universe is a file in data/config/universe edited by people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from pydantic import Field, field_validator, model_validator

from trading.calendars import FIRST_DAY, LAST_DAY, Calendar, UnknownCalendar, calendar, defined
from trading.config_text import (
    ConfigModel,
    Count,
    IsoDate,
    Name,
    Problem,
    Text,
    custom_error,
    load_yaml,
    nearest,
    validate,
)  # fmt: skip
from trading.conflict_policy import ConflictRule
from trading.disaster_default import DisasterDefault
from trading.ids import file_revision
from trading.instruments import (
    ActionSource,
    AssetClass,
    ExpiryRule,
    FormerTicker,
    FutureTerms,
    Instrument,
    Mode,
    OptionRight,
    OptionTerms,
    PriceFloor,
    RollRule,
)
from trading.quality_thresholds import QualityThresholds as QualityThresholds  # the name a universe's user looks for here
from trading.quality_thresholds import SharedThresholds
from trading.timeframes import Timeframe

KNOWN_CALENDARS = ("FX", "CRYPTO", "XNYS", "XNAS", "CMES", "XBOM", "XEUR", "XLON", "XTKS", "XHKG", "XETR", "XPAR", "XTSE", "XASX")
"""Names offered when a calendar is misspelt; every exchange-calendars code is valid."""


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
    conflicts: ConflictRule = field(default_factory=ConflictRule)
    disaster_stop: Mapping[str, Any] | None = None
    """Of plans that state none (trading.disaster_default)."""

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


class FutureFile(ConfigModel):
    """Contract terms of a future; without expiry it is the continuous series of its root."""

    root: Text = Field(min_length=1, description="product, e.g. ES")
    expiry: IsoDate | None = Field(None, description="last day of the contract; left out: the continuous series")
    roll: RollRule = Field(RollRule.VOLUME, description="when the continuous series passes to the next contract")
    roll_days: Count = Field(1, description="at the latest this many sessions before expiry")
    expiry_rule: ExpiryRule | None = Field(None, description="day of the contract month it ends on; needed for roots not known")

    def terms(self) -> FutureTerms:
        return FutureTerms(self.root, self.expiry, self.roll, self.roll_days, self.expiry_rule)


class OptionFile(ConfigModel):
    """Contract terms of an option."""

    underlying: Text = Field(min_length=1)
    expiry: IsoDate
    right: OptionRight
    strike: Decimal = Field(gt=0)

    @field_validator("strike", mode="before")
    @classmethod
    def _is_number(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            raise custom_error(f"is {value!r}", "a number")
        return Decimal(str(value))

    def terms(self) -> OptionTerms:
        return OptionTerms(self.underlying, self.expiry, self.right, self.strike)


class InstrumentFile(ConfigModel):
    """One instrument as people write it."""

    description: Text = ""
    asset_class: AssetClass
    calendar: Text = Field(
        description="FX, CRYPTO, an exchange-calendars code such as XNYS, or one of calendars/*.yaml; @clock, @ZONE: cut anew"
    )
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
    second_feed: Name | None = Field(None, description="a feed its native bars are compared with (check cross_source)")
    second_feed_symbol: Text = Field("", description="the second feed's name of it; default: the symbol")
    quotes: bool = Field(False, description="keep its quote bars too (dataset quotes_1m)")
    sector: Text = Field("", description="for exposure rules")
    future: FutureFile | None = Field(None, description="contract terms of a future")
    option: OptionFile | None = Field(None, description="contract terms of an option")
    prices: PriceFloor | None = Field(
        None, description="how low a price may be: positive, zero_or_more (default for options) or any (may be negative)"
    )
    former_symbols: dict[Text, IsoDate] = Field(
        default_factory=dict, description="tickers the feed had it under before, each with its last session"
    )
    actions: ActionSource | None = Field(
        None, description="where corporate actions come from: lean or none; default: lean for equities of that feed"
    )

    @property
    def action_source(self) -> ActionSource:
        from_lean = self.feed == "lean" and self.asset_class is AssetClass.EQUITY
        return self.actions if self.actions is not None else ActionSource.LEAN if from_lean else ActionSource.NONE

    @model_validator(mode="after")
    def _terms(self) -> InstrumentFile:
        if self.future is not None and self.asset_class is not AssetClass.FUTURE:
            raise custom_error(f"future terms on asset_class {self.asset_class}", "asset_class: future")
        if (self.option is not None) != (self.asset_class is AssetClass.OPTION):
            raise custom_error("an option and its terms go together", "asset_class: option with option: {underlying, ...}")
        if self.former_symbols and self.feed == "lean":
            raise custom_error("former_symbols on feed lean, whose map files say them", "no former_symbols")
        if len(set(self.former_symbols.values())) < len(self.former_symbols):
            raise custom_error("former_symbols overlap", "another last session for each ticker")
        return self

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
        except UnknownCalendar as error:
            if value in defined():
                raise custom_error(str(error), "a calendar that can be built") from None
            if "@" in value:
                raise custom_error(str(error), "such as XNYS@clock or FX@UTC") from None
            near = nearest(value, (*KNOWN_CALENDARS, *defined()))
            expected = "FX, CRYPTO, an exchange-calendars code or one of calendars/*.yaml"
            raise custom_error(f"unknown calendar {value!r}", expected, near) from None
        return value


class UniverseFile(ConfigModel):
    """A universe as people write it."""

    name: Name
    description: Text = ""
    history_start: IsoDate
    history_end: IsoDate | None = Field(None, description="last session kept; empty: today")
    simulated: bool = False
    quality: QualityThresholds = Field(default_factory=QualityThresholds)
    conflicts: ConflictRule = Field(default_factory=ConflictRule, description="what opposite signals of one close become")
    disaster_stop: DisasterDefault | None = Field(
        None,
        description="of plans that state none and whose stop can be judged at closes; disaster_stop: null in a plan refuses it",
    )
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
    def _tickers(self) -> UniverseFile:
        for symbol, spec in self.instruments.items():
            if (spec.feed_symbol or symbol) in spec.former_symbols:
                raise custom_error(f"former_symbols of {symbol} name what it is called now", "tickers of before")
        return self

    @model_validator(mode="after")
    def _span(self) -> UniverseFile:
        if not FIRST_DAY <= self.history_start <= LAST_DAY:
            raise custom_error(f"history_start {self.history_start} is outside the calendars", f"{FIRST_DAY} to {LAST_DAY}")
        if self.history_end is not None and self.history_end < self.history_start:
            raise custom_error(
                f"history_end {self.history_end} lies before history_start", f"a date from {self.history_start} on"
            )
        return self


def parse_universe(text: str, file: str, shared: SharedThresholds | None = None) -> tuple[Universe | None, list[Problem]]:
    """Universe of the file's text, or None and every problem it has. shared: quality thresholds beneath its own."""
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
            quotes=spec.quotes,
            sector=spec.sector,
            future=spec.future.terms() if spec.future else None,
            option=spec.option.terms() if spec.option else None,
            actions=spec.action_source,
            second_feed=spec.second_feed or "",
            second_feed_symbol=(spec.second_feed_symbol or symbol) if spec.second_feed else "",
            prices=spec.prices,
            former=tuple(FormerTicker(t, last) for t, last in sorted(spec.former_symbols.items(), key=lambda x: x[1])),
        )
        for symbol, spec in parsed.instruments.items()
    }
    return (
        Universe(
            parsed.name, parsed.description, _revision(text, shared), instruments, parsed.history_start, parsed.history_end,
            parsed.quality.over(shared.thresholds) if shared else parsed.quality, parsed.simulated, parsed.conflicts,
            parsed.disaster_stop.model_dump() if parsed.disaster_stop is not None else None,
        ),
        [],
    )  # fmt: skip


def _revision(text: str, shared: SharedThresholds | None) -> str:
    """Of everything the universe is made of: its file, and the shared thresholds where there are some."""
    own = file_revision(text)
    return own if shared is None else file_revision(f"{own} {shared.revision}")
