"""CSV and Parquet files of any vendor, accepted through the inbox.

    data/inbox/                     drop files here (or into inbox/<profile>/)
    data/inbox/done/<day>/          accepted files, and a report beside each
    data/inbox/done/index.json      which file holds which sessions, and how it is read
    data/inbox/rejected/<day>/      refused files, each with a report that names the lines

How a vendor lays out its files is a profile in data/config/feeds; see docs/feeds.md. Where accepted files overlap, the
newest answers. A feed symbol is whatever the universe's `feed_symbol` says.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from resources.feeds._base import Columns, FileFeed, LeftOut, columns
from resources.feeds._file_bars import Judged, judge
from resources.feeds._file_index import Accepted, Cover, Index, read_index
from resources.feeds._file_text import open_file
from resources.feeds._layout import Grid, grid_of
from resources.feeds.identity import tickers
from resources.feeds.protocol import Capabilities, Feed, FeedError, MalformedData, SourceMissing
from resources.settings import Settings
from trading.bars import PRICE_COLUMNS, Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe

T = TypeVar("T")
_GRIDS = 2
_JUDGED = 64


class FilesFeed(FileFeed):
    """Bars of the files the inbox accepted.

    left_out: records that became no bar, of the symbols asked for last. Rows a profile puts into quarantine are in the
    answer as the file has them: whoever ingests screens them; `places` says where they stand.
    """

    def __init__(self, inbox: Path, universe: Callable[[], dict[str, list[Instrument]]]) -> None:
        """universe: feed symbols the universe reads from files, and their instruments."""
        super().__init__()
        self._capabilities = Capabilities("files", frozenset(Timeframe), live=False)
        self._inbox = inbox
        self._universe = universe
        self._grids: OrderedDict[Hashable, Grid] = OrderedDict()
        self._judged: OrderedDict[Hashable, Judged] = OrderedDict()
        self._places: dict[str, dict[int, str]] = {}

    def index(self) -> Index:
        """The accepted files. Raises MalformedData."""
        return read_index(self._inbox)

    def _symbols(self) -> list[str]:
        return sorted(self.index().symbols() | set(self._universe()))

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        """Raw bars with start <= session <= end; none before the first file of an instrument of the universe was accepted.

        Raises SymbolNotFound, SourceMissing and MalformedData when an accepted file is not what it was.
        """
        self._check_timeframe(instrument, timeframe)
        symbol, index = instrument.feed_symbol, self.index()
        if symbol not in index.symbols() and symbol not in self._universe():
            raise self._unknown(symbol)
        self.left_out = [x for x in self.left_out if x.symbol != symbol]
        self._places[symbol] = {}
        files = index.of_symbol(symbol, timeframe)
        if end < start or not files:
            return Bars.empty(instrument.symbol, timeframe)
        cover = Cover(calendar(instrument.calendar), start, end)
        pieces: list[dict[str, Any]] = []
        for file in files:
            held = file.symbols[symbol]
            if not held.holds(start, end) or not cover.asks(held):
                continue
            piece = self._piece(file, instrument)
            taken = cover.take(held, piece["close_time"], piece["session"])
            pieces.append({k: v[taken] for k, v in piece.items() if v is not None})
        return self._joined(instrument, timeframe, pieces)

    def places(self, instrument: Instrument) -> dict[int, str]:
        """Row of the last answer -> file and line, for rows whose values no bar can have."""
        return self._places.get(instrument.feed_symbol, {})

    def _piece(self, file: Accepted, instrument: Instrument) -> dict[str, Any]:
        """One file's bars of one symbol as columns; with its doubtful rows (line > 0) where they go into quarantine."""
        judged = self._judge(file, instrument)
        got = judged.symbols[instrument.feed_symbol]
        self.left_out += [LeftOut(x.symbol, f"{file.path}: {x.where}", x.reason) for x in judged.left_out]
        good, odd = got.columns, got.doubtful
        piece: dict[str, Any] = {**good._asdict(), "turnover": got.turnover, "trades": got.trades}
        piece["line"] = np.zeros(len(good.close_time), np.int64)
        piece["file"] = np.full(len(good.close_time), file.order)
        if file.on_bad_rows == "quarantine" and len(odd.close_time):
            extra: dict[str, Any] = {
                **odd._asdict(),
                "turnover": np.zeros(len(odd.close_time)),
                "trades": np.zeros(len(odd.close_time)),
            }
            extra["line"], extra["file"] = got.doubtful_lines, np.full(len(odd.close_time), file.order)
            piece = {k: None if v is None else np.concatenate([v, extra[k]]) for k, v in piece.items()}
        return piece

    def _joined(self, instrument: Instrument, timeframe: Timeframe, pieces: list[dict[str, Any]]) -> Bars:
        if not pieces:
            return Bars.empty(instrument.symbol, timeframe)
        # A file without turnover or trades makes them unknown for the whole answer: nothing is filled in.
        names = [n for n in (*Columns._fields, "turnover", "trades", "line", "file") if all(n in p for p in pieces)]
        whole = {n: np.concatenate([p[n] for p in pieces]) for n in names}
        order = np.argsort(whole["close_time"], kind="stable")
        whole = {n: np.ascontiguousarray(v[order]) for n, v in whole.items()}
        by_order = {f.order: f.path for f in self.index().files}
        line, file = whole.pop("line"), whole.pop("file")
        self._places[instrument.feed_symbol] = {
            int(i): f"{by_order.get(int(file[i]), '?')} line {int(line[i])}" for i in np.flatnonzero(line)
        }
        return Bars(instrument.symbol, timeframe, **whole)

    def _load(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Columns:
        bars = self.history(instrument, timeframe, start, end)
        return columns(bars.close_time, bars.session, *(getattr(bars, c) for c in (*PRICE_COLUMNS, "volume")))

    def _judge(self, file: Accepted, instrument: Instrument) -> Judged:
        key = (file.order, file.sha256, instrument)
        return _kept(self._judged, key, _JUDGED, lambda: self._judge_now(file, instrument))

    def _judge_now(self, file: Accepted, instrument: Instrument) -> Judged:
        path = self._inbox / file.path
        grid = _kept(self._grids, (file.order, file.sha256, path), _GRIDS, lambda: _checked_grid(path, file))
        judged = judge(grid, file.layout, {instrument.feed_symbol: [instrument]})
        if instrument.feed_symbol not in judged.symbols:
            raise MalformedData(f"{path}: no row of {instrument.feed_symbol}, which the index says it has")
        return judged


def _checked_grid(path: Path, file: Accepted) -> Grid:
    try:
        opened = open_file(path)
    except SourceMissing as error:
        raise SourceMissing(
            f"{path}: accepted on {file.path.split('/')[1]}, now gone; put it back or drop it into the inbox again"
        ) from error
    if opened.sha256 != file.sha256:
        raise MalformedData(
            f"{path}: not the file that was accepted (its content changed); drop the right one into the inbox again"
        )
    return grid_of(opened, file.layout)


def _kept(cache: OrderedDict[Hashable, T], key: Hashable, size: int, make: Callable[[], T]) -> T:
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    made = cache[key] = make()
    while len(cache) > size:
        cache.popitem(last=False)
    return made


class UniverseOfFiles:
    """Instruments of the configured universe that read files, by feed symbol; read anew when the universe file changes."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.config / "universe" / f"{settings.universe}.yaml"
        self._read: tuple[str, dict[str, list[Instrument]], tuple[date, date | None]] | None = None

    def history(self) -> tuple[date, date | None]:
        """First and last session the universe keeps; no last one: today. Raises FeedError."""
        self()
        assert self._read is not None
        return self._read[2]

    def __call__(self) -> dict[str, list[Instrument]]:
        """Raises FeedError when the universe cannot be read."""
        from resources.config import define_calendars
        from trading.universe import parse_universe

        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FeedError(f"{self._path}: the universe cannot be read ({error})") from error
        mark = hashlib.sha256(text.encode()).hexdigest()
        if self._read is None or self._read[0] != mark:
            broken = define_calendars(self._path.parent.parent)  # instruments may name calendars of the configuration
            universe, problems = parse_universe(text, f"universe/{self._path.name}")
            if universe is None:
                raise FeedError("; ".join(str(p) for p in [*broken, *problems][:3]))
            found: dict[str, list[Instrument]] = {}
            for instrument in universe.instruments.values():
                if instrument.feed == "files":
                    for ticker in sorted(tickers(instrument)):
                        found.setdefault(ticker, []).append(replace(instrument, feed_symbol=ticker, former=()))
            self._read = (mark, found, (universe.history_start, universe.history_end))
        return self._read[1]


def _files(settings: Settings) -> Feed:
    return FilesFeed(settings.path("inbox"), UniverseOfFiles(settings))


FEEDS = {"files": _files}
