"""Training sets, models and reports: what they were made of, and which of them have been overtaken by changed data.

They are no partitions of the lake and are not recomputed by themselves: a training costs minutes, a report is what a person
has read. Each writes down what it read (`record_output`); whether that is still so is looked up when asked (`stale_outputs`):
a set or model is out of date when a partition it was made of is stale or holds other content now, a daily report when bars of its
session, or the rows behind a decision it shows, changed after it was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, select, true
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import changes
from resources.ledger import tables as t
from resources.ledger.base import LedgerBase
from resources.ledger.change_tables import affected_decisions, made_outputs, partition_changes
from resources.ledger.changes import StaleMark

if TYPE_CHECKING:
    from ml.dataset import SourceSpan
    from resources.lake import Lake

TRAINING_SET: Final = "training_set"
MODEL: Final = "baseline_model"
REPORT: Final = "daily_report"
OUTPUTS: Final = (TRAINING_SET, MODEL, REPORT)
"""Those every installation has; each file of data/config/models adds one, ``model_NAME``."""
OTHER_MODELS: Final = "model_"


@dataclass(frozen=True, slots=True)
class StaleOutput:
    """asset: training_set, baseline_model or daily_report. name: of the set or model, session of the report. because: the
    newest change it has not seen. since_wall: when that was recorded, UTC us; 0: nobody recorded it."""

    asset: str
    name: str
    because: str
    since_wall: int


def record_output(ledger: LedgerBase, asset: str, name: str, *, read_seq: int, sources: Sequence[SourceSpan] = ()) -> None:
    """`name` was made anew of `sources`, read when the newest change was number `read_seq` (newest_change)."""
    values: dict[str, Any] = {
        "asset": asset, "name": name, "sources": [asdict(s) for s in sources], "read_seq": read_seq,
    }  # fmt: skip
    with ledger.transaction() as c:
        c.execute(
            insert(made_outputs)
            .values(values)
            .on_conflict_do_update(
                index_elements=["asset", "name"], set_={"sources": values["sources"], "read_seq": values["read_seq"]}
            )
        )


def forget_output(ledger: LedgerBase, asset: str, name: str) -> None:
    """It is there no more."""
    with ledger.transaction() as c:
        c.execute(delete(made_outputs).where(made_outputs.c.asset == asset, made_outputs.c.name == name))


def is_output(asset: str) -> bool:
    """Is it the asset of a training set, a model or a report?"""
    return asset in OUTPUTS or asset.startswith(OTHER_MODELS)


def stale_outputs(ledger: LedgerBase, lake: Lake, assets: Iterable[str] | None = None) -> list[StaleOutput]:
    """Outputs of `assets` (None: all) that were made of content which is other content now; by asset and name. Raises
    LakeError."""
    o = made_outputs.c
    wanted = o.asset.in_(list(assets)) if assets is not None else true()
    with ledger.engine.connect() as c:
        rows = [dict(r) for r in c.execute(select(made_outputs).where(wanted).order_by(o.asset, o.name)).mappings()]
    found: list[StaleOutput] = []
    reports = [r for r in rows if r["asset"] == REPORT]
    marks: dict[tuple[str, str], list[StaleMark]] = {}
    for mark in changes.stale(ledger.engine) if len(reports) < len(rows) else ():
        marks.setdefault((mark.dataset, mark.symbol), []).append(mark)
    for row in rows:
        if row["asset"] != REPORT:
            found += _overtaken(ledger, lake, row, marks)
    return sorted(
        [*found, *_reports(ledger, reports)], key=lambda s: (s.asset == REPORT, s.asset != TRAINING_SET, s.asset, s.name)
    )


Marks = Mapping[tuple[str, str], Sequence[StaleMark]]
"""Stale partitions by dataset and symbol."""


def _overtaken(ledger: LedgerBase, lake: Lake, row: Mapping[str, Any], marks: Marks) -> list[StaleOutput]:
    """The set or model, when one of its spans is another one now or holds a stale partition."""
    from ml.dataset import SourceSpan

    for source in (SourceSpan(**s) for s in row["sources"]):
        first, last = date.fromisoformat(source.first_session), date.fromisoformat(source.last_session)
        held = [(p.session.isoformat(), p.content_hash) for p in lake.partitions(source.dataset, first, last, [source.symbol])]
        same = bool(held) and SourceSpan.of(source.dataset, source.symbol, held).content_hash == source.content_hash
        marked = next((m for m in marks.get((source.dataset, source.symbol), ()) if m.session in dict(held)), None)
        if same and marked is not None:  # what it was made of is out of date itself, and waits to be made again
            return [StaleOutput(str(row["asset"]), str(row["name"]), marked.because, marked.since_wall)]
        if same:
            continue
        span = f"{source.dataset}/{source.first_session}..{source.last_session}/{source.symbol}"
        said = _newest_change(ledger, source, int(row["read_seq"])) if held else None
        because, since = said or (f"{span} {'holds other content now' if held else 'is not in the lake any more'}", 0)
        return [StaleOutput(str(row["asset"]), str(row["name"]), because, since)]
    return []


def _newest_change(ledger: LedgerBase, source: SourceSpan, read_seq: int) -> tuple[str, int] | None:
    p = partition_changes.c
    native = source.dataset.replace("features_", "bars_")
    chosen = (
        select(p.dataset, p.session, p.symbol, p.reason, p.recorded_wall)
        .where(p.dataset.in_([source.dataset, native]), p.symbol == source.symbol, p.seq > read_seq)
        .where(p.session >= source.first_session, p.session <= source.last_session)
        .order_by(p.seq.desc())
        .limit(1)
    )
    with ledger.engine.connect() as c:
        row = c.execute(chosen).one_or_none()
    return None if row is None else (f"{row.dataset}/{row.session}/{row.symbol} changed: {row.reason}", int(row.recorded_wall))


def _reports(ledger: LedgerBase, rows: Sequence[Mapping[str, Any]]) -> list[StaleOutput]:
    """Daily reports with a change recorded after they were read: bars of the session, or rows behind its decisions."""
    if not rows:
        return []
    p, a, s = partition_changes.c, affected_decisions.c, t.signals.c
    written = {str(r["name"]): int(r["read_seq"]) for r in rows}
    own = select(p.session.label("of"), p.seq, p.dataset, p.session, p.symbol, p.reason, p.recorded_wall).where(
        p.session.in_(list(written)), p.dataset.like("bars_%")
    )
    decided = (
        select(s.session.label("of"), p.seq, p.dataset, p.session, p.symbol, p.reason, p.recorded_wall)
        .select_from(affected_decisions.join(partition_changes, p.seq == a.change_seq).join(t.signals, s.id == a.signal_id))
        .where(s.session.in_(list(written)))
    )
    newest: dict[str, Any] = {}
    with ledger.engine.connect() as c:
        for query in (own, decided):
            for row in c.execute(query):
                if row.seq > written[row.of] and (row.of not in newest or row.seq > newest[row.of].seq):
                    newest[row.of] = row
    return [
        StaleOutput(REPORT, of, f"{r.dataset}/{r.session}/{r.symbol} changed: {r.reason}", int(r.recorded_wall))
        for of, r in sorted(newest.items())
    ]


def newest_change(ledger: LedgerBase) -> int:
    """Number of the newest recorded change, 0 when there is none: outputs need another look when it has grown."""
    with ledger.engine.connect() as c:
        return int(c.execute(select(func.coalesce(func.max(partition_changes.c.seq), 0))).scalar_one())
