"""What a daily report says: one session as plain rows, before it becomes a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from trading.bars import Bars


@dataclass(frozen=True, slots=True)
class PnlRow:
    """One strategy on one instrument. Money in account currency; realised is net of commission."""

    strategy: str
    symbol: str
    realized: float
    unrealized_change: float
    commission: float
    position: float
    average_price: float
    last_price: float | None
    unrealized: float
    stop: float | None
    target: float | None
    opened_time: int | None
    price_digits: int

    @property
    def total(self) -> float:
        return self.realized + self.unrealized_change


@dataclass(frozen=True, slots=True)
class TradeRow:
    """One round trip that ended in the session. r_multiple: P&L over the risk to the first stop; None without a stop."""

    trade_id: str
    strategy: str
    symbol: str
    side: str
    quantity: float
    entry_time: int
    entry_price: float
    exit_time: int
    exit_price: float
    exit_reason: str
    pnl: float
    r_multiple: float | None
    price_digits: int


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One order, or one intent our own risk denied (state denied, nothing was sent)."""

    id: str
    broker_order_id: str
    created_time: int
    strategy: str
    symbol: str
    leg: str
    side: str
    quantity: float
    order_type: str
    price: float | None
    state: str
    filled: float
    average_price: float | None
    text: str
    price_digits: int


@dataclass(frozen=True, slots=True)
class FillRow:
    """One execution. slippage: money lost (positive) against the reference price the order was decided at; None: none."""

    fill_time: int
    strategy: str
    symbol: str
    leg: str
    side: str
    quantity: float
    price: float
    commission: float
    slippage: float | None
    order_id: str
    price_digits: int


@dataclass(frozen=True, slots=True)
class SignalRow:
    """One signal and how far it came. outcome: refused by gate, refused by risk, sent, or pending."""

    id: str
    close_time: int
    strategy: str
    symbol: str
    timeframe: str
    action: str
    reference: float
    stop: float
    target: float | None
    outcome: str
    refusal: str
    price_digits: int


@dataclass(frozen=True, slots=True)
class QualityRow:
    """Checks of one dataset's partitions of the session. missing and stale: partitions without a usable verdict."""

    dataset: str
    partitions: int
    checks: int
    failed_errors: int
    failed_warnings: int
    missing: tuple[str, ...]
    stale: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QualityFailure:
    partition: str
    check: str
    severity: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of the way from a bar close to the desk, milliseconds over `closes` bar closes."""

    stage: str
    closes: int
    median_ms: float
    p95_ms: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class ChainRow:
    """The links of one order, full ids: order <- intent <- decision <- signal <- bars partitions with content hashes."""

    order_id: str
    broker_order_id: str
    symbol: str
    leg: str
    trade_id: str
    decision_id: str
    signal_id: str
    strategy_revision: str
    bars: tuple[str, ...]
    run_id: str


@dataclass(frozen=True, slots=True, eq=False)
class TradeChart:
    """What is drawn for one traded instrument. fills: (UTC us, side, price); levels: (name, price)."""

    symbol: str
    heading: str
    bars: Bars
    session_start: int | None
    fills: tuple[tuple[int, str, float], ...]
    levels: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class SessionReport:
    """Everything the report says about one session. Times UTC us, money in `currency`, attention: worst first.

    simulated: the prices are not from a market. replayed: they are, but the session was played back long after it was over.
    """

    session: date
    state: str
    mode: str
    simulated: bool
    universe: str
    universe_revision: str
    code_revision: str
    currency: str
    generated_wall: int
    start_equity: float | None
    end_equity: float | None
    cash: float | None
    gross_exposure: float | None
    equity_times: tuple[int, ...]
    equity: tuple[float, ...]
    pnl: tuple[PnlRow, ...] = ()
    trades: tuple[TradeRow, ...] = ()
    orders: tuple[OrderRow, ...] = ()
    fills: tuple[FillRow, ...] = ()
    signals: tuple[SignalRow, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    quality_failures: tuple[QualityFailure, ...] = ()
    closes: int = 0
    stages: tuple[StageRow, ...] = ()
    replayed: bool = False
    chain: tuple[ChainRow, ...] = ()
    charts: tuple[TradeChart, ...] = ()
    config_problems: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def realized(self) -> float:
        return math.fsum(r.realized for r in self.pnl)

    @property
    def unrealized(self) -> float:
        return math.fsum(r.unrealized for r in self.pnl)

    @property
    def unrealized_change(self) -> float:
        return math.fsum(r.unrealized_change for r in self.pnl)

    @property
    def commission(self) -> float:
        return math.fsum(r.commission for r in self.pnl)

    @property
    def net(self) -> float:
        """P&L of the session from fills and prices: realised plus change of unrealised."""
        return self.realized + self.unrealized_change

    @property
    def equity_change(self) -> float | None:
        if self.start_equity is None or self.end_equity is None:
            return None
        return self.end_equity - self.start_equity

    @property
    def unexplained(self) -> float | None:
        """Equity change that fills and prices do not explain; None when the equity is not known."""
        change = self.equity_change
        return None if change is None else change - self.net

    @property
    def open_positions(self) -> tuple[PnlRow, ...]:
        return tuple(r for r in self.pnl if r.position)

    @property
    def refusals(self) -> list[tuple[str, int]]:
        """Refusal code -> signals refused, most frequent first."""
        counts: dict[str, int] = {}
        for s in self.signals:
            if s.refusal:
                code = s.refusal.split(":", 1)[0]
                counts[code] = counts.get(code, 0) + 1
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    @property
    def headline(self) -> str:
        """The session in one sentence."""
        open_count, sent = len(self.open_positions), sum(s.outcome == "sent" for s in self.signals)
        refused = sum(s.outcome.startswith("refused") for s in self.signals)
        pending = len(self.signals) - sent - refused
        waiting = f", {pending} pending" if pending else ""
        parts = [
            f"{counted(len(self.trades), 'trade')} closed" if self.trades else "no trade closed",
            f"{counted(open_count, 'position')} open at the end" if open_count else "flat at the end",
            f"{counted(len(self.signals), 'signal')}: {sent} sent, {refused} refused{waiting}",
        ]
        return "; ".join(parts) + "."


def counted(n: int, noun: str) -> str:
    """``1 trade``, ``2 trades``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
