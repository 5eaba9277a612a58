"""Gates, sizes and limits of an entry wish, compiled: the desk's rules over the backtest's records."""

from __future__ import annotations

import math

from trading import engine_records, limit_math, matching, sizing
from trading.compiled import kernel
from trading.engine_records import (
    BUYING_POWER,
    CONCURRENT_POSITIONS,
    DAILY_LOSS,
    LIMIT_MISSING,
    MAX_NOTIONAL,
    MAX_ORDER_QUANTITY,
    MAX_POSITION,
    NO_REFUSAL,
    OPEN,
    PRICE_COLLAR,
    REWARD_TO_RISK,
    STOP_REQUIRED,
    Record,
    Records,
)  # fmt: skip
from trading.limit_math import daily_loss_reached, exceeds, leverage_exceeded, order_notional, risk_to
from trading.matching import commission, with_slippage
from trading.sizing import kelly_percent

compiled = kernel(matching, sizing, limit_math, engine_records)


@compiled
def fee_of(slot: Record, quantity: float, price: float) -> float:
    """Commission of one fill in the instrument's currency."""
    return commission(
        abs(quantity), price, slot["multiplier"], slot["commission_kind"], slot["commission_rate"], slot["commission_minimum"]
    )


@compiled
def slipped(slot: Record, price: float, side: int, quantity: float, volume: float) -> float:
    """Price of a market or stop fill after slippage."""
    return with_slippage(price, side, slot["slippage_kind"], slot["slippage_value"], slot["tick"], abs(quantity), volume)


@compiled
def gate(slot: Record, side: int, reference: float, stop: float, target: float) -> int:
    """The gates stop_required and reward_to_risk, in their order."""
    if math.isnan(stop):
        if slot["require_stop"] != 0:
            return STOP_REQUIRED
    elif not ((reference - stop) * side > 0.0):
        return STOP_REQUIRED
    minimum = slot["min_reward_to_risk"]
    if math.isnan(target):
        return REWARD_TO_RISK if minimum > 0.0 else NO_REFUSAL
    reward = (target - reference) * side
    if not (reward > 0.0):
        return REWARD_TO_RISK
    risk = (reference - stop) * side
    if minimum > 0.0 and not (reward / risk >= minimum * (1.0 - 1e-9)):
        return REWARD_TO_RISK
    return NO_REFUSAL


@compiled
def count_trade(state: Record) -> None:
    """A trade has ended: what it made, in multiples of what it risked, is evidence for a kelly rule."""
    if not (state["risked"] > 0.0):
        return
    result = state["made"] / state["risked"]
    if result > 0.0:
        state["wins"] += 1
        state["won"] += result
    elif result < 0.0:
        state["losses"] += 1
        state["lost"] -= result


@compiled
def sized(slots: Records, states: Records, s: int, scale: float) -> float:
    """Amount of slot s's sizing rule at this bar: its parameter, or Kelly's percent from the trades its strategy has closed."""
    slot = slots[s]
    if not (slot["kelly_fraction"] > 0.0):
        return slot["sizing_parameter"] * scale
    wins, losses, won, lost = 0.0, 0.0, 0.0, 0.0
    for k in range(len(slots)):
        if slots[k]["strategy"] == slot["strategy"]:
            wins += states[k]["wins"]
            losses += states[k]["losses"]
            won += states[k]["won"]
            lost += states[k]["lost"]
    return scale * kelly_percent(
        wins, losses, won, lost, slot["kelly_fraction"], slot["kelly_cap"], slot["kelly_trades"], slot["kelly_win_rate"],
        slot["kelly_payoff"],
    )  # fmt: skip


@compiled
def over_budget(slots: Records, states: Records, book: Record, s: int, quantity: float, reference: float, stop: float) -> bool:
    """Would the risk of everything held, ordered and of this order be above the slot's budget? Risk: from the price now to the
    stop; what no stop protects (an exit under way has taken it back) counts whole."""
    percent = slots[s]["risk_budget"]
    if math.isnan(percent):
        return False
    total = risk_to(quantity, reference, stop, slots[s]["multiplier"] * states[s]["fx"])
    for k in range(len(slots)):
        its, unit = states[k], slots[k]["multiplier"] * states[k]["fx"]
        if its["quantity"] != 0.0:
            total += risk_to(its["quantity"], its["mark"], its["stop"] if its["exit_reason"] == OPEN else math.nan, unit)
        if its["pending"] != 0.0:
            total += risk_to(its["pending"], its["pending_reference"], its["pending_stop"], unit)
    return not (book["equity"] > 0.0) or exceeds(total, book["equity"] * percent / 100.0)


@compiled
def exposure_of(slot: Record, state: Record, fx: float) -> float:
    """|value| of what is held at its mark plus of what is ordered at its reference price, account currency."""
    exposure = abs(state["quantity"] * state["mark"] * slot["multiplier"]) * fx if state["quantity"] != 0.0 else 0.0
    if state["pending"] != 0.0:
        exposure += order_notional(state["pending"], state["pending_reference"], slot["multiplier"] * fx)
    return exposure


@compiled
def worst_price(wish: Record, last: float) -> float:
    """The least favourable of an entry's prices: its levels, its reference, the last price."""
    worst = max(abs(wish["reference"]), abs(last)) if not math.isnan(last) else abs(wish["reference"])
    if not math.isnan(wish["limit"]):
        worst = max(worst, abs(wish["limit"]))
    if not math.isnan(wish["trigger"]):
        worst = max(worst, abs(wish["trigger"]))
    return worst


@compiled
def _distance(price: float, last: float) -> float:
    return 0.0 if math.isnan(price) else abs(price - last) / abs(last) * 100.0


@compiled
def limit(
    slots: Records, bound: Record, states: Records, book: Record, s: int, wish: Record, quantity: float, value: float, last: float
) -> int:  # fmt: skip
    """The rules on price, size and number of positions, in the order of trading/risk_rules. value: of the order; last: the price
    now. Leaves gross exposure and the strategy's result of the session in the book, for the rules that follow."""
    slot = slots[s]
    if math.isnan(bound["collar_percent"]) or math.isnan(bound["order_quantity"]):
        return LIMIT_MISSING
    if last != 0.0 and not math.isnan(last):
        far = max(_distance(wish["reference"], last), _distance(wish["limit"], last), _distance(wish["trigger"], last))
        if exceeds(far, bound["collar_percent"]):
            return PRICE_COLLAR
    if exceeds(quantity, bound["order_quantity"]):
        return MAX_ORDER_QUANTITY
    if math.isnan(bound["order_value"]):
        return LIMIT_MISSING
    if exceeds(value, bound["order_value"]):
        return MAX_NOTIONAL
    gross, here, taken, own_taken, own_pnl = 0.0, 0.0, 0, 0, 0.0
    for k in range(len(slots)):
        other, its = slots[k], states[k]
        mine = other["strategy"] == slot["strategy"]
        if mine:
            own_pnl += its["cash"] + its["value"] - its["day_start"]
        if its["quantity"] != 0.0 or its["pending"] != 0.0:
            exposure = exposure_of(other, its, its["fx"])
            gross += exposure
            taken += 1
            own_taken += 1 if mine else 0
            here += exposure if other["symbol"] == slot["symbol"] else 0.0
    book["gross"], book["own_pnl"] = gross, own_pnl
    if math.isnan(bound["position_value"]):
        return LIMIT_MISSING
    if exceeds(here + value, bound["position_value"]):
        return MAX_POSITION
    if math.isnan(bound["concurrent"]):
        return LIMIT_MISSING
    if taken + 1 > bound["concurrent"] or own_taken + 1 > bound["own_concurrent"]:
        return CONCURRENT_POSITIONS
    return NO_REFUSAL


@compiled
def day_lost(bound: Record, book: Record) -> int:
    """Has the account, or the strategy, lost its limit of the session?"""
    amount, percent = bound["loss_amount"], bound["loss_percent"]
    if math.isnan(amount) and math.isnan(percent):
        return LIMIT_MISSING
    start = book["day_start_equity"]
    if daily_loss_reached(book["equity"] - start, start, amount, percent):
        return DAILY_LOSS
    amount, percent = bound["own_loss_amount"], bound["own_loss_percent"]
    if not (math.isnan(amount) and math.isnan(percent)) and daily_loss_reached(book["own_pnl"], start, amount, percent):
        return DAILY_LOSS
    return NO_REFUSAL


@compiled
def buying_power(bound: Record, book: Record, value: float) -> int:
    """Would gross exposure be above its multiple of the equity?"""
    if math.isnan(bound["leverage"]):
        return LIMIT_MISSING
    return BUYING_POWER if leverage_exceeded(book["gross"] + value, book["equity"], bound["leverage"]) else NO_REFUSAL


@compiled
def margin_needed(slots: Records, states: Records, skip: int) -> float:
    """Initial margin of everything held and ordered but in slot `skip`. A slot without a margin needs its whole value."""
    needed = 0.0
    for k in range(len(slots)):
        its = states[k]
        if k != skip and (its["quantity"] != 0.0 or its["pending"] != 0.0):
            share = slots[k]["initial_margin"]
            needed += exposure_of(slots[k], its, its["fx"]) * (1.0 if math.isnan(share) else share)
    return needed


@compiled
def margin_refusal(slots: Records, states: Records, book: Record, s: int, quantity: float, price: float) -> int:
    """Does the account have the initial margin of this order beside what it holds and has ordered?"""
    if book["margined"] == 0:
        return NO_REFUSAL
    share = slots[s]["initial_margin"]
    value = order_notional(quantity, price, slots[s]["multiplier"] * states[s]["fx"])
    needed = margin_needed(slots, states, s) + value * (1.0 if math.isnan(share) else share)
    return BUYING_POWER if exceeds(needed, book["equity"]) else NO_REFUSAL
