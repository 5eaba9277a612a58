"""The feature set against TA-Lib called directly for the same indicators, over 100 symbols of 100,000 minutes and bar by bar.

indicators_30: thirty indicators of the registry against thirty direct calls. batch: the whole set over each history.
wide_rows: rows a second of the whole set as it is computed for the lake, each row from its anchored window; the reference
is direct calls over those very windows. anchored_1h_windows: the same for hourly bars; anchored_1h: against direct calls
over the whole history, which is less work (every row lies in two to three windows). last_bar_ms: the set over one window,
which is what one live bar costs. peak_memory: of the wide rows, one symbol at a time; reference: the bars in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import talib
from talib import MA_Type

from bench.core import Row, at_least, at_most, best_of_pair, forget_peak_memory, peak_memory_mb, rate, ratio_at_most, timed_pair
from bench.reference_data import megabytes, walk
from trading import features, indicators, windows
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.resample import resample
from trading.timeframes import Timeframe

PERIODS = {"sma": (10, 20, 50, 100, 200), "ema": (8, 12, 26, 50, 200), "rsi": (7, 14, 21), "atr": (7, 14, 21), "adx": (14, 28)}


def _thirty_ours(bars: Bars) -> None:
    for name, periods in PERIODS.items():
        for period in periods:
            indicators.get(name).compute(bars, {"period": period})
    indicators.get("macd").compute(bars, {"fast": 12, "slow": 26, "signal": 9})
    indicators.get("bollinger").compute(bars, {"period": 20, "deviations_up": 2.0, "deviations_down": 2.0})
    indicators.get("stochastic").compute(bars, {"fast_k": 14, "slow_k": 3, "slow_d": 3})
    indicators.get("obv").compute(bars)
    for name in features.CANDLE_FEATURES[:8]:
        indicators.get(f"candle_{name}").compute(bars)


_CANDLES = {
    "doji": talib.CDLDOJI,
    "engulfing": talib.CDLENGULFING,
    "hammer": talib.CDLHAMMER,
    "shootingstar": talib.CDLSHOOTINGSTAR,
    "morningstar": talib.CDLMORNINGSTAR,
    "eveningstar": talib.CDLEVENINGSTAR,
    "harami": talib.CDLHARAMI,
    "piercing": talib.CDLPIERCING,
    "darkcloudcover": talib.CDLDARKCLOUDCOVER,
    "3whitesoldiers": talib.CDL3WHITESOLDIERS,
}


def _thirty_direct(bars: Bars) -> None:
    o, h, low, c, v = bars.open, bars.high, bars.low, bars.close, bars.volume
    for period in PERIODS["sma"]:
        talib.SMA(c, period)
    for period in PERIODS["ema"]:
        talib.EMA(c, period)
    for period in PERIODS["rsi"]:
        talib.RSI(c, period)
    for period in PERIODS["atr"]:
        talib.ATR(h, low, c, period)
    for period in PERIODS["adx"]:
        talib.ADX(h, low, c, period)
    talib.MACD(c, 12, 26, 9)
    talib.BBANDS(c, 20, 2.0, 2.0)
    talib.STOCH(h, low, c, 14, 3, MA_Type.SMA, 3, MA_Type.SMA)
    talib.OBV(c, v)
    for name in features.CANDLE_FEATURES[:8]:
        _CANDLES[name](o, h, low, c)


def _direct(bars: Bars) -> np.ndarray:
    """The columns of trading.features by direct calls into one matrix, nothing checked."""
    o, h, low, c, v = bars.open, bars.high, bars.low, bars.close, bars.volume
    columns: list[np.ndarray] = [talib.SMA(c, n) for n in (10, 20, 50)] + [talib.EMA(c, n) for n in (12, 26)] + [talib.RSI(c, 14)]
    columns += talib.MACD(c, 12, 26, 9)
    upper, middle, lower = talib.BBANDS(c, 20, 2.0, 2.0)
    columns += [upper, middle, lower, (upper - lower) / middle, talib.ATR(h, low, c, 14)]
    columns += talib.STOCH(h, low, c, 14, 3, MA_Type.SMA, 3, MA_Type.SMA)
    obv = talib.OBV(c, v)
    change = np.full(len(c), np.nan)
    change[20:] = (obv[20:] - obv[:-20]) / talib.SUM(v, 20)[20:]
    columns += [talib.ADX(h, low, c, 14), obv, change]
    columns += [_CANDLES[name](o, h, low, c) for name in features.CANDLE_FEATURES]
    for n in (1, 5, 20):
        past = np.full(len(c), np.nan)
        past[n:] = c[n:] / c[:-n] - 1.0
        columns.append(past)
    volatility = np.full(len(c), np.nan)
    volatility[1:] = talib.STDDEV(np.diff(talib.LN(c)), 20)
    columns.append(volatility)
    out = np.empty((len(c), len(columns)))
    for i, column in enumerate(columns):
        out[:, i] = column
    return out


def run(quick: bool) -> Iterator[Row]:
    cal = calendar("XNYS")
    count, rows, times, more = (2, 5_000, 1, 1) if quick else (100, 100_000, 2, 7)
    bars = [walk(f"S{i:03d}", date(2017, 1, 1), date(2018, 6, 30), i, rows) for i in range(count)]
    for b in bars[:3]:
        ours, theirs = features.compute(b)[1], _direct(b)
        if ours.shape != theirs.shape or not np.array_equal(ours[-1000:], theirs[-1000:]):
            raise AssertionError("the feature set and the direct calls do not agree")
    total, wide = count * rows, len(features.NAMES)

    def each(call: Callable[[Bars], object]) -> Callable[[], None]:
        def over() -> None:
            for b in bars:
                call(b)

        return over

    mine, direct = timed_pair(each(_thirty_ours), each(_thirty_direct), times)
    yield rate("indicators_30", 30 * total / 1e6, "M values/s", mine, direct, ratio_at_most(1.25))
    mine, direct = timed_pair(each(features.compute), each(_direct), times)
    yield rate("batch", wide * total / 1e6, "M values/s", mine, direct, ratio_at_most(1))
    forget_peak_memory()
    mine, direct = timed_pair(
        each(lambda b: features.compute_anchored(b, cal)), each(lambda b: [_direct(part) for part in _windows(b, cal)]), times
    )
    yield rate("wide_rows", total / 1e6, "M rows/s", mine, direct, at_least(1))
    yield Row("peak_memory", peak_memory_mb(), "MB", megabytes(bars), goal=at_most(1000))
    hourly = resample(walk("X", date(2015, 1, 1), date(2017, 12, 31), 1, 2 * rows), Timeframe.H1, cal)
    whole = best_of_pair(lambda: features.compute_anchored(hourly, cal), lambda: _direct(hourly), more)
    yield Row("anchored_1h", whole[0] * 1e3, "ms", whole[1] * 1e3, whole[0] / whole[1])
    parts = _windows(hourly, cal)
    same = best_of_pair(lambda: features.compute_anchored(hourly, cal), lambda: [_direct(part) for part in parts], more)
    yield Row("anchored_1h_windows", same[0] * 1e3, "ms", same[1] * 1e3, same[0] / same[1], goal=ratio_at_most(1.25))
    window = hourly.rows(slice(max(0, len(hourly) - 1300), None))
    last = best_of_pair(lambda: features.compute(window), lambda: _direct(window), more)
    yield Row("last_bar_ms", last[0] * 1e3, "ms", last[1] * 1e3, last[0] / last[1], goal=at_most(2))


def _windows(bars: Bars, cal: Calendar) -> list[Bars]:
    """What the anchored computation has to look at: the windows of its blocks, those with one start joined."""
    spans: dict[int, int] = {}
    for start, _, hi in windows.blocks(bars.session, bars.timeframe, features.WARM_UP, cal):
        spans[start] = hi
    return [bars.rows(slice(start, hi)) for start, hi in spans.items()]
