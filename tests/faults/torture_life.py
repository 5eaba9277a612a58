"""One life of a tortured desk: killed and started again, again and again, then left in peace, then the two books compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from desk.faults import TORTURED
from resources.brokers.remote.faults import ANSWER_FAULTS, BOOK_FAULTS
from resources.ledger.store import connect
from tests.faults import remote_checks as checks
from tests.faults.remote_desk import BUSY, MAX_CLOSES, SETTLING, SYMBOLS, Habits, Stretch, progress
from tests.faults.remote_process import Death, Market, market, run

KILLS_IN_A_LIFE = 80
RATES = {
    **dict.fromkeys(ANSWER_FAULTS, 0.01), "reject": 0.03, "partial_fill": 0.15, "fill_after_cancel": 0.1,
    "cancel_rejected": 0.05, "event_twice": 0.05, "events_swapped": 0.05, "events_late": 0.05, "disconnect_daily": 0.7,
}  # fmt: skip
"""How often the broker misbehaves in a campaign."""
FAILED = "desk_failed"
"""Beside the names of remote_checks: a desk did not come to its end, and the books were not compared."""
PATIENCE = 60
"""After so many boundaries that were not the chosen one, a desk dies at the next."""


@dataclass
class Life:
    """What one desk lived through. kills: by boundary; ``random`` for those at no boundary, ``while_down`` are market moves
    that no desk saw. pairs: ``boundary x fault`` where the fault struck the very desk that then died at the boundary."""

    number: int
    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    struck: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    while_down: int = 0
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


def by_dice(url: str, room: Path, life: Life, most: int = KILLS_IN_A_LIFE, rates: dict[str, float] | None = None) -> Life:
    """Kill one desk at boundaries and moments that dice choose, until its hours are over or it died `most` times."""
    dice = random.Random(life.seed)

    def tortured(market: Market, stretch: Stretch) -> None:
        while life.killed < most:
            death, seconds = _death(dice, life)
            if not run(market, _of_either_kind(stretch, dice), death, seconds):
                break
            place = market.board.died or "random"
            life.kills[place] = life.kills.get(place, 0) + 1
            done = progress(engine)
            if dice.random() < 0.3 and done + 2 <= MAX_CLOSES:  # the market does not wait for the desk
                for n in range(done + 1, done + 1 + dice.randint(1, 2)):
                    market.move(life.seed, n)
                    life.while_down += 1
            if dice.random() < 0.1:
                market.ask("place", symbol=dice.choice(SYMBOLS), side=dice.choice(["buy", "sell"]), quantity=10)

    engine = connect(url)
    try:
        habits = BUSY if life.number % 2 else Habits()
        return _life(url, room, life, RATES if rates is None else rates, habits, False, tortured)
    finally:
        engine.dispose()


def _of_either_kind(stretch: Stretch, dice: random.Random) -> Stretch:
    """The desk's broker puts exits in the place of what rests, or it does not: every other start of a desk."""
    return replace(stretch, address=f"{stretch.address}?replacing") if dice.random() < 0.5 else stretch


def _death(dice: random.Random, life: Life) -> tuple[Death, float | None]:
    """(where the next desk dies, after how many seconds it is killed from outside). Places that are seldom come by are not
    left out: what this life has died at least is wanted most."""
    if dice.random() < 0.7:
        least = sorted(TORTURED, key=lambda place: (life.kills.get(place, 0), dice.random()))
        return Death({place: dice.randint(1, 3) for place in least[:6]}, patience=PATIENCE), None
    return Death(), dice.uniform(0.03, 0.4)


TWO_BY_TWO = tuple(zip(ANSWER_FAULTS, BOOK_FAULTS, strict=True))
"""Every fault once: a broker that answers badly keeps its book badly, too."""


def pairs_of(faults: Sequence[str]) -> set[str]:
    """Every boundary with every one of `faults`, as they stand in Life.pairs."""
    return {f"{boundary} x {fault}" for boundary in TORTURED for fault in faults}


def by_pairs(url: str, room: Path, life: Life, faults: Sequence[str], left: set[str], most: int = 10 * len(TORTURED)) -> Life:
    """Kill one desk at every boundary in `left`, each time after its broker has misbehaved by every one of `faults` since that
    desk started.

    A boundary that was died at is taken out of `left`; those this life did not come by so stay for another.
    """
    dice = random.Random(life.seed)

    def tortured(market: Market, stretch: Stretch) -> None:
        while left and life.killed < most:
            for fault in faults:
                market.ask("arm", kind=fault, skip=dice.randint(0, 1))
            before = market.board.struck()
            if not run(market, _of_either_kind(stretch, dice), Death(dict.fromkeys(left, 1), after=tuple(faults))):
                break
            place, after = market.board.died, market.board.struck()
            left.discard(place)
            life.kills[place] = life.kills.get(place, 0) + 1
            life.pairs += [f"{place} x {fault}" for fault in faults if after[fault] > before.get(fault, 0)]

    rates = {"partial_fill": 0.3, **dict.fromkeys(faults, 0.15)}  # without parts two boundaries are never passed
    return _life(url, room, life, rates, BUSY, True, tortured)


def _life(
    url: str, room: Path, life: Life, rates: dict[str, float], habits: Habits, often: bool,
    tortured: Callable[[Market, Stretch], None],
) -> Life:  # fmt: skip
    started = time.monotonic()
    engine = connect(url)
    try:
        with market(room / f"book_{life.number}.sqlite", rates, life.seed, often) as own:
            tortured(own, Stretch(url, own.address, life.seed, habits=habits))
            last = min(progress(engine) + 1, MAX_CLOSES)
            run(own, Stretch(url, own.address, life.seed, last, decide_until=last))
            life.struck = own.board.struck()
            own.ask("calm")
            run(own, Stretch(url, own.address, life.seed, last + SETTLING, decide_until=last))
            life.wrong = checks.compare(engine, own.books(), life.notes)
            life.busy = checks.activity(engine)
    except (RuntimeError, TimeoutError) as error:  # a desk that ends by itself, or hangs
        life.wrong[FAILED] = 1
        life.notes.append(str(error))
    finally:
        engine.dispose()
    life.seconds = time.monotonic() - started
    return life


def every_pair(
    faults: Sequence[str], seed: int, new_ledger: Callable[[], str], room: Path, first: int = 1, lives: int = 8
) -> list[Life]:
    """Lives, numbered from `first`, until a desk died at every boundary with every one of `faults`.

    What no life came by is in the last one's `notes`, and counts as a pair that was missed.
    """
    left, lived = set(TORTURED), list[Life]()
    while left and len(lived) < lives:
        life = Life(first + len(lived), random.Random(f"{seed} {' '.join(faults)} {len(lived)}").randrange(2**31))
        lived.append(by_pairs(new_ledger(), room, life, faults, left))
    if left:
        lived[-1].notes.append(f"{' and '.join(faults)}: {lives} lives did not come by {', '.join(sorted(left))}")
    return lived
