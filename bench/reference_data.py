"""What the data benchmarks are measured against, written by hand, and the bars they run on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE, Timeframe


def stock(symbol: str, timeframe: Timeframe = Timeframe.M1) -> Instrument:
    """A US stock with a tick of one cent."""
    return Instrument(symbol, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "bench", symbol, timeframe)


def walk(symbol: str, start: date, end: date, seed: int, rows: int | None = None) -> Bars:
    """Every minute of the sessions (the first `rows` of them): a random walk on the cent grid, volumes in round lots.

    Steps and volumes are as large as those of liquid US stocks, so that they compress no better.
    """
    cal = calendar("XNYS")
    places = [cal.position(d) for d in cal.sessions(start, end)]
    times = np.concatenate([np.arange(cal.open_time[p] + US_PER_MINUTE, cal.close_time[p] + 1, US_PER_MINUTE) for p in places])
    session = cal.session_of(times)
    times, session = times[:rows], session[:rows]
    rng = np.random.default_rng(seed)
    n = len(times)
    close = 20_000 + np.cumsum(rng.integers(-8, 9, n))
    open_ = np.concatenate([[20_000], close[:-1]]) + rng.integers(-1, 2, n)
    high = np.maximum(open_, close) + rng.integers(0, 8, n)
    low = np.minimum(open_, close) - rng.integers(0, 8, n)
    volume = np.rint(rng.lognormal(4.5, 1.0, n)) * 100
    return Bars(symbol, Timeframe.M1, times, session, open_ / 100, high / 100, low / 100, close / 100, volume)


def megabytes(bars: Iterable[Bars]) -> float:
    """What the bars take in memory."""
    columns = ("close_time", "session", "open", "high", "low", "close", "volume")
    return sum(getattr(b, name).nbytes for b in bars for name in columns) / 2**20


@njit(cache=True)
def _resample(  # type: ignore[no-untyped-def]
    close_time, session, open_, high, low, close, volume, number, opens, closes, width, out_time, out_session, out
):  # fmt: skip
    made = -1
    end = np.int64(-1)
    for i in range(len(close_time)):
        t = close_time[i]
        if t > end:
            p = np.searchsorted(number, session[i])
            end = closes[p]
            if width > 0:
                end = min(end, opens[p] + ((t - opens[p] - 1) // width + 1) * width)
            made += 1
            out_time[made] = end
            out_session[made] = session[i]
            out[0, made] = open_[i]
            out[1, made] = high[i]
            out[2, made] = low[i]
            out[4, made] = 0.0
        if high[i] > out[1, made]:
            out[1, made] = high[i]
        if low[i] < out[2, made]:
            out[2, made] = low[i]
        out[3, made] = close[i]
        out[4, made] += volume[i]
    return made + 1


def resample_by_hand(bars: Bars, timeframe: Timeframe) -> Bars:
    """One fused loop, nothing checked, for bars up to 1d whose last one is complete."""
    cal = calendar("XNYS")
    n = len(bars)
    # The longest possible output is allocated: a hand-written loop does not count first.
    size = n // 2 + 16
    times, sessions, out = np.empty(size, np.int64), np.empty(size, np.int32), np.empty((5, size))
    width = timeframe.minutes * US_PER_MINUTE if timeframe.intraday else 0
    made = _resample(
        bars.close_time, bars.session, bars.open, bars.high, bars.low, bars.close, bars.volume,
        cal.number, cal.open_time, cal.close_time, width, times, sessions, out,
    )  # fmt: skip
    return Bars(bars.symbol, timeframe, times[:made], sessions[:made], *(row[:made].copy() for row in out))


def write_plain_parquet(path: Path, bars: dict[str, Bars]) -> None:
    """The same rows as anybody would write them: one file, float64 columns, pyarrow's defaults."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(b, name) for b in bars.values()])

    index = np.repeat(np.arange(len(bars), dtype=np.int32), [len(b) for b in bars.values()])
    symbol = pa.DictionaryArray.from_arrays(pa.array(index), pa.array(list(bars))).cast(pa.string())
    names = ("close_time", "session", "open", "high", "low", "close", "volume")
    pq.write_table(pa.table({"symbol": symbol, **{n: joined(n) for n in names}}), path, row_group_size=131_072)


def read_plain_parquet(path: Path, symbol: str, session: int | None, last: int | None = None) -> Any:
    """A symbol's rows, or those of one session, or up to session `last`, by pyarrow's own filters."""
    import pyarrow.parquet as pq

    filters: list[tuple[str, str, Any]] = [("symbol", "=", symbol)]
    filters += [("session", "=", session)] if session is not None else []
    filters += [("session", "<=", last)] if last is not None else []
    return pq.read_table(path, filters=filters)
