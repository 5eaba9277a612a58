"""Entries worked in slices, compiled: how much of the entry order may fill from the next open on.

The numbers are trading.execution.slicing's, which the desk asks, too. A slice is due at the first close at or after its time and
fills as an order of that close would; what a slot did not get is spread over the slots that are left.
"""

from __future__ import annotations

import math

from trading import engine_orders, engine_records
from trading.compiled import kernel
from trading.engine_orders import end_order
from trading.engine_records import EXPIRED, Floats, Record, Records
from trading.execution import slicing
from trading.execution.slicing import ICEBERG, VWAP, capped, current_slot, share, units
from trading.matching import MARKET

_compiled = kernel(engine_orders, engine_records, slicing)


@_compiled
def begin(slot: Record, state: Record, wish: Record) -> None:
    """An accepted entry begins to be worked: nothing of it may fill yet."""
    state["released"], state["algo_last"], state["algo_sent"] = 0.0, -1, 0
    state["algo_start"], state["algo_end"] = wish["algo_start"], wish["algo_end"]
    state["algo_seed"], state["algo_at"] = wish["algo_seed"], wish["algo_at"]


@_compiled
def possible(slot: Record, wish: Record, quantity: float) -> bool:
    """Can an entry of that quantity be worked: is there a window, and are there lots enough?"""
    return wish["algo_end"] > 0 and round(quantity / slot["lot"]) >= slot["algo_min_lots"]


@_compiled
def _release(slot: Record, state: Record, book: Record, lots: int, rest: int) -> None:
    state["released"] = abs(state["pending"]) if lots >= rest else state["released"] + units(lots, slot["lot"])
    if state["algo_sent"] > 0:  # the first slice and its legs were counted with the entry
        book["orders"] += 2 if math.isnan(state["algo_target"]) else 3
    state["algo_sent"] += 1


@_compiled
def work(
    slot: Record, state: Record, book: Record, orders: Records, weights: Floats, s: int, now: int, volume: float, target: float
) -> None:  # fmt: skip
    """At a close, with an entry pending: its next slice, or its end when the window is over. target: of the trade, NaN: none."""
    state["algo_target"] = target
    if now >= state["algo_end"]:
        if slot["algo_rest"] == 0:
            end_order(state, book, orders, s, now, EXPIRED)
        elif state["entry_type"] != MARKET or state["released"] < abs(state["pending"]):
            state["entry_type"] = MARKET
            _release(slot, state, book, 1, 0)
        return
    if now < state["algo_start"]:
        return
    rest = round((abs(state["pending"]) - state["released"]) / slot["lot"])
    if rest <= 0:
        return
    if slot["algo"] == ICEBERG:
        if state["released"] == 0.0:
            _release(slot, state, book, min(slot["algo_visible"], rest), rest)
        return
    count, last = slot["algo_slices"], state["algo_last"]
    number = current_slot(state["algo_start"], state["algo_end"], count, slot["algo_jitter"], state["algo_seed"], now)
    if number <= last:
        return
    weight, left = 1.0, float(count - number)
    if slot["algo"] == VWAP:
        weight, left = weights[state["algo_at"] + number], 0.0
        for k in range(number, count):
            left += weights[state["algo_at"] + k]
    lots = share(rest, weight, left, slot["algo_min_lots"], number == count - 1)
    lots = capped(lots, slot["algo_participation"], volume, slot["lot"])
    if lots > 0:
        _release(slot, state, book, lots, rest)
        state["algo_last"] = number
