"""The kill switch without a ledger: the broker is flat or what is left is named; the next desk books what was done, once."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from desk import broker_kill, external, kill_booking, reconcile, submission
from desk.broker_kill import RawKill, RawOutcome, pending
from pipelines import cli_support
from pipelines.cli import app
from resources.brokers.protocol import BrokerError
from resources.brokers.remote.server import BrokerServer
from resources.brokers.remote.venue import Venue, VenueOptions
from resources.brokers.simulated_remote import SimulatedRemoteBroker
from resources.settings import Settings
from tests.desk.kit import INSTRUMENTS, Desk, bar, hour
from tests.doubles.faulty_broker import FaultyBroker
from trading.costs import Costs
from trading.signals import Action


def held(engine: Engine) -> Desk:
    """A long of one strategy, a short of another, an entry that waits, and protective orders of all of them."""
    desk = Desk(engine).open()
    external.remember(engine, INSTRUMENTS)
    desk.submit(quantity=1000.0)
    desk.submit(strategy="revert", action=Action.ENTER_SHORT, stop=1.21, target=1.18, quantity=400.0)
    desk.close(1)
    desk.submit(1, symbol="GBPUSD")
    assert (desk.position(), desk.position("revert")) == (1000.0, -400.0)
    return desk


def pull(desk: Desk, where: Path, patience: float = 0.0) -> RawOutcome:
    return RawKill(desk.broker, where, "postgres is gone", "ann", patience).pull()


def start(engine: Engine, where: Path, n: int) -> Desk:
    """A desk that comes back: what live.take_over does in this order."""
    desk = Desk(engine)
    desk.clock.advance(hour(n))
    submission.recover(engine, desk.broker, desk.clock)
    kill_booking.book(engine, desk.broker, desk.clock, where)
    desk.router.continue_exits()
    return desk


def match(desk: Desk, n: int, price: float = 1.2) -> None:
    """The market goes on while no desk lives."""
    desk.clock.advance(hour(n))
    desk.paper.on_bars(hour(n), [bar(s, n, price, price, price, price) for s in ("EURUSD", "GBPUSD")])


def books(engine: Engine) -> tuple[dict[str, float], float]:
    """(open positions of the ledger by strategy/symbol, cash of all fills)."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT strategy, symbol, quantity FROM positions WHERE quantity <> 0")).all()
        return {f"{r.strategy}/{r.symbol}": r.quantity for r in rows}, submission.ledger_cash_flow(connection, "paper")


def test_everything_is_cancelled_then_closed_and_the_file_says_so_before_it_is_done(
    ledger_engine: Engine, tmp_path: Path
) -> None:
    desk = held(ledger_engine)
    outcome = pull(desk, tmp_path)
    assert len(outcome.cancelled) == 7, "two pairs of legs, an entry and its legs"
    assert [(c.symbol, c.side, c.quantity) for c in outcome.closes] == [("EURUSD", "sell", 600.0)]
    assert (outcome.flat, outcome.positions) == (False, ("EURUSD 600",))
    assert outcome.orders == tuple(c.client_id for c in outcome.closes)
    (path,) = pending(tmp_path)
    told = json.loads(path.read_text())
    assert (told["who"], told["reason"], told["closes"][0]["quantity"]) == ("ann", "postgres is gone", 600.0)
    match(desk, 2)
    assert desk.paper.positions() == []


def test_the_next_desk_books_what_was_closed_without_an_order_and_stays_halted(ledger_engine: Engine, tmp_path: Path) -> None:
    desk = held(ledger_engine)
    pull(desk, tmp_path)
    match(desk, 2, 1.2004)
    sent = len(desk.paper.completed_orders(0)) + len(desk.paper.open_orders())
    again = start(ledger_engine, tmp_path, 2)
    positions, cash = books(ledger_engine)
    assert positions == {}
    assert cash == pytest.approx(again.paper.account().cash - 100_000.0)
    assert len(again.paper.completed_orders(0)) + len(again.paper.open_orders()) == sent, "nothing was sent for it"
    assert reconcile.reconcile(ledger_engine, again.broker, again.clock).mismatches == {}
    assert again.submit(2).refusal.startswith("HALTED")
    assert pending(tmp_path) == []
    with ledger_engine.connect() as connection:
        told = connection.execute(text("SELECT actor FROM audit WHERE action = 'kill_broker_only'")).scalars().all()
        prices = connection.execute(text("SELECT price FROM fills WHERE trade_id LIKE 'int-%' AND order_id IN "
                                         "(SELECT id FROM intents WHERE leg LIKE 'exit:kill%')")).scalars().all()  # fmt: skip
    assert told == ["ann"]
    assert set(prices) == {1.2004}
    start(ledger_engine, tmp_path, 2)
    assert books(ledger_engine)[0] == {}, "booked once"


def test_what_the_pull_could_not_close_the_desk_closes_itself(ledger_engine: Engine, tmp_path: Path) -> None:
    desk = held(ledger_engine)
    outcome = pull(desk, tmp_path)
    again = start(ledger_engine, tmp_path, 1)  # before the market moved: the closing order still works
    assert outcome.closes[0].client_id not in {o.client_id for o in again.paper.open_orders()}
    for n in (2, 3):
        again.close(n)
        again.router.continue_exits()
    assert books(ledger_engine)[0] == {}
    assert again.paper.positions() == []
    assert reconcile.reconcile(ledger_engine, again.broker, again.clock).mismatches == {}


def test_what_does_not_come_out_even_is_left_to_a_person_and_sends_nothing(ledger_engine: Engine, tmp_path: Path) -> None:
    desk = held(ledger_engine)
    pull(desk, tmp_path)
    with ledger_engine.begin() as connection:  # the account held less than the ledger knew
        connection.execute(text("UPDATE paper.orders SET quantity = 500 WHERE client_id LIKE 'ext-kill%'"))
    match(desk, 2)
    again = start(ledger_engine, tmp_path, 2)
    positions, _ = books(ledger_engine)
    assert sum(positions.values()) == sum(p.quantity for p in again.paper.positions()) == 100.0
    assert positions["trend/EURUSD"] == 500.0, "500 of it were closed"
    assert positions["revert/EURUSD"] == -400.0


def test_a_pull_that_is_still_at_work_is_waited_for(ledger_engine: Engine, tmp_path: Path) -> None:
    desk = held(ledger_engine)
    outcome = pull(desk, tmp_path)
    (path,) = pending(tmp_path)
    wait = "import sys, time; print('here', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", wait, "--broker-only"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        path.write_text(json.dumps({**json.loads(path.read_text()), "finished": False, "pid": other.pid}))
        with pytest.raises(BrokerError, match="wait for it"):
            kill_booking.book(ledger_engine, desk.broker, desk.clock, tmp_path)
        assert [o.client_id for o in desk.paper.open_orders()] == [c.client_id for c in outcome.closes]
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    match(desk, 2)
    start(ledger_engine, tmp_path, 2)
    assert books(ledger_engine)[0] == {}


def test_a_file_that_cannot_be_read_keeps_the_desk_from_beginning(ledger_engine: Engine, tmp_path: Path) -> None:
    desk = held(ledger_engine)
    (tmp_path / "kill-1.json").write_text("{")
    with pytest.raises(BrokerError, match=r"kill-1.json cannot be read .* rename it to kill-1.booked.json"):
        kill_booking.book(ledger_engine, desk.broker, desk.clock, tmp_path)


@pytest.mark.parametrize("fault", ["timeout_before", "timeout_after", "error_after"])
def test_an_unclear_answer_closes_once(ledger_engine: Engine, tmp_path: Path, fault: str) -> None:
    desk = held(ledger_engine)
    broker = FaultyBroker(desk.paper, submit_faults=[fault], cancel_faults=["timeout_before", "timeout_after"])
    desk.broker = broker
    switch = RawKill(broker, tmp_path, "gone", "ann", patience=0.0)
    switch.pull()
    for _ in range(4):  # what a longer patience does
        with contextlib.suppress(BrokerError, TimeoutError):
            switch._look()
    assert [(c.side, c.quantity) for c in switch._done.closes] == [("sell", 600.0)]
    match(desk, 2)
    assert desk.paper.positions() == []
    assert desk.paper.open_orders() == []


@pytest.fixture
def server(tmp_path: Path) -> BrokerServer:
    venue = Venue(tmp_path / "book.sqlite", INSTRUMENTS, lambda s: Costs(), VenueOptions(100_000.0, "USD", durable=False))
    made = BrokerServer(venue, down_seconds=0.0)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made  # type: ignore[misc]
    made.shutdown()
    thread.join()
    made.server_close()
    venue.close()


def test_the_command_needs_no_ledger(server: BrokerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Settings(
        data_dir=tmp_path, broker="simulated_remote", simulated_broker=f"127.0.0.1:{server.port}",
        postgres_url="postgresql+psycopg2://nobody:nothing@127.0.0.1:1",
    )  # fmt: skip
    desk = SimulatedRemoteBroker(own.simulated_broker, lambda: hour(0))
    desk.place_by_hand("EURUSD", "buy", 1000)
    desk.on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.2, 1.2, 1.2)])
    desk.place_by_hand("GBPUSD", "buy", 1000, 1.1)
    stop = threading.Event()

    def market(move: Callable[[int], None]) -> None:
        n = 2
        while not stop.wait(0.02):
            move(n)
            n += 1

    moving = threading.Thread(
        target=market, args=(lambda n: desk.on_bars(hour(n), [bar("EURUSD", n, 1.2, 1.2, 1.2, 1.2)]),), daemon=True
    )  # fmt: skip
    moving.start()
    for module in ("pipelines.cli_kill", "pipelines.cli_support"):
        monkeypatch.setattr(f"{module}.own_settings", lambda: own)
    monkeypatch.setattr(broker_kill, "_end_desks", tuple)
    try:
        done = CliRunner().invoke(app, ["kill", "--broker-only", "--reason", "postgres is gone", "--patience", "60", "--json"])
    finally:
        stop.set()
        moving.join()
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["flat"], len(told["cancelled"]), len(told["closes"])) == (True, 1, 1)
    assert pending(tmp_path / "kill")[0].name == f"{told['run']}.json"
    assert cli_support.own_settings() is own


def test_another_account_than_the_one_for_live_orders_is_left_alone(server: BrokerServer, tmp_path: Path) -> None:
    own = Settings(data_dir=tmp_path, broker="simulated_remote", simulated_broker=f"127.0.0.1:{server.port}", live_account="U9")
    with pytest.raises(broker_kill.KillRefused, match="TAPELINE_LIVE_ACCOUNT is U9: nothing was done"):
        broker_kill.kill_broker_only(own, "x", "x", 0.0)
