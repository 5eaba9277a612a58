"""Recomputing what is stale: exactly the marked partitions, bars before features, and the marks go.

Whatever is recomputed is what a lake built anew from the same native bars would hold, hash for hash: the same code makes
it, from the same anchors. Sessions that are open at the desk are left to the desk, which writes their bars itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from assets.quality.history import judge_dataset
from assets.quality.verdicts import record
from resources.changes import replace_bars, settle_announced, settle_range
from resources.ledger import changes as book
from resources.ledger.changes import Key, StaleMark
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.dependents import BARS, FEATURES, derives
from trading.resample import resample
from trading.timeframes import Timeframe, session_date, session_number

if TYPE_CHECKING:
    from resources.lake import Lake, Partition
    from resources.ledger.store import Ledger
    from trading.instruments import Instrument
    from trading.universe import Universe

ANNOUNCED_PATIENCE_SECONDS = 600.0
"""A write that was announced this long ago and never noted is looked into: its writer has died."""


@dataclass
class Recomputed:
    """What one pass did. partitions: rewritten or found as they were, marks gone; changed: those with other content now.

    left: mark -> why it still stands. verdicts: how many were recorded anew.
    """

    partitions: list[Partition] = field(default_factory=list)
    changed: list[Key] = field(default_factory=list)
    left: dict[Key, str] = field(default_factory=dict)
    verdicts: int = 0
    seconds: float = 0.0


def recompute(ledger: Ledger, lake: Lake, universe: Universe, *, run_id: str) -> Recomputed:
    """Recompute every stale partition. One that cannot be made stays marked, with the reason, and stops no other.

    Raises sqlalchemy's OperationalError while the ledger is away.
    """
    began = time.perf_counter()
    done = Recomputed()
    patience = time.time_ns() // 1000 - int(ANNOUNCED_PATIENCE_SECONDS * 1e6)
    settle_announced(ledger, before_wall=patience, universe=universe, lake=lake)
    # Recomputed bars mark the features made of them: bars first, then what is marked by then.
    for kind in (BARS, FEATURES):
        for (dataset, symbol), marks in _grouped(m for m in book.stale(ledger.engine) if m.dataset.startswith(kind)):
            _recompute_symbol(ledger, lake, universe, dataset, symbol, marks, run_id, done)
    done.seconds = time.perf_counter() - began
    return done


def open_sessions(ledger: Ledger) -> set[str]:
    """Sessions whose bars the desk is writing."""
    return {str(row["session"]) for row in ledger.sessions(state="open")}


def _grouped(marks: Iterable[StaleMark]) -> list[tuple[tuple[str, str], list[StaleMark]]]:
    groups: dict[tuple[str, str], list[StaleMark]] = {}
    for mark in marks:
        groups.setdefault((mark.dataset, mark.symbol), []).append(mark)
    return sorted(groups.items(), key=lambda item: (Timeframe(item[0][0].split("_")[1]).minutes, item[0]))


def _recompute_symbol(
    ledger: Ledger, lake: Lake, universe: Universe, dataset: str, symbol: str, marks: list[StaleMark], run_id: str,
    done: Recomputed,
) -> None:  # fmt: skip
    instrument = universe.instruments.get(symbol)
    timeframe = Timeframe(dataset.split("_")[1])
    if instrument is None:
        done.left.update({m.key: f"{symbol} is not in the universe {universe.name} any more" for m in marks})
        return
    if dataset.startswith(BARS) and not derives(instrument.native_timeframe, timeframe):
        native = instrument.native_timeframe
        done.left.update({m.key: f"{timeframe} bars of {symbol} are not made of its {native} bars: ingest them" for m in marks})
        return
    live = open_sessions(ledger)
    done.left.update({m.key: "the session is open: the desk writes it" for m in marks if m.session in live})
    venue = calendar(instrument.calendar)
    for first, last in _stretches([m for m in marks if m.session not in live], venue):
        span = [m for m in marks if first <= date.fromisoformat(m.session) <= last]
        try:
            if dataset.startswith(BARS):
                made = _bars(ledger, lake, universe, instrument, timeframe, first, last, _reason(span), run_id, done)
            else:
                made = _features(ledger, lake, instrument, timeframe, venue, first, last)
        except Exception as error:  # noqa: BLE001 - this stretch stays marked and says why; the others are made
            done.left.update({m.key: f"{type(error).__name__}: {error}" for m in span})
            continue
        before = {m.key: m.content_hash for m in span}
        now = {(p.dataset, p.session.isoformat(), p.symbol): p.content_hash for p in made}
        done.partitions += made
        done.changed += [key for key, content in before.items() if now.get(key, "") != content]


def _bars(
    ledger: Ledger, lake: Lake, universe: Universe, instrument: Instrument, timeframe: Timeframe, first: date, last: date,
    reason: str, run_id: str, done: Recomputed,
) -> list[Partition]:  # fmt: skip
    before = book.database_now(ledger.engine)
    dataset = f"{BARS}{timeframe}"
    made = derive(lake, universe, instrument, timeframe, first, last)
    partitions, _ = replace_bars(
        ledger, lake, universe, dataset, {instrument.symbol: made}, start=first, end=last,
        source=f"derived:bars_{instrument.native_timeframe}", run_id=run_id, reason=reason, before=before,
    )  # fmt: skip
    now = None if universe.simulated else time.time_ns() // 1000
    judged = judge_dataset(lake, universe, dataset, [instrument.symbol], first, last, now=now)
    done.verdicts += record(ledger, judged, run_id)
    return partitions


def derive(lake: Lake, universe: Universe, instrument: Instrument, timeframe: Timeframe, first: date, last: date) -> Bars:
    """Complete bars of `timeframe` of the sessions [first, last], made of the native ones in the lake."""
    venue = calendar(instrument.calendar)
    start = first
    if timeframe is Timeframe.W1:  # a weekly bar belongs to its last session and is made of the week before it
        start = session_date(session_number(first) - first.weekday())
    native = lake.read_bars(f"{BARS}{instrument.native_timeframe}", instrument.symbol, start, last)
    at = int((venue.number <= session_number(last)).sum()) - 1
    closed = int(venue.close_time[at]) if at >= 0 else 0
    known = closed if universe.simulated else min(closed, time.time_ns() // 1000)
    made = resample(native, timeframe, venue, known_until=known)
    return made.rows(made.session >= session_number(first))


def _features(
    ledger: Ledger, lake: Lake, instrument: Instrument, timeframe: Timeframe, venue: Calendar, first: date, last: date
) -> list[Partition]:
    from assets.features import compute_range
    from resources.lake import FeatureFrame
    from trading.features import FEATURES_VERSION, NAMES

    before = book.database_now(ledger.engine)
    symbol, dataset = instrument.symbol, f"{FEATURES}{timeframe}"
    bars, values = compute_range(lake, f"{BARS}{timeframe}", symbol, timeframe, venue, first, last)
    frame = FeatureFrame(symbol, NAMES, bars.close_time, bars.session, values, FEATURES_VERSION)
    partitions = lake.write_feature_frames(dataset, [frame], start=first, end=last)
    settle_range(ledger, dataset, [symbol], first, last, before=before)
    return partitions


def _stretches(marks: Iterable[StaleMark], venue: Calendar) -> Iterator[tuple[date, date]]:
    """First and last of sessions that follow each other in the calendar without an unmarked one between them."""
    days = sorted({date.fromisoformat(m.session) for m in marks})
    rows = [int(venue.number.searchsorted(session_number(day))) for day in days]
    start = 0
    for i in range(1, len(days) + 1):
        if i == len(days) or rows[i] > rows[i - 1] + 1:
            yield days[start], days[i - 1]
            start = i


def _reason(marks: list[StaleMark]) -> str:
    return f"recomputed: {marks[-1].because}"
