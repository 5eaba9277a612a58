"""Profiles: how a vendor lays out its files, as people write it in data/config/feeds/*.yaml.

Every key may be left out; what is left out is detected from the file or, when the file does not decide it, refused with
the line to add. A profile never contains a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from resources.feeds.protocol import FeedError
from trading.config_text import ConfigModel, Count, Name, Positive, Problem, Text, custom_error, load_yaml, nearest, validate
from trading.ids import file_revision
from trading.timeframes import Timeframe

RESERVED = ("done", "rejected")
"""Folders of the inbox: no profile may have their names, because a folder of the inbox names a profile."""
_FORMAT_CODES = frozenset("YymdbHIMSfpz%")

Column = Text | Annotated[int, Field(ge=1, strict=True)]
"""A column by its name in the header, or by its position, the first being 1."""


class ColumnsFile(ConfigModel):
    """Which column holds what. Names as in the header (letter case aside) or positions from 1. A list of two is their mean."""

    time: Column | Annotated[list[Column], Field(min_length=1, max_length=2)] | None = Field(
        None, description="time of the bar: one column, or [date, time]"
    )
    open: Column | Annotated[list[Column], Field(min_length=2, max_length=2)] | None = None
    high: Column | Annotated[list[Column], Field(min_length=2, max_length=2)] | None = None
    low: Column | Annotated[list[Column], Field(min_length=2, max_length=2)] | None = None
    close: Column | Annotated[list[Column], Field(min_length=2, max_length=2)] | None = None
    volume: Column | None = Field(None, description="the word none: the file has no volume, 0 is stored")
    turnover: Column | None = Field(None, description="sum of price x volume")
    vwap: Column | None = Field(None, description="volume-weighted average price; turnover is made of it")
    trades: Column | None = Field(None, description="number of trades")
    symbol: Column | None = None


class TimeFile(ConfigModel):
    """What the stamps mean."""

    format: Text | None = Field(
        None, description="iso, or a pattern such as %d/%m/%Y %H:%M:%S; date and time columns are joined by a blank"
    )
    epoch: Literal["s", "ms", "us", "ns"] | None = Field(None, description="stamps count from 1970-01-01 UTC in this unit")
    since_midnight: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="stamps count from local midnight of the day in the file's name"
    )
    zone: Text | None = Field(
        None,
        description="zone of the wall clock: a name (America/New_York), a fixed offset (-05:00), a name with a shift "
        "(America/New_York+07:00), UTC, or exchange: the zone of the instrument's venue",
    )
    stamp: Literal["start", "end"] | None = Field(None, description="does the stamp say the bar's start or its end?")
    ambiguous: Literal["refuse", "earliest", "latest", "order"] = Field(
        "refuse", description="a wall-clock time that comes twice when the clocks go back; order: by the order of the rows"
    )
    nonexistent: Literal["refuse", "shift"] = Field(
        "refuse", description="a wall-clock time the clocks jump over; shift: the moment they jumped"
    )

    @field_validator("format")
    @classmethod
    def _codes(cls, value: str | None) -> str | None:
        if value is not None and value != "iso":
            codes = re.findall(r"%(.)", value)
            bad = [c for c in codes if c not in _FORMAT_CODES]
            if bad or not codes:
                raise custom_error(f"is {value!r}", "iso, or a pattern of %Y %y %m %d %b %H %I %M %S %f %p %z")
            if value.count("%H") and value.count("%I"):
                raise custom_error(f"is {value!r}", "either %H or %I")
        return value

    @field_validator("zone")
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        if value is not None:
            zone_parts(value)
        return value

    @model_validator(mode="after")
    def _one(self) -> TimeFile:
        given = [k for k in ("format", "epoch", "since_midnight") if getattr(self, k) is not None]
        if len(given) > 1:
            raise custom_error(f"has {' and '.join(given)}", "one of format, epoch, since_midnight")
        return self


class SymbolFile(ConfigModel):
    """Where the symbol comes from when no column holds it, and how the vendor's names become feed symbols."""

    fixed: Text | None = Field(None, description="every row is of this feed_symbol")
    file: Text | None = Field(None, description="regular expression on the file's name with a group (?P<symbol>...)")
    rename: dict[Text, Text] = Field(default_factory=dict, description="vendor's name -> feed_symbol of the universe")

    @field_validator("file")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        return _checked_pattern(value, "symbol")

    @model_validator(mode="after")
    def _one(self) -> SymbolFile:
        if self.fixed is not None and self.file is not None:
            raise custom_error("has fixed and file", "one of fixed, file")
        return self


class MatchFile(ConfigModel):
    """Which files the profile is for. All that is given must fit; without it the profile is used only where it is named."""

    files: list[Text] = Field(default_factory=list, description="name patterns such as *_us_d.csv; one must fit")
    header: list[Text] = Field(default_factory=list, description="column names the file must have")


class Profile(ConfigModel):
    """One vendor's layout."""

    name: Name
    description: Text = ""
    match: MatchFile = Field(default_factory=MatchFile)
    format: Literal["csv", "parquet"] | None = Field(None, description="kind of file; by its content when left out")

    separator: Text | None = Field(None, description="one character, or tab")
    quote: Text | None = Field(None, min_length=1, max_length=1, description='quoting character; " when left out')
    decimal: Literal[".", ","] | None = Field(None, description="decimal sign")
    thousands: Literal[",", ".", " ", "'", "none"] | None = Field(None, description="sign between thousands")
    encoding: Text | None = Field(None, description="text encoding, e.g. utf-8, utf-16, cp1252")
    header: bool | None = Field(None, description="does the first line name the columns?")
    header_lines: Count | None = Field(None, description="lines of a header of more than one line")
    skip_lines: Count = Field(0, description="lines before the header that are none of the table")
    comment: Text | None = Field(None, description="lines that begin with this are no rows")
    missing: list[Text] = Field(
        default_factory=lambda: ["", "null", "NULL", "None", "nan", "NaN", "NAN", "N/A", "n/a", "N/D", "-", "."],
        description="words that mean no value",
    )

    columns: ColumnsFile = Field(default_factory=ColumnsFile)
    time: TimeFile = Field(default_factory=TimeFile)
    symbol: SymbolFile = Field(default_factory=SymbolFile)
    day: Text | None = Field(None, description="regular expression on the file's name with (?P<day>YYYYMMDD)")
    timeframe: Timeframe | None = Field(None, description="bar length; by the spacing of the stamps when left out")
    price_scale: Positive = Field(1.0, description="prices are multiplied by it: 0.0001 for prices x 10000")
    volume_unit: Positive = Field(1.0, description="volumes are multiplied by it: 100 for lots of a hundred")
    adjustment: Literal["none", "splits", "splits_and_dividends", "back_adjusted"] | None = Field(
        None, description="what the vendor did to the prices; the lake stores raw prices (none)"
    )
    accept_adjusted: bool = Field(False, description="take adjusted prices of stocks and futures all the same")
    extended_hours: bool | None = Field(
        None, description="true: bars outside the session are expected and left out, however many; false: none may be there"
    )
    on_bad_rows: Literal["reject_file", "quarantine"] = Field("reject_file", description="what one bad row means")

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if value in RESERVED:
            raise custom_error(f"is {value!r}", f"a name other than {' and '.join(RESERVED)}, which are folders of the inbox")
        return value

    @field_validator("separator")
    @classmethod
    def _separator(cls, value: str | None) -> str | None:
        if value is None or len(value) == 1:
            return value
        if value.lower() in ("tab", "\\t"):
            return "\t"
        raise custom_error(f"is {value!r}", "one character, or tab")

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str | None) -> str | None:
        import codecs

        try:
            return value if value is None else codecs.lookup(value).name
        except LookupError:
            near = nearest(value, ["utf-8", "utf-16", "utf-16-le", "cp1252", "latin-1", "ascii"])
            raise custom_error(f"is {value!r}", "a text encoding such as utf-8, utf-16 or cp1252", near) from None

    @field_validator("day")
    @classmethod
    def _day(cls, value: str | None) -> str | None:
        return _checked_pattern(value, "day")

    @model_validator(mode="after")
    def _fits_together(self) -> Profile:
        if self.decimal is not None and self.decimal == self.thousands:
            raise custom_error(f"decimal and thousands are both {self.decimal!r}", "two different signs")
        if self.time.since_midnight is not None and self.day is None:
            raise custom_error("time.since_midnight needs the day", "the key day with a pattern (?P<day>...) on the file's name")
        return self


def _checked_pattern(value: str | None, group: str) -> str | None:
    if value is None:
        return None
    try:
        compiled = re.compile(value)
    except re.error as error:
        raise custom_error(f"is no regular expression: {error}", f"a pattern with (?P<{group}>...)") from None
    if group not in compiled.groupindex:
        raise custom_error(f"is {value!r}", f"a pattern with a group (?P<{group}>...)")
    return value


@lru_cache(maxsize=256)
def zone_parts(zone: str) -> tuple[str, int]:
    """(zone name, shift in minutes) of ``America/New_York``, ``-05:00``, ``UTC``, ``America/New_York+07:00``, ``exchange``.

    Raises a config error for anything else.
    """
    from zoneinfo import ZoneInfo, available_timezones

    fixed = re.fullmatch(r"(?:UTC|GMT)?([+-]\d{1,2})(?::?(\d{2}))?", zone)
    if fixed:
        hours, minutes = int(fixed[1]), int(fixed[2] or 0)
        total = hours * 60 + (-minutes if fixed[1].startswith("-") else minutes)
        if abs(total) <= 15 * 60 and minutes < 60:
            return "UTC", total
    else:
        found = re.fullmatch(r"(.+?)(?:([+-])(\d{2}):(\d{2}))?", zone)
        name = found[1] if found else zone
        shift = (int(found[3]) * 60 + int(found[4])) * (-1 if found[2] == "-" else 1) if found and found[2] else 0
        if name == "exchange":
            return name, shift
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            near = nearest(name, available_timezones())
        else:
            return name, shift
        raise custom_error(
            f"unknown time zone {zone!r}", "a name like America/New_York, an offset like -05:00, or exchange", near
        )
    raise custom_error(f"time zone {zone!r} is no offset", "an offset from -15:00 to +15:00")


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile, the file it stands in and the revision of that file. The built-in empty one: path ""."""

    profile: Profile
    path: str
    revision: str

    @property
    def name(self) -> str:
        return self.profile.name


NO_PROFILE = LoadedProfile(Profile(name="detected", description="everything is detected"), "", "")


@lru_cache(maxsize=512)
def _parsed(text: str, file: str) -> tuple[LoadedProfile | None, tuple[Problem, ...]]:
    # Reading YAML takes tens of milliseconds a file: a batch of hundreds of files reads each profile once.
    profile, problems = validate(Profile, load_yaml(text, file))
    return (LoadedProfile(profile, file, file_revision(text)), ()) if profile is not None else (None, tuple(problems))


def parse_profile(text: str, file: str) -> tuple[LoadedProfile | None, list[Problem]]:
    """Profile of the file's text, or None and every problem it has."""
    loaded, problems = _parsed(text, file)
    return loaded, list(problems)


def load_profiles(config: Path) -> tuple[dict[str, LoadedProfile], list[Problem]]:
    """Profiles of `config`/feeds by name, and the problems of those that cannot be used. One bad file stops no other."""
    good: dict[str, LoadedProfile] = {}
    problems: list[Problem] = []
    for path in sorted((config / "feeds").glob("*")):
        if path.suffix not in (".yaml", ".yml") or path.name.startswith("."):
            continue
        shown = f"feeds/{path.name}"
        try:
            loaded, found = parse_profile(path.read_text(encoding="utf-8"), shown)
        except (OSError, UnicodeDecodeError) as error:
            loaded, found = None, [Problem(shown, 0, "", f"cannot be read: {error}", "a UTF-8 text file")]
        problems += found
        if loaded is None:
            continue
        if loaded.name in good:
            other = good[loaded.name].path
            problems.append(Problem(shown, 1, "name", f"the name {loaded.name!r} is also that of {other}", "a name of its own"))
            continue
        good[loaded.name] = loaded
    return good, problems


def choose_profile(
    profiles: dict[str, LoadedProfile], problems: list[Problem], file_name: str, header: list[str], kind: str, wanted: str = ""
) -> LoadedProfile:
    """The profile for a file: `wanted`, else the one whose match fits, else the empty one that detects everything.

    header: names of the file's first line. Raises FeedError when `wanted` is unknown or several fit equally well.
    """
    if wanted:
        if wanted in profiles:
            return profiles[wanted]
        bad = next((str(p) for p in problems if Path(p.file).stem == wanted), "")
        near = nearest(wanted, profiles)
        hint = f" ({bad})" if bad else f", did you mean {near!r}?" if near else ""
        raise FeedError(f"there is no profile {wanted!r}{hint}; profiles: {', '.join(sorted(profiles)) or 'none'}")
    names = {_plain(h) for h in header}
    fitting: list[tuple[int, LoadedProfile]] = []
    for loaded in profiles.values():
        match = loaded.profile.match
        if not match.files and not match.header:
            continue
        if loaded.profile.format not in (None, kind):
            continue
        if match.files and not any(fnmatch(file_name.lower(), pattern.lower()) for pattern in match.files):
            continue
        if not {_plain(h) for h in match.header} <= names:
            continue
        # A name pattern says more than any header: many vendors write the same column names.
        fitting.append(((1000 if match.files else 0) + len(match.header), loaded))
    if not fitting:
        return NO_PROFILE
    best = max(score for score, _ in fitting)
    winners = [loaded for score, loaded in fitting if score == best]
    if len(winners) > 1:
        named = ", ".join(sorted(w.name for w in winners))
        raise FeedError(
            f"{file_name}: the profiles {named} fit equally well; put the file into a folder of the inbox with the profile's "
            f"name (inbox/{winners[0].name}/{file_name}), or narrow `match` in one of them"
        )
    return winners[0]


def _plain(name: Any) -> str:
    return str(name).strip().lower()
