"""The launcher dagster.yaml names: the run host's, or the Celery lane's where a broker is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._core.launcher.base import RunLauncher
from dagster._serdes.config_class import ConfigurableClassData

from resources.run_host.launcher import WarmRunLauncher
from resources.settings import settings


class ConfiguredRunLauncher(WarmRunLauncher):
    """Same configuration as WarmRunLauncher; with TAPELINE_CELERY_BROKER_URL it becomes a CeleryLane.

    What is made need not be of this class: Dagster only asks for a RunLauncher.
    """

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> RunLauncher:
        if settings().celery_broker_url is None:
            return WarmRunLauncher.from_config_value(inst_data, config_value)
        from resources.run_host.celery_lane import CeleryLane  # the packages are there only where Celery is wanted

        return CeleryLane.from_config_value(inst_data, {})
