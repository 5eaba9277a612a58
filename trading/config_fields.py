"""What a file may say at one place of its schema: the keys of a mapping, the kinds a union chooses by, and which is meant.

Places are those of pydantic's errors: keys and list indices as in the file, and between them the tags of unions.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

Loc = Sequence[str | int]


def field_names(model: Any, loc: Loc) -> list[str]:
    """Valid keys at `loc` inside `model`, by alias; [] when that place is not a mapping of known keys."""
    models = [m for found in _at(model, loc) for m in _models(found)]
    return list(dict.fromkeys(info.alias or name for m in models for name, info in m.model_fields.items()))


def kinds(model: Any, loc: Loc, key: str) -> dict[str, list[str]]:
    """Values that `key` may have at `loc` inside `model`, each with the other keys of a mapping of that kind."""
    found: dict[str, list[str]] = {}
    for candidate in (m for place in _at(model, loc) for m in _models(place)):
        info = candidate.model_fields.get(key)
        names = [f.alias or name for name, f in candidate.model_fields.items() if name != key]
        for tag in sorted(_literals(info.annotation)) if info is not None else ():
            found.setdefault(tag, names)
    return found


def meant(given: object, known: Mapping[str, Sequence[str]]) -> str:
    """The one kind of `known` that has the most of the keys given, or "" when two have as many or none has one."""
    if not isinstance(given, Mapping):
        return ""
    matches = {kind: sum(name in given for name in names) for kind, names in known.items()}
    most = max(matches.values(), default=0)
    best = [kind for kind, n in matches.items() if n == most]
    return best[0] if most and len(best) == 1 else ""


def _at(model: Any, loc: Loc) -> list[Any]:
    places: list[Any] = [model]
    for part in loc:
        places = [following for place in places for following in _step(place, part)]
    return places


def _step(place: Any, part: str | int) -> list[Any]:
    """Annotations one part of a place further on."""
    if _is_model(place):
        named = [info.annotation for name, info in place.model_fields.items() if part in (info.alias or name, name)]
        return named or ([place] if isinstance(part, str) and _is_wrapper(part) else [])
    origin, arguments = typing.get_origin(place), typing.get_args(place)
    if origin is Annotated:
        return _step(arguments[0], part)
    if origin in (typing.Union, types.UnionType):
        members = [m for a in arguments for m in _members(a)]
        if isinstance(part, str) and (tagged := [m for m in members if part in _tags(m)]):
            return tagged
        return [following for member in members for following in _step(member, part)]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return [arguments[1]]
    if isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset):
        return [arguments[0]] if isinstance(part, int) else [place]
    return []


def _is_wrapper(part: str) -> bool:
    return "[" in part or "-" in part  # function-wrap[...], list[...]: what pydantic calls a step of its own


def _members(place: Any) -> list[Any]:
    """What a union holds, unions within it and what is Annotated opened."""
    origin, arguments = typing.get_origin(place), typing.get_args(place)
    if origin is Annotated:
        return _members(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [m for a in arguments for m in _members(a)]
    return [place]


def _tags(place: Any) -> set[Any]:
    if not _is_model(place):
        return set()
    return {place.__name__} | {word for info in place.model_fields.values() for word in _literals(info.annotation)}


def _models(place: Any) -> list[Any]:
    """Pydantic models a value at this place may be."""
    return [m for m in _members(place) if _is_model(m)]


def _is_model(place: Any) -> bool:
    return isinstance(place, type) and issubclass(place, pydantic.BaseModel)


def _literals(annotation: Any) -> set[Any]:
    return set(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else set()
