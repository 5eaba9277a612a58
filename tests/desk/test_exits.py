"""Exits that only bars can say: the same numbers as research, for every position, whatever the others do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pytest

from desk.exits import MAX_BARS, RULE, ExitCheck, check_exits
from desk.hot_bars import BarCache
from resources.config import load_config
from resources.feeds import get_feed
from resources.settings import Settings
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.resample import resample
from trading.strategy import Evaluable, evaluate_anchored
from trading.timeframes import Timeframe, session_number

OWN = Settings(_env_file=None)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Held:
    """An open position."""

    strategy: str
    quantity: float
    opened_time: int | None = 0
    symbol: str = "EURUSD"
    exit_state: Mapping[str, Any] = field(default_factory=dict)


class Market:
    """EURUSD of 2017 and the sample strategies that trade it."""

    def __init__(self) -> None:
        config = load_config(OWN)
        self.instruments = config.universe.instruments
        self.eurusd: Instrument = self.instruments["EURUSD"]
        self.evaluables: dict[str, Evaluable] = {n: e for n, e in config.evaluables().items() if "EURUSD" in e.symbols}
        self.venue = calendar("FX")
        hours = get_feed("sample_forex", OWN).history(self.eurusd, Timeframe.H1, date(2017, 1, 2), date(2017, 12, 29))
        self.bars = {t: resample(hours, t, self.venue) for t in (Timeframe.H1, Timeframe.H4, Timeframe.D1)}

    def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars:
        bars = self.bars[Timeframe(dataset.removeprefix("bars_"))]
        return bars.rows(bars.session >= (session_number(start) if start else 0))

    def bar_at(self, close_time: int) -> Bars:
        bars = self.bars[Timeframe.H1]
        return bars.rows(bars.close_time == close_time)

    def check(self, *held: Held, at: int, evaluables: Mapping[str, Any] | None = None, closed: Any = None) -> list[ExitCheck]:
        closed = {"EURUSD": {Timeframe.H1: self.bar_at(at)}} if closed is None else closed
        return check_exits(held, evaluables or self.evaluables, self.instruments, BarCache(self), closed, at)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market()


@pytest.mark.parametrize("name", ["ema_trend", "rsi_reversion_fx"])
@pytest.mark.parametrize("side", [1, -1])
def test_the_live_answer_is_researchs_answer_at_every_close(market: Market, name: str, side: int) -> None:
    evaluable = market.evaluables[name]
    research = evaluate_anchored(evaluable, {t: market.bars[t] for t in evaluable.timeframes}, market.eurusd, market.venue)
    wishes = research.exit_long if side > 0 else research.exit_short
    closes = market.bars[Timeframe.H1].close_time
    october = int(np.searchsorted(closes, 1_506_800_000_000_000))  # the windows' anchor moves with the quarter
    rows = [*range(october - 12, october + 12), *range(len(closes) - 200, len(closes))]
    cache = BarCache(market)
    answers = []
    for row in rows:
        held = Held(name, 1000.0 * side, int(closes[row - 1]))
        closed = {"EURUSD": {Timeframe.H1: market.bar_at(int(closes[row]))}}
        (check,) = check_exits([held], market.evaluables, market.instruments, cache, closed, int(closes[row]))
        assert (check.trouble, check.bars_held) == ("", 1)
        answers.append(check.reason == RULE)
    assert answers == wishes[rows].tolist()
    assert 0 < sum(answers) < len(answers)


def test_a_position_ends_after_its_longest_holding_time(market: Market) -> None:
    closes = market.bars[Timeframe.H1].close_time
    longest = market.evaluables["rsi_reversion_fx"].max_bars
    quiet = Quiet(max_bars=longest)
    for bars, expected in ((longest - 1, ""), (longest, MAX_BARS), (longest + 5, MAX_BARS)):
        held = Held("quiet", 1.0, int(closes[-1 - bars]))
        (check,) = market.check(held, at=int(closes[-1]), evaluables={"quiet": quiet})
        assert (check.reason, check.bars_held) == (expected, bars)


def test_a_position_filled_inside_the_last_bar_has_been_held_for_none(market: Market) -> None:
    close = int(market.bars[Timeframe.H1].close_time[-1])
    (check,) = market.check(Held("quiet", 1.0, close), at=close, evaluables={"quiet": Quiet(max_bars=1)})
    assert (check.reason, check.bars_held) == ("", 0)


class Quiet:
    """A strategy that wishes nothing."""

    name, timeframe, timeframes, warm_up, symbols = "quiet", Timeframe.H1, (Timeframe.H1,), {Timeframe.H1: 5}, ("EURUSD",)

    def __init__(self, max_bars: int = 0, fails: Exception | None = None) -> None:
        self.max_bars = max_bars
        self.fails = fails

    def evaluate(self, bars: Mapping[Timeframe, Bars], instrument: Instrument) -> Any:
        if self.fails is not None:
            raise self.fails
        primary = bars[Timeframe.H1]
        no = np.zeros(len(primary), bool)
        return type("E", (), {"close_time": primary.close_time, "exit_long": no, "exit_short": no, "max_bars": self.max_bars})()


def test_a_strategy_that_breaks_leaves_the_others_their_exits(market: Market) -> None:
    closes = market.bars[Timeframe.H1].close_time
    evaluables = {"broken": Quiet(fails=ZeroDivisionError("bug")), "quiet": Quiet(max_bars=1)}
    held = [Held("broken", 1.0, 0), Held("quiet", 1.0, int(closes[-3]))]
    broken, quiet = market.check(*held, at=int(closes[-1]), evaluables=evaluables)
    assert "ZeroDivisionError" in broken.trouble
    assert quiet.reason == MAX_BARS


def test_a_position_without_its_strategy_or_instrument_is_named(market: Market) -> None:
    at = int(market.bars[Timeframe.H1].close_time[-1])
    lost, gone = market.check(Held("deleted", 1.0), Held("ema_trend", 1.0, symbol="DELISTED"), at=at)
    assert "strategy file" in lost.trouble
    assert "universe" in gone.trouble


def test_only_strategies_with_a_new_primary_bar_are_asked(market: Market) -> None:
    at = int(market.bars[Timeframe.H1].close_time[-1])
    held, new = Held("quiet", 1.0, 0), market.bar_at(at)
    assert market.check(held, at=at, evaluables={"quiet": Quiet(1)}, closed={"EURUSD": {Timeframe.H4: new}}) == []
    assert market.check(held, at=at, evaluables={"quiet": Quiet(1)}, closed={"SPX": {Timeframe.H1: new}}) == []


def test_a_window_that_does_not_end_with_the_new_bar_is_trouble_and_no_exit(market: Market) -> None:
    closes = market.bars[Timeframe.H1].close_time
    late = {"EURUSD": {Timeframe.H1: market.bar_at(int(closes[-1]))}}
    (check,) = market.check(Held("quiet", 1.0, 0), at=int(closes[-2]), evaluables={"quiet": Quiet(1)}, closed=late)
    assert check.reason == ""
    assert "does not end with the bar closing 2017-12-29T22:00:00Z" in check.trouble
