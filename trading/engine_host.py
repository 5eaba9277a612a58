"""What stands between ``trading.backtest`` and the compiled loops: columns staged, slots run, records collected."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import engine, engine_plain
from trading import engine_records as er
from trading.bars import Bars
from trading.engine_portfolio import Past
from trading.engine_signals import Together
from trading.evaluation import Evaluation
from trading.trade_paths import Entered, TradePaths

_STAGED_ROWS = 1 << 20
_LEAST_STAGED = 1024
_BUFFER = 4096
_NAMES = er.TRADE.names or ()
_EXIT_TIME, _REASON = _NAMES.index("exit_time"), _NAMES.index("reason")
_TIMES_OF_TRADE = tuple(_NAMES.index(name) for name in ("signal_time", "entry_time", "exit_time"))
_COLUMN_TYPES = (np.int64, np.int32, *(np.float64,) * 5, np.bool_, np.bool_, np.bool_)


@dataclass(slots=True)
class Slots:
    """Everything of S slots that a run needs. levels, parts: (W, K) by slot, for the general lane; actions: ACTION records by
    slot; last_call: bool (T,) by slot, None: never; rates: flat column of the slots with fx_at >= 0; paths: how open
    trades are managed, by slot, None: they are not; weights: flat column of the profiles of VWAP entries; heard: SIGNAL records
    by slot, and together: what the slots are to each other; past: what limits are measured on, for the general lane."""

    evaluations: list[Evaluation]
    bars: list[Bars]
    wishes: list[er.Records]
    records: er.Records
    bounds: er.Records
    cash: float
    levels: list[er.Floats] = field(default_factory=list)
    parts: list[er.Floats] = field(default_factory=list)
    actions: list[er.Records] = field(default_factory=list)
    last_call: list[NDArray[np.bool_] | None] = field(default_factory=list)
    rates: er.Floats = field(default_factory=lambda: np.empty(0))
    weights: er.Floats = field(default_factory=lambda: np.empty(0))
    paths: list[TradePaths | None] = field(default_factory=list)
    heard: list[er.Records] = field(default_factory=list)
    together: Together = field(default_factory=Together)
    past: Past | None = None

    def __post_init__(self) -> None:
        count = len(self.bars)
        self.heard = self.heard or [np.empty(0, er.SIGNAL)] * count
        self.actions = self.actions or [np.empty(0, er.ACTION)] * count
        self.last_call = self.last_call or [None] * count
        self.paths = self.paths or [None] * count


@dataclass(slots=True)
class Raw:
    """What the engine wrote, before it is dressed for people. trades: columns of TRADE; refused: (codes,), by_slot: (S, codes);
    fills, orders: None from the plain lane, by_slot, gross, net and halts, too."""

    trades: Mapping[str, NDArray[Any]]
    times: NDArray[np.int64]
    equity: NDArray[np.float64]
    refused: NDArray[np.int64]
    book: Mapping[str, float]
    fills: er.Records | None = None
    orders: er.Records | None = None
    gross: NDArray[np.float64] | None = None
    net: NDArray[np.float64] | None = None
    by_slot: NDArray[np.int64] | None = None
    halts: er.Records | None = None


def _book(cash: float) -> er.Records:
    book = np.zeros(1, er.BOOK)
    book["session"] = book["loss_session"] = -(2**31)
    book["halted_peak"] = -math.inf
    for name in ("start_cash", "equity", "day_start_equity", "peak"):
        book[name] = cash
    return book


def _columns(bars: Bars, evaluation: Evaluation, last_call: NDArray[np.bool_] | None = None) -> tuple[Any, ...]:
    """Columns in the kernel's types, without a copy where they have them."""
    given: tuple[Any, ...] = (
        bars.close_time, bars.session, bars.open, bars.high, bars.low, bars.close, bars.volume, evaluation.exit_long,
        evaluation.exit_short, _never(len(bars)) if last_call is None else last_call,
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


_PRICES = (np.float64,) * 5


def _prices(bars: Bars) -> tuple[Any, ...]:
    given = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    return tuple(_contiguous(column, dtype) for column, dtype in zip(given, _PRICES, strict=True))


def _plain_columns(bars: Bars, evaluation: Evaluation) -> tuple[Any, ...]:
    """The columns that the plain lane reads."""
    known = _searched.get(id(bars))
    prices = known[2] if known is not None else _prices(bars)
    return (*prices, _contiguous(evaluation.exit_long, np.bool_), _contiguous(evaluation.exit_short, np.bool_))


_searched: dict[int, tuple[Bars, bool, tuple[Any, ...]]] = {}


@contextmanager
def known_whole(bars: Sequence[Bars]) -> Iterator[None]:
    """While it lasts, `bars`, which nobody may change meanwhile, are not searched for missing prices nor looked at again, in any
    thread."""
    for one in bars:
        _searched[id(one)] = (one, _whole(one), _prices(one))
    try:
        yield
    finally:
        for one in bars:
            _searched.pop(id(one), None)


class _Spare(threading.local):
    """A curve of each thread that nobody reads any more. Fresh memory costs a page fault every 512 values."""

    curve: NDArray[np.float64] | None = None


_spare = _Spare()


def give_back(equity: NDArray[np.float64]) -> None:
    """Let this thread's next run write into the equity of a run whose result is dropped: nobody may read it any more."""
    _spare.curve = equity if equity.base is None and equity.flags.writeable and equity.dtype == np.float64 else None


def _fresh(rows: int) -> NDArray[np.float64]:
    """float64 (rows,), to be written before it is read."""
    spare, _spare.curve = _spare.curve, None
    return spare if spare is not None and spare.shape == (rows,) else np.empty(rows)


def _whole(bars: Bars) -> bool:
    """Is every high and low there? (Opens and closes are read where orders fill, anyway.)"""
    known = _searched.get(id(bars))  # holds the bars, so that their id cannot be another's
    if known is not None:
        return known[1]
    return all(len(c) == 0 or not np.isnan(np.min(c)) for c in (bars.high, bars.low))


def run_apart(slots: Slots) -> Raw:
    """Slots one after the other in the plain lane: right whenever none can feel another (a single slot, or sizes that ignore
    the equity and no limits). Reads the bars where they are, without a copy."""
    count = len(slots.bars)
    times = slots.bars[0].close_time
    shared = all(b.close_time is times or np.array_equal(b.close_time, times) for b in slots.bars[1:])
    if not shared:
        times = np.unique(np.concatenate([b.close_time for b in slots.bars]))
    total = np.full(len(times), slots.cash) if count > 1 else np.empty(0)
    refused = np.zeros(len(er.REFUSAL_NAMES), np.int64)
    room = sum(len(w) for w in slots.wishes)
    whole, real = np.empty((er.TRADE_WHOLE, room), np.int64), np.empty((len(_NAMES) - er.TRADE_WHOLE, room))
    book, n, curve, begun = _book(slots.cash), 0, np.empty(0), 0
    for s, b in enumerate(slots.bars):
        if len(curve) != len(b):
            curve = _fresh(len(b))
        end = engine_plain.run_plain(
            *_plain_columns(b, slots.evaluations[s]), slots.records[s], slots.wishes[s], s,
            slots.cash if count == 1 else 0.0, whole, real, n, begun, curve, refused, book[0], _whole(b),
        )  # type: ignore[call-arg]  # fmt: skip
        for column in _TIMES_OF_TRADE:  # rows until here
            whole[column, n:end] = b.close_time[whole[column, n:end]]
        n, begun = end, int(book["trades"][0])
        if count == 1:
            total = curve
        elif shared:
            total += curve
        elif len(b):
            newest = np.searchsorted(b.close_time, times, side="right") - 1
            total += np.where(newest >= 0, curve[newest], 0.0)
    whole, real = whole[:, :n], real[:, :n]
    if count > 1:
        order = np.argsort(np.where(whole[_REASON] == er.OPEN, er.END_OF_TIME, whole[_EXIT_TIME]), kind="stable")
        whole, real = whole.take(order, axis=1), real.take(order, axis=1)
    trades = dict(zip(_NAMES, [*whole, *real], strict=True))
    return Raw(trades, np.ascontiguousarray(times, np.int64), total, refused, _told(book))


def run_together(slots: Slots) -> Raw:
    """Slots merged by close time in the general lane. Bars are staged in pieces, so that the whole history is never copied
    at once."""
    count = len(slots.bars)
    total = np.array([len(b) for b in slots.bars], np.int64)
    room = int(min(max(int(total.max(initial=0)), 1), max(_STAGED_ROWS // count, _LEAST_STAGED)))
    shift, staged = np.zeros(count, np.int64), np.zeros(count, np.int64)
    sources = [_columns(b, e, c) for b, e, c in zip(slots.bars, slots.evaluations, slots.last_call, strict=True)]
    stage: Any = [np.empty(count * room, dtype) for dtype in _COLUMN_TYPES]
    readable: Any = [_contiguous(column, dtype) for column, dtype in zip(stage, _COLUMN_TYPES, strict=True)]
    states, book = _states(slots), _book(slots.cash)
    book["margined"] = int(np.isfinite(slots.records["initial_margin"]).any())
    width = slots.levels[0].shape[1]
    legs, left, closing = np.full((count, width), np.nan), np.zeros((count, width)), np.zeros((count, width))
    managing = _Managing(slots)
    past = slots.past
    if past is None:
        raise ValueError("past: expected what limits are measured on (trading.risk_history.past_of)")
    book["managed"], book["more"] = int(managing.any), int((slots.bounds["more"] != 0).any())
    book["breaks"], book["looks_back"] = int((slots.bounds["active"] != 0).any()), int(past.risk["sessions"][0] > 0)
    slots.together.tell(book)
    together, heard = np.concatenate(slots.wishes), np.concatenate(slots.heard)
    levels, parts = np.concatenate(slots.levels), np.concatenate(slots.parts)
    actions = np.concatenate(slots.actions)
    refused = np.zeros((count, len(er.REFUSAL_NAMES)), np.int64)
    size = max(_BUFFER, 4 * count * (engine.ROOM + width))
    buffers = [np.empty(size, dtype) for dtype in (er.TRADE, er.FILL, er.ORDER, er.HALT)]
    counters = ("n_trades", "n_fills", "n_orders", "n_halts")
    kept: list[list[er.Records]] = [[], [], [], []]
    series: Any = [np.empty(count * room, np.int64), *(np.empty(count * room) for _ in range(3))]
    curves: list[list[NDArray[Any]]] = [[], [], [], []]
    status = er.NEED_ROWS
    while status != er.DONE:
        if status == er.NEED_ROWS:
            for s in range(count):
                row = int(states["cursor"][s])
                n = min(room, int(total[s]) - row)
                for target, source in zip(stage, sources[s], strict=True):
                    target[s * room : s * room + n] = source[row : row + n]
                shift[s], staged[s] = s * room - row, row + n
        if status == er.NEED_PATH:
            managing.fill(states, legs)
        status, written = engine.run_many(
            *readable,
            shift,
            staged,
            total,
            slots.records,
            slots.bounds,
            together,
            heard,
            levels,
            parts,
            legs,
            left,
            closing,
            actions,
            slots.rates,
            managing.stop,
            managing.leave,
            managing.due,
            slots.weights,
            past,
            states,
            book,
            refused,
            *buffers,
            *series,
        )  # type: ignore[call-arg]
        for buffer, counter, pieces in zip(buffers, counters, kept, strict=True):
            pieces.append(buffer[: int(book[counter][0])].copy())
            book[counter] = 0
        for column, curve in zip(series, curves, strict=True):
            curve.append(column[:written].copy())
    times, equity, gross, net = (np.concatenate(curve) for curve in curves)
    trades, fills, orders, halts = (_joined(pieces) for pieces in kept)
    opened = _open_trades(slots, states)
    closed = _by_exit(trades)
    both = {name: np.concatenate([closed[name], opened[name]]) for name in closed}
    orders = _joined([orders, _working(states)])
    return Raw(both, times, equity, refused.sum(axis=0), _told(book), fills, orders, gross, net, refused, halts)


class _Managing:
    """The flat columns of what managed trades are asked for, and how they are filled."""

    def __init__(self, slots: Slots) -> None:
        self._slots, begin = slots, 0
        for s, paths in enumerate(slots.paths):
            if paths is not None:
                parts, its = len(slots.evaluations[s].targets), slots.records[s]
                its["path_at"], its["scale_from"], its["scale_to"] = begin, parts - paths.scale_outs, parts
                begin += len(slots.bars[s])
        self.any = begin > 0
        self.stop, self.leave, self.due = np.full(begin, np.nan), np.zeros(begin, np.int64), np.zeros(begin, np.int64)

    def fill(self, states: er.Records, legs: er.Floats) -> None:
        """What is asked of the open trades whose answers at their newest bar are not known yet."""
        for s, paths in enumerate(self._slots.paths):
            state, bars = states[s], self._slots.bars[s]
            row = int(state["cursor"])
            if paths is None or state["quantity"] == 0.0 or row >= len(bars) or state["path_end"] > row:
                continue
            first = row - int(state["held"])  # not entry_time: a roll enters anew, and the trade goes on
            kept = max(1, int(self._slots.records["scale_from"][s]))
            trade = Entered(
                row, first, bool(state["inside"]), 1 if state["quantity"] > 0 else -1, float(state["entry_price"]),
                float(state["first_stop"]), tuple(legs[s, :kept]),
            )  # fmt: skip
            path = paths.after(trade)
            begin = int(self._slots.records["path_at"][s]) + row
            for column, values in ((self.stop, path.stop), (self.leave, path.leave), (self.due, path.due)):
                column[begin : begin + len(values)] = values
            states["path_end"][s] = row + len(path.stop)


def _states(slots: Slots) -> er.Records:
    """State of slots that hold nothing, their wishes and actions one after the other in one array."""
    states = np.zeros(len(slots.wishes), er.STATE)
    for first, last, parts in (("wish", "wish_end", slots.wishes), ("action", "action_end", slots.actions)):
        lengths = np.array([len(p) for p in parts], np.int64)
        states[last] = np.cumsum(lengths)
        states[first] = states[last] - lengths
    for level in ("stop", "trail", "pending_stop", "pending_trail", "limit", "trigger", "first_stop"):
        states[level] = np.nan
    states["session"] = -(2**31)
    states["stop_time"] = states["ended_time"] = states["streak_time"] = -er.END_OF_TIME
    states["fx"] = np.where(slots.records["fx_at"] >= 0, np.nan, 1.0)
    return states


def _open_trades(slots: Slots, states: er.Records) -> er.Records:
    """Positions still held, marked, as trades without an end."""
    held = np.flatnonzero(states["quantity"])
    trades = np.zeros(len(held), er.TRADE)
    for trade, s in zip(trades, held, strict=True):
        state = states[s]
        for name in ("signal_time", "entry_time", "quantity", "entry_price", "trade"):
            trade[name] = state[name]
        trade["slot"], trade["reason"], trade["bars_held"] = s, er.OPEN, state["held"]
        trade["exit_time"] = slots.bars[s].close_time[-1]
        trade["exit_price"], trade["commission"] = state["mark"], state["entry_commission"]
        move = state["mark"] * state["fx"] - state["entry_price"] * state["entry_fx"]
        gross = state["settled"] if slots.records["settled"][s] else move * state["quantity"] * slots.records["multiplier"][s]
        trade["pnl"] = gross - state["entry_commission"] + state["carried"]
    return trades


def _working(states: er.Records) -> er.Records:
    """Entry orders still at work at the end."""
    at_work = np.flatnonzero(states["pending"])
    orders = np.zeros(len(at_work), er.ORDER)
    for order, s in zip(orders, at_work, strict=True):
        state = states[s]
        order["slot"], order["time"], order["done_time"], order["end"] = s, state["placed_time"], -1, er.WORKING
        order["type"], order["quantity"] = state["entry_type"], state["ordered"]
        order["filled"] = state["ordered"] - state["pending"]
        order["trade"] = state["trade"] if order["filled"] != 0 else -1
        for name, source in (("limit", "limit"), ("trigger", "trigger"), ("stop", "pending_stop"), ("trail", "pending_trail")):
            order[name] = state[source]
    return orders


def _told(book: er.Records) -> dict[str, float]:
    return dict(zip(book.dtype.names or (), map(float, book[0].item()), strict=True))


def _joined(parts: Sequence[er.Records]) -> er.Records:
    """Records joined as plain bytes: numpy does it field by field otherwise."""
    raw = np.dtype((np.void, parts[0].dtype.itemsize))
    return np.concatenate([np.ascontiguousarray(part).view(raw) for part in parts]).view(parts[0].dtype)


def _by_exit(trades: er.Records) -> dict[str, NDArray[Any]]:
    """Columns of the trades, closed ones by exit time (slots in their order), then the open ones."""
    order = np.argsort(np.where(trades["reason"] == er.OPEN, er.END_OF_TIME, trades["exit_time"]), kind="stable")
    whole, real = engine_plain.split(trades.view(np.int64).reshape(len(trades), len(_NAMES)), order, er.TRADE_WHOLE)
    return dict(zip(_NAMES, [*whole, *real.view(np.float64)], strict=True))
