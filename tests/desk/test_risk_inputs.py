"""What portfolio limits are measured on is read from ledger and lake, and a limit refuses when it cannot be."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from desk import risk_inputs
from desk.risk_inputs import MarketView
from resources.corporate_actions import write_actions
from resources.lake import Lake
from tests.desk.kit import INSTRUMENTS, LIMITS, Desk, bar
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.limits import CircuitBreaker, Drawdown, Limits, LosingStreak, OrderRate, ValueAtRisk
from trading.timeframes import Timeframe, session_number

EURUSD = INSTRUMENTS["EURUSD"]


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine).open()


def limited(engine: Engine, limits: Limits) -> Desk:
    desk = Desk(engine)
    desk.config = replace(desk.config, limits=limits)
    return desk.open()


def daily(lake: Lake, symbol: str, start: date, end: date, prices: list[float] | None = None) -> Bars:
    instrument = replace(EURUSD, symbol=symbol)
    venue = calendar(instrument.calendar)
    days = venue.sessions(start, end)
    number = np.array([session_number(d) for d in days], np.int32)
    close = np.array(prices if prices is not None else np.linspace(1.1, 1.2, len(days)))
    close_time = venue.close_time[np.searchsorted(venue.number, number)]
    bars = Bars(symbol, Timeframe.D1, close_time, number, close, close, close, close, np.zeros(len(days)))
    lake.write_bars("bars_1d", {symbol: bars}, start=start, end=end, source="test", instruments={symbol: instrument})
    return bars


class TestReturns:
    def test_only_sessions_that_every_symbol_has_and_that_have_closed_count(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        first = daily(lake, "EURUSD", date(2017, 11, 1), date(2017, 12, 29))
        daily(lake, "GBPUSD", date(2017, 11, 1), date(2017, 12, 20))
        view = MarketView(lake)
        known = {s: replace(EURUSD, symbol=s) for s in ("EURUSD", "GBPUSD")}
        now = int(first.close_time[30])
        got = view.daily_returns(known, ["GBPUSD", "EURUSD"], 20, now)
        assert got is not None
        assert got.symbols == ("EURUSD", "GBPUSD")
        assert got.values.shape == (20, 2)
        assert got.values[-1, 0] == pytest.approx(first.close[30] / first.close[29] - 1)

    def test_a_symbol_without_daily_bars_leaves_nothing_to_measure(self, tmp_path: Path) -> None:
        lake = Lake(tmp_path)
        first = daily(lake, "EURUSD", date(2017, 11, 1), date(2017, 12, 29))
        view = MarketView(lake)
        assert view.daily_returns(INSTRUMENTS, ["EURUSD", "WATCHED"], 20, int(first.close_time[-1])) is None
        assert view.daily_returns(INSTRUMENTS, ["EURUSD", "NOBODY"], 20, int(first.close_time[-1])) is None


def split(session: int, factor: float, known: int = 0) -> CorporateAction:
    return CorporateAction("EURUSD", ActionKind.SPLIT, session, known, factor)


class TestSplits:
    """Daily closes that fall to a seventh at a 7:1 split."""

    def setup(self, folder: Path, factor: float = 7.0) -> tuple[MarketView, Bars, Lake]:
        lake = Lake(folder)
        smooth = np.linspace(1.1, 1.2, 43)
        cut = np.where(np.arange(43) >= 20, smooth / 7.0, smooth)
        bars = daily(lake, "EURUSD", date(2017, 11, 1), date(2017, 12, 29), list(cut))
        write_actions(lake, "EURUSD", [split(int(bars.session[20]), factor)])
        return MarketView(lake), bars, lake

    def test_a_split_is_no_loss(self, tmp_path: Path) -> None:
        view, bars, _ = self.setup(tmp_path)
        got = view.daily_returns({"EURUSD": EURUSD}, ["EURUSD"], 30, int(bars.close_time[42]))
        assert got is not None
        assert np.abs(got.values).max() < 0.01

    def test_before_its_day_it_changes_nothing(self, tmp_path: Path) -> None:
        view, bars, _ = self.setup(tmp_path)
        got = view.daily_returns({"EURUSD": EURUSD}, ["EURUSD"], 10, int(bars.close_time[19]))
        assert got is not None
        assert got.values[-1, 0] == pytest.approx(bars.close[19] / bars.close[18] - 1)

    def test_an_unknown_factor_leaves_nothing_to_measure_until_an_operator_tells_it(self, tmp_path: Path) -> None:
        view, bars, lake = self.setup(tmp_path, float("nan"))
        now = int(bars.close_time[42])
        assert view.daily_returns({"EURUSD": EURUSD}, ["EURUSD"], 30, now) is None
        write_actions(lake, "EURUSD", [])
        told = [split(int(bars.session[20]), 7.0)]
        got = view.daily_returns({"EURUSD": EURUSD}, ["EURUSD"], 30, now, told)
        assert got is not None
        assert np.abs(got.values).max() < 0.01
        raw = view.daily_returns({"EURUSD": EURUSD}, ["EURUSD"], 30, now)
        assert raw is not None
        assert raw.values.min() < -0.8, "nobody knows of the split: the step is seen"

    def test_it_is_no_abnormal_move_either(self, tmp_path: Path) -> None:
        view, bars, _ = self.setup(tmp_path)
        day = replace(EURUSD, native_timeframe=Timeframe.D1)
        found = view.recent_prices(day, 3 * 1440, int(bars.close_time[20]))
        assert found is not None
        assert found[1].max() / found[1].min() < 1.01


class TestTrades:
    def test_a_losing_streak_is_counted_back_to_the_last_gain(self, desk: Desk) -> None:
        assert risk_inputs.losing_streak(desk.engine.connect(), "trend") == (0, 0)
        desk.submit()
        desk.close(1, bar("EURUSD", 1, 1.2, 1.2, 1.18, 1.18))
        with desk.engine.connect() as connection:
            lost, at = risk_inputs.losing_streak(connection, "trend")
            assert lost == 1
            assert risk_inputs.last_stops(connection, "trend") == {("trend", "EURUSD"): at}
            assert risk_inputs.losing_streak(connection, "revert") == (0, 0)


class TestRefusals:
    def test_the_router_measures_what_the_limits_ask_for(self, ledger_engine: Engine) -> None:
        asked = LIMITS.model_copy(update={"order_rate": OrderRate(orders=1, seconds=86_400), "drawdown": Drawdown(percent=50)})
        desk = limited(ledger_engine, asked)
        assert desk.submit().refusal == ""
        assert desk.submit(1, "revert", "GBPUSD", quantity=500.0).refusal.startswith("ORDER_RATE: orders=1")

    @pytest.mark.parametrize(
        ("limit", "says"),
        [
            ({"value_at_risk": ValueAtRisk(percent=5)}, "RISK_INPUT_MISSING: limit=value_at_risk"),
            ({"circuit_breaker": CircuitBreaker(percent=5, minutes=10, pause_minutes=30)}, "RISK_INPUT_MISSING: limit=circuit"),
        ],
    )
    def test_without_prices_a_limit_that_needs_them_refuses(
        self, ledger_engine: Engine, limit: dict[str, object], says: str
    ) -> None:
        desk = limited(ledger_engine, LIMITS.model_copy(update=limit))
        assert desk.submit().refusal.startswith(says)

    def test_a_losing_streak_pauses_the_strategy_at_the_router(self, ledger_engine: Engine) -> None:
        limits = LIMITS.model_copy(update={"losing_streak": LosingStreak(trades=2, pause_minutes=10_000)})
        desk = limited(ledger_engine, limits)
        for k in range(2):
            assert desk.submit(2 * k).refusal == ""
            desk.close(2 * k + 1, bar("EURUSD", 2 * k + 1, 1.2, 1.2, 1.18, 1.18))
        assert desk.submit(4).refusal.startswith("LOSING_STREAK: strategy=trend lost=2")
