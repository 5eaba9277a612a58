"""Champion against challenger of a model strategy: identical bars, rules and costs, and what both signalled live."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from sqlalchemy import select

from assets.research_run import NotRun, Prepared, prepare
from resources import research_plots
from resources.config import Config
from resources.lake import Lake, LakeError
from resources.ledger import tables as t
from resources.ledger.store import Ledger
from resources.model_serving import registered_of
from resources.model_store import ModelRefused, ModelStore
from resources.settings import Settings
from trading.experiment import per_year, session_returns
from trading.models import ModelStrategy, as_challenger, bound, model_strategies
from trading.statistics.bootstrap import Interval, paired
from trading.walk_forward import column_sharpes

HEADER: Final = ("figure", "champion", "challenger", "challenger less champion", "95 % interval", "P(challenger not better)")
SIGNALS_HEADER: Final = (
    "strategy",
    "closes with a signal",
    "both the same",
    "both, opposite",
    "champion alone",
    "challenger alone",
)
LEAST_SESSIONS: Final = 20
"""Common sessions below which no difference is told."""
REPLICATES: Final = 4_000


@dataclass(frozen=True, slots=True)
class Compared:
    """One strategy. rows: under HEADER; signals: under SIGNALS_HEADER; sessions: common to both, trained on by neither."""

    strategy: str
    verdict: str
    signals: list[Any]
    rows: list[list[Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    picture: bytes = b""
    sessions: int = 0


def compare_all(config: Config, lake: Lake, ledger: Ledger, settings: Settings) -> list[Compared]:
    """Every model strategy; one that cannot be compared says why and stops no other."""
    return [compare_one(s, config, lake, ledger, settings) for s in model_strategies(config.strategies).values()]


def compare_one(strategy: ModelStrategy, config: Config, lake: Lake, ledger: Ledger, settings: Settings) -> Compared:
    """Backtests of both versions over the same bars, judged from the later one's training on."""
    signals = recorded(strategy.name, ledger)
    store, registered = ModelStore.of(settings), registered_of(strategy, config.universe.name)
    try:
        aliases = store.aliases(registered)
        if aliases is None or not aliases.champion:
            return Compared(strategy.name, "no champion", signals)
        if aliases.challenger in ("", aliases.champion):
            return Compared(strategy.name, "the newest version is the champion", signals)
        one = bound(strategy, store.load(registered, aliases.champion))
        other = as_challenger(strategy, store.load(registered, aliases.challenger))
        if one.served is None or other.served is None:
            return Compared(strategy.name, one.refusal or other.refusal, signals)
        a = prepare(one, config, lake, settings.paper_cash)
        b = prepare(other, config, lake, settings.paper_cash, a.windows) if isinstance(a, Prepared) else a
    except (ModelRefused, LakeError, ValueError) as error:
        return Compared(strategy.name, str(error), signals)
    if isinstance(a, NotRun) or isinstance(b, NotRun):
        return Compared(strategy.name, (a if isinstance(a, NotRun) else b).reason, signals)  # type: ignore[union-attr]
    since = max(one.served.trained_until, other.served.trained_until)
    return _judged(strategy.name, a, b, since, (aliases.champion, aliases.challenger), signals)


def _judged(
    name: str, a: Prepared, b: Prepared, since: int, versions: tuple[str, str], signals: list[Any]
) -> Compared:  # fmt: skip
    whole = a.experiment.session_ends
    later = whole > since
    ends = whole[later]
    if len(ends) < LEAST_SESSIONS:
        verdict = f"{len(ends)} sessions that neither was trained on: {LEAST_SESSIONS} are needed to compare"
        return Compared(name, verdict, signals, sessions=len(ends))
    ra, rb = session_returns(a.result, whole)[later], session_returns(b.result, whole)[later]
    yearly = per_year(ends)
    root = math.sqrt(yearly)
    statistics: list[tuple[str, str, Callable[[Any], Any], float]] = [
        ("sharpe", "Sharpe ratio a year", lambda r: np.nan_to_num(column_sharpes(r.T)) * root, 1.0),
        ("mean", "mean return a year, %", lambda r: np.asarray(r.mean(axis=1) * yearly, np.float64), 100.0),
    ]
    rows: list[list[Any]] = []
    figures: dict[str, float] = {}
    verdict = "no difference can be told"
    for key, label, statistic, times in statistics:
        same = bool(np.array_equal(ra, rb))
        gap, p = (Interval(0.0, 0.0, 0.0, 0.95), 1.0) if same else paired(rb, ra, statistic, replicates=REPLICATES)
        values = [float(statistic(r[None, :])[0]) for r in (ra, rb)]
        shown = [f"{times * v:+.2f}" for v in (*values, gap.estimate, gap.low, gap.high)]
        rows.append([label, shown[0], shown[1], shown[2], f"{shown[3]} to {shown[4]}", f"{p:.3f}"])
        figures |= {f"{key}_difference": gap.estimate, f"{key}_low": gap.low, f"{key}_high": gap.high, f"{key}_p": p}
        if key == "sharpe" and gap.low > 0:
            verdict = "the challenger is better"
        elif key == "sharpe" and gap.high < 0:
            verdict = "the champion is better"
    totals = [f"{100 * (float(np.prod(1 + r)) - 1):+.2f} %" for r in (ra, rb)]
    trades = [str(int(np.sum(p.result.trades.entry_time > since))) for p in (a, b)]
    rows += [
        ["total return", *totals, "", "", ""],
        ["trades", *trades, "", "", ""],
        ["sessions", len(ends), len(ends), "", "", ""],
    ]
    labels = [f"{role} version {version}" for role, version in zip(("champion", "challenger"), versions, strict=True)]
    picture = research_plots.compared(ends, (labels[0], ra), (labels[1], rb), f"{name}: {verdict}")
    return Compared(name, verdict, signals, rows, figures, picture, len(ends))


def recorded(strategy: str, ledger: Ledger) -> list[Any]:
    """What champion and challenger signalled at the same closes, counted, under SIGNALS_HEADER."""
    from trading.models import CHALLENGER_SUFFIX

    s = t.signals.c
    names = (strategy, strategy[: 64 - len(CHALLENGER_SUFFIX)] + CHALLENGER_SUFFIX)
    wanted: dict[tuple[int, str], dict[str, str]] = {}
    with ledger.engine.connect() as connection:
        for row in connection.execute(select(s.strategy, s.close_time, s.symbol, s.action).where(s.strategy.in_(names))):
            wanted.setdefault((row.close_time, row.symbol), {})[row.strategy] = row.action
    both = [set(w.values()) for w in wanted.values() if len(w) == 2]
    alone = [next(iter(w)) for w in wanted.values() if len(w) == 1]
    same = sum(len(actions) == 1 for actions in both)
    return [strategy, len(wanted), same, len(both) - same, alone.count(names[0]), alone.count(names[1])]
