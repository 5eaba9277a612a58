"""Unusual volume and range: against the same time of day, never against the future."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.test_quality import at, made, stock
from trading import anomalies
from trading.bars import Bars
from trading.calendars import calendar
from trading.quality import Thresholds, judge, judge_history, trailing_rows
from trading.session_grid import on_grid, sessions_of
from trading.timeframes import Timeframe, session_number

XNYS = calendar("XNYS")
LIMITS = Thresholds(
    anomaly_sessions=10, volume_z_warn=6, volume_z_error=12, volatility_z_warn=6, volatility_z_error=12, jump_minimum=9,
    volume_ratio=1e9,
)  # fmt: skip
MARKET = made(XNYS, date(2014, 5, 1), date(2014, 6, 6), Timeframe.M15)
LAST = session_number(date(2014, 6, 6))
NAMES = ("volume_anomaly", "volatility_anomaly")


def busy_open(bars: Bars) -> Bars:
    """Twenty times the volume in the first half hour of every session."""
    opens = sessions_of(bars.session, XNYS)[2]
    early = bars.close_time - opens <= 30 * 60_000_000
    return replace(bars, volume=np.where(early, bars.volume * 20, bars.volume))


def verdicts(bars: Bars) -> dict[str, tuple[bool, str, tuple[int, ...]]]:
    results = judge_history(bars, stock(timeframe=Timeframe.M15), XNYS, LIMITS, sessions=[LAST])[LAST]
    return {r.check: (r.passed, r.severity, r.failed_rows) for r in results if r.check in NAMES}


def test_a_calm_market_has_none() -> None:
    assert all(passed for passed, _, _ in verdicts(MARKET).values())


def test_what_is_usual_at_the_open_is_unusual_at_noon() -> None:
    bars = busy_open(MARKET)
    assert verdicts(bars)["volume_anomaly"][0]
    noon = int(np.flatnonzero(bars.session == LAST)[12])
    assert verdicts(at(bars, noon, volume=bars.volume[noon] * 60))["volume_anomaly"] == (False, "warn", (12,))


def test_beyond_the_harder_threshold_it_stops_trading() -> None:
    row = int(np.flatnonzero(MARKET.session == LAST)[12])
    assert verdicts(at(MARKET, row, volume=MARKET.volume[row] * 1e4))["volume_anomaly"][:2] == (False, "error")
    wild = at(MARKET, row, high=MARKET.high[row] * 5)
    assert verdicts(wild)["volatility_anomaly"] == (False, "error", (12,))


def test_an_instrument_without_volume_has_no_unusual_volume() -> None:
    row = int(np.flatnonzero(MARKET.session == LAST)[12])
    loud = at(MARKET, row, volume=1e9)
    silent = stock(timeframe=Timeframe.M15, has_volume=False)
    results = judge_history(loud, silent, XNYS, LIMITS, sessions=[LAST])[LAST]
    assert all(r.passed for r in results if r.check == "volume_anomaly")


def scores(bars: Bars) -> tuple[np.ndarray, np.ndarray]:
    return anomalies.scores(bars, on_grid(bars, XNYS)[0], sessions_of(bars.session, XNYS)[2], 10, 0.01, 0)


def test_a_score_is_the_robust_z_of_its_definition() -> None:
    z = scores(MARKET)[0]
    row = len(MARKET) - 1
    opens = sessions_of(MARKET.session, XNYS)[2]
    bucket = (MARKET.close_time - 1 - opens) // (30 * 60_000_000)
    days = np.unique(MARKET.session)[-11:-1]
    mine = np.log(MARKET.volume[np.isin(MARKET.session, days) & (bucket == bucket[row])])
    spread = max(1.4826 * np.median(np.abs(mine - np.median(mine))), 0.5)
    assert len(mine) == 20
    assert z[row] == (np.log(MARKET.volume[row]) - np.median(mine)) / spread


@given(st.integers(1, len(MARKET)))
@settings(max_examples=40)
def test_scores_on_data_cut_at_any_time_are_the_same_up_to_there(rows: int) -> None:
    whole, cut = scores(MARKET), scores(MARKET.rows(slice(0, rows)))
    for a, b in zip(whole, cut, strict=True):
        assert np.array_equal(a[:rows], b, equal_nan=True)


@given(seed=st.integers(0, 10**6), row=st.integers(0, 25))
@settings(max_examples=15)
def test_a_session_alone_is_judged_as_within_its_history(seed: int, row: int) -> None:
    bars = made(XNYS, date(2014, 5, 1), date(2014, 6, 6), Timeframe.M15, seed)
    where = int(np.flatnonzero(bars.session == LAST)[row])
    bars = at(bars, where, volume=10.0 ** (2 + row % 6))
    instrument = stock(timeframe=Timeframe.M15)
    first = int(np.searchsorted(bars.session, LAST))
    keep = trailing_rows(LIMITS, Timeframe.M15, XNYS)
    alone = judge(bars.rows(slice(first, None)), bars.rows(slice(max(0, first - keep), first)), instrument, XNYS, LIMITS)
    assert alone == judge_history(bars, instrument, XNYS, LIMITS)[LAST]
