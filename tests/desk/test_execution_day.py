# ruff: noqa: F811, F401 - fixtures are imported by name
"""A strategy file that asks for slices, from its text to the fills: the desk works them with its bar closes, over a restart."""

from __future__ import annotations

import itertools
import json

from desk.desk_reads import algos
from tests.desk.running import STRATEGY, MakeInstallation, history, install
from tests.desk.test_engine import Day


def test_a_days_entries_are_worked_close_by_close_and_go_on_after_a_restart(install: MakeInstallation) -> None:
    at = install()
    (file,) = (path for path in at.settings.config.glob("strategies/*.yaml") if path.read_text() == STRATEGY)
    file.write_text(
        STRATEGY.replace("valid_bars: 1", "valid_bars: 8").replace("max_bars: 3", "max_bars: 9")
        + "execution: {algo: twap, minutes: 240, slices: 4}\n"
    )
    day = Day(at)
    try:
        for n in range(9):
            day.close(n)
            if n == 4:
                day.restart()
        found = algos(day.live.ledger.engine, state=None, session=None, strategy="often", symbol=None, limit=10)
        complete = [a for a in found if a["reason"] == "complete"]
        assert complete, found
        bought = [(s["quantity"], s["state"]) for s in complete[-1]["slices"]]
        assert bought == [(3000.0, "filled"), (2000.0, "filled"), (3000.0, "filled"), (2000.0, "filled")]
        times = [s["wanted_time"] for s in complete[-1]["slices"]]
        assert [b - a for a, b in itertools.pairwise(times)] == [3_600_000_000] * 3
        assert day.live.store.state("mismatches") == {}
        assert json.dumps(found)
    finally:
        day.live.close()
