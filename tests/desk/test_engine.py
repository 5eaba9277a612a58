# ruff: noqa: F811, F401 - fixtures are imported by name
"""A bar close, from the feed's bars to the committed row: whole, repeatable, and never skipped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from desk.clock import wall
from desk.engine import CloseIncomplete
from desk.hot_bars import to_bars
from desk.hot_store import HotStore
from desk.live import LiveDesk
from desk.replay import CloseGroup
from resources.lake import HotConflict, LakeWriteFailed
from resources.ledger import audit
from tests.desk.running import Installation, MakeInstallation, history, install
from trading.quality import ALL_CHECKS
from trading.timeframes import US_PER_HOUR, iso

Make = Callable[..., "Day"]


class Day:
    """The live day of one installation, driven close by close in this process."""

    def __init__(self, installation: Installation) -> None:
        self.at = installation
        self.live = LiveDesk(installation.settings)
        self.live.take_over()
        self.results: list[Any] = []
        self.groups, _ = self.live.replay_groups(self.live.start_replay(None))

    def restart(self) -> None:
        self.live.close()
        self.live = LiveDesk(self.at.settings)
        self.live.take_over()

    def close(self, n: int, trade: bool = True) -> Any:
        """The n-th close and, when `trade`, its trade run."""
        group = self.groups[n]
        self.live.clock.advance(group.close_time)
        result = self.live.engine.process_close(group, wall())
        if trade:
            self.trade(n)
        return result

    def trade(self, n: int) -> list[Any]:
        row = self.live.ledger.close(self.groups[n].close_time)
        assert row is not None
        answers = [self.live.router.submit_decision(d) for d in self.at.decide(row)] if row["outcome"] is None else []
        self.live.engine.end_close(self.groups[n].close_time, "done", "run")
        return answers

    def books(self) -> dict[str, Any]:
        """Everything that must not depend on what was interrupted: ids, states, prices, positions, cash, verdicts."""
        ledger = self.live.ledger
        drop = {"created_wall", "recorded_wall", "acked_wall", "stored_wall", "emitted_wall", "done_wall", "evaluated_wall"}

        def plain(rows: Any) -> list[Any]:
            return sorted((sorted((k, str(v)) for k, v in dict(r).items() if k not in drop) for r in rows), key=str)

        verdicts = [v for s in ledger.sessions() for v in ledger.session_verdicts(s["session"])]
        return {
            "orders": plain(ledger.orders()), "fills": plain(ledger.fills()), "positions": plain(ledger.positions()),
            "account": plain(ledger.account()), "closes": plain(ledger.closes()), "sessions": plain(ledger.sessions()),
            "verdicts": plain([{**v.snapshot(), "failed": v.failed_count} for v in verdicts]),
            "told": plain([{k: r[k] for k in ("asset_key", "partition", "content")} for r in ledger.unsent(1000)]),
            "cash": self.live.broker.account(),
        }  # fmt: skip


@pytest.fixture
def make(install: MakeInstallation) -> Iterator[Make]:
    made: list[Day] = []

    def new(**more: Any) -> Day:
        made.append(Day(install(**more)))
        return made[-1]

    yield new
    for day in made:
        day.live.close()


def test_a_close_stores_bars_with_verdicts_and_commits_its_row_last(make: Make) -> None:
    day = make()
    for n in range(4):
        result = day.close(n)
    row = day.live.ledger.close(day.groups[3].close_time)
    assert row is not None
    assert row["bars"] == {"1h": ["EURUSD"], "4h": ["EURUSD"]}
    assert row["stored_wall"] >= row["emitted_wall"]
    held = day.at.lake.read_bars("bars_1h", "EURUSD").known_at(day.groups[3].close_time)
    assert int(held.close_time[-1]) == day.groups[3].close_time
    four = day.at.lake.read_bars("bars_4h", "EURUSD")
    assert int(four.close_time[-1]) == day.groups[3].close_time
    assert float(four.high[-1]) == float(held.high[-4:].max())
    partition = result.partitions[0]
    verdicts = [v for v in day.live.ledger.session_verdicts("2017-12-29") if v.dataset == "bars_1h"]
    assert {v.check for v in verdicts} >= set(ALL_CHECKS)
    assert {v.content_hash for v in verdicts} == {partition.content_hash}
    assert all(v.passed for v in verdicts)


def test_a_close_that_is_recorded_is_not_done_again(make: Make) -> None:
    day = make()
    day.close(0)
    before = day.books()
    again = day.live.engine.process_close(day.groups[0], wall())
    assert not again.recorded
    assert day.books() == before


STEPS = [
    "broker.on_bars", "router.hear", "router.continue_exits", "engine._hot.append_all", "engine._ledger.put_verdicts",
    "engine._store.mark", "router.check_daily_loss", "engine._store.snapshot_account", "engine._ledger.record_close",
    "engine._ledger.enqueue",
]  # fmt: skip
EXIT, END = "router.exit_positions", "engine._ledger.end_session"


@pytest.fixture(scope="module")
def quiet(install: MakeInstallation) -> Iterator[Day]:
    """The whole day without a fault."""
    day = Day(install())
    day.results = [day.close(n) for n in range(len(day.groups))]
    yield day
    day.live.close()


def test_a_day_with_every_step_failing_once_ends_with_the_books_of_a_quiet_day(
    make: Make, monkeypatch: pytest.MonkeyPatch, quiet: Day
) -> None:
    assert len(quiet.live.ledger.fills()) > 4
    day = make()
    failed: list[tuple[str, str]] = []
    for n, (step, moment) in faults(quiet).items():
        *path, name = step.split(".")
        owner: Any = day.live
        for part in path:
            owner = getattr(owner, part)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying_once(getattr(owner, name), step, moment, failed))
            with pytest.raises(RuntimeError, match="killed"):
                day.close(n, trade=False)
        day.restart()  # nothing in memory survives
        day.close(n, trade=False)
        day.trade(n)
    assert len(failed) == len(day.groups)
    assert {(step, moment) for step in STEPS for moment in ("before", "after")} <= set(failed)
    books, expected = day.books(), quiet.books()
    for name in expected:
        assert books[name] == expected[name], name
    assert audit.verify(day.live.ledger.engine) == []


def test_exits_that_do_not_wait_for_the_bars_fills_leave_the_books_of_those_that_do(
    make: Make, monkeypatch: pytest.MonkeyPatch, quiet: Day
) -> None:
    waiting, sent = make(), make()
    monkeypatch.setattr(waiting.live.router, "has_news", lambda: True)
    early: list[frozenset[tuple[str, str]]] = []
    look = sent.live.engine.exits.of_untouched
    monkeypatch.setattr(sent.live.engine.exits, "of_untouched", lambda *args: early.append(look(*args)) or early[-1])
    for n in range(len(quiet.groups)):
        waiting.close(n)
        before = len(early)
        reasons = {(e.strategy, e.symbol) for e in sent.close(n).exits if e.reason}
        assert {key for keys in early[before:] for key in keys} <= reasons
    assert any(early)
    assert sent.books() == waiting.books()


def test_a_broker_that_cannot_be_heard_keeps_no_close_from_ending(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    day = make()
    day.close(0, trade=False)

    def away(after: str) -> Any:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(day.live.broker, "poll_events", away)
        row = day.live.engine.end_close(day.groups[0].close_time, "done", "run")
    assert row is not None
    assert row["outcome"] is not None
    day.close(1)


def faults(quiet: Day) -> dict[int, tuple[str, str]]:
    """Which step fails at which close, and whether before or after its work: each step both ways."""
    exits = [n for n, result in enumerate(quiet.results) if any(e.reason for e in result.exits)]
    plan = {exits[0]: (EXIT, "before"), exits[1]: (EXIT, "after"), len(quiet.groups) - 1: (END, "after")}
    others = itertools.cycle((step, moment) for step in STEPS for moment in ("before", "after"))
    return {n: plan.get(n) or next(others) for n in range(len(quiet.groups))}


def dying_once(call: Callable[..., Any], step: str, moment: str, failed: list[tuple[str, str]]) -> Callable[..., Any]:
    """`call`, the first time with a failure before or after it has done its work."""
    died: list[bool] = []

    def instead(*args: Any, **kw: Any) -> Any:
        if died:
            return call(*args, **kw)
        died.append(True)
        failed.append((step, moment))
        if moment == "after":
            call(*args, **kw)
        raise RuntimeError(f"killed {moment} {step}")

    return instead


def test_when_the_lake_cannot_be_written_exits_go_out_and_the_close_waits(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    day = make()
    n = 0
    while not day.live.store.open_positions():
        day.close(n)
        n += 1
    held = 0
    while held < 2:
        held = day.close(n, trade=False).exits[0].bars_held
        n += 1

    def full(*args: Any, **kw: Any) -> Any:
        raise LakeWriteFailed("bars_1h: no space left on device; free some and try again")

    with monkeypatch.context() as patch:
        patch.setattr(day.live.lake, "append_hot", full)
        with pytest.raises(CloseIncomplete, match="no space left"):
            day.close(n, trade=False)
    exits = [o for o in day.live.ledger.orders() if o["leg"].startswith("exit:max_bars")]
    assert len(exits) == 1
    assert day.live.ledger.close(day.groups[n].close_time) is None
    day.close(n, trade=False)
    assert day.live.ledger.close(day.groups[n].close_time) is not None
    assert len([o for o in day.live.ledger.orders() if o["leg"].startswith("exit:")]) == 1


def test_a_corrupt_bar_is_kept_judged_and_refuses_the_decision(make: Make) -> None:
    day = make()
    day.close(0)
    day.close(1)
    group = day.groups[2]
    bad = replace(group.bars[0], high=group.bars[0].low - 0.001)
    day.groups[2] = CloseGroup(group.close_time, group.session, (bad,))
    day.close(2, trade=False)
    assert day.trade(2) == []
    refused = [d for d in day.live.ledger.decisions(close_time=group.close_time)]
    assert refused
    assert refused[0]["refusal"] == "DATA_QUALITY: partition=bars_1h/2017-12-29/EURUSD check=ohlc_consistent reason=failed"


def test_a_bar_told_differently_before_is_not_traded_on(make: Make) -> None:
    day = make()
    day.close(0)
    group = day.groups[1]
    day.close(1, trade=False)
    other = replace(group.bars[0], close=group.bars[0].close + 0.001, high=group.bars[0].high + 0.001)
    (bars,) = to_bars([other])
    universe = day.live.config().universe
    with pytest.raises(HotConflict):
        day.at.lake.append_hot(
            "bars_1h", day.live.lake.partitions("bars_1h")[-1].session, [bars], source="x", instruments=universe.instruments
        )
    _, verdicts = day.live.engine._hot.append(universe, "bars_1h", group.session, bars, group.close_time)
    assert [v.check for v in verdicts if not v.passed] == ["hot_conflict"]
    day.live.ledger.put_verdicts(verdicts)
    engine = day.live.engine
    restarted = HotStore(day.at.lake, engine.cache, lambda _: "x", lambda _: "", engine._standing_conflict)
    for hot in (engine._hot, restarted):  # the next bar does not settle it, nor does a restart: only other content does
        (after,) = to_bars([day.groups[2].bars[0]])
        _, verdicts = hot.append(universe, "bars_1h", group.session, after, day.groups[2].close_time)
        assert [v.check for v in verdicts if not v.passed] == ["hot_conflict"]
    day.live.ledger.put_verdicts([replace(v, passed=True, failed_count=0, examples=()) for v in verdicts])
    (later,) = to_bars([day.groups[3].bars[0]])
    _, verdicts = day.live.engine._hot.append(universe, "bars_1h", group.session, later, day.groups[3].close_time)
    assert [v.check for v in verdicts if not v.passed] == []


def test_a_session_opens_with_its_first_bar_and_ends_when_its_last_venue_has_closed(quiet: Day) -> None:
    (session,) = quiet.live.ledger.sessions()
    last = len(quiet.groups) - 1
    assert [n for n, result in enumerate(quiet.results) if result.ended_sessions] == [last]
    assert iso(quiet.groups[last - 1].close_time) == "2017-12-29T21:00:00Z"  # New York's stocks are done, FX is not
    assert (session["state"], session["start_equity"]) == ("ended", 100_000.0)
    assert session["opened_time"] == quiet.groups[0].close_time - US_PER_HOUR
    assert session["end_equity"] == pytest.approx(quiet.live.broker.account().equity)
    assert session["ended_time"] == quiet.groups[last].close_time


def test_a_close_nobody_decides_on_needs_no_run(make: Make) -> None:
    day = make(strategies={})
    day.close(0, trade=False)
    row = day.live.ledger.close(day.groups[0].close_time)
    assert row is not None
    assert row["outcome"] == "no_strategy"


def test_dagster_is_told_once_per_native_dataset_of_each_fill_and_at_the_session_end(quiet: Day) -> None:
    told = quiet.live.ledger.unsent(1000)
    by_asset: dict[str, list[Any]] = {}
    for row in told:
        by_asset.setdefault(row["asset_key"], []).append(row)
    assert len(by_asset["bars_1h"]) == 24
    assert len(by_asset["bars_4h"]) == 1
    assert {r["partition"] for r in told} == {"2017-12-29"}
    reported = [name for row in by_asset["fills"] for name in row["content"]["metadata"]["ids"]]
    assert sorted(reported) == sorted(f["id"] for f in quiet.live.ledger.fills())
    assert by_asset["fills"][0]["content"]["metadata"]["mode"] == "PAPER"
    assert "equity" in by_asset["positions"][-1]["content"]["metadata"]


def test_a_strategy_whose_file_broke_keeps_its_exits(make: Make) -> None:
    day = make()
    n = 0
    while not day.live.store.open_positions():
        day.close(n)
        n += 1
    path = day.at.config_dir / "strategies" / "often.yaml"
    path.write_text(path.read_text().replace("exits:", "exitz:"))
    held = day.live.store.open_positions()
    while held:
        day.close(n, trade=False)
        n += 1
        held = day.live.store.open_positions()
    assert any("exitz" in row["message"] for row in day.live.ledger.config_problems())
    assert [o["state"] for o in day.live.ledger.orders() if o["leg"].startswith("exit:")] == ["filled"]


def test_after_a_restart_a_broken_file_leaves_the_position_to_its_stop_and_says_so(make: Make) -> None:
    day = make()
    n = 0
    while not day.live.store.open_positions():
        day.close(n)
        n += 1
    (day.at.config_dir / "strategies" / "often.yaml").write_text("name: often\n")
    day.restart()
    day.close(n, trade=False)
    assert "only its stop and target guard it" in day.live.engine.unmanaged["often/EURUSD"]


def test_market_time_stands_before_the_first_bar_until_the_replay_moves_it(make: Make) -> None:
    day = make()
    assert day.live.clock() == day.groups[0].close_time - US_PER_HOUR
