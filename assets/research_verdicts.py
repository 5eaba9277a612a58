"""Verdicts of research without Dagster: the criteria of promotion, and one revision against another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from assets.research_figures import Floats, Shown, decimal, percent
from assets.research_run import Prepared
from resources import research_plots
from resources.research_store import ResearchStore, number
from resources.research_trials import Trials
from trading import baselines, promotion
from trading.experiment import per_year, session_returns
from trading.metrics import max_drawdown, total_return
from trading.statistics import Interval, paired, superior_ability
from trading.walk_forward import column_sharpes

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
        trials=float(trials.total) if trials.tracked and trials.total else math.nan, trials_unknown=trials.why,
        trial_sharpe_variance=None if math.isnan(variance) else variance, overfitting=number(grid, "overfitting"),
        spa_flat=spa_flat, spa_hold=spa_hold, random_beaten=number(base, "random_beaten"),
        net_at_double_costs=number(base, "net_at_double_costs"),
        out_of_sample=np.array((walk or {}).get("out_of_sample", []), np.float64),
        drawdown_95=number(resampled, "drawdown_95"), no_look_ahead=no_look_ahead, seed=seed,
    )  # fmt: skip
    criteria = promotion.judge(evidence)
    if not trials.tracked:
        notes.append(f"trials: {trials.why}")
    sharpe, deflated, probable, record = (
        next(c for c in criteria if c.name.startswith(name)) for name in ("Sharpe", "deflated", "probabilistic", "track record")
    )
    figures = {
        "promoted": promotion.promoted(criteria), "met": sum(c.passed for c in criteria), "criteria": len(criteria),
        "sharpe": sharpe.value, "sharpe_low": sharpe.low, "sharpe_high": sharpe.high, "deflated_sharpe": deflated.value,
        "probabilistic_sharpe": probable.value, "track_record": record.value, "trials": trials.total,
        "luck_sharpe": promotion.luck_sharpe(evidence) * math.sqrt(evidence.periods_per_year),
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
        ("deepest drawdown", [percent(-max_drawdown(r.equity, r.cash)[0]) for r in results]),
        ("trades", [str(len(r.trades)) for r in results]),
    ):
        rows.append([label, *texts, "", "", ""])
    figures["verdict"] = verdict
    names = [f"{tag}: {p.evaluable.revision}" for tag, p in (("a", one), ("b", other))]
    picture = research_plots.compared(ends, (names[0], ra), (names[1], rb), f"{one.evaluable.name}: {verdict}")
    return Shown(one.evaluable.name, figures, COMPARE_HEADER, rows, {"compare": picture})
