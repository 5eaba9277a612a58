"""``tapeline kill``: everything off, with or without a desk."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pipelines.cli_support import UNREACHABLE, WRONG, banner, fail, own_settings, table, warn, who_asks


def kill(
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")],
    level: Annotated[str, typer.Option(help="flatten: cancel and close; halted: cancel entries, positions stay")] = "flatten",
    by_hand: Annotated[bool, typer.Option(help="What was placed by hand at the broker, too")] = False,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for the broker to be flat")] = 30.0,
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
    broker_only: Annotated[
        bool,
        typer.Option("--broker-only", help="The ledger is gone: cancel and close all on the account; booked at the next start"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Halt, cancel and close, with a connection of this command's own to ledger and broker; a desk that hangs is ended.

    With --broker-only nothing is asked but the broker: every order is cancelled and every position closed, those placed by hand
    among them; running desks are ended first.

    Exit code 0: the broker says that nothing is left. 1: something is left, named. 3: ledger or broker cannot be reached.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from desk.kill_switch import KillSwitch, journal_path
    from desk.risk_state import HaltLevel
    from resources.brokers.protocol import BrokerError
    from resources.config import ConfigInvalid

    levels = {"flatten": HaltLevel.FLATTEN, "halted": HaltLevel.HALTED}
    if level.lower() not in levels:
        fail(f"--level {level}: expected flatten or halted", 2)
    own = own_settings()
    if broker_only:
        if level.lower() != "flatten":
            fail("--broker-only knows nothing of entries and exits: it always cancels and closes all", 2)
        _broker_only(reason, who_asks(who), patience, as_json=as_json)
        return
    if own.two_books:
        warn("the account only; the paper book beside it: tapeline --book paper kill")
    try:
        outcome = KillSwitch(own, levels[level.lower()], reason, who_asks(who), patience, by_hand).pull()
    except (SQLAlchemyError, BrokerError, ConfigInvalid, FileNotFoundError) as error:
        fail(
            f"not known to be done: {type(error).__name__}: {error}. Close positions at the broker itself; "
            f"how far it came is in {journal_path(own)}",
            UNREACHABLE,
        )
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    else:
        banner()
        said = {
            "desk": "the desk did it", "took_over": "done in the desk's place", "desk_came_back": "a desk that came back does it",
        }  # fmt: skip
        typer.echo(f"{outcome.level} latched; {said[outcome.how]} ({outcome.seconds:g} s)")
        if outcome.ended_pid is not None:
            typer.echo(f"the desk did not answer and was ended (process {outcome.ended_pid})")
        table("left at the broker", ["what"], [[x] for x in (*outcome.orders, *outcome.positions)])
    if not outcome.flat:
        fail("not flat yet: the orders that close it are at the broker and fill with its next prices; look again", WRONG)


def _broker_only(reason: str, who: str, patience: float, *, as_json: bool) -> None:
    """The raw path: broker and a file."""
    from sqlalchemy.exc import SQLAlchemyError

    from desk.broker_kill import KillRefused, folder, kill_broker_only
    from resources.brokers.protocol import BrokerError

    own = own_settings()
    try:
        outcome = kill_broker_only(own, reason, who, patience)
    except KillRefused as error:
        fail(str(error), WRONG)
    except SQLAlchemyError as error:
        fail(
            f"the broker {own.broker} keeps its book in Postgres, which does not answer ({type(error).__name__}): "
            "there is nothing to reach without it",
            UNREACHABLE,
        )
    except BrokerError as error:
        fail(f"the broker cannot be reached ({error}): close positions at the broker itself", UNREACHABLE)
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    else:
        banner()
        typer.echo(
            f"{outcome.broker} account {outcome.account}: {len(outcome.cancelled)} cancel(s), {len(outcome.closes)} "
            f"closing order(s) ({outcome.seconds:g} s)"
        )
        if outcome.ended_desks:
            typer.echo(f"ended desks: {', '.join(map(str, outcome.ended_desks))}")
        typer.echo(f"written to {folder(own) / outcome.run}.json; the next desk that starts books it and stays halted at FLATTEN")
        table("left at the broker", ["what"], [[x] for x in (*outcome.orders, *outcome.positions)])
    if not outcome.flat:
        fail("not flat yet: what closes it is at the broker; pull again, or look there", WRONG)
