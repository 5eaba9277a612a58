"""Which kind of action an operator confirmed, and what models and reports were made of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("action_decisions", sa.Column("kind", sa.Text(), nullable=False, server_default="split"))
    op.create_table(
        "made_outputs",
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sources", JSONB(), nullable=False),
        sa.Column("read_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "name"),
    )


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
