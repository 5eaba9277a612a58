"""Filling gaps: the plan is the fewest requests, what is held is never taken away, nothing is asked twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from assets import backfill
from assets.backfill_run import Backfill, BackfillPlan
from assets.bars_run import new_sessions
from pipelines.cli_quality import app
from resources.dagster_resources import ConfigFilesResource, LedgerResource, resource_definitions
from resources.feeds.protocol import Capabilities, FeedError, RateLimited
from resources.lake import Lake
from resources.ledger import backfill as book
from resources.ledger.quality_tables import known_empty
from resources.ledger.store import Ledger
from resources.settings import Settings
from tests.assets.sample_lake import fill, installation
from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_date, session_number

START, END = date(2017, 11, 1), date(2017, 12, 22)
GONE = [date(2017, 11, 7), date(2017, 11, 8), date(2017, 11, 21), date(2017, 12, 13)]


class Provider:
    """EURUSD hours of the real sample behind a provider's plan: pages, a budget, sessions it does not have."""

    def __init__(self, true_feed: object) -> None:
        self._feed = true_feed
        self.page: int | None = None
        self.budget = 10**6
        self.lacks: set[date] = set()
        self.asked: list[tuple[date, date]] = []
        self.broken = False

    def capabilities(self) -> Capabilities:
        return replace(self._feed.capabilities(), page_size=self.page)  # type: ignore[attr-defined]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        if self.broken:
            raise FeedError("the server is in maintenance")
        if self.budget <= 0:
            raise RateLimited("no request left today", 1)
        self.budget -= 1
        self.asked.append((start, end))
        bars = self._feed.history(instrument, timeframe, start, end)  # type: ignore[attr-defined]
        return bars.rows(~np.isin(bars.session, [session_number(d) for d in self.lacks]))


@pytest.fixture
def provider(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    true_feed = ConfigFilesResource.feed
    with installation(tmp_path) as of:
        made = Provider(ConfigFilesResource().feed("sample_forex"))
        monkeypatch.setattr(
            ConfigFilesResource, "feed", lambda self, name: made if name == "sample_forex" else true_feed(self, name)
        )
        lake = fill(of)
        empty = Bars.empty("EURUSD", Timeframe.H1)
        instruments = ConfigFilesResource().load().universe.instruments
        for day in GONE:
            lake.write_bars("bars_1h", {"EURUSD": empty}, start=day, end=day, source="lost", instruments=instruments)
        yield made


def work(ledger: Ledger) -> Backfill:
    from resources.settings import settings

    return Backfill(ConfigFilesResource(), Lake(settings().lake_dir), ledger, run_id="run", left_of=lambda feed: None)


def planned(ledger: Ledger) -> BackfillPlan:
    return work(ledger).plan(START, END, ["EURUSD"])


def spans(plan: BackfillPlan) -> list[tuple[date, date]]:
    return [(session_date(f.request.first), session_date(f.request.last)) for f in plan.requests]


def held(day: date) -> int:
    from resources.settings import settings

    return len(Lake(settings().lake_dir).read_bars("bars_1h", "EURUSD", day, day))


def test_the_plan_names_what_is_missing_in_the_fewest_requests_and_asks_nobody(provider: Provider, ledger: Ledger) -> None:
    assert spans(planned(ledger)) == [(GONE[0], GONE[-1])]
    provider.page = 24 * 3
    assert spans(planned(ledger)) == [(GONE[0], GONE[1]), (GONE[2], GONE[2]), (GONE[3], GONE[3])]
    assert sum(f.request.missing for f in planned(ledger).requests) == 24 * len(GONE)
    assert provider.asked == []


def test_filling_brings_every_bar_back_with_what_is_derived_and_the_verdicts(provider: Provider, ledger: Ledger) -> None:
    said: list[str] = []
    filled = work(ledger).run(planned(ledger), progress=lambda done, total, item, text: said.append(f"{done}/{total} {text}"))
    assert (filled.filled_sessions, filled.filled_bars) == (4, 96)
    assert said == ["1/1 96 bars filled in 4 session(s)"]
    assert all(held(day) == 24 for day in GONE)
    assert planned(ledger).requests == []
    verdicts = ledger.session_verdicts(GONE[0].isoformat())
    assert {v.dataset for v in verdicts} >= {"bars_1h", "bars_4h", "bars_1d"}
    assert all(v.passed for v in verdicts if v.severity == "error")


def test_what_is_held_is_never_taken_away(provider: Provider, ledger: Ledger) -> None:
    provider.lacks = {date(2017, 11, 15)}  # between the gaps, inside the request
    work(ledger).run(planned(ledger))
    assert held(date(2017, 11, 15)) == 24
    a = Bars("X", Timeframe.H1, np.array([1, 2, 3]), np.zeros(3, np.int32), *[np.ones(3)] * 5)
    assert new_sessions(a, a.rows(slice(0, 2))) == {}
    assert new_sessions(a.rows(slice(0, 2)), a) == {0: 1}
    assert new_sessions(a.rows(np.array([0, 1])), a.rows(np.array([1, 2]))) == {}


def test_what_the_source_does_not_have_is_written_down_and_not_asked_again_until_its_time(
    provider: Provider, ledger: Ledger
) -> None:
    provider.lacks = {GONE[2]}
    filled = work(ledger).run(planned(ledger))
    assert (filled.filled_sessions, filled.empty_sessions) == (3, 1)
    again = planned(ledger)
    assert again.requests == []
    (why,) = again.empty.values()
    assert "the source gave 0 of 24 bars" in why
    with ledger.engine.begin() as c:
        c.execute(update(known_empty).values(ask_again_wall=1))
    assert spans(planned(ledger)) == [(GONE[2], GONE[2])]


def test_out_of_budget_it_stops_and_goes_on_later_without_asking_twice(provider: Provider, ledger: Ledger) -> None:
    provider.page, provider.budget = 24 * 3, 1
    filled = work(ledger).run(planned(ledger))
    assert filled.filled_sessions == 2
    assert "no request left today" in filled.stopped["sample_forex"]
    provider.budget = 10
    assert work(ledger).run(planned(ledger)).filled_sessions == 2
    assert provider.asked == [(GONE[0], GONE[1]), (GONE[2], GONE[2]), (GONE[3], GONE[3])]
    states = {r["first_session"]: r["state"] for r in book.requests(ledger.engine)}
    assert set(states.values()) == {"done"}


def test_a_source_in_error_is_named_and_what_was_asked_stays_to_be_asked(provider: Provider, ledger: Ledger) -> None:
    provider.broken = True
    filled = work(ledger).run(planned(ledger))
    assert "maintenance" in next(iter(filled.failed.values()))
    assert [r["state"] for r in book.requests(ledger.engine)] == ["failed"]
    provider.broken = False
    assert work(ledger).run(planned(ledger)).filled_sessions == 4


def test_only_one_process_asks_at_a_time(provider: Provider, ledger: Ledger) -> None:
    with book.only_one(ledger.engine), pytest.raises(book.BackfillBusy, match="not asked twice"):
        work(ledger).run(planned(ledger))
    assert provider.asked == []


def test_the_job_shows_the_dry_run_and_fills(provider: Provider, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.backfill_run._left", lambda feed: (3, None))
    defs = dg.Definitions(assets=backfill.ASSETS, jobs=backfill.JOBS, resources=resource_definitions())
    config = {"config": {"start": START.isoformat(), "end": END.isoformat(), "symbols": ["EURUSD"]}}
    result = defs.resolve_job_def("backfill_gaps").execute_in_process(
        instance=dg.DagsterInstance.ephemeral(), run_config={"ops": {"gap_plan": config, "gap_fill": config}}
    )
    assert result.success
    plan = result.asset_materializations_for_node("gap_plan")[0].metadata
    assert plan["missing_bars"].value == 96
    assert "2017-11-07" in str(plan["plan"].value)
    assert "| sample_forex | 3 | no limit |" in str(plan["budgets_left"].value)
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("no_gaps_to_fill", False)
    assert result.asset_materializations_for_node("gap_fill")[0].metadata["filled_bars"].value == 96


def test_the_operator_plans_and_runs_at_the_terminal(
    provider: Provider, ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "ledger_url", lambda self: ledger_url)
    span = ["--symbol", "EURUSD", "--start", START.isoformat(), "--end", END.isoformat()]
    dry = CliRunner().invoke(app, ["gaps", *span])
    assert dry.exit_code == 0, dry.output
    assert "2017-11-07" in dry.stdout
    assert provider.asked == []
    done = CliRunner().invoke(app, ["gaps", "--run", *span])
    assert done.exit_code == 0, done.output
    assert "96 bars filled in 4 sessions by 1 requests" in done.stdout
    assert CliRunner().invoke(app, ["gaps", "--start", "yesterday"]).exit_code == 1
