# ruff: noqa: F811, F401 - fixtures are imported by name
"""What goes into the lake comes out: bars, quotes and features, bit for bit, on every storage."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resources.lake import Lake, LakeError, PartitionMissing, digest
from resources.lake.codec import run_hashes
from tests.paths import lean_data
from tests.resources.lake_kit import (
    D1,
    D2,
    D3,
    INSTRUMENTS,
    XNYS,
    append,
    counted_parts,
    daily,
    folder_lake,
    instrument,
    lake,
    minutes,
    object_store,
    part_files,
    reopened,
    session,
    with_extras,
    write,
)
from trading.bars import Bars
from trading.quotes import QuoteBars
from trading.timeframes import US_PER_MINUTE, Timeframe, session_number


def test_bars_come_back_bit_for_bit_with_the_hash_they_had(lake: Lake) -> None:
    bars = minutes("AAPL", D1, D2, D3)
    write(lake, bars)
    again = reopened(lake).read_bars("bars_1m", "AAPL")
    assert again.content_hash() == bars.content_hash()
    one = lake.read_bars("bars_1m", "AAPL", D2, D2)
    assert len(one) == 390
    assert lake.partition("bars_1m", D2, "AAPL").content_hash == one.content_hash()


prices = st.one_of(
    st.integers(1, 10**7).map(lambda n: n / 100),
    st.integers(1, 10**9).map(lambda n: n / 10**6),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, float("nan"), 1e300, 5e-324, 0.1 + 0.2, 2.0**53, -12.34]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(prices, prices, prices, prices, prices), min_size=1, max_size=20),
    tick=st.sampled_from(["0.01", "0.00001", "0.25", "1", "5", "0.005"]),
)
@example(values=[(-0.0, 2.0, 1.0, 1.0, 5.0)], tick="0.01")
@example(values=[(1.0, -0.0, 1.0, 1.0, 5.0)], tick="0.01")
@example(values=[(1.0, 2.0, -0.0, 1.0, 5.0)], tick="0.01")
@example(values=[(1.0, 2.0, 1.0, -0.0, 5.0)], tick="0.01")
@example(values=[(2.0**31 / 100, 2.0**31 / 100, 1.0, 1.0, 2.0**31)], tick="0.01")
@example(values=[(1.0, 2.0, 1.0, 1.0, -0.0)], tick="0.01")
@example(values=[(0.1 + 0.2, 2.0, 0.1, 1.0, 2.0**40)], tick="0.1")
def test_any_float_survives_on_any_grid(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, ...]], tick: str
) -> None:
    n = len(values)
    columns = [np.array(c, np.float64) for c in zip(*values, strict=True)]
    opens, _ = XNYS.bounds(D1)
    times = opens + US_PER_MINUTE * np.arange(1, n + 1)
    bars = Bars("X", Timeframe.M1, times, np.full(n, session_number(D1), np.int32), *columns)
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.write_bars("bars_1m", {"X": bars}, start=D1, end=D1, source="t", instruments={"X": instrument("X", tick)})
    assert lake.read_bars("bars_1m", "X").content_hash() == bars.content_hash()
    assert lake.verify("bars_1m") == []


@pytest.mark.parametrize(("tick", "price"), [("0.01", 123.45), ("0.00001", 1.05236), ("0.25", 2001.75), ("5", 1235.0)])
def test_prices_on_the_grid_are_stored_as_whole_ticks(folder_lake: Lake, tick: str, price: float) -> None:
    bars = replace_prices(minutes("AAPL", D1, rows=5), price)
    folder_lake.write_bars(
        "bars_1m", {"AAPL": bars}, start=D1, end=D1, source="t", instruments={"AAPL": instrument("AAPL", tick)}
    )
    stored = pq.read_table(part_files(folder_lake)[0])
    assert stored.column("open").to_pylist() == [round(price / float(tick))] * 5
    assert stored.column("symbol").to_pylist() == ["AAPL"] * 5


def replace_prices(bars: Bars, price: float) -> Bars:
    p = np.full(len(bars), price)
    return replace(bars, open=p, high=p, low=p, close=p)


def test_a_price_off_the_grid_makes_only_its_symbol_float(folder_lake: Lake) -> None:
    odd = replace_prices(minutes("ODD", D1), np.pi)
    folder_lake.write_bars(
        "bars_1m", {"ODD": odd, "AAPL": minutes("AAPL", D1)}, start=D1, end=D1, source="t", instruments=INSTRUMENTS
    )
    types = sorted(str(pq.read_schema(f).field("open").type) for f in part_files(folder_lake))
    assert types == ["double", "int32"]
    assert folder_lake.read_bars("bars_1m", "ODD").content_hash() == odd.content_hash()


def test_datasets_partitions_and_ranges(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2, D3))
    write(lake, minutes("MSFT", D2, seed=1), D2, D2)
    assert lake.datasets() == ["bars_1m"]
    held = [(p.session, p.symbol, p.rows, p.source) for p in lake.partitions("bars_1m", D2, D3)]
    assert held == [(D2, "AAPL", 390, "test"), (D2, "MSFT", 390, "test"), (D3, "AAPL", 390, "test")]
    first = lake.partition("bars_1m", D2, "AAPL")
    assert (first.first_close_time, first.last_close_time) == (XNYS.bounds(D2)[0] + US_PER_MINUTE, XNYS.bounds(D2)[1])
    assert len(lake.read_bars("bars_1m", "AAPL", D2)) == 780
    assert len(lake.read_bars("bars_1m", "AAPL", end=D1)) == 390
    assert len(lake.read_bars("bars_1m", "NONE")) == 0
    with pytest.raises(PartitionMissing, match="bars_1m/2014-06-06/NONE"):
        lake.partition("bars_1m", D2, "NONE")
    with pytest.raises(LakeError, match="bars_7m"):
        lake.read_bars("bars_7m", "AAPL")


def test_daily_bars_of_twenty_years_are_twenty_files(folder_lake: Lake) -> None:
    bars = daily("AAPL", date(1995, 1, 1), date(2014, 12, 31))
    write(folder_lake, bars, date(1995, 1, 1), date(2014, 12, 31))
    assert len(counted_parts(folder_lake)) == 20
    assert folder_lake.read_bars("bars_1d", "AAPL").content_hash() == bars.content_hash()
    assert (
        folder_lake.read_bars("bars_1d", "AAPL", D1, D1).content_hash()
        == folder_lake.partition("bars_1d", D1, "AAPL").content_hash
    )


# ---- features ----------------------------------------------------------------------------------------------------


def test_features_come_back_with_names_and_version(lake: Lake) -> None:
    bars = daily("AAPL", D1, D3)
    values = np.array([[np.nan, 1.0], [0.1, -0.0], [np.pi, 3.0]])
    lake.write_features(
        "features_1d", "AAPL", ["rsi", "ema"], bars.close_time, bars.session, values, start=D1, end=D3, version="v1"
    )
    got = lake.read_features("features_1d", "AAPL")
    assert (got.names, got.version, got.symbol) == (("rsi", "ema"), "v1", "AAPL")
    assert got.values.tobytes() == values.tobytes()
    assert got.column("ema").tolist() == [1.0, -0.0, 3.0]
    assert lake.verify("features_1d") == []
    assert len(lake.read_features("features_1d", "MSFT")) == 0


def test_versions_of_features_are_never_mixed(lake: Lake) -> None:
    bars = daily("AAPL", D1, D3)

    def put(rows: slice, day: date, end: date, names: list[str], version: str) -> None:
        b = bars.rows(rows)
        lake.write_features(
            "features_1d",
            "AAPL",
            names,
            b.close_time,
            b.session,
            np.ones((len(b), len(names))),
            start=day,
            end=end,
            version=version,
        )

    put(slice(0, 2), D1, D2, ["a"], "v1")
    put(slice(2, 3), D3, D3, ["a"], "v2")
    with pytest.raises(LakeError, match="versions"):
        lake.read_features("features_1d", "AAPL")
    assert lake.read_features("features_1d", "AAPL", D3, D3).version == "v2"
    with pytest.raises(LakeError, match="columns"):
        put(slice(2, 3), D3, D3, ["a", "b"], "v3")
    put(slice(0, 3), D1, D3, ["a", "b"], "v3")
    assert lake.read_features("features_1d", "AAPL").names == ("a", "b")


# ---- optional columns --------------------------------------------------------------------------------------------


def test_turnover_and_trades_come_back_bit_for_bit(lake: Lake) -> None:
    bars = with_extras(minutes("AAPL", D1, D2))
    write(lake, bars, D1, D2)
    got = reopened(lake).read_bars("bars_1m", "AAPL")
    assert got.extras == ("turnover", "trades")
    assert got.content_hash() == bars.content_hash()
    assert lake.partition("bars_1m", D2, "AAPL").content_hash == session(bars, D2).content_hash()
    assert lake.verify("bars_1m") == []


@pytest.mark.parametrize("column", ["turnover", "trades"])
def test_one_optional_column_alone_and_off_its_grid(folder_lake: Lake, column: str) -> None:
    odd = np.array([np.pi, -0.0, np.nan, 2.0**60, 0.1])
    bars = replace(minutes("AAPL", D1, rows=5), **{column: odd})
    write(folder_lake, bars, D1, D1)
    assert folder_lake.read_bars("bars_1m", "AAPL").content_hash() == bars.content_hash()


def test_sessions_with_and_without_optional_columns_live_in_one_month(lake: Lake) -> None:
    """A vendor's history has no trade counts, the live feed has: each session keeps what it was written with."""
    bars = minutes("AAPL", D1, D2, D3)
    write(lake, session(bars, D1), D1, D1)
    write(lake, with_extras(session(bars, D2)), D2, D2)
    write(lake, replace(session(bars, D3), trades=np.ones(390)), D3, D3)
    for day, extras in ((D1, ()), (D2, ("turnover", "trades")), (D3, ("trades",))):
        one = lake.read_bars("bars_1m", "AAPL", day, day)
        assert one.extras == extras
        assert one.content_hash() == lake.partition("bars_1m", day, "AAPL").content_hash
    assert lake.read_bars("bars_1m", "AAPL", D2, D3).extras == ("trades",)
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == bars.content_hash()
    assert lake.verify("bars_1m") == []


def test_a_minute_without_trade_count_makes_the_session_one_without(lake: Lake) -> None:
    day = minutes("AAPL", D3)
    append(lake, D3, with_extras(day).rows(slice(0, 3)))
    append(lake, D3, with_extras(day).rows(slice(3, 5)))
    assert lake.read_bars("bars_1m", "AAPL").extras == ("turnover", "trades")
    before = lake.read_bars("bars_1m", "AAPL")
    append(lake, D3, day.rows(slice(5, 6)))
    assert lake.read_bars("bars_1m", "AAPL").content_hash() == day.rows(slice(0, 6)).content_hash()
    assert lake.read_version("bars_1m", "AAPL", D3, before.content_hash()).content_hash() == before.content_hash()


# ---- quotes ------------------------------------------------------------------------------------------------------


def quotes(symbol: str, day: date, seed: int = 0) -> QuoteBars:
    """Both sides from the bars' prices, with minutes where nobody quoted one of them."""
    bars, rng = minutes(symbol, day, seed=seed), np.random.default_rng(seed)
    columns = {}
    for side, shift in (("bid", -0.01), ("ask", 0.01)):
        gone = rng.random(len(bars)) < 0.1
        for name in ("open", "high", "low", "close"):
            columns[f"{side}_{name}"] = np.where(gone, np.nan, np.rint((getattr(bars, name) + shift) * 100) / 100)
        columns[f"{side}_size"] = np.where(gone, np.nan, rng.integers(1, 900, len(bars)) * 100.0)
    return QuoteBars(symbol, bars.timeframe, bars.close_time, bars.session, **columns)


def test_quotes_come_back_bit_for_bit_and_a_missing_side_stays_missing(lake: Lake) -> None:
    offered = {"AAPL": quotes("AAPL", D1), "MSFT": quotes("MSFT", D1, 1)}
    got = lake.write_quotes("quotes_1m", offered, start=D1, end=D1, source="lean", instruments=INSTRUMENTS)
    assert [(p.symbol, p.content_hash) for p in got] == [(s, q.content_hash()) for s, q in offered.items()]
    again = reopened(lake).read_quotes("quotes_1m", "AAPL")
    assert again.content_hash() == offered["AAPL"].content_hash()
    assert np.isnan(again.bid_close).sum() > 10
    assert lake.datasets() == ["quotes_1m"]
    assert lake.verify("quotes_1m") == []
    assert len(lake.read_quotes("quotes_1m", "IBM")) == 0
    with pytest.raises(LakeError, match="quotes_1m does not hold bars"):
        lake.read_bars("quotes_1m", "AAPL")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.tuples(*[st.one_of(prices, st.just(float("nan")))] * 10), min_size=1, max_size=8))
def test_any_quote_survives(tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, ...]]) -> None:
    opens, _ = XNYS.bounds(D1)
    times = opens + US_PER_MINUTE * np.arange(1, len(values) + 1)
    columns = [np.array(c, np.float64) for c in zip(*values, strict=True)]
    offered = QuoteBars("X", Timeframe.M1, times, np.full(len(values), session_number(D1), np.int32), *columns)
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.write_quotes("quotes_1m", {"X": offered}, start=D1, end=D1, source="t", instruments={"X": instrument("X")})
    assert lake.read_quotes("quotes_1m", "X").content_hash() == offered.content_hash()
    assert lake.verify("quotes_1m") == []


def test_real_quote_minutes_of_two_sides(folder_lake: Lake) -> None:
    """LEAN quote bars of AAPL, pre- and post-market, as the vendor wrote them."""
    import zipfile

    folder = lean_data() / "equity" / "usa" / "minute" / "aapl"
    file = folder / "20140605_quote.zip"
    with zipfile.ZipFile(file) as archive:
        lines = archive.read(archive.namelist()[0]).decode().splitlines()
    records = [[float(v) if v else np.nan for v in line.split(",")] for line in lines]
    table = np.array(records)
    times = XNYS.bounds(D1)[0] - 330 * US_PER_MINUTE + (table[:, 0] * 1000).astype(np.int64)
    columns = [table[:, i] / (10_000 if i not in (5, 10) else 1) for i in range(1, 11)]
    offered = QuoteBars("AAPL", Timeframe.M1, times, np.full(len(table), session_number(D1), np.int32), *columns)
    folder_lake.write_quotes("quotes_1m", {"AAPL": offered}, start=D1, end=D1, source="lean", instruments=INSTRUMENTS)
    assert folder_lake.read_quotes("quotes_1m", "AAPL").content_hash() == offered.content_hash()
    assert str(pq.read_schema(part_files(folder_lake)[0]).field("bid_open").type) == "int32"


# ---- hashes ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.sampled_from([1, 1, 2, 7, 390, 3000]), min_size=1, max_size=9), columns=st.integers(1, 4))
@example(counts=[1] * 9, columns=4)
@example(counts=[390, 390, 210, 390, 390], columns=4)
@example(counts=[3000, 3000, 1], columns=4)
def test_the_hash_of_a_run_is_that_of_its_columns_bytes_one_after_the_other(counts: list[int], columns: int) -> None:
    starts = [5, *(5 + n for n in accumulate(counts))]
    rng = np.random.default_rng(len(counts))
    arrays: list[NDArray[Any]] = [np.arange(starts[-1] + 3), rng.integers(0, 9, starts[-1] + 3).astype(np.int32)]
    arrays += [rng.random(starts[-1] + 3) for _ in range(columns)]
    expected = [
        hashlib.sha256(f"x:{b - a}".encode() + b"".join(c[a:b].tobytes() for c in arrays)).hexdigest()
        for a, b in pairwise(starts)
    ]
    assert run_hashes("x:", arrays, starts) == expected


def test_without_the_library_below_hashlib_the_hashes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: list[NDArray[Any]] = [np.arange(800), np.arange(800, dtype=np.int32), np.linspace(0, 1, 800)]
    fast = run_hashes("x:", arrays, [3, 393, 393, 783])
    monkeypatch.setattr(digest, "_crypto", lambda: None)
    assert run_hashes("x:", arrays, [3, 393, 393, 783]) == fast


def test_columns_that_do_not_reach_the_runs_are_never_read_beyond_their_end() -> None:
    short: list[NDArray[Any]] = [np.arange(10), np.arange(9)]
    with pytest.raises(AssertionError, match="reach the last run's end"):
        run_hashes("x:", short, [0, 10])
    with pytest.raises(AssertionError, match="contiguous"):
        run_hashes("x:", [np.arange(20)[::2]], [0, 10])
