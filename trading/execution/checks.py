"""Checks of ``execution:`` against what exists: bars to fill slices in, volume, lots, the signal's validity.

What is certain to refuse every entry, or could never be worked as it is written, is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from trading.config_text import Path, Problem, YamlDocument
from trading.execution.schedule import lots_in
from trading.execution.spec import Iceberg, Twap, Vwap
from trading.instruments import Instrument
from trading.timeframes import Timeframe
from trading.universe import Universe

_AT: Path = ("execution",)
_CLOSES_IN_PARTS = {"targets": "the targets", "scale_outs": "the scale_out lines"}


def check_execution(document: YamlDocument, parsed: Any, symbols: Iterable[str], universe: Universe) -> list[Problem]:
    """Problems of the execution of one file. parsed: the file's model; symbols: what it trades, those the universe has."""
    rule: Twap | Vwap | Iceberg | None = parsed.execution
    if rule is None:
        return []
    traded = [universe.instruments[s] for s in symbols if s in universe.instruments]
    found = [*_whole(document, parsed), *_validity(document, rule, parsed.timeframe, parsed.gates.valid_bars)]
    for instrument in traded:
        found += _possible(document, rule, instrument)
    return found


def _whole(document: YamlDocument, parsed: Any) -> Iterator[Problem]:
    if getattr(parsed, "kind", "") == "pair":
        said = (
            "a pair enters both legs at one bar close: of slices one leg's may fill while the other's are refused, capped or "
            "late, and the pair would stand on one leg meanwhile"
        )
        yield document.problem(_AT, said, "no execution on a pair; where an order is too large for its market, a smaller sizing")
    if getattr(parsed, "targets", None) or getattr(parsed, "scale_outs", None):
        asked = [name for name in ("targets", "scale_outs") if getattr(parsed, name, None)]
        said = (
            "each slice is protected by one stop and one target of its own, for all it fills: it cannot be closed in parts, as "
            f"{' and '.join(_CLOSES_IN_PARTS[name] for name in asked)} of this file ask for"
        )
        needs = (
            "one target and no scale_out; or no execution; or a file with execution for each part, with its own target and size"
        )
        yield document.problem(_AT, said, needs)


def _validity(document: YamlDocument, rule: Twap | Vwap | Iceberg, timeframe: Timeframe, valid_bars: int) -> Iterator[Problem]:
    valid = timeframe.minutes * valid_bars
    if not timeframe.intraday:
        return  # the window begins with the next session, which the validity covers: judged at each signal
    if rule.minutes > valid:
        said = f"the window of {rule.minutes} minutes is longer than a signal is valid: {valid_bars} x {timeframe}"
        yield document.problem((*_AT, "minutes"), said, f"gates.valid_bars of at least {-(-rule.minutes // timeframe.minutes)}")
    elif rule.rest == "market" and rule.minutes == valid:
        said = f"the rest is bought when the window of {rule.minutes} minutes is over, and the signal with it"
        yield document.problem((*_AT, "rest"), said, f"gates.valid_bars of at least {valid_bars + 1}, or rest: cancel")


def _possible(document: YamlDocument, rule: Twap | Vwap | Iceberg, instrument: Instrument) -> Iterator[Problem]:
    symbol, bar = instrument.symbol, instrument.native_timeframe.minutes
    if not instrument.native_timeframe.intraday:
        said = f"{symbol} has bars of {instrument.native_timeframe} only: a window of minutes sees none of them"
        yield document.problem(_AT, said, "an instrument with bars within the day, or no execution")
        return
    if isinstance(rule, Iceberg):
        if rule.minutes < bar:
            said = f"a window of {rule.minutes} minutes is shorter than a bar of {symbol} ({instrument.native_timeframe})"
            yield document.problem((*_AT, "minutes"), said, f"at least {bar}")
        lot = float(instrument.lot_size)
        if lots_in(rule.visible, lot) < 1 or abs(round(rule.visible / lot) * lot - rule.visible) > 1e-9 * rule.visible:
            said = f"visible {rule.visible:g} is not whole lots of {symbol}"
            yield document.problem((*_AT, "visible"), said, f"a multiple of {lot:g}")
        return
    jitter = rule.jitter if isinstance(rule, Twap) else 0.0
    if rule.minutes / rule.slices * (1.0 - jitter) < bar:
        most = max(1, int(rule.minutes * (1.0 - jitter) // bar))
        said = f"{rule.slices} slices in {rule.minutes} minutes come faster than bars of {symbol} ({instrument.native_timeframe})"
        needs = f"at most {most} slices" if most > 1 else f"minutes of at least {2 * bar}"
        yield document.problem((*_AT, "slices"), said, needs + (", or less jitter" if jitter else ""))
    if (isinstance(rule, Vwap) or rule.participation > 0) and not instrument.has_volume:
        key = "algo" if isinstance(rule, Vwap) else "participation"
        said = f"{symbol} has no volume to " + ("make a profile of" if key == "algo" else "take a share of")
        yield document.problem((*_AT, key), said, "an instrument with volume, or algo: twap without participation")
