"""What people give ``trading.backtest`` as the records its compiled loops read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import engine_records as er
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor, with_factors
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import AssetClass, Instrument
from trading.limits import Limits, StrategyLimits
from trading.matching import LIMIT, ORDER_TYPE_CODES, STOP_LIMIT
from trading.order_rules import FxSeries, Margins, OrderRules, margin_of
from trading.price_grid import on_grid
from trading.price_units import Finer
from trading.risk import tighter
from trading.sizing import parse_sizing
from trading.sizing_inputs import kelly_fields, loop_rule, wish_scale
from trading.timeframes import US_PER_MINUTE, session_date

PLAIN_RULES = OrderRules()


def slots_of(
    instruments: Sequence[Instrument],
    strategies: Sequence[str],
    sizings: Sequence[Mapping[str, Any]],
    costs: Costs | Mapping[str, Costs] | Sequence[Costs] | None,
    evaluations: Sequence[Evaluation],
    require_stop: bool,
    minimums: Sequence[float],
    rules: Sequence[OrderRules] | None = None,
    margins: Margins | None = None,
    once: Sequence[bool] | None = None,
) -> er.Records:
    """SLOT records. Raises ValueError on a malformed sizing rule, costs that miss a symbol, or a cap on volume that is not
    there."""
    symbol_codes = {symbol: i for i, symbol in enumerate(dict.fromkeys(i.symbol for i in instruments))}
    strategy_codes = {name: i for i, name in enumerate(dict.fromkeys(strategies))}
    rows = []
    for s, instrument in enumerate(instruments):
        if isinstance(costs, Mapping) and instrument.symbol not in costs:
            raise ValueError(f"costs: none given for {instrument.symbol}")
        its_costs = costs_of(costs, s, instrument.symbol)
        if its_costs.participation > 0 and not instrument.has_volume:
            raise ValueError(f"{instrument.symbol}: costs cap an order at a share of the volume, which it does not have")
        rule = rules[s] if rules else PLAIN_RULES
        margin = margin_of(margins, instrument)
        kind, parameter = parse_sizing(loop_rule(sizings[s]))
        rows.append(
            (
                symbol_codes[instrument.symbol], strategy_codes[strategies[s]], its_costs.commission_code,
                its_costs.slippage_code, kind, evaluations[s].max_bars, int(require_stop), ORDER_TYPE_CODES[rule.entry.value],
                rule.valid_bars, 0, -1, -1, 0, 0, int(bool(once and once[s])), 0, 0, 0, 0, 0, -1, 0, 0,
                float(instrument.tick_size), float(instrument.lot_size), float(instrument.multiplier),
                its_costs.rate, its_costs.minimum, its_costs.value, parameter, minimums[s], its_costs.participation,
                its_costs.borrow, margin.initial if margin else math.nan, margin.maintenance if margin else math.nan,
                math.nan, *kelly_fields(sizings[s]), 0.0, 0.0,
            )
        )  # fmt: skip
    return np.array(rows, er.SLOT)


def costs_of(costs: Costs | Mapping[str, Costs] | Sequence[Costs] | None, slot: int, symbol: str) -> Costs:
    """Costs of one slot, given for all, by symbol or by slot; None is free."""
    if isinstance(costs, Mapping):
        return costs[symbol]
    if costs is None or isinstance(costs, Costs):
        return costs or Costs()
    return costs[slot]


def add_budgets(records: er.Records, budgets: float | Sequence[float | None] | None) -> None:
    """Percent of equity at risk of each slot; None: not limited. Raises ValueError on one that is not positive."""
    given = [budgets] * len(records) if budgets is None or isinstance(budgets, (int, float)) else list(budgets)
    if len(given) != len(records):
        raise ValueError(f"risk_budget: {len(given)} given for {len(records)} evaluations")
    for s, percent in enumerate(given):
        if percent is not None and not (percent > 0 and math.isfinite(percent)):
            raise ValueError(f"risk_budget {percent!r}: expected a positive percent of equity")
        records["risk_budget"][s] = math.nan if percent is None else float(percent)


def scale_wishes(
    wishes: er.Records, sizing: Mapping[str, Any], bars: Bars, instrument: Instrument,
    actions: Mapping[str, Sequence[CorporateAction]] | None, finer: Finer | None = None, held: Sequence[Bars] = (),
) -> None:  # fmt: skip
    """Put an adaptive rule's amount of each bar into its wish's scale; NaN, which sizes to nothing, where it is not known.
    finer, held: what weekly bars with a split inside are made of."""
    scale = wish_scale(sizing, wishes["row"], wishes["reference"], wishes["stop"], bars, instrument, actions or {}, finer, held)
    if scale is not None:
        wishes["scale"] *= scale


def bounds_of(
    limits: Limits | None, strategies: Sequence[str], instruments: Sequence[Instrument] = ()
) -> er.Records:  # fmt: skip
    """BOUND records, one per slot; limits None: inactive ones. instruments: for their sectors."""
    bounds = np.zeros(len(strategies), er.BOUND)
    if limits is None:  # active 0: the others are not looked at
        return bounds
    given = limits

    def number(value: float | int | None) -> float:
        return math.nan if value is None else float(value)

    def loss(one: StrategyLimits) -> tuple[float, float]:
        return one.daily_loss.codes if one.daily_loss is not None else (math.nan, math.nan)

    sectors: dict[str, int] = {}
    for s, strategy in enumerate(strategies):
        own = given.of(strategy)
        # trading.risk.tighter keeps a limit that the account misses missing, whatever the strategy says.
        values = {
            "active": 1,
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
            **_optional(given, own),
        }
        values["more"] = int(any(not math.isnan(values[name]) for name in _optional(given, own)))
        sector = instruments[s].sector if instruments else ""
        values["sector"] = sectors.setdefault(sector, len(sectors)) if sector else -1
        for name in bounds.dtype.names or ():
            bounds[name][s] = values[name]
    return bounds


def _optional(given: Limits, own: StrategyLimits) -> dict[str, float]:
    """The limits that trading/engine_pauses.py tests; NaN where not set."""
    pauses = [m for m in (given.cooldown_minutes, own.cooldown_minutes) if m is not None]
    found = {"cooldown_us": max(pauses) * US_PER_MINUTE if pauses else math.nan}
    for prefix, streak in (("", given.losing_streak), ("own_", own.losing_streak)):
        found[f"{prefix}streak_trades"] = math.nan if streak is None else float(streak.trades)
        found[f"{prefix}streak_us"] = math.nan if streak is None else streak.pause_minutes * US_PER_MINUTE
    return found | {
        "drawdown": math.nan if given.drawdown is None else float(given.drawdown.percent),
        "net_leverage": math.nan if given.max_net_leverage is None else float(given.max_net_leverage),
        "sector_percent": math.nan if given.max_sector_percent is None else float(given.max_sector_percent),
    }


def wishes_of(
    evaluation: Evaluation,
    bars: Bars,
    instrument: Instrument,
    rules: OrderRules = PLAIN_RULES,
    gates: Mapping[str, NDArray[np.bool_]] | None = None,
) -> tuple[er.Records, dict[str, int]]:
    """(WISH records of one slot, refused ones by gate): only the rows that want something, with their levels on the grid.

    gates: by name, bool (T,), True where the gate passes; the first that does not is counted. A wish whose limit or trigger
    is not known is none.
    """
    rows = _wanting(evaluation)
    refused: dict[str, int] = {}
    for name, passes in (gates or {}).items():
        good = np.asarray(passes, np.bool_)[rows]
        if not good.all():
            refused[name] = int((~good).sum())
            rows = rows[good]
    long = np.asarray(evaluation.enter_long)[rows]
    side = np.where(long, 1, -1)
    wishes = np.zeros(len(rows), er.WISH)
    wishes["row"] = rows
    wishes["side"] = side
    wishes["reference"] = on_grid(bars.close[rows], instrument)
    wishes["scale"] = 1.0 if evaluation.scale is None else evaluation.scale[rows]
    for level, of_long, of_short in (
        ("stop", evaluation.stop_long, evaluation.stop_short),
        ("target", evaluation.target_long, evaluation.target_short),
    ):
        if _unset(of_long) and _unset(of_short):
            wishes[level] = np.nan
            continue
        prices = np.where(long, of_long[rows], of_short[rows])
        wishes[level] = prices if np.isnan(prices).all() else on_grid(prices, instrument)
    if rules is PLAIN_RULES:
        wishes["limit"] = wishes["trigger"] = wishes["trail"] = np.nan
        return wishes, refused
    close = wishes["reference"]
    trigger = _level(rules.trigger, rows, close, side)
    base = trigger if rules.trigger is not None else close
    limit = _level(rules.limit, rows, base, side if rules.trigger is not None else -side)
    wishes["trigger"], wishes["limit"] = on_grid(trigger, instrument), on_grid(limit, instrument)
    trail = np.broadcast_to(np.asarray(np.nan if rules.trail is None else rules.trail, np.float64), len(bars))[rows]
    wishes["trail"] = np.where(np.isfinite(trail), np.maximum(on_grid(trail, instrument), float(instrument.tick_size)), np.nan)
    kind = ORDER_TYPE_CODES[rules.entry.value]
    if kind in (LIMIT, STOP_LIMIT):
        wishes["reference"] = wishes["limit"]
    elif rules.trigger is not None:
        wishes["reference"] = wishes["trigger"]
    reference: er.Floats = wishes["reference"]
    stop: er.Floats = wishes["stop"]
    trailed: er.Floats = wishes["trail"]
    no_stop = np.isnan(stop) & np.isfinite(trailed)
    stop[no_stop] = on_grid(reference - side * trailed, instrument)[no_stop]
    return wishes[np.isfinite(reference)], refused


def targets_of(
    wishes: er.Records, rules: OrderRules, evaluation: Evaluation, instrument: Instrument, columns: int
) -> tuple[er.Floats, er.Floats]:  # fmt: skip
    """(levels, shares) of each wish's targets, both float64 (W, columns), NaN and 0 where there is none: those of the rules,
    else the evaluation's several, else its one.

    With several of the rules, sets the wish's own target, which the reward-to-risk gate reads, to their mean weighted by
    share; the evaluation's own one stays where it has one.
    """
    levels, parts = np.full((len(wishes), columns), np.nan), np.zeros((len(wishes), columns))
    if not rules.targets and evaluation.targets:
        for k, (share, prices) in enumerate(evaluation.targets):
            levels[:, k] = on_grid(np.asarray(prices, np.float64)[wishes["row"]], instrument)
            parts[:, k] = share  # a part without a level is one, too: its stop, or a scale-out, closes it
        known = np.where(np.isfinite(levels), parts, 0.0)
        own: er.Floats = wishes["target"]
        wishes["target"] = np.where(np.isnan(own), _weighted(levels, known), own)
        return levels, parts
    if not rules.targets:
        levels[:, 0], parts[:, 0] = wishes["target"], 1.0
        return levels, parts
    long, row = wishes["side"] > 0, np.asarray(wishes["row"], np.int64)
    for k, target in enumerate(rules.targets):
        if target.reward is not None:
            reference: er.Floats = wishes["reference"]
            stop: er.Floats = wishes["stop"]
            prices = reference + target.reward * (reference - stop)
        else:
            nothing = np.full(int(row.max(initial=0)) + 1, np.nan)
            of_long = target.long if target.long is not None else nothing
            of_short = target.short if target.short is not None else nothing
            prices = np.where(long, of_long[row], of_short[row])
        levels[:, k] = on_grid(prices, instrument)
        parts[:, k] = np.where(np.isfinite(prices), target.share, 0.0)
    wishes["target"] = _weighted(levels, parts)
    return levels, parts


def _weighted(levels: er.Floats, parts: er.Floats) -> er.Floats:
    """Mean of each row's levels by share, NaN where there is none."""
    weight = parts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(weight > 0, np.nansum(levels * parts, axis=1) / weight, np.nan), np.float64)


def _wanting(evaluation: Evaluation) -> NDArray[np.int64]:
    """Rows that want one side and are ready, ascending; a side that never wishes is not read."""
    sides = [c for c in (evaluation.enter_long, evaluation.enter_short) if not (c.strides == (0,) and len(c) and not c[0])]
    if not sides:
        return np.empty(0, np.int64)
    rows = np.flatnonzero(sides[0] if len(sides) == 1 else sides[0] != sides[1])
    return rows[np.asarray(evaluation.ready)[rows]]


def _unset(column: NDArray[np.float64]) -> bool:
    """Is the whole column one NaN, broadcast? Then nothing has to be read."""
    return column.strides == (0,) and len(column) > 0 and math.isnan(column[0])


def _level(given: Any, rows: NDArray[np.int64], base: er.Floats, side: NDArray[np.int64]) -> er.Floats:
    if given is None:
        return np.full(len(rows), np.nan)
    if isinstance(given, (int, float)):
        return np.asarray(base + side * float(given), np.float64)
    return np.asarray(given, np.float64)[rows]


def last_calls(bars: Bars, instrument: Instrument) -> NDArray[np.bool_]:
    """bool (T,): after this bar only the session's last bar is left, by the venue's calendar (half days included).

    Raises ValueError for bars of a day or longer, and when a session is not in the calendar.
    """
    if not bars.timeframe.intraday:
        raise ValueError(f"{bars.symbol}: {bars.timeframe} bars cannot be flat at the session's end")
    venue = calendar(instrument.calendar)
    numbers, at = np.unique(bars.session, return_inverse=True)
    row = np.searchsorted(venue.number, numbers)
    known = (row < len(venue.number)) & (venue.number[np.minimum(row, len(venue.number) - 1)] == numbers)
    if not known.all():
        raise ValueError(f"{bars.symbol}: {venue.name} has no session {session_date(int(numbers[~known][0]))}")
    step = bars.timeframe.minutes * US_PER_MINUTE
    base = np.where(venue.break_end[row] != 0, venue.break_end[row], venue.open_time[row])  # where the last bar's grid begins
    last_open = base + (venue.close_time[row] - base - 1) // step * step
    return np.asarray(bars.close_time >= last_open[at], np.bool_)


_KINDS = {
    ActionKind.SPLIT: er.ACT_SPLIT, ActionKind.DIVIDEND: er.ACT_CASH, ActionKind.SPIN_OFF: er.ACT_SPIN_OFF,
    ActionKind.ROLL: er.ACT_ROLL, ActionKind.DELISTING: er.ACT_DELIST,
}  # fmt: skip


def actions_of(actions: Sequence[CorporateAction], bars: Bars) -> er.Records:
    """ACTION records of one slot, by row; those outside the bars are left out (a delisting after the last bar counts).

    Raises UnknownFactor where a factor that moves the price is not known, ValueError for another symbol's action.
    """
    rows: list[tuple[int, int, float, float]] = []
    for action in sorted(with_factors(actions, bars), key=lambda a: (a.ex_session, a.kind.value)):
        if action.symbol != bars.symbol:
            raise ValueError(f"an action of {action.symbol} given for {bars.symbol}")
        if action.kind not in _KINDS:
            continue
        row = int(np.searchsorted(bars.session, action.ex_session, side="left"))
        if action.kind is ActionKind.DELISTING:
            row -= 1
        if not 0 <= row < len(bars) or (row == 0 and action.kind is not ActionKind.DELISTING):
            continue
        if not action.factor_known and action.kind is not ActionKind.DIVIDEND:  # a dividend is paid by its amount
            raise UnknownFactor(
                f"{action.symbol}: the factor of the {action.kind} on {session_date(action.ex_session)} is not known: a "
                "position cannot be carried across it"
            )
        rows.append((row, _KINDS[action.kind], 1.0 if action.kind is ActionKind.DIVIDEND else action.factor, action.amount))
    rows.sort(key=lambda r: r[0])
    return np.array(rows, er.ACTION)


def add_rates(
    slots: er.Records, instruments: Sequence[Instrument], bars: Sequence[Bars], currency: str | None,
    fx: Mapping[str, FxSeries] | None,
) -> er.Floats:  # fmt: skip
    """The flat column of rates of slots in foreign currencies; marks those slots. Raises ValueError when a currency has no
    series, or none is said to be the account's while there are several."""
    currencies = sorted({i.currency for i in instruments})
    if currency is None:
        if len(currencies) > 1:
            raise ValueError(f"instruments in {', '.join(currencies)}: say the account's currency and give fx for the others")
        return np.empty(0)
    columns, begin = [], 0
    for s, (instrument, one) in enumerate(zip(instruments, bars, strict=True)):
        if instrument.currency == currency:
            continue
        if fx is None or instrument.currency not in fx:
            raise ValueError(f"{instrument.symbol} is quoted in {instrument.currency}: no fx series to {currency} given")
        slots["fx_at"][s] = begin
        slots["settled"][s] = int(instrument.asset_class is AssetClass.FUTURE)
        columns.append(fx[instrument.currency].at(one.close_time))
        begin += len(one)
    return np.concatenate(columns) if columns else np.empty(0)
