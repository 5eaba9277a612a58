"""Ledger against paper book, row by row and by SQL: independent of the code under test."""

from __future__ import annotations

from sqlalchemy import Engine, text

from resources.ledger import audit
from tests.desk.kit import CASH

_TERMINAL = "('denied', 'rejected', 'filled', 'canceled', 'expired')"

_COUNTS = {
    # One decision is at most one entry at the broker, one trade is closed at most once, one execution is one fill.
    "duplicates": f"""
        SELECT (SELECT count(*) FROM (SELECT i.parent FROM paper.orders p JOIN intents i ON i.id = p.client_id
                  WHERE i.leg = 'entry' GROUP BY i.parent HAVING count(*) > 1) x)
             + (SELECT count(*) FROM (SELECT execution->>'execution_id' FROM paper.events WHERE execution IS NOT NULL
                  GROUP BY 1 HAVING count(*) > 1) x)
             + (SELECT count(*) FROM (SELECT i.trade_id FROM orders o JOIN intents i ON i.id = o.id
                  WHERE i.leg LIKE 'exit:%' AND o.state NOT IN {_TERMINAL} GROUP BY 1 HAVING count(*) > 1) x)""",
    # Everything the broker has, the ledger has.
    "lost": """
        SELECT (SELECT count(*) FROM paper.orders p WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = p.client_id))
             + (SELECT count(*) FROM paper.events e WHERE e.execution IS NOT NULL AND NOT EXISTS
                  (SELECT 1 FROM fills f WHERE f.id = 'paper/' || (e.execution->>'execution_id')))""",
    # Everything the ledger believes to be at the broker is there, in the same state.
    "phantom": f"""
        SELECT (SELECT count(*) FROM fills f WHERE NOT EXISTS (SELECT 1 FROM paper.events e
                  WHERE 'paper/' || (e.execution->>'execution_id') = f.id
                    AND (e.execution->>'quantity')::float = f.quantity AND (e.execution->>'price')::float = f.price))
             + (SELECT count(*) FROM orders o LEFT JOIN paper.orders p ON p.client_id = o.id
                  WHERE o.state NOT IN {_TERMINAL} AND (p.state IS NULL OR p.state <> o.state))
             + (SELECT count(*) FROM orders o JOIN paper.orders p ON p.client_id = o.id
                  WHERE o.state <> p.state OR o.filled_quantity <> p.filled_quantity)""",
    "wrong_position": """
        SELECT (SELECT count(*) FROM (SELECT symbol, sum(quantity) q FROM positions GROUP BY symbol) l
                  FULL JOIN paper.positions p USING (symbol) WHERE abs(coalesce(l.q, 0) - coalesce(p.quantity, 0)) > 1e-6)
             + (SELECT count(*) FROM positions p LEFT JOIN (SELECT strategy, symbol,
                  sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) q FROM fills GROUP BY 1, 2) f
                  USING (strategy, symbol) WHERE abs(p.quantity - coalesce(f.q, 0)) > 1e-6)""",
    # A trade that went through zero: closed twice.
    "overclosed": """
        SELECT count(*) FROM (SELECT f.trade_id, sum(CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END) q,
                 max(o.side) side FROM fills f JOIN orders o ON o.id = f.trade_id
                 WHERE o.mode <> 'external' GROUP BY 1) x
         WHERE (side = 'buy' AND q < -1e-6) OR (side = 'sell' AND q > 1e-6)""",
    # A trade of an open position that no exit closes and whose stops and closing parts do not add up to what it holds. (Two
    # trades of one strategy that cancel out, as a late fill may leave them, are no position.)
    "unprotected": f"""
        SELECT count(*) FROM (SELECT f.trade_id, abs(sum(CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END)) AS held
                 FROM fills f JOIN positions p USING (strategy, symbol)
                 WHERE strategy <> 'external' AND abs(p.quantity) > 1e-6 GROUP BY 1) x
         WHERE held > 1e-6 AND held > 1e-6 + (SELECT coalesce(sum(
                   CASE WHEN i.leg LIKE 'exit:%' THEN x.held ELSE o.quantity - o.filled_quantity END), 0)
                 FROM orders o JOIN intents i ON i.id = o.id WHERE i.trade_id = x.trade_id AND o.state NOT IN {_TERMINAL}
                  AND (i.leg LIKE 'stop%' OR i.leg LIKE 'scale%' OR i.leg LIKE 'reduce%' OR i.leg LIKE 'exit:%'))""",
    "in_doubt": "SELECT count(*) FROM orders WHERE state IN ('unknown', 'sending', 'initialized', 'pending_cancel')",
    "anomalous": "SELECT count(*) FROM order_events WHERE anomalous",
}

_CASH = """
    SELECT (SELECT cash FROM paper.account) AS theirs,
           :start + coalesce(sum((CASE f.side WHEN 'buy' THEN -1 ELSE 1 END) * f.quantity * f.price
             * (i.content->'meta'->>'multiplier')::float - f.commission), 0) AS ours
      FROM fills f JOIN intents i ON i.id = f.order_id"""

NAMES = (*_COUNTS, "wrong_cash", "audit")


def compare(engine: Engine) -> dict[str, int]:
    """How often each thing is wrong; all 0 when ledger and paper book tell the same story."""
    with engine.connect() as connection:
        found = {name: int(connection.execute(text(query)).scalar_one()) for name, query in _COUNTS.items()}
        cash = connection.execute(text(_CASH), {"start": CASH}).one()
    found["wrong_cash"] = int(not abs(cash.theirs - cash.ours) < 0.005)
    found["audit"] = len(audit.verify(engine))
    return found


def activity(engine: Engine) -> dict[str, int]:
    """How much happened: a campaign in which nothing did proves nothing."""
    queries = {
        "orders": "SELECT count(*) FROM paper.orders",
        "fills": "SELECT count(*) FROM fills",
        "exits": "SELECT count(*) FROM intents WHERE leg LIKE 'exit:%'",
        "given_up": "SELECT count(*) FROM order_events WHERE event = 'not_found'",
    }
    with engine.connect() as connection:
        return {name: int(connection.execute(text(query)).scalar_one()) for name, query in queries.items()}
