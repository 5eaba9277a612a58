"""What the paper broker asks its tables: which orders a bar can reach, and what belongs to an order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, exists, func, select, text

from resources.feeds.protocol import BarClose
from resources.ledger.action_tables import paper_splits
from resources.ledger.base import place_of
from resources.ledger.tables import paper_orders
from trading import orders

TERMINAL = sorted(s.value for s in orders.TERMINAL)
NOT_FLUSHED = func.set_config("synchronous_commit", "off", True)
"""The book's transactions are not waited for on the disk. They stand in the same write-ahead log as the ledger's, which are: what
the ledger says of this book was committed after it, and is on the disk only when this is. A power cut takes what the ledger
never heard of, as if it had not reached the broker."""
SPLITS = exists(select(paper_splits.c.symbol)).label("splits")
_RELATED = """
    client_id IN (
        WITH found AS (SELECT client_id, oco_group, parent_client_id FROM {place} WHERE client_id = ANY(:known)),
        grouped AS (SELECT * FROM found UNION SELECT o.client_id, o.oco_group, o.parent_client_id FROM {place} AS o
            WHERE o.oco_group <> '' AND o.oco_group IN (SELECT oco_group FROM found)),
        entered AS (SELECT * FROM grouped UNION SELECT o.client_id, o.oco_group, o.parent_client_id FROM {place} AS o
            WHERE o.client_id IN (SELECT parent_client_id FROM grouped)),
        legs AS (SELECT * FROM entered UNION SELECT o.client_id, o.oco_group, o.parent_client_id FROM {place} AS o
            WHERE o.parent_client_id IN (SELECT client_id FROM entered))
        SELECT client_id FROM legs UNION SELECT o.client_id FROM {place} AS o
            WHERE o.oco_group <> '' AND o.oco_group IN (SELECT oco_group FROM legs))"""
"""The oco groups of known orders, the entries of all these, their legs, and the groups of those (exits of other parts)."""
_REACHED = f"""
    symbol IN (SELECT o.symbol FROM {{place}} AS o
        JOIN unnest(CAST(:symbols AS text[]), CAST(:highs AS float8[]), CAST(:lows AS float8[]), CAST(:sessions AS int[]))
            AS bar (symbol, high, low, session) ON bar.symbol = o.symbol
        WHERE o.state NOT IN ({", ".join(f"'{state}'" for state in TERMINAL)})
          AND NOT coalesce(
            o.state = 'accepted' AND o.session IS NOT NULL AND o.time_in_force <> 'ioc'
            AND (o.time_in_force <> 'day' OR bar.session <= o.session)
            AND CASE o.order_type WHEN 'stop' THEN
                    CASE o.side WHEN 'buy' THEN bar.high < o.stop_price ELSE bar.low > o.stop_price END
                WHEN 'limit' THEN
                    CASE o.side WHEN 'buy' THEN bar.low > o.limit_price ELSE bar.high < o.limit_price END
                ELSE false END,
            false))"""


def reached(connection: Connection, bars: Sequence[BarClose]) -> Any:
    """Working orders of the symbols in which these bars can do anything to an order.

    A resting stop or limit that has met a bar before, whose level lies beyond all four prices and which no session ends, stays
    as it is: where every order of a symbol is such a one, there is nothing to match.
    """
    prices = [(bar.open, bar.high, bar.low, bar.close) for bar in bars]
    whole = [not any(math.isnan(price) for price in four) for four in prices]
    values = {
        "symbols": [bar.symbol for bar in bars], "sessions": [bar.session for bar in bars],
        "highs": [max(four) if known else math.inf for four, known in zip(prices, whole, strict=True)],
        "lows": [min(four) if known else -math.inf for four, known in zip(prices, whole, strict=True)],
    }  # fmt: skip
    place = place_of(connection, paper_orders)
    return and_(paper_orders.c.state.not_in(TERMINAL), text(_REACHED.format(place=place)).bindparams(**values))


def related(connection: Connection, known: Sequence[str]) -> Any:
    """The orders that belong to `known` ones, by client id."""
    return text(_RELATED.format(place=place_of(connection, paper_orders))).bindparams(known=known)
