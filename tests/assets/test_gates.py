"""The trade run's gates on lake and ledger: measured, recorded, replayed; and what the refused would have earned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, insert
from typer.testing import CliRunner

from assets import gate_analytics, gate_run, replay_check, research, research_run, trade_lane
from pipelines.cli import app
from resources import gate_plots
from resources.config import Config, load_config
from resources.dagster_resources import resource_definitions
from resources.feeds import get_feed
from resources.lake import Lake
from resources.ledger import tables as t
from resources.ledger.risk_records import evidence_of, open_risk
from resources.ledger.store import Ledger
from resources.research_store import ResearchStore
from resources.settings import Settings, settings
from tests.assets.sample_lake import fill, installation
from tests.assets.test_trade_lane import DAY, SESSION, _judge
from tests.trading.gate_samples import GATES, text
from trading import decisions as kernel
from trading.signals import Signal
from trading.timeframes import Timeframe

MANY = """\
name: {name}
universe: sample
status: active
mode: paper
symbols: [EURUSD]
timeframe: 1h
entry:
  long: {{">": [close, {{indicator: ema, params: {{period: 9}}}}]}}
exits:
  stop: {{kind: percent, percent: 0.5}}
  target: {{kind: reward, ratio: 2}}
sizing: {sizing}
gates: {gates}
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    with installation(tmp_path_factory.mktemp("gates")) as own:
        for kind in ("strategies", "plans"):
            for path in (own.config / kind).glob("*.yaml"):
                path.unlink()
        (own.config / "strategies" / "ema_trend.yaml").write_text(text(GATES))
        risky = "{kind: risk_percent, percent: 1}"
        for name, sizing, gates in (
            ("one", risky, "{budget: {percent: 1.5}}"),
            ("two", risky, "{budget: {percent: 1.5}}"),
            ("wide", "{kind: atr_risk, percent: 1, multiple: 3}", "{regime: {allowed: [trending, ranging], history: 60}}"),
            ("fearful", risky, "{volatility: {vix: {max_level: 30}}}"),
        ):
            (own.config / "strategies" / f"{name}.yaml").write_text(MANY.format(name=name, sizing=sizing, gates=gates))
        lake = fill(own)
        universe = load_config(own).universe
        vix = universe.instruments["VIX"]
        bars = get_feed(vix.feed, own).history(vix, Timeframe.D1, date(2017, 1, 3), date(2017, 12, 29))
        lake.write_bars("bars_1d", {"VIX": bars}, start=date(2017, 1, 3), end=date(2017, 12, 29), source="sample",
                        instruments=universe.instruments)  # fmt: skip
        yield own, lake


@pytest.fixture
def config(sample: tuple[Settings, Lake]) -> Config:
    loaded = load_config(sample[0])
    assert not loaded.problems, [str(p) for p in loaded.problems]
    return loaded


def signals(config: Config, lake: Lake, ledger: Ledger, *names: str) -> list[Signal]:
    """Signals of `names` at the first close of the day at which all of them want to enter."""
    for close_time in trade_lane.close_times_of(SESSION, ledger, lake, config):
        found = trade_lane.evaluate_close(close_time, SESSION, config, lake, ledger, "paper").signals
        if {s.strategy for s in found} >= set(names):
            return [s for s in found if s.strategy in names]
    raise AssertionError("no such close")


def good(config: Config, lake: Lake, ledger: Ledger, close_time: int) -> None:
    for dataset, symbol in (("bars_1h", "EURUSD"), ("bars_4h", "EURUSD"), ("bars_1d", "EURUSD"), ("bars_1d", "VIX")):
        _judge(config, lake, ledger, dataset, symbol, close_time)


def account(engine: Engine, close_time: int, equity: float = 100_000.0) -> None:
    row = {"close_time": close_time, "session": SESSION, "cash": equity, "equity": equity, "currency": "USD",
           "gross_exposure": 0.0}  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insert(t.account_snapshots).values(**row))


def decided(found: list[Signal], config: Config, ledger: Ledger, lake: Any) -> dict[str, Any]:
    rows = trade_lane.decide(found, config, ledger, found[0].close_time, lake)
    return {row.decision.signal.strategy: row for row in rows}


def test_what_the_gates_measure_is_in_the_snapshot_and_replays(
    sample: tuple[Settings, Lake], config: Config, ledger: Ledger
) -> None:
    found = signals(config, sample[1], ledger, "wide", "fearful")
    good(config, sample[1], ledger, found[0].close_time)
    account(ledger.engine, found[0].close_time)
    rows = decided(found, config, ledger, sample[1])
    for row in rows.values():
        assert kernel.decide(row.snapshot) == row.outcome
        assert row.decision.approved, row.decision.refusal
    snapshot = json.loads(rows["fearful"].snapshot)
    assert snapshot["measured"]["volatility"]["vix"] == pytest.approx(10.47)  # the close of 27 December
    assert ("bars_1d", "VIX") in {(r["dataset"], r["symbol"]) for r in snapshot["required"]}
    wide = rows["wide"].decision.size
    assert wide["rule"]["kind"] == "risk_percent"
    assert 0 < wide["rule"]["percent"] <= 1
    assert wide["quantity"] % 1000 == 0
    assert wide["risk"] <= 1000.0
    ledger.insert_signals(found, session=SESSION, code_revision="c", run_id="r")
    ledger.insert_decisions(rows.values(), session=SESSION, code_revision="c", run_id="r")
    done = replay_check.replay(SESSION, config, sample[1], ledger, ResearchStore(sample[0].path("research")))
    assert (done.decisions, done.signals, done.differences) == (len(rows), len(found), [])
    stored = ledger.decision(rows["wide"].decision.id)
    assert stored is not None
    assert stored.size == wide


def test_without_the_lake_or_good_data_a_gate_that_needs_bars_refuses(
    sample: tuple[Settings, Lake], config: Config, ledger: Ledger
) -> None:
    found = signals(config, sample[1], ledger, "wide", "fearful")
    good(config, sample[1], ledger, found[0].close_time)
    rows = decided(found, config, ledger, None)
    assert rows["fearful"].decision.refusal == "VOLATILITY: reason=missing field=measured.volatility.vix"
    assert rows["wide"].decision.refusal == "REGIME: reason=missing field=measured.regime.rules"
    with ledger.engine.begin() as connection:
        connection.execute(t.quality_verdicts.delete().where(t.quality_verdicts.c.symbol == "VIX"))
    rows = decided(found, config, ledger, sample[1])
    assert rows["fearful"].decision.refusal.startswith("DATA_QUALITY: partition=bars_1d/2017-12-27/VIX")
    assert rows["wide"].decision.approved


def test_what_was_accepted_at_the_same_close_counts_towards_the_budget(
    sample: tuple[Settings, Lake], config: Config, ledger: Ledger
) -> None:
    found = signals(config, sample[1], ledger, "one", "two")
    good(config, sample[1], ledger, found[0].close_time)
    unknown = decided(found, config, ledger, sample[1])
    assert {row.decision.refusal for row in unknown.values()} == {"RISK_BUDGET: reason=missing field=sizing.equity"}
    account(ledger.engine, found[0].close_time)
    rows = decided(list(reversed(found)), config, ledger, sample[1])
    assert rows["one"].decision.approved
    assert rows["two"].decision.refusal.startswith("RISK_BUDGET: symbol=EURUSD open=0.00 working=0.00 accepted=9")
    # a run that died after the first decision: the next one still knows of it
    ledger.insert_signals(found, session=SESSION, code_revision="c", run_id="r")
    ledger.insert_decisions([rows["one"]], session=SESSION, code_revision="c", run_id="r")
    two = [s for s in found if s.strategy == "two"]
    assert decided(two, config, ledger, sample[1])["two"].decision.refusal == rows["two"].decision.refusal
    shadow = [replace(s, mode="shadow") for s in found]
    with ledger.engine.begin() as connection:
        connection.execute(t.decisions.delete())
    assert all(row.decision.approved for row in decided(shadow, config, ledger, sample[1]).values()), "shadow risks nothing"


def _intent(name: str, leg: str, trade: str, stop: float | None, quantity: float = 1000.0, multiplier: float = 1.0) -> Any:
    meta = {"multiplier": multiplier, "stop_price": stop}
    return {"id": name, "parent": "d", "leg": leg, "trade_id": trade, "strategy": "s", "symbol": "EURUSD", "session": SESSION,
            "content": {"reference_price": 1.2, "meta": meta, "quantity": quantity}, "sizing": {}, "risk": {}, "refusal": "",
            "created_time": 1, "created_wall": 1}  # fmt: skip


def _order(name: str, state: str, quantity: float = 1000.0, filled: float = 0.0, stop: float | None = None) -> Any:
    return {"id": name, "broker": "paper", "broker_order_id": name, "mode": "paper", "symbol": "EURUSD", "side": "buy",
            "quantity": quantity, "order_type": "market", "stop_price": stop, "state": state, "state_since": 1,
            "filled_quantity": filled, "text": "", "created_time": 1, "created_wall": 1}  # fmt: skip


class TestTheLedgersRecord:
    def put(self, engine: Engine, table: Any, *rows: Any) -> None:
        with engine.begin() as connection:
            for row in rows:
                connection.execute(insert(table).values(**row))

    def position(self, quantity: float) -> Any:
        return {"strategy": "s", "symbol": "EURUSD", "trade_id": "e1", "quantity": quantity, "average_price": 1.2,
                "realized_pnl": 0.0, "commission": 0.0, "updated_time": 1, "bars_held": 1, "exit_state": {}}  # fmt: skip

    def test_open_risk_runs_from_the_price_now_to_the_stops_and_counts_the_unprotected_whole(self, ledger_engine: Engine) -> None:
        with ledger_engine.connect() as connection:
            assert (open_risk(connection).open, open_risk(connection).working) == (0.0, 0.0)
        self.put(ledger_engine, t.intents, _intent("e1", "entry", "e1", 1.19), _intent("s1", "stop", "e1", None))
        self.put(ledger_engine, t.orders, _order("e1", "filled", filled=1000), _order("s1", "accepted", 600, 0, 1.19))
        self.put(ledger_engine, t.positions, self.position(1000.0))
        with ledger_engine.connect() as connection:
            assert open_risk(connection).open is None, "no price is known"
        self.put(ledger_engine, t.desk_state, {"key": "prices", "value": {"EURUSD": [1.21, 5]}, "updated_wall": 1})
        with ledger_engine.connect() as connection:
            assert open_risk(connection).open == pytest.approx(600 * 0.02 + 400 * 1.21)

    def test_working_entries_risk_what_may_still_fill(self, ledger_engine: Engine) -> None:
        self.put(ledger_engine, t.intents, _intent("e1", "entry", "e1", 1.19), _intent("e2", "entry", "e2", None))
        self.put(ledger_engine, t.orders, _order("e1", "partially_filled", filled=400), _order("e2", "denied"))
        with ledger_engine.connect() as connection:
            assert open_risk(connection).working == pytest.approx(600 * 0.01)

    def test_evidence_is_closed_trades_in_multiples_of_their_risk(self, ledger_engine: Engine) -> None:
        def fill(name: str, trade: str, order: str, side: str, quantity: float, price: float, when: int) -> Any:
            return {"id": name, "order_id": order, "trade_id": trade, "strategy": "s", "symbol": "EURUSD", "side": side,
                    "quantity": quantity, "price": price, "commission": 1.0, "currency": "USD", "session": SESSION,
                    "fill_time": when, "recorded_wall": 1}  # fmt: skip

        self.put(ledger_engine, t.intents, *(_intent(n, "entry", n, 1.19) for n in ("w", "l", "o", "later")))
        self.put(
            ledger_engine, t.fills, fill("1", "w", "w", "buy", 600, 1.2, 1), fill("2", "w", "w", "buy", 400, 1.2, 1),
            fill("3", "w", "x", "sell", 1000, 1.22, 2), fill("4", "l", "l", "buy", 1000, 1.2, 3),
            fill("5", "l", "y", "sell", 1000, 1.19, 4), fill("6", "o", "o", "buy", 1000, 1.2, 5),
            fill("7", "later", "later", "buy", 1000, 1.2, 6), fill("8", "later", "z", "sell", 1000, 1.3, 9),
        )  # fmt: skip
        with ledger_engine.connect() as connection:
            found = evidence_of(connection, "s", 8)
        assert (found.wins, found.losses) == (1, 1)
        assert found.won == pytest.approx((20 - 3) / 10)
        assert found.lost == pytest.approx((10 + 2) / 10)


class TestAnalytics:
    def test_the_report_adds_up_and_a_refused_signal_earns_what_it_would_have_earned_alone(
        self, sample: tuple[Settings, Lake], config: Config
    ) -> None:
        prepared, failed = research_run.prepare_all(config, sample[1], 100_000.0, ["ema_trend"])
        (found,) = gate_run.reports(prepared, failed)
        assert not failed
        lines = {line.gate: line for line in found.lines}
        assert {"session", "regime", "confluence", "volatility", "budget"} <= set(lines)
        firsts = sum(line.first for line in found.lines if line.gate != "budget")
        wishes = lines["regime"].wishes
        taken = research_run.run_prepared(prepared, [])[0][0].wishes
        assert firsts + taken == wishes + sum(line.first for line in found.lines if line.gate in ("reward_to_risk",))
        for line in found.lines[:-1]:
            assert line.alone <= line.first <= line.refused <= line.wishes
            assert line.each.count + line.each.open + line.each.lost_way == line.refused
            assert line.free.count <= line.each.count
        assert len(gate_run.history_rows([found])) == len(found.lines) + 1
        assert gate_plots.earned([found]).startswith(b"\x89PNG")
        assert gate_plots.earned([]).startswith(b"\x89PNG"), "nothing refused is a picture, too"

    def test_the_asset_shows_a_picture_and_tables_that_fit(self, sample: tuple[Settings, Lake], config: Config) -> None:
        made = dg.materialize(
            [research.strategies, research.strategy_backtests, gate_analytics.gate_analytics],
            resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral(), selection=["gate_analytics"],
            run_config={"ops": {"gate_analytics": {"config": {"strategies": ["ema_trend"]}}}},
        )  # fmt: skip
        (told,) = made.asset_materializations_for_node("gate_analytics")
        shown = {name: str(value.value) for name, value in told.metadata.items()}
        assert shown["earned"].startswith("![what the refused")
        assert "| ema_trend | regime |" in shown["refused"]
        assert "| ema_trend | regime |" in shown["results"]
        assert max(len(line) for line in shown["reading"].splitlines()) < 110

    def test_refused_decisions_on_record_are_counted_and_followed(
        self, sample: tuple[Settings, Lake], config: Config, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = signals(config, sample[1], ledger, "wide", "fearful")
        rows = decided(found, config, ledger, None)
        ledger.insert_signals(found, session=SESSION, code_revision="c", run_id="r")
        ledger.insert_decisions(rows.values(), session=SESSION, code_revision="c", run_id="r")
        record = gate_run.recorded(ledger, (SESSION, SESSION))
        assert {(r.gate, r.code) for r in record} == {("data_quality", "DATA_QUALITY")}
        assert gate_run.recorded(ledger, ("2018-01-01", "9999-12-31")) == []
        server, _, database = str(ledger.engine.url.render_as_string(hide_password=False)).rpartition("/")
        monkeypatch.setenv("TAPELINE_POSTGRES_URL", server)
        monkeypatch.setenv("TAPELINE_LEDGER_DATABASE", database)
        settings.cache_clear()
        said = CliRunner().invoke(app, ["gates", "verdicts", "--from", DAY.isoformat(), "--json"])
        assert said.exit_code == 0, said.output
        table = {row["strategy"]: row for row in json.loads(said.stdout)}
        assert table["wide"]["refused"] == 1
        assert table["wide"]["traded alone"] + table["wide"]["open"] == 1
        assert table["wide"]["not computed"] == 0
        listed = CliRunner().invoke(app, ["gates", "list", "--json"])
        assert {r["strategy"]: r.get("budget") for r in json.loads(listed.stdout)}["one"] == "percent=1.5"
        report = CliRunner().invoke(app, ["gates", "report", "wide", "--json"])
        assert json.loads(report.stdout)[0]["strategy"] == "wide"
        monkeypatch.undo()
        settings.cache_clear()
