"""What research remembers: every revision, results by revision, and every variant once, told to MLflow when it answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resources.config import load_config
from resources.research_files import asked_of, load_grids
from resources.research_store import ResearchStore, UnknownRevision, number
from resources.research_trials import TrialBook
from tests.assets.sample_lake import installation
from tests.mlflow_server import mlflow_url


class TestRevisions:
    def test_every_text_is_kept_once_and_found_by_the_beginning_of_its_hash(self, tmp_path: Path) -> None:
        store = ResearchStore(tmp_path)
        first, again, second = (store.keep("x", "strategies/x.yaml", text) for text in ("a: 1", "a: 1", "a: 2"))
        assert first == again
        assert [r.text for r in store.revisions("x")] == ["a: 1", "a: 2"]
        assert store.revision("x", second[:5]).text == "a: 2"

    @pytest.mark.parametrize("beginning", ["zz", ""])
    def test_what_is_not_there_or_not_one_is_named_with_what_there_is(self, tmp_path: Path, beginning: str) -> None:
        store = ResearchStore(tmp_path)
        kept = store.keep("x", "strategies/x.yaml", "a: 1")
        with pytest.raises(UnknownRevision, match=kept):
            store.revision("x", beginning)
        with pytest.raises(UnknownRevision, match="strategies known: x"):
            store.revision("y", "1")

    def test_the_configured_files_are_kept(self, tmp_path: Path) -> None:
        with installation(tmp_path) as settings:
            config = load_config(settings)
            store = ResearchStore(tmp_path / "research")
            store.keep_files(settings.config, config.files, config.evaluables())
            for name, evaluable in config.evaluables().items():
                assert store.revision(name, evaluable.revision).name == name


class TestResults:
    def test_figures_come_back_and_what_is_no_number_is_missing(self, tmp_path: Path) -> None:
        store = ResearchStore(tmp_path)
        store.put("x", "r1", "grid", {"a": np.float64(1.5), "b": float("nan"), "c": np.arange(3)})
        kept = store.get("x", "r1", "grid")
        assert kept == {"a": 1.5, "b": None, "c": [0, 1, 2]}
        assert np.isnan(number(kept, "b"))
        assert np.isnan(number(None, "a"))
        assert store.get("x", "r2", "grid") is None
        store.put_arrays("x", "r1", "grid", returns=np.eye(2))
        assert np.array_equal((store.arrays("x", "r1", "grid") or {})["returns"], np.eye(2))


class TestGrids:
    def test_the_sample_grids_hold_and_a_bad_one_names_its_mistake(self, tmp_path: Path) -> None:
        with installation(tmp_path) as settings:
            config = load_config(settings)
            grids = load_grids(config, settings.config)
            assert grids.problems == []
            assert {n: len(v) for n, v in grids.variants.items()} == {"ema_trend": 27, "rsi_reversion": 18}
            bad = settings.config / "research" / "rsi_reversion.yaml"
            bad.write_text(bad.read_text().replace("strategy: rsi_reversion", "strategy: rsi_reversoin"))
            grids = load_grids(config, settings.config)
            assert [(p.file, p.key, p.nearest) for p in grids.problems] == [
                ("research/rsi_reversion.yaml", "strategy", "rsi_reversion")
            ]
            assert list(grids.variants) == ["ema_trend"]

    def test_a_strategy_file_may_ask_itself_and_asking_twice_is_a_problem(self, tmp_path: Path) -> None:
        with installation(tmp_path) as settings:
            asking = settings.config / "strategies" / "rsi_reversion_fx.yaml"
            text = asking.read_text()
            asking.write_text(text + "\nresearch: {grid: {stop: {match: [exits.stop.multiple], values: [1, 2, 3]}}}\n")
            (settings.config / "research" / "more.yaml").write_text("strategy: rsi_reversion_fx\nwalk_forward: {folds: 3}\n")
            config = load_config(settings)
            asked = asked_of(config, settings.config)
            assert [(p.file, p.line, p.key) for p in asked.problems] == [("research/more.yaml", 1, "strategy")]
            assert "strategies/rsi_reversion_fx.yaml" in asked.problems[0].message
            assert asked.research["rsi_reversion_fx"].walk_forward is None
            assert len(load_grids(config, settings.config).variants["rsi_reversion_fx"]) == 3

    def test_a_pattern_of_a_research_file_that_matches_nothing_is_named_where_it_stands(self, tmp_path: Path) -> None:
        with installation(tmp_path) as settings:
            bad = settings.config / "research" / "ema_trend.yaml"
            bad.write_text(bad.read_text().replace("exits.stop.multiple", "exits.stop.multipel"))
            (problem,) = asked_of(load_config(settings), settings.config).problems
            assert problem.line == next(i for i, t in enumerate(bad.read_text().splitlines(), 1) if "multipel" in t)
            assert (problem.file, problem.key, problem.nearest) == (
                "research/ema_trend.yaml", "grid.stop.match[0]", "exits.stop.multiple"
            )  # fmt: skip


class TestTrialBook:
    def test_without_mlflow_the_count_is_of_this_machine_and_says_so(self, tmp_path: Path) -> None:
        book = TrialBook("http://127.0.0.1:1", ResearchStore(tmp_path))
        said = book.count("x", ["a" * 64, "b" * 64])
        assert (said.total, said.new, said.tracked) == (2, 2, False)
        assert "127.0.0.1:1" in said.why

    @pytest.mark.e2e
    def test_a_variant_counts_once_whoever_tries_it_and_whenever(self, tmp_path: Path) -> None:
        away, there = ResearchStore(tmp_path / "one"), ResearchStore(tmp_path / "two")
        TrialBook("http://127.0.0.1:1", away).count("x", ["early"])  # MLflow was not there then
        first = TrialBook(mlflow_url(), away).count("x", [f"v{i}" for i in range(600)], what="sweep")
        assert (first.total, first.new, first.tracked) == (601, 600, True)
        repeated = TrialBook(mlflow_url(), away).count("x", ["v1", "v2"])
        assert (repeated.total, repeated.new) == (601, 0)
        elsewhere = TrialBook(mlflow_url(), there).count("x", ["v3", "other"])
        assert elsewhere.total == 602
        assert TrialBook(mlflow_url(), there).count("y", ["v3"]).total == 1
