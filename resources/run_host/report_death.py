"""``python -m resources.run_host.report_death RUN_ID``: mark a run failed whose process died without saying so."""

from __future__ import annotations

import sys

from resources.run_host.execute import report_crash

if __name__ == "__main__":
    sys.exit(report_crash(sys.argv[1], -9))
