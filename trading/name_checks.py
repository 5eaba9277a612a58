"""Checks of names in a strategy or plan file against what exists: instruments, timeframes, indicators, patterns, parameters.

They read the document's plain data, not the validated model, so that a wrong name is reported in the same pass as a
misspelt key elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trading import indicators, patterns
from trading.config_text import Path, Problem, YamlDocument, nearest
from trading.instruments import Instrument, Mode
from trading.timeframes import Timeframe
from trading.universe import Universe

_TIMEFRAMES = {t.value: t for t in Timeframe}
_COMPARISONS = frozenset({"cross_above", "cross_below", ">", "<", ">=", "<=", "=="})


def check_names(document: YamlDocument, symbols_at: Mapping[Path, Any], universe: Universe) -> list[Problem]:
    """Problems of every name in `document`. symbols_at: path -> symbol the file trades."""
    data = document.data
    if not isinstance(data, Mapping):
        return []
    problems: list[Problem] = []
    known: list[Instrument] = []
    for path, symbol in symbols_at.items():
        if not isinstance(symbol, str):
            continue  # its type is already a problem
        instrument = universe.instruments.get(symbol)
        if instrument is None:
            valid = list(universe.instruments)
            message = f"no instrument {symbol!r} in universe {universe.name}"
            problems.append(document.problem(path, message, "one of " + ", ".join(valid), nearest(symbol, valid)))
            continue
        known.append(instrument)
        problems.extend(_tradable(document, path, instrument, data.get("mode")))
        problems.extend(_at_least_a_lot(document, instrument, data.get("sizing")))
        problems.extend(_has_the_volume(document, instrument, data.get("costs")))
    problems.extend(_timeframes(document, data, known))
    problems.extend(_indicators(document, known, universe))
    problems.extend(_context(document, universe))
    return problems


def other_universe(document: YamlDocument, universe: Universe) -> str:
    """The universe the file is written for, when that is not `universe`; "" when it is, or it names none."""
    wanted = document.data.get("universe") if isinstance(document.data, Mapping) else None
    return wanted if isinstance(wanted, str) and wanted != universe.name else ""


def _tradable(document: YamlDocument, path: Path, instrument: Instrument, mode: Any) -> Iterator[Problem]:
    if mode in (Mode.PAPER.value, Mode.LIVE.value) and Mode(mode) not in instrument.tradable_in:
        allowed = ", ".join(sorted(m.value for m in instrument.tradable_in)) or "none: it is observed only"
        yield document.problem(path, f"{instrument.symbol} may not be traded in mode {mode}", f"a mode it allows ({allowed})")


def _at_least_a_lot(document: YamlDocument, instrument: Instrument, sizing: Any) -> Iterator[Problem]:
    if not isinstance(sizing, Mapping) or sizing.get("kind") != "fixed":
        return
    quantity = sizing.get("quantity")
    if isinstance(quantity, (int, float)) and not isinstance(quantity, bool) and 0 < quantity < float(instrument.lot_size):
        yield document.problem(
            ("sizing", "quantity"), f"{quantity:g} is less than one lot of {instrument.symbol}", f"at least {instrument.lot_size}"
        )


def _has_the_volume(document: YamlDocument, instrument: Instrument, costs: Any) -> Iterator[Problem]:
    """A cap on the share of a bar's volume needs instruments that have one."""
    if not isinstance(costs, Mapping) or instrument.has_volume:
        return
    share = costs.get("participation")
    if isinstance(share, (int, float)) and not isinstance(share, bool) and share > 0:
        yield document.problem(
            ("costs", "participation"), f"{instrument.symbol} has no volume to take a share of", "0, or leave it out"
        )


def _timeframes(document: YamlDocument, data: Mapping[str, Any], known: list[Instrument]) -> Iterator[Problem]:
    primary = data.get("timeframe")
    confirm = data.get("confirm")
    declared: list[tuple[Path, Any]] = [(("timeframe",), primary)]
    if isinstance(confirm, list):
        declared += [(("confirm", i), value) for i, value in enumerate(confirm)]
    for path, value in declared:
        timeframe = _TIMEFRAMES.get(value) if isinstance(value, str) else None
        if timeframe is None:
            continue  # pydantic names it
        for instrument in known:
            if timeframe.minutes < instrument.native_timeframe.minutes:
                possible = [t.value for t in Timeframe if t.minutes >= instrument.native_timeframe.minutes]
                yield document.problem(
                    path, f"{instrument.symbol} has bars of {instrument.native_timeframe} and longer, not {timeframe}",
                    "one of " + ", ".join(possible),
                )  # fmt: skip
    if data.get("kind") == "ensemble":
        return
    allowed = [value for _, value in declared if isinstance(value, str)]
    for path, value in _keys(data, (), "timeframe"):
        if path != ("timeframe",) and isinstance(value, str) and value in _TIMEFRAMES and value not in allowed:
            yield document.problem(
                path, f"timeframe {value} is not declared", "one of " + ", ".join(allowed) + ", or list it under confirm"
            )


def _keys(node: Any, path: Path, key: str) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every `key` below `node`."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key:
                yield (*path, name), value
            else:
                yield from _keys(value, (*path, name), key)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _keys(value, (*path, i), key)


def _mappings_with(node: Any, path: Path, key: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if key in node:
            yield path, node
        for name, value in node.items():
            yield from _mappings_with(value, (*path, name), key)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _mappings_with(value, (*path, i), key)


def _context(document: YamlDocument, universe: Universe) -> Iterator[Problem]:
    """Other instruments that operands and patterns read: they must exist and have bars of that timeframe."""
    data = document.data
    for path, node in _mappings_with(data, (), "symbol"):
        symbol = node["symbol"]
        if not path or not isinstance(symbol, str):
            continue  # a plan's own
        instrument = universe.instruments.get(symbol)
        if instrument is None:
            valid = list(universe.instruments)
            message = f"no instrument {symbol!r} in universe {universe.name}"
            yield document.problem((*path, "symbol"), message, "one of " + ", ".join(valid), nearest(symbol, valid))
            continue
        timeframe = _TIMEFRAMES.get(str(node.get("timeframe", data.get("timeframe"))))
        if timeframe is not None and timeframe.minutes < instrument.native_timeframe.minutes:
            yield document.problem(
                (*path, "symbol"), f"{symbol} has bars of {instrument.native_timeframe} and longer, not {timeframe}",
                "a confirm timeframe it has",
            )  # fmt: skip


def _volume_missing(
    node: Mapping[str, Any], definition: indicators.Indicator | None, known: list[Instrument], universe: Universe
) -> list[str]:
    """Instruments the node reads volume of that have none."""
    wants = "volume" in (node.get("price"), node.get("source")) or (definition is not None and definition.needs_volume)
    other = universe.instruments.get(str(node.get("symbol")))
    read = [other] if other is not None else known
    return [i.symbol for i in read if not i.has_volume] if wants else []


def _indicators(document: YamlDocument, known: list[Instrument], universe: Universe) -> Iterator[Problem]:
    for key, catalogue in (("indicator", indicators.INDICATORS), ("pattern", patterns.patterns())):
        for path, node in _mappings_with(document.data, (), key):
            name = node[key]
            if not isinstance(name, str):
                continue
            definition = catalogue.get(name)
            if definition is None:
                valid = list(catalogue)
                message = f"no {key} {name!r}"
                yield document.problem((*path, key), message, "one of " + ", ".join(valid), nearest(name, valid))
                continue
            yield from _parameters(document, path, node, definition)
            output = node.get("output")
            if isinstance(output, str) and output not in definition.outputs:
                valid = list(definition.outputs)
                message = f"{name} has no output {output!r}"
                yield document.problem((*path, "output"), message, "one of " + ", ".join(valid), nearest(output, valid))
            if node.get("source") is not None and not definition.takes_source:
                reads = ", ".join(definition.inputs)
                yield document.problem((*path, "source"), f"{name} has no choice of source", f"no source: it reads {reads}")
            silent = _volume_missing(node, definition, known, universe)
            if silent:
                message = f"{name} needs volume, {', '.join(silent)} has none"
                yield document.problem((*path, key), message, f"{'an' if key == 'indicator' else 'a'} {key} of prices")
    for path, node in _mappings_with(document.data, (), "price"):
        silent = _volume_missing(node, None, known, universe)
        if silent:
            yield document.problem((*path, "price"), f"{', '.join(silent)} has no volume", "open, high, low or close")
    silent = [i.symbol for i in known if not i.has_volume]
    if silent:
        for path, value in _short_operands(document.data, ()):
            if value == "volume":
                yield document.problem(path, f"{', '.join(silent)} has no volume", "open, high, low or close")


def _short_operands(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """(path, text) of every short operand: a text in the list of a comparison."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name in _COMPARISONS and isinstance(value, list):
                yield from (((*path, name, at), item) for at, item in enumerate(value) if isinstance(item, str))
            yield from _short_operands(value, (*path, name))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _short_operands(value, (*path, at))


def _parameters(
    document: YamlDocument, path: Path, node: Mapping[str, Any], definition: indicators.Indicator
) -> Iterator[Problem]:
    params = node.get("params")
    if not isinstance(params, Mapping):
        return
    parameters = {p.name: p for p in definition.parameters}
    for name, value in params.items():
        at = (*path, "params", name)
        if name not in parameters:
            expected = "one of " + ", ".join(parameters) if parameters else "no parameters"
            yield document.problem(at, f"{definition.name} has no parameter {name!r}", expected, nearest(name, parameters))
            continue
        wrong = indicators.parameter_problem(parameters[name], value)
        if wrong:
            message, _, expected = wrong.partition(": expected ")
            yield document.problem(at, message, expected)
    if {"fast", "slow"} <= set(parameters) and definition.name not in ("coppock", "smi", "mass_index"):
        fast, slow = (params.get(k, parameters[k].default) for k in ("fast", "slow"))
        if isinstance(fast, int) and isinstance(slow, (int, float)) and fast >= slow:
            message = f"fast {fast} is not below slow {slow:g}"
            yield document.problem((*path, "params"), message, "a fast period below the slow one")
