"""One symbol's sessions made anew outside a Dagster run: native bars from the source, those derived from them, verdicts.

What was computed from them beyond the bars (features, decisions) is marked stale by the write itself and recomputed by the
job ``recompute_stale``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from assets.bars_run import BarsRun, Outcome
from assets.market_data import timeframes_of
from assets.quality.history import judge_dataset
from assets.quality.known import Knowledge
from assets.quality.score import record_scores, scorecards
from assets.quality.verdicts import record
from resources.feeds.market_clock import market_now
from trading.calendars import calendar
from trading.dependents import derived_session
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_date, session_number
from trading.universe import Universe

if TYPE_CHECKING:
    from resources.dagster_resources import ConfigFilesResource
    from resources.lake import Lake
    from resources.ledger.store import Ledger


class RecomputeFailed(Exception):
    """The sessions could not be made anew; what was there stays. The message says why and what to do."""


@dataclass
class Recomputed:
    """datasets: (dataset, first, last, rows) written. failing: (dataset, session, check, what) of verdicts that stop trading.
    put_aside: rows of the source still in quarantine, unresolved."""

    datasets: list[tuple[str, date, date, int]] = field(default_factory=list)
    failing: list[tuple[str, date, str, str]] = field(default_factory=list)
    put_aside: int = 0


def recompute(
    config_files: ConfigFilesResource,
    lake: Lake,
    ledger: Ledger,
    symbol: str,
    first: date,
    last: date,
    *,
    run_id: str,
    native: bool = True,
) -> Recomputed:
    """Ingest the sessions [first, last] of `symbol` again (native False: only what is derived from them) and judge them.

    Raises RecomputeFailed, LakeError, and sqlalchemy's OperationalError while the ledger is away: repeat it then.
    """
    universe = config_files.load().universe
    instrument = universe.instruments.get(symbol)
    if instrument is None:
        raise RecomputeFailed(f"{symbol} is not in the universe {universe.name}: its partitions cannot be made anew")
    out = Recomputed()
    for timeframe in sorted(timeframes_of(universe), key=lambda t: t.minutes):
        run = BarsRun(config_files, lake, timeframe, ledger=lambda: ledger, run_id=run_id)
        if not run.source_of(instrument):
            continue
        end = last_of(instrument, timeframe, last)
        if native or timeframe is not instrument.native_timeframe:
            outcome = run.ingest(first.isoformat(), end.isoformat(), [symbol])
            _check(run.dataset, outcome)
            out.datasets.append((run.dataset, first, end, outcome.rows))
            out.put_aside += sum(len(rows) for rows in outcome.put_aside.values())
        out.failing += judge_again(universe, lake, ledger, run.dataset, symbol, first, end, run_id=run_id)
    return out


def judge_again(
    universe: Universe, lake: Lake, ledger: Ledger, dataset: str, symbol: str, first: date, last: date, *, run_id: str
) -> list[tuple[str, date, str, str]]:
    """Judge and score the sessions, write it down; gives what stops trading."""
    now = market_now(universe)
    judged = judge_dataset(lake, universe, dataset, [symbol], first, last, now=now, known_of=Knowledge(lake, ledger, now))
    record(ledger, judged, run_id)
    record_scores(ledger, judged, scorecards(judged, universe, ledger), run_id)
    return [
        (dataset, part.session, result.check, result.message)
        for part in judged.partitions
        for result in (*part.results, *part.extra)
        if not result.passed and result.severity == "error"
    ]


def last_of(instrument: Instrument, timeframe: Timeframe, session: date) -> date:
    """The session that bars of `timeframe` made of `session` belong to: for 1w the last one of its week."""
    if timeframe is not Timeframe.W1:
        return session
    try:
        return session_date(derived_session(session_number(session), timeframe, calendar(instrument.calendar)))
    except KeyError:
        return session


def _check(dataset: str, outcome: Outcome) -> None:
    for symbol, why in outcome.failed.items():
        raise RecomputeFailed(f"{dataset} {symbol}: {why}")
