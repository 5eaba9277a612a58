"""The desk on a broker behind a connection: no new risk while it is gone, and the books compared when it is back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from desk import doubts
from desk.live import LiveDesk
from resources.brokers.remote.server import BrokerServer
from resources.brokers.remote.venue import Venue, VenueOptions
from resources.config import load_config
from resources.ledger.store import connect
from resources.settings import Settings
from trading.costs import Costs
from trading.orders import OrderType, Side


@pytest.fixture
def settings(ledger_url: str, postgres_url: str, tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, postgres_url=postgres_url, ledger_database=ledger_url.rsplit("/", 1)[1], broker="simulated_remote",
    )  # fmt: skip


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[BrokerServer]:
    instruments = load_config(settings).universe.instruments
    venue = Venue(
        tmp_path / "book.sqlite", instruments, lambda s: Costs(), VenueOptions(settings.paper_cash, "USD", durable=False)
    )
    made = BrokerServer(venue, down_seconds=0.2)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()
    venue.close()


@pytest.fixture
def live(settings: Settings, server: BrokerServer) -> Iterator[LiveDesk]:
    made = LiveDesk(settings.model_copy(update={"simulated_broker": f"127.0.0.1:{server.port}"}))
    made.take_over()
    yield made
    made.close()


def test_a_lost_connection_ends_new_risk_and_a_new_one_compares_the_books(
    live: LiveDesk, server: BrokerServer, settings: Settings
) -> None:
    live.mind_connection()
    assert live.no_new_risk == ""
    server.disconnect_all()
    live.mind_connection()
    assert "simulated_remote does not answer" in live.no_new_risk
    placed = server.venue.place("EURUSD", Side.BUY, 1000.0, OrderType.LIMIT, 1.1, None)  # while nobody listens
    while server.down:
        threading.Event().wait(0.02)
    live.mind_connection()
    assert live.no_new_risk == ""
    adopted = live.store.order(placed.client_id)
    assert adopted is not None
    assert adopted.strategy == "external"
    engine = connect(settings.ledger_url())
    with engine.connect() as connection:
        assert doubts.standing(connection) == []
    engine.dispose()
