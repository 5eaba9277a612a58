"""Research assets: is a strategy's result better than luck, than doing nothing, than its neighbours? One asset a question.

`baselines`, `monte_carlo` and `promotion` are quick and run with every research job; `grids`, `walk_forward` and `perturbed`
belong to job research_deep. What they find of a revision is kept in data/research and shown together in one HTML page. A
question that was answered before, of the same bars, files and code, is not worked out again.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Optional

import dagster as dg

from assets import research_figures as figures
from assets.common import image, markdown_table
from assets.research import PROBLEM_HEADER, problem_rows, strategies, strategy_backtests
from assets.research_run import NotRun, Prepared, prepare_once
from resources.dagster_resources import ConfigFilesResource, LakeResource
from resources.research_store import ResearchStore
from resources.settings import settings

_COMMON: dict[str, Any] = {"group_name": "research", "owners": ["team:research"], "tags": {"lane": "research"}}


class Chosen(dg.Config):
    """Which strategies, and how much work. What is empty is as the strategy's file asks (key research), else the default."""

    strategies: list[str] = []  # noqa: RUF012 dagster copies it
    """Names; empty: all."""
    paths: Optional[int] = None  # noqa: UP045 dagster reads the annotation
    """Resampled histories of Monte Carlo; default 2,000."""
    random_seeds: Optional[int] = None  # noqa: UP045
    """Runs with random entries; default 50."""
    seed: int = 0
    fresh: bool = False
    """Work out again what was answered before."""


class Deep(dg.Config):
    """Which strategies, and how much work. What is empty is as the strategy's file asks (key research), else the default."""

    strategies: list[str] = []  # noqa: RUF012 dagster copies it
    """Names; empty: all."""
    runs: Optional[int] = None  # noqa: UP045
    """Runs on perturbed bars; default 1,000."""
    noise: Optional[float] = None  # noqa: UP045
    """Size of the noise, in deviations of a bar's return; default 0.1."""
    folds: Optional[int] = None  # noqa: UP045
    """Test spans of the walk-forward; default 6."""
    seed: int = 0
    fresh: bool = False
    """Work out again what was answered before."""


def research_store() -> ResearchStore:
    """What research keeps, in the data folder."""
    return ResearchStore(settings().path("research"))


@cache
def _sources() -> str:
    from resources.revision import source_hash

    return source_hash()


def _basis(config: Any, kind: str, asked: Mapping[str, Any]) -> str:
    """Hash of what a figure depends on beside the strategy's revision and bars: code, limits, instruments, plug-ins, cash."""
    from trading.ids import content_hash

    plugins = sorted((f.path, f.revision) for f in config.files if f.kind == "plugins")
    own = settings()
    return content_hash(
        [kind, dict(asked), _sources(), config.universe.revision, config.limits.model_dump(mode="json"), plugins,
         own.paper_cash, own.account_currency]
    )[:24]  # fmt: skip


def _each(
    context: dg.AssetExecutionContext, config: Any, lake: Any, chosen: Chosen | Deep, kind: str,
    make: Callable[..., figures.Shown | None], ask: Callable[[str], dict[str, Any]] | None = None,
) -> dg.MaterializeResult:  # fmt: skip
    """`make` for every strategy, kept and shown; one that fails is named and stops no other.

    ask: the settings `make` is given for the strategy of a name; with it, a question answered before is not worked out again.
    """
    prepared, failed = prepare_once(context.run_id, config, lake, settings().paper_cash, chosen.strategies)
    store = research_store()
    metadata: dict[str, Any] = {}
    tables: dict[str, tuple[list[str], list[list[Any]]]] = {}
    known = 0
    for one in prepared:
        name = one.evaluable.name
        asked = ask(name) if ask is not None else {}
        basis = f"{_basis(config, kind, asked)}-{figures.inputs_hash(one)}" if ask is not None else ""
        shown = None if chosen.fresh else figures.kept(store, one, kind, basis)
        if shown is not None:
            known += 1
        else:
            try:
                shown = make(one, **asked)
            except ValueError as error:
                failed.append(NotRun(name, one.evaluable.kind, str(error)))
                continue
            if shown is None:
                continue
            figures.keep(store, one, kind, shown, basis)
        for table, (header, rows) in shown.tables.items():
            tables.setdefault(table, (["strategy", *header], []))[1].extend([name, *row] for row in rows)
        metadata[name] = dg.MetadataValue.md(markdown_table(shown.header, shown.rows, 60) + _notes(shown.notes))
        for picture, content in shown.pictures.items():
            metadata[f"{picture}_{name}"] = image(content, f"{picture} of {name}")
        for key, value in shown.figures.items():  # numbers that the UI draws over the runs
            if isinstance(value, float) and value == value and abs(value) != float("inf"):
                metadata[f"{name}/{key}"] = value
    for failure in failed:
        context.log.warning(f"{failure.kind} {failure.name}: {failure.reason}")
    if known:
        context.log.info(f"{known} of {len(prepared)} answered before of the same bars, files and code: shown as they were")
    metadata |= {name: dg.MetadataValue.md(markdown_table(header, rows, 120)) for name, (header, rows) in tables.items()}
    metadata["not_computed"] = dg.MetadataValue.md(markdown_table(["strategy", "why"], [[f.name, f.reason] for f in failed]))
    metadata["simulated_data"] = config.universe.simulated
    return dg.MaterializeResult(metadata=metadata)


def _notes(notes: list[str]) -> str:
    return "".join(f"\n\n{note}" for note in notes)


def _progress(context: dg.AssetExecutionContext, name: str) -> Callable[[int, int], None]:
    """Says in the run's log how far the runs of a strategy are, about ten times."""

    def tell(done: int, of: int) -> None:
        if done % max(1, of // 10) == 0:
            context.log.info(f"{name}: {done} of {of} runs")

    return tell


def _first(*stated: Any) -> Any:
    """The first of `stated` that says something."""
    return next((value for value in stated if value is not None), None)


def _of(research: Any, part: str, key: str) -> Any:
    """What a strategy's research asks for under part.key, None when it does not say."""
    return getattr(getattr(research, part, None), key, None)


def _question(
    name: str, kind: str, config_type: type[dg.Config], ask: Callable[[Any, Any], dict[str, Any]],
    make: Callable[..., figures.Shown], description: str, tells: bool = False,
) -> dg.AssetsDefinition:  # fmt: skip
    """An asset that asks one question of every strategy. ask(run config, the strategy's research or None): settings of `make`,
    which is called as make(prepared, **settings). tells: it takes ``progress``, too."""

    @dg.asset(**_COMMON, name=name, deps=[strategy_backtests], kinds={"python", "numba"}, description=description)
    def question(
        context: dg.AssetExecutionContext,
        config: config_type,  # type: ignore[valid-type]
        config_files: ConfigFilesResource,
        lake: LakeResource,
    ) -> dg.MaterializeResult:
        from resources.research_files import asked_of

        def work(one: Prepared, **asked: Any) -> figures.Shown:
            return make(one, **asked, **({"progress": _progress(context, one.evaluable.name)} if tells else {}))

        loaded = config_files.load()
        wanted = asked_of(loaded, settings().config).research
        return _each(context, loaded, lake.lake(), config, kind, work, lambda one: ask(config, wanted.get(one)))

    return question


strategy_baselines = _question(
    "strategy_baselines", "baselines", Chosen,
    lambda config, research: {
        "currency": settings().account_currency, "seed": config.seed,
        "seeds": _first(config.random_seeds, _of(research, "random_entries", "seeds"), figures.RANDOM_SEEDS),
        "factors": list(getattr(research, "cost_factors", [])),
    },
    figures.baselines_of,
    "Each strategy beside what else the money could have done on the same bars, sizes and costs: nothing, buy and hold, an "
    "average cross, random entries with its own exits; its own costs at 0, 1, 2 and 5 times; by regime and hour.",
)  # fmt: skip

strategy_monte_carlo = _question(
    "strategy_monte_carlo", "monte_carlo", Chosen,
    lambda config, research: {
        "paths": _first(config.paths, _of(research, "monte_carlo", "paths"), figures.PATHS), "seed": config.seed,
        "block": _of(research, "monte_carlo", "block"),
    },
    figures.monte_carlo_of,
    "Other ways each result could have gone: thousands of histories resampled in blocks from its own sessions, and its trades "
    "in random order, with 95 % intervals of result and drawdown.",
)  # fmt: skip

perturbed_bars = _question(
    "perturbed_bars", "perturbed", Deep,
    lambda config, research: {
        "runs": _first(config.runs, _of(research, "perturbed", "runs"), figures.RUNS),
        "level": _first(config.noise, _of(research, "perturbed", "noise"), figures.NOISE), "seed": config.seed,
    },
    figures.perturbed_of,
    "Each strategy on a thousand copies of its bars moved by noise, with costs between half and twice its own: a result that "
    "hangs on single ticks is none. Job research_deep.",
    tells=True,
)  # fmt: skip


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
            progress=_progress(context, name),
        )  # fmt: skip
        store.put_arrays(name, one.evaluable.revision, "grid", **arrays)
        return shown

    made = _each(context, loaded, lake.lake(), config, "grid", make)
    problems = markdown_table(PROBLEM_HEADER, problem_rows(grids.problems))
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
    from resources.research_files import asked_of

    store, loaded = research_store(), config_files.load()
    asked = asked_of(loaded, settings().config).research

    def make(one: Prepared) -> figures.Shown | None:
        e = one.evaluable
        arrays, kept = store.arrays(e.name, e.revision, "grid"), store.get(e.name, e.revision, "grid")
        if arrays is None or kept is None:
            return None
        if kept["snapshot"] != one.snapshot:
            raise ValueError("its grid was computed on other bars: materialise parameter_grids again")
        folds = _first(config.folds, _of(asked.get(e.name), "walk_forward", "folds"), figures.FOLDS)
        return figures.walk_forward_of(one, arrays, folds)

    return _each(context, loaded, lake.lake(), config, "walk_forward", make)


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
    from assets.research_verdicts import promotion_of
    from resources.research_files import text_of
    from resources.research_plots import believed
    from resources.research_trials import TrialBook
    from trading.promotion import CONFIDENCE
    from trading.research_grid import rules_hash

    loaded, store = config_files.load(), research_store()
    book = TrialBook(settings().mlflow_url, store)
    verdicts: list[list[Any]] = []
    pages: dict[str, Any] = {}
    compared: dict[str, dict[str, Any]] = {}

    def make(one: Prepared) -> figures.Shown:
        e = one.evaluable
        found = text_of(loaded, settings().config, e.name)
        trials = book.count(
            e.name,
            [rules_hash(found[1]) if found else e.revision],
            tags={"dagster_run_id": context.run_id, "revision": e.revision},
        )
        shown, criteria = promotion_of(one, store, trials, _audited(store, e.name, e.revision), config.seed)
        compared[e.name] = shown.figures
        missing = [c.name for c in criteria if not c.passed]
        verdicts.append([e.name, e.status, "yes" if not missing else "no", f"{len(criteria) - len(missing)} of {len(criteria)}",
                         "; ".join(missing)])  # fmt: skip
        return shown

    made = _each(context, loaded, lake.lake(), config, "promotion", make)
    for name, evaluable in loaded.evaluables().items():
        if store.get(name, evaluable.revision, "promotion") is not None:
            place = write_page(store, name, evaluable.revision, loaded.universe.simulated)
            pages[f"page_{name}"] = dg.MetadataValue.path(str(place))
    judged = {row[0] for row in verdicts}
    for name, evaluable in sorted(loaded.evaluables().items()):  # what could not be judged is not promoted
        if name not in judged and (not config.strategies or name in config.strategies):
            verdicts.append([name, evaluable.status, "no", "none", "could not be judged: see not_computed"])
    active = [row for row in verdicts if row[1] == "active"]
    bad = [row for row in active if row[2] == "no"]
    table = dg.MetadataValue.md(markdown_table(["strategy", "status", "promoted", "criteria met", "not met"], verdicts))
    if compared:
        pages["believed"] = image(believed(compared, CONFIDENCE), "every strategy: Sharpe ratio, deflated, track record")
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
