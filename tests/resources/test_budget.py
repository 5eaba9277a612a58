"""Request budgets: never more than the plan allows, whoever asks, whatever the clock does."""

from __future__ import annotations

import multiprocessing
import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from resources.feeds.budget import Budget, BudgetState, budget_of
from resources.feeds.protocol import Capabilities, FeedError, RateLimited
from resources.ledger.base import connect
from resources.settings import Settings
from trading.timeframes import Timeframe, to_us

NOON = to_us(datetime(2026, 3, 4, 12, tzinfo=UTC))


class Clock:
    """A real clock under the test's hand. UTC us."""

    def __init__(self, now: int = NOON) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += round(seconds * 1e6)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_minute_holds_so_many_and_the_next_one_waits_until_the_first_are_old(ledger_engine: Engine, clock: Clock) -> None:
    budget = Budget(ledger_engine, "f", 3, None, now=clock)
    assert budget.left() == (3, None)
    for _ in range(3):
        assert budget.take() == 0
        clock.pass_(10)
    assert budget.left() == (0, None)
    assert budget.take() == 31.0  # the first second is 30 s old and leaves the window when it is 61
    clock.pass_(30.9)
    assert budget.take() > 0
    clock.pass_(0.1)
    assert budget.take() == 0
    assert budget.take() > 0


def test_a_refused_request_is_not_counted(ledger_engine: Engine, clock: Clock) -> None:
    budget = Budget(ledger_engine, "f", 2, 10, now=clock)
    assert budget.take(2) == 0
    for _ in range(5):
        assert budget.take() > 0
    assert budget.left() == (0, 8)


def test_the_day_ends_at_midnight_in_the_providers_zone(ledger_engine: Engine, clock: Clock) -> None:
    budget = Budget(ledger_engine, "f", None, 2, zone="America/New_York", now=clock)
    assert budget.take(2) == 0
    assert budget.take() == 17 * 3600  # 12:00Z is 07:00 in New York
    clock.pass_(12 * 3600 + 1)  # past midnight UTC: still the same day there
    assert budget.take() > 0
    clock.pass_(5 * 3600)
    assert budget.take() == 0
    assert budget.left() == (None, 1)


def test_the_day_of_a_clock_change_has_its_own_length(ledger_engine: Engine) -> None:
    clock = Clock(to_us(datetime(2026, 3, 8, 5, 0, tzinfo=UTC)))  # midnight in New York; 23 hours long
    budget = Budget(ledger_engine, "f", None, 1, zone="America/New_York", now=clock)
    assert budget.take() == 0
    assert budget.take() == 23 * 3600


def test_it_survives_a_restart_and_is_shared(ledger_engine: Engine, ledger_url: str, clock: Clock) -> None:
    assert Budget(ledger_engine, "f", 5, 8, now=clock).take(4) == 0
    other = connect(ledger_url)
    again = Budget(other, "f", 5, 8, now=clock)
    assert again.left() == (1, 4)
    assert again.take(2) > 0
    assert Budget(other, "g", 5, 8, now=clock).left() == (5, 8)  # another feed has its own
    other.dispose()


def _take_many(url: str, gate: multiprocessing.synchronize.Barrier, answers: multiprocessing.Queue[int]) -> None:
    engine = connect(url)
    gate.wait()
    budget = Budget(engine, "f", 1000, 25)
    answers.put(sum(budget.take() == 0 for _ in range(20)))
    engine.dispose()


def test_processes_that_ask_at_once_never_get_more_than_there_is(ledger_url: str) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_take_many, args=(ledger_url, gate, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    got = sum(answers.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert got == 25


def test_threads_that_ask_at_once_never_get_more_than_there_is(ledger_engine: Engine, clock: Clock) -> None:
    got: list[float] = []
    budget = Budget(ledger_engine, "f", 7, None, now=clock)
    threads = [threading.Thread(target=lambda: got.extend(budget.take() for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), got.count(0.0)) == (20, 7)


def test_a_clock_set_back_an_hour_gives_nothing_back_and_blocks_no_longer_than_a_minute(
    ledger_engine: Engine, clock: Clock
) -> None:
    budget = Budget(ledger_engine, "f", 2, 3, now=clock)
    assert budget.take(2) == 0
    clock.pass_(-3600)
    assert 0 < budget.take() <= 61
    clock.pass_(61)
    assert budget.take() == 0
    assert budget.left()[1] == 0


def test_a_clock_set_back_over_midnight_does_not_begin_the_day_anew(ledger_engine: Engine) -> None:
    clock = Clock(to_us(datetime(2026, 3, 4, 0, 30, tzinfo=UTC)))
    budget = Budget(ledger_engine, "f", None, 2, now=clock)
    assert budget.take(2) == 0
    clock.pass_(-3600)  # yesterday again
    assert budget.take() > 0
    clock.pass_(3600 + 60)  # set right: the same day as before
    assert budget.take() > 0
    clock.pass_(24 * 3600)
    assert budget.take() == 0


def test_a_provider_that_asks_for_silence_silences_every_process(ledger_engine: Engine, ledger_url: str, clock: Clock) -> None:
    Budget(ledger_engine, "f", 100, None, now=clock).hold(20, "429 Too Many Requests")
    other = connect(ledger_url)
    budget = Budget(other, "f", 100, None, now=clock)
    assert budget.take() == 20
    budget.hold(5, "shorter")
    assert budget.take() == 20
    assert budget.left() == (0, None)
    clock.pass_(20)
    assert budget.take() == 0
    other.dispose()


def test_acquire_waits_a_little_and_says_when_it_may_go_on(ledger_engine: Engine, clock: Clock) -> None:
    budget = Budget(ledger_engine, "f", 1, 2, now=clock)
    budget.acquire(max_wait_seconds=90, sleep=clock.pass_)
    budget.acquire(max_wait_seconds=90, sleep=clock.pass_)
    assert clock.now == NOON + 61_000_000
    with pytest.raises(RateLimited, match=r"1 a minute, 2 a day.*0 today.*2026-03-05T00:00:00") as refused:
        budget.acquire(max_wait_seconds=90, sleep=clock.pass_)
    assert refused.value.retry_wall == to_us(datetime(2026, 3, 5, tzinfo=UTC)) + 1


def test_more_at_once_than_the_plan_has_is_a_mistake_of_the_caller(ledger_engine: Engine) -> None:
    with pytest.raises(ValueError, match="expected 1 to 3"):
        Budget(ledger_engine, "f", 3, 10).take(4)
    with pytest.raises(ValueError, match="at least 1"):
        Budget(ledger_engine, "f", 0, None)


def test_a_feed_without_limits_has_no_budget_and_one_without_a_ledger_asks_nothing(tmp_path: object) -> None:
    free = Capabilities("free", frozenset({Timeframe.D1}), live=False)
    settings = Settings(_env_file=None, data_dir=tmp_path)  # type: ignore[call-arg, arg-type]
    assert budget_of(free, settings) is None
    with pytest.raises(FeedError, match="cannot be counted"):
        budget_of(Capabilities("paid", frozenset({Timeframe.D1}), live=False, requests_per_day=5), settings)


@given(
    st.lists(st.tuples(st.floats(0, 90), st.integers(1, 3), st.booleans()), max_size=60),
    st.integers(3, 6),
    st.integers(5, 30),
)
def test_no_minute_and_no_day_ever_has_more_whatever_the_order(
    asked: list[tuple[float, int, bool]], per_minute: int, per_day: int
) -> None:
    """The pure part: a true clock never sees more than the plan, even when ours is set back now and then."""
    zone = ZoneInfo("UTC")
    true = ours = NOON
    state = BudgetState(datetime(2026, 3, 4, tzinfo=UTC).date(), 0, (), 0)
    sent: list[tuple[int, int]] = []
    for pause, n, back in asked:
        true += int(pause * 1e6)
        ours += int(pause * 1e6) - (40_000_000 if back else 0)
        state = state.at(ours, zone)
        if state.wait_seconds(n, ours, zone, per_minute, per_day) <= 0:
            state = state.taken(n, ours)
            sent.append((true, n))
    for at, _ in sent:
        assert sum(n for t, n in sent if at <= t < at + 60_000_000) <= per_minute
    assert sum(n for _, n in sent) <= per_day
