"""What research gives a backtest beside bars: rates of exchange from the pairs of the universe, and doubts about raw prices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from assets.research_inputs import doubts_of, rates_of, without_rate
from tests.trading.backtest_kit import bars_of, make, run, wishes
from trading.bars import Bars
from trading.corporate_actions import ActionKind, CorporateAction
from trading.instruments import AssetClass, Instrument


@dataclass
class Bought:
    """What the functions ask of a universe and a lake."""

    instruments: dict[str, Instrument]
    bars: dict[str, Bars]

    def read_bars(self, dataset: str, symbol: str) -> Bars:
        assert dataset == "bars_1d"
        return self.bars.get(symbol, Bars.empty(symbol, self.instruments[symbol].native_timeframe))


RUPEES = make("NIFTY", AssetClass.INDEX, currency="INR")
PAIR_BARS = bars_of("80 81 79 80\n 80 82 80 82\n 82 83 81 nan\n 83 84 83 84", "USDINR")


def place(*pairs: str) -> Bought:
    made = {p: make(p, AssetClass.FOREX, currency=p[3:]) for p in pairs}
    return Bought({"NIFTY": RUPEES, **made}, {p: replace(PAIR_BARS, symbol=p) for p in pairs})


def rates(found: Bought) -> dict[str, list[float]]:
    series = rates_of(found, found, ["INR", "USD"], "USD")  # type: ignore[arg-type]
    return {currency: one.rate.tolist() for currency, one in series.items()}


def test_a_pair_gives_the_rate_of_its_closes_either_way_round() -> None:
    assert rates(place("INRUSD")) == {"INR": [80.0, 82.0, 84.0]}
    assert rates(place("USDINR")) == {"INR": [1 / 80, 1 / 82, 1 / 84]}
    series = rates_of(place("USDINR"), place("USDINR"), ["INR"], "USD")["INR"]  # type: ignore[arg-type]
    assert series.time.tolist() == PAIR_BARS.close_time[[0, 1, 3]].tolist(), "known from the close on; a missing close is none"


def test_a_currency_without_a_pair_leaves_its_instruments_out_and_says_what_to_add() -> None:
    assert rates(place()) == {}
    said = without_rate({"NIFTY": RUPEES, "X": make()}, {}, "USD")
    assert list(said) == ["NIFTY"]
    assert "INRUSD or USDINR" in said["NIFTY"]


def test_a_backtest_in_another_currency_earns_at_the_rate() -> None:
    found = place("USDINR")
    bars = bars_of("8000 8000 8000 8000\n 8000 8000 8000 8000\n 8400 8400 8400 8400\n 8400 8400 8400 8400", "NIFTY")
    fx = rates_of(found, found, ["INR"], "USD")  # type: ignore[arg-type]
    result = run(bars, wishes(bars, enter_long={0: True}, exit_long={2: True}), instrument=RUPEES, currency="USD", fx=fx)
    # Ten bought at 8,000 when 82 rupees are a dollar, sold at 8,400 when 84 are.
    assert result.trades.pnl[0] == pytest.approx(10 * (8400 / 84 - 8000 / 82))


def test_a_step_like_a_split_that_nothing_explains_is_a_doubt_and_an_explained_one_is_none() -> None:
    bars = bars_of("100 101 99 100\n 100 101 99 100\n 50 51 49 50\n 50 51 49 50")
    said = doubts_of(make(), bars, [])
    assert "looks like a split by 2" in said
    split = CorporateAction("X", ActionKind.SPLIT, int(bars.session[2]), 0, 2.0)
    assert doubts_of(make(), bars, [split]) == ""
    assert doubts_of(make(kind=AssetClass.FUTURE), bars, []) == "", "only shares are split"
    assert doubts_of(make(), bars.rows(np.arange(1)), []) == ""
