"""Research assets: is a strategy's result better than luck, than doing nothing, than its neighbours? One asset a question.

`baselines`, `monte_carlo` and `promotion` are quick and run with every research job; `grids`, `walk_forward` and `perturbed`
belong to job research_deep. What they find of a revision is kept in data/research and shown together in one HTML page.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from assets import research_figures as figures
from assets.common import image, markdown_table
from assets.research import strategies, strategy_backtests
from assets.research_run import NotRun, Prepared, prepare_once
from resources.dagster_resources import ConfigFilesResource, LakeResource
from resources.research_store import ResearchStore
from resources.settings import settings

_COMMON: dict[str, Any] = {"group_name": "research", "owners": ["team:research"], "tags": {"lane": "research"}}


class Chosen(dg.Config):
    """Which strategies, and how much work."""

    strategies: list[str] = []  # noqa: RUF012 dagster copies it
    """Names; empty: all."""
    paths: int = figures.PATHS
    """Resampled histories of Monte Carlo."""
    random_seeds: int = figures.RANDOM_SEEDS
    """Runs with random entries."""
    seed: int = 0


class Deep(dg.Config):
    """Which strategies, and how much work."""

    strategies: list[str] = []  # noqa: RUF012 dagster copies it
    """Names; empty: all."""
    runs: int = 1_000
    """Runs on perturbed bars."""
    noise: float = 0.1
    """Size of the noise, in deviations of a bar's return."""
    folds: int = figures.FOLDS
    seed: int = 0


def research_store() -> ResearchStore:
    """What research keeps, in the data folder."""
    return ResearchStore(settings().path("research"))


def _each(
    context: dg.AssetExecutionContext, config: Any, lake: Any, names: list[str], kind: str, make: Callable[[Prepared], Any]
) -> dg.MaterializeResult:
    """`make` for every strategy, kept and shown; one that fails is named and stops no other."""
    prepared, failed = prepare_once(context.run_id, config, lake, settings().paper_cash, names)
    store = research_store()
    metadata: dict[str, Any] = {}
    for one in prepared:
        name = one.evaluable.name
        try:
            shown = make(one)
        except ValueError as error:
            failed.append(NotRun(name, one.evaluable.kind, str(error)))
            continue
        if shown is None:
            continue
        figures.keep(store, one, kind, shown)
        metadata[name] = dg.MetadataValue.md(markdown_table(shown.header, shown.rows, 60) + _notes(shown.notes))
        for picture, content in shown.pictures.items():
            metadata[f"{picture}_{name}"] = image(content, f"{picture} of {name}")
        for key, value in shown.figures.items():  # numbers that the UI draws over the runs
            if isinstance(value, float) and value == value and abs(value) != float("inf"):
                metadata[f"{name}/{key}"] = value
    for failure in failed:
        context.log.warning(f"{failure.kind} {failure.name}: {failure.reason}")
    metadata["not_computed"] = dg.MetadataValue.md(markdown_table(["strategy", "why"], [[f.name, f.reason] for f in failed]))
    metadata["simulated_data"] = config.universe.simulated
    return dg.MaterializeResult(metadata=metadata)


def _notes(notes: list[str]) -> str:
    return "".join(f"\n\n{note}" for note in notes)


@dg.asset(
    **_COMMON,
    name="strategy_baselines",
    deps=[strategy_backtests],
    kinds={"python", "numba"},
    description="Each strategy beside what else the money could have done on the same bars, sizes and costs: nothing, buy and "
    "hold, an average cross, random entries with its own exits; its own costs at 0, 1, 2 and 5 times; by regime and hour.",
)
def strategy_baselines(
    context: dg.AssetExecutionContext, config: Chosen, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    currency = settings().account_currency
    splits: list[list[Any]] = []

    def make(one: Prepared) -> figures.Shown:
        shown = figures.baselines_of(one, currency, config.random_seeds)
        splits.extend([shown.name, *row] for row in figures.split_rows(shown.figures))
        return shown

    made = _each(context, config_files.load(), lake.lake(), config.strategies, "baselines", make)
    table = dg.MetadataValue.md(markdown_table(["strategy", *figures.SPLIT_HEADER], splits, 120))
    return dg.MaterializeResult(metadata={**(made.metadata or {}), "splits": table})


@dg.asset(
    **_COMMON,
    name="strategy_monte_carlo",
    deps=[strategy_backtests],
    kinds={"python", "numba"},
    description="Other ways each result could have gone: thousands of histories resampled in blocks from its own sessions, and "
    "its trades in random order, with 95 % intervals of result and drawdown.",
)
def strategy_monte_carlo(
    context: dg.AssetExecutionContext, config: Chosen, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    make = lambda one: figures.monte_carlo_of(one, config.paths, config.seed)  # noqa: E731
    return _each(context, config_files.load(), lake.lake(), config.strategies, "monte_carlo", make)


@dg.asset(
    **_COMMON,
    name="parameter_grids",
    deps=[strategy_backtests],
    kinds={"python", "numba", "mlflow"},
    description="Every variant that data/config/research asks for, on the same bars, counted in MLflow: probability of backtest "
    "overfitting, superior ability and reality check against doing nothing and buy and hold. Job research_deep.",
)
def parameter_grids(
    context: dg.AssetExecutionContext, config: Deep, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    from resources.research_files import load_grids
    from resources.research_trials import TrialBook

    loaded = config_files.load()
    grids = load_grids(loaded, settings().config)
    store = research_store()
    book = TrialBook(settings().mlflow_url, store)

    def make(one: Prepared) -> figures.Shown | None:
        name = one.evaluable.name
        if name not in grids.variants:
            return None
        context.log.info(f"{name}: {len(grids.variants[name])} variants")
        shown, arrays = figures.grid_of(
            one, grids.variants[name], loaded.universe, book, text=grids.texts[name],
            tags={"dagster_run_id": context.run_id, "revision": one.evaluable.revision, "snapshot": one.snapshot},
        )  # fmt: skip
        store.put_arrays(name, one.evaluable.revision, "grid", **arrays)
        return shown

    made = _each(context, loaded, lake.lake(), config.strategies, "grid", make)
    problems = markdown_table(["file", "line", "key", "problem", "expected", "did you mean"],
                              [[p.file, p.line, p.key, p.message, p.expected, p.nearest] for p in grids.problems])  # fmt: skip
    return dg.MaterializeResult(metadata={**(made.metadata or {}), "problems": dg.MetadataValue.md(problems)})


@dg.asset(
    **_COMMON,
    name="walk_forward",
    deps=[parameter_grids],
    kinds={"python"},
    description="Parameters chosen on the past only, results on what came after: anchored and rolling walk-forward, purged by "
    "the longest trade and embargoed, and combinatorial purged cross-validation. Job research_deep.",
)
def walk_forward(
    context: dg.AssetExecutionContext, config: Deep, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    store = research_store()

    def make(one: Prepared) -> figures.Shown | None:
        e = one.evaluable
        arrays, kept = store.arrays(e.name, e.revision, "grid"), store.get(e.name, e.revision, "grid")
        if arrays is None or kept is None:
            return None
        if kept["snapshot"] != one.snapshot:
            raise ValueError("its grid was computed on other bars: materialise parameter_grids again")
        return figures.walk_forward_of(one, arrays, config.folds)

    return _each(context, config_files.load(), lake.lake(), config.strategies, "walk_forward", make)


@dg.asset(
    **_COMMON,
    name="perturbed_bars",
    deps=[strategy_backtests],
    kinds={"python", "numba"},
    description="Each strategy on a thousand copies of its bars moved by noise, with costs between half and twice its own: a "
    "result that hangs on single ticks is none. Job research_deep.",
)
def perturbed_bars(
    context: dg.AssetExecutionContext, config: Deep, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    def make(one: Prepared) -> figures.Shown:
        name, every = one.evaluable.name, max(1, config.runs // 5)
        tell = lambda done, of: context.log.info(f"{name}: {done} of {of} runs") if done % every == 0 else None  # noqa: E731
        return figures.perturbed_of(one, config.runs, config.noise, config.seed, tell)

    return _each(context, config_files.load(), lake.lake(), config.strategies, "perturbed", make)


RESEARCH_PROMOTION = "research_promotion"


@dg.asset(
    **_COMMON,
    name="strategy_promotion",
    deps=[strategies, strategy_backtests, strategy_baselines, strategy_monte_carlo, parameter_grids, walk_forward],
    kinds={"python", "mlflow", "html"},
    check_specs=[
        dg.AssetCheckSpec(
            RESEARCH_PROMOTION,
            asset="strategy_promotion",
            description="Every active strategy meets every criterion for trading with money. Those that do not are named; what "
            "was not measured counts as not met.",
        )
    ],
    description="The case for and against each strategy: criterion, value, 95 % interval, threshold, verdict, with the number of "
    "trials from MLflow, and one HTML page with every table and picture.",
)
def strategy_promotion(
    context: dg.AssetExecutionContext, config: Chosen, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    from assets.research_page import write_page
    from resources.research_files import text_of
    from resources.research_trials import TrialBook
    from trading.research_grid import rules_hash

    loaded, store = config_files.load(), research_store()
    book = TrialBook(settings().mlflow_url, store)
    verdicts: list[list[Any]] = []
    pages: dict[str, Any] = {}

    def make(one: Prepared) -> figures.Shown:
        e = one.evaluable
        found = text_of(loaded, settings().config, e.name)
        trials = book.count(
            e.name,
            [rules_hash(found[1]) if found else e.revision],
            tags={"dagster_run_id": context.run_id, "revision": e.revision},
        )
        shown, criteria = figures.promotion_of(one, store, trials, _audited(store, e.name, e.revision), config.seed)
        missing = [c.name for c in criteria if not c.passed]
        verdicts.append([e.name, e.status, "yes" if not missing else "no", f"{len(criteria) - len(missing)} of {len(criteria)}",
                         "; ".join(missing)])  # fmt: skip
        return shown

    made = _each(context, loaded, lake.lake(), config.strategies, "promotion", make)
    for name, evaluable in loaded.evaluables().items():
        if store.get(name, evaluable.revision, "promotion") is not None:
            place = write_page(store, name, evaluable.revision, loaded.universe.simulated)
            pages[f"page_{name}"] = dg.MetadataValue.path(str(place))
    active = [row for row in verdicts if row[1] == "active"]
    bad = [row for row in active if row[2] == "no"]
    table = dg.MetadataValue.md(markdown_table(["strategy", "status", "promoted", "criteria met", "not met"], verdicts))
    return dg.MaterializeResult(
        metadata={**(made.metadata or {}), **pages, "verdicts": table},
        check_results=[
            dg.AssetCheckResult(
                passed=not bad,
                check_name=RESEARCH_PROMOTION,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{len(active) - len(bad)} of {len(active)} active strategies meet every criterion",
                metadata={"verdicts": table},
            )
        ],
    )


def _audited(store: ResearchStore, name: str, revision: str) -> bool | None:
    """Verdict of the look-ahead audit on this revision and on everything strategies are made of; None: never audited."""
    own, parts = store.get(name, revision, "audit"), store.get("catalogue", "all", "audit")
    if own is None or parts is None:
        return None
    return bool(own.get("passed")) and bool(parts.get("passed"))


LIGHT: list[Any] = [strategy_baselines, strategy_monte_carlo, strategy_promotion]
DEEP: list[Any] = [parameter_grids, walk_forward, perturbed_bars]
ASSETS: list[Any] = [*LIGHT, *DEEP]
