"""Notifications: a queue per channel. Audit: one function writes the chain, and triggers put every decision and order in it.

The triggers are deferred to the commit: whoever writes a signal, decision, intent, order event, fill, position or session,
by whatever code, writes its audit record in the same transaction, and holds the chain only for the moment of the commit.
Rows that are there already get their record now, so that from here on each row has one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0006"

APPEND = """
CREATE FUNCTION audit_append(p_actor text, p_action text, p_content text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_seq bigint := 1;
  v_previous text := repeat('0', 64);
  v_last record;
  v_now bigint;
  v_hash text;
BEGIN
  -- One writer at a time: the chain has one end. Released when the caller's transaction ends.
  PERFORM pg_advisory_xact_lock(x'746170656175'::bigint);
  SELECT seq, hash INTO v_last FROM audit ORDER BY seq DESC LIMIT 1;
  IF FOUND THEN
    v_seq := v_last.seq + 1;
    v_previous := v_last.hash;
  END IF;
  v_now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
  -- The bytes of resources.ledger.audit.record_hash: to_json escapes a text as canonical JSON does.
  v_hash := encode(sha256(convert_to(
    '[' || v_seq || ',' || v_now || ',' || to_json(p_actor)::text || ',' || to_json(p_action)::text || ','
    || to_json(p_content)::text || ',' || to_json(v_previous)::text || ']', 'UTF8')), 'hex');
  INSERT INTO audit (seq, time_us, actor, action, content, previous_hash, hash)
  VALUES (v_seq, v_now, p_actor, p_action, convert_to(p_content, 'UTF8'), v_previous, v_hash);
  INSERT INTO desk_state (key, value, updated_wall)
  VALUES ('audit_head', jsonb_build_object('seq', v_seq, 'hash', v_hash), v_now)
  ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_wall = excluded.updated_wall;
  RETURN v_seq;
END $$
"""

ROW = """
CREATE FUNCTION audited_row(p_table text, p_row jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  v_key text;
BEGIN
  -- Bytes of a decision (what it was made from and into) are told by their hash.
  IF p_table = 'decisions' THEN
    FOREACH v_key IN ARRAY ARRAY['snapshot', 'outcome'] LOOP
      p_row := (p_row - v_key) || jsonb_build_object(
        v_key || '_sha256', encode(sha256(decode(substr(p_row ->> v_key, 3), 'hex')), 'hex'));
    END LOOP;
  ELSIF p_table = 'quality_verdicts' THEN
    p_row := p_row - 'examples';
  END IF;
  RETURN p_row;
END $$
"""

TRIGGER = """
CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql SET bytea_output = 'hex' AS $$
DECLARE
  v_row jsonb;
  v_op text := '';
BEGIN
  IF TG_OP = 'DELETE' THEN
    v_row := to_jsonb(OLD);
    v_op := 'delete';
  ELSE
    v_row := to_jsonb(NEW);
    IF TG_OP = 'UPDATE' THEN
      v_op := 'update';
    END IF;
  END IF;
  PERFORM audit_append(
    coalesce(nullif(current_setting('tapeline.who', true), ''), TG_ARGV[1]),
    TG_ARGV[0],
    (jsonb_build_object('table', TG_TABLE_NAME, 'row', audited_row(TG_TABLE_NAME, v_row))
     || CASE WHEN v_op = '' THEN '{}'::jsonb ELSE jsonb_build_object('op', v_op) END)::text);
  RETURN NULL;
END $$
"""

FACTS = (
    ("signals", "signal", "dagster"),
    ("decisions", "decision", "dagster"),
    ("intents", "intent", "desk"),
    ("order_events", "order_event", "desk"),
    ("fills", "fill", "desk"),
)
"""Table, action and actor of what is in the chain row by row."""

CHANGES = (
    ("positions", "position", "desk", "INSERT", ""),
    (
        "positions", "position", "desk", "UPDATE",
        "OLD.quantity IS DISTINCT FROM NEW.quantity OR OLD.trade_id IS DISTINCT FROM NEW.trade_id "
        "OR OLD.realized_pnl IS DISTINCT FROM NEW.realized_pnl",
    ),
    ("sessions", "session", "desk", "INSERT", ""),
    ("sessions", "session", "desk", "UPDATE", "OLD.state IS DISTINCT FROM NEW.state"),
    ("quality_verdicts", "quality", "quality", "INSERT", "NOT NEW.passed AND NEW.severity = 'error'"),
    (
        "quality_verdicts", "quality", "quality", "UPDATE",
        "OLD.passed IS DISTINCT FROM NEW.passed AND NEW.severity = 'error'",
    ),
)  # fmt: skip
"""Table, action, actor, event and condition of what is in the chain when it changes."""


def upgrade() -> None:
    op.execute(APPEND)
    op.execute(ROW)
    op.execute(TRIGGER)
    for table, action, actor in FACTS:
        op.execute(
            f"SELECT audit_append('migration 0011', '{action}', "
            f"jsonb_build_object('table', '{table}', 'row', audited_row('{table}', to_jsonb(t)))::text) "
            f"FROM (SELECT * FROM {table} ORDER BY {_order(table)}) t"
        )
        _trigger(table, action, actor, "INSERT OR UPDATE OR DELETE", "")
    for table in ("positions",):
        op.execute(
            f"SELECT audit_append('migration 0011', 'position', "
            f"jsonb_build_object('table', '{table}', 'row', to_jsonb(t))::text) FROM {table} t"
        )
    for table, action, actor, event, condition in CHANGES:
        _trigger(table, action, actor, event, condition)
    op.create_index("audit_by_time", "audit", ["time_us"])
    op.create_index("audit_by_action", "audit", ["action", "seq"])
    create_queue()


def _order(table: str) -> str:
    return {"order_events": "seq", "fills": "recorded_wall, id"}.get(table, "created_wall, id")


def _trigger(table: str, action: str, actor: str, event: str, condition: str) -> None:
    name = f"audited_{event.split()[0].lower()}"
    when = f"WHEN ({condition}) " if condition else ""
    op.execute(
        f"CREATE CONSTRAINT TRIGGER {name} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW {when}EXECUTE FUNCTION audit_row('{action}', '{actor}')"
    )


def create_queue() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("dedupe_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("audit_seq", sa.BigInteger()),
        sa.Column("happened_wall", sa.BigInteger(), nullable=False),
        sa.Column("queued_wall", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("parts_sent", sa.Integer(), nullable=False),
        sa.Column("done_wall", sa.BigInteger()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("channel", "dedupe_id"),
    )
    op.create_index("notifications_waiting", "notifications", ["channel", "id"], postgresql_where=sa.text("state = 'queued'"))
    op.create_index("notifications_by_state", "notifications", ["state", "id"])
    op.create_table(
        "notification_channels",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("not_before_wall", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since_wall", sa.BigInteger()),
        sa.Column("last_sent_wall", sa.BigInteger()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel"),
    )
    op.create_table(
        "notification_cursor",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_wall", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source"),
    )
    # History is not told: the queue begins with what happens from now on.
    op.execute("INSERT INTO notification_cursor SELECT 'audit', coalesce(max(seq), 0), 0 FROM audit")


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
