"""The mode of every strategy and plan: stated first by its file, changed by command, kept in the ledger (desk_state ``modes``
of the main book, for all books).

A file that states a lower mode than before is obeyed at once; one that states a higher mode is not: that is a promotion, and
promotions are commands. Every change is in the audit with who and why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import audit
from resources.ledger.tables import shared_state
from trading import modes
from trading.instruments import Mode

KEY: Final = "modes"
_LOCK = 0x7461_7065_6D6F


@dataclass(frozen=True, slots=True)
class Standing:
    """The mode of one strategy or plan. stated: by its file, as last read; since_wall: real clock, UTC us."""

    mode: Mode
    stated: Mode
    reason: str
    who: str
    since_wall: int

    @property
    def wish(self) -> str:
        """What the file asks for and does not get, "" when it gets what it states."""
        if modes.rank(self.stated) <= modes.rank(self.mode):
            return ""
        return f"its file states {self.stated}: `tapeline modes set NAME {self.stated}` promotes it"

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "mode": self.mode.value, "stated": self.stated.value}


def read(connection: Connection) -> dict[str, Standing]:
    """Every mode that is kept, by name. One that cannot be read counts as shadow: nothing is sent on a guess."""
    found = connection.execute(select(shared_state.c.value).where(shared_state.c.key == KEY)).scalar()
    return {name: _standing(value) for name, value in sorted(dict(found or {}).items())}


def mode_of(known: Mapping[str, Standing], name: str, stated: Mode, highest: Mode) -> Mode:
    """The mode `name` runs in: the kept one, else what its file states for the first time; never above `highest`."""
    standing = known.get(name)
    return modes.capped(standing.mode if standing is not None else modes.first_of(stated), highest)


def note_files(connection: Connection, stated: Mapping[str, Mode]) -> dict[str, Standing]:
    """Take over what the files state: new names, and demotions. Gives every mode that is kept now."""
    _lock(connection)
    known = read(connection)
    now, first, changed = _wall(), {}, False
    for name, mode in sorted(stated.items()):
        standing = known.get(name)
        if standing is None:
            known[name] = Standing(modes.first_of(mode), mode, "stated by its file", "file", now)
            first[name] = known[name].mode.value
        elif standing.stated is not mode:
            down = modes.rank(mode) < modes.rank(standing.mode)
            known[name] = Standing(mode if down else standing.mode, mode, *_why(standing, mode, now, down=down))
            if down:
                _tell(connection, "file", name, standing.mode, mode, "its file states a lower mode", forced=False)
        else:
            continue
        changed = True
    if first:
        audit.append(connection, "file", "modes_stated", {"modes": first})
    if changed:
        _put(connection, known)
    return known


def change(connection: Connection, name: str, to: Mode, *, reason: str, who: str, forced: bool) -> dict[str, Standing]:
    """Set the mode of a kept name; audited. Gives every mode that is kept now. Raises KeyError when it is not kept."""
    _lock(connection)
    known = read(connection)
    before = known[name]
    known[name] = Standing(to, before.stated, reason, who, _wall())
    _put(connection, known)
    _tell(connection, who, name, before.mode, to, reason, forced=forced)
    return known


def _why(standing: Standing, mode: Mode, now: int, *, down: bool) -> tuple[str, str, int]:
    return (f"its file states {mode}", "file", now) if down else (standing.reason, standing.who, standing.since_wall)


def _standing(value: Any) -> Standing:
    try:
        return Standing(
            Mode(value["mode"]), Mode(value["stated"]), str(value["reason"]), str(value["who"]), int(value["since_wall"])
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        return Standing(Mode.SHADOW, Mode.SHADOW, f"unreadable in the ledger ({type(error).__name__})", "ledger", 0)


def _tell(connection: Connection, who: str, name: str, was: Mode, to: Mode, reason: str, *, forced: bool) -> None:
    content = {"strategy": name, "before": was.value, "mode": to.value, "reason": reason, "forced": forced}
    audit.append(connection, who, "mode_set", content)


def _lock(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _put(connection: Connection, known: Mapping[str, Standing]) -> None:
    value = {name: standing.plain() for name, standing in known.items()}
    statement = insert(shared_state).values(key=KEY, value=value, updated_wall=_wall())
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value, "updated_wall": _wall()}))


def _wall() -> int:
    return time.time_ns() // 1000
