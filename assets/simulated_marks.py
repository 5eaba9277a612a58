"""A universe whose prices are made up says so on every asset: no page of the UI may be taken for one of a market."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from trading.universe import Universe

KIND = "simulated"
SAID = "**SIMULATED: these prices are made up, they come from no market.**"
_MOST_KINDS = 3


def marked(assets: Iterable[Any], universe: Universe) -> list[Any]:
    """`assets`; of a simulated universe with a badge in the graph, a tag to search by, and the first words of each page."""
    return list(dg.map_asset_specs(mark, assets)) if universe.simulated else list(assets)


def mark(spec: dg.AssetSpec) -> dg.AssetSpec:
    kinds = {KIND} if len(spec.kinds) < _MOST_KINDS else ...  # Dagster shows three at most
    described = spec.replace_attributes(description=f"{SAID}\n\n{spec.description or ''}".strip())
    return described.merge_attributes(tags={KIND: "yes"}, kinds=kinds)
