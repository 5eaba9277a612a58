"""What every benchmark yields, and how it is timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure. value in `unit`; reference: what it is held against, in the same unit; ratio: value over
    reference. None where there is nothing to compare with."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def best_of(call: Callable[[], T], repeats: int) -> tuple[float, T]:
    """(seconds of the fastest of `repeats` calls, result of the last). The fastest is the one other work disturbed least."""
    best, result = float("inf"), None
    for _ in range(repeats):
        result = None  # free the last result before the next call, so that memory is measured for one
        gc.collect()
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return best, result  # type: ignore[return-value]


def best_of_pair(ours: Callable[[], T], reference: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(our seconds, the reference's seconds), best of `repeats` each, measured in turns so that both meet the same load."""
    mine = theirs = float("inf")
    for _ in range(repeats):
        mine = min(mine, best_of(ours, 1)[0])
        theirs = min(theirs, best_of(reference, 1)[0])
    return mine, theirs


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
