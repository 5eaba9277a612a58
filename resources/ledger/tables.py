"""The ledger's tables (Postgres): the truth about signals, decisions, intents, orders, fills, positions, limits, audit.

Times are int64 UTC microseconds: `*_time` of the market's (possibly replayed) clock, `*_wall` of the real clock.
Migrations live in resources/ledger/migrations (Alembic) and create exactly this schema.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()


def _id(name: str = "id", **kw: object) -> Column:  # type: ignore[type-arg]
    return Column(name, String(40), **kw)  # type: ignore[arg-type]


signals = Table(
    "signals", metadata,
    _id(primary_key=True),
    Column("strategy", Text, nullable=False),
    Column("strategy_revision", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("timeframe", Text, nullable=False),
    Column("close_time", BigInteger, nullable=False),
    Column("session", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("features_version", Text, nullable=False),
    Column("content", JSONB, nullable=False),  # Signal.to_dict()
    Column("code_revision", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
    Index("signals_by_close", "close_time"),
    Index("signals_by_session", "session"),
)  # fmt: skip

decisions = Table(
    "decisions", metadata,
    _id(primary_key=True),
    _id("signal_id", nullable=False, unique=True),
    Column("approved", Boolean, nullable=False),
    Column("refusal", Text, nullable=False),
    Column("verdicts", JSONB, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),  # canonical bytes: decide(snapshot) -> outcome, replayable
    Column("outcome", LargeBinary, nullable=False),
    Column("close_time", BigInteger, nullable=False),
    Column("session", Text, nullable=False),
    Column("code_revision", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
    Index("decisions_by_close", "close_time"),
    Index("decisions_by_session", "session"),
)  # fmt: skip

intents = Table(
    "intents", metadata,
    _id(primary_key=True),  # the client order id
    _id("parent", nullable=False),  # decision id, or trade id of exits
    Column("leg", Text, nullable=False),
    Column("trade_id", String(40), nullable=False),  # the entry intent's id: groups entry, legs and exits
    Column("strategy", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("content", JSONB, nullable=False),  # Intent.to_dict()
    Column("sizing", JSONB, nullable=False),
    Column("risk", JSONB, nullable=False),  # every rule's verdict
    Column("refusal", Text, nullable=False),  # empty unless DENIED
    Column("created_time", BigInteger, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
    Index("intents_by_parent", "parent"),
    Index("intents_by_trade", "trade_id"),
    Index("intents_by_session", "session"),
    Index("intents_by_strategy", "strategy"),
)  # fmt: skip

orders = Table(
    "orders", metadata,
    Column("id", String(40), ForeignKey("intents.id"), primary_key=True),
    Column("broker", Text, nullable=False),
    Column("broker_order_id", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", Float, nullable=False),
    Column("order_type", Text, nullable=False),
    Column("limit_price", Float),
    Column("stop_price", Float),
    Column("state", Text, nullable=False),
    Column("state_since", BigInteger, nullable=False),
    Column("filled_quantity", Float, nullable=False),
    Column("average_price", Float),
    Column("text", Text, nullable=False),
    Column("created_time", BigInteger, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
    Column("acked_wall", BigInteger),
    Index("orders_by_state", "state"),
    Index("orders_by_broker_id", "broker", "broker_order_id"),
)  # fmt: skip

order_events = Table(
    "order_events", metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("order_id", String(40), nullable=False),
    Column("event", Text, nullable=False),
    Column("event_key", Text, nullable=False, unique=True),
    Column("state_before", Text, nullable=False),
    Column("state_after", Text, nullable=False),
    Column("anomalous", Boolean, nullable=False),
    Column("text", Text, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Index("order_events_by_order", "order_id"),
)  # fmt: skip

fills = Table(
    "fills", metadata,
    Column("id", Text, primary_key=True),  # broker/execution_id
    Column("order_id", String(40), nullable=False),
    Column("trade_id", String(40), nullable=False),
    Column("strategy", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", Float, nullable=False),
    Column("price", Float, nullable=False),
    Column("commission", Float, nullable=False),
    Column("currency", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("fill_time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Index("fills_by_order", "order_id"),
    Index("fills_by_session", "session"),
    Index("fills_by_strategy", "strategy", "symbol"),
)  # fmt: skip

positions = Table(
    "positions", metadata,
    Column("strategy", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("trade_id", Text, nullable=False),  # the open trade; empty when flat
    Column("quantity", Float, nullable=False),  # signed
    Column("average_price", Float, nullable=False),
    Column("realized_pnl", Float, nullable=False),  # net of commissions, account currency, since ever
    Column("commission", Float, nullable=False),
    Column("opened_time", BigInteger),
    Column("updated_time", BigInteger, nullable=False),
    Column("bars_held", Integer, nullable=False),
    Column("exit_state", JSONB, nullable=False),  # state of the exit functions, e.g. the trailing level
    PrimaryKeyConstraint("strategy", "symbol"),
)  # fmt: skip

account_snapshots = Table(
    "account_snapshots", metadata,
    Column("close_time", BigInteger, primary_key=True),
    Column("session", Text, nullable=False),
    Column("cash", Float, nullable=False),
    Column("equity", Float, nullable=False),
    Column("currency", Text, nullable=False),
    Column("gross_exposure", Float, nullable=False),
    Index("account_by_session", "session"),
)  # fmt: skip

closes = Table(
    "closes", metadata,
    Column("close_time", BigInteger, primary_key=True),
    Column("session", Text, nullable=False),
    Column("bars", JSONB, nullable=False),  # {"1h": ["EURUSD"], ...}
    Column("emitted_wall", BigInteger, nullable=False),  # the feed gave the bar
    Column("stored_wall", BigInteger, nullable=False),  # the hot bars are in the lake
    Column("sensed_wall", BigInteger),  # the sensor asked for the run
    Column("run_started_wall", BigInteger),  # first line of asset code
    Column("signals_wall", BigInteger),
    Column("decisions_wall", BigInteger),
    Column("done_wall", BigInteger),  # the run has handed over its decisions
    Column("run_id", Text),
    Column("outcome", Text),  # done, skipped (barrier passed), failed
)  # fmt: skip

sessions = Table(
    "sessions", metadata,
    Column("session", Text, primary_key=True),
    Column("state", Text, nullable=False),  # open, ended, reported
    Column("opened_time", BigInteger, nullable=False),
    Column("ended_time", BigInteger),
    Column("start_equity", Float),
    Column("end_equity", Float),
)  # fmt: skip

quality_verdicts = Table(
    "quality_verdicts", metadata,
    Column("dataset", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("severity", Text, nullable=False),  # error stops trading, warn does not
    Column("failed_count", Integer, nullable=False),
    Column("examples", JSONB, nullable=False),
    Column("content_hash", Text, nullable=False),  # of the bars judged
    Column("run_id", Text, nullable=False),
    Column("evaluated_wall", BigInteger, nullable=False),
    Column("judged_time", BigInteger),  # market time up to which the session was judged
    PrimaryKeyConstraint("dataset", "session", "symbol", "check_name"),
)  # fmt: skip

desk_state = Table(
    "desk_state", metadata,
    Column("key", Text, primary_key=True),  # halt, replay, heartbeat, event_cursor, ...
    Column("value", JSONB, nullable=False),
    Column("updated_wall", BigInteger, nullable=False),
)  # fmt: skip

shared_state = desk_state.to_metadata(MetaData(), schema="public")
"""The same table of the main book, for what is one for all books: modes, and which model serves (resources/ledger/books.py)."""

config_problems = Table(
    "config_problems", metadata,
    Column("file", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("found_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("file", "line", "key"),
)  # fmt: skip

dagster_outbox = Table(
    "dagster_outbox", metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("asset_key", Text, nullable=False),
    Column("partition", Text),
    Column("content", JSONB, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
    Column("sent_wall", BigInteger),
)  # fmt: skip

audit = Table(
    "audit", metadata,
    Column("seq", BigInteger, primary_key=True),  # 1, 2, 3, ... without holes
    Column("time_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),  # canonical JSON
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_by_time", "time_us"),
    Index("audit_by_action", "action", "seq"),
)  # fmt: skip

PAPER_SCHEMA = "paper"
"""The paper broker's own book: written only by the paper broker, in its own transactions, as if it were elsewhere."""

paper_orders = Table(
    "orders", metadata,
    Column("client_id", String(40), primary_key=True),
    Column("broker_order_id", Text, nullable=False, unique=True),
    Column("symbol", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", Float, nullable=False),
    Column("order_type", Text, nullable=False),
    Column("time_in_force", Text, nullable=False),
    Column("limit_price", Float),
    Column("stop_price", Float),
    Column("parent_client_id", Text, nullable=False),
    Column("oco_group", Text, nullable=False),
    Column("reduce_only", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("filled_quantity", Float, nullable=False),
    Column("filled_units", Float, nullable=False, server_default="0"),  # the same in today's units: splits scale it
    Column("text", Text, nullable=False),
    Column("session", Integer),  # session number of the first bar it took part in: DAY orders expire after it
    Column("trade", Text, nullable=False, server_default=""),  # what it belongs to, of trades entered by several orders
    Column("created_time", BigInteger, nullable=False),
    Column("updated_time", BigInteger, nullable=False),
    Index("paper_orders_by_state", "state"),
    Index("paper_orders_by_trade", "trade", postgresql_where=text("trade <> ''")),
    Index("paper_orders_by_group", "oco_group", postgresql_where=text("oco_group <> ''")),
    Index("paper_orders_by_parent", "parent_client_id", postgresql_where=text("parent_client_id <> ''")),
    Index(
        "paper_orders_working", "symbol",
        postgresql_where=text("state NOT IN ('canceled', 'denied', 'expired', 'filled', 'rejected')"),
    ),
    schema=PAPER_SCHEMA,
)  # fmt: skip

paper_events = Table(
    "events", metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("client_id", String(40), nullable=False),
    Column("broker_order_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("execution", JSONB(none_as_null=True)),
    schema=PAPER_SCHEMA,
)  # fmt: skip

paper_account = Table(
    "account", metadata,
    Column("account_id", Text, primary_key=True),
    Column("currency", Text, nullable=False),
    Column("cash", Float, nullable=False),
    Column("last_close_time", BigInteger, nullable=False),  # newest bar close matched, of any symbol
    schema=PAPER_SCHEMA,
)  # fmt: skip

paper_positions = Table(
    "positions", metadata,
    Column("symbol", Text, primary_key=True),
    Column("quantity", Float, nullable=False),
    Column("average_price", Float, nullable=False),
    Column("last_price", Float, nullable=False),
    Column("last_close_time", BigInteger, nullable=False),  # bars of the symbol up to here are matched: none twice
    schema=PAPER_SCHEMA,
)  # fmt: skip
