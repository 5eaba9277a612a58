"""Plans that cannot work, found when the file is checked: levels off the grid or on the wrong side, shares above the whole,
sessions that are over or are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import numpy as np

from trading.calendars import calendar
from trading.config_text import Path, Problem, YamlDocument
from trading.instruments import Instrument
from trading.universe import Universe

Priced = tuple[float, Path]
"""A price the file names, and where."""


def check_possible(document: YamlDocument, universe: Universe, today: date | None = None) -> list[Problem]:
    """Problems of a plan document; warnings for sessions before `today`."""
    data = document.data
    if not isinstance(data, Mapping):
        return []
    instrument = universe.instruments.get(str(data.get("symbol")))
    problems = [*_grid(document, data, instrument), *_shares(document, data), *_sessions(document, data, instrument, today)]
    if data.get("direction") in ("long", "short"):
        problems += _sides(document, data)
    problems += _at_once(document, data)
    if isinstance(data.get("stop"), Mapping) and data["stop"].get("kind") == "reward":
        expected = "kind level, atr, percent or points"
        problems.append(document.problem(("stop", "kind"), "a stop has no risk to measure a reward by", expected))
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fixed(node: Any, path: Path) -> Priced | None:
    """The price a raw entry, stop or target names, whatever its kind; None when it names none."""
    if _is_number(node):
        return float(node), path
    if isinstance(node, Mapping):
        for key in ("price", "level"):
            if _is_number(node.get(key)):
                return float(node[key]), (*path, key)
    return None


def targets_in(data: Mapping[str, Any]) -> list[tuple[Any, Path]]:
    """(raw level, its path) of every target of the file."""
    listed = data.get("targets")
    found: list[tuple[Any, Path]] = [(data["target"], ("target",))] if data.get("target") is not None else []
    if isinstance(listed, list):
        found += [(t.get("at"), ("targets", i, "at")) for i, t in enumerate(listed) if isinstance(t, Mapping)]
    return found


def _prices(data: Any, path: Path) -> Iterator[Priced]:
    """Every fixed price of the plan: numbers under level, price, upper and lower, and those that stand alone."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in ("level", "price", "upper", "lower") and _is_number(value):
                yield float(value), (*path, key)
            else:
                yield from _prices(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _prices(value, (*path, i))


def _grid(document: YamlDocument, data: Mapping[str, Any], instrument: Instrument | None) -> Iterator[Problem]:
    if instrument is None:
        return
    named: dict[Path, float] = {}
    for part in ("entry", "stop", "disaster_stop", "exit", "invalidation", "manage"):
        node = data.get(part)
        named |= {path: price for price, path in _prices(node, (part,))}
        alone = fixed(node, (part,))
        if alone is not None:
            named[alone[1]] = alone[0]
    for node, path in targets_in(data):
        alone = fixed(node, path)
        if alone is not None:
            named[alone[1]] = alone[0]
    for path, price in named.items():
        if not np.isfinite(price) or price <= 0 or "condition" in path:
            continue
        rounded = instrument.round_price(price)
        if rounded != price:
            yield document.problem(
                path, f"{price!r} is not on the price grid of {instrument.symbol}", f"a multiple of {instrument.tick_size:f}",
                f"{rounded!r}",
            )  # fmt: skip


def _at_once(document: YamlDocument, data: Mapping[str, Any]) -> Iterator[Problem]:
    """An invalidation or exit by closes that holds at every close at which the entry does."""
    entry = _closes(data.get("entry"), data)
    for key, what in (("invalidation", "the plan could never enter"), ("exit", "the position would be closed at the next bar")):
        other = _closes(data.get(key), data)
        if entry is None or other is None or entry[:2] != other[:2]:
            continue
        above, level = entry[0] == "close_above", other[2]
        if level <= entry[2] if above else level >= entry[2]:
            said = (
                f"every close {'above' if above else 'below'} {entry[2]:g} is one {'above' if above else 'below'} {level:g}, too"
            )
            expected = f"a level {'above' if above else 'below'} {entry[2]:g}, or the other side"
            yield document.problem((key, "level"), f"holds whenever the entry does: {said}, and {what}", expected)


def _closes(node: Any, data: Mapping[str, Any]) -> tuple[str, str, float] | None:
    """(kind, timeframe, level) of a close beyond a level."""
    if (
        not isinstance(node, Mapping)
        or node.get("kind") not in ("close_above", "close_below")
        or not _is_number(node.get("level"))
    ):
        return None
    return str(node["kind"]), str(node.get("timeframe") or data.get("timeframe")), float(node["level"])


def _shares(document: YamlDocument, data: Mapping[str, Any]) -> Iterator[Problem]:
    found: list[tuple[float, Path]] = []
    for key, of in (("targets", None), ("manage", "scale_out")):
        listed = data.get(key)
        for i, item in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(item, Mapping) and _is_number(item.get("share")) and (of is None or item.get("kind") == of):
                found.append((float(item["share"]), (key, i, "share")))
    total = sum(share for share, _ in found)
    if total > 1 + 1e-9:
        yield document.problem(found[-1][1], f"the shares add up to {total:.4g}, more than the position", "at most 1 in all")
    listed = data.get("manage")
    count = len(targets_in(data))
    for i, item in enumerate(listed if isinstance(listed, list) else []):
        after = item.get("after_target") if isinstance(item, Mapping) else None
        if isinstance(after, int) and after > count:
            message = f"after_target {after}, and the plan has {count} target(s)"
            yield document.problem(("manage", i, "after_target"), message, f"at most {count}" if count else "a target")


def _sessions(
    document: YamlDocument, data: Mapping[str, Any], instrument: Instrument | None, today: date | None
) -> Iterator[Problem]:
    valid = data.get("valid")
    if not isinstance(valid, Mapping):
        return
    try:
        first, last = (date.fromisoformat(str(valid.get(k))) for k in ("from", "to"))
    except ValueError:
        return  # its form is a problem already
    if last < first or instrument is None:
        return
    venue = calendar(instrument.calendar)
    if not list(venue.sessions(first, last)):
        yield document.problem(("valid",), f"{venue.name} has no session from {first} to {last}", "a range with a session")
    if today is not None and last < today and data.get("status") == "active":
        yield document.warning(("valid", "to"), f"the plan's last session {last} is over", f"a date from {today} on")


def _sides(document: YamlDocument, data: Mapping[str, Any]) -> Iterator[Problem]:
    direction = data["direction"]
    side = 1 if direction == "long" else -1
    entry, stop = fixed(data.get("entry"), ("entry",)), fixed(data.get("stop"), ("stop",))
    targets = [found for node, path in targets_in(data) if (found := fixed(node, path)) is not None]

    def wrong(what: str, priced: Priced, other: str, base: float, above: bool) -> Problem:
        word = "above" if above else "below"
        message = f"{what} {priced[0]:g} is not {word} the {other} {base:g} of a {direction} plan"
        return document.problem(priced[1], message, f"a price {word} {base:g}")

    if entry is not None and stop is not None and (entry[0] - stop[0]) * side <= 0:
        yield wrong("stop", stop, "entry", entry[0], above=side < 0)
    for target in targets:
        if entry is not None and (target[0] - entry[0]) * side <= 0:
            yield wrong("target", target, "entry", entry[0], above=side > 0)
        if entry is None and stop is not None and (target[0] - stop[0]) * side <= 0:
            yield wrong("target", target, "stop", stop[0], above=side > 0)
    gates = data.get("gates")
    least = gates.get("min_reward_to_risk", 0) if isinstance(gates, Mapping) else 0
    if not _is_number(least) or least <= 0:
        return
    given = targets_in(data)
    if not given:
        message = f"is {least:g} but there is no target"
        yield document.problem(("gates", "min_reward_to_risk"), message, "a target, or 0")
    elif entry is not None and stop is not None and len(targets) == len(given) == 1 and (entry[0] - stop[0]) * side > 0:
        ratio = (targets[0][0] - entry[0]) / (entry[0] - stop[0])
        if 0 < ratio < least:
            yield document.problem(
                targets[0][1], f"reward to risk is {ratio:.2f} at the entry level, below {least:g}",
                f"a price {'at least' if side > 0 else 'at most'} {entry[0] + least * (entry[0] - stop[0]):g}",
            )  # fmt: skip
