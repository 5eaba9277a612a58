"""The disaster stop of plans that state none: a key of the universe, taken where a plan's own stop can be judged at closes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Union

from pydantic import Field

from trading import execution_functions
from trading.config_text import ConfigModel, Count, Positive, YamlDocument
from trading.execution_functions.managing import StopMove

KEY = "disaster_stop"
_JUDGED = ("level", "points", "percent")
"""Kinds of stop that are the same level at every later close."""


class PercentDefault(ConfigModel):
    """``{kind: percent, percent: 3}``: of the entry price. What is measured in points differs from instrument to instrument."""

    kind: Literal["percent"]
    percent: Positive = Field(lt=100)


class AtrDefault(ConfigModel):
    """``{kind: atr, period: 14, multiple: 6}``: of the plan's own timeframe."""

    kind: Literal["atr"]
    period: Count = Field(14, ge=1, le=5000)
    multiple: Positive


DisasterDefault = Annotated[Union[PercentDefault, AtrDefault], Field(discriminator="kind")]  # noqa: UP007


def with_default(document: YamlDocument, default: Mapping[str, Any] | None) -> tuple[YamlDocument, str]:
    """(the plan's document with the default in it, what that adds to the plan's revision); as it is where it does not apply.

    It applies to a plan without the key (``disaster_stop: null`` refuses it) whose stop is a level, points or percent and whose
    `manage` moves no stop: the own stop of any other plan goes on resting at the broker.
    """
    data = document.data
    if default is None or not isinstance(data, Mapping) or KEY in data:
        return document, ""
    stop, manage = data.get("stop"), data.get("manage") or []
    known = stop.get("kind") in _JUDGED if isinstance(stop, Mapping) else isinstance(stop, (int, float))
    movers = {name for name, function in execution_functions.managers().items() if issubclass(function, StopMove)}
    moved = not isinstance(manage, list) or any(not isinstance(m, Mapping) or m.get("kind") in movers for m in manage)
    if not known or moved:
        return document, ""
    return replace(document, data={**data, KEY: dict(default)}), f"\n{KEY}: {json.dumps(dict(default), sort_keys=True)}"
