"""The JSON schemas of the files people write, as files of their own, so that editors complete and check them.

``python -m resources.schema_files`` writes them; a strategy, plan, template or research file names its own in its first line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trading import plans, research_schema, strategy

CONFIG: Final = Path(__file__).resolve().parent.parent / "data" / "config"
FOLDER: Final = CONFIG / "schemas"


@dataclass(frozen=True, slots=True)
class Published:
    """A schema. folder: where the files it describes lie, below the config folder."""

    name: str
    folder: str
    make: Callable[[], dict[str, Any]]

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.name}.schema.json"

    @property
    def comment(self) -> str:
        """The first line of a file that it describes."""
        return f"# yaml-language-server: $schema={'../' * len(Path(self.folder).parts)}schemas/{self.file.name}"

    def content(self) -> str:
        """The file's content."""
        return json.dumps(self.make(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


SCHEMAS: Final = (
    Published("strategy", "strategies", strategy.json_schema),
    Published("plan", "plans", plans.json_schema),
    Published("plan_template", "plans/templates", plans.template_json_schema),
    Published("research", "research", research_schema.json_schema),
)


def main() -> None:
    """Write every schema."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for schema in SCHEMAS:
        schema.file.write_text(schema.content(), encoding="utf-8")


if __name__ == "__main__":
    main()
