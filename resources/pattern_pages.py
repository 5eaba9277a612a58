"""docs/patterns.md, made from the registered patterns. ``python -m resources.pattern_pages`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trading import patterns
from trading.indicator_base import Indicator, Parameter

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "patterns.md"

_HEAD = """\
# Price action

A pattern points up, down or nowhere at each closed bar. In a strategy file it is a condition, and its levels are operands:

```yaml
entry:
  long:
    all:
      - {pattern: liquidity_sweep, direction: up, within: 3}           # swept a low at this bar or one of the two before
      - {pattern: strat_212, direction: up, timeframe: 4h}             # on the last closed 4-hour bar
      - {">": [close, {pattern: support_resistance, output: support}]}
      - {pattern: fair_value_gap, direction: up, params: {minimum: 0.2}, within: 10}
```

`direction` may be left out: either way. `timeframe` is a confirming timeframe, `symbol` another instrument, `lookback` that
many bars before.

What holds for every pattern, and is tested for every registered one:

- **Only closed bars count**, and row *i* uses bars up to *i*. A swing is known when the bars after it confirm it, not when it
  happens.
- **A wick alone breaks nothing** where the rule says "closes".
- **No scale matters**: all prices times the same factor give the same signals.
- `x[1]` below is the value of one bar before; a level is unknown (and every comparison with it false) while there is none.

The schools these patterns come from do not state one exact rule each. What is written here is the rule; the source says whose
idea it is. The pictures are EURUSD hours of 2017 from the sample data; open candles rose, filled ones fell.

## Confluence

Several weighted parts, often of several timeframes, add up to a score between 0 and 1; the condition holds from `at_least` on.
The score becomes the signal's strength, and its parts stand in the signal's reason, in the ledger and in the reports:

```yaml
confluence:
  at_least: 0.6
  parts:
    - {name: 4h up, weight: 2, when: {">": [{price: close, timeframe: 4h}, {indicator: ema, params: {period: 9}, timeframe: 4h}]}}
    - {name: change of character, weight: 2, when: {pattern: change_of_character, direction: up, within: 6}}
    - {name: displacement, weight: 1, when: {pattern: displacement, direction: up, within: 3}}
```

A part whose values are not known does not count.

## The patterns

"""


def _parameter(parameter: Parameter) -> str:
    kind = "whole number" if parameter.whole else "number"
    return f"`{parameter.name}` ({kind} from {parameter.low:g} to {parameter.high:g}, default {parameter.default:g})"


def section(definition: Indicator) -> str:
    """The part of the page about one pattern."""
    parameters = ", ".join(_parameter(p) for p in definition.parameters) or "none"
    outputs = ", ".join(f"`{o}`" for o in definition.outputs)
    text = f"### {definition.name}\n\n{definition.description[:1].upper()}{definition.description[1:]}.\n\n"
    picture = PAGE.parent / "images" / "patterns" / f"{definition.name}.png"
    if picture.is_file():
        text += f"![{definition.name}](images/patterns/{definition.name}.png)\n\n"
    known = f"- Known after {definition.lookback({}) + 1} bars, settled after {definition.warm_up({})}\n"
    return (
        f"{text}- Rule: {definition.definition}\n- Parameters: {parameters}\n- Outputs: {outputs}\n"
        f"{known}- Source: {definition.reference}\n\n"
    )


def page() -> str:
    """The whole page."""
    own = [d for _, d in sorted(patterns.patterns().items()) if d.formula is not None and not _plugged(d)]
    return (_HEAD + "".join(section(d) for d in own)).rstrip() + "\n"


def _plugged(definition: Indicator) -> bool:
    return not getattr(definition.formula, "__module__", "").startswith("trading.patterns")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
