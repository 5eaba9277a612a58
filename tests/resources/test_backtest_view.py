"""A result draws itself and makes one page that needs nothing from outside."""

from __future__ import annotations

import re

import numpy as np
import pytest

from resources import plots
from tests.trading.backtest_kit import bars_of, run, wishes
from trading.timeframes import US_PER_DAY

BARS = bars_of("100 101 99 100\n 101 103 99 102\n 102 106 101 105\n 104 105 98 99\n 97 98 94 95")


def test_a_figure_shows_equity_drawdown_and_exposure() -> None:
    result = run(BARS, wishes(BARS, enter_long={0: True}, exit_long={2: True}))
    figure = result.plot()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Equity: 10,030, +0.3 %, 1 trade closed", "Drawdown, %: -0.1 at its deepest", "Exposure"]
    assert [t.get_text() for t in figure.axes[2].get_legend().get_texts()] == ["gross", "net"]
    drawn = figure.axes[0].lines[0].get_ydata()
    assert list(drawn) == list(result.equity)
    assert min(figure.axes[1].collections[0].get_paths()[0].vertices[:, 1]) < 0


def test_an_exposure_is_drawn_in_steps_because_a_position_does_not_grow_between_two_closes() -> None:
    result = run(BARS, wishes(BARS, enter_long={0: True}, exit_long={2: True}))
    assert result.plot().axes[2].lines[0].get_drawstyle() == "steps-post"


def test_a_year_has_as_many_values_as_the_run_had_unless_it_is_said() -> None:
    result = run(BARS, wishes(BARS, enter_long={0: True}, exit_long={2: True}))
    a_year = len(BARS) / (float(np.ptp(BARS.close_time)) / (365.25 * US_PER_DAY))
    assert result.metrics().periods_per_year == pytest.approx(a_year)
    assert result.metrics() == result.metrics(result.metrics().periods_per_year)
    assert f"<td>{a_year:,.6g}</td>" in result.html()
    assert "<td>252</td>" in result.html("", 252.0)


def test_a_long_run_is_thinned_and_no_drawdown_looks_shallower() -> None:
    equity = np.full(100_000, 10_000.0)
    equity[[31_337, 77_777]] = 9_000.0, 12_000.0
    keep = plots.seen(equity)
    assert len(keep) <= 2_002
    assert {0, 31_337, 77_777, 99_999} <= set(keep.tolist())


def test_the_page_has_every_trade_and_refusal_and_no_outside_part() -> None:
    result = run(BARS, wishes(BARS, enter_long={0: True, 1: True}, exit_long={2: True}))
    page = result.html("A <b>name</b>", 252.0)
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert "POSITION_OPEN" in page
    assert page.count("<td>rule</td>") == 1
    assert not re.search(r"(src|href)=['\"]https?:", page)


def test_a_trade_is_one_line_with_times_to_the_minute_and_its_result_in_money() -> None:
    page = run(BARS, wishes(BARS, enter_long={0: True}, exit_long={2: True})).html()
    assert not re.search(r"\d\dT\d\d:\d\d", page)
    assert "Times are UTC." in page
    assert re.search(r"<span class=gain>\+\d+\.\d\d</span>", page)
    assert "<th>strategy</th>" not in page  # this one has no name


def test_nothing_traded_is_a_page_too() -> None:
    assert "No trade." in run(BARS, wishes(BARS)).html()
