"""Breakers trip at the price that crosses a limit, latch at the level it asks for, and only a command lifts them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from desk import breakers, price_watch, risk_state
from desk.breakers import Breakers, Known, Trip
from desk.risk_state import HaltLevel
from resources.brokers.protocol import Account
from resources.feeds.protocol import Quote
from tests.desk.kit import CASH, LIMITS, SESSION, Desk, bar, hour
from trading.breaker_window import PriceWindow
from trading.instruments import Instrument
from trading.limits import CircuitBreaker, DailyLoss, Drawdown, Limits

MINUTE = 60_000_000


def limits(**changes: object) -> Limits:
    return LIMITS.model_copy(update=changes)


def ready(own: Limits, quantity: float = 20_000.0, peak: float = CASH) -> Breakers:
    made = Breakers()
    made.rebase(
        own, Account("paper", "USD", CASH, CASH), Known(CASH, peak, {"EURUSD": quantity}, {"EURUSD": 1.2}, {"EURUSD": 1.0})
    )
    return made


class TestPrices:
    def test_the_price_at_which_the_days_loss_is_reached_trips_and_not_the_one_before(self) -> None:
        own = ready(limits(daily_loss=DailyLoss(amount=1_000)))
        assert own.on_price("EURUSD", 1.1501, 1) == ()
        (trip,) = own.on_price("EURUSD", 1.15, 2)
        assert trip == Trip("DAILY_LOSS", HaltLevel.REDUCE_ONLY, "desk", "DAILY_LOSS: pnl=-1000.00")

    def test_the_tighter_of_amount_and_percent_counts(self) -> None:
        own = ready(limits(daily_loss=DailyLoss(amount=1_000, percent=0.5)))
        (trip,) = own.on_price("EURUSD", 1.175, 1)
        assert trip.code == "DAILY_LOSS"

    def test_a_short_loses_when_the_price_rises(self) -> None:
        own = ready(limits(daily_loss=DailyLoss(amount=1_000)), -20_000.0)
        assert own.on_price("EURUSD", 1.15, 1) == ()
        assert len(own.on_price("EURUSD", 1.2501, 2)) == 1

    def test_the_fall_is_measured_from_the_highest_price_seen(self) -> None:
        own = ready(limits(daily_loss=DailyLoss(amount=1e9), drawdown=Drawdown(percent=1.0, then="flatten")))
        assert own.on_price("EURUSD", 1.25, 1) == ()  # +1000: the new peak is 101000
        assert own.on_price("EURUSD", 1.2, 2) == ()  # -0.99 %
        (trip,) = own.on_price("EURUSD", 1.1994, 3)
        assert (trip.code, trip.level) == ("DRAWDOWN", HaltLevel.FLATTEN)

    def test_a_fall_that_asks_for_more_is_not_hidden_behind_a_days_loss(self) -> None:
        own = ready(limits(daily_loss=DailyLoss(amount=1_000), drawdown=Drawdown(percent=1.0, then="flatten")))
        assert [(t.code, t.level) for t in own.on_price("EURUSD", 1.15, 1)] == [
            ("DAILY_LOSS", HaltLevel.REDUCE_ONLY), ("DRAWDOWN", HaltLevel.FLATTEN),
        ]  # fmt: skip

    def test_an_abnormal_move_halts_its_instrument_only_within_the_time(self) -> None:
        own = ready(
            limits(circuit_breaker=CircuitBreaker(percent=2, minutes=5, pause_minutes=30), daily_loss=DailyLoss(amount=1e9))
        )
        assert own.on_price("GBPUSD", 1.0, 0) == ()
        assert own.on_price("GBPUSD", 1.019, 5 * MINUTE) == ()
        assert own.on_price("GBPUSD", 1.03, 11 * MINUTE) == ()  # 3 % since the first, which is long gone
        (trip,) = own.on_price("GBPUSD", 1.009, 12 * MINUTE)
        assert (trip.code, trip.scope, trip.level) == ("CIRCUIT_BREAKER", "instrument:GBPUSD", HaltLevel.REDUCE_ONLY)

    @pytest.mark.parametrize("price", [math.nan, math.inf, 0.0, -1.0])
    def test_what_is_no_price_changes_nothing(self, price: float) -> None:
        own = ready(limits(daily_loss=DailyLoss(amount=1_000)))
        assert own.on_price("EURUSD", price, 1) == ()
        assert own.equity == CASH

    @settings(max_examples=200)
    @given(st.lists(st.tuples(st.sampled_from(["EURUSD", "GBPUSD"]), st.integers(8_000, 16_000)), max_size=40))
    def test_equity_is_what_adding_up_gives_after_any_prices(self, told: list[tuple[str, int]]) -> None:
        own = Breakers()
        known = Known(
            CASH, CASH, {"EURUSD": 300.0, "GBPUSD": -200.0}, {"EURUSD": 1.2, "GBPUSD": 1.2}, {"EURUSD": 1.0, "GBPUSD": 2.0}
        )
        own.rebase(limits(daily_loss=DailyLoss(amount=50)), Account("paper", "USD", CASH, CASH), known)
        last = {"EURUSD": 1.2, "GBPUSD": 1.2}
        for n, (symbol, ticks) in enumerate(told):
            last[symbol] = ticks / 10_000
            trips = own.on_price(symbol, last[symbol], n)
            equity = CASH + 300 * (last["EURUSD"] - 1.2) - 400 * (last["GBPUSD"] - 1.2)
            assert own.equity == pytest.approx(equity, abs=1e-6)
            if abs(equity - (CASH - 50)) > 1e-6:
                assert bool(trips) == (equity < CASH - 50)

    @settings(max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(900, 1100)), min_size=1, max_size=40))
    def test_the_window_finds_the_move_that_looking_at_every_pair_finds(self, told: list[tuple[int, int]]) -> None:
        window, now, seen = PriceWindow(), 0, []
        for step, ticks in told:
            now += step * MINUTE
            seen.append((now, ticks / 1000))
            price = ticks / 1000
            since = [p for at, p in seen if at >= now - 5 * MINUTE]
            expected = max(max(price / p - 1.0, 1.0 - price / p) for p in since) * 100.0
            assert window.move(now, price, 5 * MINUTE) == pytest.approx(expected)


@pytest.fixture
def desk(ledger_engine: Engine) -> Desk:
    return Desk(ledger_engine).open()


def halt(desk: Desk) -> risk_state.HaltState:
    with desk.engine.connect() as connection:
        return risk_state.read_halt(connection)


def hold(desk: Desk, **changes: object) -> None:
    """A long of 20000 EURUSD at 1.2, and the breakers rebuilt as after a close."""
    desk.config.limits = limits(**changes)
    desk.submit(quantity=20_000.0, stop=1.0, target=None)
    desk.close(1)
    assert desk.router.check_daily_loss() is False


class TestLatch:
    def test_a_price_between_bars_ends_new_risk_until_resumed(self, desk: Desk) -> None:
        hold(desk)
        pending = desk.submit(1, "revert", "GBPUSD")
        (trip,) = desk.router.on_price("EURUSD", 1.149, hour(1) + 1)
        assert desk.router.trip(trip) is True
        assert desk.router.trip(trip) is False
        assert (halt(desk).level, halt(desk).reason) == (HaltLevel.REDUCE_ONLY, f"DAILY_LOSS: pnl=-1020.00 session={SESSION}")
        assert desk.states(*pending.intent_ids) == ["canceled"] * 3
        assert desk.submit(1, "idea", "GBPUSD").refusal.startswith("HALTED: scope=desk")
        assert desk.router.exit_position("trend", "EURUSD", "rule", hour(1)).accepted
        assert desk.router.resume("desk", "looked at it", "ana")
        assert halt(desk).level is None

    def test_flatten_closes_what_is_open(self, desk: Desk) -> None:
        hold(desk, drawdown=Drawdown(percent=1.0, then="flatten"))
        assert len(desk.router.on_price("EURUSD", 1.149, hour(1) + 1)) == 2
        drawdown = Trip(breakers.DRAWDOWN, HaltLevel.FLATTEN, "desk", "DRAWDOWN: fall=1.02%")
        assert desk.router.trip(drawdown)
        desk.close(2)
        assert desk.position() == 0
        assert halt(desk).level is HaltLevel.FLATTEN
        desk.router.resume("desk", "seen", "ana")
        assert desk.router.trip(drawdown) is False  # once for a peak

    def test_a_daily_loss_may_flatten_too(self, desk: Desk) -> None:
        hold(desk, daily_loss=DailyLoss(amount=1_000, then="flatten"))
        desk.close(2, bar("EURUSD", 2, 1.2, 1.2, 1.149, 1.149))
        assert desk.router.check_daily_loss()
        desk.close(3, bar("EURUSD", 3, 1.149, 1.15, 1.148, 1.149))
        assert desk.position() == 0

    def test_an_instrument_that_moved_is_halted_alone(self, desk: Desk) -> None:
        hold(desk)
        desk.submit(1, "revert", "GBPUSD")
        breaker = CircuitBreaker(percent=2, minutes=5, pause_minutes=30, then="flatten")
        desk.config.limits = limits(circuit_breaker=breaker)  # its rule needs a lake, which entries before it had not
        desk.router.check_daily_loss()
        desk.close(2, bar("EURUSD", 2, 1.2, 1.2, 1.2, 1.2), bar("GBPUSD", 2, 1.2, 1.2, 1.2, 1.2))
        desk.router.on_price("EURUSD", 1.2, hour(2) + 1)
        (trip,) = desk.router.on_price("EURUSD", 1.23, hour(2) + 2)
        assert desk.router.trip(trip)
        assert desk.submit(2, "idea").refusal == "HALTED: scope=instrument symbol=EURUSD"
        assert not desk.submit(2, "idea", "GBPUSD").refusal.startswith("HALTED")
        desk.close(3, bar("EURUSD", 3, 1.2, 1.2, 1.2, 1.2), bar("GBPUSD", 3, 1.2, 1.2, 1.2, 1.2))
        assert (desk.position(), desk.position("revert", "GBPUSD")) == (0, 1000)
        assert desk.router.resume("instrument:EURUSD", "news, over", "ana")
        assert not desk.submit(3, "idea").refusal.startswith("HALTED")

    def test_trips_and_their_lifting_are_audited(self, desk: Desk) -> None:
        hold(desk)
        (trip,) = desk.router.on_price("EURUSD", 1.149, hour(1) + 1)
        desk.router.trip(trip)
        desk.router.resume("desk", "looked at it", "ana")
        with desk.engine.connect() as connection:
            query = text("SELECT actor, action FROM audit WHERE action IN ('halt', 'resume') ORDER BY seq")
            assert [tuple(r) for r in connection.execute(query)] == [("desk", "halt"), ("ana", "resume")]


class Quotes:
    """A feed that quotes one price."""

    def __init__(self, *quotes: Quote | Exception) -> None:
        self.quotes = list(quotes)

    def quote(self, instruments: Sequence[Instrument]) -> list[Quote]:
        told = self.quotes.pop(0)
        if isinstance(told, Exception):
            raise told
        return [told]


class Worker:
    def __init__(self, rounds: int) -> None:
        self.stop, self.rounds = asyncio.Event(), rounds

    async def work(self, function, *arguments):  # type: ignore[no-untyped-def]
        self.rounds -= 1
        if self.rounds == 0:
            self.stop.set()
        return function(*arguments)


def test_quotes_between_bars_reach_the_breakers_and_a_failing_feed_is_asked_again(desk: Desk) -> None:
    hold(desk)
    feed = Quotes(
        Quote("EURUSD", hour(1) + 1, 1.2, 1, 1.2002, 1), OSError("gone"), Quote("EURUSD", hour(1) + 2, 1.1489, 1, 1.1491, 1)
    )
    asyncio.run(price_watch.watch(desk.router, [(feed, [])], Worker(2), 0.001))
    assert halt(desk).level is HaltLevel.REDUCE_ONLY


def test_a_quotes_price_is_its_middle_and_a_crossed_one_is_none() -> None:
    assert price_watch.price_of(Quote("X", 0, 1.0, 1, 1.2, 1)) == pytest.approx(1.1)
    assert math.isnan(price_watch.price_of(Quote("X", 0, 1.3, 1, 1.2, 1)))
    assert price_watch.price_of(Quote("X", 0, math.nan, 0, 1.2, 1, 1.15)) == 1.15
