"""Conflicts found when a file is checked: rules, timeframes and windows that contradict each other.

What is certain to be useless is an error (a rule that can never hold, an exit that holds whenever the entry does); what is
probably a mistake is a warning, and the file is used. What strategies want against each other at a bar close is resolved by
trading.conflict_policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from trading import conditions, logic
from trading.bars import Bars
from trading.calendars import calendar
from trading.conditions import Condition, Frame
from trading.config_text import Path, Problem, YamlDocument
from trading.evaluable import in_windows
from trading.instruments import Instrument
from trading.resample import session_ends
from trading.strategy_base import Strategy
from trading.strategy_schema import Sides, Window
from trading.timeframes import Timeframe
from trading.universe import Universe

_RECENT_SESSIONS = 260


def check_strategy(strategy: Strategy, document: YamlDocument, universe: Universe) -> list[Problem]:
    """Errors and warnings of one strategy's rules, timeframes and windows."""
    problems: list[Problem] = []
    entry: Sides | None = getattr(strategy.rules, "entry", None)
    leave: Sides | None = strategy.rules.exits.rules
    for path, sides in ((("entry",), entry), (("exits", "rules"), leave)):
        for side in ("long", "short"):
            condition = getattr(sides, side, None)
            if condition is not None:
                problems += _rule(document, (*path, side), condition)
    problems += _sides(document, entry, leave)
    problems += check_timeframes(document, strategy.timeframe, strategy.rules.confirm)
    for symbol in strategy.symbols:
        problems += check_windows(document, strategy.rules.windows, strategy.timeframe, universe.instruments[symbol])
    return list(dict.fromkeys(problems))


def _rule(document: YamlDocument, path: Path, condition: Condition) -> Iterator[Problem]:
    why = logic.impossible(condition)
    if why:
        at = next((p for p, c in reversed(list(_nodes(condition, path))) if logic.impossible(c)), path)
        yield document.problem(at, f"can never hold: {why}", "comparisons that can hold together")
        return
    for at, part in _nodes(condition, path):
        if at != path and logic.impossible(part):
            yield document.warning(at, f"this part can never hold: {logic.impossible(part)}", "a part that can hold")
            return
    for at, part in _nodes(condition, path):
        if logic.always(part):
            what = "holds at every bar" if at == path else "this part holds at every bar and says nothing"
            yield document.warning(at, what, "a comparison that can fail")
            return


def _nodes(condition: Condition, path: Path) -> Iterator[tuple[Path, Condition]]:
    """`condition` and those below it with their places in the file; what stands under `not` is left out."""
    yield path, condition
    for key in ("all", "any"):
        for at, child in enumerate(getattr(condition, key) or ()):
            yield from _nodes(child, (*path, key, at))


def _sides(document: YamlDocument, entry: Sides | None, leave: Sides | None) -> Iterator[Problem]:
    for side, other in (("long", "short"), ("short", "long")):
        enter: Condition | None = getattr(entry, side, None)
        if enter is None or logic.impossible(enter):
            continue
        opposite: Condition | None = getattr(entry, other, None)
        if opposite is not None and not logic.impossible(opposite) and logic.impossible(enter, but_not=opposite):
            yield document.problem(
                ("entry", side), f"{other} holds whenever {side} does, and what is wanted on both sides is no entry",
                "sides that exclude each other",
            )  # fmt: skip
        leaves: Condition | None = getattr(leave, side, None)
        # Having crossed is over at the next bar, where the exit is asked for the first time; being above is mostly not.
        if leaves is not None and not logic.impossible(leaves) and logic.impossible(enter, but_not=leaves, same=False):
            yield document.problem(
                ("exits", "rules", side), "holds whenever the entry does: the position would be closed at the next bar",
                "an exit that does not hold at the entry",
            )  # fmt: skip


def check_timeframes(document: YamlDocument, primary: Timeframe, confirm: Sequence[Timeframe]) -> list[Problem]:
    """Warnings of confirming timeframes that cannot confirm the primary one, or that nothing reads."""
    problems: list[Problem] = []
    used = {value for _, value in _values(document.data, "timeframe")}
    kind = document.data.get("kind", "rules") if isinstance(document.data, Mapping) else "rules"
    for at, timeframe in enumerate(confirm):
        path: Path = ("confirm", at)
        if timeframe is primary:
            problems.append(document.warning(path, f"{timeframe} is the primary timeframe itself", "another timeframe"))
        elif timeframe.minutes < primary.minutes:
            said = f"{timeframe} is shorter than the primary {primary}: only its last bar at each {primary} close is seen"
            problems.append(document.warning(path, said, f"a timeframe longer than {primary}"))
        elif timeframe.intraday and timeframe.minutes % primary.minutes:
            said = f"{timeframe} is no whole multiple of {primary}: their bars seldom close together"
            problems.append(document.warning(path, said, f"a multiple of {primary}"))
        if timeframe is not primary and timeframe.value not in used and kind != "ensemble":
            problems.append(document.warning(path, f"{timeframe} confirms nothing: no operand reads it", "an operand with it"))
    return problems


def _values(node: Any, key: str) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield (name,), value
            else:
                yield from _values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)


def check_windows(
    document: YamlDocument, windows: Sequence[Window], timeframe: Timeframe, instrument: Instrument
) -> list[Problem]:
    """Errors of windows in which no bar of the instrument's venue ever closes."""
    problems: list[Problem] = []
    closes = _recent_closes(instrument.calendar, timeframe)
    zone = calendar(instrument.calendar).timezone
    for at, window in enumerate(windows):
        if not in_windows(closes, [window], instrument).any():
            said = f"no {timeframe} bar of {instrument.symbol} ({instrument.calendar}) ever closes in it"
            problems.append(document.problem(("windows", at), said, f"a time of the venue's session, in {zone}"))
    return problems


@lru_cache(maxsize=64)
def _recent_closes(name: str, timeframe: Timeframe) -> Bars:
    """Bars without prices at the closes of the venue's newest sessions up to 2025, so that a check does not ask a clock."""
    venue = calendar(name)
    last = int(np.searchsorted(venue.number, 20_089))  # 2025-01-01
    positions = range(max(0, last - _RECENT_SESSIONS), last)
    times, sessions = [], []
    for at in positions:
        whole = not timeframe.intraday
        ends = np.array([venue.close_time[at]]) if whole else session_ends(venue, at, timeframe)
        times.append(np.minimum(ends, venue.close_time[at]))
        sessions.append(np.full(len(ends), venue.number[at], np.int32))
    close_time, session = np.concatenate(times), np.concatenate(sessions)
    close_time, first = np.unique(close_time, return_index=True)
    nothing = np.zeros(len(close_time))
    return Bars("", timeframe, close_time, session[first], nothing, nothing, nothing, nothing, nothing)


def check_together(strategies: Sequence[Strategy], files: Mapping[str, str]) -> list[Problem]:
    """Warnings of active strategies of which one always wants the opposite of the other, by file. files: name -> path."""
    problems: list[Problem] = []
    ruled = [s for s in strategies if s.status == "active" and getattr(s.rules, "entry", None) is not None]
    for one in ruled:
        for other in ruled:
            shared = [s for s in one.symbols if s in other.symbols]
            if one.name == other.name or one.timeframe is not other.timeframe or not shared:
                continue
            for side, against in (("long", "short"), ("short", "long")):
                mine, theirs = getattr(one.rules.entry, side), getattr(other.rules.entry, against)
                if mine is None or theirs is None or logic.impossible(mine) or logic.impossible(theirs):
                    continue
                if logic.impossible(mine, but_not=theirs):
                    said = f"whenever it wants {side} of {', '.join(shared)}, {other.name} wants {against}"
                    problems.append(
                        Problem(files[one.name], 1, f"entry.{side}", said, "strategies that can agree", severity="warning")
                    )
    return problems


def check_sample(strategy: Strategy, document: YamlDocument, bars: Mapping[Any, Bars]) -> list[Problem]:
    """Warnings of parts of the rules that were always or never so on given bars (all that the strategy reads)."""
    frame = Frame(bars, strategy.timeframe)
    symbol = frame.bars[strategy.timeframe].symbol
    problems: list[Problem] = []
    entry: Sides | None = getattr(strategy.rules, "entry", None)
    for path, sides in ((("entry",), entry), (("exits", "rules"), strategy.rules.exits.rules)):
        for side in ("long", "short"):
            condition = getattr(sides, side, None)
            for at, part in _nodes(condition, (*path, side)) if condition is not None else ():
                holds = conditions.evaluate(part, frame)
                if len(holds) and (holds.all() or not holds.any()):
                    word = "every" if holds.all() else "none"
                    said = f"holds at {word} of the {len(holds)} bars of {symbol} looked at"
                    problems.append(document.warning(at, said, "a rule that changes"))
    return problems
