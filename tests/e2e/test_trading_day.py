"""The first trading day: real bars become traced, risk-checked paper orders, whoever dies meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from assets import model_data, portfolio_run, research_run
from resources.config import load_config
from resources.lake import Lake
from tests.e2e.installation import Installation, is_free
from trading.costs import Costs

pytestmark = pytest.mark.e2e

DAY_PATIENCE_SECONDS = 900.0


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that has replayed the last two sessions, with the desk and the daemon killed on the way."""
    room = tmp_path_factory.mktemp("installation")
    room.parent.chmod(0o755)
    installation = Installation(room, history_start="2015-01-02", replay_sessions=2)
    broken = installation.config / "strategies" / "broken.yaml"
    broken.write_text("name: broken\ntimeframe: 7m\nsymbols: [EURUSDX]\n")
    installation.start()
    try:
        installation.wait("ready", lambda: installation.said("Tapeline is ready"))
        done = lambda: len([c for c in installation.ledger.closes() if c["outcome"] == "done"])  # noqa: E731
        installation.wait("a first finished bar close", lambda: done() >= 4, DAY_PATIENCE_SECONDS)
        installation.kill("desk")
        before = done()
        installation.wait("the desk goes on", lambda: done() >= before + 4, DAY_PATIENCE_SECONDS)
        installation.kill("daemon")
        before = done()
        installation.wait("the daemon goes on", lambda: done() >= before + 4, DAY_PATIENCE_SECONDS)
        reported = lambda: len(installation.ledger.sessions(state="reported")) == 2  # noqa: E731
        installation.wait("both sessions reported", reported, DAY_PATIENCE_SECONDS)
        yield installation
    finally:
        installation.stop()


def test_every_bar_close_of_the_day_was_answered_once_and_in_order(day: Installation) -> None:
    closes = day.ledger.closes()
    assert {c["session"] for c in closes} >= {"2017-12-28", "2017-12-29"}
    outcomes = {c["outcome"] for c in closes}
    assert outcomes <= {"done", "no_strategy", "failed"}
    worked = [c for c in closes if c["outcome"] == "done"]
    assert len(worked) >= 46
    starts = [c["run_started_wall"] for c in worked]
    assert starts == sorted(starts)
    run_ids = [c["run_id"] for c in worked]
    assert len(run_ids) == len(set(run_ids))


def test_signals_became_decisions_orders_and_fills(day: Installation) -> None:
    signals, decisions = day.ledger.signals(), day.ledger.decisions()
    assert signals
    assert {d["signal_id"] for d in decisions} == {s["id"] for s in signals}
    filled = [o for o in day.ledger.orders() if o["state"] == "filled"]
    assert filled
    assert {f["order_id"] for f in day.ledger.fills()} >= {o["id"] for o in filled}


def test_ledger_and_broker_agree_after_the_kills_nothing_lost_nothing_twice(day: Installation) -> None:
    with day.ledger.engine.connect() as c:
        book = {r.client_id: r for r in c.execute(text("SELECT * FROM paper.orders"))}
        executions = c.execute(text("SELECT count(*) FROM paper.events WHERE execution IS NOT NULL")).scalar()
        at_broker = {r.symbol: r.quantity for r in c.execute(text("SELECT * FROM paper.positions")) if r.quantity}
    sent = {o["id"]: o for o in day.ledger.orders() if o["state"] not in ("denied", "initialized", "expired")}
    assert set(book) == set(sent), "every sent order is at the broker and none that was not sent"
    assert all(book[i].filled_quantity == o["filled_quantity"] for i, o in sent.items())
    assert len(day.ledger.fills()) == executions
    held: dict[str, float] = {}
    for row in day.ledger.positions(open_only=True):
        held[row["symbol"]] = held.get(row["symbol"], 0.0) + row["quantity"]
    assert {s: q for s, q in held.items() if q} == pytest.approx(at_broker)
    assert not [o for o in day.ledger.orders() if o["state"] in ("unknown", "sending")]


def test_the_trades_are_the_backtests_of_the_same_bars_one_for_one(day: Installation) -> None:
    """Strategies, gates, sizes, risk, conflicts and exits over the stored bars again. A close whose run was lost with the killed
    process wanted nothing: an entry may be late or lost, an exit never."""
    config, lake = load_config(day.settings), Lake(day.settings.lake_dir)
    answered = sorted({c["close_time"] for c in day.ledger.closes() if c["outcome"] == "done"})
    prepared, failed = research_run.prepare_all(config, lake, day.settings.paper_cash)

    def costs_of(symbol: str) -> Costs:
        """Of the first file that trades it and says so, as the paper broker has them."""
        named = [e.costs for _, e in sorted(config.evaluables().items()) if symbol in e.symbols and e.costs is not None]
        return Costs.from_dict(named[0]) if named else Costs()

    found = portfolio_run.portfolio(
        prepared, failed, config, day.settings.paper_cash, day.settings.account_currency,
        when=lambda times: np.isin(times, answered), costs_of=costs_of,
    )  # fmt: skip
    told = sorted(
        (r["strategy"], r["symbol"], r["side"], r["quantity"], round(r["price"], 6)) for r in found.result.fill_rows()
    )  # fmt: skip
    made = sorted((f["strategy"], f["symbol"], f["side"], f["quantity"], round(f["price"], 6)) for f in day.ledger.fills())
    assert made == told
    assert made


def test_trace_prints_the_chain_from_an_order_to_the_hash_of_its_bars(day: Installation) -> None:
    order = next(o for o in day.ledger.orders() if o["state"] == "filled")
    traced = day.tapeline("trace", order["id"])
    assert traced.returncode == 0, traced.stderr
    for word in (order["id"], order["broker_order_id"], "sig-", "dec-", "bars_1h/2017-12-2"):
        assert word in traced.stdout
    backward = day.tapeline("trace", order["broker_order_id"])
    assert order["id"] in backward.stdout


def test_the_command_line_shows_the_desk(day: Installation) -> None:
    for command in ("status", "orders", "positions", "signals", "fills"):
        answer = day.tapeline(command)
        assert answer.returncode == 0, f"{command}: {answer.stderr}"
        assert "PAPER" in answer.stdout
    assert day.tapeline("audit", "verify").returncode == 0


def test_the_report_of_the_session_is_there_and_says_paper(day: Installation) -> None:
    page = day.settings.path("reports", "2017-12-29.html").read_text()
    assert "PAPER" in page
    assert "EURUSD" in page


def test_the_bad_file_does_not_trade_and_is_shown(day: Installation) -> None:
    shown = day.tapeline("config", "check")
    assert shown.returncode != 0
    assert "broken.yaml" in shown.stdout + shown.stderr
    assert not [s for s in day.ledger.signals() if s["strategy"] == "broken"]


def test_the_ui_knows_the_materialised_partitions_and_the_model(day: Installation) -> None:
    query = """{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId } } }"""
    made = {"/".join(n["assetKey"]["path"]): bool(n["assetMaterializations"]) for n in day.graphql(query)["assetNodes"]}
    expected = ("instruments", "bars_1h", "bars_1d", "bars_4h", "features_1h", "baseline_model", "strategy_backtests",
                "model_canaries", "model_planted", "model_forecaster", "model_trader", "model_report",
                "signals", "decisions", "orders", "fills", "positions", "daily_report")  # fmt: skip
    assert {name for name in expected if not made.get(name)} == set()


def test_the_training_found_what_is_there_and_nothing_where_nothing_is(day: Installation) -> None:
    """The canaries at full length: the agent on a planted edge and on pure noise, a forecaster on both, and planted leaks."""
    path = model_data.canaries_path(day.settings)
    passed, why = model_data.canaries_passed(path, model_data.learning_revision())
    assert passed, why
    measured = {c["name"]: (c["measured"], c["wanted"]) for c in json.loads(path.read_text())["canaries"]}
    assert set(measured) == {"leaks", "forecaster_edge", "forecaster_noise", "agent_edge", "agent_noise"}
    assert measured["agent_edge"][0] >= 0.9, "of what a rule earns that knows the truth"
    assert measured["agent_noise"][0] == 0, "entries in pure noise with costs"


def test_the_page_renders_in_a_real_browser(day: Installation, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium here: install the Debian package chromium to see the pages as a person does")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
               f"{day.settings.webserver_url}/asset-groups"]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stdout
    for group in ("market_data", "trading", "models", "reports"):
        assert group in dom


def test_a_second_start_repeats_nothing_and_ctrl_c_frees_everything(day: Installation) -> None:
    lake = Lake(day.settings.lake_dir)

    def counts() -> tuple[int, int, int, int]:
        ledger = day.ledger
        return len(ledger.signals()), len(ledger.orders()), len(ledger.fills()), len(ledger.closes())

    def written() -> set[tuple[str, int]]:
        return {(p.content_hash, p.written_wall) for p in lake.partitions("bars_1d", date(2015, 1, 1), date(2017, 12, 29))}

    before, bars_before = counts(), written()
    assert day.stop() == 0
    assert all(is_free(port) for port in day.ports())
    day.log.write_text("")
    day.start()
    day.wait("ready again", lambda: day.said("Tapeline is ready"))
    day.wait("the main job has nothing to do", lambda: day.said("is there") and day.said("live day"))
    assert counts() == before
    assert written() == bars_before
