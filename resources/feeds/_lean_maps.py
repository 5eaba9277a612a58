"""LEAN's map and factor files: which tickers a share has had, and what splits and dividends did to its price.

map: ``date,ticker[,exchange]``, the last date of each ticker, the first row the share's first date; 20501231: still listed.
factor: ``date,price factor,split factor,close``: they hold for bars up to that date; a change from one row to the next is
an action on the following session. The files do not tell a spin-off from a dividend; a price factor that changes on the
day of a symbol change is one, nothing else is guessed to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from resources.feeds.protocol import MalformedData
from trading.calendars import Calendar
from trading.corporate_actions import ActionKind, CorporateAction, Identity, TickerSpan
from trading.timeframes import session_date, session_number

_OPEN_END = session_number(date(2050, 12, 31))
_SNAP = 3e-4
"""Split factors are cumulated and printed with few digits: a ratio this close to one of small whole numbers is that one."""


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedData(f"{path}: cannot be read ({error})") from error
    return [(i, line.split(",")) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _day(path: Path, line: int, text: str) -> date:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError as error:
        raise MalformedData(f"{path} line {line}: date {text!r}, expected YYYYMMDD") from error


@lru_cache(maxsize=512)
def _identity(path: Path, changed: int) -> Identity:
    rows = []
    for line, cells in _lines(path):
        if len(cells) < 2 or not cells[1].strip():
            raise MalformedData(f"{path} line {line}: {','.join(cells)!r}, expected date,ticker")
        rows.append((session_number(_day(path, line, cells[0])), cells[1].strip().lower()))
    if not rows:
        raise MalformedData(f"{path}: empty, expected lines of date,ticker")
    spans: list[TickerSpan] = []
    first = rows[0][0]
    for last, ticker in rows if len(rows) == 1 else rows[1:]:
        if spans and last <= spans[-1].last:
            raise MalformedData(f"{path}: dates do not ascend at {session_date(last)}")
        if spans and spans[-1].ticker == ticker:
            spans[-1] = TickerSpan(ticker, spans[-1].first, last)
        else:
            spans.append(TickerSpan(ticker, spans[-1].last + 1 if spans else first, last))
    return Identity(path.stem, tuple(spans))


def identity(folder: Path, market: str, ticker: str) -> Identity | None:
    """What the map files say about `ticker`, None when they do not know it. Raises MalformedData.

    A ticker without a map file of its own that other companies' files name is those companies' then: what is left is its own.
    """
    maps = folder / "equity" / market / "map_files"
    path = maps / f"{ticker}.csv"
    if path.is_file():
        return _identity(path, path.stat().st_mtime_ns)
    if not maps.is_dir():
        return None
    taken = _claims(maps, maps.stat().st_mtime_ns).get(ticker, ())
    return Identity(ticker, _rest(ticker, taken)) if taken else None


def claimed_by(folder: Path, market: str, ticker: str, session: int) -> str:
    """The map file that says `ticker` was its share's in `session`, "" when none does."""
    maps = folder / "equity" / market / "map_files"
    if not maps.is_dir():
        return ""
    claims = _claims(maps, maps.stat().st_mtime_ns).get(ticker, ())
    return next((owner for owner, span in claims if span.first <= session <= span.last), "")


@lru_cache(maxsize=8)
def _claims(maps: Path, changed: int) -> dict[str, tuple[tuple[str, TickerSpan], ...]]:
    """(map file, span) by ticker."""
    found: dict[str, list[tuple[str, TickerSpan]]] = {}
    for path in sorted(maps.glob("*.csv")):
        one = _identity(path, path.stat().st_mtime_ns)
        for span in one.spans:
            found.setdefault(span.ticker, []).append((one.symbol, span))
    return {ticker: tuple(spans) for ticker, spans in found.items()}


def _rest(ticker: str, taken: Iterable[tuple[str, TickerSpan]]) -> tuple[TickerSpan, ...]:
    """The time that `taken` leaves, as spans of `ticker`."""
    free: list[TickerSpan] = []
    at = 0
    for _, span in sorted(taken, key=lambda x: x[1].first):
        if span.first > at:
            free.append(TickerSpan(ticker, at, span.first - 1))
        at = max(at, span.last + 1)
    if at <= _OPEN_END:
        free.append(TickerSpan(ticker, at, _OPEN_END))
    return tuple(free) or (TickerSpan(ticker, 0, -1),)


def mapped_symbols(folder: Path, market: str) -> dict[str, tuple[str, ...]]:
    """Tickers each map file of the market names, by the file's name."""
    maps = folder / "equity" / market / "map_files"
    if not maps.is_dir():
        return {}
    owners: dict[str, list[str]] = {}
    for ticker, claims in _claims(maps, maps.stat().st_mtime_ns).items():
        for owner, _ in claims:
            owners.setdefault(owner, []).append(ticker)
    return {owner: tuple(tickers) for owner, tickers in owners.items()}


def actions(folder: Path, market: str, ticker: str, symbol: str, venue: Calendar) -> list[CorporateAction]:
    """Actions of `symbol`, ascending by ex session, from the factor and map files of `ticker`. Raises MalformedData.

    known_time is the ex session's open: the files do not say when an action was announced.
    """
    found: list[CorporateAction] = []
    changes: dict[int, str] = {}
    known = identity(folder, market, ticker)
    map_file = folder / "equity" / market / "map_files" / f"{ticker}.csv"
    if known is not None and map_file.is_file():
        for old, new in pairwise(known.spans):
            ex = next_session(venue, new.first - 1)
            changes[ex] = old.ticker
            found.append(_action(symbol, ActionKind.SYMBOL_CHANGE, ex, venue, other_symbol=old.ticker.upper(), source=map_file))
        if known.last < _OPEN_END:
            found.append(_action(symbol, ActionKind.DELISTING, next_session(venue, known.last), venue, source=map_file))
    path = folder / "equity" / market / "factor_files" / f"{ticker}.csv"
    if path.is_file():
        found += _from_factors(path, symbol, venue, changes)
    return sorted(found, key=lambda a: (a.ex_session, str(a.kind)))


def _from_factors(path: Path, symbol: str, venue: Calendar, changes: dict[int, str]) -> list[CorporateAction]:
    rows: list[tuple[int, float, float, float]] = []
    for line, cells in _lines(path):
        try:
            price, split, close = float(cells[1]), float(cells[2]), float(cells[3]) if len(cells) > 3 else math.nan
        except (ValueError, IndexError) as error:
            raise MalformedData(
                f"{path} line {line}: {','.join(cells)!r}, expected date,price factor,split factor,close"
            ) from error
        if not (price > 0 and split > 0 and math.isfinite(price) and math.isfinite(split)):
            raise MalformedData(f"{path} line {line}: factors {price} and {split}, expected positive numbers")
        rows.append((session_number(_day(path, line, cells[0])), price, split, close))
    found = []
    for (day, price, split, close), (_, next_price, next_split, _) in pairwise(rows):
        ex = next_session(venue, day)
        if split != next_split:
            factor = snapped(next_split / split)
            found.append(_action(symbol, ActionKind.SPLIT, ex, venue, factor=factor, source=path))
        if price != next_price:
            factor = next_price / price
            kind = ActionKind.SPIN_OFF if ex in changes and split == next_split else ActionKind.DIVIDEND
            amount = close * (1 - 1 / factor) if math.isfinite(close) and factor > 1 else 0.0
            found.append(_action(symbol, kind, ex, venue, factor=factor, amount=round(amount, 6), source=path))
    return found


def snapped(ratio: float) -> float:
    """`ratio`, or the ratio of small whole numbers its printed digits mean: 0.25 / 0.03571430 is 7."""
    larger = ratio if ratio >= 1 else 1 / ratio
    near = Fraction(larger).limit_denominator(20)
    if near == 1 or abs(float(near) / larger - 1) > _SNAP:
        return ratio
    return float(near if ratio >= 1 else 1 / near)


def next_session(venue: Calendar, number: int) -> int:
    """The first session after `number`; the day after it where the calendar ends."""
    row = int(np.searchsorted(venue.number, number, side="right"))
    return int(venue.number[row]) if row < len(venue.number) else number + 1


def _action(
    symbol: str,
    kind: ActionKind,
    ex: int,
    venue: Calendar,
    *,
    source: Path,
    factor: float = 1.0,
    amount: float = 0.0,
    other_symbol: str = "",
) -> CorporateAction:
    try:
        known = venue.bounds(ex)[0]
    except KeyError:
        known = ex * 86_400_000_000
    name = "/".join(source.parts[-4:])
    return CorporateAction(symbol, kind, ex, known, factor, amount, other_symbol, f"lean:{name}")
