"""One run of a bars asset: read the source, write the lake, say what happened."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from assets.bars_books import Books
from assets.changes import changed_by, replace_bars
from assets.common import image, markdown_table
from resources.feeds.identity import history, tickers
from resources.feeds.market_clock import market_now
from resources.lake import LakeError
from resources.price_view import mixed_weeks
from resources.quarantine import LeftOutRecord, Quarantine, summary
from trading.bars import Bars
from trading.calendars import calendar
from trading.dependents import derived_session
from trading.instruments import Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, iso, session_date, session_number
from trading.validity import InvalidRow, screen

if TYPE_CHECKING:
    from resources.dagster_resources import ConfigFilesResource
    from resources.feeds.protocol import Feed
    from resources.lake import Lake, Partition
    from resources.ledger.store import Ledger

DETAILED_SESSIONS = 250
"""Newest sessions of a run that get metadata of their own (rows, content hash). Dagster checks every addition against
the whole range, which makes more of them cost minutes in a run over a whole history; the lake's manifest has them all."""
PLOTTED_BARS = 120


@dataclass
class Outcome:
    """What one run read and wrote. failed: symbol -> why it could not be read.

    put_aside: symbol -> rows in quarantine, unresolved. resolved: rows that entered or stayed out as an operator decided.
    voided: decisions of operators that are void because the source tells their row otherwise now. changed: how many
    partitions hold other bars than before.
    """

    start: date
    end: date
    written: dict[str, Bars] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    put_aside: dict[str, list[InvalidRow]] = field(default_factory=dict)
    resolved: int = 0
    voided: list[str] = field(default_factory=list)
    changed: int = 0
    origin: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    partitions: list[Partition] = field(default_factory=list)
    read_seconds: float = 0.0
    write_seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(len(b) for b in self.written.values())


class BarsRun:
    """Reads and writes the bars of one timeframe. The universe is read at the start of the run."""

    def __init__(
        self,
        config_files: ConfigFilesResource,
        lake: Lake,
        timeframe: Timeframe,
        *,
        ledger: Callable[[], Ledger] | None = None,
        run_id: str = "",
    ) -> None:
        """ledger: where the quarantine is and changes are noted; asked for when needed. Without one, a source with invalid
        rows is refused: there is nowhere to keep them."""
        self.universe = config_files.load().universe
        self.run_id = run_id
        self._books = Books(ledger)
        self.timeframe = timeframe
        self.dataset = f"bars_{timeframe}"
        self._files = config_files
        self._lake = lake

    def ingest(self, start_key: str, end_key: str, symbols: Iterable[str] | None = None) -> Outcome:
        """Bring the sessions [start_key, end_key] (ISO dates) of the symbols (default: all) into the lake.

        A bad symbol never stops the others. Raises LakeError when the lake refuses the write itself, and sqlalchemy's
        OperationalError when the ledger cannot be told of a change: run it again.
        """
        outcome = Outcome(date.fromisoformat(start_key), date.fromisoformat(end_key))
        began = time.perf_counter()
        by_source: dict[str, dict[str, Bars]] = {}
        read_from = self._books.now()
        wanted = None if symbols is None else set(symbols)
        for symbol, instrument in self.universe.instruments.items():
            source = self.source_of(instrument)
            if not source or (wanted is not None and symbol not in wanted):
                continue
            try:
                bars = self._read(instrument, outcome)
            except Exception as error:  # noqa: BLE001 - a feed's surprise is this symbol's failure, named, not the others'
                outcome.failed[symbol] = _why(error)
                continue
            outcome.origin[symbol] = source
            by_source.setdefault(source, {})[symbol] = bars
        outcome.read_seconds = time.perf_counter() - began
        began = time.perf_counter()
        for source, group in by_source.items():
            self._write(outcome, source, group, read_from)
        outcome.write_seconds = time.perf_counter() - began
        return outcome

    def fill(self, instrument: Instrument, sessions: Sequence[date]) -> tuple[dict[date, int], dict[date, int]]:
        """Ask the source once for the span of `sessions` and write those of them to which it adds bars.

        Returns (session -> bars the source has, session -> bars added). A session of which the source tells less than the
        lake holds is left as it is. Raises FeedError, LakeError, sqlalchemy's OperationalError.
        """
        outcome = Outcome(min(sessions), max(sessions))
        read_from = self._books.now()
        feed = self._files.feed(instrument.feed)
        bars = self._screened(feed, instrument, *history(feed, instrument, self.timeframe, outcome.start, outcome.end), outcome)
        numbers, counts = np.unique(bars.session, return_counts=True)
        received = {session_date(int(n)): int(c) for n, c in zip(numbers, counts, strict=True)}
        held = self._lake.read_bars(self.dataset, instrument.symbol, outcome.start, outcome.end)
        added = {session_date(n): count for n, count in new_sessions(held, bars).items() if session_date(n) in set(sessions)}
        between = calendar(instrument.calendar).sessions(outcome.start, outcome.end)
        for first, last in _runs([day in added for day in between]):
            part = Outcome(between[first], between[last])
            inside = (bars.session >= session_number(part.start)) & (bars.session <= session_number(part.end))
            self._write(part, instrument.feed, {instrument.symbol: bars.rows(inside)}, read_from)
        return received, added

    def source_of(self, instrument: Instrument) -> str:
        """Where this timeframe of the instrument comes from: a feed, ``derived:bars_1m``, or "" when it has none."""
        native = instrument.native_timeframe
        if native is self.timeframe:
            return instrument.feed
        whole = native.minutes < self.timeframe.minutes and not (
            self.timeframe.intraday and self.timeframe.minutes % native.minutes
        )
        return f"derived:bars_{native}" if whole else ""

    def _write(self, outcome: Outcome, source: str, group: dict[str, Bars], read_from: int | None) -> None:
        """Replace the group's partitions and, where that changes what others were made of, tell the ledger."""
        start, end = outcome.start, outcome.end
        ledger = self._books.ledger()
        if ledger is not None and read_from is not None:
            reason = f"ingested from {source}"
            partitions, noted = replace_bars(
                ledger, self._lake, self.universe, self.dataset, group, start=start, end=end, source=source,
                run_id=self.run_id, reason=reason, before=read_from, reasons=self._decided(ledger, group, start, end, reason),
            )  # fmt: skip
            outcome.changed += len(noted.changes)
        else:
            if changed_by(self._lake, self.dataset, group, start, end):
                self._books.ledger(needed=f"{self.dataset}: partitions would change that others are made of")
            partitions = self._lake.write_bars(
                self.dataset, group, start=start, end=end, source=source, instruments=self.universe.instruments
            )
        outcome.partitions += partitions
        outcome.written.update(group)

    def _decided(
        self, ledger: Ledger, symbols: Iterable[str], start: date, end: date, reason: str
    ) -> dict[tuple[str, date], str]:
        """(symbol, session) -> why it is written where an operator's decision about a row is newer than what the lake holds."""
        natives: dict[Timeframe, list[str]] = {}
        for symbol in symbols:
            natives.setdefault(self.universe.instruments[symbol].native_timeframe, []).append(symbol)
        book, first = Quarantine(ledger.engine), start
        if self.timeframe is Timeframe.W1:
            first = session_date(session_number(start) - start.weekday())
        found = [d for native, own in natives.items() for d in book.decisions(f"bars_{native}", own, first, end)]
        if not found:
            return {}
        held = {(p.symbol, p.session): p.written_wall for p in self._lake.partitions(self.dataset, start, end, symbols)}
        words: dict[tuple[str, date], list[str]] = {}
        for one in found:
            venue = calendar(self.universe.instruments[one.symbol].calendar)
            key = one.symbol, session_date(derived_session(session_number(one.session), self.timeframe, venue))
            if one.wall > held.get(key, 0):
                words.setdefault(key, []).append(one.words)
        return {key: f"{'; '.join(said)}, {reason}" for key, said in words.items()}

    def _read(self, instrument: Instrument, outcome: Outcome) -> Bars:
        native = instrument.native_timeframe
        if native is not self.timeframe:
            return self._derive(instrument, outcome.start, outcome.end)
        feed = self._files.feed(instrument.feed)
        bars, places = history(feed, instrument, native, outcome.start, outcome.end)
        self._note_left_out(feed, instrument, outcome)
        return self._screened(feed, instrument, bars, places, outcome)

    def _screened(self, feed: Feed, instrument: Instrument, bars: Bars, places: Mapping[int, str], outcome: Outcome) -> Bars:
        """The rows that may enter the lake; the others are in quarantine when this returns. places: row of `bars` -> file and
        line, where the feed says it."""
        regular = bool(getattr(feed.capabilities(), "regular_hours", True))
        valid, invalid = screen(bars, calendar(instrument.calendar), regular_hours=regular, floor=instrument.price_floor)
        ledger = self._books.ledger(needed=f"{len(invalid)} rows fail validity ({summary(invalid)})" if invalid else "")
        if ledger is None:
            return valid
        screened = Quarantine(ledger.engine).ingest(
            instrument.feed, self.dataset, valid, invalid, outcome.start, outcome.end, run_id=self.run_id,
            places=places if invalid else None,
        )  # fmt: skip
        if screened.put_aside:
            outcome.put_aside[instrument.symbol] = screened.put_aside
        outcome.resolved += len(screened.entered) + len(screened.left)
        outcome.voided += screened.voided
        return screened.bars

    def _note_left_out(self, feed: Feed, instrument: Instrument, outcome: Outcome) -> None:
        """File feeds say which records became no bar and why; those inside a session are written down."""
        inside: list[LeftOutRecord] = []
        venue = calendar(instrument.calendar)
        for record in getattr(feed, "left_out", ()):
            if record.symbol not in {instrument.symbol, *tickers(instrument)}:
                continue
            entry = (record.symbol, record.where, record.reason)
            if entry not in outcome.left_out:
                outcome.left_out.append(entry)
            close_time = getattr(record, "close_time", None)
            if close_time is None:
                continue
            session = int(venue.session_of(np.array([close_time], np.int64))[0])
            if session_number(outcome.start) <= session <= session_number(outcome.end):
                inside.append(LeftOutRecord(instrument.symbol, session, close_time, record.where, record.reason))
        ledger = self._books.ledger() if inside else None
        if ledger is not None:
            Quarantine(ledger.engine).note_left_out(instrument.feed, self.dataset, inside, run_id=self.run_id)

    def _derive(self, instrument: Instrument, start: date, end: date) -> Bars:
        """Complete bars of the timeframe in [start, end], from the native ones in the lake."""
        venue = calendar(instrument.calendar)
        first = start
        if self.timeframe is Timeframe.W1:
            # A weekly bar belongs to its last session and is made of the whole week before it.
            first = session_date(session_number(start) - start.weekday())
        native = self._lake.read_bars(f"bars_{instrument.native_timeframe}", instrument.symbol, first, end)
        made = resample(native, self.timeframe, venue, known_until=self._known_until(instrument, end))
        return made.rows(made.session >= session_number(start))

    def _known_until(self, instrument: Instrument, end: date) -> int:
        """Close of the last session up to `end`; in a live universe never later than now."""
        venue = calendar(instrument.calendar)
        at = int((venue.number <= session_number(end)).sum()) - 1
        closed = int(venue.close_time[at]) if at >= 0 else 0
        now = market_now(self.universe)
        return closed if now is None else min(closed, now)

    def report(self, context: dg.AssetExecutionContext, outcome: Outcome) -> dg.MaterializeResult:
        """Metadata of the run: per newest session its rows and hashes; tables and plot with the last session."""
        keys = context.partition_keys
        by_session = {
            session.isoformat(): list(parts)
            for session, parts in groupby(sorted(outcome.partitions, key=lambda p: (p.session, p.symbol)), lambda p: p.session)
        }
        for key in keys[-DETAILED_SESSIONS:]:
            context.add_asset_metadata(_session_metadata(by_session.get(key, [])), partition_key=key)
        context.add_asset_metadata(self._run_metadata(outcome), partition_key=keys[-1])
        context.log.info(
            f"{self.dataset}: {outcome.rows} rows of {len(outcome.written)} symbols, {len(outcome.partitions)} partitions, "
            f"read {outcome.read_seconds:.2f} s, written {outcome.write_seconds:.2f} s"
        )
        # Shared by every session's event of the run: kept small. The hash of one session is its data version.
        shared: dict[str, Any] = {
            "sessions": f"{keys[0]} to {keys[-1]}", "universe_revision": self.universe.revision,
            "simulated": self.universe.simulated,
        }  # fmt: skip
        version = dg.DataVersion(partitions_hash(by_session.get(keys[0], []))) if len(keys) == 1 else None
        return dg.MaterializeResult(metadata=shared, data_version=version)

    def _run_metadata(self, outcome: Outcome) -> dict[str, Any]:
        filled = {s: b for s, b in outcome.written.items() if len(b)}
        seconds = max(outcome.read_seconds + outcome.write_seconds, 1e-9)
        header = ["symbol", "source", "rows", "sessions", "first close", "last close", "last price"]
        sessions: dict[str, int] = {}
        for part in outcome.partitions:
            sessions[part.symbol] = sessions.get(part.symbol, 0) + 1
        rows = [
            [s, outcome.origin[s], len(b), sessions.get(s, 0), iso(int(b.close_time[0])), iso(int(b.close_time[-1])),
             float(b.close[-1])] if len(b) else [s, outcome.origin[s], 0, 0, "", "", None]
            for s, b in outcome.written.items()
        ]  # fmt: skip
        metadata: dict[str, Any] = {
            "dagster/row_count": outcome.rows,
            "dagster/uri": (self._lake.root / self.dataset).as_uri(),
            "dagster/table_name": self.dataset,
            "symbols": dg.MetadataValue.md(markdown_table(header, rows)),
            "source": ", ".join(sorted(set(outcome.origin.values()))),
            "bars_per_second": round(outcome.rows / seconds),
            "content_hashes": dg.MetadataValue.md(_hash_table(outcome.partitions)),
        }
        if filled:
            metadata["first_close"] = iso(min(int(b.close_time[0]) for b in filled.values()))
            metadata["last_close"] = iso(max(int(b.close_time[-1]) for b in filled.values()))
            metadata["plot"] = self._plot(filled, outcome.end)
        mixed = [[symbol, day] for symbol, bars in filled.items() for day in self._mixed_weeks(bars)]
        if mixed:
            metadata["mixed_levels"] = dg.MetadataValue.md(
                markdown_table(["symbol", "session"], mixed, 50)
                + "\n\nWeeks with a split inside, as traded: prices of both levels. What reads them adjusted takes the week's "
                "shorter bars instead."
            )
        if outcome.put_aside:
            aside = [
                [f"{self.dataset}/{session_date(r.session)}/{symbol}", iso(r.close_time), ", ".join(r.reasons),
                 " ".join(f"{k}={v}" for k, v in r.values)]
                for symbol, put_aside in outcome.put_aside.items() for r in put_aside
            ]  # fmt: skip
            metadata["quarantined"] = len(aside)
            metadata["quarantined_rows"] = dg.MetadataValue.md(
                markdown_table(["partition", "close", "fails", "as received"], aside, 50)
                + "\n\n`tapeline quality quarantine list` shows them; trading on these partitions is refused until they are "
                "accepted, repaired or discarded."
            )
        if outcome.resolved:
            metadata["resolved_rows"] = outcome.resolved
        if outcome.voided:
            metadata["voided_resolutions"] = dg.MetadataValue.md(markdown_table(["void"], [[v] for v in outcome.voided], 50))
        if outcome.changed:
            metadata["changed_partitions"] = outcome.changed
        if outcome.left_out:
            table = markdown_table(["symbol", "where", "why"], outcome.left_out, 50)
            metadata["left_out"] = len(outcome.left_out)
            metadata["records_left_out"] = dg.MetadataValue.md(table)
        return metadata

    def _mixed_weeks(self, bars: Bars) -> list[str]:
        try:
            return mixed_weeks(self._lake, bars)
        except LakeError:  # its own check says so
            return []

    def _plot(self, filled: Mapping[str, Bars], end: date) -> dg.MarkdownMetadataValue:
        """The newest bars the lake has up to `end`: one session alone would show a single point of a daily bar."""
        from assets.market_plots import bar_panels

        shown: list[Bars] = []
        for symbol, bars in filled.items():
            if len(bars) < PLOTTED_BARS:
                try:
                    bars = self._lake.read_bars(self.dataset, symbol, None, end)
                except LakeError:  # an older file is torn: its check says so, the plot shows what this run wrote
                    bars = filled[symbol]
            shown.append(bars.rows(slice(max(0, len(bars) - PLOTTED_BARS), None)))
        return image(bar_panels(shown), f"newest bars of {self.dataset}")


def new_sessions(held: Bars, got: Bars) -> dict[int, int]:
    """Sessions of `got` that have bars `held` lacks and lack none that it has -> how many bars they add.

    Where the source tells less than is held, what is held stays: filling adds, it never takes away.
    """
    out: dict[int, int] = {}
    for number in np.unique(got.session).tolist():
        new, old = got.close_time[got.session == number], held.close_time[held.session == number]
        added = int((~np.isin(new, old)).sum())
        if added and bool(np.isin(old, new).all()):
            out[int(number)] = added
    return out


def _runs(wanted: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last index of every unbroken run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(wanted, np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def partitions_hash(partitions: Iterable[Partition]) -> str:
    """One hash of a session's partitions: SHA-256 over symbol and content hash, by symbol."""
    digest = hashlib.sha256()
    for part in sorted(partitions, key=lambda p: p.symbol):
        digest.update(f"{part.symbol}={part.content_hash}\n".encode())
    return digest.hexdigest()


def _session_metadata(partitions: Sequence[Partition]) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": sum(p.rows for p in partitions),
        "symbol_count": len(partitions),
        "content_hash": partitions_hash(partitions) if partitions else "",
        "hashes": " ".join(f"{p.symbol}={p.content_hash[:12]}" for p in partitions),
    }


def _hash_table(partitions: Sequence[Partition]) -> str:
    """The hashes of the newest session, in full: what a decision taken on them refers to."""
    if not partitions:
        return "none"
    last = max(p.session for p in partitions)
    rows = [
        [f"{p.dataset}/{p.session}/{p.symbol}", p.rows, iso(p.last_close_time), p.content_hash]
        for p in partitions
        if p.session == last
    ]
    return markdown_table(["partition", "rows", "last close", "content hash"], rows)


def _why(error: Exception) -> str:
    text = str(error).replace("\n", " ")
    return text if text and type(error).__module__.startswith(("resources", "assets")) else f"{type(error).__name__}: {text}"
