"""Strategies, plans or ready evaluations as the slots of a backtest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import CorporateAction
from trading.evaluation import Evaluation
from trading.gated import Gated, gated
from trading.instruments import Instrument
from trading.price_view import point_in_time
from trading.strategy import Evaluable, evaluate_anchored
from trading.trade_paths import TradePaths, paths_of

T = TypeVar("T")
__all__ = ["Evaluable", "Managed", "evaluate_all"]
Managed = list[TradePaths | None]
Passes = Mapping[str, Any]
"""bool (T,) by refusal code: where the gate passes."""


def evaluate_all(
    what: Evaluation | Evaluable | Sequence[Evaluation] | Sequence[Evaluable],
    bars: Any,
    instrument: Instrument | Sequence[Instrument] | Mapping[str, Instrument],
    actions: Mapping[str, Sequence[CorporateAction]] | None = None,
    apart: bool = False,
) -> tuple[list[Evaluation], list[Bars], list[Instrument], list[Evaluable] | None, Managed, list[Passes]]:
    """(evaluations, bars, instruments, strategies, paths of managed trades, gates), one per slot; strategies None where
    evaluations were given. actions: by symbol; strategies see raw bars as of each row (trading/price_view.py).

    apart: what the files' gates refuse stays a wish, and the gates stand beside it, by refusal code; else gates is empty.

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
        own = _per_slot(bars, symbols, Bars, "bars")
        return given, own, _per_slot(instrument, symbols, Instrument, "instrument"), None, [], []
    windows = {bars.symbol: bars} if isinstance(bars, Bars) else dict(bars)
    instruments = {instrument.symbol: instrument} if isinstance(instrument, Instrument) else instrument
    if not isinstance(instruments, Mapping):
        instruments = {i.symbol: i for i in instruments}
    evaluations: list[Evaluation] = []
    own = []
    gates: list[Passes] = []
    traded: list[Instrument] = []
    strategies: list[Evaluable] = []
    managed: Managed = []
    for evaluable in given:
        for symbol in evaluable.symbols:
            if symbol not in windows:
                continue
            if symbol not in instruments:
                raise ValueError(f"instrument: none given for {symbol}")
            one = windows[symbol]
            read = {one.timeframe: one} if isinstance(one, Bars) else dict(one)
            its = instruments[symbol]
            seen = evaluable
            if not isinstance(evaluable, Gated):
                seen = gated(point_in_time(evaluable, actions or {}), series=_series(windows), actions=actions)
            venue = calendar(its.calendar)
            if apart and isinstance(seen, Gated):
                evaluations.append(evaluate_anchored(seen.plain, read, its, venue))
                gates.append(seen.judge(evaluations[-1], read, its, venue).passes(len(evaluations[-1].close_time)))
            else:
                evaluations.append(evaluate_anchored(seen, read, its, venue))
                gates.append({})
            own.append(read[evaluable.timeframe])
            traded.append(its)
            strategies.append(evaluable)
            managed.append(paths_of(seen, read, its))
    if not evaluations:
        raise ValueError(f"nothing to test: no bars of {', '.join(s for e in given for s in e.symbols) or 'any instrument'}")
    return evaluations, own, traded, strategies, managed, gates if apart else []


def _series(windows: Mapping[str, Any]) -> dict[Any, Bars]:
    """Every series given, by (symbol, timeframe): what the gates read beside the strategy."""
    found: dict[Any, Bars] = {}
    for symbol, given in windows.items():
        for key, one in ({given.timeframe: given} if isinstance(given, Bars) else given).items():
            found[key if isinstance(key, tuple) else (symbol, key)] = one
    return found


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
