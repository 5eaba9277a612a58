"""What a LEAN feed symbol says: class, market, ticker, and for contracts month, right and strike.

equity/usa/aapl                        future/cme/es            continuous, by the instrument's roll rule
index/india/nifty50                    future/cme/es/20131220   one contract, by its expiry
forex/fxcm/eurusd                      future/cme/es/201312     one contract, by its month
crypto/coinbase/btcusd                 option/usa/goog/20160617/call/750
cryptofuture/bybit/btcusdt
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation

from resources.feeds.protocol import SymbolNotFound
from trading.instruments import AssetClass, Instrument

CLASSES = ("equity", "index", "forex", "crypto", "cryptofuture", "future", "option")
PRICE_SCALE = 10_000.0
"""Equity and option prices are whole numbers of a hundredth of a cent."""

_OPTION_MEMBER = re.compile(r"_(call|put)_(\d+)_(\d{8})\.csv$")
_FUTURE_MEMBER = re.compile(r"_(\d{6})\.csv$")


@dataclass(frozen=True, slots=True)
class LeanSymbol:
    """``equity/usa/aapl`` taken apart. month: YYYYMM of one future, "" for the continuous series; expiry: YYYYMMDD, right,
    strike (x10000) of one option; strike 0 means the underlying's whole chain."""

    kind: str
    market: str
    ticker: str
    month: str = ""
    expiry: str = ""
    right: str = ""
    strike: int = 0

    @property
    def quotes(self) -> bool:
        """Are its bars the middle of bid and ask?"""
        return self.kind == "forex"

    @property
    def scale(self) -> float:
        return PRICE_SCALE if self.kind in ("equity", "option") else 1.0

    @property
    def continuous(self) -> bool:
        return self.kind == "future" and not self.month

    @property
    def root(self) -> LeanSymbol:
        """The product or underlying the contract belongs to."""
        return LeanSymbol(self.kind, self.market, self.ticker)

    def contract(self, member: str) -> LeanSymbol | None:
        """The contract the zip member `member` holds, None when its name says none."""
        if self.kind == "future" and (found := _FUTURE_MEMBER.search(member)):
            return replace(self.root, month=found[1])
        if self.kind == "option" and (found := _OPTION_MEMBER.search(member)):
            return replace(self.root, right=found[1], strike=int(found[2]), expiry=found[3])
        return None

    @property
    def member_end(self) -> str:
        """How the names of its zip members end, "" when a zip holds nothing else."""
        if self.kind == "future":
            return f"_{self.month}.csv"
        return f"_{self.right}_{self.strike}_{self.expiry}.csv" if self.kind == "option" else ""

    def __str__(self) -> str:
        text = f"{self.kind}/{self.market}/{self.ticker}"
        if self.month:
            return f"{text}/{self.month}"
        if self.strike:
            strike = (Decimal(self.strike) / 10_000).normalize()
            return f"{text}/{self.expiry}/{self.right}/{strike:f}"
        return text


def parse(instrument: Instrument) -> LeanSymbol:
    """The symbol `instrument.feed_symbol` means. A bare ticker of an equity is ``equity/usa``. Raises SymbolNotFound."""
    text = instrument.feed_symbol.lower()
    if "/" not in text and instrument.asset_class is AssetClass.EQUITY:
        text = f"equity/usa/{text}"
    found = parse_text(text)
    if found is None:
        raise SymbolNotFound(
            f"feed lean: feed_symbol {instrument.feed_symbol!r} of {instrument.symbol}, expected class/market/ticker such as "
            f"equity/usa/aapl, future/cme/es/20131220 or option/usa/goog/20160617/call/750 (classes: {', '.join(CLASSES)})"
        )
    return found


def parse_text(text: str) -> LeanSymbol | None:
    """The symbol `text` (lower case) spells, None when it spells none."""
    pieces = text.split("/")
    if len(pieces) < 3 or pieces[0] not in CLASSES or not all(p and p not in (".", "..") for p in pieces):
        return None
    kind, market, ticker, *rest = pieces
    if kind == "future" and len(rest) <= 1:
        if rest and not (rest[0].isdigit() and len(rest[0]) in (6, 8)):
            return None
        return LeanSymbol(kind, market, ticker, month=rest[0][:6] if rest else "")
    if kind == "option" and len(rest) == 3:
        expiry, right, strike = rest
        try:
            scaled = Decimal(strike) * 10_000
        except InvalidOperation:
            return None
        if len(expiry) != 8 or not expiry.isdigit() or right not in ("call", "put") or scaled <= 0 or scaled % 1:
            return None
        return LeanSymbol(kind, market, ticker, expiry=expiry, right=right, strike=int(scaled))
    return None if rest or kind == "option" else LeanSymbol(kind, market, ticker)
