"""The audit's end is found once a transaction, and kept beside the chain once: a bar close that moves 100 orders writes 1,000.

The records and their hashes are what they were. `audit_append` remembers the newest record of its transaction in a setting that
lives as long as that (a savepoint that is rolled back takes its word back, too), because until the commit nobody else can
append. The head beside the chain (desk_state ``audit_head``) is written when the transaction commits, by the newest record alone.

And indexes for what is asked at every order: has this plan entered before, what did this strategy earn.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

APPEND = """
CREATE OR REPLACE FUNCTION audit_append(p_actor text, p_action text, p_content text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  v_head text := coalesce(current_setting('tapeline.audit_head', true), '');
  v_seq bigint := 1;
  v_previous text := repeat('0', 64);
  v_last record;
  v_now bigint;
  v_hash text;
BEGIN
  IF v_head <> '' THEN
    -- This transaction has appended before and holds the chain's lock: the end is where it left it.
    v_seq := split_part(v_head, ' ', 1)::bigint + 1;
    v_previous := split_part(v_head, ' ', 2);
  ELSE
    -- One writer at a time: the chain has one end. Released when the caller's transaction ends.
    PERFORM pg_advisory_xact_lock(x'746170656175'::bigint);
    SELECT seq, hash INTO v_last FROM audit ORDER BY seq DESC LIMIT 1;
    IF FOUND THEN
      v_seq := v_last.seq + 1;
      v_previous := v_last.hash;
    END IF;
  END IF;
  v_now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
  -- The bytes of resources.ledger.audit.record_hash: to_json escapes a text as canonical JSON does.
  v_hash := encode(sha256(convert_to(
    '[' || v_seq || ',' || v_now || ',' || to_json(p_actor)::text || ',' || to_json(p_action)::text || ','
    || to_json(p_content)::text || ',' || to_json(v_previous)::text || ']', 'UTF8')), 'hex');
  INSERT INTO audit (seq, time_us, actor, action, content, previous_hash, hash)
  VALUES (v_seq, v_now, p_actor, p_action, convert_to(p_content, 'UTF8'), v_previous, v_hash);
  PERFORM set_config('tapeline.audit_head', v_seq || ' ' || v_hash, true);
  RETURN v_seq;
END $$
"""

HEAD = """
CREATE FUNCTION audit_keep_head() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Every record asks at the commit; the newest of the transaction answers for all.
  IF NEW.seq || ' ' || NEW.hash = coalesce(current_setting('tapeline.audit_head', true), '') THEN
    INSERT INTO desk_state (key, value, updated_wall)
    VALUES ('audit_head', jsonb_build_object('seq', NEW.seq, 'hash', NEW.hash), NEW.time_us)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_wall = excluded.updated_wall;
  END IF;
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.execute(APPEND)
    op.execute(HEAD)
    op.execute(
        "CREATE CONSTRAINT TRIGGER audit_head_kept AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION audit_keep_head()"
    )
    op.create_index("intents_by_strategy", "intents", ["strategy"])
    op.create_index("fills_by_strategy", "fills", ["strategy", "symbol"])


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken back: restore a backup instead")
