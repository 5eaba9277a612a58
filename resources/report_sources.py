"""What a report is read from besides the ledger, and the charts that are drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from resources.lake import Lake
from resources.report_health import PartitionLike
from resources.report_model import PnlRow, TradeChart
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.quality import ERROR_CHECKS
from trading.resample import resample
from trading.timeframes import Timeframe, session_number
from trading.universe import Universe

MOST_CHARTS: Final = 6
_CHART_BARS: Final = 72


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """What a report is read from besides the ledger.

    bars: symbol -> bars up to and including the session, finest first choice, with some before it for the chart.
    partitions: the lake's bars partitions of the session.
    """

    instruments: Mapping[str, Instrument]
    bars: Callable[[str], Bars]
    partitions: Sequence[PartitionLike]
    universe: str
    universe_revision: str
    simulated: bool
    currency: str
    mode: str
    code_revision: str
    generated_wall: int
    error_checks: Sequence[str]


def sources_of(
    universe: Universe, lake: Lake, session: date, *, currency: str, mode: str, code_revision: str, generated_wall: int
) -> Sources:
    """The sources of an installation: bars as their feeds give them, and some days before the session for the charts."""

    def bars(symbol: str) -> Bars:
        instrument = universe.instruments.get(symbol)
        if instrument is None:
            return Bars.empty(symbol, Timeframe.D1)
        timeframe = instrument.native_timeframe
        before = timedelta(days=10 if timeframe.intraday else 120)
        return lake.read_bars(f"bars_{timeframe}", symbol, session - before, session)

    partitions = [p for name in lake.datasets() if name.startswith("bars_") for p in lake.partitions(name, session, session)]
    return Sources(
        universe.instruments, bars, partitions, universe.name, universe.revision, universe.simulated, currency, mode,
        code_revision, generated_wall, ERROR_CHECKS,
    )  # fmt: skip


def charts_of(
    session: date,
    instruments: Mapping[str, Instrument],
    history: Callable[[str], Bars],
    fills: Sequence[Mapping[str, Any]],
    pnl: Sequence[PnlRow],
) -> tuple[list[TradeChart], list[str]]:
    """(charts, all traded symbols): one chart per instrument filled in the session or held at its end, the first few.

    fills: every fill up to the session's end; those inside the chart's bars are marked.
    """
    number, key = session_number(session), session.isoformat()
    traded = sorted({f["symbol"] for f in fills if f["session"] == key} | {r.symbol for r in pnl if r.position})
    out = []
    for symbol in traded[:MOST_CHARTS]:
        instrument = instruments.get(symbol)
        if instrument is None:
            continue
        bars = history(symbol)
        bars = bars.rows(bars.session <= number)
        if len(bars) and bars.timeframe.minutes < Timeframe.M15.minutes:
            bars = resample(bars, Timeframe.M15, calendar(instrument.calendar))
        bars = bars.rows(slice(max(0, len(bars) - _CHART_BARS), len(bars)))
        if not len(bars):
            continue
        try:
            start: int | None = calendar(instrument.calendar).bounds(session)[0]
        except KeyError:
            start = None
        shown = [f for f in fills if f["symbol"] == symbol and f["fill_time"] >= int(bars.close_time[0])]
        held = [r for r in pnl if r.symbol == symbol and r.position]
        levels = {(n, level) for r in held for n, level in (("stop", r.stop), ("target", r.target)) if level is not None}
        marks = tuple((f["fill_time"], f["side"], f["price"]) for f in shown)
        heading = f"{symbol}, {bars.timeframe} bars"
        out.append(TradeChart(symbol, heading, bars, start, marks, tuple(sorted(levels))))
    return out, traded
