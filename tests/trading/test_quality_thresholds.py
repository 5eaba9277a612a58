"""Quality thresholds: a shared file, a universe that says what is different, the more specific place first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.samples import CONFIG
from tests.trading.test_universe import MINIMAL
from trading.config_text import Problem
from trading.instruments import AssetClass
from trading.quality_thresholds import QualityThresholds, SharedThresholds, parse_quality
from trading.timeframes import Timeframe
from trading.universe import Universe, parse_universe

SHARED = """\
jump_minimum: 0.10
by_timeframe:
  1m: {jump_minimum: 0.11}
by_asset_class:
  equity:
    jump_minimum: 0.12
    stale_repeats: 20
    by_timeframe:
      1m: {jump_minimum: 0.13}
"""


def shared(text: str = SHARED) -> SharedThresholds:
    parsed, problems = parse_quality(text, "quality/default.yaml")
    assert parsed is not None, problems
    return parsed


def with_quality(text: str) -> Universe:
    parsed, problems = parse_universe(MINIMAL + (f"quality:\n{text}" if text else ""), "mini.yaml", shared())
    assert parsed is not None, problems
    return parsed


def minimum(universe: Universe, asset_class: AssetClass, timeframe: Timeframe | None) -> float:
    return universe.quality.of(asset_class, timeframe).jump_minimum


def test_within_a_file_the_more_specific_place_wins() -> None:
    universe = with_quality("")
    assert minimum(universe, AssetClass.FOREX, Timeframe.D1) == 0.10
    assert minimum(universe, AssetClass.FOREX, Timeframe.M1) == 0.11
    assert minimum(universe, AssetClass.EQUITY, Timeframe.D1) == 0.12
    assert minimum(universe, AssetClass.EQUITY, Timeframe.M1) == 0.13
    assert minimum(universe, AssetClass.EQUITY, None) == 0.12


def test_whatever_the_universe_says_beats_the_shared_file_key_by_key() -> None:
    universe = with_quality("  jump_minimum: 0.02\n")
    assert minimum(universe, AssetClass.EQUITY, Timeframe.M1) == 0.02
    assert universe.quality.of(AssetClass.EQUITY).stale_repeats == 20
    assert universe.quality.jump_minimum == 0.02


def test_a_key_nobody_wrote_has_its_default() -> None:
    assert with_quality("").quality.of(AssetClass.EQUITY).jump_sigmas == QualityThresholds().jump_sigmas


@pytest.mark.parametrize("asset_class", list(AssetClass))
def test_asking_twice_changes_nothing(asset_class: AssetClass) -> None:
    quality = with_quality("  by_timeframe: {1m: {jump_sigmas: 9}}\n").quality
    for timeframe in (None, *Timeframe):
        once = quality.of(asset_class, timeframe)
        assert once.of(asset_class, timeframe).model_dump() == once.model_dump()
    assert quality.of(asset_class).of(asset_class, Timeframe.M1).jump_sigmas == 9


def test_the_universe_s_revision_covers_the_shared_file() -> None:
    first, second = (parse_universe(MINIMAL, "m.yaml", shared(SHARED + extra))[0] for extra in ("", "volume_ratio: 60\n"))
    alone, _ = parse_universe(MINIMAL, "m.yaml")
    assert first is not None
    assert second is not None
    assert alone is not None
    assert len({first.revision, second.revision, alone.revision}) == 3


def problem(text: str) -> Problem:
    parsed, (found,) = parse_quality(text, "quality/default.yaml")
    assert parsed is None
    return found


@pytest.mark.parametrize(
    ("change", "line", "key", "near"),
    [
        (("jump_minimum: 0.10", "jump_minimun: 0.10"), 1, "jump_minimun", "jump_minimum"),
        (("  1m: {jump_minimum: 0.11}", "  2m: {jump_minimum: 0.11}"), 3, "by_timeframe.2m", "5m"),
        (("  equity:", "  equty:"), 5, "by_asset_class.equty", "equity"),
        (("stale_repeats: 20", "stale_repeats: 1"), 7, "by_asset_class.equity.stale_repeats", ""),
        (("stale_repeats: 20", "volume_z_warn: -1"), 7, "by_asset_class.equity.volume_z_warn", ""),
        (("{jump_minimum: 0.13}", "{jump_minimum: many}"), 9, "by_asset_class.equity.by_timeframe.1m.jump_minimum", ""),
    ],
)
def test_each_mistake_is_named_at_its_line(change: tuple[str, str], line: int, key: str, near: str) -> None:
    found = problem(SHARED.replace(*change, 1))
    assert (found.file, found.line, found.nearest) == ("quality/default.yaml", line, near)
    assert found.key.startswith(key.split("[")[0])


def test_a_warning_above_its_error_is_a_mistake() -> None:
    assert "volume_z_warn is above volume_z_error" in str(problem("volume_z_warn: 9\nvolume_z_error: 8\n"))


def test_a_file_of_comments_says_nothing() -> None:
    assert shared("# nothing yet\n").thresholds.written() == {}


def test_the_shared_file_of_the_project_parses() -> None:
    path = Path(CONFIG) / "quality" / "default.yaml"
    assert shared(path.read_text()).thresholds.of(AssetClass.FOREX, Timeframe.M1).verdict_max_age_minutes == 15


_NUMBER = st.floats(0.001, 1, allow_nan=False)


@given(
    st.dictionaries(st.sampled_from(["a", "t", "c", "ct"]), _NUMBER),
    st.dictionaries(st.sampled_from(["a", "t", "c", "ct"]), _NUMBER),
)
def test_the_value_is_that_of_the_most_specific_place_of_the_first_file_that_says_it(
    below: dict[str, float], above: dict[str, float]
) -> None:
    def made(values: dict[str, float]) -> QualityThresholds:
        def at(place: str) -> dict[str, float]:
            return {"jump_minimum": values[place]} if place in values else {}

        return QualityThresholds.model_validate(
            {
                **at("a"),
                "by_timeframe": {"1m": at("t")},
                "by_asset_class": {"equity": {**at("c"), "by_timeframe": {"1m": at("ct")}}},
            }
        )

    order = [v[place] for v in (above, below) for place in ("ct", "c", "t", "a") if place in v]
    quality = made(above).over(made(below))
    assert quality.of(AssetClass.EQUITY, Timeframe.M1).jump_minimum == (order or [0.01])[0]
