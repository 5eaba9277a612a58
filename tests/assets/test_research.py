"""Research runs what people wrote over what the lake holds; what cannot run is shown and stops nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import portfolio, portfolio_run, research, research_run
from resources.config import load_config
from resources.dagster_resources import resource_definitions
from resources.lake import Lake
from resources.settings import Settings
from tests.assets.sample_lake import fill, installation
from trading.calendars import calendar
from trading.refusals import RefusalCode
from trading.strategy import evaluate_anchored
from trading.timeframes import iso

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    with installation(tmp_path_factory.mktemp("research")) as settings:
        yield settings, fill(settings)


@pytest.fixture
def spoilable(sample: tuple[Settings, Lake]) -> Iterator[Path]:
    """The config folder; whatever a test writes into it is taken away again."""
    folder = sample[0].config
    before = {p: p.read_bytes() for p in folder.rglob("*.yaml")}
    yield folder
    for path in folder.rglob("*.yaml"):
        if path not in before:
            path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


def materialise() -> dg.ExecuteInProcessResult:
    chosen = [research.strategies, research.strategy_backtests, research.config_valid]
    return dg.materialize(chosen, resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral())


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node(asset)
    return {k: v.value for k, v in made.metadata.items()}


def test_every_strategy_and_plan_is_tested_and_shown(sample: tuple[Settings, Lake]) -> None:
    result = materialise()
    assert result.success
    shown = metadata_of(result, "strategy_backtests")
    names = load_config(sample[0]).evaluables()
    scanner = names.pop("momentum_scanner")
    assert shown["strategies"] == len(names)
    assert scanner.name in shown["not_tested"], "the lake of this test has no bars of its stocks"
    for name, evaluable in names.items():
        assert f"| {name} |" in shown["metrics"]
        assert shown[f"equity_{name}"].startswith("![equity of")
        assert shown["revisions"][name] == evaluable.revision
    assert "SIMULATED" not in shown["account"]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("config_valid", True)


def test_a_bad_file_is_named_with_line_and_key_and_the_others_go_on(spoilable: Path) -> None:
    bad = spoilable / "strategies" / "rsi_reversion.yaml"
    bad.write_text(bad.read_text().replace("timeframe: 1d", "timefame: 1d"))
    result = materialise()
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    problems = check.metadata["problems"].value
    line = next(i for i, text in enumerate(bad.read_text().splitlines(), 1) if "timefame" in text)
    assert f"| strategies/rsi_reversion.yaml | {line} | timefame |" in problems
    assert "| timeframe |" in problems
    shown = metadata_of(result, "strategy_backtests")
    assert "rsi_reversion.yaml" in shown["not_tested"]
    assert "| ema_trend |" in shown["metrics"]
    assert "problem(s): not used" in metadata_of(result, "strategies")["files"]


def test_without_limits_nothing_would_trade_and_the_check_says_so(spoilable: Path) -> None:
    (spoilable / "risk" / "default.yaml").unlink()
    result = materialise()
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert "max_notional" in check.metadata["limits_missing"].value
    shown = metadata_of(result, "strategy_backtests")
    assert RefusalCode.LIMIT_MISSING.name in shown["refused"]
    assert shown["dagster/row_count"] == 0


def test_a_backtest_uses_the_costs_the_limits_and_the_desks_demand_for_a_stop(sample: tuple[Settings, Lake]) -> None:
    settings, lake = sample
    config = load_config(settings)
    run = research_run.run_one(config.strategies["ema_trend"], config, lake, settings.paper_cash)
    assert isinstance(run, research_run.StrategyRun)
    assert run.costs.rate == 0.00002
    assert float(run.result.trades.commission.min()) > 0
    venue, instrument = calendar("FX"), config.universe.instruments["EURUSD"]
    windows = {t: lake.read_bars(f"bars_{t}", "EURUSD") for t in run.evaluable.timeframes}
    evaluation = evaluate_anchored(run.evaluable, windows, instrument, venue)
    wanted = {int(t) for t in evaluation.close_time[evaluation.enter_long | evaluation.enter_short]}
    assert {int(t) for t in run.result.trades.signal_time} <= wanted
    assert run.wishes == len(wanted)
    refused = sum(run.result.refusals.values())
    assert run.wishes == len(run.result.trades) + refused


def test_a_plan_enters_once(sample: tuple[Settings, Lake], spoilable: Path) -> None:
    plan = spoilable / "plans" / "eurusd_year_end_breakout.yaml"
    text = plan.read_text()
    config = load_config(sample[0])
    name = "eurusd_year_end_breakout"
    run = research_run.run_one(config.plans[name], config, sample[1], sample[0].paper_cash)
    assert isinstance(run, research_run.StrategyRun)
    assert run.evaluable.once
    assert len(run.result.trades) == 1, text
    assert "2017-12" in iso(int(run.result.trades.signal_time[0]))


def test_an_instrument_without_bars_is_left_out_by_name(sample: tuple[Settings, Lake], tmp_path: Path) -> None:
    config = load_config(sample[0])
    runs, failed = research_run.run_all(config, Lake(tmp_path / "empty"), 100_000)
    assert runs == []
    assert {f.name for f in failed} == set(config.evaluables())
    assert all("in the lake" in f.reason for f in failed)


class TestThePortfolio:
    """All of them on one account: what contradicts itself is resolved as live, and every loser is counted."""

    BOTH = (("buys", "long", "paper"), ("sells", "short", "paper"), ("listens", "short", "shadow"))

    def write(self, folder: Path, listens: str = "paused") -> None:
        for path in [*(folder / "strategies").glob("*.yaml"), *(folder / "plans").glob("*.yaml")]:
            path.unlink()
        for name, side, mode in self.BOTH:
            status = listens if name == "listens" else "active" if (listens == "paused") or name == "buys" else "paused"
            (folder / "strategies" / f"{name}.yaml").write_text(
                f"name: {name}\nuniverse: sample\nstatus: {status}\nmode: {mode}\nsymbols: [EURUSD]\ntimeframe: 1h\n"
                f"entry: {{{side}: {{cross_above: [close, {{indicator: ema, params: {{period: 20}}}}]}}}}\n"
                "exits: {stop: {kind: atr, period: 14, multiple: 2.0}, max_bars: 24}\nsizing: {kind: fixed, quantity: 10000}\n"
            )

    def found(self, sample: tuple[Settings, Lake], names: list[str] | None = None) -> portfolio_run.Portfolio:
        config = load_config(sample[0])
        prepared, failed = research_run.prepare_all(config, sample[1], 1e5, names or [])
        return portfolio_run.portfolio(prepared, failed, config, 1e5, "USD", all_trade=bool(names))

    def test_opposites_cancel_each_other_and_each_alone_would_have_traded(
        self, sample: tuple[Settings, Lake], spoilable: Path
    ) -> None:
        self.write(spoilable)
        found = self.found(sample)
        assert (found.traded, found.heard, len(found.result.trades)) == (("buys", "sells"), (), 0)
        (buys, sells) = found.result.slot_refusals
        assert buys["CONFLICT"] == sells["CONFLICT"] > 20
        assert all(net != 0 for net in found.alone.values())
        assert found.left_out["listens"] == "status paused, mode shadow"
        assert portfolio_run.rows(found)[-1][0] == "the account"

    def test_a_strategy_in_shadow_is_heard_and_never_ordered(self, sample: tuple[Settings, Lake], spoilable: Path) -> None:
        self.write(spoilable, listens="active")
        found = self.found(sample)
        assert (found.traded, found.heard, len(found.result.trades)) == (("buys",), ("listens",), 0)
        assert {r[2] for r in portfolio_run.refused_rows(found) if r[0] == "listens"} == {portfolio_run.NOT_SENT}
        assert len(self.found(sample, ["buys"]).result.trades) > 20, "alone it trades"

    def test_the_asset_shows_account_refusals_and_who_was_left_out(self, sample: tuple[Settings, Lake], spoilable: Path) -> None:
        self.write(spoilable)
        result = dg.materialize(
            [research.strategies, research.strategy_backtests, portfolio.portfolio_backtest],
            resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral(), selection=["portfolio_backtest"],
        )  # fmt: skip
        shown = metadata_of(result, "portfolio_backtest")
        assert shown["together"].startswith("![equity")
        assert "| sells | EURUSD | CONFLICT |" in shown["refused"]
        assert "| listens |" in shown["left_out"]
        assert shown["conflicts"] == "cancel_both, positions: ignore"
