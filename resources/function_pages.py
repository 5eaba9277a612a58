"""docs/execution-functions.md, made from the registered execution functions. ``python -m resources.function_pages`` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trading import execution_functions

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "execution-functions.md"

_HEAD = '''\
# Execution functions

What a trade plan may name by `kind`. All of them look at closed bars of their timeframe (default: the plan's own), so that a
wick alone triggers nothing; the value of a longer timeframe is that of its last closed bar. Every function is tested on real
bars: no answer changes when later bars are hidden, and a wick that changes no close changes no answer (but for those that say
that they read highs and lows).

The pictures are the last EURUSD hours of 2017 from the sample data; `python -m resources.function_pictures` draws them anew.

A function of your own is a small Python file in `data/config/plugins`:

```python
from typing import ClassVar, Literal

from trading.execution_functions import Trigger, register


@register
class InsideClose(Trigger):
    """``{kind: inside_close}``: the close lies inside the range of the bar before."""

    NAME: ClassVar[str] = "inside_close"
    kind: Literal["inside_close"] = "inside_close"

    def holds(self, frame):
        close = frame.price("close")
        return (close < frame.price("high", None, 1)) & (close > frame.price("low", None, 1))
```
'''


def page() -> str:
    """The page's text; functions of plug-ins are not in it."""
    parts = [_HEAD]
    groups: tuple[tuple[str, Mapping[str, Any], bool], ...] = (
        ("Triggers: where something holds", execution_functions.triggers(), True),
        ("Levels: at which price", execution_functions.levels(), False),
        ("Management of an open trade", execution_functions.managers(), True),
    )
    for title, known, pictured in groups:
        parts.append(f"\n## {title}\n")
        for name, function in known.items():
            if not function.__module__.startswith("trading.execution_functions"):
                continue
            said = " ".join((function.__doc__ or "").split()).replace("``", "`")
            picture = f"\n![{name}](images/functions/{name}.png)\n" if pictured else ""
            parts.append(f"\n### {name}\n\n{said}\n{picture}")
    return "".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
