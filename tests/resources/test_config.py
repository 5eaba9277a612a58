"""Edited files loaded together: one bad file never stops the others, and nothing bad trades."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from resources.config import Config, ConfigInvalid, load_config
from resources.settings import Settings
from tests.paths import ROOT
from trading.ids import file_revision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the project's own config."""
    return Path(shutil.copytree(ROOT / "data" / "config", tmp_path / "config"))


def load(folder: Path, universe: str = "sample") -> Config:
    return load_config(Settings(config_dir=folder, universe=universe))  # type: ignore[call-arg]


def test_the_projects_own_files_have_no_problem(folder: Path) -> None:
    config = load(folder)
    assert config.problems == []
    assert {"ema_trend", "rsi_reversion", "rsi_reversion_fx"} <= set(config.strategies)
    assert "eurusd_year_end_breakout" in config.plans
    assert config.limits.missing() == []
    active = {e.name: str(e.mode) for e in config.active()}
    in_shadow = {"eurusd_guarded": "shadow"}  # shows the verdicts of every gate, and sends nothing
    paper = ("ema_trend", "eurusd_year_end_breakout", "rsi_reversion", "rsi_reversion_fx")
    assert active == dict.fromkeys(paper, "paper") | in_shadow
    idle = {"fx_ensemble", "fx_structure", "index_pair", "momentum_scanner", "squeeze_release"}
    assert idle <= set(config.strategies)
    assert {(config.strategies[n].status, str(config.strategies[n].mode)) for n in idle} == {("paused", "shadow")}
    assert config.warnings == []
    text = (folder / "strategies" / "ema_trend.yaml").read_bytes()
    assert config.strategies["ema_trend"].revision == file_revision(text)


def test_a_file_for_another_universe_is_listed_but_not_used(folder: Path) -> None:
    config = load(folder)
    assert "ema_trend_us" not in config.strategies
    (file,) = [f for f in config.files if f.path == "strategies/ema_trend_us.yaml"]
    assert (file.other_universe, file.problems) == ("lean_us", ())
    assert set(load(folder, "lean_us").strategies) == {"ema_trend_us"}


def test_a_universe_that_does_not_exist_does_not_switch_a_strategy_off_in_silence(folder: Path) -> None:
    path = folder / "strategies" / "ema_trend.yaml"
    path.write_text(path.read_text().replace("universe: sample", "universe: smaple"))
    config = load(folder)
    assert "ema_trend" not in config.strategies
    problem, orphan = config.problems
    assert (problem.key, problem.nearest) == ("universe", "sample")
    assert orphan.file == "strategies/fx_ensemble.yaml", "whose member it was"


def test_one_bad_file_leaves_the_others(folder: Path) -> None:
    (folder / "strategies" / "bad.yaml").write_text("name: bad\nsymbols: [EURUSDD]\n")
    (folder / "plans" / "worse.yaml").write_bytes(b"\xff\xfe\x00 not text")
    (folder / "strategies" / "folder.yaml").mkdir()
    config = load(folder)
    assert {"ema_trend", "rsi_reversion", "rsi_reversion_fx"} <= set(config.strategies)
    assert set(config.plans) == {"eurusd_autumn_breakdown", "eurusd_year_end_breakout"}
    assert {p.file for p in config.problems} == {"strategies/bad.yaml", "plans/worse.yaml", "strategies/folder.yaml"}
    assert any("did you mean 'EURUSD'" in str(p) for p in config.problems)


def test_a_name_given_twice_is_nobodys(folder: Path) -> None:
    shutil.copy(folder / "strategies" / "ema_trend.yaml", folder / "strategies" / "copy.yaml")
    plan = folder / "plans" / "eurusd_year_end_breakout.yaml"
    plan.write_text(plan.read_text().replace("name: eurusd_year_end_breakout", "name: rsi_reversion"))
    config = load(folder)
    assert not {"ema_trend", "rsi_reversion", "fx_ensemble"} & set(config.strategies)
    assert "rsi_reversion_fx" in config.strategies
    assert set(config.plans) == {"eurusd_autumn_breakdown"}
    assert sorted(p.file for p in config.problems) == [
        "plans/eurusd_year_end_breakout.yaml", "strategies/copy.yaml", "strategies/ema_trend.yaml",
        "strategies/fx_ensemble.yaml", "strategies/rsi_reversion.yaml",
    ]  # fmt: skip


def test_without_one_risk_file_there_is_no_limit_and_so_no_order(folder: Path) -> None:
    risk = folder / "risk" / "default.yaml"
    text = risk.read_text()
    risk.unlink()
    config = load(folder)
    assert config.limits.missing()
    assert "exactly one file" in config.problems[0].expected
    (folder / "risk" / "a.yaml").write_text(text)
    (folder / "risk" / "b.yaml").write_text(text)
    assert load(folder).limits.missing()
    (folder / "risk" / "b.yaml").write_text("max_notionl: 5\n")
    (folder / "risk" / "a.yaml").unlink()
    config = load(folder)
    assert config.limits.missing()
    assert config.problems[0].nearest == "max_notional"


def test_a_bad_universe_stops_everything_and_says_why(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match="did you mean 'sample'"):
        load(folder, "smaple")
    path = folder / "universe" / "sample.yaml"
    path.write_text(path.read_text().replace("calendar: FX", "calendar: FXX"))
    with pytest.raises(ConfigInvalid, match=r"universe/sample.yaml:\d+: instruments.EURUSD.calendar: unknown calendar 'FXX'"):
        load(folder)
    path.write_text(path.read_text().replace("calendar: FXX", "calendar: FX").replace("name: sample", "name: other"))
    with pytest.raises(ConfigInvalid, match="the file's name, sample"):
        load(folder)


def test_limits_of_a_name_that_no_file_has_are_told(folder: Path) -> None:
    path = next((folder / "risk").glob("*.yaml"))
    text = path.read_text().replace("strategies: {}", "")
    path.write_text(text + "\nstrategies:\n  ema_trend: {max_notional: 5000}\n  ema_trent: {max_notional: 5000}\n")
    config = load(folder)
    (told,) = [w for w in config.warnings if w.key.startswith("strategies.")]
    assert (told.file, told.key, told.nearest) == (f"risk/{path.name}", "strategies.ema_trent", "ema_trend")
    assert path.read_text().splitlines()[told.line - 1].strip().startswith("ema_trent")
    assert config.limits.missing() == [], "the file counts all the same"


def test_limits_of_a_strategy_file_count_on_top_of_the_risk_files(folder: Path) -> None:
    path = folder / "strategies" / "ema_trend.yaml"
    path.write_text(path.read_text() + "limits: {max_notional: 5000, cooldown_minutes: 30}\n")
    risk = folder / "risk" / "default.yaml"
    text = risk.read_text().replace("strategies: {}", "strategies: {ema_trend: {max_notional: 9000, cooldown_minutes: 60}}")
    risk.write_text(text)
    own = load(folder).limits.of("ema_trend")
    assert (own.max_notional, own.cooldown_minutes) == (5000, 60), "of each the tighter one"
    assert load(folder).limits.of("rsi_reversion").max_notional is None


def test_warnings_are_told_and_the_file_is_used(folder: Path) -> None:
    path = folder / "strategies" / "rsi_reversion.yaml"
    path.write_text(path.read_text().replace("timeframe: 1d", "timeframe: 1d\nconfirm: [1w]", 1))
    config = load(folder)
    assert config.problems == []
    assert "rsi_reversion" in config.strategies
    (warning,) = config.warnings
    assert (warning.file, warning.key, warning.severity) == ("strategies/rsi_reversion.yaml", "confirm[0]", "warning")


def test_an_ensemble_has_its_members_and_changes_with_them(folder: Path) -> None:
    before = load(folder).strategies["fx_ensemble"].revision
    path = folder / "strategies" / "ema_trend.yaml"
    path.write_text(path.read_text() + "# looked at\n")
    assert load(folder).strategies["fx_ensemble"].revision != before
