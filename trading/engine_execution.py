"""How entries are worked in slices, as the records the compiled backtest reads; or why a backtest cannot do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trading import engine_records as er
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.execution.profile import volume_weights
from trading.execution.schedule import limit_of, lots_in, parent_id, seed_of
from trading.execution.slicing import CODES
from trading.execution.spec import Iceberg, Twap, Vwap
from trading.execution.window import NoSchedule, window_of
from trading.ids import decision_id, signal_id
from trading.instruments import Instrument
from trading.matching import LIMIT
from trading.signals import Action
from trading.windows import close_after

Rule = Twap | Vwap | Iceberg


def add_executions(
    records: er.Records, wishes: Sequence[er.Records], rules: Sequence[Rule | None], instruments: Sequence[Instrument],
    bars: Sequence[Bars], valid_bars: Sequence[int], named: Sequence[tuple[str, str]], in_parts: Sequence[bool],
) -> er.Floats:  # fmt: skip
    """Put `rules` into SLOT and WISH records; returns the flat column of VWAP weights. One item of each per slot.

    valid_bars: bars a wish stays valid, 0 = as long as its window. named: (strategy, revision), which with the close make the
    parent's id. in_parts: is the position closed in several parts? Raises ValueError where bars of that length cannot tell
    the slices apart, or something the algorithm needs is missing.
    """
    weights: list[float] = []
    for s, rule in enumerate(rules):
        if rule is None:
            continue
        _check(rule, instruments[s], bars[s], in_parts[s])
        _fill_slot(records, s, rule, float(instruments[s].lot_size))
        venue = calendar(instruments[s].calendar)
        for wish in wishes[s]:
            at = int(bars[s].close_time[wish["row"]])
            wish["algo_end"] = -1
            try:
                until = close_after(at, bars[s].timeframe, valid_bars[s], venue) if valid_bars[s] else er.END_OF_TIME
                start, end = window_of(venue, at, rule.minutes, until)
                wish["algo_at"] = len(weights)
                if isinstance(rule, Vwap):
                    weights += _weights(rule, bars[s], int(wish["row"]), venue, start, end)
            except NoSchedule:
                continue
            wish["algo_start"], wish["algo_end"] = start, end
            wish["algo_seed"] = _seed(named[s], instruments[s].symbol, bars[s], at, int(wish["side"]), rule.algo)
            if isinstance(rule, Iceberg):
                wish["limit"] = limit_of(rule, float(wish["reference"]), int(wish["side"]), instruments[s])
    return np.array(weights, np.float64)


def _fill_slot(records: er.Records, s: int, rule: Rule, lot: float) -> None:
    values: dict[str, Any] = {"algo": CODES[rule.algo], "algo_rest": int(rule.rest == "market"), "algo_min_lots": 1}
    if isinstance(rule, Iceberg):
        values |= {"algo_visible": lots_in(rule.visible, lot), "entry_type": LIMIT}
    else:
        values |= {"algo_slices": rule.slices, "algo_min_lots": rule.min_lots, "algo_participation": rule.participation}
    if isinstance(rule, Twap):
        values["algo_jitter"] = rule.jitter
    for name, value in values.items():
        records[name][s] = value


def _check(rule: Rule, instrument: Instrument, bars: Bars, in_parts: bool) -> None:
    symbol, step = instrument.symbol, bars.timeframe
    if in_parts:
        raise ValueError(
            f"{symbol}: an entry in slices has one stop and one target each: it cannot be closed in parts; test it with one "
            "target and no scale_out, or without execution"
        )
    if isinstance(rule, Iceberg):
        if lots_in(rule.visible, float(instrument.lot_size)) < 1:
            raise ValueError(f"{symbol}: visible {rule.visible:g} is less than a lot ({instrument.lot_size})")
        needed = float(rule.minutes)
    else:
        needed = rule.minutes / rule.slices * (1.0 - getattr(rule, "jitter", 0.0))
    if not step.intraday or needed < step.minutes:
        raise ValueError(
            f"{symbol}: the backtest steps in bars of {step}, {rule.algo} asks for an order every {needed:g} minutes: test it on "
            f"bars of at most {int(needed)} minutes, or without execution"
        )
    wants_volume = isinstance(rule, Vwap) or (isinstance(rule, Twap) and rule.participation > 0)
    if wants_volume and not instrument.has_volume:
        raise ValueError(f"{symbol}: {rule.algo} needs volume, which the instrument does not have")


def _weights(rule: Vwap, bars: Bars, row: int, venue: Calendar, start: int, end: int) -> tuple[float, ...]:
    """The profile at one wish: of the bars that were known then."""
    first = int(np.searchsorted(bars.session, int(bars.session[row]) - rule.sessions * 3 - 15))
    return volume_weights(bars.rows(slice(first, row + 1)), venue, start, end, rule.slices, rule.sessions)


def _seed(named: tuple[str, str], symbol: str, bars: Bars, at: int, side: int, algo: str) -> int:
    action = Action.ENTER_LONG if side > 0 else Action.ENTER_SHORT
    signal = signal_id(named[0], named[1], symbol, str(bars.timeframe), at, str(action))
    return seed_of(parent_id(decision_id(signal), algo))
