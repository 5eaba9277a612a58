"""What a model version keeps of its training part, and how the newest bars are held against it.

A distance between two samples of independent rows has a known distribution; bars depend on their neighbours, so theirs is
measured: every stretch of the training part as long as the window that is judged gives one distance to the rest of it. The
window has drifted only when it is further away than such stretches are, and far enough to matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ml import drift

Floats = NDArray[np.float64]
FORMAT: Final = "tapeline-drift-1"
SAMPLE: Final = 400
BACKGROUND: Final = 64
WINDOW: Final = 60
"""Distinct closes that are judged together, where a model's file says nothing else."""


class BadReference(ValueError):
    """Bytes that are no reference of ours, or columns that are not its own. The message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column of the training part. edges, counts: its bins; sample: at most SAMPLE of its values, ascending, evenly spread.
    null_psi, null_ks: float64 (B,), distances of stretches of the training part."""

    name: str
    edges: Floats
    counts: Floats
    sample: Floats
    null_psi: Floats
    null_ks: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Of one model version. window: distinct closes of a stretch. first_time, last_time, rows: of the training part. returns:
    float64 (D,), session returns out of sample, net of costs. background: float32 (K, F), whole rows, evenly spread."""

    window: int
    first_time: int
    last_time: int
    rows: int
    features: tuple[Column, ...]
    outputs: tuple[Column, ...]
    returns: Floats
    background: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Canonical JSON, nine digits."""
        plain = asdict(self) | {"format": FORMAT}
        return json.dumps(_plain(plain), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Reference:
        """Inverse of to_bytes. Raises BadReference."""
        try:
            body = json.loads(data)
            if body.pop("format") != FORMAT:
                raise BadReference(f"not a {FORMAT} reference: train the model again")
            for part in ("features", "outputs"):
                body[part] = tuple(
                    Column(c.pop("name"), **{k: np.array(v, np.float64) for k, v in c.items()}) for c in body[part]
                )
            body["returns"] = np.array(body["returns"], np.float64)
            body["background"] = np.array(body["background"], np.float32).reshape(-1, len(body["features"]))
            return Reference(**body)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BadReference):
                raise
            raise BadReference(f"not a {FORMAT} reference ({type(error).__name__}): train the model again") from error


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window has drifted. psi: the least index that matters. level: chance that a window like the training part is
    called drifted. share: of the features that must have moved. slack: fall of the mean result that is let pass, in its
    deviations. performance_level: chance of a false alarm of the results; delta: of ADWIN."""

    psi: float = 0.25
    level: float = 0.05
    share: float = 0.25
    slack: float = 0.1
    performance_level: float = 0.01
    delta: float = 0.05


@dataclass(frozen=True, slots=True)
class Shift:
    """One column of the window against the training part. psi_p, ks_p: rank among stretches of the training part; ks_iid_p:
    what independent rows would say; NaN: not known. moved: all of it together."""

    name: str
    psi: float
    psi_p: float
    ks: float
    ks_p: float
    ks_iid_p: float
    moved: bool


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The window against the training part. share: of features that moved, share_p: its rank among stretches. changes: of the
    results since, None where there are none. reasons: why it has drifted; empty: it has not."""

    rows: int
    first_time: int
    last_time: int
    features: tuple[Shift, ...]
    outputs: tuple[Shift, ...]
    share: float
    share_p: float
    changes: drift.Changes | None
    reasons: tuple[str, ...]

    @property
    def drifted(self) -> bool:
        return bool(self.reasons)


def reference_of(
    features: Mapping[str, Floats],
    times: NDArray[np.int64],
    outputs: Mapping[str, Floats],
    output_times: NDArray[np.int64],
    returns: Floats,
    *,
    window: int = WINDOW,
) -> Reference:
    """The reference of a training part. features: values (N,) by name at `times` (N,), any order; outputs: of the model on rows
    it was not fitted on, at `output_times`; returns: session returns out of sample. Raises ValueError on an empty part."""
    if not len(times) or not len(output_times):
        raise ValueError("no rows of the training part to keep")
    rows = np.column_stack([np.asarray(v, np.float64) for v in features.values()])
    whole = np.flatnonzero(np.isfinite(rows).all(axis=1))
    chosen = whole[_spread(len(whole), BACKGROUND)]
    return Reference(
        window, int(times.min()), int(times.max()), len(times),
        tuple(_column(name, np.asarray(v, np.float64), times, window) for name, v in features.items()),
        tuple(_column(name, np.asarray(v, np.float64), output_times, window) for name, v in outputs.items()),
        np.asarray(returns, np.float64), rows[chosen].astype(np.float32),
    )  # fmt: skip


def _column(name: str, values: Floats, times: NDArray[np.int64], window: int) -> Column:
    known = np.sort(values[np.isfinite(values)])
    if not len(known):
        raise ValueError(f"{name}: no known value in the training part")
    edges = drift.edges_of(known)
    counts, sample = drift.counts_of(known, edges), known[_spread(len(known), SAMPLE)]
    null_psi, null_ks = [], []
    for part in stretches(times, window):
        own = values[part]
        its = drift.counts_of(own, edges)
        null_psi.append(drift.psi(counts - its, its))
        null_ks.append(drift.ks_statistic(sample, own[np.isfinite(own)]) if np.isfinite(own).any() else math.nan)
    return Column(name, edges, counts, sample, np.array(null_psi, np.float64), np.array(null_ks, np.float64))


def stretches(times: NDArray[np.int64], window: int) -> list[NDArray[np.int64]]:
    """Rows of every stretch of `window` distinct times, each half a window after the one before."""
    distinct, at = np.unique(times, return_inverse=True)
    order = np.argsort(at, kind="stable")
    starts = np.searchsorted(at[order], np.arange(len(distinct) + 1))
    return [
        order[starts[i] : starts[i + window]] for i in range(0, len(distinct) - window + 1, max(1, window // 2))
    ]  # fmt: skip


def newest(times: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Rows of the newest `window` distinct times."""
    distinct = np.unique(times)
    return np.flatnonzero(times >= distinct[-min(window, len(distinct))]) if len(distinct) else np.empty(0, np.int64)


def judge(
    reference: Reference,
    features: Mapping[str, Floats],
    outputs: Mapping[str, Floats],
    times: NDArray[np.int64],
    results: Floats,
    limits: Limits,
) -> Verdict:
    """The newest window held against the training part. features, outputs: values (n,) of the window's rows by name; times
    (n,). results: float64 (R,), session returns net of costs since the training part ended, oldest first.

    Raises BadReference when a column is not there, or the window has no row.
    """
    if not len(times):
        raise BadReference("no row after the training part: there is nothing to hold against it yet")
    shifts = tuple(_shift(c, _own(c, features), limits) for c in reference.features)
    said = tuple(_shift(c, _own(c, outputs), limits) for c in reference.outputs)
    share = float(np.mean([s.moved for s in shifts])) if shifts else 0.0
    share_p = drift.rank_p(null_shares(reference, limits), share)
    changes = None
    if len(results) and len(reference.returns) > 1 and float(np.std(reference.returns)) > 0:
        changes = drift.watch(
            reference.returns, results, delta=limits.delta, slack=limits.slack, level=limits.performance_level
        )  # fmt: skip
    reasons: list[str] = []
    if share >= limits.share and (share_p <= limits.level or _too_few(reference.features, limits)):
        top = ", ".join(f"{s.name} {s.psi:.2f}" for s in sorted(shifts, key=lambda s: -np.nan_to_num(s.psi, nan=9.0))[:3])
        reasons.append(f"features: {100 * share:.0f} % have moved (limit {100 * limits.share:.0f} %), index of {top}")
    reasons += [f"output {s.name}: index {s.psi:.2f} (limit {limits.psi:g}), p {s.psi_p:.3f}" for s in said if s.moved]
    if changes is not None:
        recent = len(results) - reference.window
        if any(i >= recent for i in changes.alarms):
            reasons.append(f"results: Page-Hinkley alarm {len(results) - 1 - changes.alarms[-1]} sessions ago")
        if any(i >= recent for i in changes.falls):
            reasons.append(f"results: ADWIN cut a fall {len(results) - 1 - changes.falls[-1]} sessions ago")
    return Verdict(
        len(times), int(times.min()), int(times.max()), shifts, said, share, share_p, changes, tuple(reasons)
    )  # fmt: skip


def _own(column: Column, given: Mapping[str, Floats]) -> Floats:
    if column.name not in given:
        raise BadReference(f"{column.name} is not among the columns: they are of another definition than the model's")
    return np.asarray(given[column.name], np.float64)


def _shift(column: Column, values: Floats, limits: Limits) -> Shift:
    known = values[np.isfinite(values)]
    index = drift.psi(column.counts, drift.counts_of(known, column.edges))
    if not len(known):  # a column that has gone missing has moved, whatever it is
        return Shift(column.name, math.nan, math.nan, math.nan, math.nan, math.nan, True)
    distance = drift.ks_statistic(column.sample, known)
    psi_p, ks_p = drift.rank_p(column.null_psi, index), drift.rank_p(column.null_ks, distance)
    iid = drift.ks_p(distance, len(column.sample), len(known))
    if _too_few((column,), limits):
        # Nothing to rank among: then it must be twice the limit, and further away than every stretch that there is.
        sure = index >= 2 * limits.psi and not bool(np.any(column.null_psi >= index))
    else:
        sure = min(psi_p, ks_p) <= limits.level
    return Shift(column.name, index, psi_p, distance, ks_p, iid, bool(index >= limits.psi and sure))


def _too_few(columns: Sequence[Column], limits: Limits) -> bool:
    """No p-value can reach the level."""
    fewest = min((int(np.isfinite(c.null_psi).sum()) for c in columns), default=0)
    return 1.0 / (1.0 + fewest) > limits.level


def null_shares(reference: Reference, limits: Limits) -> Floats:
    """The share of features that would have counted as moved in each stretch of the training part, float64 (B,)."""
    if not reference.features:
        return np.empty(0)
    psi = np.column_stack([c.null_psi for c in reference.features])
    distance = np.column_stack([c.null_ks for c in reference.features])
    ranks = [(np.sum(m[None] >= m[:, None], axis=1)) / max(1, len(m)) for m in (psi, distance)]
    sure = np.minimum(*ranks) <= limits.level
    return np.asarray(((psi >= limits.psi) & sure).mean(axis=1), np.float64)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of 0 .. count - 1, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.empty(0, np.int64)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
