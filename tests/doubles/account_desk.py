"""``python -m tests.doubles.account_desk``: the desk process of an installation whose broker is the account for tests."""

from __future__ import annotations

import asyncio
import sys

import desk.live
from desk.app import DeskProcess
from resources.brokers import get_broker
from resources.logs import configure
from resources.settings import Settings
from tests.doubles.account_broker import ACCOUNT, NAME, brokers


def at_the_account(settings: Settings) -> Settings:
    """The same installation with that broker, live."""
    return settings.model_copy(update={"broker": NAME, "mode": "live", "live_account": ACCOUNT})


def main() -> int:
    """Run it until it is told to stop. Settings come from TAPELINE_* variables."""
    own = at_the_account(Settings())
    desk.live.get_broker = brokers(get_broker)
    configure("desk", own.log_level)

    async def run() -> int:
        return await DeskProcess(own).run()

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
