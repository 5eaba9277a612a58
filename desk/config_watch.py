"""The configuration as the running desk sees it: read again when a file changes, and the last good one kept for exits.

While the newest files cannot be used, `trouble` says why: exits go on with what was good, new risk is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from resources.config import Config, ConfigInvalid
from resources.config_cache import stamp
from trading.strategy import Evaluable

log = structlog.get_logger("desk.config")


class ConfigWatch:
    """Callable: the configuration in force. Raises ConfigInvalid on construction when there never was a good one."""

    def __init__(self, load: Callable[[], Config], root: Path, changed: Callable[[Config], None] = lambda _: None) -> None:
        """changed: called with each configuration that comes into force, the first one included."""
        self._load = load
        self._root = root
        self._changed = changed
        self._lock = threading.Lock()
        self._stamp = stamp(root)
        self._config = load()
        self._known: dict[str, Evaluable] = {}
        self.trouble = ""
        self._remember(self._config)
        changed(self._config)

    def __call__(self) -> Config:
        return self._config

    @property
    def evaluables(self) -> dict[str, Evaluable]:
        """Strategies and plans by name; those whose file broke or went away since the start as they last were."""
        return dict(self._known)

    def refresh(self) -> None:
        """Read the files again if one of them changed. Never raises what a file can cause: see `trouble`."""
        with self._lock:
            now = stamp(self._root)
            if now == self._stamp:
                return
            self._stamp = now
            try:
                config = self._load()
            except (ConfigInvalid, OSError) as error:
                self.trouble = f"the configuration cannot be used: {error}"
                log.error("config_invalid", error=str(error))
                return
            if config.universe.revision != self._config.universe.revision:
                self.trouble = (
                    f"the universe file changed (revision {config.universe.revision}, running {self._config.universe.revision}): "
                    "restart the desk"
                )
                log.error("universe_changed", consequence="no new risk until the desk is restarted")
                return
            self.trouble = ""
            self._config = config
            self._remember(config)
            self._changed(config)
            log.info("config_reloaded", strategies=len(config.strategies), plans=len(config.plans), problems=len(config.problems))

    def _remember(self, config: Config) -> None:
        self._known.update(config.strategies)
        self._known.update(config.plans)
