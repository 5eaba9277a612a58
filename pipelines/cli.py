"""``tapeline``: the desk from a terminal.

What is asked is read from the ledger, so that it is answered when the desk is down, too (and said). What is ordered
(halt, resume, flatten, cancel) goes to the desk. Exit codes: 0 done, 1 something is wrong with what was checked or asked
for, 2 wrong usage, 3 the desk or the ledger cannot be reached.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from resources.config import Config
    from resources.desk_client import DeskClient
    from resources.ledger.store import Ledger
    from resources.settings import Settings

WRONG = 1
UNREACHABLE = 3

app = typer.Typer(help="Tapeline's trading desk from a terminal.", no_args_is_help=True, add_completion=False)
audit_app = typer.Typer(help="The audit trail.", no_args_is_help=True)
strategies_app = typer.Typer(help="Strategy files.", no_args_is_help=True)
plans_app = typer.Typer(help="Trade plan files.", no_args_is_help=True)
config_app = typer.Typer(help="Every file people edit.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")
app.add_typer(strategies_app, name="strategies")
app.add_typer(plans_app, name="plans")
app.add_typer(config_app, name="config")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Session = Annotated[str | None, typer.Option(help="Only this session, e.g. 2017-12-29")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")]
Who = Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")]


def main() -> None:
    """Entry point of the ``tapeline`` command."""
    app()


# -- state ---------------------------------------------------------------------------------------------------------------


@app.command()
def status(as_json: AsJson = False) -> None:
    """Mode, market time, halts, positions, replay; from the desk, or from the ledger when the desk is down."""
    from resources.desk_client import DeskError

    try:
        with _desk() as desk:
            state = desk.status()
    except DeskError as error:
        _desk_down(error)
        with _ledger() as ledger:
            state = _status_of_ledger(ledger)
    if as_json:
        _print_json(state)
    else:
        _banner()
        _table("status", ["what", "value"], [[k, _cell(v)] for k, v in state.items()])
    raise typer.Exit(0 if state.get("state") in ("ok", "starting", "degraded", "stopping") else UNREACHABLE)


@app.command()
def orders(
    session: Session = None, state: Annotated[str | None, typer.Option(help="Only this state")] = None, as_json: AsJson = False
) -> None:
    """Orders with their strategy, leg and state."""
    columns = ["id", "mode", "strategy", "leg", "symbol", "side", "quantity", "order_type", "state", "average_price", "text"]
    _show(
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
    _show("positions", columns, lambda ledger: ledger.positions(open_only=not everything), as_json, "updated_time")


@app.command()
def fills(session: Session = None, as_json: AsJson = False) -> None:
    """Executions the broker reported."""
    columns = ["id", "strategy", "symbol", "side", "quantity", "price", "commission", "currency", "order_id"]
    _show("fills", columns, lambda ledger: ledger.fills(session), as_json, "fill_time")


@app.command()
def signals(session: Session = None, as_json: AsJson = False) -> None:
    """Signals, and why the refused ones were refused."""
    columns = ["id", "strategy", "symbol", "timeframe", "action", "outcome", "refusal"]
    _show("signals", columns, lambda ledger: _signals_with_outcome(ledger, session), as_json, "close_time")


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
    any_id: Annotated[str, typer.Argument(metavar="ID", help="Any id of the chain, or bars_1h/DATE/SYMBOL")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As markdown")] = False,
) -> None:
    """The whole chain of an id: bars and hashes, signal, gates, decision, orders with events, fills, position, report."""
    from resources.lake import Lake
    from resources.trace import TraceError
    from resources.trace import trace as find

    with _ledger() as ledger:
        try:
            found = find(ledger.engine, Lake(_settings().lake_dir), any_id)
        except TraceError as error:
            _fail(str(error), WRONG)
    _banner()
    typer.echo(found.to_markdown() if markdown else "\n".join(found.lines()))
    if not found.sound:
        _warn("the lake's bars are not those that were traded on: see `today` above")


# -- control -------------------------------------------------------------------------------------------------------------


@app.command()
def halt(
    reason: Reason,
    level: Annotated[str, typer.Option(help="reduce_only, halted or flatten")] = "halted",
    scope: Annotated[str, typer.Option(help="desk, or a strategy's name")] = "desk",
    who: Who = "",
) -> None:
    """Stop new risk. Exits go on; working entries are cancelled; flatten also closes positions."""
    answer = _order(lambda desk: desk.halt(level.lower(), reason, _who(who), scope))
    _banner()
    typer.echo(f"halted {scope} at {level.upper()}: {_cell(answer['halt'])}")


@app.command()
def resume(
    reason: Reason, scope: Annotated[str, typer.Option(help="desk, or a strategy's name")] = "desk", who: Who = ""
) -> None:
    """Allow new risk again."""
    answer = _order(lambda desk: desk.resume(reason, _who(who), scope))
    _banner()
    typer.echo(f"resumed {scope}" if answer["resumed"] else f"{scope} was not halted")


@app.command()
def flatten(
    reason: Reason,
    strategy: Annotated[str | None, typer.Option(help="Only this strategy")] = None,
    symbol: Annotated[str | None, typer.Option(help="Only this instrument")] = None,
    who: Who = "",
) -> None:
    """Cancel working entries and close positions now. Does not halt: use `halt --level flatten` to stay out."""
    answer = _order(lambda desk: desk.flatten(reason, _who(who), strategy, symbol))
    _banner()
    exits = answer["exits"]
    _table(
        "exits asked for",
        ["trade_id", "orders", "refusal"],
        [[e["trade_id"], " ".join(e["intents"]), e["refusal"]] for e in exits],
    )
    if any(e["refusal"] for e in exits):
        raise typer.Exit(WRONG)


@app.command()
def cancel(order_id: Annotated[str, typer.Argument(metavar="ORDER")], reason: Reason, who: Who = "") -> None:
    """Ask the broker to cancel one order; says what state it then is in."""
    answer = _order(lambda desk: desk.cancel(order_id, reason, _who(who)))
    _banner()
    typer.echo(f"{answer['order_id']}: {answer['state']}")


# -- checks --------------------------------------------------------------------------------------------------------------


@audit_app.command("verify")
def audit_verify() -> None:
    """Walk the whole audit chain; every fault is one line."""
    from resources.ledger import audit

    with _ledger() as ledger:
        faults = audit.verify(ledger.engine)
    for fault in faults:
        typer.echo(fault)
    typer.echo("the audit trail is whole" if not faults else f"{len(faults)} fault(s) in the audit trail")
    raise typer.Exit(WRONG if faults else 0)


@strategies_app.command("check")
def strategies_check() -> None:
    """Read every strategy file; every problem with file and line."""
    _check("strategies/", lambda config: sorted(config.strategies))


@plans_app.command("check")
def plans_check() -> None:
    """Read every trade plan file; every problem with file and line."""
    _check("plans/", lambda config: sorted(config.plans))


@config_app.command("check")
def config_check() -> None:
    """Read universe, strategies, plans and risk limits; every problem with file and line."""
    _check("", lambda config: [f"{f.path} ({f.kind} {f.name}@{f.revision})" for f in config.files if not f.problems])


def _check(below: str, good: Callable[[Config], Sequence[str]]) -> NoReturn:
    from resources.config import ConfigInvalid, load_config

    try:
        config = load_config(_settings())
        problems, names = [p for p in config.problems if p.file.startswith(below) or not below], list(good(config))
    except ConfigInvalid as error:
        problems, names = error.problems, []
    for name in names:
        typer.echo(f"good     {name}")
    for problem in problems:
        typer.echo(f"PROBLEM  {problem}")
    typer.echo(f"{len(names)} good, {len(problems)} problem(s) in {_settings().config}")
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


# -- within --------------------------------------------------------------------------------------------------------------


def _settings() -> Settings:
    from pydantic import ValidationError

    from resources.settings import settings

    try:
        return settings()
    except ValidationError as error:
        said = "; ".join(f"TAPELINE_{'_'.join(str(p) for p in e['loc']).upper()}: {e['msg']}" for e in error.errors())
        _fail(f"a setting is wrong: {said}", WRONG)


@contextmanager
def _ledger() -> Iterator[Ledger]:
    """The ledger; one line and exit code 3 when it cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    from resources.ledger.store import Ledger

    try:
        ledger = Ledger.at(_settings().ledger_url())
    except FileNotFoundError:
        _fail("there is no ledger yet: start Tapeline with `tapeline up`", UNREACHABLE)
    try:
        yield ledger
    except SQLAlchemyError as error:
        _fail(
            f"the ledger does not answer ({type(error).__name__}): is Postgres running? start Tapeline with `tapeline up`",
            UNREACHABLE,
        )
    finally:
        ledger.engine.dispose()


@contextmanager
def _desk() -> Iterator[DeskClient]:
    """The desk's client. Raises DeskUnavailable when it was never started."""
    from resources.desk_client import DeskClient, DeskUnavailable
    from resources.secrets import SecretError, read_secret

    own = _settings()
    try:
        token = read_secret(own.token_file)
    except SecretError as error:
        raise DeskUnavailable(str(error)) from None
    with DeskClient(own.desk_url, token, timeout=15.0, attempts=2) as client:
        yield client


def _order(ask: Callable[[DeskClient], dict[str, Any]]) -> dict[str, Any]:
    """Do something at the desk; one line and an exit code when it is not done."""
    from resources.desk_client import DeskRefused, DeskUnavailable

    try:
        with _desk() as desk:
            return ask(desk)
    except DeskRefused as error:
        _fail(error.message, WRONG)
    except DeskUnavailable as error:
        _fail(f"not done: {error}", UNREACHABLE)


def _status_of_ledger(ledger: Ledger) -> dict[str, Any]:
    from trading.timeframes import iso

    beat, last, replay = ledger.get_state("heartbeat") or {}, ledger.latest_close(), ledger.get_state("replay") or {}
    return {
        "state": "down",
        "mode": _settings().mode.upper(),
        "last_heartbeat": iso(beat["wall"]) if beat else "never",
        "last_close": iso(last["close_time"]) if last else "none",
        "halt": ledger.get_state("halt") or {},
        "replay": {k: replay.get(k) for k in ("state", "sessions", "closes", "total")} if replay else {},
        "open_positions": len(ledger.positions(open_only=True)),
        "account": ledger.latest_account() or {},
        "config_problems": [row["message"] for row in ledger.config_problems()],
    }


def _show(
    title: str, columns: Sequence[str], read: Callable[[Ledger], list[dict[str, Any]]], as_json: bool, time_column: str
) -> None:
    from trading.timeframes import iso

    with _ledger() as ledger:
        rows = read(ledger)
    if as_json:
        _print_json(rows)
        return
    _banner()
    _say_when_down()
    shown = [[iso(row[time_column]) if row.get(time_column) else "", *(_cell(row.get(c)) for c in columns)] for row in rows]
    _table(title, [time_column, *columns], shown)


def _say_when_down() -> None:
    from resources.desk_client import DeskError

    try:
        with _desk() as desk:
            desk.health()
    except DeskError as error:
        _desk_down(error)


def _desk_down(error: Exception) -> None:
    _warn(f"the desk is down ({error}); this is what the ledger says")


def _banner() -> None:
    mode = _settings().mode.upper()
    _warn(f"{mode}: simulated money" if mode == "PAPER" else f"{mode}: nothing is sent")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{_settings().mode.upper()} {title} ({len(rows)})", title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width of its own: do not cut lines for it.
    Console(width=None if sys.stdout.isatty() else 240, markup=False, highlight=False).print(table)


def _print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


def _who(given: str) -> str:
    return given or f"tapeline:{getpass.getuser()}"


def _warn(text: str) -> None:
    typer.echo(text, err=True)


def _fail(text: str, code: int) -> NoReturn:
    typer.echo(f"tapeline: {text}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
