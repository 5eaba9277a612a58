"""``tapeline feeds``: what each source of market data can, what its plan has left, how its live subscription is."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import typer

from pipelines.cli_support import WRONG, cell, fail, own_settings, print_json, table, warn

app = typer.Typer(help="Sources of market data.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
FeedName = Annotated[str, typer.Argument(metavar="FEED", help="As `tapeline feeds list` shows it")]

BARS_SHOWN = 10


@app.command("list")
def list_feeds(as_json: AsJson = False) -> None:
    """Every feed: timeframes, live or not, limits, requests left, live status."""
    rows = _described()
    if as_json:
        print_json(rows)
        return
    columns = ["feed", "timeframes", "live", "simulated", "history", "limits", "left", "status"]
    table("feeds", columns, [[cell(row[c]) for c in columns] for row in rows])


@app.command()
def lookup(
    text: Annotated[str, typer.Argument(help="Symbol or a part of it")],
    feed: Annotated[str | None, typer.Option(help="Only this feed; default: those of the universe")] = None,
    as_json: AsJson = False,
) -> None:
    """Symbols of feeds that match a text, best first."""
    from resources.feeds import get_feed
    from resources.feeds.protocol import FeedError

    found: dict[str, list[str]] = {}
    failed = False
    for name in [feed] if feed else _universe_feeds():
        try:
            found[name] = get_feed(name, own_settings()).lookup(text)[:20]
        except FeedError as error:
            warn(f"{name}: {error}")
            failed = True
    if as_json:
        print_json(found)
    else:
        for name, symbols in found.items():
            typer.echo(f"{name}: {', '.join(symbols) or 'nothing'}")
    raise typer.Exit(WRONG if failed or not any(found.values()) else 0)


@app.command()
def check(
    feed: FeedName,
    symbol: Annotated[str, typer.Argument(help="Symbol of the universe, or the feed's own")],
    timeframe: Annotated[str, typer.Option(help="Default: the instrument's native one, or the feed's shortest")] = "",
    start: Annotated[str, typer.Option(help="First session, ISO date; default: the last week")] = "",
    end: Annotated[str, typer.Option(help="Last session, ISO date; default: today")] = "",
) -> None:
    """Ask a feed for a small history and print it, as the ingest would read it. Counts in its budget."""
    from resources.feeds import get_feed
    from resources.feeds.protocol import FeedError, QuoteFeed
    from trading.timeframes import Timeframe, iso, session_date

    try:
        source = get_feed(feed, own_settings())
        frames = source.capabilities().timeframes
        instrument = _instrument(feed, symbol)
        chosen = Timeframe(timeframe) if timeframe else instrument.native_timeframe
        if not timeframe and chosen not in frames:
            chosen = min(frames, key=lambda t: t.minutes)
        lo, hi = _span(source, start, end)
        bars = source.history(instrument, chosen, lo, hi)
    except FeedError as error:
        fail(str(error), WRONG)
    except ValueError as error:
        fail(f"{error}; timeframes are {', '.join(str(t) for t in Timeframe)}, dates like 2026-03-04", WRONG)
    simulated = " (SIMULATED prices)" if source.capabilities().simulated else ""
    typer.echo(f"{feed} {instrument.symbol} {chosen}: {len(bars)} bars in sessions {lo} to {hi}{simulated}")
    for odd in list(getattr(source, "left_out", ()))[:BARS_SHOWN]:
        warn(f"left out: {odd.where}: {odd.reason}")
    shown = range(max(0, len(bars) - BARS_SHOWN), len(bars))
    names = ("open", "high", "low", "close", "volume", *bars.extras)
    rows = [
        [iso(int(bars.close_time[k])), str(session_date(int(bars.session[k]))), *(f"{getattr(bars, n)[k]:.10g}" for n in names)]
        for k in shown
    ]
    if rows:
        table(f"last bars of {instrument.symbol}", ["close_time", "session", *names], rows)
    if source.capabilities().quotes and isinstance(source, QuoteFeed) and len(bars):
        try:
            for q in source.quote([instrument]):
                sides = f"bid {q.bid:.10g} x {q.bid_size:g}, ask {q.ask:.10g} x {q.ask_size:g}"
                typer.echo(f"quote {iso(q.time)}: {sides}, last {q.last:.10g}")
        except FeedError as error:
            warn(f"no quote: {error}")
    raise typer.Exit(0 if len(bars) else WRONG)


def _described() -> list[dict[str, Any]]:
    from resources.feeds import feed_names, get_feed
    from resources.feeds.protocol import FeedError

    state = _live_state()
    rows = []
    for name in feed_names():
        try:
            feed = get_feed(name, own_settings())
            can = feed.capabilities()
        except FeedError as error:
            rows.append(
                {
                    "feed": name,
                    **dict.fromkeys(("timeframes", "live", "simulated", "history", "limits", "left")),
                    "status": str(error),
                }
            )
            continue
        back = f"from {can.history_start}" if can.history_start else f"{can.history_days} days" if can.history_days else ""
        limits = [f"{n} a {what}" for n, what in ((can.requests_per_minute, "minute"), (can.requests_per_day, "day")) if n]
        rows.append({
            "feed": name,
            "timeframes": " ".join(str(t) for t in sorted(can.timeframes, key=lambda t: t.minutes)),
            "live": "yes" if can.live else "",
            "simulated": "SIMULATED" if can.simulated else "",
            "history": back,
            "limits": ", ".join(limits),
            "left": _left(can) if limits else "",
            "status": _status(name, state),
        })  # fmt: skip
    return rows


def _left(can: Any) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    from resources.feeds.budget import budget_of
    from resources.feeds.protocol import FeedError

    try:
        budget = budget_of(can, own_settings())
        minute, day = budget.left() if budget is not None else (None, None)
    except (FeedError, SQLAlchemyError):
        return "unknown: no ledger"
    return ", ".join(f"{left} this {what}" for left, what in ((minute, "minute"), (day, "day")) if left is not None)


def _live_state() -> dict[str, Any]:
    """What the desk wrote of its live feeds; empty without a ledger."""
    from sqlalchemy.exc import SQLAlchemyError

    from resources.ledger.store import Ledger

    try:
        ledger = Ledger.at(own_settings().ledger_url())
    except FileNotFoundError:
        return {}
    try:
        return ledger.get_state("live_feed") or {}
    except SQLAlchemyError:
        return {}
    finally:
        ledger.engine.dispose()


def _status(name: str, state: dict[str, Any]) -> str:
    from trading.timeframes import iso

    said = []
    for feed in state.get("feeds", []):
        if feed["feed"] == name:
            trouble = [symbol for symbol in feed["symbols"] if symbol in state["trouble"]]
            words = "connected" if feed["connected"] else f"NOT connected ({feed['last_error']})"
            said.append(
                f"{feed['timeframe']} {words}, {len(feed['symbols'])} symbols, {feed['reconnects']} reconnects"
                + (f", in trouble: {', '.join(trouble)}" if trouble else "")
                + f", seen {iso(int(state['wall']))}"
            )
    return "; ".join(said)


def _universe_feeds() -> list[str]:
    from resources.config import ConfigInvalid, load_config

    try:
        universe = load_config(own_settings()).universe
    except ConfigInvalid as error:
        fail(str(error), WRONG)
    return sorted({i.feed for i in universe.instruments.values()})


def _instrument(feed: str, symbol: str) -> Any:
    """The universe's instrument of that name or feed symbol; else a US stock of that name, as the feed spells it."""
    from decimal import Decimal

    from resources.config import ConfigInvalid, load_config
    from trading.instruments import AssetClass, Instrument
    from trading.timeframes import Timeframe

    try:
        for instrument in load_config(own_settings()).universe.instruments.values():
            if instrument.feed == feed and symbol in (instrument.symbol, instrument.feed_symbol):
                return instrument
    except ConfigInvalid as error:
        warn(f"the universe cannot be used ({error}); {symbol} is taken for a US stock")
    return Instrument(symbol, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", feed, symbol, Timeframe.D1)


def _span(source: Any, start: str, end: str) -> tuple[date, date]:
    """The sessions asked for; the week up to now in the feed's own time by default."""
    import time
    from datetime import timedelta

    from resources.feeds.protocol import MarketClock
    from trading.timeframes import from_us

    now = source.market_time() if isinstance(source, MarketClock) else time.time_ns() // 1000
    hi = date.fromisoformat(end) if end else from_us(now).date()
    return (date.fromisoformat(start) if start else hi - timedelta(days=7)), hi
