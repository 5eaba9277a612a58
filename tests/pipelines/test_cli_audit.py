"""``tapeline audit`` and ``tapeline notify``: verified, exported, shown, tested, settled; every act in the audit."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from pipelines.cli import app
from resources.ledger import audit, audit_anchor
from resources.ledger import notifications as queue
from resources.notifications.worker import Notifier
from resources.settings import settings
from tests.doubles.channel_server import ChannelServer, Fault

Run = Callable[..., Result]
ROUTES = """\
channels:
  hook: {kind: webhook, url_secret: hook_url, rate_per_minute: 6000}
routes:
  - {events: ["*"], channels: [hook]}
"""


@pytest.fixture
def run(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    (tmp_path / "config").mkdir()
    server, _, database = ledger_url.rpartition("/")
    for name, value in {
        "CONFIG_DIR": str(tmp_path / "config"), "DATA_DIR": str(tmp_path / "data"), "POSTGRES_URL": server,
        "LEDGER_DATABASE": database,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"TAPELINE_{name}", value)
    settings.cache_clear()
    yield lambda *arguments, **more: CliRunner().invoke(app, list(arguments), **more)
    settings.cache_clear()


def write(engine: Engine, count: int) -> None:
    for number in range(count):
        with engine.begin() as c:
            audit.append(
                c, "tapeline:ana" if number % 2 else "desk", "halt", {"scope": f"s{number}", "level": "HALTED", "reason": "r"}
            )


class TestAudit:
    def test_verify_says_whole_with_its_head_and_finds_what_was_cut_off(self, run: Run, ledger_engine: Engine) -> None:
        write(ledger_engine, 5)
        head = run("audit", "head").stdout.strip()
        good = run("audit", "verify", "--head", head)
        assert (good.exit_code, good.stdout.strip()) == (
            0, f"the audit trail is whole (5 records, 0 rows, 1 anchors; head {head})",
        )  # fmt: skip
        with ledger_engine.begin() as c:
            c.execute(text("ALTER TABLE audit DISABLE TRIGGER append_only"))
            c.execute(text("DELETE FROM audit WHERE seq = 5"))
            c.execute(text("ALTER TABLE audit ENABLE TRIGGER append_only"))
            c.execute(text("DELETE FROM desk_state WHERE key = 'audit_head'"))
        bad = run("audit", "verify", "--head", head, "--json")
        assert bad.exit_code == 1
        assert any("anchored outside" in p for p in json.loads(bad.stdout)["problems"])
        audit_anchor.note(settings().path("audit"), audit_anchor.parse(head))
        assert "anchored outside" in run("audit", "verify").stdout
        assert run("audit", "verify", "--head", "nonsense").exit_code == 1

    def test_list_and_export_take_a_range_and_who(self, run: Run, ledger_engine: Engine, tmp_path: Path) -> None:
        first = datetime.now(UTC).date()
        write(ledger_engine, 4)
        rows = json.loads(run("audit", "list", "--json", "--actor", "tapeline:*").stdout)
        assert [r["actor"] for r in rows] == ["tapeline:ana"] * 2
        day = datetime.now(UTC).date()
        out = tmp_path / "out" / "audit.csv"
        done = run("audit", "export", "--from", first.isoformat(), "--to", day.isoformat(), "--out", str(out))
        assert "records 1 to 4" in done.stdout
        assert len(list(csv.DictReader(out.open()))) == 4
        later = run("audit", "export", "--from", (day + timedelta(days=2)).isoformat(), "--out", str(out), "--format", "parquet")
        assert "no records" in later.stdout
        assert run("audit", "export", "--from", "soon", "--out", str(out)).exit_code == 2
        assert run("audit", "export", "--format", "xls", "--out", str(out)).exit_code == 2


class TestNotify:
    def test_a_channel_is_set_up_tested_and_its_refusals_settled(self, run: Run, ledger_engine: Engine, tmp_path: Path) -> None:
        with ChannelServer() as server:
            assert "no channel 'hook'" in run("notify", "test", "hook").output
            (tmp_path / "config" / "notifications.yaml").write_text(ROUTES)
            missing = run("notify", "check")
            assert missing.exit_code == 1
            assert "tapeline notify secret hook_url" in missing.output
            assert run("notify", "secret", "hook_url", input=server.address("webhook") + "\n").exit_code == 0
            assert run("notify", "secret", "desk_token", input="x\n").exit_code == 2
            assert run("notify", "check").exit_code == 0
            waits = run("notify", "test", "hook", "--wait", "0")
            assert waits.exit_code == 3
            assert "the notifier does not run" in waits.output
            notifier = Notifier(settings())
            thread = threading.Thread(target=notifier.run, daemon=True)
            thread.start()
            try:
                said = run("notify", "test", "hook")
                assert said.exit_code == 0, said.output
                assert "hook has it" in said.stdout
                server.faults["webhook"].append(Fault(422, {"message": "no"}))
                refused = run("notify", "test", "hook")
                assert refused.exit_code == 1
                assert "HTTP 422: no" in refused.output
                shown = json.loads(run("notify", "queue", "--json").stdout)
                failed = shown["notifications"][0]
                assert (failed["state"], shown["notifier_runs"], shown["channels"][0]["failed"]) == ("failed", True, 1)
                assert "0 discarded" not in run("notify", "discard", str(failed["id"]), "-r", "was a test").stdout
                assert run("notify", "retry", str(failed["id"]), "-r", "after all").stdout.strip() == "1 queued again"
            finally:
                notifier.stop.set()
                thread.join(10)
        with ledger_engine.connect() as c:
            acts = set(c.execute(text("SELECT action FROM audit WHERE actor LIKE 'tapeline:%'")).scalars())
        assert acts == {"notification_test", "notification_retry", "notification_discard"}
        assert run("notify", "discard", "-r", "nothing named").exit_code == 2
        assert queue.lag(ledger_engine)["queued"] <= 1

    def test_events_lists_what_routes_can_name(self, run: Run) -> None:
        kinds = {row["kind"] for row in json.loads(run("notify", "events", "--json").stdout)}
        assert {"order.filled", "halt", "failure.run", "summary.daily"} <= kinds
