"""Risk rules: each refuses with its code, and no sequence of accepted orders ever breaches a limit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from trading.instruments import AssetClass, Instrument, Mode
from trading.limits import REQUIRED, DailyLoss, Limits, StrategyLimits
from trading.orders import OrderType, Side
from trading.refusals import RefusalCode
from trading.risk import RULES, RiskState, check, refusal
from trading.signals import Intent

TRADED = frozenset({Mode.BACKTEST, Mode.PAPER})


def make(symbol: str, tick: str = "0.01", lot: str = "1", multiplier: str = "1") -> Instrument:
    from trading.timeframes import Timeframe

    return Instrument(
        symbol, AssetClass.EQUITY, "XNYS", Decimal(tick), "USD", "f", symbol, Timeframe.D1,
        lot_size=Decimal(lot), multiplier=Decimal(multiplier), tradable_in=TRADED,
    )  # fmt: skip


AAPL = make("AAPL")
LIMITS = Limits(
    max_order_quantity=1000, max_notional=50_000, max_position_notional=60_000, max_concurrent_positions=3,
    daily_loss=DailyLoss(amount=2000, percent=3), price_collar_percent=5, max_gross_leverage=2,
)  # fmt: skip
STATE = RiskState(
    mode=Mode.PAPER,
    equity=100_000,
    day_start_equity=100_000,
    cash=100_000,
    quality_ok="",
    last_price={"AAPL": 100.0},
    multipliers={"AAPL": 1.0},
)
ENTRY = Intent("dec-1", "entry", "trend", "AAPL", Side.BUY, 100, OrderType.MARKET, reference_price=100.0)


def why(intent: Intent = ENTRY, state: RiskState = STATE, limits: Limits | None = LIMITS, instrument: Instrument = AAPL) -> str:
    return refusal(check(limits, state, intent, instrument))


def test_an_order_within_every_limit_passes_every_rule_in_the_stated_order() -> None:
    verdicts = check(LIMITS, STATE, ENTRY, AAPL)
    assert refusal(verdicts) == ""
    assert [v.rule for v in verdicts] == [
        "halt", "state_unknown", "reconciliation", "data_quality", "tradable", "circuit_breaker", "grid", "price_collar",
        "max_order_quantity", "max_notional", "max_position", "concurrent_positions", "position_open", "cooldown", "daily_loss",
        "losing_streak", "drawdown", "net_exposure", "sector_exposure", "correlation", "value_at_risk", "order_rate",
        "buying_power",
    ]  # fmt: skip
    assert all(v.value and v.threshold for v in verdicts)


STATES: list[tuple[dict[str, Any], str]] = [
    ({"halt_level": "reduce_only"}, "HALTED: scope=desk level=reduce_only"),
    ({"halt_level": "anything"}, "HALTED: scope=desk level=anything"),
    ({"strategy_halted": frozenset({"trend"})}, "HALTED: scope=strategy strategy=trend"),
    ({"unknown_symbols": frozenset({"AAPL"})}, "STATE_UNKNOWN: symbol=AAPL"),
    ({"mismatch_symbols": frozenset({"AAPL"})}, "RECONCILIATION: symbol=AAPL"),
    ({"quality_ok": "DATA_QUALITY: partition=p check=c"}, "DATA_QUALITY: partition=p check=c"),
    ({"mode": Mode.SHADOW}, "MODE: mode=shadow"),
    ({"mode": Mode.LIVE}, "NOT_TRADABLE: symbol=AAPL mode=live allowed=backtest,paper"),
    ({"last_price": {}}, "PRICE_MISSING: symbol=AAPL"),
    ({"last_price": {"AAPL": math.nan}}, "PRICE_MISSING: symbol=AAPL"),
    ({"last_price": {"AAPL": 110.0}}, "PRICE_COLLAR: symbol=AAPL price=100 last=110 limit=5%"),
    ({"positions": {("other", "AAPL"): -550.0}}, "MAX_POSITION: symbol=AAPL would_be=65000 limit=60000"),
    ({"working_notional": {"AAPL": 55_000.0}}, "MAX_POSITION: symbol=AAPL would_be=65000 limit=60000"),
    ({"pending_entries": frozenset({("a", "X"), ("b", "X"), ("c", "X")})}, "CONCURRENT_POSITIONS: would_be=4 limit=3"),
    ({"pending_entries": frozenset({("trend", "AAPL")})}, "POSITION_OPEN: strategy=trend symbol=AAPL state=entering"),
    ({"positions": {("trend", "AAPL"): -5.0}}, "POSITION_OPEN: strategy=trend symbol=AAPL quantity=-5"),
    ({"equity": 98_000.0}, "DAILY_LOSS: pnl=-2000 limit=2000 or 3%"),
    ({"equity": math.nan}, "DAILY_LOSS: pnl=nan"),
    ({"working_notional": {"MSFT": 195_000.0}}, "BUYING_POWER: symbol=AAPL exposure=205000 limit=200000"),
    ({"multipliers": {}}, "MAX_NOTIONAL: symbol=AAPL notional=nan"),
    ({"positions": {("a", "MSFT"): 10.0}}, "BUYING_POWER: symbol=AAPL exposure=nan"),  # MSFT has no price: unknown
    ({"positions": {("a", "MSFT"): 10.0}, "last_price": {"AAPL": 100.0, "MSFT": 50.0}}, "BUYING_POWER: symbol=AAPL exposure=nan"),
]


@pytest.mark.parametrize(("change", "expected"), STATES)
def test_each_state_of_the_desk_refuses_with_its_code(change: dict[str, Any], expected: str) -> None:
    assert why(state=replace(STATE, **change)).startswith(expected)


INTENTS: list[tuple[dict[str, Any], str]] = [
    ({"symbol": "MSFT"}, "NOT_TRADABLE: symbol=MSFT instrument=AAPL"),
    ({"quantity": 0.0}, "SIZE_ZERO: symbol=AAPL quantity=0"),
    ({"quantity": -100.0}, "SIZE_ZERO"),
    ({"quantity": math.nan}, "SIZE_ZERO"),
    ({"quantity": 10.5}, "PRICE_GRID: symbol=AAPL quantity=10.5 lot=1"),
    ({"order_type": OrderType.LIMIT}, "PRICE_GRID: symbol=AAPL limit_price=missing"),
    ({"order_type": OrderType.STOP_LIMIT, "limit_price": 101.0}, "PRICE_GRID: symbol=AAPL stop_price=missing"),
    ({"order_type": OrderType.LIMIT, "limit_price": 100.005}, "PRICE_GRID: symbol=AAPL limit_price=100.005 tick=0.01"),
    ({"order_type": OrderType.LIMIT, "limit_price": math.inf}, "PRICE_GRID: symbol=AAPL limit_price=inf"),
    ({"order_type": OrderType.LIMIT, "limit_price": 105.01}, "PRICE_COLLAR: symbol=AAPL price=105.01 last=100 limit=5%"),
    ({"order_type": OrderType.STOP, "stop_price": 94.99}, "PRICE_COLLAR: symbol=AAPL price=94.99"),
    ({"quantity": 1001.0}, "MAX_ORDER_QUANTITY: symbol=AAPL quantity=1001 limit=1000"),
    ({"quantity": 501.0}, "MAX_NOTIONAL: symbol=AAPL notional=50100 limit=50000"),
    ({"quantity": 500.0, "order_type": OrderType.STOP, "stop_price": 101.0}, "MAX_NOTIONAL: symbol=AAPL notional=50500"),
]


@pytest.mark.parametrize(("change", "expected"), INTENTS)
def test_each_bad_order_is_refused_with_its_code(change: dict[str, Any], expected: str) -> None:
    assert why(replace(ENTRY, **change)).startswith(expected)


def test_an_order_exactly_at_its_limits_passes() -> None:
    assert why(replace(ENTRY, quantity=500.0)) == ""
    assert why(replace(ENTRY, order_type=OrderType.LIMIT, limit_price=105.0)) == ""


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_limit_refuses(name: str) -> None:
    assert why(limits=LIMITS.model_copy(update={name: None})) == f"LIMIT_MISSING: limit={name}"


def test_without_a_valid_risk_file_nothing_passes() -> None:
    assert why(limits=None).startswith("LIMIT_MISSING")
    assert why(limits=LIMITS.model_copy(update={"daily_loss": DailyLoss()})) == "LIMIT_MISSING: limit=daily_loss"
    assert refusal([]).startswith("LIMIT_MISSING")


def test_exits_pass_every_rule_but_the_grid() -> None:
    worst = replace(
        STATE, halt_level="halted", unknown_symbols=frozenset({"AAPL"}), quality_ok="DATA_QUALITY: x", equity=1.0, last_price={}
    )
    stop = replace(ENTRY, side=Side.SELL, order_type=OrderType.STOP, stop_price=50.0, quantity=5000.0, reduce_only=True)
    assert why(stop, worst, limits=None) == ""
    assert why(replace(stop, stop_price=50.001), worst, limits=None).startswith("PRICE_GRID")


def test_a_strategy_limit_tightens_and_never_loosens() -> None:
    tight = LIMITS.model_copy(update={"strategies": {"trend": StrategyLimits(max_notional=5000, max_concurrent_positions=1)}})
    assert why(limits=tight).startswith("MAX_NOTIONAL: symbol=AAPL notional=10000 limit=5000")
    assert why(replace(ENTRY, strategy="other"), limits=tight) == ""
    loose = LIMITS.model_copy(update={"strategies": {"trend": StrategyLimits(max_notional=1e9)}})
    assert why(replace(ENTRY, quantity=501.0), limits=loose).startswith("MAX_NOTIONAL")
    one = replace(
        STATE, positions={("trend", "MSFT"): 1.0}, last_price={"AAPL": 100.0, "MSFT": 1.0}, multipliers={"AAPL": 1.0, "MSFT": 1.0}
    )
    assert why(replace(ENTRY, quantity=1.0), one, tight) == "CONCURRENT_POSITIONS: strategy=trend would_be=2 limit=1"


def test_a_strategys_own_daily_loss_needs_its_own_profit_and_loss() -> None:
    own = LIMITS.model_copy(update={"strategies": {"trend": StrategyLimits(daily_loss=DailyLoss(amount=100))}})
    assert why(limits=own).startswith("DAILY_LOSS: strategy=trend pnl=nan")
    assert why(state=replace(STATE, strategy_pnl={"trend": -100.0}), limits=own).startswith("DAILY_LOSS: strategy=trend pnl=-100")
    assert why(state=replace(STATE, strategy_pnl={"trend": -99.0}), limits=own) == ""


def test_a_multiplier_counts_in_every_value() -> None:
    future = make("ES", "0.25", "1", "50")
    state = replace(STATE, last_price={"ES": 4000.0}, multipliers={"ES": 50.0})
    order = replace(ENTRY, symbol="ES", quantity=1.0, reference_price=4000.0)
    assert why(order, state, instrument=future) == "MAX_NOTIONAL: symbol=ES notional=200000 limit=50000"


def test_a_rule_that_breaks_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    rule = dict(RULES.ordered())["max_notional"]
    monkeypatch.setattr(type(rule), "judge", broken)
    assert why() == "LIMIT_MISSING: rule=max_notional error=ZeroDivisionError"


def test_every_refusal_is_a_member_of_the_closed_set() -> None:
    for change, expected in [*STATES, *INTENTS]:
        assert expected.split(":")[0] in RefusalCode.__members__, change


INSTRUMENTS = [make("AAPL"), make("EURUSD", "0.00001", "1000"), make("ES", "0.25", "1", "50"), make("GOOG", lot="10")]


@dataclass
class Book:
    """A desk in small: accepts what the rules accept, fills or ends entries, moves prices, starts days. Its own books
    are kept in Decimal, apart from the code under test."""

    rng: random.Random
    price: dict[str, float] = field(default_factory=lambda: {"AAPL": 100.0, "EURUSD": 1.2, "ES": 400.0, "GOOG": 50.0})
    positions: dict[tuple[str, str], float] = field(default_factory=dict)
    pending: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    equity: float = 100_000.0
    day_start: float = 100_000.0

    def state(self) -> RiskState:
        working: dict[str, float] = {}
        for (_, symbol), (_, value) in self.pending.items():
            working[symbol] = working.get(symbol, 0.0) + value
        return RiskState(
            mode=Mode.PAPER, equity=self.equity, day_start_equity=self.day_start, cash=self.equity, quality_ok="",
            last_price=dict(self.price), positions=dict(self.positions), pending_entries=frozenset(self.pending),
            working_notional=working, multipliers={i.symbol: float(i.multiplier) for i in INSTRUMENTS},
        )  # fmt: skip

    def intent(self) -> tuple[Intent, Instrument]:
        rng = self.rng
        instrument = rng.choice(INSTRUMENTS)
        last = self.price[instrument.symbol]
        level = instrument.round_price(last * rng.uniform(0.9, 1.1))
        kind = rng.choice([OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT])
        quantity = rng.choice([1, 3, 10, 50, 200, 1000, 5000, 40_000]) * float(instrument.lot_size)
        return Intent(
            "dec", "entry", rng.choice("abcd"), instrument.symbol, rng.choice(list(Side)), quantity, kind,
            limit_price=level if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            stop_price=level if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else None, reference_price=last,
        ), instrument  # fmt: skip

    def something_happens(self) -> None:
        rng = self.rng
        what = rng.random()
        if what < 0.4 and self.pending:
            key = rng.choice(sorted(self.pending))
            quantity, _ = self.pending.pop(key)
            if rng.random() < 0.8:
                self.positions[key] = quantity
        elif what < 0.6 and self.positions:
            self.positions.pop(rng.choice(sorted(self.positions)))
        elif what < 0.8:
            symbol = rng.choice(sorted(self.price))
            self.price[symbol] *= rng.uniform(0.97, 1.03)
            self.equity *= rng.uniform(0.99, 1.01)
        elif what < 0.85:
            self.day_start = self.equity


@pytest.mark.parametrize("seed", range(12))
def test_no_accepted_order_ever_breaches_a_limit(seed: int) -> None:
    rng = random.Random(seed)
    draw: Callable[..., Any] = rng.choice
    limits = Limits(
        max_order_quantity=draw([50, 1000, 50_000]), max_notional=draw([5000, 20_000, 100_000]),
        max_position_notional=draw([10_000, 30_000, 150_000]), max_concurrent_positions=draw([1, 3, 6]),
        daily_loss=DailyLoss(amount=draw([500, 5000])), price_collar_percent=draw([1, 5]), max_gross_leverage=draw([0.3, 1, 3]),
    )  # fmt: skip
    book = Book(rng)
    accepted = 0
    for _ in range(400):
        book.something_happens()
        intent, instrument = book.intent()
        state = book.state()
        if refusal(check(limits, state, intent, instrument)):
            continue
        accepted += 1
        # The limits, said again in the plainest words, at every price the order may fill at.
        key, last, unit = (intent.strategy, intent.symbol), book.price[intent.symbol], Decimal(str(instrument.multiplier))
        prices = [p for p in (intent.limit_price, intent.stop_price, last) if p is not None]
        value = max(Decimal(intent.quantity) * Decimal(p) * unit for p in prices)
        slack = Decimal("1.00000001")

        def held(symbol: str) -> Decimal:
            own = next(i for i in INSTRUMENTS if i.symbol == symbol)
            quantities = sum(abs(Decimal(q)) for (_, s), q in book.positions.items() if s == symbol)
            waiting = sum(Decimal(v) for (_, s), (_, v) in book.pending.items() if s == symbol)
            return Decimal(quantities) * Decimal(book.price[symbol]) * own.multiplier + Decimal(waiting)

        assert intent.quantity <= limits.max_order_quantity  # type: ignore[operator]
        assert value <= Decimal(limits.max_notional) * slack  # type: ignore[arg-type]
        assert held(intent.symbol) + value <= Decimal(limits.max_position_notional) * slack  # type: ignore[arg-type]
        assert sum(held(i.symbol) for i in INSTRUMENTS) + value <= Decimal(book.equity * limits.max_gross_leverage) * slack  # type: ignore[operator]
        assert key not in book.positions
        assert key not in book.pending
        assert len(book.positions) + len(book.pending) + 1 <= limits.max_concurrent_positions  # type: ignore[operator]
        assert book.day_start - book.equity < limits.daily_loss.amount  # type: ignore[union-attr,operator]
        assert all(abs(p - last) / last * 100 <= limits.price_collar_percent * 1.00000001 for p in prices)  # type: ignore[operator]
        signed = intent.quantity * intent.side.sign
        book.pending[key] = (signed, float(value))
    assert accepted > 0
