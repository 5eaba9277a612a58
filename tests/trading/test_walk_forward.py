"""Choice on the past, results after: no row is used for both, and variants are what the grid says."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trading.strategies import parsed, problems_of, sample_text
from trading.research_grid import parse_research, rules_hash, variants
from trading.walk_forward import combinatorial_selection, walk_forward_selection

RANDOM = np.random.default_rng(3)


class TestWalkForward:
    def test_the_trial_that_was_best_before_is_what_counts_after(self) -> None:
        returns = RANDOM.normal(0, 0.01, (600, 3))
        returns[:300, 1] += 0.01  # best at first
        returns[300:, 2] += 0.01  # best later
        walk = walk_forward_selection(returns, folds=3, first=0.5, anchored=True)
        assert walk.folds[0].chosen == 1
        assert np.array_equal(
            walk.returns[: walk.folds[0].last - walk.folds[0].first + 1], returns[300 : walk.folds[0].last + 1, 1]
        )
        rolling = walk_forward_selection(returns, folds=3, first=0.5, anchored=False)
        assert rolling.folds[-1].chosen == 2

    def test_purging_takes_rows_away_before_the_test_span(self) -> None:
        returns = RANDOM.normal(0, 0.01, (400, 2))
        plain = walk_forward_selection(returns, folds=2)
        purged = walk_forward_selection(returns, folds=2, reach=10, embargo=5)
        assert [f.train for f in plain.folds] == [f.train + 15 for f in purged.folds]

    def test_noise_is_chosen_and_does_not_keep_what_it_promised(self) -> None:
        returns = RANDOM.normal(0, 0.01, (2_000, 100))
        walk = walk_forward_selection(returns, folds=8)
        assert walk.efficiency < 0.6
        assert all(f.inside > 0 for f in walk.folds)

    def test_every_path_of_the_combinations_holds_every_row_once_from_a_choice_made_without_it(self) -> None:
        returns = np.zeros((80, 4))
        returns[:, 1] = RANDOM.normal(0.01, 0.001, 80)
        cross = combinatorial_selection(returns, groups=8, tested=2, reach=1, embargo=1)
        assert cross.paths.shape == (7, 80)
        assert cross.splits == 28
        assert (cross.chosen == 1).all()
        assert all(np.array_equal(path, returns[:, 1]) for path in cross.paths)

    def test_missing_values_are_refused(self) -> None:
        with pytest.raises(ValueError, match="all of them numbers"):
            walk_forward_selection(np.array([[1.0, np.nan]] * 10))


GRID = """
strategy: ema_trend
grid:
  fast: {match: ["*.cross_*.0.params.period"], values: [5, 8]}
  stop: {match: [exits.stop.multiple], values: [1.5, 2.0, 3.0]}
"""


class TestGrid:
    def test_every_combination_is_a_strategy_of_its_own(self) -> None:
        research, problems = parse_research(GRID, "research/x.yaml")
        assert problems == []
        assert research is not None
        made, problems = variants(sample_text("ema_trend"), research)
        assert problems == []
        assert [v.parameters for v in made][:2] == [{"fast": 5, "stop": 1.5}, {"fast": 5, "stop": 2.0}]
        assert len({v.content for v in made}) == 6
        rules = parsed(made[0].text).rules
        assert rules.exits.stop.multiple == 1.5
        assert made[0].text.count("period: 5\n") == 4, "entry and exit, both sides"

    def test_the_files_own_parameters_are_among_them_under_the_files_own_hash(self) -> None:
        research, _ = parse_research(GRID, "research/x.yaml")
        assert research is not None
        text = sample_text("ema_trend")
        made, _ = variants(text, research)
        assert rules_hash(text) in {v.content for v in made}

    def test_names_texts_status_and_mode_make_no_new_trial(self) -> None:
        text = sample_text("ema_trend")
        assert rules_hash(text.replace("status: active", "status: paused").replace("owner: sample", "owner: me")) == rules_hash(
            text
        )
        assert rules_hash(text.replace("multiple: 2.0", "multiple: 2")) == rules_hash(text)
        assert rules_hash(text.replace("multiple: 2.0", "multiple: 2.5")) != rules_hash(text)

    @pytest.mark.parametrize("pattern", ["exits.stop.multipel", "sizing.percent", "costs.rate", "status"])
    def test_a_pattern_that_reaches_nothing_that_may_be_varied_is_a_problem(self, pattern: str) -> None:
        research, _ = parse_research(GRID.replace("exits.stop.multiple", pattern), "research/x.yaml")
        assert research is not None
        made, problems = variants(sample_text("ema_trend"), research, "research/x.yaml")
        assert made == []
        assert "matches no key" in problems[0].message
        if "multipel" in pattern:
            assert problems[0].nearest == "exits.stop.multiple"

    def test_a_grid_file_names_its_mistakes_with_line_and_key(self) -> None:
        research, problems = parse_research(GRID.replace("values: [5, 8]", "valves: [5, 8]"), "research/x.yaml")
        assert research is None
        assert any(p.line == 4 for p in problems)

    def test_a_grid_of_thousands_is_refused(self) -> None:
        many = GRID.replace("[5, 8]", str(list(range(2, 300))))
        research, _ = parse_research(many, "research/x.yaml")
        assert research is not None
        assert "at most 500" in variants(sample_text("ema_trend"), research)[1][0].expected


class TestResearchKeyOfAStrategy:
    OWN = """
research:
  grid:
    fast: {match: ["*.cross_*.0.params.period"], values: [5, 8]}
  walk_forward: {folds: 4}
  monte_carlo: {paths: 500, block: 10}
  perturbed: {runs: 20, noise: 0.2}
  random_entries: {seeds: 10}
  cost_factors: [0, 3]
"""

    def test_what_it_asks_for_is_part_of_the_strategy_and_makes_no_new_trial(self) -> None:
        text = sample_text("ema_trend")
        asked = parsed(text + self.OWN).rules.research
        assert (asked.walk_forward.folds, asked.monte_carlo.block, asked.cost_factors) == (4, 10, [0, 3])
        assert rules_hash(text + self.OWN) == rules_hash(text)
        made, problems = variants(text + self.OWN, asked)
        assert problems == []
        assert [v.parameters for v in made] == [{"fast": 5}, {"fast": 8}]
        assert "research" not in made[0].text

    @pytest.mark.parametrize(
        ("old", "new", "key", "near"),
        [
            ("folds: 4", "fodls: 4", "research.walk_forward.fodls", "folds"),
            ("paths: 500", "paths: 5", "research.monte_carlo.paths", ""),
            ("*.cross_*.0.params.period", "entry.long.all.0.cross_above.0.params.perod", "research.grid.fast.match[0]",
             "entry.long.all.0.cross_above.0.params.period"),
            ("[5, 8]", f"{list(range(600))}", "research.grid", ""),
            ("cost_factors: [0, 3]", "cost_factors: [-1]", "research.cost_factors[0]", ""),
        ],
    )  # fmt: skip
    def test_a_slip_is_named_with_its_line_when_the_file_is_checked(self, old: str, new: str, key: str, near: str) -> None:
        text = (sample_text("ema_trend") + self.OWN).replace(old, new)
        (problem,) = problems_of(text)
        assert (problem.key, problem.nearest) == (key, near)
        assert new.split(":")[0] in text.splitlines()[problem.line - 1] or key.startswith("research.grid")

    def test_an_ensemble_has_no_grid_and_may_ask_for_the_rest(self) -> None:
        text = sample_text("fx_ensemble")
        assert parsed(text + "\nresearch: {walk_forward: {folds: 4}}\n").rules.research is not None
        (problem,) = problems_of(text + "\nresearch: {grid: {x: {match: [threshold], values: [0.4, 0.6]}}}\n")
        assert problem.key == "research.grid"

    def test_a_key_that_asks_for_nothing_is_a_problem(self) -> None:
        (problem,) = problems_of(sample_text("ema_trend") + "\nresearch: {}\n")
        assert "asks for nothing" in problem.message
