"""What every benchmark yields, and how it is timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Goal:
    """The limit a figure is to keep. at_most: it must not be above it, else not below; of_ratio: the ratio, else the value."""

    limit: float
    at_most: bool
    of_ratio: bool = False

    def __str__(self) -> str:
        limit = f"{self.limit:,.4g}" if self.limit < 1e6 else f"{self.limit:,.0f}"
        return f"{'ratio ' if self.of_ratio else ''}{'<=' if self.at_most else '>='} {limit}"


def at_least(limit: float) -> Goal:
    return Goal(limit, at_most=False)


def at_most(limit: float) -> Goal:
    return Goal(limit, at_most=True)


def ratio_at_most(limit: float) -> Goal:
    return Goal(limit, at_most=True, of_ratio=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    value in `unit`; reference: what it is held against, in the same unit; ratio: what ours costs over what the reference
    costs, in time or bytes, so that below 1 is better than the reference whatever the unit. None where there is nothing to
    compare with. per_cpu: the value per second of processor time instead of the clock's, for figures per second: other work
    on the machine disturbs it less, and threads do not raise it.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None
    per_cpu: float | None = None
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``; nothing where there is no goal."""
        if self.goal is None:
            return ""
        figure = self.ratio if self.goal.of_ratio else self.value
        if figure is None:
            return "missed"
        return "met" if (figure <= self.goal.limit if self.goal.at_most else figure >= self.goal.limit) else "missed"

    def to_dict(self) -> dict[str, Any]:
        """As printed with --json; per_cpu, goal and verdict only where there are any."""
        out: dict[str, Any] = {
            "name": self.name, "value": self.value, "unit": self.unit, "reference": self.reference, "ratio": self.ratio,
        }  # fmt: skip
        if self.per_cpu is not None:
            out["per_cpu"] = self.per_cpu
        if self.goal is not None:
            out |= {"goal": str(self.goal), "verdict": self.verdict}
        return out


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the clock, and of processor time over all threads."""

    wall: float
    cpu: float

    def best(self, other: Timing) -> Timing:
        return Timing(min(self.wall, other.wall), min(self.cpu, other.cpu))


def timed(call: Callable[[], T], repeats: int) -> tuple[Timing, T]:
    """(the least of `repeats` calls, result of the last). The least is what other work on the machine disturbed least."""
    best, result = Timing(float("inf"), float("inf")), None
    for _ in range(repeats):
        result = None  # free the last result before the next call, so that memory is measured for one
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        best = best.best(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return best, result  # type: ignore[return-value]


def timed_pair(ours: Callable[[], Any], reference: Callable[[], Any], repeats: int) -> tuple[Timing, Timing]:
    """(ours, the reference's), the least of `repeats` each, measured in turns so that both meet the same load."""
    mine = theirs = Timing(float("inf"), float("inf"))
    for _ in range(repeats):
        mine = mine.best(timed(ours, 1)[0])
        theirs = theirs.best(timed(reference, 1)[0])
    return mine, theirs


def best_of(call: Callable[[], T], repeats: int) -> tuple[float, T]:
    """(seconds of the fastest of `repeats` calls, result of the last)."""
    best, result = timed(call, repeats)
    return best.wall, result


def best_of_pair(ours: Callable[[], T], reference: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(our seconds, the reference's seconds), best of `repeats` each, measured in turns."""
    mine, theirs = timed_pair(ours, reference, repeats)
    return mine.wall, theirs.wall


def rate(name: str, amount: float, unit: str, ours: Timing, reference: Timing | None = None, goal: Goal | None = None) -> Row:
    """The row of something done `amount` times, per second."""
    per_cpu = amount / ours.cpu if ours.cpu > 0 else None
    if reference is None:
        return Row(name, amount / ours.wall, unit, per_cpu=per_cpu, goal=goal)
    return Row(name, amount / ours.wall, unit, amount / reference.wall, ours.wall / reference.wall, per_cpu, goal)


def forget_peak_memory() -> None:
    """Let peak_memory_mb count from here on, where the system can (Linux)."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Highest resident memory of this process since forget_peak_memory, or since its start, MB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
