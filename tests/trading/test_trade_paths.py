"""What the backtest is told of an open trade, all rows at once, is what the desk asks row by row on its own windows."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np

from tests.paths import ROOT
from tests.trading.samples import eurusd, eurusd_4h, universe
from trading import engine_records as er
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.evaluable import live_window
from trading.execution_functions.managing import Trade
from trading.plan_management import ask
from trading.plans import Plan, parse_plan
from trading.timeframes import US_PER_HOUR, Timeframe
from trading.trade_paths import Entered, PlanPaths, paths_of

INSTRUMENT = universe().instruments["EURUSD"]
PLAN = """\
name: probe
symbol: EURUSD
direction: short
timeframe: 1h
confirm: [4h]
valid: {from: 2017-09-01, to: 2017-12-29}
entry: {kind: indicator_condition, condition: {">": [close, 1.0]}}
stop: 1.2300
manage:
  - {kind: chandelier, period: 22, multiple: 4.0, timeframe: 4h}
  - {kind: trailing_atr, period: 14, multiple: 6}
  - {kind: scale_out, share: 0.25, when: {kind: close_below, level: 1.175}}
  - kind: scale_out
    share: 0.25
    when: {kind: indicator_condition, condition: {"<": [{indicator: rsi, params: {period: 14}}, 25]}}
  - {kind: time_stop, bars: 260}
sizing: {kind: fixed, quantity: 8000}
"""
LOOSE = PLAN.replace("multiple: 4.0", "multiple: 40").replace("multiple: 6}", "multiple: 60}").replace("bars: 260", "bars: 90")
ENTRY = 4570
"""Row of a bar of the last days of September: hourly windows move at the turn of a quarter."""


def plan(text: str = PLAN) -> Plan:
    made, problems = parse_plan(text, "probe.yaml", universe())
    assert made is not None, [str(p) for p in problems]
    return made


def bars() -> dict[Timeframe, Bars]:
    return {Timeframe.H1: eurusd(), Timeframe.H4: eurusd_4h()}


def joined(paths: PlanPaths, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # type: ignore[type-arg]
    """The answers from ENTRY on, window after window, and how many windows there were."""
    stops: list[Any] = []
    leaves: list[Any] = []
    dues: list[Any] = []
    row, pieces = ENTRY, 0
    entry = float(eurusd().open[ENTRY])
    while row < ENTRY + rows:
        path = paths.after(Entered(row, ENTRY, False, -1, entry, 1.23, (np.nan,)))
        stops, leaves, dues = [*stops, path.stop], [*leaves, path.leave], [*dues, path.due]
        row, pieces = row + len(path.stop), pieces + 1
    return np.concatenate(stops)[:rows], np.concatenate(leaves)[:rows], np.concatenate(dues)[:rows], pieces


def test_all_rows_at_once_are_the_desks_rows_over_the_turn_of_a_window() -> None:
    rows, mine, venue = 300, plan(), calendar("FX")
    stops, leaves, dues, pieces = joined(PlanPaths(mine, bars(), INSTRUMENT), rows)
    assert pieces >= 2, "the trade does not outlive its window: the test is about nothing"
    trade = Trade(-1, float(eurusd().open[ENTRY]), 1.23, int(eurusd().close_time[ENTRY]) - US_PER_HOUR, (np.nan,))
    for i in range(0, rows, 7):
        row = ENTRY + i
        window = live_window(mine, bars(), int(eurusd().close_time[row]), int(eurusd().session[row]), venue)
        asked = ask(mine, window, INSTRUMENT, trade)
        assert asked.stop == stops[i]
        assert [j for j in range(2) if dues[i] >> j & 1] == list(asked.scale_outs)
        assert (asked.leave == "time_stop") == (leaves[i] == er.TIME_STOP)
    assert (np.diff(stops) != 0).any()
    assert dues.any()
    assert leaves.any()


def test_a_plan_that_manages_nothing_has_no_paths() -> None:
    assert paths_of(plan(PLAN.split("manage:")[0] + "sizing: {kind: fixed, quantity: 8000}\n"), bars(), INSTRUMENT) is None


def test_a_roll_ends_a_managed_trade_at_the_old_contracts_last_price_and_counts_it() -> None:
    session = int(eurusd().session[ENTRY + 40])
    roll = CorporateAction("EURUSD", ActionKind.ROLL, session, 0, 1.0, 0.001)
    mine = plan(PLAN.replace("2017-09-01", "2017-09-26"))
    last = float(eurusd().close[np.searchsorted(eurusd().session, session) - 1])
    result = backtest(mine, {"EURUSD": bars()}, INSTRUMENT, cash=1e5, actions={"EURUSD": [roll]})
    end = result.trades.rows()[-1]
    assert (end["reason"], end["exit_price"], result.rolled_out) == ("roll", last, 1)
    assert result.trades.closed.all()


def told(text: str = PLAN) -> list[str]:
    """Fills of the plan over the hours around ENTRY, as text."""
    some = {t: b.rows((b.session > 17_390) & (b.session < 17_450)) for t, b in bars().items()}
    result = backtest(plan(text.replace("2017-09-01", "2017-09-26")), {"EURUSD": some}, INSTRUMENT, cash=1e5)
    return [str(row) for row in result.fill_rows()]


def test_plain_python_manages_as_the_compiled_loop_does() -> None:
    program = "from tests.trading.test_trade_paths import *; print(chr(10).join(told(LOOSE)))"
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.splitlines() == told(LOOSE)
    assert {"entry", "scale_out", "time_stop"} <= {line.split("'leg': ")[1].strip("'}") for line in said.splitlines()}
