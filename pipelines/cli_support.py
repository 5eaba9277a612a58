"""What the commands of ``tapeline`` share: reaching the ledger and the desk, printing, failing in one line."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from resources.desk_client import DeskClient
    from resources.ledger.store import Ledger
    from resources.settings import Settings

WRONG = 1
UNREACHABLE = 3


def own_settings() -> Settings:
    from pydantic import ValidationError

    from resources.settings import settings

    try:
        return settings()
    except ValidationError as error:
        said = "; ".join(f"TAPELINE_{'_'.join(str(p) for p in e['loc']).upper()}: {e['msg']}" for e in error.errors())
        fail(f"a setting is wrong: {said}", WRONG)


def choose_book(name: str) -> None:
    """This command works on that book of the installation; one line and an exit code when there is no such book."""
    import os

    from resources.settings import PAPER_BOOK, settings

    if name not in ("main", PAPER_BOOK):
        fail(f"--book {name}: expected main or {PAPER_BOOK}", 2)
    os.environ.pop("TAPELINE_BOOK", None)
    settings.cache_clear()
    own = own_settings()
    if name == PAPER_BOOK:
        if not own.two_books:
            fail(
                f"there is no paper book beside the main one: the broker is {own.broker}, TAPELINE_MODE={own.mode}, "
                f"TAPELINE_PAPER_BESIDE={own.paper_beside} (docs/modes.md)",
                WRONG,
            )
        os.environ["TAPELINE_BOOK"] = PAPER_BOOK
        settings.cache_clear()


def own_books() -> list[Settings]:
    """The book that was chosen; all of them when none was (the main one first)."""
    own = own_settings()
    return [own, own.paper_book()] if own.two_books else [own]


@contextmanager
def open_ledger(of: Settings | None = None) -> Iterator[Ledger]:
    """The ledger of these settings' book; one line and exit code 3 when it cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    from resources.ledger.store import Ledger

    try:
        ledger = Ledger.at((of or own_settings()).ledger_url())
    except FileNotFoundError:
        fail("there is no ledger yet: start Tapeline with `tapeline up`", UNREACHABLE)
    try:
        yield ledger
    except SQLAlchemyError as error:
        fail(
            f"the ledger does not answer ({type(error).__name__}): is Postgres running? start Tapeline with `tapeline up`",
            UNREACHABLE,
        )
    finally:
        ledger.engine.dispose()


LOOK_SECONDS = 4.0
"""A command that only looks waits no longer for a desk that may hang: the ledger can tell."""
ANSWER_SECONDS = 15.0


@contextmanager
def open_desk(timeout: float | None = None, attempts: int = 2) -> Iterator[DeskClient]:
    """The desk's client. timeout: seconds a try, default ANSWER_SECONDS. Raises DeskUnavailable when it was never started."""
    from resources.desk_client import DeskClient, DeskUnavailable
    from resources.secrets import SecretError, read_secret

    own = own_settings()
    try:
        token = read_secret(own.token_file)
    except SecretError as error:
        raise DeskUnavailable(str(error)) from None
    with DeskClient(own.desk_url, token, timeout=timeout or ANSWER_SECONDS, attempts=attempts) as client:
        yield client


def ask_desk(ask: Callable[[DeskClient], dict[str, Any]], instead: str = "", attempts: int = 2) -> dict[str, Any]:
    """Do something at the desk; one line and an exit code when it is not done. instead: what to do when no desk answers."""
    from resources.desk_client import DeskRefused, DeskUnavailable

    try:
        with open_desk(attempts=attempts) as desk:
            return ask(desk)
    except DeskRefused as error:
        fail(error.message, WRONG)
    except DeskUnavailable as error:
        done = "not known to be done" if "Timeout" in str(error) else "not done"
        fail(f"{done}: {error}" + (f". {instead}" if instead else ""), UNREACHABLE)


def ask_paper_book(ask: Callable[[DeskClient], Any], done: str) -> None:
    """What stops an installation stops its paper book, too. `done`: what is said when it is; else it is said that it is not."""
    from resources.desk_client import DeskClient, DeskError
    from resources.secrets import SecretError, read_secret

    own = own_settings()
    if not own.two_books:
        return
    beside = own.paper_book()
    try:
        with DeskClient(beside.desk_url, read_secret(beside.token_file), timeout=ANSWER_SECONDS, attempts=1) as desk:
            ask(desk)
    except (DeskError, SecretError) as error:
        warn(f"paper book: NOT done: {error}")
    else:
        typer.echo(f"paper book: {done}")


def status_of_ledger(ledger: Ledger) -> dict[str, Any]:
    from trading.timeframes import iso

    beat, last, replay = ledger.get_state("heartbeat") or {}, ledger.latest_close(), ledger.get_state("replay") or {}
    return {
        "state": "down",
        "mode": own_settings().mode.upper(),
        "last_heartbeat": iso(beat["wall"]) if beat else "never",
        "last_close": iso(last["close_time"]) if last else "none",
        "halt": ledger.get_state("halt") or {},
        "replay": {k: replay.get(k) for k in ("state", "sessions", "closes", "total")} if replay else {},
        "open_positions": len(ledger.positions(open_only=True)),
        "account": ledger.latest_account() or {},
        "config_problems": [row["message"] for row in ledger.config_problems()],
    }


def show(
    title: str, columns: Sequence[str], read: Callable[[Ledger], list[dict[str, Any]]], as_json: bool, time_column: str
) -> None:
    from trading.timeframes import iso

    with open_ledger() as ledger:
        rows = read(ledger)
    if as_json:
        print_json(rows)
        return
    banner()
    say_when_down()
    shown = [[iso(row[time_column]) if row.get(time_column) else "", *(cell(row.get(c)) for c in columns)] for row in rows]
    table(title, [time_column, *columns], shown)


def say_when_down() -> None:
    from resources.desk_client import DeskError

    try:
        with open_desk(LOOK_SECONDS, 1) as desk:
            desk.health()
    except DeskError as error:
        desk_down(error)


def desk_down(error: Exception) -> None:
    how = "does not answer: it hangs, or is very busy" if "Timeout" in str(error) else "is down"
    warn(f"the desk {how} ({error}); this is what the ledger says")


def banner(of: Settings | None = None) -> None:
    own = of or own_settings()
    said = {"paper": "simulated money", "live": "real money"}.get(own.mode, "nothing is sent")
    warn(f"{own.label}: {said}" + (" (main book; --book paper shows the other one)" if own.two_books else ""))


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], of: Settings | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=f"{(of or own_settings()).label} {title} ({len(rows)})", title_justify="left")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    # A pipe has no width of its own: do not cut lines for it.
    Console(width=None if sys.stdout.isatty() else 240, markup=False, highlight=False).print(grid)


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


def who_asks(given: str) -> str:
    return given or f"tapeline:{getpass.getuser()}"


def warn(text: str) -> None:
    typer.echo(text, err=True)


def fail(text: str, code: int) -> NoReturn:
    typer.echo(f"tapeline: {text}", err=True)
    raise typer.Exit(code)
