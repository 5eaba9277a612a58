"""Entries worked in slices, and what belongs to one trade at the paper broker."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "algo_parents",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("decision_id", sa.String(40), nullable=False, unique=True),
        sa.Column("trade_id", sa.String(40), nullable=False),
        *(sa.Column(n, sa.Text(), nullable=False) for n in ("strategy", "symbol", "session", "broker", "mode", "algo", "side")),
        sa.Column("quantity", sa.Float(), nullable=False),
        sa.Column("schedule", JSONB(), nullable=False),
        sa.Column("content", JSONB(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_time", sa.BigInteger(), nullable=False),
        sa.Column("created_wall", sa.BigInteger(), nullable=False),
        sa.Column("ended_time", sa.BigInteger()),
    )
    op.create_index("algo_parents_by_state", "algo_parents", ["state"])
    op.create_index("algo_parents_by_trade", "algo_parents", ["trade_id"])
    op.create_table(
        "algo_slices",
        sa.Column("parent_id", sa.String(40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("intent_id", sa.String(40)),
        sa.Column("quantity", sa.Float(), nullable=False),
        sa.Column("refusal", sa.Text(), nullable=False),
        sa.Column("risk", JSONB(), nullable=False),
        sa.Column("wanted_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("parent_id", "number"),
    )
    op.add_column("orders", sa.Column("trade", sa.Text(), nullable=False, server_default=""), schema="paper")
    op.create_index("paper_orders_by_trade", "orders", ["trade"], schema="paper", postgresql_where=sa.text("trade <> ''"))


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
