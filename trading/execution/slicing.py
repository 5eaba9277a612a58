"""The numbers behind every slice: when it is due, and how many lots of what is left it takes. Compiled, for both hosts.

A window [start, end) has `slices` equal slots. At a moment the newest slot that has begun is the current one; what earlier
slots did not get is spread again over the slots that are left. So nothing that was missed comes in one burst, and the slices
always add up to the parent.
"""

from __future__ import annotations

import math
from typing import Final

from trading.compiled import kernel

TWAP: Final = 1
VWAP: Final = 2
ICEBERG: Final = 3
CODES: Final = {"twap": TWAP, "vwap": VWAP, "iceberg": ICEBERG}
"""Algorithm by name; 0 is none."""

_compiled = kernel()


@_compiled
def chance(seed: int, number: int) -> float:
    """A number in [0, 1) that `seed` (>= 0) and `number` fix on every machine: steps of Park and Miller's generator (1988)."""
    state = (seed + 7919 * (number + 1)) % 2147483646 + 1
    for _ in range(4):
        state = state * 16807 % 2147483647
    return (state - 1) / 2147483646.0


@_compiled
def slot_time(start: int, end: int, slices: int, number: int, jitter: float, seed: int) -> int:
    """When slot `number` (from 0) begins, UTC us. jitter: share of a slot by which all but the first may come later."""
    length = (end - start) / slices
    late = jitter * chance(seed, number) if jitter > 0.0 and number > 0 else 0.0
    return int(start + math.floor(length * (number + late)))


@_compiled
def current_slot(start: int, end: int, slices: int, jitter: float, seed: int, now: int) -> int:
    """The newest slot that has begun at `now`; -1 before the first one."""
    if now < start:
        return -1
    number = min(slices - 1, int((now - start) * slices // max(end - start, 1)))
    if number < slices - 1 and slot_time(start, end, slices, number + 1, jitter, seed) <= now:
        number += 1  # where the division rounded down
    while number > 0 and slot_time(start, end, slices, number, jitter, seed) > now:
        number -= 1
    return number


@_compiled
def share(rest: int, weight: float, weight_left: float, minimum: int, last: bool) -> int:
    """Lots of a slot: its share of the lots that are left, rounded; the last slot takes all.

    weight_left: of this slot and all after it. Fewer than `minimum` lots wait for a later slot, and a rest that would be below
    it goes along.
    """
    if rest <= 0:
        return 0
    if last or weight_left <= 0.0 or weight >= weight_left:
        return rest
    wanted = min(rest, math.floor(rest * weight / weight_left + 0.5))
    if wanted < minimum:
        return 0
    return rest if rest - wanted < minimum else wanted


@_compiled
def units(lots: int, lot: float) -> float:
    """`lots` in units, as the decimal quantity would be: 3 lots of 0.1 are 0.3."""
    inverse = 1.0 / lot
    scale = float(round(inverse))
    return lots / scale if scale >= 1.0 and abs(inverse - scale) <= 1e-9 * scale else lots * lot


@_compiled
def capped(lots: int, participation: float, volume: float, lot: float) -> int:
    """`lots`, at most a share of the `volume` of the newest closed bar; 0 where that is not known. participation 0: no cap."""
    if participation <= 0.0:
        return lots
    if not (volume > 0.0):
        return 0
    return min(lots, math.floor(participation * volume / lot + 1e-9))
