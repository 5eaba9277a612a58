"""Opposite signals and legs of pairs: the trade run with the desk, and the backtest, enter, refuse and close the same.

The live side is its own: signals in the ledger, trade_lane.decide, trade_lane.post, router, exit check, paper broker. Both see
the same random wishes: two strategies on either side of one instrument, a third beside them, and a pair across two.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine, text

from assets import trade_lane
from desk.exits import LEG, check_exits
from resources.desk_client import DecisionReceipt
from resources.feeds.protocol import BarClose
from resources.ledger.store import VerdictRow
from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, Desk, Rule, bar, decision, hour
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.conflict_policy import ConflictRule
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.limits import DailyLoss, OrderRate
from trading.quality import ERROR_CHECKS
from trading.signals import Action, Decision, PartitionRef
from trading.timeframes import Timeframe, session_date

HOURS = 30
COSTS = Costs("per_value", 0.00002, 0.1, "fixed", 1)
SIZING = {"kind": "risk_percent", "percent": 0.05}
WIDE = LIMITS.model_copy(
    update={
        "max_order_quantity": 1e9, "max_notional": 1e9, "max_position_notional": 1e9, "daily_loss": DailyLoss(amount=1e9),
        "max_concurrent_positions": 4,  # now and then only one leg finds room
        "max_net_leverage": 1.0, "order_rate": OrderRate(orders=3, seconds=60),
    }
)  # fmt: skip
NAMES = ("alpha", "beta", "gamma", "twins")  # in the order of decisions
SLOTS = (("alpha", "EURUSD"), ("beta", "EURUSD"), ("gamma", "EURUSD"), ("twins", "EURUSD"), ("twins", "GBPUSD"))


@dataclass(frozen=True)
class Twin(Rule):
    """What a trade run asks of a strategy; its exits are what ends it beside the orders."""

    legs: tuple[str, ...] = ()
    min_reward_to_risk: float = 0.0
    revision: str = "rev1"
    kind: str = "rules"
    valid_bars: int = 1
    warm_up: Any = None
    timeframes: tuple[Timeframe, ...] = (Timeframe.H1,)


BOTH = ("EURUSD", "GBPUSD")
FILES = {name: Twin(name, BOTH, legs=BOTH) if name == "twins" else Twin(name, ("EURUSD",)) for name in NAMES}


def walk(symbol: str) -> list[BarClose]:
    """Bars of a jumpy random walk."""
    dice, price, made = random.Random(f"together {symbol}"), 12_000, []
    for n in range(HOURS + 1):
        opened = price + dice.randint(-12, 12)
        price = opened + dice.randint(-20, 20)
        high, low = max(opened, price) + dice.randint(0, 25), min(opened, price) - dice.randint(0, 25)
        made.append(bar(symbol, n, opened / 10_000, high / 10_000, low / 10_000, price / 10_000))
    return made


def as_arrays(bars: list[BarClose]) -> Bars:
    prices = (np.array([getattr(b, c) for b in bars], np.float64) for c in ("open", "high", "low", "close", "volume"))
    times, sessions = np.array([b.close_time for b in bars], np.int64), np.array([b.session for b in bars], np.int32)
    return Bars(bars[0].symbol, Timeframe.H1, times, sessions, *prices)


def wishes(slot: tuple[str, str], bars: Bars) -> Evaluation:
    """Random entries with stop and target around the close. The legs of the pair wish at the same closes but for a few."""
    strategy, symbol = slot
    dice, size = np.random.default_rng([7, NAMES.index(strategy)]), len(bars)
    side = dice.integers(0, 5, size)  # long, short, nothing
    strength = np.round(dice.random(size), 1)
    if strategy == "twins" and symbol == "GBPUSD":
        side = np.where(dice.random(size) < 0.15, 4, np.where(side < 2, 1 - side, side))
    own = np.random.default_rng([8, *map(ord, strategy + symbol)])
    away = np.round(own.integers(8, 30, size) / 10_000, 4)
    never = np.zeros(size, bool)
    return Evaluation(
        symbol, Timeframe.H1, bars.close_time, np.ones(size, bool), side == 0, side == 1, never, never,
        np.round(bars.close - away, 4), np.round(bars.close + away, 4), np.round(bars.close + 2 * away, 4),
        np.round(bars.close - 2 * away, 4), strength,
    )  # fmt: skip


class Client:
    """The desk as the trade run sees it, without the wire."""

    def __init__(self, desk: Desk) -> None:
        self.router, self.taken_back = desk.router, 0

    def submit_decision(self, made: Decision, close_time: int) -> DecisionReceipt:
        result = self.router.submit_decision(made)
        return DecisionReceipt(made.id, result.accepted, result.refusal, result.intent_ids)

    def cancel(self, order_id: str, reason: str, who: str) -> None:
        self.router.cancel(order_id, reason, who)
        self.taken_back += 1


class NoBars:
    """A pair that holds both legs is judged by its rule, which the check of the legs comes before."""

    def bars(self, *_: Any) -> Bars:
        raise ValueError("not asked here")


def live(desk: Desk, made: dict[str, list[BarClose]], evaluations: dict[tuple[str, str], Evaluation]) -> Client:
    """Every close through the trade run and the desk."""
    client, known, judged = Client(desk), dict(desk.config.strategies), set[str]()
    for n in range(HOURS + 1):
        session = session_date(made["EURUSD"][n].session).isoformat()
        if session not in judged:
            judged.add(session)
            desk.ledger.put_verdicts(
                [VerdictRow("bars_1h", session, s, check, True, "error", "hash1") for s in made for check in ERROR_CHECKS]
            )
        desk.close(n, *(bars[n] for bars in made.values()))
        closed = {s: {Timeframe.H1: as_arrays([bars[n]])} for s, bars in made.items()}
        for check in check_exits(desk.store.open_positions(), known, INSTRUMENTS, NoBars(), closed, hour(n)):  # type: ignore[arg-type]
            if check.reason:
                assert check.reason == LEG
                desk.router.exit_position(check.strategy, check.symbol, LEG, hour(n))
        signals = []
        for (strategy, symbol), wish in evaluations.items():
            if wish.enter_long[n] or wish.enter_short[n]:
                long = bool(wish.enter_long[n])
                signals.append(
                    decision(
                        n, strategy, symbol, Action.ENTER_LONG if long else Action.ENTER_SHORT, mode="paper",
                        reference=float(made[symbol][n].close), stop=float((wish.stop_long if long else wish.stop_short)[n]),
                        target=float((wish.target_long if long else wish.target_short)[n]), sizing=SIZING,
                        strength=float(wish.strength[n]),
                        partitions=(PartitionRef("bars_1h", session, symbol, "hash1"),),
                    ).signal
                )  # fmt: skip
        rows = trade_lane.decide(signals, desk.config, desk.ledger, hour(n))
        trade_lane.post([row.decision for row in rows], client, hour(n), trade_lane.legs(desk.config))  # type: ignore[arg-type]
    return client


def test_conflicts_and_legs_are_the_same_live_and_in_a_backtest(ledger_engine: Engine) -> None:
    rule = ConflictRule(policy="strongest", positions="block")
    made = {symbol: walk(symbol) for symbol in ("EURUSD", "GBPUSD")}
    arrays = {symbol: as_arrays(bars) for symbol, bars in made.items()}
    evaluations = {slot: wishes(slot, arrays[slot[1]]) for slot in SLOTS}
    expected: BacktestResult = backtest(
        list(evaluations.values()), [arrays[s] for _, s in SLOTS], [INSTRUMENTS[s] for _, s in SLOTS], cash=CASH, sizing=SIZING,
        costs=COSTS, limits=WIDE, strategy=[name for name, _ in SLOTS], require_stop=True, conflicts=rule,
        files=[FILES[name] for name, _ in SLOTS],  # type: ignore[misc]
    )  # fmt: skip
    desk = Desk(ledger_engine, costs=COSTS).open()
    desk.config.limits, desk.config.strategies, desk.config.plans = WIDE, dict(FILES), {}
    object.__setattr__(desk.config.universe, "conflicts", rule)
    client = live(desk, made, evaluations)

    with ledger_engine.connect() as connection:
        fills = [
            (r.strategy, r.symbol, r.side, r.quantity, round(r.price, 6))
            for r in connection.execute(
                text("SELECT strategy, symbol, side, quantity, price FROM fills ORDER BY fill_time, strategy, symbol, price")
            )
        ]
    told = [(r["strategy"], r["symbol"], r["side"], r["quantity"], round(r["price"], 6)) for r in expected.fill_rows()]
    assert sorted(fills) == sorted(told)
    assert len(fills) > 12
    assert expected.refusals["CONFLICT"] > 3
    assert expected.refusals["LEG_MISSING"] > 0
    assert {r["leg"] for r in expected.fill_rows()} >= {"leg"}, "a leg was left alone, and closed"
    assert client.taken_back == sum(r["end"] == "canceled" for r in expected.order_rows())
    assert client.taken_back > 0, "a limit refused one leg, and the desk took the other back"
    assert expected.refusals["NET_EXPOSURE"] > 0
