"""SHA-256 of many runs of rows in one call, without the interpreter's lock.

A session's hash takes ten microseconds. Asked for one by one, each of them gives the interpreter's lock away and waits to
get it back, and threads that write side by side spend more time waiting than hashing. So the loop over the runs is
compiled and calls the very library hashlib calls (libcrypto's EVP_Digest functions, by address). Where that library
cannot be reached, or refuses, hashlib does it: the digests are the same, only slower.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

_BYTES = 32
_DIGITS = 20
"""Of the largest row count there could be."""


class _Crypto(NamedTuple):
    """Entry points of libcrypto. init, update, final: addresses; new, free: of a context; algorithm: SHA-256."""

    init: int
    update: int
    final: int
    new: Any
    free: Any
    algorithm: int


@lru_cache(maxsize=1)
def _crypto() -> _Crypto | None:
    """The libcrypto this Python's hashlib stands on; None where its functions cannot be reached."""
    try:
        import _hashlib

        library = ctypes.PyDLL(_hashlib.__file__)
        new, free = library.EVP_MD_CTX_new, library.EVP_MD_CTX_free
        new.restype, new.argtypes = ctypes.c_void_p, ()
        free.restype, free.argtypes = None, (ctypes.c_void_p,)
        try:
            # Looked up once for good; EVP_sha256() would be looked up again at every init.
            fetch = library.EVP_MD_fetch
            fetch.restype, fetch.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
            algorithm = fetch(None, b"SHA256", None)
        except AttributeError:  # before OpenSSL 3
            library.EVP_sha256.restype = ctypes.c_void_p
            algorithm = library.EVP_sha256()
        calls = (library.EVP_DigestInit_ex, library.EVP_DigestUpdate, library.EVP_DigestFinal_ex)
        init, update, final = (int(ctypes.cast(call, ctypes.c_void_p).value or 0) for call in calls)
    except (ImportError, AttributeError, OSError):
        return None
    if not algorithm or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    return _Crypto(init, update, final, new, free, int(algorithm))


@intrinsic
def _call(typing_context: Any, function: Any, first: Any, second: Any, third: Any) -> Any:
    """``int function(first, second, third)`` of C, everything a pointer or a size."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [word, word, word])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return types.int32(types.int64, types.int64, types.int64, types.int64), generate


@numba.njit(cache=True, nogil=True)
def _digests(
    init: Any, update: Any, final: Any, context: Any, algorithm: Any, text: Any, head: Any, size: Any, columns: Any, widths: Any,
    starts: Any, out: Any,
) -> Any:  # fmt: skip
    """Fill bytes of out, 32 a run: the digest of its head (the first `size` bytes of text, at address `head`, and its row count
    in decimals) and its slice of each column; False: refused. text: room for the digits behind its `size` bytes."""
    for run in range(len(starts) - 1):
        if _call(init, context, algorithm, 0) != 1:  # type: ignore[call-arg]
            return False
        first = starts[run]
        rows = starts[run + 1] - first
        digits = 1
        rest = rows // 10
        while rest:
            digits += 1
            rest //= 10
        rest = rows
        for i in range(digits):
            text[size + digits - 1 - i] = 48 + rest % 10
            rest //= 10
        if _call(update, context, head, size + digits) != 1:
            return False
        for i in range(len(columns)):
            if _call(update, context, columns[i] + first * widths[i], rows * widths[i]) != 1:
                return False
        if _call(final, context, out + run * 32, 0) != 1:
            return False
    return True


def run_digests(prefix: bytes, columns: Sequence[NDArray[Any]], starts: Sequence[int]) -> list[str]:
    """SHA-256 hex digest of each run: `prefix`, its row count in decimals, rows [starts[i], starts[i+1]) of each column.

    columns: one-dimensional and contiguous, all of one length.
    """
    if starts[0] < 0 or list(starts) != sorted(starts):
        raise AssertionError(f"runs {starts[0]} .. {starts[-1]} do not ascend")
    if any(not c.flags.c_contiguous or c.ndim != 1 or len(c) < starts[-1] for c in columns):
        raise AssertionError("columns to be hashed must be contiguous and reach the last run's end")
    if len(starts) == 1:
        return []
    return _together(prefix, columns, starts) or _one_by_one(prefix, columns, starts)


def _together(prefix: bytes, columns: Sequence[NDArray[Any]], starts: Sequence[int]) -> list[str] | None:
    crypto = _crypto()
    if crypto is None:
        return None
    text = np.frombuffer(bytearray(prefix + bytes(_DIGITS)), np.uint8)
    addresses = np.array([_address(column) for column in columns], np.int64)
    widths = np.array([column.itemsize for column in columns], np.int64)
    out = np.empty((len(starts) - 1) * _BYTES, np.uint8)
    context = crypto.new()
    if not context:
        return None
    try:
        done = _digests(  # type: ignore[call-arg]
            crypto.init, crypto.update, crypto.final, context, crypto.algorithm, text, _address(text), len(prefix), addresses,
            widths, np.array(starts, np.int64), _address(out),
        )  # fmt: skip
    finally:
        crypto.free(context)
    if not done:
        return None
    digits = out.tobytes().hex()
    return [digits[i : i + 2 * _BYTES] for i in range(0, len(digits), 2 * _BYTES)]


def _address(array: NDArray[Any]) -> int:
    return int(pa.py_buffer(array).address)  # a quarter of what numpy takes to say it


def _one_by_one(prefix: bytes, columns: Sequence[NDArray[Any]], starts: Sequence[int]) -> list[str]:
    """The same by hashlib."""
    out = []
    for first, after in pairwise(starts):
        digest = hashlib.sha256(prefix + str(after - first).encode())
        for column in columns:
            digest.update(column[first:after].data)
        out.append(digest.hexdigest())
    return out
