"""``python -m tests.faults.ingest_torture --kills 200``: kill the ingest at random moments, end with the lake of one that
was never killed.

Bars of a source, every derived timeframe and the features are brought into a lake by the code of the assets, ledger and
all. The source tells its last sessions in two ways in turn (as a vendor does who corrects), so that every round replaces
partitions; a process that was killed is followed by one that does the same again. After every kill each partition that
can be read must be one of the two tellings, whole. At the end the lake must equal, hash for hash, one that was written
without interruption. Real US minutes when the market data is there, else a simulated year of hourly and daily bars.
Exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from assets.bars_run import BarsRun
from assets.features import compute_range
from assets.market_data import timeframes_of
from resources.feeds import get_feed
from resources.lake import FeatureFrame, Lake, LakeError, Partition
from resources.ledger.store import Ledger, connect
from resources.settings import ROOT, Settings
from tests.paths import ROOT as PROJECT
from trading.bars import Bars
from trading.calendars import calendar
from trading.features import FEATURES_VERSION, NAMES
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_number
from trading.universe import Universe, parse_universe

_FORK = multiprocessing.get_context("fork")
CORRECTED_SESSIONS = 2
"""So many of the last sessions are told in two ways."""

Key = tuple[str, date, str]


@dataclass
class Campaign:
    """What is ingested, and where to."""

    universe: Universe
    settings: Settings
    start: date
    end: date
    ledger_url: str
    only: tuple[Timeframe, ...] = ()

    @property
    def timeframes(self) -> list[Timeframe]:
        found = timeframes_of(self.universe)
        return [t for t in found if not self.only or t in self.only]


class Telling:
    """Configuration files whose feeds tell the last sessions in one of two ways; everything else is the real thing."""

    def __init__(self, campaign: Campaign, telling: int) -> None:
        self._campaign = campaign
        self._telling = telling

    def load(self) -> Any:
        return SimpleNamespace(universe=self._campaign.universe)

    def feed(self, name: str) -> Any:
        venue = calendar(next(iter(self._campaign.universe.instruments.values())).calendar)
        sessions = venue.sessions(self._campaign.start, self._campaign.end)
        corrected = session_number(sessions[-CORRECTED_SESSIONS])
        return CorrectingFeed(get_feed(name, self._campaign.settings), self._telling, corrected)


class CorrectingFeed:
    """A feed whose volumes are `more` higher from session number `since` on."""

    def __init__(self, feed: Any, more: int, since: int) -> None:
        self._feed, self._more, self._since = feed, more, since

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        bars = self._feed.history(instrument, timeframe, start, end)
        return replace(bars, volume=bars.volume + self._more * (bars.session >= self._since))


def ingest(campaign: Campaign, root: Path, telling: int) -> None:
    """Bring everything into the lake as the assets do: native bars, derived ones, features."""
    lake = Lake(root)
    ledger = Ledger(connect(campaign.ledger_url))
    try:
        files: Any = Telling(campaign, telling)
        for timeframe in campaign.timeframes:
            run = BarsRun(files, lake, timeframe, ledger=lambda: ledger, run_id="torture")
            outcome = run.ingest(campaign.start.isoformat(), campaign.end.isoformat())
            if outcome.failed:
                raise RuntimeError(f"{timeframe}: {outcome.failed}")
            frames = []
            for symbol in outcome.written:
                venue = calendar(campaign.universe.instruments[symbol].calendar)
                dataset = f"bars_{timeframe}"
                bars, values = compute_range(lake, dataset, symbol, timeframe, venue, campaign.start, campaign.end)
                frames.append(FeatureFrame(symbol, NAMES, bars.close_time, bars.session, values, FEATURES_VERSION))
            lake.write_feature_frames(f"features_{timeframe}", frames, start=campaign.start, end=campaign.end)
    finally:
        ledger.engine.dispose()


def _child(campaign: Campaign, root: Path, telling: int) -> None:
    ingest(campaign, root, telling)


@dataclass
class Result:
    """What came of a campaign. differences: one line each."""

    kills: int = 0
    finished: int = 0
    seconds: float = 0.0
    partitions: int = 0
    superseded: int = 0
    absent: int = 0
    moments: list[float] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def torture(campaign: Campaign, room: Path, kills: int, seed: int, say: Callable[[Result], None] = lambda _: None) -> Result:
    """Run a campaign in `room`; everything that is not as it must be is in Result.differences."""
    began = time.monotonic()
    chance = random.Random(seed)
    references = []
    for telling in (0, 1):
        ingest(campaign, room / f"reference-{telling}", telling)
        references.append(held(Lake(room / f"reference-{telling}")))
    timed = time.monotonic()
    ingest(campaign, room / "timed", 0)
    whole = time.monotonic() - timed
    root, telling, result = room / "lake", 0, Result()
    while result.kills < kills:
        process = _FORK.Process(target=_child, args=(campaign, root, telling))
        process.start()
        process.join(chance.uniform(0.0, whole * 1.6))
        if process.is_alive():
            process.kill()
            process.join()
            result.kills += 1
            result.moments.append(time.monotonic())
        else:
            if process.exitcode != 0:
                result.differences.append(f"an ingest after {result.kills} kills failed by itself (exit {process.exitcode})")
            result.finished += 1
            _compare(Lake(root), references[telling], result, f"after {result.kills} kills and an ingest to the end")
            telling = 1 - telling
        result.absent += _whole_versions(Lake(root), references, result)
        if len(result.differences) > 20:
            break
        say(result)
    ingest(campaign, root, 0)
    lake = Lake(root)
    _compare(lake, references[0], result, "at the end")
    for name in lake.datasets():
        result.differences += [f"verify: {fault}" for fault in lake.verify(name)]
    result.superseded = _replaced_are_readable(lake, references[1], result)
    result.partitions, result.seconds = len(references[0]), time.monotonic() - began
    _leftovers(lake, result)
    return result


def held(lake: Lake) -> dict[Key, Partition]:
    return {(p.dataset, p.session, p.symbol): p for name in lake.datasets() for p in lake.partitions(name)}


def _compare(lake: Lake, reference: Mapping[Key, Partition], result: Result, when: str) -> None:
    now = held(lake)
    for key in sorted(now.keys() | reference.keys()):
        mine, theirs = now.get(key), reference.get(key)
        if mine is None or theirs is None or (mine.content_hash, mine.rows) != (theirs.content_hash, theirs.rows):
            result.differences.append(
                f"{'/'.join(map(str, key))} {when}: {mine and mine.content_hash} != {theirs and theirs.content_hash}"
            )


def _whole_versions(lake: Lake, references: Sequence[Mapping[Key, Partition]], result: Result) -> int:
    """Every partition there is must be one of the tellings, and read as such; how many are not there yet."""
    now = held(lake)
    for key, part in now.items():
        allowed = {r[key].content_hash for r in references if key in r}
        if part.content_hash not in allowed:
            result.differences.append(
                f"{'/'.join(map(str, key))}: a mixture ({part.content_hash[:16]}) after {result.kills} kills"
            )
    for dataset in {key[0] for key in now}:
        symbols = sorted({key[2] for key in now if key[0] == dataset})
        for symbol in symbols:
            try:
                rows = (
                    len(lake.read_bars(dataset, symbol))
                    if dataset.startswith("bars_")
                    else _feature_rows(lake, now, dataset, symbol)
                )
            except LakeError as error:
                result.differences.append(f"{dataset} {symbol} cannot be read after {result.kills} kills: {error}")
                continue
            wanted = sum(p.rows for k, p in now.items() if (k[0], k[2]) == (dataset, symbol))
            if rows != wanted:
                result.differences.append(f"{dataset} {symbol}: {rows} rows read, {wanted} promised, after {result.kills} kills")
    return len(references[0].keys() - now.keys())


def _feature_rows(lake: Lake, now: Mapping[Key, Partition], dataset: str, symbol: str) -> int:
    return len(lake.read_features(dataset, symbol))


def _replaced_are_readable(lake: Lake, other: Mapping[Key, Partition], result: Result) -> int:
    """If the other telling ever counted whole, each of its bars partitions can still be read by its hash; how many."""
    count = 0
    if not result.finished:
        return count
    seen = {p.content_hash for name in lake.datasets() for p in lake.superseded(name)}
    for (dataset, session, symbol), part in other.items():
        if dataset.startswith("bars_") and part.content_hash in seen:
            if lake.read_version(dataset, symbol, session, part.content_hash).content_hash() != part.content_hash:
                result.differences.append(f"{dataset}/{session}/{symbol}: the replaced version reads differently")
            count += 1
    return count


def _leftovers(lake: Lake, result: Result) -> None:
    """After a compaction no file is there that nothing names."""
    for name in lake.datasets():
        lake.compact(name)
    stray = [str(f) for f in Path(lake.storage.url).rglob("*.tmp") if "superseded" not in f.parts]
    result.differences += [f"left over: {f}" for f in stray]


# -- what is ingested ----------------------------------------------------------------------------------------------------


def real_us_minutes(ledger_url: str, lean: Path) -> Campaign:
    """AIG, BAC and IBM, six sessions of minutes, and every timeframe made of them."""
    own = Settings(lean_data=lean, universe="lean_us")
    universe, problems = parse_universe((ROOT / "data/config/universe/lean_us.yaml").read_text(), "lean_us.yaml")
    if universe is None:
        raise RuntimeError(str(problems))
    return Campaign(universe, own, universe.history_start, universe.history_end or date.max, ledger_url)


def sample_quarter(ledger_url: str) -> Campaign:
    """The sample that ships with the packages: stocks and indices daily, EURUSD hourly, one quarter."""
    own = Settings(universe="sample")
    universe, problems = parse_universe((ROOT / "data/config/universe/sample.yaml").read_text(), "sample.yaml")
    if universe is None:
        raise RuntimeError(str(problems))
    end = universe.history_end or date(2017, 12, 29)
    return Campaign(universe, own, end - timedelta(days=60), end, ledger_url)


@contextmanager
def _ledger_url() -> Iterator[str]:
    from resources.ledger.migrate import create_databases, upgrade
    from tests.faults import torture as desk_torture

    with desk_torture._server() as server:
        create_databases(server, ["ingest_torture"])
        upgrade(f"{server}/ingest_torture")
        yield f"{server}/ingest_torture"


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign and print its table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.ingest_torture", description="Kill the ingest at random.")
    parser.add_argument("--kills", type=int, default=200, help="how often")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats a campaign")
    options = parser.parse_args(arguments)
    lean = PROJECT.parent / "shared" / "market-data" / "lean" / "Data"
    with _ledger_url() as url, tempfile.TemporaryDirectory(prefix="tapeline-ingest-torture-") as room:
        campaign = real_us_minutes(url, lean) if lean.is_dir() else sample_quarter(url)
        what = "real US minutes" if lean.is_dir() else "the packages' sample"
        print(f"{what}: {len(campaign.universe.instruments)} symbols, {campaign.start} to {campaign.end}, seed {options.seed}")

        def say(result: Result) -> None:
            said = f"kills {result.kills}, whole ingests {result.finished}, differences {len(result.differences)}"
            print(f"\r{said}  ", end="", flush=True)

        result = torture(campaign, Path(room), options.kills, options.seed, say)
    print()
    gaps = np.diff(result.moments) if len(result.moments) > 1 else np.zeros(1)
    rows = [
        ("kills", result.kills),
        ("ingests that came to their end", result.finished),
        ("partitions compared", result.partitions),
        ("replaced versions read back", result.superseded),
        ("partitions not there yet, over all kills", result.absent),
        ("median seconds between kills", round(float(np.median(gaps)), 2)),
        ("seconds in all", round(result.seconds, 1)),
        ("differences", len(result.differences)),
    ]
    for name, value in rows:
        print(f"{name:45} {value}")
    for line in result.differences[:20]:
        print(line)
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
