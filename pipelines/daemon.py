"""The stock Dagster daemon with a shorter sensor loop.

Dagster's sensor daemon rounds up to five seconds between evaluations, a constant of its module. A sensor that has just
asked for a run would then be deaf for up to five seconds. This starts the same daemon with `sensor_loop_seconds`
instead; where the constant is gone, the stock pace applies and the log says so.
"""

from __future__ import annotations

import sys

from resources.settings import settings


def main() -> None:
    from dagster._daemon import sensor
    from dagster._daemon.cli import main as daemon_main

    wanted = settings().sensor_loop_seconds
    if hasattr(sensor, "MIN_INTERVAL_LOOP_TIME"):
        sensor.MIN_INTERVAL_LOOP_TIME = wanted  # type: ignore[assignment]
    else:
        print("this Dagster has no MIN_INTERVAL_LOOP_TIME: sensors run at its own pace", file=sys.stderr)  # noqa: T201
    sys.argv[0] = "dagster-daemon"
    daemon_main()


if __name__ == "__main__":
    main()
