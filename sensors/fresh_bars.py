"""`fresh_bars`: a new bar close at the desk starts one `trade` run for the whole universe.

The evaluation waits inside its tick (long poll) until a close is there, so that no close waits for the next round of
the sensor daemon. One run per close, run key = close time, in order: the next close is asked for only when the run of
the one before has ended or its patience is over. Closes that no strategy waits for are passed over without a run.

Between two evaluations the sensor is deaf for a daemon's round. Bars close at whole minutes, so no evaluation that waited in
vain ends shortly before one, or while the bars of one still come in (`patience`).
"""

import time
from collections.abc import Iterator

import dagster as dg

from assets.trading import CLOSE_TIME_TAG
from resources.dagster_resources import LedgerResource
from resources.ledger.base import Row
from resources.ledger.close_watch import close_watch
from resources.ledger.store import Ledger
from resources.run_host.protocol import LANE_TAG, TRADE_LANE
from resources.settings import settings
from trading.timeframes import iso

LONG_POLL_SECONDS = 40.0
"""Below the 60 s after which the daemon gives the evaluation up."""
LONGEST_SECONDS = 52.0
"""Waited at most, to get past a whole minute."""
ROUND_SECONDS = 1.5
"""What ending one evaluation and beginning the next takes besides the daemon's pause."""
LAG_SECONDS = 1.5
"""From a close's moment, and the desk's patience with stragglers, to its row in the ledger."""
MINUTE_SECONDS = 60.0
LOOK_SECONDS = 0.25
"""Between two looks when nothing wakes it: the run before, whose end nobody tells, may be over."""
NO_RUN_OUTCOMES = frozenset({"no_strategy", "skipped"})


def next_close(ledger: Ledger, cursor: int, patience_seconds: float, now_wall: int) -> tuple[Row | None, int]:
    """(oldest close after `cursor` that wants a run now or None, cursor after passing over closes that want none).

    A close whose predecessor still runs is held back until that run is done or `patience_seconds` have passed since
    it was sensed: decisions must not be taken out of order.
    """
    previous: Row | None = None
    for row in ledger.closes(after=cursor - 1, limit=100):  # one question: the row of the cursor and what came after it
        if int(row["close_time"]) == cursor:
            previous = row
            continue
        if row["outcome"] in NO_RUN_OUTCOMES:
            cursor, previous = int(row["close_time"]), row
            continue
        if previous is not None and previous["outcome"] is None and previous["sensed_wall"] is not None:
            waited = (now_wall - int(previous["sensed_wall"])) / 1e6
            if waited < patience_seconds:
                return None, cursor
        return row, cursor
    return None, cursor


def trade_request(row: Row) -> dg.RunRequest:
    """The run of one bar close. run_key makes a second request of the same close a no-op in Dagster as well."""
    close_time = int(row["close_time"])
    return dg.RunRequest(
        run_key=str(close_time),
        partition_key=str(row["session"]),
        tags={
            CLOSE_TIME_TAG: str(close_time),
            "tapeline/close": iso(close_time),
            "tapeline/mode": settings().mode.upper(),
            LANE_TAG: TRADE_LANE,
        },
    )


def patience(now_wall: int, seconds: float, loop_seconds: float, grace_seconds: float) -> float:
    """How long to wait instead of `seconds` from `now_wall` (real time, UTC us) on, so that no expected close is missed.

    loop_seconds: the daemon's pause between two rounds. grace_seconds: how long the desk waits for stragglers of a close.
    """
    gap, lag = loop_seconds + ROUND_SECONDS, grace_seconds + LAG_SECONDS
    after_minute = (now_wall / 1e6 + seconds) % MINUTE_SECONDS
    if after_minute < lag:  # its bars may be under way: stay until they are there
        longer = seconds + lag - after_minute
    elif after_minute > MINUTE_SECONDS - gap:  # deaf when it comes: stay past it
        longer = seconds + MINUTE_SECONDS - after_minute + lag
    else:
        return seconds
    if longer <= LONGEST_SECONDS:
        return longer
    # Deaf before it instead, where the round is over in time.
    return max(0.0, seconds - ((after_minute + gap) % MINUTE_SECONDS))


def evaluate(ledger: Ledger, cursor: str | None, seconds: float) -> Iterator[dg.RunRequest | dg.SkipReason | str]:
    """Wait up to `seconds` for a close; yields a RunRequest or SkipReason, then the new cursor as a str."""
    position = int(cursor or 0)
    end = time.monotonic() + seconds
    with close_watch(ledger.engine) as wait:
        while True:
            now_wall = time.time_ns() // 1000
            row, position = next_close(ledger, position, settings().replay_barrier_seconds, now_wall)
            left = end - time.monotonic()
            if row is not None or left <= 0:
                break
            wait(min(left, LOOK_SECONDS))
    if row is None:
        yield dg.SkipReason("No new bar close.")
        yield str(position)
        return
    close_time = int(row["close_time"])
    ledger.stamp_close(close_time, sensed_wall=now_wall)
    yield trade_request(row)
    yield str(close_time)


@dg.sensor(
    name="fresh_bars",
    job_name="trade",
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="One trade run per bar close for the whole universe, in order, never twice (run key = close time).",
)
def fresh_bars(context: dg.SensorEvaluationContext, ledger: LedgerResource) -> dg.SensorResult | dg.SkipReason:
    own = settings()
    seconds = patience(time.time_ns() // 1000, LONG_POLL_SECONDS, own.sensor_loop_seconds, own.live_grace_seconds)
    results = list(evaluate(ledger.ledger(), context.cursor, seconds))
    position = str(results[-1])
    if isinstance(results[0], dg.RunRequest):
        return dg.SensorResult(run_requests=[results[0]], cursor=position)
    return dg.SensorResult(skip_reason=results[0] if isinstance(results[0], dg.SkipReason) else None, cursor=position)
