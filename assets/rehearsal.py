"""What the process that waits for the next bar close does meanwhile: the last close once more, without writing anything.

The first evaluation in a fresh process loads compiled code, reads two months of bars and makes every question to the ledger for
the first time. Here that happens before the bar closes; what the close itself adds is one bar an instrument. Only time is at
stake: whatever is wrong here is found and said again by the run that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date
from typing import Any

from sqlalchemy import func, select

from assets import trade_lane
from assets.known_bars import KnownBars, series_of
from resources import model_serving
from resources.dagster_resources import ConfigFilesResource, DeskResource, LakeResource, LedgerResource
from resources.desk_client import DeskError
from resources.ledger import tables as t
from resources.revision import code_revision
from resources.settings import settings
from trading.signals import Signal

AT_ONCE = 8
"""Strategies evaluated between two looks at whether the run is there."""
SERIES_AT_ONCE = 50
"""Series read between two looks."""


def steps() -> Iterator[None]:
    """Evaluate the newest close and judge the newest signals; yields where it may be left off."""
    store, lake, config = LedgerResource().ledger(), LakeResource().lake(), ConfigFilesResource().load()
    own = settings()
    code_revision()
    latest = store.latest_close()
    yield
    if latest is None:
        return
    close_time, session = int(latest["close_time"]), str(latest["session"])
    # Nothing is adopted: the strategies with the models that served them at that close.
    serving: Any = model_serving.evaluables_at_close(config.strategies, close_time, store, own, config.universe.name)
    config = replace(config, strategies=serving)
    yield
    everything = sorted({**config.strategies, **config.plans})
    for _ in _read(config, lake, date.fromisoformat(session), close_time):
        yield
    for start in range(0, len(everything), AT_ONCE):
        names = everything[start : start + AT_ONCE]
        some = replace(
            config,
            strategies={n: config.strategies[n] for n in names if n in config.strategies},
            plans={n: config.plans[n] for n in names if n in config.plans},
        )
        trade_lane.evaluate_close(close_time, session, some, lake, store, own.mode)
        yield
    newest = select(func.max(t.signals.c.close_time)).scalar_subquery()
    with store.engine.connect() as connection:
        rows = connection.execute(select(t.signals.c.content).where(t.signals.c.close_time == newest).limit(3)).scalars().all()
    yield
    with suppress(DeskError), DeskResource().client() as desk:  # loads what a connection needs
        desk.health()
    yield
    for content in rows:
        trade_lane.decide([Signal.from_dict(content)], config, store, close_time, lake)
        yield


def _read(config: Any, lake: Any, day: date, close_time: int) -> Iterator[None]:
    """Every series that active strategies and plans read, into the lake's memory."""
    active = [e for e in trade_lane.evaluables(config) if e.status == "active"]
    instruments = config.universe.instruments
    wanted = {series: None for e in active for symbol in e.symbols for series in series_of(e, instruments[symbol], day).values()}
    ordered = sorted(wanted, key=lambda series: (series[1].minutes, series[0]))
    bars = KnownBars(lake, day, close_time)
    for start in range(0, len(ordered), SERIES_AT_ONCE):
        bars.read_ahead(ordered[start : start + SERIES_AT_ONCE])
        yield
