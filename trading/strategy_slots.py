"""Strategies, plans or ready evaluations as the slots of a backtest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from trading.bars import Bars
from trading.calendars import calendar
from trading.evaluation import Evaluation
from trading.instruments import Instrument
from trading.strategy import Evaluable, evaluate_anchored

T = TypeVar("T")
__all__ = ["Evaluable", "evaluate_all"]


def evaluate_all(
    what: Evaluation | Evaluable | Sequence[Evaluation] | Sequence[Evaluable],
    bars: Any,
    instrument: Instrument | Sequence[Instrument] | Mapping[str, Instrument],
) -> tuple[list[Evaluation], list[Bars], list[Instrument], list[Evaluable] | None]:
    """(evaluations, bars, instruments, strategies), one per slot; the last None where evaluations were given.

    Strategies need {symbol: {timeframe: bars}} (or {symbol: bars} where they read one timeframe) and {symbol: instrument};
    a slot is made of every instrument of theirs that has bars, evaluated on anchored windows. Raises ValueError when there
    is nothing to test or a part is missing.
    """
    if isinstance(what, Evaluation):
        what = [what]
    given: list[Any] = list(what) if isinstance(what, Sequence) else [what]
    if not given:
        raise ValueError("nothing to test: no evaluation given")
    if isinstance(given[0], Evaluation):
        symbols = [e.symbol for e in given]
        return given, _per_slot(bars, symbols, Bars, "bars"), _per_slot(instrument, symbols, Instrument, "instrument"), None
    windows = {bars.symbol: bars} if isinstance(bars, Bars) else dict(bars)
    instruments = {instrument.symbol: instrument} if isinstance(instrument, Instrument) else instrument
    if not isinstance(instruments, Mapping):
        instruments = {i.symbol: i for i in instruments}
    evaluations: list[Evaluation] = []
    own: list[Bars] = []
    traded: list[Instrument] = []
    strategies: list[Evaluable] = []
    for evaluable in given:
        for symbol in evaluable.symbols:
            if symbol not in windows:
                continue
            if symbol not in instruments:
                raise ValueError(f"instrument: none given for {symbol}")
            one = windows[symbol]
            read = {one.timeframe: one} if isinstance(one, Bars) else dict(one)
            its = instruments[symbol]
            evaluations.append(evaluate_anchored(evaluable, read, its, calendar(its.calendar)))
            own.append(read[evaluable.timeframe])
            traded.append(its)
            strategies.append(evaluable)
    if not evaluations:
        raise ValueError(f"nothing to test: no bars of {', '.join(s for e in given for s in e.symbols) or 'any instrument'}")
    return evaluations, own, traded, strategies


def _per_slot(given: Any, symbols: list[str], kind: type[T], name: str) -> list[T]:
    if isinstance(given, kind):
        given = [given]
    if isinstance(given, Mapping):
        missing = [s for s in symbols if s not in given]
        if missing:
            raise ValueError(f"{name}: none given for {', '.join(missing)}")
        return [given[s] for s in symbols]
    given = list(given)
    if len(given) != len(symbols):
        raise ValueError(f"{name}: {len(given)} given for {len(symbols)} evaluations")
    return given
