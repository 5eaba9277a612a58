"""One HTML page with every table and picture research has of a revision. No scripts, nothing fetched from elsewhere."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Final

from resources.plots import data_uri
from resources.research_store import ResearchStore

_PARTS: Final = (
    ("promotion", "Is it to be believed?", ()),
    ("baselines", "Against what else there was", ("baselines", "splits")),
    ("monte_carlo", "Other ways it could have gone", ("monte_carlo",)),
    ("grid", "Its neighbours", ("grid",)),
    ("walk_forward", "Chosen before, tested after", ("walk_forward",)),
    ("perturbed", "On moved bars", ("perturbed",)),
)

_STYLE: Final = """body{font:14px/1.45 system-ui,sans-serif;color:#1c2733;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-size:13px}
td,th{padding:.25em .7em;border-bottom:1px solid #e4e9ee;text-align:left}th{color:#6b7a89;font-weight:600}
img{max-width:100%}.no{color:#b3261e}.yes{color:#14804a}.stamp{color:#b3261e;font-weight:600}"""


def write_page(store: ResearchStore, name: str, revision: str, simulated: bool) -> Path:
    """Write ``report.html`` beside the figures of a revision; what was not computed is said."""
    parts = [f"<h1>{html.escape(name)} <small>revision {revision}</small></h1>"]
    if simulated:
        parts.append('<p class="stamp">SIMULATED market data</p>')
    pictures = dict(store.pictures(name, revision))
    for kind, heading, wanted in _PARTS:
        parts.append(f"<h2>{heading}</h2>")
        kept = store.get(name, revision, kind)
        if kept is None:
            parts.append("<p>Not computed for this revision (job research_deep).</p>")
            continue
        parts.append(_table(kept["header"], kept["rows"]))
        parts += [f'<p><img alt="{p}" src="{data_uri(pictures[p])}"></p>' for p in wanted if p in pictures]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(name)}: research</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    return store.put_file(name, revision, "report.html", page.encode())


def _table(header: list[Any], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{html.escape(str(h))}</th>" for h in header)
    return f"<table><tr>{head}</tr>{''.join('<tr>' + ''.join(_cell(c) for c in row) + '</tr>' for row in rows)}</table>"


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    kind = {"met": ' class="yes"', "not met": ' class="no"', "unknown: fails": ' class="no"'}.get(text, "")
    return f"<td{kind}>{html.escape(text)}</td>"
