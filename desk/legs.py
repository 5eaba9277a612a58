"""The protective orders of a trade: one stop and target, or one pair for each part the position is closed in.

Every part has a stop of its own quantity, and a target when it has one; the two are one group of which one cancels the
other at the broker. So the stops that rest always add up to what is open, whatever has been filled or was killed half way:
a target that fills takes exactly its own stop with it. What no part covers has a stop alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trading import ids
from trading.instruments import Instrument
from trading.orders import OrderType, Side, TimeInForce
from trading.signals import Intent, Signal
from trading.sizing import floor_to_lot

STOP, TARGET, SCALE, REDUCE = "stop", "target", "scale", "reduce"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a position. number: from 1 on, in the signal's order; what no part covers is the last. quantity > 0."""

    number: int
    quantity: float
    price: float | None


def parts_of(signal: Signal, quantity: float, instrument: Instrument) -> list[Part]:
    """The parts of an entry of `quantity`, in whole lots; parts too small for a lot fall to what is left over.

    The shares are rounded down and the last target whose shares reach the whole takes what that left: the backtest's way.
    """
    lot = float(instrument.lot_size)
    found: list[Part] = []
    share = given = 0.0
    for number, (part, price) in enumerate(signal.targets, 1):
        share += part
        own = float(floor_to_lot(quantity * part, lot))
        if share >= 1.0 - 1e-9:
            own = float(floor_to_lot(quantity - given, lot))
        if own > 0:
            found.append(Part(number, own, price))
            given += own
    left = float(floor_to_lot(quantity - given, lot))
    if left > 0:
        found.append(Part(len(signal.targets) + 1, left, None))
    return found


def part_of(leg: str) -> int:
    """Number of the part a leg belongs to: 0 of ``stop``, 2 of ``target.2`` or ``stop.2:<close>``."""
    _, _, number = leg.split(":")[0].partition(".")
    return int(number) if number.isdigit() else 0


def kind_of(leg: str) -> str:
    """``stop`` of ``stop``, ``stop.2`` and ``stop.2:<close>``."""
    return leg.split(":")[0].partition(".")[0]


def named(kind: str, part: int) -> str:
    """Leg name of a part: ``stop.2``; part 0 is the whole position."""
    return f"{kind}.{part}" if part else kind


def group_of(first: str, part: int) -> str:
    """One-cancels-other group of a part; the first one's is the trade's own, which exits join."""
    return first if part <= 1 else ids.make_id("oco", first, part)


def legs_of(entry: Intent, signal: Signal, instrument: Instrument) -> list[Intent]:
    """Protective legs of an entry, stops first in each part: they work once the entry fills."""
    first = str(entry.meta["oco_group"])
    if not signal.targets:
        return _pair(entry, signal, first, 0, entry.quantity, signal.target_price)
    parts = parts_of(signal, entry.quantity, instrument)
    lowest = min((p.number for p in parts), default=1)
    legs: list[Intent] = []
    for part in parts:  # the lowest part there is carries the trade's own group
        group = first if part.number == lowest else group_of(first, part.number + 1)
        legs += _pair(entry, signal, group, part.number, part.quantity, part.price)
    return legs


def _pair(entry: Intent, signal: Signal, group: str, part: int, quantity: float, price: float | None) -> list[Intent]:
    side: Side = entry.side.opposite
    meta = {k: entry.meta[k] for k in ("multiplier", "currency", "calendar", "signal")}
    stop = replace(
        entry, leg=named(STOP, part), side=side, quantity=quantity, order_type=OrderType.STOP,
        time_in_force=TimeInForce.GTC, stop_price=signal.stop_price, limit_price=None, reference_price=None, oco_group=group,
        parent_intent=entry.id, reduce_only=True, meta=meta,
    )  # fmt: skip
    if price is None:
        return [stop]
    target = replace(stop, leg=named(TARGET, part), order_type=OrderType.LIMIT, stop_price=None, limit_price=price)
    return [stop, target]


def quantity_of(legs: Sequence[Intent]) -> float:
    """What the stops among `legs` add up to."""
    return sum(leg.quantity for leg in legs if kind_of(leg.leg) == STOP)
