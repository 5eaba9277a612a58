"""Strategies tried on the lake's bars: rules that never change there are told, answers that look ahead are errors."""

from __future__ import annotations

from pathlib import Path

from resources.config import load_config
from resources.strategy_samples import sample_problems
from tests.assets.sample_lake import fill, installation


def test_the_samples_are_tried_on_real_bars_and_a_dead_rule_is_told(tmp_path: Path) -> None:
    with installation(tmp_path) as settings:
        path = settings.config / "strategies" / "rsi_reversion.yaml"
        path.write_text(path.read_text().replace("  long: {cross_above: [{indicator: rsi, params: {period: 14}}, 30]}",
                                                 '  long: {all: [{cross_above: [{indicator: rsi}, 30]}, {">": [close, 1]}]}'))  # fmt: skip  # noqa: E501
        config = load_config(settings)
        assert config.problems == []
        found, untried = sample_problems(config, fill(settings), settings.config)
        assert [p for p in found if p.severity == "error"] == []
        assert any(
            p.file.endswith("rsi_reversion.yaml") and p.key == "entry.long.all[1]" and "every of the" in p.message for p in found
        )
        assert [line.split(":")[0] for line in untried] == ["momentum_scanner"]
