"""Opposite signals on one instrument at one bar close, resolved by a named policy.

The loser is refused with CONFLICT by the gate ``conflict``, so that it is on record; the winner's verdict names those it
stood against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trading.config_text import ConfigModel, Text
from trading.signals import Action, Signal


class ConflictRule(ConfigModel):
    """What happens to opposite signals on one instrument at one bar close.

    cancel_both: neither side enters. strongest: the side with the greater strength; equal: neither. first_wins: the side of
    the strategy that comes first in `order`, then by name. allow: both enter, each strategy with a position of its own.
    """

    policy: Literal["cancel_both", "strongest", "first_wins", "allow"] = "cancel_both"
    order: list[Text] = Field(default_factory=list, description="strategies by precedence, for first_wins")
    positions: Literal["ignore", "block"] = Field(
        "ignore", description="block: no entry against an open position of another strategy on the instrument"
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one signal. against: strategies on the other side, those with open positions included."""

    policy: str
    lost: bool
    against: tuple[str, ...] = ()
    why: str = ""

    def plain(self) -> dict[str, Any]:
        return {"policy": self.policy, "lost": self.lost, "against": list(self.against), "why": self.why}


def resolve(
    signals: Sequence[Signal], rule: ConflictRule, held: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, Verdict]:
    """Verdict of every signal of one bar close by signal id.

    held: open positions, symbol -> strategy -> signed quantity. The order of `signals` does not matter.
    """
    by_symbol: dict[str, list[Signal]] = {}
    for signal in signals:
        by_symbol.setdefault(signal.symbol, []).append(signal)
    verdicts: dict[str, Verdict] = {}
    for symbol, group in by_symbol.items():
        sides = {side: [s for s in group if s.action is side] for side in (Action.ENTER_LONG, Action.ENTER_SHORT)}
        losers, why = _losers(sides, rule)
        for signal in group:
            other = Action.ENTER_SHORT if signal.action is Action.ENTER_LONG else Action.ENTER_LONG
            against = sorted(s.strategy for s in sides[other])
            lost, reason = signal.action in losers, why if signal.action in losers else ""
            sign = 1.0 if signal.action is Action.ENTER_LONG else -1.0
            blocking = sorted(
                name for name, quantity in ((held or {}).get(symbol) or {}).items()
                if name != signal.strategy and quantity * sign < 0
            )  # fmt: skip
            if rule.positions == "block" and blocking:
                against, lost, reason = [*against, *blocking], True, reason or "position"
            verdicts[signal.id] = Verdict(rule.policy, lost, tuple(dict.fromkeys(against)), reason)
    return verdicts


def _losers(sides: Mapping[Action, Sequence[Signal]], rule: ConflictRule) -> tuple[set[Action], str]:
    """(sides that may not enter, why) of one instrument."""
    if not all(sides.values()) or rule.policy == "allow":
        return set(), ""
    if rule.policy == "cancel_both":
        return set(sides), "cancel_both"
    if rule.policy == "strongest":
        strength = {side: max(s.strength for s in group) for side, group in sides.items()}
        best = max(strength.values())
        winners = [side for side, value in strength.items() if value == best]
        return (set(sides), "equal_strength") if len(winners) > 1 else (set(sides) - set(winners), "weaker")
    place = {name: at for at, name in enumerate(rule.order)}
    first = min((s for group in sides.values() for s in group), key=lambda s: (place.get(s.strategy, len(place)), s.strategy))
    return set(sides) - {first.action}, f"{first.strategy}_first"
