"""The indicators TA-Lib computes: our names, parameters and outputs of its functions, and how long each settles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trading.indicator_base import PRICE_NAMES, Indicator, Parameter, Settle


def _period(default: int, name: str = "period", talib_name: str = "timeperiod", low: int = 2) -> Parameter:
    return Parameter(name, talib_name, default, low, 5000)


def _ema(times: int = 4, name: str = "period") -> Settle:
    # weight of the start after n bars is (1 - 2/(N+1))^n: 0.03 % at n = 4 N
    return lambda p: times * int(p[name])


def _wilder(times: int = 7) -> Settle:
    # weight (1 - 1/N)^n: 0.09 % at n = 7 N
    return lambda p: times * int(p["period"])


_HLC = ("high", "low", "close")
_SOURCE = ("source",)
_DEVIATIONS = (
    Parameter("deviations_up", "nbdevup", 2.0, 0.1, 20, whole=False),
    Parameter("deviations_down", "nbdevdn", 2.0, 0.1, 20, whole=False),
)
_BANDS = ("upper", "middle", "lower")
_FAST_SLOW = (_period(12, "fast", "fastperiod"), _period(26, "slow", "slowperiod"))
_EMA_TYPE = Parameter("average", "matype", 1, 0, 1)


def _slow_ema(p: Mapping[str, Any]) -> int:
    return 4 * int(p["slow"])


DEFINITIONS: tuple[Indicator, ...] = (
    Indicator("sma", "SMA", _SOURCE, (_period(20),), description="simple moving average"),
    Indicator("ema", "EMA", _SOURCE, (_period(20),), settle=_ema(), description="exponential moving average"),
    Indicator("wma", "WMA", _SOURCE, (_period(20),), description="weighted moving average"),
    Indicator("dema", "DEMA", _SOURCE, (_period(20),), settle=_ema(), description="double exponential moving average"),
    Indicator("tema", "TEMA", _SOURCE, (_period(20),), settle=_ema(), description="triple exponential moving average"),
    Indicator("kama", "KAMA", _SOURCE, (_period(20),), settle=_ema(20), description="Kaufman adaptive moving average"),
    Indicator("rsi", "RSI", _SOURCE, (_period(14),), settle=_wilder(), description="relative strength index, 0 to 100"),
    Indicator(
        "macd", "MACD", _SOURCE,
        (_period(12, "fast", "fastperiod"), _period(26, "slow", "slowperiod"), _period(9, "signal", "signalperiod", 1)),
        ("macd", "signal", "histogram"), lambda p: 4 * (max(int(p["slow"]), int(p["fast"])) + int(p["signal"])),
        "moving average convergence divergence",
    ),
    Indicator("bollinger", "BBANDS", _SOURCE, (_period(20), *_DEVIATIONS), _BANDS, description="Bollinger bands"),
    Indicator("atr", "ATR", _HLC, (_period(14, low=1),), settle=_wilder(), description="average true range, in price"),
    Indicator("natr", "NATR", _HLC, (_period(14, low=1),), settle=_wilder(), description="average true range, percent of close"),
    Indicator("true_range", "TRANGE", _HLC, description="true range, in price"),
    Indicator(
        "stochastic", "STOCH", _HLC,
        (_period(14, "fast_k", "fastk_period", 1), _period(3, "slow_k", "slowk_period", 1),
         _period(3, "slow_d", "slowd_period", 1)),
        ("k", "d"), description="slow stochastic, 0 to 100",
    ),
    Indicator("adx", "ADX", _HLC, (_period(14),), settle=_wilder(14), description="average directional index, 0 to 100"),
    Indicator("plus_di", "PLUS_DI", _HLC, (_period(14),), settle=_wilder(), description="plus directional indicator"),
    Indicator("minus_di", "MINUS_DI", _HLC, (_period(14),), settle=_wilder(), description="minus directional indicator"),
    Indicator("cci", "CCI", _HLC, (_period(14),), description="commodity channel index"),
    Indicator("williams_r", "WILLR", _HLC, (_period(14),), description="Williams %R, -100 to 0"),
    Indicator("mfi", "MFI", (*_HLC, "volume"), (_period(14),), description="money flow index, 0 to 100"),
    Indicator("obv", "OBV", ("source", "volume"), description="on-balance volume since the window's first bar"),
    Indicator("roc", "ROC", _SOURCE, (_period(10, low=1),), description="rate of change, percent"),
    Indicator("momentum", "MOM", _SOURCE, (_period(10, low=1),), description="difference to the value `period` bars ago"),
    Indicator(
        "stddev", "STDDEV", _SOURCE, (_period(20), Parameter("deviations", "nbdev", 1.0, 0.01, 100, whole=False)),
        description="standard deviation",
    ),
    Indicator("highest", "MAX", _SOURCE, (_period(20),), description="highest of the last `period` bars, this one included"),
    Indicator("lowest", "MIN", _SOURCE, (_period(20),), description="lowest of the last `period` bars, this one included"),
    Indicator("donchian", "DONCHIAN", ("high", "low"), (_period(20),), _BANDS, description="Donchian channel"),
    Indicator("aroon", "AROON", ("high", "low"), (_period(14),), ("down", "up"), description="Aroon, 0 to 100"),
    Indicator(
        "sar", "SAR", ("high", "low"),
        (Parameter("acceleration", "acceleration", 0.02, 0.001, 1, whole=False),
         Parameter("maximum", "maximum", 0.2, 0.001, 1, whole=False)),
        settle=lambda _: 100, description="parabolic stop and reverse",
    ),
    Indicator("trix", "TRIX", _SOURCE, (_period(15),), settle=_ema(), description="1-day rate of change of a triple EMA"),
    Indicator("linear_slope", "LINEARREG_SLOPE", _SOURCE, (_period(14),), description="slope of the regression line, per bar"),
    # overlap
    Indicator("trima", "TRIMA", _SOURCE, (_period(20),), description="triangular moving average"),
    Indicator("hma", "HMA", _SOURCE, (_period(20),), description="Hull moving average"),
    Indicator("zlema", "ZLEMA", _SOURCE, (_period(20),), settle=_ema(), description="zero-lag exponential moving average"),
    Indicator("rma", "RMA", _SOURCE, (_period(20),), settle=_wilder(), description="Wilder's moving average"),
    Indicator(
        "t3", "T3", _SOURCE, (_period(5), Parameter("volume_factor", "vfactor", 0.7, 0, 1, whole=False)), settle=_ema(6),
        description="Tillson's T3 moving average",
    ),
    Indicator("vwma", "VWMA", ("source", "volume"), (_period(20),), description="volume-weighted moving average"),
    Indicator("midpoint", "MIDPOINT", _SOURCE, (_period(14),), description="middle of highest and lowest of `period` values"),
    Indicator("midprice", "MIDPRICE", ("high", "low"), (_period(14),), description="middle of highest high and lowest low"),
    Indicator("trendline", "HT_TRENDLINE", _SOURCE, settle=lambda _: 100, description="Hilbert transform trend line"),
    Indicator(
        "mama", "MAMA", _SOURCE,
        (Parameter("fast_limit", "fastlimit", 0.5, 0.01, 0.99, whole=False),
         Parameter("slow_limit", "slowlimit", 0.05, 0.01, 0.99, whole=False)),
        ("mama", "fama"), lambda p: 100 + int(14 / float(p["slow_limit"])), "MESA adaptive moving average and its follower",
    ),
    Indicator(
        "keltner", "KC", _HLC,
        (_period(20), _period(10, "atr_period", "atrperiod", 1), Parameter("multiple", "nbdev", 2.0, 0.1, 20, whole=False)),
        _BANDS, lambda p: max(4 * int(p["period"]), 7 * int(p["atr_period"])), "Keltner channel",
    ),
    Indicator("acceleration_bands", "ACCBANDS", _HLC, (_period(20),), _BANDS, description="acceleration bands"),
    Indicator(
        "supertrend", "SUPERTREND", _HLC,
        (_period(10, low=1), Parameter("multiple", "multiplier", 3.0, 0.1, 20, whole=False)),
        ("value", "trend"), lambda p: 100 + 7 * int(p["period"]), "supertrend line; trend is 1 up, -1 down",
    ),
    # momentum
    Indicator("adxr", "ADXR", _HLC, (_period(14),), settle=_wilder(14), description="average directional index rating"),
    Indicator("dx", "DX", _HLC, (_period(14),), settle=_wilder(), description="directional movement index, 0 to 100"),
    Indicator("plus_dm", "PLUS_DM", ("high", "low"), (_period(14),), settle=_wilder(), description="plus directional move"),
    Indicator("minus_dm", "MINUS_DM", ("high", "low"), (_period(14),), settle=_wilder(), description="minus directional move"),
    Indicator(
        "apo", "APO", _SOURCE, (*_FAST_SLOW, _EMA_TYPE), settle=_slow_ema, description="absolute price oscillator, in price",
    ),
    Indicator(
        "ppo", "PPO", _SOURCE, (*_FAST_SLOW, _EMA_TYPE), settle=_slow_ema, description="percentage price oscillator",
    ),
    Indicator(
        "awesome", "AO", ("high", "low"), (_period(5, "fast", "fastperiod", 1), _period(34, "slow", "slowperiod")),
        description="awesome oscillator: mean of hl2 over fast minus over slow",
    ),
    Indicator("aroon_oscillator", "AROONOSC", ("high", "low"), (_period(14),), description="Aroon up minus down"),
    Indicator("balance_of_power", "BOP", PRICE_NAMES, description="(close - open) / (high - low), -1 to 1"),
    Indicator("cmo", "CMO", _SOURCE, (_period(14),), settle=_wilder(), description="Chande momentum oscillator, -100 to 100"),
    Indicator(
        "coppock", "COPPOCK", _SOURCE,
        (_period(10, "period", "wmaperiod"), _period(11, "fast", "roc1period", 1), _period(14, "slow", "roc2period", 1)),
        description="Coppock curve",
    ),
    Indicator("dpo", "DPO", _SOURCE, (_period(20),), description="detrended price oscillator"),
    Indicator("efficiency_ratio", "ER", _SOURCE, (_period(10),), description="Kaufman's efficiency ratio, 0 to 1"),
    Indicator("elder_ray", "ERI", _HLC, (_period(13),), ("bull", "bear"), _ema(), "bull power and bear power"),
    Indicator("imi", "IMI", ("open", "close"), (_period(14),), description="intraday momentum index, 0 to 100"),
    Indicator("qstick", "QSTICK", ("open", "close"), (_period(10),), description="mean of close - open"),
    Indicator("roc_ratio", "ROCR", _SOURCE, (_period(10, low=1),), description="value over the value `period` bars ago"),
    Indicator(
        "smi", "SMI", _HLC,
        (_period(13), _period(2, "fast", "fastperiod", 1), _period(25, "slow", "slowperiod"),
         _period(9, "signal", "signalperiod", 1)),
        ("smi", "signal"), lambda p: 4 * (int(p["slow"]) + int(p["fast"]) + int(p["signal"])), "stochastic momentum index",
    ),
    Indicator(
        "stochastic_fast", "STOCHF", _HLC, (_period(14, "fast_k", "fastk_period", 1), _period(3, "fast_d", "fastd_period", 1)),
        ("k", "d"), description="fast stochastic, 0 to 100",
    ),
    Indicator(
        "stochastic_rsi", "STOCHRSI", _SOURCE,
        (_period(14), _period(14, "fast_k", "fastk_period", 1), _period(3, "fast_d", "fastd_period", 1)),
        ("k", "d"), _wilder(), "stochastic of the RSI, 0 to 100",
    ),
    Indicator(
        "tsi", "TSI", _SOURCE, (_period(25, "first", "firstperiod"), _period(13, "second", "secondperiod")),
        settle=lambda p: 4 * (int(p["first"]) + int(p["second"])), description="true strength index, -100 to 100",
    ),
    Indicator(
        "ultimate", "ULTOSC", _HLC,
        tuple(_period(n, f"period{i}", f"timeperiod{i}", 1) for i, n in ((1, 7), (2, 14), (3, 28))),
        description="ultimate oscillator, 0 to 100",
    ),
    Indicator("vertical_filter", "VHF", _SOURCE, (_period(28),), description="vertical horizontal filter, 0 to 1"),
    Indicator("vortex", "VORTEX", _HLC, (_period(14),), ("plus", "minus"), description="vortex indicator"),
    # volatility
    Indicator("average_range", "ADR", ("high", "low"), (_period(14),), description="mean of high - low, in price"),
    Indicator(
        "chaikin_volatility", "CVI", ("high", "low"), (_period(10), _period(10, "roc_period", "rocperiod", 1)), settle=_ema(),
        description="Chaikin volatility, percent",
    ),
    Indicator(
        "mass_index", "MASSI", ("high", "low"), (_period(9, "fast", "fastperiod"), _period(25, "slow", "slowperiod")),
        settle=lambda p: 8 * int(p["fast"]), description="mass index",
    ),
    Indicator(
        "relative_volatility", "RVI", _SOURCE, (_period(14), _period(10, "deviation_period", "stddevperiod")), settle=_wilder(),
        description="relative volatility index, 0 to 100",
    ),
    Indicator(
        "variance", "VAR", _SOURCE, (_period(20), Parameter("deviations", "nbdev", 1.0, 0.01, 100, whole=False)),
        description="variance",
    ),
    # volume
    Indicator("accumulation", "AD", (*_HLC, "volume"), description="accumulation/distribution line since the window's first bar"),
    Indicator(
        "accumulation_oscillator", "ADOSC", (*_HLC, "volume"),
        (_period(3, "fast", "fastperiod"), _period(10, "slow", "slowperiod")), settle=_slow_ema,
        description="Chaikin oscillator: EMA fast - EMA slow of the accumulation/distribution line",
    ),
    Indicator("chaikin_money_flow", "CMF", (*_HLC, "volume"), (_period(20),), description="Chaikin money flow, -1 to 1"),
    Indicator("force_index", "EFI", ("close", "volume"), (_period(13),), settle=_ema(), description="Elder's force index"),
    Indicator("pvo", "PVO", ("volume",), (*_FAST_SLOW, _EMA_TYPE), settle=_slow_ema, description="percentage volume oscillator"),
    Indicator("price_volume_trend", "PVT", ("close", "volume"), description="price volume trend since the window's first bar"),
    Indicator("relative_volume", "RVOL", ("volume",), (_period(20),), description="volume over the mean of `period` bars before"),
    # statistics
    Indicator("linear_regression", "LINEARREG", _SOURCE, (_period(14),), description="end of the regression line"),
    Indicator("linear_angle", "LINEARREG_ANGLE", _SOURCE, (_period(14),), description="angle of the regression line, degrees"),
    Indicator("forecast", "TSF", _SOURCE, (_period(14),), description="regression line one bar ahead"),
    Indicator(
        "percentile", "PERCENTILE", _SOURCE, (_period(30), Parameter("percentile", "percentile", 50.0, 0, 100, whole=False)),
        description="percentile of the last `period` values",
    ),
    Indicator("percent_rank", "PERCENTRANK", _SOURCE, (_period(100),), description="share of values below it, 0 to 100"),
    Indicator("trend_mode", "HT_TRENDMODE", _SOURCE, settle=lambda _: 100, description="1 trend, 0 cycle, by Hilbert transform"),
    Indicator("cycle_period", "HT_DCPERIOD", _SOURCE, settle=lambda _: 100, description="dominant cycle, bars"),
)  # fmt: skip

CANDLES = (
    "doji", "engulfing", "hammer", "shootingstar", "morningstar", "eveningstar", "harami", "piercing", "darkcloudcover",
    "3whitesoldiers", "3blackcrows", "hangingman", "invertedhammer", "marubozu", "spinningtop", "dragonflydoji",
    "gravestonedoji", "3inside", "3outside", "haramicross",
)  # fmt: skip
"""Candlestick patterns offered as ``candle_<name>``: 100 bullish, -100 bearish, 0 absent."""

CANDLESTICKS: tuple[Indicator, ...] = tuple(
    Indicator(f"candle_{name}", f"CDL{name.upper()}", PRICE_NAMES, description=f"candlestick pattern {name}: 100, 0 or -100")
    for name in CANDLES
)
