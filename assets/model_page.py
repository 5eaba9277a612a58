"""The report of all models: one page and what the Dagster UI shows of it, made of what MLflow keeps."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from assets import model_outcome, model_run
from assets.common import markdown_table
from assets.model_train import registered_name
from ml import planted, promotion
from resources.model_files import ModelFiles
from resources.plots import data_uri, markdown_image
from resources.settings import Settings
from resources.tracking import CHALLENGER, CHAMPION, Tracking, TrackingError

PICTURES = ("targets.png", "equity.png", "forecast.png", "seeds.png")


def write_report(found: ModelFiles, universe: str, tracking: Tracking, settings: Settings) -> tuple[Path, str, dict[str, str]]:
    """(the page's path, overview, details by model as markdown). What MLflow does not know is said, not left out."""
    rows, details, blocks = [], {}, []
    for name, file in sorted(found.trainings.items()):
        registered = registered_name(file, planted.UNIVERSE if file.data == "planted" else universe)
        version = tracking.version_of(registered, CHALLENGER)
        if version is None:
            rows.append([name, file.kind, file.data, "never trained", "", "", "", ""])
            continue
        try:
            kept = json.loads(tracking.run_file(registered, version, model_outcome.REPORT_FILE))
            metrics = tracking.metrics(registered, version)
            pictures = _pictures(tracking, registered, version)
        except (TrackingError, ValueError) as error:
            rows.append([name, file.kind, file.data, f"version {version} cannot be read: {error}", "", "", "", ""])
            continue
        criteria = promotion.judge(metrics, kept.get("notes", {}))
        champion = tracking.version_of(registered, CHAMPION) or "none"
        passed = promotion.promoted(criteria)
        said = "✅ promoted" if passed else "❌ **rejected**: " + ", ".join(promotion.failed(metrics))
        data = f"**synthetic**: {kept['synthetic']}" if kept.get("synthetic") else "market"
        rows.append(
            [name, file.kind, data, said, f"version {version}", champion, _known(metrics.get("sharpe")),
             f"{metrics.get('trades', 0):.0f}"]
        )  # fmt: skip
        table = markdown_table(model_outcome.KPI_HEADER, kept["kpis"])
        gate = model_run.criteria_table(criteria)
        shown = "\n\n".join(markdown_image(pictures[p], p) for p in ("targets.png", "equity.png") if p in pictures)
        details[f"model_{name}"] = f"{said}\n\nData: {data}\n\n{table}\n\n{gate}\n\n{shown}"
        blocks.append(_block(name, data, said, registered, version, champion, kept, table, gate, pictures))
    header = ["model", "kind", "data", "gate", "newest", "champion", "Sharpe ratio a year", "trades"]
    overview = markdown_table(header, rows)
    if found.problems:
        overview += "\n\nNot used:\n\n" + "\n".join(f"- {p}" for p in found.problems)
    path = settings.path("reports", "models.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(_PAGE.format(overview=_html(overview), blocks="\n".join(blocks)), encoding="utf-8")
    draft.replace(path)
    return path, overview, details


def _pictures(tracking: Tracking, registered: str, version: str) -> dict[str, bytes]:
    # An agent has no forecast picture, a forecaster no seeds.
    return {name: png for name, png in tracking.run_files(registered, version, "figures").items() if name in PICTURES}


def _known(value: float | None) -> str:
    return "not known" if value is None or math.isnan(value) else f"{value:.2f}"


def _block(
    name: str, data: str, said: str, registered: str, version: str, champion: str, kept: dict[str, Any], table: str, gate: str,
    pictures: dict[str, bytes],
) -> str:  # fmt: skip
    parts = [
        f"<h2>{html.escape(name)}</h2>", f"<p>{html.escape(kept.get('description', ''))}</p>", _html(f"{said}\n\nData: {data}"),
        f"<p>{html.escape(registered)} version {html.escape(version)}, champion: {html.escape(champion)}</p>", _html(table),
    ]  # fmt: skip
    parts += [f'<img alt="{p}" src="{data_uri(pictures[p])}">' for p in PICTURES if p in pictures]
    sections = {
        "The gate": gate, "Against the baselines": kept["against"], "How much of it is luck": kept["luck"],
        "Costs": kept["ladder"], "Regimes": kept["regimes"], **kept["tables"],
    }  # fmt: skip
    for title, text in sections.items():
        parts.append(f"<h3>{html.escape(title)}</h3>{_html(text)}")
    return "\n".join(parts)


def _html(markdown: str) -> str:
    """Tables, bold words, list items and paragraphs of our own markdown; everything else is text."""
    out: list[str] = []
    rows: list[list[str]] = []

    def close() -> None:
        if rows:
            head, *body = rows
            cells = "".join(f"<th>{c}</th>" for c in head)
            lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in body)
            out.append(f"<table><tr>{cells}</tr>{lines}</table>")
            rows.clear()

    for line in markdown.splitlines():
        text = html.escape(line.strip())
        while text.count("**") >= 2:
            text = text.replace("**", "<b>", 1).replace("**", "</b>", 1)
        if text.startswith("|"):
            if set(text) <= set("|-"):
                continue
            rows.append([c.strip() for c in text.strip("|").replace("\\|", "¦").split("|")])
            continue
        close()
        if text:
            out.append(f"<p>{text}</p>")
    close()
    return "\n".join(out)


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Models</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:1100px;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;margin:.7rem 0}}td,th{{border:1px solid #e4e9ee;padding:.25rem .6rem;text-align:left}}
th{{background:#f5f7f9}}img{{max-width:100%;display:block;margin:1rem 0}}h2{{margin-top:3rem}}</style>
<h1>Models</h1>
{overview}
{blocks}
</html>
"""
