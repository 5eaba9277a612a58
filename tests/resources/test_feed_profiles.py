"""The shipped profiles of the feed `files`: each reads what its vendor writes."""

from __future__ import annotations

import gzip
import io
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from resources.feeds.lean import LeanFeed
from resources.inbox import Inbox
from tests.paths import lean_data
from tests.resources.test_files_feed import AAPL, AAPL_DAILY, D1, EURUSD, M1, instrument, texts
from tests.resources.vendor_files import accept, feed_of, installation, take
from trading.bars import TURNOVER_QUANTUM, Bars
from trading.timeframes import iso, session_date

DAY = date(2014, 6, 6)


@pytest.fixture(scope="module")
def apple() -> Bars:
    """Real minutes of one session, 09:30 to 16:00."""
    return LeanFeed(lean_data()).history(replace(AAPL, feed_symbol="equity/usa/aapl"), M1, DAY, DAY)


def written(bars: Bars, profile: str) -> tuple[str, str, str]:
    """(name, text, feed symbol) of the file the vendor would write of these minutes."""
    start = bars.close_time - 60_000_000
    rows = list(zip(bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True))
    ohlc = [f"{float(o)!r},{float(h)!r},{float(low)!r},{float(c)!r}" for o, h, low, c, _ in rows]
    volume = [f"{v:.0f}" for *_, v in rows]
    ny = "America/New_York"

    def lines(times: list[str], *more: list[str], sep: str = ",") -> str:
        return "\n".join(sep.join((t, p.replace(",", sep), *rest)) for t, p, *rest in zip(times, ohlc, *more, strict=True)) + "\n"

    if profile == "kibot":
        return "kibot/AAPL.txt", lines(texts(start, ny, "%m/%d/%Y,%H:%M"), volume), "AAPL"
    if profile == "firstrate":
        return "AAPL_full_1min_UNADJUSTED.txt", lines(texts(start, ny), volume), "AAPL"
    if profile == "alpha_vantage_intraday":
        body = lines(texts(start, ny), volume).splitlines()[::-1]
        return "intraday_1min_AAPL.csv", "timestamp,open,high,low,close,volume\n" + "\n".join(body), "AAPL"
    if profile == "ninjatrader":
        return "AAPL.Last.txt", lines(texts(bars.close_time, "UTC", "%Y%m%d %H%M%S"), volume, sep=";"), "AAPL"
    if profile == "tradingview":
        extra = ["1.5"] * len(rows)
        head = "time,open,high,low,close,VWAP,Volume\n"
        return "NASDAQ_AAPL, 1.csv", head + lines([str(t // 1_000_000) for t in start], extra, volume), "AAPL"
    if profile == "polygon_minute":
        body = [f"AAPL,{v:.0f},{float(o)!r},{float(c)!r},{float(h)!r},{float(low)!r},{t * 1000},7\nZZZZ,1,1,1,1,1,{t * 1000},1"
                for t, (o, h, low, c, v) in zip(start.tolist(), rows, strict=True)]  # fmt: skip
        return (
            "polygon_minute/2014-06-06.csv.gz",
            "ticker,volume,open,close,high,low,window_start,transactions\n" + "\n".join(body),
            "AAPL",
        )
    if profile == "databento_ohlcv":
        body = [f"{t * 1000},33,2,1,{o * 1e9:.0f},{h * 1e9:.0f},{low * 1e9:.0f},{c * 1e9:.0f},{v:.0f},AAPL"
                for t, (o, h, low, c, v) in zip(start.tolist(), rows, strict=True)]  # fmt: skip
        head = "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        return "xnas-itch-20140606.ohlcv-1m.csv", head + "\n".join(body), "AAPL"
    if profile == "metatrader5":
        head = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        times = texts(start + 7 * 3_600_000_000, ny, "%Y.%m.%d\t%H:%M:%S")
        zero = ["0"] * len(rows)
        return "AAPL_M1_201406060000_201406062359.csv", head + lines(times, volume, zero, zero, sep="\t"), "AAPL"
    if profile == "dukascopy":
        head = "Gmt time,Open,High,Low,Close,Volume\n"
        return (
            "AAPL_Candlestick_1_M_BID_06.06.2014.csv",
            head + lines(texts(start, "UTC", "%d.%m.%Y %H:%M:%S.000"), volume),
            "AAPL",
        )
    if profile == "binance_klines":
        ms = [str(t // 1000) for t in start]
        end = [str(t // 1000 + 59_999) for t in start]
        turn = [f"{float(v * c)!r}" for _, _, _, c, v in rows]
        return (
            "AAPL-1m-2014-06.csv",
            lines(ms, volume, end, turn, ["5"] * len(rows), ["0"] * len(rows), ["0"] * len(rows), ["0"] * len(rows)),
            "AAPL",
        )
    raise AssertionError(profile)


@pytest.mark.parametrize(
    "profile",
    ["kibot", "firstrate", "alpha_vantage_intraday", "ninjatrader", "tradingview", "polygon_minute", "databento_ohlcv",
     "metatrader5", "dukascopy", "binance_klines"],
)  # fmt: skip
def test_a_shipped_profile_reads_what_its_vendor_writes(tmp_path: Path, apple: Bars, profile: str) -> None:
    of = installation(tmp_path, AAPL)
    name, text, symbol = written(apple, profile)
    data = (
        gzip.compress(text.encode())
        if name.endswith(".gz")
        else text.encode("utf-16")
        if profile == "metatrader5"
        else text.encode()
    )
    accept(of, name, data)
    assert Inbox(of).index().files[0].profile == profile
    bars = feed_of(of).history(replace(AAPL, feed_symbol=symbol), M1, DAY, DAY)
    plain = Bars("AAPL", M1, *(getattr(bars, n) for n in ("close_time", "session", "open", "high", "low", "close", "volume")))
    assert plain.content_hash() == apple.content_hash()
    if profile == "polygon_minute":
        assert bars.trades is not None
        assert set(bars.trades) == {7.0}
    if profile == "binance_klines":
        assert bars.turnover is not None
        assert np.allclose(bars.turnover, apple.close * apple.volume, atol=TURNOVER_QUANTUM)


@pytest.mark.parametrize("profile", ["histdata", "histdata_mt"])
def test_histdata_is_read_in_its_fixed_offset_summer_and_winter(tmp_path: Path, profile: str) -> None:
    of = installation(tmp_path, EURUSD)
    times = {"histdata": "20240702 170000", "histdata_mt": "2024.07.02,17:00"}[profile]
    name = {"histdata": "DAT_ASCII_EURUSD_M1_202407.csv", "histdata_mt": "DAT_MT_EURUSD_M1_202407.csv"}[profile]
    sep = ";" if profile == "histdata" else ","
    accept(of, name, sep.join([times, "1.07", "1.08", "1.06", "1.075", "0"]) + "\n")
    bars = feed_of(of).history(EURUSD, M1, date(2024, 7, 1), date(2024, 7, 4))
    assert [iso(int(t)) for t in bars.close_time] == ["2024-07-02T22:01:00Z"]


def test_yfinance_frames_of_several_symbols_are_read_symbol_by_symbol(tmp_path: Path) -> None:
    import pandas as pd

    ibm = instrument("IBM", D1)
    of = installation(tmp_path, AAPL_DAILY, ibm, yf=(
        "match: {files: ['prices*']}\nadjustment: splits\naccept_adjusted: true"
    ))  # fmt: skip
    index = pd.DatetimeIndex(pd.to_datetime(["2024-01-02", "2024-01-03", "2024-01-04"]), name="Date")
    fields = ["Adj Close", "Close", "High", "Low", "Open", "Volume"]
    columns = pd.MultiIndex.from_product([fields, ["AAPL", "IBM"]], names=["Price", "Ticker"])
    values = np.array([[1.0, 9, 10, 20, 12, 22, 9, 19, 9.5, 19.5, 100, 200]] * 3)
    values[1, 1::2] = np.nan  # IBM has no row on the second day
    frame = pd.DataFrame(values, index=index, columns=columns)
    accept(of, "prices.csv", frame.to_csv())
    feed = feed_of(of)
    apple = feed.history(AAPL_DAILY, D1, date(2024, 1, 1), date(2024, 1, 31))
    assert apple.close.tolist() == [10, 10, 10]
    assert [session_date(int(s)).day for s in feed.history(ibm, D1, date(2024, 1, 1), date(2024, 1, 31)).session] == [2, 4]
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    accept(of, "prices.parquet", buffer.getvalue())
    assert feed_of(of).history(ibm, D1, date(2024, 1, 1), date(2024, 1, 31)).open.tolist() == [19.5, 19.5]


def test_adjusted_prices_of_stocks_are_refused_unless_the_profile_takes_them(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY, feed_symbol_map="description: unused")
    text = "Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,100\n2024-01-03,2,3,2,2.5,50\n"
    outcome = take(of, "aapl_us_d.csv", text)
    assert outcome.state == "rejected"
    assert "the prices are adjusted (splits_and_dividends)" in outcome.why
    assert "accept_adjusted: true" in outcome.why


def test_prices_back_from_ten_thousandths_are_the_nearest_doubles(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY)
    accept(of, "lean_daily/aapl.csv", "20240102 00:00,6450002,6455800,6440000,6455701,10\n")
    assert 6450002 * 0.0001 != 645.0002
    bars = feed_of(of).history(AAPL_DAILY, D1, date(2024, 1, 2), date(2024, 1, 2))
    assert (bars.open[0], bars.close[0]) == (645.0002, 645.5701)
