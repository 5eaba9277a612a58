"""Accounting from evidence: first in first out beside average cost, several currencies, and what must never be believed."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trading import lots, portfolio
from trading.account import Account, AccountingError, Contract, Executed, Ordered, RateMissing, account_of
from trading.lots import Lot
from trading.orders import Side
from trading.portfolio import Fill

BUY, SELL = Side.BUY, Side.SELL
CONTRACTS = {"ACME": Contract(), "ES": Contract(50.0), "SAP": Contract(1.0, "EUR"), "BUND": Contract(1000.0, "EUR")}
fills = st.builds(
    Fill, st.sampled_from([BUY, SELL]), st.integers(1, 50).map(float), st.integers(1, 400).map(lambda n: n / 4),
    st.integers(0, 8).map(lambda n: n / 4),
)  # fmt: skip


def test_first_in_first_out_by_hand() -> None:
    # Buy 100 at 10 and 100 at 12. Sell 150 at 13: 100 of the first (300), 50 of the second (50). Sell 100 at 10: 50 of the
    # second (-100), 50 go short at 10. Buy 50 at 9: 50 made. Commission 1 each.
    steps = [(BUY, 100, 10.0), (BUY, 100, 12.0), (SELL, 150, 13.0), (SELL, 100, 10.0), (BUY, 50, 9.0)]
    after = [
        ((Lot(100, 10.0),), -1.0), ((Lot(100, 10.0), Lot(100, 12.0)), -2.0), ((Lot(50, 12.0),), 347.0),
        ((Lot(-50, 10.0),), 246.0), ((), 295.0),
    ]  # fmt: skip
    position = lots.LotPosition()
    for (side, quantity, price), (open_lots, realized) in zip(steps, after, strict=True):
        position = lots.apply_fill(position, Fill(side, quantity, price, 1.0))
        assert (position.lots, position.realized_pnl) == (open_lots, realized)


@given(st.lists(fills, max_size=25), st.sampled_from([1.0, 50.0]), st.integers(1, 400).map(lambda n: n / 4))
def test_both_methods_agree_on_quantity_and_on_the_sum_of_profit(history: list[Fill], multiplier: float, price: float) -> None:
    one, other = portfolio.position_of(history, multiplier), lots.position_of(history, multiplier)
    assert one.quantity == pytest.approx(other.quantity)
    assert one.commission == pytest.approx(other.commission)
    scale = 1 + sum(f.quantity * f.price for f in history) * multiplier
    made = one.realized_pnl + one.unrealized_pnl(price, multiplier)
    assert made == pytest.approx(other.realized_pnl + other.unrealized_pnl(price, multiplier), abs=1e-9 * scale)


@given(st.lists(fills, max_size=25))
def test_lots_are_all_of_one_side_and_the_oldest_goes_first(history: list[Fill]) -> None:
    held = lots.position_of(history).lots
    assert len({lot.quantity > 0 for lot in held}) <= 1
    prices = [f.price for f in history]
    assert all(lot.price in prices for lot in held)


@given(st.lists(fills, max_size=12), st.sampled_from([2.0, 7.0, 0.25]))
def test_a_split_changes_no_value(history: list[Fill], factor: float) -> None:
    before = lots.position_of(history)
    after = lots.split(before, factor)
    assert after.unrealized_pnl(10.0 / factor) == pytest.approx(before.unrealized_pnl(10.0), abs=1e-6)
    with pytest.raises(ValueError, match="split factor"):
        lots.split(before, math.nan)


def test_an_account_in_two_currencies_by_hand() -> None:
    account = account_of(
        CONTRACTS,
        [
            Ordered("1", "ACME", BUY, 10), Executed("a", "1", 1, 10, 100.0, 1.0),  # -1,001 USD
            Ordered("2", "SAP", SELL, 5), Executed("b", "2", 2, 5, 80.0, 2.0),  # +398 EUR
            Ordered("3", "ES", BUY, 1), Executed("c", "3", 3, 1, 4000.0, 4.0),  # -200,004 USD
        ],
    )  # fmt: skip
    account.deposit("USD", 10_000.0)
    assert account.cash() == {"EUR": 398.0, "USD": 10_000.0 - 1001.0 - 200_004.0}
    # ACME at 110 is worth 1,100; SAP at 70 costs 350 EUR; ES at 4010 is worth 200,500. EUR at 1.10.
    marks = {"ACME": 110.0, "SAP": 70.0, "ES": 4010.0}
    assert account.equity(marks, "USD", {"EUR": 1.1}) == pytest.approx(10_000 + 99 + 48 * 1.1 + 496)
    with pytest.raises(RateMissing, match="no rate of EUR in USD"):
        account.equity(marks, "USD", {})
    with pytest.raises(RateMissing, match="no price of SAP, of which -5 are held"):
        account.equity({"ACME": 110.0, "ES": 4010.0}, "USD", {"EUR": 1.1})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Executed("a", "1", 1, 5, 99.0), "execution a was"),
        (Executed("z", "9", 1, 5, 99.0), "unknown order 9"),
        (Executed("z", "1", 1, 6, 99.0), "5 of 10 are filled, 6 more would be too much"),
        (Executed("z", "1", 1, math.nan, 99.0), "not a fill"),
        (Ordered("1", "ACME", SELL, 10), "order 1 was"),
        (Ordered("2", "NONE", BUY, 10), "no contract terms of NONE"),
    ],
)
def test_what_contradicts_is_not_booked(event: Ordered | Executed, message: str) -> None:
    account = account_of(CONTRACTS, [Ordered("1", "ACME", BUY, 10), Executed("a", "1", 1, 5, 100.0)])
    before = account.cash()
    with pytest.raises(AccountingError, match=message):
        account.apply(event)
    assert account.cash() == before


def test_an_execution_told_twice_counts_once() -> None:
    account = account_of(CONTRACTS, [Ordered("1", "ACME", BUY, 10)])
    fill = Executed("a", "1", 1, 10, 100.0)
    assert [account.apply(fill), account.apply(fill)] == [True, False]
    assert account.position("ACME").quantity == 10


class Trading(RuleBasedStateMachine):
    """A broker that fills orders in parts, tells some fills twice, and an account that must keep up with a plain ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account(CONTRACTS)
        self.account.deposit("USD", 1_000_000.0)
        self.account.deposit("EUR", 500_000.0)
        self.events: list[Ordered | Executed] = []
        self.open: dict[str, float] = {}
        self.sequence = 0
        self.cash = {"USD": 1_000_000.0, "EUR": 500_000.0}
        self.held = dict.fromkeys(CONTRACTS, 0.0)

    @rule(symbol=st.sampled_from(sorted(CONTRACTS)), side=st.sampled_from([BUY, SELL]), quantity=st.integers(1, 100))
    def order(self, symbol: str, side: Side, quantity: int) -> None:
        event = Ordered(f"o{len(self.open)}", symbol, side, float(quantity))
        self.open[event.order_id] = float(quantity)
        self.events.append(event)
        assert self.account.apply(event)

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), price=st.integers(1, 4000), fee=st.integers(0, 5))
    def fill(self, data: st.DataObject, price: int, fee: int) -> None:
        order_id = data.draw(st.sampled_from(sorted(o for o, left in self.open.items() if left)))
        quantity = float(data.draw(st.integers(1, int(self.open[order_id]))))
        self.open[order_id] -= quantity
        self.sequence += 1
        event = Executed(f"x{self.sequence}", order_id, self.sequence, quantity, price / 4, float(fee))
        self.events.append(event)
        assert self.account.apply(event)
        order = next(e for e in self.events if isinstance(e, Ordered) and e.order_id == order_id)
        contract = CONTRACTS[order.symbol]
        self.cash[contract.currency] -= order.side.sign * quantity * price / 4 * contract.multiplier + fee
        self.held[order.symbol] += order.side.sign * quantity

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def tell_again(self, data: st.DataObject) -> None:
        assert not self.account.apply(data.draw(st.sampled_from(self.events)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def too_much(self, data: st.DataObject) -> None:
        order_id = data.draw(st.sampled_from(sorted(self.open)))
        with pytest.raises(AccountingError):
            self.account.apply(Executed("more", order_id, 10**6, self.open[order_id] + 1.0, 1.0))

    @invariant()
    def cash_and_positions_are_the_equity(self) -> None:
        assert self.account.cash() == pytest.approx(self.cash)
        for symbol, held in self.held.items():
            assert self.account.position(symbol).quantity == pytest.approx(held)
            assert self.account.lots(symbol).quantity == pytest.approx(held)
        prices, rate = dict.fromkeys(CONTRACTS, 100.0), 1.25
        expected = self.cash["USD"] + rate * self.cash["EUR"]
        expected += sum(held * 100.0 * CONTRACTS[s].multiplier * (rate if CONTRACTS[s].currency == "EUR" else 1.0)
                        for s, held in self.held.items())  # fmt: skip
        assert self.account.equity(prices, "USD", {"EUR": rate}) == pytest.approx(expected)

    @invariant()
    def fills_never_exceed_orders(self) -> None:
        for event in self.events:
            if isinstance(event, Ordered):
                assert self.account.filled(event.order_id) <= event.quantity

    def teardown(self) -> None:
        """The same events in another order a broker could tell them in: the same account, to the bit."""
        shuffled = list(self.events)
        random.Random(len(shuffled)).shuffle(shuffled)
        shuffled.sort(key=lambda e: isinstance(e, Executed))
        again = Account(CONTRACTS, dict(self.account.deposits))
        for event in shuffled:
            again.apply(event)
        assert again.cash() == self.account.cash()
        for symbol in CONTRACTS:
            assert again.position(symbol) == self.account.position(symbol)
            assert again.lots(symbol) == self.account.lots(symbol)


TestTrading = Trading.TestCase
TestTrading.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
