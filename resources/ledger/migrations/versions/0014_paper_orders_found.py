"""Indexes for what the paper broker asks at every close: which orders work in a symbol, what belongs to an order.

Its table keeps every order there ever was.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

TERMINAL = "'canceled', 'denied', 'expired', 'filled', 'rejected'"


def upgrade() -> None:
    op.execute(f"CREATE INDEX paper_orders_working ON paper.orders (symbol) WHERE state NOT IN ({TERMINAL})")
    op.execute("CREATE INDEX paper_orders_by_group ON paper.orders (oco_group) WHERE oco_group <> ''")
    op.execute("CREATE INDEX paper_orders_by_parent ON paper.orders (parent_client_id) WHERE parent_client_id <> ''")


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
