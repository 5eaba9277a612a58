"""The figures of research without Dagster: each function takes a prepared strategy and returns what its asset shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assets.research_run import Prepared
from resources import research_plots
from resources.research_store import ResearchStore, number
from resources.research_trials import TrialBook, Trials
from trading import baselines, promotion, walk_forward
from trading.backtest import BacktestResult
from trading.calendars import calendar
from trading.experiment import longest_holding, per_year, session_returns
from trading.metrics import TradeFigures, max_drawdown, total_return
from trading.perturbation import perturbed_runs
from trading.research_grid import Variant, rules_hash
from trading.statistics import (
    Interval,
    bootstrap_paths,
    effective_trials,
    expected_maximum_sharpe,
    paired,
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
PBO_BLOCKS: Final = 12
FOLDS: Final = 6
GROUPS, TESTED = 8, 2


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What one asset says of one strategy. figures: kept as JSON; table rows under its header; picture: PNG by name."""

    name: str
    figures: dict[str, Any]
    header: Sequence[str]
    rows: list[list[Any]]
    pictures: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def keep(store: ResearchStore, prepared: Prepared, kind: str, shown: Shown) -> None:
    """Remember what was shown, for the promotion table, the HTML page and the command line."""
    e = prepared.evaluable
    figures = {"snapshot": prepared.snapshot, **shown.figures, "header": list(shown.header), "rows": shown.rows}
    store.put(e.name, e.revision, kind, figures)
    for picture, content in shown.pictures.items():
        store.put_file(e.name, e.revision, f"{picture}.png", content)


def percent(value: float) -> str:
    return f"{100 * value:+.2f} %" if math.isfinite(value) else "–"


def decimal(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


# -- baselines, costs, splits ----------------------------------------------------------------------------------------------

BASELINE_HEADER: Final = ("what", "total", "CAGR", "Sharpe", "max drawdown", "trades", "win rate", "exposure", "costs paid")


def _line(name: str, result: BacktestResult) -> list[Any]:
    m = result.metrics(per_year(result.close_time))
    return [
        name, percent(m.total_return), percent(m.cagr), decimal(m.sharpe), percent(-m.max_drawdown), m.trades,
        percent(m.win_rate).lstrip("+"), percent(m.exposure).lstrip("+"), f"{float(result.trades.commission.sum()):,.2f}",
    ]  # fmt: skip


def baselines_of(prepared: Prepared, currency: str, seeds: int = RANDOM_SEEDS) -> Shown:
    """Baselines, random entries, cost ladder and splits of one strategy."""
    experiment = prepared.experiment
    result, ends = prepared.result, experiment.session_ends
    mine = session_returns(result, ends)
    others = baselines.baselines(experiment, result)
    random = baselines.random_entries(experiment, result, seeds)
    ladder = baselines.cost_ladder(experiment)
    earned = [(f, total_return(r.equity, r.cash)) for f, r in ladder]
    rows = [_line("strategy", result), *(_line(b.name, b.result) for b in others)]
    if seeds:
        spread = np.quantile(random.total_return, [0.05, 0.5, 0.95])
        rows.append([f"random entries, median of {seeds}", percent(float(spread[1])), "", "", "",
                     int(np.median(random.trades)), "", "", f"{percent(spread[0])} to {percent(spread[2])}"])  # fmt: skip
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
    return Shown(name, figures, BASELINE_HEADER, rows, pictures)


def _group(figures: TradeFigures) -> dict[str, float]:
    return {"trades": figures.trades, "win_rate": figures.win_rate, "net": figures.net_profit}


SPLIT_HEADER: Final = ("split", "group", "trades", "win rate", "net")


def split_rows(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Rows under SPLIT_HEADER of `baselines_of`'s figures."""
    return [
        [split, label, int(g["trades"]), percent(g["win_rate"]).lstrip("+"), f"{g['net']:+,.2f}"]
        for split in ("by_regime", "by_hour")
        for label, g in figures[split].items()
    ]


# -- Monte Carlo -----------------------------------------------------------------------------------------------------------

MONTE_CARLO_HEADER: Final = ("what", "as it happened", "median", "95 % interval")


def monte_carlo_of(prepared: Prepared, paths: int = PATHS, seed: int = 0) -> Shown:
    """Block bootstrap of session returns and the trades in random order. Raises ValueError without trades."""
    experiment = prepared.experiment
    result, ends = prepared.result, experiment.session_ends
    returns = session_returns(result, ends)
    name = prepared.evaluable.name
    if not len(result.trades):
        raise ValueError(f"{name} made no trade: there is nothing to resample")
    boot = bootstrap_paths(returns, paths=paths, seed=seed)
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
        ["deepest drawdown by session, resampled", percent(by_session), percent(float(np.median(boot.max_drawdown))),
         f"{percent(dd_low)} to {percent(dd_high)}"],
        ["deepest drawdown, trades in random order", percent(deepest), percent(float(np.median(shuffled.max_drawdown))),
         f"{percent(s_low)} to {percent(s_high)}"],
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
        strategy = replace(strategy, name=name)
        return [evaluate_anchored(strategy, prepared.windows[i.symbol], i, calendar(i.calendar)) for i in own.instruments]

    ends = own.session_ends
    result = sweep(
        make, [{"number": n} for n in by_label], list(own.bars), list(own.instruments), cash=own.cash,
        periods_per_year=per_year(own.bars[0].close_time), keep_returns="session", keep_going=True, progress=progress,
        sizing=own.sizing, costs=own.costs, limits=own.limits, strategy=name, require_stop=own.require_stop,
        min_reward_to_risk=own.min_reward_to_risk,
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
        ["deepest drawdown", percent(actual[1]), percent(float(np.median(moved.max_drawdown))),
         f"{percent(dd_low)} to {percent(dd_high)}"],
        ["trades", len(result.trades), int(np.median(moved.trades)), f"{int(moved.trades.min())} to {int(moved.trades.max())}"],
        ["runs that lose money", "", percent(float((moved.total_return < 0).mean())).lstrip("+"), ""],
    ]  # fmt: skip
    figures = {"runs": runs, "level": level, "seed": seed, "total_low": low, "total_high": high,
               "loses": float((moved.total_return < 0).mean()), "drawdown_high": dd_high}  # fmt: skip
    picture = research_plots.perturbed(
        moved.total_return, moved.max_drawdown, moved.cost_factor, actual, f"{name}: {runs:,} runs on moved bars"
    )
    return Shown(name, figures, PERTURBED_HEADER, rows, {"perturbed": picture})


# -- promotion -------------------------------------------------------------------------------------------------------------


def promotion_of(
    prepared: Prepared, store: ResearchStore, trials: Trials, no_look_ahead: bool | None, seed: int = 0
) -> tuple[Shown, list[promotion.Criterion]]:
    """The criteria for trading a strategy with money, from its backtest and what other assets kept of this revision.

    Kept figures count only when they were made of the same bars; walk-forward and overfitting need the grid (job
    research_deep). What is missing is a criterion not met.
    """
    e, experiment = prepared.evaluable, prepared.experiment
    notes: list[str] = []

    def kept(kind: str) -> dict[str, Any] | None:
        found = store.get(e.name, e.revision, kind)
        if found is None:
            notes.append(f"{kind}: not computed for this revision")
        elif found.get("snapshot") != prepared.snapshot:
            notes.append(f"{kind}: computed on other bars than today's, not counted")
            return None
        return found

    result, ends = prepared.result, experiment.session_ends
    returns = session_returns(result, ends)
    grid, walk, base, resampled = kept("grid"), kept("walk_forward"), kept("baselines"), kept("monte_carlo")
    # The grid's test knows that the best was picked from many; the strategy's own that it is this one: both must hold.
    spa_flat, spa_hold = number(grid, "spa_flat"), number(grid, "spa_hold")
    if len(result.trades) and len(returns) >= 10:
        hold = session_returns(baselines.buy_and_hold(experiment, baselines.mean_entry_value(result)).run(), ends)
        spa_flat = float(np.fmax(spa_flat, superior_ability(returns, seed=seed).consistent))
        spa_hold = float(np.fmax(spa_hold, superior_ability(returns - hold, seed=seed).consistent))
    variance = number(grid, "trial_sharpe_variance")
    evidence = promotion.Evidence(
        returns=returns, periods_per_year=per_year(ends), trades=len(result.trades.round_trips()[0]),
        trials=float(trials.total) if trials.tracked and trials.total else math.nan,
        trial_sharpe_variance=None if math.isnan(variance) else variance, overfitting=number(grid, "overfitting"),
        spa_flat=spa_flat, spa_hold=spa_hold, random_beaten=number(base, "random_beaten"),
        net_at_double_costs=number(base, "net_at_double_costs"),
        out_of_sample=np.array((walk or {}).get("out_of_sample", []), np.float64),
        drawdown_95=number(resampled, "drawdown_95"), no_look_ahead=no_look_ahead, seed=seed,
    )  # fmt: skip
    criteria = promotion.judge(evidence)
    if not trials.tracked:
        notes.append(f"trials: {trials.why}")
    sharpe = next(c for c in criteria if c.name.startswith("Sharpe"))
    deflated = next(c for c in criteria if c.name.startswith("deflated"))
    figures = {
        "promoted": promotion.promoted(criteria), "met": sum(c.passed for c in criteria), "criteria": len(criteria),
        "sharpe": sharpe.value, "sharpe_low": sharpe.low, "sharpe_high": sharpe.high, "deflated_sharpe": deflated.value,
        "trials": trials.total,
    }  # fmt: skip
    return Shown(e.name, figures, promotion.HEADER, promotion.rows(criteria), {}, notes), criteria


# -- two revisions ---------------------------------------------------------------------------------------------------------

COMPARE_HEADER: Final = ("figure", "a", "b", "b less a", "95 % interval", "P(b not better)")


def compare(one: Prepared, other: Prepared, replicates: int = 4_000, seed: int = 0) -> Shown:
    """Two revisions on identical bars: paired bootstrap of the difference in mean return and Sharpe ratio.

    The verdict is "b is better" or "a is better" where the interval of the Sharpe difference excludes 0, else "no
    difference can be told". Raises ValueError when the two did not read the same bars of the instruments they share.
    """
    a, b = one.experiment, other.experiment
    for symbol in set(one.windows) & set(other.windows):
        for key in set(one.windows[symbol]) & set(other.windows[symbol]):
            if one.windows[symbol][key].content_hash() != other.windows[symbol][key].content_hash():
                raise ValueError(f"{symbol} {key}: the bars changed between the two backtests; run the comparison again")
    results = one.result, other.result
    ends = np.union1d(a.session_ends, b.session_ends)
    ra, rb = (session_returns(r, ends) for r in results)
    yearly = per_year(ends)
    root = math.sqrt(yearly)
    figures: dict[str, Any] = {"sessions": len(ends)}
    rows: list[list[Any]] = []
    verdict = "no difference can be told"
    statistics: list[tuple[str, Callable[[Floats], Floats], bool]] = [
        ("Sharpe ratio a year", lambda r: column_sharpes(r.T) * root, False),
        ("mean return a year", lambda r: np.asarray(r.mean(axis=1) * yearly, np.float64), True),
    ]
    for label, statistic, share in statistics:
        if np.array_equal(ra, rb):
            gap, p = Interval(0.0, 0.0, 0.0, 0.95), 1.0
        else:
            gap, p = paired(rb, ra, statistic, replicates=replicates, seed=seed)
        values = [float(statistic(r[None, :])[0]) for r in (ra, rb)]
        show = percent if share else decimal
        rows.append(
            [label, show(values[0]), show(values[1]), show(gap.estimate), f"{show(gap.low)} to {show(gap.high)}", f"{p:.3f}"]
        )
        key = "mean" if share else "sharpe"
        figures |= {f"{key}_difference": gap.estimate, f"{key}_low": gap.low, f"{key}_high": gap.high, f"{key}_p": p}
        if not share and gap.low > 0:
            verdict = "b is better"
        elif not share and gap.high < 0:
            verdict = "a is better"
    for label, texts in (
        ("total result", [percent(total_return(r.equity, r.cash)) for r in results]),
        ("deepest drawdown", [percent(max_drawdown(r.equity, r.cash)[0]) for r in results]),
        ("trades", [str(len(r.trades)) for r in results]),
    ):
        rows.append([label, *texts, "", "", ""])
    figures["verdict"] = verdict
    names = [f"{tag}: {p.evaluable.revision}" for tag, p in (("a", one), ("b", other))]
    picture = research_plots.compared(ends, (names[0], ra), (names[1], rb), f"{one.evaluable.name}: {verdict}")
    return Shown(one.evaluable.name, figures, COMPARE_HEADER, rows, {"compare": picture})
