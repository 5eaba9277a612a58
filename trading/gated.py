"""The optional gates over a whole history: a strategy whose wishes are judged bar by bar as the trade run would have.

``gated`` wraps a strategy or plan; whoever evaluates it over anchored windows (trading/evaluable.py) gets an evaluation in
which the wishes that a gate refuses are no wishes. The verdicts are the gates' own (trading/gates), on the same measures: what
is refused live is refused here. Hosted: data quality (trading.quality_history), session with news, regime, confluence,
volatility. Reward to risk, the budget and sizes are the backtest's own (they need the price on the grid and the account), and so
are legs and conflicts with other strategies (trading.engine_together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from trading import gate_inputs
from trading.bars import Bars
from trading.calendars import Calendar
from trading.corporate_actions import CorporateAction
from trading.decisions import verdict_of
from trading.evaluable import Evaluable
from trading.evaluation import Evaluation
from trading.gates.base import GATES
from trading.gates.settings import gates_of
from trading.instruments import Instrument
from trading.news import NewsCalendar
from trading.price_units import Finer
from trading.quality_history import GATE as QUALITY
from trading.quality_history import QualityHistory
from trading.quotes import QuoteBars
from trading.signals import Action, GateVerdict

HOSTED: Final = (QUALITY, "session", "regime", "confluence", "volatility")
"""Gates judged here, in their order."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Every wish of an evaluation and what the gates said of it. rows: int64 (W,), side: int8 (W,), verdicts: W tuples in the
    order of HOSTED."""

    rows: NDArray[np.int64]
    side: NDArray[np.int8]
    verdicts: tuple[tuple[GateVerdict, ...], ...] = field(repr=False)

    def refused_by(self, gate: str) -> NDArray[np.bool_]:
        """bool (W,): the gate refused the wish, whatever the others said."""
        at = HOSTED.index(gate)
        return np.array([not v[at].passed for v in self.verdicts], bool)

    @property
    def passed(self) -> NDArray[np.bool_]:
        """bool (W,): no gate refused it."""
        return np.array([all(v.passed for v in its) for its in self.verdicts], bool)

    def passes(self, rows: int) -> dict[str, NDArray[np.bool_]]:
        """bool (T,) by the code of a first refusal: False at the wishes refused with it. rows: T."""
        found: dict[str, NDArray[np.bool_]] = {}
        for row, its in zip(self.rows.tolist(), self.verdicts, strict=True):
            first = next((v for v in its if not v.passed), None)
            if first is not None:
                found.setdefault(first.refusal.split(":")[0], np.ones(rows, bool))[row] = False
        return found

    def counts(self) -> dict[str, int]:
        """First refusals by gate."""
        found: dict[str, int] = {}
        for its in self.verdicts:
            first = next((v for v in its if not v.passed), None)
            if first is not None:
                found[first.gate] = found.get(first.gate, 0) + 1
        return found


class Gated:
    """An evaluable with its gates applied to histories; everything else is the evaluable's own. See `gated`."""

    def __init__(
        self, evaluable: Evaluable, series: Mapping[Any, Bars], news: NewsCalendar | None,
        quotes: Mapping[str, QuoteBars], actions: Mapping[str, Sequence[CorporateAction]], finer: Finer | None = None,
        quality: QualityHistory | None = None,
    ) -> None:  # fmt: skip
        self._evaluable, self._series, self._news = evaluable, dict(series), news
        self._quotes, self._actions, self._finer, self._quality = dict(quotes), dict(actions), finer, quality

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._evaluable, name)

    @property
    def plain(self) -> Evaluable:
        """The evaluable without its gates."""
        return self._evaluable

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What the evaluable says, gates apart."""
        return self._evaluable.evaluate(bars, instrument)

    def judge(self, evaluation: Evaluation, bars: Mapping[Any, Bars], instrument: Instrument, venue: Calendar) -> Judged:
        """The gates' verdicts on every wish. bars: what the strategy read; what the gates read beside it they bring."""
        gates = gates_of(self._evaluable)
        wanted = (np.asarray(evaluation.enter_long) != np.asarray(evaluation.enter_short)) & evaluation.ready
        rows = np.flatnonzero(wanted).astype(np.int64)
        side = np.where(np.asarray(evaluation.enter_long)[rows], 1, -1).astype(np.int8)
        own = bars[evaluation.timeframe]
        measures = gate_inputs.Measures({})
        if len(rows) and gate_inputs.reads_of(gates, {}, evaluation.timeframe) is not None:
            measures = gate_inputs.measure_history(
                gates, {}, self._readable(bars, instrument), evaluation.timeframe, instrument, venue,
                self._quotes.get(instrument.symbol), self._actions, self._finer,
            )  # fmt: skip
        settings = gates.switched_on
        open_ = venue.session_of(own.close_time[rows]) >= 0
        kept = [(name, gate) for name, gate in GATES.ordered() if name in HOSTED and name != QUALITY]
        good = self._good(bars, instrument, rows)
        verdicts: list[tuple[GateVerdict, ...]] = []
        for row, sign, is_open, of_bars in zip(rows.tolist(), side.tolist(), open_.tolist(), good, strict=True):
            close_time = int(own.close_time[row])
            measured = measures.at(row, sign)
            if gates.news is not None and self._news is not None:
                measured["news"] = self._news.about(instrument, gates.news.impact, (close_time,))
            action = Action.ENTER_LONG if sign > 0 else Action.ENTER_SHORT
            snapshot = {
                "signal": {"symbol": instrument.symbol, "action": action.value, "close_time": close_time},
                "now_time": close_time, "session_open": is_open, "gates": settings, "measured": measured,
            }  # fmt: skip
            verdicts.append((of_bars, *(verdict_of(name, gate, snapshot) for name, gate in kept)))
        return Judged(rows, side, tuple(verdicts))

    def _good(self, bars: Mapping[Any, Bars], instrument: Instrument, rows: NDArray[np.int64]) -> list[GateVerdict]:
        """The data-quality gate's verdict on the bars behind each wish; passed where it was not to be asked."""
        if self._quality is None:
            return [GateVerdict(QUALITY, True, "not asked", "")] * len(rows)
        gates, sizing = gates_of(self._evaluable), self._evaluable.sizing
        reads = gate_inputs.reads_of(gates, sizing, self._evaluable.timeframe)
        readable = self._readable(bars, instrument)
        wanted = (*reads.warm_up, *reads.context) if reads is not None else ()
        beside = [readable[key] for key in wanted if key not in bars and key in readable]
        return self._quality.verdicts(self._evaluable, instrument, bars, beside, rows)

    def gate_history(
        self, evaluation: Evaluation, bars: Mapping[Any, Bars], instrument: Instrument, venue: Calendar
    ) -> Evaluation:
        """`evaluation` without the wishes that a gate refuses."""
        judged = self.judge(evaluation, bars, instrument, venue)
        return without(evaluation, judged.rows[~judged.passed])

    def _readable(self, bars: Mapping[Any, Bars], instrument: Instrument) -> dict[Any, Bars]:
        """Series of the instrument and of others, the strategy's own first."""
        found: dict[Any, Bars] = {}
        for (symbol, timeframe), series in self._series.items():
            found[timeframe if symbol == instrument.symbol else (symbol, timeframe)] = series
        return {**found, **bars}


def without(evaluation: Evaluation, rows: NDArray[np.int64]) -> Evaluation:
    """`evaluation` with no entry wish at `rows`."""
    if not len(rows):
        return evaluation
    long, short = np.array(evaluation.enter_long, bool), np.array(evaluation.enter_short, bool)
    long[rows] = short[rows] = False
    return replace(evaluation, enter_long=long, enter_short=short)


def gated(
    evaluable: Evaluable, *, series: Mapping[Any, Bars] | None = None, news: NewsCalendar | None = None,
    quotes: Mapping[str, QuoteBars] | None = None, actions: Mapping[str, Sequence[CorporateAction]] | None = None,
    finer: Finer | None = None, quality: QualityHistory | None = None,
) -> Evaluable:  # fmt: skip
    """`evaluable` with its file's gates over histories; itself when none is on, or it is wrapped already.

    series: bars the gates read and the strategy does not, by (symbol, timeframe). news: the calendar; quotes: by symbol;
    actions: by symbol, as in trading/price_view.py; finer: what weekly bars across one are made of. A gate
    whose input is not given refuses every wish. quality: judges the bars behind a wish; None: they are taken as they are.
    """
    if isinstance(evaluable, Gated) or (quality is None and not gates_of(evaluable).switched_on):
        return evaluable
    return cast(Evaluable, Gated(evaluable, series or {}, news, quotes or {}, actions or {}, finer, quality))


def gated_like(model: Evaluable, other: Evaluable) -> Evaluable:
    """`other` (a variant) with its own gates on the inputs `model` was given; as it is where `model` has none."""
    if not isinstance(model, Gated):
        return other
    return gated(other, series=model._series, news=model._news, quotes=model._quotes, actions=model._actions,
                 finer=model._finer, quality=model._quality)  # fmt: skip
