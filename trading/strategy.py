"""Strategies: files that turn bars into entries, stops, targets and exits.

`parse_strategy` reads a file of any kind: rules (the default), scanner, pair, ensemble or model. What strategies share with plans
is in trading.evaluable and can be had from here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trading import conditions, conflicts, ensembles, gate_checks, models, pairs, scanners
from trading.bars import Bars
from trading.conditions import Frame
from trading.config_text import Path, Problem, YamlDocument, errors, load_yaml, nearest, validate
from trading.evaluable import (
    Evaluable,
    assemble,
    check_bars,
    context_of,
    evaluate_anchored,
    in_windows,
    legs_of,
    live_window,
    readiness,
    signal_at,
    window_starts,
)
from trading.evaluation import Evaluation
from trading.execution.checks import check_execution
from trading.instruments import Instrument
from trading.name_checks import check_names, other_universe
from trading.research_schema import check_own
from trading.signals import Action
from trading.strategy_base import Strategy, common, needs_of
from trading.strategy_schema import Filed, StrategyFile, with_indicator_rules
from trading.universe import Universe

__all__ = [
    "KINDS", "Evaluable", "RuleStrategy", "Strategy", "assemble", "check_bars", "context_of", "evaluate_anchored", "in_windows",
    "json_schema", "legs_of", "live_window", "parse_strategy", "readiness", "signal_at", "window_starts",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RuleStrategy(Strategy):
    """A strategy of rules."""

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What the rules say at each primary bar (see Strategy.evaluate)."""
        check_bars(self, bars, instrument)
        frame, rules = Frame(bars, self.timeframe), self.rules
        context = {key: n for key, n in self.context.items() if key[0] != instrument.symbol}
        ready = readiness(frame, self.warm_up, context)
        allowed = ready & in_windows(bars[self.timeframe], rules.windows, instrument)
        exits = rules.exits.rules
        strength, parts = _scores(rules, frame)
        return assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=allowed & conditions.evaluate(rules.entry.long, frame),
            enter_short=allowed & conditions.evaluate(rules.entry.short, frame),
            exit_long=ready & conditions.evaluate(exits.long if exits else None, frame),
            exit_short=ready & conditions.evaluate(exits.short if exits else None, frame),
            stop=rules.exits.stop, target=rules.exits.target, session_end=rules.exits.session_end, strength=strength, parts=parts,
        )  # fmt: skip

    def reason(self, action: Action) -> str:
        """The entry rule of that side as text."""
        rule = self.rules.entry.long if action is Action.ENTER_LONG else self.rules.entry.short
        return rule.label if rule is not None else ""


def _scores(rules: StrategyFile, frame: Frame) -> tuple[conditions.Floats | None, dict[str, conditions.Floats]]:
    """(strength, parts) of the sides whose entry has a confluence: its score and what it is made of."""
    strength: conditions.Floats | None = None
    parts: dict[str, conditions.Floats] = {}
    for side, condition in (("long", rules.entry.long), ("short", rules.entry.short)):
        found = conditions.scores(condition, frame)
        if found is None:
            continue
        score, shares = found
        if strength is None:
            strength = score
        else:  # a bar enters one side only
            holds = conditions.evaluate(condition, frame)
            strength = strength.copy()
            strength[holds] = score[holds]
        parts |= {f"{side}/{name}": share for name, share in shares.items()}
    return strength, parts


def _rules(parsed: StrategyFile, text: str) -> RuleStrategy:
    warm_up, context = needs_of(parsed, (parsed.entry.long, parsed.entry.short))
    return RuleStrategy(**common(parsed, text, warm_up, context))


KINDS: dict[str, tuple[type[Filed], Callable[[Any, str], Strategy]]] = {
    "rules": (StrategyFile, _rules),
    "scanner": (scanners.ScannerFile, scanners.build),
    "pair": (pairs.PairFile, pairs.build),
    "ensemble": (ensembles.EnsembleFile, ensembles.build),
    "model": (models.ModelFile, models.build),
}
"""What a strategy file may be, by its key ``kind``."""


def parse_strategy(text: str, file: str, universe: Universe) -> tuple[Strategy | None, list[Problem]]:
    """Strategy of the file's text, or None and every problem it has; None and no problem when it is for another universe.

    Warnings may come with a strategy: see Problem.severity.
    """
    document = load_yaml(text, file)
    if other_universe(document, universe):
        return None, list(document.problems)
    kind = document.data.get("kind", "rules") if isinstance(document.data, Mapping) else "rules"
    if not isinstance(kind, str) or kind not in KINDS:
        wrong = document.problem(("kind",), f"unknown value {kind!r}", "one of " + ", ".join(KINDS), nearest(kind, KINDS))
        return None, sorted([*document.problems, wrong], key=lambda p: p.line)
    model, build = KINDS[kind]
    parsed, problems = validate(model, document)
    problems = sorted([*problems, *check_names(document, symbols_of(document), universe)], key=lambda p: p.line)
    if parsed is None or errors(problems):
        return None, problems
    problems = [*problems, *check_own(parsed.research, kind, document)]
    strategy = build(parsed, text)
    gated = gate_checks.check_gates(document, parsed.gates, parsed.symbols, parsed.timeframe, universe)
    gated += check_execution(document, parsed, parsed.symbols, universe)
    problems = sorted([*problems, *gated, *conflicts.check_strategy(strategy, document, universe)], key=lambda p: p.line)
    return (None if errors(problems) else strategy), problems


def symbols_of(document: YamlDocument) -> dict[Path, Any]:
    """Path -> symbol of a document's list of symbols."""
    if isinstance(document.data, Mapping) and isinstance(document.data.get("symbols"), list):
        return {("symbols", i): s for i, s in enumerate(document.data["symbols"])}
    return {}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a strategy file of any kind, for editors and the docs."""
    definitions: dict[str, Any] = {}
    kinds: list[dict[str, Any]] = []
    for kind, (model, _) in KINDS.items():
        schema = with_indicator_rules(model.model_json_schema(by_alias=True))
        definitions |= schema.pop("$defs")
        schema.pop("$schema")
        definitions[model.__name__] = schema
        named = {"properties": {"kind": {"const": kind}}, **({} if kind == "rules" else {"required": ["kind"]})}
        kinds.append({"if": named, "then": {"$ref": f"#/$defs/{model.__name__}"}})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tapeline strategy file",
        "type": "object",
        "properties": {"kind": {"enum": list(KINDS), "default": "rules"}},
        "allOf": kinds,
        "$defs": definitions,
    }
