"""Gate analytics without Dagster: of the history in the lake, and of the decisions on record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from assets.research_run import NotRun, Prepared
from resources.ledger.store import Ledger
from trading.gate_report import GateReport, Outcomes, each_alone, gate_report, outcomes
from trading.signals import Signal

HISTORY_HEADER: Final = (
    "strategy", "gate", "wishes", "refused", "first", "alone", "each: trades", "winners", "mean R", "sum R", "free: trades",
    "mean R", "sum R", "trades without", "net without",
)  # fmt: skip
RECORD_HEADER: Final = (
    "strategy", "gate", "code", "refused", "traded alone", "open", "winners", "mean R", "sum R", "not computed",
)  # fmt: skip
REFUSED_COLUMNS: Final = (0, 1, 2, 3, 4, 5)
"""Columns of HISTORY_HEADER that count, for a narrow table."""
EARNED_COLUMNS: Final = (0, 1, 6, 7, 8, 10, 11, 13, 14)
"""Columns that say what was earned."""
READING: Final = (
    ("first", "this gate was the first to refuse"),
    ("alone", "no other gate refused"),
    ("each", "every refused signal by itself, overlapping ones included: sums count the same move twice"),
    ("free", "those that could have been taken one after the other beside what was traded"),
    ("without", "what the whole backtest had made more with only this gate off"),
    ("R", "profit over the distance to the stop, costs included"),
    ("±", "one standard error, too small where trades overlap"),
)
"""How the columns are read."""


def part(rows: Iterable[Sequence[Any]], columns: Sequence[int]) -> list[list[Any]]:
    """Some columns of rows."""
    return [[row[c] for c in columns] for row in rows]


def reports(prepared: Sequence[Prepared], failed: list[NotRun]) -> list[GateReport]:
    """A report of every strategy; one that cannot be reported on joins `failed`."""
    found = []
    for one in prepared:
        try:
            found.append(gate_report(one.evaluable, one.experiment, one.windows))
        except ValueError as error:
            failed.append(NotRun(one.evaluable.name, one.evaluable.kind, str(error)))
    return found


def history_rows(found: Iterable[GateReport]) -> list[list[Any]]:
    """Rows under HISTORY_HEADER; what was taken stands as the gate ``none``."""
    rows = []
    for report in found:
        for line in report.lines:
            rows.append(
                [report.strategy, line.gate, line.wishes, line.refused, line.first, line.alone, line.each.count,
                 _percent(line.each.win_rate), _mean(line.each), f"{line.each.total_r:+.1f}", line.free.count, _mean(line.free),
                 f"{line.free.total_r:+.1f}", f"{line.trades_without:+.0f}", f"{line.net_without:+,.2f}"]
            )  # fmt: skip
        taken = report.taken
        rows.append(
            [report.strategy, "none (taken)", "", "", "", "", taken.count, _percent(taken.win_rate), _mean(taken),
             f"{taken.total_r:+.1f}", "", "", "", report.taken_trades, f"{report.taken_net:+,.2f}"]
        )  # fmt: skip
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def _mean(found: Outcomes) -> str:
    if not math.isfinite(found.mean_r):
        return "–"
    return f"{found.mean_r:+.2f} ± {found.error_r:.2f}" if math.isfinite(found.error_r) else f"{found.mean_r:+.2f}"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One refused decision of the ledger: the first gate that refused, the code, and the signal."""

    gate: str
    code: str
    signal: Signal


def recorded(ledger: Ledger, sessions: tuple[str, str], strategies: Sequence[str] = ()) -> list[Recorded]:
    """Refused decisions of the sessions from .. to (ISO dates, both included), by bar close."""
    from sqlalchemy import select

    from resources.ledger import tables as t

    d = t.decisions.c
    with ledger.engine.connect() as connection:
        rows = connection.execute(
            select(d.verdicts, d.refusal, d.snapshot)
            .where(d.session >= sessions[0], d.session <= sessions[1], d.approved.is_(False))
            .order_by(d.close_time, d.id)
        ).all()
    found = []
    for row in rows:
        signal = Signal.from_dict(json.loads(bytes(row.snapshot))["signal"])
        if strategies and signal.strategy not in strategies:
            continue
        gate = next((v["gate"] for v in row.verdicts if not v["passed"]), "")
        found.append(Recorded(gate, str(row.refusal).split(":")[0], signal))
    return found


def record_rows(found: Sequence[Recorded], prepared: Sequence[Prepared]) -> list[list[Any]]:
    """Rows under RECORD_HEADER: what became of the refused signals on the bars since, each traded by itself with its strategy's
    own exits. Signals of another revision of the file, or whose bar is not in the lake, are not computed."""
    by_name = {one.evaluable.name: one for one in prepared}
    groups: dict[tuple[str, str, str], list[Signal]] = {}
    for one in found:
        groups.setdefault((one.signal.strategy, one.gate, one.code), []).append(one.signal)
    rows = []
    for (strategy, gate, code), signals in sorted(groups.items()):
        result, skipped = _since(by_name.get(strategy), signals)
        rows.append(
            [strategy, gate, code, len(signals), result.count, result.open, _percent(result.win_rate), _mean(result),
             f"{result.total_r:+.1f}", skipped]
        )  # fmt: skip
    return rows


def _since(prepared: Prepared | None, signals: Sequence[Signal]) -> tuple[Outcomes, int]:
    """(outcomes, signals that could not be computed)."""
    nothing = outcomes([], 0)
    if prepared is None:
        return nothing, len(signals)
    slots = {i.symbol: s for s, i in enumerate(prepared.experiment.instruments)}
    rows: list[list[int]] = [[] for _ in slots]
    skipped = 0
    for signal in signals:
        slot = slots.get(signal.symbol)
        row = -1
        if slot is not None and signal.strategy_revision == prepared.evaluable.revision:
            times = prepared.experiment.bars[slot].close_time
            at = int(np.searchsorted(times, signal.close_time))
            row = at if at < len(times) and int(times[at]) == signal.close_time else -1
        if slot is None or row < 0:
            skipped += 1
        else:
            rows[slot].append(row)
    wanted = [np.array(sorted(set(its)), np.int64) for its in rows]
    trades, missing = each_alone(prepared.evaluable, prepared.experiment, prepared.windows, wanted)
    return outcomes(trades, len(trades) + missing), skipped + missing
