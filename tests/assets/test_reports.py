"""The daily report as an asset: a file to keep, a page in the UI, and a check that says whether a person is needed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import reports
from resources.dagster_resources import LedgerResource, resource_definitions
from resources.ledger.store import Ledger
from resources.settings import Settings
from tests.assets.sample_lake import fill, installation
from tests.resources import report_session as rs

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with installation(tmp_path_factory.mktemp("reports")) as settings:
        fill(settings)
        yield settings


def materialise(session: date, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> dg.ExecuteInProcessResult:
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    return dg.materialize(
        [reports.daily_report], partition_key=session.isoformat(), resources=resource_definitions(),
        instance=dg.DagsterInstance.ephemeral(),
    )  # fmt: skip


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node("daily_report")
    return {k: v.value for k, v in made.metadata.items()}


def test_a_session_becomes_a_file_a_page_and_a_verdict(sample: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    rs.fill_ledger(ledger)
    result = materialise(rs.SESSION, ledger, monkeypatch)
    shown = metadata_of(result)
    page = Path(shown["html"])
    assert page == sample.path("reports", "2017-12-28.html")
    text = page.read_text(encoding="utf-8")
    assert "PAPER" in text
    assert "SIMULATED DATA" not in text
    assert "REPLAY" in text
    assert shown["report"].startswith("**PAPER** · **REPLAY**")
    assert "tapeline trace int-" in shown["chain"]
    assert (shown["orders"], shown["fills"], shown["signals"], shown["refused"]) == (5, 2, 4, 3)
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    # The lake's real bars have no verdicts in this ledger: the report does not take them on trust.
    assert "bars without a complete verdict" in check.metadata["attention"].value
    assert {s["session"]: s["state"] for s in ledger.sessions()}["2017-12-28"] == "reported"


def test_making_a_report_again_replaces_the_file(sample: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    page = sample.path("reports", "2017-12-29.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("torn")
    materialise(rs.SESSION + timedelta(days=1), ledger, monkeypatch)
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert not [p for p in page.parent.iterdir() if p.name.endswith(".tmp")]
