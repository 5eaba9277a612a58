"""One run of a bars asset: read the source, write the lake, say what happened."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common import image, markdown_table
from resources.lake import LakeError
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, iso, session_date, session_number

if TYPE_CHECKING:
    from resources.dagster_resources import ConfigFilesResource
    from resources.lake import Lake, Partition

DETAILED_SESSIONS = 250
"""Newest sessions of a run that get metadata of their own (rows, content hash). Dagster checks every addition against
the whole range, which makes more of them cost minutes in a run over a whole history; the lake's manifest has them all."""
PLOTTED_BARS = 120


@dataclass
class Outcome:
    """What one run read and wrote. failed: symbol -> why it could not be read."""

    start: date
    end: date
    written: dict[str, Bars] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
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

    def __init__(self, config_files: ConfigFilesResource, lake: Lake, timeframe: Timeframe) -> None:
        self.universe = config_files.load().universe
        self.timeframe = timeframe
        self.dataset = f"bars_{timeframe}"
        self._files = config_files
        self._lake = lake

    def ingest(self, start_key: str, end_key: str) -> Outcome:
        """Bring the sessions [start_key, end_key] (ISO dates) into the lake. A bad symbol never stops the others.

        Raises LakeError when the lake refuses the write itself.
        """
        outcome = Outcome(date.fromisoformat(start_key), date.fromisoformat(end_key))
        began = time.perf_counter()
        by_source: dict[str, dict[str, Bars]] = {}
        for symbol, instrument in self.universe.instruments.items():
            native = instrument.native_timeframe
            if native is self.timeframe:
                source = instrument.feed
            elif native.minutes < self.timeframe.minutes and not (
                self.timeframe.intraday and self.timeframe.minutes % native.minutes
            ):
                source = f"derived:bars_{native}"
            else:
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
            outcome.partitions += self._lake.write_bars(
                self.dataset, group, start=outcome.start, end=outcome.end, source=source, instruments=self.universe.instruments
            )
            outcome.written.update(group)
        outcome.write_seconds = time.perf_counter() - began
        return outcome

    def _read(self, instrument: Instrument, outcome: Outcome) -> Bars:
        native = instrument.native_timeframe
        if native is not self.timeframe:
            return self._derive(instrument, outcome.start, outcome.end)
        feed = self._files.feed(instrument.feed)
        bars = feed.history(instrument, native, outcome.start, outcome.end)
        # File feeds say which records became no bar and why.
        for record in getattr(feed, "left_out", ()):
            entry = (record.symbol, record.where, record.reason)
            if record.symbol in (instrument.symbol, instrument.feed_symbol) and entry not in outcome.left_out:
                outcome.left_out.append(entry)
        return bars

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
        return closed if self.universe.simulated else min(closed, time.time_ns() // 1000)

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
        shared = {"sessions": f"{keys[0]} to {keys[-1]}", "universe_revision": self.universe.revision}
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
            "simulated": self.universe.simulated,
            "bars_per_second": round(outcome.rows / seconds),
            "content_hashes": dg.MetadataValue.md(_hash_table(outcome.partitions)),
        }
        if filled:
            metadata["first_close"] = iso(min(int(b.close_time[0]) for b in filled.values()))
            metadata["last_close"] = iso(max(int(b.close_time[-1]) for b in filled.values()))
            metadata["plot"] = self._plot(filled, outcome.end)
        if outcome.left_out:
            table = markdown_table(["symbol", "where", "why"], outcome.left_out, 50)
            metadata["left_out"] = len(outcome.left_out)
            metadata["records_left_out"] = dg.MetadataValue.md(table)
        return metadata

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
    return text if text and type(error).__module__.startswith("resources") else f"{type(error).__name__}: {text}"
