"""Modes: kept in the ledger, changed by command; what may go to which broker, and what never does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from desk.modes import ModeNotChanged, Modes, live_terms, never_sent
from resources.brokers.protocol import Account
from resources.ledger import modes as ledger_modes
from resources.settings import Settings
from tests.desk.kit import INSTRUMENTS, LIMITS, Desk, hour
from tests.doubles.faulty_broker import FaultyBroker
from trading.instruments import Mode
from trading.orders import OrderState
from trading.universe import Universe

LIVE = Settings(_env_file=None).model_copy(update={"mode": "live", "live_account": "U1"})  # type: ignore[call-arg]
PAPER = Settings(_env_file=None)  # type: ignore[call-arg]


@dataclass(frozen=True)
class File:
    mode: Mode


class RealMoney(FaultyBroker):
    """A broker that does not say that it is simulated, with an account of its own."""

    def account(self) -> Account:
        return replace(self.inner.account(), account_id="U1")


def real(paper: Any) -> RealMoney:
    return RealMoney(paper, name="real", simulated=False)


def book(desk: Desk, settings: Settings = PAPER, limits: Any = LIMITS, **stated: Mode) -> Modes:
    made = Modes(desk.engine, settings, desk.broker, lambda: limits)
    made.note_files({name: File(mode) for name, mode in stated.items()})
    desk.modes = {name: made.of(name) for name in stated}
    desk.router._mode_of, desk.router._barred = made.of, made.barred
    return made


def actions(engine: Engine, action: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT actor, content FROM audit WHERE action = :a ORDER BY seq"), {"a": action}))


class TestKept:
    def test_a_file_states_the_first_mode_and_never_promotes(self, ledger_engine: Engine) -> None:
        desk = Desk(ledger_engine)
        made = book(desk, a=Mode.SHADOW, b=Mode.PAPER, c=Mode.LIVE)
        assert [made.of(n) for n in "abc"] == [Mode.SHADOW, Mode.PAPER, Mode.PAPER]
        made.note_files({"a": File(Mode.PAPER), "b": File(Mode.ALERT)})
        assert [made.of(n) for n in "ab"] == [Mode.SHADOW, Mode.ALERT], "up only by command, down at once"
        assert "modes set NAME paper" in made.known["a"].wish
        assert made.known["b"].wish == ""
        again = Modes(ledger_engine, PAPER, desk.broker, lambda: LIMITS)
        again.note_files({"a": File(Mode.PAPER), "b": File(Mode.ALERT), "c": File(Mode.LIVE)})
        assert again.known == made.known, "the ledger keeps them over a restart"
        ((actor, content),) = actions(ledger_engine, "mode_set")
        assert (actor, '"mode":"alert"' in bytes(content).decode()) == ("file", True)

    def test_a_command_climbs_one_step_and_is_audited_with_who_and_why(self, ledger_engine: Engine) -> None:
        made = book(Desk(ledger_engine), a=Mode.SHADOW)
        with pytest.raises(ModeNotChanged, match="skips alert"):
            made.change("a", Mode.PAPER, reason="no", who="eve", forced=False)
        assert made.change("a", Mode.ALERT, reason="it watched well", who="ann", forced=False)[:2] == (Mode.SHADOW, Mode.ALERT)
        made.change("a", Mode.SHADOW, reason="not so well", who="ann", forced=False)
        made.change("a", Mode.PAPER, reason="the boss said so", who="bob", forced=True)
        told = [(actor, bytes(content).decode()) for actor, content in actions(ledger_engine, "mode_set")]
        assert [actor for actor, _ in told] == ["ann", "ann", "bob"]
        assert '"forced":true' in told[2][1]
        assert '"reason":"the boss said so"' in told[2][1]

    def test_what_cannot_be_read_counts_as_shadow(self, ledger_engine: Engine) -> None:
        made = book(Desk(ledger_engine), a=Mode.PAPER)
        with ledger_engine.begin() as connection:
            connection.execute(text("""UPDATE desk_state SET value = '{"a": {"mode": "papre"}}' WHERE key = 'modes'"""))
        made.note_files({})
        assert made.of("a") is Mode.SHADOW

    def test_the_trade_lane_reads_the_same(self, ledger_engine: Engine) -> None:
        made = book(Desk(ledger_engine), a=Mode.SHADOW)
        with ledger_engine.connect() as connection:
            known = ledger_modes.read(connection)
        assert ledger_modes.mode_of(known, "a", Mode.PAPER, Mode.PAPER) is made.of("a")
        assert ledger_modes.mode_of(known, "new", Mode.LIVE, Mode.LIVE) is Mode.PAPER


class TestSeveralAtOnce:
    def test_each_strategy_does_what_its_mode_says(self, ledger_engine: Engine) -> None:
        desk = Desk(ledger_engine).open()
        book(desk, trend=Mode.PAPER, revert=Mode.ALERT, shadowed=Mode.SHADOW)
        results = {n: desk.submit(strategy=n) for n in ("trend", "revert", "shadowed")}
        assert {n: r.refusal for n, r in results.items()} == {
            "trend": "", "revert": "MODE: mode=alert", "shadowed": "MODE: mode=shadow",
        }  # fmt: skip
        assert {r.client_id for r in desk.broker.open_orders()} == set(results["trend"].intent_ids)

    def test_backtest_sends_nothing(self, ledger_engine: Engine) -> None:
        desk = Desk(ledger_engine).open()
        book(desk, trend=Mode.BACKTEST)
        assert desk.submit().refusal == "MODE: mode=backtest reason=research_only set=tapeline modes set"
        assert desk.broker.open_orders() == []

    def test_what_is_open_is_managed_to_its_end_after_a_demotion(self, ledger_engine: Engine) -> None:
        desk = Desk(ledger_engine).open()
        made = book(desk, trend=Mode.PAPER)
        desk.submit()
        desk.close(1)
        _, _, held = made.change("trend", Mode.SHADOW, reason="enough", who="ann", forced=False)
        assert held == {"EURUSD": 1000.0}
        assert desk.submit(1).refusal == "MODE: mode=shadow"
        out = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
        assert out.accepted
        desk.close(2)
        assert desk.position() == 0.0
        assert desk.store.order(out.intent_ids[0]).mode == "paper"  # type: ignore[union-attr]


class TestLive:
    def live_desk(self, engine: Engine) -> Desk:
        desk = Desk(engine, wrap=real)
        universe = desk.config.universe
        both = {
            s: replace(i, tradable_in=frozenset({Mode.PAPER, Mode.LIVE}))
            for s, i in universe.instruments.items()
            if s in INSTRUMENTS
        }
        assert isinstance(universe, Universe)
        desk.config.universe = replace(universe, instruments=both)
        return desk.open()

    def test_everything_in_place_trades_live(self, ledger_engine: Engine) -> None:
        desk = self.live_desk(ledger_engine)
        made = book(desk, LIVE, trend=Mode.PAPER)
        made.change("trend", Mode.LIVE, reason="ready", who="ann", forced=False)
        done = desk.submit()
        assert done.accepted, done.refusal
        assert {desk.store.order(i).mode for i in done.intent_ids} == {"live"}  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("change", "limits", "reason"),
        [
            ({"mode": "paper"}, LIMITS, "live_not_enabled"),
            ({"live_account": ""}, LIMITS, "live_account_not_set"),
            ({"live_account": "U2"}, LIMITS, "other_account"),
            ({}, None, "risk_file_incomplete"),
            ({}, LIMITS.model_copy(update={"daily_loss": None}), "risk_file_incomplete"),
        ],
    )
    def test_whatever_is_missing_refuses_with_what_to_do(
        self, ledger_engine: Engine, change: dict[str, str], limits: Any, reason: str
    ) -> None:
        desk = self.live_desk(ledger_engine)
        book(desk, LIVE, trend=Mode.PAPER).change("trend", Mode.LIVE, reason="ready", who="ann", forced=False)
        settings = LIVE.model_copy(update=change)
        book(desk, settings, limits=limits, trend=Mode.PAPER)
        refusal = desk.submit().refusal
        assert refusal.startswith(f"MODE: mode=live reason={reason}")
        assert desk.broker.open_orders() == []
        with pytest.raises(ModeNotChanged, match=reason):
            book(desk, settings, limits=limits, revert=Mode.PAPER).change("revert", Mode.LIVE, reason="x", who="x", forced=True)

    def test_a_paper_book_takes_no_live_order_and_an_account_no_paper_order(self, ledger_engine: Engine) -> None:
        paper = Desk(ledger_engine)
        assert [str(r).split()[2] for r in live_terms(LIVE, paper.broker, None, LIMITS)] == [
            "reason=broker_is_simulated", "reason=other_account",
        ]  # fmt: skip
        desk = self.live_desk(ledger_engine)
        book(desk, LIVE, trend=Mode.PAPER)
        assert desk.submit().refusal == "MODE: mode=paper reason=broker_is_real broker=real set=TAPELINE_BROKER"

    def test_an_exit_of_a_paper_position_never_reaches_an_account(self, ledger_engine: Engine) -> None:
        desk = Desk(ledger_engine).open()
        desk.submit()
        desk.close(1)
        account = real(desk.paper)
        desk.router._broker = account  # the same ledger, and the setting names another broker now
        out = desk.router.exit_position("trend", "EURUSD", "rule", hour(1))
        order = desk.store.order(out.intent_ids[0])
        assert order is not None
        assert account.submitted == []
        account.name = "paper"
        assert never_sent(order, account) == "MODE: mode=paper broker=paper book=live"
        assert never_sent(replace(order, mode="live"), account) == ""
        assert never_sent(replace(order, mode="live"), desk.paper) == "MODE: mode=live broker=paper book=paper"

    def test_what_is_held_on_paper_is_closed_before_live(self, ledger_engine: Engine) -> None:
        desk = self.live_desk(ledger_engine)
        made = book(desk, LIVE, trend=Mode.PAPER)
        with ledger_engine.begin() as connection:
            connection.execute(text("SELECT 1"))
        desk.router._barred = lambda mode, account: None
        desk.broker.simulated = True  # type: ignore[attr-defined]
        desk.submit()
        desk.broker.simulated = False  # type: ignore[attr-defined]
        with pytest.raises(ModeNotChanged, match="holds or works EURUSD in paper: close it"):
            made.change("trend", Mode.LIVE, reason="ready", who="ann", forced=True)

    def test_an_order_of_the_wrong_book_is_rejected_here(self, ledger_engine: Engine) -> None:
        desk = Desk(ledger_engine).open()
        desk.router._mode_of = lambda name: Mode.LIVE
        desk.config.universe = replace(
            desk.config.universe,
            instruments={s: replace(i, tradable_in=frozenset({Mode.LIVE})) for s, i in INSTRUMENTS.items()},
        )
        done = desk.submit()  # nothing bars it: the last line holds all the same
        assert {s for s in desk.states(*done.intent_ids)} == {OrderState.REJECTED.value}
        assert desk.paper.open_orders() == []


def test_live_cannot_be_set_over_play_money() -> None:
    with pytest.raises(ValueError, match="needs a broker with real money, paper is simulated"):
        Settings(_env_file=None, mode="live")  # type: ignore[call-arg]
