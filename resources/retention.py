"""Retention with the ledger: what it refers to stays, and what goes is in the audit before it is gone."""

from __future__ import annotations

import time
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, select, text

from resources.lake import Lake, LakeError
from resources.lake.retention import (
    FILE,
    Doomed,
    Referred,
    RetentionPlan,
    RetentionPolicy,
    carry_out,
    parse_retention,
    plan_retention,
)
from resources.ledger import audit
from resources.ledger import tables as t
from resources.settings import Settings
from trading.config_text import Problem
from trading.timeframes import from_us

NAMED = 200
"""Partitions an audit record names one by one; it counts all."""


class RetentionInvalid(Exception):
    """The policy cannot be used; nothing may be removed by it. `problems` says why."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


def load_policy(own: Settings) -> RetentionPolicy:
    """data/config/lake/retention.yaml. Raises RetentionInvalid: no policy, nothing goes."""
    path = own.config / FILE
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RetentionInvalid([Problem(FILE, 0, "", f"cannot be read ({error})", f"a policy at {path}")]) from None
    policy, problems = parse_retention(content)
    if policy is None:
        raise RetentionInvalid(problems)
    return policy


def references(connection: Connection) -> Referred:
    """Does the ledger refer to a partition: does a signal name it, or was an order meant for its symbol in its session?"""
    named = connection.execute(
        text(
            "SELECT DISTINCT ref->>'dataset', ref->>'symbol', ref->>'session' "
            "FROM signals, jsonb_array_elements(content->'partitions') AS ref"
        )
    )
    partitions = {(str(dataset), str(symbol), str(session)) for dataset, symbol, session in named}
    meant = {
        (str(symbol), str(session)) for symbol, session in connection.execute(select(t.intents.c.symbol, t.intents.c.session))
    }

    def referred(dataset: str, symbol: str, session: date) -> bool:
        day = session.isoformat()
        return (dataset, symbol, day) in partitions or (symbol, day) in meant

    return referred


def plan(lake: Lake, policy: RetentionPolicy, engine: Engine) -> RetentionPlan:
    """What would go now; removes nothing."""
    now = time.time_ns() // 1000
    with engine.connect() as connection:
        return plan_retention(lake, policy, references(connection), today=from_us(now).date(), now_wall=now)


def apply(lake: Lake, made: RetentionPlan, engine: Engine, *, who: str) -> list[str]:
    """Carry out a plan; one line per dataset that could not be done. The audit says what goes before it goes.

    What the ledger has come to refer to since the plan was made is spared.
    """
    failed = []
    for doomed in made.doomed:
        with engine.begin() as connection:
            referred = references(connection)
            going = tuple(p for p in doomed.partitions if not referred(p.dataset, p.symbol, p.session))
            if not going:
                continue
            now = Doomed(doomed.dataset, doomed.what, doomed.days, going, doomed.spared, doomed.bytes)
            audit.append(connection, who, "lake_retention", _record(made, now))
        try:
            carry_out(lake, now)
        except LakeError as error:
            failed.append(f"{doomed.dataset} {doomed.what}: {error}")
            with engine.begin() as connection:
                content = {"dataset": doomed.dataset, "what": doomed.what, "error": str(error)}
                audit.append(connection, who, "lake_retention_failed", content)
    return failed


def _record(made: RetentionPlan, doomed: Doomed) -> dict[str, Any]:
    return {
        "dataset": doomed.dataset,
        "what": doomed.what,
        "days": doomed.days,
        "policy": made.policy_revision,
        "partitions": len(doomed.partitions),
        "rows": doomed.rows,
        "bytes": doomed.bytes,
        "spared": len(doomed.spared),
        "first": min(p.session for p in doomed.partitions).isoformat(),
        "last": max(p.session for p in doomed.partitions).isoformat(),
        "named": [f"{p.session}/{p.symbol}={p.content_hash}" for p in doomed.partitions[:NAMED]],
    }
