"""What a LEAN folder knows of a future's contracts day by day: volume, close, open interest, expiry; and its roll table.

Daily files come first; without them the minute files are summed. A daily row runs from midnight to midnight of the data's
zone: it is known when that day has ended, which for a venue that opens in the evening is after the next session's open.
"""

from __future__ import annotations

import math
from datetime import timedelta
from functools import lru_cache

import numpy as np

from resources.feeds._lean_files import OPEN_INTEREST, TRADE, Table, read_long
from resources.feeds._lean_folder import LeanFolder
from resources.feeds._lean_symbols import LeanSymbol
from resources.feeds._lean_time import data_zone, local_to_utc
from trading.calendars import Calendar
from trading.instruments import FutureTerms
from trading.rolls import Contract, ContractDay, RollTable, expiry_session, roll_table
from trading.timeframes import US_PER_DAY, Timeframe, session_date


def rolls_of(folder: LeanFolder, symbol: LeanSymbol, terms: FutureTerms, venue: Calendar) -> RollTable:
    """The roll table of a continuous future. Raises NoExpiryRule, MalformedData."""
    return _rolls(folder, symbol.root, terms, venue, _changed(folder, symbol))


def _changed(folder: LeanFolder, symbol: LeanSymbol) -> tuple[int, ...]:
    """What changes when the files behind a roll table do."""
    market = folder.root / symbol.kind / symbol.market
    paths = [market / "daily" / f"{symbol.ticker}_{what}.zip" for what in (TRADE, OPEN_INTEREST)]
    paths.append(market / "minute" / symbol.ticker)
    return tuple(p.stat().st_mtime_ns if p.exists() else 0 for p in paths)


@lru_cache(maxsize=32)
def _rolls(folder: LeanFolder, symbol: LeanSymbol, terms: FutureTerms, venue: Calendar, changed: tuple[int, ...]) -> RollTable:
    found = folder.contracts(symbol)
    listed = [Contract(c.month, expiry_session(terms.root, c.month, venue, terms.expiry_rule)) for c in found]
    days = _days(folder, symbol, found, venue)
    return roll_table(terms.root, listed, days, venue, terms.roll, roll_days=terms.roll_days)


def _days(folder: LeanFolder, symbol: LeanSymbol, contracts: list[LeanSymbol], venue: Calendar) -> list[ContractDay]:
    found: dict[tuple[str, int], ContractDay] = {}
    daily = folder.root / symbol.kind / symbol.market / "daily"
    zone = data_zone(folder.root, symbol.kind, symbol.market, symbol.ticker)
    trade, interest = (daily / f"{symbol.ticker}_{what}.zip" for what in (TRADE, OPEN_INTEREST))
    for contract in contracts:
        if trade.is_file() and (table := read_long(trade, contract)) is not None:
            for session, rows in _by_session(table, venue, zone).items():
                volume, close = table.columns["volume"], table.columns["close"]
                found[contract.month, session] = ContractDay(
                    contract.month, session, float(close[rows[-1]]), float(volume[rows].sum())
                )
        elif not trade.is_file():
            for day in _summed(folder, contract, venue):
                found[contract.month, day.session] = day
        if interest.is_file() and (table := read_long(interest, contract, OPEN_INTEREST)) is not None:
            for session, rows in _by_session(table, venue, zone).items():
                held = float(table.columns["open_interest"][rows[-1]])
                had = found.get((contract.month, session), ContractDay(contract.month, session))
                found[contract.month, session] = ContractDay(contract.month, session, had.close, had.volume, held)
    return [found[key] for key in sorted(found, key=lambda k: (k[1], k[0]))]


def _by_session(table: Table, venue: Calendar, zone: str) -> dict[int, list[int]]:
    """Rows by the last session that has opened before the row is known: they decide from the following one on.

    A row on a day without a session (Sunday evening) is a part of the next day's; of several days known before the same
    open the newest counts.
    """
    day = table.start // US_PER_DAY
    at = np.minimum(np.searchsorted(venue.number, day), len(venue.number) - 1)
    trading_day = venue.number[at].astype(np.int64)
    known = local_to_utc((trading_day + 1) * US_PER_DAY, zone)
    opened = np.searchsorted(venue.open_time, known, side="left") - 1
    newest: dict[int, int] = {}
    for row, session in enumerate(venue.number[opened].tolist()):
        newest[session] = max(newest.get(session, 0), int(trading_day[row]))
    found: dict[int, list[int]] = {}
    for row, session in enumerate(venue.number[opened].tolist()):
        if int(trading_day[row]) == newest[session]:
            found.setdefault(session, []).append(row)
    return found


def _summed(folder: LeanFolder, contract: LeanSymbol, venue: Calendar) -> list[ContractDay]:
    """Session volumes and closes from the minute files: exact, but every file is read."""
    first, last = session_date(int(venue.number[0])), session_date(int(venue.number[-1])) - timedelta(days=1)
    answer = folder.rows(contract, TRADE, Timeframe.M1, venue, first, last)
    totals: dict[int, tuple[float, float]] = {}
    for piece in answer.pieces:
        volume, close = piece.table.columns["volume"][piece.rows], piece.table.columns["close"][piece.rows]
        for session in np.unique(piece.session).tolist():
            here = piece.session == session
            totals[session] = (totals.get(session, (0.0, math.nan))[0] + float(volume[here].sum()), float(close[here][-1]))
    return [ContractDay(contract.month, s, close, volume) for s, (volume, close) in totals.items()]
