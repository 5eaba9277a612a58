"""A result draws itself and makes one page that needs nothing from outside."""

from __future__ import annotations

import re

from tests.trading.backtest_kit import bars_of, run, wishes

BARS = bars_of("100 101 99 100\n 101 103 99 102\n 102 106 101 105\n 104 105 98 99\n 97 98 94 95")


def test_a_figure_shows_equity_drawdown_and_exposure() -> None:
    result = run(BARS, wishes(BARS, enter_long={0: True}, exit_long={2: True}))
    figure = result.plot()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Equity", "Drawdown, %", "Exposure: gross, net"]
    drawn = figure.axes[0].lines[0].get_ydata()
    assert list(drawn) == list(result.equity)
    assert min(figure.axes[1].collections[0].get_paths()[0].vertices[:, 1]) < 0


def test_the_page_has_every_trade_and_refusal_and_no_outside_part() -> None:
    result = run(BARS, wishes(BARS, enter_long={0: True, 1: True}, exit_long={2: True}))
    page = result.html("A <b>name</b>", 252.0)
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert "POSITION_OPEN" in page
    assert page.count("<td>rule</td>") == 1
    assert not re.search(r"(src|href)=['\"]https?:", page)


def test_nothing_traded_is_a_page_too() -> None:
    assert "No trade." in run(BARS, wishes(BARS)).html()
