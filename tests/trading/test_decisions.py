"""Decisions: pure, replayable, and closed whenever anything is missing."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.decisions import build_snapshot, decide, decision_of
from trading.gates.base import GATES
from trading.ids import canonical
from trading.instruments import AssetClass, Instrument, Mode
from trading.quality import ERROR_CHECKS
from trading.signals import Action, Decision, PartitionRef, Signal
from trading.timeframes import US_PER_HOUR, Timeframe

T = 1_514_415_600_000_000  # 2017-12-27T23:00:00Z
EURUSD = Instrument(
    "EURUSD", AssetClass.FOREX, "FX", Decimal("0.00001"), "USD", "sample_forex", "EURUSD", Timeframe.H1,
    tradable_in=frozenset({Mode.BACKTEST, Mode.PAPER}),
)  # fmt: skip
NEWEST = PartitionRef("bars_1h", "2017-12-28", "EURUSD", "hash-28")
BEFORE = PartitionRef("bars_1h", "2017-12-27", "EURUSD", "hash-27")
SIGNAL = Signal(
    strategy="ema_trend", strategy_revision="abc", symbol="EURUSD", timeframe=Timeframe.H1, close_time=T,
    action=Action.ENTER_LONG, strength=0.7, reference_price=1.19, stop_price=1.188, target_price=1.194,
    valid_until=T + 2 * US_PER_HOUR, sizing={"kind": "risk_percent", "percent": 0.5}, features_version="f1",
    partitions=(NEWEST, BEFORE),
)  # fmt: skip


def verdicts(*refs: PartitionRef, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "dataset": ref.dataset, "session": ref.session, "symbol": ref.symbol, "check": check, "passed": True,
            "severity": "error", "content_hash": ref.content_hash, **changes,
        }
        for ref in refs
        for check in ERROR_CHECKS
    ]  # fmt: skip


def snapshot(signal: Signal = SIGNAL, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "instrument": EURUSD, "mode": Mode.PAPER, "verdicts": verdicts(NEWEST, BEFORE), "required": [NEWEST, BEFORE],
        "warm": True, "now_time": T + US_PER_HOUR, "session_open": True, "min_reward_to_risk": 1.5, "gates": {},
        "sizing": {"equity": 100_000.0, "currency": "USD"},
    }  # fmt: skip
    return build_snapshot(signal, **{**values, **changes})


def outcome(data: bytes) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(decide(data))
    return result


def refusal(data: bytes) -> str:
    result = outcome(data)
    assert result["approved"] == (not result["refusal"])
    return str(result["refusal"])


def test_a_good_signal_on_good_bars_is_approved_by_every_gate_in_order() -> None:
    result = outcome(snapshot())
    assert result["approved"] is True
    assert [v["gate"] for v in result["verdicts"]] == [
        "validity", "data_quality", "warm_up", "model_drift", "session", "tradable", "regime", "confluence", "volatility",
        "stop_required", "reward_to_risk", "conflict", "legs", "size", "budget",
    ]  # fmt: skip
    assert result["signal_id"] == SIGNAL.id


def test_every_gate_is_registered_once() -> None:
    assert len(GATES.names()) == len(set(GATES.names())) == 15


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"now_time": T + 3 * US_PER_HOUR}, "EXPIRED: now=2017-12-28T02:00:00Z valid_until=2017-12-28T01:00:00Z"),
        ({"now_time": T - 1}, "EXPIRED: reason=before_close"),
        ({"warm": False}, "WARM_UP: symbol=EURUSD"),
        ({"session_open": False}, "SESSION_CLOSED: symbol=EURUSD"),
        ({"mode": Mode.LIVE}, "NOT_TRADABLE: symbol=EURUSD mode=live allowed=backtest,paper"),
        ({"instrument": replace(EURUSD, tradable_in=frozenset())}, "NOT_TRADABLE: symbol=EURUSD mode=paper allowed=none"),
        ({"instrument": replace(EURUSD, symbol="GBPUSD")}, "NOT_TRADABLE: symbol=EURUSD reason=another_instrument"),
        ({"min_reward_to_risk": 2.5}, "REWARD_TO_RISK: ratio=2 minimum=2.5"),
    ],
)
def test_each_gate_refuses_with_its_code_and_values(change: dict[str, Any], expected: str) -> None:
    assert refusal(snapshot(**change)).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stop_price": 1.19}, "STOP_REQUIRED: stop=1.19 price=1.19"),
        ({"stop_price": 1.2}, "STOP_REQUIRED: stop=1.2"),
        ({"stop_price": math.nan}, "STOP_REQUIRED: reason=missing field=signal.stop_price"),
        ({"target_price": 1.18}, "REWARD_TO_RISK: reward=-0.01"),
        ({"target_price": None}, "REWARD_TO_RISK: ratio=none minimum=1.5"),
        ({"action": Action.ENTER_SHORT}, "STOP_REQUIRED: stop=1.188"),
    ],
)
def test_levels_must_make_sense_for_the_side(change: dict[str, Any], expected: str) -> None:
    assert refusal(snapshot(replace(SIGNAL, **change))).startswith(expected)


def test_a_short_is_judged_the_other_way_round() -> None:
    short = replace(SIGNAL, action=Action.ENTER_SHORT, stop_price=1.192, target_price=1.186)
    assert refusal(snapshot(short)) == ""


def test_without_a_target_a_strategy_that_asks_for_no_ratio_may_enter() -> None:
    assert refusal(snapshot(replace(SIGNAL, target_price=None), min_reward_to_risk=0.0)) == ""


def test_a_ratio_on_the_grid_is_not_refused_for_float_noise() -> None:
    assert refusal(snapshot(min_reward_to_risk=2.0)) == ""  # (1.194 - 1.19) / (1.19 - 1.188) is 1.9999999999998885


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.ALERT])
def test_shadow_decides_as_if_where_orders_would_be_allowed(mode: Mode) -> None:
    assert refusal(snapshot(mode=mode)) == ""
    only_backtest = replace(EURUSD, tradable_in=frozenset({Mode.BACKTEST}))
    assert refusal(snapshot(mode=mode, instrument=only_backtest)).startswith("NOT_TRADABLE")


@pytest.mark.parametrize("check", ERROR_CHECKS)
def test_each_failed_missing_or_stale_check_refuses_with_partition_check_and_reason(check: str) -> None:
    text = f"DATA_QUALITY: partition=bars_1h/2017-12-27/EURUSD check={check}"
    of_newest = verdicts(NEWEST)
    failed = [{**v, "passed": v["check"] != check} for v in verdicts(BEFORE)]
    assert refusal(snapshot(verdicts=of_newest + failed)) == f"{text} reason=failed"
    missing = [v for v in verdicts(BEFORE) if v["check"] != check]
    assert refusal(snapshot(verdicts=of_newest + missing)) == f"{text} reason=missing"
    stale = [{**v, "content_hash": "old" if v["check"] == check else v["content_hash"]} for v in verdicts(BEFORE)]
    assert refusal(snapshot(verdicts=of_newest + stale)) == f"{text} reason=stale"


def test_a_corrupted_bar_reads_as_the_desk_and_the_report_will_show_it() -> None:
    bad = [{**v, "passed": v["check"] != "ohlc_consistent"} for v in verdicts(NEWEST)]
    assert refusal(snapshot(verdicts=bad + verdicts(BEFORE))) == (
        "DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD check=ohlc_consistent reason=failed"
    )


def test_warnings_do_not_stop_trading_and_extra_failed_checks_do() -> None:
    warned = [{**v, "passed": False, "severity": "warn"} for v in verdicts(NEWEST)]
    assert refusal(snapshot(verdicts=warned + verdicts(BEFORE))) == ""
    extra = {**verdicts(NEWEST)[0], "check": "vendor_agrees", "passed": False}
    assert refusal(snapshot(verdicts=[*verdicts(NEWEST, BEFORE), extra])).endswith("check=vendor_agrees reason=failed")


@pytest.mark.parametrize("passed", [None, "true", 1, "yes"])
def test_only_true_is_passed(passed: Any) -> None:
    odd = [{**v, "passed": passed} for v in verdicts(NEWEST)]
    assert "reason=failed" in refusal(snapshot(verdicts=odd + verdicts(BEFORE)))


def test_bars_that_changed_since_the_signal_was_computed_refuse_it() -> None:
    now = replace(NEWEST, content_hash="hash-28b")
    assert refusal(snapshot(required=[now, BEFORE], verdicts=verdicts(now, BEFORE))) == (
        "DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD check=content_hash reason=stale"
    )


def test_a_signal_from_unnamed_or_unrequired_bars_is_refused() -> None:
    assert refusal(snapshot(required=[])) == "DATA_QUALITY: reason=missing field=required"
    assert refusal(snapshot(required=[BEFORE])).endswith("partition=bars_1h/2017-12-28/EURUSD check=required reason=missing")
    assert refusal(snapshot(replace(SIGNAL, partitions=()))) == "DATA_QUALITY: reason=missing field=signal.partitions"
    assert refusal(snapshot(required_checks=[])) == "DATA_QUALITY: reason=missing field=required_checks"


def test_the_same_snapshot_gives_the_same_bytes_whatever_order_it_was_built_in() -> None:
    one = snapshot()
    other = snapshot(verdicts=list(reversed(verdicts(BEFORE, NEWEST))))
    assert one == other
    assert decide(one) == decide(other)
    assert decide(one) == canonical(json.loads(decide(one)))


GOLDEN = json.loads((Path(__file__).parent / "golden" / "decisions_schema_1.json").read_text())


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_a_snapshot_stored_before_a_gate_existed_is_decided_to_the_same_bytes(case: str) -> None:
    stored = GOLDEN[case]
    assert decide(stored["snapshot"].encode()) == stored["outcome"].encode()


def test_a_snapshot_that_does_not_say_which_gates_are_on_is_refused_by_all_of_them() -> None:
    result = outcome(snapshot(gates=None))
    assert result["refusal"] == "REGIME: reason=missing field=gates"
    refused = {v["gate"] for v in result["verdicts"] if not v["passed"]}
    assert refused == {"regime", "confluence", "volatility", "budget"}


def test_the_decision_carries_the_signal_the_verdicts_and_survives_json() -> None:
    data = snapshot(warm=False)
    decision = decision_of(data, decide(data))
    assert decision.signal == SIGNAL
    assert not decision.approved
    assert decision.refusal == "WARM_UP: symbol=EURUSD"
    assert [v.gate for v in decision.verdicts if not v.passed] == ["warm_up"]
    assert Decision.from_dict(json.loads(canonical(decision.to_dict()))) == decision


def test_an_outcome_of_another_snapshot_is_not_believed() -> None:
    with pytest.raises(ValueError, match="belongs to another snapshot"):
        decision_of(snapshot(warm=False), decide(snapshot()))


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(value, dict):
            yield (*at, key)
        yield from paths(item, (*at, key))


def edited(content: dict[str, Any], path: tuple[Any, ...], edit: Callable[[Any, Any], None]) -> bytes:
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    edit(place, path[-1])
    return json.dumps(changed).encode()


OUTSIDE = {"strength", "sizing", "percent", "kind", "features_version", "reason", "mode"}
REFUSED = [
    snapshot(warm=False), snapshot(session_open=False), snapshot(now_time=T + 9 * US_PER_HOUR), snapshot(mode=Mode.LIVE),
    snapshot(replace(SIGNAL, stop_price=1.2)), snapshot(min_reward_to_risk=9.0), snapshot(verdicts=verdicts(NEWEST)),
    snapshot(verdicts=verdicts(NEWEST, BEFORE, passed=False)), snapshot(replace(SIGNAL, target_price=None)),
    snapshot(verdicts=verdicts(NEWEST, BEFORE, content_hash="old")), snapshot(required=[BEFORE]),
]  # fmt: skip


@pytest.mark.parametrize("data", REFUSED)
def test_removing_any_field_never_turns_a_refusal_into_an_approval(data: bytes) -> None:
    content = json.loads(data)
    assert refusal(data)
    for path in paths(content):
        assert refusal(edited(content, path, lambda place, key: place.pop(key))), f"approved without {path}"
        assert refusal(edited(content, path, lambda place, key: place.update({key: None}))), f"approved with null {path}"


def test_removing_any_field_a_gate_needs_refuses_an_approved_signal() -> None:
    content = json.loads(snapshot())
    needed = [
        ("now_time",), ("mode",), ("warm",), ("session_open",), ("min_reward_to_risk",), ("required",), ("verdicts",),
        ("required_checks",), ("schema",), ("signal",), ("instrument",), ("instrument", "tradable_in"),
        ("instrument", "symbol"), *(("signal", key) for key in content["signal"] if key not in OUTSIDE),
    ]  # fmt: skip
    for path in needed:
        assert refusal(edited(content, path, lambda place, key: place.pop(key))), f"approved without {path}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.data(), json_values)
def test_no_odd_value_anywhere_raises_or_makes_the_outcome_differ(data: st.DataObject, value: Any) -> None:
    content = json.loads(snapshot())
    path = data.draw(st.sampled_from(sorted(paths(content), key=str)))
    odd = edited(content, path, lambda place, key: place.update({key: value}))
    result = json.loads(decide(odd))
    assert decide(odd) == decide(odd)
    assert result["approved"] == (result["refusal"] == "")


@given(st.binary(max_size=60))
def test_bytes_that_are_no_snapshot_are_refused_by_every_gate(data: bytes) -> None:
    result = outcome(data)
    assert not result["approved"]
    assert not any(v["passed"] for v in result["verdicts"])


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{" * 100_000, b'{"schema":1,"now_time":NaN}', b'{"schema":1,"signal":{"id":"\\ud800"}}']
)
def test_hostile_bytes_are_refused_not_raised(data: bytes) -> None:
    assert refusal(data).startswith("EXPIRED: reason=missing")


def test_numbers_beyond_any_float_are_refused_not_raised() -> None:
    content = json.loads(snapshot())
    content["signal"]["stop_price"] = -(10**400)
    assert refusal(json.dumps(content).encode()).startswith("STOP_REQUIRED: reason=error error=OverflowError")


def test_a_signal_that_does_not_carry_the_id_of_its_content_is_refused() -> None:
    content = json.loads(snapshot())
    content["signal"]["symbol"] = "GBPUSD"
    assert refusal(json.dumps(content).encode()) == "EXPIRED: reason=malformed_signal"
