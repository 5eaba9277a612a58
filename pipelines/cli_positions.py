"""``tapeline close``, ``reduce`` and ``reverse``: what a person does to an open position."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli_support import WRONG, ask_desk, banner, fail, who_asks

Strategy = Annotated[str, typer.Argument(metavar="STRATEGY", help="Strategy or plan that holds it")]
Symbol = Annotated[str, typer.Argument(metavar="SYMBOL")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")]
Who = Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")]


def close(strategy: Strategy, symbol: Symbol, reason: Reason, who: Who = "") -> None:
    """Close one position now: its resting orders are cancelled first."""
    answer = ask_desk(lambda desk: desk.close_position(strategy, symbol, reason, who_asks(who)))
    banner()
    if answer["refusal"]:
        fail(f"{strategy} {symbol}: {answer['refusal']}", WRONG)
    typer.echo(f"{strategy} {symbol}: closing, order {' '.join(answer['intents'])}")


def reduce(
    strategy: Strategy,
    symbol: Symbol,
    reason: Reason,
    quantity: Annotated[float | None, typer.Option(help="Units to close")] = None,
    share: Annotated[float | None, typer.Option(help="Instead: share to close, 0.5 is half")] = None,
    who: Who = "",
) -> None:
    """Close a part of one position now; its stop and target shrink with it."""
    if (quantity is None) is (share is None):
        fail("say --quantity or --share", 2)
    answer = ask_desk(lambda desk: desk.reduce(strategy, symbol, reason, who_asks(who), quantity=quantity, share=share))
    banner()
    if answer["state"] == "denied":
        fail(f"{strategy} {symbol}: not reduced; see `tapeline trace {answer['order_id']}`", WRONG)
    typer.echo(
        f"{strategy} {symbol}: {answer['quantity']:.10g} closing, {answer['left']:.10g} stay; order {answer['order_id']} "
        f"{answer['state']}"
    )


def reverse(
    strategy: Strategy,
    symbol: Symbol,
    reason: Reason,
    stop: Annotated[float, typer.Option(help="Stop of the new side")],
    target: Annotated[float | None, typer.Option(help="Target of the new side")] = None,
    quantity: Annotated[float | None, typer.Option(help="Units of the new side; default: as many as are open now")] = None,
    who: Who = "",
) -> None:
    """Close one position, then enter the other side. The exit is never refused; the entry is judged by every risk rule."""
    answer = ask_desk(
        lambda desk: desk.reverse(strategy, symbol, reason, who_asks(who), stop=stop, target=target, quantity=quantity)
    )
    banner()
    if answer["state"] in ("refused", "expired"):
        fail(f"{strategy} {symbol}: closed; the other side was not entered: {answer.get('refusal', 'too late')}", WRONG)
    said = "closing; the other side is entered once it is flat" if answer["state"] == "closing" else answer["state"]
    typer.echo(f"{strategy} {symbol}: {said}")
