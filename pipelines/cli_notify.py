"""``tapeline notify``: what the channels are told, what waits, and what a person does about it."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from pipelines.cli_support import UNREACHABLE, WRONG, banner, fail, open_ledger, own_settings, print_json, table, warn, who_asks

app = typer.Typer(help="Notifications: channels and their queues.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Channel = Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel of notifications.yaml")]
Only = Annotated[str | None, typer.Option("--channel", help="Only this channel")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID...", help="Numbers as `tapeline notify queue` shows them")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")]
Who = Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")]


@app.command("test")
def send_test(
    channel: Channel,
    wait_seconds: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the channel to take it")] = 15.0,
    who: Who = "",
) -> None:
    """Send a test message the way every message goes: through the queue, by the notifier. Says what became of it."""
    from resources.ledger import notifications as queue
    from resources.notifications import routing

    own = own_settings()
    loaded = routing.load(own.config)
    _show_problems(loaded)
    if loaded.settings is None or channel not in loaded.settings.channels:
        known = ", ".join(sorted(loaded.settings.channels)) if loaded.settings else ""
        fail(f"no channel {channel!r} in {own.config / routing.FILE_NAME}; there are: {known or 'none'}", WRONG)
    with open_ledger() as ledger:
        name = queue.request_test(ledger.engine, channel, who_asks(who), own.mode)
        deadline = time.monotonic() + wait_seconds
        row: Any = None
        while time.monotonic() < deadline:
            row = queue.state_of(ledger.engine, channel, name)
            if row is None or row["state"] != queue.QUEUED:
                break
            time.sleep(0.1)
        state = queue.channel_state(ledger.engine, channel)
        beat = ledger.get_state("notifier")
    if row is not None and row["state"] == queue.SENT:
        typer.echo(f"{channel} has it ({name}, {(row['done_wall'] - row['queued_wall']) / 1e6:.1f} s)")
        return
    said = row["error"] if row is not None and row["error"] else state["error"]
    if row is not None and row["state"] == queue.FAILED:
        fail(f"{channel} refused it: {said}", WRONG)
    if beat is None or time.time() - beat["wall"] / 1e6 > 30:
        fail(f"queued ({name}), but the notifier does not run: start Tapeline with `tapeline up`", UNREACHABLE)
    fail(f"queued ({name}), not taken yet: {said or 'the channel is busy'}; see `tapeline notify queue`", WRONG)


@app.command("queue")
def queue_(
    channel: Only = None,
    everything: Annotated[bool, typer.Option("--all", help="Sent and discarded ones, too")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many")] = 30,
    as_json: AsJson = False,
) -> None:
    """What waits or was refused, by channel, and how each channel does."""
    from resources.ledger import notifications as queue
    from resources.notifications import routing
    from trading.timeframes import iso

    states = (queue.QUEUED, queue.FAILED, *((queue.SENT, queue.DISCARDED) if everything else ()))
    with open_ledger() as ledger:
        channels = queue.overview(ledger.engine)
        rows = queue.listed(ledger.engine, states=states, channel=channel, limit=limit)
        lag = queue.lag(ledger.engine)
        beat = ledger.get_state("notifier")
    runs = beat is not None and time.time() - beat["wall"] / 1e6 < 30
    if as_json:
        print_json({"notifier_runs": runs, **lag, "channels": channels, "notifications": rows})
        return
    banner()
    if not runs:
        warn("the notifier does not run: nothing is sent until it does")
    loaded = routing.load(own_settings().config)
    known = set(loaded.settings.channels) if loaded.settings else set()
    head = ["channel", "queued", "failed", "sent", "oldest waits since", "asked again at", "failures", "error"]
    cells = []
    for c in channels:
        later = c.get("not_before_wall") or 0
        gone = "" if c["channel"] in known else " (not in notifications.yaml)"
        cells.append([
            c["channel"] + gone, str(c["queued"]), str(c["failed"]), str(c["sent"]), _when(c["oldest_queued_wall"]),
            iso(later) if later > time.time_ns() // 1000 else "", str(c.get("failures") or 0), c.get("error") or "",
        ])  # fmt: skip
    table("channels", head, cells)
    table(
        "notifications", ["id", "channel", "state", "happened", "kind", "title", "attempts", "error"],
        [[str(r["id"]), r["channel"], r["state"], iso(r["happened_wall"]), r["kind"], r["title"], str(r["attempts"]), r["error"]]
         for r in rows],
    )  # fmt: skip
    if lag["unread"]:
        typer.echo(f"{lag['unread']} audit record(s) not read yet")


@app.command()
def retry(reason: Reason, ids: Ids = None, channel: Only = None, who: Who = "") -> None:
    """Send refused (or, by id, discarded) ones again, and try failing channels at once; audited."""
    from resources.ledger import notifications as queue

    with open_ledger() as ledger:
        count = queue.retry(ledger.engine, who_asks(who), reason, ids=ids or (), channel=channel)
    typer.echo(f"{count} queued again")


@app.command()
def discard(reason: Reason, ids: Ids = None, channel: Only = None, who: Who = "") -> None:
    """Let waiting or refused ones go, by id or all of a channel; audited."""
    from resources.ledger import notifications as queue

    with open_ledger() as ledger:
        try:
            count = queue.discard(ledger.engine, who_asks(who), reason, ids=ids or (), channel=channel)
        except ValueError as error:
            fail(f"{error}: give numbers or --channel", 2)
    typer.echo(f"{count} discarded")


@app.command()
def check() -> None:
    """Read notifications.yaml and the secrets it names; every problem with file and line. Shows no secret."""
    from resources.notifications import routing
    from resources.secrets import SecretError, read_named_secret

    own = own_settings()
    loaded = routing.load(own.config)
    wrong = _show_problems(loaded)
    for name, channel in sorted((loaded.settings.channels if loaded.settings else {}).items()):
        said = "good"
        for secret in routing.secrets_of(channel):
            try:
                text = read_named_secret(own.path("secrets"), secret)
            except SecretError as error:
                said = str(error)
            else:
                if secret == getattr(channel, "url_secret", None) and not routing.usable_url(text):
                    said = f"{own.path('secrets', secret)} holds no https:// address"
        wrong += said != "good"
        typer.echo(
            f"{'good   ' if said == 'good' else 'PROBLEM'}  {name} ({channel.kind}){'' if said == 'good' else ': ' + said}"
        )
    routes = len(loaded.settings.routes) if loaded.settings else 0
    typer.echo(f"{routes} route(s), {wrong} problem(s) in {own.config / routing.FILE_NAME}")
    raise typer.Exit(WRONG if wrong else 0)


@app.command()
def events(as_json: AsJson = False) -> None:
    """Every kind of event that routes can name."""
    from resources.notifications.events import KINDS

    rows = [[kind, str(severity), when] for kind, (severity, when) in KINDS.items()]
    rows.append(["audit.ACTION", "info or warning", "any other record of the audit, by its action"])
    if as_json:
        print_json([{"kind": k, "severity": s, "when": w} for k, s, w in rows])
        return
    table("events", ["kind", "severity", "when"], rows)


@app.command()
def secret(name: Annotated[str, typer.Argument(metavar="NAME", help="As url_secret, token_secret ... name it")]) -> None:
    """Put an address, a token or a password into data/secrets, asked for unseen or read from a pipe; mode 600."""
    import getpass
    import re

    from resources.secrets import SecretError, write_secret

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        fail(f"{name!r}: a secret's name is lower case letters, digits and underscores", 2)
    if name in ("desk_token", "postgres_password"):
        fail(f"{name} is Tapeline's own", 2)
    text = getpass.getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.readline()
    path = own_settings().path("secrets", name)
    try:
        write_secret(path, text)
    except (SecretError, OSError) as error:
        fail(str(error), WRONG)
    typer.echo(f"{path} written")


def _show_problems(loaded: Any) -> int:
    """Print the file's problems; how many are errors."""
    from trading.config_text import errors

    for problem in loaded.problems:
        warn(f"{'PROBLEM ' if problem.severity == 'error' else 'warning '} {problem}")
    return len(errors(loaded.problems))


def _when(wall: int | None) -> str:
    from trading.timeframes import iso

    return iso(wall) if wall is not None else ""
