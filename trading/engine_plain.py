"""The plain lane of the backtest: one slot alone, market entries of one fill, one stop, one target.

It does what trading.engine does for such a slot, to the last bit (tests hold them together), without a look at what such a
slot cannot have: its state lives in local variables, it jumps from wish to wish, and while a position is only marked it
does nothing else.
"""

from __future__ import annotations

import math

import numpy as np

from trading import engine_records, engine_rules, matching, sizing
from trading.compiled import kernel
from trading.engine_records import (
    MAX_BARS,
    NO_REFUSAL,
    OPEN,
    POSITION_OPEN,
    RULE,
    SIZE_ZERO,
    STOP,
    TARGET,
    Bools,
    Floats,
    Ints,
    Record,
    Records,
)  # fmt: skip
from trading.engine_rules import fee_of, gate, slipped
from trading.matching import NO_LEG, SLIPPAGE_VOLUME, STOP_LEG, bracket_ambiguous, match_bracket
from trading.sizing import floor_to_lot, raw_quantity

_compiled = kernel(engine_rules, engine_records, matching, sizing, nogil=True)


@_compiled
def _no_fill(open_: Floats, high: Floats, low: Floats, close: Floats, row: int, whole: bool) -> bool:
    """Is a price of the bar missing? Then no order fills at its open."""
    if math.isnan(open_[row]) or math.isnan(close[row]):
        return True
    return not whole and (math.isnan(high[row]) or math.isnan(low[row]))


@_compiled
def split(records: Ints, order: Ints, whole: int) -> tuple[Ints, Ints]:
    """Records of 8-byte fields (N, F) as contiguous columns in `order`: the first `whole` fields, and the others."""
    count, fields = records.shape
    first, other = np.empty((whole, count), np.int64), np.empty((fields - whole, count), np.int64)
    for i in range(count):
        at = order[i]
        for k in range(whole):
            first[k, i] = records[at, k]
        for k in range(whole, fields):
            other[k - whole, i] = records[at, k]
    return first, other


@_compiled
def _quiet(
    open_: Floats, close: Floats, low: Floats, high: Floats, exits: Bools, equity: Floats, row: int, last: int, below: float,
    above: float, cash: float, unit: float,
) -> int:  # fmt: skip
    """Mark an open position from `row` to the first bar that may bring an event, at most `last`, and return that row.

    An event: a level within the bar's range, the exit rule at its close, no price. The opens are read along though a quiet bar
    does not need them: read in their order they are there when an exit fills at one, asked for one by one each is waited for.
    """
    if math.isnan(below) and math.isnan(above):
        while row < last:
            price = close[row]
            if exits[row] or math.isnan(price + open_[row]):
                break
            equity[row] = cash + unit * price
            row += 1
        return row
    while row < last:
        price = close[row]
        if exits[row] or math.isnan(price) or low[row] <= below or high[row] >= above:
            break
        equity[row] = cash + unit * price
        row += 1
    return row


@_compiled
def _book(
    whole_of: Ints, real_of: Floats, n: int, s: int, signal_row: int, entry_row: int, exit_row: int, bars_held: int,
    reason: int, made: int, quantity: float, entry_price: float, exit_price: float, commission: float, pnl: float,
) -> None:  # fmt: skip
    """Write trade n, column by column, in the order of TRADE's fields."""
    whole_of[0, n], whole_of[1, n], whole_of[2, n], whole_of[3, n] = s, signal_row, entry_row, exit_row
    whole_of[4, n], whole_of[5, n], whole_of[6, n] = bars_held, reason, made
    real_of[0, n], real_of[1, n], real_of[2, n], real_of[3, n], real_of[4, n] = quantity, entry_price, exit_price, commission, pnl


@_compiled
def run_plain(
    open_: Floats, high: Floats, low: Floats, close: Floats, volume: Floats, exit_long: Bools,
    exit_short: Bools, slot: Record, wishes: Records, s: int, start: float, whole_of: Ints, real_of: Floats, n: int,
    first_trade: int, equity: Floats, refused: Ints, book: Record, whole: bool,
) -> int:  # fmt: skip
    """The whole history of slot number s. whole_of, real_of: (7, N) and (5, N), columns of TRADE's fields in their order, written
    from n on (an open one last, marked); equity: (T,), written.

    The times of a trade are rows here: whoever calls looks them up, all at once. Every trade begins with a wish, so that
    len(wishes) records are enough. book: counts are added to it. whole: no high or
    low is missing anywhere (a column that is not read need not come from memory, which is what this loop waits for). Returns how
    many trades there are then.
    """
    by_volume = slot["slippage_kind"] >= SLIPPAGE_VOLUME
    last, count, w, row = len(close), len(wishes), 0, 0
    wanted, rounded = -1.0, 0.0
    cash, made, multiplier, longest = 0.0, first_trade, slot["multiplier"], slot["max_bars"]
    while row < last:
        # Flat: to the next wish.
        worth = start + cash
        wished = wishes[w]["row"] if w < count else last
        for flat in range(row, min(wished + 1, last)):
            equity[flat] = worth
        if w == count:
            break
        row = wished
        wish = wishes[w]
        w += 1
        side, reference, stop, target = wish["side"], wish["reference"], wish["stop"], wish["target"]
        refusal = gate(slot, side, reference, stop, target)
        quantity = 0.0
        if refusal == NO_REFUSAL:
            amount = slot["sizing_parameter"] * wish["scale"]
            raw = raw_quantity(slot["sizing_kind"], amount, worth, reference, stop, multiplier, 1.0)
            if raw != wanted:  # a fixed size is rounded once
                wanted, rounded = raw, floor_to_lot(raw, slot["lot"])
            quantity = rounded
            if quantity <= 0.0:
                refusal = SIZE_ZERO
        if refusal != NO_REFUSAL:
            refused[refusal] += 1
            row += 1
            continue
        book["orders"] += 1 + (0 if math.isnan(stop) else 1) + (0 if math.isnan(target) else 1)
        signal_row = row
        row += 1
        # Pending: the first bar that has prices fills it.
        while row < last and _no_fill(open_, high, low, close, row, whole):
            equity[row] = worth
            if w < count and wishes[w]["row"] == row:
                refused[POSITION_OPEN] += 1
                w += 1
            row += 1
        if row == last:
            break
        quantity *= side
        price = slipped(slot, open_[row], side, quantity, volume[row] if by_volume else 0.0)
        entry_fee = fee_of(slot, quantity, price)
        entry_price, entry_row = price, row
        value = quantity * multiplier * price
        cash -= value + entry_fee
        book["traded_value"] += abs(value)
        unit = quantity * multiplier
        below, above = (stop, target) if side > 0 else (target, stop)
        guarded = not (math.isnan(stop) and math.isnan(target))
        mark, held, reason, ended = price, 0, OPEN, OPEN
        while row < last:
            # One bar in full: what was decided fills at the open, then stop and target are tried, then the close.
            fill, c = math.nan, close[row]
            if reason != OPEN and not _no_fill(open_, high, low, close, row, whole):
                fill, ended = open_[row], reason
            elif guarded and reason == OPEN:  # an exit under way has taken the stop and the target back
                o, h, l = open_[row], high[row], low[row]  # noqa: E741
                fill, leg = match_bracket(side, stop, target, True, o, h, l)
                if leg != NO_LEG:
                    ended = STOP if leg == STOP_LEG else TARGET
                    if bracket_ambiguous(side, stop, target, h, l):
                        book["ambiguous"] += 1
            if ended != OPEN:
                if ended != TARGET:  # a limit fills at its price or better, never worse
                    fill = slipped(slot, fill, -side, quantity, volume[row] if by_volume else 0.0)
                fee = fee_of(slot, quantity, fill)
                value = quantity * multiplier * fill
                cash += value - fee
                book["traded_value"] += abs(value)
                pnl = (fill - entry_price) * quantity * multiplier - (entry_fee + fee)
                bars_held = held + (1 if ended in (STOP, TARGET) else 0)
                _book(whole_of, real_of, n, s, signal_row, entry_row, row, bars_held, ended, made, quantity, entry_price, fill,
                      entry_fee + fee, pnl)  # fmt: skip
                n += 1
                break
            if not math.isnan(c):
                mark = c
            equity[row] = start + cash + unit * mark
            held += 1
            if reason == OPEN:
                if exit_long[row] if side > 0 else exit_short[row]:
                    reason = RULE
                    book["orders"] += 1
                elif longest > 0 and held >= longest:
                    reason = MAX_BARS
                    book["orders"] += 1
            if w < count and wishes[w]["row"] == row:
                refused[POSITION_OPEN] += 1
                w += 1
            row += 1
            if reason == OPEN:
                until = wishes[w]["row"] if w < count else last
                if longest > 0:
                    until = min(until, row + longest - held - 1)
                begun = row
                exits = exit_long if side > 0 else exit_short
                row = _quiet(open_, close, low, high, exits, equity, row, until, below, above, start + cash, unit)
                if row > begun:
                    held += row - begun
                    mark = close[row - 1]
        made += 1
        if slot["once"] != 0:
            count = w
        if ended == OPEN:
            pnl = (mark - entry_price) * quantity * multiplier - entry_fee
            _book(whole_of, real_of, n, s, signal_row, entry_row, last - 1, held, OPEN, made - 1, quantity, entry_price, mark,
                  entry_fee, pnl)  # fmt: skip
            n += 1
    book["trades"] += made - first_trade
    return n
