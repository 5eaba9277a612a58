"""``tapeline audit``: the trail of everything that was decided, ordered, filled, set and commanded, and by whom."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli_support import WRONG, cell, fail, open_ledger, own_books, print_json, table

app = typer.Typer(help="The audit trail.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
From = Annotated[str | None, typer.Option("--from", help="First day or time, UTC: 2026-03-02 or 2026-03-02T14:00:00Z")]
To = Annotated[str | None, typer.Option("--to", help="Last day (whole) or time (excluded), UTC")]
Actor = Annotated[str | None, typer.Option(help="Only by this one; tapeline:* for all people at a terminal")]
Action = Annotated[str | None, typer.Option(help="Only this action, e.g. halt; order* for all that begin so")]


@app.command()
def verify(
    head: Annotated[
        list[str] | None, typer.Option(help="A head kept elsewhere (NUMBER:HASH), e.g. of a daily summary; repeatable")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Walk the whole chain, and compare it with the ledger's rows and with the heads kept outside the database.

    Every changed, missing, added or reordered record or row is one line.
    """
    from resources.ledger import audit, audit_anchor

    books, told = own_books(), {}
    for own in books:
        try:
            anchors = audit_anchor.read(own.book_path("audit"))
            if own is books[0]:  # a chain has heads of its own: those given are of the book that was asked for
                anchors += [audit_anchor.parse(text) for text in head or []]
        except (audit_anchor.AnchorsUnreadable, ValueError) as error:
            fail(str(error), WRONG)
        with open_ledger(own) as ledger:
            told[own.book] = audit.check(ledger.engine, anchors, progress=lambda n: typer.echo(f"{n} records ...", err=True))
    wrong = any(found.problems for found in told.values())
    if as_json:
        plain: dict[str, Any] = {
            book: {"problems": list(found.problems), "records": found.records, "rows": found.rows, "anchors": found.anchors,
                   "head": str(found.head) if found.head else ""}
            for book, found in told.items()
        }  # fmt: skip
        print_json(plain if len(plain) > 1 else next(iter(plain.values())))
        raise typer.Exit(WRONG if wrong else 0)
    for book, found in told.items():
        name = f"{book} book: " if len(told) > 1 else ""
        for fault in found.problems:
            typer.echo(f"{name}{fault}")
        what = f"{found.records} records, {found.rows} rows, {found.anchors} anchors"
        said = "the audit trail is whole" if not found.problems else f"{len(found.problems)} fault(s) in the audit trail"
        typer.echo(f"{name}{said} ({what}; head {found.head or 'none'})")
    raise typer.Exit(WRONG if wrong else 0)


@app.command()
def head() -> None:
    """The newest record's number and hash, to be kept elsewhere: `verify --head` proves later that nothing is missing."""
    from resources.ledger import audit

    with open_ledger() as ledger, ledger.engine.connect() as connection:
        newest = audit.head(connection)
    typer.echo(str(newest) if newest is not None else "no record yet")


@app.command("list")
def list_(
    start: From = None,
    end: To = None,
    actor: Actor = None,
    action: Action = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many")] = 50,
    as_json: AsJson = False,
) -> None:
    """Records, newest first."""
    from resources.ledger.audit_read import read

    begin_us, end_us = _range(start, end)
    with open_ledger() as ledger:
        rows = read(
            ledger.engine, start_us=begin_us, end_us=end_us, actor=actor, action=action, limit=limit, newest_first=True
        )  # fmt: skip
    if as_json:
        print_json(rows)
        return
    table(
        "audit", ["seq", "time", "actor", "action", "content"],
        [[str(r["seq"]), r["time"], r["actor"], r["action"], cell(r["content"])] for r in rows],
    )  # fmt: skip


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write")],
    start: From = None,
    end: To = None,
    form: Annotated[str, typer.Option("--format", help="csv or parquet")] = "csv",
    actor: Actor = None,
    action: Action = None,
) -> None:
    """Write the records of a time range to a file, each with its hash, for whoever must be able to check them."""
    from resources.ledger.audit_read import export as write

    if form not in ("csv", "parquet"):
        fail(f"format {form!r}: expected csv or parquet", 2)
    begin_us, end_us = _range(start, end)
    with open_ledger() as ledger:
        try:
            done = write(
                ledger.engine, out, start_us=begin_us, end_us=end_us, form="csv" if form == "csv" else "parquet",
                actor=actor, action=action,
            )  # fmt: skip
        except OSError as error:
            fail(f"{out}: {error.strerror}", WRONG)
    span = f"records {done.first} to {done.last}" if done.records else "no records"
    typer.echo(f"{done.path}: {done.records} ({span})")


def _range(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    begin_us = _time("--from", start, 0) if start is not None else None
    end_us = _time("--to", end, 1) if end is not None else None
    if begin_us is not None and end_us is not None and end_us <= begin_us:
        fail(f"--to {end} does not lie after --from {start}", 2)
    return begin_us, end_us


def _time(option: str, text: str, days: int) -> int:
    """UTC us of a time, or of the start of a day (`days` days later)."""
    from datetime import timedelta

    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        fail(f"{option} {text!r}: expected a day or a time such as 2026-03-02 or 2026-03-02T14:00:00Z", 2)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if len(text) == 10:
        moment += timedelta(days=days)
    return int(moment.timestamp() * 1_000_000)
