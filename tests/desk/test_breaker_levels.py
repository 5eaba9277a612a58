"""Breakers over a split, a spin-off or a roll: the step trips nothing, between bars as little as at their close, and what follows
does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from desk.breakers import Breakers
from desk.risk_inputs import MarketView
from desk.router import Router
from resources.corporate_actions import read_actions, write_actions
from resources.feeds.protocol import BarClose
from resources.lake import LakeError
from tests.desk.test_corporate_actions import FRI, THU, WED, StockDesk, at, opened, split, stock_bar
from trading.bars import Bars
from trading.corporate_actions import ActionKind, CorporateAction
from trading.instruments import Mode
from trading.limits import CircuitBreaker, DailyLoss, Limits
from trading.timeframes import Timeframe, session_number

SECOND = 1_000_000
OPEN = at(THU, 0)


class Stored:
    """The lake's bars: what the desk was told."""

    def __init__(self) -> None:
        self.bars: list[BarClose] = []

    def read_bars(self, dataset: str, symbol: str, start: Any = None, end: Any = None) -> Bars:
        if symbol != "AAPL" or not self.bars:
            raise LakeError(f"no bars of {symbol}")
        prices = (np.array([getattr(b, c) for b in self.bars]) for c in ("open", "high", "low", "close", "volume"))
        times, days = np.array([b.close_time for b in self.bars]), np.array([b.session for b in self.bars], np.int32)
        return Bars("AAPL", Timeframe.H1, times, days, *prices)


class Watching(StockDesk):
    """A desk with one stock that hears of actions in the lake; its breakers look back three days."""

    def __init__(self, engine: Engine, room: Path) -> None:
        super().__init__(engine, room)
        self.stored = Stored()
        self.limit(
            circuit_breaker=CircuitBreaker(percent=5, minutes=3 * 1440, pause_minutes=1), daily_loss=DailyLoss(amount=10_000)
        )
        self.router = self.restarted()

    def limit(self, **changes: Any) -> Limits:
        """Change limits; gives those before."""
        before = self.config.limits
        assert before is not None
        self.config.limits = before.model_copy(update=changes)
        return before

    def restarted(self) -> Router:
        market = MarketView(self.stored, lambda symbol: read_actions(self.room, symbol))
        return Router(self.engine, self.broker, lambda: self.config, self.clock, lambda name: Mode.PAPER, market)

    def bar(self, bar: BarClose) -> dict[str, str]:
        held = super().bar(bar)
        self.stored.bars.append(bar)
        return held

    def quote(self, price: float, time_us: int) -> list[str]:
        return [trip.code for trip in self.router.on_price("AAPL", price, time_us)]

    def halted(self) -> set[str]:
        state = self.store.state("halt")
        return set(state.get("strategies", {})) | ({"desk"} if state.get("global") else set())


@pytest.fixture
def desk(ledger_engine: Engine, tmp_path: Path) -> Watching:
    """100 shares at 700, the breakers as after the second close of Wednesday."""
    made = Watching(ledger_engine, tmp_path)
    limits = made.limit(circuit_breaker=None)  # its rule needs more bars than there are yet
    made.begin()
    made.bar(stock_bar(WED, 1, 700.0))
    opened(made)
    made.config.limits = limits
    assert made.router.check_daily_loss() is False
    return made


def state(breakers: Breakers) -> dict[str, Any]:
    held = {s: (h.value_per_point, h.mark, h.moved) for s, h in breakers._held.items()}
    windows = {s: (list(w.low), list(w.high)) for s, w in breakers._windows.items() if w.low}
    return {"held": held, "windows": windows, "equity": breakers.equity, "peak": breakers.peak}


class TestBetweenBars:
    def test_the_first_quote_after_a_split_trips_nothing_and_a_fall_after_it_does(self, desk: Watching) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        before = desk.router.breakers.equity
        assert desk.quote(100.0, OPEN + SECOND) == []
        assert desk.router.breakers.equity == before
        assert desk.quote(99.0, OPEN + 2 * SECOND) == []
        assert desk.router.breakers.equity == pytest.approx(before - 700.0), "700 new shares lost a dollar each"
        assert desk.quote(94.0, OPEN + 3 * SECOND) == ["CIRCUIT_BREAKER"]
        assert desk.quote(85.0, OPEN + 4 * SECOND) == ["DAILY_LOSS"]

    def test_without_a_word_of_the_split_the_price_is_not_judged_until_an_operator_speaks(self, desk: Watching) -> None:
        before = desk.router.breakers.equity
        assert desk.quote(100.0, OPEN + SECOND) == []
        assert desk.router.breakers.equity == before
        desk.say(THU, 7.0)
        assert desk.quote(100.0, OPEN + 120 * SECOND) == []
        assert desk.router.breakers.equity == before
        assert desk.quote(94.0, OPEN + 121 * SECOND) == ["CIRCUIT_BREAKER"]

    def test_a_crash_that_looked_like_a_split_is_judged_when_it_is_dismissed(self, desk: Watching) -> None:
        assert desk.quote(350.0, OPEN + SECOND) == []
        desk.say(THU, None)
        assert desk.quote(350.0, OPEN + 120 * SECOND) == ["DAILY_LOSS"]

    def test_a_split_without_a_factor_is_not_guessed_and_files_that_cannot_be_read_are_no_word_of_none(
        self, desk: Watching
    ) -> None:
        write_actions(desk.room, "AAPL", [split(float("nan"))])
        assert desk.quote(100.0, OPEN + SECOND) == []
        assert desk.quote(60.0, OPEN + 2 * SECOND) == []
        manifest = next((desk.room / "corporate_actions").rglob("manifest.json"))
        manifest.write_bytes(b"{")
        assert desk.quote(560.0, OPEN + 120 * SECOND) == []

    def test_between_the_sessions_of_a_split_no_price_is_judged(self, desk: Watching) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        assert desk.quote(100.0, OPEN - 60 * SECOND) == [], "trading before the open is at the new level"
        assert desk.quote(700.0, at(WED, 8)) == [], "and trading after the close at the old one"
        assert desk.quote(100.0, OPEN + SECOND) == []

    def test_what_is_told_in_the_night_is_known_at_the_open(self, desk: Watching) -> None:
        assert desk.quote(701.0, OPEN - 2 * SECOND) == []
        desk.say(THU, 7.0)
        before = desk.router.breakers.equity
        assert desk.quote(701.0 / 7, OPEN + SECOND) == []
        assert desk.router.breakers.equity == pytest.approx(before)

    @pytest.mark.parametrize("kind", [ActionKind.SPIN_OFF, ActionKind.ROLL])
    def test_a_spin_off_and_a_roll_move_the_price_and_lose_nothing(self, desk: Watching, kind: ActionKind) -> None:
        write_actions(desk.room, "AAPL", [split(1.25, kind=kind)])
        before = desk.router.breakers.equity
        assert desk.quote(560.0, OPEN + SECOND) == []
        assert desk.router.breakers.equity == before
        desk.quote(559.0, OPEN + 2 * SECOND)
        assert desk.router.breakers.equity == pytest.approx(before - 100.0), "the shares are as many as before"

    def test_a_dividend_is_a_fall(self, desk: Watching) -> None:
        action = CorporateAction("AAPL", ActionKind.DIVIDEND, session_number(THU), 0, 1.1, amount=63.0)
        write_actions(desk.room, "AAPL", [action])
        assert desk.quote(637.0, OPEN + SECOND) == ["CIRCUIT_BREAKER"]

    def test_what_the_price_did_before_the_split_still_counts(self, desk: Watching) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        assert desk.quote(721.0, at(WED, 2) + SECOND) == []
        assert desk.quote(97.0, OPEN + SECOND) == ["CIRCUIT_BREAKER"], "from 721 to what was 679"


class TestTheLedger:
    def test_a_rebuild_before_the_ledger_has_followed_the_split_keeps_the_level(self, desk: Watching) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.quote(99.0, OPEN + SECOND)
        desk.clock.advance(OPEN + 2 * SECOND)
        assert desk.router.check_daily_loss() is False, "another instrument's bar closed"
        equity = desk.router.breakers.equity
        desk.quote(98.0, OPEN + 3 * SECOND)
        assert desk.router.breakers.equity == pytest.approx(equity - 1400.0)
        assert desk.halted() == set()

    @pytest.mark.parametrize(("factor", "quoted"), [(7.0, True), (0.1, False)])
    def test_the_running_state_is_what_is_rebuilt_after_a_restart(self, desk: Watching, factor: float, quoted: bool) -> None:
        write_actions(desk.room, "AAPL", [split(factor)])
        price = 700.0 / factor
        if quoted:
            assert desk.quote(price, OPEN + SECOND) == []
        desk.bar(stock_bar(THU, 1, price))
        assert desk.router.check_daily_loss() is False
        if not quoted:  # prices between bars are kept by nobody
            again = desk.restarted()
            assert again.check_daily_loss() is False
            assert state(again.breakers) == state(desk.router.breakers)
        desk.router = desk.restarted()
        assert desk.router.check_daily_loss() is False
        assert desk.position(symbol="AAPL") == 100 * factor
        assert desk.quote(price * 0.94, OPEN + 3700 * SECOND) == ["CIRCUIT_BREAKER"]

    def test_a_restart_before_the_first_bar_of_the_session_ends_in_the_same_state(self, desk: Watching) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.clock.advance(OPEN + SECOND)
        again = desk.restarted()
        again.check_daily_loss()
        for router in (desk.router, again):
            assert router.on_price("AAPL", 99.0, OPEN + SECOND) == ()
        assert state(again.breakers) == state(desk.router.breakers)

    def test_a_factor_confirmed_after_the_first_bar_moves_what_was_before_it(self, desk: Watching) -> None:
        desk.limit(daily_loss=None, circuit_breaker=CircuitBreaker(percent=20, minutes=3 * 1440, pause_minutes=1))
        desk.router.check_daily_loss()
        desk.bar(stock_bar(THU, 1, 595.0, low=640.0))  # a step of 1.18 looks like no split
        assert desk.router.check_daily_loss() is False
        desk.say(THU, 700.0 / 595.0)
        desk.bar(stock_bar(THU, 2, 595.0))
        assert desk.router.check_daily_loss() is False
        assert desk.quote(500.0, at(THU, 2) + SECOND) == [], "16 % in new prices, 29 % in old ones"

    def test_the_move_over_a_restart_trips(self, desk: Watching) -> None:
        desk.router = desk.restarted()
        desk.router.check_daily_loss()
        assert desk.quote(660.0, at(WED, 2) + SECOND) == ["CIRCUIT_BREAKER"]

    def test_a_move_that_has_tripped_does_not_trip_again_after_a_restart(self, desk: Watching) -> None:
        desk.bar(stock_bar(WED, 3, 660.0))
        assert desk.router.check_daily_loss() is True
        assert desk.halted() == {"instrument:AAPL"}
        desk.router.resume("instrument:AAPL", "seen", "ana")
        desk.router = desk.restarted()
        desk.router.check_daily_loss()
        assert desk.quote(655.0, at(WED, 3) + SECOND) == []
        assert desk.halted() == set()


def test_at_bar_closes_a_held_instrument_and_a_split_trip_nothing(desk: Watching) -> None:
    assert set(desk.bar(stock_bar(THU, 1, 100.0))) == {"AAPL"}
    assert desk.router.check_daily_loss() is False
    desk.say(THU, 7.0)
    assert desk.bar(stock_bar(THU, 2, 100.0)) == {}
    assert desk.router.check_daily_loss() is False
    desk.bar(stock_bar(FRI, 1, 94.0))
    assert desk.router.check_daily_loss() is True
    assert desk.halted() == {"instrument:AAPL"}
