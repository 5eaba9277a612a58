"""What stands between ``trading.backtest`` and the compiled loop: records in, columns staged, results collected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import engine
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import Instrument
from trading.limits import Limits, StrategyLimits
from trading.price_grid import on_grid
from trading.risk import tighter
from trading.sizing import parse_sizing

_STAGED_ROWS = 1 << 20
_LEAST_STAGED = 1024
_COLUMN_TYPES = (np.int64, np.int32, *(np.float64,) * 5, np.bool_, np.bool_)


def slots_of(
    instruments: Sequence[Instrument],
    strategies: Sequence[str],
    sizings: Sequence[Mapping[str, Any]],
    costs: Costs | Mapping[str, Costs] | None,
    evaluations: Sequence[Evaluation],
    require_stop: bool,
    minimums: Sequence[float],
) -> engine.Records:
    """SLOT records. Raises ValueError on a malformed sizing rule or costs that miss a symbol."""
    symbol_codes = {symbol: i for i, symbol in enumerate(dict.fromkeys(i.symbol for i in instruments))}
    strategy_codes = {name: i for i, name in enumerate(dict.fromkeys(strategies))}
    slots = np.zeros(len(instruments), engine.SLOT)
    for s, instrument in enumerate(instruments):
        if isinstance(costs, Mapping) and instrument.symbol not in costs:
            raise ValueError(f"costs: none given for {instrument.symbol}")
        its_costs = (costs[instrument.symbol] if isinstance(costs, Mapping) else costs) or Costs()
        kind, parameter = parse_sizing(sizings[s])
        values = {
            "symbol": symbol_codes[instrument.symbol],
            "strategy": strategy_codes[strategies[s]],
            "tick": float(instrument.tick_size),
            "lot": float(instrument.lot_size),
            "multiplier": float(instrument.multiplier),
            "commission_kind": its_costs.commission_code,
            "commission_rate": its_costs.rate,
            "commission_minimum": its_costs.minimum,
            "slippage_kind": its_costs.slippage_code,
            "slippage_value": its_costs.value,
            "sizing_kind": kind,
            "sizing_parameter": parameter,
            "max_bars": evaluations[s].max_bars,
            "require_stop": int(require_stop),
            "min_reward_to_risk": minimums[s],
        }
        for name in slots.dtype.names or ():
            slots[name][s] = values[name]
    return slots


def bounds_of(limits: Limits | None, strategies: Sequence[str]) -> engine.Records:
    """BOUND records, one per slot; limits None: inactive ones."""
    bounds = np.zeros(len(strategies), engine.BOUND)
    given = limits or Limits.model_construct()

    def number(value: float | int | None) -> float:
        return math.nan if value is None else float(value)

    def loss(one: StrategyLimits) -> tuple[float, float]:
        return one.daily_loss.codes if one.daily_loss is not None else (math.nan, math.nan)

    for s, strategy in enumerate(strategies):
        own = given.of(strategy)
        # trading.risk.tighter keeps a limit that the account misses missing, whatever the strategy says.
        values = {
            "active": int(limits is not None),
            "collar_percent": number(given.price_collar_percent),
            "order_quantity": number(tighter(given.max_order_quantity, own.max_order_quantity)),
            "order_value": number(tighter(given.max_notional, own.max_notional)),
            "position_value": number(tighter(given.max_position_notional, own.max_position_notional)),
            "concurrent": number(given.max_concurrent_positions),
            "own_concurrent": number(own.max_concurrent_positions),
            "loss_amount": loss(given)[0],
            "loss_percent": loss(given)[1],
            "own_loss_amount": loss(own)[0],
            "own_loss_percent": loss(own)[1],
            "leverage": number(given.max_gross_leverage),
        }
        for name in bounds.dtype.names or ():
            bounds[name][s] = values[name]
    return bounds


def wishes_of(evaluation: Evaluation, bars: Bars, instrument: Instrument) -> engine.Records:
    """Entry wishes of one slot: only the rows that want something, with their levels on the grid."""
    rows = np.flatnonzero((evaluation.enter_long != evaluation.enter_short) & evaluation.ready)
    long = evaluation.enter_long[rows]
    wishes = np.zeros(len(rows), engine.WISH)
    wishes["row"] = rows
    wishes["side"] = np.where(long, 1, -1)
    wishes["reference"] = on_grid(bars.close[rows], instrument)
    for level, of_long, of_short in (
        ("stop", evaluation.stop_long, evaluation.stop_short),
        ("target", evaluation.target_long, evaluation.target_short),
    ):
        prices = np.where(long, of_long[rows], of_short[rows])
        wishes[level] = prices if np.isnan(prices).all() else on_grid(prices, instrument)
    return wishes


@dataclass(slots=True)
class Raw:
    """What the engine wrote, before it is dressed for people."""

    trades: engine.Records
    times: NDArray[np.int64]
    equity: NDArray[np.float64]
    refused: NDArray[np.int64]
    orders: int
    ambiguous: int
    traded: float


def _states(wishes: Sequence[engine.Records]) -> engine.Records:
    """State of slots that hold nothing, their wishes one after the other in one array."""
    states = np.zeros(len(wishes), engine.STATE)
    lengths = np.array([len(w) for w in wishes], np.int64)
    states["wish_end"] = np.cumsum(lengths)
    states["wish"] = states["wish_end"] - lengths
    for level in ("stop", "target", "pending_stop", "pending_target"):
        states[level] = np.nan
    return states


def _book(cash: float) -> engine.Records:
    book = np.zeros(1, engine.BOOK)
    book["session"] = -(2**31)
    for name in ("start_cash", "equity", "day_start_equity"):
        book[name] = cash
    return book


def _add_open(trades: engine.Records, n: int, slots: engine.Records, states: engine.Records, last: int) -> int:
    """Write positions still held, marked, as trades without an end after the first `n`; returns how many trades then."""
    for s in np.flatnonzero(states["quantity"]):
        state, trade = states[s], trades[n]
        for name in ("signal_time", "entry_time", "quantity", "entry_price"):
            trade[name] = state[name]
        trade["slot"], trade["exit_time"], trade["reason"], trade["bars_held"] = s, last, engine.OPEN, state["held"]
        trade["exit_price"], trade["commission"] = state["mark"], state["entry_commission"]
        move = (state["mark"] - state["entry_price"]) * state["quantity"] * slots[s]["multiplier"]
        trade["pnl"] = move - state["entry_commission"]
        n += 1
    return n


def _columns(bars: Bars, evaluation: Evaluation) -> tuple[Any, ...]:
    """Columns in the kernel's types, without a copy where they have them."""
    given: tuple[Any, ...] = (
        bars.close_time, bars.session, bars.open, bars.high, bars.low, bars.close, bars.volume, evaluation.exit_long,
        evaluation.exit_short,
    )  # fmt: skip
    return tuple(_contiguous(column, dtype) for column, dtype in zip(given, _COLUMN_TYPES, strict=True))


def _contiguous(column: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A read-only view in the kernel's type. Always read-only, so that one compiled kernel serves every caller."""
    if dtype is np.bool_ and column.strides == (0,) and len(column) and not column[0]:
        array = _never(len(column))  # an exit that never wishes: one array for all slots
    else:
        array = np.ascontiguousarray(column, dtype)
    view = array.view()
    view.flags.writeable = False
    return view


@lru_cache(maxsize=1)
def _never(rows: int) -> NDArray[np.bool_]:
    return np.zeros(rows, np.bool_)


def run_apart(
    evaluations: list[Evaluation], bars: list[Bars], wishes: list[engine.Records], slots: engine.Records,
    bounds: engine.Records, cash: float,
) -> Raw:  # fmt: skip
    """Slots one after the other: right whenever none can feel another (a single slot, or sizes that ignore the equity
    and no limits). Reads the bars where they are, without a copy."""
    count = len(evaluations)
    times = bars[0].close_time
    shared = all(b.close_time is times or np.array_equal(b.close_time, times) for b in bars[1:])
    if not shared:
        times = np.unique(np.concatenate([b.close_time for b in bars]))
    total = np.full(len(times), cash) if count > 1 else np.empty(0)
    parts = []
    refused = np.zeros((1, len(engine.REFUSAL_NAMES)), np.int64)
    orders, ambiguous, traded = 0, 0, 0.0
    curve = np.empty(0)
    for s in range(count):
        b = bars[s]
        columns: Any = _columns(b, evaluations[s])
        state, book = _states([wishes[s]]), _book(cash if count == 1 else 0.0)
        if len(curve) != len(b):
            curve = np.empty(len(b))
        buffer = np.empty(len(wishes[s]) + 1, engine.TRADE)
        status, n = engine.run_one(  # type: ignore[call-arg]
            *columns, slots[s : s + 1], bounds[s : s + 1], wishes[s], state, book, refused, buffer, curve
        )
        _require(status, engine.DONE)
        n = _add_open(buffer, n, slots[s : s + 1], state, int(b.close_time[-1]) if len(b) else 0)
        buffer["slot"][:n] = s
        parts.append(buffer[:n])
        orders += int(book["orders"][0])
        ambiguous += int(book["ambiguous"][0])
        traded += float(book["traded_value"][0])
        if count == 1:
            total = curve
        elif shared:
            total += curve
        elif len(b):
            newest = np.searchsorted(b.close_time, times, side="right") - 1
            total += np.where(newest >= 0, curve[newest], 0.0)
    return Raw(_joined(parts), np.ascontiguousarray(times, np.int64), total, refused[0], orders, ambiguous, traded)


def run_together(
    evaluations: list[Evaluation], bars: list[Bars], wishes: list[engine.Records], slots: engine.Records,
    bounds: engine.Records, cash: float,
) -> Raw:  # fmt: skip
    """Slots merged by close time, because sizes or limits depend on all of them. Bars are staged in pieces, so that the
    whole history is never copied at once."""
    count = len(evaluations)
    total = np.array([len(b) for b in bars], np.int64)
    room = int(min(max(int(total.max(initial=0)), 1), max(_STAGED_ROWS // count, _LEAST_STAGED)))
    shift, staged = np.zeros(count, np.int64), np.zeros(count, np.int64)
    sources = [_columns(b, e) for b, e in zip(bars, evaluations, strict=True)]
    stage: Any = [np.empty(count * room, dtype) for dtype in _COLUMN_TYPES]
    readable: Any = [_contiguous(column, dtype) for column, dtype in zip(stage, _COLUMN_TYPES, strict=True)]
    states, book = _states(wishes), _book(cash)
    together = np.concatenate(wishes)
    refused = np.zeros((count, len(engine.REFUSAL_NAMES)), np.int64)
    buffer = np.empty(len(together) + count, engine.TRADE)
    times, equity = np.empty(count * room, np.int64), np.empty(count * room)
    parts, all_times, all_equity = [], [], []
    status = engine.NEED_ROWS
    while status != engine.DONE:
        if status == engine.NEED_ROWS:
            for s in range(count):
                row = int(states["cursor"][s])
                n = min(room, int(total[s]) - row)
                for target, source in zip(stage, sources[s], strict=True):
                    target[s * room : s * room + n] = source[row : row + n]
                shift[s], staged[s] = s * room - row, row + n
        status, n, written = engine.run_many(
            *readable, shift, staged, total, slots, bounds, together, states, book, refused, buffer, times, equity
        )  # type: ignore[call-arg]
        _require(status, engine.DONE, engine.NEED_ROWS)
        parts.append(buffer[:n].copy())
        all_times.append(times[:written].copy())
        all_equity.append(equity[:written].copy())
    merged = np.concatenate(all_times)
    n = _add_open(buffer, 0, slots, states, int(merged[-1]) if len(merged) else 0)
    parts.append(buffer[:n])
    return Raw(
        _joined(parts), merged, np.concatenate(all_equity), refused.sum(axis=0), int(book["orders"][0]),
        int(book["ambiguous"][0]), float(book["traded_value"][0]),
    )  # fmt: skip


def _require(status: int, *expected: int) -> None:
    if status not in expected:
        raise RuntimeError(f"backtest engine stopped with status {status}: a trade without a wish; report this")


def _joined(parts: list[engine.Records]) -> engine.Records:
    """All trades, closed ones by exit time and slot, then the open ones."""
    if len(parts) == 1:
        return parts[0]
    # As plain bytes: numpy joins and gathers records field by field otherwise.
    raw = np.dtype((np.void, engine.TRADE.itemsize))
    joined = np.concatenate([part.view(raw) for part in parts])
    trades = joined.view(engine.TRADE)
    # Parts come in the order of slots, so a stable sort by exit keeps it.
    key = np.where(trades["reason"] == engine.OPEN, np.iinfo(np.int64).max, trades["exit_time"])
    return joined[np.argsort(key, kind="stable")].view(engine.TRADE)
