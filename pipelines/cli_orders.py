"""``tapeline doubts``, ``tapeline modify`` and ``tapeline broker``: what is not known, changing an order, the drill broker."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli_support import WRONG, ask_desk, banner, cell, fail, open_ledger, print_json, table, who_asks
from trading.timeframes import iso

broker_app = typer.Typer(help="Brokers, and the simulated one for drills.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]


def doubts(as_json: AsJson = False) -> None:
    """What is not known: orders in doubt, exits that wait, differences with the broker; what each blocks, and what ends it."""
    from desk.doubts import standing

    with open_ledger() as ledger, ledger.engine.connect() as connection:
        found = standing(connection)
    if as_json:
        print_json([d.to_dict() for d in found])
    else:
        banner()
        if not found:
            typer.echo("nothing is in doubt")
        else:
            rows = [
                [d.kind, d.symbol, d.strategy, d.leg, iso(d.since_time), iso(d.since_wall) if d.since_wall else "", d.blocks,
                 d.awaits, d.says, d.order]
                for d in found
            ]  # fmt: skip
            columns = ["what", "symbol", "strategy", "leg", "since", "really since", "blocks", "awaits", "heard", "order"]
            table("in doubt", columns, rows)
    raise typer.Exit(WRONG if found else 0)


def modify(
    order_id: Annotated[str, typer.Argument(metavar="ORDER")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")],
    stop: Annotated[float | None, typer.Option(help="New stop price")] = None,
    limit: Annotated[float | None, typer.Option(help="New limit price")] = None,
    quantity: Annotated[float | None, typer.Option(help="New, smaller quantity")] = None,
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
) -> None:
    """Change the prices of a resting order, or make it smaller; says what state it then is in."""
    change = {"stop_price": stop, "limit_price": limit, "quantity": quantity}
    answer = ask_desk(lambda desk: desk.modify(order_id, reason, who_asks(who), **change))
    banner()
    if answer["refusal"]:
        fail(f"{order_id}: {answer['refusal']}", WRONG)
    typer.echo(f"{order_id}: {answer['state']} {cell(answer.get('order', ''))}".rstrip())


@broker_app.command("list")
def list_brokers() -> None:
    """Brokers there are."""
    from resources.brokers import broker_names

    for name in broker_names():
        typer.echo(name)


@broker_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def simulate(context: typer.Context) -> None:
    """Run the simulated broker in this terminal, with faults if asked: `tapeline broker simulate --help`."""
    from resources.brokers.remote.__main__ import main

    raise typer.Exit(main(list(context.args)))


@broker_app.command("place")
def place(
    symbol: str,
    side: Annotated[str, typer.Argument(help="buy or sell")],
    quantity: float,
    limit: Annotated[float | None, typer.Option(help="Limit price; default: a market order")] = None,
) -> None:
    """Place an order by hand at the simulated broker, as a person at its own screen would: for drills."""
    from pipelines.cli_support import own_settings
    from resources.brokers.protocol import BrokerError
    from resources.brokers.simulated_remote import connect

    try:
        broker = connect(own_settings().simulated_broker, lambda: 0)
        report = broker.place_by_hand(symbol, side, quantity, limit)
    except BrokerError as error:
        fail(str(error), WRONG)
    typer.echo(f"{report.client_id}: {report.state} {report.text}".rstrip())
