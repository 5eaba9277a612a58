"""Where a training's data comes from: the lake's market or a planted one, with what the leakage audit recomputes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from assets import model_run
from assets.common import markdown_table
from ml import leakage, planted, training_files
from ml.canaries import Canary
from ml.dataset import TrainingSet
from ml.leakage import Audit
from ml.relative import relative_features
from resources.lake import Lake
from resources.price_view import actions_for, outcome_bars
from resources.settings import ROOT, Settings
from trading import features, windows
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.price_view import features_as_of
from trading.universe import Universe

PLANTED: Final = planted.PlantedMarket()
"""The made-up market of the sample's planted model."""


def planted_path(settings: Settings) -> Path:
    return settings.path("training", f"{planted.UNIVERSE}_1d.parquet")


def planted_set(market: planted.PlantedMarket = PLANTED) -> tuple[planted.Made, TrainingSet]:
    """The planted market and its training set."""
    made = planted.make(market)
    return made, planted.training_set(made, model_run.HORIZON, training_files.HORIZONS, model_run.BARRIER)


def at_horizon(data: TrainingSet, horizon: int) -> TrainingSet:
    """The set with another of its horizons as the one that is forecast. Raises ValueError when it has no such horizon."""
    if horizon == data.horizon:
        return data
    if horizon not in data.horizons:
        raise ValueError(
            f"horizon {horizon}: the training set has {', '.join(map(str, data.horizons)) or 'none'}; materialise it again"
        )
    forward = data.returns[:, data.horizons.index(horizon)]
    return replace(data, horizon=horizon, forward_return=forward, direction=(forward > 0).astype(np.int8))


@dataclass(frozen=True, slots=True, eq=False)
class Traded:
    """What a model is judged on: bars on one price level, and the instruments a backtest may trade."""

    bars: Mapping[str, Bars]
    instruments: Mapping[str, Instrument]


def market_of(data: TrainingSet, lake: Lake, universe: Universe, view: str) -> Traded:
    """Bars of the training set's instruments. Raises LakeError, UnknownFactor."""
    dataset = f"bars_{data.matrix.timeframe}"
    bars = {s: outcome_bars(lake, lake.read_bars(dataset, s), view) for s in data.matrix.symbols}
    return Traded(bars, model_run.tradable(universe))


def market_audit(data: TrainingSet, lake: Lake, universe: Universe, view: str) -> Audit:
    """Truncate-and-recompute of the lake's features, and labels against bars. Raises LakeError, UnknownFactor."""
    dataset = f"bars_{data.matrix.timeframe}"
    raw = {s: lake.read_bars(dataset, s) for s in data.matrix.symbols}
    units = {f.name: f.unit for f in features.FEATURES}

    def recompute(symbol: str, time: int) -> NDArray[np.float64]:
        known = raw[symbol].known_at(time)
        venue = calendar(universe.instruments[symbol].calendar)
        anchor = windows.window_start(int(known.session[-1]), known.timeframe, features.WARM_UP, venue)
        part = known.rows(slice(int(np.searchsorted(known.session, anchor)), None))
        names, values = features_as_of(part, venue, actions_for(lake, symbol, view))
        return np.asarray(relative_features(names, units, values, part.close)[1][-1], np.float64)

    traded = market_of(data, lake, universe, view)
    return leakage.merge(leakage.truncate_and_recompute(data, recompute), leakage.labels_known_late(data, traded.bars))


def planted_audit(data: TrainingSet, made: planted.Made) -> Audit:
    return leakage.merge(leakage.truncate_and_recompute(data, made.recompute), leakage.labels_known_late(data, made.bars))


def audit_table(audit: Audit) -> str:
    """What each audit looked at and found, as markdown."""
    found: dict[str, list[str]] = {}
    for finding in audit.findings:
        found.setdefault(finding.audit, []).append(f"{finding.where}: {finding.what}")
    rows = [
        [name, count, len(found.get(name, [])), "; ".join(found.get(name, [])[:3]) or "nothing"]
        for name, count in audit.checked.items()
    ]
    return markdown_table(["audit", "looked at", "found", "first of them"], rows)


# -- canaries ------------------------------------------------------------------------------------------------------------


def canaries_path(settings: Settings) -> Path:
    return settings.path("training", "canaries.json")


@cache
def learning_revision() -> str:
    """Hash of the code that learns and judges: canaries speak for this code only. Read once a process."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "ml").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def save_canaries(path: Path, made: Sequence[Canary], code: str, run_id: str) -> None:
    """Remember what the canaries of this code said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps({"code": code, "run_id": run_id, "canaries": [c.to_dict() for c in made]}, indent=1))
    draft.replace(path)


def canaries_passed(path: Path, code: str) -> tuple[bool, str]:
    """(whether all canaries of this very code passed, why not)."""
    try:
        about = json.loads(path.read_text())
        singing = about["canaries"]
    except (OSError, ValueError, KeyError):
        return False, "no canaries were run: materialise model_canaries"
    if about.get("code") != code:
        return False, f"the canaries are of code {str(about.get('code'))[:12]}: materialise model_canaries again"
    silent = [str(c["name"]) for c in singing if not c.get("passed")]
    if silent or not singing:
        return False, f"failed: {', '.join(silent) or 'there are none'}"
    return True, f"{len(singing)} passed in run {about.get('run_id', '')}"


def canaries_table(made: Sequence[Canary]) -> str:
    rows = [
        ["✅" if c.passed else "❌ **failed**", c.name, c.question, f"{c.measured:.3g}",
         f"{'≥' if c.at_least else '≤'} {c.wanted:g}", f"{c.seconds:.1f} s"]
        for c in made
    ]  # fmt: skip
    return markdown_table(["", "canary", "what is measured", "measured", "wanted", "took"], rows)
