"""The outside world as Dagster resources: thin, configured by the installation's settings, opened when first used.

No resource carries an address or a secret as configuration: Dagster shows configuration to everyone who can open the UI.
Objects are kept per process; a forked run opens its own.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.settings import Settings, settings

if TYPE_CHECKING:
    from resources.config import Config
    from resources.desk_client import DeskClient
    from resources.feeds.protocol import Feed
    from resources.lake import Lake
    from resources.ledger.store import Ledger
    from resources.tracking import Tracking


@lru_cache(maxsize=8)
def _lake(location: Path | str, pid: int) -> Lake:
    from resources.lake import open_lake

    return open_lake(settings())


@lru_cache(maxsize=8)
def ledger_at(url: str, pid: int) -> Ledger:
    """The ledger at `url`, for this process alone. pid: os.getpid()."""
    # One engine per process: a connection shared across a fork would mix two conversations with the server.
    from resources.ledger.store import Ledger, connect

    return Ledger(connect(url))


def desk_client(own: Settings) -> DeskClient:
    """A client of the desk these settings are of. Raises DeskUnavailable when it was never started: its token is not there."""
    from resources.desk_client import DeskClient, DeskUnavailable

    path = own.token_file
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DeskUnavailable(f"{path}: no token of the desk ({error.strerror}); start the desk with `make run`") from error
    return DeskClient(own.desk_url, token)


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Bars, quotes and features as Parquet files, in the data folder or in an object store."""

    def lake(self) -> Lake:
        return _lake(settings().lake_location, os.getpid())


class LedgerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The ledger in Postgres."""

    def ledger(self) -> Ledger:
        """The ledger; the server is asked only when a method is called. Raises FileNotFoundError before the first start."""
        return ledger_at(settings().ledger_url(), os.getpid())


class ConfigFilesResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Universe, strategies, plans and risk limits as people edit them, and the feeds the universe names."""

    def load(self) -> Config:
        """The files as they are now. Raises resources.config.ConfigInvalid."""
        from resources.config_cache import current_config

        return current_config(settings())

    def feed(self, name: str) -> Feed:
        """Raises resources.feeds.protocol.FeedError when there is no such feed or its source is not there."""
        from resources.feeds import get_feed

        return get_feed(name, settings())


class DeskResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The desk's control API."""

    def client(self) -> DeskClient:
        """Raises DeskUnavailable when the desk was never started: its token is not there."""
        return desk_client(settings())


class TrackingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Experiments and models in MLflow."""

    def tracking(self) -> Tracking:
        from resources.tracking import Tracking

        return Tracking(settings().mlflow_url)


def resource_definitions() -> dict[str, Any]:
    """Every resource by the name assets, checks and sensors ask for."""
    return {
        "lake": LakeResource(),
        "ledger": LedgerResource(),
        "config_files": ConfigFilesResource(),
        "desk": DeskResource(),
        "tracking": TrackingResource(),
    }
