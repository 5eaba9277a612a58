"""One thread for small networks: on two busy cores a second one makes them ten times slower, and sums depend on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any


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


@lru_cache(maxsize=1)
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextlib.contextmanager
def blas_threads(count: int = 1) -> Iterator[None]:
    """numpy's matrix products use `count` threads inside: the same reason, and the order of their sums stays the same."""
    with _libraries().limit(limits=count, user_api="blas"):
        yield
