"""Pictures of every price-action pattern on real bars, for docs/patterns.md.

``python -m resources.pattern_pictures`` draws them: EURUSD hours of 2017, as they ship with the sample data. Each shows an
occurrence up and one down, with the levels the pattern names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from resources.plots import BLUE, GAIN, INK, LOSS, MUTED, ORANGE, figure
from trading import indicators, patterns
from trading.bars import Bars
from trading.timeframes import Timeframe, iso

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "images" / "patterns"

# pattern -> (parameters, bars before, bars after, levels drawn at the signal: output -> how many bars back they begin)
_SHOWN: Final[dict[str, tuple[dict[str, float], int, int, Mapping[str, int]]]] = {
    "strat_candle": ({}, 8, 3, {}),
    "strat_212": ({}, 8, 4, {"trigger": 1, "stop": 1}),
    "strat_212_continuation": ({}, 8, 4, {"trigger": 1, "stop": 1}),
    "strat_212_reversal": ({}, 8, 4, {"trigger": 1, "stop": 1}),
    "strat_312": ({}, 8, 4, {"trigger": 1, "stop": 1}),
    "strat_22_reversal": ({}, 8, 4, {"trigger": 1, "stop": 1}),
    "strat_122": ({}, 8, 4, {"trigger": 1, "stop": 1}),
    "swing": ({"left": 3, "right": 3}, 22, 6, {"high": 0, "low": 0}),
    "break_of_structure": ({}, 26, 5, {"level": 22}),
    "change_of_character": ({}, 26, 5, {"level": 22}),
    "fair_value_gap": ({"minimum": 0.15}, 10, 10, {"upper": 1, "lower": 1}),
    "fair_value_gap_mitigated": ({"minimum": 0.15, "depth": 0.5}, 22, 5, {"upper": 20, "lower": 20}),
    "liquidity_sweep": ({"left": 5, "right": 5}, 30, 6, {"level": 28}),
    "displacement": ({"multiple": 3.0}, 18, 5, {}),
    "support_resistance": ({"swings": 12}, 50, 6, {"support": 48, "resistance": 48}),
    "volume_profile": ({"period": 60}, 60, 4, {"poc": 59, "value_high": 59, "value_low": 59}),
}
_SMALL: Final = frozenset({"support_resistance", "swing", "liquidity_sweep"})
"""Patterns that a large bar hides rather than shows."""

_OF_THE_BAR_BEFORE: Final = frozenset({"support_resistance", "volume_profile"})
"""Patterns whose signal refers to the levels as they were one bar before."""

_COLOURS: Final = {
    "level": ORANGE, "trigger": BLUE, "stop": LOSS, "upper": ORANGE, "lower": ORANGE, "high": LOSS, "low": GAIN, "support": GAIN,
    "resistance": LOSS, "poc": INK, "value_high": BLUE, "value_low": BLUE,
}  # fmt: skip


def candles(ax: Any, bars: Bars, first: int, last: int) -> None:
    """Bars [first, last] as candles at their row numbers."""
    for i in range(first, last + 1):
        rising = bars.close[i] >= bars.open[i]
        colour = GAIN if rising else LOSS
        ax.vlines(i, bars.low[i], bars.high[i], color=colour, linewidth=1)
        height = max(abs(bars.close[i] - bars.open[i]), (bars.high[i] - bars.low[i]) * 0.02)
        bottom = min(bars.open[i], bars.close[i])
        ax.bar(i, height, 0.6, bottom, color="white" if rising else colour, edgecolor=colour, linewidth=1, zorder=3)


def _occurrence(name: str, bars: Bars, side: int, params: Mapping[str, float], before: int, after: int) -> int:
    """The row shown: of those with room on both sides, the one in whose neighbourhood the pattern is clearest."""
    outputs = patterns.get(name).compute(bars, params)
    rows = np.flatnonzero(outputs[0] == side)
    rows = rows[(rows > max(before, 700)) & (rows < len(bars) - after - 1)]
    (ranges,) = indicators.get("atr").compute(bars, {"period": 50})
    size = np.abs(bars.close - bars.open)[rows] / ranges[rows]
    place = len(rows) // 2 if name in _SMALL else min(2, len(rows) - 1)
    return int(rows[np.argsort(-size)[place]])


def draw(name: str, bars: Bars) -> Any:
    """The figure of one pattern."""
    definition = patterns.get(name)
    params, before, after, levels = _SHOWN.get(name, ({}, 20, 5, {}))
    fig, axes = figure(9.5, 3.4, 1, 2)
    for ax, side in zip(axes, (1, -1), strict=True):
        at = _occurrence(name, bars, side, params, before, after)
        first, last = at - before, at + after
        candles(ax, bars, first, last)
        outputs = dict(zip(definition.outputs, definition.compute(bars, params), strict=True))
        for output, back in levels.items():
            value = outputs[output][at - 1 if name in _OF_THE_BAR_BEFORE else at]
            if np.isfinite(value):
                begin = max(at - back, first)
                if back == 0:
                    begin = max(at - int(outputs[f"{output}_age"][at]), first)
                ax.hlines(value, begin, at, color=_COLOURS.get(output, BLUE), linewidth=1.2, linestyle="--", zorder=2)
                ax.text(
                    begin - 0.3, value, output, color=_COLOURS.get(output, BLUE), fontsize=7.5, va="center", ha="right",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}, zorder=5,
                )  # fmt: skip
        if "upper" in levels:
            ax.fill_between([at - levels["upper"], at], outputs["lower"][at], outputs["upper"][at], color=ORANGE, alpha=0.15)
        if "type" in outputs or name.startswith("strat"):
            _types(ax, bars, at - 4, at, side)
        span = bars.high[first : last + 1].max() - bars.low[first : last + 1].min()
        tip = bars.low[at] - 0.03 * span if side > 0 else bars.high[at] + 0.03 * span
        ax.annotate(
            "signal", (at, tip), (at, tip - side * 0.16 * span), ha="center", va="top" if side > 0 else "bottom", fontsize=8,
            color=INK, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.2},
        )  # fmt: skip
        ax.margins(y=0.26)
        ax.set_xlim(first - 3.2, last + 0.8)
        ax.set_title(f"{name} {'up' if side > 0 else 'down'}", fontsize=9.5, color=INK, loc="left")
        ax.set_xticks([first, at], [iso(int(bars.close_time[i]))[5:16].replace("T", " ") for i in (first, at)])
        ax.tick_params(axis="x", colors=MUTED)
    return fig


def _types(ax: Any, bars: Bars, first: int, last: int, side: int) -> None:
    """The type of each bar, on the side where the arrow is not."""
    kinds = patterns.get("strat_candle").compute(bars)[1]
    names = {1.0: "1", 2.0: "2u", -2.0: "2d", 3.0: "3"}
    height = (bars.high[first : last + 1].max() - bars.low[first : last + 1].min()) * 0.04
    for i in range(first, last + 1):
        place = bars.high[i] + height if side > 0 else bars.low[i] - height
        ax.text(i, place, names[float(kinds[i])], ha="center", va="bottom" if side > 0 else "top", fontsize=8, color=BLUE)


def bars_shown() -> Bars:
    """EURUSD hours of 2017 from the sample feed."""
    from resources.config import load_config
    from resources.feeds import get_feed
    from resources.settings import settings

    own = settings()
    instrument = load_config(own.model_copy(update={"universe": "sample"})).universe.instruments["EURUSD"]
    return get_feed("sample_forex", own).history(instrument, Timeframe.H1, date(2017, 1, 2), date(2017, 12, 29))


def main(names: Sequence[str] = ()) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    bars = bars_shown()
    for name in names or sorted(patterns.patterns()):
        draw(name, bars).savefig(FOLDER / f"{name}.png", dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
