"""What a CSV file says about its own layout: separator, header, number signs, which column holds what.

Everything here either finds the one reading that fits or raises Unclear, which names the line to add to the profile.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resources.feeds.protocol import MalformedData

SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_LINES = 200
_MIN_FIELDS = 5  # a time and four prices
_NUMBER = re.compile(r"^[-+]?(?:\d[\d.,' ]*|[.,]\d+)(?:[eE][-+]?\d+)?$")


class Unclear(MalformedData):
    """The file can be read in more than one way. add: the line that decides it, for the profile."""

    def __init__(self, message: str, add: str) -> None:
        self.add = add
        super().__init__(f"{message}; add to the profile: {add}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was detected: what, its value as a profile would say it, and by which evidence."""

    what: str
    value: str
    evidence: str


def sample_lines(data: bytes, skip: int, comment: str | None) -> list[str]:
    """First lines that are neither skipped, blank nor comments. data: UTF-8 with \\n."""
    end = 0
    for _ in range(_SAMPLE_LINES + skip + 50):
        at = data.find(b"\n", end)
        if at < 0:
            end = len(data)
            break
        end = at + 1
    lines = data[:end].decode().split("\n")[skip:]
    return [x for x in lines if x.strip() and not (comment and x.startswith(comment))][:_SAMPLE_LINES]


def split(line: str, separator: str, quote: str) -> list[str]:
    """Fields of one line, blanks around them taken off."""
    return [f.strip() for f in next(csv.reader([line], delimiter=separator, quotechar=quote), [])]


def find_separator(lines: Sequence[str], quote: str) -> tuple[str, Finding]:
    """The one separator that cuts the lines into equally many fields, at least four of them numbers."""
    fitting: list[tuple[str, int]] = []
    for separator in SEPARATORS:
        rows = [split(line, separator, quote) for line in lines]
        widths = Counter(len(r) for r in rows[min(1, len(rows) - 1) :])
        width, count = widths.most_common(1)[0]
        if width < _MIN_FIELDS or count < 0.7 * sum(widths.values()):
            continue
        body = [r for r in rows[len(rows) // 2 :] if len(r) == width]
        cells = [[r[i] for r in body if r[i]] for i in range(width)]
        numeric = [bool(c) and sum(is_number(x) for x in c) >= 0.6 * len(c) for c in cells]
        if sum(numeric) >= 4:
            fitting.append((separator, width))
    if len(fitting) == 1:
        (separator, width) = fitting[0]
        return separator, Finding("separator", _shown(separator), f"cuts every sampled line into {width} fields")
    if not fitting:
        raise Unclear(
            f"no separator of {' '.join(_shown(s) for s in SEPARATORS)} cuts the lines into columns with at least four numbers "
            f"(first line: {lines[0][:80]!r})",
            'separator: ";"  # the character between columns',
        )
    named = " and ".join(f"{_shown(s)} ({w} fields)" for s, w in fitting)
    raise Unclear(f"both {named} could separate the columns", f"separator: {_shown(fitting[0][0])}")


def _shown(separator: str) -> str:
    return "tab" if separator == "\t" else f'"{separator}"'


def is_number(text: str) -> bool:
    return bool(_NUMBER.match(text))


def find_header(rows: Sequence[Sequence[str]]) -> tuple[int, Finding]:
    """Number of header lines. A line is a header when it names columns; several when a table has levels of names."""
    named = 0
    while named < min(4, len(rows)) and not any(is_number(c) or re.search(r"\d{4}", c) for c in rows[named]):
        named += 1
    known = max((_known_fields(row) for row in rows[:named]), default=0)
    if known >= 3:
        evidence = f"names of columns: {', '.join(rows[0][:6])}"
        return named, Finding("header", "true" if named == 1 else f"{named} lines", evidence)
    if _known_fields(rows[0]) >= 3:
        return 1, Finding("header", "true", f"names of columns: {', '.join(rows[0][:6])}")
    if any(is_number(c) for c in rows[0]):
        return 0, Finding("header", "false", "the first line already holds numbers")
    # Not one number: names, but perhaps unknown ones.
    if len(rows) > 1 and any(is_number(c) for c in rows[1]):
        return 1, Finding("header", "true", "the first line holds no number, the second does")
    raise Unclear(
        f"the first line is neither columns' names nor a row: {', '.join(rows[0])[:80]!r}",
        "skip_lines: 1  # lines before the table",
    )


def find_number_signs(tokens: Sequence[str], separator: str) -> tuple[str, str, Finding | None]:
    """(decimal sign, thousands sign or "none") of number texts."""
    commas = [t for t in tokens if "," in t]
    dots = [t for t in tokens if "." in t]
    both = [t for t in tokens if "," in t and "." in t]
    if both:
        last = {max(t.rfind(","), t.rfind(".")) == t.rfind(",") for t in both}
        if len(last) == 1:
            decimal = "," if last.pop() else "."
            thousands = "." if decimal == "," else ","
            return decimal, thousands, Finding("decimal", f'"{decimal}"', f"numbers such as {both[0]!r} have both signs")
    elif commas and dots:
        # Each sign alone in some numbers: the one that comes with other than three digits after it is the decimal sign.
        odd_commas = [t for t in commas if not _grouped(t, ",")]
        odd_dots = [t for t in dots if not _grouped(t, ".")]
        if bool(odd_commas) != bool(odd_dots):
            decimal, thousands = (",", ".") if odd_commas else (".", ",")
            return decimal, thousands, Finding("decimal", f'"{decimal}"', f"numbers such as {(odd_commas or odd_dots)[0]!r}")
    elif not commas:
        many = [t for t in dots if t.count(".") > 1]
        if many:
            if all(_grouped(t, ".") for t in dots):
                return ",", ".", Finding("thousands", '"."', f"numbers such as {many[0]!r}")
        elif not dots or separator == "," or not all(_grouped(t, ".") for t in dots):
            return ".", "none", None
    else:
        odd = [t for t in commas if not _grouped(t, ",")]
        if odd and all(t.count(",") == 1 for t in commas):
            return ",", "none", Finding("decimal", '","', f"numbers such as {odd[0]!r}")
        if not odd and any(t.count(",") > 1 for t in commas):
            return ".", ",", Finding("thousands", '","', f"numbers such as {max(commas, key=lambda t: t.count(','))!r}")
    example = (both or commas or dots)[0]
    raise Unclear(f"the signs in {example!r} can be read in two ways", 'decimal: "."  # and thousands: ","')


def _grouped(token: str, sign: str) -> bool:
    return bool(re.fullmatch(rf"[-+]?\d{{1,3}}(?:{re.escape(sign)}\d{{3}})+", token))


# -- which column holds what ---------------------------------------------------------------------------------------------

ALIASES: dict[str, tuple[str, ...]] = {
    "open": ("open", "o", "openprice", "priceopen", "opening", "openbid", "bidopen"),
    "high": ("high", "h", "highprice", "pricehigh", "max", "highbid", "bidhigh"),
    "low": ("low", "l", "lowprice", "pricelow", "min", "lowbid", "bidlow"),
    "close": ("close", "c", "closeprice", "priceclose", "last", "closing", "closelast", "closebid", "bidclose"),
    "volume": ("volume", "vol", "v", "volumes", "totalvolume", "shares", "volumebtc"),
    "turnover": ("turnover", "amount", "quotevolume", "quoteassetvolume", "volumeusd", "volumeusdt"),
    "vwap": ("vwap", "vw", "wap", "weightedaverageprice"),
    "trades": ("trades", "transactions", "numberoftrades", "tradecount", "tradescount", "count", "n"),
    "symbol": ("symbol", "ticker", "sym", "instrument", "code", "tic", "rawsymbol", "name"),
    "date": ("date", "dtyyyymmdd", "day", "tradedate", "session", "tradingday", "yyyymmdd"),
    "time": ("datetime", "timestamp", "dateandtime", "datetimeutc", "tsevent", "windowstart", "opentime", "gmttime", "localtime",
             "index", "indexlevel0", "unnamed0", "ts", "t", "unix", "unixtimestamp"),
    "clock": ("time", "timeofday", "hour", "clock"),
    "adjusted": ("adjclose", "adjustedclose", "adjopen", "adjhigh", "adjlow", "adjvolume", "adjustedvolume"),
}  # fmt: skip
"""Field -> names vendors give its column, without case, blanks and signs."""
_BY_ALIAS = {alias: name for name, aliases in ALIASES.items() for alias in aliases}


def plain(name: str) -> str:
    """``<OPEN>``, ``1. open``, `` Open `` -> ``open``."""
    text = re.sub(r"^\d+\.\s*", "", name.strip().lower())
    return re.sub(r"[^a-z0-9]", "", text)


def field_of(name: str) -> str:
    """Field a column name stands for, or ""."""
    return _BY_ALIAS.get(plain(name), "")


def _known_fields(row: Sequence[str]) -> int:
    return len({field_of(c) for c in row} - {""})


def columns_by_name(names: Sequence[str], given: Mapping[str, object]) -> tuple[dict[str, list[int]], list[Finding]]:
    """Field -> column positions of a header. given: fields the profile maps itself; they are not looked for.

    Raises Unclear when two columns could be one field, or a price has no column.
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        field = field_of(name)
        if field:
            found.setdefault(field, []).append(i)
    out: dict[str, list[int]] = {}
    if "time" not in given:
        out["time"] = _time_columns(names, found)
    for field in ("open", "high", "low", "close", "volume", "turnover", "vwap", "trades", "symbol"):
        if field in given:
            continue
        places = found.get(field, [])
        if len(places) > 1:
            both = ", ".join(repr(names[i]) for i in places)
            raise Unclear(f"columns {both} could both be {field}", f"columns: {{{field}: {names[places[0]]}}}")
        if places:
            out[field] = places
        elif field in ("open", "high", "low", "close"):
            raise Unclear(
                f"no column is {field} (columns: {', '.join(n or '(no name)' for n in names)})", f"columns: {{{field}: NAME}}"
            )
    named = ", ".join(f"{f}: {' + '.join(names[i] or '(no name)' for i in places)}" for f, places in out.items())
    return out, [Finding("columns", "{" + named + "}", "names in the header")] if out else []


def _time_columns(names: Sequence[str], found: Mapping[str, list[int]]) -> list[int]:
    date, whole, clock = found.get("date", []), found.get("time", []), found.get("clock", [])
    if len(date) == 1 and len(clock) == 1 and not whole:
        return [date[0], clock[0]]
    single = [*whole, *date, *clock]
    if len(single) == 1:
        return single
    if not single and names and not names[0].strip():
        return [0]  # a data frame's index without a name
    if not single:
        raise Unclear(f"no column is the time (columns: {', '.join(names)})", "columns: {time: NAME}")
    both = ", ".join(repr(names[i]) for i in single)
    raise Unclear(f"columns {both} could each be the time", f"columns: {{time: {names[single[0]]}}}")


def columns_by_content(
    rows: Sequence[Sequence[str]], prices: Sequence[Sequence[float]]
) -> tuple[dict[str, list[int]], list[Finding]]:
    """Field -> positions of a file without a header: time column(s), then open, high, low, close[, volume].

    rows: sampled lines. prices: the same cells as numbers, NaN where they are none. That columns 2 and 3 of the four are the
    high and the low is seen in every row; that the first is the open is seen by each open lying nearer to the close before it.
    """
    width = len(rows[0])
    times = 0
    while times < width and times < 2 and _looks_like_time(rows, times):
        times += 1
    if times == 0:
        raise Unclear(
            "the file has no header and its first column is no time", "columns: {time: 1, open: 2, high: 3, low: 4, close: 5}"
        )
    rest = width - times
    example = "columns: {time: 1, open: 2, high: 3, low: 4, close: 5, volume: 6}"
    if rest not in (4, 5):
        raise Unclear(
            f"the file has no header and {rest} columns after the time; open, high, low, close, volume expected", example
        )
    o, h, low, c = ([r[times + i] for r in prices] for i in range(4))
    for values in zip(o, h, low, c, strict=True):
        if not (values[1] >= max(values) and values[2] <= min(values)):
            raise Unclear("the file has no header and its columns are not open, high, low, close in this order", example)
    forth = sum(abs(a - b) for a, b in zip(o[1:], c, strict=False))
    back = sum(abs(a - b) for a, b in zip(o, c[1:], strict=False))
    descending = list(rows[0][:times]) > list(rows[-1][:times])
    if descending:
        forth, back = back, forth
    if not forth < 0.8 * back:
        raise Unclear("the file has no header, and the rows do not show which column is the open and which the close", example)
    names = ("open", "high", "low", "close", "volume")[:rest]
    out = {"time": list(range(times)), **{n: [times + i] for i, n in enumerate(names)}}
    said = ", ".join(f"{n}: {[p + 1 for p in ps] if len(ps) > 1 else ps[0] + 1}" for n, ps in out.items())
    return out, [Finding("columns", "{" + said + "}", "high and low bound every sampled row, opens follow closes")]


def _looks_like_time(rows: Sequence[Sequence[str]], i: int) -> bool:
    cells = [r[i] for r in rows]
    if all((re.search(r"\d[-/.:]\d", c) and not is_number(c)) or re.search(r"\d[-/:]\d", c) for c in cells):
        return True
    digits = all(re.fullmatch(r"\d{6}|\d{8}(?: \d{4,6})?|\d{10}|\d{12,14}|\d{16}|\d{19}", c) for c in cells)
    return digits and (i == 0 or all(re.fullmatch(r"\d{4}|\d{6}", c) for c in cells))
