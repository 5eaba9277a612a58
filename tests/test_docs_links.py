"""Every relative link of README and docs leads somewhere: the file is there, and so is the heading it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:")


def text_of(page: Path) -> str:
    """The page without its code blocks: what looks like a link there is none."""
    return re.sub(r"`[^`\n]*`", "", CODE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+\s+(.*?)\s*$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        again = found.get(slug, 0)
        found[slug] = again + 1
        names.add(f"{slug}-{again}" if again else slug)
    return names


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """Links of a page that lead nowhere, and why."""
    wrong = []
    for target in LINK.findall(text_of(page)):
        if ELSEWHERE.match(target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists():
            wrong.append(f"{target}: no such file")
        elif not place.is_relative_to(root):
            wrong.append(f"{target}: outside the project")
        elif anchor and (place.suffix != ".md" or anchor not in anchors(place)):
            wrong.append(f"{target}: no such heading in {place.name}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_resolves(page: Path) -> None:
    assert broken(page) == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        for target in LINK.findall(text_of(page)):
            if not ELSEWHERE.match(target) and target.partition("#")[0]:
                waiting.append((page.parent / target.partition("#")[0]).resolve())
    assert set(PAGES) - seen == set()


def test_every_picture_is_shown_somewhere() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in LINK.findall(text_of(page))
        if not ELSEWHERE.match(target)
    }
    assert [p.name for p in sorted((ROOT / "docs" / "images").rglob("*.png")) if p not in shown] == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n\n[a](#one-heading) [b](#another) [c](nothing.md) `[d](code.md)`\n\n```\n[e](x.md)\n```\n")
    assert broken(page, tmp_path) == ["#another: no such heading in page.md", "nothing.md: no such file"]
