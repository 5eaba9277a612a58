"""What a backtest of the lake needs beside bars and corporate actions: rates of exchange, verdicts on the bars, prices that
limits are measured on, doubts about the prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from assets.quality.known import jumps_of
from resources.corporate_actions import read_actions
from resources.lake import Lake
from trading.bars import Bars
from trading.corporate_actions import CorporateAction, steps, unexplained_splits
from trading.instruments import AssetClass, Instrument
from trading.limits import Limits
from trading.order_rules import FxSeries
from trading.quality import Known
from trading.quality_history import QualityHistory
from trading.risk_history import RiskHistory, is_needed
from trading.timeframes import Timeframe, session_date
from trading.universe import Universe

_PAIRS: Final = (AssetClass.FOREX, AssetClass.CRYPTO)


def doubts_of(instrument: Instrument, bars: Bars, actions: Iterable[CorporateAction]) -> str:
    """Why a result on these raw prices is doubtful; "" when nothing speaks against them."""
    if instrument.asset_class is not AssetClass.EQUITY or len(bars) < 2:
        return ""
    found = unexplained_splits(*steps(bars), actions)
    if not found:
        return ""
    day, factor = session_date(found[0][0]), found[0][1]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"a step on {day} that looks like a split by {factor:g} and that no corporate action explains{more}: profits across it "
        "are not real; see the check splits_explained"
    )


def quality_of(universe: Universe, lake: Lake) -> QualityHistory:
    """What judges the bars behind every wish, as the quality gate does live. Jumps that actions explain are none; rows that an
    operator accepted as they came count as faults here."""

    def known(instrument: Instrument, bars: Bars) -> Known:
        return Known(jumps_of(bars, read_actions(lake, instrument.symbol)))

    return QualityHistory(universe.instruments, universe.quality, known)


def history_of(
    limits: Limits | None, instruments: Sequence[Instrument], read: Mapping[str, Mapping[Any, Bars]],
    actions: Mapping[str, Sequence[CorporateAction]], lake: Lake,
) -> RiskHistory | None:  # fmt: skip
    """Prices that the portfolio limits are measured on, as the desk reads them: daily bars, and bars of the native timeframe;
    None where no limit needs them. read: bars read before, by symbol. Raises LakeError."""
    if limits is None or not is_needed(limits):
        return None

    def of(instrument: Instrument, timeframe: Timeframe) -> Bars:
        known = read.get(instrument.symbol, {}).get(timeframe)
        return known if known is not None else lake.read_bars(f"bars_{timeframe}", instrument.symbol)

    returns = limits.value_at_risk is not None or limits.correlation is not None
    return RiskHistory(
        {i.symbol: of(i, Timeframe.D1) for i in instruments} if returns else {},
        {i.symbol: of(i, i.native_timeframe) for i in instruments} if limits.circuit_breaker is not None else {},
        actions,
    )


def rates_of(universe: Universe, lake: Lake, currencies: Iterable[str], account: str) -> dict[str, FxSeries]:
    """Rates of the currencies that an instrument of the universe has bars for (EURUSD, or USDEUR turned over), by currency.

    The rate of a bar is known from its close on. Currencies without a series are left out.
    """
    pairs = {i.symbol.replace("/", "").upper(): i for i in universe.instruments.values() if i.asset_class in _PAIRS}
    found: dict[str, FxSeries] = {}
    for currency in sorted(set(currencies) - {account}):
        for name, turned in ((f"{currency}{account}", False), (f"{account}{currency}", True)):
            pair = pairs.get(name)
            bars = lake.read_bars(f"bars_{pair.native_timeframe}", pair.symbol) if pair is not None else None
            if bars is None or not len(bars):
                continue
            good = np.isfinite(bars.close) & (bars.close > 0)
            rate = bars.close[good]
            found[currency] = FxSeries(bars.close_time[good], 1.0 / rate if turned else rate)
            break
    return found


def without_rate(instruments: Mapping[str, Instrument], rates: Mapping[str, FxSeries], account: str) -> dict[str, str]:
    """Symbols that cannot be valued in the account's currency -> why."""
    return {
        symbol: f"quoted in {i.currency}: no rate to {account} in the lake; add {i.currency}{account} or {account}{i.currency} "
        "to the universe"
        for symbol, i in instruments.items()
        if i.currency != account and i.currency not in rates
    }  # fmt: skip
