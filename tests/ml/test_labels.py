"""Labels are what a trade decided at the close could have earned, and say when they are known."""

from __future__ import annotations

import numpy as np
import pytest

from ml.labels import forward_direction
from tests.ml.synthetic import daily_bars


def test_a_label_is_the_return_from_the_next_open_to_the_open_horizon_bars_later() -> None:
    bars = daily_bars("S", np.zeros(30), strength=0.0, seed=3)
    labels = forward_direction(bars, 5)
    assert labels.forward_return[7] == bars.open[13] / bars.open[8] - 1
    assert labels.direction[7] == (labels.forward_return[7] > 0)
    assert labels.event_start[7] == bars.close_time[7]
    assert labels.event_end[7] == bars.close_time[13]


def test_a_row_whose_holding_period_is_not_over_has_no_label() -> None:
    labels = forward_direction(daily_bars("S", np.zeros(30), strength=0.0, seed=3), 5)
    assert labels.valid.tolist() == [True] * 24 + [False] * 6
    assert np.isnan(labels.forward_return[24:]).all()


def test_labels_do_not_change_when_later_bars_arrive() -> None:
    bars = daily_bars("S", np.zeros(60), strength=0.0, seed=4)
    early, late = forward_direction(bars.rows(slice(0, 40)), 3), forward_direction(bars, 3)
    known = early.valid
    assert np.array_equal(early.forward_return[known], late.forward_return[:40][known])


def test_too_few_bars_give_no_label_and_no_horizon_is_an_error() -> None:
    bars = daily_bars("S", np.zeros(4), strength=0.0, seed=1)
    assert not forward_direction(bars, 5).valid.any()
    with pytest.raises(ValueError, match="horizon is 0 bars"):
        forward_direction(bars, 0)
