"""``tapeline gates``: which gate refused what, and what the refused signals would have earned.

Exit codes: 0 done, 1 something asked for is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_support import WRONG, banner, fail, open_ledger, own_settings, print_json, table, warn

if TYPE_CHECKING:
    from assets.research_run import Prepared
    from resources.config import Config

app = typer.Typer(help="Gates: what they refused, and what that would have earned.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Strategies or plans; none: all")]


def _config() -> Config:
    from resources.config import ConfigInvalid, load_config

    try:
        return load_config(own_settings())
    except ConfigInvalid as error:
        fail(str(error), WRONG)


def _prepared(config: Config, names: list[str]) -> list[Prepared]:
    from assets.research_run import prepare_all
    from resources.lake import open_lake

    own = own_settings()
    try:
        prepared, failed = prepare_all(config, open_lake(own), own.paper_cash, names)
    except ValueError as error:
        fail(str(error), WRONG)
    for one in failed:
        warn(f"{one.kind} {one.name}: {one.reason}")
    return prepared


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every strategy and plan, and the optional gates it has on."""
    from trading.gates.settings import gates_of

    config = _config()
    rows = [
        {"strategy": name, "reward to risk": f"{e.min_reward_to_risk:g}",
         **{gate: _short(value) for gate, value in gates_of(e).switched_on.items()}}
        for name, e in sorted(config.evaluables().items())
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    columns = ["strategy", "reward to risk", "news", "regime", "confluence", "volatility", "budget"]
    table("gates", columns, [[str(row.get(c, "off")) for c in columns] for row in rows])
    if config.news is None:
        warn("no news calendar in data/config/news: the gate `news` refuses every signal of a strategy that has it on")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}={_short(v)}" for k, v in value.items() if not isinstance(v, dict) or v)
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


@app.command()
def report(names: Names = None, as_json: AsJson = False) -> None:
    """Over the history in the lake: what each gate refused, and what that would have earned."""
    from dataclasses import asdict

    from assets import gate_run

    config = _config()
    failed: list[Any] = []
    found = gate_run.reports(_prepared(config, list(names or [])), failed)
    for one in failed:
        warn(f"{one.kind} {one.name}: {one.reason}")
    if as_json:
        print_json([_plain(asdict(one)) for one in found])
        return
    banner()
    rows = gate_run.history_rows(found)
    table("gates over the history", list(gate_run.HISTORY_HEADER), [[str(c) for c in row] for row in rows])
    for word, meaning in gate_run.READING:
        typer.echo(f"{word}: {meaning}")


@app.command()
def verdicts(
    names: Names = None,
    start: Annotated[str, typer.Option("--from", metavar="SESSION", help="First session (ISO date)")] = "0001-01-01",
    end: Annotated[str, typer.Option("--to", metavar="SESSION", help="Last session (ISO date)")] = "9999-12-31",
    as_json: AsJson = False,
) -> None:
    """Of the decisions on record: refusals by gate and code, and what the refused signals earned on the bars since."""
    from assets import gate_run

    config = _config()
    with open_ledger() as ledger:
        found = gate_run.recorded(ledger, (start, end), list(names or []))
    known = config.evaluables()
    wanted = sorted({one.signal.strategy for one in found} & set(known))
    rows = gate_run.record_rows(found, _prepared(config, wanted) if wanted else [])
    if as_json:
        print_json([dict(zip(gate_run.RECORD_HEADER, row, strict=True)) for row in rows])
        return
    banner()
    table("refused decisions", list(gate_run.RECORD_HEADER), [[str(c) for c in row] for row in rows])


def _plain(value: Any) -> Any:
    """NaN as None: JSON has no word for it."""
    if isinstance(value, float):
        return value if value == value else None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
