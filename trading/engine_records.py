"""Records and codes of the compiled backtest: what its loops read and write, by name.

Each record is one element of a structured array, which compiled code reads at the cost of a pointer. A slot is one
(strategy, instrument) with its bars and wishes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Records = NDArray[np.void]
Record = Any
"""One element of a structured array: np.void in plain Python, a pointer in compiled code."""

DONE: Final = 0
NEED_ROWS: Final = 1
BUFFER_FULL: Final = 2
NEED_PATH: Final = 3

# Why a trade, or a part of one, ended.
OPEN: Final = 0
STOP: Final = 1
TARGET: Final = 2
RULE: Final = 3
MAX_BARS: Final = 4
SESSION_END: Final = 5
MARGIN_CALL: Final = 6
DELISTED: Final = 7
ROLL: Final = 8
SPLIT_CASH: Final = 9
SCALE_OUT: Final = 10
TIME_STOP: Final = 11
MANAGED: Final = 12
LEG: Final = 13
FLATTEN: Final = 14
EXIT_REASONS: Final = (
    "open", "stop", "target", "rule", "max_bars", "session_end", "margin_call", "delisted", "roll", "split_cash",
    "scale_out", "time_stop", "managed", "leg", "flatten",
)  # fmt: skip
"""Why a trade ended, by code. roll: the old contract of a continuous future; split_cash: the fraction of a share that a
split left; scale_out: a part that a plan's scale-out closed; managed: an exit function of a plug-in; leg: the
other leg of its pair was gone; flatten: a breaker tripped that closes positions."""

ENTRY: Final = 0
"""Leg code of an entry fill; exit fills carry their reason."""

# How an entry order ended.
WORKING: Final = 0
FILLED: Final = 1
CANCELED: Final = 2
EXPIRED: Final = 3
REJECTED: Final = 4
ORDER_ENDS: Final = ("working", "filled", "canceled", "expired", "rejected")

# Counted refusals, as columns of `refused` (S, 30). The codes are RefusalCode's.
STOP_REQUIRED: Final = 0
REWARD_TO_RISK: Final = 1
SIZE_ZERO: Final = 2
MAX_ORDER_QUANTITY: Final = 3
MAX_NOTIONAL: Final = 4
MAX_POSITION: Final = 5
CONCURRENT_POSITIONS: Final = 6
POSITION_OPEN: Final = 7
DAILY_LOSS: Final = 8
BUYING_POWER: Final = 9
LIMIT_MISSING: Final = 10
NOT_TRADABLE: Final = 11
PRICE_MISSING: Final = 12
SESSION_CLOSED: Final = 13
RISK_BUDGET: Final = 14
EXECUTION: Final = 15
CONFLICT: Final = 16
LEG_MISSING: Final = 17
COOLDOWN: Final = 18
LOSING_STREAK: Final = 19
DRAWDOWN: Final = 20
NET_EXPOSURE: Final = 21
SECTOR_EXPOSURE: Final = 22
ORDER_RATE: Final = 23
RISK_INPUT_MISSING: Final = 24
HALTED: Final = 25
CIRCUIT_BREAKER: Final = 26
CORRELATION: Final = 27
VALUE_AT_RISK: Final = 28
PRICE_COLLAR: Final = 29
REFUSAL_NAMES: Final = (
    "STOP_REQUIRED", "REWARD_TO_RISK", "SIZE_ZERO", "MAX_ORDER_QUANTITY", "MAX_NOTIONAL", "MAX_POSITION",
    "CONCURRENT_POSITIONS", "POSITION_OPEN", "DAILY_LOSS", "BUYING_POWER", "LIMIT_MISSING", "NOT_TRADABLE", "PRICE_MISSING",
    "SESSION_CLOSED", "RISK_BUDGET", "EXECUTION", "CONFLICT", "LEG_MISSING", "COOLDOWN", "LOSING_STREAK", "DRAWDOWN",
    "NET_EXPOSURE", "SECTOR_EXPOSURE", "ORDER_RATE", "RISK_INPUT_MISSING", "HALTED", "CIRCUIT_BREAKER", "CORRELATION",
    "VALUE_AT_RISK", "PRICE_COLLAR",
)  # fmt: skip
NO_REFUSAL: Final = -1

# What became of a slot's wish at a close, where slots are looked at together; else the refusal.
PLACED: Final = -1
BARRED: Final = -2
NO_WISH: Final = -3

# Policies of trading.conflict_policy.
CANCEL_BOTH: Final = 0
STRONGEST: Final = 1
FIRST_WINS: Final = 2
ALLOW: Final = 3
POLICIES: Final = ("cancel_both", "strongest", "first_wins", "allow")

# What a breaker does (trading.limits.BreakerLevel), 0: nothing.
LEVEL_REDUCE_ONLY: Final = 1
LEVEL_FLATTEN: Final = 2

# When the operator of a backtest lifts what a breaker latched.
RESUME_NEXT_SESSION: Final = 0
RESUME_AT_ONCE: Final = 1
RESUMES: Final = ("next_session", "at_once", "never")

END_OF_TIME: Final = 2**62


def _dtype(whole: str, real: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in whole.split()] + [(name, np.float64) for name in real.split()])


SLOT: Final = _dtype(
    "symbol strategy commission_kind slippage_kind sizing_kind max_bars require_stop entry_type valid_bars settled fx_at "
    "path_at scale_from scale_to once algo algo_slices algo_min_lots algo_visible algo_rest group group_size precedence",
    "tick lot multiplier commission_rate commission_minimum slippage_value sizing_parameter min_reward_to_risk participation "
    "borrow_rate initial_margin maintenance_margin risk_budget "
    "kelly_fraction kelly_cap kelly_trades kelly_win_rate kelly_payoff algo_jitter algo_participation",
)
"""Constants of a slot. symbol, strategy: codes that say which slots share one. settled: 1 where profit is paid daily and
nothing is bought (futures). fx_at: where its rates begin in the flat column of rates, -1: quoted in the account's
currency. participation: 0 = no cap. initial_margin, maintenance_margin: fractions of the value, NaN = not checked. path_at: where
its rows begin in the flat columns of paths, -1: its trades are not managed; scale_from, scale_to: columns of its scale-outs.
once: 1 where it enters one time only. risk_budget: percent of equity at risk, NaN = not limited. kelly_*: of a kelly rule,
fraction 0 = none. algo*: how its entries are worked (trading.execution), algo 0 = in one order; algo_rest: 1 where the rest is
bought at the market. group: code of the legs that are entered together, -1 = none; group_size: how many they are; precedence:
place of its strategy, 0 = first."""

BOUND: Final = _dtype(
    "active more sector",
    "collar_percent order_quantity order_value position_value concurrent own_concurrent loss_amount loss_percent "
    "own_loss_amount own_loss_percent leverage "
    "cooldown_us streak_trades streak_us own_streak_trades own_streak_us drawdown net_leverage sector_percent",
)
"""Risk limits of a slot; NaN = missing. active 0: no limits at all. own_*: of the slot's strategy, NaN = none. more: 1 where one
of the optional ones (the last line, NaN = not limited) is set; sector: code of the instrument's, -1 = it has none."""

RISK: Final = _dtype(
    "resume loss_level drawdown_level breaker_level pause_us rate_orders rate_us sessions correlated_sessions var_sessions",
    "loss_amount loss_percent drawdown correlated_above correlated_percent var_percent shortfall_percent confidence z density",
)
"""The account's limits that look at the past or the whole portfolio, one record; NaN = not set. resume: of RESUMES; *_level: what
the breaker does; pause_us: after an abnormal move, -1 = not limited; rate_orders: entries within rate_us, 0 = not limited;
sessions: the longest of both measures; z, density: of the standard normal at `confidence`."""

VERSION: Final = _dtype("symbol from_time begin end broken", "")
"""Daily closes of an instrument on one level, rows begin <= row < end, for whoever asks from from_time on. broken: session before
which they cannot be compared with later ones, -END_OF_TIME: all can."""

HALT: Final = _dtype("time slot code level", "")
"""A breaker tripped, or (level 0) the operator lifted its halt. slot: the first of the instrument, -1 = the whole desk; code:
refusal column of the breaker, -1 = lifted."""

WISH: Final = _dtype("row side algo_start algo_end algo_seed algo_at", "reference stop target limit trigger trail scale")
"""An entry wish at a bar's row: side +1 or -1, levels on the grid, NaN = none. Ascending by row within a slot. trail:
distance of a trailing stop. target: the one the reward-to-risk gate reads. scale: of the sizing rule's amount.
algo_start, algo_end: window it is worked in, end -1 = there is none; algo_at: where its weights begin in their flat column."""

SIGNAL: Final = _dtype("signal barred", "strength")
"""Of a wish, where slots are looked at together. signal: 1 where a live evaluation would have recorded a signal; barred: 1 where
a gate before the loop refuses it; strength: in [0, 1]."""

ACTION: Final = _dtype("row kind", "factor amount")
"""What happens to a position by itself. row: the bar before whose open it happens; kinds below."""
ACT_SPLIT: Final = 0
ACT_CASH: Final = 1  # amount per unit: dividend
ACT_SPIN_OFF: Final = 2  # factor: price level before / after, the difference is paid out
ACT_ROLL: Final = 3  # factor, amount: price difference new less old contract
ACT_DELIST: Final = 4  # row: the last bar, after which nothing trades

STATE: Final = _dtype(
    "cursor wish wish_end action action_end next_time session pending_time placed_time exit_reason held entry_time signal_time "
    "trade entry_type triggered worked delisted path_end inside wins losses algo_start algo_end algo_last algo_sent algo_seed "
    "algo_at beaten said placed stop_time ended_time streak streak_time sent flatten halted halted_session",
    "quantity entry_price stop trail mark value cash pending ordered pending_stop pending_trail pending_reference limit "
    "trigger entry_commission settled entry_fx fx day_start carried first_stop risked made won lost released algo_target "
    "ended_made",
)
"""What changes in a slot. cursor: next row; wish, wish_end: next and last wish; quantity, pending: signed; cash: flows so
far; value: quantity * mark * multiplier * fx; day_start: cash + value when the session began; worked: bars the entry
order has met; ordered: signed quantity of the entry order; settled: profit of the open position paid already; carried:
borrow cost and dividends of the open position; path_end: row before which the paths of its open trade are known; inside: 1
where it was entered inside a bar; first_stop: the protective level at the entry. released: unsigned, what of the pending
entry may fill, where it is worked in slices; algo_last: newest slot that was used. beaten: refusal
of this close's wish by what other slots want; said: what became of it; placed: orders it counted. stop_time: last fill
of its stop; ended_time, ended_made: end and result of its last trade; streak, streak_time: losing trades in a row of its strategy
and the last of them, kept in the strategy's first slot. sent: entries of it counted at this close; flatten: 1 where a breaker
closes the position; halted: level of the halt of its instrument, halted_session: when it was latched."""

BOOK: Final = _dtype(
    "session orders ambiguous trades margin_calls liquidations rolled_out margined managed filled n_trades n_fills n_orders "
    "together conflicts policy block more n_halts sent halt halt_session loss_session halted looks_back breaks",
    "start_cash equity day_start_equity traded_value borrow_paid dividends peak halted_peak gross own_pnl",
)
"""What changes in the portfolio, one record. rolled_out: managed trades ended by a roll. margined, managed: 1 when a slot has
margins, or managed trades. filled: 1 while the fills of a close are done and its decisions wait for paths. n_*: records written
to the buffers of trades, fills and orders. together: 1 where slots have legs or conflicts; conflicts: 1 where opposite signals
are resolved, by policy; block: 1 where a position of another strategy blocks the other side. more: 1 where optional limits
are set; peak: highest equity at a close; sent: entries counted for the order rate; halt: level of the desk's halt,
halt_session: when it was latched; halted: how many instruments are; loss_session, halted_peak: session, and peak, of the last
loss and fall that tripped; breaks: 1 where there are limits; looks_back: 1 where correlation or value at risk is limited; gross,
own_pnl: what the limits found for the entry that is judged."""

TRADE: Final = _dtype(
    "slot signal_time entry_time exit_time bars_held reason trade", "quantity entry_price exit_price commission pnl"
)
"""A closed trade, or a closed part of one; quantity signed, pnl net of commission. trade: parts of one entry share it."""

TRADE_WHOLE: Final = 7
"""How many of its fields, the first ones, are whole numbers."""

FILL: Final = _dtype("slot trade time reason", "quantity price commission fx")
"""One fill; quantity signed; reason: ENTRY or the exit's. commission in account currency."""

ORDER: Final = _dtype("slot trade time done_time type end", "quantity filled limit trigger stop trail")
"""One entry order when it ended: quantity signed, as ordered; filled: what of it was filled."""
