"""``tapeline research``: revisions of strategies, what is known of each, two of them against each other, all of them together.

Exit codes: 0 done, 1 something asked for is not there or cannot be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import WRONG, fail, own_settings, print_json, table

if TYPE_CHECKING:
    from resources.config import Config
    from resources.research_store import ResearchStore

app = typer.Typer(help="Research: is a strategy better than luck?", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
NameOf = Annotated[str, typer.Argument(metavar="NAME", help="a strategy or plan")]


def _config() -> Config:
    from resources.config import ConfigInvalid, load_config

    try:
        return load_config(own_settings())
    except ConfigInvalid as error:
        fail(str(error), WRONG)


def _store(config: Config) -> ResearchStore:
    """The store, with the files as they are now among its revisions."""
    from resources.research_store import ResearchStore

    own = own_settings()
    store = ResearchStore(own.path("research"))
    store.keep_files(own.config, config.files, config.evaluables())
    return store


@app.command()
def revisions(name: NameOf, as_json: AsJson = False) -> None:
    """Every revision of a strategy or plan that was ever seen here, the oldest first."""
    from trading.timeframes import iso

    config = _config()
    kept = _store(config).revisions(name)
    if not kept:
        fail(f"no revision of {name!r} is kept; known are {', '.join(_store(config).names()) or 'none'}", WRONG)
    current = config.evaluables().get(name)
    rows = [
        {"revision": r.revision, "first seen": iso(r.seen_wall), "file": r.path,
         "now": "in use" if current is not None and current.revision == r.revision else ""}
        for r in kept
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        table(f"revisions of {name}", list(rows[0]), [list(r.values()) for r in rows])


@app.command()
def diff(
    name: NameOf,
    rev_a: Annotated[str, typer.Argument(metavar="[REV_A]", help="beginning of a revision's hash; default: the one before")] = "",
    rev_b: Annotated[str, typer.Argument(metavar="[REV_B]", help="beginning of the other's; default: the newest")] = "",
) -> None:
    """What was changed in the file of a strategy or plan between two revisions."""
    from resources.research_store import UnknownRevision, difference

    store = _store(_config())
    kept = store.revisions(name)
    if not rev_a and len(kept) < 2:
        fail(f"{len(kept)} revision(s) of {name!r} are kept: nothing to compare with", WRONG)
    try:
        after = store.revision(name, rev_b) if rev_b else kept[-1] if kept else store.revision(name, "")
        before = store.revision(name, rev_a) if rev_a else kept[-2]
    except UnknownRevision as error:
        fail(str(error), WRONG)
    typer.echo(difference(before, after) or "the files are the same")


@app.command()
def compare(
    name: NameOf,
    rev_a: Annotated[str, typer.Argument(metavar="REV_A", help="beginning of a revision's hash")],
    rev_b: Annotated[str, typer.Argument(metavar="REV_B", help="beginning of the other's")],
    picture: Annotated[Path | None, typer.Option(help="Write both equity curves here (PNG)")] = None,
    as_json: AsJson = False,
) -> None:
    """Two revisions on identical bars: paired bootstrap verdict, and what was changed in the file."""
    from assets.research_compare import compare_revisions
    from resources.lake import LakeError, open_lake
    from resources.research_store import UnknownRevision

    config = _config()
    try:
        done = compare_revisions(name, rev_a, rev_b, config, open_lake(own_settings()), own_settings().paper_cash, _store(config))
    except (UnknownRevision, ValueError, LakeError) as error:
        fail(str(error), WRONG)
    if picture is not None:
        picture.write_bytes(done.shown.pictures["compare"])
    if as_json:
        print_json({"a": done.a.revision, "b": done.b.revision, **done.shown.figures, "diff": done.diff})
        return
    table(
        f"{name}: a = {done.a.revision}, b = {done.b.revision}: {done.shown.figures['verdict']}", list(done.shown.header),
        [[str(c) for c in row] for row in done.shown.rows],
    )  # fmt: skip
    typer.echo(done.diff or "the files are the same")


@app.command()
def show(name: NameOf, as_json: AsJson = False) -> None:
    """The criteria of a strategy's promotion, as the newest research run judged the file in use."""
    config = _config()
    current = config.evaluables().get(name)
    if current is None:
        fail(f"no strategy or plan {name!r}: expected one of {', '.join(sorted(config.evaluables()))}", WRONG)
    store = _store(config)
    kept: dict[str, Any] | None = store.get(name, current.revision, "promotion")
    if kept is None:
        fail(f"{name} {current.revision} was not researched yet: run job research (and research_deep)", WRONG)
    if as_json:
        print_json(kept)
        return
    verdict = "promoted" if kept["promoted"] else f"{kept['met']} of {kept['criteria']} criteria met"
    table(f"{name} {current.revision}: {verdict}", kept["header"], [[str(c) for c in row] for row in kept["rows"]])
    page = store.folder(name, current.revision) / "report.html"
    if page.exists():
        typer.echo(f"every table and picture: {page}")


@app.command()
def portfolio(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Trade these; none: as their files say")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write the whole result here, one HTML page")] = None,
    as_json: AsJson = False,
) -> None:
    """All strategies and plans on one account over the history in the lake, with conflicts, legs, budgets and limits as live."""
    from assets import portfolio_run
    from assets.research_run import prepare_all
    from resources.backtest_view import html
    from resources.lake import open_lake
    from trading.experiment import per_year

    config, own = _config(), own_settings()
    try:
        prepared, failed = prepare_all(config, open_lake(own), own.paper_cash, names or [])
        found = portfolio_run.portfolio(prepared, failed, config, own.paper_cash, own.account_currency, all_trade=bool(names))
    except ValueError as error:
        fail(str(error), WRONG)
    left_out = found.left_out | {p.file: "it has mistakes (tapeline config check)" for p in config.problems}
    if page is not None:
        page.write_text(html(found.result, "Portfolio", per_year(found.result.close_time)), encoding="utf-8")
    if as_json:
        print_json(
            {"traded": found.traded, "heard": found.heard, "left_out": left_out, "metrics": found.metrics.to_dict(),
             "slots": [dict(zip(portfolio_run.HEADER, row, strict=True)) for row in portfolio_run.rows(found)],
             "halts": found.result.halt_rows(),
             "refused": [dict(zip(portfolio_run.REFUSED_HEADER, r, strict=True)) for r in portfolio_run.refused_rows(found)]}
        )  # fmt: skip
        return
    said = f"conflicts: {found.conflicts.policy}" + ("" if found.conflicts.positions == "ignore" else ", positions block")
    table(f"one account of {own.paper_cash:,.0f} {own.account_currency}; {said}", list(portfolio_run.HEADER),
          [[str(c) for c in row] for row in portfolio_run.rows(found)])  # fmt: skip
    if refused := [[str(c) for c in row] for row in portfolio_run.refused_rows(found)]:
        table("refused", list(portfolio_run.REFUSED_HEADER), refused)
    for name, why in left_out.items():
        typer.echo(f"left out: {name}: {why}")
    if halts := found.result.halt_rows():
        table("breakers (the operator resumes at the next session)", ["time", "what is halted", "breaker", "what it does"],
              [[str(h[name]) for name in ("time", "scope", "code", "level")] for h in halts[-20:]])  # fmt: skip
    if found.heard:
        typer.echo(f"heard, not traded (shadow or alert): {', '.join(found.heard)}")


@app.command()
def trials(name: NameOf) -> None:
    """How many variants of a strategy were ever tried: the N that its deflated figures know."""
    from resources.research_trials import TrialBook

    said = TrialBook(own_settings().mlflow_url, _store(_config())).count(name, [])
    typer.echo(f"{name}: {said.total} variants" + ("" if said.tracked else f" on this machine; {said.why}"))
