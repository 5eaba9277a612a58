# ruff: noqa: F811, F401 - fixtures are imported by name
"""Retention: a policy people write, a dry run that names what would go, and nothing the ledger refers to ever goes."""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from resources import retention
from resources.lake import Lake, PartitionMissing
from resources.lake.retention import RetentionPolicy, parse_retention, plan_retention
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.store import Ledger
from resources.settings import ROOT, Settings
from tests.resources.lake_kit import D1, D2, D3, folder_lake, lake, minutes, object_store, session, write

DAY_US = 86_400_000_000


def policy(text: str) -> RetentionPolicy:
    found, problems = parse_retention(text)
    assert found is not None, problems
    return found


def now() -> int:
    return time.time_ns() // 1000


def nothing(dataset: str, symbol: str, day: date) -> bool:
    return False


def test_the_committed_policy_is_good() -> None:
    found = retention.load_policy(Settings(config_dir=ROOT / "data" / "config"))
    assert found.superseded_days == 90
    assert found.keep_days("bars_1m") is None
    assert len(found.revision) >= 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("superseded_days: -1", "superseded_days"),
        ("datasets: {bars_7m: {keep_days: 5}}", "datasets.bars_7m: is no dataset; expected bars_, quotes_ or features_"),
        ("datasets: {bars_1m: {keep_days: 0}}", "a number of days above 0, or forever"),
        ("datasets: {bars_1m: {keep: 5}}", "keep"),
        ("superseded_day: 5", "superseded_days"),
        ("", "empty"),
    ],
)
def test_a_bad_policy_names_line_and_key_and_nothing_goes_by_it(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "retention.yaml").write_text(text)
    with pytest.raises(retention.RetentionInvalid, match=f"lake/retention.yaml:1: .*{says}"):
        retention.load_policy(Settings(config_dir=tmp_path))


def test_no_policy_nothing_goes(tmp_path: Path) -> None:
    with pytest.raises(retention.RetentionInvalid, match="cannot be read"):
        retention.load_policy(Settings(config_dir=tmp_path))


def test_a_plan_removes_nothing_and_says_what_would_go(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    write(lake, minutes("AAPL", D1, seed=1), D1, D1)
    before = lake.versions("bars_1m", "AAPL", D1)
    own = policy("superseded_days: 0\ndatasets: {bars_1m: {keep_days: 10}}")
    today = D3 + timedelta(days=11)
    made = plan_retention(lake, own, lambda d, s, day: day == D2, today=today, now_wall=now() + 1)
    sessions, replaced = made.doomed
    assert [p.session for p in sessions.partitions] == [D1, D3]
    assert [p.session for p in sessions.spared] == [D2]
    assert [p.content_hash for p in replaced.partitions] == [session(bars, D1).content_hash()]
    assert (sessions.rows, replaced.rows, made.partitions) == (780, 390, 3)
    assert made.bytes > 1000
    assert lake.versions("bars_1m", "AAPL", D1) == before
    assert plan_retention(lake, own, nothing, today=D1, now_wall=now() - DAY_US).doomed == ()


def test_carried_out_it_is_gone_and_the_rest_is_whole(lake: Lake) -> None:
    from resources.lake.retention import carry_out

    bars = minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    write(lake, minutes("MSFT", D1, D2, seed=5), D1, D2)
    for seed in (1, 2):
        write(lake, minutes("AAPL", D2, seed=seed), D2, D2)
    own = policy("superseded_days: 0\ndatasets: {bars_1m: {keep_days: 1}}")
    made = plan_retention(lake, own, lambda d, s, day: s == "MSFT", today=D2 + timedelta(days=1), now_wall=now() + 1)
    for doomed in made.doomed:
        carry_out(lake, doomed)
    assert [(p.session, p.symbol) for p in lake.partitions("bars_1m")] == [(D1, "MSFT"), (D2, "AAPL"), (D2, "MSFT"), (D3, "AAPL")]
    assert lake.superseded("bars_1m") == []
    with pytest.raises(PartitionMissing, match="retention has ended"):
        lake.read_version("bars_1m", "AAPL", D1, session(bars, D1).content_hash())
    assert lake.read_bars("bars_1m", "AAPL", D2, D2).content_hash() == minutes("AAPL", D2, seed=2).content_hash()
    assert lake.verify("bars_1m") == []


def _signal(ledger: Ledger, day: date, symbol: str, content_hash: str, number: int) -> None:
    content: dict[str, Any] = {
        "partitions": [{"dataset": "bars_1m", "session": day.isoformat(), "symbol": symbol, "content_hash": content_hash}]
    }
    with ledger.engine.begin() as c:
        c.execute(
            t.signals.insert().values(
                id=f"sig-{number}", strategy="s", strategy_revision="r", symbol=symbol, timeframe="1m", close_time=1,
                session=day.isoformat(), action="enter_long", features_version="f", content=content,
                code_revision="c", run_id="r", created_wall=1,
            )
        )  # fmt: skip


def test_what_the_ledger_refers_to_is_never_removed_and_what_goes_is_in_the_audit(folder_lake: Lake, ledger: Ledger) -> None:
    lake, bars = folder_lake, minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    for day in (D1, D2):
        write(lake, minutes("AAPL", day, seed=1), day, day)
    traded_on = session(bars, D1)
    _signal(ledger, D1, "AAPL", traded_on.rows(slice(0, 100)).content_hash(), 1)
    with ledger.engine.begin() as c:  # an order of the desk itself (an exit) names no partition, only its symbol and session
        c.execute(
            t.intents.insert().values(
                id="int-1", parent="x", leg="exit", trade_id="int-1", strategy="s", symbol="AAPL", session=D3.isoformat(),
                content={}, sizing={}, risk={}, refusal="", created_time=1, created_wall=1,
            )
        )  # fmt: skip
    own = policy("superseded_days: 0\ndatasets: {bars_1m: {keep_days: 1}}")
    time.sleep(0.002)
    made = retention.plan(lake, own, ledger.engine)
    by_kind = {d.what: d for d in made.doomed}
    assert [p.session for p in by_kind["sessions"].partitions] == [D2]
    assert [p.session for p in by_kind["superseded"].partitions] == [D2]
    assert [p.session for p in by_kind["superseded"].spared] == [D1]
    assert retention.apply(lake, made, ledger.engine, who="tester") == []
    assert [p.session for p in lake.partitions("bars_1m")] == [D1, D3]
    then = lake.read_version("bars_1m", "AAPL", D1, traded_on.rows(slice(0, 100)).content_hash())
    assert len(then) == 100
    with ledger.engine.connect() as c:
        rows = c.execute(select(t.audit.c.actor, t.audit.c.action, t.audit.c.content).order_by(t.audit.c.seq)).all()
    said = [r for r in rows if r.actor == "tester"]
    assert [r.action for r in said] == ["lake_retention"] * 2
    assert f"{D2}/AAPL=".encode() in bytes(said[0].content)
    assert audit.verify(ledger.engine) == []


def test_what_the_ledger_refers_to_since_the_plan_was_shown_is_spared(folder_lake: Lake, ledger: Ledger) -> None:
    write(folder_lake, minutes("AAPL", D1, D2), D1, D2)
    made = retention.plan(folder_lake, policy("datasets: {bars_1m: {keep_days: 1}}"), ledger.engine)
    assert made.partitions == 2
    _signal(ledger, D1, "AAPL", "x" * 64, 1)
    retention.apply(folder_lake, made, ledger.engine, who="tester")
    assert [p.session for p in folder_lake.partitions("bars_1m")] == [D1]


def test_a_removal_that_fails_is_told_and_audited(folder_lake: Lake, ledger: Ledger) -> None:
    write(folder_lake, minutes("AAPL", D1, D2), D1, D2)
    made = retention.plan(folder_lake, policy("datasets: {bars_1m: {keep_days: 1}}"), ledger.engine)
    _signal(ledger, D1, "AAPL", "x" * 64, 1)  # D1 stays, so its rows must be read from the file
    for file in Path(folder_lake.storage.url).rglob("*.parquet"):
        file.write_bytes(b"")
    (failed,) = retention.apply(folder_lake, made, ledger.engine, who="tester")
    assert failed.startswith("bars_1m sessions: ")
    with ledger.engine.connect() as c:
        told = select(t.audit.c.action).where(t.audit.c.actor == "tester").order_by(t.audit.c.seq)
        actions = list(c.execute(told).scalars())
    assert actions == ["lake_retention", "lake_retention_failed"]


def test_a_dataset_that_cannot_be_read_keeps_no_other_from_its_retention(folder_lake: Lake, ledger: Ledger) -> None:
    from tests.resources.lake_kit import daily

    write(folder_lake, minutes("AAPL", D1), D1, D1)
    write(folder_lake, daily("AAPL", D1, D3), D1, D3)
    (Path(folder_lake.storage.url) / "bars_1m" / "2014-06" / "manifest.json").write_bytes(b"torn")
    text = "datasets: {bars_1m: {keep_days: 1}, bars_1d: {keep_days: 1}}"
    made = retention.plan(folder_lake, policy(text), ledger.engine)
    assert list(made.refused) == ["bars_1m"]
    assert [d.dataset for d in made.doomed] == ["bars_1d"]
