"""Verdicts expire: by the market time of their session they have not seen, and by real days where a limit says so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.samples import universe
from trading.calendars import calendar
from trading.decisions import build_snapshot, decide, decision_of
from trading.freshness import Freshness, expired, freshness_of
from trading.quality import ERROR_CHECKS
from trading.quality_thresholds import parse_quality
from trading.signals import Action, PartitionRef, Signal
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe

DAY = date(2017, 12, 28)
OPEN, CLOSE = calendar("FX").bounds(DAY)
HOUR = 60 * US_PER_MINUTE
REF = PartitionRef("bars_1h", DAY.isoformat(), "EURUSD", "h")
LIMIT = Freshness("bars_1h", DAY.isoformat(), "EURUSD", CLOSE, 2 * HOUR, None)


def gate(judged: Any, now: int, limit: Freshness | None = LIMIT, **snapshot: Any) -> str:
    """The decision's refusal for verdicts judged up to `judged`."""
    signal = Signal(
        strategy="t", strategy_revision="r", symbol="EURUSD", timeframe=Timeframe.H1, close_time=now, action=Action.ENTER_LONG,
        strength=1.0, reference_price=1.2, stop_price=1.19, target_price=1.23, valid_until=now + HOUR,
        sizing={"kind": "fixed", "quantity": 1000}, features_version="v", partitions=(REF,),
    )  # fmt: skip
    verdicts = [
        {"dataset": "bars_1h", "session": DAY.isoformat(), "symbol": "EURUSD", "check": c, "passed": True, "severity": "error",
         "content_hash": "h", "judged_time": judged, "evaluated_wall": 1}
        for c in ERROR_CHECKS
    ]  # fmt: skip
    made = build_snapshot(
        signal, instrument=universe().instruments["EURUSD"], mode="paper", verdicts=verdicts, required=[REF], warm=True,
        now_time=now, session_open=True, min_reward_to_risk=1.0, freshness=None if limit is None else [limit], gates={},
        sizing={"equity": 100_000.0, "currency": "USD"}, **snapshot,
    )  # fmt: skip
    return decision_of(made, decide(made)).refusal


def test_an_open_session_s_verdict_must_have_seen_the_market_until_lately() -> None:
    now = OPEN + 10 * HOUR
    assert gate(now - 2 * HOUR, now) == ""
    refusal = gate(now - 2 * HOUR - 1, now)
    assert refusal.startswith("DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD")
    assert refusal.endswith("reason=expired")


def test_a_finished_session_judged_to_its_end_never_expires_in_market_time() -> None:
    assert gate(CLOSE, CLOSE + 400 * US_PER_DAY) == ""


def test_a_finished_session_last_judged_in_its_middle_has_expired() -> None:
    assert gate(CLOSE - 3 * HOUR, CLOSE + HOUR).endswith("reason=expired")


def test_a_verdict_that_does_not_say_how_far_it_saw_has_expired() -> None:
    assert gate(None, OPEN + HOUR).endswith("reason=expired")
    assert gate("soon", OPEN + HOUR).endswith("reason=expired")


def test_a_limit_in_real_days_counts_on_the_real_clock() -> None:
    days = replace(LIMIT, max_age=None, max_wall_age=7 * US_PER_DAY)
    assert gate(CLOSE, CLOSE, days, now_wall=7 * US_PER_DAY + 1) == ""
    assert gate(CLOSE, CLOSE, days, now_wall=7 * US_PER_DAY + 2).endswith("reason=expired")
    with pytest.raises(ValueError, match="now_wall"):
        gate(CLOSE, CLOSE, days)


def test_a_required_partition_without_a_limit_of_its_own_refuses() -> None:
    other = replace(LIMIT, symbol="GBPUSD")
    assert "reason=missing field=freshness" in gate(CLOSE, CLOSE, other)


def test_snapshots_from_before_verdicts_expired_decide_as_they_did() -> None:
    assert gate(None, OPEN + HOUR, None) == ""


def test_the_real_clock_is_in_a_snapshot_only_where_a_limit_depends_on_it() -> None:
    def snapshot(**more: Any) -> dict[str, Any]:
        signal = Signal(
            strategy="t", strategy_revision="r", symbol="EURUSD", timeframe=Timeframe.H1, close_time=1,
            action=Action.ENTER_LONG, strength=1.0, reference_price=1.2, stop_price=1.19, target_price=None, valid_until=2,
            sizing={}, features_version="v", partitions=(REF,),
        )  # fmt: skip
        made = build_snapshot(
            signal, instrument=universe().instruments["EURUSD"], mode="paper", verdicts=[], required=[REF], warm=True, now_time=1,
            session_open=True, min_reward_to_risk=1.0, **more,
        )  # fmt: skip
        return dict(json.loads(made))

    assert "freshness" not in snapshot()
    assert "now_wall" not in snapshot(freshness=[LIMIT], now_wall=5)
    assert snapshot(freshness=[replace(LIMIT, max_wall_age=1)], now_wall=5)["now_wall"] == 5


def test_limits_come_from_the_thresholds_of_the_timeframe() -> None:
    shared, _ = parse_quality("by_timeframe: {1h: {verdict_max_age_minutes: 150}}\nverdict_max_age_days: 30\n", "d.yaml")
    assert shared is not None
    of = replace(universe(), quality=universe().quality.over(shared.thresholds))
    (limit,) = freshness_of([REF], of)
    assert limit == Freshness("bars_1h", "2017-12-28", "EURUSD", CLOSE, 150 * US_PER_MINUTE, 30 * US_PER_DAY)
    (none,) = freshness_of([replace(REF, session="2017-12-30")], of)  # a Saturday
    assert none.close_time is None


_TIME = st.integers(OPEN, CLOSE + 3 * US_PER_DAY)


@given(judged=_TIME, now=_TIME, later=st.integers(0, US_PER_DAY), limit=st.integers(0, US_PER_DAY))
def test_seeing_more_never_expires_a_verdict_and_waiting_never_renews_it(judged: int, now: int, later: int, limit: int) -> None:
    plain = replace(LIMIT, max_age=limit).plain()
    old = expired({"judged_time": judged}, plain, now, 0)
    assert old or not expired({"judged_time": judged + later}, plain, now, 0)
    assert not old or expired({"judged_time": judged}, plain, now + later, 0)


@given(judged=_TIME, now=_TIME, limit=st.integers(0, US_PER_DAY))
def test_only_the_session_s_own_market_time_counts(judged: int, now: int, limit: int) -> None:
    plain = replace(LIMIT, max_age=limit).plain()
    capped = expired({"judged_time": min(judged, CLOSE)}, plain, min(now, CLOSE), 0)
    assert expired({"judged_time": judged}, plain, now, 0) == capped
