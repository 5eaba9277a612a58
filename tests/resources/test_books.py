"""The paper book beside an account: tables of its own, made after the main book's, and what is shared seen from both."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from desk.store import SecondDesk, exclusive
from pipelines.cli import app
from resources.affected import affected_signals
from resources.lake import Lake
from resources.ledger import audit, books, modes, schema
from resources.ledger.base import connect
from resources.ledger.store import Ledger
from resources.settings import PAPER_SEARCH_PATH, Settings, settings
from tests.desk.kit import decision
from trading.instruments import Mode


@pytest.fixture
def paper(ledger_engine: Engine, ledger_url: str) -> Engine:  # type: ignore[misc]
    books.ensure_book(ledger_engine)
    engine = connect(ledger_url + PAPER_SEARCH_PATH)
    yield engine
    engine.dispose()


def described(engine: Engine, place: str, broker: str) -> dict[str, object]:
    """Columns, references, triggers and indexes of every table of a book and its paper broker, without the schema's name."""
    with engine.connect() as c:
        found: dict[str, object] = {}
        for schema_name, table in [*((place, name) for name in books.OWN), *((broker, name) for name in books.BROKER_OWN)]:
            there = {"table": f"{schema_name}.{table}"}
            said = [
                sorted(str(row.said).replace(f"{schema_name}.", "") for row in c.execute(question, there))
                for question in (books._REFERENCES, books._TRIGGERS)
            ]
            indexes = c.execute(books._INDEXES, {"schema": schema_name, "table": table})
            said.append(sorted(books._nameless(row.said) for row in indexes))
            columns = books._columns(c, f"{schema_name}.{table}")
            name = f"paper.{table}" if schema_name == broker else table
            found[name] = [(x["name"], x["type"], x["required"], x["identity"]) for x in columns], said
    return found


MAIN, BESIDE = ("public", "paper"), ("paper_book", "paper_book_broker")


class TestItsTables:
    def test_every_table_of_the_ledger_is_of_one_kind(self) -> None:
        known = {table.name for table in schema.metadata.tables.values() if table.schema is None}
        assert set(books.OWN) | set(books.SHARED) == known
        assert not set(books.OWN) & set(books.SHARED)

    def test_are_what_the_main_book_has(self, paper: Engine, ledger_engine: Engine) -> None:
        assert described(ledger_engine, *BESIDE) == described(ledger_engine, *MAIN)
        books.ensure_book(ledger_engine)  # a second start changes nothing
        assert described(ledger_engine, *BESIDE) == described(ledger_engine, *MAIN)

    def test_follow_a_migration_that_adds(self, paper: Engine, ledger_engine: Engine) -> None:
        with ledger_engine.begin() as c:
            c.execute(text("ALTER TABLE orders ADD COLUMN venue text NOT NULL DEFAULT 'x'"))
            c.execute(text("CREATE INDEX orders_by_venue ON orders (venue)"))
        books.ensure_book(ledger_engine)
        assert described(ledger_engine, *BESIDE) == described(ledger_engine, *MAIN)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("ALTER TABLE fills ALTER COLUMN quantity TYPE numeric", "paper_book.fills.quantity is double precision, in public"),
            (
                "ALTER TABLE fills DROP COLUMN commission",
                "paper_book.fills has columns that public.fills has no more: commission",
            ),
        ],
    )
    def test_that_cannot_follow_are_named(self, paper: Engine, ledger_engine: Engine, change: str, said: str) -> None:
        with ledger_engine.begin() as c:
            c.execute(text(change))
        with pytest.raises(books.BookDiffers, match=said):
            books.ensure_book(ledger_engine)


class TestTwoBooks:
    def test_share_no_row_of_their_own(self, paper: Engine, ledger_engine: Engine) -> None:
        main, beside = Ledger(ledger_engine), Ledger(paper)
        main.put_state("halt", {"level": "FLATTEN"})
        assert beside.get_state("halt") is None
        beside.record_close(5, "2017-12-29", {}, emitted_wall=1, stored_wall=2)
        assert main.close(5) is None

    def test_each_has_a_whole_audit_chain_of_its_own(self, paper: Engine, ledger_engine: Engine) -> None:
        for engine in (ledger_engine, paper, paper):
            with engine.begin() as c:
                audit.append(c, "ann", "said", {"what": "so"})
        Ledger(paper).open_session("2017-12-29", opened_time=1, start_equity=100.0)  # told by a trigger
        for engine in (ledger_engine, paper):
            assert audit.verify(engine) == []
        with paper.connect() as c:
            told = c.execute(text("SELECT seq, action FROM paper_book.audit ORDER BY seq")).all()
        assert [tuple(row) for row in told] == [(1, "said"), (2, "said"), (3, "session")]

    def test_see_the_same_facts_of_the_market_and_the_same_modes(self, paper: Engine, ledger_engine: Engine) -> None:
        with ledger_engine.begin() as c:
            c.execute(text("INSERT INTO config_problems VALUES ('a.yaml', 1, 'x', 'wrong', 1)"))
            modes.note_files(c, {"trend": Mode.PAPER})
        assert [row["message"] for row in Ledger(paper).config_problems()] == ["wrong"]
        with paper.connect() as c:
            assert modes.read(c)["trend"].mode is Mode.PAPER

    def test_a_bad_partition_leads_to_the_decisions_of_both(self, paper: Engine, ledger_engine: Engine, tmp_path: Path) -> None:
        seen = {}
        for engine, strategy in ((ledger_engine, "sure"), (paper, "often")):
            made = decision(0, strategy=strategy)
            Ledger(engine).insert_signals([made.signal], session="2017-12-27", code_revision="c", run_id="r")
            seen[made.signal.id] = strategy
        keys = [(p.dataset, p.session, p.symbol) for p in made.signal.partitions]
        found = affected_signals(Ledger(ledger_engine), Lake(tmp_path), keys)
        assert {signal.signal_id: signal.strategy for signal in found} == seen
        with ledger_engine.connect() as c:
            assert c.execute(text("SELECT current_schema()")).scalar() == "public"

    def test_each_has_its_one_desk(self, paper: Engine, ledger_engine: Engine) -> None:
        with exclusive(ledger_engine) as main, exclusive(paper) as beside:
            assert main()
            assert beside()
            with pytest.raises(SecondDesk), exclusive(paper):
                pass


TERMS = {"broker": "real", "mode": "live", "live_account": "U1"}


class TestSettings:
    LIVE = Settings(_env_file=None).model_copy(update=TERMS)  # type: ignore[call-arg]

    def test_a_process_of_the_paper_book_knows_no_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TAPELINE_BOOK", "paper")
        monkeypatch.setenv("TAPELINE_MODE", "live")
        monkeypatch.setenv("TAPELINE_LIVE_ACCOUNT", "U1")
        own = Settings(_env_file=None)  # type: ignore[call-arg]
        assert (own.broker, own.mode, own.live_account, own.desk_port) == ("paper", "paper", "", 8601)
        assert own.label == "PAPER BOOK"
        assert own.book_path("kill") != own.path("kill")
        assert not own.two_books

    def test_there_is_one_beside_an_account_only(self) -> None:
        assert self.LIVE.two_books
        assert self.LIVE.paper_book().broker == "paper"
        for change in ({"broker": "simulated_remote"}, {"paper_beside": False}, {"mode": "alert"}, {"book": "paper"}):
            assert not self.LIVE.model_copy(update=change).two_books


class TestTheCommand:
    @pytest.mark.parametrize(
        ("book", "said"),
        [
            ("paper", "there is no paper book beside the main one: the broker is paper"),
            ("other", "expected main or paper"),
        ],
    )
    def test_that_asks_for_a_book_that_is_not_there_says_so(self, monkeypatch: pytest.MonkeyPatch, book: str, said: str) -> None:
        monkeypatch.setenv("TAPELINE_BROKER", "paper")
        monkeypatch.setenv("TAPELINE_BOOK", "main")
        try:
            answer = CliRunner().invoke(app, ["--book", book, "orders"])
        finally:
            settings.cache_clear()
        assert answer.exit_code != 0
        assert said in answer.output
