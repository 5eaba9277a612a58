"""``tapeline modes``: how far each strategy and plan has come on the way to real money, and moving it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.cli_support import (
    ask_desk,
    banner,
    cell,
    fail,
    open_ledger,
    own_settings,
    print_json,
    say_when_down,
    table,
    who_asks,
)
from trading.timeframes import iso

app = typer.Typer(help="Modes of strategies and plans: backtest, shadow, alert, paper, live.", no_args_is_help=True)

_COLUMNS = ("name", "mode", "effective", "stated", "since", "who", "reason", "wish")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")] = False) -> None:
    """Every strategy and plan: its mode, the one in effect under TAPELINE_MODE, what its file states, who set it, when, why."""
    from resources.ledger.modes import read
    from trading.instruments import Mode
    from trading.modes import capped

    highest = Mode(own_settings().mode)
    with open_ledger() as ledger, ledger.engine.connect() as connection:
        known = read(connection)
    rows: list[dict[str, Any]] = [
        {
            "name": name, "mode": s.mode.value, "effective": capped(s.mode, highest).value, "stated": s.stated.value,
            "since": iso(s.since_wall), "who": s.who, "reason": s.reason, "wish": s.wish.replace("NAME", name),
        }
        for name, s in known.items()
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    banner()
    say_when_down()
    table("modes", list(_COLUMNS), [[row[c] for c in _COLUMNS] for row in rows])


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A strategy or plan")],
    mode: Annotated[str, typer.Argument(metavar="MODE", help="backtest, shadow, alert, paper or live")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")],
    force: Annotated[bool, typer.Option("--force", help="Skip steps of a promotion; live needs its terms all the same")] = False,
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
) -> None:
    """Promote by one step, or demote; what is open stays managed to its end in the mode it was opened in."""
    from trading.instruments import Mode

    if mode not in {m.value for m in Mode}:
        fail(f"{mode}: expected one of {', '.join(m.value for m in Mode)}", 2)
    answer = ask_desk(lambda desk: desk.set_mode(name, mode, reason, who_asks(who), force=force))
    banner()
    typer.echo(f"{name}: {answer['before']} -> {answer['mode']}")
    if answer["effective"] != answer["mode"]:
        typer.echo(f"in effect: {answer['effective']}, because TAPELINE_MODE={own_settings().mode}")
    if answer["still_open"]:
        typer.echo(f"still open, managed to its end as it was opened: {cell(answer['still_open'])}")
