"""A model strategy in the trade run: live is the replay, a champion takes over at a bar edge and steps back, a challenger only
watches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from assets import model_comparison, replay_check, research_run, trade_lane
from resources import model_serving
from resources.config import Config, load_config
from resources.ledger import tables as t
from resources.ledger.audit import check
from resources.ledger.audit_read import read
from resources.ledger.store import Ledger
from resources.model_store import Aliases, ModelStore
from resources.research_store import ResearchStore
from resources.settings import Settings
from tests.assets.sample_lake import END, fill, installation
from tests.ml import served_models
from trading import decisions as kernel
from trading.models import ModelStrategy, in_shadow_only
from trading.signals import Decision, Signal
from trading.strategy import signal_at
from trading.timeframes import Timeframe, session_date

MODEL = "tapeline-drawn-sample"
FILE = """\
name: follows
kind: model
universe: sample
status: active
mode: paper
symbols: [SPX, COMP]
timeframe: 1d
model: {{name: drawn, swap: {swap}, leave: forecast}}
exits:
  stop: {{kind: atr, period: 14, multiple: 2.0}}
sizing: {{kind: fixed, quantity: 1}}
"""


@dataclass
class Desk:
    """An installation with one model strategy and three versions of its model on disk."""

    settings: Settings
    lake: Any
    store: ModelStore

    def write(self, swap: str = "when_flat") -> Config:
        (self.settings.config / "strategies" / "follows.yaml").write_text(FILE.format(swap=swap))
        return load_config(self.settings)

    def name(self, champion: str = "", challenger: str = "", previous: str = "") -> None:
        """What MLflow said last."""
        self.store.name(MODEL, Aliases(champion, challenger, previous, 1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with installation(tmp_path_factory.mktemp("serving")) as settings:
        for path in (settings.config / "strategies").glob("*.yaml"):
            path.unlink()
        lake, store = fill(settings), ModelStore.of(settings)
        bars = lake.read_bars("bars_1d", "SPX")
        until = int(bars.close_time[len(bars) - 400])
        for version in ("1", "2", "3"):
            files = served_models.forecaster(bars, seed=int(version), trained_until=until, symbols=("COMP", "SPX"))
            store.put(MODEL, version, f"run-{version}", files, served_models.tags(files))
        yield Desk(settings, lake, store)


@pytest.fixture
def desk(made: Desk) -> Desk:
    (made.store.folder / MODEL / "aliases.json").unlink(missing_ok=True)
    made.write()
    return made


def closes(desk: Desk, count: int) -> list[tuple[int, str]]:
    bars = desk.lake.read_bars("bars_1d", "SPX")
    at = range(len(bars) - count, len(bars))
    return [(int(bars.close_time[i]), session_date(int(bars.session[i])).isoformat()) for i in at]


@dataclass
class Ran:
    signals: list[Signal]
    decisions: list[Decision]
    silent: dict[str, str]
    swaps: list[model_serving.Serves]


def run(desk: Desk, config: Config, ledger: Ledger, close_time: int, session: str) -> Ran:
    """One run of the trade job, as assets/trading.py does it."""
    serving = model_serving.at_close(config, close_time, ledger, desk.settings)
    outcome = trade_lane.evaluate_close(close_time, session, serving, desk.lake, ledger, "paper")
    ledger.insert_signals(outcome.signals, session=session, code_revision="c", run_id="r")
    serving = model_serving.at_close(config, close_time, ledger, desk.settings)
    rows = trade_lane.decide(trade_lane.undecided(ledger, close_time), serving, ledger, close_time, desk.lake)
    ledger.insert_decisions(rows, session=session, code_revision="c", run_id="r")
    swaps = model_serving.swap(config, close_time, session, ledger, desk.settings)
    return Ran(outcome.signals, [r.decision for r in rows], outcome.silent, swaps)


def hold(ledger: Ledger, strategy: str, quantity: float) -> None:
    with ledger.engine.begin() as c:
        c.execute(t.positions.delete())
        row = {
            "trade_id": "t", "average_price": 1.0, "realized_pnl": 0.0, "commission": 0.0, "updated_time": 0, "bars_held": 0,
            "exit_state": {},
        }  # fmt: skip
        c.execute(t.positions.insert().values(strategy=strategy, symbol="SPX", quantity=quantity, **row))


def versions(signals: list[Signal]) -> set[str]:
    return {s.model["version"] for s in signals if not in_shadow_only(s)}


class TestLiveIsTheReplay:
    def test_every_signal_of_a_run_is_what_research_computed_for_that_bar(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1")
        config = desk.write()
        prepared = research_run.prepare(config.strategies["follows"], config, desk.lake, 1e5)
        assert isinstance(prepared, research_run.Prepared), prepared
        own, compared = prepared.experiment, 0
        for close_time, session in closes(desk, 60)[::6]:
            ran = run(desk, config, ledger, close_time, session)
            for evaluation, bars, instrument in zip(own.evaluations, own.bars, own.instruments, strict=True):
                row = int(np.searchsorted(evaluation.close_time, close_time))
                expected = signal_at(
                    config.strategies["follows"], evaluation, row, bars, instrument, features_version="", partitions=(),
                    mode="paper",
                )  # fmt: skip
                same = [s for s in ran.signals if s.symbol == instrument.symbol]
                told = [{k: v for k, v in s.to_dict().items() if k not in ("partitions", "features_version")} for s in same]
                wanted = [] if expected is None else [expected.to_dict()]
                assert told == [{k: v for k, v in w.items() if k not in ("partitions", "features_version")} for w in wanted]
                compared += expected is not None
        assert compared >= 5

    def test_nothing_is_wanted_of_the_bars_it_was_trained_on(self, desk: Desk) -> None:
        desk.name(champion="1")
        config = desk.write()
        strategy = config.strategies["follows"]
        assert isinstance(strategy, ModelStrategy)
        prepared = research_run.prepare(strategy, config, desk.lake, 1e5)
        assert isinstance(prepared, research_run.Prepared)
        for evaluation in prepared.experiment.evaluations:
            entries = evaluation.close_time[evaluation.enter_long | evaluation.enter_short]
            assert len(entries)
            assert entries.min() > strategy.served.trained_until

    def test_a_stored_signal_is_computed_again_by_the_version_that_made_it(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1", challenger="3")
        config = desk.write("at_once")
        chosen = closes(desk, 6)
        made = [s for close in chosen for s in run(desk, config, ledger, *close).signals]
        desk.name(champion="2", challenger="3", previous="1")  # another one serves when the check looks back
        config = load_config(desk.settings)
        signals = 0
        for _, session in chosen:
            done = replay_check.replay(session, config, desk.lake, ledger, ResearchStore(desk.settings.path("research")))
            assert done.differences == []
            assert done.not_computed == {}
            signals += done.signals
        assert signals == len(made) > 0
        assert {s.model["version"] for s in made} == {"1", "3"}


class TestTakingOver:
    def test_a_promoted_champion_serves_from_the_next_bar_on_and_a_rollback_brings_the_former_back(
        self, desk: Desk, ledger: Ledger
    ) -> None:
        desk.name(champion="1")
        config = desk.write()
        served: dict[int, set[str]] = {}
        chosen = closes(desk, 15)
        for at, (close_time, session) in enumerate(chosen):
            if at == 4:
                desk.name(champion="2", previous="1")
            if at == 9:
                desk.name(champion="1", previous="2")
            ran = run(desk, config, ledger, close_time, session)
            served[at] = versions(ran.signals)
            assert len(served[at]) <= 1, "two versions at one bar"
            assert [e.version for e in ran.swaps] == ({4: ["2"], 9: ["1"]}.get(at, []))
        first, second, third = ({v for at in span for v in served[at]} for span in (range(5), range(5, 10), range(10, 15)))
        assert (first, second, third) == ({"1"}, {"2"}, {"1"})
        told = [
            (r["content"]["version"], r["content"]["before"], r["content"]["why"])
            for r in read(ledger.engine, action="model_swap")
        ]
        assert told == [("1", "", "adopted"), ("2", "1", "promoted"), ("1", "2", "rolled back")]
        assert check(ledger.engine).problems == ()
        # The desk asks for the same closes and gets the same versions.
        for at in (4, 5, 9, 10):
            known = model_serving.evaluables_at_close(config.evaluables(), chosen[at][0], ledger, desk.settings, "sample")
            follows = known["follows"]
            assert isinstance(follows, ModelStrategy)
            assert follows.served.version == ("2" if at in (5, 9) else "1")

    def test_a_close_that_is_run_again_is_answered_by_the_version_of_then(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1")
        config = desk.write("at_once")
        chosen = closes(desk, 3)
        first = run(desk, config, ledger, *chosen[0])
        desk.name(champion="2", previous="1")
        for close in chosen[1:]:
            run(desk, config, ledger, *close)
        again = run(desk, config, ledger, *chosen[0])
        assert [s.to_dict() for s in again.signals] == [s.to_dict() for s in first.signals]
        assert again.swaps == []

    @pytest.mark.parametrize(("swap", "waits"), [("when_flat", True), ("at_once", False)])
    def test_an_open_position_holds_it_back_where_the_policy_says_so(
        self, desk: Desk, ledger: Ledger, swap: str, waits: bool
    ) -> None:
        desk.name(champion="1")
        config = desk.write(swap)
        one, two, three = closes(desk, 3)
        run(desk, config, ledger, *one)
        hold(ledger, "follows", 5.0)
        desk.name(champion="2", previous="1")
        assert [e.version for e in run(desk, config, ledger, *two).swaps] == ([] if waits else ["2"])
        hold(ledger, "follows", 0.0)
        assert [e.version for e in run(desk, config, ledger, *three).swaps] == (["2"] if waits else [])

    def test_at_session_it_waits_until_every_venue_has_closed(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1")
        config = desk.write("at_session")
        one, two = closes(desk, 2)
        run(desk, config, ledger, *one)
        desk.name(champion="2", previous="1")
        (entry,) = run(desk, config, ledger, *two).swaps
        assert entry.since_time >= two[0]

    def test_an_approved_decision_that_may_still_become_an_order_holds_it_back(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1")
        config = desk.write()
        with_signal = None
        for close_time, session in closes(desk, 20):
            if run(desk, config, ledger, close_time, session).signals:
                with_signal = close_time
                break
        assert with_signal is not None
        assert model_serving.flat("follows", with_signal, ledger)  # refused: no quality verdicts
        with ledger.engine.begin() as c:
            c.execute(update(t.decisions).values(approved=True))
        assert not model_serving.flat("follows", with_signal, ledger)


class TestWhatIsMissing:
    def refusal(self, desk: Desk, ledger: Ledger) -> str:
        ran = run(desk, load_config(desk.settings), ledger, *closes(desk, 1)[0])
        assert ran.signals == []
        return ran.silent["follows/SPX"]

    def test_without_a_champion(self, desk: Desk, ledger: Ledger) -> None:
        assert self.refusal(desk, ledger) == "MODEL_MISSING: model=drawn reason=no champion"
        desk.name(champion="", previous="1")
        assert self.refusal(desk, ledger) == "MODEL_MISSING: model=drawn reason=no champion"

    def test_with_a_champion_whose_files_are_not_here(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="9")
        assert self.refusal(desk, ledger) == f"MODEL_MISSING: model={MODEL} version=9 reason=not fetched"

    def test_with_aliases_that_cannot_be_read(self, desk: Desk, ledger: Ledger) -> None:
        (desk.store.folder / MODEL / "aliases.json").write_text("{")
        assert "changed files" in self.refusal(desk, ledger)

    def test_with_features_of_another_definition_the_former_champion_goes_on(self, desk: Desk, ledger: Ledger) -> None:
        files = served_models.forecaster(desk.lake.read_bars("bars_1d", "SPX"), seed=8, symbols=("COMP", "SPX"))
        said = json.loads(files["serving.json"]) | {"schema_hash": "other", "features_version": "older"}
        files["serving.json"] = json.dumps(said).encode()
        desk.store.put(MODEL, "8", "run-8", files, served_models.tags(files))
        desk.name(champion="8")
        assert self.refusal(desk, ledger).startswith(f"MODEL_SCHEMA: model={MODEL} version=8 reason=features trained_on=older")

    def test_a_champion_that_cannot_serve_does_not_take_over(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1")
        config = desk.write("at_once")
        one, two = closes(desk, 2)
        run(desk, config, ledger, *one)
        desk.name(champion="8", previous="1")
        assert run(desk, config, ledger, *two).swaps == []
        status = model_serving.status(config, ledger, desk.settings)
        assert [(s.serves, s.champion, s.refusal) for s in status] == [("1", "8", "")]


class TestTheChallenger:
    def test_its_signals_are_recorded_and_judged_and_never_posted(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1", challenger="2")
        config = desk.write()
        seen: list[Decision] = []
        for close in closes(desk, 5):
            seen += run(desk, config, ledger, *close).decisions
        shadow = [d for d in seen if in_shadow_only(d.signal)]
        assert {d.signal.strategy for d in shadow} == {"follows_challenger"}
        assert {d.signal.model["version"] for d in shadow} == {"2"}
        assert {d.signal.mode for d in shadow} == {"shadow"}

        class NoDesk:
            def submit_decision(self, *_: Any) -> None:
                raise AssertionError("a challenger's decision was posted")

        approved = [Decision(d.signal, True, d.verdicts, "", d.size) for d in shadow]
        assert trade_lane.post(approved, NoDesk(), 0) == []  # type: ignore[arg-type]

    def test_it_sees_the_snapshot_its_champion_would_see_and_the_champion_does_not_see_it(
        self, desk: Desk, ledger: Ledger
    ) -> None:
        desk.name(champion="1", challenger="2")
        config = desk.write()
        opposite = 0
        for close in closes(desk, 8):
            ran = run(desk, config, ledger, *close)
            for decision in ran.decisions:
                row = ledger.decisions(signal_ids=[decision.signal.id])[0]
                content = json.loads(bytes(row["snapshot"]))
                assert content["conflict"]["against"] == []
                assert kernel.decide(bytes(row["snapshot"])) == bytes(row["outcome"])
            actions = {d.signal.symbol: set() for d in ran.decisions}  # type: dict[str, set[Any]]
            for d in ran.decisions:
                actions[d.signal.symbol].add(d.signal.action)
            opposite += sum(len(a) == 2 for a in actions.values())
        assert opposite, "the two never disagreed: nothing was tested"

    def test_champion_and_challenger_are_compared_on_identical_bars(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="1", challenger="2")
        config = desk.write()
        for close in closes(desk, 2):
            run(desk, config, ledger, *close)
        (done,) = model_comparison.compare_all(config, desk.lake, ledger, desk.settings)
        assert done.sessions == 399
        assert done.picture.startswith(b"\x89PNG")
        assert done.verdict in ("no difference can be told", "the challenger is better", "the champion is better")
        assert done.figures["sharpe_low"] <= done.figures["sharpe_difference"] <= done.figures["sharpe_high"]
        assert done.signals[0] == "follows"
        assert done.signals[1] == sum(done.signals[2:])
        desk.name(champion="1", challenger="1")
        (same,) = model_comparison.compare_all(config, desk.lake, ledger, desk.settings)
        assert same.verdict == "the newest version is the champion"

    def test_a_version_that_is_the_champion_is_no_challenger(self, desk: Desk, ledger: Ledger) -> None:
        desk.name(champion="2", challenger="2", previous="1")
        close_time, _ = closes(desk, 1)[0]
        serving = model_serving.at_close(desk.write(), close_time, ledger, desk.settings)
        assert "follows_challenger" not in serving.strategies


def test_the_last_session_of_the_sample_is_there(desk: Desk) -> None:
    assert closes(desk, 1)[0][1] == date(2017, 12, 29).isoformat() == END.isoformat()


def test_a_damaged_copy_is_refused_and_fetched_again(made: Desk, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    files = served_models.forecaster(made.lake.read_bars("bars_1d", "SPX"), seed=4)
    kept = store.put(MODEL, "4", "run-4", files, served_models.tags(files))
    path = kept.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    from resources.model_store import ModelRefused

    with pytest.raises(ModelRefused, match="changed files"):
        store.load(MODEL, "4")
    store.put(MODEL, "4", "run-4", files, served_models.tags(files))
    assert store.load(MODEL, "4").version == "4"
    with pytest.raises(ModelRefused, match="changed files"):
        store.put(MODEL, "5", "run-5", {**files, "model.safetensors": b""}, served_models.tags(files))
    assert Timeframe.D1 is store.load(MODEL, "4").timeframe
