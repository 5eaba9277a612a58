"""A champion held against the newest bars: what is said, kept, done about it once, and asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from assets import model_drift, model_drift_run, model_explanation, model_reference
from assets.model_data import Traded
from assets.model_drift_run import Rows
from assets.model_policy import ModelPolicies
from ml import agent_training, forecasting, planted
from ml.agents import REGISTRY
from ml.training_files import AgentFile, ForecasterFile, parse_training
from resources.dagster_resources import DeskResource, LedgerResource, TrackingResource, resource_definitions
from resources.desk_client import DeskUnavailable
from resources.ledger import audit_read, model_verdicts
from resources.ledger.model_verdicts import DriftVerdict
from resources.ledger.store import Ledger
from resources.settings import Settings
from resources.tracking import CHAMPION, TrackingError
from sensors import retraining
from tests.assets.sample_lake import installation

FILE = """\
name: small
kind: forecaster
data: planted
horizon: 1
members: [linear]
folds: 1
drift: {then: halt, window: 40}
settings: {window: 4, epochs: 3, trees: 4, min_leaf: 50}
"""
REGISTERED = "tapeline-small-synthetic"


def parsed(text: str) -> Any:
    file, problems = parse_training(text, "models/small.yaml")
    assert not problems
    return file


class Registry:
    """The model registry with one trusted version."""

    url = "http://mlflow"

    def __init__(self, files: dict[str, bytes], reference: bytes, schema: str) -> None:
        self.files, self.reference, self.schema = files, reference, schema
        self.aliases = {CHAMPION: "1"}

    def version_of(self, name: str, alias: str) -> str | None:
        return self.aliases.get(alias)

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        return {"schema_hash": self.schema, "model_file": next(iter(self.files)), "files": " ".join(self.files)}

    def model_bytes(self, name: str, version: str, file: str) -> bytes:
        return self.files[file]

    def run_page(self, name: str, version: str) -> str:
        return f"http://mlflow/run-of-{version}"

    def run_file(self, name: str, version: str, file: str) -> bytes:
        if file != model_reference.DRIFT_FILE or not self.reference:
            raise TrackingError("no such file")
        return self.reference


@pytest.fixture(scope="module")
def market() -> tuple[planted.Made, Any]:
    made = planted.make(planted.PlantedMarket(edge=0.5, rows=700, symbols=2))
    return made, planted.training_set(made, 1, (1, 5, 10))


@pytest.fixture(scope="module")
def rows(market: tuple[planted.Made, Any]) -> Rows:
    made, data = market
    return Rows(data.matrix, Traded(made.bars, made.instruments))


@pytest.fixture(scope="module")
def trained(market: tuple[planted.Made, Any], rows: Rows) -> Registry:
    file: ForecasterFile = parsed(FILE)
    run = forecasting.train(market[1], file.config())
    judged = replace(_judgement(), returns=np.random.default_rng(0).normal(0, 0.01, 200))
    reference = model_reference.forecaster_reference(file, market[1], run, judged)
    return Registry({"model.safetensors": run.model.to_bytes()}, reference, market[1].matrix.schema_hash)


def moved(rows: Rows, by: float) -> Rows:
    """The same with every feature of the newest 40 closes higher."""
    late = rows.matrix.close_time >= np.unique(rows.matrix.close_time)[-40]
    return Rows(
        replace(rows.matrix, values=rows.matrix.values + np.where(late, by, 0.0).astype(np.float32)[:, None]), rows.traded
    )


class Desk:
    """Remembers what it was told; does not answer while away."""

    def __init__(self) -> None:
        self.halts: list[tuple[str, str]] = []
        self.away = False

    def halt(self, level: str, reason: str, who: str, scope: str = "desk") -> dict[str, Any]:
        if self.away:
            raise DeskUnavailable("away")
        self.halts.append((level, scope))
        return {}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Settings]:
    with installation(tmp_path) as own:
        for path in (own.config / "models").glob("*.yaml"):
            path.unlink()
        (own.config / "models" / "small.yaml").write_text(FILE)
        yield own


class Watch:
    """Materialises the drift asset of the file above on given rows."""

    def __init__(self, patch: pytest.MonkeyPatch, registry: Registry, ledger: Ledger, desk: Desk) -> None:
        patch.setattr(TrackingResource, "tracking", lambda _: registry)
        patch.setattr(LedgerResource, "ledger", lambda _: ledger)
        patch.setattr(DeskResource, "client", lambda _: desk)
        patch.setattr(model_drift_run, "strategies_with", lambda config, model: ["by_model"])
        self.patch = patch
        self.drawn = model_drift_run.pictures
        patch.setattr(model_drift_run, "pictures", lambda *_: {})  # they take a second

    def __call__(self, on: Rows) -> tuple[dict[str, Any], dict[str, dg.AssetCheckEvaluation]]:
        self.patch.setattr(model_drift_run, "rows_of", lambda *_: on)
        result = dg.materialize(
            [model_drift.drift_asset("small")], resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral()
        )
        (made,) = result.asset_materializations_for_node("model_drift_small")
        checks = {e.check_name: e for e in result.get_asset_check_evaluations()}
        return {k: v.value for k, v in made.metadata.items()}, checks


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def watch(place: Settings, monkeypatch: pytest.MonkeyPatch, trained: Registry, ledger: Ledger, desk: Desk) -> Watch:
    monkeypatch.setattr(trained, "aliases", {CHAMPION: "1"})
    return Watch(monkeypatch, trained, ledger, desk)


def test_bars_like_the_training_part_are_no_drift_and_the_ledger_says_so(
    watch: Watch, rows: Rows, ledger: Ledger, desk: Desk
) -> None:
    watch.patch.setattr(model_drift_run, "pictures", watch.drawn)
    told, checks = watch(rows)
    assert not told["drifted"], told["verdict"]
    assert all(c.passed for c in checks.values())
    kept = model_verdicts.verdicts_of(ledger, REGISTERED)["1"]
    assert (kept.drifted, kept.event, kept.judged_time) == (False, "", int(rows.matrix.close_time.max()))
    assert desk.halts == []
    assert told["mlflow_model"] == "http://mlflow/#/models/tapeline-small-synthetic/versions/1"
    assert all("data:image/png" in told[f"picture_{k}"] for k in ("features", "outputs", "performance"))


def test_a_drift_halts_its_strategies_once_and_is_audited_until_it_is_over(
    watch: Watch, rows: Rows, ledger: Ledger, desk: Desk
) -> None:
    told, checks = watch(moved(rows, 3.0))
    assert told["drifted"]
    assert not checks[model_drift.FEATURES].passed
    assert checks[model_drift.FEATURES].severity is dg.AssetCheckSeverity.ERROR
    assert "100 % have moved" in (checks[model_drift.FEATURES].description or "")
    assert desk.halts == [("halted", "by_model")]
    again, _ = watch(moved(rows, 3.5))
    assert desk.halts == [("halted", "by_model")]  # a person may have resumed it
    assert again["event"] == told["event"] != ""
    watch(rows)
    assert [r["action"] for r in audit_read.read(ledger.engine, actor=model_verdicts.ACTOR)] == [
        "model_drifted", "drift_answered", "model_drift_over"
    ]  # fmt: skip


def test_a_desk_that_is_away_is_told_at_the_next_look(watch: Watch, rows: Rows, desk: Desk) -> None:
    desk.away = True
    assert "the gate refuses it" in watch(moved(rows, 3.0))[0]["done_about_it"]
    desk.away = False
    watch(moved(rows, 3.0))
    assert desk.halts == [("halted", "by_model")]


def test_the_newest_version_is_looked_at_while_there_is_no_champion_but_no_verdict_is_kept(
    watch: Watch, rows: Rows, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, trained: Registry, desk: Desk
) -> None:
    monkeypatch.setattr(trained, "aliases", {"challenger": "2"})
    told, checks = watch(moved(rows, 3.0))
    assert told["drifted"]
    assert checks[model_drift.FEATURES].severity is dg.AssetCheckSeverity.WARN
    assert model_verdicts.verdicts_of(ledger, REGISTERED) == {}
    assert desk.halts == []
    monkeypatch.setattr(trained, "aliases", {})
    assert watch(rows)[0]["verdict"].startswith("never trained")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": "other"}, "train it again"),
        ({"reference": b""}, "has no reference"),
        ({"reference": b"{}"}, "train the model again"),
    ],
)
def test_what_cannot_be_judged_is_an_error_and_no_verdict(
    trained: Registry, rows: Rows, place: Settings, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], why: str
) -> None:
    for name, value in change.items():
        monkeypatch.setattr(trained, name, value)
    found = model_drift_run.Watched(REGISTERED, "1", True, "")
    with pytest.raises(model_drift_run.CannotJudge, match=why):
        model_drift_run.judge(parsed(FILE), found, trained, rows, place, {})  # type: ignore[arg-type]


def test_trades_that_have_become_worse_are_a_reason(trained: Registry, rows: Rows, place: Settings) -> None:
    random = np.random.default_rng(1)
    found = model_drift_run.Watched(REGISTERED, "1", True, "")
    worse = [*random.normal(0.5, 1, 30), *random.normal(-1.5, 1, 20)]
    same = [*random.normal(0.5, 1, 50)]
    judged = model_drift_run.judge(parsed(FILE), found, trained, rows, place, {"a": worse, "b": same, "c": worse[:35]})  # type: ignore[arg-type]
    assert [r.split(":")[0] for r in judged.verdict.reasons] == ["trades of a"]


def test_an_agent_is_watched_by_what_it_does(
    market: tuple[planted.Made, Any], rows: Rows, place: Settings, tmp_path: Path
) -> None:
    class Follower:
        name = "follower"

        def train(self, *_: Any, **__: Any) -> None: ...

        def start(self, lanes: int) -> None: ...

        def act(self, observation: Any, mask: Any, memory: Any, begins: Any) -> tuple[Any, None]:
            wish = np.where(observation[:, 0] > 0, 1, 2)
            leave = np.where(mask[:, 3] & (wish == 2), 3, np.where(mask[:, 4] & (wish == 1), 4, 0))
            return np.where(mask[:, 1], wish, leave).astype(np.int64), None

        def save(self, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "follower.json").write_text("{}")

        @classmethod
        def load(cls, folder: Path) -> Any:
            return cls()

    text = "name: small\nkind: agent\ndata: planted\nhorizon: 1\nagent: follower\nseeds: 1\nfolds: 1\ndrift: {window: 40}\n"
    file: AgentFile = parsed(text)
    REGISTRY["follower"] = Follower
    try:
        run = agent_training.train(market[1], rows.traded.bars, rows.traded.instruments, file.config(), tmp_path / "work")
        judged = replace(_judgement(), returns=np.random.default_rng(0).normal(0, 0.01, 50))
        reference = model_reference.agent_reference(file, market[1], run, Follower(), rows.traded, judged)
        files = {p.name: p.read_bytes() for p in run.folder.iterdir() if p.name in ("follower.json", "scaler.json")}
        registry = Registry(files, reference, market[1].matrix.schema_hash)
        found = model_drift_run.Watched(REGISTERED, "1", True, "")
        made = model_drift_run.judge(file, found, registry, rows, place, {})  # type: ignore[arg-type]
    finally:
        del REGISTRY["follower"]
    assert {c.name for c in made.reference.outputs} == {"action", "position"}
    assert set(np.unique(made.said["position"])) <= {-1.0, 0.0, 1.0}
    assert len(made.returns) == len(made.ends) > 60


def _judgement() -> Any:
    from ml.protocol import Judgement

    empty = {name: None for name in Judgement.__dataclass_fields__}
    return Judgement(**empty)  # type: ignore[arg-type]


def test_decisions_are_explained_on_demand_with_a_link_to_the_run(
    watch: Watch, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_drift_run, "rows_of", lambda *_: rows)
    config = {"ops": {"model_explanation_small": {"config": {"samples": 2, "symbol": "PLANTED2"}}}}
    result = dg.materialize(
        [model_explanation.explanation_asset("small")], resources=resource_definitions(), run_config=config,
        instance=dg.DagsterInstance.ephemeral(),
    )  # fmt: skip
    (made,) = result.asset_materializations_for_node("model_explanation_small")
    told: dict[str, Any] = {k: v.value for k, v in made.metadata.items()}
    assert told["mlflow_run"] == "http://mlflow/run-of-1"
    assert told["dagster/row_count"] == 2
    assert told["explained"].count("| PLANTED2 |") == 2
    assert "PLANTED1" not in told["explained"]
    assert "data:image/png" in told["decision_02"]


def test_the_position_an_agent_wants_follows_from_its_actions() -> None:
    assert model_reference.held(np.array([0, 1, 0, 3, 0, 2, 0, 4])).tolist() == [0, 1, 1, 0, 0, -1, -1, 0]


class TestTheDecision:
    """What the gate is given: the file's policy, the verdict on the version that made the signal."""

    def test_policy_and_verdict_reach_the_snapshot(self, place: Settings, ledger: Ledger) -> None:
        from tests.trading.test_decisions import SIGNAL

        class Rule:
            class rules:
                class model:
                    name = "small"

        signal = replace(SIGNAL, model={"name": REGISTERED, "version": "1", "role": "champion"})
        policies = ModelPolicies(ledger)
        assert policies.gates(Rule(), signal) == {"model_drift": {"then": "halt", "max_age_days": 5.0}}  # type: ignore[arg-type]
        assert policies.gates(Rule(), SIGNAL) == policies.measured(SIGNAL) == policies.measured(signal) == {}  # type: ignore[arg-type]
        model_verdicts.record(ledger, VERDICT)
        found = ModelPolicies(ledger)
        assert found.measured(signal)["model_drift"]["drifted"] is True
        assert found.measured(replace(signal, model={**signal.model, "version": "2"})) == {}
        (place.config / "models" / "small.yaml").write_text("name: small\nkind: nothing\n")
        assert found.gates(Rule(), signal) == {}  # type: ignore[arg-type]


VERDICT = DriftVerdict("small", REGISTERED, "1", True, 5_000_000, 1, ("features: x",), "halt", "run")


class TestVerdicts:
    def test_older_bars_never_overrule_newer_ones(self, ledger: Ledger) -> None:
        kept = model_verdicts.record(ledger, VERDICT)
        assert model_verdicts.record(ledger, replace(VERDICT, judged_time=4_000_000, drifted=False)) == kept
        assert model_verdicts.verdicts_of(ledger, REGISTERED) == {"1": kept}

    def test_a_drift_that_comes_back_is_another_event(self, ledger: Ledger) -> None:
        first = model_verdicts.record(ledger, VERDICT)
        model_verdicts.record(ledger, replace(VERDICT, judged_time=6_000_000, drifted=False))
        second = model_verdicts.record(ledger, replace(VERDICT, judged_time=7_000_000))
        assert second.event != first.event != ""

    def test_a_signal_is_judged_by_what_had_been_seen_at_its_close(self, ledger: Ledger) -> None:
        """A replay of the past meets the verdicts of its own time, and where there were none, one the gate refuses."""
        first = model_verdicts.record(ledger, VERDICT)
        model_verdicts.record(ledger, replace(VERDICT, judged_time=6_000_000, judged_wall=2, drifted=False))
        last = model_verdicts.record(ledger, replace(VERDICT, judged_time=8_000_000, judged_wall=3))

        def at(close_time: int) -> tuple[int, bool, str]:
            found = model_verdicts.verdict_at(ledger, REGISTERED, "1", close_time)
            assert found is not None
            return found.judged_time, found.drifted, found.event

        assert at(8_000_000) == at(9_000_000) == (8_000_000, True, last.event)
        assert at(7_999_999) == at(6_000_000) == (6_000_000, False, "")
        assert at(5_000_000) == (5_000_000, True, first.event)
        assert at(4_999_999)[0] == 8_000_000, "there is only what came later"
        assert model_verdicts.verdict_at(ledger, REGISTERED, "2", 9_000_000) is None


class TestTheSensor:
    def ask(self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Any:
        monkeypatch.setattr(LedgerResource, "ledger", lambda _: ledger)
        resources = {k: v for k, v in resource_definitions().items() if k in ("config_files", "ledger")}
        return retraining.model_retraining(dg.build_sensor_context(instance=instance, resources=resources))

    def test_asks_once_for_each_drift_and_not_before_the_cooldown_is_over(
        self, place: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            assert "No champion" in self.ask(instance, monkeypatch, ledger).skip_message
            event = model_verdicts.record(ledger, VERDICT).event
            (wish,) = self.ask(instance, monkeypatch, ledger).run_requests
            assert wish.run_key == f"drift:small:{event}"
            assert {k.to_user_string() for k in wish.asset_selection} == {
                "planted_training_set", "model_canaries", "model_small", "model_drift_small", "model_report"
            }  # fmt: skip
            # Dagster did not start it: it is asked for again, and audited once.
            assert self.ask(instance, monkeypatch, ledger).run_requests
            noted = audit_read.read(ledger.engine, action="drift_answered")
            assert len(noted) == 1
            run = instance.create_run_for_job(_nothing, tags=wish.tags, status=dg.DagsterRunStatus.SUCCESS)
            assert event in self.ask(instance, monkeypatch, ledger).skip_message
            model_verdicts.record(ledger, replace(VERDICT, judged_time=6_000_000, drifted=False))
            model_verdicts.record(ledger, replace(VERDICT, judged_time=7_000_000))
            assert "again after 7" in self.ask(instance, monkeypatch, ledger).skip_message
            instance.delete_run(run.run_id)
            (place.config / "models" / "small.yaml").write_text(FILE.replace("then: halt", "retrain: false"))
            assert "No champion" in self.ask(instance, monkeypatch, ledger).skip_message


@dg.job
def _nothing() -> None: ...
