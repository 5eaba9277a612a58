"""Compiling kernels that call functions of other modules, without ever running yesterday's code.

numba's on-disk cache looks only at the file a function stands in. A kernel that inlines another module's functions
would keep running their old machine code after an edit there. `kernel` therefore puts the content of every module it
uses into the cache's stamp: change one of them and the kernel is compiled again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def kernel(*uses: ModuleType, nogil: bool = False) -> Callable[[F], F]:
    """``@kernel(matching, sizing)``: compiled with an on-disk cache valid for this content of the used modules.

    nogil: threads of one process may run it side by side. Under NUMBA_DISABLE_JIT=1 the function stays plain Python.
    """

    def decorate(function: F) -> F:
        compiled = cast(F, njit(cache=True, nogil=nogil)(function))
        cache = getattr(compiled, "_cache", None)
        if cache is None:  # plain Python
            return compiled
        digest = hashlib.sha256()
        for module in uses:
            digest.update(Path(str(module.__file__)).read_bytes())
        index = getattr(cache, "_cache_file", None)
        if index is None or not hasattr(index, "_source_stamp"):
            cache.disable()  # an unknown numba: rather compile in every process than run stale code
        else:
            index._source_stamp = (index._source_stamp, digest.hexdigest())
        return compiled

    return decorate
