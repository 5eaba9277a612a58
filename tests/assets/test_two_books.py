# ruff: noqa: F811, F401 - fixtures are imported by name
"""One trade run for two books: desk processes of an account and of the paper book beside it, and the step between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import trading
from assets.books import books_of
from resources import dagster_resources
from resources.config import load_config
from resources.dagster_resources import ConfigFilesResource, DeskResource, LakeResource, LedgerResource
from resources.desk_client import DeskClient
from resources.lake import Lake
from resources.ledger import audit, books
from resources.ledger.store import Ledger
from resources.ports import free_port
from resources.secrets import read_secret
from tests.desk.running import STRATEGY, UNIVERSE, Installation, MakeInstallation, fork_desk, history, install
from tests.doubles.account_broker import NAME
from tests.doubles.account_desk import at_the_account
from tests.faults.zygote import Child

CLOSES = 3


class TwoDesks:
    """An installation with both desks as processes."""

    def __init__(self, at: Installation) -> None:
        self.at = at
        books.ensure_book(at.ledger.engine)
        self.settings = at_the_account(at.settings)
        self.books = books_of(at.ledger, self.settings)
        account = self._start("tests.doubles.account_desk:main")
        self.processes = [account, self._start("desk.__main__:main", TAPELINE_BOOK="paper")]
        at.processes += self.processes
        for book in self.books:
            at.wait_for(lambda book=book: self.client(book).health()["status"] == "ok")

    def _start(self, main: str, **more: str) -> Child:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TAPELINE_")}
        log = self.at.room / f"desk-{main.partition(':')[0]}.log"
        return fork_desk(main, {**kept, **self.at.environment, **more}, log)

    def client(self, book: Any) -> DeskClient:
        token = book.settings.token_file
        self.at.wait_for(token.exists)
        return DeskClient(book.settings.desk_url, read_secret(token), attempts=1)

    def trade(self, row: dict[str, Any]) -> dg.ExecuteInProcessResult:
        """The trade run of one close."""
        return dg.materialize(
            [trading.trade_close], partition_key=str(row["session"]), raise_on_error=False,
            tags={trading.CLOSE_TIME_TAG: str(row["close_time"])},
            resources={"config_files": ConfigFilesResource(), "lake": LakeResource(), "ledger": LedgerResource(),
                       "desk": DeskResource()},
        )  # fmt: skip

    def next_close(self) -> dict[str, Any]:
        return dict(self.at.wait_for(lambda: self.at.ledger.closes(pending=True))[0])


@pytest.fixture
def desks(install: MakeInstallation, monkeypatch: pytest.MonkeyPatch) -> TwoDesks:
    strategies = {"often": STRATEGY, "sure": STRATEGY.replace("name: often", "name: sure")}
    at = install(strategies=strategies, overrides={"TAPELINE_PAPER_DESK_PORT": str(free_port())})
    universe = UNIVERSE.replace("tradable_in: [backtest, paper]", "tradable_in: [backtest, paper, live]")
    (at.config_dir / "universe" / "sample.yaml").write_text(universe)
    made = TwoDesks(at)
    for module in ("assets.books", "assets.trading", "resources.dagster_resources"):
        monkeypatch.setattr(f"{module}.settings", lambda: made.settings)
    monkeypatch.setattr(ConfigFilesResource, "load", lambda _: load_config(made.settings))
    monkeypatch.setattr(LakeResource, "lake", lambda _: Lake(made.settings.lake_dir))
    return made


def test_one_run_decides_for_the_account_and_then_for_the_paper_book(desks: TwoDesks, monkeypatch: pytest.MonkeyPatch) -> None:
    main, paper = desks.books
    with desks.client(main) as desk:
        desk.set_mode("sure", "live", "ready", "ann", force=True)
        desk.start_replay(1)
    done = None
    for _ in range(CLOSES):
        done = desks.trade(desks.next_close())
        assert done.success
    assert done is not None
    for book, strategy, mode, broker in ((main, "sure", "live", NAME), (paper, "often", "paper", "paper")):
        orders = book.ledger.orders()
        assert {(o["strategy"], o["mode"], o["broker"]) for o in orders} == {(strategy, mode, broker)}
        assert book.ledger.fills()
        assert audit.verify(book.ledger.engine) == []
    told = {e.asset_key.to_user_string(): e.materialization.metadata for e in done.get_asset_materialization_events()
            if e.asset_key}  # fmt: skip
    assert told["orders"]["mode"].value == "LIVE"
    assert told["orders"]["paper_book_mode"].value == "PAPER BOOK"
    assert "often" in str(told["signals"]["paper_book_session_so_far"].value)
    assert "often" not in str(told["signals"]["session_so_far"].value)

    desks.processes[1].kill()
    desks.processes[1].wait()
    monkeypatch.setattr("assets.books.PAPER_SECONDS", 0.2)
    desks.trade(desks.next_close())  # which the paper book may have taken before it was killed
    before, row = len(paper.ledger.decisions()), desks.next_close()
    done = desks.trade(row)
    assert not done.success, "a person should see that the paper book stands still"
    assert main.ledger.close(row["close_time"])["outcome"] == "done", "the account's decisions are made"  # type: ignore[index]
    assert len(paper.ledger.decisions()) == before
