"""Research: the strategies and plans as people wrote them, and what each would have done over the whole history."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dagster as dg

from assets import research_run
from assets.common import configured_universe, image, markdown_table, table_schema
from assets.market_data import timeframes_of
from resources.config import Config
from resources.dagster_resources import ConfigFilesResource, LakeResource
from resources.research_store import ResearchStore, difference
from resources.settings import settings
from trading.config_text import Problem
from trading.ids import content_hash
from trading.strategy import Evaluable
from trading.timeframes import iso

_STRATEGIES_SCHEMA = table_schema(
    ("file", "string", "path below the config folder"),
    ("name", "string"),
    ("revision", "string", "hash of the file's text; every signal carries it"),
    ("status", "string", "active, paused or stopped"),
    ("mode", "string"),
)

_TRADES_SCHEMA = table_schema(
    ("strategy", "string"),
    ("symbol", "string"),
    ("side", "string"),
    ("quantity", "float64"),
    ("signal_time", "timestamp", "close of the bar that decided the entry"),
    ("entry_time", "timestamp"),
    ("entry_price", "float64", "after slippage"),
    ("exit_time", "timestamp"),
    ("exit_price", "float64", "after slippage"),
    ("reason", "string", "stop, target, rule, max_bars, or open at the end"),
    ("pnl", "float64", "account currency, after commission"),
)


@dg.asset(
    group_name="trading",
    owners=["team:trading"],
    kinds={"yaml"},
    tags={"lane": "research"},
    metadata={"dagster/column_schema": _STRATEGIES_SCHEMA},
    description="Strategies, plans and risk limits as people edit them: revision, status and mode of each file, and what is "
    "wrong with the ones that do not validate. A bad file does not trade; the others go on.",
)
def strategies(config_files: ConfigFilesResource) -> dg.MaterializeResult:
    config = config_files.load()
    return dg.MaterializeResult(metadata=strategies_metadata(config), data_version=dg.DataVersion(files_version(config)))


def files_version(config: Config) -> str:
    """Hash of what every file says."""
    return content_hash([[f.path, f.revision] for f in config.files])[:24]


def strategies_metadata(config: Config) -> dict[str, Any]:
    """What the UI shows of the files; their revisions are kept."""
    known = config.evaluables()
    # Every revision that was ever in use can be compared with later ones, and its decisions replayed.
    store = ResearchStore(settings().path("research"))
    store.keep_files(settings().config, config.files, known)
    rows = []
    for file in config.files:
        e = known.get(file.name) if file.kind in ("strategies", "plans", "plugins") and not file.problems else None
        state = f"{len(file.problems)} problem(s): not used" if file.problems else "in use"
        if file.other_universe:
            state = f"for universe {file.other_universe}: not used"
        rows.append(
            [file.path, file.name, file.revision, state, e.status if e else "", str(e.mode) if e else "",
             ", ".join(e.symbols) if e else "", str(e.timeframe) if e else "", e.owner if e else "", e.description if e else ""]
        )  # fmt: skip
    header = ["file", "name", "revision", "state", "status", "mode", "instruments", "timeframe", "owner", "description"]
    return {
        "dagster/row_count": len(known),
        "active": len(config.active()),
        "files": dg.MetadataValue.md(markdown_table(header, rows)),
        "versions": dg.MetadataValue.md(_versions(store, known)),
        "config_problems": len(config.problems),
        "limits": dg.MetadataValue.json(config.limits.model_dump(mode="json")),
        "limits_missing": ", ".join(config.limits.missing()) or "none",
    }


NEWEST_CHANGES = 5


def _versions(store: ResearchStore, known: Mapping[str, Evaluable]) -> str:
    """How many revisions each strategy and plan has had, and what the newest changes were, newest first."""
    rows: list[list[Any]] = []
    changes: list[tuple[int, str, str]] = []
    for name, evaluable in sorted(known.items()):
        kept = store.revisions(name)
        if not kept:
            continue
        used = next((i for i, r in enumerate(kept) if r.revision == evaluable.revision), len(kept) - 1)
        rows.append([name, len(kept), evaluable.revision, iso(kept[used].seen_wall)])
        if used:
            changed = difference(kept[used - 1], kept[used])
            changes.append((kept[used].seen_wall, name, changed or "a file it is made of changed"))
    newest = sorted(changes, reverse=True)[:NEWEST_CHANGES]
    shown = [f"**{name}**\n\n```diff\n{text}\n```" for _, name, text in newest]
    return "\n\n".join([markdown_table(["name", "revisions", "in use", "first seen"], rows), *shown])


@dg.asset_check(
    asset=strategies,
    description="Every file of the config folder validates. Each problem is shown with file, line, key, what was expected "
    "and the nearest valid name. What does not validate does not trade.",
)
def config_valid(config_files: ConfigFilesResource) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(**config_verdict(config_files.load))


def config_verdict(load: Callable[[], Config]) -> dict[str, Any]:
    """passed, severity, description and metadata of `config_valid`: every problem of every file at once.

    An error where a file is not used for what it says (or limits are missing); a warning where only research's files have
    problems, which no order depends on.
    """
    from resources.config import ConfigInvalid
    from resources.research_files import asked_of

    asked: list[Problem] = []
    try:
        config = load()
        problems, warned, missing = list(config.problems), config.warnings, config.limits.missing()
        asked = asked_of(config, settings().config).problems
    except ConfigInvalid as error:
        problems, warned, missing = error.problems, [], []
    count = len(problems) + len(asked)
    said = f"{count} problem(s)" + (f"; limits missing: {', '.join(missing)}" if missing else "")
    return {
        "passed": not count and not missing,
        "severity": dg.AssetCheckSeverity.ERROR if problems or missing else dg.AssetCheckSeverity.WARN,
        "description": said if count or missing else "every file validates",
        "metadata": {
            "problems": dg.MetadataValue.md(markdown_table(PROBLEM_HEADER, problem_rows([*problems, *asked]))),
            "warnings": dg.MetadataValue.md(markdown_table(PROBLEM_HEADER, problem_rows(warned))),
            "count": count,
            "warned": len(warned),
            "limits_missing": ", ".join(missing) or "none",
        },
    }


PROBLEM_HEADER = ["file", "line", "key", "problem", "expected", "did you mean"]


def problem_rows(problems: Iterable[Problem]) -> list[list[Any]]:
    """Rows under PROBLEM_HEADER."""
    return [[p.file, p.line, p.key, p.message, p.expected, p.nearest] for p in problems]


@dg.asset(
    group_name="research",
    owners=["team:research"],
    kinds={"python", "numba"},
    tags={"lane": "research"},
    deps=[strategies, *[dg.AssetKey(f"bars_{t}") for t in timeframes_of(configured_universe())]],
    metadata={"dagster/column_schema": _TRADES_SCHEMA},
    description="Every strategy and plan over the whole history in the lake: the same rules, fills, costs, sizes and risk "
    "limits as on the desk, each on an account of its own. What was refused is counted by code.",
)
def strategy_backtests(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    from resources.plots import Curve, equity_and_drawdown

    config = config_files.load()
    cash, currency = settings().paper_cash, settings().account_currency
    runs, failed = research_run.run_prepared(*research_run.prepare_once(context.run_id, config, lake.lake(), cash))
    for failure in failed:
        context.log.warning(f"{failure.kind} {failure.name} was not tested: {failure.reason}")
    refusals = [[r.evaluable.name, code, n] for r in runs for code, n in sorted(r.result.refusals.items())]
    ignored = [[r.evaluable.name, symbol, why] for r in runs for symbol, why in r.ignored.items()]
    ignored += [[f.name, "all", f.reason] for f in failed]
    ignored += [[p.file, "", str(p)] for p in config.problems]
    metadata: dict[str, Any] = {
        "dagster/row_count": sum(len(r.result.trades) for r in runs),
        "strategies": len(runs),
        "metrics": dg.MetadataValue.md(markdown_table(research_run.METRICS_HEADER, [research_run.metrics_row(r) for r in runs])),
        "refused": dg.MetadataValue.md(markdown_table(["strategy", "code", "entry wishes refused"], refusals)),
        "doubtful": dg.MetadataValue.md(
            markdown_table(
                ["strategy", "instrument", "why"], [[r.evaluable.name, s, why] for r in runs for s, why in r.doubts.items()]
            )
        ),
        "not_tested": dg.MetadataValue.md(markdown_table(["strategy or file", "instrument", "why"], ignored)),
        "costs": dg.MetadataValue.md(
            markdown_table(
                ["strategy", "commission", "rate", "minimum", "slippage", "value"],
                [
                    [
                        r.evaluable.name,
                        r.costs.commission_kind,
                        r.costs.rate,
                        r.costs.minimum,
                        r.costs.slippage_kind,
                        r.costs.value,
                    ]
                    for r in runs
                ],
            )
        ),
        "newest_trades": dg.MetadataValue.md(
            markdown_table(
                ["strategy", "instrument", "side", "quantity", "entry", "price", "exit", "price", "why", "P&L"],
                research_run.trade_rows(runs, 10),
                40,
            )
        ),
        "revisions": dg.MetadataValue.json({r.evaluable.name: r.evaluable.revision for r in runs}),
        "ambiguous_bars": sum(r.result.ambiguous_bars for r in runs),
        "halts": dg.MetadataValue.md(
            markdown_table(research_run.HALTS_HEADER, research_run.halt_rows([r.result for r in runs]), 60)
        ),
        "account": f"{cash:,.0f} {currency} for each, mode BACKTEST"
        + (", SIMULATED market data" if config.universe.simulated else ""),
    }
    for run in runs:
        name = run.evaluable.name
        heading = f"{name}: {100 * run.metrics.total_return:+.2f} % after costs, {run.metrics.trades} trades"
        metadata[f"equity_{name}"] = image(
            equity_and_drawdown([Curve(name, run.result.close_time, run.result.equity)], currency, heading), f"equity of {name}"
        )
    return dg.MaterializeResult(metadata=metadata)


ASSETS: list[Any] = [strategies, strategy_backtests]
CHECKS: list[Any] = [config_valid]
