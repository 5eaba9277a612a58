"""The benchmark command and the backtest benchmark: their figures are only worth what their comparison is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import __main__ as command
from bench import backtest as bench
from bench import reference
from bench.core import Row, Timing, at_least, at_most, forget_peak_memory, peak_memory_mb, rate, ratio_at_most, timed_pair

RUN = {"fast": 10, "slow": 30, "quantity": 100.0, "rate": 0.0001, "cash": 1_000_000.0}


@pytest.mark.parametrize("seed", range(3))
def test_the_hand_written_loop_is_the_plain_python_one(seed: int) -> None:
    # On a grid of 1/64 every sum is exact, so that running sums and sums of windows cannot round a tie differently.
    bars = bench.synthetic_bars("S", 3000, seed)
    open_, close = np.round(bars.open * 64) / 64, np.round(bars.close * 64) / 64
    fast, slow = reference.sma_cross(open_, close, **RUN), reference.sma_cross_plain(open_, close, **RUN)
    assert len(fast.entry_row) > 30
    for name in ("entry_row", "exit_row", "entry_price", "exit_price", "open_row"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
    np.testing.assert_allclose(fast.equity, slow.equity, rtol=0, atol=1e-4)


def test_a_reference_that_fills_differently_stops_the_benchmark() -> None:
    bars = [bench.synthetic_bars("S", 3000, 1)]
    result = bench.run_cross(bars, [bench.instrument("S")], 10, 30)
    ledgers, equity = bench.run_reference(bars, 10, 30)
    bench.check_same(result, bars, ledgers, equity)
    ledgers[0].exit_price[3] += 0.01
    with pytest.raises(AssertionError):
        bench.check_same(result, bars, ledgers, equity)


def test_an_average_that_differs_in_its_last_bit_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = bench.synthetic_bars("S", 3000, 1)
    bench.check_averages(bars, (10, 30))
    mean = reference.running_mean

    def off(close: np.ndarray, period: int) -> np.ndarray:  # type: ignore[type-arg]
        out = mean(close, period)
        out[-1] = np.nextafter(out[-1], np.inf)
        return out

    monkeypatch.setattr(reference, "running_mean", off)
    with pytest.raises(AssertionError):
        bench.check_averages(bars, (10, 30))


def test_quick_gives_every_row_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["backtest", "--json", "--quick"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["w1", "w2", "w2_peak_memory", "w3", "w3_cores", "first_call", "full_engine", "every_feature"]
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert set(row) == {"name", "value", "unit", "reference", "ratio", "goal", "verdict"}
        assert row["value"] > 0
        cost = row["reference"] / row["value"] if row["unit"] == "bars/s" else row["value"] / row["reference"]
        assert row["ratio"] == pytest.approx(cost, rel=0.05, abs=0.01)


def test_a_table_without_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "run", lambda quick: iter([Row("w1", 1.5, "s", 0.5, 3.0), Row("w2", 2.0, "s")]))
    assert command.main(["backtest"]) == 0
    assert "w1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("write", 11e6, "rows/s", goal=at_least(10e6)), "met"),
        (Row("write", 9e6, "rows/s", goal=at_least(10e6)), "missed"),
        (Row("bytes", 5.0, "B", goal=at_most(5)), "met"),
        (Row("bytes", 5.1, "B", goal=at_most(5)), "missed"),
        (Row("resample", 100.0, "M bars/s", 60.0, 0.6, goal=ratio_at_most(2)), "met"),
        (Row("resample", 100.0, "M bars/s", 260.0, 2.6, goal=ratio_at_most(2)), "missed"),
        (Row("resample", 100.0, "M bars/s", goal=ratio_at_most(2)), "missed"),
        (Row("read", 1.0, "rows/s"), ""),
    ],
)
def test_a_goal_is_met_or_missed_and_a_figure_that_is_not_there_misses_it(row: Row, verdict: str) -> None:
    assert row.verdict == verdict
    assert row.to_dict().get("verdict", "") == verdict


def test_the_ratio_is_what_ours_costs_over_the_reference_in_figures_per_second_too() -> None:
    row = rate("x", 1000, "rows/s", Timing(wall=2.0, cpu=4.0), Timing(wall=4.0, cpu=4.0))
    assert (row.value, row.reference, row.ratio, row.per_cpu) == (500.0, 250.0, 0.5, 250.0)


def test_the_least_of_the_calls_counts_and_both_take_turns() -> None:
    calls: list[str] = []
    mine, theirs = timed_pair(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs"] * 3
    assert min(mine.wall, theirs.wall) >= 0
    assert Timing(1.0, 5.0).best(Timing(2.0, 3.0)) == Timing(1.0, 3.0)


def test_memory_is_counted_from_where_it_was_forgotten() -> None:
    block = np.ones(20_000_000)
    high = peak_memory_mb()
    del block
    forget_peak_memory()
    assert peak_memory_mb() <= high


@pytest.mark.parametrize("name", ["resample", "features"])
def test_the_data_benchmarks_agree_with_their_references_and_say_what_they_reach(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([name, "--json", "--quick"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"peak_memory"} < {row["name"] for row in rows}
    assert {row["verdict"] for row in rows if "goal" in row} <= {"met", "missed"}
    assert all(row["value"] > 0 for row in rows)


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_an_unknown_name_lists_the_names(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert "backtest" in capsys.readouterr().err
