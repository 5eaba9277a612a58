"""Stamps of vendor files: texts and epochs to microseconds, wall clocks to UTC, with everything odd named per row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._csv_detect import Finding, Unclear
from resources.feeds._profiles import zone_parts
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, US_PER_SECOND

Stamps = NDArray[np.int64]
Mask = NDArray[np.bool_]

EPOCH_UNITS = {"s": US_PER_SECOND, "ms": 1000, "us": 1, "ns": -1000}
"""Microseconds of a unit; negative: units in a microsecond."""
_EARLIEST, _LATEST = 631_152_000, 2_082_758_400  # 1990-01-01 and 2036-01-01 in seconds
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_GROUPS = {
    "Y": r"(?P<Y>\d{4})", "y": r"(?P<y>\d{2})", "m": r"(?P<m>\d{1,2})", "d": r"(?P<d>\d{1,2})", "b": r"(?P<b>[A-Za-z]{3,9})\.?",
    "H": r"(?P<H>\d{1,2})", "I": r"(?P<I>\d{1,2})", "M": r"(?P<M>\d{2})", "S": r"(?P<S>\d{2})", "f": r"(?P<f>\d{1,9})",
    "p": r"(?P<p>[AaPp]\.?[Mm]\.?)", "z": r"(?P<z>Z|UTC|GMT|(?:UTC|GMT)?[+-]\d{2}:?(?:\d{2})?)",
}  # fmt: skip
_ISO = (
    r"^(?P<Y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})(?:[T ](?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?)?"
    r" ?(?P<z>Z|UTC|[+-]\d{2}:?(?:\d{2})?)?$"
)
_DATES = ("%Y%m%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%m.%d.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y",
          "%b %d, %Y", "%d %b %Y", "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%m-%d-%y", "%d-%m-%y", "%d-%b-%y", "%y%m%d",
          "%b-%d-%Y")  # fmt: skip
_CLOCKS = (
    "",
    " %H:%M",
    " %H:%M:%S",
    " %H:%M:%S.%f",
    " %H:%M:%S.%f %z",
    " %H:%M:%S %z",
    " %H%M%S",
    " %H%M",
    " %I:%M %p",
    " %I:%M:%S %p",
)
FORMATS = ("iso", *(d + c for d in _DATES for c in _CLOCKS), "%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y.%m.%d,%H:%M")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Times of texts. us: int64; for rows in `bad` meaningless. zoned: the texts carry their offset, us is UTC."""

    us: Stamps
    bad: Mask
    zoned: bool
    has_clock: bool


@lru_cache(maxsize=256)
def _pattern(time_format: str) -> str:
    if time_format == "iso":
        return _ISO
    out, i = "", 0
    padded = re.search(r"%H%M", time_format) is not None or re.search(r"%m%d|%d%m", time_format) is not None
    while i < len(time_format):
        if time_format[i] == "%" and i + 1 < len(time_format):
            code = time_format[i + 1]
            group = "%" if code == "%" else _GROUPS[code]
            # Digits without signs between them must all be there: 12345 is no time of day.
            out += group.replace(r"\d{1,2}", r"\d{2}") if padded and code in "mdHI" else group
            i += 2
        else:
            out += re.escape(time_format[i]) if time_format[i] != " " else " +"
            i += 1
    return f"^{out}$"


def parse_times(texts: Any, time_format: str) -> Parsed:
    """Times of an Arrow string array in `time_format` (``iso`` or strptime-like). A date that does not exist is bad."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if time_format == "iso":
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                us = pc.cast(texts, kind).cast(pa.int64()).to_numpy(zero_copy_only=False)
            except pa.ArrowException:
                continue
            if texts.null_count == 0:
                clock = kind.tz is not None or bool((us % US_PER_DAY).any()) or bool(pc.max(pc.utf8_length(texts)).as_py() > 10)
                return Parsed(us, np.zeros(len(us), bool), kind.tz is not None, clock)
    halves = _halves(texts, time_format)
    if halves is not None:
        date_format, clock_format = time_format.split(" ")
        date, of_day = parse_times(halves[0], date_format), parse_times(halves[1], clock_format)
        return Parsed(date.us + of_day.us, date.bad | of_day.bad, False, True)
    coded = pc.dictionary_encode(texts)
    one = _parse_unique(coded.dictionary, time_format)
    index = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    if len(one.us) == 0:
        return Parsed(np.zeros(len(texts), np.int64), np.ones(len(texts), bool), False, one.has_clock)
    nulls = texts.is_null().to_numpy(zero_copy_only=False)
    return Parsed(one.us[index], one.bad[index] | nulls, one.zoned, one.has_clock)


def _halves(texts: Any, time_format: str) -> tuple[Any, Any] | None:
    """Date and time of day apart: each comes many times, so that far fewer texts are to be read. None: not of that form."""
    import pyarrow.compute as pc

    if time_format.count(" ") != 1 or "%z" in time_format or "%p" in time_format or len(texts) < 1000 or texts.null_count:
        return None
    parts = pc.split_pattern(texts, " ", max_splits=1)
    if not pc.all(pc.equal(pc.list_value_length(parts), 2)).as_py():
        return None
    return pc.list_element(parts, 0), pc.list_element(parts, 1)


def _parse_unique(texts: Any, time_format: str) -> Parsed:
    import pyarrow as pa
    import pyarrow.compute as pc

    pattern = _pattern(time_format)
    groups = pc.extract_regex(pc.utf8_trim_whitespace(texts), pattern)
    bad = groups.is_null().to_numpy(zero_copy_only=False)
    names = {groups.type.field(i).name for i in range(groups.type.num_fields)}

    def part(name: str, default: int) -> NDArray[np.int64]:
        if name not in names:
            return np.full(len(texts), default, np.int64)
        text = pc.struct_field(groups, name)
        text = pc.if_else(pc.equal(pc.utf8_length(text.fill_null("")), 0), str(default), text.fill_null(str(default)))
        return pc.cast(text, pa.int64()).to_numpy(zero_copy_only=False).copy()

    def words(name: str) -> NDArray[Any]:
        return np.array([str(x or "").lower() for x in pc.struct_field(groups, name).to_pylist()])

    year = part("Y", 1970)
    if "y" in names:
        short = part("y", 0)
        year = np.where(short < 70, 2000 + short, 1900 + short)
    month = part("m", 1)
    if "b" in names:
        table = {m: i + 1 for i, m in enumerate(_MONTHS)}
        month = np.array([table.get(w[:3], 0) for w in words("b")], np.int64)
    day, hour, minute, second = part("d", 1), part("H", 0), part("M", 0), part("S", 0)
    if "I" in names:
        twelve = part("I", 12)
        bad = bad | (twelve < 1) | (twelve > 12)
        afternoon = np.array([w.startswith("p") for w in words("p")], bool) if "p" in names else np.zeros(len(texts), bool)
        hour = twelve % 12 + 12 * afternoon
    bad = bad | (month < 1) | (month > 12) | (year < 1900) | (year > 2100)
    first = (np.where(bad, 1970, year).astype("datetime64[Y]").astype(np.int64) * 0) + (np.where(bad, 1970, year) - 1970) * 12
    months = (first + np.where(bad, 1, month) - 1).astype("datetime64[M]")
    start = months.astype("datetime64[D]").astype(np.int64)
    length = (months + 1).astype("datetime64[D]").astype(np.int64) - start
    bad = bad | (day < 1) | (day > length) | (minute > 59) | (second > 59)
    midnight_after = (hour == 24) & (minute == 0) & (second == 0)
    bad = bad | ((hour > 23) & ~midnight_after)
    us = (start + day - 1) * US_PER_DAY + (hour * 60 + minute) * US_PER_MINUTE + second * US_PER_SECOND
    if "f" in names:
        digits = [str(x or "")[:6].ljust(6, "0") for x in pc.struct_field(groups, "f").to_pylist()]
        us = us + np.array(digits, np.int64)
    zoned = False
    if "z" in names:
        offsets = pc.struct_field(groups, "z").to_pylist()
        have = np.array([bool(x) for x in offsets])
        zoned = bool(have.any())
        if zoned:
            us = us - np.array([_offset_us(x) for x in offsets], np.int64)
            bad = bad | ~have
    return Parsed(us, bad, zoned, bool({"H", "I"} & names) and (time_format != "iso" or bool((us % US_PER_DAY).any())))


def _offset_us(text: str | None) -> int:
    text = (text or "").removeprefix("UTC").removeprefix("GMT")
    if text in ("", "Z"):
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return (-minutes if text[0] == "-" else minutes) * US_PER_MINUTE


def find_format(texts: Any) -> tuple[str, str, Finding]:
    """(format or "", epoch unit or "", finding) of an Arrow string array: the one reading that fits every row.

    Raises Unclear when several fit (01/02/2024) or none.
    """
    import pyarrow.compute as pc

    unique = pc.unique(texts.drop_null())
    if len(unique) == 0:
        raise Unclear("the time column is empty", "columns: {time: NAME}")
    head = unique.slice(0, 50)
    numeric = bool(pc.all(pc.match_substring_regex(head, r"^\d{9,19}(\.\d+)?$")).as_py())
    if numeric:
        unit = epoch_unit(float(pc.min(pc.cast(head, "float64")).as_py()), float(pc.max(pc.cast(head, "float64")).as_py()))
        if unit:
            return "", unit, Finding("time.epoch", unit, f"{head[0]} is a moment between 1990 and 2035 only in {unit}")
    first = [str(x).strip() for x in head.slice(0, 5).to_pylist()]
    # Hundreds of formats: only those whose pattern fits one of the first stamps are tried in earnest.
    likely = [f for f in FORMATS if any(re.match(_pattern(f), x) for x in first)]
    fitting = [f for f in likely if _share_bad(head, f) < 0.5]
    best = 0.0
    if len(fitting) > 1:
        # A format whose bad rows another one does not have is not the file's; two with about as many stay undecided.
        shares = {f: _share_bad(unique, f) for f in fitting}
        best = min(shares.values())
        fitting = [f for f, share in shares.items() if share <= (best + 0.05 if best else 0.0)]
    if len(fitting) == 1:
        why = f"fits {unique[0]} and every other row" if best == 0 else f"fits {unique[0]} and most rows"
        return fitting[0], "", Finding("time.format", f'"{fitting[0]}"', why)
    if not fitting:
        raise Unclear(
            f"no known time format fits {head[0].as_py()!r}", 'time: {format: "%Y-%m-%d %H:%M:%S"}  # as the file has it'
        )
    named = " and ".join(fitting)
    raise Unclear(f"{head[0].as_py()!r} and every other row fit {named}: day and month cannot be told apart",
                  f'time: {{format: "{fitting[0]}"}}')  # fmt: skip


def _share_bad(unique: Any, time_format: str) -> float:
    return float(parse_times(unique, time_format).bad.mean())


def epoch_unit(low: float, high: float) -> str:
    """Unit in which [low, high] lies between 1990 and 2035; "" when in none. The ranges of the units do not touch."""
    for unit, per_second in (("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)):
        if _EARLIEST * per_second <= low and high < _LATEST * per_second:
            return unit
    return ""


def from_epoch(values: NDArray[Any], unit: str) -> Stamps:
    """UTC us of epoch numbers in `unit`. Fractions (seconds with decimals) are kept to the microsecond."""
    factor = EPOCH_UNITS[unit]
    if np.issubdtype(values.dtype, np.integer):
        return (values.astype(np.int64) // -factor) if factor < 0 else values.astype(np.int64) * factor
    scaled = values / -factor if factor < 0 else values * factor
    return np.rint(scaled).astype(np.int64)


def to_utc(local: Stamps, zone: str, ambiguous: str, nonexistent: str) -> tuple[Stamps, Mask, Mask]:
    """(UTC us, bad because the wall-clock time comes twice, bad because it never comes) of wall-clock us in `zone`.

    zone: a name, an offset, or a name with a shift (a broker's clock that runs 7 hours before New York).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    name, shift = zone_parts(zone)
    local = local - shift * US_PER_MINUTE
    none = np.zeros(len(local), bool)
    if name in ("UTC", "Etc/UTC", "GMT"):
        return local, none, none
    naive = pa.array(local, pa.int64()).cast(pa.timestamp("us"))

    def assume(which: str) -> Stamps:
        utc: Stamps = (
            pc.assume_timezone(naive, name, ambiguous=which, nonexistent=which).cast(pa.int64()).to_numpy(zero_copy_only=False)
        )
        return utc

    early, late = assume("earliest"), assume("latest")
    odd = early != late
    if not odd.any():
        return early, none, none
    # Arrow answers two different moments for both kinds of odd time: one that never comes does not come back as itself.
    back = (
        pc.local_timestamp(pa.array(early, pa.int64()).cast(pa.timestamp("us", name)))
        .cast(pa.int64())
        .to_numpy(zero_copy_only=False)
    )
    gone = odd & (back != local)
    twice = odd & ~gone
    out = early.copy()
    if nonexistent == "shift":
        out[gone] = late[gone]
        gone = none
    if ambiguous == "latest":
        out[twice], twice = late[twice], none
    elif ambiguous == "earliest":
        twice = none
    elif ambiguous == "order":
        second = _second_pass(local, twice)
        out[second] = late[second]
        twice = none
    return out, twice, gone


def _second_pass(local: Stamps, twice: Mask) -> Mask:
    """Rows of the repeated hour that come after the clock went back: the local time falls inside an ascending file."""
    second = np.zeros(len(local), bool)
    at = np.flatnonzero(twice)
    for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1):
        fell = np.flatnonzero(np.diff(local[run]) <= 0)
        if len(fell):
            second[run[fell[0] + 1 :]] = True
    return second
