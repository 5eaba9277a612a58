"""What the lake knows at one bar close: the anchored windows that strategies and plans are evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from trading.bars import Bars
from trading.calendars import calendar
from trading.frame import BarWindow, SeriesCache
from trading.instruments import Instrument
from trading.signals import PartitionRef
from trading.strategy import Evaluable, context_of
from trading.timeframes import Timeframe, session_date, session_number
from trading.windows import window_start

Series = tuple[str, Timeframe, int]
"""Symbol, timeframe, first session number."""


class KnownBars:
    """What the lake knows at one bar close: every series is read once, and what strategies compute on it is kept for the
    next strategy that asks for the same."""

    def __init__(self, lake: Any, session: date, known_at: int) -> None:
        self._lake, self._session, self._known_at = lake, session, known_at
        self._bars: dict[Series, Bars] = {}
        self._refs: dict[tuple[int, int], tuple[Bars, tuple[PartitionRef, ...]]] = {}
        self.cache = SeriesCache()

    def read_ahead(self, wanted: Iterable[Series]) -> None:
        """Read (symbol, timeframe, first session number) together, those of one timeframe in one scan of the lake."""
        together: dict[Timeframe, dict[str, dict[int, None]]] = {}
        for symbol, timeframe, start in wanted:
            if (symbol, timeframe, start) not in self._bars:
                together.setdefault(timeframe, {}).setdefault(symbol, {})[start] = None
        for timeframe, symbols in together.items():
            while symbols:  # a round for each start, where a symbol has several
                starts = {symbol: session_date(next(iter(left))) for symbol, left in symbols.items()}
                read = self._lake.read_bars_of(f"bars_{timeframe}", starts, self._session)
                for symbol, bars in read.items():
                    self._bars[symbol, timeframe, session_number(starts[symbol])] = bars.known_at(self._known_at)
                symbols = {symbol: rest for symbol, left in symbols.items() if (rest := dict.fromkeys(list(left)[1:]))}

    def bars(self, symbol: str, timeframe: Timeframe, start: int) -> Bars:
        """Bars from session number `start` on."""
        key = (symbol, timeframe, start)
        if key not in self._bars:
            read = self._lake.read_bars(f"bars_{timeframe}", symbol, session_date(start), self._session)
            self._bars[key] = read.known_at(self._known_at)
        return self._bars[key]

    def partitions(self, bars: Bars, sessions: int) -> tuple[PartitionRef, ...]:
        """The newest `sessions` partitions of `bars`, with the content hash of the rows known now."""
        key = (id(bars), sessions)
        if key not in self._refs:
            self._refs[key] = (bars, _partitions(bars, sessions))
        return self._refs[key][1]


def window(
    lake: Any, evaluable: Evaluable, instrument: Instrument, session: date, known_at: int, known: KnownBars | None = None
) -> BarWindow:
    """The anchored windows of every series `evaluable` reads, ending with the bars known at `known_at`: its timeframes, and
    other instruments' under (symbol, timeframe). known: shares what was read for other strategies of the same close."""
    known = known or KnownBars(lake, session, known_at)
    windows: dict[Any, Bars] = {key: known.bars(*series) for key, series in series_of(evaluable, instrument, session).items()}
    read = BarWindow(windows, known.cache)
    read.tail = 1  # a close asks about its own bar
    return read


def series_of(evaluable: Evaluable, instrument: Instrument, session: date) -> dict[Any, Series]:
    """(symbol, timeframe, first session number) of every series `evaluable` reads, by its key in the window."""
    number, venue = session_number(session), calendar(instrument.calendar)
    starts = {t: window_start(number, t, evaluable.warm_up.get(t, 0), venue) for t in evaluable.timeframes}
    found: dict[Any, Series] = {t: (instrument.symbol, t, start) for t, start in starts.items()}
    for symbol, timeframe in context_of(evaluable, instrument.symbol):
        found[symbol, timeframe] = symbol, timeframe, starts[timeframe]
    return found


def needed_partitions(
    windows: Mapping[Any, Bars], quality_sessions: int, known: KnownBars | None = None
) -> tuple[PartitionRef, ...]:
    """The newest `quality_sessions` partitions of each series, with the content hash of the rows known now."""
    ask = known.partitions if known is not None else _partitions
    return tuple(ref for bars in windows.values() for ref in ask(bars, quality_sessions))


def _partitions(bars: Bars, quality_sessions: int) -> tuple[PartitionRef, ...]:
    sessions = sorted({int(n) for n in bars.session[-quality_sessions * 1440 :]}, reverse=True)[:quality_sessions]
    return tuple(
        PartitionRef(
            f"bars_{bars.timeframe}", session_date(number).isoformat(), bars.symbol,
            bars.rows(bars.session == number).content_hash(),
        )
        for number in sessions
    )  # fmt: skip
