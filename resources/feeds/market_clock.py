"""What time it is in the market of a universe: real time, or where its simulated exchange stands."""

from __future__ import annotations

import time

from resources.feeds import get_feed
from resources.feeds.protocol import FeedError, MarketClock
from resources.settings import Settings, settings
from trading.universe import Universe


def market_now(universe: Universe, own: Settings | None = None) -> int | None:
    """Market time, UTC us: nothing that closes later is known. None: a made-up history without a clock, all of it known.

    own: default, the settings of this process.
    """
    own = own or settings()
    for name in sorted({i.feed for i in universe.instruments.values()}):
        try:
            feed = get_feed(name, own)
        except FeedError:  # told where it is read
            continue
        if isinstance(feed, MarketClock):
            return feed.market_time()
    return None if universe.simulated else time.time_ns() // 1000
