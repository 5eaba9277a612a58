"""``tapeline data``: which bars changed, what is out of date because of it, and who decided on the former ones."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipelines.cli_support import WRONG, banner, cell, fail, open_ledger, own_settings, print_json, table, warn, who_asks

if TYPE_CHECKING:
    from resources.config import Config
    from resources.ledger.changes import Key

app = typer.Typer(help="Changed bars and what was made of them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Dataset = Annotated[str | None, typer.Option(help="Only this dataset, e.g. bars_5m")]


@app.command()
def stale(dataset: Dataset = None, as_json: AsJson = False) -> None:
    """Partitions that were made of bars which have changed since: nothing is traded on them until they are recomputed. And the
    training sets, models and daily reports that were made of such bars."""
    from dataclasses import asdict

    from resources.lake import LakeError, open_lake
    from resources.ledger import changes
    from resources.outputs import is_output, stale_outputs
    from trading.timeframes import iso

    with open_ledger() as ledger:
        output = dataset is not None and is_output(dataset)
        marks = changes.stale(ledger.engine, dataset=dataset) if not output else []
        try:
            wanted = None if dataset is None else [dataset]
            overtaken = stale_outputs(ledger, open_lake(own_settings()), wanted) if output or dataset is None else []
        except LakeError as error:
            fail(str(error), WRONG)
    if as_json:
        print_json([*(asdict(m) for m in marks), *(asdict(s) for s in overtaken)])
        return
    banner()
    table("stale partitions", ["partition", "because", "since"], [[m.name, m.because, iso(m.since_wall)] for m in marks])
    if overtaken:
        shown = [[f"{s.asset} {s.name}", s.because, iso(s.since_wall) if s.since_wall else ""] for s in overtaken]
        table("models and reports made of data that has changed since", ["made", "because", "since"], shown)
        warn("they stay as they are until materialised again: training_set and then the model, or daily_report of the session")
    if marks:
        warn("the sensor stale_partitions recomputes them; `tapeline data recompute` does it now")


@app.command("changes")
def changes_command(
    session: Annotated[str | None, typer.Option(help="Only this session, e.g. 2017-12-29")] = None,
    dataset: Dataset = None,
    symbol: Annotated[str | None, typer.Option(help="Only this instrument")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first")] = 200,
    as_json: AsJson = False,
) -> None:
    """Partitions that got other content after something was made of them, newest first, and how many decisions it touches."""
    from dataclasses import asdict

    from resources.ledger import changes
    from trading.timeframes import iso

    with open_ledger() as ledger:
        found = changes.changes(ledger.engine, session=session, dataset=dataset, symbol=symbol, limit=limit)
        touched: dict[int, list[str]] = {}
        for one in changes.affected(ledger.engine, [c.seq for c in found]):
            touched.setdefault(one.change_seq, []).append(one.decision_id or one.signal_id)
    if as_json:
        print_json([{**asdict(c), "decisions": touched.get(c.seq, [])} for c in found])
        return
    banner()
    rows = [
        [iso(c.recorded_wall), c.name, c.old_hash[:12] or "none", c.new_hash[:12] or "none", c.reason, c.run_id[:8],
         cell(len(touched.get(c.seq, [])))]
        for c in found
    ]  # fmt: skip
    table("changed partitions", ["when", "partition", "before", "now", "why", "run", "decisions"], rows)


@app.command()
def affected(
    partition: Annotated[str, typer.Argument(metavar="DATASET/SESSION/SYMBOL", help="e.g. bars_1m/2017-12-28/EURUSD")],
    as_json: AsJson = False,
) -> None:
    """What came of a bars partition: decisions and orders, whether they saw what it holds now, and what is made of it."""
    from dataclasses import asdict

    from resources.affected import affected_by
    from resources.lake import LakeError, open_lake
    from trading.timeframes import iso

    key = _partition(partition)
    config = _config()
    universe = config.universe
    sets = sorted(own_settings().path("training").glob("*.parquet"))
    with open_ledger() as ledger:
        try:
            found = affected_by(ledger, open_lake(own_settings()), universe, key, sets)
        except KeyError as error:
            fail(str(error.args[0]), WRONG)
        except LakeError as error:
            fail(str(error), WRONG)
    if as_json:
        print_json({**asdict(found), "key": "/".join(found.key)})
        return
    banner()
    rows = [
        [s.strategy, s.symbol, iso(s.close_time), s.decision_id or "undecided", "approved" if s.approved else "", s.state,
         " ".join(s.orders)]
        for s in found.signals
    ]  # fmt: skip
    table(f"signals computed from {partition}", ["strategy", "symbol", "close", "decision", "", "its bars now", "orders"], rows)
    made = [[name, cell(len(days)), days[0], days[-1]] for name, days in sorted(found.datasets.items())]
    table("partitions made of it", ["dataset", "sessions", "first", "last"], made)
    for path, state in found.training_sets.items():
        typer.echo(f"training set {path}: its sources are {'the same' if state == 'same' else 'not the same any more'} ({state})")
    for day in found.reports:
        typer.echo(f"daily report of {day}")
    for change in found.changes:
        typer.echo(f"changed {iso(change.recorded_wall)}: {change.reason} (run {change.run_id})")
    if any(s.state != "same" for s in found.signals):
        warn("some were decided on rows that are other rows now: `tapeline trace` shows each chain")


@app.command()
def recompute(who: Annotated[str, typer.Option(help="Who asks; kept in the audit")] = "") -> None:
    """Recompute what is stale now, in this process; the sensor stale_partitions does the same by itself."""
    import warnings

    warnings.simplefilter("ignore")
    from assets.recompute import recompute as run
    from resources.lake import open_lake
    from resources.ledger import audit

    universe = _config().universe
    with open_ledger() as ledger:
        done = run(ledger, open_lake(own_settings()), universe, run_id="tapeline data recompute")
        with ledger.transaction() as c:
            content = {"partitions": len(done.partitions), "changed": len(done.changed), "left": len(done.left)}
            audit.append(c, who_asks(who), "data_recompute", content)
    banner()
    typer.echo(
        f"{len(done.partitions)} partitions recomputed in {done.seconds:.1f} s, {len(done.changed)} of them changed, "
        f"{done.verdicts} verdicts recorded"
    )
    for key, why in sorted(done.left.items()):
        warn(f"still stale: {'/'.join(key)}: {why}")
    if done.left:
        raise typer.Exit(WRONG)


@app.command()
def bars(
    symbol: Annotated[str, typer.Argument(help="Instrument of the universe")],
    timeframe: Annotated[str, typer.Argument(help="1m 3m 5m 15m 30m 1h 4h 1d 1w")],
    count: Annotated[int, typer.Option("--count", "-n", help="The newest so many")] = 20,
    forming: Annotated[bool, typer.Option("--forming", help="Also the bar that is not complete yet, marked as forming")] = False,
    as_json: AsJson = False,
) -> None:
    """The newest bars of an instrument, with their average price and number of trades where the source tells them."""
    from resources.lake import LakeError, open_lake
    from trading.calendars import calendar
    from trading.resample import forming_bar
    from trading.timeframes import Timeframe, iso, session_date

    universe = _config().universe
    if symbol not in universe.instruments:
        fail(f"{symbol} is not in the universe {universe.name}: expected one of {', '.join(universe.instruments)}", WRONG)
    try:
        frame = Timeframe(timeframe)
    except ValueError:
        fail(f"no timeframe {timeframe!r}: expected one of {', '.join(str(t) for t in Timeframe)}", WRONG)
    instrument, lake = universe.instruments[symbol], open_lake(own_settings())
    try:
        held = lake.read_bars(f"bars_{frame}", symbol)
        shown = [(held.rows(slice(max(0, len(held) - count), None)), "")]
        if forming and frame.minutes > instrument.native_timeframe.minutes:
            native = lake.read_bars(f"bars_{instrument.native_timeframe}", symbol)
            last = int(native.close_time[-1]) if len(native) else 0
            one = forming_bar(native, frame, calendar(instrument.calendar), known_until=last)
            shown += [(one, f"forming, known until {iso(last)}")] if one is not None else []
    except LakeError as error:
        fail(str(error), WRONG)
    names = ("open", "high", "low", "close", "volume")
    rows: list[dict[str, Any]] = []
    for part, mark in shown:
        for i in range(len(part)):
            row: dict[str, Any] = {
                "session": session_date(int(part.session[i])).isoformat(),
                "close_time": iso(int(part.close_time[i])),
            }
            row |= {n: float(getattr(part, n)[i]) for n in names}
            row["vwap"] = float(part.vwap[i]) if part.turnover is not None and part.volume[i] > 0 else None
            row["trades"] = float(part.trades[i]) if part.trades is not None else None
            rows.append({**row, "state": mark or "complete"})
    if as_json:
        print_json(rows)
        return
    banner()
    table(f"{symbol} {frame}", list(rows[0]) if rows else ["close_time"], [[cell(v) for v in r.values()] for r in rows])


def _partition(text: str) -> Key:
    parts = text.split("/")
    try:
        dataset, session, symbol = parts
        date.fromisoformat(session)
    except ValueError:
        _no_partition(text)
    if not dataset.startswith("bars_"):
        _no_partition(text)
    return dataset, session, symbol


def _no_partition(text: str) -> NoReturn:
    fail(f"{text!r} is no bars partition: expected one such as bars_1m/2017-12-28/EURUSD", WRONG)


def _config() -> Config:
    from resources.config import ConfigInvalid, load_config

    try:
        return load_config(own_settings())
    except ConfigInvalid as error:
        fail(f"the universe cannot be read: {error}", WRONG)
