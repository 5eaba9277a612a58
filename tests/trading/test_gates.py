"""The optional gates: each refuses with its values, closed where an input is missing, and the same live as over a history."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.trading import gate_samples
from tests.trading.samples import eurusd, universe
from tests.trading.strategies import problems_of
from tests.trading.test_decisions import SIGNAL, T, outcome, refusal, snapshot
from trading import gate_inputs
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.decisions import decide
from trading.evaluable import evaluate_anchored
from trading.gated import HOSTED, Gated, gated
from trading.gates.settings import OptionalGates, gates_of
from trading.news import joined, parse_news
from trading.signals import Action
from trading.timeframes import US_PER_HOUR, US_PER_MINUTE, Timeframe

FX, EURUSD = calendar("FX"), universe().instruments["EURUSD"]
NOW = T + US_PER_HOUR
NEWS = {"known_from": 0, "known_until": 2 * T, "events": []}


def verdict(gate: str, **changes: Any) -> dict[str, Any]:
    return next(v for v in outcome(snapshot(**changes))["verdicts"] if v["gate"] == gate)


def event(time: int, before: int = 30, after: int = 30) -> dict[str, Any]:
    return {"event": "FOMC", "time": time, "impact": "high", "minutes_before": before, "minutes_after": after}


class TestNewsWindow:
    GATES: ClassVar[dict[str, Any]] = {"news": {"impact": ["high"]}}

    def judged(self, news: Any) -> str:
        return refusal(snapshot(gates=self.GATES, measured={} if news is None else {"news": news}))

    def test_a_day_without_events_passes(self) -> None:
        assert self.judged(NEWS) == ""

    @pytest.mark.parametrize("minutes", [-30, 0, 30])
    def test_the_window_is_closed_at_both_ends_around_the_close_and_the_decision(self, minutes: int) -> None:
        for moment in (T, NOW):
            said = self.judged({**NEWS, "events": [event(moment + minutes * US_PER_MINUTE)]})
            assert said.startswith("NEWS_WINDOW: symbol=EURUSD event=FOMC time=2017-12-2")

    def test_an_event_further_away_passes(self) -> None:
        assert self.judged({**NEWS, "events": [event(NOW + 31 * US_PER_MINUTE), event(T - 31 * US_PER_MINUTE)]}) == ""

    def test_a_missing_calendar_and_one_that_has_run_out_refuse(self) -> None:
        assert self.judged(None) == "NEWS_WINDOW: reason=missing field=measured.news.known_from"
        assert "reason=calendar_ends" in self.judged({**NEWS, "known_until": NOW})
        assert "reason=calendar_begins" in self.judged({**NEWS, "known_from": T + 1})

    def test_a_closed_venue_is_told_before_any_event(self) -> None:
        assert refusal(snapshot(gates=self.GATES, session_open=False)) == "SESSION_CLOSED: symbol=EURUSD"


class TestNewsCalendar:
    def parse(self, lines: str, head: str = "from: 2017-01-01\nuntil: 2017-12-31\n") -> Any:
        return parse_news(f"name: x\n{head}events:\n{lines}", "news/x.yaml")

    def test_local_times_follow_the_zones_clock_changes(self) -> None:
        head = "from: 2017-01-01\nuntil: 2017-12-31\ntimezone: America/New_York\n"
        made, _ = self.parse("  - {event: a, time: 2017-02-01T14:00, currencies: [USD]}\n"
                             "  - {event: b, time: 2017-07-26T14:00, currencies: [USD]}\n", head)  # fmt: skip
        hours = [e.time // US_PER_HOUR % 24 for e in made.events]
        assert hours == [19, 18]

    def test_a_pair_has_both_its_currencies_and_a_stock_its_quote_currency(self) -> None:
        made, _ = self.parse("  - {event: ecb, time: 2017-02-01T12:00Z, currencies: [EUR]}\n")
        (found,) = made.events
        assert found.concerns(EURUSD)
        assert not found.concerns(universe().instruments["AAPL"])

    def test_every_mistake_is_named_with_its_line(self) -> None:
        made, problems = self.parse(
            "  - {event: a, time: 2017-02-01T14:00, currencies: [USD]}\n"
            "  - {event: b, time: 2018-02-01T14:00Z, currencies: [USD]}\n"
        )
        assert made is None
        assert [str(p).split(";")[0] for p in problems] == [
            "news/x.yaml:5: events[0].time: is '2017-02-01T14:00'",
            "news/x.yaml:6: events[1].time: 2018-02-01T14:00Z lies outside 2017-01-01 to 2017-12-31",
        ]

    def test_several_files_know_the_days_that_all_of_them_know(self) -> None:
        one, _ = self.parse("  - {event: a, time: 2017-02-01T14:00Z, currencies: [USD]}\n")
        other, _ = self.parse("  []\n", "from: 2017-06-01\nuntil: 2018-06-30\n")
        both = joined([one, other])
        assert both is not None
        assert (both.known_from, both.known_until) == (other.known_from, one.known_until)
        assert joined([]) is None


class TestRegime:
    def judged(self, measured: Any, **settings: Any) -> str:
        gates = {"regime": {"allowed": ["trending"], "by": "rules", **settings}}
        return refusal(snapshot(gates=gates, measured={"regime": measured}))

    def test_an_allowed_regime_passes_and_another_names_itself(self) -> None:
        assert self.judged({"rules": "trending"}) == ""
        assert self.judged({"rules": "volatile"}) == "REGIME: symbol=EURUSD regime=volatile by=rules allowed=trending"

    def test_both_models_must_agree_when_both_are_asked(self) -> None:
        assert self.judged({"rules": "trending", "markov": "trending"}, by="both") == ""
        assert "regime=ranging by=markov" in self.judged({"rules": "trending", "markov": "ranging"}, by="both")

    def test_an_unknown_regime_refuses(self) -> None:
        assert self.judged({"rules": None}) == "REGIME: reason=missing field=measured.regime.rules"
        assert self.judged({}) == "REGIME: reason=missing field=measured.regime.rules"


class TestConfluence:
    GATES: ClassVar[dict[str, Any]] = {"confluence": {"at_least": 0.6}}

    def test_the_verdict_shows_the_score_and_its_parts(self) -> None:
        measured = {"confluence": {"score": 0.6, "parts": {"4h trend": 0.6, "rsi": 0.0}}}
        found = verdict("confluence", gates=self.GATES, measured=measured)
        assert (found["passed"], found["value"], found["threshold"]) == (True, "0.6 (4h trend 0.6, rsi 0)", "0.6")

    def test_a_low_score_names_the_parts_that_are_missing(self) -> None:
        measured = {"confluence": {"score": 0.4, "parts": {"4h trend": 0.0, "rsi": 0.4}}}
        said = refusal(snapshot(gates=self.GATES, measured=measured))
        assert said == "CONFLUENCE: symbol=EURUSD score=0.4 minimum=0.6 missing=4h_trend"

    def test_a_side_without_parts_refuses(self) -> None:
        assert refusal(snapshot(gates=self.GATES)) == "CONFLUENCE: reason=missing field=measured.confluence.score"


class TestVolatility:
    GATES: ClassVar[dict[str, Any]] = {
        "volatility": {
            "atr": {"min_percent": 0.1, "max_percent": 2.0},
            "spread": {"max_ticks": 3},
            "vix": {"max_level": 30},
            "volume": {"min_ratio": 0.5},
        }
    }
    GOOD: ClassVar[dict[str, float]] = {"atr_percent": 0.5, "spread_ticks": 2.0, "vix": 14.0, "volume_ratio": 1.2}

    def judged(self, **changes: Any) -> str:
        return refusal(snapshot(gates=self.GATES, measured={"volatility": {**self.GOOD, **changes}}))

    def test_inside_every_bound_passes_and_shows_all_measures(self) -> None:
        found = verdict("volatility", gates=self.GATES, measured={"volatility": self.GOOD})
        assert found["passed"]
        assert found["value"] == "atr_percent=0.5 spread_ticks=2 vix=14 volume_ratio=1.2"
        assert found["threshold"] == "atr_percent>=0.1 atr_percent<=2 spread_ticks<=3 vix<=30 volume_ratio>=0.5"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"atr_percent": 0.05}, "atr_percent=0.05 minimum=0.1"),
            ({"atr_percent": 2.5}, "atr_percent=2.5 maximum=2"),
            ({"spread_ticks": 4.0}, "spread_ticks=4 maximum=3"),
            ({"vix": 31.0}, "vix=31 maximum=30"),
            ({"volume_ratio": 0.4}, "volume_ratio=0.4 minimum=0.5"),
        ],
    )
    def test_outside_a_bound_refuses_with_the_measure(self, change: dict[str, float], said: str) -> None:
        assert self.judged(**change) == f"VOLATILITY: symbol=EURUSD {said}"

    @pytest.mark.parametrize("name", sorted(GOOD))
    def test_a_measure_that_is_not_known_refuses(self, name: str) -> None:
        assert self.judged(**{name: None}) == f"VOLATILITY: reason=missing field=measured.volatility.{name}"


class TestBudget:
    GATES: ClassVar[dict[str, Any]] = {"budget": {"percent": 1.5}}  # of 100,000; the signal risks 0.5 percent

    def judged(self, **taken: float | None) -> str:
        return refusal(snapshot(gates=self.GATES, measured={"budget": {k: v for k, v in taken.items() if v is not None}}))

    def test_what_is_open_working_accepted_and_asked_for_must_fit(self) -> None:
        assert self.judged(open=400.0, working=300.0, accepted=300.0) == ""
        assert self.judged(open=500.0, working=300.0, accepted=300.0) == (
            "RISK_BUDGET: symbol=EURUSD open=500.00 working=300.00 accepted=300.00 this=500.00 limit=1500.00"
        )

    @pytest.mark.parametrize("name", ["open", "working", "accepted"])
    def test_a_part_that_is_not_known_refuses(self, name: str) -> None:
        known: dict[str, float | None] = {"open": 0.0, "working": 0.0, "accepted": 0.0, name: None}
        assert self.judged(**known) == f"RISK_BUDGET: reason=missing field=measured.budget.{name}"

    def test_an_unknown_account_refuses(self) -> None:
        none = {"open": 0.0, "working": 0.0, "accepted": 0.0}
        said = refusal(snapshot(gates=self.GATES, measured={"budget": none}, sizing={}))
        assert said == "RISK_BUDGET: reason=missing field=sizing.equity"


class TestSize:
    def test_the_outcome_states_rule_quantity_and_risk(self) -> None:
        size = outcome(snapshot())["size"]
        assert size["rule"] == {"kind": "risk_percent", "percent": 0.5}
        assert size["quantity"] == 250_000  # 500 / 0.002, in lots of 1
        assert size["risk"] == pytest.approx(500.0)

    def test_an_adaptive_rule_without_its_measure_refuses(self) -> None:
        signal = replace(SIGNAL, sizing={"kind": "atr_risk", "percent": 1.0, "multiple": 2.0, "period": 14})
        assert refusal(snapshot(signal)) == "SIZE_ZERO: symbol=EURUSD sizing=atr_risk reason=atr_is_not_known"
        found = outcome(snapshot(signal, measured={"sizing": {"atr": 0.002}}))["size"]
        assert found["rule"] == {"kind": "risk_percent", "percent": pytest.approx(0.5)}  # the stop is half of two ATRs away

    def test_less_than_a_lot_refuses(self) -> None:
        assert refusal(snapshot(sizing={"equity": 0.1, "currency": "USD"})).startswith("SIZE_ZERO: symbol=EURUSD")

    def test_where_the_account_is_not_known_the_desk_sizes_alone(self) -> None:
        result = outcome(snapshot(sizing=None))
        assert result["approved"]
        assert result["size"]["quantity"] is None


# -- measures --------------------------------------------------------------------------------------------------------------

ADAPTIVE = {"kind": "atr_risk", "percent": 1.0, "multiple": 2.0, "period": 14}


def live(gates: OptionalGates, row: int, actions: Any = None, windows: Any = None) -> gate_inputs.Measures:
    """What the trade run measures at the close of `row`: only what was known then, from where its windows begin."""
    bars = windows or gate_samples.windows()
    own = bars[Timeframe.H1]
    reads = gate_inputs.reads_of(gates, ADAPTIVE, Timeframe.H1)
    assert reads is not None
    until = int(own.close_time[row])
    given = {}
    for key, start in reads.starts(int(own.session[row]), FX).items():
        series = bars[key].known_at(until)
        given[key] = series.rows(slice(int(np.searchsorted(series.session, start)), None))
    quotes = gate_samples.quotes(own, 2e-5).known_at(until)
    return gate_inputs.measure_last(gates, ADAPTIVE, given, Timeframe.H1, EURUSD, FX, quotes, actions)


def whole(gates: OptionalGates, actions: Any = None, windows: Any = None) -> gate_inputs.Measures:
    bars = windows or gate_samples.windows()
    quotes = gate_samples.quotes(bars[Timeframe.H1], 2e-5)
    return gate_inputs.measure_history(gates, ADAPTIVE, bars, Timeframe.H1, EURUSD, FX, quotes, actions)


ALL = gate_samples.GATES.replace("vix: {max_level: 11.5}", "vix: {max_level: 11.5}\n    spread: {max_ticks: 3}")


def settings_of(text: str) -> OptionalGates:
    import yaml

    return OptionalGates.model_validate({k: v for k, v in yaml.safe_load(text)["gates"].items() if k != "min_reward_to_risk"})


ROWS = [30, 150, 500, 999, 1800, 2600, 3333, 4100, 4999, 5600, 6224]


@pytest.fixture(scope="module")
def measured() -> gate_inputs.Measures:
    return whole(settings_of(ALL))


@pytest.mark.parametrize("row", ROWS)
def test_live_and_history_measure_the_same_to_the_bit(row: int, measured: gate_inputs.Measures) -> None:
    now = live(settings_of(ALL), row)
    for side in (1, -1):
        assert now.at(-1, side) == measured.at(row, side)


@pytest.mark.parametrize("row", [1500, 3300, 3590, 3600, 3601, 4000])
def test_across_a_split_both_measure_on_the_level_of_their_own_bar(row: int, measured: gate_inputs.Measures) -> None:
    own, at = gate_samples.windows()[Timeframe.H1], 3600
    session = int(own.session[at])
    split = {"EURUSD": [CorporateAction("EURUSD", ActionKind.SPLIT, session, 0, 7.0)]}

    def cut(bars: Bars) -> Bars:
        after = np.where(bars.session >= session, 7.0, 1.0)
        return replace(bars, open=bars.open / after, high=bars.high / after, low=bars.low / after, close=bars.close / after,
                       volume=bars.volume * after)  # fmt: skip

    bars = {k: cut(b) if isinstance(k, Timeframe) else b for k, b in gate_samples.windows().items()}
    gates = OptionalGates.model_validate({"regime": {"allowed": ["trending"], "history": 100}})
    now, ever = live(gates, row, split, bars), whole(gates, split, bars)
    assert now.at(-1, 1) == ever.at(row, 1)
    smooth = whole(gates)
    factor = 7.0 if int(own.session[row]) >= session else 1.0
    assert ever.columns["regime/rules"][row] == smooth.columns["regime/rules"][row]
    assert ever.columns["sizing/atr"][row] * factor == pytest.approx(smooth.columns["sizing/atr"][row], rel=1e-9)


def test_a_quote_that_is_old_crossed_or_one_sided_is_no_spread() -> None:
    bars = eurusd().rows(slice(0, 100))
    gates = OptionalGates.model_validate({"volatility": {"spread": {"max_ticks": 3, "stale_minutes": 5}}})

    def ticks(quotes: Any) -> float:
        found = gate_inputs.measure(gates, {}, {Timeframe.H1: bars}, Timeframe.H1, EURUSD, FX, quotes)
        return float(found.columns["volatility/spread_ticks"][50])

    good = gate_samples.quotes(bars, 2e-5)
    assert ticks(good) == pytest.approx(2.0)
    assert np.isnan(ticks(None))
    assert np.isnan(ticks(gate_samples.quotes(bars, -2e-5)))
    assert np.isnan(ticks(replace(good, bid_close=np.full(100, np.nan))))
    assert np.isnan(ticks(replace(good, close_time=good.close_time - 30 * US_PER_MINUTE - US_PER_HOUR)))
    assert ticks(replace(good, close_time=good.close_time - 4 * US_PER_MINUTE)) == pytest.approx(2.0)


def test_what_is_not_given_is_unknown_and_never_a_number() -> None:
    gates = settings_of(ALL)
    only = {Timeframe.H1: eurusd().rows(slice(0, 300))}
    found = gate_inputs.measure_history(gates, ADAPTIVE, only, Timeframe.H1, EURUSD, FX)
    assert found.columns
    assert all(np.isnan(column).all() for column in found.columns.values())


class TestTheBacktestHostsTheSameGates:
    def test_each_wish_gets_the_verdicts_that_the_trade_run_gives_it(self) -> None:
        strategy, bars = gate_samples.strategy(), gate_samples.windows()
        wrapped = gated(strategy, series={("VIX", Timeframe.D1): bars["VIX", Timeframe.D1]}, news=gate_samples.news())
        assert isinstance(wrapped, Gated)
        own = bars[Timeframe.H1]
        evaluation = evaluate_anchored(strategy, bars, EURUSD, FX)
        judged = wrapped.judge(evaluation, {t: bars[t] for t in strategy.timeframes}, EURUSD, FX)
        assert len(judged.rows) > 100
        assert set(judged.counts()) == {"session", "regime", "confluence", "volatility"}
        for at in range(0, len(judged.rows), 7):
            row, side = int(judged.rows[at]), int(judged.side[at])
            close = int(own.close_time[row])
            action = Action.ENTER_LONG if side > 0 else Action.ENTER_SHORT
            levels = (0.9, 1.5) if side > 0 else (1.5, 0.9)
            signal = replace(
                SIGNAL, close_time=close, action=action, valid_until=close + US_PER_HOUR, stop_price=levels[0],
                target_price=levels[1],
            )  # fmt: skip
            measured = live(gates_of(strategy), row).at(-1, side)
            measured["news"] = gate_samples.news().about(EURUSD, ["medium", "high"], (close,))
            taken = snapshot(
                signal, now_time=close, gates=gates_of(strategy).switched_on, measured=measured,
                session_open=bool(FX.session_of(np.array([close]))[0] >= 0),
            )  # fmt: skip
            said = {v["gate"]: v for v in json.loads(decide(taken))["verdicts"]}
            for verdict in judged.verdicts[at][1:]:  # of the bars themselves: tests/trading/test_quality_history.py
                assert said[verdict.gate] == {
                    "gate": verdict.gate, "passed": verdict.passed, "value": verdict.value, "threshold": verdict.threshold,
                    "refusal": verdict.refusal,
                }  # fmt: skip

    def test_refused_wishes_are_no_wishes_of_the_evaluation(self) -> None:
        strategy, bars = gate_samples.strategy(), gate_samples.windows()
        wrapped = gated(strategy, series={("VIX", Timeframe.D1): bars["VIX", Timeframe.D1]}, news=gate_samples.news())
        plain = evaluate_anchored(strategy, bars, EURUSD, FX)
        kept = evaluate_anchored(wrapped, bars, EURUSD, FX)
        judged = wrapped.judge(plain, bars, EURUSD, FX)  # type: ignore[attr-defined]
        wanted = np.flatnonzero(kept.enter_long | kept.enter_short)
        assert 0 < len(wanted) < len(judged.rows)
        assert wanted.tolist() == judged.rows[judged.passed].tolist()

    def test_a_gate_without_its_input_refuses_every_wish(self) -> None:
        strategy, bars = gate_samples.strategy("gates: {news: {}}"), gate_samples.windows()
        kept = evaluate_anchored(gated(strategy), bars, EURUSD, FX)
        assert not (kept.enter_long | kept.enter_short).any()

    def test_the_gates_are_told_in_the_order_of_the_trade_run(self) -> None:
        assert [g for g in [v["gate"] for v in outcome(snapshot())["verdicts"]] if g in HOSTED] == list(HOSTED)


# -- the file --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ("{regime: {allowed: [trendy]}}", "gates.regime.allowed[0]: unknown value 'trendy'"),
        ("{regime: {allowed: [trending], bars: 30m}}", "gates.regime.bars: EURUSD has bars of 1h and longer, not 30m"),
        ("{regimes: {}}", "gates.regimes: unknown key"),
        ("{volatility: {}}", "gates.volatility: has nothing to judge by"),
        ("{volatility: {atr: {}}}", "gates.volatility.atr: has no limit"),
        ("{volatility: {atr: {min_percent: 2, max_percent: 1}}}", "min 2 is not below max 1"),
        ("{volatility: {spread: {max_ticks: 2}}}", "the universe keeps no quotes of EURUSD"),
        ("{volatility: {vix: {instrument: VIXX, max_level: 30}}}", "gates.volatility.vix.instrument: no instrument 'VIXX'"),
        ("{volatility: {vix: {bars: 1h, max_level: 30}}}", "VIX has bars of 1d and longer, not 1h"),
        ("{confluence: {at_least: 0.5}}", "gates.confluence: has parts for neither side"),
        ("{confluence: {at_least: 0.5, long: [{name: a, when: {'>': [{indicator: rsii}, 1]}}]}}", "no indicator 'rsii'"),
        ("{confluence: {at_least: 0.5, long: [{name: a, when: {'>': [close, 1]}}]}}", "has no parts for short"),
        ("{budget: {percent: 0}}", "gates.budget.percent: is 0"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_key_and_line(gates: str, said: str) -> None:
    text = gate_samples.text(f"gates: {gates}")
    line = next(i for i, one in enumerate(text.splitlines(), 1) if one.startswith("gates:"))
    found = [str(p) for p in problems_of(text) if p.severity == "error"]
    assert any(said in one and one.startswith(f"probe.yaml:{line}:") for one in found), found
