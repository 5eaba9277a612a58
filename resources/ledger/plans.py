"""What the ledger knows of a trade plan's life."""

from __future__ import annotations

from sqlalchemy import Engine, exists, select

from resources.ledger import tables as t


def has_entered(engine: Engine, name: str) -> bool:
    """Has an entry of plan `name` ever been sent (any revision)? A plan is one idea: it enters once."""
    sent = select(t.intents.c.id).where(t.intents.c.strategy == name, t.intents.c.leg == "entry", t.intents.c.refusal == "")
    with engine.connect() as connection:
        return bool(connection.execute(select(exists(sent))).scalar())
