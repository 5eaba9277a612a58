"""Checks of ``gates:`` and adaptive sizing against what exists: instruments, quotes, volume, timeframes, the news calendar.

What is certain to refuse every signal is an error; what a backtest cannot know as the desk does is a warning, so that nobody
takes a research figure for the desk's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trading.config_text import Path, Problem, YamlDocument, nearest
from trading.gates.settings import OptionalGates, gates_of
from trading.instruments import Instrument
from trading.news import NewsCalendar
from trading.timeframes import Timeframe, iso
from trading.universe import Universe


def check_gates(
    document: YamlDocument, gates: OptionalGates, symbols: Iterable[str], primary: Timeframe, universe: Universe
) -> list[Problem]:
    """Problems of the optional gates of one file. symbols: what it trades, those the universe has."""
    traded = [universe.instruments[s] for s in symbols if s in universe.instruments]
    found = [*_volatility(document, gates, traded, universe), *_regime(document, gates, traded)]
    return [*found, *_confluence(document, gates)]


def _volatility(
    document: YamlDocument, gates: OptionalGates, traded: Sequence[Instrument], universe: Universe
) -> Iterator[Problem]:
    rules = gates.volatility
    if rules is None:
        return
    at: Path = ("gates", "volatility")
    if rules.spread is not None:
        silent = [i.symbol for i in traded if not i.quotes]
        if silent:
            said = f"the universe keeps no quotes of {', '.join(silent)}: every signal on it would be refused"
            yield document.problem((*at, "spread"), said, "quotes: true on the instrument, or no spread")
        else:
            said = "a backtest knows the spread only where the lake holds quotes_1m, and refuses elsewhere"
            yield document.warning((*at, "spread"), said, "quotes for the whole history that is tested")
    if rules.volume is not None:
        silent = [i.symbol for i in traded if not i.has_volume]
        if silent:
            said = f"{', '.join(silent)} has no volume: every signal on it would be refused"
            yield document.problem((*at, "volume"), said, "an instrument with volume, or no volume")
    if rules.vix is not None:
        name = rules.vix.instrument
        index = universe.instruments.get(name)
        if index is None:
            valid = list(universe.instruments)
            said = f"no instrument {name!r} in universe {universe.name}"
            yield document.problem((*at, "vix", "instrument"), said, "one of " + ", ".join(valid), nearest(name, valid))
        elif rules.vix.bars.minutes < index.native_timeframe.minutes:
            said = f"{name} has bars of {index.native_timeframe} and longer, not {rules.vix.bars}"
            yield document.problem((*at, "vix", "bars"), said, f"bars: {index.native_timeframe}")
    if rules.atr is not None and rules.atr.bars is not None:
        yield from _native(document, (*at, "atr", "bars"), rules.atr.bars, traded)


def _regime(document: YamlDocument, gates: OptionalGates, traded: Sequence[Instrument]) -> Iterator[Problem]:
    rule = gates.regime
    if rule is None:
        return
    if rule.bars is not None:
        yield from _native(document, ("gates", "regime", "bars"), rule.bars, traded)
    if len(set(rule.allowed)) == 3:
        said = "allows every regime: only an unknown one is refused"
        yield document.warning(("gates", "regime", "allowed"), said, "one or two of ranging, trending, volatile")


def _native(document: YamlDocument, path: Path, wanted: Timeframe, traded: Sequence[Instrument]) -> Iterator[Problem]:
    for instrument in traded:
        if wanted.minutes < instrument.native_timeframe.minutes:
            said = f"{instrument.symbol} has bars of {instrument.native_timeframe} and longer, not {wanted}"
            yield document.problem(path, said, f"bars: {instrument.native_timeframe} or longer")


def _confluence(document: YamlDocument, gates: OptionalGates) -> Iterator[Problem]:
    rule = gates.confluence
    if rule is None or not isinstance(document.data, dict):
        return
    entry = document.data.get("entry")
    wanted = [side for side in ("long", "short") if isinstance(entry, dict) and entry.get(side) is not None]
    if document.data.get("direction") in ("long", "short"):
        wanted = [str(document.data["direction"])]
    for side in wanted:
        if not getattr(rule, side):
            said = f"has no parts for {side}: every {side} entry would be refused"
            yield document.problem(("gates", "confluence"), said, f"parts under {side}")


def check_news(document: YamlDocument, evaluable: Any, news: NewsCalendar | None, now: int | None = None) -> list[Problem]:
    """Warnings of a file whose news gate has no calendar, or one that ends before `now` (UTC us)."""
    if gates_of(evaluable).news is None:
        return []
    at: Path = ("gates", "news")
    if news is None:
        said = "there is no news calendar: every signal is refused"
        return [document.warning(at, said, "a file in data/config/news")]
    if now is not None and now >= news.known_until:
        said = f"the news calendar ends at {iso(news.known_until)}: every signal is refused"
        return [document.warning(at, said, "a later until: in data/config/news, with the events up to it")]
    return []
