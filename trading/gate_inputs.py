"""What the optional gates are measured on: arrays over the bars of the primary timeframe, and the values of one bar.

Live reads the anchored windows of one bar and takes the last row; a backtest goes through the history block by block over
the same windows (trading/windows.py), so that both measure the same to the bit. Prices are brought to the level of the bar
that is judged: splits and spin-offs known at its close divide earlier prices, later ones do not.

What cannot be measured is NaN here and None in a snapshot, which the gate refuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading import conditions, sizing_inputs, windows
from trading.bars import Bars
from trading.calendars import Calendar
from trading.conditions import Condition, Confluence
from trading.corporate_actions import MOVES_PRICE, ActionKind, CorporateAction, UnknownFactor
from trading.frame import Frame
from trading.gates.settings import OptionalGates, VolumeMin
from trading.instruments import Instrument
from trading.price_levels import on_level, weeks_on_level
from trading.price_units import Finer
from trading.quotes import QuoteBars
from trading.regime import Regime, markov_regimes, rule_regimes
from trading.timeframes import US_PER_MINUTE, Timeframe

Floats = NDArray[np.float64]
SeriesKey = Timeframe | tuple[str, Timeframe]
Actions = Mapping[str, Sequence[CorporateAction]]

_SLACK: Final = 1.02
"""Sessions cut short hold fewer bars than the calendar's full ones: windows are asked for a little longer."""


@dataclass(frozen=True, slots=True)
class Reads:
    """Series the gates of a strategy are measured on. warm_up: bars of each timeframe of the instrument itself; context: of
    other instruments, by (symbol, timeframe); quotes: its quote bars, too."""

    primary: Timeframe
    warm_up: dict[Timeframe, int]
    context: dict[tuple[str, Timeframe], int] = field(default_factory=dict)
    quotes: bool = False

    def starts(self, session: int, venue: Calendar) -> dict[SeriesKey, int]:
        """First session to read of every series, for a bar of `session`."""
        own: dict[SeriesKey, int] = {t: start for t, start in windows.window_starts(session, self.warm_up, venue).items()}
        for (symbol, timeframe), bars in self.context.items():
            own[symbol, timeframe] = windows.window_start(session, timeframe, bars, venue)
        return own


def reads_of(gates: OptionalGates, sizing: Mapping[str, Any], primary: Timeframe) -> Reads | None:
    """What `gates` and an adaptive sizing rule need, None when they need no bars."""
    needs: dict[Timeframe, int] = {}
    context: dict[tuple[str, Timeframe], int] = {}
    if gates.regime is not None:
        rule = gates.regime
        bars = rule.rules.warm_up if rule.by != "markov" else 0
        bars = max(bars, rule.train + rule.refit + rule.window if rule.by != "rules" else 0)
        conditions.merge_warm_up(needs, {rule.bars or primary: math.ceil(bars * _SLACK)})
    if gates.confluence is not None:
        for part in (*gates.confluence.long, *gates.confluence.short):
            conditions.merge_warm_up(needs, conditions.warm_up(part.when, primary))
            for key, bars in conditions.context(part.when, primary).items():
                context[key] = max(context.get(key, 0), bars)
    rules = gates.volatility
    if rules is not None:
        if rules.atr is not None:
            conditions.merge_warm_up(needs, {rules.atr.bars or primary: rules.atr.period + 1})
        if rules.volume is not None:
            conditions.merge_warm_up(needs, {primary: rules.volume.period + 1})
        if rules.vix is not None:
            key = rules.vix.instrument, rules.vix.bars
            context[key] = max(context.get(key, 0), 1)
    bars = sizing_inputs.bars_needed(sizing)
    if bars:
        conditions.merge_warm_up(needs, {primary: bars})
    quotes = rules is not None and rules.spread is not None
    if not needs and not context and not quotes:
        return None
    return Reads(primary, conditions.merge_warm_up(needs, {primary: 1}), context, quotes)


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """Measured values by name, float64 (T,) over primary bars, NaN where not known. labels of regimes as in Regime."""

    columns: Mapping[str, Floats]

    def at(self, row: int, side: int) -> dict[str, Any]:
        """The values of one bar for an entry on `side` (+1, -1), as plain data by gate: what a snapshot carries."""
        found: dict[str, Any] = {}
        word = "long" if side > 0 else "short"
        for name, column in self.columns.items():
            gate, _, what = name.partition("/")
            value = float(column[row])
            if gate == "regime":
                known = math.isfinite(value) and Regime(int(value)) is not Regime.UNKNOWN
                found.setdefault(gate, {})[what] = str(Regime(int(value))) if known else None
            elif gate == "confluence":
                its, _, part = what.partition("/")
                if its != word:
                    continue
                entry = found.setdefault(gate, {"score": None, "parts": {}})
                if part:
                    entry["parts"][part] = value if math.isfinite(value) else None
                else:
                    entry["score"] = value if math.isfinite(value) else None
            else:
                found.setdefault(gate, {})[what] = value if math.isfinite(value) else None
        return found


def measure(
    gates: OptionalGates, sizing: Mapping[str, Any], bars: Mapping[Any, Bars], primary: Timeframe, instrument: Instrument,
    venue: Calendar, quotes: QuoteBars | None = None, first: int = 0,
) -> Measures:  # fmt: skip
    """Everything the gates need over the rows of ``bars[primary]``; rows before `first` may stay unknown. A series that is not
    given is unknown."""
    own = bars[primary]
    frame = Frame(bars, primary)
    columns: dict[str, Floats] = {}
    if gates.regime is not None:
        for name, labels in _regimes(gates, bars, primary, first, frame).items():
            columns[f"regime/{name}"] = labels
    if gates.confluence is not None:
        for side in ("long", "short"):
            parts = getattr(gates.confluence, side)
            if not parts:
                continue
            score, shares = _score(gates.confluence.at_least, parts, frame)
            columns[f"confluence/{side}"] = score
            columns |= {f"confluence/{side}/{name}": share for name, share in shares.items()}
    if gates.volatility is not None:
        columns |= {f"volatility/{k}": v for k, v in _volatility(gates, bars, frame, instrument, quotes).items()}
    columns |= {f"sizing/{k}": v for k, v in sizing_inputs.columns(sizing, own, instrument, venue).items()}
    return Measures(columns)


def _regimes(gates: OptionalGates, bars: Mapping[Any, Bars], primary: Timeframe, first: int, frame: Frame) -> dict[str, Floats]:
    rule = gates.regime
    assert rule is not None
    timeframe = rule.bars or primary
    missing = np.full(len(frame), np.nan)
    if timeframe not in bars:
        return {name: missing for name in ("rules", "markov") if rule.by in (name, "both")}
    series = bars[timeframe]
    from_row = first
    if timeframe is not primary and len(frame):
        from_row = max(int(frame.align(timeframe)[min(first, len(frame) - 1)]), 0)
    found: dict[str, Floats] = {}
    if rule.by in ("rules", "both"):
        found["rules"] = frame.on_primary(rule_regimes(series, rule.rules).astype(np.float64), timeframe)
    if rule.by in ("markov", "both"):
        labels = markov_regimes(
            series, window=rule.window, train=rule.train, refit=rule.refit, certain=rule.certain, first=from_row
        )
        found["markov"] = frame.on_primary(labels.astype(np.float64), timeframe)
    return found


def _score(at_least: float, parts: Sequence[Any], frame: Frame) -> tuple[Floats, dict[str, Floats]]:
    """(score, share of each part); one part alone counts whole. Unknown where a part's series is not given."""
    nothing = np.full(len(frame), np.nan)
    whole = Confluence.model_construct(at_least=at_least, parts=list(parts))  # a gate may have one part alone
    try:
        found = conditions.scores(Condition.model_construct(confluence=whole), frame)
    except KeyError:
        found = None
    return found if found is not None else (nothing, {p.name: nothing for p in parts})


def _volatility(
    gates: OptionalGates, bars: Mapping[Any, Bars], frame: Frame, instrument: Instrument, quotes: QuoteBars | None
) -> dict[str, Floats]:
    rules = gates.volatility
    assert rules is not None
    own = bars[frame.primary]
    missing = np.full(len(own), np.nan)
    found: dict[str, Floats] = {}
    if rules.atr is not None:
        timeframe = rules.atr.bars or frame.primary
        if timeframe in bars:
            series = bars[timeframe]
            with np.errstate(divide="ignore", invalid="ignore"):
                percent = sizing_inputs.average_range(series, rules.atr.period) / np.abs(series.close) * 100.0
            found["atr_percent"] = frame.on_primary(percent, timeframe)
        else:
            found["atr_percent"] = missing
    if rules.spread is not None:
        spread, percent = _spreads(own, quotes, rules.spread.stale_minutes)
        found["spread_percent"], found["spread_ticks"] = percent, spread / float(instrument.tick_size)
    if rules.vix is not None:
        try:
            level = frame.price("close", rules.vix.bars, 0, rules.vix.instrument)
            found["vix"] = np.where(level > 0, level, np.nan)
        except KeyError:
            found["vix"] = missing
    if rules.volume is not None:
        found |= _volumes(own, rules.volume, instrument)
    return found


def _spreads(own: Bars, quotes: QuoteBars | None, stale_minutes: float) -> tuple[Floats, Floats]:
    """(spread in price, percent of the mid) at each bar's close from the newest quote bar by then; crossed quotes are none."""
    nothing = np.full(len(own), np.nan)
    if quotes is None or not len(quotes):
        return nothing, nothing
    at = np.searchsorted(quotes.close_time, own.close_time, side="right") - 1
    known = at >= 0
    at = np.maximum(at, 0)
    known &= own.close_time - quotes.close_time[at] <= int(stale_minutes * US_PER_MINUTE)
    spread, mid = quotes.spread[at], quotes.mid[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        known &= (spread >= 0) & (mid > 0)
        return np.where(known, spread, np.nan), np.where(known, spread / mid * 100.0, np.nan)


@njit(cache=True)
def _means(values, period, out_before, out_last):  # type: ignore[no-untyped-def]
    """Means of the `period` values before each one, and of the last `period` with it, summed anew at every row."""
    for t in range(len(values)):
        if t >= period:
            total = 0.0
            for k in range(t - period, t):
                total += values[k]
            out_before[t] = total / period
        if t >= period - 1:
            total = 0.0
            for k in range(t - period + 1, t + 1):
                total += values[k]
            out_last[t] = total / period


def _volumes(own: Bars, rule: VolumeMin, instrument: Instrument) -> dict[str, Floats]:
    nothing = np.full(len(own), np.nan)
    if not instrument.has_volume:
        return {"volume_ratio": nothing, "traded_value": nothing}
    before, _, unused, value = (np.full(len(own), np.nan) for _ in range(4))
    _means(np.ascontiguousarray(own.volume, np.float64), rule.period, before, unused)
    traded = np.ascontiguousarray(own.volume * own.close * float(instrument.multiplier))
    _means(traded, rule.period, np.full(len(own), np.nan), value)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(before > 0, own.volume / before, np.nan)
    return {"volume_ratio": ratio, "traded_value": value}


# -- one bar, and whole histories ------------------------------------------------------------------------------------------


def measure_last(
    gates: OptionalGates, sizing: Mapping[str, Any], bars: Mapping[Any, Bars], primary: Timeframe, instrument: Instrument,
    venue: Calendar, quotes: QuoteBars | None = None, actions: Actions | None = None, finer: Finer | None = None,
) -> Measures:  # fmt: skip
    """Measures of the last bar of ``bars[primary]``, whose windows begin where `Reads.starts` says: row -1 is what counts.

    actions: by symbol; an action without a factor leaves everything of its series unknown. finer: what weekly bars across an
    action are made of, where `bars` do not hold it; what cannot be made again is unknown.
    """
    own = bars[primary]
    level = _on_level(bars, actions or {}, int(own.close_time[-1]), int(own.session[-1]), finer)
    if primary not in level:
        return _unknown(gates, sizing, 1)
    return measure(gates, sizing, level, primary, instrument, venue, quotes, len(own) - 1)


def measure_history(
    gates: OptionalGates, sizing: Mapping[str, Any], bars: Mapping[Any, Bars], primary: Timeframe, instrument: Instrument,
    venue: Calendar, quotes: QuoteBars | None = None, actions: Actions | None = None, finer: Finer | None = None,
) -> Measures:  # fmt: skip
    """Measures of every primary bar, each row as `measure_last` over the window a live evaluation of it would read."""
    own = bars[primary]
    reads = reads_of(gates, sizing, primary)
    if reads is None or not len(own):
        return Measures({})
    missing = [t for t in reads.warm_up if t not in bars]
    if missing:
        return _unknown(gates, sizing, len(own))
    pieces: list[Mapping[str, Floats]] = []
    lengths: list[int] = []
    series = {t: bars[t] for t in reads.warm_up}
    for window, offset, lo, hi in windows.slices(series, primary, reads.warm_up, venue):
        given: dict[Any, Bars] = dict(window)
        starts = reads.starts(int(own.session[lo]), venue)
        for key in reads.context:
            if key in bars:
                given[key] = _between(bars[key], starts[key], int(own.close_time[hi - 1]))
        for a, b in _segments(own, lo, hi, given, actions or {}):
            as_of = int(own.close_time[b - 1])
            seen = {k: v.known_at(as_of) for k, v in given.items()}
            level = _on_level(seen, actions or {}, as_of, int(own.session[b - 1]), finer)
            if primary in level:
                got = measure(gates, sizing, level, primary, instrument, venue, quotes, a - offset).columns
                pieces.append({name: column[a - offset : b - offset] for name, column in got.items()})
            else:
                pieces.append(_unknown(gates, sizing, b - a).columns)
            lengths.append(b - a)
    names = dict.fromkeys(name for piece in pieces for name in piece)
    return Measures(
        {name: np.concatenate([p.get(name, np.full(n, np.nan)) for p, n in zip(pieces, lengths, strict=True)]) for name in names}
    )


def _between(bars: Bars, start: int, until: int) -> Bars:
    first = int(np.searchsorted(bars.session, start, side="left"))
    last = int(np.searchsorted(bars.close_time, until, side="right"))
    return bars.rows(slice(first, max(first, last)))


def _segments(own: Bars, lo: int, hi: int, given: Mapping[Any, Bars], actions: Actions) -> Iterator[tuple[int, int]]:
    """Rows lo..hi cut where an action of a series that is read begins to count, or becomes known."""
    cuts = {lo, hi}
    for symbol in {b.symbol for b in given.values()}:
        for action in actions.get(symbol, ()):
            if action.kind in MOVES_PRICE and action.kind is not ActionKind.DIVIDEND:
                cuts.add(int(np.searchsorted(own.session, action.ex_session, side="left")))
                cuts.add(int(np.searchsorted(own.close_time, action.known_time, side="left")))
    inside = sorted(c for c in cuts if lo <= c <= hi)
    return pairwise(inside)


def _on_level(
    bars: Mapping[Any, Bars], actions: Actions, as_of: int, session: int, finer: Finer | None = None
) -> dict[Any, Bars]:
    """`bars` on the price level of the bar of `session` that closes at `as_of`; a series with an action of unknown factor is
    left out, and so are weeks with a split inside that cannot be made again of shorter bars."""
    level: dict[Any, Bars] = {}
    for key, one in bars.items():
        its = actions.get(one.symbol, ())
        try:
            if one.timeframe is Timeframe.W1:
                level[key] = weeks_on_level(one, its, as_of, session, tuple(bars.values()), finer)
            else:
                level[key] = on_level(one, its, as_of, session)
        except UnknownFactor:
            continue
    return level


def _unknown(gates: OptionalGates, sizing: Mapping[str, Any], rows: int) -> Measures:
    names = []
    if gates.regime is not None:
        names += [f"regime/{n}" for n in ("rules", "markov") if gates.regime.by in (n, "both")]
    if gates.confluence is not None:
        names += [f"confluence/{side}" for side in ("long", "short") if getattr(gates.confluence, side)]
    if gates.volatility is not None:
        names += ["volatility/atr_percent", "volatility/spread_percent", "volatility/spread_ticks", "volatility/vix"]
        names += ["volatility/volume_ratio", "volatility/traded_value"]
    names += [f"sizing/{name}" for name in sizing_inputs.names(sizing)]
    return Measures({name: np.full(rows, np.nan) for name in names})
