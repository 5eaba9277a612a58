"""The codec of a dataset."""

from __future__ import annotations

from collections.abc import Mapping

from resources.lake.bar_codec import BarCodec
from resources.lake.codec import Codec
from resources.lake.feature_codec import FeatureCodec
from resources.lake.periods import DatasetName
from resources.lake.quote_codec import QuoteCodec
from trading.instruments import Instrument


def codec_of(name: DatasetName, instruments: Mapping[str, Instrument] | None = None) -> Codec:
    """How the rows of `name` are stored; instruments: the first price grid to try for each symbol, needed to write."""
    if name.content == "features":
        return FeatureCodec(name.timeframe)
    known = dict(instruments or {})
    return BarCodec(name.timeframe, known) if name.content == "bars" else QuoteCodec(name.timeframe, known)
