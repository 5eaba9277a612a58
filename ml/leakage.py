"""The leakage audit: does anything a model is trained on know what comes later?

Three questions, each answered by doing it again rather than by reading code: are the features of a row the same when every
later bar is taken away (truncate and recompute), does no training event overlap the test events (label-time overlap), and
was each scaler fitted on training rows only (fit range)? A finding blocks training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.dataset import TrainingSet
from ml.labels import forward_direction
from ml.scaling import Scaler, fit_scaler
from ml.splits import Fold
from trading.bars import Bars
from trading.timeframes import iso

Recompute = Callable[[str, int], NDArray[np.floating]]
"""(symbol, time) -> the features (F,) of the row that closes at `time`, computed from what was known then and nothing else."""

CUTS: Final = 6


class LeakageFound(ValueError):
    """The audit has findings; the message names the first of them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that knows the future. audit: truncate, labels, overlap or scaler."""

    audit: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.audit}: {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at and what was found. checked: how many comparisons each audit made."""

    findings: tuple[Finding, ...]
    checked: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """Nothing found, and every audit looked at something: one that saw nothing proves nothing."""
        return not self.findings and bool(self.checked) and all(n > 0 for n in self.checked.values())

    def raise_if_found(self) -> None:
        """Raises LeakageFound unless the audit passed."""
        if self.passed:
            return
        idle = [name for name, n in self.checked.items() if n == 0]
        first = str(self.findings[0]) if self.findings else f"nothing was looked at by: {', '.join(idle) or 'any audit'}"
        raise LeakageFound(f"the leakage audit has {len(self.findings)} findings; {first}")


def merge(*audits: Audit) -> Audit:
    """All of them as one."""
    checked: dict[str, int] = {}
    for one in audits:
        for name, n in one.checked.items():
            checked[name] = checked.get(name, 0) + n
    return Audit(tuple(f for a in audits for f in a.findings), checked)


def truncate_and_recompute(data: TrainingSet, recompute: Recompute, cuts: int = CUTS) -> Audit:
    """Features of `cuts` rows of every instrument, spread over its history, against those computed without later bars.

    They must agree as float32, bit for bit; a feature that differs is named with its row.
    """
    found: list[Finding] = []
    looked = 0
    for code, symbol in enumerate(data.matrix.symbols):
        rows = np.flatnonzero(data.matrix.symbol == code)
        if not len(rows):
            continue
        for row in rows[np.unique(np.linspace(0, len(rows) - 1, cuts).astype(int))].tolist():
            at = int(data.matrix.close_time[row])
            looked += 1
            kept, again = data.matrix.values[row], np.asarray(recompute(symbol, at)).astype(np.float32)
            if again.shape != kept.shape:
                found.append(
                    Finding("truncate", f"{symbol} at {iso(at)}", f"recomputed {len(again)} features, expected {len(kept)}")
                )
                continue
            differs = ~((again == kept) | (np.isnan(again) & np.isnan(kept)))
            for f in np.flatnonzero(differs).tolist():
                name = data.matrix.names[f]
                what = f"{name} is {kept[f]:.6g} but {again[f]:.6g} when later bars are hidden"
                found.append(Finding("truncate", f"{symbol} at {iso(at)}", what))
    return Audit(tuple(found), {"truncate": looked})


def labels_known_late(data: TrainingSet, bars: Mapping[str, Bars], cuts: int = CUTS) -> Audit:
    """No label may be known before its event end: with bars up to the moment before, the direction has no value; with bars
    up to it, it has the one in the set."""
    found: list[Finding] = []
    looked = 0
    for code, symbol in enumerate(data.matrix.symbols):
        rows = np.flatnonzero(data.matrix.symbol == code)
        for row in rows[np.unique(np.linspace(0, len(rows) - 1, cuts).astype(int))].tolist() if len(rows) else ():
            at, end = int(data.matrix.close_time[row]), int(data.event_end[row])
            looked += 1
            known = bars[symbol].known_at(end)
            labels = forward_direction(known, data.horizon)
            k = int(np.searchsorted(known.close_time, at))
            place = f"{symbol} at {iso(at)}"
            if not labels.valid[k] or labels.forward_return[k] != data.forward_return[row]:
                found.append(Finding("labels", place, f"not the label known at its event end {iso(end)}"))
            elif int(labels.event_end[k]) > end:
                found.append(Finding("labels", place, f"event ends {iso(int(labels.event_end[k]))}, the set says {iso(end)}"))
    return Audit(tuple(found), {"labels": looked})


def label_overlap(events: NDArray[np.int64], folds: Sequence[Fold]) -> Audit:
    """events int64 (N, 2). No training event may touch the time a fold's test events cover, whichever side it lies on."""
    found: list[Finding] = []
    looked = 0
    for fold in folds:
        start, end = events[fold.test, 0], events[fold.test, 1]
        order = np.argsort(start, kind="stable")
        start, reach = start[order], np.maximum.accumulate(end[order])
        looked += len(fold.train)
        # A training event [a, b] overlaps a test event iff one that starts at or before b ends at or after a.
        last = np.searchsorted(start, events[fold.train, 1], side="right") - 1
        overlaps = (last >= 0) & (reach[np.maximum(last, 0)] >= events[fold.train, 0])
        if overlaps.any():
            row = int(fold.train[int(np.argmax(overlaps))])
            what = f"{int(overlaps.sum())} training events overlap the test's, the first from {iso(int(events[row, 0]))}"
            found.append(Finding("overlap", f"fold {fold.number}", what))
    return Audit(tuple(found), {"overlap": looked})


def scaler_range(
    values: NDArray[np.floating], times: NDArray[np.int64], fitted: Sequence[tuple[Fold, Scaler, NDArray[np.int64]]]
) -> Audit:
    """Each scaler must be the one its own rows (third of the tuple, positions) give, and those must be training rows."""
    found: list[Finding] = []
    for fold, scaler, rows in fitted:
        place = f"fold {fold.number}"
        outside = np.setdiff1d(rows, fold.train)
        if len(outside):
            what = f"fitted on {len(outside)} rows that are not training rows, one of {iso(int(times[outside[-1]]))}"
            found.append(Finding("scaler", place, what))
            continue
        again = fit_scaler(values[rows], times[rows], scaler.clip)
        same = np.array_equal(again.mean, scaler.mean) and np.array_equal(again.scale, scaler.scale)
        if not same or (again.first_time, again.last_time, again.rows) != (scaler.first_time, scaler.last_time, scaler.rows):
            found.append(Finding("scaler", place, f"not what its {len(rows)} training rows give"))
    return Audit(tuple(found), {"scaler": len(fitted)})
