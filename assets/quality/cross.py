"""Cross-source agreement: the newest sessions of an instrument that names a second feed, compared with that feed's bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from assets.quality.history import Judged, JudgedPartition
from resources.feeds.protocol import Feed, FeedError
from trading.bars import Bars
from trading.cross_source import Agreement, compare
from trading.instruments import Instrument
from trading.quality import ERROR, WARN, RuleResult
from trading.quality_thresholds import QualityThresholds
from trading.timeframes import Timeframe, iso, session_number
from trading.universe import Universe

CROSS_SOURCE = "cross_source"
COMPARED_SESSIONS = 20
"""Newest sessions of a run that are compared: a second source may count every request."""
NAMED_BARS = 3


@dataclass
class Compared:
    """What was compared. sessions: symbol -> how many both have. failed: symbol -> why the second source did not answer.

    rows: (session, symbol, second feed, paired, disagreeing, only here, only there, widest in ticks).
    """

    sessions: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[object, ...]] = field(default_factory=list)


def compare_sources(judged: Judged, universe: Universe, feed_of: Callable[[str], Feed]) -> Compared:
    """Add the verdict ``cross_source`` to the partitions of `judged` that a second source covers."""
    timeframe = Timeframe(judged.dataset.removeprefix("bars_"))
    out = Compared()
    for symbol in sorted({p.symbol for p in judged.partitions}):
        instrument = universe.instruments[symbol]
        if not instrument.second_feed or instrument.native_timeframe is not timeframe:
            continue
        mine = sorted((p for p in judged.partitions if p.symbol == symbol and len(p.bars)), key=lambda p: p.session)
        mine = mine[-COMPARED_SESSIONS:]
        if not mine:
            continue
        other = replace(instrument, feed=instrument.second_feed, feed_symbol=instrument.second_feed_symbol)
        try:
            bars = feed_of(other.feed).history(other, timeframe, mine[0].session, mine[-1].session)
        except FeedError as error:
            out.failed[symbol] = str(error)
            continue
        limits = universe.quality.of(instrument.asset_class, timeframe)
        judged.partitions = [
            _with_verdict(part, bars, instrument, limits, out) if part in mine else part for part in judged.partitions
        ]
    return out


def _with_verdict(
    part: JudgedPartition, second: Bars, instrument: Instrument, limits: QualityThresholds, out: Compared
) -> JudgedPartition:
    there = second.rows(second.session == session_number(part.session))
    found = compare(
        part.bars, there, tick_size=float(instrument.tick_size), price_ticks=limits.cross_price_ticks,
        price_percent=limits.cross_price_percent, volume_percent=limits.cross_volume_percent,
    )  # fmt: skip
    if not found.paired:
        return part  # the second source does not cover it: nothing can be said
    out.sessions[part.symbol] = out.sessions.get(part.symbol, 0) + 1
    out.rows.append(
        (part.session, part.symbol, instrument.second_feed, found.paired, len(found.rows), found.only_first, found.only_second,
         f"{found.widest:.1f}")
    )  # fmt: skip
    return replace(part, extra=(*part.extra, verdict(found, part.bars, there, limits)))


def verdict(found: Agreement, first: Bars, second: Bars, limits: QualityThresholds) -> RuleResult:
    """The check's verdict: error above cross_error_share of disagreeing bars, warning above cross_warn_share."""
    if found.share <= limits.cross_warn_share:
        return RuleResult(CROSS_SOURCE, True, WARN)
    severity = ERROR if found.share > limits.cross_error_share else WARN
    at = {int(t): i for i, t in enumerate(second.close_time)}
    named = "; ".join(
        f"{iso(int(first.close_time[r]))} {first.close[r]:.10g} here, {second.close[at[int(first.close_time[r])]]:.10g} there"
        for r in found.rows[:NAMED_BARS]
    )
    more = "; ..." if len(found.rows) > NAMED_BARS else ""
    text = (
        f"{len(found.rows)} of {found.paired} bars disagree with the second source ({named}{more}), widest {found.widest:.1f} "
        f"ticks (allowed: {limits.cross_price_ticks:g} ticks or {limits.cross_price_percent:g} %, a share of "
        f"{limits.cross_warn_share:g}); {found.only_first} bars only here, {found.only_second} only there"
    )
    return RuleResult(CROSS_SOURCE, False, severity, found.rows, text)
