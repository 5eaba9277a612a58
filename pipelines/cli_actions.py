"""``tapeline actions``: corporate actions, doubtful steps of prices, and the rolls of continuous futures."""

from __future__ import annotations

import math
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import WRONG, banner, fail, open_ledger, own_settings, print_json, table, warn, who_asks

if TYPE_CHECKING:
    from trading.corporate_actions import ActionKind
    from trading.universe import Universe

app = typer.Typer(help="Corporate actions and futures rolls.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Session = Annotated[str, typer.Option("--session", help="The ex session, e.g. 2014-06-09")]
Reason = Annotated[str, typer.Option(help="Why, for the audit trail")]
_HEADER = ["symbol", "kind", "ex session", "factor", "amount", "other", "known", "source"]


def _universe() -> Universe:
    from resources.config import ConfigInvalid, load_config

    try:
        return load_config(own_settings()).universe
    except ConfigInvalid as error:
        fail(f"the configuration cannot be used: {error}", WRONG)


@app.command("list")
def list_(
    symbol: Annotated[str | None, typer.Argument(help="Only this instrument")] = None,
    dividends: Annotated[bool, typer.Option(help="Dividends, too")] = False,
    as_json: AsJson = False,
) -> None:
    """Stored corporate actions, instruments that are held because of one, and what operators said."""
    from desk.corporate_actions import held_instruments
    from resources.corporate_actions import read_actions, stored_symbols
    from resources.lake import LakeError, open_lake
    from resources.ledger.actions import decisions_of
    from trading.corporate_actions import ActionKind
    from trading.timeframes import from_us, session_date

    lake = open_lake(own_settings())
    try:
        found = [a for s in ([symbol] if symbol else stored_symbols(lake)) for a in read_actions(lake, s)]
    except LakeError as error:
        fail(str(error), WRONG)
    shown = [a for a in found if dividends or a.kind is not ActionKind.DIVIDEND]
    with open_ledger() as ledger, ledger.engine.connect() as connection:
        held = {s: why for s, why in held_instruments(connection).items() if symbol in (None, s)}
        said = {key: d for key, d in decisions_of(connection).items() if symbol in (None, key[0])}
    rows: list[list[Any]] = [
        [a.symbol, str(a.kind), session_date(a.ex_session).isoformat(), a.factor if a.factor_known else None, a.amount or None,
         a.other_symbol, f"{from_us(a.known_time):%Y-%m-%d %H:%M}", a.source]
        for a in shown
    ]  # fmt: skip
    if as_json:
        print_json(
            {
                "actions": [dict(zip(_HEADER, row, strict=True)) for row in rows],
                "held": held,
                "decisions": [
                    {
                        "symbol": s,
                        "session": d,
                        "kind": str(x.kind) if x.confirmed else None,
                        "factor": x.factor if x.confirmed else None,
                        "who": x.who,
                        "reason": x.reason,
                    }
                    for (s, d), x in said.items()
                ],
            }
        )
        return
    banner()
    table("corporate actions", _HEADER, [["" if c is None else str(c) for c in row] for row in rows])
    if len(found) > len(shown):
        warn(f"{len(found) - len(shown)} dividends are not shown: --dividends")
    if said:
        spoken = [[s, d, f"{x.kind} {x.factor:g}" if x.confirmed else "no action", x.who, x.reason] for (s, d), x in said.items()]
        table("said by operators", ["symbol", "session", "what", "who", "reason"], spoken)
    for name, why in sorted(held.items()):
        warn(f"{name} is held: {why}")


@app.command()
def confirm(
    symbol: Annotated[str, typer.Argument(help="Instrument of the universe")],
    session: Session,
    factor: Annotated[float | None, typer.Option(help="New units per old unit: 7 for 7:1, 0.05 for 1:20")] = None,
    value: Annotated[float | None, typer.Option(help="Of a spin-off: what was spun off, in money per share held")] = None,
    kind: Annotated[str | None, typer.Option(help="split or spin_off; left out: a spin-off where --value is given")] = None,
    reason: Reason = "",
) -> None:
    """There was a split by this factor, or a spin-off of this value: the desk adjusts positions, orders and plans at the next
    bar close. Audited."""
    from trading.corporate_actions import ActionKind

    if (factor is None) == (value is None):
        fail("say either --factor (7 for 7:1, 0.05 for 1:20) or, for a spin-off, --value (money per share)", WRONG)
    wanted = kind or ("spin_off" if value is not None else _told_kind(symbol, session))
    if wanted not in ("split", "spin_off") or (value is not None and wanted == "split"):
        fail(f"--kind {wanted}: expected split with --factor, or spin_off with --factor or --value", WRONG)
    if factor is None:
        factor = _factor_of(symbol, session, float(value or 0.0))
    _decide(symbol, session, factor, reason, ActionKind(wanted))
    what = ActionKind(wanted).value.replace("_", "-")
    print(f"{symbol} {session}: {what} by {factor:g} confirmed; the desk applies it at its next bar close")  # noqa: T201


@app.command()
def dismiss(
    symbol: Annotated[str, typer.Argument(help="Instrument of the universe")], session: Session, reason: Reason = ""
) -> None:
    """There was no split or spin-off: the step of the prices was the market's. The instrument trades on. Audited."""
    _decide(symbol, session, None, reason)
    print(f"{symbol} {session}: dismissed; the desk goes on with it at its next bar close")  # noqa: T201


def _told_kind(symbol: str, session: str) -> str:
    """What the sources say happened to `symbol` in `session`: spin_off where one is stored, else split."""
    from resources.corporate_actions import read_actions
    from resources.lake import LakeError, open_lake
    from trading.corporate_actions import ActionKind
    from trading.timeframes import session_date

    try:
        stored = read_actions(open_lake(own_settings()), symbol)
    except LakeError as error:
        fail(str(error), WRONG)
    kinds = {a.kind for a in stored if session_date(a.ex_session).isoformat() == session}
    return "spin_off" if ActionKind.SPIN_OFF in kinds and ActionKind.SPLIT not in kinds else "split"


def _factor_of(symbol: str, session: str, value: float) -> float:
    """The factor of a spin-off of `value` per share, by the last close before the session in the lake."""
    import math
    from datetime import timedelta

    from resources.lake import LakeError, open_lake
    from trading.corporate_actions import factor_from_value
    from trading.timeframes import session_date

    instrument = _universe().instruments.get(symbol)
    if instrument is None:
        fail(f"no instrument {symbol!r} in the universe {own_settings().universe}", WRONG)
    try:
        day = date.fromisoformat(session)
    except ValueError:
        fail(f"session {session!r}: expected a date like 2014-06-09", WRONG)
    try:
        before = open_lake(own_settings()).read_bars(
            f"bars_{instrument.native_timeframe}", symbol, day - timedelta(days=14), day - timedelta(days=1)
        )
    except LakeError as error:
        fail(str(error), WRONG)
    if not len(before):
        fail(f"{symbol}: no bars in the two weeks before {session}: say --factor, the price before over the price after", WRONG)
    close = float(before.close[-1])
    factor = factor_from_value(close, value)
    if math.isnan(factor):
        fail(f"--value {value:g}: expected money per share, above 0 and below the last close {close:g}", WRONG)
    print(f"{symbol} closed at {close:g} on {session_date(int(before.session[-1]))}: {value:g} off it is {factor:g}")  # noqa: T201
    return factor


def _decide(symbol: str, session: str, factor: float | None, reason: str, kind: ActionKind | None = None) -> None:
    from resources.ledger.actions import decide
    from trading.calendars import calendar
    from trading.corporate_actions import ActionKind

    instrument = _universe().instruments.get(symbol)
    if instrument is None:
        fail(f"no instrument {symbol!r} in the universe {own_settings().universe}", WRONG)
    try:
        day = date.fromisoformat(session)
        calendar(instrument.calendar).bounds(day)
    except ValueError:
        fail(f"session {session!r}: expected a date like 2014-06-09", WRONG)
    except KeyError as error:
        fail(str(error.args[0]), WRONG)
    with open_ledger() as ledger:
        last = ledger.latest_close()
        now = int(last["close_time"]) if last is not None else calendar(instrument.calendar).bounds(day)[0]
        try:
            with ledger.transaction() as connection:
                decide(
                    connection, symbol, day, factor=factor, who=who_asks(""), reason=reason, now_time=now,
                    kind=kind or ActionKind.SPLIT,
                )  # fmt: skip
        except ValueError as error:
            fail(str(error), WRONG)


@app.command()
def rolls(
    root: Annotated[str, typer.Argument(metavar="ROOT", help="Continuous future of the universe, or its root, e.g. ES")],
    as_json: AsJson = False,
) -> None:
    """The roll table of a continuous future, made now from its feed's contracts."""
    from resources.feeds import get_feed
    from resources.feeds.lean import LeanFeed
    from resources.feeds.protocol import FeedError
    from trading.timeframes import session_date

    universe = _universe()
    continuous = {s: i for s, i in universe.instruments.items() if i.future is not None and i.future.continuous}
    chosen = next((i for s, i in continuous.items() if root in (s, i.future.root if i.future else "")), None)
    if chosen is None:
        known = ", ".join(continuous) or "none"
        fail(f"no continuous future {root!r} in the universe {universe.name} (it has: {known})", WRONG)
    try:
        feed = get_feed(chosen.feed, own_settings())
        if not isinstance(feed, LeanFeed):
            raise FeedError(f"feed {chosen.feed} has no contracts to roll between")
        made = feed.roll_table(chosen)
    except FeedError as error:
        fail(str(error), WRONG)
    header = ["session", "from", "to", "decided by", "because", "old close", "new close", "difference", "factor"]
    rows = [
        [session_date(r.session).isoformat(), r.old, r.new, session_date(r.decided).isoformat(), r.reason,
         *("" if math.isnan(x) else f"{x:.6g}" for x in (r.old_close, r.new_close, r.difference, r.factor))]
        for r in made.rolls
    ]  # fmt: skip
    if as_json:
        print_json({"symbol": chosen.symbol, "first": made.front, "rolls": [dict(zip(header, r, strict=True)) for r in rows]})
        return
    banner()
    table(f"{chosen.symbol}: from {made.front} on {session_date(made.first)}", header, rows)
