"""docs/refusals.md, made from the closed set of refusal codes.

    python -m resources.refusals_table    writes it anew
"""

from __future__ import annotations

from resources.settings import ROOT
from trading.refusals import RefusalCode

PAGE = ROOT / "docs" / "refusals.md"

_HEAD = """# Refusals

Whatever is not sent to a broker has one of these reasons. A refusal is printed `CODE: key=value key=value`, the same in the
ledger, the UI, the daily report and on the command line. Gates refuse a decision before it reaches the desk; risk rules
refuse at the desk; the first refusal in their order is the one that is kept, every verdict is recorded.

| code | meaning |
| --- | --- |
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(f"| `{code.name}` | {code.value} |\n" for code in RefusalCode)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
