"""One trade run per bar close: in order, never twice, none for a close no strategy waits for."""

from __future__ import annotations

import threading
import time

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.ledger.close_watch import close_watch
from resources.ledger.store import Ledger
from sensors.fresh_bars import (
    LAG_SECONDS,
    LONG_POLL_SECONDS,
    LONGEST_SECONDS,
    ROUND_SECONDS,
    evaluate,
    next_close,
    patience,
)  # fmt: skip

HOUR = 3_600_000_000
T0 = 1_514_500_000_000_000


def _close(ledger: Ledger, number: int, outcome: str | None = None) -> int:
    close_time = T0 + number * HOUR
    ledger.record_close(close_time, "2017-12-29", {"1h": ["EURUSD"]}, emitted_wall=1, stored_wall=2)
    if outcome:
        ledger.stamp_close(close_time, outcome=outcome)
    return close_time


def _one(ledger: Ledger, cursor: int) -> tuple[dg.RunRequest | dg.SkipReason | str, str]:
    result, position = list(evaluate(ledger, str(cursor), 0.0))
    return result, str(position)


def test_a_close_asks_for_one_run_keyed_by_its_close_time_in_the_partition_of_its_session(ledger: Ledger) -> None:
    first = _close(ledger, 1)
    request, cursor = _one(ledger, 0)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == str(first)
    assert request.partition_key == "2017-12-29"
    assert request.tags["tapeline/close_time"] == str(first)
    assert cursor == str(first)
    result, _ = _one(ledger, first)
    assert isinstance(result, dg.SkipReason), "the same close is not asked for again"


def test_a_close_waits_until_the_run_of_the_close_before_is_done(ledger: Ledger) -> None:
    first, second = _close(ledger, 1), _close(ledger, 2)
    _, cursor = _one(ledger, 0)
    assert isinstance(_one(ledger, int(cursor))[0], dg.SkipReason)
    ledger.stamp_close(first, outcome="done")
    request, _ = _one(ledger, int(cursor))
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == str(second)


def test_after_its_patience_a_hanging_run_holds_nobody_back(ledger: Ledger) -> None:
    first, second = _close(ledger, 1), _close(ledger, 2)
    ledger.stamp_close(first, sensed_wall=1_000_000)
    assert next_close(ledger, first, patience_seconds=10, now_wall=10_999_999)[0] is None
    row, _ = next_close(ledger, first, patience_seconds=10, now_wall=11_000_000)
    assert row is not None
    assert row["close_time"] == second


@pytest.mark.parametrize("outcome", ["no_strategy", "skipped"])
def test_closes_without_a_run_are_passed_over(ledger: Ledger, outcome: str) -> None:
    _close(ledger, 1, outcome)
    second = _close(ledger, 2)
    request, cursor = _one(ledger, 0)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == str(second)
    assert cursor == str(second)


def test_a_close_that_arrives_while_the_tick_waits_is_answered_in_that_tick(ledger: Ledger) -> None:
    timer = threading.Timer(0.3, _close, (ledger, 1))
    timer.start()
    started = time.monotonic()
    result, _ = list(evaluate(ledger, "0", 90.0))
    timer.join()
    assert isinstance(result, dg.RunRequest)
    assert time.monotonic() - started < 60


def test_a_close_recorded_before_the_wait_begins_wakes_it_all_the_same(ledger: Ledger) -> None:
    with close_watch(ledger.engine) as wait:
        _close(ledger, 1)
        started = time.monotonic()
        wait(300.0)
        assert time.monotonic() - started < 150
        _close(ledger, 1)  # known already: nobody is woken
        started = time.monotonic()
        wait(0.2)
        assert time.monotonic() - started >= 0.2


def test_the_joint_is_stamped_when_the_sensor_asks(ledger: Ledger) -> None:
    first = _close(ledger, 1)
    _one(ledger, 0)
    row = ledger.close(first)
    assert row is not None
    assert row["sensed_wall"] > 0


@given(
    st.integers(1_500_000_000_000_000, 1_500_000_000_000_000 + 120_000_000),
    st.floats(1.0, LONG_POLL_SECONDS), st.floats(0.1, 20.0), st.floats(0.0, 10.0),
)  # fmt: skip
def test_no_whole_minute_falls_into_the_time_between_two_evaluations(now: int, seconds: float, loop: float, grace: float) -> None:
    waited = patience(now, seconds, loop, grace)
    assert 0 <= waited <= LONGEST_SECONDS
    if waited == 0:  # a minute comes while the daemon's pause is: it may not wait long enough to get past, nor end before
        return
    deaf_from = (now / 1e6 + waited) % 60
    deaf_until = deaf_from + loop + ROUND_SECONDS
    assert deaf_until <= 60 + 1e-3, "deaf over a whole minute"
    assert deaf_from >= grace + LAG_SECONDS - 1e-3, "gone while the bars of a close come in"


def test_the_usual_wait_is_always_long_enough_to_get_past_a_minute() -> None:
    for second in range(60):
        waited = patience(1_500_000_000_000_000 + second * 1_000_000, LONG_POLL_SECONDS, 1.0, 2.0)
        assert LONG_POLL_SECONDS <= waited <= LONGEST_SECONDS
