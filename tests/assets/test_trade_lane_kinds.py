"""Every kind of strategy that a file can be, through the live path: what the run of a bar close signals is what research
computed for that bar over years, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import pytest

from assets import research_run, trade_lane
from resources.config import load_config
from resources.feeds import get_feed
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.settings import Settings
from tests.assets.sample_lake import fill, installation
from trading.signals import Signal
from trading.strategy import signal_at
from trading.timeframes import Timeframe, session_date

STOCKS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
LOOSER = (("max_half_life: 40", "max_half_life: 400"), ("entry_z: 2.0", "entry_z: 1.0"))
"""The two indices are seldom cointegrated: so that there is something to compare."""
FILES = {"fx_structure": (), "fx_ensemble": (), "momentum_scanner": (), "index_pair": LOOSER}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    with installation(tmp_path_factory.mktemp("kinds")) as settings:
        for name, changes in FILES.items():
            path = settings.config / "strategies" / f"{name}.yaml"
            text = path.read_text().replace("status: paused", "status: active")
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
            path.write_text(text)
        lake = fill(settings)
        universe = load_config(settings).universe
        start, end = date(2011, 1, 3), date(2013, 3, 1)
        stocks = {}
        for symbol in STOCKS:
            instrument = universe.instruments[symbol]
            stocks[symbol] = get_feed(instrument.feed, settings).history(instrument, Timeframe.D1, start, end)
        lake.write_bars("bars_1d", stocks, start=start, end=end, source="sample", instruments=universe.instruments)
        yield settings, lake


def comparable(signal: Signal) -> dict[str, Any]:
    """What of a signal does not name the run that made it."""
    return {k: v for k, v in signal.to_dict().items() if k not in ("partitions", "features_version", "mode")}


@pytest.mark.parametrize("name", FILES)
def test_the_run_of_a_close_signals_what_research_computed(name: str, sample: tuple[Settings, Lake], ledger: Ledger) -> None:
    settings, lake = sample
    config = load_config(settings)
    assert config.problems == []
    strategy = config.strategies[name]
    only = type(config)(config.universe, {name: strategy}, {}, config.limits, [], config.files)
    prepared = research_run.prepare(strategy, config, lake, 1e5)
    assert isinstance(prepared, research_run.Prepared), prepared
    own = prepared.experiment
    compared = 0
    for evaluation, bars, instrument in zip(own.evaluations, own.bars, own.instruments, strict=True):
        entries = np.flatnonzero(evaluation.enter_long | evaluation.enter_short)
        quiet = np.flatnonzero(evaluation.ready & ~evaluation.enter_long & ~evaluation.enter_short)
        for row in (*entries[-3:], *quiet[-2:]):
            expected = signal_at(
                strategy, evaluation, int(row), bars, instrument, features_version="", partitions=(), mode="shadow"
            )
            session = session_date(int(bars.session[row])).isoformat()
            done = trade_lane.evaluate_close(int(evaluation.close_time[row]), session, only, lake, ledger, "paper")
            assert not [why for why in done.silent.values() if why.startswith("error")]
            made = [s for s in done.signals if s.symbol == instrument.symbol]
            assert [comparable(s) for s in made] == ([comparable(expected)] if expected is not None else [])
            compared += expected is not None
    assert compared >= 2, "nothing to compare: the sample or the strategy changed"
