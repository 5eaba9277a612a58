"""Reports of the inbox: what a file was read as, which lines are no bars, and what to do. Markdown beside the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._csv_detect import Finding
from resources.feeds._file_bars import Judged, SymbolBars
from resources.feeds._file_index import Accepted
from resources.feeds._layout import Layout
from resources.feeds._profiles import LoadedProfile
from trading.timeframes import from_us, iso

SUFFIX = ".report.md"
MAX_LINES = 100


@dataclass
class Check:
    """What reading one file came to. profile: the one used, or the name asked for when none could be used.

    refusal: why it is not taken, "" when it is; add: the line for the profile that would decide it. problems: of the
    profiles that cannot be used. replaces: sessions earlier files held. beyond: about sessions the universe does not keep.
    """

    name: str
    profile: LoadedProfile | str
    sha256: str = ""
    size: int = 0
    kind: str = ""
    layout: Layout | None = None
    findings: list[Finding] = field(default_factory=list)
    judged: Judged | None = None
    refusal: str = ""
    add: str = ""
    problems: list[str] = field(default_factory=list)
    replaces: list[str] = field(default_factory=list)
    beyond: str = ""

    @property
    def profile_name(self) -> str:
        return self.profile.name if isinstance(self.profile, LoadedProfile) else self.profile

    @property
    def profile_revision(self) -> str:
        return self.profile.revision if isinstance(self.profile, LoadedProfile) else ""

    @property
    def quarantines(self) -> bool:
        return isinstance(self.profile, LoadedProfile) and self.profile.profile.on_bad_rows == "quarantine"

    @property
    def placed(self) -> int:
        """Bad rows with a time and a session: what a quarantine can keep."""
        return sum(len(b.doubtful_lines) for b in self.judged.symbols.values()) if self.judged else 0

    @property
    def quarantines_all(self) -> bool:
        return self.judged is not None and self.placed >= self.judged.bad_count


def held_rows(bars: SymbolBars, quarantines: bool) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(close_time, session) of the rows the feed will tell: the good ones, and with a quarantine the doubtful ones."""
    times, sessions = bars.columns.close_time, bars.columns.session
    if quarantines and len(bars.doubtful_lines):
        times = np.concatenate([times, bars.doubtful.close_time])
        sessions = np.concatenate([sessions, bars.doubtful.session])
        order = np.argsort(times, kind="stable")
        times, sessions = times[order], sessions[order]
    return times, sessions


def accepted(check: Check, entry: Accepted) -> str:
    """Report of an accepted file."""
    rows = [
        [held.instrument, symbol, held.rows, f"{held.runs[0][0]} to {held.runs[-1][1]}"] for symbol, held in entry.symbols.items()
    ]
    parts = [
        f"# Accepted: {check.name}",
        f"Accepted {_when(entry.accepted_wall)} as `{entry.path}`, number {entry.order} of the index.",
        _file(check),
        "## Bars\n\n" + _table(["instrument", "feed symbol", "rows", "sessions"], rows),
        "Its sessions are ingested by a run of the job `ingest`; materialising them again reads this file again.",
    ]
    if check.beyond:
        parts.append(check.beyond)
    if check.replaces:
        parts.append(
            "## Replaces\n\nWhere accepted files overlap, the newest answers.\n\n" + "\n".join(f"- {r}" for r in check.replaces)
        )
    if check.judged is not None and check.judged.bad_count:
        parts.append("Rows the profile puts into quarantine; `tapeline quality quarantine list` shows them after the ingest.")
    return "\n\n".join([*parts, *_common(check)]) + "\n"


def rejected(check: Check, wall: int) -> str:
    """Report of a refused file."""
    parts = [f"# Rejected: {check.name}", f"Refused {_when(wall)}.", f"**{check.refusal}**"]
    if check.add:
        parts.append(f"Add to the profile in `data/config/feeds/`:\n\n    {check.add}")
        if not check.profile_revision:
            parts.append(
                "No profile fits this file yet. Write one, for example `data/config/feeds/my_vendor.yaml`:\n\n"
                f'    name: my_vendor\n    match: {{files: ["{check.name}"]}}\n    {check.add}'
            )
    parts.append(f"Then run `tapeline inbox retry {check.sha256[:12]}-{check.name}`, or drop a mended file.")
    if check.problems:
        parts.append("## Profiles that cannot be used\n\n" + "\n".join(f"- {p}" for p in check.problems))
    return "\n\n".join([*parts, _file(check), *_common(check)]) + "\n"


def _file(check: Check) -> str:
    revision = f" (revision {check.profile_revision})" if check.profile_revision else ""
    rows: list[list[Any]] = [
        ["sha256", check.sha256], ["size", f"{check.size} bytes"], ["kind", check.kind or "unknown"],
        ["profile", f"{check.profile_name or 'none'}{revision}"],
    ]  # fmt: skip
    if check.layout is not None:
        one = check.layout
        rows += [
            ["timeframe", one.timeframe],
            ["zone", one.zone or "dates only"],
            ["stamp", one.stamp],
            ["adjustment", one.adjustment],
        ]
    if check.judged is not None:
        rows.append(["rows", check.judged.rows])
    return "## File\n\n" + _table(["what", "value"], rows)


def _common(check: Check) -> list[str]:
    parts = []
    if check.findings:
        found = [[f.what, f"`{f.value}`", f.evidence] for f in check.findings]
        parts.append(
            "## Detected\n\nThe profile leaves this open; the file answers it.\n\n" + _table(["key", "value", "because"], found)
        )
    judged = check.judged
    if judged is None:
        return parts
    if judged.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {n}" for n in judged.notes))
    if judged.unknown:
        shown = ", ".join(f"{s} ({n})" for s, n in list(judged.unknown.items())[:30])
        more = f" and {len(judged.unknown) - 30} more" if len(judged.unknown) > 30 else ""
        parts.append(f"## Symbols not in the universe\n\nTheir rows are not read: {shown}{more}.")
    if judged.bad_count:
        counts = Counter(b.reason for b in judged.bad)
        more = f"; the first {MAX_LINES} are shown" if judged.bad_count > MAX_LINES else ""
        lines = [[b.line, b.symbol, f"`{b.text}`", b.reason, b.advice] for b in judged.bad[:MAX_LINES]]
        parts.append(
            f"## Bad rows\n\n{judged.bad_count} of {judged.rows}{more}.\n\n"
            + _table(["what is wrong", "rows"], [[r, n] for r, n in counts.most_common()])
            + "\n\n"
            + _table(["line", "symbol", "text", "what is wrong", "what to do"], lines)
        )
    if judged.left_out:
        lines = [[x.symbol, x.where, x.reason] for x in judged.left_out[:MAX_LINES]]
        parts.append("## Left out\n\nThese rows are no bars of a session.\n\n" + _table(["symbol", "where", "why"], lines))
    return parts


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(_cell(c) for c in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *lines])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _when(wall: int) -> str:
    return from_us(wall).strftime("%Y-%m-%d %H:%M:%S UTC")


def reason_of(path: Path) -> str:
    """Why a refused file was refused, from the report beside it; "" when it is not there."""
    try:
        lines = path.with_name(path.name + SUFFIX).read_text(encoding="utf-8").split("\n")
    except OSError:
        return ""
    return next((x.strip("*") for x in lines if x.startswith("**")), "")


def first_bars(bars: SymbolBars, count: int) -> list[list[str]]:
    """The first bars as text: close, session prices and volume."""
    c = bars.columns
    return [
        [iso(int(c.close_time[i])), *(f"{float(v[i]):.10g}" for v in (c.open, c.high, c.low, c.close, c.volume))]
        for i in range(min(count, len(c.close_time)))
    ]
