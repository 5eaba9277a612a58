"""Risk checks before an order: pure, the same for every order of every source, first refusal wins.

The rules are small classes in trading/risk_rules, in the order of their numbers. ``check`` runs all of them, so that
every verdict is on record, and the first refusal in that order is the order's. A rule that cannot see what it needs
refuses; a rule that breaks refuses, too. Orders that only reduce a position (exits, bracket legs) skip every rule but
the grid: an exit is never refused by an entry's rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trading import limit_math
from trading.instruments import Instrument, Mode
from trading.limits import Limits
from trading.refusals import Refusal, RefusalCode, refuse
from trading.registry import Registry
from trading.signals import Intent

Key = tuple[str, str]
"""(strategy, symbol)"""


@dataclass(frozen=True, slots=True, eq=False)
class DailyReturns:
    """Simple returns of the same T newest sessions, ascending: values float64 (T, N) by `symbols`; NaN where unknown."""

    symbols: tuple[str, ...]
    values: NDArray[np.float64]

    def of(self, symbols: Sequence[str], sessions: int) -> NDArray[np.float64] | None:
        """The newest `sessions` rows of `symbols`, (sessions, len(symbols)); None when a symbol or a value is missing."""
        if any(s not in self.symbols for s in symbols) or len(self.values) < sessions:
            return None
        picked = self.values[-sessions:, [self.symbols.index(s) for s in symbols]]
        return picked if bool(np.isfinite(picked).all()) else None


@dataclass(frozen=True, slots=True)
class RiskState:
    """What the rules know of the desk when an intent arrives. Amounts in account currency.

    halt_level: "" or "none" when not halted, else the level in force (any other text halts).
    strategy_halted: names of halted strategies. unknown_symbols: instruments with an order in UNKNOWN.
    mismatch_symbols: instruments on which ledger and broker disagree. quality_ok: "" when the needed partitions are
    good now, else the refusal's text. last_price: newest known price by symbol. positions: signed quantity by
    (strategy, symbol). pending_entries: entries sent and not ended. equity, day_start_equity, cash: now, at the session's
    start, now. working_notional: value of entry orders by symbol that may still fill. multipliers: account currency
    per price point and unit, by symbol; for a symbol that is not in it (one quoted in a currency without a rate, say)
    every value is unknown, which refuses.
    strategy_pnl: P&L of the session by strategy, needed only for strategies with a daily loss of their own.
    now_time: market time of the intent, UTC us. peak_equity: highest equity so far. sectors: sector by symbol.
    working_net: value of entry orders that may still fill by symbol, negative for sells. returns: daily returns for the
    portfolio rules. recent_prices: by symbol, times int64 and prices float64 of the newest minutes, ascending.
    order_times: market times of orders that added risk, ascending. losing_streaks: by strategy, losing trades in a row and
    time of the last. last_stops: by (strategy, symbol), time of the last exit by its stop.
    Each is needed only where a limit is set on it; one that is missing then refuses.
    barred: why orders of this mode may not go to the broker there is, None when they may. slicing: (strategy, symbol) whose open
    position and entries under way are the earlier slices of the very entry that the intent is the next slice of.
    """

    mode: Mode
    equity: float
    day_start_equity: float
    cash: float
    quality_ok: str
    halt_level: str = ""
    strategy_halted: frozenset[str] = frozenset()
    unknown_symbols: frozenset[str] = frozenset()
    mismatch_symbols: frozenset[str] = frozenset()
    last_price: Mapping[str, float] = field(default_factory=dict)
    positions: Mapping[Key, float] = field(default_factory=dict)
    pending_entries: frozenset[Key] = frozenset()
    working_notional: Mapping[str, float] = field(default_factory=dict)
    multipliers: Mapping[str, float] = field(default_factory=dict)
    strategy_pnl: Mapping[str, float] = field(default_factory=dict)
    now_time: int | None = None
    peak_equity: float | None = None
    sectors: Mapping[str, str] = field(default_factory=dict)
    working_net: Mapping[str, float] = field(default_factory=dict)
    returns: DailyReturns | None = None
    recent_prices: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = field(default_factory=dict)
    order_times: tuple[int, ...] | None = None
    losing_streaks: Mapping[str, tuple[int, int]] | None = None
    last_stops: Mapping[Key, int] | None = None
    barred: Refusal | None = None
    slicing: frozenset[Key] = frozenset()

    def value_per_point(self, symbol: str) -> float:
        """Account currency per price point and unit of `symbol`; NaN when not known, which refuses."""
        return float(self.multipliers.get(symbol, math.nan))

    def position_notional(self, symbol: str) -> float:
        """Gross value of `symbol` over all strategies plus its entries under way; NaN when a price is not known."""
        quantity = sum(abs(q) for (_, held), q in self.positions.items() if held == symbol)
        working = float(self.working_notional.get(symbol, 0.0))
        if quantity == 0.0:
            return working
        return quantity * abs(self.last_price.get(symbol, math.nan)) * self.value_per_point(symbol) + working

    def gross_exposure(self) -> float:
        """Gross value of all positions and entries under way; NaN when a price is not known."""
        held = {symbol for (_, symbol), quantity in self.positions.items() if quantity != 0.0}
        return sum(self.position_notional(symbol) for symbol in held | set(self.working_notional))

    def net_exposures(self, intent: Intent) -> dict[str, float]:
        """Signed value by symbol of positions, entries under way and the order; NaN where one is not known."""
        out: dict[str, float] = {}
        for (_, symbol), quantity in self.positions.items():
            if quantity != 0.0:
                price = self.last_price.get(symbol, math.nan)
                out[symbol] = out.get(symbol, 0.0) + quantity * price * self.value_per_point(symbol)
        for symbol, value in self.working_notional.items():
            if value != 0.0:
                out[symbol] = out.get(symbol, 0.0) + float(self.working_net.get(symbol, math.nan))
        out[intent.symbol] = out.get(intent.symbol, 0.0) + intent.side.sign * order_notional(intent, self)
        return out

    def open_keys(self, strategy: str | None = None) -> frozenset[Key]:
        """(strategy, symbol) that hold a position or are entering one, of one strategy or of all."""
        keys = {key for key, quantity in self.positions.items() if quantity != 0.0} | self.pending_entries
        return frozenset(key for key in keys if strategy is None or key[0] == strategy)


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """One rule's answer: passed?, the measured value against its limit, and the refusal text when it refused."""

    rule: str
    passed: bool
    value: str
    threshold: str
    refusal: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule returns: value and threshold for the record, refusal None when it passes."""

    value: object
    threshold: object
    refusal: Refusal | None = None


class Rule(Protocol):
    """One risk rule. guards_exits: it also judges orders that only reduce a position."""

    guards_exits: bool

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding: ...


RULES: Registry[Rule] = Registry("trading.risk_rules")


def order_prices(intent: Intent, state: RiskState) -> list[float]:
    """Every price that may be an order's: its levels, its reference, the last price. Unknown ones are left out."""
    prices = (intent.limit_price, intent.stop_price, intent.reference_price, state.last_price.get(intent.symbol))
    return [float(p) for p in prices if p is not None and math.isfinite(p)]


def order_notional(intent: Intent, state: RiskState) -> float:
    """Value of the order at the least favourable of its prices, in account currency; NaN when its last price or
    multiplier is unknown."""
    if intent.symbol not in state.last_price:
        return math.nan
    worst = max((abs(p) for p in order_prices(intent, state)), default=math.nan)
    return float(limit_math.order_notional(intent.quantity, worst, state.value_per_point(intent.symbol)))


def limit_missing(name: str, threshold: str = "not set") -> Finding:
    """The answer of a rule whose limit is not configured."""
    return Finding("", threshold, refuse(RefusalCode.LIMIT_MISSING, limit=name))


def not_limited() -> Finding:
    """The answer of a rule whose limit is optional and not set."""
    return Finding("not limited", "not set")


def input_missing(limit: str, what: str, threshold: object) -> Finding:
    """The answer of a rule whose limit is set, but not what it is measured on."""
    return Finding("unknown", threshold, refuse(RefusalCode.RISK_INPUT_MISSING, limit=limit, missing=what))


def tighter(account: float | None, own: float | None) -> float | None:
    """The smaller of the account's limit and the strategy's own; None (missing) when the account has none."""
    if account is None:
        return None
    return account if own is None else min(account, own)


def number(value: float) -> str:
    """A number for a verdict: up to 8 significant digits, no trailing zeros."""
    return f"{value:.8g}"


def check(limits: Limits | None, state: RiskState, intent: Intent, instrument: Instrument) -> list[RuleVerdict]:
    """Every rule's verdict on `intent`, in the order of the rules. Pure; raises nothing.

    limits None (no valid risk file): refused with LIMIT_MISSING. The order may be sent only if ``refusal(verdicts)``
    is empty.
    """
    verdicts = []
    for name, rule in RULES.ordered():
        if intent.reduce_only and not rule.guards_exits:
            continue
        try:
            found = rule.judge(limits or Limits.model_construct(), state, intent, instrument)
        except Exception as error:  # noqa: BLE001 a rule that breaks must refuse, not let the order through
            found = Finding("", "", refuse(RefusalCode.LIMIT_MISSING, rule=name, error=type(error).__name__))
        verdicts.append(
            RuleVerdict(
                name, found.refusal is None, str(found.value), str(found.threshold), str(found.refusal) if found.refusal else ""
            )
        )
    return verdicts


def refusal(verdicts: Sequence[RuleVerdict]) -> str:
    """Text of the first refusal, empty when every rule passed. No verdict at all is a refusal."""
    if not verdicts:
        return str(refuse(RefusalCode.LIMIT_MISSING, reason="no rule ran"))
    return next((v.refusal for v in verdicts if not v.passed), "")
