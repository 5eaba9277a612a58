"""The closed set of refusal codes. A refusal is always a member with named values, printed ``CODE: key=value``.

docs/refusals.md is generated from this set (``python -m resources.refusals_table``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class RefusalCode(str, Enum):
    """Why new risk was refused. The value is the sentence for the docs."""

    # gates (decision)
    DATA_QUALITY = "a quality verdict on a needed bars partition failed, is missing or is stale"
    WARM_UP = "fewer bars than the strategy's indicators need"
    SESSION_CLOSED = "the venue is not in session, or outside the strategy's windows"
    NOT_TRADABLE = "the instrument may not be traded in this mode"
    NEWS_WINDOW = "an event of the news calendar is near, or the calendar is missing or does not reach so far"
    REGIME = "the market is not in a regime the strategy enters in, or its regime is not known"
    CONFLUENCE = "the score over the timeframes is below the strategy's minimum, or cannot be measured"
    VOLATILITY = "range, spread, volatility index or volume is outside the strategy's bounds, or not known"
    RISK_BUDGET = "the risk of everything open, ordered and accepted at this close would be above the budget, or is not known"
    REWARD_TO_RISK = "distance to target over distance to stop is below the strategy's minimum"
    STOP_REQUIRED = "no protective stop, or a stop on the wrong side of the price"
    EXPIRED = "the signal is older than its validity"
    CONFLICT = "another strategy wants the opposite of this instrument at the same close, and the policy lets this one lose"
    LEG_MISSING = "the other leg of the pair is missing, refused or not taken, so neither is entered"
    MODEL_MISSING = "the strategy's model has no version that may trade, or its files are not here or not those that were trained"
    MODEL_DRIFT = "the strategy's model has drifted, or no fresh verdict says that it has not"
    MODEL_SCHEMA = "the strategy's model was made for other features, bars or instruments than it would be asked about"
    CONFIG_INVALID = "the strategy, plan, universe or risk file does not validate"
    # risk (router)
    HALTED = "the desk or the strategy is halted"
    STATE_UNKNOWN = "an order of this instrument is in an unknown state until the broker's evidence arrives"
    PRICE_MISSING = "no current price for the instrument"
    PRICE_GRID = "price or quantity is not on the instrument's grid"
    PRICE_COLLAR = "the order price is too far from the last price"
    MAX_ORDER_QUANTITY = "order quantity above its limit"
    MAX_NOTIONAL = "order notional above its limit"
    MAX_POSITION = "resulting position above its limit"
    CONCURRENT_POSITIONS = "too many open positions"
    POSITION_OPEN = "the strategy already holds or is entering this instrument"
    DAILY_LOSS = "the day's loss limit is reached"
    BUYING_POWER = "not enough buying power"
    DRAWDOWN = "equity has fallen too far from its highest value"
    NET_EXPOSURE = "net exposure above its limit"
    SECTOR_EXPOSURE = "exposure to one sector above its limit"
    CORRELATION = "too much of the account in instruments that move together"
    VALUE_AT_RISK = "value at risk or expected shortfall of the portfolio above its limit"
    ORDER_RATE = "too many orders in a short time"
    CIRCUIT_BREAKER = "the instrument has just moved abnormally"
    LOSING_STREAK = "the strategy has lost too many trades in a row"
    COOLDOWN = "the strategy was stopped out of this instrument a short while ago"
    RISK_INPUT_MISSING = "a limit is set, but what it is measured on is not known"
    LIMIT_MISSING = "a required limit is not configured"
    PLAN_DONE = "the trade plan has already entered, or is closed, expired or cancelled"
    SIZE_ZERO = "the sizing rule gives less than one lot"
    EXECUTION = "the entry cannot be worked as its execution asks: no room for the window, too few lots, no volume profile"
    MODE = "the strategy's mode sends no orders"
    RECONCILIATION = "ledger and broker disagree on this instrument"

    @property
    def code(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal: the code and the values that made it, in the order they should be read."""

    code: RefusalCode
    values: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code.name}: " + " ".join(f"{k}={v}" for k, v in self.values.items())


def refuse(code: RefusalCode, **values: object) -> Refusal:
    """``refuse(RefusalCode.MAX_POSITION, symbol="AAPL", limit=100, would_be=150)``"""
    return Refusal(code, values)


REASONS: Final[Mapping[tuple[str, str], str]] = {
    ("every gate", "missing"): "the gate is on and what it judges by is not there; `field` names it",
    ("every gate", "error"): "the gate broke; `error` names how",
    ("DATA_QUALITY", "failed"): "the check found something wrong in the partition",
    ("DATA_QUALITY", "missing"): "the partition was not judged, or not by this check",
    ("DATA_QUALITY", "stale"): "other bars were judged than are there now, or than the signal was computed from",
    ("DATA_QUALITY", "expired"): "the verdict is older than its limit allows (docs/quality.md): judge the partition again",
    ("EXPIRED", "before_close"): "the clock says that the bar has not closed yet",
    ("EXPIRED", "malformed_signal"): "the signal is not what its id says",
    ("NOT_TRADABLE", "another_instrument"): "the signal is of another instrument than the one it was judged with",
    ("NEWS_WINDOW", "missing"): "there is no news calendar, or one of its files has a mistake",
    ("NEWS_WINDOW", "calendar_ends"): "the calendar's `until` is over: write the coming events and a later day",
    ("NEWS_WINDOW", "calendar_begins"): "the moment lies before the calendar's `from`",
    ("LEG_MISSING", "missing"): "the other leg has no signal at this close",
    ("SIZE_ZERO", "…_is_not_known"): "the range or volatility an adaptive size is measured on is not known yet",
    ("SIZE_ZERO", "no_edge_in_the_strategy's_trades:_kelly_is_0"): "the closed trades, shrunk, show nothing to bet on",
    ("SIZE_ZERO", "no_record_of_the_strategy's_closed_trades"): "kelly without the ledger's record",
    ("MODEL_MISSING", "no champion"): "no version has passed the promotion gate yet, or none was fetched: `tapeline models list`",
    ("MODEL_MISSING", "not fetched"): "MLflow names a version whose files are not on this disk: `tapeline models fetch`",
    ("MODEL_MISSING", "changed files"): "the stored files are not those that were trained: fetch or train again",
    ("MODEL_MISSING", "cannot be served"): "it was trained before models were served, or its plug-in is gone: train again",
    ("MODEL_DRIFT", "drifted"): "the model's file says `drift: {then: halt}`; a new version or a person ends it (docs/models.md)",
    ("MODEL_DRIFT", "other_version"): "another version was judged: materialise the model's drift asset",
    ("MODEL_DRIFT", "expired"): "the verdict is older than `max_age_days`: job `model_drift`, and features up to today",
    ("MODEL_DRIFT", "judged_later"): "every verdict of that version saw bars after this close: a replay of the past has none",
    ("MODEL_SCHEMA", "features"): "the features are defined otherwise now than when it was trained: train again",
    ("MODEL_SCHEMA", "timeframe"): "the strategy's timeframe is not that of the model",
    ("MODEL_SCHEMA", "not trained on"): "the model has learnt nothing from the instrument",
    ("EXECUTION", "window_outside_session"): "the session ends before the window would",
    ("EXECUTION", "break_in_window"): "nobody trades at the venue for a part of the window",
    ("EXECUTION", "window_beyond_validity"): "the signal expires before the window ends: a greater gates.valid_bars",
    ("EXECUTION", "calendar_ends"): "the venue's calendar has no session after this one",
    ("EXECUTION", "too_few_lots"): "the quantity is below min_lots",
    ("EXECUTION", "less_than_a_lot"): "the visible quantity is less than a lot",
    (
        "EXECUTION",
        "profile_missing",
    ): "a past session of the volume profile is missing, has no volume in the window or an unknown one",
    ("EXECUTION", "closed_in_parts"): "the position is closed in several parts, which slices cannot be",
    ("EXECUTION", "stop_reached"): "the price is at or beyond the stop that would protect the slice",
    ("CONFIG_INVALID", "no valid file"): "the strategy's file has a problem now, or is gone",
    ("CONFIG_INVALID", "not its instrument"): "the strategy's file does not name the instrument any more",
    ("NOT_TRADABLE", "not above 0"): "the price is zero or negative: sizes and limits are not made for it",
    ("LIMIT_MISSING", "no rule ran"): "no risk rule was there to judge the order",
    ("MODE", "research_only"): "mode backtest: `tapeline modes set` moves it up",
    ("MODE", "live_not_enabled"): "the strategy is live and TAPELINE_MODE is not",
    ("MODE", "broker_is_simulated"): "live orders need a broker with real money",
    ("MODE", "broker_is_real"): "paper orders need a paper book, and this broker is an account",
    ("MODE", "live_account_not_set"): "TAPELINE_LIVE_ACCOUNT does not say which account live orders may go to",
    ("MODE", "other_account"): "the broker's account is not the one live orders may go to",
    ("MODE", "risk_file_incomplete"): "live needs a risk file with every required limit; `missing` names the gaps",
    ("MODE", "another_broker"): "the order was committed for another broker than there is now; it is not sent",
    (
        "STOP_REQUIRED",
        "would_trade_at_once",
    ): "a changed stop or target at or beyond the price is a market order: close the position",
    ("STATE_UNKNOWN", "it_is_over"): "the order that was to be changed has filled, ended or was refused",
    ("STATE_UNKNOWN", "not_at_rest"): "the order that was to be changed is in doubt, being changed or partly filled",
}
"""(code, reason) -> what it means, for refusals that say why with ``reason=``. Others name their values instead."""
