"""The code location: every asset, check, job, sensor, schedule and resource of Tapeline, put together.

Only light imports happen here: the code server, the run host and every run pay for them at start.
"""

import warnings

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill policies: their behaviour is pinned by the lock file

from assets import (
    backfill,
    corporate_actions,
    dagster_upkeep,
    desk_control,
    desk_health,
    executions,
    features,
    gate_analytics,
    inbox,
    kill_switch_drill,
    lake_retention,
    market_data,
    model_assets,
    model_drift,
    model_explanation,
    models,
    plans,
    portfolio,
    quotes,
    rehearsal,
    reports,
    research,
    research_checks,
    research_results,
    served_models,
    trading,
    upstream,
)
from assets.common import configured_universe, session_partitions_def
from assets.quality import checks as quality
from assets.quality import feed_live
from assets.simulated_marks import marked
from resources.dagster_resources import resource_definitions
from sensors.celery_starts import SENSORS as celery_sensors
from sensors.champions import SENSORS as model_sensors
from sensors.desk_health import SENSORS as desk_sensors
from sensors.end_of_session import session_ended
from sensors.failed_checks import failed_checks
from sensors.failures import failed_runs
from sensors.feed_health import SENSORS as feed_sensors
from sensors.fresh_bars import fresh_bars
from sensors.inbox import SENSORS as inbox_sensors
from sensors.lake_upkeep import SENSORS as lake_sensors
from sensors.plans import SENSORS as plan_sensors
from sensors.retraining import SENSORS as retraining_sensors
from sensors.stale import stale_partitions

_ASSETS = [
    *market_data.ASSETS, *corporate_actions.ASSETS, *quotes.ASSETS, *backfill.ASSETS, *inbox.ASSETS, *lake_retention.ASSETS,
    *features.ASSETS, *models.ASSETS, *model_assets.ASSETS, *model_drift.ASSETS, *model_explanation.ASSETS, *served_models.ASSETS,
    *research.ASSETS, *research_results.ASSETS, *gate_analytics.ASSETS, *portfolio.ASSETS,
    *research_checks.ASSETS, *plans.ASSETS, *executions.ASSETS, *trading.ASSETS, *reports.ASSETS, *kill_switch_drill.ASSETS,
    *dagster_upkeep.ASSETS,
    *desk_health.ASSETS,
]  # fmt: skip
_CHECKS = [
    *quality.CHECKS, *feed_live.CHECKS, *features.CHECKS, *model_assets.CHECKS, *served_models.CHECKS, *research.CHECKS,
    *research_checks.CHECKS, *reports.CHECKS, *upstream.CHECKS,
    *corporate_actions.CHECKS,
    *desk_health.CHECKS,
]  # fmt: skip

REHEARSE = rehearsal.steps
"""What the run host's waiting process does until the next bar closes (resources/run_host/spare.py)."""

# Not `feed_live`: its sensor reports that, when it changes, without a run.
_LIVE_CHECKS = dg.AssetSelection.checks(
    *(key for check in quality.CHECKS for key in check.check_keys if key.name == quality.LIVE)
)
# Said by the step of `orders` itself: it cannot be left out.
_OWN_CHECKS = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("orders"), trading.NOTHING_IN_DOUBT))
_HISTORY = dg.AssetSelection.groups("market_data", "features")

ingest = dg.define_asset_job(
    "ingest",
    selection=_HISTORY,
    executor_def=dg.in_process_executor,
    description="Market data of a range of sessions: bars, derived timeframes, quality checks, features.",
)
trade = dg.define_asset_job(
    "trade",
    selection=dg.AssetSelection.assets("signals", "decisions", "orders").without_checks() | _OWN_CHECKS | _LIVE_CHECKS,
    partitions_def=session_partitions_def(),
    executor_def=dg.in_process_executor,
    tags={"tapeline/lane": "trade"},
    description="One bar close of the whole universe: signals, gated decisions, orders at the desk.",
)
end_of_session = dg.define_asset_job(
    "end_of_session",
    selection=_HISTORY - dg.AssetSelection.assets("instruments") | dg.AssetSelection.assets("daily_report"),
    partitions_def=session_partitions_def(),
    executor_def=dg.in_process_executor,
    description="After the last venue closed: the source's final bars, checks, features and the daily report.",
)
train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.groups("models") - dg.AssetSelection.assets(*model_assets.OFFERED_ONLY, *model_explanation.NAMES),
    executor_def=dg.in_process_executor,
    description="Training sets and their leakage audit, canaries, baseline, every model of data/config/models, promotion gates, "
    "report.",
)
_OF_RESEARCH = ("gate_analytics", "portfolio_backtest")
research_job = dg.define_asset_job(
    "research",
    selection=dg.AssetSelection.assets("strategies", "strategy_backtests", *research_results.LIGHT, *_OF_RESEARCH),
    executor_def=dg.in_process_executor,
    description="Backtests of the strategies and plans over the history in the lake, their baselines, how much of them is luck.",
)
research_deep = dg.define_asset_job(
    "research_deep",
    selection=dg.AssetSelection.assets("strategies", "strategy_backtests", *research_results.ASSETS, *_OF_RESEARCH),
    executor_def=dg.in_process_executor,
    description="All of research: parameter grids, walk-forward, perturbed bars too. Minutes to hours.",
)

weekly_training = dg.ScheduleDefinition(
    name="weekly_training",
    job_name="train",
    cron_schedule="0 6 * * 6",
    execution_timezone="America/New_York",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Retrain on Saturday morning; the promotion gate decides as always.",
)

defs = dg.Definitions(
    assets=marked(_ASSETS, configured_universe()),
    asset_checks=_CHECKS,
    jobs=[
        ingest,
        trade,
        end_of_session,
        train,
        research_job,
        research_deep,
        upstream.recompute_stale,
        *research_checks.JOBS,
        *plans.JOBS,
        *desk_control.JOBS,
        *kill_switch_drill.JOBS,
        *backfill.JOBS,
        *inbox.JOBS,
        *lake_retention.JOBS,
        *dagster_upkeep.JOBS,
        *model_drift.JOBS,
        *served_models.JOBS,
    ],
    schedules=[
        weekly_training,
        *model_drift.SCHEDULES,
        *research_checks.SCHEDULES,
        *kill_switch_drill.SCHEDULES,
        *dagster_upkeep.SCHEDULES,
    ],
    sensors=[
        fresh_bars,
        session_ended,
        failed_runs,
        failed_checks,
        stale_partitions,
        *celery_sensors,
        *desk_sensors,
        *feed_sensors,
        *inbox_sensors,
        *lake_sensors,
        *plan_sensors,
        *retraining_sensors,
        *model_sensors,
    ],
    resources=resource_definitions(),
)
