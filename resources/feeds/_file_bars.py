"""Rows of a vendor's file become bars of instruments, each row judged; what is no bar is named with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resources.feeds._base import Columns, LeftOut, columns
from resources.feeds._file_stamps import Closes, closes, stamps
from resources.feeds._layout import BadRow, Block, Grid, Layout, numbers
from resources.feeds.protocol import MalformedData
from trading.bars import TURNOVER_QUANTUM
from trading.calendars import Calendar, calendar
from trading.instruments import Instrument, PriceFloor

PRICES = ("open", "high", "low", "close")
MAX_OUTSIDE_SHARE = 0.5
MAX_STRANGE_DAYS_SHARE = 0.25
"""More days than this without a session mean a wrong calendar or date format. Sunday bars of FX are one in six."""
MAX_NAMED = 50
"""Rows left out one by one; more of one kind are named together."""
MAX_BAD = 10_000
"""Bad rows kept with their text; a file with more is never taken."""
_MID_DIGITS = 8
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SymbolBars:
    """Good bars of one feed symbol, ascending; turnover and trades where the file has them in every row.

    doubtful: rows with a time but values no bar can have (NaN where the file has no number), and their lines: what a
    quarantine keeps aside.
    """

    symbol: str
    columns: Columns
    turnover: Floats | None
    trades: Floats | None
    doubtful: Columns
    doubtful_lines: NDArray[np.int64]


@dataclass(slots=True)
class Judged:
    """What a file holds for the instruments asked for. unknown: symbols of the file nobody asked for, and their rows."""

    symbols: dict[str, SymbolBars] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    bad_count: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    rows: int = 0


def rows_by_symbol(grid: Grid, layout: Layout) -> dict[str, tuple[Block, NDArray[np.int64]]]:
    """Vendor's symbol, renamed -> its columns and rows, in order of appearance. Kept with the grid."""
    key = ("symbols", layout.symbol_column, layout.symbol)
    if key not in grid.parsed:
        grid.parsed[key] = _rows_by_symbol(grid, layout)
    found: dict[str, tuple[Block, NDArray[np.int64]]] = grid.parsed[key]
    return found


def _rows_by_symbol(grid: Grid, layout: Layout) -> dict[str, tuple[Block, NDArray[np.int64]]]:
    import pyarrow.compute as pc

    everything = np.arange(grid.rows)
    if layout.symbol_column is None:
        return {layout.rename.get(b.symbol or layout.symbol, b.symbol or layout.symbol): (b, everything) for b in layout.blocks}
    column = grid.columns[layout.symbol_column]
    coded = pc.dictionary_encode(pc.utf8_trim_whitespace(column.cast("string").fill_null("")))
    codes = coded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(coded.dictionary) + 1))
    out: dict[str, tuple[Block, NDArray[np.int64]]] = {}
    for i, name in enumerate(coded.dictionary.to_pylist()):
        known, rows = layout.rename.get(name, name), order[bounds[i] : bounds[i + 1]]
        if known in out:
            rows = np.sort(np.concatenate([out[known][1], rows]))
        out[known] = (layout.blocks[0], rows)
    return out


def match_symbol(name: str, instruments: Mapping[str, Sequence[Instrument]]) -> str:
    """The feed symbol `name` means, letter case aside; "" when none or more than one differ only in case."""
    if name in instruments:
        return name
    same = [s for s in instruments if s.lower() == name.lower()]
    return same[0] if len(same) == 1 else ""


def judge(grid: Grid, layout: Layout, instruments: Mapping[str, Sequence[Instrument]]) -> Judged:
    """Bars of every instrument in the file. instruments: by feed symbol. Raises MalformedData when the layout cannot be right."""
    out = Judged(bad=list(grid.broken), bad_count=len(grid.broken), rows=grid.rows + len(grid.broken))
    for name, (block, rows) in rows_by_symbol(grid, layout).items():
        symbol = match_symbol(name, instruments)
        if not symbol:
            out.unknown[name] = len(rows)
            continue
        one = next((i for i in instruments[symbol] if i.native_timeframe is layout.timeframe), instruments[symbol][0])
        _judge_symbol(grid, layout, block, rows, one, out)
    out.bad.sort(key=lambda b: b.line)
    return out


def _judge_symbol(grid: Grid, layout: Layout, block: Block, rows: NDArray[np.int64], instrument: Instrument, out: Judged) -> None:
    symbol, venue = instrument.feed_symbol, calendar(instrument.calendar)
    parsed = stamps(grid, layout)
    rows, note = _in_order(rows, parsed.us, parsed.bad)
    if note:
        out.notes.append(f"{symbol}: {note}")
    values, bad = _values(grid, layout, block, rows, instrument)
    empty = np.logical_and.reduce([np.isnan(values[c]) & ~bad[c] for c in PRICES])
    at = closes(parsed.us[rows], parsed.zoned, layout, venue)
    alive = ~empty & ~parsed.bad[rows]
    faults = _Faults(grid, symbol, rows, alive, out)
    if block.symbol == "":
        out.left_out += _left_out(grid, symbol, rows[empty], "no price")
    elif empty.any():
        out.notes.append(f"{symbol}: {int(empty.sum())} rows of the table have no price of it")
    expected = layout.time_format or layout.epoch or layout.since_midnight or "a time"
    faults.dead(parsed.bad[rows] & ~empty, f"no time of the form {expected}", "mend the time")
    faults.take(
        at.twice, "this wall-clock time comes twice: the clocks go back", "say `time: {ambiguous: earliest}`, latest or order"
    )
    faults.take(
        at.never,
        "this wall-clock time never comes: the clocks jump over it",
        "is the zone right? else say `time: {nonexistent: shift}`",
    )
    _check_outside(grid, layout, instrument, venue, rows, at, faults, out)
    faults.take(at.off_grid, f"on no {layout.timeframe} bar's edge of a session of {venue.name}",
                "bars are anchored at the session's open: take finer bars and derive these")  # fmt: skip
    timed = faults.alive.copy()
    for name in (*PRICES, "volume"):
        if name in values:
            faults.take(bad[name], f"{name} is no number", "mend the number")
            faults.take(np.isnan(values[name]), f"{name} is missing", "complete or remove the row")
            faults.take(~np.isfinite(values[name]), f"{name} is not finite", "mend the number")
    _judge_values(values, instrument, faults)
    good = _unique(at.close_time, values, faults, out, symbol)
    odd = np.flatnonzero(timed & ~faults.alive)
    odd = odd[np.argsort(at.close_time[odd], kind="stable")]
    turnover, trades = _extras(values, good, symbol, out)
    out.symbols[symbol] = SymbolBars(
        symbol,
        columns(at.close_time[good], at.session[good], *(values[c][good] for c in (*PRICES, "volume"))),
        turnover,
        trades,
        columns(at.close_time[odd], at.session[odd], *(values[c][odd] for c in (*PRICES, "volume"))),
        grid.lines(rows[odd]),
    )


class _Faults:
    """Rows of one symbol still in the running; `take` removes those with a fault and names them, the first fault of each."""

    def __init__(self, grid: Grid, symbol: str, rows: NDArray[np.int64], alive: Mask, out: Judged) -> None:
        self.grid, self.symbol, self.rows, self.alive, self.out = grid, symbol, rows, alive.copy(), out

    def take(self, fault: Mask, reason: str, advice: str) -> None:
        hit = fault & self.alive
        if hit.any():
            self.dead(hit, reason, advice)

    def dead(self, hit: Mask, reason: str, advice: str) -> None:
        if hit.any():
            self.out.bad_count += int(hit.sum())
            room = max(0, MAX_BAD - len(self.out.bad))
            self.out.bad += self.grid.bad(self.rows[hit][:room], self.symbol, reason, advice)
            self.alive &= ~hit


def _in_order(rows: NDArray[np.int64], us: NDArray[np.int64], bad: Mask) -> tuple[NDArray[np.int64], str]:
    """`rows` from the oldest on: newest-first files are turned round. Stamps may still go back where clocks did."""
    step = np.diff(us[rows[~bad[rows]]])
    if (step < 0).sum() > (step > 0).sum():
        return rows[::-1], "the file is newest first"
    return rows, ""


def _values(
    grid: Grid, layout: Layout, block: Block, rows: NDArray[np.int64], instrument: Instrument
) -> tuple[dict[str, Floats], dict[str, Mask]]:
    values: dict[str, Floats] = {}
    bad: dict[str, Mask] = {}
    for name, places in block.columns.items():
        parts = []
        for place in places:
            key = ("numbers", place)
            if key not in grid.parsed:
                grid.parsed[key] = numbers(grid.columns[place], layout)
            parts.append(grid.parsed[key])
        whole = len(rows) == grid.rows and bool((np.diff(rows) == 1).all())
        taken = [(v, b) if whole else (v[rows], b[rows]) for v, b in parts]
        value = taken[0][0] if len(taken) == 1 else np.round((taken[0][0] + taken[1][0]) / 2, _MID_DIGITS)
        bad[name] = np.logical_or.reduce([b for _, b in taken])
        scale = layout.price_scale if name in (*PRICES, "vwap") else layout.volume_unit if name == "volume" else 1.0
        values[name] = scaled(value, scale)
    if layout.no_volume or (not instrument.has_volume and "volume" not in values):
        values["volume"], bad["volume"] = np.zeros(len(rows)), np.zeros(len(rows), bool)
    elif not instrument.has_volume:
        values["volume"] = np.nan_to_num(values["volume"])
    return values, bad


def scaled(value: Floats, scale: float) -> Floats:
    """`value` x `scale`. A scale of 1/n divides by n: 6455700 / 10000 is 645.57, times 0.0001 it is not."""
    if scale == 1.0:
        return value
    inverse = round(1 / scale)
    return value / inverse if inverse > 1 and abs(1 / scale - inverse) < 1e-9 * inverse else value * scale


def _check_outside(
    grid: Grid,
    layout: Layout,
    instrument: Instrument,
    venue: Calendar,
    rows: NDArray[np.int64],
    at: Closes,
    faults: _Faults,
    out: Judged,
) -> None:
    outside = at.outside & faults.alive
    count, total = int(outside.sum()), int(faults.alive.sum())
    if not count:
        return
    lines = grid.lines(rows[outside][:3])
    where = f"{grid.where} line {int(lines[0])}"
    if layout.stamp == "date":
        if count > MAX_STRANGE_DAYS_SHARE * total and count > 1:
            raise MalformedData(
                f"{where}: {count} of {total} days of {instrument.symbol} are no sessions of {venue.name}; "
                "is its calendar right in the universe, and the date format in the profile?"
            )
        out.left_out += _left_out(grid, instrument.feed_symbol, rows[outside], f"{venue.name} has no session on that day")
    elif layout.extended_hours is False:
        faults.take(outside, f"outside every session of {venue.name}", "is the zone right? else say `extended_hours: true`")
    else:
        if count > MAX_OUTSIDE_SHARE * total and layout.extended_hours is None:
            raise MalformedData(
                f"{where}: {count} of {total} bars of {instrument.symbol} lie outside the sessions of {venue.name} with zone "
                f"{layout.zone or 'UTC'}; is the zone right? if these are bars before the open and after the close, "
                "add to the profile: extended_hours: true"
            )
        out.left_out += _left_out(grid, instrument.feed_symbol, rows[outside], f"outside every session of {venue.name}")
    faults.alive &= ~outside


def _left_out(grid: Grid, symbol: str, rows: NDArray[np.int64], reason: str) -> list[LeftOut]:
    lines = np.sort(grid.lines(rows))
    if len(lines) > MAX_NAMED:
        return [LeftOut(symbol, f"{grid.where} {len(lines)} lines from {int(lines[0])} to {int(lines[-1])}", reason)]
    return [LeftOut(symbol, f"{grid.where} line {int(line)}", reason) for line in lines]


def _judge_values(values: Mapping[str, Floats], instrument: Instrument, faults: _Faults) -> None:
    o, h, low, c = (values[n] for n in PRICES)
    floor = instrument.price_floor
    said = "a price is below zero" if floor is PriceFloor.ZERO else "a price is not above zero"
    mend = "mend the price; where prices may be negative, write `prices: any` at the instrument in the universe"
    faults.take(~floor.allows(np.minimum.reduce([o, h, low, c])), said, mend)
    faults.take(h < np.maximum(o, c), "high lies below open or close", "mend the row; are the columns mapped right?")
    faults.take(low > np.minimum(o, c), "low lies above open or close", "mend the row; are the columns mapped right?")
    faults.take(values["volume"] < 0, "volume is negative", "mend the volume")


def _unique(
    close_time: NDArray[np.int64], values: Mapping[str, Floats], faults: _Faults, out: Judged, symbol: str
) -> NDArray[np.int64]:
    """Rows that stay, by time: of equal rows one; of rows with one time and different values none."""
    at = np.flatnonzero(faults.alive)
    times = close_time[at]
    if not len(at) or (np.diff(times) > 0).all():
        return at
    back = int((np.diff(times) < 0).sum())
    if back:
        out.notes.append(f"{symbol}: the rows are not in order of time ({back} steps back); they were sorted")
        order = np.argsort(times, kind="stable")
        at, times = at[order], times[order]
    same = np.flatnonzero(np.diff(times) == 0)
    differs = np.zeros(len(same), bool)
    for name in (*PRICES, "volume"):
        differs |= values[name][at[same]] != values[name][at[same + 1]]
    clash = np.isin(times, times[same[differs]])
    hit = np.zeros(len(faults.alive), bool)
    hit[at[clash]] = True
    faults.take(hit, "another row has the same time and other values", "keep the right one")
    again = same[~np.isin(times[same], times[same[differs]])] + 1
    if len(again):
        out.notes.append(f"{symbol}: {len(again)} rows are there twice, equal; one of each was taken")
    stays = ~clash
    stays[again] = False
    return at[stays]


def _extras(
    values: Mapping[str, Floats], good: NDArray[np.int64], symbol: str, out: Judged
) -> tuple[Floats | None, Floats | None]:
    turnover: Floats | None = None
    if "turnover" in values:
        turnover = values["turnover"][good]
    elif "vwap" in values:
        volume = values["volume"][good]
        turnover = np.where(volume > 0, values["vwap"][good] * volume, 0.0)
    trades = values["trades"][good] if "trades" in values else None
    if turnover is not None and not (np.isfinite(turnover) & (turnover >= 0)).all():
        out.notes.append(f"{symbol}: turnover is not known in every row and therefore not kept")
        turnover = None
    if trades is not None and not (np.isfinite(trades) & (trades >= 0) & (trades == np.floor(trades))).all():
        out.notes.append(f"{symbol}: the number of trades is not known in every row and therefore not kept")
        trades = None
    return None if turnover is None else np.round(turnover / TURNOVER_QUANTUM) * TURNOVER_QUANTUM, trades
