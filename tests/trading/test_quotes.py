"""Quote bars: a missing side is missing, equal quotes have equal hashes."""

from __future__ import annotations

import numpy as np
import pytest

from trading.quotes import QUOTE_COLUMNS, QuoteBars, concat
from trading.timeframes import Timeframe


def quotes(n: int = 3, first: int = 0, symbol: str = "X") -> QuoteBars:
    base = np.arange(first, first + n, dtype=np.float64)
    values = {c: base + (2.0 if c.startswith("ask") else 1.0) for c in QUOTE_COLUMNS}
    time = (np.arange(first, first + n) + 1) * 60_000_000
    return QuoteBars(symbol, Timeframe.M1, time.astype(np.int64), np.zeros(n, np.int32), **values)


def test_mid_and_spread_need_both_sides() -> None:
    bars = quotes()
    assert (bars.mid.tolist(), bars.spread.tolist()) == ([1.5, 2.5, 3.5], [1.0, 1.0, 1.0])
    bars.bid_close[1] = np.nan
    assert np.isnan(bars.mid).tolist() == [False, True, False]
    bars.bid_close[2] = 99.0
    assert bars.crossed.tolist() == [False, False, True]


def test_a_missing_quote_is_one_value_whatever_its_bits() -> None:
    one, two = quotes(), quotes()
    one.bid_open[0] = np.nan
    two.bid_open[0] = -np.nan
    assert one.content_hash() == two.content_hash() != quotes().content_hash()


def test_parts_join_in_order_and_never_overlap() -> None:
    whole = quotes(6)
    assert concat([quotes(3, 3), quotes(3)]).content_hash() == whole.content_hash()
    assert whole.known_at(180_000_000).content_hash() == quotes(3).content_hash()
    with pytest.raises(ValueError, match="overlap"):
        concat([quotes(3), quotes(3, 2)])
    with pytest.raises(ValueError, match="different symbols"):
        concat([quotes(), quotes(symbol="Y")])
    with pytest.raises(ValueError, match="nothing"):
        concat([])


def test_columns_have_one_length() -> None:
    empty = QuoteBars.empty("X", Timeframe.M1)
    assert len(empty) == 0
    with pytest.raises(ValueError, match="bid_open has 0 rows, expected 3"):
        QuoteBars("X", Timeframe.M1, np.zeros(3, np.int64), np.zeros(3, np.int32), *(getattr(empty, c) for c in QUOTE_COLUMNS))
