"""Has the world a model was trained in changed? Distances between samples, and detectors of a change in a stream. Pure numpy.

Distances (PSI, Kolmogorov-Smirnov) compare a current sample with the one a model was trained on; detectors (ADWIN,
Page-Hinkley) read results one by one and say when their mean has fallen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS: Final = 10


# -- distances between two samples -----------------------------------------------------------------------------------------


def edges_of(reference: Floats, bins: int = BINS) -> Floats:
    """Inner edges of at most `bins` bins that hold equal shares of `reference` (N,); fewer where values repeat.

    Raises ValueError without a finite value.
    """
    known = reference[np.isfinite(reference)]
    if not len(known):
        raise ValueError("no known value to make bins of")
    inner = np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    # An edge at the largest value would leave the last bin empty for ever.
    return np.unique(inner[inner < known.max()])


def counts_of(values: Floats, edges: Floats) -> Floats:
    """How many of `values` (N,) lie in each bin, float64 (len(edges) + 1,); a value on an edge belongs to the bin below it.
    What is not finite is not counted."""
    known = values[np.isfinite(values)]
    return np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1).astype(np.float64)


def psi(reference: Floats, current: Floats) -> float:
    """Population stability index of two count vectors over the same bins; 0: equal shares, NaN: one of them is empty.

    sum (c - r) ln(c / r) over the shares r and c: the symmetrised divergence of Jeffreys (1946), as a population stability
    index in Siddiqi, Credit Risk Scorecards (2006), where above 0.25 is a large shift. Half a row is added to every bin, so
    that an empty one does not make it infinite. Without any change its mean is about (bins - 1)(1/n + 1/m) (Yurdakul 2018).
    """
    if reference.sum() <= 0 or current.sum() <= 0:
        return math.nan
    r, c = reference + 0.5, current + 0.5
    r, c = r / r.sum(), c / c.sum()
    return float(np.sum((c - r) * np.log(c / r)))


def ks_statistic(first: Floats, second: Floats) -> float:
    """Largest distance of the empirical distribution functions of two samples, of any lengths > 0 (Smirnov 1939)."""
    a, b = np.sort(first), np.sort(second)
    both = np.concatenate([a, b])
    below_a = np.searchsorted(a, both, side="right") / len(a)
    below_b = np.searchsorted(b, both, side="right") / len(b)
    return float(np.abs(below_a - below_b).max())


def ks_p(statistic: float, first: float, second: float) -> float:
    """P(a statistic this large or larger) when both samples, of `first` and `second` independent values, are of one
    distribution: Kolmogorov's series 2 sum (-1)^(k-1) exp(-2 k^2 x^2) at x = (sqrt(n) + 0.12 + 0.11 / sqrt(n)) D with
    n = first second / (first + second) (Stephens 1970). Values that depend on each other, as bars do, make it too small."""
    root = math.sqrt(first * second / (first + second))
    x = (root + 0.12 + 0.11 / root) * statistic
    if x < 0.2:
        return 1.0  # the series does not converge there; the probability is 1 to twelve digits
    k = np.arange(1, 101)
    terms = np.exp(-2.0 * k**2 * x**2) * np.where(k % 2 == 1, 1.0, -1.0)
    return float(min(1.0, max(0.0, 2.0 * terms.sum())))


def ks(first: Floats, second: Floats) -> tuple[float, float]:
    """(statistic, p-value) of the two-sample Kolmogorov-Smirnov test; (NaN, NaN) when one has no finite value."""
    a, b = first[np.isfinite(first)], second[np.isfinite(second)]
    if not len(a) or not len(b):
        return math.nan, math.nan
    statistic = ks_statistic(a, b)
    return statistic, ks_p(statistic, len(a), len(b))


def rank_p(null: Floats, observed: float) -> float:
    """Share of `null` (B,), statistics where nothing changed, that are at least `observed`, the observed one counted among
    them: (1 + #) / (1 + B), a valid p-value when the observed one could have been any of them. NaN observed: NaN."""
    if math.isnan(observed):
        return math.nan
    known = null[np.isfinite(null)]
    return (1.0 + float(np.sum(known >= observed))) / (1.0 + len(known))


# -- changes in a stream ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """Buckets of 2^level values each, oldest first: their sums and their sums of squared deviations."""

    sums: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)


class Adwin:
    """Adaptive windowing: keeps the longest stretch of newest values whose mean has not changed (Bifet and Gavalda 2007).

    The window is cut between an older part (n0 values) and a newer one (n1) whenever their means differ by more than
    sqrt(2/m v ln(2/d)) + 2/(3m) w ln(2/d), where 1/m = 1/n0 + 1/n1, v is the window's variance, w the width of the range of
    values, d = delta / ln n (their variance form, after Bernstein; v and w scaled for values in a range other than 1). Values
    are kept in buckets of powers of two, at most `buckets` of each size, so that n values cost O(log n).
    """

    def __init__(self, delta: float = 0.002, *, width: float = 1.0, buckets: int = 5, least: int = 5) -> None:
        """delta: chance of a false cut. width: of the range the values lie in. least: values on either side of a cut."""
        if not 0 < delta < 1 or width <= 0 or buckets < 2 or least < 1:
            raise ValueError(f"delta {delta:g}, width {width:g}, buckets {buckets}, least {least}: expected 0 < delta < 1, "
                             "a positive width, two buckets and one value at least")  # fmt: skip
        self.delta, self.width, self.buckets, self.least = delta, width, buckets, least
        self._rows: list[_Row] = []
        self.size = 0
        self._sum = 0.0
        self._spread = 0.0

    @property
    def mean(self) -> float:
        """Of the values in the window; NaN while it is empty."""
        return self._sum / self.size if self.size else math.nan

    @property
    def variance(self) -> float:
        return self._spread / self.size if self.size else math.nan

    def update(self, value: float) -> float:
        """Take in one value. Returns by how much the mean rose at the cut (negative: fell), 0.0 when nothing was cut.

        Raises ValueError on a value that is not finite: what a missing result means is for the caller to say.
        """
        if not math.isfinite(value):
            raise ValueError(f"{value}: only finite values can be watched")
        if self.size:
            self._spread += self.size * (value - self.mean) ** 2 / (self.size + 1)
        self._sum += value
        self.size += 1
        if not self._rows:
            self._rows.append(_Row())
        self._rows[0].sums.append(value)
        self._rows[0].spreads.append(0.0)
        self._compress()
        moved = 0.0
        while (jump := self._cut()) != 0.0:
            moved = jump
            self._drop_oldest()
        return moved

    def _compress(self) -> None:
        for level, row in enumerate(self._rows):
            if len(row.sums) <= self.buckets:
                return
            n = 2**level
            (a, b), (va, vb) = row.sums[:2], row.spreads[:2]
            if level + 1 == len(self._rows):
                self._rows.append(_Row())
            above = self._rows[level + 1]
            above.sums.append(a + b)
            above.spreads.append(va + vb + (a - b) ** 2 / (2 * n))
            del row.sums[:2], row.spreads[:2]

    def _cut(self) -> float:
        """Newer mean less older mean at the first boundary where they differ too much, oldest first; 0.0 when there is none."""
        if self.size < 2 * self.least:
            return 0.0
        log = math.log(2.0 * math.log(self.size) / self.delta)
        older, total = 0, 0.0
        for level in range(len(self._rows) - 1, -1, -1):
            for held in self._rows[level].sums:
                older, total = older + 2**level, total + held
                newer = self.size - older
                if newer < self.least:
                    return 0.0
                if older < self.least:
                    continue
                gap = (self._sum - total) / newer - total / older
                share = 1.0 / older + 1.0 / newer
                if abs(gap) > math.sqrt(2.0 * share * self.variance * log) + 2.0 / 3.0 * share * self.width * log:
                    return gap
        return 0.0

    def _drop_oldest(self) -> None:
        top = self._rows[-1]
        n = 2 ** (len(self._rows) - 1)
        gone, spread = top.sums.pop(0), top.spreads.pop(0)
        rest = self.size - n
        if rest:
            gap = gone / n - (self._sum - gone) / rest
            self._spread = max(0.0, self._spread - spread - n * rest * gap**2 / self.size)
        self._sum, self.size = self._sum - gone, rest
        while self._rows and not self._rows[-1].sums:
            self._rows.pop()


class PageHinkley:
    """The sequential test of Page (1954) for a mean that has fallen, as in Hinkley (1971).

    m_t = sum over i <= t of (target - x_i - slack); an alarm when m_t - min m > limit; then it starts anew. target: the mean
    when nothing has changed; slack: a fall too small to care about, half of the smallest that matters.
    """

    def __init__(self, target: float, slack: float, limit: float) -> None:
        if not (math.isfinite(target) and slack >= 0 and limit > 0):
            raise ValueError(f"target {target}, slack {slack}, limit {limit}: expected a number, slack >= 0, limit > 0")
        self.target, self.slack, self.limit = target, slack, limit
        self.height = 0.0
        """m_t - min m: how far the results have fallen behind."""

    def update(self, value: float) -> bool:
        """Take in one value; True at an alarm. Raises ValueError on a value that is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"{value}: only finite values can be watched")
        self.height = max(0.0, self.height + self.target - value - self.slack)
        if self.height > self.limit:
            self.height = 0.0
            return True
        return False


def heights(values: Floats, target: float, slack: float) -> Floats:
    """m_t - min m of Page-Hinkley without alarms along the last axis of `values`, same shape."""
    path = np.cumsum(target - values - slack, axis=-1)
    floor = np.minimum(np.minimum.accumulate(path, axis=-1), 0.0)
    return np.asarray(path - floor, np.float64)


def page_hinkley_limit(
    reference: Floats, length: int, slack: float, level: float, *, block: int = 5, replicates: int = 1000, seed: int = 0
) -> float:
    """The limit that a stream of `length` values like `reference` (N,) passes with probability `level`.

    Streams are put together of blocks of `reference` (circular block bootstrap, Politis and Romano 1992), so that results that
    depend on their neighbours, and tails, are those of the reference. Raises ValueError with fewer than two values.
    """
    if len(reference) < 2 or length < 1 or not 0 < level < 1:
        raise ValueError(f"{len(reference)} values, length {length}, level {level:g}: expected two values and a level in (0, 1)")
    random = np.random.default_rng(seed)
    starts = random.integers(0, len(reference), (replicates, -(-length // block)))
    drawn = (starts[:, :, None] + np.arange(block)) % len(reference)
    streams = reference[drawn.reshape(replicates, -1)[:, :length]]
    worst = heights(streams, float(reference.mean()), slack).max(axis=1)
    # The smallest value that at most `level` of the streams pass; never 0, which would alarm at the first loss.
    limit = float(np.quantile(worst, 1.0 - level, method="higher"))
    return max(limit, float(reference.std()) * 1e-6, 1e-12)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Changes found in a stream of T results. falls, rises: positions where ADWIN cut because the mean fell or rose; alarms:
    of Page-Hinkley. height: float64 (T,), how far behind at each moment; limit: of the alarms. mean: of ADWIN's window now."""

    falls: tuple[int, ...]
    rises: tuple[int, ...]
    alarms: tuple[int, ...]
    height: Floats
    limit: float
    mean: float


def watch(
    reference: Floats, stream: Floats, *, delta: float = 0.05, slack: float = 0.0, level: float = 0.01, block: int = 5,
    tails: float = 3.0, seed: int = 0,
) -> Changes:  # fmt: skip
    """Changes in `stream` (T,) after `reference` (N,), results of the same thing before it.

    ADWIN begins with the reference in its window; values are cut `tails` deviations from the reference's mean, so that they
    lie in a range. Page-Hinkley's target is the reference's mean, its slack `slack` deviations, its limit such that a stream
    as long as this one alarms with probability `level` when nothing has changed. Raises ValueError with fewer than two
    reference values or none that differ.
    """
    mean, deviation = float(np.mean(reference)), float(np.std(reference))
    if len(reference) < 2 or deviation <= 0:
        raise ValueError(f"{len(reference)} reference results of deviation {deviation:g}: nothing a change could be seen against")
    low, high = mean - tails * deviation, mean + tails * deviation
    adwin = Adwin(delta, width=high - low)
    for value in np.clip(reference, low, high).tolist():
        adwin.update(value)
    limit = page_hinkley_limit(reference, max(1, len(stream)), slack * deviation, level, block=block, seed=seed)
    tester = PageHinkley(mean, slack * deviation, limit)
    falls: list[int] = []
    rises: list[int] = []
    alarms: list[int] = []
    height = np.zeros(len(stream))
    for i, value in enumerate(np.asarray(stream, np.float64).tolist()):
        moved = adwin.update(min(max(value, low), high))
        (falls if moved < 0 else rises if moved > 0 else []).append(i)
        if tester.update(value):
            alarms.append(i)
        height[i] = tester.height
    return Changes(tuple(falls), tuple(rises), tuple(alarms), height, limit, adwin.mean)


def largest(names: Sequence[str], values: Floats, shown: int) -> list[tuple[str, float]]:
    """The `shown` largest finite values with their names, largest first."""
    order = [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable") if math.isfinite(values[i])]
    return [(names[i], float(values[i])) for i in order[:shown]]
