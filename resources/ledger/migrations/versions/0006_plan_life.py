"""Where trade plans stand, and what happened to them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

APPEND_ONLY = ("plan_revisions", "plan_events")


def upgrade() -> None:
    op.create_table(
        "plan_states",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("since_time", sa.BigInteger(), nullable=False),
        sa.Column("updated_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("plan"),
    )
    op.create_index("plan_states_by_state", "plan_states", ["state"])
    op.create_table(
        "plan_revisions",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("recorded_time", sa.BigInteger(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("plan", "revision"),
    )
    op.create_table(
        "plan_events",
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("state_before", sa.Text(), nullable=False),
        sa.Column("state_after", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("content", JSONB(), nullable=False),
        sa.Column("event_time", sa.BigInteger(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("plan_events_by_plan", "plan_events", ["plan", "seq"])
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION forbid_change()"
        )


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
