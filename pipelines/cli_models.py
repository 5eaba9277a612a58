"""``tapeline models``: which model version serves which strategy, fetched by hand, rolled back by one command.

Exit codes: 0 done, 1 something asked for is not there or a refusal, 3 MLflow or the ledger cannot be reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import UNREACHABLE, WRONG, fail, open_ledger, own_settings, print_json, table, warn, who_asks

if TYPE_CHECKING:
    from resources.config import Config
    from resources.model_store import ModelStore
    from resources.tracking import Tracking

app = typer.Typer(help="Models: what serves which strategy, fetch, roll back.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Name = Annotated[str, typer.Argument(help="A model of data/config/models, or its whole name in the registry")]


def _config() -> Config:
    from resources.config import ConfigInvalid, load_config

    try:
        return load_config(own_settings())
    except ConfigInvalid as error:
        fail(str(error), WRONG)


def _store() -> ModelStore:
    from resources.model_store import ModelStore

    return ModelStore.of(own_settings())


def _tracking() -> Tracking:
    from resources.tracking import Tracking

    return Tracking(own_settings().mlflow_url)


def _registered(name: str, config: Config) -> str:
    """Its name in the registry; one line and exit code 1 when there is no such model."""
    from resources.model_serving import registered_models

    known = registered_models(config, own_settings())
    fitting = [r for r in known if r == name or r == f"tapeline-{name}-{config.universe.name}"]
    fitting = fitting or [r for r in known if r.startswith(f"tapeline-{name}-")]
    if len(fitting) != 1:
        fail(f"{'no model' if not fitting else 'several models'} {name!r}: expected one of {', '.join(known) or 'none'}", WRONG)
    return fitting[0]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every model and what MLflow named champion, challenger and previous when it was last asked; every model strategy."""
    from dataclasses import asdict

    from resources.model_serving import registered_models, status
    from resources.model_store import ModelRefused
    from trading.timeframes import iso

    config, store, own = _config(), _store(), own_settings()
    models: list[dict[str, str]] = []
    for registered in registered_models(config, own):
        try:
            aliases, trouble = store.aliases(registered), ""
        except ModelRefused as error:
            aliases, trouble = None, str(error)
        here = " ".join(k.version for k in store.versions(registered))
        named = {a: getattr(aliases, a, "") for a in ("champion", "challenger", "previous")}
        asked = iso(aliases.asked_wall) if aliases is not None else trouble or "never fetched"
        models.append({"model": registered, **named, "on this disk": here, "MLflow asked": asked})
    with open_ledger() as ledger:
        strategies = status(config, ledger, own)
    if as_json:
        print_json({"models": models, "strategies": [asdict(s) for s in strategies]})
        return
    columns = ["model", "champion", "challenger", "previous", "on this disk", "MLflow asked"]
    table("models", columns, [[m[c] for c in columns] for m in models])
    header = ["strategy", "mode", "model", "serves", "since", "MLflow run", "data", "champion", "challenger", "refusal"]
    table("model strategies", header, [s.cells() for s in strategies])


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One model: every version on this disk and whether it may serve, and what served which strategy when."""
    from resources.model_serving import history, registered_of
    from resources.model_store import ModelRefused
    from trading.models import model_strategies
    from trading.timeframes import iso

    config, store = _config(), _store()
    registered = _registered(name, config)
    versions: list[dict[str, str]] = []
    for kept in store.versions(registered):
        try:
            served: Any = store.load(registered, kept.version)
            may = "may serve"
        except ModelRefused as error:
            served, may = None, str(error)
        versions.append({
            "version": kept.version, "serving": may, "files": kept.files_hash[:12], "MLflow run": kept.run_id,
            "data": kept.tags.get("data_hash", "")[:12], "data kind": kept.tags.get("data_kind", ""),
            "trained until": iso(served.trained_until) if served is not None else "",
            "promotion": kept.tags.get("promotion", ""),
        })  # fmt: skip
    changes: list[dict[str, str]] = []
    with open_ledger() as ledger, ledger.engine.connect() as c:
        for strategy in model_strategies(config.strategies).values():
            if registered_of(strategy, config.universe.name) == registered:
                changes += [
                    {"strategy": strategy.name, "version": e.version, "after close": iso(e.since_time), "why": e.why,
                     "noted": iso(e.wall)}
                    for e in history(c, strategy.name)
                ]  # fmt: skip
    if as_json:
        print_json({"model": registered, "versions": versions, "changes": changes})
        return
    if not versions:
        warn(f"no version of {registered} on this disk: `tapeline models fetch`")
    table(registered, list(versions[0]) if versions else ["version"], [list(v.values()) for v in versions])
    table("what served", ["strategy", "version", "after close", "why", "noted"], [list(v.values()) for v in changes])


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A model; none: all")] = "") -> None:
    """Ask MLflow which versions it names and keep those that are not here yet. Swaps nothing by itself."""
    from resources.model_serving import registered_models
    from resources.tracking import TrackingError

    config, store = _config(), _store()
    for registered in [_registered(name, config)] if name else registered_models(config, own_settings()):
        try:
            aliases = store.fetch(_tracking(), registered, typer.echo)
        except TrackingError as error:
            fail(f"nothing was changed, what is kept goes on serving: {error}", UNREACHABLE)
        named = ", ".join(f"{a} {getattr(aliases, a)}" for a in ("champion", "challenger", "previous") if getattr(aliases, a))
        typer.echo(f"{registered}: {named or 'MLflow names no version'}")


@app.command()
def rollback(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="Why, for the audit")],
    by: Annotated[str, typer.Option("--by", help="Who, for the audit; default: you")] = "",
) -> None:
    """Make the previous version the champion again. Strategies change back by their own policy, at the next bar edge."""
    from resources.ledger import audit
    from resources.tracking import TrackingError

    config, store = _config(), _store()
    registered = _registered(name, config)
    with open_ledger() as ledger:
        with ledger.transaction() as c:  # what was asked stands even where the answer is lost
            asked = {"model": registered, "why": why}
            audit.append(c, who_asks(by), "model_rollback_asked", asked)
        try:
            before, now = _tracking().roll_back(registered, why)
        except TrackingError as error:
            fail(f"not rolled back: {error}", UNREACHABLE if "does not answer" in str(error) else WRONG)
        with ledger.transaction() as c:
            audit.append(c, who_asks(by), "model_rollback", {**asked, "before": before, "now": now})
    typer.echo(f"{registered}: version {now} is champion again, version {before} is previous")
    try:
        store.fetch(_tracking(), registered, typer.echo)
    except TrackingError as error:
        fail(f"rolled back in MLflow, but this disk could not be brought up to date: `tapeline models fetch {name}` ({error})",
             UNREACHABLE)  # fmt: skip
