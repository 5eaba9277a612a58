"""Prices told from one desk to another: whole, in order, to whoever listens, and kept nowhere."""

from __future__ import annotations

import math

from sqlalchemy import Engine, text

from resources import told_prices


def test_who_listens_hears_every_price_in_order_however_many_and_what_was_told_before_is_gone(ledger_engine: Engine) -> None:
    prices = [(f"SYMBOL{n}", 1.0 + n / 7, 1_514_361_600_000_000 + n) for n in range(1_000)]
    told_prices.tell(ledger_engine, prices[:1])
    with told_prices.listening(ledger_engine) as wait:
        assert wait(0.0) == []
        told_prices.tell(ledger_engine, prices)
        heard: list[told_prices.Price] = []
        while len(heard) < len(prices):
            heard += wait(10.0)
        assert heard == prices


def test_what_is_no_price_is_not_told_and_what_is_no_message_tells_none(ledger_engine: Engine) -> None:
    with told_prices.listening(ledger_engine) as wait:
        told_prices.tell(ledger_engine, [("X", math.nan, 1), ("X", 0.0, 1), ("X", math.inf, 1)])
        with ledger_engine.begin() as connection:
            connection.execute(text("SELECT pg_notify('tapeline_prices', 'nonsense')"))
            connection.execute(text("SELECT pg_notify('tapeline_prices', '[[1, 2]]')"))
        told_prices.tell(ledger_engine, [("X", 2.5, 7)])
        heard = wait(10.0)
        while not heard:
            heard = wait(10.0)
        assert heard == [("X", 2.5, 7)]
