"""Closed bars into the lake, and the quality verdict on every partition they touch.

What the operating system refuses for now (disk full) is raised, so that the close is repeated. What is wrong with one
symbol's partition (torn file, a bar told differently before) is written down as a failed verdict on that partition, and
the others go on: nothing is traded on it, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from desk.hot_bars import BarCache
from resources.lake import HotConflict, Lake, LakeError, LakeWriteFailed, Partition
from resources.ledger.store import VerdictRow
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.instruments import Instrument
from trading.quality import judge, trailing_rows
from trading.timeframes import Timeframe, iso, session_date
from trading.universe import Universe

log = structlog.get_logger("desk.hot_store")

HOT_CONFLICT: Final = "hot_conflict"
LAKE_READABLE: Final = "lake_readable"
JUDGED: Final = "judged"
FEED_LIVE: Final = "feed_live"
OWN_CHECKS: Final = (HOT_CONFLICT, LAKE_READABLE, JUDGED, FEED_LIVE)
"""Checks of the live path itself, beside the quality rules. Like those, one that failed refuses new risk."""

_EXAMPLES: Final = 5


class HotStore:
    """Appends closed bars to the lake and judges what it then holds."""

    def __init__(
        self,
        lake: Lake,
        cache: BarCache,
        source: Callable[[Instrument], str],
        trouble: Callable[[str], str],
        conflict: Callable[[str, str, str], str],
    ) -> None:
        """source: name written to the lake as where an instrument's bars came from. trouble: why a symbol's live feed
        cannot be relied on right now, empty when it can. conflict: what the ledger says of a bar of (dataset, session,
        symbol) told differently twice, empty when nothing or when it is settled."""
        self._lake = lake
        self._cache = cache
        self._source = source
        self._trouble = trouble
        self._conflict = conflict
        self._conflicts: dict[tuple[str, str, str], str] = {}

    def append_all(
        self, universe: Universe, dataset: str, session: int, parts: Sequence[Bars], until: int
    ) -> tuple[list[Partition], list[VerdictRow]]:
        """`append` for the symbols of one dataset that closed in one session: one commit of the lake for all of a source."""
        by_source: dict[str, list[Bars]] = {}
        for bars in parts:
            by_source.setdefault(self._source(universe.instruments[bars.symbol]), []).append(bars)
        day = session_date(session)
        stored: dict[str, list[Partition]] = {}
        for source, group in by_source.items():
            if len(group) > 1:
                try:
                    for one in self._lake.append_hot(dataset, day, group, source=source, instruments=universe.instruments):
                        stored.setdefault(one.symbol, []).append(one)
                except LakeWriteFailed:
                    raise
                except LakeError:
                    log.warning("close_stored_one_by_one", dataset=dataset)  # which tells whose bars are at fault
        held_now: dict[str, Bars] = {}
        try:
            held_now = self._lake.read_bars_of(dataset, dict.fromkeys(stored, day), day)
        except LakeError:
            stored.clear()  # one by one, which tells whose partition cannot be read
        partitions: list[Partition] = []
        verdicts: list[VerdictRow] = []
        for bars in parts:
            if bars.symbol in stored:
                partitions += stored[bars.symbol]
                verdicts += self._verdicts(universe, dataset, session, bars, held_now[bars.symbol].known_at(until), until, {})
            else:
                held, judged = self.append(universe, dataset, session, bars, until)
                partitions += held
                verdicts += judged
        return partitions, verdicts

    def append(
        self, universe: Universe, dataset: str, session: int, bars: Bars, until: int
    ) -> tuple[list[Partition], list[VerdictRow]]:
        """Write one symbol's closed bars of one session; give its partition and the verdicts on it as known at `until`.

        Raises LakeWriteFailed and OSError: nothing is wrong with the bars, the close must be repeated.
        """
        instrument = universe.instruments[bars.symbol]
        day = session_date(session)
        faults: dict[str, str] = {}
        partitions: list[Partition] = []
        held = bars
        try:
            try:
                partitions = self._lake.append_hot(
                    dataset, day, [bars], source=self._source(instrument), instruments=universe.instruments
                )
            except HotConflict as error:  # the stored bar stands
                faults[HOT_CONFLICT] = self._conflicts[dataset, day.isoformat(), bars.symbol] = str(error)
                partitions = self._lake.partitions(dataset, day, day, [bars.symbol])
            held = self._lake.read_bars(dataset, bars.symbol, day, day).known_at(until)
        except LakeWriteFailed:
            raise
        except LakeError as error:
            faults[LAKE_READABLE] = str(error)
        return partitions, self._verdicts(universe, dataset, session, bars, held, until, faults)

    def _verdicts(
        self, universe: Universe, dataset: str, session: int, bars: Bars, held: Bars, until: int, faults: dict[str, str]
    ) -> list[VerdictRow]:
        """Every check's verdict on the partition that `bars` were written to. held: what it holds as known at `until`; faults:
        what went wrong with it, by own check."""
        instrument = universe.instruments[bars.symbol]
        day = session_date(session).isoformat()
        name: dict[str, Any] = {"dataset": dataset, "session": day, "symbol": bars.symbol}
        if why := self._trouble(bars.symbol):
            faults.setdefault(FEED_LIVE, why)
        # A bar told differently twice is not settled by the next bar, nor by a restart: only other content of the partition
        # (the source's final bars) does that, and whoever stores it says so in the ledger.
        key = (dataset, day, bars.symbol)
        if self._conflicts.get(key, "not asked yet"):
            self._conflicts[key] = faults.get(HOT_CONFLICT) or self._conflict(*key)
        if self._conflicts[key]:
            faults.setdefault(HOT_CONFLICT, self._conflicts[key])
        content_hash = held.content_hash()
        verdicts: list[VerdictRow] = []
        try:
            verdicts = self._judge(universe, instrument, name, session, held, bars.timeframe, until, content_hash)
        except Exception as error:  # noqa: BLE001 - a rule that breaks must not stop the close; what it leaves open refuses
            faults[JUDGED] = f"{type(error).__name__}: {error}"
        for check in OWN_CHECKS:
            text = faults.get(check, "")
            verdicts.append(
                VerdictRow(
                    **name, check=check, passed=not text, severity="error", content_hash=content_hash,
                    failed_count=int(bool(text)), examples=({"message": text},) if text else (), run_id="desk", judged_time=until,
                )
            )  # fmt: skip
        for row in verdicts:
            if not row.passed:
                partition = f"{row.dataset}/{row.session}/{row.symbol}"
                log.warning("quality_failed", partition=partition, check=row.check, why=faults.get(row.check, ""))
        return verdicts

    def _judge(
        self,
        universe: Universe,
        instrument: Instrument,
        name: Mapping[str, Any],
        session: int,
        held: Bars,
        timeframe: Timeframe,
        until: int,
        content_hash: str,
    ) -> list[VerdictRow]:
        venue = calendar(instrument.calendar)
        thresholds = universe.quality.of(instrument.asset_class, timeframe)
        needed = trailing_rows(thresholds, timeframe, venue)
        trailing = self._trailing(instrument.symbol, timeframe, session, needed, until, venue)
        return [
            VerdictRow(
                **name, check=r.check, passed=bool(r.passed), severity=str(r.severity), content_hash=content_hash,
                failed_count=len(r.failed_rows), examples=_examples(held, r.failed_rows, r.message), run_id="desk",
                judged_time=until,
            )
            for r in judge(held, trailing, instrument, venue, thresholds, known_until=until)
        ]  # fmt: skip

    def _trailing(self, symbol: str, timeframe: Timeframe, session: int, count: int, until: int, venue: Calendar) -> Bars:
        """The last `count` bars before `session` (fewer where the lake holds fewer)."""
        at = venue.position(session)
        if timeframe.intraday:
            minutes = int(venue.close_time[at] - venue.open_time[at]) // 60_000_000
            sessions = -(-count // max(1, minutes // timeframe.minutes)) + 2
        else:
            sessions = count * (5 if timeframe is Timeframe.W1 else 1) + 5
        start = int(venue.number[max(0, at - sessions)])
        bars = self._cache.bars(symbol, timeframe, start, until)
        before = bars.rows(bars.session < session)
        return before.rows(slice(max(0, len(before) - count), len(before)))


def _examples(bars: Bars, rows: Sequence[int], message: str) -> tuple[dict[str, Any], ...]:
    """The first failing rows in plain values; numbers JSON cannot hold become text. The rule's words where it has none."""

    def plain(value: float) -> float | str:
        return float(value) if abs(value) < float("inf") else str(value)

    found: list[dict[str, Any]] = []
    for row in [int(r) for r in rows][:_EXAMPLES]:
        values: dict[str, Any] = {"row": row}
        if 0 <= row < len(bars):
            values["close_time"] = iso(int(bars.close_time[row]))
            values |= {n: plain(float(getattr(bars, n)[row])) for n in ("open", "high", "low", "close", "volume")}
        found.append(values)
    if message and (found or len(rows)):
        found.append({"message": message})
    return tuple(found)
