"""Execution functions on real bars: closes count and wicks do not, and no answer changes when later bars are hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.trading.samples import eurusd, eurusd_4h, universe
from trading import execution_functions
from trading.bars import Bars
from trading.execution_functions import managers, triggers
from trading.execution_functions.base import ExecutionFunction, Trigger
from trading.execution_functions.managing import StopMove, Trade, TradeExit, stop_path
from trading.execution_functions.scale_out import ScaleOut
from trading.frame import Frame
from trading.timeframes import Timeframe

INSTRUMENT = universe().instruments["EURUSD"]
ENTRY = 5000
"""Row of the bar whose close is the entry here: 2017-10-18T22:00Z."""


def frame(rows: int | None = None) -> Frame:
    hours = eurusd() if rows is None else eurusd().rows(slice(0, rows))
    return Frame({Timeframe.H1: hours, Timeframe.H4: eurusd_4h().known_at(int(hours.close_time[-1]))}, Timeframe.H1)


def trade(side: int = 1, risk: float = 0.0040) -> Trade:
    price = float(eurusd().close[ENTRY])
    targets = (price + side * 0.0030, price + side * 0.0080)
    return Trade(side, price, round(price - side * risk, 5), int(eurusd().close_time[ENTRY]), targets)


def made(**values: Any) -> Any:
    return execution_functions.get(values["kind"]).model_validate(values)


ALL: dict[str, dict[str, Any]] = {
    "close_above": {"level": 1.18}, "close_below": {"level": 1.17, "timeframe": "4h"},
    "closes_beyond": {"direction": "above", "level": 1.18, "count": 3}, "level": {"price": 1.18},
    "close_back_inside": {"upper": 1.185, "lower": 1.17, "within": 3},
    "indicator_condition": {"condition": {"cross_above": ["close", {"indicator": "ema", "params": {"period": 20}}]}},
    "multi_timeframe": {
        "at_least": 1,
        "of": [
            {"timeframe": "4h", "condition": {">": ["close", "open"]}}, {"timeframe": "1h", "condition": {">": ["close", 1.2]}},
        ],
    },
    "break_even": {"after_r": 1.0}, "trailing_points": {"points": 0.003}, "trailing_percent": {"percent": 0.4},
    "trailing_atr": {"multiple": 2.5, "timeframe": "4h"}, "trailing_structure": {"left": 2, "right": 2, "buffer": 0.0002},
    "chandelier": {"period": 22}, "time_stop": {"bars": 30}, "session_end": {"minutes": 60},
    "stop_on_close": {"points": 0.002, "timeframe": "4h"},
    "scale_out": {"share": 0.5, "when": {"kind": "close_above", "level": 1.18}},
}  # fmt: skip


def answer(function: ExecutionFunction, seen: Frame, its: Trade) -> Any:
    if isinstance(function, Trigger):
        return function.holds(seen)
    if isinstance(function, StopMove):
        return function.levels(seen, its)
    if isinstance(function, TradeExit):
        return function.leaves(seen, its, INSTRUMENT)
    assert isinstance(function, ScaleOut)
    return function.due(seen, its)


def test_every_function_is_tested_here() -> None:
    built_in = {n for n, c in {**triggers(), **managers()}.items() if c.__module__.startswith("trading.execution_functions")}
    assert built_in == set(ALL)
    assert all((execution_functions.get(name).__doc__ or "").strip().startswith("``{kind: ") for name in ALL)


def test_the_page_is_of_the_functions_there_are_and_has_its_pictures() -> None:
    from resources.function_pages import PAGE, page

    assert PAGE.read_text() == page(), "write it anew: python -m resources.function_pages"
    assert {p.stem for p in (PAGE.parent / "images" / "functions").glob("*.png")} == set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("side", [1, -1])
def test_no_answer_changes_when_later_bars_are_hidden(name: str, side: int) -> None:
    function, its = made(kind=name, **ALL[name]), trade(side)
    whole = np.asarray(answer(function, frame(), its), np.float64)
    for rows in (*range(ENTRY - 2, ENTRY + 60, 7), 6000):
        part = np.asarray(answer(function, frame(rows), its), np.float64)
        np.testing.assert_array_equal(part, whole[:rows], err_msg=f"{name} with {rows} bars")


def spiked(row: int, price: float) -> Bars:
    """The hours with a wick up to `price` in one bar that changes no close."""
    bars = eurusd()
    high = bars.high.copy()
    high[row] = price
    return Bars("EURUSD", Timeframe.H1, bars.close_time, bars.session, bars.open, high, bars.low, bars.close, bars.volume)


READS_EXTREMES = {"level", "chandelier", "trailing_structure", "trailing_atr"}


@pytest.mark.parametrize("name", sorted(set(ALL) - READS_EXTREMES))
def test_a_wick_alone_changes_nothing(name: str) -> None:
    function, its = made(kind=name, **ALL[name]), trade()
    spike = Frame({Timeframe.H1: spiked(ENTRY + 3, 1.3), Timeframe.H4: eurusd_4h()}, Timeframe.H1)
    np.testing.assert_array_equal(answer(function, spike, its), answer(function, frame(), its))


def test_a_break_that_failed_is_a_close_outside_and_one_back_inside() -> None:
    inside = made(kind="close_back_inside", upper=1.1900, lower=1.1700)
    close = eurusd().close
    rows = np.flatnonzero(inside.holds(frame()))
    assert len(rows) == 9
    for row in rows:
        assert 1.17 <= close[row] <= 1.19
        assert not 1.17 <= close[row - 1] <= 1.19
        assert 1.17 <= close[row - 2] <= 1.19
    longer = np.flatnonzero(made(kind="close_back_inside", upper=1.1900, lower=1.1700, within=5).holds(frame()))
    assert set(rows) < set(longer)


def test_conditions_of_two_timeframes_are_seen_on_their_own_closed_bars() -> None:
    rising = {">": ["close", "open"]}
    of = [{"timeframe": "4h", "condition": rising}, {"timeframe": "1h", "condition": rising}]
    both = made(kind="multi_timeframe", of=of)
    hours, fours = eurusd(), eurusd_4h()
    held = both.holds(frame())
    for row in range(3000, 3200):
        last = int(np.searchsorted(fours.close_time, hours.close_time[row], side="right")) - 1
        expected = fours.close[last] > fours.open[last] and hours.close[row] > hours.open[row]
        assert held[row] == expected


@pytest.mark.parametrize("side", [1, -1])
def test_break_even_waits_for_a_close_beyond_the_risk(side: int) -> None:
    its = trade(side, 0.0020)
    levels = made(kind="break_even", after_r=1.0, offset=0.0001).levels(frame(), its)
    first = int(np.flatnonzero(np.isfinite(levels))[0])
    gain = (eurusd().close - its.entry_price) * side
    assert first > ENTRY
    assert gain[first] >= 0.0020
    assert (gain[ENTRY + 1 : first] < 0.0020).all()
    assert levels[first] == pytest.approx(its.entry_price + side * 0.0001)


def test_break_even_after_a_target_follows_the_touch_that_fills_it() -> None:
    its = trade()
    levels = made(kind="break_even", after_target=1).levels(frame(), its)
    first = int(np.flatnonzero(np.isfinite(levels))[0])
    assert eurusd().high[first] >= its.targets[0]
    assert (eurusd().high[ENTRY + 1 : first] < its.targets[0]).all()


@pytest.mark.parametrize("name", ["trailing_points", "trailing_percent", "trailing_atr", "trailing_structure", "chandelier"])
@pytest.mark.parametrize("side", [1, -1])
def test_a_stop_path_is_never_loosened_and_stays_behind_the_close(name: str, side: int) -> None:
    its = trade(side, 0.0100)
    path = stop_path([made(kind=name, **ALL[name])], frame(), its, INSTRUMENT)
    assert (path[: ENTRY + 1] == path[0]).all()
    steps = np.diff(path) * side
    assert (steps >= 0).all()
    moved = np.flatnonzero(steps > 0) + 1
    assert len(moved) > 3
    assert ((eurusd().close[moved] - path[moved]) * side > 0).all()
    ticks = path / 0.00001
    np.testing.assert_allclose(ticks, np.round(ticks), atol=1e-5)


def test_a_trailing_stop_follows_the_best_close_at_its_distance() -> None:
    its = trade()
    levels = made(kind="trailing_points", points=0.003).levels(frame(), its)
    best = np.maximum.accumulate(eurusd().close[ENTRY + 1 :])
    np.testing.assert_allclose(levels[ENTRY + 1 :], best - 0.003)
    assert np.isnan(levels[: ENTRY + 1]).all()


def test_a_time_stop_counts_the_bars_since_the_entry() -> None:
    leaves = made(kind="time_stop", bars=30).leaves(frame(), trade(), INSTRUMENT)
    assert int(np.flatnonzero(leaves)[0]) == ENTRY + 30
    spared = made(kind="time_stop", bars=30, unless_r=-1000.0).leaves(frame(), trade(), INSTRUMENT)
    assert not spared.any()


def test_the_sessions_end_is_the_venues() -> None:
    leaves = made(kind="session_end", minutes=60).leaves(frame(), trade(), INSTRUMENT)
    sessions = eurusd().session
    for session in np.unique(sessions[ENTRY + 1 : ENTRY + 200])[1:-1]:
        rows = np.flatnonzero(sessions == session)
        assert leaves[rows].sum() == 2  # an hour before the close, and the close itself
        assert leaves[rows[-2:]].all()


def test_a_trigger_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no trigger 'close_abov'"):
        made(kind="scale_out", share=0.5, when={"kind": "close_abov", "level": 1.2})
    with pytest.raises(ValueError, match="level"):
        made(kind="scale_out", share=0.5, when={"kind": "close_above"})
