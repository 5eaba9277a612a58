"""A desk whose entries are worked in slices, over the paper broker or the simulated one, as a process."""

from __future__ import annotations

import os
from typing import Any

from desk import faults, reconcile, store, submission
from tests.desk.kit import CASH, INSTRUMENTS, SESSION, Desk, bar, decision, good_verdicts, hour
from tests.faults import remote_process, warm_engine
from tests.faults.remote_desk import RemoteDesk, until_done

CLOSES = 7
WISHES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("trend", {"algo": "twap", "minutes": 240, "slices": 4, "rest": "market"}),
    ("revert", {"algo": "iceberg", "minutes": 360, "visible": 400.0, "limit_ticks": 3, "rest": "cancel"}),
    ("idea", {"algo": "twap", "minutes": 300, "slices": 5}),
)
"""The third one's trade is closed at the second close, half way. The second one's limit is not reached from the third on."""


def live(url: str, address: str) -> None:
    """Be the desk until the last close is done, going on behind the last one that was finished."""
    engine = warm_engine.engine_of(url)
    desk = RemoteDesk(engine, address=address) if address else Desk(engine)
    done = int(desk.store.state("progress").get("close", 0))
    desk.clock.advance(hour(done))
    until_done(lambda: submission.recover(engine, desk.broker, desk.clock))
    if done == 0:
        desk.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=CASH)
        for symbol in INSTRUMENTS:
            desk.ledger.put_verdicts(good_verdicts(symbol))
        desk.store.mark(hour(0), SESSION, dict.fromkeys(INSTRUMENTS, 1.2))
    until_done(desk.router.continue_exits)
    until_done(lambda: reconcile.reconcile(engine, desk.broker, desk.clock))
    for n in range(done, CLOSES + 1):
        if n > done:
            up = 0.002 if n >= 3 else 0.0
            desk.close(n, bar("EURUSD", n, 1.2 + up, 1.2004 + up, 1.1999 + up, 1.2 + up))
            until_done(desk.router.continue_exits)
        if n == 0:
            for strategy, execution in WISHES:
                wish = decision(0, strategy, execution=execution, valid_until=hour(CLOSES))
                until_done(lambda w=wish: desk.router.submit_decision(w))  # type: ignore[misc]
        if n == 2 and desk.position("idea"):
            until_done(lambda: desk.router.exit_position("idea", "EURUSD", "rule", hour(2)))
        until_done(desk.router.algos.work)
        if n % 3 == 0 or n == CLOSES:
            until_done(lambda: reconcile.reconcile(engine, desk.broker, desk.clock))
            until_done(desk.router.continue_exits)
        with engine.begin() as connection:
            store.put_state(connection, "progress", {"close": n})


def be_desk(url: str, address: str, crash_at: str) -> None:
    """Be the desk until its last close is done, or until it dies at the boundary `crash_at`."""
    os.environ.pop(faults.VARIABLE, None)
    if crash_at:
        os.environ[faults.VARIABLE] = crash_at
    remote_process.quiet()
    live(url, address)
