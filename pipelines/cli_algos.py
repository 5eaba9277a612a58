"""``tapeline algos``: entries that are worked in slices, how far each has come, and how to end one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.cli_support import WRONG, ask_desk, banner, fail, open_ledger, print_json, table, who_asks
from trading.timeframes import iso

app = typer.Typer(help="Entries that are worked in slices (TWAP, VWAP, iceberg).", invoke_without_command=True)

_COLUMNS = [
    "execution", "strategy", "symbol", "mode", "algo", "side", "filled", "of", "at", "slices", "refused", "until", "state", "why",
]  # fmt: skip


@app.callback()
def algos(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Those that have ended, too")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")] = False,
) -> None:
    """Entries at work, newest first; also while the desk is down."""
    if context.invoked_subcommand is not None:
        return
    from desk.desk_reads import algos as read

    with open_ledger() as ledger:
        state = None if every else "running"
        found = read(ledger.engine, state=state, session=None, strategy=None, symbol=None, limit=limit)
    if as_json:
        print_json(found)
        return
    banner()
    if not found:
        typer.echo(
            "no entry was ever worked in slices" if every else "no entry is being worked in slices (--all: those that ended)"
        )
        return
    table("worked in slices", _COLUMNS, [_row(a) for a in found])


def _row(a: dict[str, Any]) -> list[str]:
    average = "" if a["average_price"] is None else f"{a['average_price']:.8g}"
    slices = f"{a['sent']}/{a['slots']}" if a["slots"] else str(a["sent"])
    return [
        a["id"], a["strategy"], a["symbol"], str(a["mode"]).upper(), a["algo"], a["side"], f"{a['filled']:g}",
        f"{a['quantity']:g}", average, slices, str(a["refused"]), iso(a["end_time"]), a["state"], a["reason"],
    ]  # fmt: skip


@app.command("show")
def show(
    algo_id: Annotated[str, typer.Argument(metavar="EXECUTION")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")] = False,
) -> None:
    """One entry with every slice: the order it became, or what refused it."""
    from desk.desk_reads import algo as read

    with open_ledger() as ledger:
        found = read(ledger.engine, algo_id)
    if found is None:
        fail(f"no execution {algo_id} in the ledger: `tapeline algos --all` lists them", WRONG)
    if as_json:
        print_json(found)
        return
    banner()
    table("worked in slices", _COLUMNS, [_row(found)])
    rows = [
        [str(s["number"]), "rest" if s["slot"] < 0 else str(s["slot"] + 1), iso(s["wanted_time"]), f"{s['quantity']:g}",
         s["state"], f"{s['filled_quantity']:g}", "" if s["average_price"] is None else f"{s['average_price']:.8g}",
         s["order"] or "", s["refusal"]]
        for s in found["slices"]
    ]  # fmt: skip
    table("slices", ["slice", "slot", "sent", "quantity", "state", "filled", "at", "order", "refusal"], rows)


@app.command("cancel")
def cancel(
    algo_id: Annotated[str, typer.Argument(metavar="EXECUTION")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")],
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
) -> None:
    """Send no more slices and take back what works. What is bought stays, with its stops and targets."""
    answer = ask_desk(lambda desk: desk.cancel_algo(algo_id, reason, who_asks(who)))
    banner()
    typer.echo(f"{algo_id}: {answer['state']} ({answer['reason']})")
