"""How much of a result is luck: Sharpe ratios that know their trials, resampling, overfitting, superior ability, splits."""

from trading.statistics.bootstrap import (
    Interval,
    block_length,
    interval,
    paired,
    stationary_indices,
)
from trading.statistics.monte_carlo import Paths, bootstrap_paths, shuffle_paths
from trading.statistics.overfitting import Overfitting, probability_of_overfitting
from trading.statistics.sharpe import (
    deflated_sharpe,
    effective_trials,
    expected_maximum_sharpe,
    minimum_track_record,
    moments,
    probabilistic_sharpe,
)
from trading.statistics.splits import Split, combinatorial_paths, combinatorial_purged, walk_forward
from trading.statistics.superior import Superiority, superior_ability

__all__ = [
    "Interval", "Overfitting", "Paths", "Split", "Superiority", "block_length", "bootstrap_paths", "combinatorial_paths",
    "combinatorial_purged", "deflated_sharpe", "effective_trials", "expected_maximum_sharpe", "interval", "minimum_track_record",
    "moments", "paired", "probabilistic_sharpe", "probability_of_overfitting", "shuffle_paths", "stationary_indices",
    "superior_ability", "walk_forward",
]  # fmt: skip
