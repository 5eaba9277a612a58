"""Quarantined rows and what operators did about them, scores of partitions, backfill, and how far a verdict has seen.

A resolution is a fact: the database itself refuses to change or remove it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    create_tables()
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON quarantine_resolutions "
        "FOR EACH STATEMENT EXECUTE FUNCTION forbid_change()"
    )
    op.add_column("quality_verdicts", sa.Column("judged_time", sa.BigInteger(), nullable=True))
    # The asset checks judged what was known when they ran. How far the desk had seen was not written down: those verdicts
    # count as expired where there is a limit, until the partition is judged again.
    op.execute("UPDATE quality_verdicts SET judged_time = evaluated_wall WHERE run_id <> 'desk'")


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")


def create_tables() -> None:
    op.create_table(
        "quarantined_rows",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("close_time", sa.BigInteger(), nullable=False),
        sa.Column("received", JSONB(), nullable=False),
        sa.Column("reasons", JSONB(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("occurrences", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("first_wall", sa.BigInteger(), nullable=False),
        sa.Column("seen_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("quarantined_by_partition", "quarantined_rows", ["dataset", "symbol", "session"], unique=False)
    op.create_index("quarantined_by_state", "quarantined_rows", ["state"], unique=False)
    op.create_table(
        "quarantine_resolutions",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("row_id", sa.String(length=40), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("given", JSONB(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("resolved_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("resolutions_by_row", "quarantine_resolutions", ["row_id"], unique=False)
    op.create_table(
        "quality_scores",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("completeness", sa.Float(), nullable=False),
        sa.Column("validity", sa.Float(), nullable=False),
        sa.Column("timeliness", sa.Float(), nullable=False),
        sa.Column("consistency", sa.Float(), nullable=False),
        sa.Column("uniqueness", sa.Float(), nullable=False),
        sa.Column("fault_share", sa.Float(), nullable=False),
        sa.Column("counts", JSONB(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("scored_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "session", "symbol", "content_hash"),
    )
    op.create_table(
        "known_empty",
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("received", sa.Integer(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("asked_wall", sa.BigInteger(), nullable=False),
        sa.Column("ask_again_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "dataset", "symbol", "session"),
    )
    op.create_table(
        "backfill_requests",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("feed", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("first_session", sa.Text(), nullable=False),
        sa.Column("last_session", sa.Text(), nullable=False),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("missing_bars", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("received_bars", sa.Integer(), nullable=False),
        sa.Column("filled_bars", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("planned_wall", sa.BigInteger(), nullable=False),
        sa.Column("asked_wall", sa.BigInteger(), nullable=True),
        sa.Column("done_wall", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("backfill_by_state", "backfill_requests", ["state"], unique=False)
