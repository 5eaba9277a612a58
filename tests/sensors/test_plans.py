"""The UI shows plans and files as they are: told when one moved or changed, once, and not when nothing did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from assets.plans import plans
from resources.dagster_resources import ConfigFilesResource, LedgerResource, resource_definitions
from resources.ledger import plans as ledger_plans
from resources.ledger.plans import PlanState
from resources.research_store import ResearchStore
from resources.settings import Settings
from sensors.plans import changed_events, plans_and_files
from tests.assets.sample_lake import installation
from tests.desk.kit import Desk, bar, hour

NAME = "eurusd_year_end_breakout"
Look = Callable[[], dict[str, Any]]


@pytest.fixture
def installed(tmp_path: Path, ledger_url: str) -> Iterator[Settings]:
    server, _, database = ledger_url.rpartition("/")
    with installation(tmp_path, TAPELINE_POSTGRES_URL=server, TAPELINE_LEDGER_DATABASE=database) as settings:
        yield settings


@pytest.fixture
def look(installed: Settings) -> Look:
    """What the sensor tells at its next look: events by asset or check."""
    cursor: list[str | None] = [None]

    def at_next() -> dict[str, Any]:
        events, cursor[0] = changed_events(cursor[0], ConfigFilesResource(), LedgerResource())
        return {getattr(e, "check_name", None) or e.asset_key.path[-1]: e for e in events}

    return at_next


def move(engine: Engine, before: PlanState | None, after: PlanState, event: str) -> PlanState:
    with engine.begin() as connection:
        return ledger_plans.move(connection, before, after, event, now_time=1_514_455_200_000_000)


def shown(events: dict[str, Any], key: str) -> str:
    return str(events["plans"].metadata[key].value)


def test_the_first_look_tells_everything_and_the_next_nothing(look: Look) -> None:
    first = look()
    assert set(first) == {"config_valid", "strategies", "plans"}
    assert first["config_valid"].passed
    assert "| ema_trend |" in first["strategies"].metadata["files"].value
    assert "| close_above(1.195) | 1.1915 | 1.203 |" in shown(first, "plans")
    assert look() == {}


def test_a_plan_that_moved_is_told_with_its_state_its_revision_and_its_last_event(look: Look, ledger_engine: Engine) -> None:
    look()
    armed = move(ledger_engine, None, PlanState(NAME, "r1", "EURUSD", "long", "armed"), "armed")
    told = look()
    assert set(told) == {"plans"}
    (line,) = [row for row in shown(told, "plans").splitlines() if NAME in row]
    assert "| armed | long | EURUSD |" in line
    assert "| armed 2017-12-28T10:00:00Z | r1 |" in line
    assert "is taken at the next bar close" in line
    assert told["plans"].metadata["armed"].value == 1
    move(ledger_engine, armed, replace(armed, state="expired", reason="its last session is over"), "expired")
    told = look()
    assert NAME not in shown(told, "plans")
    assert "its last session is over" in shown(told, "over")
    assert "armed -> expired" in shown(told, "happened")
    assert look() == {}


def test_a_file_that_breaks_is_told_with_every_error_and_the_plans_stay_shown(look: Look, installed: Settings) -> None:
    look()
    bad = installed.config / "plans" / f"{NAME}.yaml"
    text = bad.read_text()
    bad.write_text(text.replace("kind: close_above", "kind: close_abov").replace("direction: long", "directoin: long"))
    (installed.config / "research" / "ema_trend.yaml").write_text("strategy: ema_trnd\ngrid: {x: {match: [a], values: [1, 2]}}\n")
    told = look()
    check = told["config_valid"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    problems = check.metadata["problems"].value
    entry = next(i for i, t in enumerate(bad.read_text().splitlines(), 1) if "close_abov}" in t or "close_abov," in t)
    assert f"| plans/{NAME}.yaml | {entry} | entry.kind |" in problems
    assert "| close_above |" in problems
    assert "directoin" in problems
    assert "| research/ema_trend.yaml | 1 | strategy |" in problems
    assert "eurusd_autumn_breakdown" in shown(told, "plans")
    bad.write_text(text)
    assert look()["config_valid"].severity is dg.AssetCheckSeverity.WARN, "what is left is research's, and no order hangs on it"


def test_a_universe_that_cannot_be_read_is_a_failed_check_and_no_other_event(look: Look, installed: Settings) -> None:
    look()
    (installed.config / "universe" / "sample.yaml").write_text("name: [")
    told = look()
    assert set(told) == {"config_valid"}
    assert not told["config_valid"].passed


def test_an_entry_worked_in_slices_is_told_whenever_it_comes_on(look: Look, ledger_engine: Engine) -> None:
    look()
    desk = Desk(ledger_engine).open()
    assert look() == {}
    desk.submit(execution={"algo": "twap", "minutes": 120, "slices": 2}, valid_until=hour(4))

    def told() -> dict[str, Any]:
        (name, event), *more = look().items()
        assert (name, more) == ("executions", [])
        return {key: value.value for key, value in event.metadata.items()}

    began = told()
    assert "| trend | EURUSD | PAPER | twap | buy | 0 | 1000 |" in began["at_work"]
    assert "| 1/2 |" in began["at_work"]
    desk.close(1, bar("EURUSD", 1, 1.2006, 1.201, 1.2, 1.201))
    filled = told()
    assert "| 500 | 1000 | 1.2006 | 5 | 1/2 |" in filled["at_work"], "with what it costs against the signal's price"
    assert "| filled | 500 | 1.2006 |" in filled["slices"]
    desk.router.flatten("enough", "ann")
    over = told()
    assert (over["ended"], over["at_work"]) == (1, "none")
    assert "| ended | flatten: enough |" in over["over"]
    assert look() == {}


def test_a_text_that_lived_for_a_moment_is_kept_as_a_revision(look: Look, installed: Settings) -> None:
    look()
    path = installed.config / "strategies" / "ema_trend.yaml"
    path.write_text(path.read_text().replace("max_bars: 72", "max_bars: 71"))
    look()
    path.write_text(path.read_text().replace("max_bars: 71", "max_bars: 70"))
    look()
    kept = ResearchStore(installed.path("research")).revisions("ema_trend")
    assert [next(line for line in r.text.splitlines() if "max_bars" in line).strip() for r in kept] == [
        "max_bars: 72", "max_bars: 71", "max_bars: 70"
    ]  # fmt: skip


def test_dagster_takes_the_events_and_the_asset_can_be_made_by_hand(installed: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources=resource_definitions())
        result = plans_and_files(context)
        assert isinstance(result, dg.SensorResult)
        assert len(result.asset_events) == 3
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        told = instance.get_latest_materialization_event(dg.AssetKey("plans"))
        assert told is not None
        assert told.asset_materialization is not None
        assert json.loads(str(result.cursor))["plans"] == "0.0"
        made = dg.materialize([plans], resources=resource_definitions(), instance=instance)
        assert made.success
        (event,) = made.asset_materializations_for_node("plans")
        assert event.metadata["plans"].value == told.asset_materialization.metadata["plans"].value
