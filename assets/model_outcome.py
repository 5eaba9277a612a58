"""A training judged: decisions to figures, the locked slice, the comparison with the champion, and all of it as text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assets.common import markdown_table
from assets.model_data import Traded
from ml import agent_training, decisions, evaluation, forecasting, promotion
from ml.baseline import OutOfSample
from ml.combinatorial import Paths
from ml.dataset import TrainingSet
from ml.forecasters import BASELINES
from ml.promotion import Criterion
from ml.protocol import Judgement, Kpi, interquartile_mean, judge, seed_interval
from ml.training_files import AgentFile, ForecasterFile, TrainingFile
from trading import ids
from trading.experiment import Experiment, per_year, session_returns
from trading.metrics import max_drawdown
from trading.statistics import Interval, paired
from trading.timeframes import iso
from trading.walk_forward import column_sharpes

Floats = NDArray[np.float64]
RETURNS_FILE: Final = "evidence/returns.json"
REPORT_FILE: Final = "evidence/report.json"


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The walk-forward judgement and what it was made from. variants: content of every variant tried, for the trial book."""

    judgement: Judgement
    seeds: Interval | None
    scores: Floats | None


def _threshold(
    data: TrainingSet, traded: Traded, oos: OutOfSample, name: str, margin: float, file: TrainingFile, cash: float
) -> Experiment:
    times = data.event_start[oos.row]
    made = decisions.of_forecasts(
        traded.bars, data.matrix.symbols, data.matrix.symbol[oos.row], times, oos.probability, oos.prior, margin,
        (int(times.min()), int(times.max())),
    )  # fmt: skip
    return decisions.experiment(name, made, traded.instruments, file.terms(cash))


def variant_names(file: TrainingFile) -> list[str]:
    """Everything that is tried by one training: members and margins, or seeds."""
    if isinstance(file, AgentFile):
        return [f"seed {s}" for s in range(file.seeds)]
    names = (forecasting.ENSEMBLE, *file.config().trained)
    return [f"{name}, margin {m:g}" for name in names for m in dict.fromkeys((file.margin, *file.margins))]


def variant_hashes(file: TrainingFile) -> list[str]:
    """Content hash of each variant, for the trial book: training the same file again tries nothing new."""
    from ml.training_files import revision

    own = revision(file)
    return [ids.content_hash([own, name]) for name in variant_names(file)]


def judge_forecaster(
    file: ForecasterFile, data: TrainingSet, run: forecasting.ForecastRun, traded: Traded, cash: float, trials: float
) -> Judged:
    """The ensemble's walk-forward decisions against its members, the baselines, and every other margin."""
    found = {name: run.out_of_sample(name) for name in run.names}
    margins = tuple(dict.fromkeys((file.margin, *file.margins)))
    tried = {
        f"{name}, margin {m:g}": _threshold(data, traded, found[name], f"{name}, margin {m:g}", m, file, cash)
        for name in run.names for m in margins
    }  # fmt: skip
    own = tried.pop(f"{forecasting.ENSEMBLE}, margin {file.margin:g}")
    simple = {name: tried[f"{name}, margin {file.margin:g}"] for name in BASELINES}
    return Judged(judge(own, simple=simple, variants=tried, trials=trials, seed=file.seed), None, None)


def judge_agent(
    file: AgentFile,
    data: TrainingSet,
    run: agent_training.AgentRun,
    simple_run: forecasting.ForecastRun,
    traded: Traded,
    cash: float,
    trials: float,
) -> Judged:
    """The typical seed's walk-forward decisions against the other seeds and the baselines on the same sessions.

    simple_run: linear and boosting forecasts, trained walk-forward on the same rows.
    """
    seeds = [
        decisions.experiment(f"seed {s}", made, traded.instruments, file.terms(cash)) for s, made in enumerate(run.decisions)
    ]
    own = seeds[run.typical]
    spans = {b.symbol: (int(b.close_time[0]), int(b.close_time[-1])) for b in own.bars}
    simple, variants = {}, {s.name: s for i, s in enumerate(seeds) if i != run.typical}
    for name in BASELINES:
        for m in dict.fromkeys((file.margin, 0.0, 0.05)):
            oos = simple_run.out_of_sample(name)
            label = f"{name}, margin {m:g}"
            made = on_same_bars(_threshold(data, traded, oos, label, m, file, cash), own, spans)
            variants[label] = made
            if m == file.margin:
                simple[name] = made
    judged = judge(own, simple=simple, variants=variants, trials=trials, seed=file.seed)
    year = per_year(judged.ends)
    scores = run.scores * math.sqrt(year)
    return Judged(judged, seed_interval(scores), scores)


def on_same_bars(other: Experiment, own: Experiment, spans: Mapping[str, tuple[int, int]]) -> Experiment:
    """`other` cut to, or padded with nothing on, the bars `own` is judged on."""
    from dataclasses import replace

    theirs = {b.symbol: (b, e) for b, e in zip(other.bars, other.evaluations, strict=True)}
    evaluations = []
    for mine in own.evaluations:
        n = len(mine.close_time)
        names = ("enter_long", "enter_short", "exit_long", "exit_short")
        columns: dict[str, Any] = {name: np.zeros(n, bool) for name in names}
        if mine.symbol in theirs:
            bars, e = theirs[mine.symbol]
            at = np.searchsorted(bars.close_time, mine.close_time)
            there = (at < len(bars)) & (bars.close_time[np.minimum(at, len(bars) - 1)] == mine.close_time)
            for name, column in columns.items():
                column[there] = getattr(e, name)[at[there]]
        columns["exit_long"][-2:] = columns["exit_short"][-2:] = True
        columns["enter_long"][-2:] = columns["enter_short"][-2:] = False
        evaluations.append(replace(mine, **columns))
    return own.but(name=other.name, evaluations=tuple(evaluations))


# -- the locked slice ------------------------------------------------------------------------------------------------------


def slice_hash(data: TrainingSet, start: int) -> str:
    """Names the locked slice: the data and where it begins."""
    return ids.content_hash([data.sources_hash(), data.matrix.features_version, start, data.synthetic])


def slice_figures(experiment: Experiment) -> dict[str, float]:
    """What the locked slice shows: return, Sharpe ratio a year, drawdown, trades."""
    result = experiment.run()
    ends = experiment.session_ends
    returns = session_returns(result, ends)
    sharpe = float(column_sharpes(returns[:, None])[0]) * math.sqrt(per_year(ends)) if len(returns) > 2 else math.nan
    deepest, _ = max_drawdown(result.equity, result.cash)
    figures = {
        "final_return": float(result.equity[-1] / result.cash - 1.0) if len(result.equity) else 0.0, "final_sharpe": sharpe,
        "final_max_drawdown": deepest, "final_trades": float(len(result.trades.round_trips()[1])),
        "final_sessions": float(len(ends)),
    }  # fmt: skip
    return {k: v for k, v in figures.items() if math.isfinite(v)}


def paths_figures(
    file: ForecasterFile, data: TrainingSet, found: Paths, traded: Traded, cash: float
) -> tuple[dict[str, float], str]:
    """(figures by name, table) of the combinatorial paths: how the model's rule would have done on each of them."""
    rows, auc, sharpe, total = [], [], [], []
    for number, oos in enumerate(found.out_of_sample, 1):
        f = slice_figures(_threshold(data, traded, oos, f"path {number}", file.margin, file, cash))
        auc.append(evaluation.auc(data.direction[oos.row], oos.probability, oos.fold))
        sharpe.append(f.get("final_sharpe", math.nan))
        total.append(f["final_return"])
        rows.append([number, f"{auc[-1]:.3f}", f"{sharpe[-1]:.2f}" if math.isfinite(sharpe[-1]) else "no trade",
                     f"{100 * total[-1]:+.1f} %", f"{f['final_trades']:.0f}"])  # fmt: skip
    known = np.array([s for s in sharpe if math.isfinite(s)])
    figures = {"cpcv_paths": float(len(rows)), "cpcv_auc_median": float(np.median(auc)), "cpcv_auc_worst": float(min(auc)),
               "cpcv_losing": float(np.mean(np.array(total) < 0))}  # fmt: skip
    if len(known):
        figures |= {"cpcv_sharpe_median": float(np.median(known)), "cpcv_sharpe_worst": float(known.min()),
                    "cpcv_sharpe_best": float(known.max())}  # fmt: skip
    table = markdown_table(["path", "AUC", "Sharpe ratio a year", "return", "trades"], rows)
    told = (
        f"\n\n{found.folds} trainings of {', '.join(found.members)}, purged and embargoed; each path covers the history before "
        "the locked slice once. Part of what is learnt from lies after what is tested: the spread is what counts."
    )
    return figures, table + told


def forecaster_slice(
    file: ForecasterFile, data: TrainingSet, run: forecasting.ForecastRun, traded: Traded, cash: float
) -> Callable[[], dict[str, float]]:
    """Opens the slice with the final model."""

    def look() -> dict[str, float]:
        p = forecasting.forecast_rows(run.model, data, run.final).probability
        oos = OutOfSample(run.final, p, np.zeros(len(run.final), np.int64), np.full(len(run.final), run.model.prior))
        return slice_figures(_threshold(data, traded, oos, "final slice", file.margin, file, cash))

    return look


def agent_slice(
    file: AgentFile, data: TrainingSet, run: agent_training.AgentRun, agent: Any, traded: Traded, cash: float
) -> Callable[[], dict[str, float]]:
    """Opens the slice with the final agent, its memory empty at the beginning."""

    def look() -> dict[str, float]:
        scaler = agent_training.read_scaler(run.folder)
        tests = agent_training.segments(data, traded.bars, traded.instruments, run.final, scaler, run.config)
        actions, _ = agent_training.play(agent, tests, run.config)
        played: dict[str, list[decisions.Decisions]] = {}
        for segment, act in zip(tests, actions, strict=True):
            played.setdefault(segment.bars.symbol, []).append(decisions.of_actions(segment.bars, act))
        made = {symbol: agent_training.joined(parts) for symbol, parts in played.items()}
        return slice_figures(decisions.experiment("final slice", made, traded.instruments, file.terms(cash)))

    return look


# -- against the champion --------------------------------------------------------------------------------------------------


def returns_file(judged: Judgement, data_kind: str) -> bytes:
    """Session returns as they are kept with the run, so that a later model can be compared with this one."""
    body = {"data": data_kind, "ends": judged.ends.tolist(), "returns": judged.returns.tolist()}
    return json.dumps(body, separators=(",", ":")).encode()


def against_champion(judged: Judgement, champion: bytes | None) -> tuple[float, str]:
    """(Sharpe ratio a year less the champion's on the sessions both were judged on, what to say of it); 0 without a champion,
    NaN when there are too few common sessions to tell."""
    if champion is None:
        return 0.0, "there is no champion yet"
    body = json.loads(champion)
    ends, theirs = np.array(body["ends"], np.int64), np.array(body["returns"], np.float64)
    common, mine_at, their_at = np.intersect1d(judged.ends, ends, return_indices=True)
    if len(common) < 60:
        return math.nan, f"{len(common)} sessions in common with the champion, at least 60 needed"
    root = math.sqrt(judged.periods_per_year)
    gap, worse = paired(judged.returns[mine_at], theirs[their_at], lambda r: column_sharpes(r.T) * root, replicates=500)
    return gap.estimate, f"{len(common)} common sessions, 95 % interval {gap.low:.2f} to {gap.high:.2f}, p {worse:.3f}"


# -- what people read ------------------------------------------------------------------------------------------------------


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "not known"
    return f"{100 * value:.1f} %" if percent else f"{value:.2f}"


def kpi_row(kpi: Kpi) -> list[str]:
    """KPI | target | measured | 95 % interval | verdict."""
    i = kpi.interval
    target = "–" if math.isnan(kpi.target) else f"{kpi.wanted} {_number(kpi.target, kpi.percent)}"
    marked = {None: "", True: f"✅ {kpi.verdict}", False: f"❌ **{kpi.verdict}**"}[kpi.met]
    span = f"{_number(i.low, kpi.percent)} to {_number(i.high, kpi.percent)}" if math.isfinite(i.low) else "–"
    return [kpi.name, target, _number(i.estimate, kpi.percent), span, marked]


KPI_HEADER: Final = ("KPI", "target", "measured", "95 % interval", "verdict")


def kpi_table(judged: Judgement) -> str:
    return markdown_table(KPI_HEADER, [kpi_row(k) for k in judged.kpis])


def luck_table(judged: Judgement) -> str:
    """How much of it is luck: PSR, DSR with N, PBO, track record."""
    rows = [
        ["probabilistic Sharpe: P(true > 0)", f"{judged.probabilistic:.3f}", ""],
        ["deflated Sharpe: P(true > best of N by luck)", f"{judged.deflated:.3f}",
         f"N = {judged.trials:g} variants ever tried, worth {judged.effective:.1f} independent ones"],
        ["probability of backtest overfitting", f"{judged.overfitting:.2f}", f"of {len(judged.variants)} variants, CSCV"],
        ["track record needed", f"{judged.track_record_needed:,.0f} sessions", f"{len(judged.returns)} there are"],
        ["random entries with equal turnover beaten", f"{100 * judged.random_beaten:.0f} %", ""],
        ["turnover a year", f"{judged.metrics.turnover:.1f}", "traded value over equity"],
        ["exposure", f"{100 * judged.metrics.exposure:.0f} %", "bars with a position"],
        ["longest holding", f"{judged.longest_holding} sessions", ""],
    ]  # fmt: skip
    return markdown_table(["figure", "value", ""], rows)


def against_table(judged: Judgement) -> str:
    """Each baseline's return and Sharpe ratio and the p-value of "the model is not better"."""
    root = math.sqrt(judged.periods_per_year)

    def row(name: str, r: Floats, p: str) -> list[str]:
        sharpe = float(column_sharpes(r[:, None])[0]) * root
        return [name, f"{100 * (np.prod(1 + r) - 1):+.1f} %", f"{sharpe:.2f}", p]

    rows = [row("**the model**", judged.returns, "")]
    rows += [row(name, r, f"{judged.spa[name]:.3f}") for name, r in judged.against.items()]
    return markdown_table(["against", "return", "Sharpe ratio a year", "SPA p"], rows)


def ladder_table(judged: Judgement) -> str:
    rows = [[f"{f:g}×", f"{100 * total:+.1f} %", f"{1e4 * mean:+.2f}"] for f, total, mean in judged.ladder]
    return markdown_table(["costs", "return", "mean session return, basis points"], rows)


def regime_table(judged: Judgement) -> str:
    rows = [
        [name, f.trades, f"{100 * f.win_rate:.0f} %", f"{f.net_profit:+,.0f}", f"{f.profit_factor:.2f}"]
        for name, f in sorted(judged.regimes.items())
    ]
    return markdown_table(["regime", "trades", "win rate", "net", "profit factor"], rows)


def seeds_table(judged: Judged) -> str:
    """Sharpe ratio a year of every seed and fold, and the interquartile mean with its interval."""
    if judged.scores is None or judged.seeds is None:
        return ""
    header = ["fold", *(f"seed {s}" for s in range(judged.scores.shape[1])), "spread"]
    rows: list[Sequence[Any]] = [
        [i + 1, *(f"{x:.2f}" for x in fold), f"{np.ptp(fold):.2f}"] for i, fold in enumerate(judged.scores)
    ]
    whole = judged.seeds
    told = f"\n\nInterquartile mean {whole.estimate:.2f}, 95 % interval {whole.low:.2f} to {whole.high:.2f}."
    return markdown_table(header, rows) + told


def members_table(data: TrainingSet, run: forecasting.ForecastRun) -> str:
    """Forecast quality of every member, baseline and the ensemble, out of sample."""
    weight = {name: float(np.mean([f.weights.get(name, 0.0) for f in run.folds])) for name in run.names}
    levels = run.config.settings.levels
    rows = []
    for name, s in forecasting.scores(data, run).items():
        share = "" if name == forecasting.ENSEMBLE else f"{weight[name]:.2f}" if name in run.config.members else "baseline only"
        covered = ", ".join(f"{100 * c:.0f} ({100 * q:.0f})" for c, q in zip(s["coverage"], levels, strict=True))
        rows.append(
            [name, share, f"{s['auc']:.3f}", f"{100 * s['skill']:+.2f}", f"{s['brier']:.4f}", f"{s['prior_brier']:.4f}", covered]
        )
    header = [
        "forecaster",
        "mean weight",
        "AUC",
        "skill against the prior, %",
        "Brier",
        "prior's",
        "quantile coverage, % (wanted)",
    ]
    return markdown_table(header, rows)


def seed_figures(judged: Judged) -> dict[str, float]:
    if judged.scores is None or judged.seeds is None:
        return {}
    return {
        "seed_iqm": judged.seeds.estimate, "seed_iqm_low": judged.seeds.low, "seed_iqm_high": judged.seeds.high,
        "seed_spread": float(np.ptp(judged.scores.mean(axis=0))), "seeds": float(judged.scores.shape[1]),
        "seed_median_iqm": interquartile_mean(judged.scores.mean(axis=0)),
    }  # fmt: skip


def model_card(
    file: TrainingFile,
    data: TrainingSet,
    judged: Judged,
    criteria: Sequence[Criterion],
    extra: Mapping[str, str],
    model_hash: str,
) -> str:
    """The model card: what it is, what from, how good, what it must not be used for."""
    verdict = (
        "meets every criterion for promotion" if promotion.promoted(criteria) else "is rejected: it does not meet every criterion"
    )
    where = f"**Synthetic data: {data.synthetic}. It says nothing about real markets.**" if data.synthetic else (
        "Real market data. The universe was chosen by what data is free, so its survivors flatter every long position; no "
        "dividends, no borrowing cost.")  # fmt: skip
    j = judged.judgement
    parts = [
        f"# {file.name}", "", file.description, "", where, "", f"**It {verdict}.**", "",
        "## Against its targets", "", kpi_table(j), "",
        "## The gate", "", markdown_table(["", *promotion.HEADER], [
            ["✅" if c.passed else "❌ **failed**", *row] for c, row in zip(criteria, promotion.rows(criteria), strict=True)
        ]), "", "## Against the baselines", "", against_table(j), "", "## How much of it is luck", "", luck_table(j), "",
        "## Costs", "", ladder_table(j), "", "## Regimes", "", regime_table(j), "",
    ]  # fmt: skip
    for title, text in extra.items():
        parts += [f"## {title}", "", text, ""]
    parts += [
        "## Data", "", f"{len(data)} rows of {len(data.matrix.symbols)} instruments, {data.span()}; judged on sessions "
        f"{iso(int(j.ends[0]))[:10]} to {iso(int(j.ends[-1]))[:10]}. Data `{data.content_hash()}`, features "
        f"`{data.matrix.features_version}`, model `{model_hash}`, seed {file.seed}.", "", "## Limits of use", "",
        f"Forecasts {data.horizon} {data.matrix.timeframe} bars ahead of the instruments it was trained on, at the costs above. "
        "Not advice. Past figures are an estimate with an interval, not a promise.",
    ]  # fmt: skip
    return "\n".join(parts)
