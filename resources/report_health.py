"""How sound the session's data was and how fast the desk's knowledge came: the report's view on verdicts and bar closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from sqlalchemy import Engine

from resources.ledger.scores import scores
from resources.ledger.store import VerdictRow
from resources.report_model import QualityFailure, QualityRow, StageRow
from trading.timeframes import Timeframe

STAGES: Final = (
    ("bar emitted → stored", "emitted_wall", "stored_wall"),
    ("stored → sensed", "stored_wall", "sensed_wall"),
    ("sensed → run started", "sensed_wall", "run_started_wall"),
    ("run started → signals", "run_started_wall", "signals_wall"),
    ("signals → decisions", "signals_wall", "decisions_wall"),
    ("decisions → handed over", "decisions_wall", "done_wall"),
    ("bar emitted → handed over", "emitted_wall", "done_wall"),
)
_ORDER: Final = [f"bars_{timeframe}" for timeframe in Timeframe]


class PartitionLike(Protocol):
    """A bars partition of the lake, see resources.lake."""

    @property
    def dataset(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def content_hash(self) -> str: ...


def latency_of(closes: Sequence[Mapping[str, Any]]) -> list[StageRow]:
    """Spans between the stamps of bar closes, stage by stage, the whole way last. Closes without both stamps are left out."""
    rows = []
    for name, begin, end in STAGES:
        spans = [(c[end] - c[begin]) / 1000 for c in closes if c[begin] is not None and c[end] is not None]
        if spans:
            median, p95 = np.percentile(spans, [50, 95])
            rows.append(StageRow(name, len(spans), float(median), float(p95), max(spans)))
    return rows


def quality_of(
    verdicts: Sequence[VerdictRow], partitions: Sequence[PartitionLike], error_checks: Sequence[str]
) -> tuple[list[QualityRow], list[QualityFailure]]:
    """Verdicts per dataset, and every failed one, errors first.

    A partition of the lake is missing when one of `error_checks` has no verdict on it, and stale when a verdict was made
    on other bars than those that are in the lake now.
    """
    judged: dict[tuple[str, str], list[VerdictRow]] = {}
    for v in verdicts:
        judged.setdefault((v.dataset, v.symbol), []).append(v)
    stored = {(p.dataset, p.symbol): p.content_hash for p in partitions if p.dataset.startswith("bars_")}
    everything = {*judged, *stored}
    rows = []
    for dataset in sorted({d for d, _ in everything}, key=lambda d: (_ORDER.index(d) if d in _ORDER else len(_ORDER), d)):
        missing, stale = [], []
        for (name, symbol), content in sorted(stored.items()):
            if name != dataset:
                continue
            own = [v for v in judged.get((name, symbol), []) if v.severity == "error"]
            if set(error_checks) - {v.check for v in own}:
                missing.append(symbol)
            elif any(v.content_hash != content for v in own):
                stale.append(symbol)
        here = [v for v in verdicts if v.dataset == dataset]
        failed = [v for v in here if not v.passed]
        errors = sum(v.severity == "error" for v in failed)
        count = sum(d == dataset for d, _ in everything)
        rows.append(QualityRow(dataset, count, len(here), errors, len(failed) - errors, tuple(missing), tuple(stale)))
    failures = [
        QualityFailure(f"{v.dataset}/{v.session}/{v.symbol}", v.check, v.severity, v.failed_count, _example(v))
        for v in verdicts
        if not v.passed
    ]
    return rows, sorted(failures, key=lambda f: (f.severity, f.partition, f.check))


def _example(verdict: VerdictRow) -> str:
    return ", ".join(f"{k}={v}" for k, v in verdict.examples[0].items()) if verdict.examples else ""


def score_note(engine: Engine, session: str) -> str:
    """One sentence on the scorecards of the session's partitions; empty when none was scored."""
    rows = scores(engine, session=session, limit=1000)
    if not rows:
        return ""
    worst = max(rows, key=lambda row: (row["fault_share"], row["dataset"], row["symbol"]))
    share = sum(row["fault_share"] for row in rows) / len(rows)
    text = f"Data: {share:.3%} of the bars of {len(rows)} partitions missing or wrong"
    if worst["fault_share"] > 0:
        text += f", most in {worst['dataset']} {worst['symbol']} ({worst['fault_share']:.2%})"
    return text + "."
