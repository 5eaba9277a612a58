"""What corporate actions did to plans and positions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"

APPEND_ONLY = ("action_decisions", "position_adjustments")


def upgrade() -> None:
    op.create_table(
        "action_decisions",
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("factor", sa.Float(), nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_time", sa.BigInteger(), nullable=False),
        sa.Column("made_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("action_decisions_by_symbol", "action_decisions", ["symbol", "session"])
    op.create_table(
        "action_applications",
        sa.Column("action_id", sa.String(length=40), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("factor", sa.Float(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("content", JSONB(), nullable=False),
        sa.Column("started_time", sa.BigInteger(), nullable=False),
        sa.Column("started_wall", sa.BigInteger(), nullable=False),
        sa.Column("done_wall", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("action_id", "symbol"),
    )
    op.create_index("action_applications_by_state", "action_applications", ["state"])
    op.create_table(
        "position_adjustments",
        sa.Column("action_id", sa.String(length=40), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.String(length=40), nullable=False),
        sa.Column("broker", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("factor", sa.Float(), nullable=False),
        sa.Column("quantity_before", sa.Float(), nullable=False),
        sa.Column("quantity_after", sa.Float(), nullable=False),
        sa.Column("average_before", sa.Float(), nullable=False),
        sa.Column("average_after", sa.Float(), nullable=False),
        sa.Column("cash_in_lieu", sa.Float(), nullable=False),
        sa.Column("adjusted_time", sa.BigInteger(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("action_id", "strategy", "symbol"),
    )
    op.create_index("position_adjustments_by_trade", "position_adjustments", ["trade_id"])
    op.create_table(
        "plan_levels",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("action_id", sa.String(length=40), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("factor", sa.Float(), nullable=False),
        sa.Column("recorded_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("plan", "revision", "action_id"),
    )
    op.create_table(
        "splits",
        sa.Column("action_id", sa.String(length=40), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("factor", sa.Float(), nullable=False),
        sa.Column("quantity_before", sa.Float(), nullable=False),
        sa.Column("quantity_after", sa.Float(), nullable=False),
        sa.Column("average_after", sa.Float(), nullable=False),
        sa.Column("price", sa.Float(), nullable=False),
        sa.Column("cash_in_lieu", sa.Float(), nullable=False),
        sa.Column("split_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("action_id", "symbol"),
        schema="paper",
    )
    op.add_column("orders", sa.Column("filled_units", sa.Float(), nullable=False, server_default="0"), schema="paper")
    op.execute("UPDATE paper.orders SET filled_units = filled_quantity")
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION forbid_change()"
        )


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
