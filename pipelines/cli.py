"""``tapeline``: the desk from a terminal.

What is asked is read from the ledger, so that it is answered when the desk is down, too (and said). What is ordered
(halt, resume, flatten, cancel) goes to the desk. Exit codes: 0 done, 1 something is wrong with what was checked or asked
for, 2 wrong usage, 3 the desk or the ledger cannot be reached.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipelines import (
    cli_actions,
    cli_algos,
    cli_audit,
    cli_control,
    cli_data,
    cli_feeds,
    cli_gates,
    cli_inbox,
    cli_kill,
    cli_lake,
    cli_models,
    cli_modes,
    cli_notify,
    cli_orders,
    cli_plans,
    cli_positions,
    cli_quality,
    cli_research,
    cli_upkeep,
)
from pipelines.cli_status import halts_text, status_rows
from pipelines.cli_support import (
    LOOK_SECONDS,
    UNREACHABLE,
    WRONG,
    ask_desk,
    ask_paper_book,
    banner,
    cell,
    choose_book,
    desk_down,
    fail,
    open_desk,
    open_ledger,
    own_books,
    own_settings,
    print_json,
    show,
    status_of_ledger,
    table,
    warn,
    who_asks,
)  # fmt: skip
from trading.timeframes import iso

if TYPE_CHECKING:
    from resources.config import Config
    from resources.ledger.store import Ledger
    from trading.config_text import Problem

app = typer.Typer(help="Tapeline's trading desk from a terminal.", no_args_is_help=True, add_completion=False)
strategies_app = typer.Typer(help="Strategy files.", no_args_is_help=True)
plans_app = cli_plans.app
config_app = typer.Typer(help="Every file people edit.", no_args_is_help=True)
app.add_typer(cli_audit.app, name="audit")
app.add_typer(cli_notify.app, name="notify")
app.add_typer(cli_control.app, name="auto-trade")
cli_control.add_switches(strategies_app, "strategies")
cli_control.add_switches(plans_app, "plans")
app.add_typer(strategies_app, name="strategies")
app.add_typer(plans_app, name="plans")
app.add_typer(config_app, name="config")
app.add_typer(cli_actions.app, name="actions")
app.add_typer(cli_orders.broker_app, name="broker")
app.command("doubts")(cli_orders.doubts)
app.command("modify")(cli_orders.modify)
app.command("close")(cli_positions.close)
app.add_typer(cli_algos.app, name="algos")
app.command("reduce")(cli_positions.reduce)
app.command("reverse")(cli_positions.reverse)
app.command("kill")(cli_kill.kill)
app.add_typer(cli_modes.app, name="modes")
app.add_typer(cli_feeds.app, name="feeds")
app.add_typer(cli_gates.app, name="gates")
app.add_typer(cli_lake.app, name="lake")
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_research.app, name="research")
app.add_typer(cli_quality.app, name="quality")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_inbox.app, name="inbox")
app.add_typer(cli_upkeep.app, name="upkeep")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Session = Annotated[str | None, typer.Option(help="Only this session, e.g. 2017-12-29")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")]
Who = Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")]


def main() -> None:
    """Entry point of the ``tapeline`` command."""
    # Dagster's words for whoever writes assets, not for whoever types a command; their behaviour is pinned by the lock file.
    warnings.filterwarnings("ignore", message="Parameter `backfill_policy` .* is currently in beta")
    app()


@app.callback()
def choose(
    book: Annotated[
        str, typer.Option(help="main, or paper: the paper book beside an account with real money (docs/modes.md)")
    ] = "",
) -> None:
    """Tapeline's trading desk from a terminal."""
    if book:
        choose_book(book)


# -- state ---------------------------------------------------------------------------------------------------------------


@app.command()
def status(as_json: AsJson = False) -> None:
    """Mode, market time, halts, positions, replay; from the desk, or from the ledger when the desk is down."""
    from resources.desk_client import DeskError

    try:
        with open_desk(LOOK_SECONDS, 1) as desk:
            state = desk.status()
    except DeskError as error:
        desk_down(error)
        with open_ledger() as ledger:
            state = status_of_ledger(ledger)
    if as_json:
        print_json(state)
    else:
        banner()
        table("status", ["what", "value"], status_rows(state))
    raise typer.Exit(0 if state.get("state") in ("ok", "starting", "degraded", "stopping") else UNREACHABLE)


@app.command()
def orders(
    session: Session = None, state: Annotated[str | None, typer.Option(help="Only this state")] = None, as_json: AsJson = False
) -> None:
    """Orders with their strategy, leg and state."""
    columns = ["id", "mode", "strategy", "leg", "symbol", "side", "quantity", "order_type", "state", "average_price", "text"]
    show(
        "orders",
        columns,
        lambda ledger: [r for r in ledger.orders(session) if state in (None, r["state"])],
        as_json,
        "created_time",
    )


@app.command()
def positions(as_json: AsJson = False, everything: Annotated[bool, typer.Option("--all", help="Flat ones, too")] = False) -> None:
    """Open positions by strategy and instrument."""
    columns = ["strategy", "symbol", "quantity", "average_price", "realized_pnl", "commission", "bars_held", "trade_id"]
    show("positions", columns, lambda ledger: ledger.positions(open_only=not everything), as_json, "updated_time")


@app.command()
def fills(session: Session = None, as_json: AsJson = False) -> None:
    """Executions the broker reported."""
    columns = ["id", "strategy", "symbol", "side", "quantity", "price", "commission", "currency", "order_id"]
    show("fills", columns, lambda ledger: ledger.fills(session), as_json, "fill_time")


@app.command()
def signals(session: Session = None, as_json: AsJson = False) -> None:
    """Signals, and why the refused ones were refused."""
    columns = ["id", "strategy", "symbol", "timeframe", "action", "outcome", "refusal"]
    show("signals", columns, lambda ledger: _signals_with_outcome(ledger, session), as_json, "close_time")


def _signals_with_outcome(ledger: Ledger, session: str | None) -> list[dict[str, Any]]:
    """Each signal with what became of it: undecided, refused by a gate, denied by risk, or sent."""
    decisions = {row["signal_id"]: row for row in ledger.decisions(session=session)}
    refusals = {row["parent"]: row["refusal"] for row in ledger.intents() if row["leg"] == "entry"}
    rows = []
    for signal in ledger.signals(session=session):
        decision = decisions.get(signal["id"])
        outcome, refusal = "undecided", ""
        if decision is not None and not decision["approved"]:
            outcome, refusal = "refused", decision["refusal"]
        elif decision is not None:
            denied = refusals.get(decision["id"])
            outcome, refusal = ("not at the desk", "") if denied is None else ("denied", denied) if denied else ("ordered", "")
        rows.append({**signal, "outcome": outcome, "refusal": refusal})
    return rows


@app.command()
def trace(
    any_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="Any id, bars_1h/DATE/SYMBOL (or /*), STRATEGY/SYMBOL, run, strategy, audit-NUMBER"),
    ],
    only_orders: Annotated[bool, typer.Option("--orders", help="Only the orders it leads to, one a line")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As markdown")] = False,
) -> None:
    """The whole chain of an id: bars and hashes, signal, gates, decision, orders with events, fills, position, report."""
    from resources.lake import open_lake
    from resources.trace import TraceError
    from resources.trace import trace as find

    chains, problems = [], []
    for own in own_books():
        with open_ledger(own) as ledger:
            try:
                chains.append((own, find(ledger.engine, open_lake(own), any_id)))
            except TraceError as error:
                problems.append(str(error))
    if not chains:
        fail(problems[0], WRONG)
    for own, found in chains:
        banner(own)
        if only_orders:
            columns = ["order", "strategy", "leg", "mode", "broker_order_id", "side", "quantity", "symbol", "state", "signal"]
            table("orders", columns, [[cell(row[name]) for name in columns] for row in found.orders()], own)
        else:
            typer.echo(found.to_markdown() if markdown else "\n".join(found.lines()))
    if not all(found.sound for _, found in chains):
        warn("the lake's bars are not those that were traded on: see `today` above")


# -- control -------------------------------------------------------------------------------------------------------------


@app.command()
def halt(
    reason: Reason,
    level: Annotated[str, typer.Option(help="reduce_only, halted or flatten")] = "halted",
    scope: Annotated[str, typer.Option(help="desk, a strategy's or plan's name, or instrument:SYMBOL")] = "desk",
    who: Who = "",
) -> None:
    """Stop new risk. Exits go on; working entries are cancelled; flatten also closes positions."""
    switch = "flatten" if level.lower() == "flatten" else "halted"
    instead = f'Without the desk, for everything: tapeline kill --level {switch} --reason "..."'
    try:
        answer = ask_desk(lambda desk: desk.halt(level.lower(), reason, who_asks(who), scope), instead, attempts=1)
    finally:  # what stops one book must not leave the other
        ask_paper_book(lambda desk: desk.halt(level.lower(), reason, who_asks(who), scope), f"halted {scope} at {level.upper()}")
    banner()
    typer.echo(f"halted {scope} at {level.upper()}; halts now: {halts_text(answer['halt'])}")


@app.command()
def resume(
    reason: Reason,
    scope: Annotated[str, typer.Option(help="desk, a strategy's or plan's name, or instrument:SYMBOL")] = "desk",
    who: Who = "",
) -> None:
    """Allow new risk again."""
    answer = ask_desk(lambda desk: desk.resume(reason, who_asks(who), scope))
    banner()
    typer.echo(f"resumed {scope}" if answer["resumed"] else f"{scope} was not halted")
    typer.echo(f"halts now: {halts_text(answer['halt'])}")
    if own_settings().two_books:
        warn("the paper book beside it stays as it is: tapeline --book paper resume")


@app.command()
def reconcile() -> None:
    """Compare ledger and broker now, and show what differs: it blocks new risk on its instrument."""
    _show_mismatches(ask_desk(lambda desk: desk.reconcile()))


@app.command("clear-mismatch")
def clear_mismatch(
    symbol: Annotated[str, typer.Argument(help="Instrument, or * for the account (quote it)")], reason: Reason, who: Who = ""
) -> None:
    """Say that a difference between ledger and broker has been looked at and settled. It comes back if it still stands."""
    answer = ask_desk(lambda desk: desk.clear_mismatch(symbol, reason, who_asks(who)))
    _show_mismatches(answer["mismatches"])
    if answer["stands_again"]:
        fail(f"{symbol}: ledger and broker still differ; new risk on it stays blocked", WRONG)
    typer.echo(f"cleared {symbol}")


def _show_mismatches(found: Mapping[str, Any]) -> None:
    banner()
    rows = [[s, m["kind"], m["text"], iso(m["since_time"]), "a person" if m["sticky"] else "evidence"] for s, m in found.items()]
    table("ledger against broker", ["symbol", "kind", "what", "since", "cleared by"], rows)


@app.command()
def flatten(
    reason: Reason,
    strategy: Annotated[str | None, typer.Option(help="Only this strategy")] = None,
    symbol: Annotated[str | None, typer.Option(help="Only this instrument")] = None,
    who: Who = "",
) -> None:
    """Cancel working entries and close positions now. Does not halt: use `halt --level flatten` to stay out."""
    instead = 'Without the desk, for everything: tapeline kill --reason "..."'
    answer = ask_desk(lambda desk: desk.flatten(reason, who_asks(who), strategy, symbol), instead, attempts=1)
    banner()
    if own_settings().two_books:
        warn("the paper book beside it is left alone: tapeline --book paper flatten")
    exits = answer["exits"]
    table(
        "exits asked for",
        ["trade_id", "orders", "refusal"],
        [[e["trade_id"], " ".join(e["intents"]), e["refusal"]] for e in exits],
    )
    if any(e["refusal"] for e in exits):
        raise typer.Exit(WRONG)


@app.command()
def cancel(
    order_id: Annotated[str, typer.Argument(metavar="ORDER")],
    reason: Reason,
    who: Who = "",
    force: Annotated[bool, typer.Option("--force", help="Also a stop or exit: the trade is left unprotected")] = False,
) -> None:
    """Ask the broker to cancel one order; says what state it then is in."""
    answer = ask_desk(lambda desk: desk.cancel(order_id, reason, who_asks(who), force=force))
    banner()
    typer.echo(f"{answer['order_id']}: {answer['state']}")


# -- checks --------------------------------------------------------------------------------------------------------------


@strategies_app.command("check")
def strategies_check(
    bars: Annotated[bool, typer.Option("--bars", help="Try the rules on the newest bars of the lake, too")] = False,
) -> None:
    """Read every strategy file, plug-in and research file; every error and warning with file and line."""
    _check(
        ("strategies/", "plugins/", "package:", "research/"), lambda config: sorted(config.strategies),
        lambda config: [*_asked(config), *(_on_bars(config) if bars else [])],
    )  # fmt: skip


def _asked(config: Config) -> list[Problem]:
    """Problems of what is asked of research."""
    from resources.research_files import asked_of

    return asked_of(config, own_settings().config).problems


def _on_bars(config: Config) -> list[Problem]:
    from resources.lake import Lake
    from resources.strategy_samples import sample_problems

    own = own_settings()
    found, untried = sample_problems(config, Lake(own.lake_dir), own.config)
    for why in untried:
        typer.echo(f"not tried on bars: {why}")
    return found


@plans_app.command("check")
def plans_check() -> None:
    """Read every trade plan file; every problem with file and line."""
    _check(("plans/",), lambda config: sorted(config.plans))


@config_app.command("check")
def config_check() -> None:
    """Read every configuration file, feed profiles, calendars, thresholds and corporate actions among them; every problem
    with file and line, all at once."""
    from pipelines.config_files import data_files

    good = lambda config: [f"{f.path} ({f.kind} {f.name}@{f.revision})" for f in config.files if not f.problems]  # noqa: E731
    _check(("",), good, _asked, data_files(own_settings()))


def _check(
    below: tuple[str, ...],
    good: Callable[[Config], Sequence[str]],
    more: Callable[[Config], list[Problem]] | None = None,
    apart: tuple[list[str], list[Problem]] = ([], []),
) -> NoReturn:
    """apart: good files and problems of files that are read for themselves."""
    from resources.config import ConfigInvalid, load_config
    from trading.config_text import errors
    from trading.config_text import warnings as warnings_of

    try:
        config = load_config(own_settings())
        problems, names = [p for p in config.problems if p.file.startswith(below)], list(good(config))
        warned = [w for w in config.warnings if w.file.startswith(below)]
        seen = more(config) if more is not None else []
        problems, warned = problems + errors(seen), warned + warnings_of(seen)
    except ConfigInvalid as error:
        problems, names, warned = error.problems, [], []
    names = [*names, *apart[0]]
    problems = list(dict.fromkeys([*problems, *apart[1]]))
    for name in names:
        typer.echo(f"good     {name}")
    for problem in problems:
        typer.echo(f"PROBLEM  {problem}")
    for warning in warned:
        typer.echo(f"warning  {warning}")
    said = f", {len(warned)} warning(s)" if warned else ""
    typer.echo(f"{len(names)} good, {len(problems)} problem(s){said} in {own_settings().config}")
    raise typer.Exit(WRONG if problems else 0)


# -- the rest ------------------------------------------------------------------------------------------------------------


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def up(context: typer.Context) -> None:
    """Start everything under one supervisor (what `make run` does)."""
    from pipelines import supervisor

    raise typer.Exit(supervisor.main(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Run a benchmark: `tapeline bench NAME --json`."""
    import runpy

    sys.argv = ["bench", *context.args]
    runpy.run_module("bench", run_name="__main__", alter_sys=True)


@app.command()
def version() -> None:
    """Version and code revision."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from resources.revision import code_revision

    try:
        number = installed("tapeline")
    except PackageNotFoundError:
        number = "0 (not installed)"
    typer.echo(f"tapeline {number}, code {code_revision()}")


if __name__ == "__main__":
    main()
