"""Partitions that changed after something was made of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

APPEND_ONLY = ("partition_changes", "affected_decisions")


def upgrade() -> None:
    op.create_table(
        "partition_changes",
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("old_hash", sa.Text(), nullable=False),
        sa.Column("new_hash", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("partition_changes_by_partition", "partition_changes", ["dataset", "session", "symbol"])
    op.create_index("partition_changes_by_session", "partition_changes", ["session"])
    op.create_table(
        "stale_partitions",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("since_wall", sa.BigInteger(), nullable=False),
        sa.Column("marked_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "session", "symbol"),
    )
    op.create_index("stale_partitions_by_session", "stale_partitions", ["session"])
    op.create_table(
        "announced_changes",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("old_hash", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("announced_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "session", "symbol"),
    )
    op.create_table(
        "affected_decisions",
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("signal_id", sa.String(length=40), nullable=False),
        sa.Column("decision_id", sa.String(length=40), nullable=False),
        sa.Column("hash_then", sa.Text(), nullable=False),
        sa.Column("hash_now", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["change_seq"], ["partition_changes.seq"]),
        sa.PrimaryKeyConstraint("change_seq", "signal_id"),
    )
    op.create_index("affected_decisions_by_signal", "affected_decisions", ["signal_id"])
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION forbid_change()"
        )


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
