"""Two revisions of one strategy or plan on identical bars. Called by the asset and by `tapeline research compare`."""

from __future__ import annotations

from dataclasses import dataclass

from assets.kept_revisions import read_revision
from assets.research_figures import Shown
from assets.research_run import NotRun, prepare
from assets.research_verdicts import compare
from resources.config import Config
from resources.lake import Lake
from resources.research_store import ResearchStore, Revision, difference
from trading.strategy import Evaluable


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """a, b: the revisions. diff: unified, of the files; empty where they are the same."""

    a: Revision
    b: Revision
    shown: Shown
    diff: str


def compare_revisions(
    name: str, revision_a: str, revision_b: str, config: Config, lake: Lake, cash: float, store: ResearchStore
) -> Comparison:
    """Compare the revisions of `name` whose hashes begin so. The bars are read once, both are evaluated on them.

    Raises UnknownRevision (LookupError), or ValueError when a revision cannot be used any more or has no bars.
    """
    a, b = store.revision(name, revision_a), store.revision(name, revision_b)
    one = prepare(_parsed(a, config), config, lake, cash)
    if isinstance(one, NotRun):
        raise ValueError(f"{name} {a.revision}: {one.reason}")
    other = prepare(_parsed(b, config), config, lake, cash, one.windows)
    if isinstance(other, NotRun):
        raise ValueError(f"{name} {b.revision}: {other.reason}")
    return Comparison(a, b, compare(one, other), difference(a, b))


def _parsed(kept: Revision, config: Config) -> Evaluable:
    """The strategy or plan of a kept text. Raises ValueError naming what is wrong with it today."""
    found, why = read_revision(kept, config)
    if found is None:
        raise ValueError(f"{kept.path} {kept.revision} cannot be used now: {why}")
    return found
