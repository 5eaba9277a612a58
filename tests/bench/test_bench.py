"""The benchmark command and the backtest benchmark: their figures are only worth what their comparison is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import __main__ as command
from bench import backtest as bench
from bench import reference
from bench.core import Row

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
        assert set(row) == {"name", "value", "unit", "reference", "ratio"}
        assert row["value"] > 0
        assert row["ratio"] == pytest.approx(row["value"] / row["reference"], rel=0.05, abs=0.01)


def test_a_table_without_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "run", lambda quick: iter([Row("w1", 1.5, "s", 0.5, 3.0), Row("w2", 2.0, "s")]))
    assert command.main(["backtest"]) == 0
    assert "w1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_an_unknown_name_lists_the_names(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert "backtest" in capsys.readouterr().err
