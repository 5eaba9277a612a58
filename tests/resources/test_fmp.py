"""Financial Modeling Prep over real HTTP: its pages, its budget, its faults, and a key that nobody sees."""

from __future__ import annotations

import functools
import logging
import re
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine

from resources.feeds import get_feed
from resources.feeds._exchange_clock import ExchangeClock
from resources.feeds.budget import Budget
from resources.feeds.fmp import FmpFeed
from resources.feeds.protocol import AccessDenied, Feed, FeedError, MalformedData, RateLimited, SourceMissing, SymbolNotFound
from resources.feeds.simulated import SimulatedFeed
from resources.settings import Settings
from tests.conformance.feed_suite import DamagedCase, FeedCase, FeedSuite, LimitedCase
from tests.doubles import fmp_server as faults
from tests.doubles.fmp_server import Fault, FmpServer, Row
from trading.bars import Bars
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE, Timeframe, from_us, iso, to_us

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1
KEY = "s3cret/key+1"
NEW_YORK = ZoneInfo("America/New_York")
NOW = to_us(datetime(2026, 3, 13, 12, tzinfo=UTC))
AAPL = Instrument("AAPL", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "fmp", "AAPL", M1)
PRICES = ("open", "high", "low", "close", "volume")


def market(timeframe: Timeframe, tmp_path: Path, start: date, end: date) -> Bars:
    """Prices to serve: any will do, these are the simulated exchange's."""
    exchange = SimulatedFeed(7, ExchangeClock(tmp_path / "clock.json", 1.0, "2026-03-20T00:00:00Z"))
    return exchange.history(AAPL, timeframe, start, end)


def rows(bars: Bars) -> list[Row]:
    """Bars as the provider sends them: New York wall time of the bar's start; daily ones by date."""
    out = []
    for k in range(len(bars)):
        values = {name: float(getattr(bars, name)[k]) for name in PRICES}
        if bars.timeframe.intraday:
            width = bars.timeframe.minutes * US_PER_MINUTE
            begin = int(bars.close_time[k]) - width
            if bars.timeframe is H1 and from_us(int(bars.close_time[k])).astimezone(NEW_YORK).strftime("%H:%M") == "16:00":
                begin = int(bars.close_time[k]) - width // 2  # the last half hour
            stamp = from_us(begin).astimezone(NEW_YORK).strftime("%Y-%m-%d %H:%M:%S")
        else:
            stamp = from_us(int(bars.close_time[k])).astimezone(NEW_YORK).date().isoformat()
        out.append({"date": stamp, **values})
    return out


CHART = {M1: "1min", H1: "1hour", D1: "eod"}


@functools.cache
def nine_sessions(timeframe: Timeframe) -> list[Row]:
    with tempfile.TemporaryDirectory() as room:
        return rows(market(timeframe, Path(room), date(2026, 3, 2), date(2026, 3, 12)))


@pytest.fixture
def served() -> Iterator[FmpServer]:
    """Nine sessions of AAPL over the US clock change of 8 March, at most 300 rows an answer."""
    charts = {("AAPL", CHART[t]): [dict(row) for row in nine_sessions(t)] for t in (M1, H1, D1)}
    with FmpServer(charts, key=KEY, max_rows=900) as server:
        yield server


def feed_of(server: FmpServer, *, budget: Budget | None = None, now: int = NOW, **more: Any) -> FmpFeed:
    values = {
        "fmp_api_key": SecretStr(KEY),
        "fmp_url": server.url,
        "fmp_requests_per_minute": 0,
        "fmp_requests_per_day": 0,
        **more,
    }
    waited: list[float] = []
    made = FmpFeed(Settings(_env_file=None, **values), budget=budget, sleep=waited.append, now=lambda: now)
    made.waited = waited  # type: ignore[attr-defined]
    return made


class TestFmp(FeedSuite):
    @pytest.fixture
    def feed(self, served: FmpServer) -> Feed:
        return feed_of(served)

    @pytest.fixture(params=[(M1, 9 * 390), (H1, 63), (D1, 9)], ids=["1m", "1h", "1d"])
    def case(self, request: pytest.FixtureRequest) -> FeedCase:
        timeframe, count = request.param
        return FeedCase(AAPL, timeframe, date(2026, 3, 2), date(2026, 3, 12), (date(2026, 2, 2), date(2026, 2, 13)), count)

    @pytest.fixture
    def limited(self, served: FmpServer, ledger_engine: Engine) -> LimitedCase:
        now = [NOW]
        budget = Budget(ledger_engine, "fmp", 5, 100, zone="America/New_York", now=lambda: now[0])
        feed = feed_of(served, budget=budget, fmp_requests_per_minute=5, fmp_requests_per_day=100, fmp_max_wait_seconds=0)
        return LimitedCase(feed, 5, lambda: len(served.asked), lambda: now[0])

    @pytest.fixture
    def damaged(self, served: FmpServer, case: FeedCase) -> DamagedCase:
        for row in served.charts["AAPL", CHART[case.timeframe]]:
            if str(row["date"]).startswith("2026-03-04"):
                row["high"] = "n/a"
        return DamagedCase(feed_of(served), date(2026, 3, 4), r"row \d+ \(2026-03-04.*high 'n/a'", date(2026, 3, 5))


# ---- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_days", "max_rows"), [(None, None), (1, None), (2, None), (None, 400), (None, 500), (3, 850)])
def test_a_range_is_whole_however_little_one_answer_holds(tmp_path: Path, max_days: int | None, max_rows: int | None) -> None:
    bars = market(M1, tmp_path, date(2026, 3, 2), date(2026, 3, 12))
    with FmpServer({("AAPL", "1min"): rows(bars)}, key=KEY, max_days=max_days, max_rows=max_rows) as server:
        got = feed_of(server).history(AAPL, M1, date(2026, 3, 2), date(2026, 3, 12))
    assert np.array_equal(got.close_time, bars.close_time)
    assert np.array_equal(got.close, bars.close)


def test_answers_that_hold_less_than_a_day_are_refused_not_cut(tmp_path: Path) -> None:
    bars = market(M1, tmp_path, date(2026, 3, 2), date(2026, 3, 4))
    with FmpServer({("AAPL", "1min"): rows(bars)}, key=KEY, max_rows=600) as server:
        original = server._data

        def shrinking(path: str, query: Any) -> Any:
            page = original(path, query)
            server.max_rows = 100
            return page

        server._data = shrinking  # type: ignore[method-assign]
        with pytest.raises(FeedError, match="hold less than a day: ask for a longer timeframe"):
            feed_of(server).history(AAPL, M1, date(2026, 3, 2), date(2026, 3, 4))


def test_the_stamp_is_the_start_of_the_bar_in_new_york_before_and_after_the_clock_change(served: FmpServer) -> None:
    bars = feed_of(served).history(AAPL, M1, date(2026, 3, 6), date(2026, 3, 9))
    firsts = [iso(int(bars.close_time[bars.session == s][0])) for s in np.unique(bars.session)]
    assert firsts == ["2026-03-06T14:31:00Z", "2026-03-09T13:31:00Z"]


def test_a_day_is_known_at_its_close_and_today_not_before(served: FmpServer) -> None:
    during = to_us(datetime(2026, 3, 12, 15, 0, 30, tzinfo=UTC))
    feed = feed_of(served, now=during)
    assert iso(int(feed.history(AAPL, D1, date(2026, 3, 2), date(2026, 3, 12)).close_time[-1])) == "2026-03-11T20:00:00Z"
    minutes = feed.history(AAPL, M1, date(2026, 3, 12), date(2026, 3, 12))
    assert iso(int(minutes.close_time[-1])) == "2026-03-12T15:00:00Z"
    assert any("not closed yet" in x.reason for x in feed.left_out)


def test_rows_before_and_after_the_session_and_repeated_ones_are_left_out_and_told(served: FmpServer) -> None:
    chart = served.charts["AAPL", "1min"]
    early = {**chart[0], "date": "2026-03-02 08:00:00"}
    after = {**chart[0], "date": "2026-03-02 16:00:00"}
    chart += [early, after, dict(chart[5]), {**chart[6], "date": "2026-03-02 12:00:30"}]
    feed = feed_of(served)
    assert len(feed.history(AAPL, M1, date(2026, 3, 2), date(2026, 3, 2))) == 390
    assert sorted(x.reason for x in feed.left_out) == ["no 1m bar of a session of XNYS begins then"] * 3 + ["repeated"]
    assert all("2026-03-02" in x.where for x in feed.left_out)


def test_rows_in_any_order_are_put_in_order(tmp_path: Path) -> None:
    bars = market(M1, tmp_path, date(2026, 3, 2), date(2026, 3, 3))
    shuffled = rows(bars)
    np.random.default_rng(3).shuffle(shuffled)  # type: ignore[arg-type]
    with FmpServer({("AAPL", "1min"): shuffled}, key=KEY, newest_first=False) as server:
        got = feed_of(server).history(AAPL, M1, date(2026, 3, 2), date(2026, 3, 3))
    assert np.array_equal(got.close_time, bars.close_time)


def test_a_row_without_a_price_is_left_out(served: FmpServer) -> None:
    served.charts["AAPL", "eod"][0]["open"] = None
    feed = feed_of(served)
    assert len(feed.history(AAPL, D1, date(2026, 3, 2), date(2026, 3, 12))) == 8
    assert [x.reason for x in feed.left_out] == ["no price"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"close": "12"}, "close '12', expected a number"),
        ({"close": True}, "close True, expected a number"),
        ({"date": "03/02/2026 09:30"}, "date '03/02/2026 09:30', expected YYYY-MM-DD"),
        ({"date": "2026-03-02"}, "expected YYYY-MM-DD HH:MM:SS"),
        ({"date": None}, "date None"),
        ({"open": ...}, "no open"),
    ],
    ids=["text", "truth", "other form", "no time", "no date", "no column"],
)
def test_a_row_that_is_none_is_named(served: FmpServer, change: dict[str, Any], says: str) -> None:
    row = served.charts["AAPL", "1min"][7]
    row.update(change)
    if change.get("open") is ...:
        del row["open"]
    whole = [dict(r) for r in served.charts["AAPL", "1min"][:390]]
    served._data = lambda path, query: whole  # type: ignore[method-assign, assignment]
    with pytest.raises(MalformedData, match=re.escape(says)) as error:
        feed_of(served).history(AAPL, M1, date(2026, 3, 2), date(2026, 3, 2))
    assert "AAPL" in str(error.value)


def test_two_rows_of_one_minute_that_differ_are_refused(served: FmpServer) -> None:
    chart = served.charts["AAPL", "1min"]
    chart.append({**chart[5], "close": 1.0})
    with pytest.raises(MalformedData, match="another row of that time says"):
        feed_of(served).history(AAPL, M1, date(2026, 3, 2), date(2026, 3, 2))


# ---- refusals and faults ---------------------------------------------------------------------------------------------

ASK = (AAPL, D1, date(2026, 3, 2), date(2026, 3, 12))


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (faults.BAD_KEY, AccessDenied, "check TAPELINE_FMP_API_KEY"),
        (faults.ERROR_IN_200, AccessDenied, "check TAPELINE_FMP_API_KEY"),
        (faults.NOT_IN_PLAN, AccessDenied, "your plan does not cover this"),
        (faults.FORBIDDEN, AccessDenied, "your plan does not cover this"),
        (faults.HTML, MalformedData, "an HTML page"),
        (Fault(200, '{"a": 1}'), MalformedData, "expected an array"),
        (Fault(200, "[1, 2]"), MalformedData, "row 0"),
        (Fault(200, '{"Error Message": "something else"}'), FeedError, "something else"),
        (Fault(302, "", (("Location", "http://127.0.0.1:1/"),)), SourceMissing, "HTTP 302"),
        (Fault(404, "nothing"), SourceMissing, "HTTP 404"),
    ],
    ids=["401", "error in 200", "402", "403", "html", "object", "numbers", "message", "redirect", "404"],
)
def test_a_refusal_says_what_to_do_and_is_not_asked_again(
    served: FmpServer, fault: Fault, kind: type[FeedError], says: str
) -> None:
    served.faults.append(fault)
    with pytest.raises(kind, match=says):
        feed_of(served).history(*ASK)
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    "fault", [faults.BROKEN, Fault(truncate=50), Fault(drop=True), Fault(200, "[{\"date\": NaN}]"), Fault(408, "")],
    ids=["502", "truncated", "dropped", "NaN", "408"],
)  # fmt: skip
def test_what_may_pass_is_asked_again_with_growing_pauses(served: FmpServer, fault: Fault) -> None:
    served.faults += [fault, fault]
    feed = feed_of(served)
    assert len(feed.history(*ASK)) == 9
    pauses = feed.waited  # type: ignore[attr-defined]
    assert len(pauses) == 2
    assert 0 < pauses[0] < pauses[1] <= 8
    served.faults += [fault] * 3
    with pytest.raises((SourceMissing, MalformedData), match="asked 3 times"):
        feed.history(*ASK)


def test_a_server_that_does_not_answer_is_given_up(served: FmpServer) -> None:
    served.faults += [Fault(hang=5.0)] * 3
    with pytest.raises(SourceMissing, match=r"no answer in 0\.1 s"):
        feed_of(served, fmp_timeout_seconds=0.1).history(*ASK)


def test_nobody_there_is_said(served: FmpServer) -> None:
    with pytest.raises(SourceMissing, match="ConnectError"):
        feed_of(served, fmp_url="http://127.0.0.1:9/stable").history(*ASK)


def test_a_429_silences_every_process_as_long_as_it_says(served: FmpServer, ledger_engine: Engine) -> None:
    budget = Budget(ledger_engine, "fmp", 100, None)
    served.faults.append(faults.too_many("120"))
    with pytest.raises(RateLimited, match="HTTP 429") as refused:
        feed_of(served, budget=budget, fmp_max_wait_seconds=10).history(*ASK)
    assert 110e6 < refused.value.retry_wall - to_us(datetime.now(UTC)) < 121e6
    assert 100 < Budget(ledger_engine, "fmp", 100, None).take() <= 120
    with pytest.raises(RateLimited):
        feed_of(served, budget=budget, fmp_max_wait_seconds=10).history(*ASK)
    assert len(served.asked) == 1


def test_a_short_429_is_waited_for_and_one_without_a_time_means_a_minute(served: FmpServer, ledger_engine: Engine) -> None:
    now = [NOW]
    budget = Budget(ledger_engine, "fmp", 100, None, now=lambda: now[0])
    feed = feed_of(served, budget=budget, fmp_max_wait_seconds=65)

    def sleep(seconds: float) -> None:
        now[0] += int(seconds * 1e6) + 1

    feed._client._sleep = sleep
    served.faults += [faults.too_many("2"), faults.too_many()]
    assert len(feed.history(*ASK)) == 9
    assert 62e6 <= now[0] - NOW < 80e6


@pytest.mark.parametrize("form", ["date", "words", "none"])
def test_a_silence_is_read_in_every_form(form: str) -> None:
    from resources.feeds._fmp_http import _seconds

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    expected = {"date": (25, 31), "words": (60, 60), "none": (60, 60)}[form]
    assert expected[0] <= _seconds({"date": soon, "words": "soon", "none": ""}[form]) <= expected[1]


def test_without_a_ledger_to_count_in_nothing_is_asked(served: FmpServer, tmp_path: Path) -> None:
    feed = feed_of(served, fmp_requests_per_day=250, data_dir=tmp_path)
    with pytest.raises(FeedError, match="cannot be counted"):
        feed.history(*ASK)
    away = create_engine("postgresql+psycopg2://x:y@127.0.0.1:9/z")
    with pytest.raises(FeedError, match="ledger that counts requests does not answer"):
        feed_of(served, budget=Budget(away, "fmp", 5, None)).history(*ASK)
    assert served.asked == []


def test_an_empty_history_of_a_known_symbol_is_empty_and_of_an_unknown_one_an_error(served: FmpServer) -> None:
    served.charts["MSFT", "1min"] = []
    quiet = Instrument("MSFT", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "fmp", "MSFT", M1)
    assert len(feed_of(served).history(quiet, M1, date(2026, 3, 2), date(2026, 3, 3))) == 0
    nobody = Instrument("MSFX", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "fmp", "MSFX", M1)
    with pytest.raises(SymbolNotFound, match="MSFX"):
        feed_of(served).history(nobody, M1, date(2026, 3, 2), date(2026, 3, 3))


def test_the_last_price_and_the_look_up(served: FmpServer) -> None:
    feed = feed_of(served)
    (quote,) = feed.quote([AAPL])
    assert (quote.symbol, iso(quote.time)) == ("AAPL", "2025-02-04T21:00:01Z")
    assert quote.last > 0
    assert np.isnan(quote.bid)
    assert feed.lookup("aap") == ["AAPL"]
    assert feed.lookup("") == []


# ---- the key ---------------------------------------------------------------------------------------------------------

FORMS = (KEY, "s3cret%2Fkey%2B1", "s3cret")


@pytest.mark.parametrize(
    "fault",
    [
        faults.BAD_KEY, faults.HTML, faults.BROKEN, Fault(drop=True), Fault(truncate=30), faults.too_many("500"), Fault(hang=1.0),
        Fault(403, f'{{"Error Message": "key {KEY} of plan X"}}'), Fault(200, f"oops apikey={KEY}"),
        Fault(302, "", (("Location", f"http://127.0.0.1:9/?apikey={KEY}"),)),
    ],
    ids=["401", "html", "502", "drop", "truncated", "429", "hang", "echo", "echo in text", "redirect"],
)  # fmt: skip
def test_the_key_is_in_no_error_no_log_and_no_representation(
    served: FmpServer, fault: Fault, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    served.faults += [fault] * 3
    feed = feed_of(served, fmp_timeout_seconds=0.1 if fault.hang else 30.0)
    with caplog.at_level(logging.DEBUG), pytest.raises(FeedError) as refused:
        feed.history(*ASK)
    said = ["".join(traceback.format_exception(refused.value)), repr(feed), repr(feed.__dict__), repr(feed._client.__dict__)]
    error: BaseException | None = refused.value
    while error is not None:
        said += [repr(error), str(error.args), repr(vars(error))]
        assert not type(error).__module__.startswith(("httpx", "httpcore"))
        error = error.__cause__ or error.__context__
    said += [record.getMessage() + str(record.args) for record in caplog.records]
    said += [*capfd.readouterr(), repr(feed._settings), repr(served.asked)]
    for form in FORMS:
        assert form not in "\n".join(said)
    assert (
        any("apikey=***" in record.getMessage() for record in caplog.records if record.name == "httpx")
        or fault.drop
        or fault.hang
    )


def test_without_a_key_nothing_is_asked(served: FmpServer) -> None:
    with pytest.raises(AccessDenied, match="set TAPELINE_FMP_API_KEY"):
        feed_of(served, fmp_api_key=None).history(*ASK)
    assert served.asked == []


def test_it_is_found_by_name_and_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    feed = get_feed("fmp", Settings(_env_file=None))  # type: ignore[call-arg]
    limits = feed.capabilities()
    assert (limits.requests_per_minute, limits.requests_per_day) == (300, 250)
    code = "import sys, resources.feeds.fmp; assert not {'httpx', 'tenacity', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
