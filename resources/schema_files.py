"""The JSON schema of strategy files as a file of its own, so that editors complete and check them.

``python -m resources.schema_files`` writes it; strategy files name it in their first line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from trading import strategy

FILE: Final = Path(__file__).resolve().parent.parent / "data" / "config" / "schemas" / "strategy.schema.json"
COMMENT: Final = "# yaml-language-server: $schema=../schemas/strategy.schema.json"


def content() -> str:
    """The file's content."""
    return json.dumps(strategy.json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(content(), encoding="utf-8")


if __name__ == "__main__":
    main()
