"""docs/refusals.md, made from the closed set of refusal codes.

python -m resources.refusals_table    writes it anew
"""

from __future__ import annotations

from resources.settings import ROOT
from trading.refusals import REASONS, RefusalCode

PAGE = ROOT / "docs" / "refusals.md"

_HEAD = """# Refusals

Whatever is not sent to a broker has one of these reasons. A refusal is printed `CODE: key=value key=value`, the same in the
ledger, the UI, the daily report and on the command line. Gates refuse a decision before it reaches the desk; risk rules
refuse at the desk; the first refusal in their order is the one that is kept, every verdict is recorded.

| code | meaning |
| --- | --- |
"""

_REASONS = """
Some codes say more with `reason=`:

| code | reason | meaning |
| --- | --- | --- |
"""
_MORE = """
What each gate judges, and how it is switched on: [gates.md](gates.md). The risk rules: [risk.md](risk.md).
"""


def page() -> str:
    """The whole page."""
    codes = "".join(f"| `{code.name}` | {code.value} |\n" for code in RefusalCode)
    reasons = "".join(
        f"| {f'`{code}`' if code.isupper() else code} | `{reason}` | {meaning} |\n" for (code, reason), meaning in REASONS.items()
    )
    return _HEAD + codes + _REASONS + reasons + _MORE


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
