"""A parent's schedule and the next slice of it: what the desk commits once, and asks at every look.

Slices never add up to more than the parent, are never due outside the window, and depend on nothing but the schedule and what
became of the earlier ones: asking again after a crash gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trading.calendars import Calendar
from trading.execution import slicing
from trading.execution.spec import Iceberg, Twap, Vwap
from trading.execution.window import NoSchedule, window_of
from trading.ids import make_id
from trading.instruments import Instrument


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one parent is worked. Times UTC us. lots: whole lots of `lot` units. weights: of the slots, none for an iceberg.

    visible: lots of an iceberg's order; limit_price: its limit. valid_until: nothing is sent after it. seed: of the jitter.
    """

    algo: str
    start_time: int
    end_time: int
    valid_until: int
    lots: int
    lot: float
    rest: str
    slices: int = 0
    weights: tuple[float, ...] = ()
    jitter: float = 0.0
    seed: int = 0
    min_lots: int = 1
    participation: float = 0.0
    visible: int = 0
    limit_price: float | None = None

    @property
    def quantity(self) -> float:
        return units(self.lots, self.lot)

    def slot_times(self) -> list[int]:
        """When each slot begins; empty for an iceberg."""
        return [self._time(n) for n in range(self.slices)]

    def _time(self, number: int) -> int:
        return int(slicing.slot_time(self.start_time, self.end_time, self.slices, number, self.jitter, self.seed))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "weights": list(self.weights)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Schedule:
        return Schedule(**{**values, "weights": tuple(values["weights"])})


@dataclass(frozen=True, slots=True)
class Slice:
    """One order of a parent. slot: number of its slot; of an iceberg, of its part. lots > 0."""

    slot: int
    lots: int


def units(lots: int, lot: float) -> float:
    """`lots` in units, as the decimal quantity would be: 3 lots of 0.1 are 0.3."""
    return float(slicing.units(lots, lot))


def lots_in(quantity: float, lot: float) -> int:
    """Whole lots in `quantity`; within 1e-6 of a lot counts as one."""
    return int(quantity / lot + 1e-6)


def parent_id(decision_id: str, algo: str) -> str:
    """Id of the parent that works the entry of a decision."""
    return make_id("alg", decision_id, algo)


def seed_of(parent: str) -> int:
    """Seed of a parent's jitter."""
    return int(parent.rpartition("-")[2][:7], 16)


def limit_of(rule: Iceberg, reference: float, side: int, instrument: Instrument) -> float:
    """An iceberg's limit: the signal's price and so many ticks beyond it (side: +1 buys, -1 sells), on the grid."""
    return instrument.round_price(reference + side * rule.limit_ticks * float(instrument.tick_size))


def make(
    rule: Twap | Vwap | Iceberg, *, parent: str, quantity: float, instrument: Instrument, venue: Calendar, close_time: int,
    valid_until: int, reference: float, side: int, weights: tuple[float, ...] | None = None,
) -> Schedule:  # fmt: skip
    """The schedule of an entry of `quantity` units decided at `close_time`. weights: VWAP's, one per slot.

    Raises NoSchedule when it cannot be worked like that: no room for the window, too few lots, no profile.
    """
    lot = float(instrument.lot_size)
    lots = lots_in(quantity, lot)
    start, end = window_of(venue, close_time, rule.minutes, valid_until)
    common: dict[str, Any] = {
        "algo": rule.algo, "start_time": start, "end_time": end, "valid_until": valid_until, "lots": lots, "lot": lot,
        "rest": rule.rest,
    }  # fmt: skip
    if isinstance(rule, Iceberg):
        visible = lots_in(rule.visible, lot)
        if visible < 1 or lots < 1:
            raise NoSchedule("less_than_a_lot", visible=rule.visible, lot=lot)
        return Schedule(**common, visible=visible, limit_price=limit_of(rule, reference, side, instrument))
    if lots < rule.min_lots:
        raise NoSchedule("too_few_lots", lots=lots, min_lots=rule.min_lots)
    common |= {"slices": rule.slices, "min_lots": rule.min_lots, "participation": rule.participation}
    if isinstance(rule, Twap):
        return Schedule(**common, weights=(1.0,) * rule.slices, jitter=rule.jitter, seed=seed_of(parent))
    if weights is None or len(weights) != rule.slices:
        raise NoSchedule("profile_missing", needed=rule.sessions)
    return Schedule(**common, weights=tuple(weights))


def next_slice(
    schedule: Schedule, *, now: int, last_slot: int, rest: int, working: int = 0, volume: float | None = None
) -> Slice | None:
    """The slice to send at `now`, None when none is due.

    last_slot: newest slot that had an order or a refusal, -1 before the first. rest: lots neither filled nor working. working:
    lots of orders that may still fill. volume: of the newest closed bar, None when not known (only a participation cap asks).
    """
    if rest <= 0 or not schedule.start_time <= now < schedule.end_time or now > schedule.valid_until:
        return None
    if schedule.algo == "iceberg":
        return None if working > 0 else Slice(last_slot + 1, min(schedule.visible, rest))
    slot = int(slicing.current_slot(schedule.start_time, schedule.end_time, schedule.slices, schedule.jitter, schedule.seed, now))
    if slot <= last_slot:
        return None
    left = sum(schedule.weights[slot:])
    last = slot == schedule.slices - 1
    lots = slicing.share(rest, schedule.weights[slot], left, schedule.min_lots, last)
    lots = slicing.capped(lots, schedule.participation, float("nan") if volume is None else volume, schedule.lot)
    return Slice(slot, int(lots)) if lots > 0 else None


def planned(schedule: Schedule) -> list[tuple[int, int]]:
    """(time, lots) of every slice when nothing is missed, refused or capped; of an iceberg, its parts, all at the start."""
    if schedule.algo == "iceberg":
        whole, over = divmod(schedule.lots, schedule.visible)
        return [(schedule.start_time, schedule.visible)] * whole + ([(schedule.start_time, over)] if over else [])
    made, rest, last = [], schedule.lots, -1
    free = Schedule(**{**asdict(schedule), "weights": schedule.weights, "participation": 0.0})
    for time_us in schedule.slot_times():
        found = next_slice(free, now=time_us, last_slot=last, rest=rest)
        if found is not None:
            made.append((time_us, found.lots))
            rest, last = rest - found.lots, found.slot
    return made
