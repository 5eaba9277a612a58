"""Pictures of the execution functions for docs/execution-functions.md, drawn from the sample bars.

``python -m resources.function_pictures docs/images/functions`` writes them anew.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from trading import execution_functions
from trading.bars import Bars
from trading.calendars import calendar
from trading.execution_functions.base import Trigger
from trading.execution_functions.managing import StopMove, Trade, TradeExit, stop_path
from trading.execution_functions.scale_out import ScaleOut
from trading.frame import Frame
from trading.instruments import Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, from_us

SYMBOL, BEFORE, AFTER = "EURUSD", 45, 68
"""The last hours of 2017: the entry stands AFTER bars before the last one."""

SHOWN: dict[str, dict[str, Any]] = {
    "close_above": {"level": 1.19}, "close_below": {"level": 1.186},
    "closes_beyond": {"direction": "above", "level": 1.19, "count": 3}, "level": {"price": 1.19},
    "close_back_inside": {"upper": 1.1895, "lower": 1.186, "within": 5},
    "indicator_condition": {"condition": {"cross_above": ["close", {"indicator": "sma", "params": {"period": 20}}]}},
    "multi_timeframe": {
        "of": [
            {"timeframe": "4h", "condition": {">": ["close", {"indicator": "sma", "params": {"period": 20}}]}},
            {"timeframe": "1h", "condition": {"cross_above": ["close", {"indicator": "sma", "params": {"period": 20}}]}},
        ]
    },
    "break_even": {"after_r": 1.0}, "trailing_points": {"points": 0.003}, "trailing_percent": {"percent": 0.25},
    "trailing_atr": {"multiple": 3.0}, "trailing_structure": {"left": 3, "right": 3}, "chandelier": {"period": 22},
    "time_stop": {"bars": 30}, "session_end": {}, "stop_on_close": {"points": 0.002},
    "scale_out": {"share": 0.5, "when": {"kind": "close_above", "level": 1.193}},
}  # fmt: skip


def sample() -> tuple[Instrument, dict[Timeframe, Bars]]:
    """The sample instrument and its hours and 4-hours."""
    from resources.config import load_config
    from resources.feeds import get_feed
    from resources.settings import Settings

    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    instrument = load_config(settings).universe.instruments[SYMBOL]
    hours = get_feed("sample_forex", settings).history(instrument, Timeframe.H1, date(2017, 10, 1), date(2017, 12, 29))
    return instrument, {Timeframe.H1: hours, Timeframe.H4: resample(hours, Timeframe.H4, calendar(instrument.calendar))}


def draw(name: str, instrument: Instrument, bars: dict[Timeframe, Bars], path: Path) -> None:
    """One picture: candles, the function's levels or the closes where it holds, and the entry of its trade."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    function = execution_functions.get(name).model_validate({"kind": name, **SHOWN[name]})
    hours, frame = bars[Timeframe.H1], Frame(bars, Timeframe.H1)
    entry = len(hours) - AFTER
    price = float(hours.close[entry])
    trade = Trade(1, price, instrument.round_price(price - 0.003), int(hours.close_time[entry]), (price + 0.003,))
    rows = np.arange(max(0, entry - BEFORE), len(hours))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    up = hours.close[rows] >= hours.open[rows]
    colors = np.where(up, "#3a7d5c", "#b0493f")
    ax.vlines(rows, hours.low[rows], hours.high[rows], colors=list(colors), linewidth=0.8)
    ax.vlines(rows, hours.open[rows], hours.close[rows], colors=list(colors), linewidth=3.2)
    if isinstance(function, Trigger):
        held = np.asarray(function.holds(frame)[rows])
        label = "holds at this close"
    elif isinstance(function, StopMove):
        stop = stop_path([function], frame, trade, instrument)
        ax.step(rows[rows >= entry], stop[rows[rows >= entry]], where="post", color="#1f4e8c", linewidth=1.6, label="stop")
        held, label = np.zeros(len(rows), bool), ""
    elif isinstance(function, TradeExit):
        held, label = np.asarray(function.leaves(frame, trade, instrument)[rows]), "leaves after this close"
    else:
        assert isinstance(function, ScaleOut)
        held, label = np.asarray(function.due(frame, trade)[rows]), "part closed after the first of these"
    if not isinstance(function, Trigger):
        ax.plot([entry], [price], marker=">", color="#1f4e8c", markersize=9, linestyle="none", label="entry")
    if held.any():
        at = rows[held]
        ax.plot(at, hours.close[at], marker="o", markersize=5, color="#d98a00", linestyle="none", label=label)
    for key in ("level", "price", "upper", "lower"):
        level = getattr(function, key, None) or getattr(getattr(function, "when", None), key, None)
        if isinstance(level, float):
            ax.axhline(level, color="#777777", linewidth=0.9, linestyle="--")
    ticks = rows[:: max(1, len(rows) // 6)]
    ax.set_xticks(ticks, [f"{from_us(int(hours.close_time[i])):%d %b %H:%M}" for i in ticks], fontsize=7)
    ax.tick_params(axis="y", labelsize=7)
    ax.set_title(f"{function.label}, {instrument.symbol} 1h", fontsize=9)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, frameon=False, loc="upper left")
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def main(folder: str) -> int:
    """Write every picture; returns the exit status."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    instrument, bars = sample()
    for name in SHOWN:
        draw(name, instrument, bars, out / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "docs/images/functions"))
