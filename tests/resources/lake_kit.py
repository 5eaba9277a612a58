"""Bars to put into lakes, and lakes in a folder and in an object store to put them into."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resources.lake import Lake
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE, Timeframe, session_number

XNYS = calendar("XNYS")
D1, D2, D3 = date(2014, 6, 5), date(2014, 6, 6), date(2014, 6, 9)
BUCKET = "tapeline-test"
_numbers = itertools.count(1)


def instrument(symbol: str, tick: str = "0.01", timeframe: Timeframe = Timeframe.M1) -> Instrument:
    return Instrument(symbol, AssetClass.EQUITY, "XNYS", Decimal(tick), "USD", "test", symbol, timeframe)


INSTRUMENTS = {s: instrument(s) for s in ("AAPL", "MSFT", "IBM", "ODD")}


def minutes(symbol: str, *days: date, seed: int = 0, rows: int = 390) -> Bars:
    rng = np.random.default_rng(seed)
    opens = [XNYS.bounds(day)[0] for day in days]
    times = np.concatenate([o + US_PER_MINUTE * np.arange(1, rows + 1) for o in opens])
    session = np.repeat([session_number(d) for d in days], rows).astype(np.int32)
    c = 10_000 + np.cumsum(rng.integers(-3, 4, len(times)))
    o = np.concatenate([[10_000], c[:-1]])
    h = np.maximum(o, c) + rng.integers(0, 4, len(times))
    low = np.minimum(o, c) - rng.integers(0, 4, len(times))
    prices: list[NDArray[np.float64]] = [np.asarray(ticks / 100, np.float64) for ticks in (o, h, low, c)]
    volume = rng.integers(0, 5000, len(times)).astype(np.float64) * 100
    return Bars(symbol, Timeframe.M1, times, session, prices[0], prices[1], prices[2], prices[3], volume)


def with_extras(bars: Bars, seed: int = 0) -> Bars:
    """The same bars with turnover and trade counts."""
    rng = np.random.default_rng(seed)
    turnover = np.rint(bars.volume * bars.close * 1024) / 1024
    return replace(bars, turnover=turnover, trades=rng.integers(0, 900, len(bars)).astype(np.float64))


def daily(symbol: str, start: date, end: date, price: float = 50.0) -> Bars:
    days = [session_number(d) for d in XNYS.sessions(start, end)]
    times = np.array([XNYS.bounds(n)[1] for n in days], np.int64)
    steps = (0.0, 1.0, -1.0, 0.5)
    prices: list[NDArray[np.float64]] = [np.asarray(price + s + np.arange(len(days)) * 0.25, np.float64) for s in steps]
    o, h, low, c = prices
    return Bars(symbol, Timeframe.D1, times, np.array(days, np.int32), o, h, low, c, np.full(len(days), 1e6))


def session(bars: Bars, day: date) -> Bars:
    return bars.rows(bars.session == session_number(day))


def write(lake: Lake, bars: Bars, start: date = D1, end: date = D3, source: str = "test") -> None:
    lake.write_bars(f"bars_{bars.timeframe}", {bars.symbol: bars}, start=start, end=end, source=source, instruments=INSTRUMENTS)


def append(lake: Lake, day: date, *bars: Bars) -> None:
    lake.append_hot(f"bars_{bars[0].timeframe}", day, list(bars), source="live", instruments=INSTRUMENTS)


def part_files(lake: Lake) -> list[Path]:
    """Part files of a lake in a folder, those of replaced versions left out."""
    return sorted(f for f in Path(lake.storage.url).rglob("*.parquet") if "superseded" not in f.parts)


def files(lake: Lake) -> dict[str, int]:
    """Every file of a lake by path, locks left out, with the time it was written."""
    found: dict[str, int] = {}

    def walk(folder: str) -> None:
        for entry in lake.storage.files(folder):
            found[f"{folder}/{entry.name}"] = entry.wall
        for name in lake.storage.folders(folder):
            if name != ".locks":
                walk(f"{folder}/{name}".strip("/"))

    walk("")
    return found


def counted_parts(lake: Lake) -> list[str]:
    return sorted(f for f in files(lake) if f.endswith(".parquet") and "/superseded/" not in f)


def reopened(lake: Lake) -> Lake:
    """The same lake as another process has it."""
    return Lake(lake.location)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """host:port of a real S3-compatible server on loopback, with one bucket."""
    pytest.importorskip("moto", reason="the object store server for tests is not installed: pip install -r requirements-dev.txt")
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield f"{host}:{port}"
    server.stop()


def object_lake(endpoint: str) -> Lake:
    return Lake(f"s3://{BUCKET}/lake-{next(_numbers)}?endpoint_override={endpoint}&scheme=http&region=us-east-1")


@pytest.fixture
def folder_lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture(params=["folder", "object store"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake, in a folder and in an object store: every test that takes it runs on both."""
    if request.param == "folder":
        return Lake(tmp_path / "lake")
    return object_lake(request.getfixturevalue("object_store"))
