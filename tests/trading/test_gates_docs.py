"""The examples of docs/gates.md and docs/sizing.md are files that check."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT
from tests.trading.strategies import parsed, problems_of, sample_text
from trading.config_text import errors
from trading.gates.settings import budget_of, gates_of

BASE = "\n".join(
    line for line in sample_text("ema_trend").splitlines() if not line.startswith(("gates:", "sizing:", "confirm:", "#"))
)


def blocks(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


@pytest.mark.parametrize("block", [*blocks("gates.md"), *blocks("sizing.md")])
def test_every_example_is_a_valid_part_of_a_strategy(block: str) -> None:
    text = BASE + "\n" + block
    text += "" if "confirm:" in block else "confirm: [4h]\n"
    text += "" if "sizing:" in block else "sizing: {kind: fixed, quantity: 1000}\n"
    assert not [str(p) for p in errors(problems_of(text))]


def test_the_sample_with_every_optional_gate_on_sends_nothing() -> None:
    guarded = parsed(sample_text("eurusd_guarded"))
    assert (guarded.status, str(guarded.mode)) == ("active", "shadow")
    assert set(gates_of(guarded).switched_on) >= {"news", "regime", "confluence", "volatility"}
    assert budget_of(guarded) == 1.0


def test_there_is_an_example_of_every_gate_and_every_adaptive_size() -> None:
    gates, sizes = "".join(blocks("gates.md")), "".join(blocks("sizing.md"))
    for name in (
        "quality_sessions",
        "min_reward_to_risk",
        "news:",
        "regime:",
        "confluence:",
        "atr:",
        "vix:",
        "volume:",
        "budget:",
    ):
        assert name in gates
    for name in ("atr_risk", "volatility_target", "kelly"):
        assert name in sizes
