"""What the paper broker asks its tables: which orders a bar can reach, and what belongs to an order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, exists, select, text

from resources.feeds.protocol import BarClose
from resources.ledger.action_tables import paper_splits
from resources.ledger.base import Gather, at_once, place_of
from resources.ledger.tables import paper_account, paper_orders, paper_positions
from trading import orders

ACCOUNT_ID = "paper"
TERMINAL = sorted(s.value for s in orders.TERMINAL)
SPLITS = exists(select(paper_splits.c.symbol)).label("splits")
_IN_TERMINAL = "(" + ", ".join(f"'{state}'" for state in TERMINAL) + ")"
_RELATED = """
    client_id IN (
        WITH found AS (SELECT client_id, oco_group, parent_client_id FROM {place} WHERE {found}),
        grouped AS (SELECT * FROM found UNION SELECT o.client_id, o.oco_group, o.parent_client_id FROM {place} AS o
            WHERE o.oco_group <> '' AND o.oco_group IN (SELECT oco_group FROM found)),
        entered AS (SELECT * FROM grouped UNION SELECT o.client_id, o.oco_group, o.parent_client_id FROM {place} AS o
            WHERE o.client_id IN (SELECT parent_client_id FROM grouped)),
        legs AS (SELECT * FROM entered UNION SELECT o.client_id, o.oco_group, o.parent_client_id FROM {place} AS o
            WHERE o.parent_client_id <> '' AND o.parent_client_id IN (SELECT client_id FROM entered))
        SELECT client_id FROM legs UNION SELECT o.client_id FROM {place} AS o
            WHERE o.oco_group <> '' AND o.oco_group IN (SELECT oco_group FROM legs))"""
"""The oco groups of the orders found, the entries of all these, their legs, and the groups of those (exits of other parts)."""
_FAMILY = "client_id = ANY(CAST(:ids AS text[])) OR parent_client_id <> '' AND parent_client_id = ANY(CAST(:ids AS text[]))"
_REACHED = f"""
    state NOT IN {_IN_TERMINAL} AND symbol IN (SELECT o.symbol FROM {{place}} AS o
        JOIN unnest(CAST(:symbols AS text[]), CAST(:highs AS float8[]), CAST(:lows AS float8[]), CAST(:sessions AS int[]))
            AS bar (symbol, high, low, session) ON bar.symbol = o.symbol
        WHERE o.state NOT IN {_IN_TERMINAL}
          AND NOT coalesce(
            o.state = 'accepted' AND o.session IS NOT NULL AND o.time_in_force <> 'ioc'
            AND (o.time_in_force <> 'day' OR bar.session <= o.session)
            AND CASE o.order_type WHEN 'stop' THEN
                    CASE o.side WHEN 'buy' THEN bar.high < o.stop_price ELSE bar.low > o.stop_price END
                WHEN 'limit' THEN
                    CASE o.side WHEN 'buy' THEN bar.low > o.limit_price ELSE bar.high < o.limit_price END
                ELSE false END,
            false))"""

Values = dict[str, Any]


class Load(StrEnum):
    """Which orders of the book a change needs."""

    BY_ID = "client_id = ANY(CAST(:ids AS text[]))"
    FAMILY = _FAMILY
    """Those of these ids, and the legs of these."""
    ALL_RELATED = _RELATED.replace("{found}", _FAMILY)
    REACHED = _RELATED.replace("{found}", _REACHED)
    """What the bars can do anything to, and what belongs to it."""
    OF_SYMBOL = "symbol = :symbol"


@lru_cache(64)
def loaded(load: Load, place: str, positions: bool) -> Gather:
    """Account, orders and, where they are needed, positions, in one read. place: see resources.ledger.base.place_of."""
    wanted: dict[str, Any] = {
        "account": select(paper_account, SPLITS).where(paper_account.c.account_id == bindparam("account")),
        "orders": select(paper_orders).where(text(load.value.format(place=place))),
    }
    return Gather(**wanted, **({"positions": select(paper_positions)} if positions else {}))


def taken(connection: Connection) -> Values:
    """Execution options of a change's first statement: the account's row is locked before it.

    The book's transactions are not waited for on the disk. They stand in the same write-ahead log as the ledger's, which are:
    what the ledger says of this book was committed after it, and is on the disk only when this is. A power cut takes what the
    ledger never heard of, as if it had not reached the broker.
    """
    account = f"SELECT 1 FROM {place_of(connection, paper_account)} WHERE account_id = '{ACCOUNT_ID}' FOR UPDATE"
    return at_once(f"SET LOCAL synchronous_commit TO off; {account}")


def reaching(bars: Sequence[BarClose]) -> Values:
    """Values of `Load.REACHED`: working orders of the symbols in which these bars can do anything to an order.

    A resting stop or limit that has met a bar before, whose level lies beyond all four prices and which no session ends, stays
    as it is: where every order of a symbol is such a one, there is nothing to match.
    """
    prices = [(bar.open, bar.high, bar.low, bar.close) for bar in bars]
    whole = [not any(math.isnan(price) for price in four) for four in prices]
    return {
        "symbols": [bar.symbol for bar in bars], "sessions": [bar.session for bar in bars],
        "highs": [max(four) if known else math.inf for four, known in zip(prices, whole, strict=True)],
        "lows": [min(four) if known else -math.inf for four, known in zip(prices, whole, strict=True)],
    }  # fmt: skip
