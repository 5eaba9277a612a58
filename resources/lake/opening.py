"""The lake an installation's settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resources.lake.errors import LakeError
from resources.lake.store import Lake

if TYPE_CHECKING:
    from resources.settings import Settings


def open_lake(own: Settings) -> Lake:
    """The lake at TAPELINE_LAKE_URL, or in the data folder. Raises LakeError for a URL or credentials that cannot be used."""
    if not own.lake_url:
        return Lake(own.lake_dir)
    if (own.lake_access_key is None) != (own.lake_secret_key is None):
        raise LakeError("TAPELINE_LAKE_ACCESS_KEY and TAPELINE_LAKE_SECRET_KEY belong together: give both or none")
    if own.lake_access_key is None or own.lake_secret_key is None:
        return Lake(own.lake_url)
    from resources.lake.object_store import Credentials

    return Lake(own.lake_url, Credentials(own.lake_access_key.get_secret_value(), own.lake_secret_key.get_secret_value()))
