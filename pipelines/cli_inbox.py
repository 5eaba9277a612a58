"""``tapeline inbox``: files of market data people drop, seen from a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import WRONG, fail, open_ledger, own_settings, print_json, table, who_asks

if TYPE_CHECKING:
    from resources.inbox_report import Check

app = typer.Typer(help="CSV and Parquet files dropped into data/inbox.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
FIRST_BARS = 5
SHOWN_ROWS = 20


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A file, in the inbox or anywhere else")],
    profile: Annotated[str, typer.Option(help="Read it by this profile of data/config/feeds")] = "",
    as_json: AsJson = False,
) -> None:
    """Dry run: what would be read, detected and refused, and the first rows as bars. Nothing is moved."""
    from resources.inbox import Inbox

    if not file.is_file():
        fail(f"{file}: no such file", WRONG)
    found = Inbox(own_settings()).check(file, profile)
    if as_json:
        print_json(_plain(found))
    else:
        _show(found)
    raise typer.Exit(WRONG if found.refusal else 0)


def _plain(found: Check) -> dict[str, Any]:
    judged = found.judged
    return {
        "file": found.name,
        "sha256": found.sha256,
        "profile": found.profile_name,
        "accepted": not found.refusal,
        "refusal": found.refusal,
        "add": found.add,
        "detected": [{"key": f.what, "value": f.value, "because": f.evidence} for f in found.findings],
        "layout": found.layout.model_dump(mode="json") if found.layout else None,
        "rows": judged.rows if judged else 0,
        "bars": {s: len(b.columns.close_time) for s, b in judged.symbols.items()} if judged else {},
        "bad": judged.bad_count if judged else 0,
        "bad_rows": [{"line": b.line, "symbol": b.symbol, "text": b.text, "reason": b.reason} for b in judged.bad[:100]]
        if judged
        else [],
        "left_out": [{"symbol": x.symbol, "where": x.where, "reason": x.reason} for x in judged.left_out[:100]] if judged else [],
        "notes": judged.notes if judged else [],
        "not_in_universe": judged.unknown if judged else {},
    }


def _show(found: Check) -> None:
    from resources.inbox_report import first_bars

    used = found.profile_name or "none"
    typer.echo(f"{found.name}: {found.kind or 'unreadable'}, {found.size} bytes, profile {used}")
    for problem in found.problems:
        typer.echo(f"PROBLEM  {problem}")
    if found.findings:
        table("detected", ["key", "value", "because"], [[f.what, f.value, f.evidence] for f in found.findings])
    judged = found.judged
    if judged is not None:
        for note in judged.notes:
            typer.echo(f"note     {note}")
        if judged.unknown:
            names = ", ".join(list(judged.unknown)[:20])
            typer.echo(f"note     not in the universe, not read: {names}{' ...' if len(judged.unknown) > 20 else ''}")
        if judged.left_out:
            rows = [[x.symbol, x.where, x.reason] for x in judged.left_out[:SHOWN_ROWS]]
            table("left out", ["symbol", "where", "why"], rows)
        if judged.bad_count:
            rows = [[str(b.line), b.symbol, b.text, b.reason, b.advice] for b in judged.bad[:SHOWN_ROWS]]
            table(f"bad rows, {judged.bad_count} in all", ["line", "symbol", "text", "what is wrong", "what to do"], rows)
        for symbol, bars in judged.symbols.items():
            title = f"{len(bars.columns.close_time)} {found.layout.timeframe if found.layout else ''} bars of {symbol}, the first"
            table(title, ["close_time", "open", "high", "low", "close", "volume"], first_bars(bars, FIRST_BARS))
    if found.refusal:
        typer.echo(f"REFUSED  {found.refusal}", err=True)
    else:
        typer.echo("it would be accepted")


@app.command("list")
def list_files(as_json: AsJson = False) -> None:
    """Files that wait, accepted ones (newest first) and refused ones with the reason."""
    from resources.feeds.protocol import FeedError
    from resources.inbox import Inbox
    from resources.inbox_report import reason_of
    from trading.timeframes import iso

    inbox = Inbox(own_settings())
    try:
        accepted = list(reversed(inbox.index().files))
    except FeedError as error:
        fail(str(error), WRONG)
    waiting = [[w.name, str(w.size), "" if w.finished else "not finished by its name"] for w in inbox.waiting()]
    held = [
        [str(f.order), iso(f.accepted_wall)[:19], f.path, f.profile, str(f.layout.timeframe),
         ", ".join(h.instrument for h in f.symbols.values()), str(sum(h.rows for h in f.symbols.values())),
         f"{f.span[0]} to {f.span[1]}"]
        for f in accepted
    ]  # fmt: skip
    refused = [[path, reason_of(inbox.folder / path)] for path in inbox.rejected()]
    columns = {
        "waiting": ["file", "size", "state"],
        "accepted": ["number", "accepted", "file", "profile", "timeframe", "instruments", "rows", "sessions"],
        "rejected": ["file", "why"],
    }
    rows = {"waiting": waiting, "accepted": held, "rejected": refused}
    if as_json:
        print_json({kind: [dict(zip(columns[kind], row, strict=True)) for row in rows[kind]] for kind in rows})
        return
    for kind, names in columns.items():
        table(kind, names, rows[kind])


@app.command()
def retry(
    name: Annotated[str, typer.Argument(help="The refused or accepted file, as `list` shows it or as it was dropped")],
    profile: Annotated[str, typer.Option(help="Read it by this profile")] = "",
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
) -> None:
    """Put a file back into the inbox, to be read again: after its profile or the universe was mended."""
    from resources.inbox import Inbox, InboxError
    from resources.ledger import audit

    with open_ledger() as ledger, ledger.engine.begin() as connection:
        try:
            waiting = Inbox(own_settings()).retry(name, profile)
        except InboxError as error:
            fail(str(error), WRONG)
        audit.append(connection, who_asks(who), "inbox_retry", {"file": name, "profile": profile, "waiting": waiting})
    typer.echo(f"{waiting} waits in the inbox; the sensor inbox_files takes it within seconds")


@app.command()
def profiles() -> None:
    """Vendors' layouts in data/config/feeds; every problem with file and line."""
    from resources.feeds._profiles import load_profiles

    good, problems = load_profiles(own_settings().config)
    rows = [[p.name, ", ".join([*p.profile.match.files, *p.profile.match.header]), p.profile.description] for p in good.values()]
    table("profiles", ["profile", "matches", "for"], rows)
    for problem in problems:
        typer.echo(f"PROBLEM  {problem}")
    raise typer.Exit(WRONG if problems else 0)
