"""One thread for small networks: on two busy cores a second one makes them ten times slower, and sums depend on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """torch computes with `count` threads inside; afterwards with as many as before. Does nothing where torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
