"""``tapeline auto-trade``, and switching single strategies and plans: the desk's control API from a terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli_support import ask_desk, banner, cell, print_json, table, who_asks

app = typer.Typer(help="Whether the desk takes decisions by itself. Exits always go on.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")]
Who = Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A strategy or plan")]


@app.command()
def status(as_json: AsJson = False) -> None:
    """running, paused or stopped; since when, by whom and why; and the halts beside it."""
    state = ask_desk(lambda desk: desk.auto_trade())
    if as_json:
        print_json(state)
        return
    banner()
    table("auto-trade", ["what", "value"], [[k, cell(v)] for k, v in state.items()])


def _change(word: str, reason: str, who: str) -> None:
    state = ask_desk(lambda desk: desk.set_auto_trade(word, reason, who_asks(who)))
    banner()
    typer.echo(f"auto-trade is {state['state']}")
    if state["state"] == "running" and (state["halt"].get("global") or state["halt"].get("strategies")):
        typer.echo(f"halts stand all the same: {cell(state['halt'])}; lift them with `tapeline resume`")


@app.command()
def start(reason: Reason, who: Who = "") -> None:
    """Take decisions again. Lifts no halt."""
    _change("start", reason, who)


@app.command()
def pause(reason: Reason, who: Who = "") -> None:
    """Take no new decision; working orders and positions go on."""
    _change("pause", reason, who)


@app.command()
def stop(reason: Reason, who: Who = "") -> None:
    """Take no new decision and cancel working entries; positions and their exits go on."""
    _change("stop", reason, who)


def add_switches(group: typer.Typer, kind: str) -> None:
    """Add activate, deactivate and emergency-stop to the commands of `kind` (strategies or plans)."""

    def switch(word: str, name: str, reason: str, who: str) -> None:
        answer = ask_desk(lambda desk: desk.command(kind, name, word, reason, who_asks(who)))
        banner()
        typer.echo(f"{name}: {word} done")
        if answer.get("open_positions"):
            typer.echo(f"still open: {cell(answer['open_positions'])}")

    @group.command()
    def activate(name: Name, reason: Reason, who: Who = "") -> None:
        """Let it enter again: its halt is lifted. Its file must say status: active."""
        switch("activate", name, reason, who)

    @group.command()
    def deactivate(name: Name, reason: Reason, who: Who = "") -> None:
        """It enters no more and its working entries are cancelled; its exits go on."""
        switch("deactivate", name, reason, who)

    @group.command("emergency-stop")
    def emergency_stop(name: Name, reason: Reason, who: Who = "") -> None:
        """Halt it and close its positions now."""
        switch("emergency-stop", name, reason, who)
