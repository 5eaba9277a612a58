"""``python -m desk``: the desk process."""

from __future__ import annotations

import asyncio
import sys


def main() -> int:
    """Run the desk until it is told to stop; the exit code of desk.app."""
    from desk.app import DeskProcess
    from desk.quiet import settler
    from resources.logs import configure
    from resources.settings import settings

    own = settings()
    configure("desk", own.log_level)
    settler.start()

    async def run() -> int:
        return await DeskProcess(own).run()

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
