"""The month in short: two sessions by a real desk, ledger, broker and backtest told apart by nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

from tests.soak.month import SAMPLE, Outcome, replay


def test_two_sessions_end_with_ledger_broker_and_backtest_alike(postgres_url: str, tmp_path: Path) -> None:
    short = replace(SAMPLE, name="short", start=date(2017, 12, 18), sessions=2, stocks={})
    outcome = replay(short, postgres_url, tmp_path)
    assert outcome.different == []
    assert {k: v for k, v in outcome.wrong.items() if v} == {}
    assert outcome.trades > 5
    assert outcome.closes > 40


def test_memory_that_grows_with_the_closes_is_seen() -> None:
    flat = Outcome("flat", rss=[(n, 300_000_000 + (n % 3) * 1_000_000) for n in range(100)], trades=1)
    grows = Outcome("grows", rss=[(n, 300_000_000 + n * 1_000_000) for n in range(100)], trades=1)
    assert flat.good
    assert not grows.good
    assert grows.slope_mib > 900
