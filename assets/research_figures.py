"""The figures of research without Dagster: each function takes a prepared strategy and returns what its asset shows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assets.research_run import Prepared
from resources import research_plots
from resources.research_store import ResearchStore
from resources.research_trials import TrialBook
from trading import baselines, walk_forward
from trading.backtest import BacktestResult
from trading.calendars import calendar
from trading.experiment import longest_holding, per_year, session_returns
from trading.gated import gated_like
from trading.metrics import TradeFigures, max_drawdown, total_return
from trading.perturbation import perturbed_runs
from trading.price_view import seen_like
from trading.research_grid import Variant, rules_hash
from trading.statistics import (
    bootstrap_paths,
    effective_trials,
    expected_maximum_sharpe,
    probability_of_overfitting,
    shuffle_paths,
    superior_ability,
)
from trading.strategy import evaluate_anchored, parse_strategy
from trading.sweep import sweep
from trading.timeframes import iso
from trading.universe import Universe
from trading.walk_forward import column_sharpes

Floats = NDArray[np.float64]

RANDOM_SEEDS: Final = 50
PATHS: Final = 2_000
RUNS: Final = 1_000
NOISE: Final = 0.1
PBO_BLOCKS: Final = 12
FOLDS: Final = 6
GROUPS, TESTED = 8, 2


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What one asset says of one strategy. figures: kept as JSON; table rows under its header; pictures: PNG by name; tables:
    further ones, (header, rows) by name."""

    name: str
    figures: dict[str, Any]
    header: Sequence[str]
    rows: list[list[Any]]
    pictures: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: Mapping[str, tuple[Sequence[str], list[list[Any]]]] = field(default_factory=dict)


_SHOWN: Final = ("header", "rows", "picture_names", "notes", "tables", "snapshot", "basis")


def keep(store: ResearchStore, prepared: Prepared, kind: str, shown: Shown, basis: str = "") -> None:
    """Remember what was shown, for the promotion table, the HTML page and the command line. basis: see `kept`."""
    e = prepared.evaluable
    for picture, content in shown.pictures.items():
        store.put_file(e.name, e.revision, f"{picture}.png", content)
    store.put(e.name, e.revision, kind, {
        **shown.figures, "header": list(shown.header), "rows": shown.rows, "picture_names": list(shown.pictures),
        "notes": shown.notes, "tables": shown.tables, "snapshot": prepared.snapshot, "basis": basis,
    })  # fmt: skip


def inputs_hash(prepared: Prepared) -> str:
    """Hash of what the backtest was given and what came of it: wishes, levels, bars, rates, actions, equity. Two that agree
    have the same figures, whatever a plug-in, a calendar of news or a corporate action changed in between."""
    own, result = prepared.experiment, prepared.result
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())

    for evaluation in own.evaluations:
        for part in dataclass_fields(evaluation):
            value = getattr(evaluation, part.name)
            for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,):
                for inner in item if isinstance(item, tuple) else (item,):
                    add(inner)
    for bars in own.bars:
        add(bars.content_hash())
    for rates in (own.fx or {}).values():
        add(rates.time)
        add(rates.rate)
    for value in (sorted(own.actions.items()), own.costs, own.instruments, own.sizing, own.cash, own.risk_budget):
        add(value)
    for value in (result.equity, result.trades.pnl, result.trades.quantity):
        add(np.asarray(value))
    return digest.hexdigest()[:24]


def kept(store: ResearchStore, prepared: Prepared, kind: str, basis: str) -> Shown | None:
    """What was shown before of this revision, when it was made of the same bars and `basis` (everything else a result
    depends on, hashed); None when it has to be computed."""
    e = prepared.evaluable
    found = store.get(e.name, e.revision, kind)
    if found is None or not basis or (found.get("basis"), found.get("snapshot")) != (basis, prepared.snapshot):
        return None
    pictures = dict(store.pictures(e.name, e.revision))
    if any(name not in pictures for name in found["picture_names"]):
        return None
    figures = {k: v for k, v in found.items() if k not in _SHOWN}
    tables = {name: (header, rows) for name, (header, rows) in found["tables"].items()}
    return Shown(
        e.name, figures, found["header"], found["rows"], {n: pictures[n] for n in found["picture_names"]}, found["notes"], tables
    )


def percent(value: float) -> str:
    text = f"{100 * value:+.2f} %" if math.isfinite(value) else "–"
    return text[1:] if text[1:] == "0.00 %" else text  # neither gained nor lost


def decimal(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


# -- baselines, costs, splits ----------------------------------------------------------------------------------------------

BASELINE_HEADER: Final = ("what", "total", "CAGR", "Sharpe", "max drawdown", "trades", "win rate", "exposure", "costs paid")
SPLIT_HEADER: Final = ("split", "group", "trades", "win rate", "net")


def _line(name: str, result: BacktestResult) -> list[Any]:
    m = result.metrics(per_year(result.close_time))
    return [
        name, percent(m.total_return), percent(m.cagr), decimal(m.sharpe), percent(-m.max_drawdown), m.trades,
        percent(m.win_rate).lstrip("+"), percent(m.exposure).lstrip("+"), f"{float(result.trades.commission.sum()):,.2f}",
    ]  # fmt: skip


def baselines_of(
    prepared: Prepared, currency: str, seeds: int = RANDOM_SEEDS, factors: Sequence[float] = (), seed: int = 0
) -> Shown:
    """Baselines, random entries, cost ladder and splits of one strategy. factors: rungs beside those of all ladders."""
    experiment = prepared.experiment
    result, ends = prepared.result, experiment.session_ends
    mine = session_returns(result, ends)
    others = baselines.baselines(experiment, result)
    random = baselines.random_entries(experiment, result, seeds, seed)
    ladder = baselines.cost_ladder(experiment, sorted({*baselines.COST_FACTORS, *factors}))
    earned = [(f, total_return(r.equity, r.cash)) for f, r in ladder]
    rows = [_line("strategy", result), *(_line(b.name, b.result) for b in others)]
    if seeds:
        spread = np.quantile(random.total_return, [0.05, 0.5, 0.95])
        said = f"random entries, median of {seeds} (5 to 95 %: {percent(spread[0])} to {percent(spread[2])})"
        rows.append([said, percent(float(spread[1])), "", "", "", int(np.median(random.trades)), "", "", ""])
    rows += [[f"costs × {f:g}", *_line("", r)[1:]] for f, r in ladder]
    regimes, hours = baselines.by_regime(experiment, result), baselines.by_hour(experiment, result)
    name = prepared.evaluable.name
    figures = {
        "total_return": total_return(result.equity, result.cash), "random_beaten": random.beaten,
        "turnover_ratio_random": float(np.median(random.turnover) / result.traded_value) if result.traded_value else math.nan,
        "net_at_double_costs": dict(earned).get(2.0, math.nan), "break_even_cost_factor": baselines.break_even_factor(ladder),
        "by_regime": {k: _group(v) for k, v in regimes.items()}, "by_hour": {k: _group(v) for k, v in hours.items()},
    }  # fmt: skip
    pictures = {
        "baselines": research_plots.against_baselines(
            ends, mine, [(b.name, b.returns) for b in others], random.returns, random.total_return, earned,
            f"{name} against what else there was",
        )
    }  # fmt: skip
    if regimes:
        splits = {"regime": regimes, "hour of the venue": hours}
        pictures["splits"] = research_plots.split_bars(
            {k: {label: (g.trades, g.net_profit) for label, g in v.items()} for k, v in splits.items()}, currency, name
        )
    tables = {"splits": (SPLIT_HEADER, split_rows(figures))}
    return Shown(name, figures, BASELINE_HEADER, rows, pictures, tables=tables)


def _group(figures: TradeFigures) -> dict[str, float]:
    return {"trades": figures.trades, "win_rate": figures.win_rate, "net": figures.net_profit}


def split_rows(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Rows under SPLIT_HEADER of `baselines_of`'s figures."""
    return [
        [split.removeprefix("by_"), label, int(g["trades"]), percent(g["win_rate"]).lstrip("+"), f"{g['net']:+,.2f}"]
        for split in ("by_regime", "by_hour")
        for label, g in figures[split].items()
    ]


# -- Monte Carlo -----------------------------------------------------------------------------------------------------------

MONTE_CARLO_HEADER: Final = ("what", "as it happened", "median", "95 % interval")


def monte_carlo_of(prepared: Prepared, paths: int = PATHS, seed: int = 0, block: float | None = None) -> Shown:
    """Block bootstrap of session returns and the trades in random order. block: mean length, sessions; None: chosen from the
    returns. Raises ValueError without trades."""
    experiment = prepared.experiment
    result, ends = prepared.result, experiment.session_ends
    returns = session_returns(result, ends)
    name = prepared.evaluable.name
    if not len(result.trades):
        raise ValueError(f"{name} made no trade: there is nothing to resample")
    boot = bootstrap_paths(returns, paths=paths, block=block, seed=seed)
    shuffled = shuffle_paths(result.trades.pnl, experiment.cash, paths=paths, seed=seed)
    deepest = max_drawdown(result.equity, result.cash)[0]
    equity = np.asarray(np.cumprod(1.0 + returns), np.float64)
    by_session = float(np.max(1.0 - equity / np.maximum.accumulate(np.maximum(equity, 1.0))))
    total = float(equity[-1] - 1.0)
    low, high = boot.interval("total_return")
    dd_low, dd_high = boot.interval("max_drawdown")
    s_low, s_high = shuffled.interval("max_drawdown")
    rows: list[list[Any]] = [
        ["total result, returns resampled in blocks", percent(total), percent(float(np.median(boot.total_return))),
         f"{percent(low)} to {percent(high)}"],
        ["deepest drawdown by session, resampled", percent(-by_session), percent(-float(np.median(boot.max_drawdown))),
         f"{percent(-dd_high)} to {percent(-dd_low)}"],
        ["deepest drawdown, trades in random order", percent(-deepest), percent(-float(np.median(shuffled.max_drawdown))),
         f"{percent(-s_high)} to {percent(-s_low)}"],
        ["histories that lose money", "", percent(float((boot.total_return < 0).mean())).lstrip("+"), ""],
        ["histories that fall by a tenth", "", percent(boot.probability_of_drawdown(0.1)).lstrip("+"), ""],
    ]  # fmt: skip
    figures = {
        "paths": paths, "seed": seed, "total_low": low, "total_high": high, "drawdown_low": dd_low, "drawdown_high": dd_high,
        "drawdown_95": float(np.quantile(boot.max_drawdown, 0.95)), "loses": float((boot.total_return < 0).mean()),
        "shuffled_drawdown_low": s_low, "shuffled_drawdown_high": s_high,
    }  # fmt: skip
    picture = research_plots.resampled(
        ends, equity, boot.levels, boot.bands, boot.max_drawdown, shuffled.max_drawdown, by_session,
        f"{name}: {paths:,} histories from its own sessions",
    )  # fmt: skip
    return Shown(name, figures, MONTE_CARLO_HEADER, rows, {"monte_carlo": picture})


# -- grids -----------------------------------------------------------------------------------------------------------------

GRID_HEADER: Final = ("trial", "parameters", "total", "Sharpe", "max drawdown", "trades")


def grid_of(
    prepared: Prepared, made: Sequence[Variant], universe: Universe, book: TrialBook, *, text: str,
    tags: Mapping[str, str] | None = None, progress: Callable[[int, int], None] | None = None,
) -> tuple[Shown, dict[str, NDArray[Any]]]:  # fmt: skip
    """Every variant backtested on the same bars, counted in the trial book; overfitting and superior ability of the best.

    Returns what is shown and the arrays kept: returns float64 (T, N) by session, times (T,), own: column of the file's own
    parameters or -1. Raises ValueError when no variant can be tested.
    """
    own = prepared.experiment
    name = prepared.evaluable.name
    trials = book.count(name, [v.content for v in made] + [rules_hash(text)], what="sweep", tags=tags)
    by_label = {str(i): v for i, v in enumerate(made)}

    def make(_: Any, number: str) -> Any:
        strategy, problems = parse_strategy(by_label[number].text, f"{name} variant {number}", universe)
        if strategy is None:
            raise ValueError("; ".join(str(p) for p in problems) or "for another universe")
        variant = gated_like(prepared.evaluable, seen_like(prepared.evaluable, replace(strategy, name=name)))
        return [evaluate_anchored(variant, prepared.windows[i.symbol], i, calendar(i.calendar)) for i in own.instruments]

    ends = own.session_ends
    result = sweep(
        make, [{"number": n} for n in by_label], list(own.bars), list(own.instruments), cash=own.cash,
        periods_per_year=per_year(own.bars[0].close_time), keep_returns="session", keep_going=True, progress=progress,
        sizing=own.sizing, costs=own.costs, limits=own.limits, strategy=name, require_stop=own.require_stop,
        min_reward_to_risk=own.min_reward_to_risk, risk_budget=own.risk_budget, actions=own.actions or None,
        currency=own.currency, fx=own.fx, files=None if own.of is None else [own.of] * len(own.instruments),
    )  # fmt: skip
    good = [i for i, m in enumerate(result.metrics) if m is not None]
    if len(good) < 2:
        raise ValueError(f"{name}: {len(good)} of {len(made)} variants could be tested: {dict(list(result.failed.items())[:3])}")
    returns = np.nan_to_num(result.returns[:, good], nan=0.0)
    mine = rules_hash(text)
    column = next((c for c, i in enumerate(good) if made[i].content == mine), -1)
    root = math.sqrt(per_year(ends))
    sharpes = column_sharpes(returns)
    best = int(sharpes.argmax())
    blocks = min(PBO_BLOCKS, len(returns) // 2 // 2 * 2)
    overfit = probability_of_overfitting(returns, blocks)
    hold = session_returns(baselines.buy_and_hold(own, baselines.mean_entry_value(prepared.result)).run(), ends)
    against_flat, against_hold = superior_ability(returns), superior_ability(returns - hold[:, None])
    effective = effective_trials(returns)
    luck = expected_maximum_sharpe(max(1, trials.total), float(sharpes.var(ddof=1))) * root
    order = np.argsort(-sharpes)
    rows: list[list[Any]] = []
    for c in order[:30]:
        m = result.metrics[good[c]]
        assert m is not None
        said = ", ".join(f"{k} {v}" for k, v in made[good[c]].parameters.items()) + (" (the file)" if c == column else "")
        rows.append(
            [good[c], said, percent(m.total_return), decimal(float(sharpes[c] * root)), percent(-m.max_drawdown), m.trades]
        )
    figures = {
        "variants": len(made), "failed": {str(k): v for k, v in result.failed.items()}, "trials_total": trials.total,
        "trials_new": trials.new, "tracked": trials.tracked, "trial_sharpe_variance": float(sharpes.var(ddof=1)),
        "effective_trials": effective, "best_sharpe": float(sharpes[best] * root), "luck_sharpe": luck,
        "best_parameters": made[good[best]].parameters, "overfitting": overfit.probability,
        "loss_probability": overfit.loss_probability, "degradation": overfit.degradation, "spa_flat": against_flat.consistent,
        "reality_check_flat": against_flat.reality_check, "spa_hold": against_hold.consistent,
        "reality_check_hold": against_hold.reality_check,
    }  # fmt: skip
    picture = research_plots.grid(
        sharpes * root, column if column >= 0 else None, luck, overfit.logits, overfit.probability,
        overfit.chosen_in_sample, overfit.chosen_out_of_sample, f"{name}: {len(good)} variants",
    )  # fmt: skip
    notes = [] if trials.tracked else [f"N counts this machine only: {trials.why}"]
    arrays = {"returns": returns, "times": ends, "own": np.array([column])}
    return Shown(name, figures, GRID_HEADER, rows, {"grid": picture}, notes), arrays


# -- walk-forward ----------------------------------------------------------------------------------------------------------

WALK_HEADER: Final = ("kind", "test span", "learnt from", "chosen trial", "Sharpe inside", "Sharpe outside", "grid's median")


def walk_forward_of(prepared: Prepared, arrays: Mapping[str, NDArray[Any]], folds: int = FOLDS) -> Shown:
    """Walk-forward, anchored and rolling, and combinatorial purged cross-validation over a grid's returns. Raises ValueError
    when the history is too short for the longest trade."""
    returns, times = arrays["returns"], arrays["times"]
    root = math.sqrt(per_year(times))
    reach = longest_holding(prepared.result, times)
    embargo = max(1, len(returns) // 100)
    name = prepared.evaluable.name
    walks = [
        walk_forward.walk_forward_selection(returns, folds=folds, anchored=anchored, reach=reach, embargo=embargo)
        for anchored in (True, False)
    ]
    cross = walk_forward.combinatorial_selection(returns, groups=GROUPS, tested=TESTED, reach=reach, embargo=embargo)
    rows: list[list[Any]] = [
        ["anchored" if w.anchored else "rolling", f"{iso(int(times[f.first]))[:10]} to {iso(int(times[f.last]))[:10]}",
         f"{f.train} sessions", f.chosen, decimal(f.inside * root), decimal(f.outside * root), decimal(f.median * root)]
        for w in walks
        for f in w.folds
    ]  # fmt: skip
    paths = cross.sharpe * root
    low, median, high = (float(v) for v in np.quantile(paths, [0.025, 0.5, 0.975]))
    own = int(arrays["own"][0])
    full = float(column_sharpes(returns)[own] * root) if own >= 0 else math.nan
    anchored, rolling = walks
    figures = {
        "reach_sessions": reach, "embargo_sessions": embargo, "folds": len(anchored.folds),
        "anchored_sharpe": float(column_sharpes(anchored.returns[:, None])[0] * root),
        "rolling_sharpe": float(column_sharpes(rolling.returns[:, None])[0] * root),
        "anchored_total": float(np.prod(1 + anchored.returns) - 1), "rolling_total": float(np.prod(1 + rolling.returns) - 1),
        "efficiency": anchored.efficiency, "rolling_efficiency": rolling.efficiency, "combinatorial_splits": cross.splits,
        "combinatorial_paths": len(paths), "combinatorial_low": low, "combinatorial_median": median,
        "combinatorial_high": high, "out_of_sample": anchored.returns,
    }  # fmt: skip
    rows.append(["combinatorial", f"{len(paths)} paths of {cross.splits} splits", f"reach {reach}, embargo {embargo}", "",
                 "", f"{decimal(median)} ({decimal(low)} to {decimal(high)})", ""])  # fmt: skip
    picture = research_plots.walk_forward(
        times, [("anchored", anchored.rows, anchored.returns), ("rolling", rolling.rows, rolling.returns)],
        [f.first for f in anchored.folds], paths, full, f"{name}: parameters chosen before, results after",
    )  # fmt: skip
    return Shown(name, figures, WALK_HEADER, rows, {"walk_forward": picture})


# -- perturbed bars --------------------------------------------------------------------------------------------------------

PERTURBED_HEADER: Final = ("what", "on the real bars", "median", "95 % interval")


def perturbed_of(
    prepared: Prepared, runs: int, level: float, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Shown:
    """The strategy on bars moved by noise, with random costs."""
    experiment, name = prepared.experiment, prepared.evaluable.name
    result = prepared.result
    moved = perturbed_runs(experiment, prepared.evaluable, prepared.windows, runs=runs, level=level, seed=seed, progress=progress)
    actual = total_return(result.equity, result.cash), max_drawdown(result.equity, result.cash)[0]
    (low, high), (dd_low, dd_high) = moved.interval("total_return"), moved.interval("max_drawdown")
    rows: list[list[Any]] = [
        ["total result", percent(actual[0]), percent(float(np.median(moved.total_return))), f"{percent(low)} to {percent(high)}"],
        ["deepest drawdown", percent(-actual[1]), percent(-float(np.median(moved.max_drawdown))),
         f"{percent(-dd_high)} to {percent(-dd_low)}"],
        ["trades", len(result.trades), int(np.median(moved.trades)), f"{int(moved.trades.min())} to {int(moved.trades.max())}"],
        ["runs that lose money", "", percent(float((moved.total_return < 0).mean())).lstrip("+"), ""],
    ]  # fmt: skip
    figures = {"runs": runs, "level": level, "seed": seed, "total_low": low, "total_high": high,
               "loses": float((moved.total_return < 0).mean()), "drawdown_high": dd_high}  # fmt: skip
    picture = research_plots.perturbed(
        moved.total_return, moved.max_drawdown, moved.cost_factor, actual, f"{name}: {runs:,} runs on moved bars"
    )
    return Shown(name, figures, PERTURBED_HEADER, rows, {"perturbed": picture})
