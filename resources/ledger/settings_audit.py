"""Settings, configuration files and modes as they come into force, in the audit: what changed, from what to what, by whom.

Compared with what was in force before (desk_state ``settings_in_force``, ``config_in_force``), so that a change made while the
desk was down is told at its next start. Secrets are told as set or not set.
"""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import audit
from resources.ledger import modes as ledger_modes
from resources.ledger.base import now_us
from resources.ledger.tables import desk_state
from resources.logs import mask_text
from resources.settings import Settings
from trading.instruments import Mode
from trading.modes import rank

SETTINGS_KEY, CONFIG_KEY = "settings_in_force", "config_in_force"
_MOST = 100
"""Changes named in one record; more are counted."""


def note_settings(engine: Engine, settings: Settings) -> dict[str, Any]:
    """Write what differs from the settings of the last start into the audit; gives name -> [before, now]."""
    now = {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}
    with engine.begin() as c:
        before = _get(c, SETTINGS_KEY)
        if before == now:
            return {}
        _put(c, SETTINGS_KEY, now)
        first = before is None
        changed = _differences(before or {}, now)
        content = {"first": True, "settings": now} if first else {"changed": changed}
        audit.append(c, f"desk:{_user()}", "settings_changed", content)
    return {} if first else changed


def note_config(engine: Engine, folder: Path, files: Iterable[Any], modes: Mapping[str, str]) -> dict[str, Any]:
    """Write which files' revisions and which strategies' and plans' modes changed; gives what did.

    files: with path and revision, as resources.config reads them. modes: as the files state them. Each change is a record of
    its own; one that states more than the mode that is kept (resources.ledger.modes) is told as a promotion that is not taken.
    """
    now = {"files": {f.path: f.revision for f in files}, "modes": dict(sorted(modes.items()))}
    with engine.begin() as c:
        before = _get(c, CONFIG_KEY)
        if before == now:
            return {}
        _put(c, CONFIG_KEY, now)
        if before is None:
            audit.append(c, "desk", "config_changed", {"first": True, "files": len(now["files"]), "modes": now["modes"]})
            return {}
        changed = _differences(before["files"], now["files"])
        if changed:
            owners = sorted({_owner(folder / path) for path, (_, after) in changed.items() if after is not None} - {""})
            actor = f"file:{','.join(owners)}" if owners else "file"
            shown = dict(list(changed.items())[:_MOST])
            audit.append(c, actor, "config_changed", {"changed": shown, "count": len(changed), "owners": owners})
        moved = _differences(before["modes"], now["modes"])
        standing = ledger_modes.read(c) if moved else {}
        for name, (was, mode) in moved.items():
            stands = standing.get(name)
            if mode is not None and stands is not None and rank(Mode(mode)) > rank(stands.mode):  # a promotion is a command
                content = {"strategy": name, "before": was or "", "stated": mode, "mode": stands.mode.value}
                audit.append(c, "file", "promotion_not_taken", content)
            else:
                audit.append(c, "file", "mode_changed", {"strategy": name, "before": was or "", "mode": mode or ""})
    return {**changed, **{f"mode of {name}": pair for name, pair in moved.items()}}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = sorted(before.keys() | now.keys())
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() else "not set"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return mask_text(str(value))


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError, NotImplementedError):
        return path.owner()
    return ""


def _user() -> str:
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"


def _get(connection: Connection, key: str) -> Any:
    return connection.execute(select(desk_state.c.value).where(desk_state.c.key == key)).scalar()


def _put(connection: Connection, key: str, value: Mapping[str, Any]) -> None:
    now = now_us()
    statement = insert(desk_state).values(key=key, value=dict(value), updated_wall=now)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": dict(value), "updated_wall": now}))
