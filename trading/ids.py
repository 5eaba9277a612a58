"""Content-hash ids: the same defining inputs give the same id on any machine.

An id names *what a thing is*, never when or where it was computed. Recomputing a signal, a decision or an
intent therefore yields the id it had before: inserting it again is harmless and sending it twice is impossible.

Format: ``<kind>-<24 lowercase hex digits>`` (96 bits of SHA-256 over the canonical JSON of the defining parts).
The id is short enough for every broker's client-id field (28 characters at most).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

_HEX_DIGITS = 24


def canonical(value: Any) -> bytes:
    """Canonical JSON bytes of `value`: sorted keys, no spaces, UTF-8, floats by shortest repr.

    Accepts None, bool, int, finite float, str, bytes-free mappings with str keys, sequences, enums, dates, Decimal.
    Raises ValueError on NaN or infinity and TypeError on anything else, because two machines could print them
    differently.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"not a finite number: {value!r}")
        return float(value)
    if isinstance(value, Decimal):
        return str(value.normalize())
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"mapping key must be str, got {key!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy scalar
        return _plain(value.item())
    raise TypeError(f"no canonical form for {type(value).__name__}")


def content_hash(value: Any) -> str:
    """Full SHA-256 hex digest of the canonical form of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def make_id(kind: str, *parts: Any) -> str:
    """Id of kind `kind` defined by `parts`, e.g. ``make_id("sig", "ema_trend", ...)`` -> ``sig-3f…``."""
    return f"{kind}-{content_hash([kind, *parts])[:_HEX_DIGITS]}"


def signal_id(strategy: str, strategy_revision: str, symbol: str, timeframe: str, close_time: int, action: str) -> str:
    """Id of "this strategy revision, on this instrument, at this bar close, wants this". `close_time`: UTC us."""
    return make_id("sig", strategy, strategy_revision, symbol, timeframe, close_time, action)


def decision_id(signal: str) -> str:
    """Id of the decision on `signal` (one decision per signal)."""
    return make_id("dec", signal)


def intent_id(parent: str, leg: str) -> str:
    """Id of one leg (``entry``, ``stop``, ``target``, ``exit:<reason>:<close_time>``, ...) of `parent`."""
    return make_id("int", parent, leg)


def file_revision(text: str | bytes) -> str:
    """Revision of an edited file: first 12 hex digits of the SHA-256 of its bytes."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:12]
