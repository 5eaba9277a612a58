"""A small desk for tests: real ledger, real paper broker, two forex pairs on hourly bars, three strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine

from desk import events, submission
from desk.clock import SimulatedClock
from desk.router import Router, RouteResult
from desk.store import DeskStore
from resources.brokers.paper import PaperBroker
from resources.brokers.protocol import Broker
from resources.feeds.protocol import BarClose
from resources.ledger.store import Ledger, VerdictRow
from trading.calendars import calendar
from trading.costs import Costs
from trading.instruments import AssetClass, Instrument, Mode
from trading.limits import DailyLoss, Limits
from trading.quality import ERROR_CHECKS
from trading.signals import Action, Decision, GateVerdict, PartitionRef, Signal
from trading.timeframes import US_PER_HOUR, Timeframe, session_date
from trading.universe import QualityThresholds, Universe

T0 = 1_514_361_600_000_000
"""2017-12-27T08:00Z, a Wednesday: inside the FX session of that day, which runs from 22:00Z to 22:00Z."""
SESSION = "2017-12-27"
CASH = 100_000.0


def instrument(symbol: str, **changes: Any) -> Instrument:
    values: dict[str, Any] = {
        "symbol": symbol, "asset_class": AssetClass.FOREX, "calendar": "FX", "tick_size": Decimal("0.0001"), "currency": "USD",
        "feed": "test", "feed_symbol": symbol, "native_timeframe": Timeframe.H1,
        "tradable_in": frozenset({Mode.BACKTEST, Mode.PAPER}), "has_volume": False,
    }  # fmt: skip
    return Instrument(**{**values, **changes})


INSTRUMENTS = {
    "EURUSD": instrument("EURUSD"),
    "GBPUSD": instrument("GBPUSD", multiplier=Decimal(2)),
    "USDJPY": instrument("USDJPY", tick_size=Decimal("0.01"), currency="JPY"),
    "WATCHED": instrument("WATCHED", tradable_in=frozenset()),
}

LIMITS = Limits(
    max_order_quantity=50_000, max_notional=60_000, max_position_notional=80_000, max_concurrent_positions=4,
    price_collar_percent=5, max_gross_leverage=3, daily_loss=DailyLoss(amount=1_000),
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """The little of a strategy that the router asks."""

    name: str
    symbols: tuple[str, ...] = tuple(INSTRUMENTS)
    status: str = "active"
    once: bool = False
    timeframe: Timeframe = Timeframe.H1


@dataclass
class FileConfig:
    """What resources.config.Config has."""

    universe: Universe
    strategies: dict[str, Any]
    plans: dict[str, Any]
    limits: Limits | None


def config(limits: Limits | None = LIMITS) -> FileConfig:
    thresholds = QualityThresholds()
    universe = Universe("test", "", "r1", dict(INSTRUMENTS), date(2017, 1, 1), None, thresholds, True)
    rules = {name: Rule(name) for name in ("trend", "revert", "shadowed")}
    return FileConfig(universe, rules, {"idea": Rule("idea", once=True)}, limits)


def hour(n: int) -> int:
    """Close time of the n-th hourly bar after T0, over the day's end and the weekend, too."""
    return T0 + n * US_PER_HOUR


def bar(symbol: str, n: int, o: float, h: float, low: float, c: float, volume: float = 0.0) -> BarClose:
    session = int(calendar("FX").number[calendar("FX").close_time.searchsorted(hour(n))])
    return BarClose(symbol, Timeframe.H1, hour(n), session, o, h, low, c, volume)


def decision(
    n: int = 0,
    strategy: str = "trend",
    symbol: str = "EURUSD",
    action: Action = Action.ENTER_LONG,
    *,
    reference: float = 1.2,
    stop: float = 1.19,
    target: float | None = 1.22,
    quantity: float = 1000.0,
    approved: bool = True,
    **changes: Any,
) -> Decision:
    """A decision at the n-th close. changes: fields of the signal."""
    values: dict[str, Any] = {
        "strategy": strategy, "strategy_revision": "rev1", "symbol": symbol, "timeframe": Timeframe.H1, "close_time": hour(n),
        "action": action, "strength": 1.0, "reference_price": reference, "stop_price": stop, "target_price": target,
        "valid_until": hour(n + 1), "sizing": {"kind": "fixed", "quantity": quantity}, "features_version": "f1",
        "partitions": (PartitionRef("bars_1h", SESSION, symbol, "hash1"),),
    }  # fmt: skip
    refusal = "" if approved else "REWARD_TO_RISK: ratio=0.5 minimum=1"
    verdict = GateVerdict("reward_to_risk", approved, "2", "1", refusal)
    return Decision(Signal(**{**values, **changes}), approved, (verdict,), refusal)


def good_verdicts(symbol: str, session: str = SESSION, content_hash: str = "hash1") -> list[VerdictRow]:
    return [VerdictRow("bars_1h", session, symbol, check, True, "error", content_hash) for check in ERROR_CHECKS]


NO_COSTS = Costs()


@dataclass
class Desk:
    """Everything of the order path over one ledger. wrap(broker): puts a faulty broker in front of the paper broker."""

    engine: Engine
    wrap: Callable[[PaperBroker], Broker] | None = None
    costs: Costs = NO_COSTS
    modes: Mapping[str, Mode] = field(default_factory=lambda: {"shadowed": Mode.SHADOW})

    def __post_init__(self) -> None:
        self.clock = SimulatedClock(hour(0))
        self.paper = PaperBroker(self.engine, INSTRUMENTS, lambda symbol: self.costs, CASH, "USD", self.clock)
        self.broker: Broker = self.wrap(self.paper) if self.wrap else self.paper
        self.config = config()
        self.store = DeskStore(self.engine)
        self.ledger = Ledger(self.engine)
        self.router = Router(
            self.engine, self.broker, lambda: self.config, self.clock, lambda name: self.modes.get(name, Mode.PAPER)
        )

    def open(self) -> Desk:
        """The first bar close: prices, quality, the session's start equity, the cash baseline."""
        submission.recover(self.engine, self.broker, self.clock)
        self.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=CASH)
        for symbol in INSTRUMENTS:
            self.ledger.put_verdicts(good_verdicts(symbol))
        self.store.mark(hour(0), SESSION, {symbol: 1.2 for symbol in INSTRUMENTS})
        return self

    def close(self, n: int, *bars: BarClose) -> events.DrainResult:
        """The n-th bar close: matched, drained, marked. Without bars: a quiet EURUSD bar at 1.2."""
        bars = bars or (bar("EURUSD", n, 1.2, 1.2005, 1.1995, 1.2),)
        self.clock.advance(hour(n))
        self.paper.on_bars(hour(n), bars)
        result = events.drain(self.engine, self.broker, self.clock)
        session = session_date(bars[0].session).isoformat()
        self.store.mark(hour(n), session, {b.symbol: b.close for b in bars})
        return result

    def submit(self, *args: Any, **kw: Any) -> RouteResult:
        return self.router.submit_decision(decision(*args, **kw))

    def position(self, strategy: str = "trend", symbol: str = "EURUSD") -> float:
        held = self.store.open_positions(strategy, symbol)
        return held[0].quantity if held else 0.0

    def states(self, *order_ids: str) -> list[str]:
        found = [self.store.order(i) for i in order_ids]
        return [o.state.value if o else "missing" for o in found]
