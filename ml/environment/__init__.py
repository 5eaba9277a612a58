"""The trading environment: bars and features in, actions of an agent filled by the kernel's own matching and costs."""

from ml.environment.market import (
    ACTIONS,
    BUY_LONG,
    CLOSE_LONG,
    CLOSE_SHORT,
    HOLD,
    OWN_FEATURES,
    SELL_SHORT,
    EnvironmentConfig,
    MarketData,
    Segment,
    VectorMarket,
    segments_of,
)

__all__ = [
    "ACTIONS", "BUY_LONG", "CLOSE_LONG", "CLOSE_SHORT", "HOLD", "OWN_FEATURES", "SELL_SHORT", "EnvironmentConfig", "MarketData",
    "Segment", "VectorMarket", "segments_of",
]  # fmt: skip
