"""``tapeline lake``: is it whole, what did it hold, what does it take, and keeping it small.

Exit codes: 0 done, 1 something is wrong with what was checked or asked for, 3 the ledger cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import WRONG, banner, fail, open_ledger, own_settings, print_json, table, warn, who_asks

if TYPE_CHECKING:
    from resources.lake import Lake

app = typer.Typer(help="The lake: bars, quotes and features.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Datasets = Annotated[list[str] | None, typer.Argument(metavar="[DATASET]...", help="e.g. bars_1m; none: all there are")]
Start = Annotated[str | None, typer.Option(help="From this session on, e.g. 2017-12-01")]
End = Annotated[str | None, typer.Option(help="Up to this session")]


@contextmanager
def _lake() -> Iterator[Lake]:
    """The lake; what it refuses is one line and exit code 1."""
    from resources.lake import LakeError, open_lake

    try:
        yield open_lake(own_settings())
    except LakeError as error:
        fail(str(error), WRONG)


def _chosen(lake: Lake, datasets: Sequence[str] | None) -> list[str]:
    held = lake.datasets()
    unknown = [name for name in datasets or () if name not in held]
    if unknown:
        fail(f"no dataset {', '.join(unknown)} in the lake; it holds {', '.join(held) or 'nothing'}", WRONG)
    return list(datasets or held)


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is no session's date; expected e.g. 2017-12-29", WRONG)


@app.command()
def verify(datasets: Datasets = None, start: Start = None, end: End = None) -> None:
    """Recompute every content hash from the files, replaced versions too; every fault is one line."""
    with _lake() as lake:
        chosen, faults = _chosen(lake, datasets), 0
        for name in chosen:
            found = lake.verify(name, _day(start), _day(end))
            faults += len(found)
            for fault in found:
                typer.echo(fault)
            count = len(lake.partitions(name, _day(start), _day(end)))
            typer.echo(f"{name}: {count} partitions, {'whole' if not found else f'{len(found)} fault(s)'}")
    raise typer.Exit(WRONG if faults else 0)


@app.command()
def versions(
    partition: Annotated[str, typer.Argument(metavar="DATASET/SESSION/SYMBOL", help="e.g. bars_1m/2017-12-28/EURUSD")],
    content_hash: Annotated[str, typer.Option("--hash", help="Only say whether this version can be read, and show its end")] = "",
    as_json: AsJson = False,
) -> None:
    """Every version of a partition that can still be read, newest first: what a decision then was taken on."""
    from trading.timeframes import iso

    parts = partition.split("/")
    if len(parts) != 3:
        fail(f"{partition!r}: expected DATASET/SESSION/SYMBOL, e.g. bars_1m/2017-12-28/EURUSD", WRONG)
    dataset, day, symbol = parts[0], _day(parts[1]), parts[2]
    if day is None:
        raise AssertionError("a given day is a day")
    with _lake() as lake:
        if content_hash:
            bars = lake.read_version(dataset, symbol, day, content_hash)
            last = bars.rows(slice(max(0, len(bars) - 10), None))
            values = zip(last.close_time, last.open, last.high, last.low, last.close, last.volume, strict=True)
            rows = [[iso(int(when)), *(f"{v:.10g}" for v in row)] for when, *row in values]
            banner()
            table(
                f"{partition} as {content_hash[:16]}: {len(bars)} rows, the last",
                ["close", "open", "high", "low", "last", "volume"],
                rows,
            )
            return
        found = lake.versions(dataset, symbol, day)
    if as_json:
        print_json([{**asdict(p), "session": p.session.isoformat()} for p in found])
        return
    banner()
    table(
        f"versions of {partition}",
        ["content hash", "rows", "last close", "source", "written", "replaced"],
        [
            [p.content_hash, str(p.rows), iso(p.last_close_time), p.source, iso(p.written_wall),
             iso(p.superseded_wall) if p.superseded_wall else "counts now"]
            for p in found
        ],
    )  # fmt: skip
    if not found:
        raise typer.Exit(WRONG)


@app.command()
def compact(
    datasets: Datasets = None,
    before: Annotated[str | None, typer.Option(help="Fold hot sessions before this one; default: all but the newest")] = None,
    as_json: AsJson = False,
) -> None:
    """Fold minutes of past sessions into their month, merge replaced versions, sweep leftovers. No content changes."""
    with _lake() as lake:
        done = [c for name in _chosen(lake, datasets) for c in lake.compact(name, _day(before))]
    if as_json:
        print_json([asdict(c) for c in done])
        return
    rows = [[c.dataset, c.period, c.what, str(c.symbols), str(c.rows), str(c.files_before), str(c.files_after)] for c in done]
    table("compacted", ["dataset", "period", "what", "symbols", "rows", "files before", "files after"], rows)


@app.command()
def sizes(datasets: Datasets = None, as_json: AsJson = False) -> None:
    """Rows, partitions and bytes of every dataset, by kind of file."""
    with _lake() as lake:
        found = [lake.size(name) for name in _chosen(lake, datasets)]
        where = lake.storage.url
    if as_json:
        print_json([asdict(s) for s in found])
        return
    rows = [
        [s.dataset, s.first_session, s.last_session, str(s.symbols), str(s.partitions), f"{s.rows:,}", _bytes(s.bytes),
         f"{s.bytes / s.rows:.2f}" if s.rows else "", f"{s.hot_sessions} ({_bytes(s.hot_bytes)})", _bytes(s.previous_bytes),
         f"{s.superseded} ({_bytes(s.superseded_bytes)})", _bytes(s.manifest_bytes)]
        for s in found
    ]  # fmt: skip
    columns = [
        "dataset",
        "from",
        "to",
        "symbols",
        "partitions",
        "rows",
        "files",
        "bytes/row",
        "hot",
        "previous",
        "replaced",
        "manifests",
    ]
    table(f"lake at {where}", columns, rows)


@app.command()
def retain(
    datasets: Datasets = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove what is shown; kept in the audit")] = False,
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
    as_json: AsJson = False,
) -> None:
    """What the retention policy (data/config/lake/retention.yaml) would remove today; nothing goes without --apply."""
    from resources import retention

    try:
        policy = retention.load_policy(own_settings())
    except retention.RetentionInvalid as error:
        fail(f"no policy, nothing goes: {error}", WRONG)
    with _lake() as lake, open_ledger() as ledger:
        chosen = set(_chosen(lake, datasets))
        made = retention.plan(lake, policy, ledger.engine)
        made = retention.RetentionPlan(
            made.policy_revision, made.today, tuple(d for d in made.doomed if d.dataset in chosen),
            {name: why for name, why in made.refused.items() if name in chosen},
        )  # fmt: skip
        failed = retention.apply(lake, made, ledger.engine, who=who_asks(who)) if apply else []
    if as_json:
        print_json([_doomed(d) for d in made.doomed])
    else:
        banner()
        rows = [[str(v) for v in _doomed(d).values()] for d in made.doomed]
        columns = ["dataset", "what", "after days", "partitions", "rows", "bytes", "from", "to", "spared, referred to"]
        table("removed" if apply else "would be removed (dry run)", columns, rows)
    for name, why in made.refused.items():
        warn(f"{name} was left as it is: {why}")
    for line in failed:
        warn(f"not done: {line}")
    if not apply and made.partitions:
        warn("nothing was removed: `tapeline lake retain --apply` does it and writes it to the audit")
    raise typer.Exit(WRONG if failed or made.refused else 0)


def _doomed(d: Any) -> dict[str, Any]:
    days = [p.session for p in d.partitions]
    return {
        "dataset": d.dataset, "what": d.what, "days": d.days, "partitions": len(d.partitions), "rows": d.rows, "bytes": d.bytes,
        "first": min(days).isoformat() if days else "", "last": max(days).isoformat() if days else "", "spared": len(d.spared),
    }  # fmt: skip


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
