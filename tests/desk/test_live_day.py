"""A whole desk on live feeds: a day on the simulated exchange, over a dirty wire and a crash."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from desk.desk_reads import algos
from desk.live_feed import STATE_KEY
from resources.config import load_config
from resources.desk_client import DeskRefused
from resources.feeds import get_feed
from tests.desk.running import History, Installation
from tests.desk.test_live_feed import UNIVERSE
from trading.calendars import calendar
from trading.resample import resample
from trading.timeframes import US_PER_MINUTE, Timeframe

M1 = Timeframe.M1

STRATEGY = """\
name: often
description: Buys when the fast average is above the slow one, sells short below, out after a few minutes.
status: active
mode: paper
symbols: [BTCUSD]
timeframe: 1m
entry:
  long: {">": [{indicator: ema, params: {period: 2}}, {indicator: ema, params: {period: 4}}]}
  short: {"<": [{indicator: ema, params: {period: 2}}, {indicator: ema, params: {period: 4}}]}
exits:
  stop: {kind: atr, period: 14, multiple: 6.0}
  target: {kind: reward, ratio: 3.0}
  max_bars: 2
sizing: {kind: fixed, quantity: 0.05}
gates: {min_reward_to_risk: 1.0, quality_sessions: 1, valid_bars: 30}
costs: {commission_kind: per_value, rate: 0.0001, minimum: 0.1, slippage_kind: fixed, value: 1}
"""
SLICED = (
    STRATEGY.replace("name: often", "name: sliced").replace("[BTCUSD]", "[ETHUSD]").replace("max_bars: 2", "max_bars: 9")
    + "execution: {algo: twap, minutes: 6, slices: 3, jitter: 0.5}\n"
)
DAY = date(2026, 3, 4)


@pytest.fixture(scope="module")
def desk(postgres_url: str, _ledger_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation on the simulated exchange, 60 times as fast as real time, on a wire that loses, repeats, delays and
    breaks; its lake holds the days before."""
    room = tmp_path_factory.mktemp("live") / "at"
    blank = History(room, _ledger_template, postgres_url)
    environment = {
        "TAPELINE_SIMULATED_SPEED": "60", "TAPELINE_SIMULATED_START": "2026-03-04T15:00:30Z", "TAPELINE_LIVE_STALE_SECONDS": "3",
        "TAPELINE_SIMULATED_DIRT": "gaps=0.1,duplicates=0.1,late=0.1,cuts=0.06", "TAPELINE_LIVE_GRACE_SECONDS": "0.3",
        "TAPELINE_SIMULATED_SEED": os.environ.get("LIVE_DAY_SEED", "7"),
    }  # fmt: skip
    at_ = Installation(
        room,
        postgres_url,
        blank.new_ledger(f"live_{os.getpid()}"),
        overrides=environment,
        strategies={"often": STRATEGY, "sliced": SLICED},
    )
    text = UNIVERSE.format(name="sample", simulated="true", feed="simulated")
    (at_.config_dir / "universe" / "sample.yaml").write_text(text)
    _history(at_)
    yield at_
    at_.stop()


def _history(installation: Installation) -> None:
    """The days before, as an ingest would have left them; the exchange's clock stands at the end of them."""
    now = load_config(installation.settings).universe
    past = installation.settings.model_copy(update={"data_dir": installation.room / "past", "simulated_speed": 1e-3})
    feed = get_feed("simulated", past)
    end = DAY - timedelta(days=1)
    for symbol, instrument in now.instruments.items():
        venue = calendar(instrument.calendar)
        native = feed.history(instrument, M1, date(2026, 2, 1), end)
        for timeframe in (M1, Timeframe.M5):
            bars = native if timeframe is M1 else resample(native, timeframe, venue)
            installation.lake.write_bars(
                f"bars_{timeframe}", {symbol: bars}, start=date(2026, 2, 1), end=end, source="simulated",
                instruments=now.instruments,
            )  # fmt: skip
    shutil.rmtree(past.data_dir, ignore_errors=True)


def _minutes(installation: Installation) -> list[int]:
    return [int(row["close_time"]) for row in installation.ledger.closes()]


def _sliced(installation: Installation) -> list[dict[str, Any]]:
    """Entries worked in slices of which something has filled."""
    found = algos(installation.ledger.engine, state=None, session=None, strategy="sliced", symbol=None, limit=100)
    return [parent for parent in found if parent["filled"]]


def _trade_until(installation: Installation, done: Any, seconds: float = 300.0) -> list[Any]:
    """The trade run of every close as it comes, until `done()`."""
    deadline, answers = time.monotonic() + seconds, []
    while not done():
        assert time.monotonic() < deadline, installation.log()
        for row in installation.ledger.closes(pending=True)[-1:]:
            answers += installation.trade(row)
        time.sleep(0.05)
    return answers


def test_the_desk_lives_through_a_dirty_wire_and_a_crash_without_a_gap(desk: Installation) -> None:
    process = desk.start()
    answers = _trade_until(
        desk, lambda: any(f["strategy"] == "often" for f in desk.ledger.fills()) and _sliced(desk) and len(_minutes(desk)) >= 12
    )
    assert any(answer.accepted for answer in answers)
    status = desk.client().status()
    assert status["universe"]["simulated"]
    assert status["live_feed"]["feeds"][0]["symbols"]["BTCUSD"]["bars"] > 0
    with pytest.raises(DeskRefused, match="TAPELINE_LIVE_FEED=off"):
        desk.client().start_replay(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    crashed_at = len(_minutes(desk))
    time.sleep(2)  # two market minutes nobody listens to
    desk.start()
    desk.wait_for(lambda: len(_minutes(desk)) >= crashed_at + 8)
    desk.stop()

    times = _minutes(desk)
    assert times == list(range(times[0], times[-1] + 1, US_PER_MINUTE))
    own = load_config(desk.settings).universe
    for symbol, instrument in own.instruments.items():
        native = desk.lake.read_bars("bars_1m", symbol, DAY, DAY)
        exchange = get_feed("simulated", desk.settings).history(instrument, M1, DAY, DAY)
        until = int(native.close_time[-1])
        assert until >= times[-1] - 3 * US_PER_MINUTE
        assert native.close_time.tolist() == exchange.known_at(until).close_time.tolist()
        assert np.array_equal(native.close, exchange.known_at(until).close)
        derived = desk.lake.read_bars("bars_5m", symbol, DAY, DAY)
        again = resample(native, Timeframe.M5, calendar("CRYPTO"), known_until=max(until, times[-1]))
        # A straggler after the grace, a hole repaired later: the bar derived without it is made again with it.
        assert derived.content_hash() == again.content_hash(), (symbol, len(derived), len(again), until, times[-1])
    state = desk.ledger.get_state(STATE_KEY) or {}
    assert state["feeds"][0]["symbols"]["BTCUSD"]["repaired"] > 0
    assert sum(f["reconnects"] for f in state["feeds"]) + sum(p.returncode == -9 for p in desk.processes) >= 1
    parents = _sliced(desk)
    for parent in parents:  # worked by the clock of the feed, over the dirt, the kill and the minutes nobody listened
        slots = [s["slot"] for s in parent["slices"]]
        assert slots == sorted(set(slots)), "at most one order a slot"
        assert parent["filled"] <= parent["quantity"] * (1 + 1e-9)
        assert all(parent["start_time"] <= s["wanted_time"] <= parent["end_time"] for s in parent["slices"])
    assert (desk.ledger.get_state("mismatches") or {}) == {}
