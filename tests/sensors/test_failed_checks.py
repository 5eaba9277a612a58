"""An asset check that begins to fail or passes again is told once, from Dagster's own event log, and nothing is told twice."""

from __future__ import annotations

from typing import Any

import dagster as dg

from resources.ledger import audit_read
from resources.ledger.store import Ledger
from sensors.failed_checks import STATE_KEY, newest, note, read


def evaluate(instance: dg.DagsterInstance, passed: bool, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("whole", asset="bars", blocking=False)], name="bars")
    def bars() -> Any:
        yield dg.AssetCheckResult(check_name="whole", passed=passed, severity=severity, description="3 rows are missing")
        yield dg.Output(1)

    dg.materialize([bars], instance=instance, raise_on_error=False)


def told(ledger: Ledger) -> list[tuple[str, str]]:
    return [(r["action"], r["content"]["severity"]) for r in audit_read.read(ledger.engine, action="check_*")]


def test_only_changes_are_told_and_each_once(ledger: Ledger) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        evaluate(instance, passed=False)
        start = newest(instance)
        assert note(ledger, read(instance, start), start) == 0, "history is not told"
        evaluate(instance, passed=True)
        evaluate(instance, passed=False)
        evaluate(instance, passed=False)
        evaluations = read(instance, start)
        assert [e.passed for e in evaluations] == [True, False, False]
        assert note(ledger, evaluations, start) == 1
        assert note(ledger, evaluations, start) == 0, "the same events again tell nothing"
        evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.WARN)
        evaluate(instance, passed=True)
        cursor = ledger.get_state(STATE_KEY)["cursor"]
        assert note(ledger, read(instance, cursor), cursor) == 2
    assert told(ledger) == [("check_failed", "ERROR"), ("check_failed", "WARN"), ("check_passed", "ERROR")]
    content = audit_read.read(ledger.engine, action="check_failed")[0]["content"]
    assert (content["asset"], content["check"], content["text"]) == ("bars", "whole", "3 rows are missing")
    assert ledger.get_state(STATE_KEY)["failing"] == {}
