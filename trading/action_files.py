"""Corporate actions as people write them, in YAML or CSV: every mistake named at its line.

    actions:
      - {symbol: AAPL, kind: split, ex_date: 2014-06-09, factor: 7, known: 2014-04-23}
      - {symbol: KO, kind: dividend, ex_date: 2020-03-13, amount: 0.41}
      - {symbol: FOXA, kind: spin_off, ex_date: 2013-07-01, factor: 1.1327, other_symbol: NWSA}

CSV has the same names in its first line. factor: new units per old unit; left out where it is not known yet, which halts the
instrument for new risk on that day. A spin-off may be told by its amount instead, the value of what is spun off per old
unit. known: the day it was announced (known when that day is over); left out: the ex session's open.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable

from pydantic import Field, model_validator

from trading.calendars import Calendar
from trading.config_text import ConfigModel, IsoDate, Positive, Problem, Text, custom_error, load_yaml, validate
from trading.corporate_actions import ActionKind, CorporateAction
from trading.timeframes import US_PER_DAY, session_date, session_number

_COLUMNS = ("symbol", "kind", "ex_date", "factor", "amount", "other_symbol", "known", "source")


class ActionFile(ConfigModel):
    """One action as people write it."""

    symbol: Text = Field(min_length=1)
    kind: ActionKind
    ex_date: IsoDate = Field(description="first session at the new level")
    factor: Positive | None = Field(None, description="new units per old unit: 7 for 7:1, 0.05 for 1:20")
    amount: Positive | None = Field(
        None, description="cash per old unit (dividend), value per old unit of what is spun off (spin_off)"
    )
    other_symbol: Text = Field("", description="former ticker, or what was spun off")
    known: IsoDate | None = Field(None, description="day of the announcement; default: the ex session's open")
    source: Text = ""

    @model_validator(mode="after")
    def _says_enough(self) -> ActionFile:
        if self.kind is ActionKind.ROLL:
            raise custom_error("rolls follow from the contracts", "a roll rule on the continuous future in the universe")
        if self.kind is ActionKind.DIVIDEND and self.factor is None and self.amount is None:
            raise custom_error("a dividend needs its amount", "amount: cash per unit")
        if self.kind is ActionKind.SYMBOL_CHANGE and not self.other_symbol:
            raise custom_error("a symbol change needs the former ticker", "other_symbol: OLD")
        if self.kind in (ActionKind.SYMBOL_CHANGE, ActionKind.DELISTING) and self.factor not in (None, 1.0):
            raise custom_error(f"a {self.kind} scales nothing", "no factor")
        if self.known is not None and self.known > self.ex_date:
            raise custom_error(f"known on {self.known}, after the ex date", "a day up to the ex date")
        return self


class ActionsFile(ConfigModel):
    actions: list[ActionFile]


def parse_actions(
    text: str, file: str, venue_of: Callable[[str], Calendar | None]
) -> tuple[list[CorporateAction], list[Problem]]:
    """Actions of a YAML file's text, or [] and every problem it has.

    venue_of(symbol): the calendar of an instrument, None when the universe does not have it: such actions are left out.
    """
    document = load_yaml(text, file)
    parsed, problems = validate(ActionsFile, document)
    if parsed is None:
        return [], problems
    found: list[CorporateAction] = []
    for i, spec in enumerate(parsed.actions):
        action, why = _action(spec, file, venue_of)
        if why:
            problems.append(document.problem(("actions", i, "ex_date"), why, "a session of the instrument's venue"))
        elif action is not None and any(a.id == action.id for a in found):
            problems.append(
                document.problem(("actions", i), f"{spec.kind} of {spec.symbol} on {spec.ex_date} is given twice", "once")
            )
        elif action is not None:
            found.append(action)
    return ([], problems) if problems else (found, [])


def parse_actions_csv(
    text: str, file: str, venue_of: Callable[[str], Calendar | None]
) -> tuple[list[CorporateAction], list[Problem]]:
    """parse_actions of a CSV file with a header line."""
    reader = csv.DictReader(io.StringIO(text))
    unknown = [name for name in reader.fieldnames or () if name not in _COLUMNS]
    missing = [name for name in ("symbol", "kind", "ex_date") if name not in (reader.fieldnames or ())]
    if unknown or missing:
        said = f"columns {unknown} are unknown" if unknown else f"columns {missing} are missing"
        return [], [Problem(file, 1, "", said, "some of " + ", ".join(_COLUMNS))]
    found: list[CorporateAction] = []
    problems: list[Problem] = []
    for row in reader:
        line = reader.line_num
        rows = {k: v.strip() for k, v in row.items() if k is not None and v is not None and v.strip()}
        cells: dict[str, object] = dict(rows)
        for name in ("factor", "amount"):
            if name in rows:
                try:
                    cells[name] = float(rows[name])
                except ValueError:
                    problems.append(Problem(file, line, name, f"is {rows[name]!r}", "a number"))
                    cells.pop(name)
        if None in row or any(p.line == line for p in problems):
            if None in row:
                problems.append(Problem(file, line, "", "more cells than the header has", f"{len(_COLUMNS)} at most"))
            continue
        document = load_yaml("{}", file)
        spec, wrong = validate(ActionFile, document, data=cells, at=("row",))
        problems += [Problem(file, line, p.key.removeprefix("row."), p.message, p.expected, p.nearest) for p in wrong]
        if spec is None:
            continue
        action, why = _action(spec, file, venue_of)
        if why:
            problems.append(Problem(file, line, "ex_date", why, "a session of the instrument's venue"))
        elif action is not None and any(a.id == action.id for a in found):
            problems.append(Problem(file, line, "", f"{spec.kind} of {spec.symbol} on {spec.ex_date} is given twice", "once"))
        elif action is not None:
            found.append(action)
    return ([], problems) if problems else (found, [])


def _action(spec: ActionFile, file: str, venue_of: Callable[[str], Calendar | None]) -> tuple[CorporateAction | None, str]:
    """(the action, why it cannot be one); both empty for an instrument the universe does not have."""
    venue = venue_of(spec.symbol)
    if venue is None:
        return None, ""
    number = session_number(spec.ex_date)
    try:
        opened = venue.bounds(number)[0]
    except KeyError:
        return None, f"{venue.name} has no session on {session_date(number)}"
    known = opened if spec.known is None else min(opened, (session_number(spec.known) + 1) * US_PER_DAY)
    scales = spec.kind in (ActionKind.SPLIT, ActionKind.SPIN_OFF, ActionKind.DIVIDEND)
    factor = spec.factor if spec.factor is not None else (math.nan if scales else 1.0)
    return (
        CorporateAction(
            spec.symbol, spec.kind, number, known, factor, spec.amount or 0.0, spec.other_symbol, spec.source or f"file:{file}"
        ),
        "",
    )
