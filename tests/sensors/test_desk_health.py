"""The desk's checks: each fails for its own reason, a change is told at once, sameness every quarter of an hour."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.common import configured_universe
from assets.desk_health import (
    BROKER,
    DESCRIPTIONS,
    DESK,
    HEARTBEAT,
    LAST_BAR,
    NEW_RISK,
    QUEUES,
    desk,
    desk_health_checks,
    face,
    judge,
    look,
)  # fmt: skip
from desk import risk_state
from resources.feeds.simulated import market_clock
from resources.ledger.store import Ledger
from resources.settings import Settings
from sensors.desk_health import REPEAT_SECONDS, evaluate
from trading.instruments import Instrument
from trading.timeframes import US_PER_HOUR
from trading.universe import Universe

OWN = Settings(_env_file=None, heartbeat_seconds=5.0, kill_switch_seconds=60.0)  # type: ignore[call-arg]
OPEN = 1_514_473_200_000_000 + 20 * US_PER_HOUR  # a Friday in the middle of the currencies' session
CLOSED = OPEN + 30 * US_PER_HOUR


def _beat(ledger: Ledger, now: int, **more: Any) -> None:
    told = {"wall": now - 1_000_000, "market_time": now, "pid": 7, "state": "ok", "mode": "PAPER", "no_new_risk": "",
            "working_since_wall": None, "broker": "paper", "broker_trouble": ""}  # fmt: skip
    ledger.put_state("heartbeat", told | more)


def _failed(ledger: Ledger, now: int, universe: Universe | None = None) -> set[str]:
    answers = judge(look(ledger, now), OWN, universe or configured_universe())
    assert [a.check_name for a in answers] == list(DESCRIPTIONS)
    return {str(a.check_name) for a in answers if not a.passed}


def test_a_desk_that_was_never_started_fails_everything(ledger: Ledger) -> None:
    assert _failed(ledger, OPEN) == set(DESCRIPTIONS)


def test_each_check_fails_for_its_own_reason(ledger: Ledger) -> None:
    _beat(ledger, OPEN)
    assert _failed(ledger, OPEN) == set()
    _beat(ledger, OPEN, broker_trouble="the broker paper does not answer: gone", no_new_risk="the broker paper does not answer")
    assert _failed(ledger, OPEN) == {BROKER, NEW_RISK}
    _beat(ledger, OPEN, working_since_wall=OPEN - 90_000_000)
    assert _failed(ledger, OPEN) == {HEARTBEAT}, "it beats, and hangs"
    _beat(ledger, OPEN)
    assert _failed(ledger, OPEN + 60_000_000) == {HEARTBEAT, BROKER}, "what a silent desk knows of its broker is old"


def test_a_close_an_event_and_a_message_that_wait_too_long_are_a_queue_that_lags(ledger: Ledger) -> None:
    now = time.time_ns() // 1000
    _beat(ledger, now)
    ledger.record_close(now, "2017-12-29", {"1h": ["EURUSD"]}, emitted_wall=now, stored_wall=now - 20_000_000)
    assert _failed(ledger, now) == set()
    assert _failed(ledger, now + 15_000_000) == {QUEUES}
    ledger.stamp_close(now, outcome="done")
    assert _failed(ledger, now + 15_000_000) == set()
    seq = ledger.enqueue("fills", {"metadata": {}})
    assert QUEUES in _failed(ledger, now + 70_000_000)
    ledger.mark_sent([seq])
    assert QUEUES not in _failed(ledger, now + 70_000_000)


@pytest.fixture
def minutes() -> Universe:
    text = """
name: live
history_start: 2017-01-02
simulated: true
instruments:
  EURUSD: {asset_class: forex, calendar: FX, tick_size: 0.00001, lot_size: 1000, currency: USD, feed: simulated,
           native_timeframe: 1m, tradable_in: [backtest, paper]}
"""
    from trading.universe import parse_universe

    universe, problems = parse_universe(text, "live.yaml")
    assert universe is not None, problems
    assert isinstance(universe.instruments["EURUSD"], Instrument)
    return universe


def test_a_missing_bar_fails_only_where_bars_are_due(ledger: Ledger, minutes: Universe) -> None:
    ledger.record_close(OPEN, "2017-12-29", {}, emitted_wall=OPEN, stored_wall=OPEN)
    ledger.stamp_close(OPEN, outcome="no_strategy")
    for live, late, missed in ((False, 600, False), (True, 60, False), (True, 600, True)):
        now = OPEN + late * 1_000_000
        ledger.put_state("live_feed", {"feeds": [{"feed": "simulated"}] if live else []})
        _beat(ledger, now)
        assert _failed(ledger, now, minutes) == ({LAST_BAR} if missed else set()), (live, late)
    _beat(ledger, CLOSED)
    assert _failed(ledger, CLOSED, minutes) == set(), "the venue is closed"


def test_bars_of_a_simulated_market_are_due_by_its_own_clock(ledger: Ledger, minutes: Universe, tmp_path: Path) -> None:
    own = OWN.model_copy(update={"data_dir": tmp_path, "simulated_speed": 10.0, "simulated_start": "2017-12-28T20:00:00Z"})
    wall = time.time_ns() // 1000
    stands = market_clock(own, lambda: wall)()
    ledger.record_close(stands, "2017-12-28", {}, emitted_wall=wall, stored_wall=wall)
    ledger.stamp_close(stands, outcome="no_strategy")
    ledger.put_state("live_feed", {"feeds": [{"feed": "simulated"}]})
    for seconds, missed in ((5, False), (30, False), (60, True)):  # ten seconds of that market pass in a real one
        now = wall + seconds * 1_000_000
        _beat(ledger, now)
        (answer,) = (a for a in judge(look(ledger, now), own, minutes) if a.check_name == LAST_BAR)
        assert answer.passed is not missed, seconds


def _verdicts(events: Sequence[Any]) -> list[tuple[str, bool]]:
    return [(e.check_name, e.passed) for e in events if isinstance(e, dg.AssetCheckEvaluation)]


def _names(events: Sequence[Any]) -> list[str]:
    return [name for name, _ in _verdicts(events)]


def test_only_what_changed_is_told_and_everything_every_quarter_of_an_hour(ledger: Ledger) -> None:
    _beat(ledger, OPEN)
    good = judge(look(ledger, OPEN), OWN, configured_universe())
    first, cursor = evaluate(good, None, None, OPEN)
    assert _names(first) == list(DESCRIPTIONS)
    same, cursor = evaluate(good, None, cursor, OPEN + 5_000_000)
    assert same == []
    _beat(ledger, OPEN, broker_trouble="gone")
    bad = judge(look(ledger, OPEN), OWN, configured_universe())
    told, cursor = evaluate(bad, None, cursor, OPEN + 10_000_000)
    assert _verdicts(told) == [(BROKER, False)]
    told, cursor = evaluate(good, None, cursor, OPEN + 15_000_000)
    assert _verdicts(told) == [(BROKER, True)]
    again, _ = evaluate(good, None, cursor, OPEN + int(REPEAT_SECONDS * 1e6))
    assert len(again) == len(DESCRIPTIONS)


def test_the_page_of_the_desk_shows_it_again_when_a_halt_or_an_order_in_doubt_comes_or_goes(ledger: Ledger) -> None:
    _beat(ledger, OPEN)

    def tick(cursor: str | None, second: int) -> tuple[list[dg.AssetObservation], str]:
        seen = look(ledger, OPEN)
        found, after = evaluate(judge(seen, OWN, configured_universe()), face(ledger, seen), cursor, OPEN + second * 1_000_000)
        return [e for e in found if isinstance(e, dg.AssetObservation)], after

    first, cursor = tick(None, 0)
    assert [first[0].metadata[key].value for key in ("mode", "halts", "orders_in_doubt")] == ["PAPER", "none", 0]
    same, cursor = tick(cursor, 5)
    assert same == []
    with ledger.engine.begin() as c:
        risk_state.set_halt(c, "REDUCE_ONLY", "desk", "daily loss", "breaker", OPEN)
    halted, cursor = tick(cursor, 10)
    assert "REDUCE_ONLY: daily loss" in str(halted[0].metadata["halts"].value)
    assert tick(cursor, 15)[0] == []


def test_a_desk_that_never_ran_has_nothing_to_show(ledger: Ledger) -> None:
    assert face(ledger, look(ledger, OPEN)) is None


def test_a_person_can_run_the_checks_by_hand(ledger: Ledger) -> None:
    class Given(dg.ConfigurableResource):  # type: ignore[type-arg]
        def ledger(self) -> Ledger:
            return ledger

    _beat(ledger, time.time_ns() // 1000)
    job = dg.Definitions(
        [desk], asset_checks=[desk_health_checks], resources={"ledger": Given()},
        jobs=[dg.define_asset_job("health", selection=dg.AssetSelection.checks_for_assets(DESK))],
    ).resolve_job_def("health")  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        made = job.execute_in_process(instance=instance)
    assert made.success
    assert {e.check_name for e in made.get_asset_check_evaluations()} == set(DESCRIPTIONS)
