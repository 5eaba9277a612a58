"""Numbers the quality rules judge by, as people write them: shared ones, and what a universe says instead.

A universe file's `quality` block overrides ``data/config/quality/default.yaml`` key by key. Within each of the two, the
more specific place wins: the key itself, then `by_timeframe`, then `by_asset_class`, then `by_timeframe` inside an asset
class. Whatever the universe says anywhere beats whatever the shared file says anywhere. A key in neither has the default
below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field, PrivateAttr, model_validator

from trading.config_text import ConfigModel, Count, Positive, Problem, Whole, custom_error, load_yaml, validate
from trading.ids import file_revision
from trading.instruments import AssetClass
from trading.timeframes import Timeframe


class _Thresholds(ConfigModel):
    """The numbers themselves. In an override only the keys that are written count."""

    jump_sigmas: Positive = Field(12.0, description="a log return of the close beyond this many trailing sigmas is a jump")
    jump_window: Whole = Field(100, ge=10, description="bars of trailing returns that estimate sigma")
    jump_minimum: Positive = Field(0.01, description="smaller log returns are never a jump, however calm it was")
    stale_repeats: Whole = Field(10, ge=2, description="this many identical OHLC bars in a row are stale")
    volume_ratio: Positive = Field(50.0, description="volume above this multiple of the trailing median is not sane")
    volume_window: Whole = Field(50, ge=5, description="bars of the trailing volume median")
    max_gap_share: float = Field(0.0, ge=0, lt=1, description="share of a session's expected bars that may be missing")
    max_gap_bars: Count = Field(0, description="longest run of missing bars inside a session")

    anomaly_sessions: Whole = Field(20, ge=5, description="sessions before that an unusual volume or range is measured against")
    volume_z_warn: Positive = Field(8.0, description="robust z-score of the log volume that is unusual")
    volume_z_error: Positive = Field(16.0, description="robust z-score of the log volume that stops trading")
    volatility_z_warn: Positive = Field(8.0, description="robust z-score of the log range that is unusual")
    volatility_z_error: Positive = Field(16.0, description="robust z-score of the log range that stops trading")

    cross_price_ticks: Positive = Field(2.0, description="closes of two sources this many ticks apart still agree")
    cross_price_percent: float = Field(0.02, ge=0, lt=100, description="closes this many percent apart still agree")
    cross_volume_percent: Positive | None = Field(None, description="volumes this many percent apart agree; empty: not compared")
    cross_warn_share: float = Field(0.001, ge=0, le=1, description="share of disagreeing bars above which a warning is given")
    cross_error_share: float = Field(0.02, ge=0, le=1, description="share of disagreeing bars above which trading stops")

    fault_share_aim: float = Field(0.001, ge=0, lt=1, description="share of missing or wrong bars a partition may have at most")
    late_minutes: Positive = Field(5.0, description="a live bar that is in the lake later than this after its close is late")
    verdict_max_age_minutes: Positive | None = Field(
        None, description="market time of its session that a verdict may not have seen; empty: no limit"
    )
    verdict_max_age_days: Positive | None = Field(
        None, description="real days after which a verdict counts no longer, whatever it is about; empty: no limit"
    )

    @model_validator(mode="after")
    def _ordered(self) -> _Thresholds:
        for low, high in (
            ("volume_z_warn", "volume_z_error"),
            ("volatility_z_warn", "volatility_z_error"),
            ("cross_warn_share", "cross_error_share"),
        ):
            if {low, high} <= self.model_fields_set and getattr(self, low) > getattr(self, high):
                raise custom_error(f"{low} is above {high}", f"{low} at most {high}")
        return self

    def written(self) -> dict[str, Any]:
        """The numbers that are written here, by key."""
        return {name: getattr(self, name) for name in self.model_fields_set if name in _Thresholds.model_fields}


class _ClassThresholds(_Thresholds):
    """Overrides of one asset class."""

    by_timeframe: dict[Timeframe, _Thresholds] = Field(default_factory=dict, description="the same keys, per timeframe")


class QualityThresholds(_Thresholds):
    """Numbers of the quality rules. `of(asset_class, timeframe)` gives them with all overrides applied."""

    by_timeframe: dict[Timeframe, _Thresholds] = Field(default_factory=dict, description="the same keys, per timeframe")
    by_asset_class: dict[AssetClass, _ClassThresholds] = Field(default_factory=dict, description="the same keys, per asset class")

    _own: QualityThresholds | None = PrivateAttr(None)
    _shared: QualityThresholds | None = PrivateAttr(None)

    def over(self, shared: QualityThresholds) -> QualityThresholds:
        """These thresholds with `shared` beneath: a key written in neither keeps its default."""
        merged = self.model_copy(update={**shared.written(), **self.written()})
        merged._own, merged._shared = self, shared
        return merged

    def of(self, asset_class: AssetClass, timeframe: Timeframe | None = None) -> QualityThresholds:
        """Thresholds of one asset class, and of one timeframe of it when given."""
        own = self._own or self
        values: dict[str, Any] = {}
        for layer in (self._shared, own):
            if layer is not None:
                values |= layer._resolved(asset_class, timeframe)
        made = self.model_copy(update=values)
        made._own, made._shared = own, self._shared
        return made

    def _resolved(self, asset_class: AssetClass, timeframe: Timeframe | None) -> dict[str, Any]:
        """What is written for the class and timeframe, the most specific place last."""
        mine = self.by_asset_class.get(asset_class)
        layers: list[_Thresholds | None] = [self]
        if timeframe is not None:
            layers.append(self.by_timeframe.get(timeframe))
        layers.append(mine)
        if mine is not None and timeframe is not None:
            layers.append(mine.by_timeframe.get(timeframe))
        values: dict[str, Any] = {}
        for layer in layers:
            if layer is not None:
                values |= layer.written()
        return values


@dataclass(frozen=True, slots=True)
class SharedThresholds:
    """The shared file as it was read. revision: of its text; a universe's revision covers it."""

    thresholds: QualityThresholds
    revision: str


def parse_quality(text: str, file: str) -> tuple[SharedThresholds | None, list[Problem]]:
    """Shared thresholds of the file's text, or None and every problem it has. A file of comments only says nothing."""
    document = load_yaml(text, file)
    if document.data is None and not document.problems:
        return SharedThresholds(QualityThresholds(), file_revision(text)), []
    parsed, problems = validate(QualityThresholds, document)
    if parsed is None:
        return None, problems
    return SharedThresholds(parsed, file_revision(text)), []
