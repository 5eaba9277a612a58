"""Scanners: candidates of many instruments are ranked at each close, the best few are entered."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trading.samples import universe
from tests.trading.strategies import parsed, problems_of, sample_text, stock, window_of
from trading.bars import Bars
from trading.calendars import calendar
from trading.evaluation import Evaluation
from trading.scanners import Scanner
from trading.strategy import Strategy, evaluate_anchored, live_window
from trading.timeframes import Timeframe

SYMBOLS = ["AAPL", "FB", "GOOG", "IBM", "MSFT"]


def text(scan: str, extra: str = "", top: int = 1) -> str:
    return (
        f"name: scan\nkind: scanner\nstatus: active\nmode: paper\nsymbols: [{', '.join(SYMBOLS)}]\ntimeframe: 1d\n"
        f"scan: {scan}\ntop: {top}\nexits: {{stop: {{kind: percent, percent: 5}}}}\nsizing: {{kind: fixed, quantity: 10}}\n{extra}"  # noqa: E501
    )


def bars() -> dict[str, Bars]:
    return {s: stock(s) for s in SYMBOLS}


def run(strategy: Strategy, symbol: str, given: dict[str, Bars] | None = None) -> Evaluation:
    return strategy.evaluate(window_of(strategy, symbol, given or bars()), universe().instruments[symbol])


SCANS = {
    "momentum_breakout": "{kind: momentum_breakout, period: 20, momentum: 20}",
    "volume_breakout": "{kind: volume_breakout, period: 20, multiple: 1.2}",
    "rsi_reversion": "{kind: rsi_reversion, period: 5, oversold: 40, overbought: 60}",
    "bollinger_reversion": "{kind: bollinger_reversion, period: 20, deviations: 1.5}",
    "rules": '{kind: rules, when: {long: {">": [close, open]}, short: {"<": [close, open]}}, rank: {indicator: roc}}',
}


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_at_one_close_no_more_than_top_are_entered_on_a_side(scan: str) -> None:
    for top in (1, 2):
        strategy = parsed(text(scan, top=top))
        found = [run(strategy, s) for s in SYMBOLS]
        longs, shorts = (sum(getattr(e, side).astype(int) for e in found) for side in ("enter_long", "enter_short"))
        assert longs.max() == top
        assert 1 <= shorts.max() <= top


def test_the_strongest_candidate_is_first() -> None:
    strategy = parsed(text(SCANS["rules"]))
    rate = {}
    for symbol in SYMBOLS:
        close = stock(symbol).close
        rate[symbol] = np.full(len(close), np.nan)
        rate[symbol][10:] = close[10:] / close[:-10]
    entered = {s: run(strategy, s).enter_long for s in SYMBOLS}
    checked = 0
    for row in range(100, 1500, 7):
        up = [s for s in SYMBOLS if stock(s).close[row] > stock(s).open[row]]
        if up:
            assert [s for s in SYMBOLS if entered[s][row]] == [max(up, key=lambda s: rate[s][row])]
            checked += 1
    assert checked > 100


def test_an_instrument_without_a_bar_at_the_close_takes_no_part() -> None:
    strategy = parsed(text(SCANS["rules"]))
    best = next(s for s in SYMBOLS if run(strategy, s).enter_long[1200])
    missing = bars()
    missing[best] = missing[best].rows(np.arange(1500) != 1200)
    others = [s for s in SYMBOLS if s != best]
    assert sum(bool(run(strategy, s, missing).enter_long[1200]) for s in others) <= 1
    assert not any(run(strategy, s).enter_long[1200] for s in others)


def test_with_too_few_members_at_a_close_nobody_ranks() -> None:
    strategy = parsed(text(SCANS["rules"], "least_members: 5\n"))
    missing = bars()
    missing["FB"] = missing["FB"].rows(slice(0, 1000))
    found = run(strategy, "AAPL", missing)
    assert found.enter_long[:1000].any()
    assert not (found.enter_long | found.enter_short)[1000:].any()


def test_direction_leaves_out_the_other_side() -> None:
    strategy = parsed(text(SCANS["rsi_reversion"], "direction: short\n"))
    found = [run(strategy, s) for s in SYMBOLS]
    assert not any(e.enter_long.any() for e in found)
    assert any(e.enter_short.any() for e in found)


def test_research_over_years_is_the_live_answer_bit_for_bit() -> None:
    strategy = parsed(sample_text("momentum_scanner"))
    venue, given = calendar("XNYS"), bars()
    window = window_of(strategy, "AAPL", given)
    whole = evaluate_anchored(strategy, window, universe().instruments["AAPL"], venue)
    assert whole.enter_long.any()
    rows = [*np.flatnonzero(whole.enter_long)[-3:], 1100, 1499]
    for row in rows:
        live = live_window(strategy, window, int(whole.close_time[row]), int(given["AAPL"].session[row]), venue)
        last = strategy.evaluate(live, universe().instruments["AAPL"])
        for name in ("enter_long", "enter_short", "exit_long", "stop_long", "target_long", "strength", "ready"):
            assert getattr(last, name)[-1].tobytes() == getattr(whole, name)[row].tobytes(), (row, name)
        assert last.parts["long/rank"][-1] == whole.parts["long/rank"][row]


def test_it_needs_the_bars_of_every_member() -> None:
    strategy = parsed(text(SCANS["rules"]))
    assert isinstance(strategy, Scanner)
    assert {s for s, _ in strategy.context} == set(SYMBOLS)
    with pytest.raises(ValueError, match="needs 1d bars of FB, too"):
        strategy.evaluate({Timeframe.D1: stock("AAPL")}, universe().instruments["AAPL"])


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("kind: momentum_breakout", "kind: momentum_brekout", "scan.kind", "did you mean 'momentum_breakout'"),
        ("[AAPL, FB, GOOG, IBM, MSFT]", "[AAPL]", "", "nobody to rank"),
        ("top: 1", "top: 1\nleast_members: 9", "", "could never enter"),
        ("kind: scanner", "kind: scaner", "kind", "did you mean 'scanner'"),
    ],
)
def test_a_slip_is_named(old: str, new: str, key: str, words: str) -> None:
    found = problems_of(text(SCANS["momentum_breakout"]).replace(old, new))
    assert any(p.key == key and words in str(p) for p in found), [str(p) for p in found]
