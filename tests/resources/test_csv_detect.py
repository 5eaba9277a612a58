"""What a file says of its own layout is taken; what it does not say is asked for, never guessed."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from resources.feeds import _csv_detect as detect
from resources.feeds._csv_detect import Unclear
from resources.feeds._file_stamps import bar_closes
from resources.feeds._file_text import decode, open_file
from resources.feeds._file_time import epoch_unit, find_format, parse_times, to_utc
from resources.feeds._profiles import choose_profile, load_profiles, parse_profile, zone_parts
from resources.feeds.protocol import FeedError, MalformedData
from resources.inbox import Inbox
from resources.settings import ROOT
from tests.resources.test_files_feed import AAPL, AAPL_DAILY, EURUSD, instrument
from tests.resources.vendor_files import accept, feed_of, installation, take
from trading.calendars import calendar
from trading.instruments import AssetClass
from trading.timeframes import Timeframe, iso, session_number

RAW = "match: {files: ['*']}\nadjustment: none\n"
H1, M1, D1 = Timeframe.H1, Timeframe.M1, Timeframe.D1

# ---- separators, headers, numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_the_one_that_makes_columns_of_numbers(separator: str) -> None:
    lines = [separator.join(row) for row in (["Date", "Open", "High", "Low", "Close"], ["2024-01-02", "1.5", "2", "1", "2"])]
    assert detect.find_separator(lines, '"')[0] == separator


def test_decimal_commas_do_not_pass_for_separators() -> None:
    lines = ["Date;Open;High;Low;Close", *(f"0{d}.01.2024;1,5;2,5;1,25;2,0" for d in range(2, 6))]
    assert detect.find_separator(lines, '"')[0] == ";"


def test_no_table_is_named_with_its_first_line() -> None:
    with pytest.raises(Unclear, match=r"(?s)first line: 'hello'.*add to the profile: separator"):
        detect.find_separator(["hello", "you"], '"')


@pytest.mark.parametrize(
    ("tokens", "signs"),
    [
        (["1,234.50", "2.25"], (".", ",")),
        (["1.234,50", "2,25"], (",", ".")),
        (["2,25", "3,5"], (",", "none")),
        (["1,234,567", "12,000"], (".", ",")),
        (["1.5", "2.25"], (".", "none")),
        (["10", "20"], (".", "none")),
    ],
)
def test_decimal_and_thousands_signs(tokens: list[str], signs: tuple[str, str]) -> None:
    assert detect.find_number_signs(tokens, ";")[:2] == signs


@pytest.mark.parametrize("tokens", [["1,234", "2,345"], ["157.123", "157.250"]])
def test_a_sign_before_three_digits_everywhere_can_be_either_and_is_refused(tokens: list[str]) -> None:
    with pytest.raises(Unclear, match=rf"'{tokens[0]}' can be read in two ways"):
        detect.find_number_signs(tokens, ";")


def test_between_commas_a_point_is_the_decimal_sign() -> None:
    assert detect.find_number_signs(["157.123", "157.250"], ",")[:2] == (".", "none")


def test_two_columns_for_one_field_are_refused() -> None:
    with pytest.raises(Unclear, match=r"'Close', 'Last' could both be close; add to the profile: columns: \{close: Close\}"):
        detect.columns_by_name(["Date", "Open", "High", "Low", "Close", "Last"], {})


def test_a_file_without_header_is_read_when_its_rows_show_what_is_what() -> None:
    rows = [
        ["20240102", "10", "12", "9", "11", "5"],
        ["20240103", "11", "14", "10", "13", "5"],
        ["20240104", "13", "15", "12", "14", "5"],
    ]
    prices = [[float(x) for x in r] for r in rows]
    found, _ = detect.columns_by_content(rows, prices)
    assert found == {"time": [0], "open": [1], "high": [2], "low": [3], "close": [4], "volume": [5]}
    swapped = [[r[0], r[4], r[2], r[3], r[1], r[5]] for r in rows]
    with pytest.raises(Unclear, match="which column is the open and which the close"):
        detect.columns_by_content(swapped, [[float(x) for x in r] for r in swapped])


# ---- encodings and packing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_unicode_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("Date,Open\r\n2024-01-02,1.5\r\n".encode(encoding))
    assert decode(open_file(path), None)[0] == b"Date,Open\n2024-01-02,1.5\n"


def test_another_encoding_is_asked_for_with_the_line_that_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("Date,Open\n2024-01-02,1.5\n# Börse\n".encode("cp1252"))
    with pytest.raises(MalformedData, match=r"line 3: byte 0xf6 is not UTF-8 text; .*encoding: cp1252"):
        decode(open_file(path), None)
    assert "Börse" in decode(open_file(path), "cp1252")[0].decode()


@pytest.mark.parametrize("data", [b"", b"  \n", b"\x1f\x8b\x08\x00torn", b"PK\x03\x04torn"])
def test_empty_and_torn_files_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(MalformedData, match=r"a\.csv: (empty|not a whole)"):
        open_file(path)


# ---- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time_format", "moment"),
    [
        ("2024-01-02 09:30:00", "iso", "2024-01-02T09:30:00Z"),
        ("2024-01-02T09:30:00.500Z", "iso", "2024-01-02T09:30:00.500000Z"),
        ("2024-01-02 09:30:00-05:00", "iso", "2024-01-02T14:30:00Z"),
        ("20240102 093000", "%Y%m%d %H%M%S", "2024-01-02T09:30:00Z"),
        ("2024.01.02 09:30", "%Y.%m.%d %H:%M", "2024-01-02T09:30:00Z"),
        ("13/01/2024", "%d/%m/%Y", "2024-01-13T00:00:00Z"),
        ("1/13/2024 9:30:00 PM", "%m/%d/%Y %I:%M:%S %p", "2024-01-13T21:30:00Z"),
        ("02-Jan-24", "%d-%b-%y", "2024-01-02T00:00:00Z"),
        ("13.01.2024 00:00:00.000 GMT+0100", "%d.%m.%Y %H:%M:%S.%f %z", "2024-01-12T23:00:00Z"),
    ],
)
def test_time_formats_are_found(text: str, time_format: str, moment: str) -> None:
    found, _, _ = find_format(pa.array([text]))
    assert found == time_format
    assert iso(int(parse_times(pa.array([text]), found).us[0])) == moment


@pytest.mark.parametrize("text", ["01/02/2024", "03-04-2024", "05.06.2024 10:00"])
def test_day_and_month_that_could_be_swapped_are_refused(text: str) -> None:
    with pytest.raises(Unclear, match=r"day and month cannot be told apart; add to the profile: time: \{format:"):
        find_format(pa.array([text]))


def test_one_row_with_a_day_above_twelve_decides_for_all() -> None:
    assert find_format(pa.array(["01/02/2024", "13/02/2024"]))[0] == "%d/%m/%Y"


@pytest.mark.parametrize("text", ["2024-02-30", "31/04/2024", "2024-01-02 25:00", "2024-01-02 10:61:00", "202401321000"])
def test_a_day_or_hour_that_does_not_exist_is_no_time(text: str) -> None:
    for time_format in ("iso", "%d/%m/%Y", "%Y%m%d%H%M"):
        assert parse_times(pa.array([text]), time_format).bad.all()


@pytest.mark.parametrize(
    ("value", "unit"),
    [(1704188400, "s"), (1704188400e3, "ms"), (1704188400e6, "us"), (1704188400e9, "ns"), (20240102, ""), (12, "")],
)
def test_epoch_units_cannot_be_confused(value: float, unit: str) -> None:
    assert epoch_unit(value, value) == unit


def test_a_zone_is_a_name_an_offset_or_a_name_with_a_shift() -> None:
    assert zone_parts("America/New_York") == ("America/New_York", 0)
    assert zone_parts("-05:00") == zone_parts("UTC-05") == ("UTC", -300)
    assert zone_parts("America/New_York+07:00") == ("America/New_York", 420)


def local(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[us]").astype(np.int64)


def test_wall_clock_times_that_come_twice_or_never_are_named() -> None:
    times = local("2024-03-10T02:30", "2024-11-03T01:30", "2024-07-01T12:00")
    utc, twice, never = to_utc(times, "America/New_York", "refuse", "refuse")
    assert twice.tolist() == [False, True, False]
    assert never.tolist() == [True, False, False]
    assert iso(int(utc[2])) == "2024-07-01T16:00:00Z"
    resolved = [to_utc(times, "America/New_York", which, "shift")[0] for which in ("earliest", "latest")]
    assert [iso(int(u[1])) for u in resolved] == ["2024-11-03T05:30:00Z", "2024-11-03T06:30:00Z"]
    assert iso(int(resolved[0][0])) == "2024-03-10T07:00:00Z"


def test_the_order_of_rows_tells_the_two_passes_of_the_repeated_hour_apart() -> None:
    times = local(
        "2024-11-03T00:30", "2024-11-03T01:00", "2024-11-03T01:30", "2024-11-03T01:00", "2024-11-03T01:30", "2024-11-03T02:00"
    )
    utc, twice, _ = to_utc(times, "America/New_York", "order", "refuse")
    assert not twice.any()
    assert np.all(np.diff(utc) == 30 * 60_000_000)


def test_a_repeated_hour_in_a_file_refuses_it_by_line_until_the_profile_says_which(tmp_path: Path) -> None:
    coin = instrument("BTCUSD", H1, AssetClass.CRYPTO, "CRYPTO")
    zone = "timeframe: 1h\nmatch: {files: ['B*']}\ntime: {zone: America/New_York, stamp: start"
    of = installation(tmp_path, coin, ny=zone + "}")
    rows = ["2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 01:00", "2024-11-03 02:00"]
    text = "time,open,high,low,close,volume\n" + "\n".join(f"{t},{i + 1},9,1,{i + 1},5" for i, t in enumerate(rows))
    outcome = take(of, "BTCUSD.csv", text)
    assert "line 3: this wall-clock time comes twice" in outcome.why
    installation(tmp_path, coin, ny=zone + ", ambiguous: order}")
    accept(of, "BTCUSD.csv", text)
    bars = feed_of(of).history(coin, H1, date(2024, 11, 3), date(2024, 11, 3))
    assert [iso(int(t))[11:16] for t in bars.close_time] == ["05:00", "06:00", "07:00", "08:00"]
    assert bars.close.tolist() == [1, 2, 3, 4]


# ---- zone, stamp and bar length by the sessions ------------------------------------------------------------------------


def minutes(first: str, count: int, step: int = 1) -> str:
    start = datetime.fromisoformat(first)
    return "time,open,high,low,close,volume\n" + "\n".join(
        f"{start + timedelta(minutes=step * i):%Y-%m-%d %H:%M:%S},10,11,9,10,{i}" for i in range(count)
    )


def found_in(tmp_path: Path, text: str, profile: str = RAW, timeframe: Timeframe = M1) -> dict[str, str]:
    one = instrument("AAPL", timeframe)
    of = installation(tmp_path, one, raw=profile)
    path = tmp_path / "AAPL.csv"
    path.write_text(text)
    check = Inbox(of).check(path)
    return {f.what: f.value for f in check.findings} | {"refusal": check.refusal}


def test_a_full_session_shows_its_zone_and_that_stamps_are_starts(tmp_path: Path) -> None:
    found = found_in(tmp_path, minutes("2024-01-02 09:30", 390))
    assert (found["time.zone"], found["time.stamp"], found["timeframe"]) == ("America/New_York", "start", "1m")


def test_a_full_session_shows_that_stamps_are_ends(tmp_path: Path) -> None:
    found = found_in(tmp_path, minutes("2024-01-02 14:31", 390))
    assert (found["time.zone"], found["time.stamp"]) == ("UTC", "end")


def test_a_part_of_a_session_shows_neither_and_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    found = found_in(tmp_path, minutes("2024-01-02 11:00", 60))
    assert "do not tell the time zone and whether stamps are the bars' start or end" in found["refusal"]
    assert "add to the profile: time: {zone: America/New_York, stamp: start}" in found["refusal"]


def test_bars_cut_at_full_hours_are_no_bars_of_a_session_that_opens_at_half_past(tmp_path: Path) -> None:
    found = found_in(tmp_path, minutes("2024-01-02 10:00", 6, 60), RAW + "time: {zone: exchange, stamp: start}", H1)
    assert "on no 1h bar's edge of a session of XNYS" in found["refusal"]


@pytest.mark.parametrize(("last", "close"), [("16:00", "end"), ("16:30", "end")])
def test_the_short_last_bar_of_a_session_ends_with_it_however_it_is_stamped(tmp_path: Path, last: str, close: str) -> None:
    one = instrument("AAPL", H1)
    of = installation(tmp_path, one, raw=RAW + f"time: {{zone: exchange, stamp: {close}}}\ntimeframe: 1h")
    times = ["10:30", "11:30", "12:30", "13:30", "14:30", "15:30", last]
    accept(of, "AAPL.csv", "time,open,high,low,close,volume\n" + "\n".join(f"2024-01-02 {t},1,1,1,1,1" for t in times))
    bars = feed_of(of).history(one, H1, date(2024, 1, 2), date(2024, 1, 2))
    assert [iso(int(t))[11:16] for t in bars.close_time] == ["15:30", "16:30", "17:30", "18:30", "19:30", "20:30", "21:00"]


@pytest.mark.parametrize("venue_name", ["XNYS", "XBOM", "FX", "CRYPTO", "CMES"])
@pytest.mark.parametrize("timeframe", [M1, Timeframe.M15, H1, Timeframe.H4])
def test_start_and_end_stamps_of_every_bar_give_its_close_and_session(venue_name: str, timeframe: Timeframe) -> None:
    venue = calendar(venue_name)
    first = int(np.searchsorted(venue.number, session_number(date(2024, 2, 26))))
    step = timeframe.minutes * 60_000_000
    starts, ends, nominal, numbers = [], [], [], []
    for row in range(first, first + 12):  # a clock change among them
        opened, closed = int(venue.open_time[row]), int(venue.close_time[row])
        start = np.arange(opened, closed, step)
        starts.append(start)
        ends.append(np.minimum(start + step, closed))
        nominal.append(start + step)
        numbers.append(np.full(len(start), venue.number[row]))
    expected, sessions = np.concatenate(ends), np.concatenate(numbers)
    follow_on = bool((venue.open_time[first + 1 : first + 12] == venue.close_time[first : first + 11]).any())
    ways = [("start", starts), ("end", ends)] + ([] if follow_on else [("end", nominal)])
    for stamp, times in ways:
        close, session, outside, off = bar_closes(np.concatenate(times), stamp, timeframe, venue)
        assert not (outside | off).any()
        assert np.array_equal(close, expected)
        assert np.array_equal(session, sessions)
    moved = bar_closes(np.concatenate(starts) + 7_000_000, "start", timeframe, venue)
    assert moved[3].all(), "a stamp seven seconds off is on no bar's edge"


def test_mostly_bars_outside_the_session_mean_a_wrong_zone_and_are_refused(tmp_path: Path) -> None:
    found = found_in(tmp_path, minutes("2024-01-02 04:00", 960), RAW + "time: {zone: exchange, stamp: start}")
    assert "570 of 960 bars of AAPL lie outside the sessions" in found["refusal"]
    assert "extended_hours: true" in found["refusal"]
    assert not found_in(
        tmp_path, minutes("2024-01-02 04:00", 960), RAW + "time: {zone: exchange, stamp: start}\nextended_hours: true"
    )["refusal"]


def test_files_of_another_bar_length_than_the_instrument_are_refused(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL, raw=RAW)
    outcome = take(of, "AAPL.csv", "Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,2,9\n2024-01-03,1,2,1,2,9\n")
    assert "holds bars of 1d, AAPL of the universe has native_timeframe 1m" in outcome.why


def test_daily_epochs_name_the_session_by_the_venues_midnight(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY, raw=RAW)
    days = [1704171600, 1704258000]  # midnight in New York
    accept(of, "AAPL.csv", "time,open,high,low,close,volume\n" + "\n".join(f"{d},1,2,1,2,9" for d in days))
    bars = feed_of(of).history(AAPL_DAILY, D1, date(2024, 1, 1), date(2024, 1, 31))
    assert [iso(int(t)) for t in bars.close_time] == ["2024-01-02T21:00:00Z", "2024-01-03T21:00:00Z"]


# ---- rows --------------------------------------------------------------------------------------------------------------

GOOD = ["2024-01-02,10,12,9,11,100", "2024-01-03,11,13,10,12,100", "2024-01-04,12,14,11,13,100", "2024-01-05,13,15,12,14,100"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2024-01-08,x,16,13,15,1", "open is no number"),
        ("2024-01-08,14,16,13,,1", "close is missing"),
        ("2024-01-08,14,13,13,15,1", "high lies below open or close"),
        ("2024-01-08,14,16,15,15,1", "low lies above open or close"),
        ("2024-01-08,0,16,0,15,1", "a price is not above zero"),
        ("2024-01-08,14,16,13,15,-1", "volume is negative"),
        ("2024-01-08,14,1e999,13,15,1", "high is"),
        ("2024-01-38,14,16,13,15,1", "no time of the form iso"),
        ("2024-01-08,14,16,13,15", "5 columns, expected 6"),
        ("2024-01-05,13,15,12,14.5,100", "another row has the same time and other values"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, reason: str) -> None:
    of = installation(tmp_path, AAPL_DAILY, raw=RAW)
    outcome = take(of, "AAPL.csv", "\n".join(["Date,Open,High,Low,Close,Volume", *GOOD, "", row]))
    assert outcome.state == "rejected"
    line = 5 if "same time" in reason else 7
    assert f"on line {line}: {reason}" in outcome.why


def test_equal_rows_count_once_and_rows_without_a_price_are_left_out(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY, raw=RAW)
    rows = ["Date,Open,High,Low,Close,Volume", *GOOD, GOOD[1], "2024-01-08,,,,,", "2024-01-06,13,15,12,14,100"]
    outcome = accept(of, "AAPL.csv", "\n".join(rows))
    assert outcome.rows == 4
    said = (of.path("inbox") / outcome.report).read_text()
    assert "1 rows are there twice, equal" in said
    assert "| AAPL | AAPL.csv line 7 | no price |" in said
    assert "| AAPL | AAPL.csv line 8 | XNYS has no session on that day |" in said


# ---- profiles ----------------------------------------------------------------------------------------------------------


def test_every_shipped_profile_is_good() -> None:
    profiles, problems = load_profiles(ROOT / "data" / "config")
    assert [str(p) for p in problems] == []
    assert {"yfinance", "stooq", "alpha_vantage_daily", "histdata", "metatrader5", "kibot", "firstrate", "polygon_minute",
            "databento_ohlcv", "tradingview", "ninjatrader", "lean_equity_minute"} <= set(profiles)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: x\nseperator: ';'", "feeds/x.yaml:2: seperator: unknown key"),
        ("name: x\ntime:\n  zone: America/New_Yrk", "feeds/x.yaml:3: time.zone: unknown time zone 'America/New_Yrk'"),
        ("name: x\ntime: {stamp: begin}", "feeds/x.yaml:2: time.stamp: unknown value 'begin'"),
        ("name: x\ntime: {format: '%Q'}", "feeds/x.yaml:2: time.format: is '%Q'"),
        ("name: x\ntime: {format: iso, epoch: s}", "feeds/x.yaml:2: time: has format and epoch"),
        ("name: done", "feeds/x.yaml:1: name: is 'done'"),
        ("name: x\nsymbol: {file: '(['}", "feeds/x.yaml:2: symbol.file: is no regular expression"),
        ("name: x\ndecimal: ','\nthousands: ','", "feeds/x.yaml:1: decimal and thousands are both ','"),
        ("name: x\ntime: {since_midnight: ms}", "feeds/x.yaml:1: time.since_midnight needs the day"),
        ("name: x\nencoding: utf8000", "feeds/x.yaml:2: encoding: is 'utf8000'"),
    ],
)
def test_a_bad_profile_is_named_with_file_line_key_and_what_was_expected(text: str, problem: str) -> None:
    loaded, problems = parse_profile(text, "feeds/x.yaml")
    assert loaded is None
    assert any(str(p).startswith(problem) and p.expected for p in problems), [str(p) for p in problems]


def test_two_profiles_that_fit_a_file_equally_well_are_named() -> None:
    one, two = (parse_profile(f"name: {n}\nmatch: {{files: ['a*']}}", n)[0] for n in ("one", "two"))
    assert one is not None
    assert two is not None
    with pytest.raises(FeedError, match=r"the profiles one, two fit equally well.*inbox/one/a\.csv"):
        choose_profile({"one": one, "two": two}, [], "a.csv", [], "csv")


def test_a_column_the_profile_names_and_the_file_lacks_is_named_with_the_nearest(tmp_path: Path) -> None:
    of = installation(tmp_path, AAPL_DAILY, raw=RAW + "columns: {volume: Volme}")
    outcome = take(of, "AAPL.csv", "\n".join(["Date,Open,High,Low,Close,Volume", *GOOD]))
    assert "columns.volume: no column 'Volme'" in outcome.why
    assert "did you mean 'Volume'?" in outcome.why


def test_a_missing_volume_is_asked_for_and_taken_as_none_when_the_profile_says_so(tmp_path: Path) -> None:
    text = "\n".join(["Date,Open,High,Low,Close", *(r.rpartition(",")[0] for r in GOOD)])
    of = installation(tmp_path, AAPL_DAILY, raw=RAW)
    assert "add to the profile: columns: {volume: none}" in take(of, "AAPL.csv", text).why
    installation(tmp_path, AAPL_DAILY, raw=RAW + "columns: {volume: none}")
    accept(of, "AAPL.csv", text)
    assert feed_of(of).history(AAPL_DAILY, D1, date(2024, 1, 1), date(2024, 1, 31)).volume.tolist() == [0, 0, 0, 0]


def test_an_instrument_without_volume_needs_none(tmp_path: Path) -> None:
    of = installation(tmp_path, EURUSD, raw="match: {files: ['E*']}\ntime: {zone: UTC, stamp: start}")
    accept(of, "EURUSD.csv", "time,open,high,low,close\n2024-01-02 10:00,1,1,1,1\n2024-01-02 10:01,1,1,1,1\n")
    assert len(feed_of(of).history(EURUSD, M1, date(2024, 1, 2), date(2024, 1, 2))) == 2
