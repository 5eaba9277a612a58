"""Conflicts: contradictions are found when a file is checked, opposite signals are resolved at the close."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.backtest_kit import bars_of, make, wishes
from tests.trading.samples import eurusd, eurusd_4h, universe
from tests.trading.strategies import parsed, problems_of
from trading.backtest import backtest
from trading.conditions import Condition, evaluate
from trading.config_text import load_yaml
from trading.conflict_policy import ConflictRule, resolve
from trading.conflicts import check_sample, check_together
from trading.frame import Frame
from trading.logic import always, impossible
from trading.signals import Action, Signal
from trading.timeframes import Timeframe

RSI: dict[str, Any] = {"indicator": "rsi", "params": {"period": 14}}
SMA: dict[str, Any] = {"indicator": "sma", "params": {"period": 20}}


def text(long: str = '{">": [close, 1.1]}', extra: str = "", exits: str = "", confirm: str = "", timeframe: str = "1h") -> str:
    return (
        f"name: probe\nstatus: active\nmode: paper\nsymbols: [EURUSD]\ntimeframe: {timeframe}\n{confirm}entry:\n  long: {long}\n{extra}"  # noqa: E501
        f"exits:\n  stop: {{kind: percent, percent: 2}}\n{exits}sizing: {{kind: fixed, quantity: 10000}}\n"
    )


def shown(found: str) -> list[str]:
    return [f"{p.severity}: {p}" for p in problems_of(found)]


class TestLogic:
    @pytest.mark.parametrize(
        "rule",
        [
            {"all": [{">": [RSI, 70]}, {"<": [RSI, 30]}]},
            {"all": [{">=": [RSI, 70]}, {"not": {">": [RSI, 50]}}]},
            {">": [RSI, 100]},
            {"<": [{"indicator": "atr"}, 0]},
            {"all": [{"cross_above": ["close", SMA]}, {"cross_below": ["close", SMA]}]},
            {"all": [{">": ["close", SMA]}, {"<": [SMA, "close"]}, {"<=": ["close", SMA]}]},
            {">": ["low", "high"]},
            {"<": ["close", "low"]},
            {">": [3, 5]},
            {"all": [{"==": [RSI, 50]}, {"not": {"==": [RSI, 50]}}]},
            {"any": [{">": ["low", "high"]}, {"all": [{">": [RSI, 70]}, {"<": [RSI, 70]}]}]},
            {"all": [{"pattern": "strat_212", "direction": "up"}, {"pattern": "strat_212", "direction": "down"}]},
            {"all": [{"cross_above": [RSI, 30]}, {"<": [RSI, 25]}]},
        ],
        ids=str,
    )
    def test_a_contradiction_is_seen(self, rule: dict[str, Any]) -> None:
        assert impossible(Condition.model_validate(rule))

    @pytest.mark.parametrize(
        "rule",
        [
            {"all": [{">": [RSI, 30]}, {"<": [RSI, 70]}]},
            {"all": [{">": [RSI, 70]}, {"<": [{**RSI, "lookback": 1}, 30]}]},
            {"all": [{">": [RSI, 70]}, {"<": [RSI, 30], "within": 5}]},
            {"all": [{"cross_above": ["close", SMA]}, {"cross_below": ["close", SMA], "within": 3}]},
            {">=": [RSI, 100]},
            {">": ["low", {"price": "high", "lookback": 1}]},
            {"any": [{">": [RSI, 70]}, {"<": [RSI, 30]}]},
        ],
        ids=str,
    )
    def test_what_may_hold_is_not_accused(self, rule: dict[str, Any]) -> None:
        assert not impossible(Condition.model_validate(rule))

    def test_what_always_holds_is_seen(self) -> None:
        assert always(Condition.model_validate({">=": [RSI, 0]}))
        assert always(Condition.model_validate({"any": [{">": ["close", SMA]}, {"<=": ["close", SMA]}]}))
        assert not always(Condition.model_validate({">": [RSI, 0]}))

    def test_too_many_alternatives_are_taken_to_be_possible(self) -> None:
        either = {"any": [{">": [{**RSI, "params": {"period": n}}, 50]} for n in range(2, 8)]}
        assert not impossible(Condition.model_validate({"all": [either] * 8}))


ATOM = st.one_of(
    st.tuples(st.sampled_from([">", "<", ">=", "<=", "cross_above", "cross_below"]), st.sampled_from([25, 50, 75])).map(
        lambda t: {t[0]: [RSI, t[1]]}
    ),
    st.tuples(st.sampled_from([">", "<", ">=", "<="]), st.sampled_from(["open", "low", "high", SMA])).map(
        lambda t: {t[0]: ["close", t[1]]}
    ),
)
RULE = st.recursive(
    ATOM,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda r: {"all": r}),
        st.lists(inner, min_size=1, max_size=3).map(lambda r: {"any": r}),
        inner.map(lambda r: {"not": r}),
    ),
    max_leaves=6,
)


@given(RULE)
@settings(max_examples=200, deadline=None)
def test_what_is_called_impossible_never_holds_and_what_is_called_certain_holds_always(rule: dict[str, Any]) -> None:
    frame = Frame({Timeframe.H1: eurusd().rows(slice(0, 1500))}, Timeframe.H1)
    condition = Condition.model_validate(rule)
    holds = evaluate(condition, frame)
    if impossible(condition):
        assert not holds.any()
    if always(condition):
        assert holds[60:].all()


class TestFiles:
    def test_a_rule_that_can_never_hold_is_an_error_at_its_line(self) -> None:
        found = text('{all: [{">": [{indicator: rsi}, 70]}, {"<": [{indicator: rsi}, 30]}]}')
        (problem,) = problems_of(found)
        assert (problem.severity, problem.key, problem.line) == ("error", "entry.long", 7)
        assert "rsi(14)" in problem.message

    def test_a_dead_alternative_and_an_idle_part_are_warnings_and_the_file_is_used(self) -> None:
        dead = text('{any: [{">": [close, open]}, {">": [low, high]}]}')
        assert "this part can never hold" in shown(dead)[0]
        idle = text('{all: [{">": [close, open]}, {">=": [high, low]}]}')
        assert "says nothing" in shown(idle)[0]
        for one in (dead, idle):
            assert shown(one)[0].startswith("warning")
            parsed(one)

    def test_sides_that_always_coincide_are_an_error(self) -> None:
        found = shown(text(extra='  short: {">": [close, 1.0]}\n'))
        assert "short holds whenever long does" in found[0]

    def test_an_exit_that_holds_whenever_the_entry_does_is_an_error(self) -> None:
        found = shown(text(exits='  rules: {long: {">": [close, 1.0]}}\n'))
        assert "would be closed at the next bar" in found[0]
        assert not shown(text(exits='  rules: {long: {"<": [close, 1.0]}}\n'))

    @pytest.mark.parametrize(
        ("confirm", "words"),
        [("confirm: [1h]\n", "is the primary timeframe itself"), ("confirm: [4h]\n", "confirms nothing"),
         ("confirm: [1d, 4h]\n", "confirms nothing")],
    )  # fmt: skip
    def test_a_timeframe_that_cannot_confirm_is_a_warning(self, confirm: str, words: str) -> None:
        assert any(words in line and line.startswith("warning") for line in shown(text(confirm=confirm)))

    def test_a_shorter_confirming_timeframe_is_a_warning(self) -> None:
        rule = '{">": [{price: close, timeframe: 1h}, 1.1]}'
        assert any("is shorter than the primary" in line for line in shown(text(rule, confirm="confirm: [1h]\n", timeframe="4h")))

    def test_a_window_in_which_no_bar_closes_is_an_error(self) -> None:
        weekend = text().replace("entry:", 'windows: [{from: "09:00", to: "12:00", days: [sat]}]\nentry:')
        assert "ever closes in it" in shown(weekend)[0]
        daily = text().replace("EURUSD", "SPX").replace("1h", "1d").replace("10000", "10")
        morning = daily.replace("entry:", 'windows: [{from: "09:30", to: "11:00"}]\nentry:')
        assert "no 1d bar of SPX (XNYS) ever closes in it" in shown(morning)[0]
        assert not shown(daily.replace("entry:", 'windows: [{from: "15:30", to: "16:00"}]\nentry:'))

    def test_every_error_and_warning_comes_at_once_in_the_order_of_the_file(self) -> None:
        found = problems_of(
            text('{">": [{indicator: rsi}, 101]}', extra='  short: {">": [low, high]}\n', confirm="confirm: [1h]\n")
        )
        assert [(p.line, p.severity) for p in found] == [(6, "warning"), (8, "error"), (9, "error")]

    def test_two_strategies_that_always_want_the_opposite_are_a_warning(self) -> None:
        one = parsed(text('{">": [close, 1.2]}'))
        other = parsed(
            text().replace("name: probe", "name: other").replace('long: {">": [close, 1.1]}', 'short: {">": [close, 1.1]}')
        )
        found = check_together([one, other], {"probe": "strategies/a.yaml", "other": "strategies/b.yaml"})
        assert [(p.file, p.severity) for p in found] == [("strategies/a.yaml", "warning")]
        assert "whenever it wants long of EURUSD, other wants short" in found[0].message
        paused = dataclasses.replace(other, status="paused")
        assert not check_together([one, paused], {"probe": "a", "other": "b"})

    @pytest.mark.parametrize(
        "rule",
        ["{cross_above: [close, {indicator: sma, params: {period: 20}}]}", '{">": [close, open], within: 3}',
         '{all: [{cross_above: [{indicator: rsi}, 30]}, {">": [close, 1.2]}]}'],
        ids=["a cross", "within some bars", "a cross with more beside it"],
    )  # fmt: skip
    def test_opposites_are_found_where_the_rules_are_the_same_events(self, rule: str) -> None:
        one, part = parsed(text(rule)), "{cross_above: [{indicator: rsi}, 30]}" if "all" in rule else rule
        other = parsed(text().replace("name: probe", "name: other").replace('long: {">": [close, 1.1]}', f"short: {part}"))
        found = check_together([one, other], {"probe": "strategies/a.yaml", "other": "strategies/b.yaml"})
        assert "whenever it wants long of EURUSD, other wants short" in found[0].message

    def test_sides_of_the_same_cross_are_an_error_and_an_exit_at_the_next_one_is_not(self) -> None:
        cross = "{cross_above: [close, {indicator: sma, params: {period: 20}}]}"
        assert "short holds whenever long does" in shown(text(cross, extra=f"  short: {cross}\n"))[0]
        assert not shown(text(cross, exits=f"  rules: {{long: {cross}}}\n"))

    def test_a_rule_and_its_denial_never_hold_together(self) -> None:
        cross = "{cross_above: [close, {indicator: sma, params: {period: 20}}], within: 2}"
        assert "cannot hold and not hold" in shown(text(f"{{all: [{cross}, {{not: {cross}}}]}}"))[0]

    def test_a_rule_that_never_changed_on_the_sample_is_a_warning(self) -> None:
        written = text('{all: [{">": [close, 0.5]}, {">": [close, open]}]}')
        bars = {Timeframe.H1: eurusd(), Timeframe.H4: eurusd_4h()}
        (problem,) = check_sample(parsed(written), load_yaml(written, "probe.yaml"), bars)
        assert problem.key == "entry.long.all[0]"
        assert "holds at every of the 6225 bars" in problem.message


def signal(strategy: str, action: Action, strength: float = 1.0, symbol: str = "EURUSD") -> Signal:
    return Signal(
        strategy, "r", symbol, Timeframe.H1, 1_000, action, strength, 1.1, 1.0 if action is Action.ENTER_LONG else 1.2, None, 2_000,  # noqa: E501
        {}, "f", (),
    )  # fmt: skip


LONG, SHORT = Action.ENTER_LONG, Action.ENTER_SHORT


class TestPolicies:
    def lost(self, signals: list[Signal], held: dict[str, dict[str, float]] | None = None, **rule: Any) -> set[str]:
        found = resolve(signals, ConflictRule(**rule), held)
        assert found == resolve(signals[::-1], ConflictRule(**rule), held), "the order does not matter"
        return {s.strategy for s in signals if found[s.id].lost}

    def test_without_opposites_nobody_loses(self) -> None:
        for policy in ("cancel_both", "strongest", "first_wins", "allow"):
            assert self.lost([signal("a", LONG), signal("b", LONG), signal("c", SHORT, symbol="SPX")], policy=policy) == set()

    def test_cancel_both_is_what_happens_when_nobody_says_anything(self) -> None:
        assert self.lost([signal("a", LONG), signal("b", SHORT), signal("c", LONG)]) == {"a", "b", "c"}

    def test_strongest(self) -> None:
        assert self.lost([signal("a", LONG, 0.4), signal("b", SHORT, 0.7)], policy="strongest") == {"a"}
        assert self.lost([signal("a", LONG, 0.7), signal("b", SHORT, 0.7)], policy="strongest") == {"a", "b"}

    def test_first_wins_by_the_stated_order_then_by_name(self) -> None:
        assert self.lost([signal("a", LONG), signal("b", SHORT)], policy="first_wins") == {"b"}
        assert self.lost([signal("a", LONG), signal("b", SHORT)], policy="first_wins", order=["b"]) == {"a"}

    def test_allow(self) -> None:
        signals = [signal("a", LONG), signal("b", SHORT)]
        assert self.lost(signals, policy="allow") == set()
        assert resolve(signals, ConflictRule(policy="allow"))[signals[0].id].against == ("b",), "shown all the same"

    def test_an_open_position_of_another_strategy_blocks_when_told_to(self) -> None:
        held = {"EURUSD": {"b": -10000.0}}
        assert self.lost([signal("a", LONG)], held) == set()
        assert self.lost([signal("a", LONG)], held, positions="block") == {"a"}
        assert self.lost([signal("a", SHORT)], held, positions="block") == set()
        assert self.lost([signal("b", LONG)], held, positions="block") == set(), "its own position is another matter"

    def test_the_universe_file_names_the_policy(self) -> None:
        assert universe().conflicts.policy == "cancel_both"


class TestInABacktest:
    """The compiled loop resolves what the trade run resolves: the same losers at the same closes."""

    @pytest.mark.parametrize(
        "rule",
        [
            ConflictRule(policy="cancel_both"), ConflictRule(policy="strongest"), ConflictRule(policy="first_wins", order=["c"]),
            ConflictRule(policy="first_wins"), ConflictRule(policy="allow"),
        ],
        ids=lambda r: f"{r.policy} {','.join(r.order)}",
    )  # fmt: skip
    def test_every_policy_has_the_same_losers(self, rule: ConflictRule) -> None:
        dice, names, n = np.random.default_rng(11), ("b", "a", "c"), 80
        bars = bars_of("\n".join(["100 101 99 100"] * n))
        evaluations, expected = [], dict.fromkeys(names, 0)
        for _ in names:
            side = dice.integers(0, 3, n)
            made = wishes(
                bars, enter_long=dict.fromkeys(np.flatnonzero(side == 0).tolist(), True),
                enter_short=dict.fromkeys(np.flatnonzero(side == 1).tolist(), True),
                stop_long=dict.fromkeys(range(n), 90.0), stop_short=dict.fromkeys(range(n), 110.0),
            )  # fmt: skip
            silent = dice.random(n) < 0.1  # without a stop a wish is no signal
            evaluations.append(
                replace(made, strength=np.round(dice.random(n), 1), stop_long=np.where(silent, np.nan, made.stop_long))
            )
        for row in range(n):
            signals = []
            for name, e in zip(names, evaluations, strict=True):
                long = bool(e.enter_long[row])
                if (long or e.enter_short[row]) and np.isfinite((e.stop_long if long else e.stop_short)[row]):
                    action = Action.ENTER_LONG if long else Action.ENTER_SHORT
                    signals.append(signal(name, action, float(e.strength[row])))
            for one in signals:
                expected[one.strategy] += resolve(signals, rule)[one.id].lost
        result = backtest(
            evaluations, [bars] * 3, [make()] * 3, cash=1e6, sizing={"kind": "fixed", "quantity": 1}, strategy=list(names),
            require_stop=True, conflicts=rule,
        )  # fmt: skip
        found = [refused.get("CONFLICT", 0) for refused in result.slot_refusals]
        assert found == [expected[name] for name in names]
        assert (sum(found) > 20) == (rule.policy != "allow")

    def test_a_signal_that_a_gate_refuses_stands_against_the_other_side_all_the_same(self) -> None:
        bars = bars_of("\n".join(["100 101 99 100"] * 4))
        long = wishes(bars, enter_long={1: True}, stop_long={1: 90.0})
        short = wishes(bars, enter_short={1: True}, stop_short={1: 110.0})
        never = {"SOME_GATE": np.zeros(4, bool)}
        result = backtest(
            [long, short], [bars] * 2, [make()] * 2, cash=1e6, sizing={"kind": "fixed", "quantity": 1}, strategy=["a", "b"],
            gates=[{}, never], conflicts=ConflictRule(),
        )  # fmt: skip
        assert [dict(r) for r in result.slot_refusals] == [{"CONFLICT": 1}, {"SOME_GATE": 1}]

    def test_a_position_of_another_strategy_blocks_the_other_side_when_told_to(self) -> None:
        bars = bars_of("\n".join(["100 101 99 100"] * 6))
        long = wishes(bars, enter_long={1: True}, stop_long={1: 90.0})
        short = wishes(bars, enter_short={3: True}, stop_short={3: 110.0})
        for rule, trades in ((ConflictRule(positions="block"), 1), (ConflictRule(), 2)):
            result = backtest(
                [long, short], [bars] * 2, [make()] * 2, cash=1e6, sizing={"kind": "fixed", "quantity": 1},
                strategy=["a", "b"], conflicts=rule,
            )  # fmt: skip
            assert len(result.trades) == trades
            assert result.refusals == ({"CONFLICT": 1} if trades == 1 else {})
