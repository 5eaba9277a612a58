"""Checks and job around changed bars: what is out of date, what was traded on, and the job that recomputes.

- ``upstream_current`` on every derived and feature dataset: no partition was made of bars that have changed since. Its
  table names the stale ones with the reason. It blocks nothing: the decision gate refuses what needs a stale partition.
- ``traded_on`` on the native datasets: are the bars of the sessions the desk traded the vendor's bars of today? Bars that
  changed are listed per symbol with the largest difference in ticks and the decisions that were taken on the former ones.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from assets.bars_run import DETAILED_SESSIONS, partitions_hash
from assets.common import configured_universe, markdown_table, session_span
from assets.market_data import sources_of, timeframes_of
from assets.recompute import Recomputed, recompute
from resources.affected import DIFFERS, MISSING, affected_signals
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.lake import Lake, LakeError, Partition
from resources.ledger import changes as book
from resources.ledger.changes import UPSTREAM_CURRENT, Change, StaleMark
from resources.ledger.store import Ledger
from resources.outputs import OTHER_MODELS, OUTPUTS, REPORT, StaleOutput, newest_change, record_output, stale_outputs
from trading.differences import Difference, difference
from trading.features import TIMEFRAMES
from trading.timeframes import Timeframe, iso
from trading.universe import Universe

if TYPE_CHECKING:
    from ml.dataset import SourceSpan

TRADED_ON = "traded_on"
SHOWN = 100
JOB_NAME = "recompute_stale"


def stale_datasets(universe: Universe) -> list[str]:
    """Datasets that are made of others: derived bars and features, shortest timeframe first."""
    frames = timeframes_of(universe)
    derived = [f"bars_{t}" for t in frames if any(native is not t for native in sources_of(universe, t))]
    return [*derived, *(f"features_{t}" for t in frames if t in TIMEFRAMES)]


def upstream_values(dataset: str, marks: Sequence[StaleMark]) -> dict[str, Any]:
    """passed, severity, description and metadata of ``upstream_current`` of a dataset."""
    newest = sorted(marks, key=lambda m: (m.session, m.symbol), reverse=True)
    rows = [[m.session, m.symbol, m.because, m.content_hash[:12]] for m in newest[:SHOWN]]
    text = f"{len(marks)} partitions are out of date, newest {newest[0].name}: {newest[0].because}" if marks else ""
    return {
        "passed": not marks,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": text or "Every partition was made of what its source holds now.",
        "metadata": {
            "stale_partitions": len(marks),
            "dataset": dataset,
            "partitions": dg.MetadataValue.md(markdown_table(["session", "symbol", "because", "content"], rows)),
        },
    }


def upstream_check(dataset: str) -> dg.AssetChecksDefinition:
    """``upstream_current`` of a dataset."""

    @dg.asset_check(
        asset=dg.AssetKey(dataset),
        name=UPSTREAM_CURRENT,
        description="No partition was made of bars that have changed since; stale ones refuse decisions until recomputed.",
    )
    def upstream_current(ledger: LedgerResource) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**upstream_values(dataset, book.stale(ledger.ledger().engine, dataset=dataset)))

    return upstream_current


# -- training sets, models, reports --------------------------------------------------------------------------------------


class MadeOutput:
    """What an asset that is no partition of the lake notes about what it was made of. Taken before its inputs are read."""

    def __init__(self, ledger: LedgerResource, asset: str, name: str) -> None:
        """A ledger that is not there yet knows of no changes; one that is away fails the run."""
        self._asset, self._name = asset, name
        try:
            self._ledger = ledger.ledger()
        except FileNotFoundError:
            self._seq = None
        else:
            self._seq = newest_change(self._ledger)

    def record(self, sources: Sequence["SourceSpan"] = ()) -> None:
        """It is made."""
        if self._seq is not None:
            record_output(self._ledger, self._asset, self._name, read_seq=self._seq, sources=sources)


def output_assets() -> list[str]:
    """Assets of training sets, models (one for each file of data/config/models) and reports."""
    from resources.model_files import read_model_files
    from resources.settings import settings

    return [*OUTPUTS, *(f"{OTHER_MODELS}{name}" for name in sorted(read_model_files(settings().config / "models").trainings))]


def output_values(asset: str, found: Sequence[StaleOutput]) -> dict[str, Any]:
    """passed, severity, description and metadata of ``upstream_current`` of an output's asset."""
    rows = [[s.name, s.because, iso(s.since_wall) if s.since_wall else ""] for s in reversed(found)]
    again = "materialise them again" if asset == REPORT else "materialise training_set, then the models, again"
    return {
        "passed": not found,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": f"{len(found)} made of data that has changed since, newest {rows[0][0]}: {rows[0][1]}; {again}"
        if found
        else "Nothing it was made of has changed since.",
        "metadata": {
            "stale": len(found),
            "outputs": dg.MetadataValue.md(markdown_table(["name", "because", "since"], rows[:SHOWN])),
        },
    }


def output_check(asset: str) -> dg.AssetChecksDefinition:
    """``upstream_current`` of training sets, models or reports."""

    @dg.asset_check(
        asset=dg.AssetKey(asset),
        name=UPSTREAM_CURRENT,
        description="Nothing this was made of has other content now. What is out of date stays as it is until somebody makes "
        "it again: a training costs minutes, a report was read by people.",
    )
    def upstream_current(ledger: LedgerResource, lake: LakeResource) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(**output_values(asset, stale_outputs(ledger.ledger(), lake.lake(), [asset])))

    return upstream_current


def upstream_evaluations(ledger: Ledger, universe: Universe, lake: Lake | None = None) -> Iterator[dg.AssetCheckEvaluation]:
    """``upstream_current`` of every dataset as events, for sensors and jobs that run no checks; with `lake` of training sets,
    models and reports as well."""
    if lake is not None:
        found = stale_outputs(ledger, lake)
        for asset in output_assets():
            values = output_values(asset, [s for s in found if s.asset == asset])
            yield dg.AssetCheckEvaluation(dg.AssetKey(asset), UPSTREAM_CURRENT, **values)
    marks = book.stale(ledger.engine)
    for dataset in stale_datasets(universe):
        values = upstream_values(dataset, [m for m in marks if m.dataset == dataset])
        yield dg.AssetCheckEvaluation(dg.AssetKey(dataset), UPSTREAM_CURRENT, **values)


# -- what was traded on --------------------------------------------------------------------------------------------------


def traded_on_check(universe: Universe, timeframe: Timeframe) -> dg.AssetChecksDefinition:
    """``traded_on`` of the native dataset of `timeframe`."""
    dataset = f"bars_{timeframe}"

    @dg.asset_check(
        asset=dg.AssetKey(dataset),
        name=TRADED_ON,
        description="The bars of the sessions that were traded live are those the source gives now.",
    )
    def traded_on(
        context: dg.AssetCheckExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
    ) -> dg.AssetCheckResult:
        store, book_of = lake.lake(), ledger.ledger()
        traded = sorted(str(row["session"]) for row in book_of.sessions())
        span = session_span(context)
        if span is not None:
            traded = [s for s in traded if span[0].isoformat() <= s <= span[1].isoformat()]
        return dg.AssetCheckResult(**traded_on_values(dataset, traded, book_of, store, config_files.load().universe))

    return traded_on


def traded_on_values(dataset: str, sessions: Sequence[str], ledger: Ledger, lake: Lake, universe: Universe) -> dict[str, Any]:
    """passed, severity, description and metadata of ``traded_on`` for the traded `sessions` (ISO dates)."""
    first: dict[tuple[str, str], Change] = {}
    for session in sessions:
        for change in reversed(book.changes(ledger.engine, dataset=dataset, session=session)):
            first.setdefault((session, change.symbol), change)  # what it was before anything replaced it
    rows: list[list[Any]] = []
    decisions: set[str] = set()
    for (session, symbol), change in sorted(first.items()):
        touched = {
            s.decision_id for s in affected_signals(ledger, lake, [change.key]) if s.decision_id and s.state in (DIFFERS, MISSING)
        }
        found = bars_changed(change, lake, universe)
        if found is not None and not found and not touched:
            continue  # replaced, and replaced back
        decisions |= touched
        words = found.words() if found is not None else "the former content is no longer kept"
        ticks = found.ticks if found is not None else None
        rows.append([session, symbol, words, ticks, len(touched), change.reason, ", ".join(sorted(touched))])
    header = ["session", "symbol", "bars", "largest price difference, ticks", "decisions affected", "why", "decisions"]
    said = f"{len(rows)} of the traded partitions hold other bars now; {len(decisions)} decisions were taken on the former ones."
    return {
        "passed": not rows,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": said if rows else f"{len(sessions)} traded sessions: the bars are those that were traded on.",
        "metadata": {
            "sessions": len(sessions),
            "partitions_changed": len(rows),
            "decisions_affected": len(decisions),
            "changes": dg.MetadataValue.md(markdown_table(header, rows, SHOWN)),
        },
    }


def bars_changed(change: Change, lake: Lake, universe: Universe) -> Difference | None:
    """The bars before the change against those in the lake now; None when the former ones are no longer kept."""
    instrument = universe.instruments.get(change.symbol)
    if instrument is None:
        return None
    day = date.fromisoformat(change.session)
    try:
        now = lake.read_bars(change.dataset, change.symbol, day, day)
        before = lake.read_version(change.dataset, change.symbol, day, change.old_hash) if change.old_hash else now.known_at(0)
    except LakeError:
        return None
    return difference(before, now, float(instrument.tick_size))


# -- recomputing ---------------------------------------------------------------------------------------------------------


@dg.op(name="recompute_stale_partitions", description="Recomputes exactly the stale partitions: bars first, then features.")
def recompute_stale_partitions(
    context: dg.OpExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> None:
    universe, book_of = config_files.load().universe, ledger.ledger()
    done = recompute(book_of, lake.lake(), universe, run_id=context.run_id)
    for event in _materializations(done, lake.lake()):
        context.log_event(event)
    context.log.info(
        f"{len(done.partitions)} partitions recomputed in {done.seconds:.2f} s, {len(done.changed)} of them changed, "
        f"{done.verdicts} verdicts recorded, {len(done.left)} left"
    )
    failed = {key: why for key, why in done.left.items() if not why.startswith("the session is open")}
    if failed:
        rows = [["/".join(key), why] for key, why in sorted(failed.items())]
        raise dg.Failure(
            f"{len(failed)} stale partitions could not be recomputed, first {rows[0][0]}: {rows[0][1]}",
            metadata={"left": dg.MetadataValue.md(markdown_table(["partition", "why"], rows, SHOWN))},
            allow_retries=False,
        )


def _materializations(done: Recomputed, lake: Lake) -> Iterator[dg.AssetMaterialization]:
    """One event per dataset and session with its new data version, so that the UI knows what is current."""
    made: dict[str, list[date]] = {}
    for dataset, session in sorted({(p.dataset, p.session) for p in done.partitions}, key=lambda key: key[1])[
        -DETAILED_SESSIONS:
    ]:
        made.setdefault(dataset, []).append(session)
    for dataset, sessions in made.items():
        held: dict[date, list[Partition]] = {}
        for part in lake.partitions(dataset, min(sessions), max(sessions)):
            held.setdefault(part.session, []).append(part)
        for session in sessions:
            parts = held.get(session, [])
            version = partitions_hash(parts)
            metadata: dict[str, Any] = {
                "dagster/partition_row_count": sum(p.rows for p in parts),
                "content_hash": version,
                "recomputed": ", ".join(
                    sorted(p.symbol for p in done.partitions if (p.dataset, p.session) == (dataset, session))
                ),
                "source": "recomputed: a partition it was made of had changed",
            }
            yield dg.AssetMaterialization(
                dg.AssetKey(dataset), partition=session.isoformat(), metadata=metadata, tags={DATA_VERSION_TAG: version}
            )


recompute_stale = dg.GraphDefinition(name=JOB_NAME, node_defs=[recompute_stale_partitions]).to_job(
    name=JOB_NAME,
    executor_def=dg.in_process_executor,
    tags={"tapeline/lane": "ingest"},
    description="What was made of bars that have changed since: exactly those partitions again, then their verdicts.",
)


def _checks(universe: Universe) -> list[dg.AssetChecksDefinition]:
    natives = sorted({i.native_timeframe for i in universe.instruments.values()}, key=lambda t: t.minutes)
    outputs = [output_check(asset) for asset in output_assets()]
    return [*(upstream_check(d) for d in stale_datasets(universe)), *outputs, *(traded_on_check(universe, t) for t in natives)]


CHECKS: list[dg.AssetChecksDefinition] = _checks(configured_universe())
JOBS = [recompute_stale]
