"""The trade lane without Dagster: bars at a close -> signals -> decisions -> the desk. Called by assets/trading.py.

Pure steps over what lake, ledger and config say; every row it writes is keyed by content, so that repeating a close
changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from resources.desk_client import DecisionReceipt, DeskClient
from resources.ledger.plans import has_entered
from resources.ledger.store import DecisionRow, Ledger
from trading import decisions as kernel
from trading.bars import Bars
from trading.calendars import calendar
from trading.features import FEATURES_VERSION
from trading.instruments import Instrument, Mode
from trading.signals import Decision, PartitionRef, Signal
from trading.strategy import Evaluable, signal_at
from trading.timeframes import Timeframe, session_date, session_number
from trading.windows import window_start

_RANK = {Mode.BACKTEST: 0, Mode.SHADOW: 1, Mode.ALERT: 2, Mode.PAPER: 3, Mode.LIVE: 4}


@dataclass
class Evaluated:
    """Outcome of evaluating one close: the signals, and why other evaluables were silent (name/symbol -> reason)."""

    signals: list[Signal] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


def effective_mode(evaluable: Evaluable, highest: str) -> Mode:
    """The evaluable's mode, never above the installation's."""
    ceiling = Mode(highest)
    return evaluable.mode if _RANK[evaluable.mode] <= _RANK[ceiling] else ceiling


def evaluables(config: Any) -> list[Evaluable]:
    """Strategies and plans, by name."""
    return [item for _, item in sorted({**config.strategies, **config.plans}.items())]


def window(
    lake: Any, evaluable: Evaluable, instrument: Instrument, session: date, known_at: int
) -> dict[Timeframe, Bars]:
    """The anchored windows of every timeframe `evaluable` reads, ending with the bars known at `known_at`."""
    venue = calendar(instrument.calendar)
    number = session_number(session)
    windows: dict[Timeframe, Bars] = {}
    for timeframe in evaluable.timeframes:
        start = window_start(number, timeframe, evaluable.warm_up.get(timeframe, 0), venue)
        bars = lake.read_bars(f"bars_{timeframe}", instrument.symbol, session_date(start), session)
        windows[timeframe] = bars.known_at(known_at)
    return windows


def needed_partitions(windows: Mapping[Timeframe, Bars], quality_sessions: int) -> tuple[PartitionRef, ...]:
    """The newest `quality_sessions` partitions of each timeframe, with the content hash of the rows known now."""
    refs: list[PartitionRef] = []
    for timeframe, bars in windows.items():
        sessions = sorted({int(n) for n in bars.session[-quality_sessions * 1440 :]}, reverse=True)[:quality_sessions]
        for number in sessions:
            rows = bars.rows(bars.session == number)
            refs.append(PartitionRef(f"bars_{timeframe}", session_date(number).isoformat(), bars.symbol, rows.content_hash()))
    return tuple(refs)


def evaluate_close(close_time: int, session: str, config: Any, lake: Any, ledger: Ledger, highest_mode: str) -> Evaluated:
    """Signals of every active strategy and plan whose primary timeframe closed a bar at `close_time` (UTC us)."""
    outcome = Evaluated()
    day = date.fromisoformat(session)
    for evaluable in evaluables(config):
        if evaluable.status != "active":
            outcome.silent[evaluable.name] = f"status {evaluable.status}"
            continue
        if evaluable.once and has_entered(ledger.engine, evaluable.name):
            outcome.silent[evaluable.name] = "the plan has entered already"
            continue
        for symbol in evaluable.symbols:
            instrument = config.universe.instruments[symbol]
            windows = window(lake, evaluable, instrument, day, close_time)
            primary = windows[evaluable.timeframe]
            if len(primary) == 0 or int(primary.close_time[-1]) != close_time:
                continue
            evaluation = evaluable.evaluate(windows, instrument)
            row = len(primary) - 1
            if not evaluation.ready[row]:
                outcome.silent[f"{evaluable.name}/{symbol}"] = f"warm-up: {len(primary)} bars of {evaluable.timeframe}"
                continue
            signal = signal_at(
                evaluable, evaluation, row, primary, instrument,
                features_version=FEATURES_VERSION,
                partitions=needed_partitions(windows, evaluable.quality_sessions),
                mode=str(effective_mode(evaluable, highest_mode)),
            )  # fmt: skip
            if signal is None:
                outcome.silent[f"{evaluable.name}/{symbol}"] = "no entry condition met"
            else:
                outcome.signals.append(signal)
    return outcome


def close_times_of(session: str, ledger: Ledger, lake: Any, config: Any) -> list[int]:
    """Every bar close of `session` at which some strategy or plan has a primary bar, ascending."""
    recorded = [int(row["close_time"]) for row in ledger.closes(session=session)]
    if recorded:
        return recorded
    day = date.fromisoformat(session)
    found: set[int] = set()
    for evaluable in evaluables(config):
        for symbol in evaluable.symbols:
            bars = lake.read_bars(f"bars_{evaluable.timeframe}", symbol, day, day)
            found.update(int(t) for t in bars.close_time)
    return sorted(found)


def decide(signals: Iterable[Signal], config: Any, ledger: Ledger, now_time: int) -> list[DecisionRow]:
    """Decisions with the snapshots they were taken on. The snapshot is all that decide() reads, so that it replays.

    A signal whose strategy or instrument is no longer in the configuration is judged without a reward-to-risk limit,
    which the gate refuses as missing; without its instrument it gets no decision at all, hence no order.
    """
    by_name = {e.name: e for e in evaluables(config)}
    made: list[DecisionRow] = []
    for signal in signals:
        evaluable = by_name.get(signal.strategy)
        instrument = config.universe.instruments.get(signal.symbol)
        if instrument is None:
            continue
        snapshot = kernel.build_snapshot(
            signal,
            instrument=instrument,
            mode=signal.mode,
            verdicts=[v.snapshot() for v in ledger.verdicts(signal.partitions)],
            required=signal.partitions,
            warm=True,
            now_time=now_time,
            session_open=_closes_in_session(calendar(instrument.calendar), signal.close_time),
            min_reward_to_risk=evaluable.min_reward_to_risk if evaluable is not None else math.nan,
        )
        outcome = kernel.decide(snapshot)
        made.append(DecisionRow(kernel.decision_of(snapshot, outcome), snapshot, outcome))
    return made


def _closes_in_session(venue: Any, close_time: int) -> bool:
    """Does the bar close inside (or at the end of) a session? Its order then works from the next open."""
    import numpy as np

    return int(venue.session_of(np.array([close_time], np.int64))[0]) >= 0


def post(decisions: Iterable[Decision], desk: DeskClient, close_time: int) -> list[DecisionReceipt]:
    """Hand approved decisions to the desk. Raises what the client raises: an unreachable desk fails the run, clearly."""
    return [desk.submit_decision(decision, close_time) for decision in decisions if decision.approved]


def undecided(ledger: Ledger, close_time: int) -> list[Signal]:
    """Signals of a close that have no decision yet."""
    decided = {row["signal_id"] for row in ledger.decisions(close_time=close_time)}
    return [Signal.from_dict(row["content"]) for row in ledger.signals(close_time=close_time) if row["id"] not in decided]


def decisions_of(ledger: Ledger, *, close_time: int | None = None, session: str | None = None) -> list[Decision]:
    """Decisions of a close or a session, rebuilt from their stored snapshots and outcomes."""
    rows = ledger.decisions(close_time=close_time, session=session)
    return [kernel.decision_of(bytes(row["snapshot"]), bytes(row["outcome"])) for row in rows]
