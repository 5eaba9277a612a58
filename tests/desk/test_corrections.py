# ruff: noqa: F811, F401 - fixtures are imported by name
"""Late and corrected bars at the desk: the newest word counts, what is made of it follows, nothing is done twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from desk.corrections import Corrections
from desk.hot_bars import BarCache
from desk.hot_derive import HotDerive
from resources.lake import Lake, LakeWriteFailed
from resources.ledger import changes as book
from resources.ledger.store import Ledger
from tests.assets.changed_lake import END, START, XNYS, natives, universe
from tests.desk.running import MakeInstallation, history, install
from tests.desk.test_engine import Day, Make, make
from tests.trading.test_resample import full_sessions
from trading.bars import Bars
from trading.calendars import calendar
from trading.dependents import derives
from trading.resample import resample
from trading.timeframes import Timeframe, session_number

UNIVERSE = universe()
TODAY = END
WHOLE = natives()["AAA"]


def known(row: int) -> Bars:
    """Bars up to `row` of today's."""
    first = int(np.searchsorted(WHOLE.session, session_number(TODAY)))
    return WHOLE.rows(slice(0, first + row))


def stored(lake: Lake, bars: Bars) -> None:
    """What the desk has stored when `bars` are what it knows."""
    until = int(bars.close_time[-1])
    for timeframe in Timeframe:
        if timeframe is Timeframe.M1 or derives(Timeframe.M1, timeframe):
            made = resample(bars, timeframe, XNYS, known_until=until)
            lake.write_bars(
                f"bars_{timeframe}", {"AAA": made}, start=START, end=END, source="sample", instruments=UNIVERSE.instruments
            )


def held(lake: Lake) -> dict[str, str]:
    return {str(t): lake.read_bars(f"bars_{t}", "AAA").content_hash() for t in Timeframe}


def batch(bars: Bars, until: int) -> dict[str, str]:
    return {str(t): resample(bars, t, XNYS, known_until=until).content_hash() for t in Timeframe}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    return lake


@pytest.fixture
def corrections(ledger: Ledger, lake: Lake) -> Corrections:
    return Corrections(ledger, lake, lambda instrument: instrument.feed)


class TestCorrections:
    def test_a_late_bar_takes_its_place_and_all_higher_bars_follow(
        self, ledger: Ledger, lake: Lake, corrections: Corrections
    ) -> None:
        bars = known(200)
        late = len(bars) - 90
        stored(lake, bars.rows(np.arange(len(bars)) != late))
        until = int(bars.close_time[-1])
        changed = corrections.apply(UNIVERSE, bars.rows(slice(late, late + 1)), until)
        assert held(lake) == batch(bars, until)
        assert {name.split("/")[0] for name in changed} >= {"bars_1m", "bars_5m", "bars_1h"}
        assert book.stale(ledger.engine) == []
        assert {c.reason for c in book.changes(ledger.engine, dataset="bars_1m")} == {"the feed told it late"}

    def test_a_bar_told_again_with_other_values_replaces_the_first(self, lake: Lake, corrections: Corrections) -> None:
        bars = known(200)
        stored(lake, bars)
        high = bars.high.copy()
        high[-100] += 1.0
        now = replace(bars, high=high)
        until = int(bars.close_time[-1])
        corrections.apply(UNIVERSE, now.rows(slice(-100, -99)), until)
        assert held(lake) == batch(now, until)

    def test_told_again_as_it_was_it_changes_nothing(self, ledger: Ledger, lake: Lake, corrections: Corrections) -> None:
        bars = known(50)
        stored(lake, bars)
        before = lake.partitions("bars_5m")
        assert corrections.apply(UNIVERSE, bars.rows(slice(-20, -10)), int(bars.close_time[-1])) == []
        assert lake.partitions("bars_5m") == before
        assert book.changes(ledger.engine) == []

    def test_cut_off_in_between_it_refuses_until_it_is_healed(
        self, ledger: Ledger, lake: Lake, corrections: Corrections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bars = known(200)
        stored(lake, bars)
        volume = bars.volume.copy()
        volume[-100] += 10.0
        now, until = replace(bars, volume=volume), int(bars.close_time[-1])
        with monkeypatch.context() as broken:
            broken.setattr(Corrections, "derive", lambda *_: (_ for _ in ()).throw(LakeWriteFailed("disk full")))
            with pytest.raises(LakeWriteFailed):
                corrections.apply(UNIVERSE, now.rows(slice(-100, -99)), until)
        assert ("bars_5m", TODAY.isoformat(), "AAA") in {m.key for m in book.stale(ledger.engine)}
        corrections.heal(UNIVERSE, session_number(TODAY), until)
        assert held(lake) == batch(now, until)
        assert book.stale(ledger.engine) == []


class TestDerivingAtACloseIsDerivingAtOnce:
    @pytest.mark.parametrize(
        ("name", "day"), [("XNYS", date(2014, 6, 27)), ("XHKG", date(2021, 12, 31)), ("XHKG", date(2021, 12, 29))]
    )
    def test_for_every_bar_of_a_session(self, tmp_path: Path, name: str, day: date) -> None:
        venue = calendar(name)
        week = full_sessions(venue, date.fromordinal(day.toordinal() - day.weekday()), day)
        week = week.rows(~venue.in_break(week.close_time, week.session) & (np.arange(len(week)) % 7 != 3))
        instrument = replace(UNIVERSE.instruments["AAA"], symbol="X", calendar=name)
        first = int(np.searchsorted(week.session, session_number(day)))
        cache = BarCache(Lake(tmp_path))
        cache.extend(week.rows(slice(0, first)))
        cache._views["X", Timeframe.M1].start = 0
        derive = HotDerive(cache)
        given: dict[Timeframe, list[Bars]] = {}
        opened, closed = venue.bounds(day)
        for until in range(opened + 60_000_000, closed + 1, 60_000_000):
            at = np.searchsorted(week.close_time, until)
            new = week.rows(slice(at, at + 1)) if at < len(week) and week.close_time[at] == until else None
            if new is not None:
                cache.extend(new)
            if until % 7 == 0:
                derive.forget()
            for timeframe, bars in derive.completed(instrument, until, new).items():
                assert int(bars.close_time[-1]) == until
                cache.extend(bars)
                given.setdefault(timeframe, []).append(bars)
            if until == closed:
                assert derive.completed(instrument, until, new).keys() >= {Timeframe.M5, Timeframe.D1}, "a repeated close"
        for timeframe in Timeframe:
            if timeframe is not Timeframe.M1:
                expected = resample(week, timeframe, venue, known_until=closed)
                expected = expected.rows(expected.session == session_number(day))
                got = [int(t) for bars in given.get(timeframe, []) for t in bars.close_time]
                assert got == expected.close_time.tolist()
                if len(expected):
                    for column in ("high", "low", "volume", "turnover", "trades"):
                        values = np.concatenate([getattr(b, column) for b in given[timeframe]])
                        assert values.tolist() == getattr(expected, column).tolist()


def test_the_desk_takes_over_a_corrected_bar_and_trades_on(make: Make) -> None:
    day = make()
    for n in range(4):
        day.close(n, trade=False)
    group = day.groups[1]
    bar = next(b for b in group.bars if b.symbol == "EURUSD")
    orders, fills = day.live.ledger.orders(), day.live.ledger.fills()
    day.live.engine.late_bars([replace(bar, high=bar.high + 0.005, late=True)])
    lake, ledger = day.at.lake, day.live.ledger
    hours = lake.read_bars("bars_1h", "EURUSD", date(2017, 12, 29), date(2017, 12, 29))
    assert hours.high[hours.close_time == group.close_time].tolist() == [bar.high + 0.005]
    four = lake.read_bars("bars_4h", "EURUSD", date(2017, 12, 29), date(2017, 12, 29))
    assert four.high[0] == hours.high[:4].max()
    assert [c.dataset for c in book.changes(ledger.engine)] == ["bars_4h", "bars_1h"]
    assert book.stale(ledger.engine) == []
    for dataset in ("bars_1h", "bars_4h"):
        verdicts = [v for v in ledger.session_verdicts("2017-12-29") if (v.dataset, v.symbol) == (dataset, "EURUSD")]
        now = lake.partition(dataset, date(2017, 12, 29), "EURUSD").content_hash
        assert {v.content_hash for v in verdicts} == {now}
        assert [v.check for v in verdicts if not v.passed] == []
    assert (ledger.orders(), ledger.fills()) == (orders, fills)
    result = day.close(4, trade=False)
    assert result.recorded
