"""Requests a feed's plan has used up, kept across restarts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "feed_budgets",
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("used_day", sa.Integer(), nullable=False),
        sa.Column("recent", JSONB(), nullable=False),
        sa.Column("latest_wall", sa.BigInteger(), nullable=False),
        sa.Column("held_until_wall", sa.BigInteger(), nullable=False),
        sa.Column("held_because", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("feed"),
    )


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
