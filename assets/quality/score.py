"""Scorecards of what a run judged: computed, kept in the ledger, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from assets.quality.history import Judged, JudgedPartition
from assets.quality.verdicts import VERDICT_SESSIONS
from resources.ledger import scores as book
from resources.ledger.put_aside import OPEN
from resources.quarantine import Quarantine
from trading.instruments import Instrument
from trading.scorecard import DIMENSIONS, Scorecard, counts_of, mean, score
from trading.timeframes import US_PER_MINUTE, Timeframe
from trading.universe import Universe

if TYPE_CHECKING:
    from resources.ledger.store import Ledger

PLOTTED_SESSIONS = 250

Cards = dict[tuple[str, date], Scorecard]
"""(symbol, session) -> scorecard."""


def scorecards(judged: Judged, universe: Universe, ledger: Ledger) -> Cards:
    """The score of every partition judged."""
    timeframe = Timeframe(judged.dataset.removeprefix("bars_"))
    aside: dict[tuple[str, str], list[bool]] = {}
    for row in Quarantine(ledger.engine).rows(state=OPEN, dataset=judged.dataset):
        aside.setdefault((row["symbol"], row["session"]), []).append("monotonic_unique_times" in row["reasons"])
    arrived = _arrivals(judged, universe, ledger, timeframe)
    cards: Cards = {}
    for part in judged.partitions:
        limit = universe.quality.of(universe.instruments[part.symbol].asset_class, timeframe).late_minutes
        late, observed = _lateness(part, arrived.get(part.symbol, {}), limit)
        repeats = aside.get((part.symbol, part.session.isoformat()), [])
        rows = len(part.bars)
        cards[part.symbol, part.session] = score(
            counts_of(
                (*part.results, *part.extra),
                rows=rows,
                expected=part.gap.expected if part.gap is not None else rows,
                missing=part.gap.missing if part.gap is not None else 0,
                put_aside=len(repeats),
                repeated_aside=sum(repeats),
                late=late,
                observed=observed,
            )
        )
    return cards


def aim_of(universe: Universe, instrument: Instrument, timeframe: Timeframe) -> float:
    """Share of missing or wrong bars that a partition of it may have at most."""
    return universe.quality.of(instrument.asset_class, timeframe).fault_share_aim


def _arrivals(judged: Judged, universe: Universe, ledger: Ledger, timeframe: Timeframe) -> Mapping[str, Mapping[int, int]]:
    held = [p.bars.close_time for p in judged.partitions if len(p.bars)]
    if not held:
        return {}
    first, last = min(int(t[0]) for t in held), max(int(t[-1]) for t in held)
    real_clock = universe.history_end is None and not universe.simulated
    return book.arrivals(ledger.engine, str(timeframe), first, last, real_clock=real_clock)


def _lateness(part: JudgedPartition, arrived: Mapping[int, int], limit_minutes: float) -> tuple[int, int]:
    """(late, observed) bars of the partition. Between the first and last the desk saw, one it did not see was late."""
    if not arrived:
        return 0, 0
    limit = limit_minutes * US_PER_MINUTE
    delays = [arrived.get(int(t)) for t in part.bars.close_time]
    seen = [i for i, d in enumerate(delays) if d is not None]
    if not seen:
        return 0, 0
    between = delays[seen[0] : seen[-1] + 1]
    return sum(d is None or d > limit for d in between), len(between)


def record_scores(ledger: Ledger, judged: Judged, cards: Cards, run_id: str) -> int:
    """Write the scores of each symbol's newest sessions, and of every partition of any age that is not perfect."""
    said = book.known_scores(ledger.engine, judged.dataset, judged.start, judged.end)
    by_symbol: dict[str, list[JudgedPartition]] = {}
    for part in judged.partitions:
        by_symbol.setdefault(part.symbol, []).append(part)
    new: dict[book.Key, Scorecard] = {}
    for symbol, parts in by_symbol.items():
        for age, part in enumerate(sorted(parts, key=lambda p: p.session, reverse=True)):
            card = cards[symbol, part.session]
            key = (part.session.isoformat(), symbol, part.content_hash)
            values = tuple(float(getattr(card, name)) for name in DIMENSIONS)
            if said.get(key) != values and (age < VERDICT_SESSIONS or key in said or min(values) < 1.0):
                new[key] = card
    return book.put_scores(ledger.engine, judged.dataset, new, run_id=run_id)


def trend(cards: Cards, dataset: str, aim: float) -> bytes:
    """PNG: every dimension's mean over the symbols per session, newest PLOTTED_SESSIONS; the share of faults below."""
    from resources import plots

    sessions = sorted({session for _, session in cards})[-PLOTTED_SESSIONS:]
    by_session = {s: mean([c for (_, session), c in cards.items() if session == s]) for s in sessions}
    days = plots.utc(np.array([np.datetime64(s, "us").astype(np.int64) for s in sessions], np.int64))
    fig, (top, below) = plots.figure(9, 4.4, rows=2, sharex=True, height_ratios=[2, 1.3])
    marker = "o" if len(sessions) < 40 else None
    for i, name in enumerate(DIMENSIONS):
        line = [by_session[s][name] * 100 for s in sessions]
        top.plot(days, line, color=plots.SERIES[i], linewidth=1.3, label=name, marker=marker, markersize=3, zorder=9 - i)
    lowest = min(by_session[s][name] for s in sessions for name in DIMENSIONS) * 100
    top.set_ylim(min(lowest - (100 - lowest) * 0.1, 99.4), 100 + max((100 - lowest) * 0.06, 0.05))
    top.set_ylabel("%", fontsize=8, color=plots.MUTED)
    # Below the axes: inside, bad scores run through the names.
    top.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=len(DIMENSIONS), borderaxespad=0.2)
    plots.title(top, f"Quality of {dataset}, mean of {len({s for s, _ in cards})} symbols per session")
    faults = [by_session[s]["fault_share"] * 100 for s in sessions]
    below.plot(days, faults, color=plots.LOSS, linewidth=1.2, marker=marker, markersize=3)
    below.fill_between(days, faults, 0, color=plots.LOSS, alpha=0.12, linewidth=0)
    below.axhline(aim * 100, color=plots.INK, linewidth=0.9, linestyle="--")
    below.annotate(f"aim {aim:.1%}", (0.003, aim * 100), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    below.set_ylim(0, max(max(faults) * 1.15, aim * 200))
    below.set_ylabel("missing or wrong %", fontsize=8, color=plots.MUTED)
    plots.time_axis(below, 9)
    return plots.png(fig)


def table(cards: Cards, limit: int = 25) -> tuple[list[str], Sequence[Sequence[object]]]:
    """(header, rows): one row per symbol with its means, the worst partitions named."""
    header = ["symbol", "partitions", *DIMENSIONS, "missing or wrong", "worst session", "its lowest score"]
    rows = []
    for symbol in sorted({s for s, _ in cards}):
        mine = {session: c for (s, session), c in cards.items() if s == symbol}
        means = mean(list(mine.values()))
        worst = max(mine, key=lambda s: (mine[s].fault_share, -mine[s].lowest()[1], s))
        name, value = mine[worst].lowest()
        shown = [f"{means[d]:.4%}" for d in DIMENSIONS]
        rows.append([symbol, len(mine), *shown, f"{means['fault_share']:.4%}", worst, f"{name} {value:.2%}"])
    rows.sort(key=lambda r: -float(str(r[7]).rstrip("%")))
    return header, rows[:limit]
