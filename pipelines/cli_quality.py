"""``tapeline quality``: scores of the data, rows in quarantine, gaps and how to fill them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import UNREACHABLE, WRONG, cell, fail, open_ledger, own_settings, print_json, table, warn, who_asks

if TYPE_CHECKING:
    from assets.backfill_run import Backfill, FeedRequest
    from resources.lake import Lake
    from resources.ledger.store import Ledger
    from trading.instruments import PriceFloor

app = typer.Typer(help="Quality of the market data.", no_args_is_help=True)
quarantine_app = typer.Typer(help="Rows put aside at ingest because they fail validity.", no_args_is_help=True)
app.add_typer(quarantine_app, name="quarantine")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Symbol = Annotated[str | None, typer.Option(help="Only this symbol")]
Dataset = Annotated[str | None, typer.Option(help="Only this dataset, e.g. bars_1m")]
Session = Annotated[str | None, typer.Option(help="Only this session, e.g. 2017-12-29")]
Who = Annotated[str, typer.Option(help="Who decides; kept in the audit; default: the user of this terminal")]
Why = Annotated[str, typer.Option("--why", help="Why; kept in the audit")]
Ids = Annotated[list[str], typer.Argument(help="Rows by id, or the beginning of it")]

_SCORES = ["session", "dataset", "symbol", "completeness", "validity", "timeliness", "consistency", "uniqueness", "fault_share"]
_VALUES = ("open", "high", "low", "close", "volume")
_ROWS = ["id", "state", "session", "dataset", "symbol", "close", "fails", "received", "place", "note"]


@app.command("score")
def score(
    symbol: Symbol = None,
    dataset: Dataset = None,
    session: Session = None,
    limit: Annotated[int, typer.Option(min=1, help="Most partitions shown")] = 50,
    as_json: AsJson = False,
) -> None:
    """Scorecards of the newest partitions: five shares, 1 is best, and the share of bars missing or wrong."""
    from resources.ledger import scores as book

    with open_ledger() as ledger:
        rows = book.scores(ledger.engine, dataset=dataset, symbol=symbol, session=session, limit=limit)
    if as_json:
        print_json(rows)
        return
    shown = [[str(r[c]) if isinstance(r[c], str) else f"{r[c]:.4%}" for c in _SCORES] for r in rows]
    table("scores", _SCORES, shown)


# -- quarantine ----------------------------------------------------------------------------------------------------------


@quarantine_app.command("list")
def quarantine_list(
    state: Annotated[str, typer.Option(help="open, accepted, repaired, discarded, void, info, or all")] = "open",
    symbol: Symbol = None,
    dataset: Dataset = None,
    session: Session = None,
    as_json: AsJson = False,
) -> None:
    """Rows put aside; those that wait for a decision when nothing else is asked for."""
    from resources.quarantine import STATES, Quarantine

    if state not in (*STATES, "all"):
        fail(f"no state {state!r}: expected one of {', '.join(STATES)}, all", WRONG)
    with open_ledger() as ledger:
        wanted = None if state == "all" else state
        rows = Quarantine(ledger.engine).rows(state=wanted, symbol=symbol, dataset=dataset, session=session)
    if as_json:
        print_json(rows)
        return
    table("quarantine", _ROWS, [_row(r) for r in rows])


def _row(row: dict[str, Any]) -> list[str]:
    from trading.timeframes import iso

    return [row["id"], row["state"], row["session"], row["dataset"], row["symbol"], iso(row["close_time"]),
            ", ".join(row["reasons"]), _received(row), row["place"], row["note"]]  # fmt: skip


def _received(row: dict[str, Any]) -> str:
    """Values in the order of a bar: the ledger keeps none."""
    told = row["received"]
    return " ".join(f"{name}={told[name]}" for name in [*_VALUES, *sorted(told.keys() - _VALUES)] if name in told)


@quarantine_app.command("show")
def quarantine_show(ids: Ids, as_json: AsJson = False) -> None:
    """Everything about rows: as received, why they are here, the bars around them, what was decided."""
    from trading.timeframes import iso, session_date, session_number

    with open_ledger() as ledger:
        rows = [_found(ledger, row_id) for row_id in ids]
    if as_json:
        print_json(rows)
        return
    lake = _lake()
    for row in rows:
        told = {**row, "received": _received(row), "reasons": ", ".join(row["reasons"])}
        said = [[k, cell(v)] for k, v in told.items() if k not in ("close_time", "first_wall", "seen_wall")]
        said += [
            ["close_time", iso(row["close_time"])],
            ["first seen", iso(row["first_wall"])],
            ["last seen", iso(row["seen_wall"])],
        ]
        table(f"row {row['id']}", ["what", "value"], said)
        if not row["session"]:
            continue
        day = date.fromisoformat(row["session"])
        bars = lake.read_bars(row["dataset"], row["symbol"], session_date(session_number(day) - 7), day)
        near = [i for i, t in enumerate(bars.close_time) if t <= row["close_time"]][-3:]
        after = [i for i, t in enumerate(bars.close_time) if t > row["close_time"]][:3]
        names = ("open", "high", "low", "close", "volume")
        around = [[iso(int(bars.close_time[i])), *(f"{getattr(bars, n)[i]:.10g}" for n in names)] for i in (*near, *after)]
        table("bars around it in the lake", ["close", *names], around)


@quarantine_app.command("accept")
def quarantine_accept(ids: Ids, why: Why, who: Who = "") -> None:
    """The rows are right: they enter as they came, and the rules they failed no longer count for them."""
    _resolve("accept", ids, who, why)


@quarantine_app.command("discard")
def quarantine_discard(ids: Ids, why: Why, who: Who = "") -> None:
    """The rows are wrong and nothing takes their place: they stay out; the gap they leave is judged as one."""
    _resolve("discard", ids, who, why)


@quarantine_app.command("repair")
def quarantine_repair(
    row: Annotated[str, typer.Argument(help="The row by its id, or the beginning of it")],
    why: Why,
    open_: Annotated[float | None, typer.Option("--open")] = None,
    high: Annotated[float | None, typer.Option("--high")] = None,
    low: Annotated[float | None, typer.Option("--low")] = None,
    close: Annotated[float | None, typer.Option("--close")] = None,
    volume: Annotated[float | None, typer.Option("--volume")] = None,
    who: Who = "",
) -> None:
    """The row enters with the values given; the others stay as received. They are checked like any bar."""
    given = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
    _resolve("repair", [row], who, why, {k: v for k, v in given.items() if v is not None})


def _found(ledger: Ledger, row_id: str) -> dict[str, Any]:
    from resources.quarantine import Quarantine, QuarantineError

    try:
        return Quarantine(ledger.engine).row(row_id)
    except QuarantineError as error:
        fail(str(error), WRONG)


def _floor(symbol: str) -> PriceFloor:
    """How low the instrument's prices may be; positive for one the universe does not have any more."""
    from resources.config import ConfigInvalid, load_config
    from trading.instruments import PriceFloor

    try:
        instrument = load_config(own_settings()).universe.instruments.get(symbol)
    except ConfigInvalid as error:
        fail(f"the configuration cannot be used: {error}", WRONG)
    return instrument.price_floor if instrument is not None else PriceFloor.POSITIVE


def _resolve(action: str, ids: list[str], who: str, why: str, given: dict[str, float] | None = None) -> None:
    from resources.quarantine import Quarantine, QuarantineError
    from trading.instruments import PriceFloor

    with open_ledger() as ledger:
        try:
            book = Quarantine(ledger.engine)
            floor = _floor(str(book.row(ids[0])["symbol"])) if given and ids else PriceFloor.POSITIVE
            rows = book.resolve(action, ids, who=who_asks(who), why=why, given=given, floor=floor)
        except QuarantineError as error:
            fail(str(error), WRONG)
        for row in rows:
            typer.echo(f"{row['id']} {row['state']}: {row['dataset']}/{row['session']}/{row['symbol']}")
        for symbol, session in sorted({(row["symbol"], row["session"]) for row in rows}):
            _recompute(ledger, symbol, date.fromisoformat(session))
        undone = [now for row in rows if (now := book.row(row["id"]))["state"] != row["state"]]
        for row in undone:  # what the source says now, or another bar of that close, came before the decision
            warn(f"{row['id']} is {row['state']} again: {row['note']}")
        if undone:
            raise typer.Exit(WRONG)


def _recompute(ledger: Ledger, symbol: str, session: date) -> None:
    """Ingest and judge the session again; the decision stands whatever happens here, the next ingest applies it."""
    from assets.quality.recompute import RecomputeFailed, recompute
    from resources.dagster_resources import ConfigFilesResource
    from resources.lake import LakeError

    try:
        made = recompute(ConfigFilesResource(), _lake(), ledger, symbol, session, session, run_id="tapeline")
    except (RecomputeFailed, LakeError) as error:
        fail(
            f"the decision is recorded, but {symbol} {session} could not be ingested again: {error}. It refuses trading until "
            "an ingest of that session succeeds",
            UNREACHABLE,
        )
    for dataset, first, last, rows in made.datasets:
        typer.echo(f"{dataset} {symbol} {first}{f' to {last}' if last > first else ''}: {rows} bar{'s' if rows != 1 else ''}")
    for dataset, day, check, what in made.failing:
        warn(f"still failing: {dataset}/{day}/{symbol} {check}: {what}")
    if made.put_aside:
        warn(f"{made.put_aside} row(s) of the session still wait: tapeline quality quarantine list --symbol {symbol}")


# -- gaps ----------------------------------------------------------------------------------------------------------------


@app.command("gaps")
def gaps(
    run: Annotated[bool, typer.Option("--run/--plan", help="Ask the sources; without it, only say what would be asked")] = False,
    symbol: Annotated[list[str] | None, typer.Option(help="Only these symbols")] = None,
    start: Annotated[str, typer.Option(help="First session, default: the universe's")] = "",
    end: Annotated[str, typer.Option(help="Last session, default: the universe's, or today")] = "",
    ask_again_days: Annotated[int, typer.Option(min=0, help="Days a session the source does not have is left alone")] = 30,
    forget: Annotated[bool, typer.Option("--forget", help="Ask again for what the sources said they do not have")] = False,
    as_json: AsJson = False,
) -> None:
    """Bars missing against the calendar and the fewest requests that bring them; --run asks, within every budget."""
    from resources.ledger.backfill import BackfillBusy, forget_empty

    first, last = _day(start, "--start"), _day(end, "--end")
    with open_ledger() as ledger:
        work = _backfill(ledger)
        if forget:
            datasets = {f"bars_{i.native_timeframe}" for i in work.universe.instruments.values()}
            chosen: list[str | None] = [*symbol] if symbol else [None]
            count = sum(forget_empty(ledger.engine, d, s) for d in datasets for s in chosen)
            warn(f"{count} sessions known to be empty are asked for again")
        from datetime import UTC, datetime

        until = last or work.universe.history_end or datetime.now(UTC).date()
        plan = work.plan(first or work.universe.history_start, until, symbol or None)
        header, rows = plan.table()
        if not run:
            if as_json:
                print_json([dict(zip(header, row, strict=True)) for row in rows])
            else:
                table("gaps", header, [[cell(c) for c in row] for row in rows])
            _say_plan(plan)
            raise typer.Exit(0)

        def told(done: int, total: int, item: FeedRequest, said: str) -> None:
            typer.echo(f"{done}/{total} {item.feed} {item.request}: {said}")

        try:
            filled = work.run(plan, ask_again_days=ask_again_days, progress=told)
        except BackfillBusy as error:
            fail(str(error), WRONG)
    typer.echo(f"{filled.filled_bars} bars filled in {filled.filled_sessions} sessions by {filled.asked} requests")
    for feed, why in filled.stopped.items():
        warn(f"{feed} is left for later: {why}")
    raise typer.Exit(WRONG if filled.failed else 0)


def _say_plan(plan: Any) -> None:
    for feed, (minute, day) in sorted(plan.left.items()):
        words = ["no limit" if n is None else str(n) for n in (minute, day)]
        warn(f"{feed}: requests left this minute {words[0]}, today {words[1]}")
    if plan.empty:
        warn(f"{len(plan.empty)} sessions the sources do not have are not asked for again yet (--forget does)")
    for symbol, why in sorted(plan.problems.items()):
        warn(f"{symbol}: {why}")


def _day(text: str, option: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        fail(f"{option} {text!r}: expected a date like 2017-12-29", WRONG)


def _backfill(ledger: Ledger) -> Backfill:
    from assets.backfill_run import Backfill
    from resources.config import ConfigInvalid
    from resources.dagster_resources import ConfigFilesResource

    try:
        return Backfill(ConfigFilesResource(), _lake(), ledger, run_id="tapeline")
    except ConfigInvalid as error:
        fail(str(error).splitlines()[0], WRONG)


def _lake() -> Lake:
    from resources.lake import Lake

    return Lake(own_settings().lake_location)
