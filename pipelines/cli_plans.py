"""``tapeline plans``: where every trade plan stands, what happened to it, and cancelling one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import WRONG, banner, fail, open_ledger, own_settings, print_json, table, warn, who_asks

if TYPE_CHECKING:
    from trading.universe import Universe

app = typer.Typer(help="Trade plans: files, and where each stands.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
NameOf = Annotated[str, typer.Argument(metavar="NAME", help="A plan's name")]
_HEADER = [
    "plan", "state", "direction", "symbol", "entry", "stop", "targets", "resting", "since", "last", "revision", "trade", "reason",
    "problem",
]  # fmt: skip


def _files() -> tuple[Mapping[str, Any], Universe | None]:
    """(plans of the files by name, universe); none when the configuration cannot be used (said)."""
    from resources.config import ConfigInvalid, load_config

    try:
        config = load_config(own_settings())
    except ConfigInvalid as error:
        warn(f"the configuration cannot be used: {error}")
        return {}, None
    return config.plans, config.universe


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Closed, expired and cancelled ones, too")] = False,
    as_json: AsJson = False,
) -> None:
    """Every plan and where it stands; those the desk has not seen yet as ``new``."""
    from resources.plan_view import plan_rows

    files, universe = _files()
    with open_ledger() as ledger, ledger.engine.connect() as connection:
        known = plan_rows(files, connection, universe, own_settings().paper_half)
    rows = [[getattr(row, column) for column in _HEADER] for row in known if everything or not row.ended]
    if as_json:
        print_json([dict(zip(_HEADER, row, strict=True)) for row in rows])
        return
    banner()
    table("plans", _HEADER, rows)


@app.command()
def show(name: NameOf, as_json: AsJson = False) -> None:
    """One plan: its rules, where it stands, and everything that happened to it."""
    from resources.ledger.plans import events_of, states
    from trading.timeframes import iso

    plan = _files()[0].get(name)
    with open_ledger() as ledger, ledger.engine.connect() as connection:
        state, events = states(connection).get(name), events_of(connection, name)
    if plan is None and state is None:
        fail(f"no plan {name!r}: `tapeline plans list --all` names those there are", WRONG)
    rules = plan.rules.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True) if plan else {}
    if as_json:
        print_json({"plan": name, "state": state.state if state else "new", "rules": rules, "events": events})
        return
    banner()
    table(f"plan {name}", ["key", "value"], [[k, str(v)] for k, v in rules.items()])
    if state is not None:
        stands = [[k, str(getattr(state, k))] for k in ("state", "revision", "trade_id", "reason", "problem")]
        table("stands", ["what", "value"], [*stands, ["since", iso(state.since_time)]])
    told = [
        [iso(e["event_time"]), e["event"], f"{e['state_before']} -> {e['state_after']}", e["revision"], e["who"], e["reason"],
         ", ".join(f"{k} {v}" for k, v in e["content"].items())]
        for e in events
    ]  # fmt: skip
    table("what happened", ["time", "event", "state", "revision", "who", "reason", "more"], told)


@app.command()
def cancel(
    name: NameOf,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the audit")],
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
) -> None:
    """An armed plan enters no more. One that holds a position is closed with `tapeline flatten --strategy NAME`."""
    from resources.ledger.plans import PlanNotCancelled
    from resources.ledger.plans import cancel as cancel_plan

    with open_ledger() as ledger:
        last = ledger.latest_close()
        now = int(last["close_time"]) if last is not None else 0
        try:
            cancel_plan(ledger.engine, name, who=who_asks(who), reason=reason, now_time=now)
        except PlanNotCancelled as error:
            fail(str(error), WRONG)
    banner()
    typer.echo(f"{name}: cancelled")
