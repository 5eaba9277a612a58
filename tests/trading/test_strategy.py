"""Strategy files: rules become arrays that look at closed bars only; every mistake in a file is named at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.samples import CONFIG, eurusd, eurusd_4h, spx, universe
from trading.bars import Bars
from trading.calendars import calendar
from trading.config_text import Problem
from trading.evaluation import Evaluation
from trading.instruments import Mode
from trading.signals import Action, PartitionRef, Signal
from trading.strategy import Evaluable, Strategy, evaluate_anchored, json_schema, live_window, parse_strategy, signal_at
from trading.timeframes import Timeframe, iso, session_date

RULES = """\
name: probe
status: active
mode: paper
symbols: [EURUSD]
timeframe: 1h
confirm: [4h]
entry:
  long: {">": [close, 1.1]}
exits:
  stop: {kind: points, points: 0.002}
sizing: {kind: fixed, quantity: 10000}
"""


def parsed(text: str) -> Strategy:
    strategy, problems = parse_strategy(text, "probe.yaml", universe())
    assert strategy is not None, [str(p) for p in problems]
    return strategy


def with_entry(condition: str) -> Strategy:
    return parsed(RULES.replace('{">": [close, 1.1]}', condition))


def problems_of(text: str) -> list[Problem]:
    strategy, problems = parse_strategy(text, "probe.yaml", universe())
    assert strategy is None
    return problems


def sample(name: str) -> Strategy:
    return parsed((CONFIG / "strategies" / f"{name}.yaml").read_text())


def bars_of(strategy: Evaluable) -> dict[Timeframe, Bars]:
    if strategy.symbols[0] == "SPX":
        return {Timeframe.D1: spx()}
    bars = {Timeframe.H1: eurusd(), Timeframe.H4: eurusd_4h()}
    return {t: bars[t] for t in strategy.timeframes}


def run(strategy: Strategy) -> Evaluation:
    return strategy.evaluate(bars_of(strategy), universe().instruments[strategy.symbols[0]])


OTHERS = ("symbol", "timeframe", "max_bars", "scale", "parts", "targets")
ARRAYS = [f.name for f in dataclasses.fields(Evaluation) if f.name not in OTHERS]


# --- the sample files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "symbols", "timeframes"),
    [
        ("ema_trend", ("EURUSD",), (Timeframe.H1, Timeframe.H4)),
        ("rsi_reversion", ("SPX", "COMP"), (Timeframe.D1,)),
        ("rsi_reversion_fx", ("EURUSD",), (Timeframe.H1,)),
    ],
)
def test_the_samples_parse_and_are_evaluable(name: str, symbols: tuple[str, ...], timeframes: tuple[Timeframe, ...]) -> None:
    strategy = sample(name)
    assert isinstance(strategy, Evaluable)
    assert (strategy.name, strategy.kind, strategy.symbols, strategy.timeframes) == (name, "strategy", symbols, timeframes)
    assert (strategy.status, strategy.mode, strategy.once) == ("active", Mode.PAPER, False)
    assert set(strategy.warm_up) == set(timeframes)


def test_the_samples_give_signals_in_the_last_sessions_of_the_year() -> None:
    sessions = set()
    for name in ("ema_trend", "rsi_reversion_fx"):
        evaluation = run(sample(name))
        rows = np.flatnonzero(evaluation.enter_long | evaluation.enter_short)
        sessions |= {session_date(int(eurusd().session[r])).isoformat() for r in rows}
    assert {"2017-12-26", "2017-12-27", "2017-12-28", "2017-12-29"} <= sessions


# --- what rules mean ----------------------------------------------------------------------------------------------


def test_a_comparison_holds_where_the_prices_say_so() -> None:
    evaluation = run(parsed(RULES))
    np.testing.assert_array_equal(evaluation.enter_long, eurusd().close > 1.1)
    assert not evaluation.enter_short.any()
    np.testing.assert_array_equal(evaluation.stop_long[:50], np.round(eurusd().close[:50] - 0.002, 5))


def test_a_cross_needs_the_other_side_one_bar_before() -> None:
    close = eurusd().close
    crossed = np.zeros(len(close), bool)
    crossed[1:] = (close[:-1] <= 1.1) & (close[1:] > 1.1)
    np.testing.assert_array_equal(run(with_entry("{cross_above: [close, 1.1]}")).enter_long, crossed)
    below = np.zeros(len(close), bool)
    below[1:] = (close[:-1] >= 1.1) & (close[1:] < 1.1)
    np.testing.assert_array_equal(run(with_entry("{cross_below: [close, 1.1]}")).enter_long, below)


def test_all_any_and_not_nest() -> None:
    condition = '{all: [{">": [close, 1.1]}, {not: {any: [{">": [high, 1.2]}, {"<": [{price: low, lookback: 2}, 1.12]}]}}]}'
    bars = eurusd()
    low = np.full(len(bars), np.nan)
    low[2:] = bars.low[:-2]
    expected = (bars.close > 1.1) & ~((bars.high > 1.2) | (low < 1.12)) & np.isfinite(low)
    np.testing.assert_array_equal(run(with_entry(condition)).enter_long, expected)


def test_a_higher_timeframe_value_is_that_of_the_last_closed_bar_never_of_the_forming_one() -> None:
    strategy = with_entry('{">": [{price: close, timeframe: 4h}, 1.1]}')
    evaluation = run(strategy)
    higher = eurusd_4h()
    for row in range(0, len(eurusd()), 97):
        closed = np.flatnonzero(higher.close_time <= eurusd().close_time[row])
        expected = len(closed) > 0 and higher.close[closed[-1]] > 1.1
        assert bool(evaluation.enter_long[row]) == expected


def test_a_missing_number_makes_the_whole_condition_false_under_not_and_any_too() -> None:
    bars = bars_of(parsed(RULES))
    low = bars[Timeframe.H1].low.copy()
    low[100] = np.nan
    bars[Timeframe.H1] = dataclasses.replace(bars[Timeframe.H1], low=low)
    for condition in ('{not: {">": [low, 9]}}', '{any: [{">": [high, 0]}, {">": [low, 0]}]}', '{">": [low, 0]}'):
        evaluation = with_entry(condition).evaluate(bars, universe().instruments["EURUSD"])
        assert evaluation.enter_long[99:102].tolist() == [True, False, True], condition


def test_before_the_warm_up_nothing_is_wanted() -> None:
    strategy = sample("ema_trend")
    evaluation = run(strategy)
    first = int(np.argmax(evaluation.ready))
    assert first + 1 >= strategy.warm_up[Timeframe.H1]
    known_4h = np.searchsorted(eurusd_4h().close_time, eurusd().close_time[first], side="right")
    assert known_4h == strategy.warm_up[Timeframe.H4]
    for name in ("enter_long", "enter_short", "exit_long", "exit_short"):
        assert not getattr(evaluation, name)[~evaluation.ready].any()


def test_without_bars_of_a_timeframe_nothing_is_ready() -> None:
    strategy = parsed(RULES)
    bars = {**bars_of(strategy), Timeframe.H4: Bars.empty("EURUSD", Timeframe.H4)}
    assert not strategy.evaluate(bars, universe().instruments["EURUSD"]).ready.any()
    with pytest.raises(ValueError, match="needs 4h bars of EURUSD"):
        strategy.evaluate({Timeframe.H1: eurusd()}, universe().instruments["EURUSD"])
    with pytest.raises(ValueError, match="does not trade SPX"):
        strategy.evaluate(bars, universe().instruments["SPX"])
    with pytest.raises(ValueError, match="given as EURUSD"):
        strategy.evaluate({**bars, Timeframe.H1: spx()}, universe().instruments["EURUSD"])


def test_both_sides_at_once_is_no_entry() -> None:
    evaluation = run(parsed(RULES.replace("entry:\n", 'entry:\n  short: {">": [high, 1.15]}\n')))
    both = (eurusd().close > 1.1) & (eurusd().high > 1.15)
    assert both.any()
    assert not (evaluation.enter_long | evaluation.enter_short)[both].any()


def test_windows_are_the_venues_wall_clock_across_daylight_saving() -> None:
    strategy = parsed(RULES.replace("entry:", 'windows: [{from: "08:00", to: "09:00", days: [mon, tue]}]\nentry:'))
    evaluation = run(strategy)
    stamps = [iso(t)[11:16] for t in evaluation.close_time[evaluation.enter_long]]
    days = {session_date(int(s)).weekday() for s in eurusd().session[evaluation.enter_long]}
    assert set(stamps) == {"13:00", "14:00"}  # 09:00 New York, summer and winter: 08:00 itself is outside
    assert days == {0, 1}


def test_a_window_over_midnight_wraps() -> None:
    strategy = parsed(RULES.replace("entry:", 'windows: [{from: "22:00", to: "01:00"}]\nentry:'))
    evaluation = run(strategy)
    hours = {(int(iso(t)[11:13]) - 5) % 24 for t in evaluation.close_time[evaluation.enter_long & winter(evaluation)]}
    assert hours == {23, 0, 1}


def winter(evaluation: Evaluation) -> np.ndarray:
    return evaluation.close_time > int(np.datetime64("2017-11-06", "us").astype(np.int64))


def test_stops_and_targets_lie_on_the_grid_and_on_their_side() -> None:
    evaluation = run(sample("ema_trend"))
    instrument = universe().instruments["EURUSD"]
    for row in np.flatnonzero(evaluation.enter_long):
        close, stop, target = eurusd().close[row], evaluation.stop_long[row], evaluation.target_long[row]
        assert stop < close < target
        assert (stop, target) == (instrument.round_price(stop), instrument.round_price(target))
        assert abs((target - close) / (close - stop) - 2.0) < 0.02
    for row in np.flatnonzero(evaluation.enter_short):
        assert evaluation.target_short[row] < eurusd().close[row] < evaluation.stop_short[row]


# --- research equals live -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ema_trend", "rsi_reversion_fx", "rsi_reversion"])
def test_recomputing_on_bars_cut_at_a_time_gives_the_same_rows(name: str) -> None:
    strategy = sample(name)
    bars, instrument = bars_of(strategy), universe().instruments[strategy.symbols[0]]
    primary = bars[strategy.timeframe]
    whole = strategy.evaluate(bars, instrument)
    for row in range(200, len(primary), 611):
        known = {t: b.known_at(int(primary.close_time[row])) for t, b in bars.items()}
        cut = strategy.evaluate(known, instrument)
        for array in ARRAYS:
            assert getattr(whole, array)[: row + 1].tobytes() == getattr(cut, array).tobytes(), (array, row)


@pytest.mark.parametrize("name", ["ema_trend", "rsi_reversion_fx", "rsi_reversion"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_anchored_history_equals_a_live_evaluation_bit_for_bit(name: str, data: st.DataObject) -> None:
    strategy = sample(name)
    bars, instrument = bars_of(strategy), universe().instruments[strategy.symbols[0]]
    venue, primary = calendar(instrument.calendar), bars[strategy.timeframe]
    history = _history(name)
    row = data.draw(st.integers(0, len(primary) - 1))
    live = strategy.evaluate(
        live_window(strategy, bars, int(primary.close_time[row]), int(primary.session[row]), venue), instrument
    )
    for array in ARRAYS:
        assert getattr(history, array)[row].tobytes() == getattr(live, array)[-1].tobytes(), (array, row)


_HISTORY: dict[str, Evaluation] = {}


def _history(name: str) -> Evaluation:
    if name not in _HISTORY:
        strategy = sample(name)
        instrument = universe().instruments[strategy.symbols[0]]
        _HISTORY[name] = evaluate_anchored(strategy, bars_of(strategy), instrument, calendar(instrument.calendar))
    return _HISTORY[name]


def test_a_window_that_starts_elsewhere_gives_other_values() -> None:
    # Guards the tests above: if the start did not matter, equality would prove nothing.
    strategy = sample("rsi_reversion")
    instrument = universe().instruments["SPX"]
    unanchored = strategy.evaluate({Timeframe.D1: spx().rows(slice(-130, None))}, instrument)
    anchored = _history("rsi_reversion").stop_long[-130:]
    assert np.abs(unanchored.stop_long[20:] - anchored[20:]).max() > 0


def test_an_empty_history_gives_empty_arrays() -> None:
    strategy = sample("rsi_reversion_fx")
    evaluation = evaluate_anchored(
        strategy, {Timeframe.H1: Bars.empty("EURUSD", Timeframe.H1)}, universe().instruments["EURUSD"], calendar("FX")
    )
    assert all(len(getattr(evaluation, array)) == 0 for array in ARRAYS)


# --- signals ------------------------------------------------------------------------------------------------------

REFS = (PartitionRef("bars_1h", "2017-12-28", "EURUSD", "ab" * 32),)


def signal(strategy: Strategy, row: int) -> Signal | None:
    bars = bars_of(strategy)
    return signal_at(
        strategy, run(strategy), row, bars[strategy.timeframe], universe().instruments[strategy.symbols[0]],
        features_version="f1", partitions=REFS, mode=Mode.PAPER,
    )  # fmt: skip


def test_a_signal_carries_what_made_it_and_survives_json() -> None:
    strategy = sample("ema_trend")
    row = int(np.flatnonzero(run(strategy).enter_long)[-1])
    made = signal(strategy, row)
    assert made is not None
    assert (made.strategy, made.strategy_revision, made.symbol) == ("ema_trend", strategy.revision, "EURUSD")
    assert (iso(made.close_time), made.action, made.reference_price) == ("2017-12-27T05:00:00Z", Action.ENTER_LONG, 1.18748)
    assert made.target_price is not None
    assert made.stop_price < made.reference_price < made.target_price
    assert (iso(made.valid_until), made.partitions, made.features_version) == ("2017-12-27T06:00:00Z", REFS, "f1")
    assert made.reason == "ema(8) crosses above ema(21) and close@4h > ema(34)@4h"
    assert Signal.from_dict(made.to_dict()) == made
    again = signal(strategy, row - len(eurusd()))
    assert again is not None
    assert again.id == made.id, "counted from the end it is the same row"


def test_no_signal_without_an_entry_or_when_not_active() -> None:
    strategy = sample("ema_trend")
    evaluation = run(strategy)
    quiet = int(np.flatnonzero(~(evaluation.enter_long | evaluation.enter_short))[-1])
    assert signal(strategy, quiet) is None
    row = int(np.flatnonzero(evaluation.enter_long)[-1])
    assert signal(strategy, row) is not None
    assert signal(dataclasses.replace(strategy, status="paused"), row) is None


def test_a_signal_of_bars_that_do_not_hold_the_row_is_an_error() -> None:
    strategy = sample("ema_trend")
    evaluation = run(strategy)
    row = int(np.flatnonzero(evaluation.enter_long)[-1])
    with pytest.raises(ValueError, match="no 1h bar of EURUSD closes at"):
        signal_at(
            strategy, evaluation, row, eurusd().rows(slice(0, 10)), universe().instruments["EURUSD"],
            features_version="", partitions=(), mode="paper",
        )  # fmt: skip


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "near"),
    [
        ("symbols: [EURUSD]", "symbols: [EURUSDD]", 4, "symbols[0]", "EURUSD"),
        ("symbols: [EURUSD]", "symbols: [VIX]", 4, "symbols[0]", ""),
        ("symbols: [EURUSD]", "symbols: EURUSD", 4, "symbols", ""),
        ("symbols: [EURUSD]", "symbols: [EURUSD, EURUSD]", 4, "symbols", ""),
        ("timeframe: 1h", "timeframe: 1hr", 5, "timeframe", "1h"),
        ("timeframe: 1h", "timeframe: 15m", 5, "timeframe", ""),
        ("confirm: [4h]", "confirm: [4hours]", 6, "confirm[0]", "4h"),
        ("status: active", "status: on", 2, "status", ""),
        ("mode: paper", "mode: papre", 3, "mode", "paper"),
        ("mode: paper", "mode: live", 4, "symbols[0]", ""),
        ("name: probe", "name: Probe", 1, "name", ""),
        ("mode: paper", "mood: paper", 3, "mood", "mode"),
        ("exits:", "exit:", 9, "exit", "exits"),
        ("kind: points", "kind: pints", 10, "exits.stop.kind", "points"),
        ("kind: points, points: 0.002", "kind: percent, percent: 100", 10, "exits.stop.percent", ""),
        ("kind: points, points: 0.002", "kind: reward, ratio: 2", 10, "exits.stop", ""),
        ("kind: points, points", "kind: atr, multiple", 10, "", ""),
        ("quantity: 10000", "quantity: 10", 11, "sizing.quantity", ""),
        ("kind: fixed", "kind: fix", 11, "sizing.kind", "fixed"),
        ("quantity: 10000", "quantity: -1", 11, "sizing.quantity", ""),
        ('{">": [close, 1.1]}', '{">": [clos, 1.1]}', 8, "entry.long.>[0]", "close"),
        ('{">": [close, 1.1]}', '{">": [close]}', 8, "entry.long.>", ""),
        ('{">": [close, 1.1]}', '{cross_abov: [close, 1]}', 8, "entry.long.cross_abov", "cross_above"),
        ('{">": [close, 1.1]}', '{">": [close, 1.1], "<": [close, 2]}', 8, "entry.long", ""),
        ('{">": [close, 1.1]}', '{">": [{indicator: emma}, 1]}', 8, "entry.long.>[0].indicator", "ema"),
        ('{">": [close, 1.1]}', '{">": [{indicator: ema, params: {perod: 3}}, 1]}', 8, "entry.long.>[0].params.perod", "period"),
        ('{">": [close, 1.1]}', '{">": [{indicator: ema, params: {period: 0}}, 1]}', 8, "entry.long.>[0].params.period", ""),
        ('{">": [close, 1.1]}', '{">": [{indicator: macd, output: signl}, 1]}', 8, "entry.long.>[0].output", "signal"),
        ('{">": [close, 1.1]}', '{">": [{indicator: atr, source: high}, 1]}', 8, "entry.long.>[0].source", ""),
        ('{">": [close, 1.1]}', '{">": [{price: close, timeframe: 1d}, 1]}', 8, "entry.long.>[0].timeframe", ""),
        ('{">": [close, 1.1]}', '{">": [{price: close, indicator: ema}, 1]}', 8, "entry.long.>[0]", ""),
        ('{">": [close, 1.1]}', '{">": [close, yes]}', 8, "entry.long.>[1]", ""),
        ('{">": [close, 1.1]}', "{all: []}", 8, "entry.long.all", ""),
    ],
)  # fmt: skip
def test_each_mistake_is_named_at_its_line(old: str, new: str, line: int, key: str, near: str) -> None:
    assert old in RULES
    text = RULES.replace(old, new, 1)
    if key == "":
        parsed(text)  # a valid change, to see that the row's neighbours fail for their own reason
        return
    problems = problems_of(text)
    match = [p for p in problems if p.key == key]
    assert match, [str(p) for p in problems]
    assert (match[0].file, match[0].line, match[0].nearest) == ("probe.yaml", line, near)
    assert match[0].message


def test_wrong_names_are_reported_together_with_misspelt_keys() -> None:
    text = RULES.replace("mode:", "mood:").replace("[EURUSD]", "[EURUS]").replace("[close, 1.1]", "[{indicator: smaa}, 1]")
    assert {p.key for p in problems_of(text)} == {"mood", "symbols[0]", "entry.long.>[0].indicator"}


def test_volume_rules_need_an_instrument_with_volume() -> None:
    text = RULES.replace("[EURUSD]", "[VIX]").replace("1h", "1d").replace("confirm: [4h]\n", "").replace("paper", "shadow")
    text = text.replace("[close, 1.1]", "[{indicator: mfi}, {price: volume}]").replace("10000", "1")
    assert {p.key for p in problems_of(text)} == {"entry.long.>[0].indicator", "entry.long.>[1].price"}


def test_a_target_that_no_gate_would_pass_is_refused_at_once() -> None:
    text = RULES + "gates: {min_reward_to_risk: 2}\n"
    (problem,) = problems_of(text)
    assert "no target" in problem.message
    (problem,) = problems_of(text.replace("exits:\n", "exits:\n  target: {kind: reward, ratio: 1.5}\n"))
    assert "every signal would be refused" in problem.message


def test_a_file_for_another_universe_is_neither_loaded_nor_wrong() -> None:
    assert parse_strategy(RULES + "universe: lean_us\n", "probe.yaml", universe()) == (None, [])


def test_the_json_schema_knows_the_short_forms_and_every_indicator() -> None:
    schema = json_schema()
    operand = schema["$defs"]["Operand"]
    assert "ema" in operand["properties"]["indicator"]["enum"]
    rule = next(r for r in operand["allOf"] if r["if"]["properties"].get("indicator") == {"const": "macd"})
    assert rule["then"]["properties"]["output"]["enum"] == ["macd", "signal", "histogram"]
    rules = schema["$defs"]["StrategyFile"]
    assert rules["additionalProperties"] is False
    assert rules["required"] == ["name", "timeframe", "sizing", "symbols", "exits", "entry"]


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_text_makes_the_parser_raise(text: str) -> None:
    strategy, problems = parse_strategy(text, "x.yaml", universe())
    assert strategy is None
    assert problems


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_value_in_a_place_makes_the_parser_raise(data: st.DataObject) -> None:
    old = data.draw(st.sampled_from(["probe", "paper", "[EURUSD]", "1h", "[4h]", "[close, 1.1]", '{">": [close, 1.1]}', "points",
                                     "0.002", "fixed", "10000", "{kind: fixed, quantity: 10000}"]))  # fmt: skip
    odd = ["{}", "[]", "null", "-1", "1e400", ".nan", "'x'", "[[[]]]", "{indicator: {}}", "{indicator: ema, params: [1]}",
           "{1: 2}", "true", "{kind: []}", "[{params: {}}, 1]", "99999999999999999999999", "[close, {}]"]  # fmt: skip
    parse_strategy(RULES.replace(old, data.draw(st.sampled_from(odd)), 1), "x.yaml", universe())
