"""A sweep is its single backtests, whatever thread ran them, and it never forgets how many there were."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from bench.backtest import BARS_A_SESSION, COSTS, SIZING, cross, instrument, synthetic_bars
from trading.backtest import backtest
from trading.evaluation import Evaluation
from trading.sweep import Columns, combinations, sweep

BARS = synthetic_bars("S", 4 * BARS_A_SESSION, seed=3)
GRID = {"fast": [5, 8], "slow": [20, 30, 40]}


def run(**changes: Any) -> Any:
    def make(columns: Columns, fast: int, slow: int) -> Evaluation:
        if slow == changes.get("broken"):
            raise ValueError("slow is broken")
        return cross(BARS, fast, slow, columns=columns)

    options = {"sizing": SIZING, "costs": COSTS, "cash": 100_000.0, "periods_per_year": 252.0 * BARS_A_SESSION}
    return sweep(make, GRID, BARS, instrument("S"), **options, **{k: v for k, v in changes.items() if k != "broken"})


def single(fast: int, slow: int) -> Any:
    return backtest(cross(BARS, fast, slow), BARS, instrument("S"), cash=100_000.0, sizing=SIZING, costs=COSTS)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_trial_is_the_backtest_of_its_parameters(workers: int) -> None:
    result = run(workers=workers, keep_returns="bar")
    assert result.trials == 6
    assert list(result.parameters) == combinations(GRID)
    for i, parameters in enumerate(result.parameters):
        alone = single(**parameters)
        assert result.metrics[i] == alone.metrics(252.0 * BARS_A_SESSION)
        assert result.final_equity[i] == alone.equity[-1]
        np.testing.assert_array_equal(result.returns[:, i], alone.returns)
    assert result.returns.shape == (len(BARS), 6)
    np.testing.assert_array_equal(result.close_time, BARS.close_time)


def test_memory_is_handed_from_trial_to_trial_and_never_taken_from_a_result_somebody_holds() -> None:
    held = single(5, 20)
    before = held.equity.copy()
    run(workers=1)
    first, second = single(8, 40), single(5, 40)  # the first may write into what the sweep's last trial left behind
    np.testing.assert_array_equal(held.equity, before)
    assert not np.shares_memory(first.equity, second.equity)
    np.testing.assert_array_equal(single(8, 40).equity, first.equity)


def test_returns_by_session_compound_to_the_whole() -> None:
    result = run()
    assert result.returns.shape == (4, 6)
    np.testing.assert_allclose(np.prod(1 + result.returns, axis=0), result.final_equity / 100_000.0)


def test_what_trials_share_is_computed_once() -> None:
    made: list[int] = []
    columns = Columns()

    def slow() -> int:
        made.append(1)
        return 7

    threads = [threading.Thread(target=lambda: columns("key", slow)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made, columns("key", slow)) == ([1], 7)


def test_progress_counts_every_trial() -> None:
    seen: list[tuple[int, int]] = []
    run(progress=lambda done, of: seen.append((done, of)), workers=2)
    assert seen == [(n, 6) for n in range(1, 7)]


def test_a_failed_trial_counts_and_is_named_or_ends_the_sweep() -> None:
    with pytest.raises(ValueError, match=r"trial \d .*slow is broken"):
        run(broken=30)
    result = run(broken=30, keep_going=True)
    assert result.trials == 6
    assert sorted(result.failed) == [1, 4]
    assert result.rows()[1] == {"trial": 1, "fast": 5, "slow": 30, "error": "slow is broken"}
    assert np.isnan(result.returns[:, [1, 4]]).all()
    assert result.best() not in (1, 4)


def test_the_table_has_the_parameters_and_the_figures() -> None:
    row = run().rows()[0]
    assert (row["trial"], row["fast"], row["slow"]) == (0, 5, 20)
    assert {"sharpe", "max_drawdown", "trades", "turnover"} <= set(row)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to sweep"):
        sweep(lambda columns: None, [], BARS, instrument("S"), cash=1.0, periods_per_year=252.0)
