"""A profile and a file make a layout: what the profile says is taken, what it leaves open is found in the file or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resources.feeds import _csv_detect as csv_detect
from resources.feeds._csv_detect import Finding, Unclear
from resources.feeds._file_bars import PRICES, match_symbol, rows_by_symbol
from resources.feeds._file_text import Opened, decode
from resources.feeds._layout import Block, Grid, Layout, read_csv_grid, read_parquet_grid
from resources.feeds._layout_times import find_times
from resources.feeds._profiles import LoadedProfile, Profile
from resources.feeds._zone_detect import find_timeframe, find_zone_and_stamp
from resources.feeds.protocol import FeedError, MalformedData
from trading.config_text import nearest
from trading.instruments import AssetClass, Instrument

Instruments = Mapping[str, Sequence[Instrument]]
FIELDS = (*PRICES, "volume", "turnover", "vwap", "trades")


@dataclass(slots=True)
class Reading:
    """A file with its layout. findings: what the profile left open and the file answered."""

    grid: Grid
    layout: Layout
    findings: list[Finding]


class UnknownSymbol(FeedError):
    """The file's symbol is no instrument of the universe that reads files."""


def header_of(opened: Opened) -> list[str]:
    """Names in the file's first line, to choose a profile by; [] when it cannot be read as text."""
    if opened.kind == "parquet":
        try:
            return [n for line in read_parquet_grid(opened).header for n in line]
        except MalformedData:
            return []
    try:
        data, _ = decode(opened, None)
    except MalformedData:
        return []
    first = next((x for x in data[:4000].decode(errors="replace").split("\n") if x.strip()), "")
    cut = [csv_detect.split(first, s, '"') for s in csv_detect.SEPARATORS]
    return max(cut, key=len)


def detect(opened: Opened, loaded: LoadedProfile, instruments: Instruments) -> Reading:
    """The file's layout. Raises Unclear (with the line to add), UnknownSymbol, MalformedData."""
    profile = loaded.profile
    findings: list[Finding] = []
    if profile.format is not None and profile.format != opened.kind:
        raise MalformedData(f"{opened.where}: is {opened.kind}, the profile {profile.name} expects {profile.format}")
    base = Layout(
        kind=opened.kind,  # type: ignore[arg-type]
        missing=profile.missing,
        ambiguous=profile.time.ambiguous,
        nonexistent=profile.time.nonexistent,
        rename=profile.symbol.rename,
        price_scale=profile.price_scale,
        volume_unit=profile.volume_unit,
        extended_hours=profile.extended_hours,
    )
    grid, layout = (read_parquet_grid(opened), base) if opened.kind == "parquet" else _csv(opened, profile, base, findings)
    layout = _columns(grid, profile, layout, findings)
    layout = _symbols(opened, grid, profile, layout, instruments, findings)
    layout = find_times(opened, grid, profile, layout, findings)
    present = _present(grid, layout, instruments)
    layout = find_timeframe(grid, profile, layout, present, findings)
    layout = find_zone_and_stamp(grid, profile, layout, present, findings)
    layout = _adjustment(grid, profile, layout, present, findings)
    _check_timeframe(opened, layout, present)
    return Reading(grid, layout, findings)


# -- text ----------------------------------------------------------------------------------------------------------------


def _csv(opened: Opened, profile: Profile, base: Layout, findings: list[Finding]) -> tuple[Grid, Layout]:
    data, encoding = decode(opened, profile.encoding)
    if profile.encoding is None and encoding != "utf-8":
        findings.append(Finding("encoding", encoding, "its byte order mark or zero bytes"))
    quote = profile.quote or '"'
    lines = csv_detect.sample_lines(data, profile.skip_lines, profile.comment)
    if not lines:
        raise MalformedData(f"{opened.where}: no row")
    if profile.comment is None and lines[0].startswith(("#", "//")):
        mark = "#" if lines[0].startswith("#") else "//"
        lines = [x for x in csv_detect.sample_lines(data, profile.skip_lines, mark) if not x.startswith(mark)]
        findings.append(Finding("comment", f'"{mark}"', "the first line begins with it"))
        base = base.model_copy(update={"comment": mark})
    elif profile.comment is not None:
        base = base.model_copy(update={"comment": profile.comment})
    if not lines:
        raise MalformedData(f"{opened.where}: comments and no row")
    separator = profile.separator
    if separator is None:
        separator, found = csv_detect.find_separator(lines, quote)
        findings.append(found)
    rows = [csv_detect.split(x, separator, quote) for x in lines]
    if profile.header_lines is not None:
        header_lines = profile.header_lines
    elif profile.header is False:
        header_lines = 0
    else:
        header_lines, found = csv_detect.find_header(rows)
        if profile.header is True and header_lines == 0:
            header_lines = 1
        if profile.header is None or header_lines > 1:
            findings.append(found)
    body = rows[header_lines:]
    if not body:
        raise MalformedData(f"{opened.where}: a header and no row")
    widths: dict[int, int] = {}
    for row in body:
        widths[len(row)] = widths.get(len(row), 0) + 1
    width = max(widths, key=lambda w: widths[w])
    layout = base.model_copy(
        update={"encoding": encoding, "separator": separator, "quote": quote, "header_lines": header_lines,
                "skip_lines": profile.skip_lines, "width": width}
    )  # fmt: skip
    grid = read_csv_grid(opened, data, encoding, layout)
    if profile.decimal is None or profile.thousands is None:
        decimal, thousands, maybe = _signs(grid, profile, separator)
        if maybe is not None:
            findings.append(maybe)
        layout = layout.model_copy(update={"decimal": decimal, "thousands": thousands})
    else:
        layout = layout.model_copy(update={"decimal": profile.decimal, "thousands": profile.thousands})
    return grid, layout


def _signs(grid: Grid, profile: Profile, separator: str) -> tuple[str, str, Finding | None]:
    import pyarrow.compute as pc

    tokens: list[str] = []
    for column in grid.columns:
        head = [str(x).strip() for x in column.slice(0, 500).to_pylist()]
        if all(csv_detect.is_number(x) for x in head if x) and not any(":" in x or "/" in x for x in head):
            tail = pc.unique(column.slice(max(0, len(column) - 500))).to_pylist()
            tokens += [
                x
                for x in (*head, *tail)
                if re.search(r"[.,]", str(x)) and not re.fullmatch(r"\d{1,4}[.]\d{1,2}[.]\d{1,4}", str(x))
            ]
    if profile.decimal is not None:
        other = "." if profile.decimal == "," else ","
        return profile.decimal, profile.thousands or (other if any(other in t for t in tokens) else "none"), None
    decimal, thousands, found = csv_detect.find_number_signs(tokens, separator) if tokens else (".", "none", None)
    if profile.thousands is not None:
        thousands = profile.thousands
    return decimal, thousands, found


# -- columns -------------------------------------------------------------------------------------------------------------


def _columns(grid: Grid, profile: Profile, layout: Layout, findings: list[Finding]) -> Layout:
    given = {k: v for k, v in profile.columns.model_dump().items() if v is not None}
    no_volume = given.get("volume") == "none"
    if no_volume:
        given.pop("volume")
    levels = _wide(grid)
    if levels is not None and not set(given) & set(FIELDS):
        time, blocks = levels
        said = ", ".join(b.symbol for b in blocks[:8])
        findings.append(Finding("columns", f"one group per symbol: {said}", f"{len(grid.header)} levels of column names"))
        return layout.model_copy(update={"time_columns": time, "blocks": blocks, "no_volume": no_volume})
    places = {k: _positions(grid, k, v) for k, v in given.items()}
    skipped = {*given, *(["volume"] if no_volume else [])}
    if not {"time", *PRICES} <= set(places):
        if grid.header:
            found, said_so = csv_detect.columns_by_name(grid.names, dict.fromkeys(skipped))
        else:
            found, said_so = _by_content(grid, layout)
            found = {k: v for k, v in found.items() if k not in skipped}
        places.update(found)
        findings += said_so
    elif grid.header:
        # Prices are given: a volume or a symbol with a plain name is taken as well.
        for name in ("volume", "symbol"):
            hits = [i for i, n in enumerate(grid.names) if csv_detect.field_of(n) == name]
            if name not in skipped and len(hits) == 1:
                places[name] = hits
                findings.append(Finding(f"columns.{name}", grid.names[hits[0]], "name in the header"))
    time = places.pop("time")
    symbol = places.pop("symbol", [None])[0]
    return layout.model_copy(
        update={"time_columns": time, "symbol_column": symbol, "no_volume": no_volume, "blocks": [Block(columns=places)]}
    )


def _positions(grid: Grid, key: str, given: Any) -> list[int]:
    wanted = given if isinstance(given, list) else [given]
    out = []
    for one in wanted:
        if isinstance(one, int):
            if one > len(grid.columns):
                raise MalformedData(f"{grid.where}: columns.{key} is {one}, the file has {len(grid.columns)} columns")
            out.append(one - 1)
            continue
        same = [i for i, n in enumerate(grid.names) if n == one] or [
            i for i, n in enumerate(grid.names) if n.strip().lower() == one.strip().lower()
        ]
        if len(same) != 1:
            have = ", ".join(n or "(no name)" for n in grid.names) if grid.header else "none: the file has no header"
            near = nearest(one, grid.names)
            hint = f"; did you mean {near!r}?" if near and not same else ""
            raise MalformedData(f"{grid.where}: columns.{key}: {len(same) or 'no'} column {one!r} (columns: {have}){hint}")
        out.append(same[0])
    return out


def _wide(grid: Grid) -> tuple[list[int], list[Block]] | None:
    """(time column, a block per symbol) of a table whose columns have two levels: field and symbol."""
    if len(grid.header) < 2:
        return None
    width = len(grid.columns)
    levels = [[*line, *[""] * (width - len(line))] for line in grid.header]
    known = [sum(1 for n in line[1:] if csv_detect.field_of(n) or csv_detect.plain(n).startswith("adj")) for line in levels]
    fields = levels[int(np.argmax(known))]
    others = [line for line in levels if line is not fields and any(n for n in line[1:])]
    if max(known) < 4 or len(others) != 1:
        return None
    symbols = others[0]
    at = [i for i in range(width) if csv_detect.field_of(fields[i]) in ("date", "time") or not symbols[i]]
    if at not in ([0], [width - 1]):
        at = [0]
    blocks: dict[str, dict[str, list[int]]] = {}
    for i in range(width):
        field = csv_detect.field_of(fields[i])
        if i in at or field not in FIELDS:
            continue
        block = blocks.setdefault(symbols[i], {})
        if field in block:
            raise Unclear(f"{grid.where}: {symbols[i]} has two columns for {field}", f"columns: {{{field}: {i + 1}}}")
        block[field] = [i]
    whole = [Block(symbol=s, columns=c) for s, c in blocks.items() if s and set(PRICES) <= set(c)]
    return (at, whole) if whole else None


def _by_content(grid: Grid, layout: Layout) -> tuple[dict[str, list[int]], list[Finding]]:
    from resources.feeds._layout import numbers

    step = max(1, grid.rows // 200)
    at = np.arange(0, grid.rows, step)[:200]
    cells = [[str(x) for x in c.take(at).to_pylist()] for c in grid.columns]
    values = [numbers(c.take(at), layout)[0] for c in grid.columns]
    rows = [[cells[j][i] for j in range(len(cells))] for i in range(len(at))]
    prices = [[float(values[j][i]) for j in range(len(cells))] for i in range(len(at))]
    return csv_detect.columns_by_content(rows, prices)


# -- symbols -------------------------------------------------------------------------------------------------------------


def _symbols(
    opened: Opened, grid: Grid, profile: Profile, layout: Layout, instruments: Instruments, findings: list[Finding]
) -> Layout:
    if layout.symbol_column is not None or any(b.symbol for b in layout.blocks):
        return layout
    if profile.symbol.fixed is not None:
        return layout.model_copy(update={"symbol": profile.symbol.fixed})
    names = list(dict.fromkeys([opened.given, opened.name]))
    if profile.symbol.file is not None:
        for name in names:
            found = re.search(profile.symbol.file, name, re.IGNORECASE)
            if found and found["symbol"]:
                return layout.model_copy(update={"symbol": found["symbol"]})
        raise UnknownSymbol(
            f"{opened.where}: the file's name does not fit symbol.file {profile.symbol.file!r} of the profile {profile.name}"
        )
    for name in names:
        stem = re.sub(r"(\.(csv|txt|parquet|pq|gz|zip|tsv|data))+$", "", name, flags=re.IGNORECASE)
        whole = match_symbol(stem, instruments)
        pieces = [*re.split(r"[^A-Za-z0-9^.]+", stem), *re.split(r"[^A-Za-z0-9^]+", stem)]
        tokens = [whole] if whole else list(dict.fromkeys(filter(None, (match_symbol(t, instruments) for t in pieces))))
        if len(tokens) == 1:
            findings.append(Finding("symbol", tokens[0], f"it stands in the file's name {name}"))
            return layout.model_copy(update={"symbol": tokens[0]})
        if len(tokens) > 1:
            raise Unclear(f"{name}: {' and '.join(tokens)} stand in the file's name", f"symbol: {{fixed: {tokens[0]}}}")
    raise Unclear(
        f"{opened.where}: no column and no part of the name is the feed_symbol of an instrument with `feed: files` "
        f"({_known(instruments)})", "symbol: {fixed: SYMBOL}",
    )  # fmt: skip


def _known(instruments: Instruments) -> str:
    shown = ", ".join(sorted(instruments)[:12]) + (", ..." if len(instruments) > 12 else "")
    return f"known: {shown}" if shown else "the universe has none"


def _present(grid: Grid, layout: Layout, instruments: Instruments) -> dict[str, tuple[Instrument, Any]]:
    """Instruments in the file and their rows. Raises UnknownSymbol naming the nearest when there is none."""
    there = rows_by_symbol(grid, layout)
    out = {}
    for name, (_, rows) in there.items():
        symbol = match_symbol(name, instruments)
        if symbol:
            fitting = [i for i in instruments[symbol] if i.native_timeframe is layout.timeframe] or list(instruments[symbol])
            out[symbol] = (fitting[0], rows)
    if not out:
        names = list(there)
        near = list(dict.fromkeys(filter(None, (nearest(n, instruments) for n in names[:20]))))
        said = ", ".join(repr(n) for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise UnknownSymbol(
            f"{grid.where}: symbol {said} is no feed_symbol of an instrument with `feed: files` in the universe"
            + (f"; nearest: {', '.join(near)}" if near else f" ({_known(instruments)})")
            + "; add the instrument to the universe, or map the name in the profile: symbol: {rename: {"
            + f"{names[0] if names else 'NAME'}: FEED_SYMBOL}}}}"
        )
    return out


# -- the rest ------------------------------------------------------------------------------------------------------------


def _adjustment(
    grid: Grid, profile: Profile, layout: Layout, present: Mapping[str, tuple[Instrument, Any]], findings: list[Finding]
) -> Layout:
    if layout.no_volume is False and not all("volume" in b.columns for b in layout.blocks):
        lacking = [i.symbol for i, _ in present.values() if i.has_volume]
        if lacking:
            raise Unclear(
                f"{grid.where}: no column is the volume of {lacking[0]}",
                "columns: {volume: none}  # 0 is stored, or the column's name",
            )
    kinds = {i.asset_class for i, _ in present.values()}
    touched = kinds & {AssetClass.EQUITY, AssetClass.FUTURE, AssetClass.OPTION}
    adjustment = profile.adjustment
    if adjustment is None:
        if touched:
            raise Unclear(
                f"{grid.where}: the file does not say whether the prices of {min(i.symbol for i, _ in present.values())} are raw "
                "or adjusted for splits and dividends; the lake stores raw prices", "adjustment: none",
            )  # fmt: skip
        adjustment = "none"
    if adjustment != "none" and touched and not profile.accept_adjusted:
        raise Unclear(
            f"{grid.where}: the prices are adjusted ({adjustment}), and the lake stores raw ones: corporate actions would be "
            "applied twice. Export unadjusted prices, or take them as they are", "accept_adjusted: true",
        )  # fmt: skip
    return layout.model_copy(update={"adjustment": adjustment})


def _check_timeframe(opened: Opened, layout: Layout, present: Mapping[str, tuple[Instrument, Any]]) -> None:
    wrong = [i for i, _ in present.values() if i.native_timeframe is not layout.timeframe]
    if wrong:
        one = wrong[0]
        raise MalformedData(
            f"{opened.where}: holds bars of {layout.timeframe}, {one.symbol} of the universe has native_timeframe "
            f"{one.native_timeframe}; expected files of {one.native_timeframe}"
        )
