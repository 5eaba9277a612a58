"""Universe files: the samples parse to what they say; every mistake is named at its line."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from tests.trading.samples import CONFIG, universe
from trading.config_text import Problem
from trading.instruments import ActionSource, AssetClass, FutureTerms, Mode, OptionRight, OptionTerms, RollRule
from trading.timeframes import Timeframe
from trading.universe import parse_universe

MINIMAL = """\
name: mini
history_start: 2010-01-04
instruments:
  AAA: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: sample_stocks, native_timeframe: 1d}
"""


def only(text: str) -> Problem:
    parsed, problems = parse_universe(text, "mini.yaml")
    assert parsed is None
    (problem,) = problems
    return problem


def test_the_sample_universe_holds_stocks_indices_and_a_currency_pair() -> None:
    sample = universe()
    assert list(sample.instruments) == ["AAPL", "FB", "GOOG", "IBM", "MSFT", "SPX", "COMP", "VIX", "EURUSD"]
    assert (sample.history_start, sample.history_end) == (date(1999, 1, 4), date(2017, 12, 29))
    euro = sample.instruments["EURUSD"]
    assert (euro.tick_size, euro.lot_size, euro.price_scale) == (Decimal("0.00001"), Decimal(1000), 5)
    assert (euro.calendar, euro.native_timeframe, euro.currency) == ("FX", Timeframe.H1, "USD")
    vix = sample.instruments["VIX"]
    assert (vix.tradable_in, vix.has_volume) == (frozenset(), False)
    assert sample.symbols(mode=Mode.PAPER) == ["AAPL", "FB", "GOOG", "IBM", "MSFT", "SPX", "COMP", "EURUSD"]
    assert sample.symbols(mode=Mode.LIVE) == []


def test_sessions_are_the_union_of_the_venues() -> None:
    # Good Friday 2017: the stock exchange is closed, currencies trade; the day after is a Saturday.
    assert universe().sessions(date(2017, 4, 13), date(2017, 4, 15)) == [date(2017, 4, 13), date(2017, 4, 14)]
    assert sorted(universe().calendars()) == ["FX", "XNYS"]


def test_every_universe_file_of_the_project_parses() -> None:
    for path in sorted((CONFIG / "universe").glob("*.yaml")):
        parsed, problems = parse_universe(path.read_text(), path.name)
        assert parsed is not None, problems
        assert parsed.name == path.stem


def test_the_revision_is_that_of_the_text() -> None:
    first, _ = parse_universe(MINIMAL, "a")
    second, _ = parse_universe(MINIMAL + "# a word more\n", "a")
    assert first is not None
    assert second is not None
    assert first.revision != second.revision
    assert len(first.revision) == 12


def test_thresholds_of_a_class_override_only_what_they_name() -> None:
    parsed, _ = parse_universe(MINIMAL + "quality:\n  jump_sigmas: 8\n  by_asset_class: {equity: {jump_minimum: 0.3}}\n", "a")
    assert parsed is not None
    assert parsed.quality.of(AssetClass.EQUITY).jump_minimum == 0.3
    assert parsed.quality.of(AssetClass.EQUITY).jump_sigmas == 8
    assert parsed.quality.of(AssetClass.FOREX).jump_minimum == parsed.quality.jump_minimum


@pytest.mark.parametrize(
    ("change", "line", "key", "near"),
    [
        (("asset_class: equity", "asset_class: equty"), 4, "instruments.AAA.asset_class", "equity"),
        (("calendar: XNYS", "calendar: XNYZ"), 4, "instruments.AAA.calendar", "XNYS"),
        (("native_timeframe: 1d", "native_timeframe: 2d"), 4, "instruments.AAA.native_timeframe", "1d"),
        (("tick_size: 0.01", "tick_size: 0"), 4, "instruments.AAA.tick_size", ""),
        (("tick_size: 0.01", "tick_size: small"), 4, "instruments.AAA.tick_size", ""),
        (("tick_size: 0.01", "tick_size: true"), 4, "instruments.AAA.tick_size", ""),
        (("currency: USD", "currency: dollar"), 4, "instruments.AAA.currency", ""),
        (("feed: sample_stocks", "feed: sample_stocks, lot: 5"), 4, "instruments.AAA.lot", "lot_size"),
        (("feed: sample_stocks", "feed: sample_stocks, tradable_in: [papre]"), 4, "instruments.AAA.tradable_in[0]", "paper"),
        (("history_start", "history_end: 2009-01-01\nhistory_start"), 1, "", ""),
        (("2010-01-04", "1890-01-01"), 1, "", ""),
        (("2010-01-04", "January"), 2, "history_start", ""),
        (("2010-01-04", "2010-02-30"), 2, "history_start", ""),
        (("2010-01-04", "5"), 2, "history_start", ""),
    ],
)
def test_each_mistake_is_named_at_its_line(change: tuple[str, str], line: int, key: str, near: str) -> None:
    problem = only(MINIMAL.replace(*change))
    assert (problem.file, problem.line, problem.key, problem.nearest) == ("mini.yaml", line, key, near)
    assert problem.message


def test_a_universe_without_instruments_is_none() -> None:
    assert only("name: mini\nhistory_start: 2010-01-04\ninstruments: {}\n").key == "instruments"


TERMS = """\
name: terms
history_start: 2013-10-07
instruments:
  ES: &es
    {asset_class: future, calendar: CMES, tick_size: 0.25, multiplier: 50, currency: USD, feed: lean, native_timeframe: 1m,
     feed_symbol: future/cme/es, future: {root: ES, roll: open_interest, roll_days: 2}}
  ESZ3: {<<: *es, feed_symbol: future/cme/es/20131220, future: {root: ES, expiry: 2013-12-20}}
  CALL:
    {asset_class: option, calendar: XNYS, tick_size: 0.01, multiplier: 100, currency: USD, feed: lean, native_timeframe: 1m,
     quotes: true, sector: technology, feed_symbol: option/usa/goog/20160617/call/750,
     option: {underlying: GOOG, expiry: 2016-06-17, right: call, strike: 750}}
  AAA: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1d}
"""


def test_contract_terms_quotes_sector_and_the_source_of_actions() -> None:
    parsed, problems = parse_universe(TERMS, "terms.yaml")
    assert parsed is not None, problems
    es, december, call, stock = (parsed.instruments[s] for s in ("ES", "ESZ3", "CALL", "AAA"))
    assert es.future == FutureTerms("ES", None, RollRule.OPEN_INTEREST, 2)
    assert december.future == FutureTerms("ES", date(2013, 12, 20))
    assert call.option == OptionTerms("GOOG", date(2016, 6, 17), OptionRight.CALL, Decimal(750))
    assert (call.quotes, call.sector, stock.quotes, stock.sector) == (True, "technology", False, "")
    assert [i.actions for i in (es, stock)] == [ActionSource.NONE, ActionSource.LEAN]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("roll: open_interest", "roll: openinterest"), "instruments.ES.future.roll"),
        (("right: call", "right: cal"), "instruments.CALL.option.right"),
        (("strike: 750", "strike: high"), "instruments.CALL.option.strike"),
        (("native_timeframe: 1d", "native_timeframe: 1d, future: {root: X}"), "instruments.AAA"),
        (("native_timeframe: 1d", "native_timeframe: 1d, actions: vendor"), "instruments.AAA.actions"),
        (("asset_class: option", "asset_class: equity"), "instruments.CALL"),
    ],
)
def test_terms_that_do_not_fit_are_named(change: tuple[str, str], key: str) -> None:
    parsed, problems = parse_universe(TERMS.replace(*change), "terms.yaml")
    assert parsed is None
    assert [p.key for p in problems] == [key]
