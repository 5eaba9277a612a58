"""A desk that is killed between any two steps of a split applies it once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from desk import faults, reconcile, store, submission
from resources.corporate_actions import write_actions
from resources.ledger import action_tables as a
from resources.ledger.store import connect
from tests.desk.test_corporate_actions import THU, WED, StockDesk, at, opened, split, stock_bar
from tests.faults import harness
from tests.faults.warm_engine import engine_of
from tests.faults.zygote import zygote


def _live(url: str, room: str, crash_at: str) -> None:
    os.environ.pop(faults.VARIABLE, None)
    if crash_at:
        os.environ[faults.VARIABLE] = crash_at
    engine = engine_of(url)
    desk = StockDesk(engine, Path(room))
    desk.clock.advance(at(THU, 1))
    submission.recover(engine, desk.broker, desk.clock)
    desk.actions.resume()
    desk.router.continue_exits()
    desk.bar(stock_bar(THU, 1, 100.0))


SENDING = ("during_cancel", "before_send", "after_send_before_answer", "answer_before_commit", "after_ack")


@pytest.mark.parametrize("boundary", [*faults.ACTION_BOUNDARIES, *SENDING])
def test_a_kill_between_any_two_steps_applies_the_split_once(
    ledger_url: str, new_ledger_url: Callable[[], str], tmp_path: Path, boundary: str
) -> None:
    harness.warm(new_ledger_url)
    engine = connect(ledger_url)
    desk = StockDesk(engine, tmp_path).begin()
    desk.bar(stock_bar(WED, 1, 700.0))
    trade = opened(desk)
    write_actions(tmp_path, "AAPL", [split(7.0)])
    engine.dispose()
    for crash_at, code in ((boundary, -9), ("", 0)):
        process = zygote().spawn("tests.desk.test_corporate_actions_killed:_live", ledger_url, str(tmp_path), crash_at)
        assert process.wait(120) == code, (crash_at, process.output())
    assert desk.position(symbol="AAPL") == 700.0
    assert [(p.quantity, p.average_price) for p in desk.broker.positions()] == [(700.0, 100.0)]
    assert {k: v[1:] for k, v in desk.legs(trade).items()} == {"stop": (700.0, 90.0), "target": (700.0, 110.0)}
    assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}
    with desk.engine.connect() as connection:
        assert len(connection.execute(select(a.position_adjustments)).all()) == 1
        assert store.find_orders(connection, store.in_states()) == []
    engine.dispose()
