"""The desk is killed at every boundary of an order's life; after the next start ledger and paper book agree."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

from resources.ledger.store import connect
from tests.faults import checks, harness

CLOSES = 6
CLEAN = dict.fromkeys(checks.NAMES, 0)
pytestmark = pytest.mark.usefixtures("warm_paper_desks")


PAPER = ("answer_before_commit", "between_fill_events", "during_exit")
"""Boundaries at which the paper broker, whose book is in the same server, is looked at by itself; tests.faults.test_remote_crash
comes by all of them over a broker that is another process."""


@pytest.mark.parametrize("boundary", PAPER)
def test_a_kill_at_a_boundary_loses_and_doubles_nothing(ledger_url: str, ledger_engine: Engine, boundary: str) -> None:
    count = 2 if boundary in ("during_cancel", "during_exit") else 4
    assert harness.finish(ledger_url, seed=3, closes=CLOSES, crash_at=f"{boundary}:{count}") == -9, "the boundary was not passed"
    assert harness.finish(ledger_url, seed=3, closes=CLOSES) == 0
    assert checks.compare(ledger_engine) == CLEAN
    assert checks.activity(ledger_engine)["fills"] > 2


def test_a_life_without_kills_is_clean_and_busy(ledger_url: str, ledger_engine: Engine) -> None:
    assert harness.finish(ledger_url, seed=3, closes=CLOSES) == 0
    assert checks.compare(ledger_engine) == CLEAN
    busy = checks.activity(ledger_engine)
    assert busy["given_up"] == 0
    assert min(busy["orders"], busy["fills"], busy["exits"]) > 0


def test_kills_at_random_moments_lose_and_double_nothing(new_ledger_url: Callable[[], str]) -> None:
    dice = random.Random(11)
    for seed in range(2):
        url, kills = new_ledger_url(), 0
        while kills < 4 and harness.kill_after(url, seed, CLOSES, dice.uniform(0.05, 0.5)):
            kills += 1
        assert harness.finish(url, seed, CLOSES) == 0
        engine = connect(url)
        assert checks.compare(engine) == CLEAN, f"seed {seed} after {kills} kills"
        engine.dispose()


def test_the_checks_see_what_is_wrong(ledger_url: str, ledger_engine: Engine) -> None:
    assert harness.finish(ledger_url, seed=3, closes=CLOSES) == 0
    damages = {
        "wrong_cash": "UPDATE paper.account SET cash = cash + 1",
        "wrong_position": "UPDATE paper.positions SET quantity = quantity + 1 WHERE symbol = 'EURUSD'",
        "lost": "UPDATE paper.orders SET client_id = 'x' WHERE client_id = (SELECT min(client_id) FROM paper.orders)",
        "phantom": "DELETE FROM paper.events WHERE execution IS NOT NULL",
        "duplicates": "UPDATE intents SET parent = 'one' WHERE leg = 'entry'",
        "in_doubt": "UPDATE orders SET state = 'unknown' WHERE id = (SELECT min(id) FROM orders)",
    }
    for name, damage in damages.items():
        with ledger_engine.begin() as connection:
            connection.execute(text(damage))
        assert checks.compare(ledger_engine)[name] > 0, name
