# ruff: noqa: F811, F401 - fixtures are imported by name
"""One line reads bars or features: any timeframe, adjusted or raw, as of a time, as the lake was, in any form."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resources import read
from resources.corporate_actions import write_actions
from resources.lake import Lake, LakeError, PartitionMissing
from resources.read import Market
from tests.assets.sample_lake import installation
from tests.paths import lean_data
from tests.resources.lake_kit import D1, D2, D3, INSTRUMENTS, append, folder_lake, lake, minutes, object_store, session, write
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor
from trading.features import FEATURES_VERSION, NAMES, compute_anchored
from trading.resample import resample
from trading.timeframes import Timeframe, session_number
from trading.universe import Universe, parse_universe

US_MINUTES = """
name: test
history_start: 2014-06-05
history_end: 2014-06-30
simulated: false
instruments:
  AAPL: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1m, tradable_in: []}
"""


def universe() -> Universe:
    found, problems = parse_universe(US_MINUTES, "test.yaml")
    assert found is not None, problems
    return found


@pytest.fixture
def market(folder_lake: Lake) -> Market:
    write(folder_lake, minutes("AAPL", D1, D2, D3))
    return Market(folder_lake, universe())


def test_a_pandas_frame_with_a_utc_index_and_the_hashes_of_what_it_was_made_of(market: Market, folder_lake: Lake) -> None:
    frame = market.bars("AAPL", "1m", D1, "2014-06-06")
    bars = minutes("AAPL", D1, D2, D3).rows(slice(0, 780))
    assert str(frame.index.dtype) == "datetime64[us, UTC]"
    assert list(frame.columns) == ["session", "open", "high", "low", "close", "volume"]
    assert frame.index[0] == pd.Timestamp("2014-06-05T13:31Z")
    np.testing.assert_array_equal(frame["close"].to_numpy(), bars.close)
    assert frame.attrs["content_hash"] == bars.content_hash()
    held = {p.session.isoformat(): p.content_hash for p in folder_lake.partitions("bars_1m", D1, D2)}
    assert frame.attrs["partitions"] == held
    assert frame["close"].resample("1D").last().notna().sum() == 2  # pandas works on it


class TestPolars:
    """form="polars" holds the rows of the Arrow table, bit for bit, for whatever is asked."""

    @pytest.mark.parametrize("timeframe", [str(t) for t in Timeframe])
    def test_bars_of_every_timeframe_adjusted_or_raw_as_of_a_time(self, market: Market, timeframe: str) -> None:
        polars = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
        for adjusted in (False, True):
            view = {"adjusted": adjusted, "as_of": "2014-06-09T15:00Z"}
            frame = market.bars("AAPL", timeframe, **view, form="polars")  # type: ignore[arg-type]
            bars = market.bars("AAPL", timeframe, **view, form="numpy")  # type: ignore[arg-type]
            assert frame.columns == ["close_time", "session", "open", "high", "low", "close", "volume"]
            assert frame.schema["close_time"] == polars.Datetime("us", "UTC")
            assert frame.schema["session"] == polars.Date
            assert frame["close_time"].to_physical().to_numpy().tobytes() == bars.close_time.tobytes()
            assert frame["close"].to_numpy().tobytes() == bars.close.tobytes()
            assert frame["volume"].to_numpy().tobytes() == bars.volume.tobytes()

    @pytest.mark.parametrize("timeframe", ["1m", "1h"])
    def test_features(self, market: Market, timeframe: str) -> None:
        polars = pytest.importorskip("polars", reason="polars is not installed: pip install polars")
        for adjusted in (False, True):
            frame = market.features("AAPL", timeframe, adjusted=adjusted, form="polars")
            table = market.features("AAPL", timeframe, adjusted=adjusted, form="arrow")
            assert frame.columns == ["close_time", "session", *NAMES]
            assert frame.select(polars.col(NAMES[0]).is_not_nan().any()).item()
            for name in NAMES:
                assert frame[name].to_numpy().tobytes() == table[name].to_numpy().tobytes()

    def test_where_it_is_not_installed_the_error_says_what_to_do(self, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "polars", None)
        with pytest.raises(ModuleNotFoundError, match="pip install polars"):
            market.bars("AAPL", "1m", form="polars")


def test_an_arrow_table_that_any_library_takes(market: Market) -> None:
    table = market.bars("AAPL", "1m", form="arrow")
    assert str(table.schema.field("close_time").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("session").type) == "date32[day]"
    assert table.num_rows == 1170
    assert json.loads(table.schema.metadata[b"partitions"]).keys() == {"2014-06-05", "2014-06-06", "2014-06-09"}
    assert isinstance(market.bars("AAPL", "1m", form="numpy"), Bars)
    with pytest.raises(ValueError, match="expected pandas, arrow, polars or numpy"):
        market.bars("AAPL", "1m", form="excel")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeframe", ["3m", "5m", "15m", "30m", "1h", "4h", "1d", "1w"])
def test_a_timeframe_the_lake_does_not_hold_is_derived_from_the_native_one(market: Market, timeframe: str) -> None:
    got = market.bars("AAPL", timeframe, form="numpy")
    whole = minutes("AAPL", D1, D2, D3)
    closed = calendar("XNYS").bounds(D3)[1]
    assert got.content_hash() == resample(whole, Timeframe(timeframe), calendar("XNYS"), known_until=closed).content_hash()
    assert len(got) > 0


def test_a_stored_timeframe_is_read_and_one_with_holes_is_derived(market: Market, folder_lake: Lake) -> None:
    hourly = resample(minutes("AAPL", D1, D2, D3), Timeframe.H1, calendar("XNYS"))
    folder_lake.write_bars("bars_1h", {"AAPL": hourly}, start=D1, end=D3, source="t", instruments=INSTRUMENTS)
    assert market.bars("AAPL", "1h").attrs["dataset"] == "bars_1h"
    folder_lake.write_bars("bars_1h", {"AAPL": session(hourly, D1)}, start=D1, end=D3, source="t", instruments=INSTRUMENTS)
    again = market.bars("AAPL", "1h")
    assert again.attrs["dataset"] == "bars_1m"
    np.testing.assert_array_equal(again["close"], hourly.close)


def test_as_of_shows_what_was_known_then_and_nothing_else(market: Market) -> None:
    moment = "2014-06-06T15:10:30Z"
    one = market.bars("AAPL", "1m", as_of=moment)
    assert one.index[-1] == pd.Timestamp("2014-06-06T15:10Z")
    for timeframe in ("15m", "1h", "1d"):
        got = market.bars("AAPL", timeframe, as_of=datetime(2014, 6, 6, 15, 10, 30, tzinfo=UTC))
        assert got.index[-1] <= pd.Timestamp(moment)
        later = market.bars("AAPL", timeframe)
        pd.testing.assert_frame_equal(got, later[later.index <= moment])
    with pytest.raises(ValueError, match="zone"):
        market.bars("AAPL", "1m", as_of="2014-06-06T15:10:30")


def test_a_session_being_traded_shows_no_daily_bar(market: Market, folder_lake: Lake) -> None:
    day = date(2014, 6, 10)
    append(folder_lake, day, minutes("AAPL", day).rows(slice(0, 65)))
    assert len(market.bars("AAPL", "1d")) == 3
    assert market.bars("AAPL", "1h").index[-1] == pd.Timestamp("2014-06-10T14:30Z")


def test_known_shows_the_lake_as_it_was(market: Market, folder_lake: Lake) -> None:
    then = time.time_ns() // 1000
    time.sleep(0.002)
    bars = minutes("AAPL", D1, D2, D3)
    write(folder_lake, replace(bars, close=bars.high), source="vendor")
    old, new = market.bars("AAPL", "30m", known=then, form="numpy"), market.bars("AAPL", "30m", form="numpy")
    closed = calendar("XNYS").bounds(D3)[1]
    assert old.content_hash() == resample(bars, Timeframe.M30, calendar("XNYS"), known_until=closed).content_hash()
    assert old.content_hash() != new.content_hash()


def _split(factor: float, known: str) -> CorporateAction:
    moment = int(pd.Timestamp(known).value // 1000)
    return CorporateAction("AAPL", ActionKind.SPLIT, session_number(D3), moment, factor, 0.0, "", "test")


def test_the_real_seven_for_one_split_of_2014(folder_lake: Lake) -> None:
    """AAPL 645.57 on 2014-06-06, 93.70 on 06-09: raw as stored, adjusted on the newer level, point-in-time before it."""
    from resources.feeds.lean import LeanFeed

    own = universe()
    bars = LeanFeed(lean_data()).history(own.instruments["AAPL"], Timeframe.M1, D1, D3)
    folder_lake.write_bars("bars_1m", {"AAPL": bars}, start=D1, end=D3, source="lean", instruments=own.instruments)
    write_actions(folder_lake, "AAPL", [_split(7.0, "2014-04-23T20:30Z")])
    market = Market(folder_lake, own)
    raw, adjusted = market.bars("AAPL", "1d"), market.bars("AAPL", "1d", adjusted=True)
    assert raw["close"].iloc[1] == pytest.approx(645.57, abs=0.5)
    assert raw["close"].iloc[2] == pytest.approx(93.70, abs=0.5)
    np.testing.assert_allclose(adjusted["close"].iloc[:2], raw["close"].iloc[:2] / 7)
    np.testing.assert_allclose(adjusted["volume"].iloc[:2], raw["volume"].iloc[:2] * 7)
    assert adjusted["close"].iloc[2] == raw["close"].iloc[2]
    friday = market.bars("AAPL", "1d", adjusted=True, as_of="2014-06-07T00:00Z")  # announced, not yet effective
    np.testing.assert_array_equal(friday["close"], raw["close"].iloc[:2])
    assert adjusted.attrs["adjusted"] is True


def test_a_week_with_a_split_in_it_is_made_of_adjusted_bars(market: Market, folder_lake: Lake) -> None:
    weekly = resample(minutes("AAPL", D1, D2, D3), Timeframe.W1, calendar("XNYS"), known_until=2**62)
    folder_lake.write_bars("bars_1w", {"AAPL": weekly}, start=D1, end=date(2014, 6, 13), source="t", instruments=INSTRUMENTS)
    write_actions(folder_lake, "AAPL", [_split(2.0, "2014-05-01T00:00Z")])
    assert market.bars("AAPL", "1w").attrs["dataset"] == "bars_1w"
    assert market.bars("AAPL", "1w", adjusted=True).attrs["dataset"] == "bars_1m"


def test_adjusted_bars_come_from_the_actions_beside_the_bars_in_a_folder_or_an_object_store(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2, D3))
    write_actions(lake, "AAPL", [_split(2.0, "2014-05-01T00:00Z")])
    raw, adjusted = Market(lake, universe()).bars("AAPL", "1m"), Market(lake, universe()).bars("AAPL", "1m", adjusted=True)
    np.testing.assert_array_equal(adjusted["close"].iloc[:780], raw["close"].iloc[:780] / 2)
    np.testing.assert_array_equal(adjusted["close"].iloc[780:], raw["close"].iloc[780:])


def test_a_roll_foretold_behind_the_newest_bar_moves_nothing_one_without_prices_before_it_is_an_error(
    market: Market, folder_lake: Lake
) -> None:
    """The list of contracts goes on for years after the last bar of the LEAN sample; nobody knows what those rolls will cost."""

    def roll(day: date) -> CorporateAction:
        known = int(datetime(2014, 5, 1, tzinfo=UTC).timestamp() * 1e6)
        return CorporateAction("AAPL", ActionKind.ROLL, session_number(day), known, float("nan"), other_symbol="next")

    write_actions(folder_lake, "AAPL", [roll(date(2014, 9, 19))])
    raw, adjusted = market.bars("AAPL", "1d"), market.bars("AAPL", "1d", adjusted=True)
    np.testing.assert_array_equal(adjusted["close"], raw["close"])
    write_actions(folder_lake, "AAPL", [roll(D3)])
    with pytest.raises(UnknownFactor, match="roll on 2014-06-09"):
        market.bars("AAPL", "1d", D1, D2, adjusted=True)


@pytest.mark.parametrize("timeframe", ["1m", "15m"])
def test_features_are_stored_ones_or_computed_and_the_same(market: Market, folder_lake: Lake, timeframe: str) -> None:
    computed = market.features("AAPL", timeframe, D2)
    assert computed.attrs["dataset"] == "bars_1m"
    assert list(computed.columns) == ["session", *NAMES]
    bars = market.bars("AAPL", timeframe, form="numpy")
    _, values = compute_anchored(bars, calendar("XNYS"))
    rows = bars.session >= session_number(D2)
    np.testing.assert_array_equal(computed[list(NAMES)].to_numpy(), values[rows])
    folder_lake.write_features(
        f"features_{timeframe}", "AAPL", NAMES, bars.close_time, bars.session, values, start=D1, end=D3, version=FEATURES_VERSION
    )
    stored = market.features("AAPL", timeframe, D2)
    assert stored.attrs["dataset"] == f"features_{timeframe}"
    pd.testing.assert_frame_equal(stored, computed)
    cut = market.features("AAPL", timeframe, as_of="2014-06-06T15:00Z", form="arrow")
    assert cut.column("close_time")[-1].as_py() <= datetime(2014, 6, 6, 15, 0, tzinfo=UTC)


def test_what_is_not_there_says_what_to_do(market: Market) -> None:
    with pytest.raises(PartitionMissing, match=r"AAPL 1h: no bars in the lake.*from 2015-01-01; materialise bars_1m"):
        market.bars("AAPL", "1h", "2015-01-01")
    with pytest.raises(PartitionMissing, match="NONE 1h"):
        market.bars("NONE", "1h")
    with pytest.raises(LakeError, match="NONE is not in the universe"):
        market.features("NONE", "1h")
    with pytest.raises(ValueError, match="no timeframe '7m'; expected one of 1m, 3m"):
        market.bars("AAPL", "7m")
    with pytest.raises(ValueError, match="expected a session's date"):
        market.bars("AAPL", "1m", "June")


def test_the_module_reads_the_installation_s_lake(tmp_path: Path) -> None:
    with installation(tmp_path, TAPELINE_UNIVERSE="lean_us") as own:
        lake = Lake(own.lake_dir)
        day = date(2013, 10, 4)
        write(lake, minutes("IBM", day), day, day)
        read._market.cache_clear()
        try:
            assert len(read.bars("IBM", "1m")) == 390
            assert len(read.features("IBM", "30m")) == 13
        finally:
            read._market.cache_clear()


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    """The Python of docs/lake.md, on a part of the sample (an index stands for the share; the clock is later)."""
    from resources.settings import ROOT
    from tests.assets.sample_lake import fill

    page = (ROOT / "docs" / "lake.md").read_text().replace("AAPL", "SPX").replace("2026-03-02", "2099-03-02")
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    assert len(blocks) == 2
    with installation(tmp_path) as own:
        fill(own)
        read._market.cache_clear()
        try:
            for block in blocks:
                exec(compile(block, "docs/lake.md", "exec"), {})
        finally:
            read._market.cache_clear()
