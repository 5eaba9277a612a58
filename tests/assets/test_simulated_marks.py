"""Simulated prices are marked on every page of the UI; real ones are not."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg

from assets.market_data import ASSETS
from assets.reports import ASSETS as REPORTS
from assets.simulated_marks import SAID, marked
from tests.trading.samples import universe


def specs(simulated: bool) -> list[dg.AssetSpec]:
    made = marked([*ASSETS, *REPORTS], replace(universe(), simulated=simulated))
    return [spec for definition in made for spec in definition.specs]


def test_every_asset_of_a_simulated_universe_has_the_badge_the_tag_and_the_words() -> None:
    for spec in specs(simulated=True):
        assert "simulated" in spec.kinds, spec.key
        assert spec.tags["simulated"] == "yes", spec.key
        assert (spec.description or "").startswith(SAID), spec.key


def test_what_is_of_a_market_is_not_marked_and_stays_what_it_was() -> None:
    assert all("simulated" not in s.kinds and SAID not in (s.description or "") for s in specs(simulated=False))
    assert {s.key for s in specs(simulated=True)} == {s.key for s in specs(simulated=False)}


def test_an_asset_with_three_kinds_keeps_them_and_is_marked_in_words_and_tag() -> None:
    @dg.asset(kinds={"python", "numba", "mlflow"})
    def full() -> None: ...

    (made,) = marked([full], replace(universe(), simulated=True))
    (spec,) = made.specs
    assert spec.kinds == {"python", "numba", "mlflow"}
    assert spec.tags["simulated"] == "yes"
