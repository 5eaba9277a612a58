"""Every Python, YAML and JSON example of the docs is run or read by a test; a new one without a test fails here."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml.training_files import parse_training
from resources.feeds.identity import tickers
from resources.lake import Lake
from resources.lake.retention import parse_retention
from resources.notifications import routing
from tests.assets.sample_lake import installation
from tests.paths import ROOT
from tests.trading.samples import eurusd, universe
from trading.action_files import parse_actions
from trading.bars import Bars
from trading.calendar_files import parse_calendar
from trading.calendars import calendar
from trading.config_text import Problem
from trading.limits import parse_limits
from trading.news import parse_news
from trading.resample import resample
from trading.sample_bars import sample_bars
from trading.timeframes import Timeframe, session_date
from trading.universe import parse_universe

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```((?:python|yaml|json)[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {
    "backtest": "tests/trading/test_backtest_docs.py",
    "execution-algorithms": "tests/trading/execution/test_checks.py",
    "execution-functions": "tests/test_docs_examples.py",
    "gates": "tests/trading/test_gates_docs.py",
    "lake": "tests/resources/test_read.py",
    "patterns": "tests/test_docs_strategies.py",
    "plans": "tests/test_docs_examples.py",
    "research": "tests/test_docs_examples.py",
    "sizing": "tests/trading/test_gates_docs.py",
    "strategies": "tests/test_docs_strategies.py",
}
"""Pages whose Python and YAML have tests of their own."""


STOCK = "  X: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: files, native_timeframe: 1d}\n"


def fenced(page: str, kind: str) -> list[str]:
    return [text for found, text in FENCE.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")) if found == kind]


def indented(page: str, begins: str) -> str:
    """The indented block of `page` that begins so."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"\n\n((?:[ ]{{4,}}{re.escape(begins)}[^\n]*\n)(?:[ ]{{4,}}[^\n]*\n|\n(?=[ ]{{4}}))*)", text)
    lines = found.rstrip().split("\n")
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines) + "\n"


def read(parse: Callable[[str, str], tuple[Any, list[Problem]]], text: str) -> Any:
    made, problems = parse(text, "docs.yaml")
    assert made is not None, [str(p) for p in problems]
    return made


def with_instruments(text: str) -> Any:
    """A universe of the instruments that a page writes."""
    head = "name: docs\nhistory_start: 2024-01-02\ninstruments:\n"
    return read(parse_universe, head + "".join(f"  {line}\n" for line in text.splitlines()))


class TestKindsOfStrategies:
    """The Python of the pages about scanners, pairs, ensembles and conflicts, on a lake with made-up bars."""

    @pytest.fixture(scope="class", autouse=True)
    def _lake(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with installation(tmp_path_factory.mktemp("docs"), TAPELINE_UNIVERSE="sample") as own:
            lake = Lake(own.lake_dir)
            known = universe().instruments
            days = {s: sample_bars(known[s], Timeframe.D1, 900) for s in ("AAPL", "FB", "GOOG", "IBM", "MSFT", "SPX", "COMP")}
            made: dict[Timeframe, dict[str, Bars]] = {Timeframe.D1: days, Timeframe.H1: {"EURUSD": eurusd()}}
            made[Timeframe.H4] = {"EURUSD": resample(eurusd(), Timeframe.H4, calendar("FX"))}
            for timeframe, bars in made.items():
                sessions = [session_date(int(b.session[i])) for b in bars.values() for i in (0, -1)]
                lake.write_bars(
                    f"bars_{timeframe}", bars, start=min(sessions), end=max(sessions), source="docs", instruments=known
                )
            yield

    @pytest.mark.parametrize("page", ["scanners", "pairs", "ensembles"])
    def test_the_sample_is_backtested(self, page: str, capsys: pytest.CaptureFixture[str]) -> None:
        (text,) = fenced(page, "python")
        names: dict[str, Any] = {}
        exec(compile(text, f"docs/{page}.md", "exec"), names)
        assert names["prepared"].ignored == {}
        assert "'sharpe'" in capsys.readouterr().out

    def test_the_check_names_what_can_never_hold(self, capsys: pytest.CaptureFixture[str]) -> None:
        (text,) = fenced("conflicts", "python")
        exec(compile(text, "docs/conflicts.md", "exec"), {})
        assert "impossible.yaml:" in capsys.readouterr().out

    def test_the_policy_is_one_that_a_universe_takes(self) -> None:
        (text,) = fenced("conflicts", "yaml universe")
        (own,) = re.findall(r"^  EURUSD:\n(?:    .*\n)+", (ROOT / "data/config/universe/sample.yaml").read_text(), re.MULTILINE)
        made = read(parse_universe, "name: docs\nhistory_start: 2017-01-02\ninstruments:\n" + own + text)
        assert (made.conflicts.policy, made.conflicts.positions) == ("cancel_both", "ignore")


class TestFiles:
    """YAML that a page writes is what the file's own reader takes."""

    def test_calendars(self) -> None:
        assert read(parse_calendar, indented("calendars-and-timeframes", "name: MCX")).name == "MCX"
        assert read(parse_calendar, indented("calendars-and-timeframes", "name: FAIR")).name == "FAIR"

    def test_corporate_actions(self) -> None:
        actions, problems = parse_actions(indented("corporate-actions", "actions:"), "docs.yaml", lambda _: calendar("XNYS"))
        assert (len(actions), problems) == (4, [])

    def test_instruments(self) -> None:
        rest = "  asset_class: equity\n  calendar: XNYS\n  tick_size: 0.01\n  currency: USD\n  native_timeframe: 1d\n"
        meta = with_instruments(indented("corporate-actions", "META:") + rest)
        assert tickers(meta.instruments["META"]) == {"FB", "META"}
        future = "  tick_size: 0.25\n  currency: USD\n  feed: lean\n  native_timeframe: 1m\n"
        assert with_instruments(indented("corporate-actions", "ES:") + future).instruments["ES"].future is not None
        assert with_instruments(indented("feeds", "AAPL:")).instruments["AAPL"].feed == "files"
        (fmp,) = fenced("feeds", "yaml")
        assert with_instruments("\n".join(line[2:] for line in fmp.splitlines())).instruments["AAPL"].feed == "fmp"

    def test_news(self) -> None:
        assert read(parse_news, indented("gates", "name: central_banks"))

    def test_limits(self) -> None:
        (whole,) = fenced("risk", "yaml")
        assert read(parse_limits, whole)
        (some,) = fenced("orders", "yaml")
        keys = {line.split(":")[0] for line in some.splitlines()}
        assert read(parse_limits, some + "".join(f"{line}\n" for line in whole.splitlines() if line.split(":")[0] not in keys))

    def test_quality_models_retention_and_notifications(self) -> None:
        (thresholds,) = fenced("quality", "yaml")
        assert read(parse_universe, thresholds + "name: docs\nhistory_start: 2024-01-02\ninstruments:\n" + STOCK)
        model, drift = fenced("models", "yaml")
        assert read(parse_training, model + drift)
        (policy,) = fenced("lake", "yaml")
        assert read(parse_retention, policy)
        (channels,) = fenced("notifications", "yaml")
        assert routing.parse(channels, "docs.yaml").problems == ()

    def test_events_of_the_stream(self) -> None:
        (text,) = fenced("api", "json")
        decoder, at, found = json.JSONDecoder(), 0, []
        while at < len(text.rstrip()):
            event, end = decoder.raw_decode(text, at)
            found.append(event["type"])
            at = end + len(text[end:]) - len(text[end:].lstrip())
        assert found == ["hello", "event", "alive"]


class TestPython:
    def test_bars_that_are_still_forming(self) -> None:
        (text,) = fenced("calendars-and-timeframes", "python")
        minutes = sample_bars(universe().instruments["SPX"], Timeframe.M1, 500)
        names = {"minutes": minutes, "Timeframe": Timeframe, "calendar": calendar, "now": int(minutes.close_time[450])}
        exec(compile(text, "docs/calendars-and-timeframes.md", "exec"), names)
        forming: Any = names["forming"]
        assert len(forming) == 1
        assert forming.close_time[0] > names["now"]

    def test_an_agent_of_ones_own_is_registered(self) -> None:
        from ml.agents import REGISTRY

        agent, served = fenced("models", "python")
        try:
            exec(compile(agent, "docs/models.md", "exec"), {})
            assert REGISTRY["mine"].name == "mine"
        finally:
            REGISTRY.pop("mine", None)
        assert "mlflow.pyfunc.load_model" in served  # run as it stands by tests/assets/test_model_assets.py

    def test_who_writes_partitions_calls_what_is_there(self) -> None:
        """tests/assets/test_changes.py runs it on a ledger; here the call of the page is held against the function."""
        from assets import changes

        (text,) = fenced("corrections", "python")
        calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        assert [c.func.id for c in calls if isinstance(c.func, ast.Name)] == ["database_now", "replace_bars"]
        for call in calls:
            assert isinstance(call.func, ast.Name)
            given = {str(k.arg): None for k in call.keywords}
            inspect.signature(getattr(changes, call.func.id)).bind(*call.args, **given)

    def test_adjusted_bars_are_asked_for_as_the_page_says(self) -> None:
        from resources import read as reading

        text = indented("corporate-actions", "from resources import read")
        calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
        for call in calls:
            given = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            inspect.signature(reading.bars).bind(*[ast.literal_eval(a) for a in call.args], **given)
        assert len(calls) == 2


HERE = Counter(
    {
        ("scanners", "python"): 1, ("pairs", "python"): 1, ("ensembles", "python"): 1, ("conflicts", "python"): 1,
        ("scanners", "yaml strategy"): 1, ("pairs", "yaml strategy"): 1, ("ensembles", "yaml strategy"): 1,
        ("conflicts", "yaml universe"): 1, ("feeds", "yaml"): 1, ("risk", "yaml"): 1, ("orders", "yaml"): 1,
        ("quality", "yaml"): 1, ("models", "yaml"): 2, ("models", "python"): 2, ("notifications", "yaml"): 1, ("api", "json"): 1,
        ("calendars-and-timeframes", "python"): 1, ("corrections", "python"): 1,
    }
)  # fmt: skip


def test_no_example_is_without_a_test() -> None:
    found = Counter(
        (page.stem, kind)
        for page in PAGES
        if page.stem not in ELSEWHERE
        for kind, _ in FENCE.findall(page.read_text(encoding="utf-8"))
    )
    assert found == HERE


@pytest.mark.parametrize("page", sorted(ELSEWHERE))
def test_a_page_with_tests_elsewhere_is_read_there(page: str) -> None:
    assert re.search(rf"{page}(\.md)?\"", Path(ROOT / ELSEWHERE[page]).read_text(encoding="utf-8"))


def test_the_index_of_the_docs_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.stem for page in DOCS.glob("*.md")} - {"README"}
