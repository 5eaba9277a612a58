"""Strategies tried on the bars in the lake: rules that never changed there, and answers that look ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from resources.config import Config
from resources.lake import Lake
from trading.bars import Bars
from trading.config_text import Problem, load_yaml
from trading.conflicts import check_sample
from trading.evaluable import context_of
from trading.frame import BarWindow
from trading.plugins import PluginError, audit
from trading.strategy_base import Strategy

NEWEST: Final = 5_000
"""Bars of the primary timeframe looked at, the newest of the lake."""


def sample_problems(config: Config, lake: Lake, folder: Path) -> tuple[list[Problem], list[str]]:
    """(errors and warnings, why some strategies could not be tried). Bars: of each strategy's first symbol that has some."""
    paths = {f.name: f.path for f in config.files if f.kind in ("strategies", "plugins") and f.name and not f.problems}
    found: list[Problem] = []
    untried: list[str] = []
    for name, strategy in sorted(config.strategies.items()):
        path = paths.get(name)
        if path is None:
            continue
        window = _window(strategy, lake)
        if window is None:
            untried.append(f"{name}: the lake has no bars of {', '.join(strategy.symbols)}")
            continue
        instrument = config.universe.instruments[window[strategy.timeframe].symbol]
        try:
            leak = audit(strategy, window, instrument)
        except PluginError as error:
            leak = str(error)
        if leak:
            found.append(Problem(path, 1, "", f"{instrument.symbol}: {leak}", "answers that no later bar changes"))
        if path.endswith((".yaml", ".yml")):
            document = load_yaml((folder / path).read_text(encoding="utf-8"), path)
            found += check_sample(strategy, document, window)
    return found, untried


def _window(strategy: Strategy, lake: Lake) -> BarWindow | None:
    for symbol in strategy.symbols:
        primary = lake.read_bars(f"bars_{strategy.timeframe}", symbol)
        if not len(primary):
            continue
        primary = primary.rows(slice(-NEWEST, None))
        bars: dict[Any, Bars] = {t: lake.read_bars(f"bars_{t}", symbol) for t in strategy.timeframes}
        bars[strategy.timeframe] = primary
        for other, timeframe in context_of(strategy, symbol):
            bars[other, timeframe] = lake.read_bars(f"bars_{timeframe}", other)
        return BarWindow(bars)
    return None
