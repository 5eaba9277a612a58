"""Alembic's entry: runs the migrations on the connection that resources.ledger.migrate hands over, in its transaction."""

from alembic import context

from resources.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, include_schemas=True)
with context.begin_transaction():
    context.run_migrations()
