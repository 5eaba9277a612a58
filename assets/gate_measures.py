"""What the optional gates and adaptive sizes of a signal are measured on, read from lake, ledger and news calendar.

What cannot be read is left out of the snapshot, and the gate that needs it refuses; nothing here stops the other signals of
the close.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Protocol

from resources.corporate_actions import read_actions
from resources.lake import LakeError
from resources.ledger.risk_records import KnownAccount, OpenRisk, evidence_of, known_account, open_risk
from resources.ledger.store import Ledger
from trading import gate_inputs
from trading.bars import Bars
from trading.calendars import calendar
from trading.gates.settings import OptionalGates, gates_of
from trading.instruments import Instrument
from trading.news import NewsCalendar
from trading.price_units import Finer
from trading.quotes import QuoteBars
from trading.signals import PartitionRef, Signal
from trading.sizing import KELLY
from trading.strategy import Evaluable
from trading.timeframes import Timeframe, session_date, session_number

QUOTES = "quotes_1m"
log = logging.getLogger(__name__)


class Reader(Protocol):
    """The part of the lake that is read here."""

    def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars: ...
    def read_quotes(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> QuoteBars: ...


class GateMarket:
    """Reads for the signals of a run; series are read once. lake None: nothing of the market can be measured. finer: what
    weekly bars across a split are made of."""

    def __init__(
        self, lake: Reader | None, ledger: Ledger, news: NewsCalendar | None, now_time: int, finer: Finer | None = None
    ) -> None:
        self._lake = lake
        self._finer = finer
        self._news = news
        self._now_time = now_time
        self._bars: dict[tuple[str, Timeframe, int, int], Bars] = {}
        self._ledger = ledger
        with ledger.engine.connect() as connection:
            self.account: KnownAccount | None = known_account(connection, now_time)
            self.risk: OpenRisk = open_risk(connection)

    def measured(self, evaluable: Evaluable | None, signal: Signal, instrument: Instrument, accepted: float | None
                 ) -> tuple[dict[str, Any], tuple[PartitionRef, ...]]:  # fmt: skip
        """(measured values by gate, partitions they were measured on). accepted: risk of what was accepted before at the same
        close, None when not known."""
        gates = gates_of(evaluable)
        found, refs = self._of_market(gates, signal, instrument)
        if gates.news is not None and self._news is not None:
            found["news"] = self._news.about(instrument, gates.news.impact, (signal.close_time, self._now_time))
        if gates.budget is not None:
            taken = {"open": self.risk.open, "working": self.risk.working, "accepted": accepted}
            found["budget"] = {name: amount for name, amount in taken.items() if amount is not None}
        return found, refs

    def sizing(self, signal: Signal) -> dict[str, Any]:
        """The account and the evidence a size is made of, as far as they are known."""
        found: dict[str, Any] = {}
        if self.account is not None:
            found |= {"equity": self.account.equity, "currency": self.account.currency}
        if signal.sizing.get("kind") == KELLY:
            with self._ledger.engine.connect() as connection:
                found["evidence"] = evidence_of(connection, signal.strategy, self._now_time).plain()
        return found

    def _of_market(
        self, gates: OptionalGates, signal: Signal, instrument: Instrument
    ) -> tuple[dict[str, Any], tuple[PartitionRef, ...]]:
        reads = gate_inputs.reads_of(gates, signal.sizing, signal.timeframe)
        if reads is None or self._lake is None or not signal.partitions:
            return {}, ()
        venue = calendar(instrument.calendar)
        session = session_number(date.fromisoformat(signal.partitions[0].session))
        try:
            bars = self._series(reads, instrument.symbol, session, signal.close_time, venue)
            quotes = self._quotes(instrument, session, signal.close_time) if reads.quotes else None
            symbols = {b.symbol for b in bars.values()}
            actions = {symbol: read_actions(self._lake, symbol) for symbol in symbols}  # type: ignore[arg-type]
            own = bars[signal.timeframe]
            if not len(own) or int(own.close_time[-1]) != signal.close_time:
                return {}, ()
            measures = gate_inputs.measure_last(
                gates, signal.sizing, bars, signal.timeframe, instrument, venue, quotes, actions, self._finer
            )
        except (LakeError, ValueError) as error:
            log.error("%s: gate inputs of %s cannot be read: %s", signal.strategy, signal.symbol, error)
            return {}, ()
        return measures.at(len(own) - 1, signal.action.side.sign), _newest(bars.values())

    def _series(self, reads: gate_inputs.Reads, symbol: str, session: int, close_time: int, venue: Any) -> dict[Any, Bars]:
        found: dict[Any, Bars] = {}
        for key, start in reads.starts(session, venue).items():
            other, timeframe = key if isinstance(key, tuple) else (symbol, key)
            at = other, timeframe, start, close_time
            if at not in self._bars:
                assert self._lake is not None
                read = self._lake.read_bars(f"bars_{timeframe}", other, session_date(start), session_date(session))
                self._bars[at] = read.known_at(close_time)
            found[key] = self._bars[at]
        return found

    def _quotes(self, instrument: Instrument, session: int, close_time: int) -> QuoteBars | None:
        if not instrument.quotes:
            return None
        assert self._lake is not None
        day = session_date(session)
        return self._lake.read_quotes(QUOTES, instrument.symbol, day, day).known_at(close_time)


def _newest(series: Iterable[Bars]) -> tuple[PartitionRef, ...]:
    """The newest partition of every series, with the hash of the rows known now."""
    refs = []
    for bars in series:
        if not len(bars):
            continue
        number = int(bars.session[-1])
        rows = bars.rows(bars.session == number)
        refs.append(PartitionRef(f"bars_{bars.timeframe}", session_date(number).isoformat(), bars.symbol, rows.content_hash()))
    return tuple(refs)


def with_more(own: Iterable[PartitionRef], more: Iterable[PartitionRef]) -> tuple[PartitionRef, ...]:
    """`own`, and those of `more` that name another partition."""
    own = tuple(own)
    known = {(r.dataset, r.session, r.symbol) for r in own}
    return own + tuple(r for r in more if (r.dataset, r.session, r.symbol) not in known)


def risk_of(size: Mapping[str, Any] | None) -> float | None:
    """Risk that a decision's size states, None when it states none."""
    risk = size.get("risk") if size is not None else None
    return float(risk) if isinstance(risk, (int, float)) else None
