"""Bars and features in one line, for a notebook or a script.

    from resources.read import bars, features

    bars("EURUSD", "1h")                                   # pandas: UTC index, one column each
    bars("AAPL", "1d", "2014-05-01", adjusted=True)        # on today's price level
    bars("AAPL", "15m", as_of="2014-06-06T15:00Z")         # what was known then, and nothing else
    bars("AAPL", "1m", known="2014-06-07T06:00Z")          # the lake as it was on that day
    features("EURUSD", "1h", form="polars")                # polars, where it is installed; also form="arrow", "numpy"

Every answer says what it was made of: ``frame.attrs`` (pandas) or ``table.schema.metadata`` (Arrow) hold the content hash
of the rows and those of the lake's partitions behind them; a polars frame has no place for it. ``mixed_levels`` names the
sessions of weekly bars that hold prices from both sides of a split: raw ones are as traded, adjusted ones are made of
adjusted shorter bars.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from resources.lake import FeatureFrame, Lake, LakeError, PartitionMissing
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.corporate_actions import ActionKind, CorporateAction, adjust
from trading.resample import resample
from trading.timeframes import Timeframe, iso, session_date, session_number, to_us
from trading.universe import Universe

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Form = Literal["pandas", "arrow", "polars", "numpy"]
Day = date | str | None
Moment = datetime | str | int | None
"""An aware datetime, ISO text with its offset (``2014-06-06T15:00Z``) or UTC microseconds."""

BAR_COLUMNS: Final = ("open", "high", "low", "close", "volume")


def bars(
    symbol: str,
    timeframe: str | Timeframe,
    start: Day = None,
    end: Day = None,
    *,
    adjusted: bool = False,
    dividends: bool = False,
    as_of: Moment = None,
    known: Moment = None,
    form: Form = "pandas",
) -> Any:
    """Bars of `symbol` in sessions [start, end], ascending: a pandas frame indexed by close_time (UTC), an Arrow table,
    a polars frame (ModuleNotFoundError where polars is not installed), or, form="numpy", trading.bars.Bars.

    A timeframe that the lake does not hold is derived from the instrument's own. adjusted: splits and spin-offs known at
    `as_of` (now, when not given) divide earlier prices; dividends: those, too. as_of: only bars with close_time <= as_of.
    known: the versions that counted in the lake at that wall-clock time, as far as retention keeps them; sessions first
    written later are left out. Raises PartitionMissing when there is nothing of `symbol`, LakeError, ConfigInvalid, and
    trading.corporate_actions.UnknownFactor when a split's factor is not known.
    """
    view: _BarView = {"adjusted": adjusted, "dividends": dividends, "as_of": as_of, "known": known, "form": form}
    return _market().bars(symbol, timeframe, start, end, **view)


def features(
    symbol: str,
    timeframe: str | Timeframe,
    start: Day = None,
    end: Day = None,
    *,
    adjusted: bool = False,
    as_of: Moment = None,
    form: Form = "pandas",
) -> Any:
    """Features of `symbol` as `bars` gives bars; ``numpy``: resources.lake.FeatureFrame.

    Stored ones where the lake has them in today's definition; else computed from the bars, each row on its own price level
    as the setting `price_view` says. adjusted: computed from bars on one price level, that of `as_of`.
    """
    return _market().features(symbol, timeframe, start, end, adjusted=adjusted, as_of=as_of, form=form)


class _FeatureView(TypedDict, total=False):
    """How features are wanted: see `features`."""

    adjusted: bool
    as_of: Moment
    form: Form


class _BarView(_FeatureView, total=False):
    """How bars are wanted: see `bars`."""

    dividends: bool
    known: Moment


@lru_cache(maxsize=1)
def _market() -> Market:
    from resources.config import load_config
    from resources.lake import open_lake
    from resources.settings import settings

    return Market(open_lake(settings()), load_config(settings()).universe)


@dataclass(frozen=True, slots=True)
class _Made:
    """Bars, the dataset they were read from, and that dataset's partitions behind them."""

    bars: Bars
    dataset: str
    partitions: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question for rows of one symbol, its words read. as_of, known: UTC us."""

    symbol: str
    timeframe: Timeframe
    start: date | None
    end: date | None
    adjusted: bool
    dividends: bool
    as_of: int | None
    known: int | None
    form: Form

    @classmethod
    def of(cls, symbol: str, timeframe: str | Timeframe, start: Day, end: Day, view: Mapping[str, Any]) -> _Asked:
        return cls(
            symbol, _timeframe(timeframe), _day(start, "start"), _day(end, "end"), view.get("adjusted", False),
            view.get("dividends", False), _moment(view.get("as_of"), "as_of"), _moment(view.get("known"), "known"),
            view.get("form", "pandas"),
        )  # fmt: skip


class Market:
    """What `bars` and `features` answer from: a lake, its corporate actions beside its bars, and the instruments."""

    def __init__(self, lake: Lake, universe: Universe) -> None:
        self._lake = lake
        self._universe = universe

    def bars(self, symbol: str, timeframe: str | Timeframe, start: Day = None, end: Day = None, **view: Unpack[_BarView]) -> Any:
        """See resources.read.bars."""
        asked = _Asked.of(symbol, timeframe, start, end, view)
        made = self._bars(asked)
        if asked.form == "numpy":
            return made.bars
        about = self._about(made, made.bars.content_hash(), asked)
        columns = {name: getattr(made.bars, name) for name in (*BAR_COLUMNS, *made.bars.extras)}
        return _formed(asked.form, symbol, made.bars.close_time, made.bars.session, columns, about)

    def features(
        self, symbol: str, timeframe: str | Timeframe, start: Day = None, end: Day = None, **view: Unpack[_FeatureView]
    ) -> Any:
        """See resources.read.features."""
        from resources.price_view import actions_for, native_bars
        from resources.settings import settings
        from trading import windows
        from trading.features import FEATURES_VERSION, NAMES, WARM_UP
        from trading.price_view import features_as_of

        asked = _Asked.of(symbol, timeframe, start, end, view)
        wanted, at, lo, hi = asked.timeframe, asked.as_of, asked.start, asked.end
        dataset = f"features_{wanted}"
        partitions = {} if asked.adjusted else self._hashes(dataset, symbol, lo, hi, None)
        if partitions and {p.source for p in self._lake.partitions(dataset, lo, hi, [symbol])} == {FEATURES_VERSION}:
            frame = self._lake.read_features(dataset, symbol, lo, hi)
            rows = len(frame) if at is None else int(np.searchsorted(frame.close_time, at, side="right"))
            made = _Made(Bars.empty(symbol, wanted), dataset, partitions)
        else:
            venue = self._venue(symbol)
            first = None
            if lo is not None:
                first = min(lo, session_date(windows.window_start(session_number(lo), wanted, WARM_UP, venue)))
            made = self._bars(replace(asked, start=first))
            actions = [] if asked.adjusted else actions_for(self._lake, symbol, settings().price_view)
            _, values = features_as_of(made.bars, venue, actions, native_bars(self._lake, self._universe))
            skip = 0 if lo is None else int(np.searchsorted(made.bars.session, session_number(lo)))
            b = made.bars.rows(slice(skip, None))
            frame = FeatureFrame(symbol, NAMES, b.close_time, b.session, values[skip:], FEATURES_VERSION)
            rows = len(frame)
        frame = FeatureFrame(
            symbol, frame.names, frame.close_time[:rows], frame.session[:rows], frame.values[:rows], frame.version
        )  # fmt: skip
        if asked.form == "numpy":
            return frame
        about = self._about(made, "", asked) | {"features_version": frame.version}
        columns = {name: np.ascontiguousarray(frame.values[:, i]) for i, name in enumerate(frame.names)}
        return _formed(asked.form, symbol, frame.close_time, frame.session, columns, about)

    # ---- within ------------------------------------------------------------------------------------------------------

    def _bars(self, asked: _Asked) -> _Made:
        symbol, timeframe, start, end = asked.symbol, asked.timeframe, asked.start, asked.end
        native = self._native(symbol)
        stored = self._hashes(f"bars_{timeframe}", symbol, start, end, asked.known)
        behind = self._hashes(f"bars_{native}", symbol, start, end, asked.known) if native not in (None, timeframe) else {}
        # A week in which a split falls mixes two price levels: an adjusted one is made of adjusted bars.
        mixed = asked.adjusted and timeframe is Timeframe.W1 and bool(behind)
        whole = stored and (timeframe is Timeframe.W1 or behind.keys() <= stored.keys())
        if whole and not mixed:
            made = self._read(asked, timeframe, start, stored)
            made = self._adjusted(made, asked) if asked.adjusted else made
            return made if asked.as_of is None else replace(made, bars=made.bars.known_at(asked.as_of))
        if not behind or native is None:
            raise PartitionMissing(
                f"{symbol} {timeframe}: no bars in the lake at {self._lake.storage.url}"
                f"{f' from {start}' if start else ''}{f' to {end}' if end else ''}; materialise bars_{native or timeframe}"
            )
        if native.minutes > timeframe.minutes:
            raise LakeError(f"{symbol}: its bars are {native}; {timeframe} cannot be made of them")
        return self._derived(asked, native)

    def _derived(self, asked: _Asked, native: Timeframe) -> _Made:
        first = asked.start
        if first is not None and asked.timeframe is Timeframe.W1:  # its bar is made of the whole week before it
            first = session_date(session_number(first) - first.weekday())
        hashes = self._hashes(f"bars_{native}", asked.symbol, first, asked.end, asked.known)
        source = self._read(asked, native, first, hashes)
        if asked.adjusted:
            source = self._adjusted(source, asked)
        venue = self._venue(asked.symbol)
        until = self._complete_until(source, venue)
        known_until = until if asked.as_of is None else min(until, asked.as_of)
        made = resample(source.bars, asked.timeframe, venue, known_until=known_until)
        if asked.start is not None:
            made = made.rows(made.session >= session_number(asked.start))
        return replace(source, bars=made)

    def _complete_until(self, source: _Made, venue: Calendar) -> int:
        """Close of the last session read; of its last bar while that session is still being traded."""
        if not len(source.bars):
            return 0
        last, newest = int(source.bars.session[-1]), int(source.bars.close_time[-1])
        if session_date(last) in self._lake.hot_sessions(source.dataset):
            return newest
        return max(newest, int(venue.close_time[venue.position(last)]))

    def _read(self, asked: _Asked, timeframe: Timeframe, start: date | None, hashes: dict[str, str]) -> _Made:
        dataset = f"bars_{timeframe}"
        return _Made(self._lake.read_bars(dataset, asked.symbol, start, asked.end, known=asked.known), dataset, hashes)

    def _adjusted(self, made: _Made, asked: _Asked) -> _Made:
        from resources.corporate_actions import read_actions

        actions = self._measurable(made, read_actions(self._lake, made.bars.symbol))
        at = asked.as_of if asked.as_of is not None else _now()
        return replace(made, bars=adjust(made.bars, actions, as_of=at, dividends=asked.dividends))

    def _measurable(self, made: _Made, actions: list[CorporateAction]) -> list[CorporateAction]:
        """Without the rolls that a list of contracts foretells behind the newest bar: no price has moved by them, the level is
        that of the last contract with prices."""
        ahead = [a for a in actions if a.kind is ActionKind.ROLL and not a.factor_known]
        if not ahead:
            return actions
        held = max((p.session for p in self._lake.partitions(made.dataset, None, None, [made.bars.symbol])), default=date.min)
        return [a for a in actions if a not in ahead or session_date(a.ex_session) <= held]

    def _mixed(self, made: _Made, asked: _Asked) -> list[str]:
        """Sessions of weekly bars that hold two price levels."""
        from resources.price_view import mixed_weeks

        made_of_adjusted = asked.adjusted and made.dataset != f"bars_{Timeframe.W1}"
        return [] if made_of_adjusted else mixed_weeks(self._lake, made.bars)

    def _hashes(self, dataset: str, symbol: str, start: date | None, end: date | None, known: int | None) -> dict[str, str]:
        return {p.session.isoformat(): p.content_hash for p in self._lake.partitions(dataset, start, end, [symbol], known=known)}

    def _native(self, symbol: str) -> Timeframe | None:
        found = self._universe.instruments.get(symbol)
        return found.native_timeframe if found is not None else None

    def _venue(self, symbol: str) -> Calendar:
        found = self._universe.instruments.get(symbol)
        if found is None:
            raise LakeError(f"{symbol} is not in the universe {self._universe.name}: its sessions are not known")
        return calendar(found.calendar)

    def _about(self, made: _Made, content_hash: str, asked: _Asked) -> dict[str, Any]:
        return {
            "timeframe": str(asked.timeframe),
            "adjusted": asked.adjusted,
            "as_of": iso(asked.as_of) if asked.as_of is not None else "",
            "known": iso(asked.known) if asked.known is not None else "",
            "mixed_levels": self._mixed(made, asked),
            "simulated": self._universe.simulated,
            "dataset": made.dataset,
            "content_hash": content_hash,
            "partitions": made.partitions,
        }


def _formed(
    form: Form,
    symbol: str,
    close_time: NDArray[np.int64],
    session: NDArray[np.int32],
    columns: dict[str, NDArray[np.float64]],
    about: dict[str, Any],
) -> Any:
    if form == "pandas":
        return _frame(symbol, close_time, session, columns, about)
    if form == "arrow":
        return _table(symbol, close_time, session, columns, about)
    if form == "polars":
        return _polars(_table(symbol, close_time, session, columns, about))
    raise ValueError(f"no form {form!r}; expected pandas, arrow, polars or numpy")


def _polars(table: pa.Table) -> Any:
    try:
        import polars
    except ModuleNotFoundError as error:
        said = 'form="polars" needs polars, which is not installed: pip install polars; form="arrow" gives the same rows'
        raise ModuleNotFoundError(said, name="polars") from error
    return polars.from_arrow(table)


def _frame(
    symbol: str, close_time: NDArray[np.int64], session: NDArray[np.int32], columns: dict[str, Any], about: dict[str, Any]
) -> pd.DataFrame:
    import pandas as pd

    index = pd.DatetimeIndex(close_time.astype("datetime64[us]"), tz="UTC", name="close_time")
    days = session.astype("datetime64[D]").astype("datetime64[us]")
    frame = pd.DataFrame({"session": days, **columns}, index=index)
    frame.attrs.update(symbol=symbol, **about)
    return frame


def _table(
    symbol: str, close_time: NDArray[np.int64], session: NDArray[np.int32], columns: dict[str, Any], about: dict[str, Any]
) -> pa.Table:
    import pyarrow as pa

    arrays = {
        "close_time": pa.array(close_time).cast(pa.timestamp("us", tz="UTC")),
        "session": pa.array(session).cast(pa.date32()),
        **{name: pa.array(values) for name, values in columns.items()},
    }
    said = {"symbol": symbol, **about}
    return pa.table(arrays, metadata={k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()})


def _timeframe(value: str | Timeframe) -> Timeframe:
    try:
        return Timeframe(value)
    except ValueError:
        raise ValueError(f"no timeframe {value!r}; expected one of {_names(str(t) for t in Timeframe)}") from None


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)


def _day(value: Day, name: str) -> date | None:
    if isinstance(value, datetime):
        raise ValueError(f"{name} is a session's date, got the moment {value}; use as_of for moments")
    if value is None or isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{name} {value!r}: expected a session's date like 2014-06-05") from None


def _moment(value: Moment, name: str) -> int | None:
    if value is None or isinstance(value, int):
        return value
    try:
        return to_us(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise ValueError(f"{name} {value!r}: expected a time with its zone, like 2014-06-06T15:00Z ({error})") from None


def _now() -> int:
    import time

    return time.time_ns() // 1000


__all__ = ["Market", "bars", "features"]
