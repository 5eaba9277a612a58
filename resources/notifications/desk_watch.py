"""The desk seen from beside it: no heartbeat for a while is told, and that it is back."""

from __future__ import annotations

from sqlalchemy import Engine, select

from resources.ledger import audit
from resources.ledger.base import now_us
from resources.ledger.tables import desk_state

MISSED_BEATS = 6
START_SECONDS = 120.0
_BEAT, _SAID = "heartbeat", "desk_silent"


class DeskWatch:
    """Looks at the desk's heartbeat in the ledger. beat_seconds: how often it should come."""

    def __init__(self, beat_seconds: float, started_wall: int | None = None) -> None:
        self._patience = max(MISSED_BEATS * beat_seconds, 15.0)
        self._since = now_us() if started_wall is None else started_wall

    def look(self, engine: Engine) -> None:
        """Write into the audit that the desk is silent, or back: once each, whoever was restarted meanwhile."""
        with engine.begin() as c:
            found = {row.key: row for row in c.execute(select(desk_state).where(desk_state.c.key.in_((_BEAT, _SAID))))}
            beat = found.get(_BEAT)
            if beat is None:
                return  # no desk has ever run here
            said = bool(found[_SAID].value.get("silent")) if _SAID in found else False
            last = int(beat.value.get("wall", 0))
            now = now_us()
            old = now - last > self._patience * 1e6 and beat.value.get("state") != "stopping"
            # A desk that starts beside us is given its time.
            silent = old and (said or now - self._since > START_SECONDS * 1e6)
            if silent == said:
                return
            audit.append(c, "notifier", "desk_silent" if silent else "desk_back", {"last_heartbeat_wall": last})
            value = {"silent": silent, "wall": now}
            if _SAID in found:
                c.execute(desk_state.update().where(desk_state.c.key == _SAID).values(value=value, updated_wall=now))
            else:
                c.execute(desk_state.insert().values(key=_SAID, value=value, updated_wall=now))
