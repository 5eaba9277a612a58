# ruff: noqa: F811, F401 - fixtures are imported by name
"""Many series in one scan are what each is alone; what did not change is not read again, and what changed is never missed."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from resources.lake import HotConflict, Lake
from resources.lake.periods import parse_dataset
from resources.lake.reading import LakeReader
from resources.lake.together import SeriesMemory
from tests.resources.lake_kit import (
    D1,
    D2,
    D3,
    append,
    folder_lake,
    lake,
    minutes,
    object_store,
    reopened,
    with_extras,
    write,
)

SYMBOLS = ("AAPL", "MSFT", "IBM", "ODD")
ONE_MINUTE = parse_dataset("bars_1m")


def _same_as_alone(lake: Lake, start: date | None = D1, end: date | None = D3) -> None:
    alone = reopened(lake)
    together = lake.read_bars_of("bars_1m", dict.fromkeys(SYMBOLS, start), end)
    assert list(together) == list(SYMBOLS)
    for symbol, bars in together.items():
        expected = alone.read_bars("bars_1m", symbol, start, end)
        assert (bars.extras, bars.content_hash()) == (expected.extras, expected.content_hash()), symbol


def test_many_symbols_read_together_are_what_each_is_alone(lake: Lake) -> None:
    write(lake, minutes("AAPL", D1, D2))
    write(lake, with_extras(minutes("MSFT", D1, D3, seed=1)))
    append(lake, D3, minutes("AAPL", D3, rows=30), minutes("IBM", D3, rows=31, seed=2))
    _same_as_alone(lake)
    _same_as_alone(lake, None, None)
    _same_as_alone(lake, D2, D2)


def test_a_symbol_may_begin_later_than_another(folder_lake: Lake) -> None:
    for seed, symbol in enumerate(("AAPL", "MSFT")):
        write(folder_lake, minutes(symbol, D1, D2, D3, seed=seed))
    got = folder_lake.read_bars_of("bars_1m", {"AAPL": D1, "MSFT": D3})
    assert (len(got["AAPL"]), len(got["MSFT"])) == (3 * 390, 390)


def test_only_the_session_that_changed_is_read_again(folder_lake: Lake) -> None:
    live = {symbol: minutes(symbol, D3, rows=11, seed=seed) for seed, symbol in enumerate(("AAPL", "MSFT"))}
    for seed, symbol in enumerate(live):
        write(folder_lake, minutes(symbol, D1, D2, seed=seed))
        append(folder_lake, D3, live[symbol].rows(slice(0, 10)))
    memory = SeriesMemory(LakeReader(folder_lake.storage))
    starts: dict[str, date | None] = dict.fromkeys(live, D1)
    for _ in range(2):
        memory.read(ONE_MINUTE, starts, D3)
        assert memory.read_rows == 2 * (780 + 10)
    append(folder_lake, D3, *(bars.rows(slice(10, 11)) for bars in live.values()))
    got = memory.read(ONE_MINUTE, starts, D3)
    assert memory.read_rows == 2 * (780 + 10) + 2 * 11
    assert {len(rows["close_time"]) for rows in got.values()} == {791}


def test_what_was_given_out_before_stays_as_it_was(folder_lake: Lake) -> None:
    write(folder_lake, minutes("AAPL", D1, D2))
    before = folder_lake.read_bars_of("bars_1m", {"AAPL": D1})["AAPL"]
    told = before.content_hash()
    write(folder_lake, minutes("AAPL", D2, seed=9), D2, D2)
    after = folder_lake.read_bars_of("bars_1m", {"AAPL": D1})["AAPL"]
    assert before.content_hash() == told != after.content_hash()


def test_a_column_that_one_session_lacked_is_back_when_that_session_has_it(folder_lake: Lake) -> None:
    whole = with_extras(minutes("AAPL", D1, D2, D3))
    write(folder_lake, whole)
    write(folder_lake, minutes("AAPL", D2), D2, D2)
    _same_as_alone(folder_lake)
    write(folder_lake, whole.rows(whole.session == whole.session[390]), D2, D2)
    _same_as_alone(folder_lake)


def test_the_memory_keeps_no_more_rows_than_it_may(folder_lake: Lake) -> None:
    for seed, symbol in enumerate(SYMBOLS):
        write(folder_lake, minutes(symbol, D1, seed=seed))
    memory = SeriesMemory(LakeReader(folder_lake.storage), rows=2 * 390)
    memory.read(ONE_MINUTE, dict.fromkeys(SYMBOLS, D1), D1)
    memory.read(ONE_MINUTE, {"ODD": D1}, D1)
    assert memory.read_rows == 4 * 390, "the newest is kept"
    memory.read(ONE_MINUTE, {"AAPL": D1}, D1)
    assert memory.read_rows == 5 * 390, "the oldest is not"


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(("write", "append")), st.sampled_from(SYMBOLS), st.sampled_from((D1, D2, D3)),
        st.integers(1, 40), st.booleans(), st.integers(0, 2),
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(_STEPS)
def test_whatever_is_written_in_between_the_same_object_reads_what_a_fresh_one_does(
    tmp_path_factory: object, steps: list[tuple[str, str, date, int, bool, int]]
) -> None:
    lake = Lake(Path(tmp_path_factory.mktemp("lake")))  # type: ignore[attr-defined]
    for what, symbol, day, rows, extras, seed in steps:
        bars = minutes(symbol, day, rows=rows, seed=seed if what == "write" else 0)
        bars = with_extras(bars) if extras else bars
        if what == "write":
            write(lake, bars, day, day)
        else:
            with suppress(HotConflict):  # told otherwise before: what is stored stands, and is compared
                append(lake, day, bars)
        _same_as_alone(lake)
