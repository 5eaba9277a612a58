"""A kept revision of a strategy or plan as something that can be evaluated again: for comparing, and for replay."""

from __future__ import annotations

from dataclasses import replace

from resources.config import Config
from resources.research_store import Revision
from trading.config_text import Problem, errors, load_yaml
from trading.ensembles import Ensemble, bind
from trading.plans import parse_plan
from trading.strategy import Evaluable, parse_strategy


def read_revision(kept: Revision, config: Config) -> tuple[Evaluable | None, str]:
    """(what was written then, "") or (None, why it cannot be used now). Python strategies only in the revision in use.

    A plan is read as it was filled in; an ensemble gets today's members, and its revision says whether they are the same.
    """
    current = config.evaluables().get(kept.name)
    if current is not None and current.revision == kept.revision:
        return current, ""
    if not kept.path.endswith((".yaml", ".yml")):
        return None, "a Python strategy is compared only in the revision that is in use"
    problems: list[Problem]
    if kept.path.startswith("plans/"):
        known = replace(config.universe, disaster_stop=None)  # the text has the one of its time
        plan, problems = parse_plan(kept.resolved or kept.text, kept.path, known)
        if plan is not None:
            return replace(plan, revision=kept.revision), ""
    else:
        strategy, problems = parse_strategy(kept.text, kept.path, config.universe)
        if isinstance(strategy, Ensemble):
            strategy, more = bind(strategy, config.strategies, load_yaml(kept.text, kept.path))
            problems = [*problems, *more]
        if strategy is not None:
            return strategy, ""
    return None, "; ".join(str(p) for p in errors(problems)) or "it is for another universe"
