"""`plans_and_files`: the UI shows plans and the files people edit as they are, without a run.

When the desk moved a plan, or one of its orders, the asset `plans` is told anew; when an entry that is worked in slices came
on, the asset `executions`; when a file of the config folder changed,
the assets `strategies` and `plans` and the check `config_valid`, too. A file that breaks while everybody looks elsewhere is
seen within seconds, and what it says is kept as a revision however short it lived.
"""

import json
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from assets.books import books_of
from assets.executions import executions, executions_metadata
from assets.plans import plans, plans_metadata
from assets.research import config_verdict, files_version, strategies, strategies_metadata
from resources.config import Config, ConfigInvalid
from resources.dagster_resources import ConfigFilesResource, LedgerResource
from resources.settings import settings
from trading.ids import content_hash

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def changed_events(cursor: str | None, config_files: ConfigFilesResource, ledger: LedgerResource) -> tuple[list[Event], str]:
    """(what Dagster is told now, new cursor)."""
    from desk import algo_ledger
    from resources.config_cache import stamp
    from resources.ledger.plans import newest_change

    seen: dict[str, Any] = json.loads(cursor) if cursor else {}
    store = ledger.ledger()
    now: dict[str, Any] = {"files": content_hash(stamp(settings().config))[:24]}
    for book in books_of(store):
        mark = ":paper" if book.paper else ""
        with book.ledger.engine.connect() as connection:
            now["plans" + mark] = newest_change(connection)
            now["executions" + mark] = algo_ledger.newest_change(connection)
    if now == seen:
        return [], json.dumps(now)
    events: list[Event] = []
    worked = {name: mark for name, mark in now.items() if name.startswith("executions")}
    if any(mark != seen.get(name, algo_ledger.NEVER) for name, mark in worked.items()):
        events.append(dg.AssetMaterialization(executions.key, metadata=executions_metadata(store)))
    if {**seen, **worked} == now:
        return events, json.dumps(now)
    try:
        config: Config | None = config_files.load()
    except ConfigInvalid:
        config = None  # the check says why; the tables stay as they were
    if now["files"] != seen.get("files"):
        verdict = config_verdict(config_files.load)
        events.append(dg.AssetCheckEvaluation(asset_key=strategies.key, check_name="config_valid", **verdict))
        if config is not None:
            tags = {DATA_VERSION_TAG: files_version(config)}
            events.append(dg.AssetMaterialization(strategies.key, metadata=strategies_metadata(config), tags=tags))
    if config is not None:
        events.append(dg.AssetMaterialization(plans.key, metadata=plans_metadata(config, store)))
    return events, json.dumps(now)


@dg.sensor(
    name="plans_and_files",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A plan moved, an entry worked in slices came on, or a file of the config folder changed: the assets plans, "
    "executions and strategies and the check config_valid show it, without a run.",
)
def plans_and_files(
    context: dg.SensorEvaluationContext, config_files: ConfigFilesResource, ledger: LedgerResource
) -> dg.SensorResult:
    events, cursor = changed_events(context.cursor, config_files, ledger)
    if not events:
        return dg.SensorResult(skip_reason="No plan moved and no file changed.", cursor=cursor)
    return dg.SensorResult(asset_events=events, cursor=cursor)


SENSORS: list[Any] = [plans_and_files]
