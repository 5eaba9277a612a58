"""One slice of an entry as the orders it would be: judged by every rule an entry is judged by, with legs of its own.

Each slice is a bracket of its own: its stop and target work for what it has filled, from the moment it fills, so that the
position is protected at every moment and whatever is killed half way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from desk.algo_ledger import ENTRY, Parent, Progress
from desk.exit_orders import oco_group
from desk.legs import STOP, TARGET, kind_of, legs_of, named
from desk.store import OrderRecord
from trading import ids, risk
from trading.execution.schedule import units
from trading.instruments import Instrument
from trading.limits import Limits
from trading.orders import OrderType
from trading.refusals import RefusalCode, refuse
from trading.risk import RiskState
from trading.signals import Intent


@dataclass(frozen=True, slots=True)
class Judged:
    """A slice with its legs, the entry first, every rule's verdict on each, and the first refusal, "" when it may be sent."""

    orders: tuple[tuple[Intent, tuple[Mapping[str, Any], ...]], ...]
    refusal: str

    @property
    def entry(self) -> Intent:
        return self.orders[0][0]


def slice_leg(number: int) -> str:
    """Leg of the slice that is sent as the `number`-th: ``entry``, ``entry.2``, ..."""
    return ENTRY if number == 1 else f"{ENTRY}.{number}"


def orders_of(
    parent: Parent, made: Progress, trade: Sequence[OrderRecord], lots: int, last_price: float | None, instrument: Instrument,
    *, at_market: bool,
) -> list[Intent]:  # fmt: skip
    """The slice's entry and its legs. trade: the trade's orders, whose stop and target as they rest now are its own, too."""
    number, whole, schedule = made.sent + 1, parent.entry, parent.schedule
    limit = None if at_market else schedule.limit_price
    group = oco_group(parent.decision_id) if number == 1 else ids.make_id("oco", parent.decision_id, slice_leg(number))
    entry = replace(
        whole, leg=slice_leg(number), quantity=units(lots, schedule.lot),
        order_type=OrderType.MARKET if limit is None else OrderType.LIMIT, limit_price=limit,
        reference_price=whole.reference_price if last_price is None else last_price,
        valid_until=schedule.valid_until if at_market else min(schedule.valid_until, schedule.end_time),
        meta={**whole.meta, "oco_group": group, "algo": parent.id, "slice": number},
    )  # fmt: skip
    signal = parent.signal
    side = parent.side.sign
    stops = [o.stop_price for o in trade if o.working and kind_of(o.leg) == STOP and o.stop_price is not None]
    targets = [o for o in trade if o.working and kind_of(o.leg) == TARGET]
    tightest = max([signal.stop_price, *stops], key=lambda price: price * side)
    target = targets[-1].limit_price if targets else signal.target_price
    legs = legs_of(entry, replace(signal, stop_price=tightest, target_price=target), instrument)
    part = 0 if number == 1 else number
    return [entry, *(replace(g, leg=named(kind_of(g.leg), part), meta={**g.meta, "algo": parent.id}) for g in legs)]


def judge(
    intents: Sequence[Intent], refusal: str, limits: Limits | None, state: RiskState, instrument: Instrument, side: int
) -> Judged:
    """Every rule on every order of a slice; refusal: what refuses it before them."""
    stop = next(i.stop_price for i in intents if kind_of(i.leg) == STOP)
    last = state.last_price.get(intents[0].symbol)
    if not refusal and last is not None and stop is not None and (last - stop) * side <= 0:
        refusal = str(refuse(RefusalCode.EXECUTION, reason="stop_reached", price=last, stop=stop))
    judged = []
    for intent in intents:
        found = risk.check(limits, state, intent, instrument)
        judged.append((intent, tuple(v.to_dict() for v in found)))
        refusal = refusal or risk.refusal(found)
    return Judged(tuple(judged), refusal)
