"""`feed_live`: what the desk saw of its feeds, as a check, and told as soon as it changes."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.quality.feed_live import feed_result, native_timeframes
from resources.config import load_config
from resources.settings import Settings
from sensors.feed_health import evaluate
from trading.timeframes import Timeframe
from trading.universe import Universe

NOW = 1_772_640_000_000_000


def universe() -> Universe:
    return load_config(Settings(_env_file=None, universe="simulated")).universe  # type: ignore[call-arg]


def state(**changes: Any) -> dict[str, Any]:
    """What the desk writes, all well."""
    symbol = {
        "timeframe": "1m", "last_close": "2026-03-04T16:00:00Z", "last_bar_age_seconds": 21.5, "gap": None, "bars": 40,
        "repaired": 3, "late": 0, "duplicates": 1, "corrected": 0, "malformed": 0,
    }  # fmt: skip
    feed = {
        "feed": "simulated", "timeframe": "1m", "connected": True, "reconnects": 2, "failures": 0, "last_error": "",
        "heard_seconds_ago": 0.2, "symbols": {"ALPHA": symbol, "BTCUSD": dict(symbol)},
    }  # fmt: skip
    return {
        "wall": NOW, "market_time": NOW, "market_time_text": "2026-03-04T16:00:21Z", "closes": 40, "late_bars": 0, "waiting": 0,
        "trouble": {}, "feeds": [feed], **changes,
    }  # fmt: skip


def value(result: dg.AssetCheckResult, name: str) -> Any:
    return result.metadata[name].value


def test_fresh_feeds_pass_and_show_ages_reconnects_and_repairs() -> None:
    result = feed_result(state(), universe(), Timeframe.M1, NOW + 1_000_000)
    assert result.passed
    assert (value(result, "reconnects"), value(result, "repaired_bars"), value(result, "oldest_bar_age_seconds")) == (2, 6, 21.5)
    assert value(result, "simulated") is True


def test_a_symbol_in_trouble_is_an_error_that_names_it() -> None:
    result = feed_result(state(trouble={"BTCUSD": "3 bar(s) overdue"}), universe(), Timeframe.M1, NOW)
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.ERROR
    assert "BTCUSD: 3 bar(s) overdue" in str(result.description)


def test_a_desk_that_looks_no_more_is_an_error() -> None:
    result = feed_result(state(), universe(), Timeframe.M1, NOW + 31_000_000)
    assert not result.passed
    assert "is it running?" in str(result.description)


def test_a_replayed_universe_has_no_live_feed_and_passes() -> None:
    assert feed_result(None, universe(), Timeframe.M1, NOW).passed
    assert feed_result(state(), universe(), Timeframe.H1, NOW).passed


def test_news_are_told_once_and_the_same_again_after_a_while() -> None:
    own = universe()
    found, cursor = evaluate(state(), own, None, NOW)
    assert [(e.asset_key.to_user_string(), e.passed) for e in found] == [("bars_1m", True)]
    assert evaluate(state(), own, cursor, NOW + 2_000_000) == ([], cursor)
    found, later = evaluate(state(trouble={"BTCUSD": "1 bar overdue"}), own, cursor, NOW + 2_000_000)
    assert [e.passed for e in found] == [False]
    assert evaluate(state(trouble={"BTCUSD": "2 bars overdue"}), own, later, NOW + 4_000_000)[0] == []
    found, _ = evaluate(state(), own, later, NOW + 6_000_000)
    assert [e.passed for e in found] == [True]
    found, _ = evaluate(state(wall=NOW + 901_000_000), own, cursor, NOW + 901_000_000)
    assert [e.passed for e in found] == [True]
    assert evaluate(None, own, None, NOW) == ([], "")
    assert native_timeframes(own) == [Timeframe.M1]
